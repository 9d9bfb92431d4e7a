import re

import pytest

from data_prep.config import Label, Population, TaskConfig
from data_prep.task import plain_question, question
from tests.data_prep.tasks import refusal

# Labels and populations


@pytest.mark.parametrize("value", [2e10, -1e300, 1e-8])
def test_a_sum_that_could_not_be_exact_is_refused(shop, value):
    rows = [*shop.regulars(), shop.event("buyer", 3, "purchase", value=value), shop.event("buyer", 3, value=value)]
    text = refusal(shop, rows, shop.task(label={"kind": "sum", "field": "value"}))
    assert text.startswith("task.label.field: 1 values of value are 10^10 or more, or less than a millionth")


# What is refused


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


@pytest.mark.parametrize(
    ("label", "where", "text"),
    [
        (
            {"kind": "absent", "where": "event_type = 'basket'"},
            "event_type = 'basket'",
            "Who had a basket in the last 28 days and will have none in the next 14 days?",
        ),
        (
            {"kind": "absent", "where": "event_type = 'order'"},
            "true",
            "Who had an event in the last 28 days and will have no order in the next 14 days?",
        ),
        (
            {"kind": "exists", "where": "price > 9"},
            "true",
            "Who had an event in the last 28 days and will have an event with price > 9 in the next 14 days?",
        ),
        (
            {"kind": "sum", "where": "event_type = 'buy'", "field": "value"},
            "true",
            "Of those who had an event in the last 28 days: how much value will their buys bring in the next 14 days?",
        ),
        (
            {"kind": "count", "where": "true"},
            "true",
            "Of those who had an event in the last 28 days: how many events will they have in the next 14 days?",
        ),
        (
            {"kind": "which", "where": "event_type = 'buy'", "field": "shop"},
            "true",
            "Of those who had an event in the last 28 days: which shop will their buys have in the next 14 days?",
        ),
    ],
)
def test_the_question_is_told_without_sql_where_words_say_it(label, where, text):
    task = TaskConfig(Label(horizon="14 days", **label), Population(within="28 days", where=where), None)
    assert plain_question(task) == text
