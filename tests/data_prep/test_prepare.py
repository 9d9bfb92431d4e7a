import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import data_prep.prepare as prepare_module
from data_prep import InputError
from data_prep.config import DataConfig, Source, TextField
from data_prep.cutoffs import resolve_cutoffs
from data_prep.event_log import count_on
from data_prep.examples import fit_examples
from data_prep.prepare import prepare
from data_prep.prepared import read_manifest
from data_prep.serializer import EventSerializer

FILES = {f"{split}.parquet" for split in ("train", "validation", "test", "unlabelled")}

FILES |= {"serializer.json", "manifest.json", "README.md"}

CONTENT = sorted(FILES - {"manifest.json"})


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sorted(folder.iterdir())}


# What is written


def test_the_folder_holds_the_splits_the_serializer_the_manifest_and_the_card(shop):
    folder = shop.prepare(shop.regulars())
    assert {path.name for path in folder.iterdir()} == FILES
    assert [path.name for path in folder.parent.iterdir()] == ["shop"]
    manifest = read_manifest(folder)
    assert manifest["splits"]["train"] == {
        "rows": 4,
        "positives": 2,
        "users": 2,
        "positive_rate": 0.5,
        "cutoffs": ["2024-02-01", "2024-02-08"],
    }
    assert manifest["log"]["events"] == 180
    assert manifest["log"]["users"] == 2
    assert manifest["config"]["task"]["label"]["horizon"] == "7 days"
    assert EventSerializer.from_pretrained(folder).config == shop.text()
    for split in ("train", "validation", "test"):
        assert pq.read_schema(folder / f"{split}.parquet").names == [
            *("user_id", "cutoff", "text", "label"),
            *manifest["aggregates"],
        ]
        for row in shop.rows(folder, split):
            assert row["label"] == int(row["user_id"] == "looker")
            assert row["text"].startswith("recency_days=")


def test_rows_are_sorted_by_cutoff_and_user(shop):
    rows = [(row["cutoff"], row["user_id"]) for row in shop.rows(shop.prepare(shop.regulars()), "train")]
    assert rows == sorted(rows)


def test_load_dataset_opens_the_splits(shop, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    folder = shop.prepare(shop.regulars())
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 4, "validation": 2, "test": 2}
    assert loaded["train"].column_names[:4] == ["user_id", "cutoff", "text", "label"]
    assert loaded["train"].features["label"].dtype == "int64"
    assert loaded["test"]["user_id"] == ["buyer", "looker"]
    folder = shop.prepare([*shop.regulars(), shop.event("asked before", 5)])
    assert set(datasets.load_dataset(str(folder), cache_dir=str(tmp_path))) == {"train", "validation", "test"}
    unlabelled = datasets.load_dataset(str(folder), "unlabelled", cache_dir=str(tmp_path))["train"]
    assert unlabelled.column_names == ["user_id", "cutoff", "text"]
    assert unlabelled["user_id"] == ["asked before"]


def test_the_users_who_are_not_asked_at_the_last_training_cutoff_are_unlabelled(shop):
    """The population: a purchase or view in the 28 days before day 38."""
    others = [shop.event("asked", 37.9), shop.event("asked before", 9), shop.event("asked later", 5)]
    others += [shop.event("asked later", 40), shop.event("new", 38), shop.event("only refunds", 37, "refund")]
    rows = shop.regulars() + others
    task = shop.task(population={"where": "event_type IN ('purchase', 'view')"})
    folder = shop.prepare(rows, task)
    found = shop.rows(folder, "unlabelled")
    assert [row["user_id"] for row in found] == ["asked before", "asked later", "only refunds"]
    transformed = EventSerializer.from_pretrained(folder).transform(rows, shop.day(38)).to_pylist()
    texts = {row["user_id"]: row["text"] for row in transformed}
    assert {row["user_id"] for row in shop.rows(folder, "train") if row["cutoff"] == shop.day(38)} == (
        texts.keys() - {row["user_id"] for row in found}
    )
    assert [row["text"] for row in found] == [texts[row["user_id"]] for row in found]
    assert {row["cutoff"] for row in found} == {shop.day(38)}
    assert read_manifest(folder)["unlabelled"] == {"rows": 3, "cutoff": "2024-02-08"}
    card = (folder / "README.md").read_text()
    assert "has the texts of 3 more users at the last training\ncutoff, 2024-02-08" in card


def test_where_everybody_is_asked_the_unlabelled_file_has_the_same_columns_and_no_row(shop):
    nobody = shop.prepare(shop.regulars()) / "unlabelled.parquet"
    somebody = shop.prepare([*shop.regulars(), shop.event("asked before", 5)]) / "unlabelled.parquet"
    assert [pq.read_metadata(path).num_rows for path in (nobody, somebody)] == [0, 1]
    assert pq.read_metadata(nobody).num_row_groups == 0
    assert pq.read_schema(nobody) == pq.read_schema(somebody)


def test_rows_left_out_are_counted_in_the_manifest_and_named_on_the_screen(shop, capsys):
    rows = [*shop.regulars(), shop.event(None, 3), shop.event("x", None), shop.event("", 3), shop.event("x", 3, None)]
    folder = shop.prepare(rows)
    assert read_manifest(folder)["log"]["rejected"] == {
        "no user": 2,
        "a user id that stands for nobody (nan, None, null)": 0,
        "a user id that is a fraction or a rounded number": 0,
        "a time that does not parse": 0,
        "no time": 1,
        "a time outside 1900-2199": 0,
        "a time in another unit or before data.since": 0,
        "a time after data.until": 0,
        "no event type": 1,
        "a line that cannot be read": 0,
    }
    assert (folder / "rejected.parquet").is_file()
    printed = capsys.readouterr().out
    assert "left out 2 rows with no user (see rejected.parquet)\n" in printed
    assert "1900" not in printed


def test_equal_rows_and_users_who_are_too_many_are_said_and_stand_in_the_manifest(shop, capsys):
    rows = [*shop.regulars(), *shop.regulars()[:9], *(shop.event("bot", i / 50) for i in range(4_000))]
    data = replace(shop.data(rows), max_events_per_user=3_000)
    log = read_manifest(prepare("shop", data, shop.task(), shop.text()))["log"]
    assert (log["equal_rows"], log["events"]) == (9, 189)
    assert log["left_out"] == {"of 1 user with more than data.max_events_per_user 3,000": 4_000}
    printed = capsys.readouterr().out
    assert "left out 4,000 rows of 1 user with more than data.max_events_per_user 3,000\n" in printed
    assert "9 of 189 rows are equal to another one" in printed


def test_a_class_without_a_training_example_and_a_field_without_a_kept_value_are_named(shop, capsys):
    rows = [row | {"note": "red tea"} for row in shop.regulars()]
    text = shop.text(fields={"category": TextField(top=5, min_users=9), "note": TextField(words=2, min_users=9)})
    label = {"kind": "sum", "field": "value", "tiers": [0, 1000.0]}
    folder = shop.prepare(rows, shop.task(label=label), text)
    warnings = read_manifest(folder)["warnings"]
    assert "no training example has the label 'above 1000', which the model cannot learn then" in warnings
    for field, what in (("category", "other"), ("note", "nothing")):
        (warning,) = (warning for warning in warnings if warning.startswith(f"text.fields.{field}: "))
        assert "fewer than 9 users" in warning
        assert f"written as {what}; lower min_users" in warning
    assert capsys.readouterr().out.count("warning: ") == len(warnings)
    assert not read_manifest(shop.prepare(rows))["warnings"]


def test_a_column_of_text_or_categories_is_no_number(shop):
    rows = [row | {"note": "red tea", "tags": ["a", "b"]} for row in shop.regulars()]
    text = shop.text()
    text = replace(
        text, fields=text.fields | {"note": TextField(words=2, min_users=1), "tags": TextField(top=3, min_users=1)}
    )
    folder = shop.prepare(rows, text=text)
    names = read_manifest(folder)["aggregates"]
    assert "items_sum" in names
    assert "category_distinct" in names
    assert "tags_distinct" in names
    assert not {"category_sum", "tags_sum", "note_sum", "note_distinct"} & set(names)
    assert "red tea tags=a tags=b" in shop.rows(folder, "train")[0]["text"]


def test_user_ids_of_any_script_reach_the_splits_to_the_letter(shop):
    users = ["用户", 'o\'neill "x"', "😀"]
    rows = shop.regulars() + [shop.event(user, 20 + d) for user in users for d in range(45)]
    found = {row["user_id"] for row in shop.rows(shop.prepare(rows), "train")}
    assert found == {"buyer", "looker", *users}


# The same input gives the same output, and only once


def test_a_second_call_finds_the_files_and_does_no_work(shop, capsys, monkeypatch):
    data = shop.data(shop.regulars())
    folder = prepare("shop", data, shop.task(), shop.text())
    before = stamps(folder)
    monkeypatch.setattr(prepare_module, "connect", lambda *_: pytest.fail("the log was opened"))
    assert prepare("shop", data, shop.task(), shop.text()) == folder
    assert stamps(folder) == before
    assert f"{folder} is up to date" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["train.parquet", "serializer.json"])
def test_a_file_that_was_removed_or_cut_is_made_again(shop, name):
    data = shop.data(shop.regulars())
    folder = prepare("shop", data, shop.task(), shop.text())
    before = content(folder)
    (folder / name).unlink()
    prepare("shop", data, shop.task(), shop.text())
    assert (folder / name).read_bytes() == before[name]
    (folder / name).write_bytes(before[name][:10])
    prepare("shop", data, shop.task(), shop.text())
    assert (folder / name).read_bytes() == before[name]


def test_a_damaged_manifest_is_named(shop):
    data = shop.data(shop.regulars())
    folder = prepare("shop", data, shop.task(), shop.text())
    (folder / "manifest.json").write_text("{")
    with pytest.raises(InputError, match=r"manifest\.json is damaged; delete"):
        prepare("shop", data, shop.task(), shop.text())


def test_a_touched_or_new_file_of_the_log_makes_it_prepare_again(shop):
    data = shop.data(shop.regulars())
    path = Path(data.sources[0].path)
    data.sources[0].path = str(path.parent / "*.parquet")
    before = stamps(prepare("shop", data, shop.task(), shop.text()))
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1_000_000))
    touched = stamps(prepare("shop", data, shop.task(), shop.text()))
    assert all(touched[name] > before[name] for name in FILES)
    shop.write([shop.event("new", day) for day in range(90)], path.parent / "more.parquet")
    folder = prepare("shop", data, shop.task(), shop.text())
    assert read_manifest(folder)["log"]["users"] == 3


def test_a_changed_config_makes_it_prepare_again(shop):
    data = shop.data(shop.regulars())
    keys = set()
    fields = shop.text().fields
    for task, text in (
        (shop.task(), shop.text()),
        (shop.task(label={"horizon": "6 days"}), shop.text()),
        (shop.task(), shop.text(max_events=3)),
        (shop.task(), shop.text(fields=dict(reversed(fields.items())))),
    ):
        folder = prepare("shop", data, task, text)
        keys.add(read_manifest(folder)["key"])
    assert len(keys) == 4
    first = shop.rows(folder, "train")[0]["text"]
    assert first.index("value=") < first.index("event_type=")


def test_a_changed_variable_of_the_environment_makes_it_prepare_again(shop, monkeypatch):
    path = shop.write(shop.regulars() + [shop.event("new", day) for day in range(90)])
    sql = f"SELECT * FROM '{path}' WHERE user_id <> '${{LEFT_OUT}}'"
    data = DataConfig([Source(sql=sql)], folder=str(path.parent / "out"))
    for user, users in (("new", 2), ("nobody", 3)):
        monkeypatch.setenv("LEFT_OUT", user)
        assert read_manifest(prepare("shop", data, shop.task(), shop.text()))["log"]["users"] == users


def test_a_source_without_files_is_prepared_each_time(shop):
    union = " UNION ALL ".join(
        f"SELECT '{user}' AS user_id, TIMESTAMP '2024-01-01 12:00' + to_days(d::INTEGER) AS event_time, "
        f"'{kind}' AS event_type FROM range(90) r(d)"
        for user, kind in (("buyer", "purchase"), ("looker", "view"))
    )
    data = DataConfig([Source(sql=union)], folder=str(shop.folder()))
    text = shop.text(fields={"event_type": TextField(top=3, min_users=1)}, header=["recency"])
    before = stamps(prepare("shop", data, shop.task(), text))
    after = stamps(prepare("shop", data, shop.task(), text))
    assert all(after[name] > before[name] for name in FILES)


ROWS = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.integers(0, 89 * 4) | st.sampled_from(range(0, 89 * 4, 30)),  # quarters of a day: ties are frequent
        st.sampled_from(["purchase", "view", "View"]),
        st.sampled_from([None, 0.0, -0.0, 0.1, 0.2, 0.3, float("nan"), 1e17]),
        st.sampled_from([None, "c0", "C0", "c1"]),
    ),
    max_size=30,
)


@settings(max_examples=6, deadline=None)
@given(ROWS, st.integers(0, 2**32))
def test_the_order_of_the_rows_never_changes_a_byte(shop, drawn, seed):
    rows = shop.regulars()
    rows += [shop.event(u, q / 4, kind, value=value, category=category) for u, q, kind, value, category in drawn]
    shuffled = random.Random(seed).sample(rows, len(rows))
    task, text = shop.task(train=["2024-02-08"]), shop.text(header=["recency", "value"])
    one, other = (content(shop.prepare(log, task, text)) for log in (rows, shuffled))
    assert {name: one[name] for name in CONTENT} == {name: other[name] for name in CONTENT}
    assert json.loads(one["manifest.json"])["content_hash"] == json.loads(other["manifest.json"])["content_hash"]


def written(shop, rows) -> tuple[str, str]:
    """The serializer and all texts, labels and aggregates of a log."""
    with shop.log(rows) as (con, described):
        task, text = shop.task(train=["2024-02-08"]), shop.text(header=["recency", "value"])
        cutoffs = resolve_cutoffs(task, described)
        examples, labels = fit_examples(con, count_on(con), described, cutoffs, task, text)
        tables = [batch.table.to_pylist() for batch in examples.batches(labels)]
        return examples.serializer.to_json(), repr(tables)


@settings(max_examples=20, deadline=None)
@given(st.lists(ROWS, min_size=10, max_size=10), st.integers(0, 2**32))
def test_another_order_of_the_rows_changes_not_a_bit_and_neither_does_a_second_time(shop, drawn, seed):
    """Of 200 logs, ten at a time with users of their own, as a log costs the same however few its rows are."""
    rows = shop.regulars()[::3]
    for i, one in enumerate(drawn):
        rows += [shop.event(f"{u}{i}", q / 4, kind, value=value, category=c) for u, q, kind, value, c in one]
    assert written(shop, rows) == written(shop, random.Random(seed).sample(rows, len(rows)))


def test_ten_thousand_rows_give_the_same_bytes_in_any_order_and_on_any_number_of_threads(shop, monkeypatch):
    chance = random.Random(0)
    rows = [
        shop.event(
            f"u{chance.randrange(400)}",
            chance.randrange(90 * 24) / 24,
            chance.choice(["purchase", "view", "search"]),
            value=chance.randrange(1, 10_000) / 100,
            category=f"c{chance.randrange(30)}",
            items=chance.randrange(5),
        )
        for _ in range(10_000)
    ]
    found = []
    connect = prepare_module.connect
    for threads in (1, 4):

        def limited(*args, threads=threads):
            con = connect(*args)
            con.execute(f"SET threads = {threads}")
            return con

        monkeypatch.setattr(prepare_module, "connect", limited)
        chance.shuffle(rows)
        folder = shop.prepare(rows + shop.regulars())
        found.append({name: (folder / name).read_bytes() for name in CONTENT})
    assert found[0] == found[1]


def test_a_log_of_so_few_users_that_some_parts_have_none_is_split_into_the_same_rows(shop, monkeypatch):
    whole = shop.prepare(shop.regulars())
    monkeypatch.setattr("data_prep.parts.PART_EVENTS", 20)  # sixteen parts
    split = shop.prepare(shop.regulars())
    for name in ("train", "validation", "test"):
        one, other = (sorted(map(repr, shop.rows(folder, name))) for folder in (whole, split))
        assert one == other


# Leakage, end to end


LATER = st.lists(
    st.tuples(
        st.sampled_from(["buyer", "a", "gone", "new"]),
        st.integers(0, 50 * 24),  # hours from the last training cutoff on
        st.sampled_from(["purchase", "view", "refund"]),
        st.none() | st.floats(-1e6, 1e6),
        st.sampled_from([None, "c0", "never seen"]),
    ),
    max_size=10,
)


@settings(max_examples=6, deadline=None)
@given(LATER, LATER)
def test_events_after_the_last_training_cutoff_change_training_labels_at_most(shop, one, other):
    last = 38  # 2024-02-08
    found = []
    for later in (one, other):
        rows = [*shop.regulars(), shop.event("a", 20, value=1.0, category="c1"), shop.event("gone", 2, value=2.0)]
        rows += [
            shop.event(user, last + hours / 24, kind, value=value, category=category)
            for user, hours, kind, value, category in later
        ]
        folder = shop.prepare(rows, shop.task(train=["2024-02-08"]), shop.text(header=["recency", "value"]))
        train = [{k: v for k, v in row.items() if k != "label"} for row in shop.rows(folder, "train")]
        unlabelled = shop.rows(folder, "unlabelled")
        assert [row["user_id"] for row in unlabelled] == ["gone"]
        found.append((train, unlabelled, (folder / "serializer.json").read_bytes()))
    assert found[0] == found[1]


# What is refused leaves nothing behind


def refused(shop, data: DataConfig, task=None, text=None) -> str:
    with pytest.raises(InputError) as error:
        prepare("shop", data, task or shop.task(), text or shop.text())
    folder = Path(data.folder)
    assert not folder.exists() or not list(folder.iterdir())
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        ({"validation": ["2024-02-14"]}, "after the first validation cutoff 2024-02-14"),
        ({"test": ["2024-02-20"]}, "after the first test cutoff 2024-02-20"),
        ({"train": ["2023-06-01"]}, "not after the log's first event"),
        ({"test": ["2024-06-01"]}, "the log ends on 2024-03-30 12:00"),
        ({"test": ["2024-02-31"]}, "'2024-02-31' is not a date"),
        ({"label": {"horizon": "0 days"}}, "'0 days' is not a length above zero"),
        ({"label": {"where": "event_type = 'refund'"}}, "no event of the log satisfies"),
        ({"label": {"where": "event_type = 'view' OR true"}}, "all 4 examples of train have the label 0"),
        ({"label": {"where": "colour = 1"}}, "colour"),
        ({"population": {"where": "event_time > '2024-03-01'"}}, "nobody has an event with event_time"),
    ],
)
def test_a_task_that_breaks_a_rule_leaves_nothing_behind(shop, task, reason):
    assert reason in refused(shop, shop.data(shop.regulars()), task=shop.task(**task))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ({"header": ["revenue"]}, "text.header: 'revenue' is neither"),
        ({"fields": {"colour": TextField(top=3, min_users=1)}}, "text.fields.colour: the log has no such column"),
        ({"fields": {"category": TextField(bins=3)}}, "bins needs numbers"),
        ({"max_events": 0}, "text.max_events"),
    ],
)
def test_a_text_that_does_not_fit_leaves_nothing_behind(shop, text, reason):
    assert reason in refused(shop, shop.data(shop.regulars()), text=shop.text(**text))


def test_a_source_that_cannot_be_read_leaves_nothing_behind(shop):
    data = shop.data(shop.regulars())
    assert "no file matches" in refused(shop, replace(data, sources=[Source(path="nowhere/*.parquet")]))
    assert "not set" in refused(shop, replace(data, sources=[Source(path="${NO_SUCH_VARIABLE}")]))
    assert "only one of them" in refused(
        shop, replace(data, sources=[Source(path=data.sources[0].path, sql="SELECT 1")])
    )
    Path(data.sources[0].path).write_bytes(b"PAR1")
    assert "check the file" in refused(shop, data)


def test_a_column_whose_aggregates_would_replace_others_leaves_nothing_behind(shop):
    path = shop.write(shop.regulars())
    data = DataConfig([Source(sql=f"SELECT *, value AS gap FROM '{path}'")], folder=str(path.parent / "out"))
    assert "the column 'gap' would give an aggregate gap_mean" in refused(shop, data)


def test_a_folder_with_other_files_is_never_replaced(shop):
    data = shop.data(shop.regulars())
    log = Path(data.sources[0].path)
    for name, folder in (
        (log.parent.name, log.parent.parent),
        (log.name, log.parent),
        ("", log.parent),
        (".", log.parent),
    ):
        with pytest.raises(InputError, match="holds files that are not prepared data; choose another"):
            prepare(name, replace(data, folder=str(folder)), shop.task(), shop.text())
    assert log.is_file()
    assert [path.name for path in log.parent.iterdir()] == [log.name]


def test_a_refused_change_keeps_the_old_output(shop):
    data = shop.data(shop.regulars())
    folder = prepare("shop", data, shop.task(), shop.text())
    before = content(folder)
    with pytest.raises(InputError):
        prepare("shop", data, shop.task(label={"horizon": "0 days"}), shop.text())
    assert content(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["shop"]


# Killed in the middle


@pytest.mark.parametrize(
    ("step", "error"),
    [
        ("local.read_events", KeyboardInterrupt),
        ("local.split_log", OSError("no space left on device")),
        ("prepare.files_hash", KeyboardInterrupt),
        ("prepare.dataset_card", OSError("no space left on device")),
    ],
)
def test_an_error_in_any_step_leaves_the_old_output_or_none(shop, monkeypatch, step, error):
    def fail(*_):
        raise error

    data = shop.data(shop.regulars())
    out = Path(data.folder)
    text = shop.text(header=["recency"])
    with monkeypatch.context() as patch:
        patch.setattr(f"data_prep.{step}", fail)
        with pytest.raises((KeyboardInterrupt, OSError)):
            prepare("shop", data, shop.task(), text)
    assert list(out.iterdir()) == []
    folder = prepare("shop", data, shop.task(), text)
    before = content(folder)
    monkeypatch.setattr(f"data_prep.{step}", fail)
    with pytest.raises((KeyboardInterrupt, OSError)):
        prepare("shop", data, shop.task(label={"horizon": "6 days"}), text)
    assert content(folder) == before
    assert [path.name for path in out.iterdir()] == ["shop"]


CHILD = """
import sys, time
import data_prep.prepare as module
from data_prep.config import Cutoffs, DataConfig, Label, Population, Source, TaskConfig, TextConfig

path, out, step = sys.argv[1:]
def stop(*args, **kwargs):
    print("now", flush=True)
    time.sleep(600)
setattr(module, step, stop)
task = TaskConfig(
    Label("absent", "event_type = 'purchase'", "7 days"),
    Population("28 days"),
    Cutoffs(["2024-02-01"], ["2024-02-15"], ["2024-02-29"]),
)
module.prepare("shop", DataConfig([Source(path=path)], folder=out), task, TextConfig())
"""


@pytest.mark.parametrize("step", ["fit_examples", "dataset_card"])
def test_a_killed_process_leaves_the_old_output_and_the_next_one_succeeds(shop, step):
    data = shop.data(shop.regulars())
    folder = prepare("shop", data, shop.task(), shop.text())
    before = content(folder)
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, data.sources[0].path, data.folder, step],
        cwd=Path(prepare_module.__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        assert "now\n" in iter(process.stdout.readline, "")  # behind what preparing has to say
        process.send_signal(signal.SIGKILL)
    assert content(folder) == before
    assert len(list(folder.parent.iterdir())) == 2  # the killed one's folder, until somebody prepares again
    again = prepare("shop", data, shop.task(label={"horizon": "6 days"}), shop.text())
    assert {path.name for path in again.iterdir()} == FILES
    assert list(folder.parent.iterdir()) == [folder]
