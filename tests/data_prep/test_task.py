import re
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import InputError
from data_prep.events import connect, read_events
from data_prep.task import CutoffRange, TaskConfig, label_examples, parse_duration, question, resolve_cutoffs, show

FIRST = datetime(2024, 2, 1)  # the first training cutoff of shop.task()


def examples(shop, rows: list[dict], task: TaskConfig) -> tuple[dict, dict]:
    """(split, user, cutoff) -> label, and the counts of each split."""
    with connect() as con:
        log = read_events(con, shop.data(rows))
        counts = label_examples(con, task, resolve_cutoffs(task, log))
        found = con.execute("SELECT split, user_id, cutoff, label FROM examples").fetchall()
        assert len({row[:3] for row in found}) == len(found)
        return {row[:3]: row[3] for row in found}, counts


def refusal(shop, rows: list[dict], task: TaskConfig) -> str:
    with pytest.raises(InputError) as error:
        examples(shop, rows, task)
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith("task")
    return text


# Labels and populations

KINDS = st.sampled_from(["purchase", "view"])
DAYS = st.one_of(st.integers(0, 89), st.floats(0, 89.9))
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
        assert count == {"rows": len(labels), "positives": sum(labels.values()), "users": len(users)}


@settings(max_examples=25, deadline=None)
@given(EVENTS, EVENTS, EVENTS)
def test_events_before_the_cutoff_never_change_a_label(shop, past, other_past, future):
    start = (FIRST - shop.start).days
    rows = shop.regulars() + [shop.event(user, start - 1) for user in "abc"]
    rows += [shop.event(user, day, kind) for user, day, kind in future if day >= start]
    labels = []
    for drawn in (past, other_past):
        before = [shop.event(user, day, kind) for user, day, kind in drawn if day < start]
        found, _ = examples(shop, rows + before, shop.task(population={"within": "90 days"}))
        labels.append({key: label for key, label in found.items() if key[2] == FIRST})
    assert labels[0] == labels[1]
    assert len(labels[0]) == 5


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
        ("", "cast"),
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
        "event_time = (SELECT max(event_time) FROM events)",
        "user_id IN (FROM events SELECT user_id)",
        "EXISTS (SELECT 1)",
    ],
)
def test_a_condition_that_looks_at_other_events_is_refused(shop, part, where):
    text = refusal(shop, shop.regulars(), shop.task(**{part: {"where": where}}))
    assert "contains a SELECT, which could look at later events" in text
    assert "data.sources" in text


def test_the_question_is_one_sentence(shop):
    assert question(shop.task()) == (
        "Which users with an event in the 28 days before the cutoff will have no event with event_type = 'purchase' "
        "in the 7 days after it?"
    )
