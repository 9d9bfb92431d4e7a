"""Damage to the raw events of a history, as SQL: what a broken export, late events, inflation or a bot do to a log.

Only events before the cutoff are damaged, and nothing is told of the label. What is drawn at random depends on the seed
and the event or the user alone, so that the events of 10 % are among those of 50 %.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import duckdb
import numpy as np
import pyarrow as pa

from data_prep.history import DAY
from data_prep.serializer import EventSerializer
from data_prep.sql import condition, identifier, quote, timestamp
from finetune.wording import short_percent

SHARES = (0.1, 0.5, 1.0)
DAYS = (1, 3, 7)  # by which events are late
SINCE = (7, 28, None)  # days before the cutoff from which on a type has another name; None is always
FACTORS = (1.1, 1.5, 2.0, 10.0)
BOT_SHARES, BOT_EVENTS, BOT_DAYS = (0.01, 0.1, 0.5), 1_000, 7
MOST = 8  # fields and event types that are damaged one by one
NEVER_SEEN = "value that training never saw"
EVENT, USER, NUMBER = '"#event"', '"#user"', '"#number"'  # columns of `clean`: a draw from [0, 1) an event and a user
REAL = ("DOUBLE", "FLOAT", "DECIMAL")


@dataclass(frozen=True)
class Damage:
    """One way in which a log can be damaged.

    Attributes:
        name: For messages and files.
        title: In words.
        steps: How much of it, in words -> SQL of the damaged events by the cutoff.
    """

    name: str
    title: str
    steps: dict[str, Callable[[datetime], str]]


def number_events(con: duckdb.DuckDBPyConnection, users: list[str], seed: int) -> None:
    """Make the table `clean` of the events of some users in the view `past`, each with what is drawn for it.

    Args:
        con: Has the view `past`.
        users: Whose events are kept.
        seed: Of the draws.
    """
    con.register("chosen", pa.table({"user_id": pa.array(users, pa.string())}))
    con.execute(
        f"""CREATE OR REPLACE TEMP TABLE numbered AS SELECT *, row_number() OVER () - 1 AS {NUMBER} FROM
            (SELECT * FROM past SEMI JOIN chosen USING (user_id) ORDER BY ALL)"""
    )
    events = con.execute("SELECT count(*) FROM numbered").fetchall()[0][0]
    drawn = np.random.default_rng([seed, 0]).random(events), np.random.default_rng([seed, 1]).random(len(users))
    con.register("event_draws", pa.table({"#number": np.arange(events), "#event": drawn[0]}))
    con.register("user_draws", pa.table({"user_id": pa.array(sorted(users), pa.string()), "#user": drawn[1]}))
    con.execute(
        """CREATE OR REPLACE TEMP TABLE clean AS
           SELECT * FROM numbered JOIN event_draws USING ("#number") JOIN user_draws USING (user_id);
           DROP TABLE numbered"""
    )
    for name in ("chosen", "event_draws", "user_draws"):
        con.unregister(name)


def undamaged(serializer: EventSerializer) -> Damage:
    """The log as it is."""
    return Damage("clean", "The log as it is", {"": lambda cutoff: _select(serializer, cutoff)})


def damages(con: duckdb.DuckDBPyConnection, serializer: EventSerializer, target: str) -> list[Damage]:
    """Every damage that the columns of a log allow.

    Args:
        con: Has the table `clean`; see `number_events`.
        serializer: Knows the columns.
        target: SQL condition of the events that the label is about; a bot has none of them.
    """
    found = con.execute("SELECT event_type, count(*) FROM clean GROUP BY 1 ORDER BY 2 DESC, 1").fetchall()
    types = [name for name, _ in found]
    others = con.execute(
        f"""SELECT event_type FROM clean GROUP BY 1 HAVING max({condition(target)}) = 0
            ORDER BY lower(event_type) <> 'view', count(*) DESC, 1 LIMIT 1"""
    ).fetchall()
    return [
        *_missing(serializer),
        *_events(serializer),
        *_scaled(serializer),
        *[_renamed(serializer, name) for name in types[:MOST]],
        _bot(serializer, others[0][0] if others else types[0]),
        *_never_seen(serializer),
    ]


def damaged_fields(serializer: EventSerializer) -> list[str]:
    """The columns of a log that texts or aggregates tell of, those of the texts first."""
    kinds = serializer.features.kinds
    fields = [name for name in [*serializer.fields, *kinds] if name in serializer.features.types]
    return [name for name in dict.fromkeys(fields) if serializer.types[name] != '"NULL"'][:MOST]


def _select(serializer: EventSerializer, cutoff: datetime, where: str = "true", **changed: str) -> str:
    """Events before the cutoff, with other values in some columns."""
    columns = [
        f"{changed[name]} AS {identifier(name)}" if name in changed else identifier(name) for name in _of(serializer)
    ]
    return f"SELECT {', '.join(columns)} FROM clean WHERE event_time < {timestamp(cutoff)} AND {where}"


def _of(serializer: EventSerializer) -> list[str]:
    return list(serializer.types)


def _shares(make: Callable[[float, datetime], str], shares: tuple[float, ...] = SHARES) -> dict:
    return {short_percent(share): lambda cutoff, share=share: make(share, cutoff) for share in shares}


def _missing(serializer: EventSerializer) -> list[Damage]:
    def lost(names: list[str]) -> Callable[[float, datetime], str]:
        def make(share: float, cutoff: datetime) -> str:
            kept = {name: f"CASE WHEN {EVENT} >= {share} THEN {identifier(name)} END" for name in names}
            return _select(serializer, cutoff, **kept)

        return make

    fields = damaged_fields(serializer)
    each = [Damage(f"missing:{name}", f"{name} is missing", _shares(lost([name]))) for name in fields]
    if len(fields) < 2:
        return each
    return [*each, Damage("missing", "All fields are missing", _shares(lost(fields)))]


def _events(serializer: EventSerializer) -> list[Damage]:
    def dropped(share: float, cutoff: datetime) -> str:
        return _select(serializer, cutoff, f"{EVENT} >= {share}")

    def twice(share: float, cutoff: datetime) -> str:
        return f"{_select(serializer, cutoff)} UNION ALL {_select(serializer, cutoff, f'{EVENT} < {share}')}"

    def late(days: int) -> Callable[[datetime], str]:
        return lambda cutoff: _select(serializer, cutoff, f"event_time < {timestamp(cutoff)} - INTERVAL {days} DAYS")

    days = {f"{n} day{'s' * (n > 1)}": late(n) for n in DAYS}
    return [
        Damage("dropped", "Events are lost", _shares(dropped, (0.1, 0.5, 0.9))),
        Damage("duplicated", "Events come twice", _shares(twice)),
        Damage("delayed", "Events come late: the newest are not there yet", days),
        Damage("shuffled", "Events of a day change places", {"all": lambda cutoff: _shuffled(serializer, cutoff)}),
    ]


def _shuffled(serializer: EventSerializer, cutoff: datetime) -> str:
    """The times of a user's day, given to the events of that day in another order."""
    day = "PARTITION BY user_id, CAST(event_time AS DATE)"
    columns = ", ".join(
        f"{'times' if name == 'event_time' else 'events'}.{identifier(name)}" for name in _of(serializer)
    )
    return f"""WITH before AS (
                   SELECT *, CAST(event_time AS DATE) AS "#day", row_number() OVER ({day} ORDER BY {EVENT}) AS "#drawn",
                          row_number() OVER ({day} ORDER BY event_time, {NUMBER}) AS "#place"
                   FROM clean WHERE event_time < {timestamp(cutoff)})
               SELECT {columns} FROM before AS events JOIN before AS times
               ON events.user_id = times.user_id AND events."#day" = times."#day"
               AND events."#drawn" = times."#place" """


def _scaled(serializer: EventSerializer) -> list[Damage]:
    """Of numbers with decimals, which prices are; counts have none."""
    kinds = {name: serializer.types[name] for name, kind in serializer.features.kinds.items() if kind == "numeric"}
    prices = {name: kind for name, kind in kinds.items() if kind.startswith(REAL)}

    def make(factor: float) -> Callable[[datetime], str]:
        scaled = {
            name: f"TRY_CAST(CAST({identifier(name)} AS DOUBLE) * {factor} AS {kind})" for name, kind in prices.items()
        }
        return lambda cutoff: _select(serializer, cutoff, **scaled)

    steps = {f"times {factor:g}": make(factor) for factor in FACTORS}
    return [Damage("scaled", f"Inflation: {', '.join(prices)} times a factor", steps)] if prices else []


def _renamed(serializer: EventSerializer, name: str) -> Damage:
    def make(days: int | None) -> Callable[[datetime], str]:
        def select(cutoff: datetime) -> str:
            since = f" AND event_time >= {timestamp(cutoff)} - INTERVAL {days} DAYS" if days else ""
            other = f"CASE WHEN event_type = {quote(name)}{since} THEN {quote(name + '_v2')} ELSE event_type END"
            return _select(serializer, cutoff, event_type=other)

        return select

    steps = {f"for {days} days" if days else "always": make(days) for days in SINCE}
    return Damage(f"renamed:{name}", f"The event type {name} has another name", steps)


def _bot(serializer: EventSerializer, kind: str) -> Damage:
    """Under some users' ids a bot adds events without any field."""

    def make(share: float, cutoff: datetime) -> str:
        apart = BOT_DAYS * DAY // (BOT_EVENTS + 1)
        added = {"user_id": "user_id", "event_time": f"{timestamp(cutoff)} - to_microseconds({apart} * (i + 1))"}
        added["event_type"] = quote(kind)
        columns = [
            f"{added.get(name) or f'CAST(NULL AS {of_type})'} AS {identifier(name)}"
            for name, of_type in serializer.types.items()
        ]
        users = f"SELECT DISTINCT user_id FROM clean WHERE {USER} < {share} AND event_time < {timestamp(cutoff)}"
        return f"""{_select(serializer, cutoff)}
                   UNION ALL SELECT {", ".join(columns)} FROM ({users}), range({BOT_EVENTS}) AS times(i)"""

    title = f"A bot adds {BOT_EVENTS:,} events {kind} of the last {BOT_DAYS} days to a share of the users"
    return Damage("bot", title, _shares(make, BOT_SHARES))


def _never_seen(serializer: EventSerializer) -> list[Damage]:
    """A share of the users has a new country, a new category."""
    found = []
    for name in damaged_fields(serializer):
        kind = serializer.types[name]
        if kind not in ("VARCHAR", "VARCHAR[]"):
            continue
        value = quote(NEVER_SEEN) if kind == "VARCHAR" else f"[{quote(NEVER_SEEN)}]"

        def make(share: float, cutoff: datetime, name: str = name, value: str = value) -> str:
            column = identifier(name)
            other = f"CASE WHEN {USER} < {share} AND {column} IS NOT NULL THEN {value} ELSE {column} END"
            return _select(serializer, cutoff, **{name: other})

        title = f"A share of the users has a {name} that training never saw"
        found.append(Damage(f"new:{name}", title, _shares(make)))
    return found
