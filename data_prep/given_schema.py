"""A serializer that was made before, of other events: its words and bins are taken, and none of this log."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import duckdb

from data_prep import InputError
from data_prep.attributes import MISSING, OTHER
from data_prep.config import TextConfig, settings_of
from data_prep.features import Features, plain
from data_prep.given_users import UserRows
from data_prep.phrases import bin_words, gap_words
from data_prep.serializer import SERIALIZER, EventSerializer
from data_prep.sql import identifier, timestamp

FEW = 0.5  # of the values known, below which a schema is doubtful
ENDS = ("", ":", ",", ".", ";")  # behind a word of the style sentences


def read_given_schema(text: TextConfig) -> EventSerializer | None:
    """The serializer in the folder text.schema; None where none is asked for."""
    if text.schema is None:
        return None
    if not (Path(text.schema) / SERIALIZER).is_file():
        raise InputError(
            f"{text.schema} holds no {SERIALIZER}",
            "give a folder that scripts/prepare.py wrote of other events, or a model's",
            setting="text.schema",
        )
    return EventSerializer.from_pretrained(text.schema)


def mark(schema: EventSerializer) -> str:
    """The SHA-256 of its serializer.json, as the manifest keeps it."""
    return hashlib.sha256(schema.to_json().encode()).hexdigest()


def check_schema(schema: EventSerializer, text: TextConfig, features: Features, users: UserRows | None) -> None:
    """InputError where a serializer of other logs does not suit this one; only event types may be others."""
    ours = settings_of(replace(text, schema=None))
    other = [name for name, value in settings_of(schema.config).items() if ours.get(name) != value]
    other += [name for name in ours if name not in settings_of(schema.config)]
    if other:
        raise InputError(
            f"the given schema was made with other settings of `text` ({', '.join(other)})",
            "give the same ones",
            setting="text",
        )
    for name in {**schema.features.types, **features.types}:
        there, here = (made.types.get(name, "missing") for made in (schema.features, features))
        if there != here:
            raise InputError(
                f"column '{name}' is {here} here and {there} in the given schema",
                "cast it in the source, or select the same columns",
                setting="data.sources",
            )
    theirs, own = (replace(made, types={}, event_types=[]).settings() for made in (schema.features, features))
    for name, here in own.items():
        if theirs.get(name) != here:
            raise InputError(
                f"{name} is {here} here and {theirs.get(name)} in the given schema", "ask the same question"
            )
    for name, fitted in schema.attributes.items():
        here = users.types.get(name) if users else None
        if here != fitted["type"]:
            raise InputError(
                f"attribute '{name}' is {here} here and {fitted['type']} in the given schema",
                "cast it in data.users",
                setting="data.users",
            )


def schema_doubts(
    con: duckdb.DuckDBPyConnection, schema: EventSerializer, before: datetime, known: dict[str, float]
) -> list[str]:
    """A sentence for each field of which the schema knows hardly a value.

    Args:
        con: Has the relation `rows` of events.
        schema: What texts are written with.
        before: The last training cutoff.
        known: Column -> share, see `EventSerializer.known`.
    """
    found = [
        f"the given schema knows no more than {share:.0%} of the values of '{name}', and writes the others as other"
        for name, share in known.items()
        if share < FEW
    ]
    for name, fitted in schema.fields.items():
        if not fitted.get("values", fitted.get("words", True)):
            found.append(f"the given schema knows no value of '{name}'")
        if len(fitted.get("edges", [])) < 3:  # of fewer, most values lie in the outer bins anyway
            continue
        value, (first, *_, last) = f"CAST({identifier(name)} AS DOUBLE)", fitted["edges"]
        outside = con.execute(
            f"SELECT avg(CAST({value} < {first} OR {value} >= {last} AS INT)) FROM rows "
            f"WHERE event_time < {timestamp(before)}"
        ).fetchall()[0][0]
        if outside is not None and 1 - outside < FEW / 10:
            said = f"{outside:.0%} of the values of '{name}' lie outside of the given schema's bins"
            found.append(f"{said}; is it of the same unit?")
    return found


def vocabulary(serializer: EventSerializer) -> list[str]:
    """Each word that a text can have, split at spaces; in the style sentences also with what may stand behind it."""
    features, config = serializer.features, serializer.config
    words = config.style == "words"
    texts: list[str | None] = [*gap_words(words, features.session_gap is not None)]
    for name, fitted in serializer.header.items():
        texts += [*bin_words(name, fitted, words), f"{name}=na"]
    if "own" in config.header and features.classes:
        texts += serializer.own_words()
    for name, fitted in (serializer.fields | serializer.attributes).items():
        known = [*fitted.get("values", fitted.get("words", [])), OTHER]
        if fitted["kind"] == "numeric":
            texts += bin_words(name, fitted, words)
        texts += _said(name, known, words, bare=fitted["kind"] == "text" and name in serializer.fields)
        texts += _said(name, [MISSING], words, bare=False)
    found = dict.fromkeys(word for text in texts if text for word in text.split(" "))
    return [*found] if words else [word + end for word in found for end in ENDS]


def _said(name: str, known: Sequence[str], words: bool, bare: bool) -> list[str]:
    """Values as texts show them; `bare` is without the column's name."""
    if words:
        return [*known] if bare else [f"{plain(name)}={word}" for word in known]
    return [plain(name).replace("_", " "), *(word.replace("_", " ") for word in known)]
