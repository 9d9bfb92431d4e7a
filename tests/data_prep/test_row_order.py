"""The order of the log's rows changes nothing, and later events change no more than they may."""

import json
import random

from hypothesis import given, settings
from hypothesis import strategies as st

import data_prep.prepare as prepare_module
from data_prep.cutoffs import resolve_cutoffs
from data_prep.event_log import count_on
from data_prep.examples import fit_examples
from tests.data_prep.prepared_files import FILES, content

CONTENT = sorted(FILES - {"manifest.json"})


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
