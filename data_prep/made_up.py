"""Users who do not exist, to show what a history is and what the model reads of it."""

import re
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from data_prep.features import plain
from data_prep.moments import in_utc
from data_prep.population import EVERYBODY, Whom
from data_prep.serializer import EventSerializer
from data_prep.sql import NUMERIC

EVENTS, DAYS = 6, 45  # of the history of a user in a report
DRAWN = 100  # users, of whom those in the population are shown
WHOLE = re.compile(r"U?\w*INT(EGER)?")  # a DuckDB type


def made_up_user(
    serializer: EventSerializer, cutoff: str, has: dict[str, list[str]] | None, whom: Whom = EVERYBODY
) -> dict[str, Any]:
    """The timeline of the first of the `made_up_histories`.

    Args:
        serializer: Fitted on the training history, so that no value is one of a single user.
        cutoff: When the user is looked at.
        has: See `made_up_fields`.
        whom: The task asks about.

    Returns:
        cutoff; events, the oldest first, each with days (before the cutoff) and the fields that a text shows; and text,
        what the model reads.
    """
    [events], end = made_up_histories(serializer, cutoff, has, whom, 1, EVENTS, DAYS), _moment(cutoff)
    hidden = {"user_id", "event_time"} | ({"event_type"} - serializer.fields.keys())
    return {
        "cutoff": cutoff,
        "events": [
            {"days": (end - event["event_time"]).days}
            | {"fields": {name: value for name, value in event.items() if name not in hidden}}
            for event in events
        ],
        "text": serializer.transform(events, end)["text"][0].as_py(),
    }


def made_up_histories(
    serializer: EventSerializer,
    cutoff: str,
    has: dict[str, list[str]] | None,
    whom: Whom,
    users: int,
    events: int,
    days: int,
) -> list[list[dict[str, Any]]]:
    """Histories of users who do not exist, drawn from the values that the serializer knows; always the same ones.

    They are of the population where any of DRAWN users is, and the first ones that were drawn otherwise.

    Args:
        serializer: See `made_up_user`.
        cutoff: See `made_up_user`.
        has: See `made_up_fields`.
        whom: See `made_up_user`.
        users: How many.
        events: How many each of them has.
        days: How long before the cutoff the oldest one may be.

    Returns:
        The events of each user, the oldest first, with user_id, event_time in UTC without a zone, and the columns that
        the texts tell of.
    """
    random, end, columns = np.random.default_rng(0), _moment(cutoff), shown_columns(serializer)
    drawn = {}
    for user in (f"{number:04d}" for number in range(DRAWN)):
        drawn[user] = [
            {"user_id": user, "event_time": end - timedelta(minutes=int(age))}
            | made_up_fields(serializer, columns, has, random)
            for age in _ages(sorted(random.uniform(24 * 60, days * 24 * 60, events), reverse=True), serializer)
        ]
    members = serializer.transform([event for own in drawn.values() for event in own], end, whom)["user_id"].to_pylist()
    return [drawn[user] for user in dict.fromkeys([*members, *drawn])][:users]


def _moment(cutoff: str) -> datetime:
    return in_utc(datetime.fromisoformat(cutoff))


def _ages(minutes: list[float], serializer: EventSerializer) -> list[float]:
    """How long before the cutoff made-up events are: where cutoffs are moments of users, the last one is at it."""
    return [*minutes[:-1], 0] if serializer.features.moments else minutes


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
    value = _typed(_drawn_word(known, random), kind.removesuffix("[]"))
    return [value] if kind.endswith("[]") and value is not None else value


def _drawn_word(known: list[str], random: np.random.Generator) -> str:
    """One of the words, the most frequent of which stand first: the n-th is drawn 1/n times as often as the first."""
    weights = 1 / np.arange(1, len(known) + 1)
    return str(random.choice(known, p=weights / weights.sum()))


def _typed(word: str, kind: str) -> object:
    """A word of a vocabulary as a value of its column's DuckDB type."""
    if kind == "VARCHAR":
        return word
    if kind == "BOOLEAN":
        return word == "true"
    if NUMERIC.fullmatch(kind) and word.isdigit():
        return int(word) if WHOLE.fullmatch(kind) else float(word)
    return None
