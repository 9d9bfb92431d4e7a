"""Whole users' events in the order of time, as arrays: labels, aggregates and texts of every cutoff are cut from them.

DuckDB reads, casts, joins and sorts; what a cutoff needs are differences of running counts and slices of one text, so
that many cutoffs cost little more than one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import duckdb
import numpy as np
import pyarrow as pa

from data_prep.sql import identifier

if TYPE_CHECKING:
    from data_prep.attributes import Attributes

SECOND, DAY = 1_000_000, 86_400_000_000  # microseconds
NEVER, LATER = np.iinfo(np.int64).min, np.iinfo(np.int64).max
MILLION = 1_000_000
TOO_LARGE = 1e10  # amounts of that size count as missing: their millionths could not be added up exactly
VIEW = np.dtype([("length", "<i4"), ("prefix", "<u4"), ("buffer", "<i4"), ("offset", "<i4")])  # Arrow's string view
CHUNK = 1 << 30  # bytes; offsets within a string view's buffer have 31 bits
FEW = 256  # events, of which each is written on its own: a table for each column's values would cost more
Moment = int | np.ndarray  # microseconds since 1970 in UTC: one moment of all users, or one of each


@dataclass
class History:
    """The events of whole users, by user and time; ties are broken by the other columns.

    Attributes:
        users: User ids in ascending order, of shape (users,).
        start: Index of each user's first event, and the number of events at the end, of shape (users + 1,).
        time: Microseconds since 1970 in UTC, of shape (events,).
        columns: Whatever else was asked for, each of shape (events,).
        entries: The events' parts of the text, each with a space at its end, in the opposite order: the newest of the
            last user first.
        classes: Of a `which` label, each value of a class in a matching event, in the order of time: the index of its
            user, its time and its class, of shape (values,) each; else None.
        attributes: What data.users says of the users, where texts tell of that; else None.
    """

    users: pa.Array
    start: np.ndarray
    time: np.ndarray
    columns: dict[str, pa.Array]
    entries: pa.Array | None = None
    classes: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    attributes: "Attributes | None" = None
    _first: dict[int, np.ndarray] = field(default_factory=dict)

    @cached_property
    def owner(self) -> np.ndarray:
        """The index of each event's user, of shape (events,)."""
        return np.repeat(self.everyone, np.diff(self.start))

    @property
    def everyone(self) -> np.ndarray:
        """The index of each user, of shape (users,)."""
        return np.arange(len(self.users))

    @cached_property
    def _ranked(self) -> tuple[np.ndarray, np.ndarray]:
        """All times in order, each once; and a number of each event that grows with its user and time."""
        times, rank = np.unique(self.time, return_inverse=True)
        return times, self.owner * (len(times) + 1) + rank

    def gap_days(self) -> np.ndarray:
        """Whole days since the user's previous event, of shape (events,); -1 for a first event."""
        gap = np.diff(self.time, prepend=0) // DAY
        gap[self.start[:-1]] = -1
        return gap

    def first_at(self, moment: Moment, users: np.ndarray) -> np.ndarray:
        """Index of the first event of some users at or after a moment of all, or one of each; of shape (users,)."""
        if isinstance(moment, np.ndarray):
            times, number = self._ranked
            return np.searchsorted(number, users * (len(times) + 1) + np.searchsorted(times, moment))
        if moment not in self._first:
            self._first[moment] = self.start[:-1] + np.diff(running(self.time < moment)[self.start])
        return self._first[moment][users]

    def with_past(self, moment: Moment, users: np.ndarray) -> np.ndarray:
        """Whether each of some users has an event before a moment, of shape (users,)."""
        return self.first_at(moment, users) > self.start[users]

    def moment_of(self, owner: np.ndarray, moment: Moment, users: np.ndarray) -> Moment:
        """The moment of each event's or value's user, given its owner; NEVER of those who have none."""
        if not isinstance(moment, np.ndarray):
            return moment
        of_all = np.full(len(self.users), NEVER)
        of_all[users] = moment
        return of_all[owner]

    def having(self, counted: np.ndarray, since: Moment, until: Moment, users: np.ndarray) -> np.ndarray:
        """Whether each of some users has a marked event in [since, until), given the `running` sums of the marks."""
        return counted[self.first_at(until, users)] > counted[self.first_at(since, users)]

    def part(self, low: int, high: int) -> "History":
        """The events [low, high) of the only user, without entries and classes."""
        columns = {name: column.slice(low, high - low) for name, column in self.columns.items()}
        return History(self.users, np.array([0, high - low]), self.time[low:high], columns)

    def of_user(self, user: int) -> "History":
        """One user's events, with entries and classes."""
        low, high = self.start[user : user + 2].tolist()
        columns = {name: column.slice(low, high - low) for name, column in self.columns.items()}
        found = History(self.users.slice(user, 1), np.array([0, high - low]), self.time[low:high], columns)
        if self.entries is not None:
            found.entries = self.entries.slice(len(self.time) - high, high - low)
        if self.classes is not None:
            own = self.classes[0] == user
            found.classes = np.zeros(own.sum(), np.int64), self.classes[1][own], self.classes[2][own]
        return found

    def texts(self, low: np.ndarray, high: np.ndarray) -> pa.Array:
        """The entries of each range of events [low, high), newest first, without a copy; low < high."""
        assert self.entries is not None, "by EventSerializer.load"
        offsets = np.frombuffer(self.entries.buffers()[1], np.int64)[self.entries.offset :]
        events = len(self.time)
        begin, end = offsets[events - high], offsets[events - low] - 1  # without the space after the last entry
        data = np.frombuffer(self.entries.buffers()[2], np.uint8)
        views = np.zeros(len(low), VIEW)
        views["length"] = end - begin
        # The first four bytes stand in the view; texts of up to 12 bytes stand there wholly, without an offset.
        where = begin[:, None] + np.arange(12)
        head = np.where(where < end[:, None], data[np.minimum(where, len(data) - 1)], 0).astype(np.uint8)
        views["prefix"] = np.ascontiguousarray(head[:, :4]).view("<u4")[:, 0]
        short = views["length"] <= 12
        views["buffer"] = np.where(short, np.ascontiguousarray(head[:, 4:8]).view("<i4")[:, 0], begin // CHUNK)
        views["offset"] = np.where(short, np.ascontiguousarray(head[:, 8:12]).view("<i4")[:, 0], begin % CHUNK)
        size = self.entries.buffers()[2].size
        buffers = [self.entries.buffers()[2].slice(at, min(2 * CHUNK - 1, size - at)) for at in range(0, size, CHUNK)]
        return pa.Array.from_buffers(pa.string_view(), len(low), [None, pa.py_buffer(views), *buffers])


def load_history(
    con: duckdb.DuckDBPyConnection,
    fields: Iterable[str],
    columns: dict[str, str],
    by_value: dict[str, tuple[str, str]],
) -> History:
    """The history of every user in `rows`, without entries.

    Args:
        con: Has the relation `rows` (user_id, event_time, event_type and the fields), of whole users.
        fields: The log's fields; they break ties.
        columns: Name -> SQL over an event.
        by_value: Name -> a column and SQL of a text over it, which is worked out once for each value of the column
            unless there are FEW events; it gives a dictionary array.
    """
    counts = con.sql("SELECT user_id, count(*) AS n FROM rows GROUP BY user_id ORDER BY user_id").to_arrow_table()
    events = combined(counts["n"]).to_numpy()
    selected, joins, texts = {"time": "epoch_us(event_time)", **columns}, "", {}
    few = events.sum() <= FEW
    for i, (name, (column, sql)) in enumerate(by_value.items()):
        if few:
            selected[name] = sql
            continue
        column, table = identifier(column), identifier(f"#values_{i}")
        con.execute(
            f"""CREATE OR REPLACE TEMP TABLE {table} AS
                SELECT *, CASE WHEN "#text" IS NOT NULL THEN CAST(dense_rank() OVER (ORDER BY "#text") - 1 AS INTEGER)
                          END AS "#code"
                FROM (SELECT {column} AS "#value", {sql} AS "#text" FROM (SELECT DISTINCT {column} FROM rows))"""
        )
        texts[name] = con.sql(
            f'SELECT DISTINCT "#code", "#text" FROM {table} WHERE "#code" IS NOT NULL ORDER BY "#code"'
        ).to_arrow_table()[1]
        joins += f' LEFT JOIN {table} ON rows.{column} = {table}."#value"'
        selected[name] = f'{table}."#code"'
    query = ", ".join(f"{sql} AS {identifier('#' + name)}" for name, sql in selected.items())
    order = f"rows.user_id, {event_order(fields)}"
    table = con.sql(f"SELECT {query} FROM rows {joins} ORDER BY {order}").to_arrow_table()
    found = {name: combined(table.column(i)) for i, name in enumerate(selected)}
    for name in by_value:
        if few:
            found[name] = found[name].dictionary_encode()
        else:
            found[name] = pa.DictionaryArray.from_arrays(found[name], combined(texts[name]))
    start = np.concatenate([[0], np.cumsum(events)]).astype(np.int64)
    return History(combined(counts["user_id"]), start, found.pop("time").to_numpy(), found)


def event_order(fields: Iterable[str]) -> str:
    """SQL of the order of a user's events in the relation `rows`: by time, and at one moment by all that they say."""
    columns = ["event_time", "event_type", *map(identifier, sorted(fields))]
    return ", ".join(f"rows.{column} NULLS LAST" for column in columns)


def side_by_side(histories: Sequence[History]) -> History:
    """The users of several histories, one after the other, each in one of them: many cost little more than one."""
    users = pa.concat_arrays([history.users for history in histories])
    sizes = np.concatenate([np.diff(history.start) for history in histories])
    start = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    names = histories[0].columns
    columns = {name: pa.concat_arrays([history.columns[name] for history in histories]) for name in names}
    made = History(users, start, np.concatenate([history.time for history in histories]), columns)
    if all(history.entries is not None for history in histories):
        made.entries = pa.concat_arrays([history.entries for history in reversed(histories)])
    classes = [history.classes for history in histories if history.classes is not None]
    if classes:
        before = np.cumsum([0, *(len(history.users) for history in histories)])
        row = np.concatenate([own[0] + n for own, n in zip(classes, before, strict=False)])
        time, code = (np.concatenate([own[i] for own in classes]) for i in (1, 2))
        order = np.argsort(time, kind="stable")
        made.classes = row[order], time[order], code[order]
    return made


def appended(history: History, later: History) -> History:
    """The only user's events and the same user's later ones, whose entries know the event before them."""
    columns = {name: pa.concat_arrays([part, later.columns[name]]) for name, part in history.columns.items()}
    time = np.concatenate([history.time, later.time])
    made = History(history.users, np.array([0, len(time)]), time, columns)
    if history.entries is not None and later.entries is not None:
        made.entries = pa.concat_arrays([later.entries, history.entries])
    if history.classes is not None and later.classes is not None:
        row, of_time, code = (np.concatenate(pair) for pair in zip(history.classes, later.classes, strict=True))
        made.classes = row, of_time, code
    return made


def combined(column: pa.ChunkedArray) -> pa.Array:
    """One array of all chunks."""
    array = column.combine_chunks()
    return array if isinstance(array, pa.Array) else pa.concat_arrays(array.chunks)


def exact(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Numbers in millionths as int64, NEVER where there is none; and where there is one."""
    values = column.to_numpy(zero_copy_only=False).astype(np.float64)
    known = np.abs(values) < TOO_LARGE  # NaN is not
    numbers = np.full(len(values), NEVER)
    numbers[known] = np.rint(values[known] * MILLION).astype(np.int64)
    return numbers, known


def running(values: np.ndarray) -> np.ndarray:
    """Sums of all values before each one and before the end, of shape (values + 1,).

    Whole numbers are exact: marks and small numbers in 32 bits, int64 in 64.
    """
    total = np.zeros(len(values) + 1, np.int64 if values.dtype == np.int64 else np.int32)
    np.cumsum(values, out=total[1:])
    return total
