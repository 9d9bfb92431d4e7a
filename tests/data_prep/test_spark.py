"""Spark on local[2] against one machine; needs Java 17."""

import filecmp
import shutil
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import data_prep.parts as parts_module
from data_prep import InputError
from data_prep.config import CutoffRange, DataConfig, ExamplesTable, Source, TextField, UsersTable
from data_prep.prepare import prepare
from data_prep.prepared import read_manifest
from tests.spark import LOCAL

pytestmark = [
    pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java 17"),
    pytest.mark.xdist_group("Spark"),  # one worker starts it
    pytest.mark.usefixtures("spark"),
]

EXAMPLES = 200
HISTORY = st.lists(
    st.tuples(
        st.integers(0, 89 * 24 * 60),  # minutes
        st.sampled_from(["purchase", "view", "Refund"]),
        st.none() | st.integers(-500, 50_000).map(lambda cents: cents / 100),
        st.none() | st.integers(-3, 10**6),
        st.sampled_from(["x", "y y", "ä'\"", None]),
        st.none() | st.lists(st.sampled_from(["a", "b", None]), max_size=2),
        st.sampled_from([None, "red tea", "Tea-pot, RED"]),
    ),
    min_size=1,
    max_size=12,
)


def drawn_histories() -> list[list[tuple]]:
    """EXAMPLES histories, each one drawn by hypothesis."""
    found = []

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
    @given(HISTORY)
    def draw(events: list[tuple]) -> None:
        found.append(events)

    draw()
    assert len(found) >= EXAMPLES
    return found


def drawn_events(shop) -> list[dict]:
    """The events of the drawn histories, of which four make a user: on Spark events travel by the user, and are
    inserted one user at a time in every pass."""
    rows = []
    for i, events in enumerate(drawn_histories()):
        for minute, kind, value, items, category, tags, note in events:
            time = shop.start + timedelta(minutes=minute)
            rows.append(
                {"user_id": f"u{i // 4}", "event_time": time, "event_type": kind, "value": value, "items": items}
            )
            rows[-1] |= {"category": category, "tags": tags, "note": note}
    return rows


def both(shop, data: DataConfig, task, text) -> tuple[Path, Path]:
    """The folder that one machine prepared and the one that Spark did."""
    one = prepare("shop", data, task, text)
    other = prepare("spark", data, task, text, LOCAL)
    return one, other


def assert_equal(one: Path, other: Path) -> None:
    manifests = [read_manifest(folder) for folder in (one, other)]
    for key in ("splits", "unlabelled", "aggregates", "content_hash", "log", "classes"):
        assert manifests[0][key] == manifests[1][key] or key == "content_hash"
    for split in ("train", "validation", "test", "unlabelled"):
        rows = [pq.read_table(folder / f"{split}.parquet").to_pylist() for folder in (one, other)]
        assert len(rows[0]) > 0 or split == "unlabelled"
        assert repr(rows[0]) == repr(rows[1])
        assert filecmp.cmp(one / f"{split}.parquet", other / f"{split}.parquet", shallow=False)
    assert filecmp.cmp(one / "serializer.json", other / "serializer.json", shallow=False)


@pytest.mark.parametrize("parts", [1, 8])
def test_spark_gives_the_same_rows_as_one_machine(shop, monkeypatch, parts):
    """For at least 200 drawn histories at once, in one part and in eight with bins learned on a sample."""
    if parts > 1:
        monkeypatch.setattr(parts_module, "PART_EVENTS", 150)
        monkeypatch.setattr(parts_module, "SAMPLE_USERS", 20)
    rows = shop.regulars() + [shop.event("buyer", day + 0.7, tags=["a"]) for day in range(90)] + drawn_events(shop)
    text = shop.text()
    text.fields |= {"tags": TextField(top=3, min_users=1), "note": TextField(words=2, min_users=2)}
    data = shop.data(rows)
    folder = Path(data.sources[0].path).parent
    third = len(rows) // 3
    sources = [
        shop.write(rows[i * third : (i + 1) * third if i < 2 else None], folder / f"part{i}.parquet") for i in range(3)
    ]
    (folder / "log.parquet").unlink()
    data.sources = [Source(path=str(folder / "part[01].parquet")), Source(sql=f"FROM '{sources[2]}'")]
    label = {"kind": "which", "field": "tags", "top": 2, "where": "true"} if parts > 1 else {}
    one, other = both(shop, data, shop.task(label=label), text)
    assert_equal(one, other)
    assert read_manifest(one)["unlabelled"]["rows"] > 0
    assert read_manifest(one)["log"]["has"] == read_manifest(other)["log"]["has"]


def test_rejected_rows_and_pseudonyms_are_the_same_on_spark(shop, tmp_path):
    lines = [f"{row['user_id']},{row['event_time']},{row['event_type']}" for row in shop.regulars()]
    lines += ["a,never,view", ",2024-02-01 10:00:00,view", "b,2024-02-01"]
    path = tmp_path / "log.csv"
    path.write_text("\n".join(["user_id,event_time,event_type", *lines]) + "\n")
    data = DataConfig([Source(path=str(path))], folder=str(tmp_path / "out"), pseudonymize="SHOP_KEY")
    text = shop.text(header=["recency"], fields={"event_type": TextField(top=3, min_users=1)})
    one, other = both(shop, data, shop.task(), text)
    assert_equal(one, other)
    assert read_manifest(other)["log"]["rejected"]["a time that does not parse"] == 1
    found = [pq.read_table(folder / "rejected.parquet").to_pylist() for folder in (one, other)]
    assert found[0] == found[1]
    assert len(found[0]) == 3


@pytest.mark.parametrize("given", [False, True])
def test_moments_of_users_are_the_same_on_spark(shop, monkeypatch, tmp_path, given):
    """For at least 200 drawn histories: at events, drawn in each part by itself, with several horizons; and of a table
    of which each part takes its users' rows."""
    monkeypatch.setattr(parts_module, "PART_EVENTS", 300)
    kinds = ["purchase" if i % 13 == 0 else "view" for i in range(300)]
    rows = shop.regulars() + [shop.event(f"s{i % 9}", i / 4, kind, value=float(i)) for i, kind in enumerate(kinds)]
    rows += drawn_events(shop)
    days = {"train": ("2024-01-01", "2024-02-05"), "validation": ("2024-02-15", "2024-02-20")}
    days["test"] = ("2024-03-01", "2024-03-10")
    at = {} if given else {"at": "event_type = 'view'", "per_user": 3, "gap": "20h"}
    label = {} if given else {"kind": "when", "horizon": None, "horizons": ["12h", "7 days", "9 days"]}
    ranges = {split: CutoffRange(*ends, **at) for split, ends in days.items()}
    task = shop.task(label=label, population={"within": None}, **ranges)
    if given:
        moments = {(row["user_id"], row["event_time"]): row for row in rows if row["event_time"].hour > 17}
        shop.write(list(moments.values()), tmp_path / "moments.parquet")
        task.examples = ExamplesTable(sql=f"SELECT user_id, event_time AS cutoff FROM '{tmp_path}/moments.parquet'")
    one, other = both(shop, shop.data(rows), task, shop.text(session_gap="6h"))
    assert_equal(one, other)
    assert read_manifest(one)["splits"]["train"]["most_per_user"] > 1


def test_an_executors_complaint_is_one_sentence(shop):
    data = shop.data(shop.regulars())
    data.sources = [Source(sql=f"SELECT *, error('no such luck') AS x FROM '{data.sources[0].path}'")]
    with pytest.raises(InputError, match=r"data.sources\[0\]: .*no such luck.*check the SQL and what it reads$"):
        prepare("spark", data, shop.task(), shop.text(), LOCAL)
    assert not (Path(data.folder) / "spark").exists()


@pytest.mark.parametrize("parts", [1, 4])
def test_attributes_of_users_are_the_same_on_spark(shop, monkeypatch, tmp_path, parts):
    if parts > 1:
        monkeypatch.setattr(parts_module, "PART_EVENTS", 60)
    rows = shop.regulars() + [shop.event(f"u{i % 9}", i / 4, "purchase", value=float(i)) for i in range(300)]
    path = tmp_path / "users.csv"
    lines = [f"u{i},2024-01-{1 + i:02},{20 + 7 * i},{'DE' if i % 2 else 'FR'}" for i in range(12)]
    lines += [f"u{i},2024-02-{1 + i:02},{80 - i},IT" for i in range(4)]
    path.write_text("\n".join(["user_id,known_from,age,country", *lines]) + "\n")
    data = shop.data(rows, users=UsersTable(path=str(path)), pseudonymize="SHOP_KEY")
    text = shop.text(attributes={"age": TextField(bins=3), "country": TextField(top=2, min_users=1)})
    one, other = both(shop, data, shop.task(), text)
    assert_equal(one, other)
    manifests = [read_manifest(folder) for folder in (one, other)]
    assert manifests[0]["users"] == manifests[1]["users"]
    assert (manifests[0]["users"]["users"], manifests[0]["users"]["with_events"]) == (12, 9)
