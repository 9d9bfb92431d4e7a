import math
import re
from collections import Counter
from datetime import datetime, timedelta
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import InputError
from data_prep.config import CutoffRange, TaskConfig, TextConfig
from data_prep.connections import connect
from data_prep.cutoffs import doubtful_windows, resolve_cutoffs
from data_prep.event_log import count_on
from data_prep.events import read_events
from data_prep.examples import UNLABELLED, Summary, fit_examples
from data_prep.moments import parse_duration, show
from data_prep.task import question

FIRST = datetime(2024, 2, 1)  # the first training cutoff of shop.task()


def examples(shop, rows: list[dict], task: TaskConfig) -> tuple[dict, dict]:
    """(split, user, cutoff) -> label, and what each split is like."""
    with shop.log(rows) as (con, log):
        text = TextConfig(header=[], fields={})
        made, labels = fit_examples(con, count_on(con), log, resolve_cutoffs(task, log), task, text)
        found, summary = {}, Summary()
        for batch in made.batches(labels):
            if batch.split == UNLABELLED:
                continue
            summary.add(batch)
            for row in batch.table.select(["user_id", "cutoff", "label"]).to_pylist():
                key = batch.split, row["user_id"], row["cutoff"]
                assert key not in found
                found[key] = row["label"]
        return found, made.describe(summary)


def refusal(shop, rows: list[dict], task: TaskConfig) -> str:
    with pytest.raises(InputError) as error:
        examples(shop, rows, task)
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith("task")
    return text


# Labels and populations

KINDS = st.sampled_from(["purchase", "view"])
DAYS = st.one_of(st.integers(0, 89), st.floats(0, 89.9), st.sampled_from([31, 31 - 1e-5]))  # FIRST, and just before it
EVENTS = st.lists(st.tuples(st.sampled_from("abc"), DAYS, KINDS), max_size=12)


@settings(max_examples=25, deadline=None)
@given(EVENTS)
def test_labels_and_population_are_what_a_loop_over_the_events_finds(shop, drawn):
    rows = shop.regulars() + [shop.event(*event) for event in drawn]
    task = shop.task(population={"within": "10 days", "where": "event_type = 'view' OR user_id = 'buyer'"})
    found, counts = examples(shop, rows, task)
    expected = {}
    for split in ("train", "validation", "test"):
        for text in getattr(task.cutoffs, split):
            cutoff = datetime.fromisoformat(text)
            for user in {row["user_id"] for row in rows}:
                mine = [row for row in rows if row["user_id"] == user]
                asked = any(
                    cutoff - timedelta(days=10) <= row["event_time"] < cutoff
                    and (row["event_type"] == "view" or user == "buyer")
                    for row in mine
                )
                bought = any(
                    cutoff <= row["event_time"] < cutoff + timedelta(days=7) and row["event_type"] == "purchase"
                    for row in mine
                )
                if asked:
                    expected[split, user, cutoff] = int(not bought)
    assert found == expected
    for split, count in counts.items():
        labels = {key: label for key, label in expected.items() if key[0] == split}
        users = {user for _, user, _ in labels}
        positives = sum(labels.values())
        assert (count["rows"], count["positives"], count["users"]) == (len(labels), positives, len(users))
        assert count["positive_rate"] == pytest.approx(positives / len(labels), abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(EVENTS, EVENTS, EVENTS), min_size=10, max_size=10))
def test_events_before_the_cutoff_never_change_a_label(shop, drawn):
    """In 200 logs, ten at a time with users of their own."""
    start = (FIRST - shop.start).days
    rows, before = shop.regulars(), ([], [])
    for i, (past, other_past, future) in enumerate(drawn):
        rows += [shop.event(f"{user}{i}", start - 1) for user in "abc"]
        rows += [shop.event(f"{user}{i}", day, kind) for user, day, kind in future if day >= start]
        for some, events in zip(before, (past, other_past), strict=True):
            some += [shop.event(f"{user}{i}", day, kind) for user, day, kind in events if day < start]
    labels = []
    for some in before:
        found, _ = examples(shop, rows + some, shop.task(population={"within": "90 days"}))
        labels.append({key: label for key, label in found.items() if key[2] == FIRST})
    assert labels[0] == labels[1]
    assert len(labels[0]) == 2 + 3 * 10


def test_the_window_begins_at_the_cutoff_and_ends_just_before_the_horizon(shop):
    moment, horizon = FIRST, timedelta(days=7)
    late = timedelta(microseconds=1)
    times = {"at": moment, "before": moment - late, "last": moment + horizon - late, "after": moment + horizon}
    rows = shop.regulars()
    for user, time in times.items():
        rows += [shop.event(user, 30), {"user_id": user, "event_time": time, "event_type": "purchase"}]
    found, _ = examples(shop, rows, shop.task(label={"kind": "exists"}))
    assert [found["train", user, FIRST] for user in times] == [1, 0, 1, 0]


def test_exists_is_the_opposite_of_absent(shop):
    absent, _ = examples(shop, shop.regulars(), shop.task())
    exists, _ = examples(shop, shop.regulars(), shop.task(label={"kind": "exists"}))
    assert exists == {key: 1 - label for key, label in absent.items()}


def test_a_condition_may_be_numeric_null_or_end_in_a_comment(shop):
    for where in ("items", "value > 0 -- not free", "value / items > 1", "category IS NULL AND value > 0\n"):
        found, _ = examples(
            shop, shop.regulars(), shop.task(label={"where": where}, population={"where": "items or 1=1--x"})
        )
        assert found["train", "looker", FIRST] == 1
        assert found["train", "buyer", FIRST] == 0


VALUED = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        DAYS,
        KINDS,
        st.none() | st.integers(-10_000, 10_000).map(lambda cents: cents / 100),
        st.lists(st.sampled_from(["tea", "Tea", "milk", "", None]), max_size=3),
    ),
    max_size=12,
)


@settings(max_examples=25, deadline=None)
@given(VALUED, st.sampled_from(["sum", "count", "which"]), st.booleans())
def test_values_counts_tiers_and_classes_are_what_a_loop_over_the_events_finds(shop, drawn, kind, tiers):
    rows = shop.regulars()
    rows += [shop.event("buyer", day + 0.7, "purchase", tags=[f"t{day % 5}"], value=0.1) for day in range(90)]
    rows += [shop.event(user, day, event, value=value, tags=tags) for user, day, event, value, tags in drawn]
    label = {"kind": kind, "where": "event_type = 'purchase'"}
    label |= {"field": {"sum": "value", "which": "tags"}.get(kind), "top": 4 if kind == "which" else None}
    label["tiers"] = [0, 5.5, 20] if tiers and kind != "which" else None
    task = shop.task(label=label, population={"within": "60 days"})
    found, counts = examples(shop, rows, task)
    week = timedelta(days=7)
    bought = [row for row in rows if row["event_type"] == "purchase"]
    first, last = (datetime.fromisoformat(task.cutoffs.train[i]) for i in (0, -1))
    seen = Counter()
    for row in bought:  # the training windows are neighbours
        if first <= row["event_time"] < last + week:
            seen.update({tag for tag in row.get("tags") or [] if tag})
    classes = sorted(seen, key=lambda tag: (-seen[tag], tag))[:4]
    for (_, user, cutoff), given_label in found.items():
        mine = [row for row in bought if row["user_id"] == user and cutoff <= row["event_time"] < cutoff + week]
        if kind == "which":
            tags = {tag for row in mine for tag in row.get("tags") or []}
            assert given_label == [int(name in tags) for name in classes]
            continue
        cents = sum(round((row.get("value") or 0) * 100) for row in mine)
        value = len(mine) if kind == "count" else cents / 100
        assert given_label == (sum(value > tier for tier in [0, 5.5, 20]) if label["tiers"] else value)
    train = [given_label for (split, _, _), given_label in found.items() if split == "train"]
    if kind == "which":
        totals = dict(zip(classes, map(sum, zip(*train, strict=True)), strict=True))
        assert counts["train"]["classes"] == totals
    elif tiers:
        names = ["up to 0", "above 0 to 5.5", "above 5.5 to 20", "above 20"]
        assert counts["train"]["classes"] == {name: train.count(i) for i, name in enumerate(names)}
    else:
        assert counts["train"]["mean"] == pytest.approx(mean(train))
        assert counts["train"]["share_above_zero"] == pytest.approx(mean(value > 0 for value in train))


def test_the_classes_come_from_the_training_windows_alone(shop):
    rows = shop.regulars() + [shop.event("buyer", day, "purchase", category="always") for day in range(30, 90)]
    for tag, day in (("history", 20), ("early", 31), ("late", 44.9), ("validation", 46), ("test", 60)):
        rows += [shop.event("buyer", day, "purchase", category=tag)] * (1 + (tag in ("history", "validation", "test")))
    label = {"kind": "which", "field": "category", "top": 9}
    _, counts = examples(shop, rows, shop.task(label=label))
    assert list(counts["train"]["classes"]) == ["always", "early", "late"]


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        ({"kind": "sum"}, "task.label.field is missing; kind sum needs it"),
        ({"kind": "which", "field": "category"}, "task.label.top is missing; kind which needs it"),
        ({"kind": "which", "field": "category", "top": 0}, "task.label.top is 0; give a number above zero"),
        ({"kind": "count", "field": "value"}, "task.label.field belongs to sum and which; leave it out where kind is"),
        ({"kind": "absent", "tiers": [1]}, "task.label.tiers belongs to sum and count"),
        ({"kind": "exists", "top": 3}, "task.label.top belongs to which"),
        ({"kind": "sum", "field": "colour"}, "task.label.field: the log has no column 'colour'; it has"),
        (
            {"kind": "sum", "field": "category"},
            "task.label.field: a sum needs numbers, but 'category' is VARCHAR;",
        ),
        ({"kind": "count", "tiers": [5, 0]}, "task.label.tiers: [5, 0] are not limits in ascending order"),
        ({"kind": "count", "tiers": []}, "task.label.tiers: [] are not limits"),
        ({"kind": "count", "tiers": [math.nan]}, "task.label.tiers: [nan] are not limits"),
        (
            {"kind": "which", "field": "category", "top": 3},
            "task.label.field: no event with event_type = 'purchase'",
        ),
    ],
)
def test_a_label_with_a_setting_too_few_or_too_many_is_refused(shop, label, reason):
    assert refusal(shop, shop.regulars(), shop.task(label=label)).startswith(reason)


@pytest.mark.parametrize("value", [2e10, -1e300, 1e-8])
def test_a_sum_that_could_not_be_exact_is_refused(shop, value):
    rows = [*shop.regulars(), shop.event("buyer", 3, "purchase", value=value), shop.event("buyer", 3, value=value)]
    text = refusal(shop, rows, shop.task(label={"kind": "sum", "field": "value"}))
    assert text.startswith("task.label.field: 1 values of value are 10^10 or more, or less than a millionth")


def test_a_window_in_whose_end_nothing_happens_is_doubtful(shop):
    rows = [row for row in shop.regulars() if row["event_time"] < shop.day(64) or row["user_id"] == "looker"]
    with shop.log(rows) as (con, log):
        cutoffs = resolve_cutoffs(shop.task(), log)
        assert doubtful_windows(count_on(con), shop.task(), cutoffs) == [
            "no event with event_type = 'purchase' at the end of the label window 2024-02-29 to 2024-03-07; is the log "
            "complete?"
        ]
    with shop.log(shop.regulars()) as (con, _):
        assert doubtful_windows(count_on(con), shop.task(), cutoffs) == []


# Cutoffs


def test_a_range_of_cutoffs_steps_from_first_to_last(shop):
    steps = CutoffRange("2024-01-20", "2024-02-05", "1 week")
    with connect() as con:
        log = read_events(con, shop.data(shop.regulars()))
        cutoffs = resolve_cutoffs(shop.task(train=steps), log)
    assert list(map(show, cutoffs["train"])) == ["2024-01-20", "2024-01-27", "2024-02-03"]


def test_listed_cutoffs_are_sorted_and_count_once(shop):
    with connect() as con:
        log = read_events(con, shop.data(shop.regulars()))
        cutoffs = resolve_cutoffs(shop.task(train=["2024-02-02 06:00", "2024-02-01", "2024-02-01 00:00"]), log)
    assert list(map(show, cutoffs["train"])) == ["2024-02-01", "2024-02-02 06:00"]


def test_windows_may_touch_the_next_split_and_the_end_of_the_last_day(shop):
    task = shop.task(
        train=["2024-02-08"], validation=["2024-02-15"], test=["2024-03-23"]
    )  # the log's last event is on 2024-03-30 at noon: day 89 of a leap year
    examples(shop, shop.regulars(), task)


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("14 days", timedelta(days=14)),
        ("1 day", timedelta(days=1)),
        (" 2weeks ", timedelta(weeks=2)),
        ("90 minutes", timedelta(minutes=90)),
        ("36 hours", timedelta(hours=36)),
    ],
)
def test_durations_are_minutes_hours_days_or_weeks(text, length):
    assert parse_duration(text, "x") == length


@pytest.mark.parametrize(
    "text", ["0 days", "", "14", "days", "-3 days", "1.5 days", "2 months", "9999999999 weeks", "101 years"]
)
def test_other_durations_are_refused_with_an_example(text):
    with pytest.raises(InputError, match=re.escape(f"task.label.horizon: '{text}' is not a length") + ".*: 14 days$"):
        parse_duration(text, "task.label.horizon")


# What is refused


def test_a_training_window_past_the_first_validation_cutoff_is_refused_with_the_dates(shop):
    text = refusal(shop, shop.regulars(), shop.task(validation=["2024-02-20", "2024-02-14"]))
    assert "last train cutoff 2024-02-08 ends on 2024-02-15, after the first validation cutoff 2024-02-14" in text
    assert "move validation to 2024-02-15 or later, or end train at 2024-02-07" in text


def test_a_validation_window_past_the_first_test_cutoff_is_refused_with_the_dates(shop):
    text = refusal(shop, shop.regulars(), shop.task(test=["2024-02-21 23:59"]))
    assert "last validation cutoff 2024-02-15 ends on 2024-02-22" in text
    assert "after the first test cutoff 2024-02-21 23:59" in text


def test_a_training_cutoff_after_validation_is_refused(shop):
    assert "after the first validation cutoff" in refusal(shop, shop.regulars(), shop.task(train=["2024-03-01"]))


@pytest.mark.parametrize("cutoff", ["2023-12-31", "2024-01-01 06:00"])
def test_a_cutoff_that_is_not_after_the_first_event_is_refused_with_the_dates(shop, cutoff):
    text = refusal(shop, shop.regulars(), shop.task(train=[cutoff, "2024-02-01"]))
    assert f"task.cutoffs.train: the cutoff {cutoff} is not after the log's first event (2024-01-01 06:00)" in text
    assert "choose a later one" in text


def test_a_window_past_the_end_of_the_log_is_refused_with_the_dates(shop):
    text = refusal(shop, shop.regulars(), shop.task(test=["2024-03-25"]))
    assert "task.cutoffs.test: the label window of the cutoff 2024-03-25 ends on 2024-04-01" in text
    assert "the log ends on 2024-03-30 12:00; choose a cutoff no later than 2024-03-24" in text


@pytest.mark.parametrize("horizon", ["0 days", "soon", "-1 weeks", ""])
def test_a_horizon_that_is_no_positive_length_is_refused(shop, horizon):
    text = refusal(shop, shop.regulars(), shop.task(label={"horizon": horizon}))
    assert f"task.label.horizon: '{horizon}' is not a length above zero" in text


def test_a_look_back_that_is_no_positive_length_is_refused(shop):
    assert "task.population.within" in refusal(shop, shop.regulars(), shop.task(population={"within": "0 days"}))


@pytest.mark.parametrize("date", ["2024-02-30", "01.02.2024", "soon", "", "9999-12-31", "0001-01-01"])
def test_a_cutoff_that_is_no_date_is_refused(shop, date):
    text = refusal(shop, shop.regulars(), shop.task(validation=[date]))
    assert f"task.cutoffs.validation: '{date}' is not a date" in text


def test_a_cutoff_with_a_time_zone_is_refused(shop):
    text = refusal(shop, shop.regulars(), shop.task(validation=["2024-02-15T00:00+02:00"]))
    assert "carries a time zone" in text
    assert "in UTC" in text


def test_no_cutoffs_and_a_range_that_runs_backwards_are_refused(shop):
    assert "task.cutoffs.test is empty; give" in refusal(shop, shop.regulars(), shop.task(test=[]))
    backwards = CutoffRange("2024-02-08", "2024-02-01", "7 days")
    text = refusal(shop, shop.regulars(), shop.task(train=backwards))
    assert "task.cutoffs.train: last (2024-02-01) is before first (2024-02-08)" in text
    standing = CutoffRange("2024-02-01", "2024-02-08", "0 days")
    assert "task.cutoffs.train.every: '0 days'" in refusal(shop, shop.regulars(), shop.task(train=standing))


def test_an_empty_population_at_one_cutoff_is_refused_with_its_date(shop):
    rows = [row for row in shop.regulars() if not 41 <= (row["event_time"] - shop.start).days < 46]
    text = refusal(shop, rows, shop.task(population={"within": "3 days"}))
    assert "task.population: nobody has an event in the 3 days before the validation cutoff 2024-02-15" in text
    assert "widen `within`" in text
    text = refusal(shop, rows, shop.task(population={"within": "3 days", "where": "items >= 0"}))
    assert "nobody has an event with items >= 0 in the 3 days" in text


def test_a_split_of_one_class_is_refused(shop):
    buyer = [row for row in shop.regulars() if row["user_id"] == "buyer"]
    text = refusal(shop, buyer, shop.task())
    assert "all 2 examples of train have the label 0" in text
    assert "change the horizon (7 days)" in text
    rows = [row for row in shop.regulars() if row["event_type"] == "view" or row["event_time"] < shop.day(59)]
    assert "of test have the label 1" in refusal(shop, rows, shop.task())


@pytest.mark.parametrize("part", ["label", "population"])
def test_a_condition_that_nothing_satisfies_is_refused(shop, part):
    text = refusal(shop, shop.regulars(), shop.task(**{part: {"where": "event_type = 'refund'"}}))
    assert f"task.{part}.where: no event of the log satisfies event_type = 'refund'; check" in text


@pytest.mark.parametrize("part", ["label", "population"])
@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("colour = 'red'", '"colour" not found'),
        ("event_type ==== 'x'", "syntax error|does not exist"),
        ("event_type = 'x", "unterminated"),
        ("category > 5", "explicit cast"),
        ("", "syntax error"),
        ("event_type = 'purchase') OR (1=1", "syntax error"),
        ("random() < 0.5", "calls random, which is not the same each time"),
        ("log.event_type = 'purchase'", "not found"),
        ("sum(value) > 1", "aggregate|not allowed|nested"),
        ("lag(value) OVER () > 1", "window"),
        ("event_type", "convert|Could not"),
    ],
)
def test_a_condition_that_duckdb_refuses_is_refused_in_one_sentence(shop, part, where, reason):
    text = refusal(shop, shop.regulars(), shop.task(**{part: {"where": where}}))
    assert text.startswith(f"task.{part}.where: ")
    assert re.search(reason, text), text
    assert text.endswith("write a condition over the columns of one event")


@pytest.mark.parametrize("part", ["label", "population"])
@pytest.mark.parametrize(
    "where",
    [
        "event_time = (SELECT max(event_time) FROM log)",
        "user_id IN (FROM log SELECT user_id)",
        "EXISTS (SELECT 1)",
    ],
)
def test_a_condition_that_looks_at_other_events_is_refused(shop, part, where):
    text = refusal(shop, shop.regulars(), shop.task(**{part: {"where": where}}))
    assert "contains a SELECT, which could look at later events" in text
    assert "data.sources" in text


@pytest.mark.parametrize(
    ("label", "text"),
    [
        ({}, "Which users {who} will have no event with event_type = 'purchase' in the 7 days after it?"),
        (
            {"kind": "count"},
            "How many events with event_type = 'purchase' will users {who} have in the 7 days after it?",
        ),
        (
            {"kind": "sum", "field": "value"},
            "To what will value add up over the events with event_type = 'purchase' of users {who} in the 7 days after "
            "it?",
        ),
        (
            {"kind": "which", "field": "category", "top": 3},
            "Which values of category will the events with event_type = 'purchase' of users {who} have in the 7 days "
            "after it?",
        ),
    ],
)
def test_the_question_is_one_sentence(shop, label, text):
    who = "with an event in the 28 days before the cutoff"
    assert question(shop.task(label=label)) == text.format(who=who)
