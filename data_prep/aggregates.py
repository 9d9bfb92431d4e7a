"""Aggregates of each example's history: the baselines' input, and the words of the text's header.

Every aggregate is a function of the events strictly before the cutoff, and exact: numbers are summed as integers, so
that neither the order of the rows nor the number of threads changes a bit. Where cutoffs are moments of users (see
`Features.moments`), the cutoff is the microsecond behind the moment, so that all events of that instant are history.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep import InputError
from data_prep.features import OWN, OWN_WINDOWS, SESSION, WINDOWS, Features, plain
from data_prep.history import DAY, LATER, MILLION, NEVER, SECOND, History, Moment, exact, running
from data_prep.sessions import Sessions

IN_TURN = 20_000  # events that one thread sees to


def aggregate_names(features: Features) -> list[str]:
    """The names of all aggregates, in the order of the columns; raises InputError where two would be the same."""
    none = np.array([], np.int64)
    columns: dict[str, pa.Array] = dict.fromkeys(features.columns(), pa.array([], pa.int64()))
    columns["type"] = pa.array([], pa.string()).dictionary_encode()
    history = History(pa.array([], pa.string()), np.zeros(1, np.int64), none, columns)
    return list(Aggregator(history, features).at(0, none))


def example_table(history: History, cutoff: Moment, users: np.ndarray, columns: dict[str, np.ndarray]) -> pa.Table:
    """Columns of shape (rows,) as a table behind user_id and cutoff; counts have 32 bits, NaN becomes null.

    A matrix of shape (rows, classes) becomes a column of lists.
    """
    cutoffs = pa.array(np.full(len(users), cutoff)).cast(pa.timestamp("us"))
    arrays = {}
    for name, values in columns.items():
        values = values.astype(np.int32) if values.dtype.kind == "i" else values
        arrays[name] = lists(values) if values.ndim == 2 else pa.array(values, from_pandas=True)
    return pa.table({"user_id": history.users.take(pa.array(users)), "cutoff": cutoffs, **arrays})


def lists(values: np.ndarray) -> pa.ListArray:
    """A list for each row of a matrix; NaN becomes null."""
    rows, width = values.shape
    return pa.ListArray.from_arrays(
        np.arange(rows + 1, dtype=np.int32) * width, pa.array(values.ravel(), from_pandas=True)
    )


class Aggregator:
    """The aggregates of a history at any cutoff: differences of running sums, which all cutoffs share."""

    def __init__(self, history: History, features: Features) -> None:
        self.history, self.features = history, features
        self.sessions = Sessions.of(history, features.session_gap) if features.session_gap else None
        target = history.columns["target"].to_numpy()
        categorical = [name for name, kind in features.kinds.items() if kind == "categorical"]
        # numpy lets go of Python's lock, and a thread takes longer to begin than few events take.
        with ThreadPoolExecutor(2) if len(target) > IN_TURN else _InTurn() as pool:
            marks = {"": np.ones(len(target), bool), "target_": target.astype(bool)}
            active = {prefix: pool.submit(_ActiveDays, history, mark) for prefix, mark in marks.items()}
            values = {name: _each_value(history.columns[f"value:{name}"]) for name in categorical}
            seen = {name: pool.submit(_previous_times, history, *each) for name, each in values.items()}
            self.active = {prefix: days.result() for prefix, days in active.items()}
            counted: dict[str, np.ndarray] = {"target": target}
            counted |= {f"{prefix}active_days": days.first for prefix, days in self.active.items()}
            names, types = history.columns["type"].dictionary.to_pylist(), history.columns["type"].indices
            types = types.fill_null(-1).to_numpy()
            codes = {name: names.index(name) if name in names else -2 for name in features.event_types}
            counted |= {f"type_{name}": types == code for name, code in codes.items()}
            counted["weekend"] = (history.time // DAY + 3) % 7 >= 5  # 1970 began on a Thursday
            counted["hour"] = history.columns["hour"].to_numpy()
            self.numbers = {}
            for name in (name for name, kind in features.kinds.items() if kind == "numeric"):
                numbers, counted[f"known {name}"] = exact(history.columns[f"value:{name}"])
                counted[f"sum {name}"] = np.where(counted[f"known {name}"], numbers, 0)
                self.numbers[name] = np.append(numbers, NEVER)  # `_largest` looks behind the last event
            # The sums before each event and before the end: of a range of events, the difference.
            self.running = dict(zip(counted, pool.map(running, counted.values()), strict=True))
            # Of each event's values: where those of an event begin, and when the user had the same one before.
            self.previous = {name: (values[name][1], times.result()) for name, times in seen.items()}
            self.first_seen = {name: running(times == NEVER)[starts] for name, (starts, times) in self.previous.items()}
        marked = ["target", *(f"type_{name}" for name in features.event_types), *(f"known {f}" for f in self.numbers)]
        self.marked = {name: np.append(np.flatnonzero(counted[name]), 0) for name in marked}

    def at(self, cutoff: Moment, users: np.ndarray) -> dict[str, np.ndarray]:
        """Every aggregate at one cutoff of all users, or at one of each.

        Args:
            cutoff: Events before it are history.
            users: Indices of different users with an event before the cutoff, of shape (rows,).

        Returns:
            Name -> values of shape (rows,); NaN where there is none.

        Raises:
            InputError: A column whose aggregates would have the names of others.
        """
        span = _Span(self, cutoff, users)
        found = dict(self._days(span)) | dict(self._types(span)) | dict(self._moments(span))
        ratios = dict(_ratios(defaultdict(lambda: np.zeros(0)), []))
        for field, kind in self.features.kinds.items():
            own = dict(self._field(span, field, kind))
            taken = [name for name in own if name in found or name in ratios]
            if taken:
                raise InputError(
                    f"the column '{field}' would give an aggregate {taken[0]}, a name that is already taken",
                    "give the column another name",
                    setting="data.sources",
                )
            found |= own
        found |= dict(_ratios(found, [plain(field) for field in self.numbers]))
        return found | (self.history.attributes.aggregates(span.seen, users) if self.history.attributes else {})

    def own(self, cutoff: Moment, users: np.ndarray) -> dict[str, np.ndarray]:
        """How often and when each user had each class of a `which` label before a cutoff; empty for other labels.

        Args:
            cutoff: As `at` takes it.
            users: Indices of different users, of shape (rows,).

        Returns:
            Name (see OWN) -> values of shape (rows, classes): the number of matching events with the class within a
            window and ever, and the days since the last one, NaN where there was none.
        """
        if not self.features.classes:
            return {}
        assert self.history.classes is not None, "by load_classes"
        row, time, code = self.history.classes
        until = self.history.moment_of(row, cutoff, users)
        past = time < until
        row, time, code = row[past], time[past], code[past]
        until = until[past] if isinstance(until, np.ndarray) else until
        shape = len(self.history.users), len(self.features.classes)
        cell = row * shape[1] + code
        found = {}
        for name, days in zip(OWN[:-1], (*OWN_WINDOWS, None), strict=True):
            inside = cell if days is None else cell[time >= until - days * DAY]
            found[name] = np.bincount(inside, minlength=shape[0] * shape[1]).reshape(shape)[users]
        last = np.full(shape[0] * shape[1], np.nan, np.float32)
        # Of several values of a cell numpy keeps the last, the newest.
        last[cell] = (until - self.features.moments - time) / DAY
        return found | {OWN[-1]: last.reshape(shape)[users]}

    def _days(self, span: "_Span") -> Iterator[tuple[str, np.ndarray]]:
        events = span.high - span.low
        for prefix in ("", "target_"):
            counted = prefix.rstrip("_") or "events"
            if prefix:
                yield "target_recency_days", span.age(*span.last("target"))
                yield "target_tenure_days", span.age(*span.first("target"))
                yield "target", span.count("target")
            else:
                yield "recency_days", span.age(span.high - 1, True)
                yield "tenure_days", span.age(span.low, True)
                yield "events", events
            for w in self.features.counting:
                yield f"{counted}_{w}", span.count("target", w) if prefix else span.high - span.since(w)
            yield f"{prefix}active_days", span.count(f"{prefix}active_days")
            for days in WINDOWS:
                yield f"{prefix}active_days_{days}d", span.count(f"{prefix}active_days", f"{days}d")
            yield from self.active[prefix].gaps(prefix, span)
        yield "weekend_share", _share(span.count("weekend"), events)
        yield "hour_mean", _share(span.count("hour"), events)

    def _types(self, span: "_Span") -> Iterator[tuple[str, np.ndarray]]:
        for name in self.features.event_types:
            yield f"type_{name}_recency_days", span.age(*span.last(f"type_{name}"))
            for w in self.features.counting:
                yield f"type_{name}_{w}", span.count(f"type_{name}", w)

    def _moments(self, span: "_Span") -> Iterator[tuple[str, np.ndarray]]:
        """What days do not tell, where cutoffs are moments."""
        time = np.append(self.history.time, 0)
        if self.features.moments:
            gap = (time[span.high - 1] - time[np.maximum(span.high - 2, 0)]) / SECOND
            yield "event_gap_seconds", np.where(span.high - span.low > 1, gap, np.nan)
        if self.sessions:
            begin = span.since(SESSION)
            yield "session_seconds", np.where(begin < span.high, (span.seen - time[begin]) / SECOND, np.nan)
            yield "sessions", self.sessions.count[span.high] - self.sessions.count[span.low]

    def _field(self, span: "_Span", field: str, kind: str) -> Iterator[tuple[str, np.ndarray]]:
        name = plain(field)
        if kind == "numeric":
            for window in (None, *self.features.counting):
                suffix = f"_{window}" if window else ""
                total = span.count(f"sum {field}", window) / MILLION
                yield f"{name}_sum{suffix}", total
                yield f"{name}_mean{suffix}", _share(total, span.count(f"known {field}", window))
            last, found = span.last(f"known {field}")
            largest = _largest(self.numbers[field], span.low, span.high)
            yield f"{name}_max", np.where(found, largest / MILLION, np.nan)
            yield f"{name}_last", np.where(found, self.numbers[field][last] / MILLION, np.nan)
        elif kind == "categorical":
            starts, previous = self.previous[field]
            yield f"{name}_distinct", self.first_seen[field][span.high] - self.first_seen[field][span.low]
            session = [SESSION] if self.sessions else []
            owner = np.repeat(self.history.owner, np.diff(starts)) if self.features.moments else self.history.owner
            for w in ("28d", "84d", *session):  # an event counts where its value was not seen earlier in the window
                first = running(previous < self.history.moment_of(owner, span.begin(w), span.users))[starts]
                yield f"{name}_distinct_{w}", first[span.high] - first[span.since(w)]


class _InTurn(Executor):
    """Does everything at once, when it is asked for."""

    def submit(self, fn: Callable, /, *args: Any, **kwargs: Any) -> Future:
        """See Executor."""
        done: Future = Future()
        done.set_result(fn(*args, **kwargs))
        return done


class _Span:
    """The histories of some users at a cutoff: events [low, high), and where its windows begin.

    Attributes:
        seen: The moment from which ages count: the cutoff, or that of the last event of the history.
    """

    def __init__(self, aggregator: Aggregator, cutoff: Moment, users: np.ndarray) -> None:
        self.aggregator, self.history, self.cutoff, self.users = aggregator, aggregator.history, cutoff, users
        self.low, self.high = self.history.start[users], self.history.first_at(cutoff, users)
        self.lengths, self.seen = aggregator.features.windows, cutoff - aggregator.features.moments
        self._since = {name: self.history.first_at(cutoff - long, users) for name, long in self.lengths.items()}
        if aggregator.sessions:
            self._since[SESSION] = aggregator.sessions.since(self.seen, self.high)
        self._end: dict[str, np.ndarray] = {}

    def since(self, window: str | None) -> np.ndarray:
        """The first event within a window; the user's first for None."""
        return self.low if window is None else self._since[window]

    def begin(self, window: str) -> Moment:
        """When a window begins; a session with its first event."""
        if window == SESSION:
            return np.append(self.history.time, LATER)[self._since[SESSION]]
        return self.cutoff - self.lengths[window]

    def end(self, name: str) -> np.ndarray:
        """A running sum at the cutoff."""
        if name not in self._end:
            self._end[name] = self.aggregator.running[name][self.high]
        return self._end[name]

    def count(self, name: str, window: str | None = None) -> np.ndarray:
        """A running sum's growth within the window, or the whole history."""
        return self.end(name) - self.aggregator.running[name][self.since(window)]

    def last(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The index of the last marked event of each history, and whether there is one."""
        places = self.aggregator.marked[name]
        return places[self.end(name) - 1], self.count(name) > 0

    def first(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The index of the first marked event of each history, and whether there is one."""
        places = self.aggregator.marked[name]
        return places[self.end(name) - self.count(name)], self.count(name) > 0

    def age(self, event: np.ndarray, found: np.ndarray | bool) -> np.ndarray:
        """Days before the cutoff, NaN where no event was found."""
        if not len(self.users):
            return np.zeros(0)
        return np.where(found, (self.seen - self.history.time[event]) / DAY, np.nan)


class _ActiveDays:
    """The days on which a user has a marked event, and the gaps between one and the next, in days.

    Attributes:
        first: Whether an event is the first marked one of its day, of shape (events,).
        gap: Days since the user's previous active day, 0 on the first, of shape (active days + 1,).
    """

    def __init__(self, history: History, mark: np.ndarray) -> None:
        self.history, chosen = history, np.flatnonzero(mark)
        day, owner = history.time[chosen] // DAY, history.owner[chosen]
        new = np.ones(len(chosen), bool)
        new[1:] = (day[1:] != day[:-1]) | (owner[1:] != owner[:-1])
        self.first = np.zeros(len(mark), bool)
        self.first[chosen[new]] = True
        day, owner, time = day[new], owner[new], history.time[chosen[new]]
        self.gap = np.zeros(len(day) + 1, np.int64)
        self.gap[1:-1] = np.where(owner[1:] == owner[:-1], day[1:] - day[:-1], 0)
        self.sums, self.squares = running(self.gap), running(self.gap**2)
        # Gaps by user and length; those before a cutoff keep this order.
        order = np.lexsort((self.gap[:-1], owner))
        order = order[self.gap[order] > 0]
        self.sorted_gap, self.sorted_time, self.sorted_owner = self.gap[order], time[order], owner[order]

    def gaps(self, prefix: str, span: _Span) -> Iterator[tuple[str, np.ndarray]]:
        """Mean, deviation, quantiles and the newest of the gaps before the cutoff."""
        high = span.end(f"{prefix}active_days")
        low = high - span.count(f"{prefix}active_days")
        n = np.maximum(high - low - 1, 0)
        mean = _share(self.sums[high] - self.sums[low], n)
        yield f"{prefix}gap_mean", mean
        yield f"{prefix}gap_std", np.sqrt(np.abs(_share(self.squares[high] - self.squares[low], n) - mean * mean))
        past = self.sorted_time < self.history.moment_of(self.sorted_owner, span.cutoff, span.users)
        values = self.sorted_gap[past]
        begin = running(np.bincount(self.sorted_owner[past], minlength=len(self.history.users)))[span.users]
        yield f"{prefix}gap_median", _quantile(values, begin, n, 0.5)
        yield f"{prefix}gap_q90", _quantile(values, begin, n, 0.9)
        yield f"{prefix}gap_max", np.where(n > 0, _largest(self.gap, low, high), np.nan)
        yield f"{prefix}gap_last", np.where(n > 0, self.gap[high - 1], np.nan)
        newest = np.minimum(np.maximum(high - 3, low + 1), high)
        yield f"{prefix}gap_last3", _share(self.sums[high] - self.sums[newest], np.minimum(n, 3))


def _each_value(column: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """The values of all events, in the events' order, and where those of each event begin, of shape (events + 1,)."""
    if not pa.types.is_list(column.type):
        return column, np.arange(len(column) + 1)
    # pyarrow makes this function when it is imported.
    lengths = pc.list_value_length(column).fill_null(0).to_numpy()  # pyright: ignore[reportAttributeAccessIssue]
    return column.flatten(), running(lengths.astype(np.int64))


def _previous_times(history: History, values: pa.Array, starts: np.ndarray) -> np.ndarray:
    """The time of the user's previous event with the same value: NEVER for the first, LATER for no value.

    Args:
        history: The events.
        values: Of all events.
        starts: Where those of each event begin; see `_each_value`.
    """
    time = np.repeat(history.time, np.diff(starts))
    found, known = np.full(len(values), NEVER), values.is_valid().to_numpy(zero_copy_only=False)
    values = values.fill_null(0).to_numpy()
    order = np.argsort(values, kind="stable")
    same = values[order[1:]] == values[order[:-1]]
    found[order[1:][same]] = time[order[:-1][same]]
    found[~known] = LATER
    return found


def _share(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """total / count, NaN where count is 0 or unknown."""
    return np.divide(total, count, out=np.full(len(total), np.nan), where=np.not_equal(count, 0))


def _largest(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The largest of each range [low, high), for ranges in ascending order that end before the last value."""
    if not len(low):
        return np.zeros(0)
    return np.maximum.reduceat(values, np.stack([low, high], axis=1).ravel())[::2]


def _quantile(values: np.ndarray, begin: np.ndarray, count: np.ndarray, share: float) -> np.ndarray:
    """The quantile of `count` sorted values from `begin` on, with linear interpolation; NaN where there is none."""
    if not len(values):
        return np.full(len(count), np.nan)
    place = np.maximum(count - 1, 0) * share
    below = np.floor(place)
    lower = values[np.minimum(begin + below.astype(np.int64), len(values) - 1)]
    upper = values[np.minimum(begin + np.ceil(place).astype(np.int64), len(values) - 1)]
    return np.where(count > 0, lower + (place - below) * (upper - lower), np.nan)


def _ratios(found: dict[str, np.ndarray], numeric: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Trends, rates and how overdue the next event is, from the other aggregates."""
    for name, above, below in (
        ("recency_over_gap", "recency_days", "gap_mean"),
        ("target_recency_over_gap", "target_recency_days", "target_gap_mean"),
        ("recency_over_gap_q90", "recency_days", "gap_q90"),
        ("target_recency_over_gap_q90", "target_recency_days", "target_gap_q90"),
    ):
        yield name, _share(found[above], found[below])
    for name in ("events", "target"):
        yield f"{name}_per_day", found[name] / np.maximum(found["tenure_days"], 1)
    for prefix in ("", "target_"):
        yield f"{prefix}gap_last_over_mean", _share(found[f"{prefix}gap_last"], found[f"{prefix}gap_mean"])
    for name in ("events", "target", *(f"{field}_sum" for field in numeric)):
        for short, long in ((14, 28), (28, 56), (28, 84)):
            yield f"{name}_trend_{short}_{long}", _share(found[f"{name}_{short}d"], found[f"{name}_{long}d"])
