from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import history
from data_prep.config import Population, TextField
from data_prep.history import side_by_side
from data_prep.live import LiveEvents, Unusable
from data_prep.population import Whom
from tests.data_prep.histories import CUTOFF

HEADER = [
    "recency",
    "counts",
    "gaps",
    "target_gaps",
    "tenure",
    "value",
    "own",
    "category_distinct",
    "tags_distinct_84d",
]
KINDS = {"value": "numeric", "items": "numeric", "category": "categorical", "tags": "categorical", "note": "text"}
POPULATION = Population(within="28 days", where="event_type = 'purchase'")

LOG = st.lists(
    st.tuples(
        # Minutes from the cutoff on.
        st.sampled_from([-2880, -1440, -75, -6, -5, -1, 0, 1]) | st.integers(-90 * 24 * 60, 60),
        st.sampled_from(["purchase", "view", "never seen"]),
        st.none() | st.floats(-1e6, 1e6) | st.integers(-5, 5) | st.just("7.5"),
        st.sampled_from([None, 0, 2, 2.5]),
        st.sampled_from([None, "c0", "Tea", "", "never seen"]),
        st.sampled_from([None, [], ["a"], ["a", "b"], ["b", None, "b"]]),
        st.sampled_from([None, "Green tea, green", "  "]),
    ),
    min_size=1,
    max_size=7,
)


def as_json(shop, user: str, drawn: tuple) -> dict:
    minutes, kind, value, items, category, tags, note = drawn
    event = shop.event(user, CUTOFF + minutes / 1440, kind, value=value, items=items, category=category)
    fields = {name: value for name, value in (event | {"tags": tags, "note": note}).items() if value is not None}
    return fields | {"event_time": event["event_time"].isoformat()}


@pytest.fixture(scope="module", params=["words", "sentences"])
def fitted(shop, request):
    rows = [
        shop.event(user, day, kind, value=float(day), items=day % 3, category=f"c{day % 2}", tags=["a"], note="tea")
        for user in "abcdef"
        for day, kind in ((0, "purchase"), (9, "view"), (30, "purchase"))
    ]
    fields = {
        "event_type": TextField(top=5),
        "value": TextField(bins=4),
        "items": TextField(bins=3),
        "category": TextField(top=5),
        "tags": TextField(top=5),
        "note": TextField(words=2),
    }
    text = shop.text(header=HEADER, style=request.param, fields=fields, max_events=5)
    classes = "category", ["c1", "c0"]
    return shop.histories(rows, shop.day(CUTOFF), text, kinds=KINDS, classes=classes)[2]


@pytest.fixture(scope="module")
def live(fitted):
    opened = LiveEvents(fitted, "UTC", Whom(POPULATION))
    yield opened
    opened.close()


@settings(max_examples=8, deadline=None)
@given(st.lists(LOG, min_size=25, max_size=25))
def test_events_one_at_a_time_are_written_to_the_letter_as_the_batch_writes_them(shop, fitted, live, logs):
    """In 200 logs of each style, 25 at a time with users of their own; events come in any order, and at one moment."""
    moment, known, given = shop.day(CUTOFF), {}, defaultdict(list)
    for number in range(max(map(len, logs))):
        new = [as_json(shop, f"u{i}", log[number]) for i, log in enumerate(logs) if number < len(log)]
        assert live.read(new) == [event["user_id"] for event in new]
        found, again = live.histories(), []
        for event in new:
            user = event["user_id"]
            given[user].append(event)
            longer = live.append(known[user], found[user]) if user in known else found[user]
            if longer is None:
                again += given[user]
            else:
                known[user] = longer
        if again:
            live.read(again)
            known |= live.histories()
    # A list of dicts is one column of one type.
    rows = [{k: float(v) if k == "value" else v for k, v in event.items()} for log in given.values() for event in log]
    table = fitted.transform(rows, moment)
    batch = dict(zip(table["user_id"].to_pylist(), table["text"].to_pylist(), strict=True))
    users = sorted(known)
    texts, _ = live.texts(side_by_side([known[user] for user in users]), moment)
    assert {user: text for user, text in zip(users, texts, strict=True) if text is not None} == batch


def test_a_history_without_an_event_is_that_of_the_log_without_it(shop, fitted, live):
    minutes = (-3000, -2000, -2000, -1000, -1000, 5)
    drawn = [(at, "view", i, 1, f"c{i % 2}", ["a", "b"][: i % 3], None) for i, at in enumerate(minutes)]
    events = [as_json(shop, "u", one) for one in drawn]
    live.read(events[::-1])
    found = live.without_each(live.histories()["u"], 4, shop.day(CUTOFF))
    assert [time for time, _ in found] == [shop.day(CUTOFF + at / 1440) for at in (-1000, -1000, -2000, -2000)]
    for (_, text), gone in zip(found, (3, 4, 1, 2), strict=True):  # c1 after c0
        table = fitted.transform(events[:gone] + events[gone + 1 :], shop.day(CUTOFF))
        assert table["text"].to_pylist() == [text]
    live.read(events[:1])
    only = live.histories()["u"]
    assert live.without_each(only, 4, shop.day(CUTOFF)) == [(shop.day(CUTOFF - 3000 / 1440), None)]
    assert live.without_each(only, 4, shop.day(0)) == []


@settings(max_examples=8, deadline=None)
@given(LOG.filter(lambda log: len(log) > 2))
def test_each_text_without_an_event_is_that_of_the_other_events(shop, fitted, live, log):
    events = [as_json(shop, "u", one) | {"user_id": "u"} for one in log]
    live.read(events)
    history = live.histories()["u"]
    texts = sorted(text or "" for _, text in live.without_each(history, 9, shop.day(CUTOFF)))
    past = [event for event in events if event["event_time"] < shop.day(CUTOFF).isoformat()]
    expected = []
    for gone in range(len(past)):
        live.read(past[:gone] + past[gone + 1 :])
        of_others = live.histories()
        expected += live.texts(of_others["u"], shop.day(CUTOFF))[0] if of_others else [None]
    assert texts == sorted(text or "" for text in expected)


def test_a_user_is_in_the_population_by_a_matching_event_within_its_time(shop, live):
    live.read(
        [
            as_json(shop, user, (minutes, kind, *[None] * 5))
            for user, minutes, kind in (
                ("bought", -60, "purchase"),
                ("looked", -60, "view"),
                ("long ago", -60 * 24 * 60, "purchase"),
                ("to come", 1, "view"),
            )
        ]
    )
    histories = live.histories()
    texts, members = live.texts(side_by_side([*histories.values()]), shop.day(CUTOFF))
    assert dict(zip(histories, members, strict=True)) == {
        "bought": True,
        "looked": False,
        "long ago": False,
        "to come": False,
    }
    assert [text is None for text in texts] == [False, False, False, True]


def test_an_event_that_cannot_be_used_says_why_and_the_others_are_read(live):
    good = {"user_id": " u1 ", "event_time": "2024-01-02T03:04:05+02:00", "event_type": "view", "value": 1, "more": {}}
    wrong = {
        "no user": {"user_id": " "},
        "a user id that stands for nobody (nan, None, null)": {"user_id": "None"},
        "a time that does not parse": {"event_time": "yesterday"},
        "a time outside 1900-2199": {"event_time": "2999-01-01"},
        "no event type": {"event_type": ""},
        "a value of value that is no DOUBLE": {"value": "much"},
        "a value of items that is no BIGINT": {"ITEMS": [1, "x"]},
        "a value of category that is no VARCHAR": {"category": "\ud800"},
    }
    events = [good, *(good | change for change in wrong.values())]
    assert live.read(events) == ["u1", *map(Unusable, wrong)]
    assert list(live.histories()) == ["u1"]
    # What was stored is read by another model, too: what it cannot read of an event is missing.
    assert live.read(events, lenient=True) == ["u1", *map(Unusable, [*wrong][:5]), "u1", "u1", "u1"]


def test_times_without_a_zone_are_in_that_of_training(fitted, live):
    berlin = LiveEvents(fitted, "Europe/Berlin", Whom(POPULATION))
    event = {"user_id": "u", "event_time": "2024-07-01 12:00:00", "event_type": "view"}
    hours = []
    for reader in (live, berlin):
        reader.read([event, event | {"user_id": "z", "event_time": "2024-07-01 12:00:00Z"}])
        hours.append([one.columns["hour"].to_pylist() for one in reader.histories().values()])
    berlin.close()
    assert hours == [[[12], [12]], [[10], [12]]]


def test_few_events_are_written_as_many_are(shop, fitted, live, monkeypatch):
    events = [
        as_json(shop, f"u{i % 3}", (-i * 700, "view", i, i, ["c0", "Tea", None][i % 3], ["a"], "tea")) for i in range(9)
    ]
    live.read(events)
    found = []
    for few in (0, 9):
        monkeypatch.setattr(history, "FEW", few)
        found.append(live.texts(side_by_side([*live.histories().values()]), shop.day(CUTOFF)))
    assert found[0] == found[1]
