"""The task against the log: whether it can be answered, whether one that was read back is a task, and its question."""

from pathlib import Path

import duckdb

from data_prep import InputError
from data_prep.config import Label, Population, TaskConfig
from data_prep.event_log import REQUIRED, Count
from data_prep.event_words import event_noun, event_phrase, plural
from data_prep.expressions import parse_expression
from data_prep.history import MILLION, TOO_LARGE
from data_prep.labels import check_label, label_horizons
from data_prep.moments import in_words, parse_duration, spelled
from data_prep.population import Whom, an_event
from data_prep.sql import condition, identifier, refused

REMEDY = "write a condition over the columns of one event"


def check_columns(con: duckdb.DuckDBPyConnection, task: TaskConfig, types: dict[str, str]) -> None:
    """Refuse a label or a population that a log of these columns cannot answer, before a row is read.

    Args:
        con: Has a table `log` of the columns, which may be empty.
        task: Label, population and cutoffs.
        types: Field of the log -> DuckDB type.

    Raises:
        InputError: See `check_task`.
    """
    check_label(task.label, types)
    label_horizons(task.label)
    if task.members:
        parse_duration(task.members.within or "", "task.population.within")
    for setting, where in _conditions(task).items():
        parse_expression(con, setting, where, REMEDY, lambda: [*REQUIRED, *types])
        with refused(setting, REMEDY):
            con.execute(f"SELECT count(*) FILTER (WHERE ({where}\n)) FROM (SELECT * FROM log LIMIT 0)")


def _conditions(task: TaskConfig) -> dict[str, str]:
    """Setting -> SQL condition of an event."""
    conditions = {"task.label.where": task.label.where}
    if task.members:
        conditions["task.population.where"] = task.members.where
    if task.at is not None:
        conditions["task.cutoffs.train.at"] = task.at
    return conditions


def check_task(con: duckdb.DuckDBPyConnection, count: Count, task: TaskConfig, types: dict[str, str]) -> None:
    """Refuse a label or a population that the log cannot answer.

    Args:
        con: To parse SQL with.
        count: Counts over the relation `log` of all events.
        task: Label, population and cutoffs.
        types: Field of the log -> DuckDB type.

    Raises:
        InputError: A setting is missing or too much, or a condition is refused by DuckDB, looks at other events, or is
            satisfied by no event.
    """
    label = task.label
    check_label(label, types)
    for setting, where in _conditions(task).items():
        parse_expression(con, setting, where, REMEDY, lambda: [*REQUIRED, *types])
        with refused(setting, REMEDY):
            found = count(f"SELECT 'found', count(*) FILTER (WHERE ({where}\n)) FROM (SELECT * FROM log)")
        if not found["found"]:
            raise InputError(f"no event of the log satisfies {where}", "check its names and values", setting=setting)
    if task.at is not None and getattr(task.cutoffs.train, "gap", None) is None:
        both = count(f"SELECT 'both', count(*) FROM log WHERE ({label.where}\n) AND ({task.at}\n)")["both"]
        if both:
            raise InputError(
                f"{both:,} events with {task.at} are what the label looks for, too, and nothing keeps a cutoff out of "
                f"the label window of the one before it",
                f"set task.cutoffs.*.gap, such as {label.window}, or leave such events out of `at`",
                setting="task.cutoffs.train.at",
            )
    if label.kind == "sum":
        assert label.field is not None, "by check_label"
        value = f"abs(CAST({identifier(label.field)} AS DOUBLE))"
        inexact = f"{value} >= {TOO_LARGE} OR {value} > 0 AND {value} < 1 / {MILLION}"
        found = count(f"SELECT 'found', count(*) FROM log WHERE ({label.where}\n) AND ({inexact})")["found"]
        if found:
            raise InputError(
                f"{found:,} values of {label.field} are 10^10 or more, or less than a millionth, and "
                f"could not be added up exactly",
                f"scale them in the source, for example {label.field} / 1000",
                setting="task.label.field",
            )


def check_loaded(path: Path, task: dict, types: dict[str, str]) -> None:
    """Refuse a task that was read back and that `check_task` would not have let pass: its conditions go into SQL.

    Args:
        path: Where it was read, for messages.
        task: With label, population and cutoffs.
        types: Column of an event -> DuckDB type, by `check_types`.

    Raises:
        InputError: A condition or a length of time is none.
        KeyError, TypeError: Something is missing, or there is too much of it.
    """
    label, whom = Label(**task["label"]), asked_in(task)
    conditions = {"label.where": label.where}
    if whom.population:
        conditions["population.where"] = whom.population.where
    if whom.at is not None:
        conditions["cutoffs.train.at"] = whom.at
    nothing = ", ".join(f"CAST(NULL AS {kind}) AS {identifier(name)}" for name, kind in types.items())
    with duckdb.connect() as con:
        for part, where in conditions.items():
            setting, remedy = f"{path}: task.{part}", "the file is damaged or forged; run scripts/train.py again"
            parse_expression(con, setting, where, remedy, lambda: types)
            with refused(setting, remedy):
                con.execute(f"SELECT {condition(where)} FROM (SELECT {nothing})")
    label_horizons(label, f"{path}: task.label")
    train = (task.get("cutoffs") or {}).get("train")
    own_moments = isinstance(train, dict) and not train.get("every")  # of users, which alone do without a population
    if whom.population or not own_moments:
        parse_duration(str((task["population"] or {}).get("within")), f"{path}: task.population.within")


def asked_in(task: dict) -> Whom:
    """Whom a task that was read back asks about; see `check_loaded`."""
    train, population = (task.get("cutoffs") or {}).get("train"), task["population"]
    asked = Population(**population) if population and population.get("within") else None
    return Whom(asked, train.get("at") if isinstance(train, dict) else None)


def moment_words(task: TaskConfig) -> str:
    """What the cutoff of a user is, where each has its own; empty where it is a date."""
    if task.at is not None:
        return f"the moment of {an_event(task.at)}"
    return "the row's cutoff in task.examples" if task.examples else ""


def horizon_words(label: Label) -> str:
    """7 days, 14 days or 28 days: the horizons of `when`."""
    *first, last = map(spelled, label.horizons or [])
    return f"{', '.join(first)} or {last}" if first else last


def question(task: TaskConfig, own_labels: bool = False) -> str:
    """The task in one sentence, for reports and cards; with the team's own labels of what these say."""
    label, who, moment = task.label, "users", moment_words(task) or "the cutoff"
    if task.members:
        within = in_words(task.members.within or "")
        who = f"users with {an_event(task.members.where)} in the {within} before {moment}"
    if own_labels:
        return f"What is the label of the team's own table for {who} at {'it' if task.members else moment}?"
    after = "it" if task.members else moment
    event, window = f"with {label.where}", f"in the {in_words(label.window)} after {after}"
    if label.kind in ("absent", "exists"):
        verb = {"absent": "have no event", "exists": "have an event"}[label.kind]
        return f"Which {who} will {verb} {event} {window}?"
    if label.kind == "when":
        return f"When will {who} have an event {event}: within {horizon_words(label)} of {after}?"
    if label.kind == "which":
        return f"Which values of {label.field} will the events {event} of {who} have {window}?"
    if label.kind == "count":
        return f"How many events {event} will {who} have {window}?"
    return f"To what will {label.field} add up over the events {event} of {who} {window}?"


def plain_question(task: TaskConfig, own_labels: bool = False) -> str:
    """The same for people who know the shop and no SQL; a condition that no word says is told as it stands."""
    label, population = task.label, task.members
    within = in_words((population and population.within) or "")
    had = f"had {event_phrase(population.where)} in the last {within}" if population else ""
    if task.at is not None:
        just = f"just had {event_phrase(task.at)}"
        had = f"{just}, {had}" if had else just
    had = had or "stood in the table"
    if own_labels:
        return f"Of those who {had}: what is the label of the team's own table?"
    noun, window = event_noun(label.where), f"in the next {in_words(label.window)}"
    events = plural(noun) if noun else f"events with {label.where}"
    if label.kind == "absent":
        none = "none" if population and label.where == population.where else f"no {noun or f'event with {label.where}'}"
        return f"Who {had} and will have {none} {window}?"
    if label.kind == "exists":
        return f"Who {had} and will have {event_phrase(label.where)} {window}?"
    if label.kind == "when":
        return f"Who {had}, and when will they have {event_phrase(label.where)}: in the next {horizon_words(label)}?"
    field = (label.field or "").replace("_", " ")
    if label.kind == "which":
        return f"Of those who {had}: which {field} will their {events} have {window}?"
    if label.kind == "count":
        return f"Of those who {had}: how many {events} will they have {window}?"
    return f"Of those who {had}: how much {field} will their {events} bring {window}?"
