"""Attributes of users: which row counts at a cutoff, how it is written and counted, and that no later one is read."""

from contextlib import contextmanager
from datetime import datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import InputError
from data_prep.attributes import RELATION, Attributes
from data_prep.config import TextConfig, TextField
from data_prep.features import Features
from data_prep.history import NEVER
from data_prep.live import LiveEvents
from data_prep.moments import EPOCH, INSTANT, microseconds
from data_prep.population import EVERYBODY
from data_prep.serializer import EventSerializer

SPECS = {"age": TextField(bins=3), "country": TextField(top=2, min_users=1), "hobby": TextField(words=2, min_users=1)}
LEARNED = {
    "age": {"type": "BIGINT", "kind": "numeric", "edges": [30.0, 50.0], "centers": [20.0, 40.0, 60.0]},
    "country": {"type": "VARCHAR", "kind": "categorical", "list": False, "values": ["de", "great_britain"]},
    "hobby": {"type": "VARCHAR", "kind": "text", "words": ["cooking", "travel", "wine"]},
}
DAYS = 30


def serializer_of(style: str = "words", moments: bool = False) -> EventSerializer:
    config = TextConfig(style, header=[], fields={}, attributes=SPECS)
    return EventSerializer(config, Features("true", {}, {}, [], moments=moments), {}, {}, LEARNED)


def table_of(rows: list[tuple]) -> pa.Table:
    """Of user, known_from in microseconds, age, country and hobby."""
    kinds = {"user_id": pa.string(), "known_from": pa.int64(), "age": pa.int64(), "country": pa.string()}
    kinds["hobby"] = pa.string()
    columns = zip(*rows, strict=True) if rows else [[]] * 5
    return pa.table({name: pa.array(list(own), kinds[name]) for name, own in zip(kinds, columns, strict=True)})


@contextmanager
def relation(con, rows: list[tuple]):
    con.register(RELATION, table_of(rows))
    try:
        yield
    finally:
        con.unregister(RELATION)


def said(shop, con, rows: list[tuple], cutoff: datetime, serializer: EventSerializer) -> dict[str, tuple]:
    """User -> header of the text, and the aggregates of attributes."""
    with relation(con, rows):
        found = serializer.examples(con, cutoff).to_pylist()
    own = [name for name in serializer.aggregate_names() if name.partition("=")[0] in SPECS]
    return {row["user_id"]: (row["text"].partition(" [SEP]")[0], {name: row[name] for name in own}) for row in found}


def at(shop, day: float) -> int:
    return microseconds(shop.day(day) - EPOCH)


def test_a_hand_made_case_is_written_and_counted(shop):
    rows = [
        ("a", at(shop, 1), 25, "DE", "I like wine, and cooking and travel"),
        ("a", at(shop, 5), 35, "Great  Britain!", None),
        ("a", at(shop, 9), 55, "FR", "reading"),
        ("c", at(shop, 8), 55, "FR", "reading"),
    ]
    with shop.log([shop.event(user, 0.5) for user in "abc"]) as (con, _):
        early, late = (said(shop, con, rows, shop.day(day), serializer_of()) for day in (5, 9.5))
        sentences = said(shop, con, rows, shop.day(9.5), serializer_of("sentences"))
    assert early["a"][0] == "age=0 country=de hobby=wine hobby=cooking"
    assert {name for name, value in early["a"][1].items() if value == 1} == {
        "country=de",
        "hobby=wine",
        "hobby=cooking",
    }
    assert early["a"][1]["age"] == 25
    # A row that is known from the cutoff on does not count, and nobody's row is missing.
    assert early["b"] == early["c"]
    assert early["b"][0] == "age=missing country=missing hobby=missing"
    assert early["b"][1]["age"] is None
    assert {n for n, value in early["b"][1].items() if value == 1} == {"country=missing", "hobby=missing"}
    assert late["a"][0] == late["c"][0] == "age=2 country=other hobby=other"
    assert sentences["a"][0].startswith("age 60; country other; hobby other. first")
    assert sentences["b"][0].startswith("first")


def test_a_row_known_from_the_very_moment_is_not_history_where_events_of_that_moment_are(shop):
    rows = [("a", at(shop, 1), 25, "DE", None), ("a", at(shop, 5), 35, "DE", None)]
    serializer = serializer_of(moments=True)
    with shop.log([shop.event("a", day) for day in (1, 5)]) as (con, _):
        assert said(shop, con, rows, shop.day(5), serializer)["a"][0].startswith("age=0 ")
        assert said(shop, con, rows, shop.day(5.00001), serializer)["a"][0].startswith("age=1 ")


def test_a_row_without_a_date_is_known_always(shop):
    with shop.log([shop.event("a", 1)]) as (con, _):
        found = said(shop, con, [("a", NEVER, 35, None, "wine")], shop.day(2), serializer_of())
    assert found["a"][0] == "age=1 country=missing hobby=wine"


ROW = st.tuples(
    st.integers(0, 9), st.integers(0, DAYS * 4), st.sampled_from([None, 3, 30, 49, 50, 99]),
    st.sampled_from([None, "DE", "Great Britain", "FR", ""]), st.sampled_from([None, "wine", "cooking wine", "x"]),
)  # fmt: skip
TABLE = st.lists(ROW, max_size=40, unique_by=lambda row: row[:2])


@settings(max_examples=40, deadline=None)
@given(table=TABLE, other=TABLE, quarter=st.integers(1, DAYS * 4), moments=st.booleans())
def test_nothing_known_from_the_cutoff_on_is_read(shop, table, other, quarter, moments):
    """Ten logs at a time: rows from the cutoff on are exchanged; the row that counts is found by hand."""
    cutoff, serializer = shop.day(quarter / 4), serializer_of(moments=moments)
    mine = [(f"u{user}", at(shop, q / 4), *more) for user, q, *more in sorted(table, key=lambda row: row[:2])]
    others = [(f"u{user}", at(shop, q / 4), *more) for user, q, *more in other]
    limit = at(shop, quarter / 4)
    changed = [row for row in mine if row[1] < limit] + [row for row in others if row[1] >= limit]
    with shop.log([shop.event(f"u{user}", 0) for user in range(10)]) as (con, _):
        before, after = (said(shop, con, rows, cutoff, serializer) for rows in (mine, changed))
    assert before == after
    for user, (_, aggregates) in before.items():
        known = [row for row in mine if row[0] == user and row[1] < limit]
        assert aggregates["age"] == (known[-1][2] if known else None)


def test_one_user_at_a_time_equals_the_batch_and_the_service(shop):
    random = np.random.default_rng(0)
    rows = [(f"u{i}", at(shop, day), int(random.integers(9, 90)), "DE", "wine") for i in range(5) for day in (1, 4, 8)]
    events = [shop.event(f"u{i}", day) for i in range(6) for day in (0, 3, 7)]
    serializer, cutoff = serializer_of(), shop.day(7.5)
    with shop.log(events) as (con, _), relation(con, rows):
        batch = {row["user_id"]: row for row in serializer.examples(con, cutoff).to_pylist()}
    named = [
        {"user_id": user, "known_from": EPOCH + since * INSTANT} | dict(zip(SPECS, more, strict=True))
        for user, since, *more in rows
    ]
    for user, row in batch.items():
        own = [event for event in events if event["user_id"] == user]
        (alone,) = serializer.transform(own, cutoff, users=named).to_pylist()
        assert alone == row
    live = LiveEvents(serializer, "UTC", EVERYBODY)
    live.read([event | {"event_time": event["event_time"].isoformat()} for event in events])
    histories = live.histories()
    with pytest.raises(InputError, match="the model reads attributes of users \\(age, country, hobby\\)"):
        live.texts(histories["u0"], cutoff)
    live.know([row | {"known_from": row["known_from"].isoformat()} for row in named])
    assert {user: live.texts(history, cutoff)[0] for user, history in histories.items()} == {
        user: [row["text"]] for user, row in batch.items()
    }
    live.close()


def test_a_serializer_is_saved_with_its_attributes_and_a_forged_one_is_refused(shop, tmp_path):
    made = serializer_of()
    made.save_pretrained(tmp_path)
    read = EventSerializer.from_pretrained(tmp_path)
    assert read.attributes == LEARNED
    assert read.config.attributes == SPECS
    assert read.to_json() == made.to_json()
    text = (tmp_path / "serializer.json").read_text()
    for old, new in (
        ('"type": "BIGINT"', '"type": "BIGINT) FROM x"'),
        ('"kind": "text"', '"kind": "numeric"'),
        ('"values"', '"value"'),
        ('"attributes": {\n  "age": {\n   "type"', '"attributes": {\n  "height": {\n   "type"'),
    ):
        assert old in text
        (tmp_path / "serializer.json").write_text(text.replace(old, new))
        with pytest.raises(InputError, match="damaged"):
            EventSerializer.from_pretrained(tmp_path)


def test_attributes_are_refused_where_they_are_missing_or_not_wanted(shop):
    events = [shop.event("a", 1)]
    with pytest.raises(InputError, match="no table of users is given; give it as `users`"):
        serializer_of().transform(events, shop.day(2))
    plain = EventSerializer(TextConfig(header=[], fields={}), Features("true", {}, {}, []), {})
    with pytest.raises(InputError, match="users: the model reads no attributes of users; leave them out"):
        plain.transform(events, shop.day(2), users=[{"user_id": "a", "age": 3}])
    with pytest.raises(InputError, match="Could not convert string 'old' to DOUBLE"):
        serializer_of().transform(events, shop.day(2), users=[{"user_id": "a", "age": "old"}])


def test_the_row_that_counts_is_found_for_a_moment_of_each(shop):
    owner, since = np.array([0, 0, 2]), np.array([10, 20, 15])
    found = Attributes(owner, since, {})
    users = np.array([0, 0, 0, 0, 1, 2, 2, 2])
    moments = np.array([10, 11, 20, 21, 99, 15, 16, NEVER])
    assert found.places(moments, users).tolist() == [3, 0, 0, 1, 3, 3, 2, 3]
    assert found.places(16, np.array([2, 0, 1])).tolist() == [2, 0, 3]
    assert Attributes(owner[:0], since[:0], {}).places(5, users).tolist() == [0] * 8
