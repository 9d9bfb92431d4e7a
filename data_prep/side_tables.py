"""Tables beside the log, of moments or of users: read as events are, so that ids, times and zones count the same."""

from collections.abc import Callable
from dataclasses import replace

import duckdb

from data_prep import InputError
from data_prep.config import DataConfig, ExamplesTable, Source, UsersTable
from data_prep.events import confined, read_events
from data_prep.sources import expand, file_columns, refused_source
from data_prep.sql import column_types, identifier

TO_TIME = "make it a time, as CAST(column AS TIMESTAMP) and epoch_ms(column) do"


def table_source(table: ExamplesTable | UsersTable, data: DataConfig) -> DataConfig:
    """The table as a log of its own."""
    source = Source(sql=table.sql, path=table.path, columns=table.columns if table.path is not None else None)
    whole = {"max_rejected": 1.0, "duplicates": "keep", "max_events_per_user": None}
    return replace(data, sources=[source], users=None, **whole)


def all_logs(data: DataConfig) -> list[DataConfig]:
    """The events, and the table of users where there is one, each as a log of its own."""
    return [data, *([table_source(data.users, data)] if data.users else [])]


def check_table(table: ExamplesTable | UsersTable, setting: str) -> None:
    """InputError where a table has not one of `sql` and `path`, or has `columns` beside `sql`."""
    if (table.sql is None) == (table.path is None):
        raise InputError(f"{setting} needs either `sql` or `path`", "give one of them", setting=setting)
    if table.sql is not None and table.columns:
        raise InputError(f"{setting}.columns belongs to `path`", "name the columns in `sql`", setting=setting)


def read_table(
    con: duckdb.DuckDBPyConnection,
    source: DataConfig,
    setting: str,
    time: str,
    columns: Callable[[list[str]], dict[str, str]],
    types: dict[str, str] | None = None,
) -> dict[str, str]:
    """Make the table `log` of a table's rows.

    Args:
        con: No other one than for this table, see `confined`.
        source: By `table_source`.
        setting: What the table is called in messages.
        time: The column that stands for the time of an event.
        columns: Gives, for the names of the table's columns, column of an event -> name of a column or SQL.
        types: See `read_events`.

    Returns:
        The type of each column of the table `log`.

    Raises:
        InputError: The table cannot be read, or a row has no user or no time.
    """
    try:
        with confined(con, source):
            made = _as_events(con, source, setting, columns)
            log = read_events(con, replace(source, sources=[made]), types=types)
        lost = next(((rows, reason) for reason, rows in log.rejected.items() if rows), None)
        if lost:
            raise InputError(f"{lost[0]:,} rows have {lost[1]}", "correct them or leave them out", setting=setting)
    except InputError as error:
        error = error.called(setting) if error.setting.startswith("data.sources") else error
        remedy = TO_TIME if "event_time is" in error.problem else error.remedy
        problem = error.problem.replace("event_time", time)
        problem = problem.replace("no event with a user, a time and a type", f"no row with a user_id and a {time}")
        raise InputError(problem, remedy, error.setting) from error
    return column_types(con, "log")


def refuse_missing(names: list[str], needed: tuple[str, ...], setting: str) -> None:
    """InputError where a table lacks a column."""
    missing = [name for name in needed if name not in names]
    if missing:
        raise InputError(
            f"{setting} has no column {' and no column '.join(missing)} (it has {', '.join(names)})",
            "name it `AS` or map it",
            setting=setting,
        )


def _as_events(
    con: duckdb.DuckDBPyConnection,
    config: DataConfig,
    setting: str,
    columns: Callable[[list[str]], dict[str, str]],
) -> Source:
    """The table as a source of events."""
    (source,) = config.sources
    given = dict(source.columns or {})
    if source.sql is not None:
        sql = expand(source.sql, config, setting).strip().rstrip(";")
        with refused_source(source, config, setting):
            names = [row[0] for row in con.execute(f"DESCRIBE {sql}").fetchall()]
        shown = {name: identifier(said) if said in names else said for name, said in columns(names).items()}
        select = ", ".join(f"{said} AS {identifier(name)}" for name, said in shown.items())
        return replace(source, sql=f"SELECT {select} FROM ({sql}\n)")
    names = list(given) or file_columns(con, expand(source.path or "", config, setting))
    shown = columns(names).items()
    own = {name: given.get(said, identifier(said) if said in names else said) for name, said in shown}
    return replace(source, columns=own)
