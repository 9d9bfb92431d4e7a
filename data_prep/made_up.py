"""A user who does not exist, to show what a history is and what the model reads of it."""

from datetime import datetime, timedelta
from typing import Any

import numpy as np

from data_prep.serializer import EventSerializer

EVENTS, DAYS = 6, 45  # of the history


def made_up_user(serializer: EventSerializer, cutoff: str) -> dict[str, Any]:
    """The timeline of a user whose events are drawn from the values that the serializer knows; always the same one.

    Args:
        serializer: Fitted on the training history, so that no value is one of a single user.
        cutoff: When the user is looked at.

    Returns:
        cutoff; events, the oldest first, each with days (before the cutoff) and the fields that a text shows; and text,
        what the model reads.
    """
    random, end = np.random.default_rng(0), datetime.fromisoformat(cutoff)
    events = []
    for days in sorted(random.integers(1, DAYS, EVENTS).tolist(), reverse=True):
        event = {"user_id": "0", "event_time": end - timedelta(days), "event_type": "event"}
        for name, fitted in serializer.fields.items():
            value = known_value(fitted, serializer.features.types.get(name, "VARCHAR"), random)
            if value is not None:
                event[name] = value
        events.append(event)
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


def known_value(fitted: dict, kind: str, random: np.random.Generator) -> Any:
    """One of the values that a serializer knows of a field.

    Args:
        fitted: What it has learned of the field.
        kind: The field's DuckDB type.
        random: Draws the value.

    Returns:
        The value; None where it knows none, or where those of its type have lost their form in the vocabulary (dates).
    """
    if fitted["kind"] == "numeric":
        return float(random.choice(fitted["centers"]))
    known = fitted.get("values") or fitted.get("words")
    if not known:
        return None
    if fitted["kind"] == "text":
        return " ".join(random.choice(known, min(3, len(known)), replace=False).tolist())
    value = str(random.choice(known))
    if kind not in ("VARCHAR", "VARCHAR[]", "BOOLEAN") and not value.isdigit():
        return None
    return [value] if fitted["list"] else value
