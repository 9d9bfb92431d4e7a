"""Aggregates are called in words, whatever they count."""

import re

import pytest

from data_prep.aggregates import aggregate_names
from data_prep.features import Features
from finetune.field_words import aggregate_reading, field_reading

READINGS = {
    "target_recency_days": "days since the last target event",
    "tenure_days": "days since the first event",
    "gap_q90": "days between event days, at most in nine of ten",
    "target_gap_last_over_mean": "days between the last two target event days, as a multiple of the mean",
    "target_active_days_28d": "days with a target event in the last 28 days",
    "active_days": "days with an event in all",
    "events_7d": "events in the last 7 days",
    "target": "target events in all",
    "target_per_day": "target events a day",
    "type_add_to_cart_28d": "add to carts in the last 28 days",
    "type_inquiry_84d": "inquiries in the last 84 days",
    "type_inquiry_recency_days": "days since the last inquiry",
    "value_sum_28d": "sum of value in the last 28 days",
    "unit_price_sum": "sum of unit price in all",
    "value_sum_trend_14_28": "sum of value in the last 14 days, as a share of the last 28",
    "unit_price_mean_84d": "mean unit price in the last 84 days",
    "value_max": "largest value",
    "departments_distinct": "different departments in all",
    "newest_unit_price": "unit price of the newest event",
    "newest_gap": "days between the newest event and the one before",
    "own_thing": "own thing",
    "events_5m": "events in the last 5 minutes",
    "type_cart_2h": "carts in the last 2 hours",
    "type_cart_session": "carts in this session",
    "events_session": "events in this session",
    "value_mean_session": "mean value in this session",
    "value_sum_1d": "sum of value in the last 1 day",
    "session_seconds": "seconds since the session began",
    "event_gap_seconds": "seconds between the last event and the one before",
}


@pytest.mark.parametrize(("name", "said"), READINGS.items())
def test_an_aggregate_is_called_in_words(name, said):
    assert aggregate_reading(name) == said


def test_every_aggregate_of_a_log_has_words_of_its_own():
    types = {"unit_price": "DOUBLE", "shop_name": "VARCHAR", "title": "VARCHAR"}
    kinds = {"unit_price": "numeric", "shop_name": "categorical", "title": "text"}
    names = aggregate_names(Features("event_type = 'buy'", types, kinds, ["buy", "page_view"]))
    readings = [aggregate_reading(name) for name in names]
    assert len(set(readings)) == len(names) > 80
    assert not [said for said in readings if re.search(r"[_{}]", said)]


def test_fields_of_events_and_classes_that_came_before_are_called_by_their_names():
    assert field_reading("event", "gap") == "days since the event before"
    assert field_reading("event", "unit_price") == "unit price"
    assert field_reading("header", "shop.far_north") == "shop far north before"
    assert field_reading("header", "target_28d") == "target events in the last 28 days"
