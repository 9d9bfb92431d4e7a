"""What is predicted, for whom and when: labels, populations, cutoffs, and the rules that keep the future out."""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Literal

import duckdb
import numpy as np

from data_prep import InputError
from data_prep.events import REQUIRED, Count, EventLog, most_frequent
from data_prep.features import class_values
from data_prep.history import MILLION, TOO_LARGE, History, exact, microseconds, running
from data_prep.sql import condition, identifier, parse_expression, quote, refused, timestamp
from data_prep.times import NUMERIC

SPLITS = ("train", "validation", "test")
LABEL_NAMES = {"absent": "churn", "exists": "purchase", "sum": "value", "count": "count", "which": "propensity"}


@dataclass
class Label:
    """The question asked at every cutoff, about the matching events in [cutoff, cutoff + horizon)."""

    kind: Literal["absent", "exists", "sum", "count", "which"]
    """absent: 1 if no event matches (churn). exists: 1 if one does (purchase, response). count: how many match. sum:
    the sum of `field` over them (value). which: for each of the `top` values of `field`, 1 if a matching event has it
    (propensity)."""
    where: str
    """SQL condition over an event's columns, such as: event_type = 'purchase' AND value > 0."""
    horizon: str
    """Length of the label window: a number of minutes, hours, days or weeks, such as 14 days."""
    field: str | None = None
    """sum: the column of numbers that is added up. which: the column of categories (or of lists of them)."""
    tiers: list[float] | None = None
    """sum and count: the label is the number of these limits that the value exceeds: [0, 50, 200] gives the classes
    none, up to 50, up to 200 and more. Without it the label is the value itself."""
    top: int | None = None
    """which: the number of classes, the most frequent values of `field` among the matching events in the training
    label windows."""
    name: str | None = None
    """What is predicted, in reports and id2label. Default: churn (absent), purchase (exists), value (sum), count,
    propensity (which)."""


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


def check_task(con: duckdb.DuckDBPyConnection, count: Count, task: TaskConfig, types: dict[str, str]) -> None:
    """Refuse a label or a population that the log cannot answer.

    Args:
        con: To parse SQL with.
        count: Counts over the relation `log` of all events.
        task: What is asked.
        types: Field of the log -> DuckDB type.

    Raises:
        InputError: A setting is missing or too much, or a condition is refused by DuckDB, looks at other events, or is
            satisfied by no event.
    """
    label = task.label
    _check_label(label, types)
    for setting, where in (("task.label.where", label.where), ("task.population.where", task.population.where)):
        remedy = "write a condition over the columns of one event"
        parse_expression(con, setting, where, remedy, lambda: [*REQUIRED, *types])
        with refused(setting, remedy):
            found = count(f"SELECT 'found', count(*) FILTER (WHERE ({where}\n)) FROM (SELECT * FROM log)")
        if not found["found"]:
            raise InputError(f"{setting}: no event of the log satisfies {where}; check its names and values")
    if label.kind == "sum":
        value = f"abs(CAST({identifier(label.field)} AS DOUBLE))"
        inexact = f"{value} >= {TOO_LARGE} OR {value} > 0 AND {value} < 1 / {MILLION}"
        found = count(f"SELECT 'found', count(*) FROM log WHERE ({label.where}\n) AND ({inexact})")["found"]
        if found:
            raise InputError(
                f"task.label.field: {found:,} values of {label.field} are 10^10 or more, or less than a millionth, and "
                f"could not be added up exactly; scale them in the source, for example {label.field} / 1000"
            )


def _check_label(label: Label, types: dict[str, str]) -> None:
    """Refuse settings that are missing, that the kind of label has not, or that do not fit the log's columns."""
    for name, kinds in (("field", ("sum", "which")), ("tiers", ("sum", "count")), ("top", ("which",))):
        given, setting = getattr(label, name) is not None, f"task.label.{name}"
        if given and label.kind not in kinds:
            raise InputError(f"{setting} belongs to {' and '.join(kinds)}; leave it out where kind is {label.kind}")
        if not given and label.kind in kinds and name != "tiers":
            raise InputError(f"{setting} is missing; kind {label.kind} needs it")
    if label.field is not None:
        kind = types.get(label.field)
        if kind is None:
            raise InputError(f"task.label.field: the log has no column '{label.field}'; it has {', '.join(types)}")
        if label.kind == "sum" and not NUMERIC.fullmatch(kind):
            raise InputError(
                f"task.label.field: a sum needs numbers, but '{label.field}' is {kind}; cast it in the source, for "
                f"example CAST({label.field} AS DOUBLE)"
            )
    if label.tiers is not None and (
        not label.tiers or sorted(set(label.tiers)) != label.tiers or not np.isfinite(label.tiers).all()
    ):
        raise InputError(f"task.label.tiers: {label.tiers} are not limits in ascending order; write [0, 50, 200]")
    if label.top is not None and label.top < 1:
        raise InputError(f"task.label.top is {label.top}; give a number above zero")


def check_loaded(path: Path, task: dict, types: dict[str, str]) -> None:
    """Refuse a task that was read back and that `check_task` would not have let pass: its conditions go into SQL.

    Args:
        path: Where it was read, for messages.
        task: With label and population.
        types: Column of an event -> DuckDB type, by `check_types`.

    Raises:
        InputError: A condition or a length of time is none.
        KeyError, TypeError: Something is missing, or there is too much of it.
    """
    label, population = Label(**task["label"]), Population(**task["population"])
    nothing = ", ".join(f"CAST(NULL AS {kind}) AS {identifier(name)}" for name, kind in types.items())
    with duckdb.connect() as con:
        for part, where in (("label", label.where), ("population", population.where)):
            setting, remedy = f"{path}: task.{part}.where", "the file is damaged or forged; run scripts/train.py again"
            parse_expression(con, setting, where, remedy, lambda: types)
            with refused(setting, remedy):
                con.execute(f"SELECT {condition(where)} FROM (SELECT {nothing})")
    parse_duration(label.horizon, f"{path}: task.label.horizon")
    parse_duration(population.within, f"{path}: task.population.within")


def doubtful_windows(count: Count, task: TaskConfig, cutoffs: dict[str, list[datetime]]) -> list[str]:
    """A sentence for each label window in whose last quarter (or day) nobody has a matching event.

    The log, or the source of these events, may end there: the window would not be complete.
    """
    horizon = parse_duration(task.label.horizon, "task.label.horizon")
    ends = {show(cutoff): cutoff + horizon for split in SPLITS for cutoff in cutoffs[split]}
    counts = count(
        " UNION ALL ".join(
            f"""SELECT {quote(name)}, count(*) FROM log WHERE ({task.label.where}
                ) AND event_time >= {timestamp(end - max(horizon / 4, timedelta(days=1)))}
                  AND event_time < {timestamp(end)}"""
            for name, end in ends.items()
        )
    )
    return [
        f"no event with {task.label.where} at the end of the label window {name} to {show(end)}; is the log complete?"
        for name, end in ends.items()
        if not counts[name]
    ]


def fit_classes(count: Count, task: TaskConfig, types: dict[str, str], cutoffs: list[datetime]) -> list[str] | None:
    """The classes of a `which` label, from the training label windows alone; None for other labels.

    Args:
        count: Counts over the relation `log` of all events.
        task: What is asked.
        types: Field of the log -> DuckDB type.
        cutoffs: The training cutoffs.

    Raises:
        InputError: No matching event of the training windows has a value.
    """
    if task.label.kind != "which":
        return None
    horizon = parse_duration(task.label.horizon, "task.label.horizon")
    inside = " OR ".join(
        f"(event_time >= {timestamp(cutoff)} AND event_time < {timestamp(cutoff + horizon)})" for cutoff in cutoffs
    )
    counts = count(
        f"""SELECT value, count(*) FROM (SELECT {class_values(task.label.field, types)} AS value FROM log
                                         WHERE ({task.label.where}\n) AND ({inside}))
            WHERE value <> '' GROUP BY value"""
    )
    if not counts:
        raise InputError(
            f"task.label.field: no event with {task.label.where} in the training label windows has a "
            f"{task.label.field}; choose another column or other cutoffs"
        )
    return most_frequent(counts, task.label.top)


class LabelRule:
    """Who is asked and what is answered; `Labels` gives both for the users of a history.

    Args:
        task: What is asked.
        types: Field of the log -> DuckDB type.
        classes: See `fit_classes`.
    """

    def __init__(self, task: TaskConfig, types: dict[str, str], classes: list[str] | None) -> None:
        self.label, self.population, self.types, self.classes = task.label, task.population, types, classes
        self.horizon = microseconds(parse_duration(task.label.horizon, "task.label.horizon"))
        self.within = microseconds(parse_duration(task.population.within, "task.population.within"))

    def columns(self) -> dict[str, str]:
        """Name -> SQL over an event: what `load_history` reads for the labels, beside `target`."""
        sql = {"member": condition(self.population.where)}
        if self.label.kind == "sum":
            sql["amount"] = f"CAST({identifier(self.label.field)} AS DOUBLE)"
        return sql


class Labels:
    """The population and the labels of a history's users at any cutoff."""

    def __init__(self, rule: LabelRule, history: History) -> None:
        self.rule, self.history = rule, history
        target = history.columns["target"].to_numpy()
        self.target, self.member = running(target), running(history.columns["member"].to_numpy())
        if rule.label.kind == "sum":
            amounts, known = exact(history.columns["amount"])
            self.amounts = running(np.where(known & (target > 0), amounts, 0))

    def users(self, cutoff: int) -> np.ndarray:
        """Indices of the users with a matching event in [cutoff - within, cutoff); times in microseconds."""
        return self.history.having(self.member, cutoff - self.rule.within, cutoff)

    def at(self, cutoff: int, users: np.ndarray) -> np.ndarray:
        """The labels of some users, from events in [cutoff, cutoff + horizon) alone.

        Returns:
            Of shape (users,): int64, or float64 for a sum without tiers; for `which` int8 of shape (users, classes).
        """
        label, end = self.rule.label, cutoff + self.rule.horizon
        if self.rule.classes:
            row, time, code = self.history.classes
            inside = (time >= cutoff) & (time < end)
            everyone = np.zeros((len(self.history.users), len(self.rule.classes)), np.int8)
            everyone[row[inside], code[inside]] = 1
            return everyone[users]
        low, high = self.history.first_at(cutoff)[users], self.history.first_at(end)[users]
        count = (self.target[high] - self.target[low]).astype(np.int64)
        if label.kind in ("absent", "exists"):
            return ((count > 0) == (label.kind == "exists")).astype(np.int64)
        value = count if label.kind == "count" else (self.amounts[high] - self.amounts[low]) / MILLION
        return value if label.tiers is None else np.searchsorted(label.tiers, value, side="left")


def class_names(label: Label, classes: list[str] | None) -> list[str] | None:
    """What each class is called: two for yes-or-no labels, one for each tier or each value; None for numbers."""
    if label.kind in ("absent", "exists"):
        return [f"no_{label_name(label)}", label_name(label)]
    if label.tiers is None:
        return classes
    limits = [f"{limit:g}" for limit in label.tiers]
    between = [f"above {low} to {high}" for low, high in pairwise(limits)]
    return [f"up to {limits[0]}", *between, f"above {limits[-1]}"]


def describe_labels(labels: np.ndarray, rows: int, names: list[str] | None, split: str, task: TaskConfig) -> dict:
    """What the labels of a split are like, for the manifest.

    Args:
        labels: Of shape (rows,); for `which` the rows of each class, in parts of shape (parts, classes).
        rows: Their number.
        names: See `class_names`.
        split: For the message.
        task: What is asked.

    Returns:
        For yes-or-no labels positives and positive_rate; for tiers and `which` the rows of each class; for numbers
        mean, deviation, the share above zero and quantiles.

    Raises:
        InputError: All labels are the same.
    """
    if labels.ndim == 2:
        labels = labels.sum(axis=0)
        same = set(labels.tolist()) <= {0, rows}
    else:
        same = (labels == labels[0]).all()
    if same:
        raise InputError(
            f"task: all {rows:,} examples of {split} have the label {labels[0]:g}, so there is nothing to learn or to "
            f"measure; change the horizon ({task.label.horizon}), the condition or the cutoffs"
        )
    if task.label.kind == "which":
        return {"classes": dict(zip(names, labels.tolist(), strict=True))}
    if names is None:
        quantiles = np.quantile(labels, [0.1, 0.25, 0.5, 0.75, 0.9, 0.99])
        return {
            "mean": float(labels.mean()),
            "deviation": float(labels.std()),
            "share_above_zero": float((labels > 0).mean()),
            "quantiles": dict(zip(("10 %", "25 %", "50 %", "75 %", "90 %", "99 %"), quantiles.tolist(), strict=True)),
        }
    if len(names) > 2 or task.label.tiers is not None:
        return {"classes": dict(zip(names, np.bincount(labels, minlength=len(names)).tolist(), strict=True))}
    return {"positives": int(labels.sum()), "positive_rate": round(float(labels.mean()), 6)}


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


def label_name(label: Label) -> str:
    """What is predicted, in one word; for yes-or-no labels, what a label of 1 is called."""
    return label.name or LABEL_NAMES[label.kind]


def question(task: TaskConfig) -> str:
    """The task in one sentence, for reports and cards."""
    label, who = task.label, f"users with {an_event(task.population)} in the {task.population.within} before the cutoff"
    event, window = f"with {label.where}", f"in the {label.horizon} after it"
    if label.kind in ("absent", "exists"):
        verb = {"absent": "have no event", "exists": "have an event"}[label.kind]
        return f"Which {who} will {verb} {event} {window}?"
    if label.kind == "which":
        return f"Which values of {label.field} will the events {event} of {who} have {window}?"
    if label.kind == "count":
        return f"How many events {event} will {who} have {window}?"
    return f"To what will {label.field} add up over the events {event} of {who} {window}?"


def an_event(population: Population) -> str:
    """What a user of the population has before a cutoff."""
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
