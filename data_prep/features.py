"""Aggregates of each example's history: the baselines' input, and the words of the text's header.

Every aggregate is a function of the events strictly before the cutoff, and exact: numbers are summed as decimals and
gaps as integers, so that neither the order of the rows nor the number of threads changes a bit.
"""

import re
from datetime import datetime

import duckdb

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
        if "bins" in spec:
            kinds[name] = "numeric"
        elif "words" in spec:
            kinds[name] = "text"
        elif "top" in spec:
            kinds[name] = "categorical"
        else:  # whole numbers that nobody called a quantity are mostly ids
            kinds[name] = "numeric" if re.fullmatch(r"FLOAT|DOUBLE|DECIMAL.*", kind) else "categorical"
    return kinds


def add_history_columns(con: duckdb.DuckDBPyConnection, target: str) -> None:
    """Make the table `history`: `events` with what each event adds to its user's past; nothing in it looks ahead.

    Args:
        target: SQL condition of the events that the label is about.

    Columns added: is_target; gap_days, whole days since the previous event; day_gap, days since the previous active
    day, on a day's first event only; new_day, whether it is that; and the same for target events.
    """
    con.execute(
        f"""CREATE TEMP TABLE history AS
            WITH flagged AS (
                SELECT *, coalesce({target}, false) AS is_target, CAST(event_time AS DATE) AS day FROM events),
            lagged AS (
                SELECT *, lag(event_time) OVER everything AS previous_time, lag(day) OVER everything AS previous_day,
                       CASE WHEN is_target THEN lag(day) OVER same_kind END AS previous_target_day
                FROM flagged
                WINDOW everything AS (PARTITION BY user_id ORDER BY position),
                       same_kind AS (PARTITION BY user_id, is_target ORDER BY position))
            SELECT * EXCLUDE (previous_time, previous_day, previous_target_day),
                   CAST(floor((epoch_us(event_time) - epoch_us(previous_time)) / 86400000000) AS INTEGER) AS gap_days,
                   day IS DISTINCT FROM previous_day AS new_day,
                   nullif(date_diff('day', previous_day, day), 0) AS day_gap,
                   is_target AND day IS DISTINCT FROM previous_target_day AS new_target_day,
                   nullif(date_diff('day', previous_target_day, day), 0) AS target_day_gap
            FROM lagged"""
    )


def aggregate_names(kinds: dict[str, str], event_types: list[str]) -> list[str]:
    """The names of all aggregates, in the order of the columns."""
    return [*_simple_aggregates(kinds, event_types), *_ratios(kinds)]


def frequent_types(con: duckdb.DuckDBPyConnection, before: datetime) -> list[str]:
    """The most frequent event types of the training history, none where the log has a single one."""
    rows = con.execute(
        f"""SELECT event_type FROM events WHERE event_time < {timestamp(before)}
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
            SELECT *, (epoch_us({at}) - epoch_us(event_time)) / 86400000000 AS age FROM history
            WHERE event_time < {at} AND user_id IN (SELECT user_id FROM examples WHERE cutoff = {at}))
        GROUP BY user_id)"""


def _simple_aggregates(kinds: dict[str, str], event_types: list[str]) -> dict[str, str]:
    """Name -> SQL over the history of one user with `age` in days."""
    sql = {}
    for prefix, when in (("", "true"), ("target_", "is_target")):
        sql[f"{prefix}recency_days"] = f"min(age) FILTER (WHERE {when})"
        sql[f"{prefix}tenure_days"] = f"max(age) FILTER (WHERE {when})"
        counted = prefix.rstrip("_") or "events"
        sql[counted] = f"count(*) FILTER (WHERE {when})"
        for w in WINDOWS:
            sql[f"{counted}_{w}d"] = f"count(*) FILTER (WHERE {when} AND age <= {w})"
        new_day = f"new_{prefix}day"
        sql[f"{prefix}active_days"] = f"count(*) FILTER (WHERE {new_day})"
        for w in WINDOWS:
            sql[f"{prefix}active_days_{w}d"] = f"count(*) FILTER (WHERE {new_day} AND age <= {w})"
        gap = f"{prefix}day_gap"
        sql[f"{prefix}gap_mean"] = f"avg({gap})"
        # From exact sums: the usual running update depends on the order of the rows in its last bits.
        sql[f"{prefix}gap_std"] = f"sqrt(greatest(avg({gap} * {gap}) - avg({gap}) * avg({gap}), 0))"
        sql[f"{prefix}gap_median"] = f"quantile_cont({gap}, 0.5)"
        sql[f"{prefix}gap_q90"] = f"quantile_cont({gap}, 0.9)"
        sql[f"{prefix}gap_max"] = f"max({gap})"
        sql[f"{prefix}gap_last"] = f"max_by({gap}, position) FILTER (WHERE {gap} IS NOT NULL)"
        sql[f"{prefix}gap_last3"] = f"list_avg(max_by({gap}, position, 3) FILTER (WHERE {gap} IS NOT NULL))"
    for event_type in event_types:
        when, name = f"event_type = {quote(event_type)}", _plain(event_type)
        sql[f"type_{name}_recency_days"] = f"min(age) FILTER (WHERE {when})"
        for w in WINDOWS:
            sql[f"type_{name}_{w}d"] = f"count(*) FILTER (WHERE {when} AND age <= {w})"
    for field, kind in kinds.items():
        name, column = _plain(field), identifier(field)
        if kind == "numeric":
            value = f"try_cast({column} AS DECIMAL(18, 4))"
            for suffix, when in (("", "true"), *((f"_{w}d", f"age <= {w}") for w in WINDOWS)):
                sql[f"{name}_sum{suffix}"] = f"CAST(coalesce(sum({value}) FILTER (WHERE {when}), 0) AS DOUBLE)"
                total, count = (f"{f}({value}) FILTER (WHERE {when})" for f in ("sum", "count"))
                sql[f"{name}_mean{suffix}"] = f"CAST({total} AS DOUBLE) / nullif({count}, 0)"
            sql[f"{name}_max"] = f"CAST(max({value}) AS DOUBLE)"
            sql[f"{name}_last"] = f"CAST(max_by({value}, position) FILTER (WHERE {value} IS NOT NULL) AS DOUBLE)"
        elif kind == "categorical":
            for suffix, when in (("", "true"), ("_28d", "age <= 28"), ("_84d", "age <= 84")):
                sql[f"{name}_distinct{suffix}"] = f"count(DISTINCT {column}) FILTER (WHERE {when})"
    sql["weekend_share"] = "avg(CAST(isodow(day) >= 6 AS INTEGER))"
    sql["hour_mean"] = "avg(hour(event_time))"
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
    counted = ["events", "target", *(f"{_plain(name)}_sum" for name, kind in kinds.items() if kind == "numeric")]
    for name in counted:
        for short, long in ((14, 28), (28, 56), (28, 84)):
            sql[f"{name}_trend_{short}_{long}"] = (
                f"{identifier(f'{name}_{short}d')} / nullif({identifier(f'{name}_{long}d')}, 0)"
            )
    return sql


def _plain(name: str) -> str:
    """A name of letters, digits and underscores."""
    return re.sub(r"\W+", "_", name.strip().lower()).strip("_") or "unnamed"
