"""What the aggregates of a log are about: its numbers and categories, its event types, its target and its classes."""

import re
from dataclasses import asdict, dataclass
from dataclasses import field as dataclass_field
from datetime import datetime
from functools import cache
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from data_prep.event_log import Count, most_frequent
from data_prep.history import DAY, History, combined
from data_prep.sql import condition, identifier, text_list, timestamp, word

WINDOWS = (7, 14, 28, 56, 84)  # days
SHORT_WINDOWS = {"5m": DAY // 288, "30m": DAY // 48, "2h": DAY // 12, "1d": DAY}  # where cutoffs are moments of users
SESSION = "session"  # the window from the first event of the session on
MAX_TYPES = 10  # event types with counts of their own
OWN_WINDOWS = (7, 28, 84)  # days
# What there is of each class of a `which` label: counts, and days since the last.
OWN = (*(f"own_{days}d" for days in OWN_WINDOWS), "own", "own_recency_days")

# Which aggregates a name in text.header stands for; {field} runs over the numeric fields.
HEADER_GROUPS = {
    "recency": ("recency_days", "target_recency_days"),
    "counts": (
        *(f"events_{w}d" for w in WINDOWS),
        *(f"target_{w}d" for w in WINDOWS),
        "active_days_28d",
        "active_days_56d",
        "active_days_84d",
        "active_days",
    ),
    "gaps": ("gap_mean", "gap_std", "gap_median", "gap_q90", "gap_last3", "recency_over_gap"),
    "target_gaps": (
        "target_gap_mean",
        "target_gap_std",
        "target_gap_median",
        "target_gap_q90",
        "target_gap_last3",
        "target_recency_over_gap",
    ),
    "tenure": ("tenure_days",),
    "value": ("{field}_sum", "{field}_mean", "{field}_sum_28d", "{field}_sum_84d"),
    "own": (),  # of a `which` label; see `Aggregator.own`
}
# Patterns of those that it stands for besides, where cutoffs are moments of users.
MOMENT_GROUPS = {
    "recency": "event_gap_seconds|session_seconds",
    "counts": rf"(events|target)_({'|'.join([SESSION, *SHORT_WINDOWS])})|.+_distinct_{SESSION}",
    "tenure": "sessions",
}


@dataclass
class Features:
    """What the aggregates of a log are: fixed by the task and the training history, and kept with the serializer."""

    target: str
    """SQL condition of the events that the label is about."""
    types: dict[str, str]
    """Field of the log -> DuckDB type."""
    kinds: dict[str, str]
    """Field -> numeric, categorical or text."""
    event_types: list[str]
    """The event types with counts of their own, as words."""
    class_field: str | None = None
    """Of a `which` label, the column of its classes."""
    classes: list[str] = dataclass_field(default_factory=list)
    """Of a `which` label, its classes: how often and when a user had each of them before is told of, too."""
    moments: bool = False
    """Cutoffs are moments of single users, and what happens at that very moment is history, too."""
    session_gap: int | None = None
    """In microseconds: a longer time without an event ends a session. None knows no sessions."""

    def settings(self) -> dict[str, Any]:
        """As serializer.json keeps it; what came later is written only where it says something."""
        found = asdict(self)
        return {name: value for name, value in found.items() if name not in ("moments", "session_gap") or value}

    @property
    def windows(self) -> dict[str, int]:
        """The windows before a cutoff: name -> length in microseconds; that of the session has no length of its own."""
        short = SHORT_WINDOWS if self.moments else {}
        return {**short, **{f"{days}d": days * DAY for days in WINDOWS}}

    @property
    def counting(self) -> tuple[str, ...]:
        """The names of the windows that events are counted in."""
        return (*([SESSION] if self.session_gap else []), *self.windows)

    def by_value(self) -> dict[str, tuple[str, str]]:
        """Name -> column and SQL of a text over it (see `load_history`)."""
        return {"type": ("event_type", word("event_type"))}

    def columns(self) -> dict[str, str]:
        """Name -> SQL over an event: what `load_history` reads for the aggregates."""
        sql = {"target": condition(self.target), "hour": "CAST(hour(event_time) AS TINYINT)"}
        for name, kind in self.kinds.items():
            column = identifier(name)
            if kind == "numeric":
                sql[f"value:{name}"] = f"CAST({column} AS DOUBLE)"
            elif kind == "categorical" and self.types.get(name, "").endswith("]"):  # the same of each member of a list
                members = f"list_distinct(CAST({column} AS VARCHAR[]))"
                sql[f"value:{name}"] = f"list_transform({members}, lambda member: hash(user_id, member))"
            elif kind == "categorical":  # one number for each user and value
                if self.types.get(name) == "VARCHAR":  # CSV cannot tell an empty text from none
                    column = f"nullif(trim({column}), '')"
                sql[f"value:{name}"] = f"CASE WHEN {column} IS NOT NULL THEN hash(user_id, {column}) END"
        return sql


def field_kinds(types: dict[str, str], specs: dict[str, dict]) -> dict[str, str]:
    """What each field of the log is: numeric, categorical or text; text.fields decides, else the column's type."""
    kinds = {}
    for name, kind in types.items():
        spec = specs.get(name, {})
        if spec.get("bins"):
            kinds[name] = "numeric"
        elif spec.get("words"):
            kinds[name] = "text"
        elif spec.get("top"):
            kinds[name] = "categorical"
        else:  # whole numbers that nobody called a quantity are mostly ids
            kinds[name] = "numeric" if re.fullmatch(r"FLOAT|DOUBLE|DECIMAL\(\d+,\d+\)", kind) else "categorical"
    return kinds


def frequent_types(count: Count, before: datetime, min_users: int) -> list[str]:
    """The most frequent event types of the training history, as words; none where the log has a single one."""
    return ranked_types(type_counts(count, before, min_users))


def ranked_types(counts: dict[str, int]) -> list[str]:
    """Those with the most events; none where there is a single one."""
    return most_frequent(counts, MAX_TYPES) if len(counts) > 1 else []


def type_counts(count: Count, before: datetime, min_users: int) -> dict[str, int]:
    """How many events of the training history have each type, as a word.

    Types of fewer than `min_users` users are not among them: aggregates, and with them whatever is published, name no
    rare value.
    """
    past = f"FROM log WHERE event_time < {timestamp(before)}"
    counts = count(
        f"""SELECT {word("event_type")} AS type_word, CAST(sum(n) AS BIGINT)
            FROM (SELECT event_type, count(*) AS n {past} GROUP BY event_type)
            WHERE type_word <> '' GROUP BY type_word"""
    )
    users = count(
        f"""SELECT type_word, count(*) FROM (SELECT DISTINCT user_id, {word("event_type")} AS type_word
                                             FROM (SELECT DISTINCT user_id, event_type {past}))
            GROUP BY type_word"""
    )
    return {name: events for name, events in counts.items() if users[name] >= min_users}


def class_values(field: str, types: dict[str, str]) -> str:
    """SQL of each value of a `which` label's column, a row each where the column holds lists."""
    if types[field].endswith("]"):
        return f"unnest(list_distinct(CAST({identifier(field)} AS VARCHAR[])))"
    return f"CAST({identifier(field)} AS VARCHAR)"


def load_classes(con: duckdb.DuckDBPyConnection, history: History, features: Features) -> None:
    """Read `History.classes` of the users in the relation `rows`, whose history this is; see `Features.classes`."""
    con.register("users", pa.table({"user_id": history.users, "row": np.arange(len(history.users))}))
    assert features.class_field is not None, "as there are classes"
    known = text_list(features.classes)
    found = con.sql(
        f"""SELECT row, epoch_us(event_time) AS time, CAST(list_position({known}, value) - 1 AS BIGINT) AS class
            FROM (SELECT user_id, event_time, {class_values(features.class_field, features.types)} AS value
                  FROM rows WHERE ({features.target}\n)) JOIN users USING (user_id)
            WHERE list_contains({known}, value) ORDER BY time"""
    ).to_arrow_table()
    con.unregister("users")
    history.classes = tuple(combined(found[name]).to_numpy() for name in ("row", "time", "class"))


def class_codes(features: Features) -> str:
    """SQL over an event: the numbers of the classes that `load_classes` finds in it, a list."""
    assert features.class_field is not None, "as there are classes"
    known, column = text_list(features.classes), f"CAST({identifier(features.class_field)} AS VARCHAR"
    many = features.types[features.class_field].endswith("]")
    values = f"list_distinct({column}[]))" if many else f"[{column})]"
    positions = f"[list_position({known}, value) - 1 FOR value IN {values} IF list_contains({known}, value)]"
    return f"CAST(CASE WHEN ({features.target}\n) THEN {positions} ELSE [] END AS BIGINT[])"


@cache
def plain(name: str) -> str:
    """A column's name of letters, digits and underscores, as texts and aggregates show it."""
    return re.sub(r"\W+", "_", name.lower()).strip("_") or "unnamed"
