"""Aggregates of each example's history: the baselines' input, and the words of the text's header.

Every aggregate is a function of the events strictly before the cutoff, and exact: numbers are summed as decimals and
gaps as integers, so that neither the order of the rows nor the number of threads changes a bit.
"""

import re
from datetime import datetime

import duckdb

from data_prep import InputError
from data_prep.events import identifier, quote
from data_prep.task import timestamp

WINDOWS = (7, 14, 28, 56, 84)  # days
MAX_TYPES = 10  # event types with counts of their own

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
    "value": ("{field}_sum", "{field}_mean"),
}


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


def add_history_columns(con: duckdb.DuckDBPyConnection, target: str) -> None:
    """Make the table `history`: `events` with what each event adds to its user's past; nothing in it looks ahead.

    Args:
        target: SQL condition of the events that the label is about.

    Columns added: is_target; type_word, the event type as a word; event_day; gap_days, whole days since the previous
    event; day_gap, days since the previous active day, on a day's first event only; new_day, whether it is that; and
    the same for target events.
    """
    con.execute(
        f"""CREATE TEMP TABLE history AS
            WITH flagged AS (
                SELECT *, coalesce(CAST(({target}
                       ) AS BOOLEAN), false) AS is_target, {word("event_type")} AS type_word,
                       CAST(event_time AS DATE) AS event_day FROM events),
            lagged AS (
                SELECT *, lag(event_time) OVER everything AS previous_time,
                       lag(event_day) OVER everything AS previous_day,
                       CASE WHEN is_target THEN lag(event_day) OVER same_kind END AS previous_target_day
                FROM flagged
                WINDOW everything AS (PARTITION BY user_id ORDER BY position),
                       same_kind AS (PARTITION BY user_id, is_target ORDER BY position))
            SELECT * EXCLUDE (previous_time, previous_day, previous_target_day),
                   CAST(floor((epoch_us(event_time) - epoch_us(previous_time)) / 86400000000) AS INTEGER) AS gap_days,
                   event_day IS DISTINCT FROM previous_day AS new_day,
                   nullif(date_diff('day', previous_day, event_day), 0) AS day_gap,
                   is_target AND event_day IS DISTINCT FROM previous_target_day AS new_target_day,
                   nullif(date_diff('day', previous_target_day, event_day), 0) AS target_day_gap
            FROM lagged"""
    )


def aggregate_names(kinds: dict[str, str], event_types: list[str]) -> list[str]:
    """The names of all aggregates, in the order of the columns.

    Raises:
        InputError: A column whose aggregates would have the names of others.
    """
    names = [*_history_aggregates(), *_type_aggregates(event_types), *_ratios({})]
    for field, kind in kinds.items():
        own = _field_aggregates(field, kind)
        taken = [name for name in own if name in names]
        if taken:
            raise InputError(
                f"data.sources: the column '{field}' would give an aggregate {taken[0]}, a name that is already taken; "
                f"give the column another name"
            )
        names += own
    return [*_simple_aggregates(kinds, event_types), *_ratios(kinds)]


def frequent_types(con: duckdb.DuckDBPyConnection, before: datetime) -> list[str]:
    """The most frequent event types of the training history, as words; none where the log has a single one."""
    rows = con.execute(
        f"""SELECT {word("event_type")} AS type_word FROM events
            WHERE event_time < {timestamp(before)} AND type_word <> ''
            GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT {MAX_TYPES}"""
    ).fetchall()
    return [row[0] for row in rows] if len(rows) > 1 else []


def aggregates_query(cutoff: datetime, kinds: dict[str, str], event_types: list[str]) -> str:
    """A SELECT of user_id and every aggregate at one cutoff, for the users in `examples` at that cutoff."""
    at = timestamp(cutoff)
    simple = ",\n".join(f"{sql} AS {identifier(name)}" for name, sql in _simple_aggregates(kinds, event_types).items())
    ratios = ",\n".join(f"{sql} AS {identifier(name)}" for name, sql in _ratios(kinds).items())
    return f"""SELECT *, {ratios} FROM (
        SELECT user_id, {simple} FROM (
            SELECT *, (epoch_us({at}) - epoch_us(event_time)) / 86400000000 AS event_age FROM history
            WHERE event_time < {at} AND user_id IN (SELECT user_id FROM examples WHERE cutoff = {at}))
        GROUP BY user_id)"""


def word(text: str) -> str:
    """SQL that makes one word of a text: 'Frozen Food' -> 'frozen_food'."""
    return rf"trim(regexp_replace(lower({text}), '[^\pL\pM\pN]+', '_', 'g'), '_')"


def plain(name: str) -> str:
    """A column's name of letters, digits and underscores, as texts and aggregates show it."""
    return re.sub(r"\W+", "_", name.lower()).strip("_") or "unnamed"


def _simple_aggregates(kinds: dict[str, str], event_types: list[str]) -> dict[str, str]:
    """Name -> SQL over the history of one user with `event_age` in days."""
    sql = _history_aggregates() | _type_aggregates(event_types)
    for field, kind in kinds.items():
        sql |= _field_aggregates(field, kind)
    return sql


def _history_aggregates() -> dict[str, str]:
    sql = {}
    for prefix, when in (("", "true"), ("target_", "is_target")):
        sql[f"{prefix}recency_days"] = f"min(event_age) FILTER (WHERE {when})"
        sql[f"{prefix}tenure_days"] = f"max(event_age) FILTER (WHERE {when})"
        counted = prefix.rstrip("_") or "events"
        sql[counted] = f"count(*) FILTER (WHERE {when})"
        for w in WINDOWS:
            sql[f"{counted}_{w}d"] = f"count(*) FILTER (WHERE {when} AND event_age <= {w})"
        new_day = f"new_{prefix}day"
        sql[f"{prefix}active_days"] = f"count(*) FILTER (WHERE {new_day})"
        for w in WINDOWS:
            sql[f"{prefix}active_days_{w}d"] = f"count(*) FILTER (WHERE {new_day} AND event_age <= {w})"
        gap = f"{prefix}day_gap"
        sql[f"{prefix}gap_mean"] = f"avg({gap})"
        # From exact sums: the usual running update depends on the order of the rows in its last bits.
        sql[f"{prefix}gap_std"] = f"sqrt(abs(avg({gap} * {gap}) - avg({gap}) * avg({gap})))"
        sql[f"{prefix}gap_median"] = f"quantile_cont({gap}, 0.5)"
        sql[f"{prefix}gap_q90"] = f"quantile_cont({gap}, 0.9)"
        sql[f"{prefix}gap_max"] = f"max({gap})"
        sql[f"{prefix}gap_last"] = f"max_by({gap}, position) FILTER (WHERE {gap} IS NOT NULL)"
        sql[f"{prefix}gap_last3"] = f"list_avg(max_by({gap}, position, 3) FILTER (WHERE {gap} IS NOT NULL))"
    sql["weekend_share"] = "avg(CAST(isodow(event_day) >= 6 AS INTEGER))"
    sql["hour_mean"] = "avg(hour(event_time))"
    return sql


def _type_aggregates(event_types: list[str]) -> dict[str, str]:
    sql = {}
    for name in event_types:
        when = f"type_word = {quote(name)}"
        sql[f"type_{name}_recency_days"] = f"min(event_age) FILTER (WHERE {when})"
        for w in WINDOWS:
            sql[f"type_{name}_{w}d"] = f"count(*) FILTER (WHERE {when} AND event_age <= {w})"
    return sql


def _field_aggregates(field: str, kind: str) -> dict[str, str]:
    sql, name, column = {}, plain(field), identifier(field)
    if kind == "numeric":
        value = f"try_cast({column} AS DECIMAL(18, 4))"
        for suffix, when in (("", "true"), *((f"_{w}d", f"event_age <= {w}") for w in WINDOWS)):
            sql[f"{name}_sum{suffix}"] = f"CAST(coalesce(sum({value}) FILTER (WHERE {when}), 0) AS DOUBLE)"
            total, count = (f"{f}({value}) FILTER (WHERE {when})" for f in ("sum", "count"))
            sql[f"{name}_mean{suffix}"] = f"CAST({total} AS DOUBLE) / nullif({count}, 0)"
        sql[f"{name}_max"] = f"CAST(max({value}) AS DOUBLE)"
        sql[f"{name}_last"] = f"CAST(max_by({value}, position) FILTER (WHERE {value} IS NOT NULL) AS DOUBLE)"
    elif kind == "categorical":
        for suffix, when in (("", "true"), ("_28d", "event_age <= 28"), ("_84d", "event_age <= 84")):
            sql[f"{name}_distinct{suffix}"] = f"count(DISTINCT {column}) FILTER (WHERE {when})"
    return sql


def _ratios(kinds: dict[str, str]) -> dict[str, str]:
    """Name -> SQL over the simple aggregates: trends, rates and how overdue the next event is."""
    sql = {
        "recency_over_gap": "recency_days / nullif(gap_mean, 0)",
        "target_recency_over_gap": "target_recency_days / nullif(target_gap_mean, 0)",
        "recency_over_gap_q90": "recency_days / nullif(gap_q90, 0)",
        "target_recency_over_gap_q90": "target_recency_days / nullif(target_gap_q90, 0)",
        "events_per_day": "events / greatest(tenure_days, 1)",
        "target_per_day": "target / greatest(tenure_days, 1)",
        "gap_last_over_mean": "gap_last / nullif(gap_mean, 0)",
        "target_gap_last_over_mean": "target_gap_last / nullif(target_gap_mean, 0)",
    }
    counted = ["events", "target", *(f"{plain(name)}_sum" for name, kind in kinds.items() if kind == "numeric")]
    for name in counted:
        for short, long in ((14, 28), (28, 56), (28, 84)):
            sql[f"{name}_trend_{short}_{long}"] = (
                f"{identifier(f'{name}_{short}d')} / nullif({identifier(f'{name}_{long}d')}, 0)"
            )
    return sql
