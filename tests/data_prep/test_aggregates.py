import math
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import mean, median, pstdev

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import InputError
from data_prep.aggregates import aggregate_names
from data_prep.features import OWN_WINDOWS, WINDOWS, Features

KINDS = {"value": "numeric", "items": "numeric", "category": "categorical", "note": "text"}

TYPES = ["purchase", "view"]

CUTOFF = 100  # days after shop.start

# Days before the cutoff: whole days, the edges of the windows, and any minute.
AGES = st.one_of(
    st.integers(1, 99),
    st.sampled_from([w + d for w in WINDOWS for d in (-1 / 1440, 0, 1 / 1440)]),
    st.integers(1, 99 * 1440).map(lambda minutes: minutes / 1440),
)

VALUES = st.one_of(st.none(), st.integers(-500, 50_000).map(lambda cents: cents / 100))

EVENTS = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        AGES,
        st.sampled_from(["purchase", "View", "other"]),
        VALUES,
        st.none() | st.integers(-3, 10**6),
        st.sampled_from(["x", "y", "z", None]),
    ),
    min_size=1,
    max_size=25,
)


def names_of(kinds: dict[str, str], event_types: list[str]) -> list[str]:
    return aggregate_names(Features("true", {}, kinds, event_types))


def log_of(shop, drawn: list[tuple], cutoff: float = CUTOFF) -> list[dict]:
    return [
        {
            "user_id": user,
            "event_time": shop.start + timedelta(minutes=round((cutoff - age) * 1440)),
            "event_type": kind,
            "value": value,
            "items": items,
            "category": category,
        }
        for user, age, kind, value, items, category in drawn
    ]


def expected_aggregates(rows: list[dict], cutoff: datetime) -> dict[str, float | None]:
    """Every aggregate of one user's events before the cutoff, computed one by one."""
    fields = ("category", "items", "value")
    rows = sorted(
        (row for row in rows if row["event_time"] < cutoff),
        key=lambda row: (
            row["event_time"],
            row["event_type"],
            *((row[name] is None, row[name] if row[name] is not None else 0) for name in fields),
        ),
    )
    age = [(cutoff - row["event_time"]) / timedelta(days=1) for row in rows]
    result = {}

    def over(a, b):
        return None if a is None or not b else a / b

    for prefix, counted in (("", "events"), ("target_", "target")):
        chosen = [i for i, row in enumerate(rows) if not prefix or row["event_type"] == "purchase"]
        days = [rows[i]["event_time"].date() for i in chosen]
        first = [i for place, i in enumerate(chosen) if place == 0 or days[place] != days[place - 1]]
        gaps = [(rows[i]["event_time"].date() - rows[j]["event_time"].date()).days for j, i in pairwise(first)]
        result[f"{prefix}recency_days"] = min((age[i] for i in chosen), default=None)
        result[f"{prefix}tenure_days"] = max((age[i] for i in chosen), default=None)
        result[counted] = len(chosen)
        result[f"{prefix}active_days"] = len(first)
        for w in WINDOWS:
            result[f"{counted}_{w}d"] = sum(age[i] <= w for i in chosen)
            result[f"{prefix}active_days_{w}d"] = sum(age[i] <= w for i in first)
        ordered = sorted(gaps)
        result[f"{prefix}gap_mean"] = mean(gaps) if gaps else None
        result[f"{prefix}gap_std"] = pstdev(gaps) if gaps else None
        result[f"{prefix}gap_median"] = median(gaps) if gaps else None
        place = 0.9 * (len(gaps) - 1)
        low, high = math.floor(place), math.ceil(place)
        result[f"{prefix}gap_q90"] = ordered[low] + (place - low) * (ordered[high] - ordered[low]) if gaps else None
        result[f"{prefix}gap_max"] = max(gaps, default=None)
        result[f"{prefix}gap_last"] = gaps[-1] if gaps else None
        result[f"{prefix}gap_last3"] = mean(gaps[-3:]) if gaps else None
        result[f"{prefix}recency_over_gap"] = over(result[f"{prefix}recency_days"], result[f"{prefix}gap_mean"])
        result[f"{prefix}recency_over_gap_q90"] = over(result[f"{prefix}recency_days"], result[f"{prefix}gap_q90"])
        result[f"{counted}_per_day"] = len(chosen) / max(result["tenure_days"], 1)
        result[f"{prefix}gap_last_over_mean"] = over(result[f"{prefix}gap_last"], result[f"{prefix}gap_mean"])
    for kind in TYPES:
        chosen = [i for i, row in enumerate(rows) if row["event_type"].lower() == kind]
        result[f"type_{kind}_recency_days"] = min((age[i] for i in chosen), default=None)
        for w in WINDOWS:
            result[f"type_{kind}_{w}d"] = sum(age[i] <= w for i in chosen)
    for name in ("value", "items"):
        for suffix, window in (("", math.inf), *((f"_{w}d", w) for w in WINDOWS)):
            numbers = [row[name] for row, a in zip(rows, age, strict=True) if a <= window and row[name] is not None]
            result[f"{name}_sum{suffix}"] = sum(numbers)
            result[f"{name}_mean{suffix}"] = mean(numbers) if numbers else None
            if not suffix:
                result[f"{name}_max"] = max(numbers, default=None)
                result[f"{name}_last"] = numbers[-1] if numbers else None
    for suffix, window in (("", math.inf), ("_28d", 28), ("_84d", 84)):
        known = {row["category"] for row, a in zip(rows, age, strict=True) if a <= window}
        result[f"category_distinct{suffix}"] = len(known - {None})
    result["weekend_share"] = mean(row["event_time"].isoweekday() >= 6 for row in rows)
    result["hour_mean"] = mean(row["event_time"].hour for row in rows)
    for name in ("events", "target", "value_sum", "items_sum"):
        for short, long in ((14, 28), (28, 56), (28, 84)):
            # Sums of cents can come out as 1e-17 here and as exactly 0 there.
            a, b = (round(result[f"{name}_{w}d"], 6) for w in (short, long))
            result[f"{name}_trend_{short}_{long}"] = over(a, b)
    return result


@settings(max_examples=40, deadline=None)
@given(EVENTS, st.sampled_from([CUTOFF, CUTOFF + 0.3]))
def test_every_aggregate_equals_a_plain_computation_over_the_history(shop, drawn, day):
    cutoff = shop.start + timedelta(minutes=round(day * 1440))
    rows = log_of(shop, drawn, day)
    later = [shop.event("a", day, "purchase", value=1e6, items=5, category="w")]
    found, _, _ = shop.histories(rows + later, cutoff, kinds=KINDS, types=TYPES)
    assert found.keys() == {row["user_id"] for row in rows}
    for user, aggregates in found.items():
        expected = expected_aggregates([row for row in rows if row["user_id"] == user], cutoff)
        assert list(aggregates) == names_of(KINDS, TYPES)
        assert aggregates.keys() == expected.keys()
        for name, value in expected.items():
            assert aggregates[name] == (value if value is None else pytest.approx(value, rel=1e-9, abs=1e-6)), name


@settings(max_examples=12, deadline=None)
@given(EVENTS, st.randoms(use_true_random=False))
def test_aggregates_do_not_depend_on_the_order_of_the_rows_in_a_single_bit(shop, drawn, random):
    rows = log_of(shop, drawn)
    shuffled = random.sample(rows, len(rows))
    one, other = (shop.histories(log, shop.day(CUTOFF), kinds=KINDS, types=TYPES)[0] for log in (rows, shuffled))
    assert repr(sorted(one.items())) == repr(sorted(other.items()))


TAGGED = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        AGES,
        st.sampled_from(["purchase", "view"]),
        st.lists(st.sampled_from(["tea", "milk", "rare", None]), max_size=3),
    ),
    min_size=1,
    max_size=20,
)


def tagged(shop, drawn: list[tuple]) -> list[dict]:
    return [
        {"user_id": user, "event_time": shop.start + timedelta(minutes=round((CUTOFF - age) * 1440))}
        | {"event_type": kind, "tags": tags}
        for user, age, kind, tags in drawn
    ]


@settings(max_examples=20, deadline=None)
@given(TAGGED)
def test_own_counts_of_each_class_are_what_a_loop_over_the_events_finds(shop, drawn):
    rows = tagged(shop, drawn)
    cutoff, classes = shop.day(CUTOFF), ["milk", "tea", "never"]
    later = [shop.event("a", CUTOFF, "purchase", tags=["tea"])]
    found, _, _ = shop.histories(rows + later, cutoff, classes=("tags", classes))
    assert found.keys() == {row["user_id"] for row in rows}
    for user, aggregates in found.items():
        bought = [row for row in rows if row["user_id"] == user and row["event_type"] == "purchase"]
        for i, name in enumerate(classes):
            ages = [(cutoff - row["event_time"]) / timedelta(days=1) for row in bought if name in row["tags"]]
            assert aggregates["own"][i] == len(ages)
            assert [aggregates[f"own_{days}d"][i] for days in OWN_WINDOWS] == [
                sum(age <= days for age in ages) for days in OWN_WINDOWS
            ]
            last = aggregates["own_recency_days"][i]
            assert last == (pytest.approx(min(ages), rel=1e-6) if ages else None)


@settings(max_examples=20, deadline=None)
@given(TAGGED)
def test_distinct_values_of_a_list_are_its_members(shop, drawn):
    rows = tagged(shop, drawn)
    cutoff = shop.day(CUTOFF)
    found, _, _ = shop.histories(rows, cutoff)
    for user, aggregates in found.items():
        for suffix, days in (("", 10_000), ("_28d", 28), ("_84d", 84)):
            mine = [row for row in rows if row["user_id"] == user and cutoff - row["event_time"] <= timedelta(days)]
            assert aggregates[f"tags_distinct{suffix}"] == len({tag for row in mine for tag in row["tags"]} - {None})


def test_cents_are_summed_exactly(shop):
    rows = [shop.event("a", day, value=0.1) for day in range(10)]
    found, _, _ = shop.histories(rows, shop.day(CUTOFF))
    assert found["a"]["value_sum"] == 1.0
    assert found["a"]["value_mean"] == 0.1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
def test_numbers_that_cannot_be_summed_count_as_missing(shop, value):
    found, _, _ = shop.histories([shop.event("a", 0, value=2.0), shop.event("a", 1, value=value)], shop.day(CUTOFF))
    assert (found["a"]["value_sum"], found["a"]["value_mean"], found["a"]["value_last"]) == (2.0, 2.0, 2.0)


@pytest.mark.parametrize(
    ("kinds", "column", "name"),
    [
        ({"gap": "numeric"}, "gap", "gap_mean"),
        ({"hour": "numeric"}, "hour", "hour_mean"),
        ({"Unit price": "numeric", "unit_price": "numeric"}, "unit_price", "unit_price_sum"),
        ({"a b": "categorical", "a-b": "categorical"}, "a-b", "a_b_distinct"),
        ({"type_view": "numeric"}, "type_view", "type_view_sum_7d"),
    ],
)
def test_a_column_whose_aggregates_would_replace_others_is_refused(kinds, column, name):
    with pytest.raises(InputError, match=f"column '{column}' would give an aggregate {name}, .* another name"):
        names_of(kinds, ["view", "view_sum"])


def test_names_of_aggregates_are_unique():
    kinds = {"events": "numeric", "target": "numeric", "day": "categorical", "x y": "numeric", "recency": "numeric"}
    names = names_of(kinds, ["view", "購入", "events"])
    assert len(set(names)) == len(names)
