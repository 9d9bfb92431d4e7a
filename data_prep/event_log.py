"""The table `log` of events: its columns, counts over it, and the rows and users that are left out or warned of."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import accumulate
from textwrap import shorten
from typing import Any

import duckdb
import pyarrow as pa

from data_prep import InputError
from data_prep.config import DataConfig
from data_prep.sql import identifier
from data_prep.users import SIZES, standing_out

REQUIRED = ("user_id", "event_time", "event_type")
REASON = ("rejected_because", "rejected_detail")
# Names that a field must not have.
RESERVED = ("cutoff", "label", "text", "entries", "given_time", "given_user", "part", *REASON)
YEARS = "SELECT year(event_time), count(*) FROM log GROUP BY ALL"  # a Count
FAR_YEARS = 30
SPAN = "SELECT min(event_time), max(event_time) FROM log"
# Runs SQL that gives pairs (key, count) over the relation `log`, and adds the counts up by key over all its parts.
Count = Callable[[str], dict[Any, int]]


@dataclass
class EventLog:
    """What `read_events` found, beside the table `log` that it made."""

    rejected: dict[str, int]
    fields: dict[str, str]  # name -> DuckDB type
    first: datetime | None = None
    last: datetime | None = None
    events: int = 0
    users: int = 0
    equal_rows: int | None = 0  # that are equal to another one in every column, and stay; None is not counted yet
    left_out: dict[str, int] = field(default_factory=dict)  # why -> rows, by data.duplicates and max_events_per_user
    notes: list[str] = field(default_factory=list)  # what a user should know of it, in sentences


def event_table(events: Iterable[dict], plain: Callable[[Any], Any] = lambda value: value) -> pa.Table:
    """Events in memory as a table of all their fields, of which each may lack some.

    Args:
        events: Name -> value of each.
        plain: Makes a value one that pyarrow takes.
    """
    names = list(dict.fromkeys(name for event in events for name in event))
    return pa.table({name: pa.array([plain(event.get(name)) for event in events]) for name in names})


def leave_out(
    log: EventLog, config: DataConfig, count: Count, change: Callable[[str], object], count_equal: bool = True
) -> None:
    """Count equal rows and users who stand out, leave out those that the config does not want, and note both in `log`.

    Rows are compared by a hash of 64 bits, by which two of a hundred million would seem equal once in 4,000 logs.

    Args:
        log: Gets its counts.
        config: With data.duplicates and data.max_events_per_user.
        count: Counts over the relation `log`, whose users are whole.
        change: Runs SQL that changes the relation `log`, before what is counted next.
        count_equal: False leaves equal rows that stay to `note_equal_rows`, because to count them takes its time.

    Raises:
        InputError: No event is left.
    """
    log.fields = {name: kind for name, kind in log.fields.items() if name not in REQUIRED}
    log.equal_rows = None
    if count_equal or config.duplicates == "drop":
        log.equal_rows = count(f"SELECT 'rows', count(*) - count(DISTINCT {row_hash(log.fields)}) FROM log")["rows"]
    if log.equal_rows and config.duplicates == "drop":
        change("CREATE OR REPLACE TEMP TABLE log AS SELECT DISTINCT * FROM log")
        log.left_out["equal to another row"], log.equal_rows = log.equal_rows, 0
    sizes, most = count(SIZES), config.max_events_per_user
    kept = {n: users for n, users in sizes.items() if most is None or n <= most}
    if most is not None and len(kept) < len(sizes):
        many = f"SELECT user_id FROM log GROUP BY user_id HAVING count(*) > {most}"
        change(f"DELETE FROM log WHERE user_id IN ({many})")
        out = sum(users for n, users in sizes.items() if n > most)
        why = f"of {out:,} user{'s' * (out > 1)} with more than data.max_events_per_user {most:,}"
        log.left_out[why] = sum(n * users for n, users in sizes.items() if n > most)
    if not kept:
        why = ", ".join(f"{rows:,} with {reason}" for reason, rows in log.rejected.items() if rows)
        raise InputError(
            "data.sources gave no event with a user, a time and a type" + f" (rejected: {why})" * bool(why),
            "check the paths and conditions" + " and data.max_events_per_user" * bool(sizes),
            setting="data.sources",
        )
    log.events, log.users = sum(n * users for n, users in kept.items()), sum(kept.values())
    log.notes += [f"left out {rows:,} row{'s' * (rows > 1)} {why}" for why, rows in log.left_out.items()]
    if log.equal_rows is not None:
        note_equal_rows(log, log.equal_rows)
    log.notes += [*_stand_outs(log, count, kept), *_far_times(count)]


def row_hash(fields: Iterable[str]) -> str:
    """SQL of a number by which equal rows are known, given the log's fields."""
    return f"hash({', '.join(map(identifier, (*REQUIRED, *fields)))})"


def note_equal_rows(log: EventLog, rows: int) -> None:
    """Say in `log` how many rows are equal to another one and stay."""
    log.equal_rows = rows
    if rows:
        log.notes.append(
            f"{rows:,} of {log.events:,} rows are equal to another one in every column and count all the same; "
            f"data.duplicates: drop leaves one of each"
        )


def _stand_outs(log: EventLog, count: Count, sizes: dict[int, int]) -> list[str]:
    limit = standing_out(sizes)
    if limit is None:
        return []
    found = count(f"SELECT user_id, count(*) FROM log GROUP BY user_id HAVING count(*) > {limit}")
    users = sorted(found, key=lambda user: (-found[user], user))
    shown = ", ".join(f"{shorten(user, 40, placeholder=' ...')} has {found[user]:,}" for user in users[:3])
    more = f", and {len(users) - 3:,} more have many" * (len(users) > 3)
    return [
        f"warning: of {log.events:,} events {shown}{more}: guests under one id, a bot or a test account would count as "
        f"a good customer; data.max_events_per_user: {limit} leaves such users out"
    ]


def _far_times(count: Count) -> list[str]:
    """A warning of events far from most others: those of another unit, where data.since lets them pass."""
    years = count(YEARS)
    ordered = sorted(years)
    below = list(accumulate(years[year] for year in ordered))
    median = next(year for year, events in zip(ordered, below, strict=True) if 2 * events >= below[-1])
    far = [year for year in ordered if abs(year - median) > FAR_YEARS]
    if not far:
        return []
    return [
        f"warning: {sum(years[year] for year in far):,} of {below[-1]:,} events are of {far[0]}"
        + f" to {far[-1]}" * (len(far) > 1)
        + f", more than {FAR_YEARS} years off {median}, the year of the middle one: is their time in another unit? "
        f"data.since and data.until leave such events out"
    ]


def count_on(con: duckdb.DuckDBPyConnection) -> Count:
    """Counts over the table `log` of one connection."""
    return lambda sql: dict(con.execute(sql).fetchall())


def most_frequent(counts: dict[str, int], top: int) -> list[str]:
    """The keys with the highest counts, ties in alphabetical order."""
    return sorted(counts, key=lambda key: (-counts[key], key))[:top]
