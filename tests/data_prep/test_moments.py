import re
from datetime import timedelta

import pytest

from data_prep import InputError
from data_prep.moments import parse_duration


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
