"""Events of users who do not exist, of the serializer's own bins and vocabularies; and a card's table of columns."""

import json
import textwrap
from datetime import datetime

from data_prep.made_up import centers_of, made_up_histories, shown_columns, words_of
from data_prep.population import EVERYBODY, Whom
from data_prep.serializer import EventSerializer

USERS, EVENTS, DAYS = 2, 4, 60
KNOWN = 5  # values of a category that a card names


def example_events(
    serializer: EventSerializer, cutoff: str, has: dict[str, list[str]] | None, whom: Whom = EVERYBODY
) -> list[dict]:
    """Events before the cutoff that nobody did, the oldest first; always the same ones.

    Their values are in the vocabularies, which name nothing that fewer than `min_users` users had, or the middle of a
    bin. A column of which no value is public is left out. See `made_up_histories`.
    """
    histories = made_up_histories(serializer, cutoff, has, whom, USERS, EVENTS, DAYS)
    # The offset of a time is that of UTC, so that no time zone of the training log changes it.
    return [
        event | {"user_id": f"made-up-{number}", "event_time": f"{event['event_time']:%Y-%m-%d %H:%M}+00:00"}
        for number, events in enumerate(histories, start=1)
        for event in events
    ]


def example_texts(serializer: EventSerializer, events: list[dict], cutoff: str) -> list[str]:
    """What the serializer writes of the events, a text a user."""
    return serializer.transform(events, datetime.fromisoformat(cutoff))["text"].to_pylist()


def expected_columns(serializer: EventSerializer, events: list[dict], timezone: str | None) -> list[list[str]]:
    """Of each column that a text can tell of: name, DuckDB type, what it holds, and its value in an example event.

    The event is the first of those with most columns.

    Args:
        serializer: Of the model.
        events: By `example_events`.
        timezone: Of times without an offset, as in training.
    """
    meanings = {
        "user_id": "whose event it is; no text tells it",
        "event_time": f"when it was; without an offset, a time is taken in {timezone or 'UTC'}",
    }
    columns, shown = ["user_id", "event_time", *shown_columns(serializer)], max(events, key=len)
    return [
        [
            code(name),
            code(serializer.types[name]),
            meanings.get(name) or _meaning(serializer, name),
            code(shown[name]) if name in shown else "",
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


def _meaning(serializer: EventSerializer, name: str) -> str:
    """What a column holds, as far as the serializer knows."""
    fitted, centers, known = serializer.fields.get(name, {}), centers_of(serializer, name), words_of(serializer, name)
    if centers:
        return f"a number in the log's own unit; the middles of its bins run from {centers[0]:g} to {centers[-1]:g}"
    if known:
        shown = ", ".join(map(code, known[:KNOWN])) + ", ..." * (len(known) > KNOWN)
        if fitted.get("kind") == "text":
            return f"free text, of whose words {len(known):,} are known: {shown}"
        number = f"{'some' if serializer.types[name].endswith('[]') else 'one'} of {len(known):,}"
        return f"{number}: {shown}; case and signs do not count, and others read as `other`"
    return "see the conditions and the settings below"
