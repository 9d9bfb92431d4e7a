import pyarrow.parquet as pq
import pytest

from data_prep.config import TextConfig, TextField
from data_prep.features import Features
from data_prep.prepared import read_manifest
from data_prep.serializer import EventSerializer
from finetune.hub.examples import example_events, example_texts, expected_columns, lines, literal

CUTOFF = "2024-04-01"


@pytest.fixture
def serializer(trained) -> EventSerializer:
    return EventSerializer.from_pretrained(trained.run_folder / "model")


def test_example_events_are_nobodys_lie_before_the_cutoff_and_are_always_the_same(trained, serializer):
    events = example_events(serializer, CUTOFF, None)
    assert events == example_events(serializer, CUTOFF, None)
    assert {event["user_id"] for event in events} == {"made-up-1", "made-up-2"}
    assert all(event["event_time"] < CUTOFF and event["event_time"].endswith("+00:00") for event in events)
    known = {name: fitted.get("values") or fitted["centers"] for name, fitted in serializer.fields.items()}
    for event in events:
        assert event["event_type"] in known["event_type"]
        assert event["shop"] in known["shop"]
        assert event["amount"] == pytest.approx(min(known["amount"], key=lambda x: abs(x - event["amount"])), rel=1e-3)
    texts = example_texts(serializer, events, CUTOFF)
    data = trained.data_folder
    real = {text for path in data.glob("*.parquet") for text in pq.read_table(path)["text"].to_pylist()}
    assert len(texts) == 2
    assert real.isdisjoint(texts)


def test_columns_are_told_with_type_unit_and_an_example_and_hold_what_the_model_knows(serializer):
    events = example_events(serializer, CUTOFF, None)
    rows = expected_columns(serializer, events, "Europe/Berlin")
    low, *_, high = serializer.fields["amount"]["centers"]
    assert [row[:3] for row in rows] == [
        ["`user_id`", "`VARCHAR`", "whose event it is; no text tells it"],
        ["`event_time`", "`TIMESTAMP`", "when it was; without an offset, a time is taken in Europe/Berlin"],
        [
            "`event_type`",
            "`VARCHAR`",
            "one of 2: `purchase`, `view`; case and signs do not count, and others read as `other`",
        ],
        [
            "`amount`",
            "`DOUBLE`",
            f"a number in the log's own unit; the middles of its bins run from {low:g} to {high:g}",
        ],
        ["`shop`", "`VARCHAR`", "one of 2: `south`, `north`; case and signs do not count, and others read as `other`"],
    ]
    assert [row[3] for row in rows] == [f"`{events[0][row[0].strip('`')]}`" for row in rows]


def test_events_and_the_example_row_have_the_columns_of_their_type(trained, serializer):
    has = read_manifest(trained.data_folder)["log"]["has"]
    assert has == {"purchase": ["amount", "shop"], "view": ["shop"]}
    events = example_events(serializer, CUTOFF, has)
    assert {event["event_type"]: "amount" in event for event in events} == {"purchase": True, "view": False}
    for event in events:
        assert event.keys() == {"user_id", "event_time", "event_type", *has[event["event_type"]]}
    row = {name.strip("`"): example.strip("`") for name, *_, example in expected_columns(serializer, events, None)}
    assert row in [{name: str(value) for name, value in event.items()} for event in events]
    assert row["event_type"] == "purchase"


def test_each_type_of_column_has_a_value_that_the_serializer_reads_and_a_date_has_none():
    types = {
        "paid": "BOOLEAN",
        "floor": "BIGINT",
        "tags": "VARCHAR[]",
        "note": "VARCHAR",
        "born": "DATE",
        "size": "DOUBLE",
    }
    top = TextField(top=5)
    fields = dict.fromkeys(("paid", "floor", "tags", "born"), top) | {"note": TextField(words=2)}
    kinds = dict.fromkeys(("paid", "floor", "tags", "born"), "categorical") | {"note": "text", "size": "numeric"}
    category = {"kind": "categorical", "list": False}
    serializer = EventSerializer(
        TextConfig(fields=fields, header=["value"]),
        Features("shop = 'north'", types | {"shop": "VARCHAR"}, kinds | {"shop": "categorical"}, ["view"]),
        {
            "paid": category | {"values": ["true"]},
            "floor": category | {"values": ["3"]},
            "tags": category | {"list": True, "values": ["red"]},
            "born": category | {"values": ["2001_05_07"]},
            "note": {"kind": "text", "words": ["slow", "late"]},
        },
        {f"size_{what}": {"edges": [], "centers": [2.5]} for what in ("sum", "mean", "sum_28d", "sum_84d")},
    )
    events = example_events(serializer, CUTOFF, None)
    event = {name: value for name, value in events[0].items() if name not in ("user_id", "event_time")}
    assert sorted(event.pop("note").split()) == ["late", "slow"]
    # The size stands in the header alone; of a date and of the label's condition no value may be named.
    assert event == {"event_type": "view", "paid": True, "floor": 3, "tags": ["red"], "size": 2.5}
    (text, _) = example_texts(serializer, events, CUTOFF)
    assert "paid=true floor=3 tags=red" in text
    meanings = {row[0]: row[2:] for row in expected_columns(serializer, events, None)}
    assert meanings["`born`"] == ["one of 1: `2001_05_07`; case and signs do not count, and others read as `other`", ""]
    assert meanings["`tags`"][0] == "some of 1: `red`; case and signs do not count, and others read as `other`"
    assert meanings["`note`"][0] == "free text, of whose words 2 are known: `slow`, `late`"
    assert meanings["`event_time`"][0].endswith("taken in UTC")


def test_a_class_of_the_label_is_shown_as_the_log_has_it():
    features = Features("true", {"aisle": "VARCHAR"}, {"aisle": "categorical"}, [], "aisle", ["Frozen Food"])
    serializer = EventSerializer(TextConfig(fields={}, header=["own"]), features, {}, {})
    events = example_events(serializer, CUTOFF, None)
    assert (events[0]["event_type"], events[0]["aisle"]) == ("event", "Frozen Food")
    assert expected_columns(serializer, events, None)[-1][2].startswith("one of 1: `Frozen Food`;")


def test_a_literal_is_python_of_the_same_value_and_ends_no_block_of_code():
    value = {"a": 'a "quoted" ``` word\n', "b": [True, None, 2, 0.5], "c": "Müller"}
    written = literal(value)
    assert eval(written) == value
    assert "`" not in written
    assert "Müller" in written


def test_a_long_text_is_cut_into_lines_that_give_it_again():
    text = " ".join(f"word={n}-x" for n in range(100))
    parts = lines(text)
    assert "".join(parts) == text
    assert max(map(len, parts)) <= 80
