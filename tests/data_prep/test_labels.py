import math
from collections import Counter
from datetime import datetime, timedelta
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data_prep.tasks import examples, refusal

FIRST = datetime(2024, 2, 1)  # the first training cutoff of shop.task()

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


def test_a_split_of_one_class_is_refused(shop):
    buyer = [row for row in shop.regulars() if row["user_id"] == "buyer"]
    text = refusal(shop, buyer, shop.task())
    assert "all 2 examples of train have the label 0" in text
    assert "change the horizon (7 days)" in text
    rows = [row for row in shop.regulars() if row["event_type"] == "view" or row["event_time"] < shop.day(59)]
    assert "of test have the label 1" in refusal(shop, rows, shop.task())
