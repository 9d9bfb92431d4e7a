"""EventSerializer: learned on training history only, it turns a user's history before a cutoff into text.

Layout in the style `words`: header words `name=bin`, then [SEP], then the newest events first, one group of words an
event: days since the previous event and the fields (`value=7` is the 8th bin of value).
The style `sentences` writes the same fields in natural language, with the bins' medians in place of their numbers.
"""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path
from typing import Literal

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep import InputError
from data_prep.checked_json import MayLack, Only, check, is_a, read_json
from data_prep.events import REQUIRED, connect
from data_prep.features import (
    HEADER_GROUPS,
    OWN,
    Aggregator,
    Features,
    aggregate_names,
    example_table,
    load_classes,
    plain,
)
from data_prep.history import EPOCH, History, combined, load_history, microseconds, running
from data_prep.sql import (
    check_types,
    condition,
    execute_one,
    identifier,
    lock_down,
    parse_expression,
    quote,
    refused,
    text_list,
    timestamp,
    word,
)
from data_prep.task import Population, parse_duration
from data_prep.times import NUMERIC

VERSION = 2
HEADER_BINS = 16
OWN_SHOWN = 20  # classes of a `which` label in a header
OWN_STEPS = [1, 2, 3, 4, 6, 9, 13, 19, 28, 42, 63, 95]  # how often, see `EventSerializer._own`
LARGEST = 1_000_000_000  # of any number in text; no log has more of anything
MAX_BINS = 200  # each is one term of an SQL expression, whose depth DuckDB limits

# Days as words: each day to 14, then steps of 15 % up to 400, as recency matters in proportion.
DAY_STEPS = list(range(15))
while DAY_STEPS[-1] < 400:
    DAY_STEPS.append(min(400, max(DAY_STEPS[-1] + 1, round(DAY_STEPS[-1] * 1.15))))
# Where an event begins in a text of either style: no value that a text can show looks like this.
EVENT_START = re.compile(r"(?:^|(?<= ))gap=|(?:^|(?<=\. ))(?:same day|after \d+ days?|first)(?=: |\.)")

# The step of each number of days up to 400, and at the end the number behind the last step: no days at all (-1).
STEP_OF_DAY = np.append(np.searchsorted(DAY_STEPS, np.arange(401), side="right") - 1, len(DAY_STEPS))


@dataclass
class TextField:
    """How one column of the log enters the text: one of `top`, `bins` and `words`."""

    top: int | None = None
    """Categorical (also a list of categories): the most frequent values are words, all others `other`."""
    bins: int | None = None
    """Numeric: the number of quantile bins."""
    words: int | None = None
    """Free text: at most this many of its words, the first ones that are in the vocabulary."""
    vocabulary: int = 500
    """Free text: the number of words that are known, the most frequent by users."""
    min_users: int = 5
    """A value or word seen with fewer users in the training history is not kept: no rare value enters a text."""


@dataclass
class TextConfig:
    """How a history becomes text."""

    style: Literal["words", "sentences"] = "words"
    """words: one bin, one word, for models trained from scratch. sentences: natural language, for pretrained ones."""
    header: list[str] = field(default_factory=lambda: ["recency", "counts", "gaps", "tenure", "value", "own"])
    """Aggregates on top of the text: the groups recency, counts, gaps, target_gaps, tenure, value and own (which: how
    often and when the user had each class), or names from the manifest's list of aggregates."""
    fields: dict[str, TextField] = field(default_factory=lambda: {"event_type": TextField(top=20)})
    """The columns of an event that enter the text, in this order."""
    max_events: int = 20
    """The newest events that are kept."""


def fitted_bins(content: object) -> bool:
    """Ascending edges, and as many centers as there are bins."""
    edges, centers = (content.get(key) if isinstance(content, dict) else None for key in ("edges", "centers"))
    if not all(isinstance(part, list) and all(is_a(entry, float) for entry in part) for part in (edges, centers)):
        return False
    return len(centers) == len(edges) + 1 and edges == sorted(set(edges))


def a_number_from_1_to_a_billion(content: object) -> bool:
    """Of whatever `check_fields` limits so."""
    return is_a(content, int) and 1 <= content <= LARGEST


# What serializer.json must hold; of a field its kind, and by it the setting that asks for it and what was learned.
FITTED = {
    "numeric": ("bins", fitted_bins),
    "categorical": ("top", {"list": bool, "values": [str]}),
    "text": ("words", {"words": [str]}),
}
SIZE = a_number_from_1_to_a_billion
SPEC = dict.fromkeys(("top", "bins", "words"), MayLack(SIZE)) | {"vocabulary": SIZE, "min_users": SIZE}
HOLDS = {
    "config": Only(style={"words", "sentences"}, header=[str], fields={str: Only(SPEC)}, max_events=SIZE),
    "features": Only(
        target=str,
        types={str: str},
        kinds={str: {*FITTED}},
        event_types=[str],
        class_field=MayLack(str),
        classes=MayLack([str]),
    ),
    "fields": {str: {"kind": {*FITTED}}},
    "header": {str: fitted_bins},
}


def _belonging(content: dict) -> dict:
    """What serializer.json must hold besides: each field was asked for, has been learned, and has a type."""
    fields, kinds = content["fields"], content["features"]["kinds"]
    of_classes = [content["features"].get("class_field") or ""] if content["features"].get("classes") else []
    known = {name: FITTED[of["kind"]] for name, of in fields.items()}
    return {
        "config": {"fields": {name: {setting: int} for name, (setting, _) in known.items()}},
        "features": {"types": dict.fromkeys({*fields, *kinds, *of_classes} - {"event_type"}, str)},
        "fields": dict.fromkeys(content["config"]["fields"], dict)
        | {name: learned for name, (_, learned) in known.items()},
    }


class EventSerializer:
    """Bins and vocabularies of the training history, and how a history before a cutoff becomes text with them.

    Attributes:
        config: The TextConfig it was fitted with.
        features: What the log's aggregates are; the header is made of them.
        fields: Column -> {"kind": "numeric", "edges", "centers"}, {"kind": "categorical", "list", "values"} or
            {"kind": "text", "words"}.
        header: Aggregate name -> {"edges": [...], "centers": [...]}.
    """

    def __init__(
        self, config: TextConfig, features: Features, fields: dict[str, dict], header: dict[str, dict] | None = None
    ) -> None:
        self.config, self.features, self.fields, self.header = config, features, fields, header or {}

    @classmethod
    def fit(
        cls, con: duckdb.DuckDBPyConnection, config: TextConfig, features: Features, before: datetime
    ) -> "EventSerializer":
        """Learn the bins and vocabularies of the fields; `fit_header` then learns those of the header.

        Args:
            con: Has the relation `rows` of events.
            config: What to write.
            features: What the log's aggregates are.
            before: The last training cutoff; no event at or after it is looked at.
        """
        past = f"FROM rows WHERE event_time < {timestamp(before)}"
        fields = {}
        for name, spec in config.fields.items():
            column = identifier(name)
            if spec.bins:
                values = con.sql(f"SELECT CAST({column} AS DOUBLE) AS x {past} AND x IS NOT NULL").to_arrow_table()
                fields[name] = {"kind": "numeric", **_fit_bins(combined(values["x"]).to_numpy(), spec.bins)}
            elif spec.top:
                is_list = features.types.get(name, "").endswith("]")
                values = _frequent(con, column, _normalized(column, is_list), past, spec.top, spec.min_users)
                fields[name] = {"kind": "categorical", "list": is_list, "values": values}
            else:
                words = _frequent(con, column, _words(column), past, spec.vocabulary, spec.min_users)
                fields[name] = {"kind": "text", "words": words}
        return cls(config, features, fields)

    def header_names(self) -> list[str]:
        """The aggregates that the header is made of."""
        numeric = [name for name, kind in self.features.kinds.items() if kind == "numeric"]
        return header_names(self.config.header, numeric, aggregate_names(self.features))

    def columns(self) -> list[str]:
        """The columns of the log that a text can tell of: by its words, or by the aggregates in its header."""
        names = self.header_names()
        told = ["event_time", *self.fields]
        for column, kind in self.features.kinds.items():
            of_column = tuple(f"{plain(column)}_{what}" for what in ("sum", "mean", "max", "last", "distinct"))
            if kind != "text" and any(name.startswith(of_column) for name in names):
                told.append(column)
        own = bool("own" in self.config.header and self.features.classes)
        told += [self.features.class_field] * own
        if own or any(name.startswith("target") for name in names):
            told += [name for name in ("event_type", "user_id", *self.features.types) if name in self.features.target]
        if any(name.startswith("type_") for name in names):
            told.append("event_type")
        return list(dict.fromkeys(told))

    def fit_header(self, aggregates: pa.Table) -> None:
        """Learn the bins of the header from the aggregates of the training examples."""
        self.header = {
            name: _fit_bins(combined(aggregates[name]).to_numpy(zero_copy_only=False), HEADER_BINS)
            for name in self.header_names()
        }

    def load(self, con: duckdb.DuckDBPyConnection, columns: dict[str, str]) -> History:
        """The history of the users in `rows`, with what aggregates and texts need and with `columns` (name -> SQL).

        An event's part of the text does not depend on any cutoff: it is written once, and every cutoff takes a slice.
        """
        by_value = self.features.by_value()
        for name, fitted in self.fields.items():
            if fitted["kind"] != "numeric":
                by_value[f"words:{name}"] = (name, self._words_sql(name))
        history = load_history(con, self.features.types, self.features.columns() | columns, by_value)
        history.entries = self._entries(history)
        if self.features.classes:
            load_classes(con, history, self.features)
        return history

    def _entries(self, history: History) -> pa.Array:
        """What is written of each event, the newest first."""
        words = self.config.style == "words"
        fields = []
        for name, fitted in self.fields.items():
            if fitted["kind"] == "numeric":
                values = history.columns[f"value:{name}"].to_numpy(zero_copy_only=False)
                fields.append((_bins(values, fitted["edges"])[::-1], _bin_words(name, fitted, words)))
            else:
                column = history.columns[f"words:{name}"]
                texts = [*column.dictionary.to_pylist(), None]
                fields.append((column.indices.fill_null(len(texts) - 1).to_numpy()[::-1], texts))
        gap = STEP_OF_DAY[np.minimum(history.gap_days(), 400)[::-1]]
        if words:
            space = (np.zeros(len(gap), np.int8), [""])  # behind each event
            return _written([(gap, [*(f"gap={day}" for day in DAY_STEPS), "gap=first"]), *fields, space], " ")
        gaps = ["same day", "after 1 day", *(f"after {day} days" for day in DAY_STEPS[2:]), "first"]
        entries = [_written([(gap, gaps)], ""), *([_written(fields, ", ")] if fields else [])]
        return pc.binary_join_element_wise(_join(entries, ": "), *(pa.scalar(t, pa.large_string()) for t in (". ", "")))

    def texts(
        self,
        history: History,
        cutoff: int,
        users: np.ndarray,
        aggregates: dict[str, np.ndarray],
        own: dict[str, np.ndarray],
    ) -> pa.LargeStringArray:
        """The texts of some users at a cutoff.

        Args:
            history: By `load`.
            cutoff: In microseconds since 1970.
            users: Indices of users with an event before the cutoff, of shape (rows,).
            aggregates: Name -> values of shape (rows,).
            own: By `Aggregator.own`.
        """
        high = history.first_at(cutoff)[users]
        entries = history.texts(np.maximum(high - self.config.max_events, history.start[users]), high)
        entries = entries.cast(pa.large_string())
        words = self.config.style == "words"
        header = []
        for name, fitted in self.header.items():
            written = _bin_words(name, fitted, words)
            if words:
                written[-1] = f"{name}=na"
            header.append((_bins(aggregates[name], fitted["edges"]), written))
        if "own" in self.config.header and self.features.classes:
            header += self._own(own)
        if not header:
            return entries
        return _join([_written(header, " " if words else "; "), entries], " [SEP] " if words else ". ")

    def _own(self, own: dict[str, np.ndarray]) -> list[tuple[np.ndarray, list[str | None]]]:
        """A header word for each of the classes that a user had most often and last: how often, where an event of the
        last 7, 28 and 84 days counts four, three and two times."""
        often = sum(own[name] for name in OWN[:-1])
        names = [plain(name) for name in self.features.classes]
        names = [name if names.index(name) == i else f"{name}_{i}" for i, name in enumerate(names)]
        if self.config.style == "words":
            named = f"{plain(self.features.class_field)}."
            written = [f"{named}{name}={step}" for name in names for step in range(len(OWN_STEPS))]
        else:
            written = [f"{name.replace('_', ' ')} {size}" for name in names for size in OWN_STEPS]
        ranked = np.argsort(-often, axis=1, kind="stable")[:, :OWN_SHOWN]
        columns = []
        for chosen in ranked.T:
            size = often[np.arange(len(often)), chosen]
            word = chosen * len(OWN_STEPS) + np.searchsorted(OWN_STEPS, size, side="right") - 1
            columns.append((np.where(size > 0, word, len(written)), [*written, None]))
        return columns

    def transform(self, events: pa.Table | list[dict], cutoff: datetime) -> pa.Table:
        """The text and the aggregates of every user with an event before the cutoff: by hand as in the batch.

        Args:
            events: user_id, event_time (UTC where it carries no zone), event_type and the log's fields; a field that
                is left out is missing in every event. Of a user, all events or none.
            cutoff: The moment of prediction, in UTC where it carries no zone; events from it on count for nothing.

        Returns:
            user_id, cutoff, text and the aggregates, a row a user in the order of their ids.

        Raises:
            InputError: A column is missing, unknown or not of the type that it had in training, or a value is missing.
        """
        if isinstance(events, list):  # an event may lack a field that another one has
            names = list(dict.fromkeys(name for event in events for name in event))
            events = pa.table({name: pa.array([event.get(name) for event in events]) for name in names})
        if not isinstance(events, pa.Table) or not isinstance(cutoff, datetime):
            raise InputError("transform takes a list of dicts or a pyarrow.Table, and a datetime as the cutoff")
        if cutoff.tzinfo is not None:
            cutoff = cutoff.astimezone(UTC).replace(tzinfo=None)
        types = self.types
        missing = [name for name in REQUIRED if name not in events.column_names]
        unknown = [name for name in events.column_names if name not in types]
        if missing:
            raise InputError(f"the events have no column {' and no column '.join(missing)}; name it so")
        if unknown:
            raise InputError(f"the log had no column '{unknown[0]}' in training; it had {', '.join(types)}")
        trimmed = {name: f"nullif(trim(CAST({name} AS VARCHAR)), '')" for name in ("user_id", "event_type")}
        casts = self.casts(events.column_names, trimmed)
        with connect() as con:
            con.register("given", events)
            lock_down(con)
            with refused("events", "give each column the type that it had in training"):
                execute_one(con, f"CREATE TEMP TABLE rows AS SELECT {casts} FROM given")
            incomplete = " OR ".join(f"{name} IS NULL" for name in REQUIRED)
            if con.execute(f"SELECT count(*) FROM rows WHERE {incomplete}").fetchall()[0][0]:
                raise InputError("an event has no user_id, no event_time or no event_type; leave it out")
            return self.examples(con, cutoff)

    @property
    def types(self) -> dict[str, str]:
        """Column of an event -> DuckDB type."""
        return {"user_id": "VARCHAR", "event_time": "TIMESTAMP", "event_type": "VARCHAR", **self.features.types}

    def casts(self, columns: Iterable[str], sql: dict[str, str] | None = None) -> str:
        """A SELECT list of the columns of the training log in their types, from a table that has `columns`.

        A column that the table lacks, or that held nothing in training, is NULL in every row. Names are compared
        without case, as DuckDB does.

        Args:
            columns: What the table has.
            sql: Column -> what it is, where that is not the column of the same name.
        """
        has = {name.lower() for name in columns}
        given = {name: identifier(name) if name.lower() in has else "NULL" for name in self.types} | (sql or {})
        # A column that held nothing in training has a type of its own, to which no value could be cast.
        given |= {name: "NULL" for name, kind in self.types.items() if kind == '"NULL"'}
        return ", ".join(f"CAST({given[name]} AS {kind}) AS {identifier(name)}" for name, kind in self.types.items())

    def examples(
        self, con: duckdb.DuckDBPyConnection, cutoff: datetime, population: Population | None = None
    ) -> pa.Table:
        """user_id, cutoff, text and the aggregates of the users in the relation `rows`, in the order of their ids.

        Args:
            con: Its `rows` has whole users, and the columns of `types`.
            cutoff: In UTC, without a zone; events from it on count for nothing.
            population: Who is written; by default every user with an event before the cutoff.
        """
        at = microseconds(cutoff - EPOCH)
        if population is None:
            history = self.load(con, {})
            users = np.flatnonzero(history.first_at(at) > history.start[:-1])
        else:
            history = self.load(con, {"member": condition(population.where)})
            member = running(history.columns["member"].to_numpy())
            within = microseconds(parse_duration(population.within, "task.population.within"))
            users = history.having(member, at - within, at)
        aggregator = Aggregator(history, self.features)
        aggregates, own = aggregator.at(at, users), aggregator.own(at, users)
        table = example_table(history, at, users, aggregates)
        return table.add_column(2, "text", self.texts(history, at, users, aggregates, own).cast(pa.string()))

    def known(self, con: duckdb.DuckDBPyConnection, events: str) -> dict[str, float]:
        """Column -> share of those events with a value there of which a word, or one of a list, was kept in training.

        Args:
            con: Where the events are.
            events: SQL of a relation with the columns of `types`; columns that hold no value are left out.
        """
        words = {"event_type": (_normalized("event_type", False), self.features.event_types)}
        for name, fitted in self.fields.items():
            if fitted["kind"] == "categorical":
                words[name] = (_normalized(identifier(name), fitted["list"]), fitted["values"])
            elif fitted["kind"] == "text":
                words[name] = (_words(identifier(name)), fitted["words"])
        words = {name: of for name, of in words.items() if of[1]}
        shares = ", ".join(
            f"avg(CAST(list_has_any({of}, {text_list(known)}) AS TINYINT)) FILTER (len({of}) > 0)"
            for of, known in words.values()
        )
        found = con.execute(f"SELECT {shares} FROM {events}").fetchall()[0] if words else ()
        return {name: round(share, 4) for name, share in zip(words, found, strict=True) if share is not None}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write serializer.json into the folder."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "serializer.json").write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "EventSerializer":
        """Read serializer.json from the folder; a file of another version is refused."""
        path, remedy = Path(folder) / "serializer.json", "give a folder that scripts/prepare.py or train.py wrote"
        content = read_json(path, {"version": int}, remedy)
        if content["version"] != VERSION:
            raise InputError(
                f"{path} has version {content['version']}, this EventScribe reads version {VERSION}; prepare again"
            )
        check(path, content, HOLDS, remedy)
        config, features, fields = content["config"], Features(**content["features"]), content["fields"]
        check(path, content, _belonging(content), remedy)
        config["fields"] = {name: TextField(**spec) for name, spec in config["fields"].items()}
        check(path, dict.fromkeys(aggregate_names(features)), dict.fromkeys(content["header"]), remedy)
        made = cls(TextConfig(**config), features, fields, content["header"])
        made._check(path)
        return made

    def _check(self, path: Path) -> None:
        """Refuse types and conditions that are more than that: they go into SQL."""
        with duckdb.connect() as con:
            check_types(con, f"{path}: features.types", self.features.types)
            remedy = "the file is damaged or forged; prepare again"
            parse_expression(con, f"{path}: features.target", self.features.target, remedy, lambda: self.types)
            for name, kind in self.features.kinds.items():
                if kind == "numeric" and not NUMERIC.fullmatch(self.types[name]):
                    raise InputError(
                        f"{path}: features.kinds.{name} is numeric and its type {self.types[name]}; {remedy}"
                    )
            # Over an event that says nothing, lest what is wrong here is said of a log.
            event = {"user_id": "'u'", "event_time": "TIMESTAMP '2024-01-01'", "event_type": "'e'"}
            with refused(f"{path}: features", remedy):
                execute_one(con, f"CREATE TEMP TABLE rows AS SELECT {self.casts([], event)}")
                self.load(con, {})
                self.known(con, "rows")

    def to_json(self) -> str:
        """The content of serializer.json."""
        content = {
            "version": VERSION,
            "config": asdict(self.config),
            "features": asdict(self.features),
            "fields": self.fields,
            "header": self.header,
        }
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"

    def _words_sql(self, name: str) -> str:
        """SQL of the words of a categorical or text column's value, NULL where it has none."""
        fitted, column, words = self.fields[name], identifier(name), self.config.style == "words"
        if fitted["kind"] == "text":
            known = f"list_filter({_words(column)}, lambda w: list_contains({text_list(fitted['words'])}, w))"
            # The outer list has one element; it gives `known` a name, or it would be computed again for each word.
            once = f"list_transform([{known}], lambda k: list_filter(k, lambda w, i: list_position(k, w) = i))[1]"
            return f"nullif(array_to_string({once}[1:{self.config.fields[name].words}], ' '), '')"
        if name == "event_type" and len(fitted["values"]) < 2:
            return "CAST(NULL AS VARCHAR)"  # a word that every event has says nothing
        prefix = quote(plain(name) + "=" if words else "")
        known = f"CASE WHEN list_contains({text_list(fitted['values'])}, v) THEN v ELSE 'other' END"
        shown = known if words else f"replace({known}, '_', ' ')"
        values = f"list_transform({_normalized(column, fitted['list'])}, lambda v: {prefix} || {shown})"
        return f"nullif(array_to_string({values}, {quote(' ' if words else ', ')}), '')"


def event_starts(text: str) -> list[int]:
    """Where the events of a text begin, newest first, in characters."""
    return [match.start() for match in EVENT_START.finditer(text)]


def header_names(header: list[str], numeric: list[str], aggregates: list[str]) -> list[str]:
    """The aggregates that text.header stands for, each once.

    Raises:
        InputError: A name that is neither a group nor an aggregate, or is there twice.
    """
    twice = [entry for i, entry in enumerate(header) if entry in header[:i]]
    if twice:
        raise InputError(f"text.header names '{twice[0]}' twice; name it once")
    names = []
    for entry in header:
        if entry not in HEADER_GROUPS and entry not in aggregates:
            groups = ", ".join(HEADER_GROUPS)
            raise InputError(
                f"text.header: '{entry}' is neither one of the groups {groups} nor an aggregate; see the manifest"
            )
        for name in HEADER_GROUPS.get(entry, [entry]):
            names += [name.format(field=plain(field)) for field in numeric] if "{field}" in name else [name]
    return list(dict.fromkeys(names))


def check_fields(config: TextConfig, types: dict[str, str]) -> None:
    """Refuse text.fields that the log does not have, whose type does not fit, or that a text could not tell apart.

    Args:
        config: The text section.
        types: Column -> DuckDB type.
    """
    shown = ["gap"]  # the word of the days
    for name, spec in config.fields.items():
        setting = f"text.fields.{name}"
        if name not in types:
            raise InputError(f"{setting}: the log has no such column; it has {', '.join(types)}")
        if plain(name) in shown:
            raise InputError(f"{setting}: a text already has words {plain(name)}=...; give the column another name")
        shown.append(plain(name))
        if sum(value is not None for value in (spec.top, spec.bins, spec.words)) != 1:
            raise InputError(f"{setting} needs exactly one of top (categorical), bins (numeric) and words (free text)")
        for key in ("top", "bins", "words", "vocabulary", "min_users"):
            _refuse_size(f"{setting}.{key}", getattr(spec, key))
        if spec.bins and spec.bins > MAX_BINS:
            raise InputError(f"{setting}.bins is {spec.bins}; give at most {MAX_BINS}")
        if spec.bins and not NUMERIC.fullmatch(types[name]):
            raise InputError(
                f"{setting}: bins needs numbers, but the column is {types[name]}; cast it in the source, for example "
                f"CAST({name} AS DOUBLE), or use top"
            )
        if spec.words and types[name] != "VARCHAR":
            raise InputError(f"{setting}: words needs text, but the column is {types[name]}; use bins or top")
    _refuse_size("text.max_events", config.max_events)


def _refuse_size(setting: str, size: int | None) -> None:
    if size is not None and size < 1:
        raise InputError(f"{setting} is {size}; give a number above zero")
    if size is not None and size > LARGEST:
        raise InputError(f"{setting} is {size:,}; give at most {LARGEST:,}")


def _fit_bins(values: np.ndarray, bins: int) -> dict[str, list[float]]:
    """Quantile edges and the median of each bin; bin i holds edges[i - 1] <= x < edges[i]."""
    values = np.sort(values[np.isfinite(values)].astype(np.float64)) + 0.0  # + 0.0 turns -0.0 into 0.0
    n = len(values)
    if not n:
        return {"edges": [], "centers": [0.0]}
    places = [max(math.ceil(n * i / bins), 1) - 1 for i in range(1, bins)]
    edges = sorted(set(values[places].tolist()))
    inside = np.split(values, np.searchsorted(values, edges))
    centers = [float(np.median(part)) if len(part) else edges[max(i - 1, 0)] for i, part in enumerate(inside)]
    return {"edges": edges, "centers": centers}


def _bins(values: np.ndarray, edges: list[float]) -> np.ndarray:
    """The bin of each number, and one more where there is no number."""
    bins = np.searchsorted(np.array(edges, np.float64), values, side="right")
    bins[np.isnan(values)] = len(edges) + 1
    return bins


def _bin_words(name: str, fitted: dict, words: bool) -> list[str | None]:
    """What each bin of a column is written as, and nothing where there is no number."""
    if words:
        return [f"{plain(name)}={i}" for i in range(len(fitted["edges"]) + 1)] + [None]
    return [f"{aggregate_phrase(name)} {_shown(center)}" for center in fitted["centers"]] + [None]


def _shown(center: float) -> str:
    """A bin's median in two digits, or whole."""
    return f"{center:.2g}" if abs(center) < 100 else f"{center:.0f}"


def _written(columns: list[tuple[np.ndarray, list[str | None]]], between: str) -> pa.Array:
    """Row by row the texts of several columns with something between them; null where no column has a text.

    Args:
        columns: Of each the number of every row, and the text that each number stands for or None.
        between: What stands between two texts.
    """
    # Rows mostly say the same few things: what several columns say together is written once for each combination, as
    # long as there are few of them.
    few = min(len(columns[0][0]) // 4, 1 << 16)
    groups: list[tuple[np.ndarray, pa.Array]] = []
    for number, texts in columns:
        texts = pa.array(texts, pa.large_string())
        if groups and len(groups[-1][1]) * len(texts) <= few:
            before, written = groups.pop()
            number = before.astype(np.int64) * len(texts) + number
            first, second = np.divmod(np.arange(len(written) * len(texts)), len(texts))
            texts = _join([written.take(pa.array(first)), texts.take(pa.array(second))], between)
        groups.append((number, texts))
    return _join([texts.take(pa.array(number)) for number, texts in groups], between)


def _join(columns: list[pa.Array], between: str) -> pa.Array:
    """Row by row the texts with something between them, without the nulls; null where all are null."""
    none = reduce(pc.and_, map(pc.is_null, columns)) if all(column.null_count for column in columns) else None
    if none is not None:  # pyarrow 26 drops a row of nulls
        columns = [pc.if_else(none, pa.scalar("", pa.large_string()), columns[0]), *columns[1:]]
    joined = pc.binary_join_element_wise(*columns, pa.scalar(between, pa.large_string()), null_handling="skip")
    return joined if none is None else pc.if_else(none, None, joined)


def aggregate_phrase(name: str) -> str:
    """events_28d -> events in 28 days; target_recency_days -> target recency days."""
    return re.sub(r"_(\d+)d$", r" in \1 days", name).replace("_", " ")


def _frequent(
    con: duckdb.DuckDBPyConnection, column: str, words: str, past: str, top: int, min_users: int
) -> list[str]:
    """The words of most users, ties in alphabetical order; `words` is SQL of the list of a value's words."""
    rows = con.execute(
        f"""WITH pairs AS (SELECT DISTINCT user_id, {column} {past}),
                 written AS (SELECT {column} AS value, unnest({words}) AS word
                             FROM (SELECT DISTINCT {column} FROM pairs))
            SELECT word FROM (SELECT DISTINCT user_id, word FROM pairs JOIN written ON {column} = value)
            GROUP BY word HAVING count(*) >= {min_users} ORDER BY count(*) DESC, word LIMIT {top}"""
    ).fetchall()
    return [row[0] for row in rows]


def _normalized(column: str, is_list: bool) -> str:
    """SQL of the list of a categorical column's values as single words: 'Frozen Food' -> ['frozen_food']."""
    values = f"CAST({column} AS VARCHAR[])" if is_list else f"[CAST({column} AS VARCHAR)]"
    return f"list_filter(list_transform({values}, lambda v: {word('v')}), lambda v: v <> '')"


def _words(column: str) -> str:
    """SQL of the list of a text column's words, in lower case."""
    return rf"regexp_extract_all(lower({column}), '[\pL\pM\pN]+')"
