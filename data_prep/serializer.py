"""EventSerializer: learned on training history only, it turns a user's history before a cutoff into text.

Layout in the style `words`: header words `name=bin`, then [SEP], then the newest events first, one group of words an
event: days since the previous event and the fields (`value=7` is the 8th bin of value).
The style `sentences` writes the same fields in natural language, with the bins' medians in place of their numbers.
"""

import json
from collections.abc import Iterable
from datetime import datetime
from functools import reduce
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from data_prep import InputError
from data_prep.aggregates import Aggregator, aggregate_names, example_table
from data_prep.attributes import RELATION, Attributes, column_names
from data_prep.bins import bin_numbers, fit_bins
from data_prep.checked_json import check, read_json
from data_prep.config import DataConfig, TextConfig, TextField, settings_of
from data_prep.connections import connect, lock_down
from data_prep.event_log import REQUIRED, event_table
from data_prep.expressions import check_types, execute_one, parse_expression
from data_prep.features import OWN, Features, load_classes, plain
from data_prep.given_users import no_users
from data_prep.history import History, Moment, combined, load_history
from data_prep.moments import EPOCH, INSTANT, in_utc, microseconds
from data_prep.phrases import bin_words, end_rows, gap_texts, join_rows, write_rows
from data_prep.population import EVERYBODY, Members, Whom
from data_prep.serializer_json import HOLDS, belonging
from data_prep.served_users import give_users
from data_prep.sql import NUMERIC, column_types, identifier, refused, text_list, timestamp
from data_prep.text_settings import header_names
from data_prep.times import time_sql
from data_prep.vocabulary import category_words, fit_columns, text_words, value_words

SERIALIZER = "serializer.json"
VERSION = 2
HEADER_BINS = 16
OWN_SHOWN = 20  # classes of a `which` label in a header
OWN_STEPS = [1, 2, 3, 4, 6, 9, 13, 19, 28, 42, 63, 95]  # how often, see `EventSerializer._own`


class EventSerializer:
    """Bins and vocabularies of the training history, and how a history before a cutoff becomes text with them.

    Attributes:
        config: The TextConfig it was fitted with.
        features: What the log's aggregates are; the header is made of them.
        fields: Column -> {"kind": "numeric", "edges", "centers"}, {"kind": "categorical", "list", "values"} or
            {"kind": "text", "words"}.
        header: Aggregate name -> {"edges": [...], "centers": [...]}.
        attributes: Column of data.users -> the same as of `fields`, and under "type" one of `given_users.KINDS`.
    """

    def __init__(
        self,
        config: TextConfig,
        features: Features,
        fields: dict[str, dict],
        header: dict[str, dict] | None = None,
        attributes: dict[str, dict] | None = None,
    ) -> None:
        self.config, self.features, self.fields = config, features, fields
        self.header, self.attributes = header or {}, attributes or {}

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
        fields = fit_columns(con, config.fields, features.types, past)
        return cls(config, features, fields)

    def header_names(self) -> list[str]:
        """The aggregates that the header is made of."""
        numeric = [name for name, kind in self.features.kinds.items() if kind == "numeric"]
        return header_names(self.config.header, numeric, aggregate_names(self.features))

    def aggregate_names(self) -> list[str]:
        """All aggregates, those of attributes at the end."""
        own = [column for name, fitted in self.attributes.items() for column in column_names(name, fitted)]
        return aggregate_names(self.features) + own

    def columns(self) -> list[str]:
        """The columns of the log that a text can tell of: by its words, or by the aggregates in its header."""
        names = self.header_names()
        shown = ["event_time", *self.fields]
        for column, kind in self.features.kinds.items():
            of_column = tuple(f"{plain(column)}_{what}" for what in ("sum", "mean", "max", "last", "distinct"))
            if kind != "text" and any(name.startswith(of_column) for name in names):
                shown.append(column)
        own = bool("own" in self.config.header and self.features.classes)
        if own and self.features.class_field is not None:
            shown.append(self.features.class_field)
        if own or any(name.startswith("target") for name in names):
            shown += [name for name in ("event_type", "user_id", *self.features.types) if name in self.features.target]
        if any(name.startswith("type_") for name in names):
            shown.append("event_type")
        return list(dict.fromkeys(shown))

    def fit_header(self, aggregates: pa.Table) -> None:
        """Learn the bins of the header from the aggregates of the training examples."""
        columns = {name: combined(aggregates[name]).to_numpy(zero_copy_only=False) for name in self.header_names()}
        tail = self.config.tail_bins or 0
        self.header = {name: fit_bins(values, HEADER_BINS, tail) for name, values in columns.items()}

    def load(self, con: duckdb.DuckDBPyConnection, columns: dict[str, str]) -> History:
        """The history of the users in `rows`, with what aggregates and texts need and with `columns` (name -> SQL).

        An event's part of the text does not depend on any cutoff: it is written once, and every cutoff takes a slice.

        Raises:
            InputError: Texts tell of attributes, and the connection has no relation `attributes.RELATION`.
        """
        by_value = self.features.by_value()
        for name, fitted in self.fields.items():
            if fitted["kind"] != "numeric":
                spec, words = self.config.fields[name], self.config.style == "words"
                by_value[f"words:{name}"] = (name, value_words(name, fitted, spec, words))
        history = load_history(con, self.features.types, self.features.columns() | columns, by_value)
        history.entries = self.entries(history)
        if self.features.classes:
            load_classes(con, history, self.features)
        history.attributes = Attributes.written(con, history.users, self.config.attributes, self.attributes)
        return history

    def entries(self, history: History) -> pa.Array:
        """What is written of each event, the newest first."""
        words = self.config.style == "words"
        fields = []
        for name, fitted in self.fields.items():
            if fitted["kind"] == "numeric":
                values = history.columns[f"value:{name}"].to_numpy(zero_copy_only=False)
                fields.append((bin_numbers(values, fitted["edges"])[::-1], bin_words(name, fitted, words)))
            else:
                column = history.columns[f"words:{name}"]
                texts = [*column.dictionary.to_pylist(), None]
                fields.append((column.indices.fill_null(len(texts) - 1).to_numpy()[::-1], texts))
        gap, gaps = gap_texts(history, words, self.features.session_gap is not None)
        if words:
            space = (np.zeros(len(gap), np.int8), [""])  # behind each event
            return write_rows([(gap, gaps), *fields, space], " ")
        entries = [write_rows([(gap, gaps)], ""), *([write_rows(fields, ", ")] if fields else [])]
        return end_rows(join_rows(entries, ": "), ". ")

    def texts(
        self,
        history: History,
        cutoff: Moment,
        users: np.ndarray,
        aggregates: dict[str, np.ndarray],
        own: dict[str, np.ndarray],
    ) -> pa.LargeStringArray:
        """The texts of some users at a cutoff.

        Args:
            history: By `load`.
            cutoff: As `Aggregator.at` takes it.
            users: Indices of users with an event before the cutoff, of shape (rows,).
            aggregates: Name -> values of shape (rows,).
            own: By `Aggregator.own`.
        """
        high = history.first_at(cutoff, users)
        entries = history.texts(np.maximum(high - self.config.max_events, history.start[users]), high)
        entries = entries.cast(pa.large_string())
        words = self.config.style == "words"
        header = []
        for name, fitted in self.header.items():
            written = bin_words(name, fitted, words)
            if words:
                written[-1] = f"{name}=na"
            header.append((bin_numbers(aggregates[name], fitted["edges"]), written))
        if "own" in self.config.header and self.features.classes:
            header += self._own(own)
        if history.attributes:
            header += history.attributes.header(cutoff - self.features.moments, users, words)
        if not header:
            return entries
        return join_rows([write_rows(header, " " if words else "; "), entries], " [SEP] " if words else ". ")

    def _own(self, own: dict[str, np.ndarray]) -> list[tuple[np.ndarray, list[str | None]]]:
        """A header word for each of the classes that a user had most often and last: how often, where an event of the
        last 7, 28 and 84 days counts four, three and two times."""
        often, written = reduce(np.add, (own[name] for name in OWN[:-1])), self.own_words()
        ranked = np.argsort(-often, axis=1, kind="stable")[:, :OWN_SHOWN]
        columns = []
        for chosen in ranked.T:
            size = often[np.arange(len(often)), chosen]
            word = chosen * len(OWN_STEPS) + np.searchsorted(OWN_STEPS, size, side="right") - 1
            columns.append((np.where(size > 0, word, len(written)), [*written, None]))
        return columns

    def own_words(self) -> list[str]:
        """What a header can say of the classes of a `which` label: of each class every step."""
        names = self.own_names()
        if self.config.style == "words":
            return [f"{name}={step}" for name in names for step in range(len(OWN_STEPS))]
        shown = [name.partition(".")[2].replace("_", " ") for name in names]
        return [f"{name} {size}" for name in shown for size in OWN_STEPS]

    def own_names(self) -> list[str]:
        """What each class of a `which` label is called in a header: department.fish."""
        names = [plain(name) for name in self.features.classes]
        names = [name if names.index(name) == i else f"{name}_{i}" for i, name in enumerate(names)]
        return [f"{plain(self.features.class_field or '')}.{name}" for name in names]

    def transform(
        self,
        events: pa.Table | list[dict],
        cutoff: datetime,
        whom: Whom = EVERYBODY,
        users: pa.Table | list[dict] | None = None,
    ) -> pa.Table:
        """The text and the aggregates of every user with an event before the cutoff: by hand as in the batch.

        Args:
            events: user_id, event_time (UTC where it carries no zone), event_type and the log's fields; a field that
                is left out is missing in every event. Of a user, all events or none.
            cutoff: The moment of prediction, in UTC where it carries no zone; see `past_of`.
            whom: Who is written; by default every user with a history.
            users: user_id, attributes and perhaps known_from, where texts tell of attributes.

        Returns:
            user_id, cutoff, text and the aggregates, a row a user in the order of their ids.

        Raises:
            InputError: A column is missing, unknown or not of the type that it had in training, or a value is missing.
        """
        table = event_table(events) if isinstance(events, list) else events
        if not isinstance(table, pa.Table) or not isinstance(cutoff, datetime):
            raise InputError("transform takes a list of dicts or a pyarrow.Table, and a datetime as the cutoff")
        types = self.types
        missing = [name for name in REQUIRED if name not in table.column_names]
        unknown = [name for name in table.column_names if name not in types]
        if missing:
            raise InputError(f"the events have no column {' and no column '.join(missing)}", "name it so")
        if unknown:
            raise InputError(f"the log had no column '{unknown[0]}' in training", f"it had {', '.join(types)}")
        sql = {name: f"nullif(trim(CAST({name} AS VARCHAR)), '')" for name in ("user_id", "event_type")}
        with connect() as con:
            give_users(con, self.attributes, DataConfig([]), users)
            con.register("given", table)
            lock_down(con)
            if column_types(con, "given")["event_time"] == "VARCHAR":  # a cast would drop the offset of a text
                _, sql["event_time"] = time_sql("VARCHAR", None, None, "UTC", "events")
            casts = self.casts(table.column_names, sql)
            with refused("events", "give each column the type that it had in training"):
                given = "SELECT *, event_time AS given_time FROM given"
                execute_one(con, f"CREATE TEMP TABLE rows AS SELECT {casts} FROM ({given})")
            incomplete = " OR ".join(f"{name} IS NULL" for name in REQUIRED)
            if con.execute(f"SELECT count(*) FROM rows WHERE {incomplete}").fetchall()[0][0]:
                raise InputError("an event has no user_id, no event_time in ISO 8601 or no event_type", "leave it out")
            return self.examples(con, in_utc(cutoff), whom)

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

    def examples(self, con: duckdb.DuckDBPyConnection, cutoff: datetime | None, whom: Whom = EVERYBODY) -> pa.Table:
        """user_id, cutoff, text and the aggregates of the users in the relation `rows`, in the order of their ids.

        Args:
            con: Its `rows` has whole users, and the columns of `types`.
            cutoff: In UTC, without a zone; see `past_of`. None is each user's last event.
            whom: Who is written; by default every user with a history.
        """
        history = self.load(con, whom.columns())
        at = history.time[history.start[1:] - 1] + 1 if cutoff is None else microseconds(self.past_of(cutoff) - EPOCH)
        users = Members(whom, history).at(at)
        at = at[users] if isinstance(at, np.ndarray) else at
        aggregator = Aggregator(history, self.features)
        aggregates, own = aggregator.at(at, users), aggregator.own(at, users)
        table = example_table(history, at - self.features.moments, users, aggregates)
        return table.add_column(2, "text", self.texts(history, at, users, aggregates, own).cast(pa.string()))

    def past_of(self, cutoff: datetime) -> datetime:
        """The first moment that is no history at a cutoff: where cutoffs are moments of users, their own instant is."""
        return cutoff + INSTANT * self.features.moments

    def known(self, con: duckdb.DuckDBPyConnection, events: str) -> dict[str, float]:
        """Column -> share of those events with a value there of which a word, or one of a list, was kept in training.

        Args:
            con: Where the events are.
            events: SQL of a relation with the columns of `types`; columns that hold no value are left out.
        """
        words = {"event_type": (category_words("event_type", False), self.features.event_types)}
        for name, fitted in self.fields.items():
            if fitted["kind"] == "categorical":
                words[name] = (category_words(identifier(name), fitted["list"]), fitted["values"])
            elif fitted["kind"] == "text":
                words[name] = (text_words(identifier(name)), fitted["words"])
        shares = {}
        for name, (values, known) in words.items():
            if known:  # an expression over words takes its time, so that it is worked out once for each value
                (share,) = con.execute(
                    f"""SELECT sum("#n" * CAST(list_has_any("#words", {text_list(known)}) AS TINYINT)) / sum("#n")
                        FROM (SELECT {values} AS "#words", "#n"
                              FROM (SELECT {identifier(name)}, count(*) AS "#n" FROM {events} GROUP BY ALL))
                        WHERE len("#words") > 0"""
                ).fetchall()[0]
                shares |= {name: round(share, 4)} if share is not None else {}
        return shares

    def save_pretrained(self, folder: str | Path) -> None:
        """Write serializer.json into the folder."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / SERIALIZER).write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "EventSerializer":
        """Read serializer.json from the folder; a file of another version is refused."""
        path, remedy = Path(folder) / SERIALIZER, "give a folder that scripts/prepare.py or train.py wrote"
        content = read_json(path, {"version": int}, remedy)
        if content["version"] != VERSION:
            raise InputError(
                f"{path} has version {content['version']}, this EventScribe reads version {VERSION}", "prepare again"
            )
        check(path, content, HOLDS, remedy)
        config, features, fields = content["config"], Features(**content["features"]), content["fields"]
        check(path, content, belonging(content), remedy)
        config["fields"] = {name: TextField(**spec) for name, spec in config["fields"].items()}
        attributes = content.get("attributes", {})
        if attributes:
            config["attributes"] = {name: TextField(**spec) for name, spec in config["attributes"].items()}
        check(path, dict.fromkeys(aggregate_names(features)), dict.fromkeys(content["header"]), remedy)
        made = cls(TextConfig(**config), features, fields, content["header"], attributes)
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
                        f"{path}: features.kinds.{name} is numeric and its type {self.types[name]}", remedy
                    )
            # Over an event that says nothing, lest what is wrong here is said of a log.
            event = {"user_id": "'u'", "event_time": "TIMESTAMP '2024-01-01'", "event_type": "'e'"}
            with refused(f"{path}: features", remedy):
                execute_one(con, f"CREATE TEMP TABLE rows AS SELECT {self.casts([], event)}")
                con.register(RELATION, no_users({name: made["type"] for name, made in self.attributes.items()}))
                self.load(con, {})
                self.known(con, "rows")

    def to_json(self) -> str:
        """The content of serializer.json."""
        content = {
            "version": VERSION,
            "config": settings_of(self.config),
            "features": self.features.settings(),
            "fields": self.fields,
            "header": self.header,
        }
        if self.attributes:
            content["attributes"] = self.attributes
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"
