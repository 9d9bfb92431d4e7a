"""Single events as they come, read and written by the SQL that reads and writes a log, over one open connection."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from data_prep.aggregates import Aggregator
from data_prep.attributes import RELATION, Attributes, needed
from data_prep.config import DataConfig
from data_prep.connections import connect, lock_down
from data_prep.event_log import REQUIRED
from data_prep.expressions import execute_one
from data_prep.features import class_codes
from data_prep.given_users import no_users
from data_prep.history import History, appended
from data_prep.moments import EPOCH, microseconds
from data_prep.population import Members, Whom
from data_prep.rejected import reason_sql
from data_prep.serializer import EventSerializer
from data_prep.served_users import give_users
from data_prep.sql import identifier, quote, text_sql
from data_prep.times import time_sql
from data_prep.users import given_user_sql, user_sql

TEXT = "VARCHAR"
FLOATS = ("FLOAT", "DOUBLE")
STRANGE = "strange"
CLASSES = "class codes"  # a column of histories
PLAIN = {str: pa.string(), float: pa.float64(), bool: pa.bool_()}


@dataclass(frozen=True)
class Unusable:
    """Why an event cannot be used."""

    why: str


class LiveEvents:
    """What reads events and writes the texts of users; not for several threads at a time.

    Args:
        serializer: Of the model.
        timezone: Of times that carry none.
        whom: The task asks about.
    """

    def __init__(self, serializer: EventSerializer, timezone: str, whom: Whom) -> None:
        self.serializer, self.timezone, self.whom = serializer, timezone, whom
        self.config = DataConfig([], timezone=timezone)
        self.fields = {name: kind for name, kind in serializer.types.items() if name not in REQUIRED}
        self.con = connect()
        self.con.execute("SET threads = 1")  # of few rows a second one costs more than it does
        lock_down(self.con)
        self.know(None)

    def know(self, users: list[dict[str, Any]] | None) -> None:
        """Take these attributes of users for the texts to come; with None a model that reads them writes no texts.

        Raises:
            InputError: See `give_users`.
        """
        attributes = self.serializer.attributes
        self.unknown = bool(attributes) and users is None
        if users is not None or not attributes:
            give_users(self.con, attributes, self.config, users)
        else:
            self.con.register(RELATION, no_users({name: fitted["type"] for name, fitted in attributes.items()}))

    def read(self, events: Sequence[dict[str, Any]], lenient: bool = False) -> list[str | Unusable]:
        """Read events, whose histories `histories` then gives.

        Args:
            events: user_id, event_time (ISO 8601) and event_type, which are texts, and fields; other names are passed
                over, as the training log did not have them.
            lenient: Take a value that does not fit its column for missing, and not its event for unusable.

        Returns:
            The user of each event, as the log has it, or why the event cannot be used.
        """
        columns: dict[str, pa.Array] = {"#row": pa.array(range(len(events)), pa.int64())}
        columns |= {name: pa.array([event[name] for event in events], pa.string()) for name in REQUIRED}
        lowered = [{name.lower(): value for name, value in event.items()} for event in events]  # as DuckDB compares
        casts, misfits = [], []
        for i, (name, kind) in enumerate(self.fields.items()):
            values = [event.get(name.lower()) for event in lowered]
            given = {f"#{i}.{of_type}": column for of_type, column in _by_type(values).items()}
            columns |= given
            tried = [f"TRY_CAST({identifier(raw)} AS {kind})" for raw in given if not raw.endswith(STRANGE)]
            casts.append(f"coalesce({', '.join([*tried, 'NULL', 'NULL'])}) AS {identifier(name)}")
            if given and not lenient:
                has = " OR ".join(f"{identifier(raw)} IS NOT NULL" for raw in given)
                why = quote(f"a value of {name} that is no {kind}")
                misfit = f"{identifier(name)} IS NULL"
                if kind in FLOATS:  # 'Infinity' and 'NaN' are casts' numbers, and none of JSON
                    misfit = f"coalesce(NOT isfinite({identifier(name)}), true)"
                misfits.append(f"WHEN ({has}) AND {misfit} THEN {why}")
        self._read(pa.table(columns), casts, misfits)
        found = self.con.execute('SELECT user_id, "#why" FROM "#read" ORDER BY "#row"').fetchall()
        return [user if why is None else Unusable(why) for user, why in found]

    def _read(self, given: pa.Table, casts: list[str], misfits: list[str]) -> None:
        """Make the table `#read`; see `read`."""
        con = self.con
        _, time = time_sql(TEXT, None, None, self.timezone, "events")
        raw = ", ".join(identifier(name) for name in given.column_names if name not in REQUIRED)
        con.register("given", given)
        con.execute(f"SET TimeZone = {quote(self.timezone)}")  # of times without a zone, and of nothing else
        con.execute(
            f"""CREATE OR REPLACE TEMP TABLE "#timed" AS SELECT * REPLACE ({time} AS event_time)
                FROM (SELECT *, event_time AS given_time FROM given)"""
        )
        con.execute("SET TimeZone = 'UTC'")
        con.unregister("given")
        misfit = f"CASE {' '.join(misfits)} END" if misfits else "NULL"
        execute_one(
            con,
            f"""CREATE OR REPLACE TEMP TABLE "#read" AS
                SELECT *, coalesce({reason_sql(self.config)}, {misfit}) AS "#why" FROM (
                    SELECT *, {user_sql(TEXT, False)} AS user_id FROM (
                        SELECT {given_user_sql(TEXT)} AS given_user, given_time, event_time,
                               {", ".join([text_sql("event_type", TEXT) + " AS event_type", *casts, raw])}
                        FROM "#timed"))""",
        )

    def histories(self, rows: Sequence[int] | None = None) -> dict[str, History]:
        """The history of each user by the usable events that were read, or by some of these, given their rows."""
        chosen = "" if rows is None else f' WHERE "#row" IN ({", ".join(map(str, [-1, *rows]))})'
        self._select(f'SELECT * FROM "#read"{chosen}')
        history = self._load()
        return {user: history.of_user(i) for i, user in enumerate(history.users.to_pylist())}

    def without_each(self, history: History, most: int, cutoff: datetime) -> list[tuple[datetime, str | None]]:
        """The newest events before the cutoff of a user, as if one had not happened.

        Args:
            history: Of the only user.
            most: So many events at most.
            cutoff: In UTC, without a zone.

        Returns:
            The time of each event, the newest first, and the text without it; None where nothing else is left.
        """
        events = int(np.searchsorted(history.time, microseconds(self.serializer.past_of(cutoff) - EPOCH)))
        gone = range(events)[: -most - 1 : -1]
        texts = self.texts(self._without(history, events, gone), cutoff)[0] if events > 1 else [None] * events
        times = [EPOCH + timedelta(microseconds=int(history.time[event])) for event in gone]
        return list(zip(times, texts, strict=True))

    def _without(self, history: History, events: int, gone: Sequence[int]) -> History:
        """The first events of the only user, as of one user for each of those that are gone."""
        kept = np.concatenate([np.delete(np.arange(events), event) for event in gone])
        columns = {name: column.take(pa.array(kept)) for name, column in history.columns.items()}
        users, start = pa.array([f"{i:06d}" for i in range(len(gone))]), np.arange(len(gone) + 1) * (events - 1)
        made = History(users, start, history.time[kept], columns)
        for name, kind in self.serializer.features.kinds.items():
            if kind == "categorical":
                columns[f"value:{name}"] = _of_users(columns[f"value:{name}"], made.owner)
        made.entries = self.serializer.entries(made)
        if history.classes is not None:
            codes = columns[CLASSES]
            event = np.repeat(np.arange(len(kept)), codes.value_lengths().to_numpy())
            event = event[order := np.argsort(made.time[event], kind="stable")]
            made.classes = made.owner[event], made.time[event], codes.flatten().to_numpy()[order]
        return made

    def _select(self, sql: str) -> None:
        """Make the table `rows` of usable events of `#read`."""
        types = self.serializer.casts(self.serializer.types)
        execute_one(self.con, f'CREATE OR REPLACE TEMP TABLE rows AS SELECT {types} FROM ({sql}) WHERE "#why" IS NULL')

    def _load(self) -> History:
        classes = {CLASSES: class_codes(self.serializer.features)} if self.serializer.features.classes else {}
        return self.serializer.load(self.con, self.whom.columns() | classes)

    def append(self, history: History, later: History) -> History | None:
        """A user's history with later events; None where one of them is not after all others, as the order of events at
        the same moment is that of all their values."""
        if later.time[0] <= history.time[-1]:
            return None
        # The first later event tells of the days since the last one of before; its entry is written anew.
        last = appended(history.part(len(history.time) - 1, len(history.time)), later)
        entries = self.serializer.entries(last)
        later.entries = entries.slice(0, len(later.time))
        return appended(history, later)

    def texts(self, history: History, cutoff: datetime) -> tuple[list[str | None], list[bool]]:
        """Of each user the text at a cutoff, None without an event before it, and whether the population has them.

        Args:
            history: See `data_prep.history.side_by_side`.
            cutoff: In UTC, without a zone.

        Raises:
            InputError: The model reads attributes of users, and none are known.
        """
        if self.unknown:
            raise needed(self.serializer.attributes)
        # Of the events alone histories are held.
        specs, fitted = self.serializer.config.attributes, self.serializer.attributes
        history.attributes = Attributes.written(self.con, history.users, specs, fitted)
        at = microseconds(self.serializer.past_of(cutoff) - EPOCH)
        users = np.flatnonzero(history.with_past(at, history.everyone))
        written: list[str | None] = [None] * len(history.users)
        if len(users):
            aggregator = Aggregator(history, self.serializer.features)
            aggregates, own = aggregator.at(at, users), aggregator.own(at, users)
            texts = self.serializer.texts(history, at, users, aggregates, own).to_pylist()
            for user, text in zip(users.tolist(), texts, strict=True):
                written[user] = text
        members = np.zeros(len(written), bool)
        members[Members(self.whom, history).at(at)] = True
        return written, members.tolist()

    def close(self) -> None:
        """Close the connection."""
        self.con.close()


def _of_users(numbers: Any, owner: np.ndarray) -> pa.Array:
    """The numbers of one user's values, see `Features.columns`, as those of several users: each has its own.

    Args:
        numbers: Of each event one, or a list.
        owner: The index of each event's user.
    """
    if pa.types.is_list(numbers.type):
        own = np.repeat(owner, numbers.value_lengths().fill_null(0).to_numpy())
        return pa.ListArray.from_arrays(numbers.offsets, _of_users(numbers.flatten(), own), mask=numbers.is_null())
    apart = numbers.fill_null(0).to_numpy() + owner.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # an odd number
    return pa.array(apart, mask=np.asarray(numbers.is_null()))


def _by_type(values: list[Any]) -> dict[str, pa.Array]:
    """Columns of the values' types, each of all rows and with the values of its type; together they have all.

    Under STRANGE it is whether a value has no type, as a list of numbers and texts or a number of 30 digits.
    """
    places: dict[pa.DataType | None, list[int]] = defaultdict(list)
    for row, value in enumerate(values):
        if value is not None:
            places[_type(value)].append(row)
    columns = {}
    for kind, rows in places.items():
        column: list[Any] = [None] * len(values)
        for row in rows:
            column[row] = values[row] if kind is not None else True
        columns[STRANGE if kind is None else str(len(columns))] = pa.array(column, kind or pa.bool_())
    return columns


def _type(value: Any) -> pa.DataType | None:
    if type(value) in PLAIN and (not isinstance(value, str) or value.isascii()):  # pyarrow takes microseconds for each
        return PLAIN[type(value)]
    try:
        return pa.array([value]).type
    except (pa.ArrowException, OverflowError, UnicodeError):
        return None
