"""Read any event log with DuckDB into one table `log`; leave out and count the rows that cannot be used."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import duckdb

from data_prep import InputError
from data_prep.config import DataConfig, Source
from data_prep.connections import Pause, lock_down, stopped_after
from data_prep.event_log import REASON, REQUIRED, SPAN, EventLog, count_on, leave_out
from data_prep.log_files import family
from data_prep.moments import parse_duration
from data_prep.rejected import detail_sql, insert_broken_lines, move_rejected, reason_sql
from data_prep.sources import named_files, open_source, refuse_events_twice, refused_source
from data_prep.sql import column_types, identifier, quote, refused, text_sql
from data_prep.times import check_time_format, time_sql
from data_prep.users import EXACT, given_user_sql, hmac_sha256, read_key, user_sql

Check = Callable[[dict[str, str]], None]  # takes the DuckDB type of each field of the log


@contextmanager
def confined(con: duckdb.DuckDBPyConnection, config: DataConfig, *folders: Path) -> Iterator[Pause]:
    """Within the block the connection reads the files of the sources and no others, without network or extensions.

    Behind it, and with data.trust_sql only there, it is locked (see `lock_down`). After data.time_limit it is stopped.
    The block is given what that of `stopped_after` is.

    Args:
        con: No other one than for these sources.
        config: The sources.
        folders: Where it may read and write during the block and behind it.
    """
    limit = config.time_limit and parse_duration(config.time_limit, "data.time_limit").total_seconds()
    with stopped_after(con, limit or None) as pause:
        if config.trust_sql:
            print("data.trust_sql: the SQL of data.sources runs without limits")
            con.execute("SET autoinstall_known_extensions = true")
            yield pause
            lock_down(con, folders)
            return
        lock_down(con, folders, [name for i in range(len(config.sources)) for name in named_files(con, config, i)])
        yield pause


def read_events(
    con: duckdb.DuckDBPyConnection,
    config: DataConfig,
    folder: Path | None = None,
    types: dict[str, str] | None = None,
    count_equal: bool = True,
    check: Check | None = None,
) -> EventLog:
    """Make the table `log` from all sources.

    Columns: user_id VARCHAR (a keyed hash with data.pseudonymize), event_time TIMESTAMP (UTC), event_type VARCHAR and
    the fields. Rows that cannot be used go to FOLDER/rejected.parquet with the reason.

    Args:
        con: Where the table is made.
        config: The sources.
        folder: For rejected.parquet; None leaves it out.
        types: Field -> DuckDB type that it had in an earlier log. CSV says no types, and what DuckDB finds in one file
            it may not find in the next: the codes 007 and A7 are text, 007 alone is the number 7.
        count_equal: See `leave_out`.
        check: See `fill_log`.

    Raises:
        InputError: A missing file or column, a wrong type, too many rows that cannot be used, or no usable event.
    """
    notes = fill_log(con, config, types=types, check=check)
    rows = con.execute("SELECT count(*) FROM log").fetchall()[0][0]
    log = EventLog(rejected=move_rejected(con, config, rows, folder), fields=column_types(con, "log"), notes=notes)
    leave_out(log, config, count_on(con), con.execute, count_equal)
    log.first, log.last = con.execute(SPAN).fetchall()[0]
    return log


def fill_log(
    con: duckdb.DuckDBPyConnection,
    config: DataConfig,
    only: int | None = None,
    read: bool = True,
    types: dict[str, str] | None = None,
    check: Check | None = None,
) -> list[str]:
    """Make the table `log` with all rows, those that cannot be used with the reason in rejected_because.

    Args:
        con: Where the table is made, or filled if it is there.
        config: The sources.
        only: The index of the source that is read; None for all.
        read: False leaves the table empty.
        types: See `read_events`.
        check: Refuses the log for its columns, while the table is still empty.

    Returns:
        What a user should know of how the sources are read, in sentences.
    """
    if not config.sources:
        raise InputError(
            "data.sources is empty", "give at least one source with `sql` or `path`", setting="data.sources"
        )
    with refused("data.timezone", "write a name such as Europe/Berlin"):
        con.execute(f"SET TimeZone = {quote(config.timezone)}")
    if only is None:
        refuse_events_twice(config)
    queries, known, notes = {}, {}, []
    with ExitStack() as databases:
        for i, source in enumerate(config.sources):
            if only not in (None, i):
                continue
            name, table = f"data.sources[{i}]", f"source_{i}"
            columns, written, found = open_source(con, source, config, name, table, databases, types or {})
            notes += found
            for column, kind in columns.items():
                if column.lower() in REQUIRED or kind == '"NULL"':  # the type of a column that holds nothing
                    continue
                first_name, first_kind = known.setdefault(column.lower(), (name, kind))
                if family(kind) != family(first_kind):
                    raise InputError(
                        f"column '{column}' is {kind} here but {first_kind} in {first_name}",
                        "cast one of them",
                        setting=name,
                    )
            queries[i] = _events_query(con, source, table, columns, written, name, config)
        union = " UNION ALL BY NAME ".join(queries.values())
        con.execute(f"CREATE TEMP TABLE IF NOT EXISTS log AS SELECT * FROM ({union}) LIMIT 0")
        if check:
            check({name: kind for name, kind in column_types(con, "log").items() if name not in (*REQUIRED, *REASON)})
        for i, query in queries.items():
            if read:
                with refused_source(config.sources[i], config, f"data.sources[{i}]"):
                    con.execute(f"INSERT INTO log BY NAME {query}")
            con.execute(f"DROP VIEW source_{i}")
    con.execute("SET TimeZone = 'UTC'")
    insert_broken_lines(con, config)
    return notes


def _events_query(
    con: duckdb.DuckDBPyConnection,
    source: Source,
    table: str,
    columns: dict[str, str],
    written: bool,
    name: str,
    config: DataConfig,
) -> str:
    """A SELECT of a source's rows in their final types, with the reason where a row is rejected."""
    kinds = {column.lower(): kind for column, kind in columns.items()}
    user = user_sql(kinds["user_id"], written)
    if config.pseudonymize is not None:
        user = hmac_sha256(user, read_key(config.pseudonymize))
    given, time = _event_time(con, source, kinds["event_time"], name, config)
    # NaN is no value; DuckDB would hold it for the largest number.
    numbers = [identifier(column) for column, kind in columns.items() if kind in EXACT]
    numbers = [number for number in numbers if number.strip('"').lower() not in REQUIRED]
    replace = ", ".join(f"nullif({number}, 'NaN') AS {number}" for number in numbers)
    return f"""SELECT * EXCLUDE (given_user, given_time), {detail_sql(config)} AS rejected_detail FROM (
                   SELECT *, {reason_sql(config)} AS rejected_because FROM (
                       SELECT {user} AS user_id, {time} AS event_time, * FROM (
                           SELECT {given_user_sql(kinds["user_id"])} AS given_user, {given} AS given_time,
                                  {text_sql("event_type", kinds["event_type"])} AS event_type,
                                  * EXCLUDE (user_id, event_time, event_type) {f"REPLACE ({replace})" * bool(replace)}
                           FROM {table})))"""


def _event_time(
    con: duckdb.DuckDBPyConnection, source: Source, kind: str, name: str, config: DataConfig
) -> tuple[str, str]:
    """See `time_sql`; the time_format of a source comes before that of all."""
    time_format = source.time_format
    if time_format is not None and source.time_unit is not None:
        raise InputError(
            "time_unit and time_format exclude each other", "keep the one that event_time is in", setting=name
        )
    if time_format is None and source.time_unit is None:
        time_format = config.time_format
    if time_format is not None:
        setting = f"{name}.time_format" if source.time_format is not None else "data.time_format"
        check_time_format(con, time_format, setting)
    if source.time_format is not None and re.match("DATE|TIMESTAMP", kind):
        raise InputError(
            f"{name}.time_format is for text, but event_time is {kind} already",
            "leave time_format out",
            setting=f"{name}.time_format",
        )
    return time_sql(kind, source.time_unit, time_format, config.timezone, name)
