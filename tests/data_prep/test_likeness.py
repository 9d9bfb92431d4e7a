import json
from dataclasses import replace
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from data_prep import InputError
from data_prep.config import DataConfig, Source, TextConfig, TextField
from data_prep.connections import connect
from data_prep.prepare import prepare
from data_prep.prepared import read_manifest
from data_prep.serializer import EventSerializer
from data_prep.serving import read_past
from data_prep.sql import refused

START = datetime(2024, 1, 1)
USERS = 120
FIELDS = {"event_type": TextField(top=5), "category": TextField(top=5), "note": TextField(words=3)}


def events(days: range = range(90), kind: str = "view", category: str = "tea", note: str = "green tea") -> pa.Table:
    """Every user has an event every few days, and half of them buy; on each day somebody has one."""
    rows = [(user, day) for user in range(USERS) for day in days if (user + day) % 3 == 0]
    return pa.table(
        {
            "user_id": [f"u{user}" for user, _ in rows],
            "event_time": pa.array([START + timedelta(days=day, hours=user % 24) for user, day in rows]),
            "event_type": ["purchase" if user % 2 and kind == "view" and day % 2 else kind for user, day in rows],
            "category": [category] * len(rows),
            "note": [note] * len(rows),
        }
    )


@pytest.fixture(scope="module")
def learned(shop, tmp_path_factory) -> tuple[EventSerializer, dict]:
    """What a model's folder keeps of the training: serializer and the facts of task.json."""
    path = tmp_path_factory.mktemp("likeness") / "log.parquet"
    pa.parquet.write_table(events(), path)
    data = DataConfig([Source(path=str(path))], folder=str(path.parent), timezone="Europe/Berlin")
    task = shop.task()
    folder = prepare("likeness", data, task, TextConfig(fields=FIELDS))
    manifest = read_manifest(folder)
    facts = {"log": manifest["log"], "splits": manifest["splits"], "task": manifest["config"]["task"]}
    return EventSerializer.from_pretrained(folder), facts


def said(learned: tuple[EventSerializer, dict], given: object, cutoff: str, **without: object) -> list[str]:
    serializer, facts = learned
    with connect() as con:
        return read_past(con, given, serializer, datetime.fromisoformat(cutoff), task=facts | without).notes()


def warned(*arguments: object, **more: object) -> list[str]:
    return [note for note in said(*arguments, **more) if note.startswith("warning")]


def test_the_manifest_keeps_what_a_log_is_compared_with(learned):
    log = learned[1]["log"]
    assert (log["timezone"], log["silent_days"]) == ("Europe/Berlin", 0)
    assert log["known"] == {"event_type": 1.0, "category": 1.0, "note": 1.0}


def test_the_manifest_keeps_which_columns_the_events_of_each_type_have(shop):
    def kept(*more: dict) -> dict[str, list[str]]:
        text = shop.text(fields=shop.text().fields | {"tags": TextField(top=5), "note": TextField(words=3)})
        text.fields["event_type"].min_users = 2
        # Nothing is a value of: a blank text, an empty list, no number. The hundredth event of a type is none too few.
        rows = [shop.event(f"u{i % 5}", i / 5, "Gift card!", value=float("nan"), note=" ", tags=[]) for i in range(99)]
        rows += [shop.event("u1", 10, "gift_card", category="c1"), shop.event("buyer", 9, "view", note="a")]
        rows += [*shop.regulars(), shop.event("looker", 12, "purchase", value=1.0)]
        return read_manifest(shop.prepare([*rows, *more], shop.task(), text))["log"]["has"]

    expected = {"gift_card": ["category"], "purchase": ["value", "items"], "view": ["category", "note"]}
    assert kept() == expected
    assert kept(shop.event("u1", 3, "call", tags=["a"])) == expected  # of a single user
    past, future = ([shop.event(f"u{i}", day, "view", tags=["a"]) for i in range(5)] for day in (3, 38.5))
    assert kept(*past)["view"] == ["category", "tags", "note"]
    assert kept(*future) == expected  # from the last training cutoff on


def test_a_log_like_that_of_training_is_scored_without_a_warning(learned):
    assert warned(learned, events(), "2024-03-20") == []
    assert warned(learned, events(range(70)), "2024-03-11") == []


def test_a_log_that_ends_before_the_cutoff_is_warned_of(learned):
    (long,) = warned(learned, events(), "2030-06-01")
    assert "last event before the cutoff is of 2024-03-3" in long
    assert "further back than the 28 days" in long
    (short,) = warned(learned, events(range(70)), "2024-03-14")
    assert "3 whole days without any event, and the training log never had more than 0" in short
    few = events(range(70)).filter(pc.is_in(events(range(70))["user_id"], pa.array(["u1", "u2", "u3"])))
    assert warned(learned, few, "2024-03-14") == []  # three users may well have no event on a day


def test_a_log_that_is_far_shorter_than_the_histories_of_training_is_warned_of(learned):
    (short,) = warned(learned, events(range(70, 80)), "2024-03-21")
    assert "begins 10 days before the cutoff" in short
    assert "a typical history that the model was trained on could reach 38 days back" in short
    some = pc.is_in(events(range(70, 80))["user_id"], pa.array([f"u{i}" for i in range(40)]))
    assert "begins 10 days" in warned(learned, events(range(70, 80)).filter(some), "2024-03-21")[0]
    few = pc.is_in(events(range(70, 80))["user_id"], pa.array(["u1", "u2", "u3"]))
    assert warned(learned, events(range(70, 80)).filter(few), "2024-03-21") == []
    assert warned(learned, events(range(60, 80)), "2024-03-21") == []


@pytest.mark.parametrize(
    ("column", "change"),
    [("event_type", {"kind": "sold"}), ("category", {"category": "Kaffee"}), ("note", {"note": "schwarzer Kaffee"})],
)
def test_values_that_are_mostly_unknown_are_warned_of(learned, column, change):
    (unknown,) = warned(learned, events(**change), "2024-03-20")
    assert unknown == f"warning: 100% of the events' values of {column} are none that the model knows (0% in training)"
    half = pa.concat_tables([events(), events(**change).slice(0, 1000)])
    assert warned(learned, half, "2024-03-20") == []


def test_values_that_training_knew_as_rarely_are_not_warned_of(learned):
    known = learned[1]["log"]["known"] | {"category": 0.1}
    mostly = pa.concat_tables([events(), *[events(category="Kaffee")] * 9])
    assert warned(learned, mostly, "2024-03-20")
    assert warned(learned, mostly, "2024-03-20", log=learned[1]["log"] | {"known": known}) == []


def test_times_without_a_zone_are_in_that_of_training_and_it_is_said(learned):
    log = [{"user_id": "u", "event_time": "2024-03-01 00:30", "event_type": "view"}]
    serializer, facts = learned
    for zone, expected in (("Europe/Berlin", datetime(2024, 2, 29, 23, 30)), ("UTC", datetime(2024, 3, 1, 0, 30))):
        with connect() as con:
            task = facts | {"log": facts["log"] | {"timezone": zone}}
            notes = read_past(con, log, serializer, datetime(2024, 3, 2), task=task).notes()
            assert con.execute("SELECT event_time FROM past").fetchall() == [(expected,)]
        assert ("times without a zone are taken in Europe/Berlin, as in training" in notes) == (zone != "UTC")


def test_a_full_disk_is_said_whatever_is_written():
    with (
        connect() as con,
        pytest.raises(InputError, match="no space is left on the disk"),
        refused("events", "mend it"),
    ):
        con.execute("COPY (SELECT range FROM range(1000000)) TO '/dev/full' (FORMAT csv, USE_TMP_FILE false)")


def test_another_zone_than_that_of_training_is_warned_of_and_an_old_model_says_that_it_has_none(learned, tmp_path):
    path = tmp_path / "log.parquet"
    pa.parquet.write_table(events(), path)
    data = DataConfig([Source(path=str(path))])
    (other,) = warned(learned, data, "2024-03-20")
    assert other == "warning: times without a zone are taken in UTC, and in training they were in Europe/Berlin"
    assert warned(learned, replace(data, timezone="Europe/Berlin"), "2024-03-20") == []
    kept = ("timezone", "silent_days", "known", "has")
    old = {name: fact for name, fact in learned[1]["log"].items() if name not in kept}
    (unknown,) = warned(learned, events(), "2024-03-20", log=json.loads(json.dumps(old)))
    assert "made before its log's time zone and days were kept with it" in unknown
    assert "taken in UTC" in unknown
