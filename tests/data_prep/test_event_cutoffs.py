"""Cutoffs right after events: which moments are taken, and that nothing behind them is seen."""

import re
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from random import Random
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import InputError
from data_prep.config import CutoffRange, Cutoffs, Label, Population, TaskConfig, TextConfig, TextField
from data_prep.cutoffs import resolve_cutoffs
from data_prep.event_log import count_on
from data_prep.examples import fit_examples
from data_prep.features import SHORT_WINDOWS
from data_prep.prepare import prepare
from data_prep.prepared import read_manifest
from data_prep.serializer import EventSerializer
from tests.data_prep.tasks import refusal

MINUTE = timedelta(minutes=1)
CART = "event_type = 'cart'"
USERS = 200
# Minutes, often the same or at the edge of a window; type; value; item.
HISTORY = st.lists(
    st.tuples(
        st.integers(0, 200) | st.sampled_from([0, 5, 30, 31, 60, 120, 1440, 1441]),
        st.sampled_from(["view", "cart", "purchase"]),
        st.none() | st.integers(1, 9).map(float),
        st.sampled_from(["x", "y", None]),
    ),
    min_size=1,
    max_size=15,
)


def moments_task(label: dict | None = None, population: Population | None = None, **at: object) -> TaskConfig:
    """Who buys within half an hour of a cart? One day of training, then validation and test."""
    bounds = {"train": ("2024-01-01", "2024-01-02"), "validation": ("2024-01-04", "2024-01-05")}
    bounds["test"] = ("2024-01-07", "2024-01-08")
    ranges = {name: CutoffRange(first, last, **({"at": CART} | at)) for name, (first, last) in bounds.items()}
    kinds = {"kind": "exists", "where": "event_type = 'purchase'", "horizon": "30m"}
    return TaskConfig(Label(**(kinds | (label or {}))), population or Population(), Cutoffs(**ranges))


def session_text(**changes: object) -> TextConfig:
    fields = {
        "event_type": TextField(top=5, min_users=1),
        "value": TextField(bins=3),
        "category": TextField(top=3, min_users=1),
    }
    return TextConfig(**({"fields": fields, "session_gap": "30 minutes"} | changes))


def log_of(shop, drawn: list[tuple], split: str = "train") -> list[dict]:
    """The drawn events on the first day of a split, and two users by whom every split has both labels."""
    days = {"train": 0, "validation": 3, "test": 6}
    rows = [
        {"user_id": user, "event_time": shop.day(days[split]) + minute * MINUTE, "event_type": kind}
        | {"value": value, "category": item}
        for user, minute, kind, value, item in drawn
    ]
    for day in days.values():
        rows += [shop.event("buyer", day + 0.5, "cart", value=1.0), shop.event("buyer", day + 0.51, "purchase")]
        rows += [shop.event("looker", day + 0.5, "cart", category="x"), shop.event("looker", day + 1.2, "view")]
    return [*rows, shop.event("looker", 9, "view")]


def made(shop, rows: list[dict], task: TaskConfig, text: TextConfig, serializer: EventSerializer | None = None) -> dict:
    """(split, user, moment) -> the whole row; `serializer` is one that was fitted on another log."""
    with shop.log(rows) as (con, log):
        examples, labels = fit_examples(con, count_on(con), log, resolve_cutoffs(task, log), task, text)
        if serializer:
            examples.serializer = serializer
            labels = examples.load(con)
        found = {}
        for batch in examples.batches(labels):
            for row in batch.table.to_pylist():
                key = batch.split, row["user_id"], row["cutoff"]
                assert key not in found
                found[key] = row
        return found


@dataclass
class Drawn:
    """Histories drawn by hypothesis, each a user of one log, and its rows by a serializer that was fitted on it."""

    rows: list[dict]
    serializer: EventSerializer
    found: dict


@pytest.fixture(scope="module")
def drawn(shop) -> Drawn:
    histories = []

    @settings(max_examples=USERS, deadline=None, derandomize=True)
    @given(HISTORY)
    def draw(events: list[tuple]) -> None:
        histories.append(events)

    draw()
    assert len(histories) >= USERS
    rows = log_of(shop, [(f"u{i}", *event) for i, events in enumerate(histories) for event in events])
    with shop.log(rows) as (con, log):
        task = moments_task(per_user=100)
        examples, _ = fit_examples(con, count_on(con), log, resolve_cutoffs(task, log), task, session_text())
    return Drawn(rows, examples.serializer, made(shop, rows, task, session_text(), examples.serializer))


def of_train(found: dict) -> dict[str, dict[datetime, dict]]:
    """User -> moment -> row, of the users who were drawn."""
    rows = defaultdict(dict)
    for (split, user, moment), row in sorted(found.items()):
        if split == "train" and user.startswith("u"):
            rows[user][moment] = row
    return rows


def by_user(rows: list[dict]) -> dict[str, list[dict]]:
    users = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["event_time"]):
        users[row["user_id"]].append(row)
    return users


def test_what_comes_after_a_moment_changes_neither_text_nor_aggregates_nor_what_is_taken_before(shop, drawn):
    random, events, moments = Random(0), by_user(drawn.rows), of_train(drawn.found)
    chosen = {user: random.choice(list(rows)) for user, rows in moments.items()}
    rows = [row for row in drawn.rows if row["event_time"] <= chosen.get(row["user_id"], row["event_time"])]
    for user, moment in chosen.items():
        for row in events[random.choice(list(chosen))]:  # what another one did
            later = moment + timedelta(seconds=random.choice([0.000001, 1, 60, 3600]))
            rows.append(row | {"user_id": user, "event_time": later})
    other = of_train(made(shop, rows, moments_task(per_user=100), session_text(), drawn.serializer))
    assert len(chosen) > USERS / 3
    for user, moment in chosen.items():
        before = [
            [row | {"label": None} for at, row in of_user[user].items() if at <= moment] for of_user in (moments, other)
        ]
        assert before[0] == before[1]
        assert before[0]


@pytest.mark.parametrize("gap", [None, "1 minute", "30m"])
def test_moments_are_at_least_a_gap_apart_and_not_too_many(shop, drawn, gap):
    every, some = (
        of_train(made(shop, drawn.rows, moments_task(per_user=most, gap=gap), session_text(), drawn.serializer))
        for most in (100, 2)
    )
    apart = {None: 0, "1 minute": 1, "30m": 30}[gap] * MINUTE
    drawn_at = set()
    for user, rows in by_user(drawn.rows).items():
        expected = []
        for moment in sorted({row["event_time"] for row in rows if row["event_type"] == "cart"}):
            if user.startswith("u") and (not expected or moment - expected[-1] >= apart):
                expected.append(moment)
        assert list(every[user]) == expected
        assert len(some[user]) == min(2, len(expected))
        assert some[user].keys() <= every[user].keys()
        drawn_at |= {expected.index(moment) for moment in some[user]}
    assert len(drawn_at) > 2  # not always the first ones


def test_the_draw_and_the_rows_do_not_depend_on_the_order_of_the_log(shop, drawn):
    task, shuffled = moments_task(per_user=2), Random(0).sample(drawn.rows, len(drawn.rows))
    one, other = (made(shop, rows, task, session_text(), drawn.serializer) for rows in (drawn.rows, shuffled))
    assert repr(one) == repr(other)


def test_a_later_event_may_take_the_place_of_a_drawn_moment_but_brings_none_back(shop, drawn):
    task = moments_task(per_user=2)
    hour, past = shop.day(0) + 60 * MINUTE, shop.day(2)
    late = [row for row in drawn.rows if row["event_time"] < hour or row["event_time"] > past]
    fewer, all_ = (of_train(made(shop, rows, task, session_text(), drawn.serializer)) for rows in (late, drawn.rows))
    for user, rows in all_.items():
        early = {moment for moment in rows if moment < hour}
        assert early <= fewer[user].keys()


def test_windows_sessions_and_labels_are_what_a_loop_over_the_events_finds(shop, drawn):
    lengths, events = {"5m": 5, "30m": 30, "2h": 120, "1d": 1440}, by_user(drawn.rows)
    assert lengths.keys() == SHORT_WINDOWS.keys()
    for user, rows in of_train(drawn.found).items():
        for moment, row in rows.items():
            past = [event for event in events[user] if event["event_time"] <= moment]
            for name, minutes in lengths.items():
                inside = [event for event in past if event["event_time"] > moment - minutes * MINUTE]
                assert row[f"events_{name}"] == len(inside)
                assert row[f"target_{name}"] == sum(event["event_type"] == "purchase" for event in inside)
                assert row[f"value_sum_{name}"] == sum(event["value"] or 0 for event in inside)
            session, sessions = [], 0
            for event in past:
                if not session or event["event_time"] - session[-1]["event_time"] > 30 * MINUTE:
                    session, sessions = [], sessions + 1
                session.append(event)
            assert (row["events_session"], row["sessions"]) == (len(session), sessions)
            assert row["session_seconds"] == (moment - session[0]["event_time"]).total_seconds()
            assert row["category_distinct_session"] == len({event["category"] for event in session} - {None})
            assert row["type_view_session"] == sum(event["event_type"] == "view" for event in session)
            gap = (past[-1]["event_time"] - past[-2]["event_time"]).total_seconds() if len(past) > 1 else None
            assert (row["recency_days"], row["event_gap_seconds"]) == (0, gap)
            days = sorted({event["event_time"].date() for event in past})
            gaps = [(later - earlier).days for earlier, later in pairwise(days)]
            assert row["gap_median"] == (median(gaps) if gaps else None)
            known = {event["category"] for event in past if event["event_time"] > moment - timedelta(28)}
            assert row["category_distinct_28d"] == len(known - {None})
            window = [event for event in events[user] if moment < event["event_time"] <= moment + 30 * MINUTE]
            assert row["label"] == any(event["event_type"] == "purchase" for event in window)


def test_one_user_by_hand_and_the_last_event_give_the_texts_of_the_batch(shop, drawn):
    events, columns = by_user(drawn.rows), ("user_id", "event_time", "event_type", "value", "category")
    serializer, moments = drawn.serializer, of_train(drawn.found)
    for user in Random(0).sample(sorted(moments), 15):
        mine = [{name: event.get(name) for name in columns} for event in events[user]]
        moment, row = list(moments[user].items())[-1]
        by_hand = serializer.transform(mine, moment).to_pylist()
        assert [{name: row[name] for name in by_hand[0]}] == by_hand
    # All at once, with the events until the last moment of each.
    rows = [e for e in drawn.rows if e["event_time"] <= max(moments.get(e["user_id"], [datetime.min]))]
    with shop.log(rows) as (con, _):
        con.execute(f"CREATE OR REPLACE TEMP VIEW rows AS SELECT {serializer.casts(columns)} FROM log")
        last = serializer.examples(con, None).to_pylist()
    assert [(row["user_id"], row["cutoff"]) for row in last] == [(u, max(moments[u])) for u in sorted(moments)]
    for row in last:
        batch = moments[row["user_id"]][row["cutoff"]]
        assert {name: batch[name] for name in row} == row


def test_events_at_the_very_instant_are_history_and_no_label(shop):
    rows = log_of(shop, [("a", 10, "cart", 1.0, "x"), ("a", 10, "purchase", 2.0, "y"), ("a", 10, "cart", 3.0, "x")])
    found = made(shop, rows, moments_task(), session_text())
    ((key, row),) = [(key, row) for key, row in found.items() if key[:2] == ("train", "a")]
    assert key[2] == shop.day(0) + 10 * MINUTE
    assert (row["label"], row["events"], row["target_5m"], row["value_sum"]) == (0, 3, 1, 6.0)
    end = [("a", 10, "cart", None, None), ("a", 40, "purchase", None, None), ("b", 10, "cart", None, None)]
    found = made(shop, log_of(shop, [*end, ("b", 40.0001, "purchase", None, None)]), moments_task(), session_text())
    labels = {key[1]: row["label"] for key, row in found.items() if key[0] == "train"}
    assert (labels["a"], labels["b"]) == (1, 0)


def test_texts_tell_of_short_pauses_in_both_styles(shop):
    drawn = [("a", minute, "view", None, None) for minute in (0, 0, 3, 70)] + [("a", 75, "cart", None, None)]
    for style, gaps in (
        ("words", ["gap=5m", "gap=1h", "gap=3m", "gap=0s", "gap=first"]),
        ("sentences", ["after 5 minutes", "after 1 hour", "after 3 minutes", "after 0 seconds", "first"]),
    ):
        found = made(
            shop, log_of(shop, drawn), moments_task(), session_text(style=style, header=["recency"], fields={})
        )
        (found,) = [row["text"] for key, row in found.items() if key[:2] == ("train", "a")]
        body = found.split(" [SEP] ")[1].split(" ") if style == "words" else found.rstrip(". ").split(". ")[-5:]
        assert body == gaps


@pytest.mark.parametrize("kind", ["absent", "count", "sum", "which"])
def test_every_kind_of_label_is_that_of_the_window_behind_the_moment(shop, kind):
    field = {"sum": {"field": "value"}, "which": {"field": "category", "top": 2}}.get(kind, {})
    drawn = [("a", 10, "cart", None, None), ("a", 20, "purchase", 2.0, "x"), ("a", 30, "purchase", 3.0, "y")]
    drawn += [("a", 100, "purchase", 5.0, "x"), ("b", 10, "purchase", 1.0, "x"), ("b", 60, "cart", None, None)]
    found = made(shop, log_of(shop, drawn), moments_task({"kind": kind} | field), session_text())
    labels = {key[1]: row["label"] for key, row in found.items() if key[0] == "train"}
    expected = {"absent": (0, 1), "count": (2, 0), "sum": (5.0, 0), "which": ([1, 1], [0, 0])}[kind]
    assert (labels["a"], labels["b"]) == expected
    if kind == "which":
        own = {key[1]: row for key, row in found.items() if key[0] == "train"}["b"]
        assert own["own"] == [1, 0]
        assert own["own_7d"] == [1, 0]
        assert own["own_recency_days"][0] == pytest.approx(50 / 1440)


def test_a_population_may_narrow_the_moments(shop):
    drawn = [("a", 10, "cart", None, None), ("b", 5, "purchase", None, None), ("b", 10, "cart", None, None)]
    population = Population("1h", "event_type = 'purchase'")
    rows = log_of(shop, drawn)
    rows += [shop.event(user, day + 0.49, "purchase") for user in ("buyer", "looker") for day in (0, 3, 6)]
    found = made(shop, rows, moments_task(population=population), session_text())
    assert {key[1] for key in found if key[0] == "train"} == {"b", "buyer", "looker"}
    assert {key[1] for key in found if key[0] == "unlabelled"} == {"a"}


def test_prepared_data_says_what_a_moment_is(shop):
    drawn = [(user, minute, kind, None, None) for user in "ab" for minute, kind in ((1, "cart"), (2, "cart"))]
    folder = prepare("shop", shop.data(log_of(shop, drawn)), moments_task(gap="1m"), session_text())
    facts = read_manifest(folder)["splits"]["train"]
    assert facts["cutoffs"] == ["2024-01-01", "2024-01-02 23:59:59"]
    assert (facts["rows"], facts["users"], facts["most_per_user"]) == (6, 4, 2)
    card = (folder / "README.md").read_text()
    assert "right after a moment" in card
    assert "all of its own events included" in " ".join(card.split())
    again = EventSerializer.from_pretrained(folder)
    assert (again.features.moments, again.features.session_gap) == (True, 30 * 60 * 10**6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"at": "event_type = 'never'"}, "no event of the log satisfies event_type = 'never'"),
        ({"at": "nothing = 1"}, "task.cutoffs.train.at: .*nothing"),
        ({"at": "event_type = 'purchase'"}, "are what the label looks for, too.* set task.cutoffs.*gap, such as 30m"),
        ({"gap": "a while"}, "task.cutoffs.train.gap: 'a while' is not a length"),
        ({"every": "1 day"}, "names cutoffs, but those of train are at events; give `first` and `last` and `at`"),
        ({"at": None, "gap": "1h"}, "task.population.within is missing"),
    ],
)
def test_moments_that_cannot_be_are_refused_with_a_sentence(shop, change, said):
    task = moments_task(**change)
    assert re.search(said, refusal(shop, log_of(shop, []), task))


def test_splits_that_ask_otherwise_are_refused(shop):
    rows, task = log_of(shop, []), moments_task()
    task.cutoffs.test = CutoffRange("2024-01-07", "2024-01-08", at="event_type = 'view'")
    assert "test.at is event_type = 'view', and that of train is event_type = 'cart'" in refusal(shop, rows, task)
    task.cutoffs.test = ["2024-01-07"]
    assert "task.cutoffs.test names cutoffs" in refusal(shop, rows, task)
    task = moments_task()
    task.cutoffs.validation.first = "2024-01-03"
    task.label.horizon = "25 hours"
    assert "after the first validation cutoff 2024-01-03" in refusal(shop, rows, task)
    task = moments_task({"horizon": "3 days"})
    assert "but the log ends on" in refusal(shop, rows, task) or "after the first" in refusal(shop, rows, task)
    task = moments_task()
    task.cutoffs.test = CutoffRange("2024-01-08 01:00", "2024-01-08 02:00", at=CART)
    assert "nobody has an event with event_type = 'cart' from 2024-01-08 01:00" in refusal(shop, rows, task)


def test_settings_of_moments_belong_to_moments(shop):
    with pytest.raises(InputError, match=r"text\.session_gap belongs to cutoffs at events"):
        prepare("shop", shop.data(shop.regulars()), shop.task(), session_text())
    steps = CutoffRange("2024-02-01", "2024-02-05", "1 day", per_user=3)
    assert "per_user belongs to cutoffs at events" in refusal(shop, shop.regulars(), shop.task(train=steps))
    steps = CutoffRange("2024-02-01", "2024-02-05")
    assert "every is missing; give the step" in refusal(shop, shop.regulars(), shop.task(train=steps))


def test_a_moment_after_2038_counts_like_any_other(shop):
    """Of 32 bits the seconds since 1970 would have run over."""
    far = timedelta(days=15 * 365)
    rows = [row | {"event_time": row["event_time"] + far} for row in log_of(shop, [("a", 5, "cart", None, None)])]
    task = moments_task()
    for split in ("train", "validation", "test"):
        part = getattr(task.cutoffs, split)
        for end in ("first", "last"):
            setattr(part, end, str((datetime.fromisoformat(getattr(part, end)) + far).date()))
    data = shop.data(rows, until="2100-01-01")
    folder = prepare("shop", data, task, session_text())
    assert {row["cutoff"].year for row in shop.rows(folder, "train")} == {2038}


@pytest.mark.parametrize(("zone", "late", "warned"), [("UTC", 0, True), ("Europe/Berlin", 1, True), ("UTC", 3, False)])
def test_a_log_of_days_is_warned_of_where_cutoffs_are_at_events(shop, zone, late, warned):
    rows = []
    for day in range(9):
        for user in range(5):
            rows += [shop.event(f"u{user}", day, "cart"), shop.event(f"u{user}", day + 0.4, "purchase")]
            rows[-1]["user_id"] = f"u{user % 3}"
    for row in [row for row in rows if row["event_type"] == "cart"][:late]:  # of 45, 3 are more than 5 %
        row["event_time"] += MINUTE
    folder = prepare("days", shop.data(rows, timezone=zone), moments_task({"horizon": "12h"}), session_text(fields={}))
    (said,) = [said for said in read_manifest(folder)["warnings"] if "00:00:00" in said] or [None]
    assert (said is not None) == warned
    if said:
        assert said.startswith(
            f"{45 - late} of 45 events with {CART} are at 00:00:00, as in a log of days: right after"
        )
