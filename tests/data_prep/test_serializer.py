import json
from dataclasses import replace
from datetime import UTC, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import InputError
from data_prep.aggregates import Aggregator, example_table
from data_prep.config import DataConfig, Source, TextConfig, TextField
from data_prep.connections import connect
from data_prep.events import read_events
from data_prep.features import OWN, Features
from data_prep.moments import EPOCH, microseconds
from data_prep.serializer import EventSerializer
from tests.data_prep.histories import CUTOFF, texts

# Texts


@pytest.fixture
def small(shop) -> list[dict]:
    return [
        shop.event("ann", 10.5, "view", value=None, category="Frozen Food"),
        shop.event("ann", 12.25, "buy", value=20.0, category=None),
        shop.event("bob", 39.9, "view", value=5.0, category="tea"),
        shop.event("bob", 39.9, "view", value=1.5, category="Tea"),
    ]


def test_the_style_words_writes_header_and_events_newest_first(shop, small):
    fields = {
        "event_type": TextField(top=5, min_users=1),
        "value": TextField(bins=2),
        "category": TextField(top=1, min_users=1),
    }
    config = TextConfig(header=["events_28d", "gap_mean", "value_sum"], fields=fields)
    # Bin i counts the edges that are not above a value: 5 is the edge of value; each header has one edge a user.
    # Both categories have one user, so that the first in the alphabet is kept.
    assert texts(shop, small, config) == {
        "ann": "events_28d=1 gap_mean=1 value_sum=2 [SEP] "
        "gap=1 event_type=buy value=1 gap=first event_type=view category=frozen_food",
        "bob": "events_28d=2 gap_mean=na value_sum=1 [SEP] "
        "gap=0 event_type=view value=1 category=other gap=first event_type=view value=0 category=other",
    }


def test_the_style_sentences_writes_natural_language(shop, small):
    fields = {
        "event_type": TextField(top=5, min_users=1),
        "value": TextField(bins=2),
        "category": TextField(top=2, min_users=1),
    }
    config = TextConfig(style="sentences", header=["events", "gap_mean", "events_28d"], fields=fields)
    assert texts(shop, small, config) == {
        "ann": "events 2; gap mean 2; events in 28 days 1. after 1 day: buy, value 12. first: view, frozen food.",
        "bob": "events 2; events in 28 days 2. same day: view, value 12, tea. first: view, value 1.5, tea.",
    }


def test_events_without_anything_to_say_still_stand_in_a_sentence(shop):
    config = TextConfig(style="sentences", header=[], fields={"event_type": TextField(top=5, min_users=1)})
    assert texts(shop, [shop.event("a", 38.5), shop.event("a", 30)], config) == {"a": "after 8 days. first."}


@pytest.mark.parametrize("style", ["words", "sentences"])
@pytest.mark.parametrize("header", [[], ["gap_mean"]])
@pytest.mark.parametrize("fields", [{}, {"category": TextField(top=1, min_users=1)}])
def test_every_user_gets_a_tidy_text_whatever_is_left_out(shop, style, header, fields):
    rows = [shop.event("a", 1, category=None), shop.event("b", 2, category=None), shop.event("b", 2, category="")]
    found = texts(shop, rows, TextConfig(style=style, header=header, fields=fields))
    assert found.keys() == {"a", "b"}
    for text in found.values():
        assert text == " ".join(text.split())
        assert not text.startswith(("[SEP]", "."))


def test_an_event_shows_the_gap_before_it(shop):
    config = TextConfig(header=["events"], fields={})
    assert texts(shop, [shop.event("a", 1), shop.event("a", 4.5)], config) == {"a": "events=1 [SEP] gap=3 gap=first"}


def test_only_the_newest_events_are_kept(shop):
    rows = [shop.event("a", day, f"kind{day}") for day in range(10)]
    config = TextConfig(header=[], fields={"event_type": TextField(top=20, min_users=1)}, max_events=3)
    kept = [word for word in texts(shop, rows, config)["a"].split() if word.startswith("event_type")]
    assert kept == ["event_type=kind9", "event_type=kind8", "event_type=kind7"]


def test_longer_times_are_written_as_400_days(shop):
    rows = [shop.event("a", -900), shop.event("a", -100)]
    assert texts(shop, rows, TextConfig(header=[], fields={}), 500) == {"a": "gap=400 gap=first"}


# Names of columns


def test_column_names_with_spaces_and_quotes_become_words(shop, tmp_path):
    path = tmp_path / "log.csv"
    path.write_text('user_id,event_time,event_type,Unit price,"it\'s ""kind"""\n1,2024-01-01,a,2.5,Red Tea\n')
    fields = {"Unit price": TextField(bins=2), 'it\'s "kind"': TextField(top=2, min_users=1)}
    kinds = {"Unit price": "numeric", 'it\'s "kind"': "categorical"}
    header = ["unit price sum", "unit price mean", "unit price sum in 28 days", "unit price sum in 84 days"]
    words = " ".join(f"{name.replace(' in ', ' ').replace(' days', 'd').replace(' ', '_')}=1" for name in header)
    for style, expected in (
        ("words", f"{words} [SEP] gap=first unit_price=1 it_s_kind=red_tea"),
        ("sentences", f"{'; '.join(f'{name} 2.5' for name in header)}. first: Unit price 2.5, red tea."),
    ):
        with connect() as con:
            log = read_events(con, DataConfig([Source(path=str(path))]))
            con.execute("CREATE TEMP VIEW rows AS FROM log")
            config = TextConfig(style=style, header=["value"], fields=fields)
            serializer = EventSerializer.fit(con, config, Features("true", log.fields, kinds, []), shop.day(2))
            history, at, users = serializer.load(con, {}), microseconds(shop.day(2) - EPOCH), np.array([0])
            aggregates = Aggregator(history, serializer.features).at(at, users)
            serializer.fit_header(example_table(history, at, users, aggregates))
            assert serializer.texts(history, at, users, aggregates, {}).to_pylist() == [expected]


# Saving


@pytest.mark.parametrize("style", ["words", "sentences"])
def test_a_saved_serializer_writes_equal_texts(shop, tmp_path, style):
    fields = {"tags": TextField(top=3, min_users=1), "note": TextField(words=2, min_users=1)}
    config = shop.text(style=style, fields=shop.text().fields | fields)
    rows = [row | {"tags": ["A b", "it's"], "note": "naïve \"tea\" '茶'"} for row in shop.regulars()]
    kinds = {"value": "numeric", "items": "numeric", "category": "categorical", "tags": "categorical", "note": "text"}
    _, written, serializer = shop.histories(rows, shop.day(CUTOFF), config, kinds=kinds)
    serializer.save_pretrained(tmp_path / "new" / "folder")
    loaded = EventSerializer.from_pretrained(tmp_path / "new" / "folder")
    assert vars(loaded) == vars(serializer)
    assert shop.histories(rows, shop.day(CUTOFF), loaded, kinds=kinds)[1] == written
    assert loaded.to_json() == serializer.to_json()


def test_a_serializer_of_another_version_is_refused(shop, tmp_path):
    _, _, serializer = shop.histories(shop.regulars(), shop.day(CUTOFF), shop.text())
    serializer.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "serializer.json").read_text())
    (tmp_path / "serializer.json").write_text(json.dumps(content | {"version": 99}))
    with pytest.raises(InputError, match=r"serializer.json has version 99, .* prepare again"):
        EventSerializer.from_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"serializer.json is missing; give a folder"):
        EventSerializer.from_pretrained(tmp_path / "nowhere")


# Leakage


FUTURE = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "buyer", "new"]),
        st.one_of(st.just(0), st.integers(0, 50 * 1440)),  # minutes from the cutoff on
        st.sampled_from(["purchase", "view", "refund"]),
        st.none() | st.floats(-1e6, 1e6),
        st.sampled_from([None, "c0", "never seen"]),
    ),
    max_size=8,
)

PAST = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        st.integers(-30 * 1440, -1),
        st.sampled_from(["purchase", "view"]),
        st.none() | st.floats(-100, 100),
        st.sampled_from([None, "c0", "c1"]),
    ),
    min_size=1,
    max_size=8,
)


def moved(shop, drawn: list[tuple], mark: object = "") -> list[dict]:
    """Drawn events, of users whose names end with the mark."""
    return [
        shop.event(f"{user}{mark}", CUTOFF + minutes / 1440, kind, value=value, category=category)
        for user, minutes, kind, value, category in drawn
    ]


@pytest.fixture(scope="module")
def fitted(shop) -> EventSerializer:
    return shop.histories(shop.regulars(), shop.day(CUTOFF), shop.text(), classes=("category", ["c1", "c0"]))[2]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(PAST, FUTURE, FUTURE), min_size=10, max_size=10))
def test_events_at_or_after_a_cutoff_never_change_a_text_or_an_aggregate(shop, fitted, drawn):
    """In 200 logs, ten at a time with users of their own."""
    found = []
    for which in (1, 2):
        rows = [shop.event("a0", 0, value=1.0, items=1, category="c0")]
        for i, log in enumerate(drawn):
            rows += moved(shop, log[0], i) + moved(shop, log[which], i)
        found.append(shop.histories(rows, shop.day(CUTOFF), fitted)[:2])
    assert found[0] == found[1]
    users = {f"{event[0]}{i}" for i, (past, _, _) in enumerate(drawn) for event in past}
    assert found[0][0].keys() == found[0][1].keys() == {"a0"} | users


@settings(max_examples=12, deadline=None)
@given(PAST, FUTURE, FUTURE)
def test_events_at_or_after_the_last_training_cutoff_never_change_the_serializer(shop, past, future, other_future):
    past = shop.regulars()[:30] + moved(shop, past)
    one, other = (
        shop.histories(past + moved(shop, later), shop.day(CUTOFF), shop.text(header=["recency", "value"]))[2].to_json()
        for later in (future, other_future)
    )
    assert one == other


def test_the_words_of_an_event_do_not_depend_on_the_cutoff(shop, fitted):
    serializer = EventSerializer(replace(fitted.config, max_events=100), fitted.features, fitted.fields)
    early, late = (texts(shop, shop.regulars(), serializer, day)["buyer"] for day in (30, 60))
    assert late.endswith(early)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(PAST, FUTURE), min_size=5, max_size=5))
def test_one_user_by_hand_gives_the_text_and_the_aggregates_of_the_batch(shop, fitted, drawn):
    rows = [shop.event("c", 0, items=1)]
    for i, (past, future) in enumerate(drawn):
        rows += moved(shop, past, i) + moved(shop, future, i)
    aggregates, written, _ = shop.histories(rows, shop.day(CUTOFF), fitted)
    for user in {f"{event[0]}{i}" for i, (past, _) in enumerate(drawn) for event in past}:
        mine = [row for row in rows if row["user_id"] == user]
        (found,) = fitted.transform(mine, shop.day(CUTOFF)).to_pylist()
        assert (found.pop("user_id"), found.pop("cutoff")) == (user, shop.day(CUTOFF))
        assert found.pop("text") == written[user]
        assert found == {name: value for name, value in aggregates[user].items() if name not in OWN}


def test_events_by_hand_are_refused_where_they_do_not_fit(shop, fitted):
    with pytest.raises(InputError, match="the events have no column event_time and no column event_type; name it so"):
        fitted.transform([{"user_id": "a"}], shop.day(CUTOFF))
    with pytest.raises(InputError, match=r"events: Could not convert .* give each column the type"):
        fitted.transform([shop.event("a", 1, value="dear")], shop.day(CUTOFF))


def test_fields_that_only_some_events_by_hand_have_count_in_any_order(shop, fitted):
    events = [shop.event("a", 1), shop.event("a", 2, " purchase ", value=3.0)]
    found = [fitted.transform(given, shop.day(CUTOFF)).to_pylist() for given in (events, events[::-1])]
    assert repr(found[0]) == repr(found[1])
    assert (found[0][0]["value_sum"], found[0][0]["target"]) == (3.0, 1)
    aware = shop.day(CUTOFF).replace(tzinfo=timezone(timedelta(hours=2)))
    assert fitted.transform(events, aware)["cutoff"].to_pylist() == [shop.day(CUTOFF) - timedelta(hours=2)]


def test_a_time_by_hand_keeps_its_offset_as_in_the_batch(shop, fitted):
    cutoff = shop.day(CUTOFF)
    before, after = cutoff - timedelta(hours=1), cutoff + timedelta(hours=1)
    plain = fitted.transform([shop.event("a", 1) | {"event_time": before}], cutoff).to_pylist()
    ahead = before.replace(tzinfo=UTC).astimezone(timezone(timedelta(hours=5)))
    for written in (str(before), f"{before:%Y-%m-%dT%H:%M:%S}Z", ahead.isoformat()):
        assert fitted.transform([shop.event("a", 1) | {"event_time": written}], cutoff).to_pylist() == plain, written
    # Its clock says an earlier hour than the cutoff's, and it is after it.
    late = after.replace(tzinfo=UTC).astimezone(timezone(timedelta(hours=-5))).isoformat()
    assert len(fitted.transform([shop.event("a", 1) | {"event_time": late}], cutoff)) == 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"event_time": None}, "an event has no user_id, no event_time in ISO 8601 or no event_type; leave it out"),
        ({"event_time": "2024-01-01 09:00:00 BST"}, r"no event_time in ISO 8601"),
        ({"event_time": "01/02/2024"}, r"no event_time in ISO 8601"),
        ({"user_id": " "}, "an event has no user_id"),
        ({"Value": 3}, "the log had no column 'Value' in training; it had user_id, event_time, event_type, value"),
    ],
)
def test_events_by_hand_without_a_user_a_time_or_with_another_column_are_refused(shop, fitted, change, reason):
    with pytest.raises(InputError, match=reason):
        fitted.transform([shop.event("a", 1) | change], shop.day(CUTOFF))
    with pytest.raises(InputError, match=r"a list of dicts or a pyarrow\.Table, and a datetime"):
        fitted.transform([shop.event("a", 1)], "2024-01-01")


def test_the_columns_that_a_text_can_tell_of(shop):
    def told(**config: object) -> list[str]:
        return shop.histories(shop.regulars(), shop.day(CUTOFF), shop.text(**config))[2].columns()

    fields = {"event_type": TextField(top=3, min_users=1)}
    assert told(header=[], fields=fields) == ["event_time", "event_type"]
    assert told(header=["value"], fields=fields) == ["event_time", "event_type", "value"]
    assert told(header=["category_distinct_28d"], fields={}) == ["event_time", "category"]
    assert told(header=["target_28d"], fields={}) == ["event_time", "event_type"]
    config = shop.text(header=["own"], fields={})
    of_classes = shop.histories(shop.regulars(), shop.day(CUTOFF), config, classes=("category", ["c1"]))[2]
    assert of_classes.columns() == ["event_time", "category", "event_type"]


def test_the_header_tells_of_the_classes_that_a_user_had_most_often(shop):
    rows = [shop.event("a", day, "purchase", category="Soft Drinks") for day in (70, 80, 96)]
    rows += [shop.event("a", day, "purchase", category="beer") for day in (90, 91)]
    rows += [shop.event("a", 95, "view", category="wine"), shop.event("b", 99, "purchase", category="other")]
    classes = ("category", ["wine", "beer", "Soft Drinks", "soft-drinks"])

    def written(style: str) -> dict[str, str]:
        config = TextConfig(style=style, header=["own"], fields={}, max_events=1)
        return shop.histories(rows, shop.day(100), config, classes=classes)[1]

    found = written("words")
    assert found["b"] == "gap=first"
    # Three purchases, of which one is of the last 7 days and two of the last 28: 3 + 3 + 2 + 1.
    assert found["a"] == "category.soft_drinks=5 category.beer=4 [SEP] gap=1"
    found = written("sentences")
    assert found["a"] == "soft drinks 9; beer 6. after 1 day."


def test_users_by_hand_without_a_history_get_no_row(shop, fitted):
    assert len(fitted.transform([shop.event("a", CUTOFF)], shop.day(CUTOFF))) == 0
