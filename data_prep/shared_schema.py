"""One serializer for several logs that never meet, made of counts alone.

Each log sends, of its training history, how many users have each word (only words of `min_users` users or more), how
often each event type came (of as many users), and quantiles of its numbers and of the header's aggregates. The sums are
the counts of all; by them words, types and bins are chosen as of one log. A word that is below `min_users` in a log is
not told of there: one that has few users in every log is missing, even where all logs together have enough.
"""

import math
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from data_prep import InputError
from data_prep.bins import fit_bins, quantile_edges
from data_prep.checked_json import check, is_a
from data_prep.config import DataConfig, TextField
from data_prep.connections import connect
from data_prep.event_log import count_on, most_frequent
from data_prep.events import confined, read_events
from data_prep.features import ranked_types, type_counts
from data_prep.history import combined
from data_prep.prepared import read_manifest, read_split
from data_prep.serializer import HEADER_BINS, SERIALIZER, EventSerializer
from data_prep.sql import identifier, timestamp
from data_prep.vocabulary import category_words, text_words, word_users

STEPS = 16  # quantiles that a log sends for each bin of a text, where it has users enough
NEAR = 1e-9  # of the rows, by which sums of floats may miss


def quantiles_in_order(content: object) -> bool:
    """Finite numbers in ascending order."""
    if not isinstance(content, list) or not all(isinstance(x, float) and is_a(x, float) for x in content):
        return False  # JSON may have whole numbers of any length
    return all(map(math.isfinite, content)) and content == sorted(content)


def a_count(content: object) -> bool:
    """From 0 to a trillion."""
    return isinstance(content, int) and is_a(content, int) and 0 <= content <= 10**12


NUMBERS = {"rows": a_count, "quantiles": quantiles_in_order}
# What a log sends: of numbers the rows, and values with 1/n, 2/n, ... of the rows up to them.
COUNTS = {
    "event_types": {str: a_count},
    "fields": {str: ({"users": {str: a_count}}, NUMBERS)},
    "header": {str: NUMBERS},
}


def schema_counts(data: DataConfig, folder: Path) -> dict[str, Any]:
    """What a log tells of its training history for `shared_schema`, see COUNTS.

    Args:
        data: The log.
        folder: Its prepared data, with a serializer of its own.

    Raises:
        InputError: Texts tell of attributes, the label is `which`, or the log cannot be used.
    """
    serializer, manifest = EventSerializer.from_pretrained(folder), read_manifest(folder)
    _refuse_what_is_not_shared(serializer)
    last = datetime.fromisoformat(manifest["splits"]["train"]["cutoffs"][-1])
    before, specs = serializer.past_of(last), serializer.config.fields
    with tempfile.TemporaryDirectory() as spill, connect(data.memory_limit, Path(spill)) as con:
        with confined(con, data, Path(spill)):
            read_events(con, data)
        types = type_counts(count_on(con), before, specs.get("event_type", TextField()).min_users)
        past = f"FROM log WHERE event_time < {timestamp(before)}"
        fields = {
            name: _field_counts(con, name, fitted, specs[name], past) for name, fitted in serializer.fields.items()
        }
    names = serializer.header_names()
    rows, users = read_split(folder, "train", None, names), manifest["splits"]["train"]["users"]
    columns = {name: combined(rows[name]).to_numpy(zero_copy_only=False) for name in names}
    header = {name: _quantiles(of, HEADER_BINS, users, TextField().min_users) for name, of in columns.items()}
    return {"event_types": types, "fields": fields, "header": header}


def shared_schema(own: EventSerializer, counts: Sequence[dict[str, Any]]) -> EventSerializer:
    """The serializer of all logs.

    Args:
        own: The serializer of one of them, whose settings and columns all logs have.
        counts: Of each log.
    """
    specs, fields = own.config.fields, {}
    for name, fitted in own.fields.items():
        spec, parts = specs[name], [of_log["fields"][name] for of_log in counts]
        if fitted["kind"] == "numeric":
            fields[name] = {"kind": "numeric", **pooled_bins(parts, spec.bins or 0)}
            continue
        users: Counter[str] = Counter()
        for part in parts:
            users.update({word: n for word, n in part["users"].items() if n >= spec.min_users})
        what, top = ("values", spec.top) if fitted["kind"] == "categorical" else ("words", spec.vocabulary)
        fields[name] = fitted | {what: most_frequent(users, top or 0)}
    events: Counter[str] = Counter()
    for of_log in counts:
        events.update(of_log["event_types"])
    made = EventSerializer(own.config, replace(own.features, event_types=ranked_types(events)), fields)
    for name in made.header_names():
        parts = [of_log["header"][name] for of_log in counts if name in of_log["header"]]
        made.header[name] = pooled_bins(parts, HEADER_BINS, own.config.tail_bins or 0)
    return made


def without_learned(serializer: EventSerializer) -> EventSerializer:
    """The settings and columns of a serializer alone, without a word, an edge or an event type of its log."""
    nothing = {
        "numeric": {"edges": [], "centers": [0.0]},
        "categorical": {"values": []},
        "text": {"words": []},
    }
    fields = {name: fitted | nothing[fitted["kind"]] for name, fitted in serializer.fields.items()}
    return EventSerializer(serializer.config, replace(serializer.features, event_types=[]), fields)


def read_schema(text: str) -> EventSerializer:
    """A serializer that was sent, checked as a file is; InputError where it is none."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / SERIALIZER).write_text(text, encoding="utf-8")
        return EventSerializer.from_pretrained(folder)


def check_counts(who: str, counts: object, own: EventSerializer) -> None:
    """InputError where counts that were sent are none, or of other columns than a serializer has."""
    remedy = "it is left out"
    check(Path(who), counts, COUNTS, remedy)
    assert isinstance(counts, dict), "by COUNTS"
    kinds = {name: NUMBERS if of["kind"] == "numeric" else {"users": {str: a_count}} for name, of in own.fields.items()}
    check(Path(who), counts["fields"], kinds, remedy)


def pooled_bins(parts: Sequence[dict[str, Any]], bins: int, tail: int = 0) -> dict[str, list[float]]:
    """What `fit_bins` would find in all rows, as far as each log's quantiles tell: of one log the very edges.

    Args:
        parts: See NUMBERS; each with a multiple of `bins` steps.
        bins: How many.
        tail: See `quantile_edges`.
    """
    parts = [part for part in parts if part["rows"] > 0 and part["quantiles"]]
    if not parts:
        return fit_bins(np.empty(0), bins)
    values = np.concatenate([part["quantiles"] for part in parts])
    mass = np.concatenate(
        [np.full(len(part["quantiles"]), part["rows"] / (len(part["quantiles"]) + 1)) for part in parts]
    )
    order, total = np.argsort(values, kind="stable"), sum(part["rows"] for part in parts)
    values, below = values[order], np.cumsum(mass[order])

    def quantiles(shares: np.ndarray) -> np.ndarray:
        return values[np.minimum(np.searchsorted(below, total * (shares - NEAR)), len(values) - 1)]

    edges = quantile_edges(quantiles, bins, tail)
    inside = np.split(values, np.searchsorted(values, edges))
    centers = [float(np.median(part)) if len(part) else edges[max(i - 1, 0)] for i, part in enumerate(inside)]
    return {"edges": edges, "centers": centers}


def _refuse_what_is_not_shared(serializer: EventSerializer) -> None:
    if serializer.config.attributes:
        raise InputError("attributes of users have no shared schema yet", "leave them out", setting="text.attributes")
    if serializer.features.classes:
        raise InputError(
            "the classes of a `which` label have no shared schema yet",
            "ask absent, exists or when",
            setting="task.label",
        )


def _field_counts(
    con: duckdb.DuckDBPyConnection, name: str, fitted: dict[str, Any], spec: TextField, past: str
) -> dict[str, Any]:
    column = identifier(name)
    if fitted["kind"] == "numeric":
        known = con.sql(f"SELECT user_id, CAST({column} AS DOUBLE) AS x {past} AND x IS NOT NULL").to_arrow_table()
        users = len(known["user_id"].unique())
        return _quantiles(combined(known["x"]).to_numpy(), spec.bins or 0, users, spec.min_users)
    words = text_words(column) if fitted["kind"] == "text" else category_words(column, fitted["list"])
    return {"users": word_users(con, column, words, past, spec.min_users)}


def _quantiles(values: np.ndarray, bins: int, users: int, min_users: int) -> dict[str, Any]:
    """Neither the smallest nor the largest value is among them, and a step has the rows of `min_users` users on
    average, unless the bins of a text are narrower themselves."""
    values = np.sort(values[np.isfinite(values)].astype(np.float64)) + 0.0
    n, steps = len(values), bins * min(max(users // (bins * min_users), 1), STEPS)
    places = [max(math.ceil(n * i / steps), 1) - 1 for i in range(1, steps)]
    return {"rows": n, "quantiles": values[places].tolist() if n else []}
