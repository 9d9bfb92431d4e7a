"""What is predicted, for whom and when: labels, populations, cutoffs, and the rules that keep the future out."""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import duckdb

from data_prep import InputError
from data_prep.events import EventLog, quote, refused

SPLITS = ("train", "validation", "test")
LABEL_NAMES = {"absent": "churn", "exists": "purchase"}


@dataclass
class Label:
    """The question asked at every cutoff, about the events in [cutoff, cutoff + horizon)."""

    kind: Literal["absent", "exists"]
    """absent: 1 if no event satisfies `where` in the window (churn). exists: 1 if one does (purchase, response)."""
    where: str
    """SQL condition over an event's columns, such as: event_type = 'purchase' AND value > 0."""
    horizon: str
    """Length of the label window: a number of minutes, hours, days or weeks, such as 14 days."""
    name: str | None = None
    """What a label of 1 is called, in reports and id2label. Default: churn (absent), purchase (exists)."""


@dataclass
class Population:
    """The users who are asked about at a cutoff: those with a matching event in [cutoff - within, cutoff)."""

    within: str
    """How far the look-back reaches, such as 28 days."""
    where: str = "true"
    """SQL condition over an event's columns; by default any event counts."""


@dataclass
class CutoffRange:
    """Cutoffs at equal steps."""

    first: str
    """First cutoff, such as 2024-01-01."""
    last: str
    """No cutoff lies after this one."""
    every: str
    """The step, such as 7 days."""


@dataclass
class Cutoffs:
    """The moments of prediction of each split, as dates or times in UTC, or as a range with a step."""

    train: CutoffRange | list[str]
    """10 to 20 training cutoffs teach much more than one; their label windows may overlap."""
    validation: CutoffRange | list[str]
    """After every training label window has ended."""
    test: CutoffRange | list[str]
    """After every validation label window has ended."""


@dataclass
class TaskConfig:
    """The prediction task."""

    label: Label
    """The question."""
    population: Population
    """The users it is asked about."""
    cutoffs: Cutoffs
    """The moments at which it is asked."""


def resolve_cutoffs(task: TaskConfig, log: EventLog) -> dict[str, list[datetime]]:
    """The cutoffs of each split, in order, after every leakage rule has been checked.

    Rules: a training label window ends no later than the first validation cutoff; a validation window no later than
    the first test cutoff; every cutoff lies after the first event and every label window ends within the log (the day
    of its last event counts as complete).

    Raises:
        InputError: A rule is broken; the message has the dates.
    """
    horizon = parse_duration(task.label.horizon, "task.label.horizon")
    parse_duration(task.population.within, "task.population.within")
    cutoffs = {split: _parse_cutoffs(getattr(task.cutoffs, split), f"task.cutoffs.{split}") for split in SPLITS}
    for earlier, later in (("train", "validation"), ("validation", "test")):
        end, start = cutoffs[earlier][-1] + horizon, cutoffs[later][0]
        if end > start:
            raise InputError(
                f"task.cutoffs: the label window of the last {earlier} cutoff {show(cutoffs[earlier][-1])} ends on "
                f"{show(end)}, after the first {later} cutoff {show(start)}; move {later} to {show(end)} or later, "
                f"or end {earlier} at {show(start - horizon)}"
            )
    log_end = log.last.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    for split in SPLITS:
        for cutoff in cutoffs[split]:
            if cutoff <= log.first:
                raise InputError(
                    f"task.cutoffs.{split}: the cutoff {show(cutoff)} is not after the log's first event "
                    f"({show(log.first)}), so there is no history; choose a later one"
                )
            if cutoff + horizon > log_end:
                raise InputError(
                    f"task.cutoffs.{split}: the label window of the cutoff {show(cutoff)} ends on "
                    f"{show(cutoff + horizon)}, but the log ends on {show(log.last)}; choose a cutoff no later than "
                    f"{show(log_end - horizon)}"
                )
    return cutoffs


def label_examples(
    con: duckdb.DuckDBPyConnection, task: TaskConfig, cutoffs: dict[str, list[datetime]]
) -> dict[str, dict[str, int]]:
    """Make the table `examples` (user_id, cutoff, split, label) from `events`.

    Returns:
        For each split its rows, positives and users.

    Raises:
        InputError: A condition that DuckDB refuses, nobody in the population at a cutoff, or a split of one class.
    """
    label, population = task.label, task.population
    for setting, where in (("task.label.where", label.where), ("task.population.where", population.where)):
        with refused(setting, "write a condition over the columns of one event"):
            parsed = con.execute("SELECT json_serialize_sql(?)", [f"SELECT 1 WHERE ({where}\n)"]).fetchone()[0]
            found = con.execute(f"SELECT count(*) FILTER (WHERE ({where}\n)) FROM events").fetchone()[0]
        if '"class":"SUBQUERY"' in parsed:
            raise InputError(
                f"{setting}: {where} contains a SELECT, which could look at later events; compute what it needs as a "
                f"column in data.sources"
            )
        if not found:
            raise InputError(f"{setting}: no event of the log satisfies {where}; check its names and values")
    horizon = parse_duration(label.horizon, "task.label.horizon")
    within = parse_duration(population.within, "task.population.within")
    con.execute("CREATE TEMP TABLE examples (user_id VARCHAR, cutoff TIMESTAMP, split VARCHAR, label TINYINT)")
    for split in SPLITS:
        for cutoff in cutoffs[split]:
            start, end = timestamp(cutoff), timestamp(cutoff + horizon)
            con.execute(
                f"""INSERT INTO examples
                    SELECT user_id, {start}, '{split}', CAST((user_id {"NOT " * (label.kind == "absent")}IN (
                        SELECT user_id FROM events
                        WHERE event_time >= {start} AND event_time < {end} AND ({label.where}
                        ))) AS TINYINT)
                    FROM (SELECT DISTINCT user_id FROM events
                          WHERE event_time >= {timestamp(cutoff - within)} AND event_time < {start}
                            AND ({population.where}
                            ))"""
            )
            if not con.execute(f"SELECT count(*) FROM examples WHERE cutoff = {start}").fetchone()[0]:
                raise InputError(
                    f"task.population: nobody has {_an_event(population)} in the {population.within} before the "
                    f"{split} cutoff {show(cutoff)}; widen `within` or move the cutoff"
                )
    counts = {}
    for split in SPLITS:
        rows, positives, users = con.execute(
            f"""SELECT count(*), CAST(sum(label) AS BIGINT), count(DISTINCT user_id)
                FROM examples WHERE split = '{split}'"""
        ).fetchone()
        counts[split] = {"rows": rows, "positives": positives, "users": users}
        if positives in (0, rows):
            raise InputError(
                f"task: all {rows:,} examples of {split} have the label {int(positives > 0)}, so there is nothing to "
                f"learn or to measure; change the horizon ({label.horizon}), the condition or the cutoffs"
            )
    return counts


def parse_duration(text: str, setting: str) -> timedelta:
    """14 days -> timedelta; raises InputError where the text is no such length."""
    match = re.fullmatch(r"\s*(\d{1,8})\s*(minute|hour|day|week)s?\s*", str(text))
    length = timedelta(**{match[2] + "s": int(match[1])}) if match else timedelta()
    if not timedelta() < length <= timedelta(days=36500):
        raise InputError(
            f"{setting}: '{text}' is not a length above zero and below 100 years; write minutes, hours, days or weeks: "
            f"14 days"
        )
    return length


def show(moment: datetime) -> str:
    """A date, with the time where it is not midnight."""
    return moment.strftime("%Y-%m-%d" if (moment.hour, moment.minute, moment.second) == (0, 0, 0) else "%Y-%m-%d %H:%M")


def timestamp(moment: datetime) -> str:
    """A timestamp literal for SQL."""
    return f"TIMESTAMP {quote(moment.isoformat(sep=' '))}"


def label_name(label: Label) -> str:
    """What a label of 1 is called."""
    return label.name or LABEL_NAMES[label.kind]


def question(task: TaskConfig) -> str:
    """The task in one sentence, for reports and cards."""
    verb = {"absent": "have no event", "exists": "have an event"}[task.label.kind]
    return (
        f"Which users with {_an_event(task.population)} in the {task.population.within} before the cutoff will {verb} "
        f"with {task.label.where} in the {task.label.horizon} after it?"
    )


def _an_event(population: Population) -> str:
    return "an event" if population.where == "true" else f"an event with {population.where}"


def _parse_cutoffs(value: CutoffRange | list[str], setting: str) -> list[datetime]:
    if isinstance(value, CutoffRange):
        first, last = _parse_moment(value.first, f"{setting}.first"), _parse_moment(value.last, f"{setting}.last")
        step = parse_duration(value.every, f"{setting}.every")
        if last < first:
            raise InputError(f"{setting}: last ({show(last)}) is before first ({show(first)})")
        return [first + i * step for i in range((last - first) // step + 1)]
    if not value:
        raise InputError(f"{setting} is empty; give at least one date")
    return sorted({_parse_moment(text, setting) for text in value})


def _parse_moment(text: str, setting: str) -> datetime:
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        raise InputError(f"{setting}: '{text}' is not a date; write 2024-01-31 or 2024-01-31 12:00") from None
    if not 1900 <= moment.year < 2200:
        raise InputError(f"{setting}: '{text}' is not a date between 1900 and 2199; correct the year")
    if moment.tzinfo is not None:
        raise InputError(f"{setting}: '{text}' carries a time zone; cutoffs are in UTC, write it without one")
    return moment
