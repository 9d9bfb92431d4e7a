import re

from data_prep.connections import connect
from data_prep.event_log import count_on
from data_prep.events import read_events
from data_prep.features import MAX_TYPES, field_kinds, frequent_types


def test_event_types_that_differ_only_in_spelling_are_one_type(shop):
    rows = [shop.event("a", day, kind) for day, kind in enumerate(("Add to cart", "add_to_cart", "ADD-TO-CART", "!"))]
    found, _, _ = shop.histories([*rows, shop.event("a", 4, "buy 'now'")], shop.day(5))
    assert found["a"]["type_add_to_cart_7d"] == 3
    assert found["a"]["type_buy_now_7d"] == 1
    assert {name for name in found["a"] if re.fullmatch(r"type_.*_84d", name)} == {
        "type_add_to_cart_84d",
        "type_buy_now_84d",
    }


def test_only_the_most_frequent_types_of_the_training_history_are_counted_apart(shop):
    rows = [shop.event("a", 1, f"kind {i:02}") for i in range(MAX_TYPES + 2) for _ in range(2 + (i == 11))]
    rows += [shop.event("a", 3, "later")] * 50
    with connect() as con:
        read_events(con, shop.data(rows))
        count = count_on(con)
        assert frequent_types(count, shop.day(3), 1) == ["kind_11", *(f"kind_{i:02}" for i in range(MAX_TYPES - 1))]
        assert frequent_types(count, shop.day(3.1), 1)[0] == "later"


def test_a_type_of_few_users_is_not_counted_apart(shop):
    rows = [shop.event(user, 1, kind) for user in "abcde" for kind in ("view", "buy")]
    rows += [shop.event("d", 1, "visit of Mrs Miller")] * 50
    with connect() as con:
        read_events(con, shop.data(rows))
        assert frequent_types(count_on(con), shop.day(2), 5) == ["buy", "view"]


def test_a_single_type_gets_no_counts_of_its_own(shop):
    with connect() as con:
        read_events(con, shop.data([shop.event("a", 1, "view"), shop.event("a", 3, "buy")]))
        assert frequent_types(count_on(con), shop.day(2), 1) == []


def test_kinds_come_from_the_text_fields_and_else_from_the_types():
    types = {"a": "DOUBLE", "b": "DECIMAL(10,2)", "c": "BIGINT", "d": "VARCHAR", "e": "DOUBLE[]", "f": "DECIMAL(4,1)[]"}
    kinds = dict.fromkeys(types, "categorical") | {"a": "numeric", "b": "numeric"}
    assert field_kinds(types, {}) == kinds
    specs = {
        "a": {"top": 5, "bins": None, "words": None},
        "c": {"top": None, "bins": 4, "words": None},
        "d": {"top": None, "bins": None, "words": 3},
    }
    assert field_kinds(types, specs) == kinds | {"a": "categorical", "c": "numeric", "d": "text"}
