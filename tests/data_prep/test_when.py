"""Labels of kind `when`: in which interval the first matching event lies, as far as the log tells."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.config import CutoffRange
from data_prep.labels import come_by
from data_prep.prepared import read_manifest
from tests.data_prep.tasks import examples, refusal

DAYS = (3, 7, 14)
WHEN = {"kind": "when", "horizon": None, "horizons": ["3 days", "1 week", "14d"]}
SPLITS = {"train": ["2024-02-01"], "validation": ["2024-02-15"], "test": ["2024-03-10", "2024-03-20"]}
END = datetime(2024, 3, 31)  # of the last day with an event in shop.regulars()


def when_task(shop, **changes: object):
    label = WHEN | changes.pop("label", {})
    return shop.task(label=label, population={"within": "90 days"}, **(SPLITS | changes))


def buys(shop, user: str, *days: float) -> list[dict]:
    """A user who looks on the first day, and buys."""
    return [shop.event(user, 0.1), *(shop.event(user, day, "purchase") for day in days)]


def test_the_interval_of_the_first_event_is_1_those_before_it_0_and_what_is_not_known_minus_1(shop):
    late = 1e-5
    rows = shop.regulars()
    for user, day in {"at": 31, "last": 34 - late, "second": 34, "third": 38, "after": 45, "before": 31 - late}.items():
        rows += buys(shop, user, day)
    rows += buys(shop, "both", 33, 40) + buys(shop, "censored", 88) + buys(shop, "seen", 84)
    found, _ = examples(shop, rows, when_task(shop))
    first, last = datetime(2024, 2, 1), datetime(2024, 3, 20)
    expected = {"at": [1, -1, -1], "last": [1, -1, -1], "second": [0, 1, -1], "third": [0, 0, 1]}
    expected |= {"after": [0, 0, 0], "before": [0, 0, 0], "both": [1, -1, -1], "buyer": [1, -1, -1]}
    assert {user: found["train", user, first] for user in expected} == expected
    # Of the window from March 20 the log tells two intervals; an event in the third one is not told, either.
    expected = {"buyer": [1, -1, -1], "looker": [0, 0, -1], "seen": [0, 1, -1], "censored": [0, 0, -1]}
    assert {user: found["test", user, last] for user in expected} == expected


EVENTS = st.lists(
    st.tuples(st.sampled_from("abc"), st.one_of(st.integers(0, 89), st.floats(0, 89.4)), st.booleans()), max_size=12
)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(EVENTS, EVENTS), min_size=10, max_size=10))
def test_no_event_behind_the_last_horizon_changes_a_label(shop, drawn):
    """In 200 logs, ten at a time with users of their own."""
    first, behind = datetime(2024, 2, 1), 31 + DAYS[-1]
    rows, later = shop.regulars() + [shop.event(f"{user}{i}", 0.1) for user in "abc" for i in range(10)], []
    for i, (events, others) in enumerate(drawn):
        rows += [shop.event(f"{user}{i}", day, "purchase" if buys else "view") for user, day, buys in events]
        later += [shop.event(f"{user}{i}", max(day, behind), "purchase") for user, day, _ in others]
    found = [examples(shop, some, when_task(shop))[0] for some in (rows, rows + later)]
    found = [{key: label for key, label in labels.items() if key[2] == first} for labels in found]
    assert found[0] == found[1]
    assert len(found[0]) == 2 + 3 * 10


@settings(max_examples=25, deadline=None)
@given(EVENTS)
def test_labels_and_counts_are_what_a_loop_over_the_events_finds(shop, drawn):
    rows = shop.regulars() + [shop.event(user, day, "purchase" if buys else "view") for user, day, buys in drawn]
    rows += [shop.event(user, 0.1) for user in "abc"]
    found, counts = examples(shop, rows, when_task(shop))
    for (_, user, cutoff), label in found.items():
        bought = [
            row["event_time"]
            for row in rows
            if (row["user_id"], row["event_type"]) == (user, "purchase") and row["event_time"] >= cutoff
        ]
        expected, came = [], False
        for days in DAYS:
            end = cutoff + timedelta(days=days)
            expected.append(-1 if came or end > END else int(any(time < end for time in bought)))
            came = came or any(time < end for time in bought)
        assert label == expected
    names = ("3 days", "1 week", "14 days")
    for split, of_split in counts.items():
        labels = [label for (other, _, _), label in found.items() if other == split]
        known = [[label[at] for label in labels if label[at] >= 0] for at in range(3)]
        assert of_split["intervals"] == {
            name: {"at_risk": len(column), "events": sum(column)} for name, column in zip(names, known, strict=True)
        }


def test_the_manifest_and_the_card_have_the_horizons_and_the_curve_of_kaplan_and_meier(shop):
    rows = shop.regulars() + buys(shop, "second", 35, 50, 73) + buys(shop, "later", 60)
    folder = shop.prepare(rows, when_task(shop))
    manifest, card = read_manifest(folder), (folder / "README.md").read_text()
    assert manifest["classes"] == ["3 days", "1 week", "14 days"]
    assert manifest["question"].endswith("event_type = 'purchase': within 3 days, 1 week or 14 days of it?")
    assert manifest["splits"]["train"]["intervals"]["1 week"] == {"at_risk": 3, "events": 1}
    assert "25.0% within 3 days, 50.0% within 1 week, 50.0% within 14 days" in card
    assert "-1 behind the event" in card
    assert "first within 14 days" in str(manifest["warnings"])
    assert {row["user_id"]: row["label"] for row in shop.rows(folder, "train")}["second"] == [0, 1, -1]


def test_censored_rows_do_not_bend_the_curve():
    counts = {"3 days": {"at_risk": 10, "events": 5}, "7 days": {"at_risk": 4, "events": 1}}
    assert come_by(counts) == pytest.approx({"3 days": 0.5, "7 days": 1 - 0.5 * 0.75})
    assert come_by(counts | {"7 days": {"at_risk": 0, "events": 0}}) == {"3 days": 0.5}


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        (
            {"horizons": ["7d", "3d"]},
            "task.label.horizons: [7d, 3d] are not lengths in ascending order",
        ),
        (
            {"horizons": ["7 days", "1w"]},
            "task.label.horizons: [7 days, 1w] are not lengths in ascending order",
        ),
        ({"horizons": []}, "task.label.horizons: [] are not lengths in ascending order; write [7 days, 14 days"),
        ({"horizons": ["3 days", "2 moons"]}, "task.label.horizons: '2 moons' is not a length above zero"),
        ({"horizons": None}, "task.label.horizons is missing; kind when needs it"),
        ({"horizon": "7 days"}, "task.label.horizon does not belong to kind when; give `horizons` alone"),
        (
            {"kind": "absent"},
            "task.label.horizons does not belong to kind absent; give `horizon` alone or, for several horizons at once",
        ),
        ({"kind": "absent", "horizons": None}, "task.label.horizon is missing; kind absent needs it"),
        ({"tiers": [0, 5]}, "task.label.tiers belongs to sum and count; leave it out where kind is when"),
        ({"field": "value"}, "task.label.field belongs to sum and which; leave it out where kind is when"),
        ({"where": "event_type = 'other'"}, "task.label.where: no event of the log satisfies"),
    ],
)
def test_horizons_that_make_no_question_are_refused(shop, label, reason):
    assert refusal(shop, shop.regulars(), when_task(shop, label=label)).startswith(reason)


def test_splits_are_as_far_apart_as_the_longest_horizon_and_the_first_one_ends_in_the_log(shop):
    text = refusal(shop, shop.regulars(), when_task(shop, validation=["2024-02-14"]))
    assert "last train cutoff 2024-02-01 ends on 2024-02-15, after the first validation cutoff 2024-02-14" in text
    text = refusal(shop, shop.regulars(), when_task(shop, test=["2024-03-29"]))
    assert "task.cutoffs.test: the first horizon, 3 days, of the cutoff 2024-03-29 ends on 2024-04-01" in text
    assert "choose a cutoff no later than 2024-03-28" in text
    examples(shop, shop.regulars(), when_task(shop, test=["2024-03-28"]))


def test_moments_of_users_have_intervals_from_the_microsecond_behind_them(shop):
    ends = {"train": ("2024-01-05", "2024-01-20"), "validation": ("2024-02-05", "2024-02-10")}
    ends["test"] = ("2024-03-01", "2024-03-27")
    at = {"at": "event_type = 'cart'"}
    rows = shop.regulars()
    for user, day in {"at": 10, "first": 10.5, "second": 13 + 1e-9, "edge": 13, "never": 89}.items():
        rows += [shop.event(user, cart, "cart") for cart in (10, 40, 84)] + [shop.event(user, day, "purchase")]
    rows += [shop.event("at", day, "purchase") for day in (41, 85)]
    found, _ = examples(shop, rows, when_task(shop, **{split: CutoffRange(*ends[split], **at) for split in ends}))
    labels = {(user, cutoff): label for (_, user, cutoff), label in found.items()}
    expected = {"at": [0, 0, 0], "first": [1, -1, -1], "second": [0, 1, -1], "edge": [1, -1, -1]}
    assert {user: labels[user, shop.day(10)] for user in expected} == expected
    assert labels["never", shop.day(84)] == [0, -1, -1]  # the first horizon ends on March 28, the others in April


def test_a_split_without_an_event_is_refused(shop):
    lookers = [row for row in shop.regulars() if row["user_id"] == "looker" or row["event_time"] < shop.day(31)]
    assert "all 2 examples of train have the same labels" in refusal(shop, lookers, when_task(shop))


def test_a_trigger_that_is_the_event_itself_needs_a_gap(shop):
    ends = {"train": ("2024-01-05", "2024-01-20"), "validation": ("2024-02-05", "2024-02-10")}
    ends["test"] = ("2024-03-01", "2024-03-20")
    at = {"at": "event_type = 'purchase'"}
    task = when_task(shop, **{split: CutoffRange(*bounds, **at) for split, bounds in ends.items()})
    assert "set task.cutoffs.*.gap, such as 14d" in refusal(shop, shop.regulars(), task)
