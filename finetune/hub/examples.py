"""Events of users who do not exist, of the serializer's own bins and vocabularies; and a card's table of columns."""

import json
import re
import textwrap
from datetime import datetime, timedelta

import numpy as np

from data_prep.features import plain
from data_prep.moments import in_utc
from data_prep.serializer import EventSerializer
from data_prep.sql import NUMERIC

USERS, EVENTS, DAYS = 2, 4, 60
KNOWN = 5  # values of a category that a card names
WHOLE = re.compile(r"U?\w*INT(EGER)?")  # a DuckDB type


def example_events(serializer: EventSerializer, cutoff: str) -> list[dict]:
    """Events before the cutoff that nobody did, the oldest first; always the same ones.

    Their values are in the vocabularies, which name nothing that fewer than `min_users` users had, or the middle of a
    bin. A column of which no value is public is left out.
    """
    random, end, events = np.random.default_rng(0), in_utc(datetime.fromisoformat(cutoff)), []
    for user in range(USERS):
        for days in sorted(random.uniform(0, DAYS, EVENTS), reverse=True):
            event: dict[str, object] = {"user_id": f"made-up-{user + 1}"}
            # Its offset is that of UTC, so that no time zone of the training log changes it.
            event["event_time"] = f"{end - timedelta(float(days)):%Y-%m-%d %H:%M}+00:00"
            for name in _columns(serializer):
                value = _example_value(serializer, name, random)
                if value is not None:
                    event[name] = value
            events.append(event)
    return events


def example_texts(serializer: EventSerializer, events: list[dict], cutoff: str) -> list[str]:
    """What the serializer writes of the events, a text a user."""
    return serializer.transform(events, datetime.fromisoformat(cutoff))["text"].to_pylist()


def expected_columns(serializer: EventSerializer, events: list[dict], timezone: str | None) -> list[list[str]]:
    """Of each column that a text can tell of: name, DuckDB type, what it holds, and its value in the first event.

    Args:
        serializer: Of the model.
        events: By `example_events`.
        timezone: Of times without an offset, as in training.
    """
    meanings = {
        "user_id": "whose event it is; no text tells it",
        "event_time": f"when it was; without an offset, a time is taken in {timezone or 'UTC'}",
    }
    columns = ["user_id", "event_time", *_columns(serializer)]
    return [
        [
            code(name),
            code(serializer.types[name]),
            meanings.get(name) or _meaning(serializer, name),
            code(events[0][name]) if name in events[0] else "",
        ]
        for name in columns
    ]


def code(value: object) -> str:
    """A value between backticks, which it must not end itself."""
    return f"`{str(value).replace('`', chr(39))}`"


def literal(value: object) -> str:
    """Python that gives the value, without a backtick, which would end a block of code in Markdown."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("`", r"\u0060")
    if isinstance(value, dict):
        return "{" + ", ".join(f"{literal(name)}: {literal(entry)}" for name, entry in value.items()) + "}"
    return f"[{', '.join(map(literal, value))}]" if isinstance(value, list) else repr(value)


def lines(text: str) -> list[str]:
    """The text in parts that fit into a line, none of which begins or ends elsewhere than at a space."""
    return textwrap.wrap(text, 80, drop_whitespace=False, break_long_words=False, break_on_hyphens=False)


def _columns(serializer: EventSerializer) -> list[str]:
    """The columns that the texts tell of, but for user and time."""
    return ["event_type", *(n for n in serializer.columns() if n not in ("user_id", "event_time", "event_type"))]


def _meaning(serializer: EventSerializer, name: str) -> str:
    """What a column holds, as far as the serializer knows."""
    fitted, centers, known = serializer.fields.get(name, {}), _centers(serializer, name), _words(serializer, name)
    if centers:
        return f"a number in the log's own unit; the middles of its bins run from {centers[0]:g} to {centers[-1]:g}"
    if known:
        shown = ", ".join(map(code, known[:KNOWN])) + ", ..." * (len(known) > KNOWN)
        if fitted.get("kind") == "text":
            return f"free text, of whose words {len(known):,} are known: {shown}"
        number = f"{'some' if serializer.types[name].endswith('[]') else 'one'} of {len(known):,}"
        return f"{number}: {shown}; case and signs do not count, and others read as `other`"
    return "see the conditions and the settings below"


def _centers(serializer: EventSerializer, name: str) -> list[float]:
    """The middles of a number's bins, or of its mean's where it stands in the header alone."""
    fitted = serializer.fields.get(name) or serializer.header.get(f"{plain(name)}_mean") or {}
    return fitted.get("centers", [])


def _words(serializer: EventSerializer, name: str) -> list[str]:
    """The words of a column that may be named, as texts have them."""
    fitted = serializer.fields.get(name, {})
    known = fitted.get("values") or fitted.get("words") or []
    return known or (serializer.features.event_types if name == "event_type" else _classes(serializer, name))


def _classes(serializer: EventSerializer, name: str) -> list[str]:
    """The classes of the label, as the log has them, where they are the column's values."""
    return serializer.features.classes if name == serializer.features.class_field else []


def _example_value(serializer: EventSerializer, name: str, random: np.random.Generator) -> object:
    """A value of a column; None where none may be named, or where they lost their form in the vocabulary (dates)."""
    kind, centers = serializer.types[name], _centers(serializer, name)
    known = _classes(serializer, name) or _words(serializer, name)
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
