"""A user who does not exist, to show what a history is and what the model reads of it."""

import re
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from data_prep.features import plain
from data_prep.serializer import EventSerializer
from data_prep.sql import NUMERIC

EVENTS, DAYS = 6, 45  # of the history
WHOLE = re.compile(r"U?\w*INT(EGER)?")  # a DuckDB type


def made_up_user(serializer: EventSerializer, cutoff: str, has: dict[str, list[str]] | None) -> dict[str, Any]:
    """The timeline of a user whose events are drawn from the values that the serializer knows; always the same one.

    Args:
        serializer: Fitted on the training history, so that no value is one of a single user.
        cutoff: When the user is looked at.
        has: See `made_up_fields`.

    Returns:
        cutoff; events, the oldest first, each with days (before the cutoff) and the fields that a text shows; and text,
        what the model reads.
    """
    random, end = np.random.default_rng(0), datetime.fromisoformat(cutoff)
    columns, events = list(dict.fromkeys(["event_type", *serializer.fields])), []
    for days in ages(sorted(random.integers(1, DAYS, EVENTS).tolist(), reverse=True), serializer):
        fields = made_up_fields(serializer, columns, has, random)
        events.append({"user_id": "0", "event_time": end - timedelta(days)} | fields)
    hidden = {"user_id", "event_time"} | ({"event_type"} - serializer.fields.keys())
    return {
        "cutoff": cutoff,
        "events": [
            {"days": (end - event["event_time"]).days}
            | {"fields": {name: value for name, value in event.items() if name not in hidden}}
            for event in events
        ],
        "text": serializer.transform(events, end, made_up_attributes(serializer, ["0"]))["text"][0].as_py(),
    }


def made_up_attributes(serializer: EventSerializer, users: list[str]) -> list[dict[str, Any]] | None:
    """A row of attributes for each of some users who do not exist; None where texts tell of none."""
    if not serializer.attributes:
        return None
    random, rows = np.random.default_rng(0), []
    for user in users:
        drawn = {name: _attribute(fitted, random) for name, fitted in serializer.attributes.items()}
        rows.append({"user_id": user} | drawn)
    return rows


def _attribute(fitted: dict, random: np.random.Generator) -> object:
    """A value of an attribute; None where none may be named."""
    if fitted["kind"] == "numeric":
        value = float(f"{random.choice(fitted['centers']):.4g}")
        return int(value) if fitted["type"] == "BIGINT" else value
    known = fitted.get("values", fitted.get("words", []))
    return _typed(str(random.choice(known)), fitted["type"]) if known else None


def ages(days: list[float], serializer: EventSerializer) -> list[float]:
    """How many days before the cutoff made-up events are: where cutoffs are moments of users, the last one is at it."""
    return [*days[:-1], 0] if serializer.features.moments else days


def made_up_fields(
    serializer: EventSerializer, columns: list[str], has: dict[str, list[str]] | None, random: np.random.Generator
) -> dict[str, Any]:
    """The values of a made-up event, without what events of its type do not have.

    Args:
        serializer: Knows the values.
        columns: event_type and others.
        has: Event type -> the columns that its events have, as the log's facts keep it. An event of a type that is not
            there has all columns, and so has any where older facts lack it (None).
        random: Draws the values.
    """
    drawn = {name: example_value(serializer, name, random) for name in columns}
    had = ["event_type", *(has or {}).get(str(drawn["event_type"]), columns)]
    return {name: value for name, value in drawn.items() if value is not None and name in had}


def shown_columns(serializer: EventSerializer) -> list[str]:
    """The columns that the texts tell of, but for user and time."""
    return ["event_type", *(n for n in serializer.columns() if n not in ("user_id", "event_time", "event_type"))]


def centers_of(serializer: EventSerializer, name: str) -> list[float]:
    """The middles of a number's bins, or of its mean's where it stands in the header alone."""
    fitted = serializer.fields.get(name) or serializer.header.get(f"{plain(name)}_mean") or {}
    return fitted.get("centers", [])


def words_of(serializer: EventSerializer, name: str) -> list[str]:
    """The words of a column that may be named, as texts have them."""
    fitted = serializer.fields.get(name, {})
    known = fitted.get("values") or fitted.get("words") or []
    return known or (serializer.features.event_types if name == "event_type" else _classes(serializer, name))


def _classes(serializer: EventSerializer, name: str) -> list[str]:
    """The classes of the label, as the log has them, where they are the column's values."""
    return serializer.features.classes if name == serializer.features.class_field else []


def example_value(serializer: EventSerializer, name: str, random: np.random.Generator) -> object:
    """A value of a column; None where none may be named, or where they lost their form in the vocabulary (dates)."""
    kind, centers = serializer.types[name], centers_of(serializer, name)
    known = _classes(serializer, name) or words_of(serializer, name)
    if centers:
        value = float(f"{random.choice(centers):.4g}")
        return int(value) if WHOLE.fullmatch(kind) else value
    if not known:
        return "event" if name == "event_type" else None
    if serializer.fields.get(name, {}).get("kind") == "text":
        return " ".join(random.choice(known, min(3, len(known)), replace=False))
    value = _typed(str(random.choice(known)), kind.removesuffix("[]"))
    return [value] if kind.endswith("[]") and value is not None else value


def _typed(word: str, kind: str) -> object:
    """A word of a vocabulary as a value of its column's DuckDB type."""
    if kind == "VARCHAR":
        return word
    if kind == "BOOLEAN":
        return word == "true"
    if NUMERIC.fullmatch(kind) and word.isdigit():
        return int(word) if WHOLE.fullmatch(kind) else float(word)
    return None
