"""What a field of an event, or an aggregate of a history, is called in plain language."""

import re

from data_prep.event_words import plural
from data_prep.moments import in_words

# Aggregates by the pattern of their name, of which the first that fits holds: {0} and {1} are its groups, {many} is the
# plural of the first; a window is said in words. Where a name of BOTH begins with target_, {of} and {an} say so. An
# event day is one that has an event.
WINDOW = r"(\d+[mhd])"
BOTH = {
    r"recency_days": "days since the last {of}event",
    r"tenure_days": "days since the first {of}event",
    r"active_days": "days with {an}event in all",
    rf"active_days_{WINDOW}": "days with {an}event in the last {0}",
    r"gap_mean": "days between {of}event days, mean",
    r"gap_std": "days between {of}event days, deviation",
    r"gap_median": "days between {of}event days, median",
    r"gap_q90": "days between {of}event days, at most in nine of ten",
    r"gap_max": "days between {of}event days, most",
    r"gap_last": "days between the last two {of}event days",
    r"gap_last3": "days between {of}event days, mean of the last three",
    r"gap_last_over_mean": "days between the last two {of}event days, as a multiple of the mean",
    r"recency_over_gap": "days since the last {of}event, as a multiple of the mean between {of}event days",
    r"recency_over_gap_q90": "days since the last {of}event, as a multiple of what nine in ten gaps are below",
}
COUNTED = r"(events|target|.+_sum)"
OTHERS = {
    r"event_gap_seconds": "seconds between the last event and the one before",
    r"session_seconds": "seconds since the session began",
    r"sessions": "sessions so far",
    r"weekend_share": "share of events at weekends",
    r"hour_mean": "hour of events, mean",
    r"text_events": "events in a text",
    r"newest_gap": "days between the newest event and the one before",
    r"newest_(.+)": "{0} of the newest event",
    rf"{COUNTED}": "{0} in all",
    rf"{COUNTED}_{WINDOW}": "{0} in the last {1}",
    rf"{COUNTED}_session": "{0} in this session",
    rf"{COUNTED}_per_day": "{0} a day",
    rf"{COUNTED}_trend_(\d+)_(\d+)": "{0} in the last {1} days, as a share of the last {2}",
    r"type_(.+)_recency_days": "days since the last {0}",
    rf"type_(.+)_{WINDOW}": "{many} in the last {1}",
    r"type_(.+)_session": "{many} in this session",
    r"(.+)_max": "largest {0}",
    r"(.+)_last": "last known {0}",
    r"(.+)_mean": "mean {0}",
    rf"(.+)_mean_{WINDOW}": "mean {0} in the last {1}",
    r"(.+)_mean_session": "mean {0} in this session",
    r"(.+)_distinct": "different {0} in all",
    rf"(.+)_distinct_{WINDOW}": "different {0} in the last {1}",
    r"(.+)_distinct_session": "different {0} in this session",
}


def field_reading(part: str, field: str) -> str:
    """What a field of a text is called.

    Args:
        part: Where it stands: event, or header.
        field: Of an event the column, or `gap`; of the header an aggregate, or a class that came before (shop.north).
    """
    if part == "event":
        return "days since the event before" if field == "gap" else _spaced(field)
    return f"{_spaced(field)} before" if "." in field else aggregate_reading(field)


def aggregate_reading(name: str) -> str:
    """What an aggregate is called, or an input of `drift`: value_sum_28d -> sum of value in the last 28 days."""
    if "=" in name:  # of an attribute's value
        return _spaced(name).replace("=", " ")
    alone = name.removeprefix("target_")
    of, an = ("", "an ") if alone == name else ("target ", "a target ")
    for known, patterns in ((alone, BOTH), (name, OTHERS)):
        for pattern, said in patterns.items():
            if found := re.fullmatch(pattern, known):
                groups = [_counted(group) for group in found.groups()]
                return said.format(*groups, many=plural(groups[0]) if groups else "", of=of, an=an)
    return _spaced(name)


def _counted(name: str) -> str:
    """target -> target events, value_sum -> sum of value, 28d -> 28 days."""
    if re.fullmatch(WINDOW, name):
        return in_words(name)
    column = name.removesuffix("_sum")
    return "target events" if name == "target" else _spaced(name) if column == name else f"sum of {_spaced(column)}"


def _spaced(name: str) -> str:
    return name.replace(".", " ").replace("_", " ")
