"""The task against the log: whether it can be answered, whether one that was read back is a task, and its question."""

from pathlib import Path

import duckdb

from data_prep import InputError
from data_prep.config import Label, Population, TaskConfig
from data_prep.event_log import REQUIRED, Count
from data_prep.event_words import event_noun, event_phrase, plural
from data_prep.expressions import parse_expression
from data_prep.history import MILLION, TOO_LARGE
from data_prep.labels import check_label
from data_prep.moments import parse_duration
from data_prep.population import an_event
from data_prep.sql import condition, identifier, refused


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
    for setting, where in (("task.label.where", label.where), ("task.population.where", task.population.where)):
        remedy = "write a condition over the columns of one event"
        parse_expression(con, setting, where, remedy, lambda: [*REQUIRED, *types])
        with refused(setting, remedy):
            found = count(f"SELECT 'found', count(*) FILTER (WHERE ({where}\n)) FROM (SELECT * FROM log)")
        if not found["found"]:
            raise InputError(f"no event of the log satisfies {where}", "check its names and values", setting=setting)
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


def plain_question(task: TaskConfig) -> str:
    """The same for people who know the shop and no SQL; a condition that no word says is told as it stands."""
    label, population = task.label, task.population
    had = f"had {event_phrase(population.where)} in the last {population.within}"
    noun, window = event_noun(label.where), f"in the next {label.horizon}"
    events = plural(noun) if noun else f"events with {label.where}"
    if label.kind == "absent":
        none = "none" if label.where == population.where else f"no {noun or f'event with {label.where}'}"
        return f"Who {had} and will have {none} {window}?"
    if label.kind == "exists":
        return f"Who {had} and will have {event_phrase(label.where)} {window}?"
    field = (label.field or "").replace("_", " ")
    if label.kind == "which":
        return f"Of those who {had}: which {field} will their {events} have {window}?"
    if label.kind == "count":
        return f"Of those who {had}: how many {events} will they have {window}?"
    return f"Of those who {had}: how much {field} will their {events} bring {window}?"
