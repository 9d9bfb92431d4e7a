"""The files of a source, read in types that all of their rows bear out and never in those of the first rows alone.

DuckDB finds types in the beginning of a file, and what comes later is then cast: a zone is dropped, 2.5 becomes 3, the
ids 1e5 and 10e4 become one, and 11/1/2000 the first or the eleventh month. Here that type is a guess, which is kept
where every value is written so; ids, event types and times stay text, which is parsed row by row.
"""

import gzip
import hashlib
import os
import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from functools import partial
from glob import escape
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
from duckdb.sqltypes import DuckDBPyType

from data_prep import InputError
from data_prep.files import globbed
from data_prep.sql import NUMERIC, column_types, file_list, identifier, quote
from data_prep.users import EXACT, WHOLE
from data_prep.written_types import WRITTEN, proven_types

READERS = {
    ".parquet": "read_parquet",
    ".csv": "read_csv",
    ".tsv": "read_csv",
    ".json": "read_json",
    ".jsonl": "read_json",
    ".ndjson": "read_json",
}
OPEN_QUOTE = '{}, line {}: the quote (") that opens there is not closed in its value; close it or remove it'
KEYS_AS_TEXT = "hive_types_autocast = false"  # those of folders KEY=VALUE, which are proven like all text
# What a column of a file is for: a text of its own; the time alone; part of an id's expression; anything else.
TEXT, TIME, ID, FIELD = "text", "time", "id", "field"


@dataclass
class Reading:
    """How the files of a source are read."""

    sql: str  # of a relation with all rows
    written: bool = False  # user ids are text of a file without types, so that one may be what a float was written as
    floats: bool = False  # such ids were found


def reading(
    con: duckdb.DuckDBPyConnection,
    files: list[Path],
    columns: dict[str, str] | None,
    time_unit: str | None,
    time_format: str | None,
    types: dict[str, str],
    setting: str,
) -> Reading:
    """How to read files of one kind.

    Args:
        con: Looks through them.
        files: At least one.
        columns: Name -> expression over the files' columns; None where they are called so already.
        time_unit: Of event_time, which is a number then.
        time_format: Of event_time, which is text then.
        types: Column of the log -> type that it had in an earlier log; CSV says none.
        setting: The source's path, for messages.

    Raises:
        InputError: A file that cannot be read, or ids of different kinds.
    """
    user = _bare((columns or {}).get("user_id", "user_id"))
    reader = READERS[suffix(files[0].name)]
    if reader == "read_parquet":
        read = f"read_parquet({file_list(files)}, union_by_name = true)"
        written = con.execute(f"SELECT DISTINCT name FROM parquet_schema({file_list(files)})").fetchall()
        _refuse_twice(files[0], column_types(con, read), {row[0] for row in written}, setting)
        if len(files) > 1:
            _refuse_floats_as_text(con, files, read, user, setting)
        return Reading(read)
    roles = partial(_roles, columns=columns, time_format=time_format)
    if reader == "read_json":
        return _json(con, files, roles, user, time_unit, setting)
    named = columns or {name: name for name in types}
    wanted = {_bare(column): types[name] for name, column in named.items() if name in types}
    return _csv(con, files, roles, user, wanted, time_unit, setting)


def _refuse_twice(file: Path, names: Iterable[str], written: Container[str], setting: str) -> None:
    """InputError where two columns have one name, of which DuckDB calls the second NAME_1."""
    lower = {name.lower() for name in names}
    for name in names:
        first, _, number = name.rpartition("_")
        if number.isdecimal() and first.lower() in lower and name not in written:
            raise InputError(
                f"the column {first} is there twice in {file}", "give each a name of its own", setting=setting
            )


def _refuse_floats_as_text(
    con: duckdb.DuckDBPyConnection, files: list[Path], read: str, user: str, setting: str
) -> None:
    """Where the ids of some files are text and of others floats, DuckDB would make 12346 of the latter 12346.0."""
    kinds = {name.lower(): kind for name, kind in column_types(con, read).items()}
    if kinds.get(user) != "VARCHAR":
        return
    floats = con.execute(
        f"""SELECT min(file_name) FROM parquet_schema({file_list(files)})
            WHERE lower(name) = {quote(user)} AND type IN ('FLOAT', 'DOUBLE')"""
    ).fetchall()[0][0]
    if floats is not None:
        raise InputError(
            f"the user ids are floats in {floats} and text in other files",
            "write them as text in all of them, or make those files a source of their own",
            setting=setting,
        )


def _json(
    con: duckdb.DuckDBPyConnection, files: list[Path], roles: Callable, user: str, time_unit: str | None, setting: str
) -> Reading:
    # All rows are looked at, or keys that come late would be left out.
    sample = f"union_by_name = true, sample_size = -1, maximum_sample_files = {len(files)}"
    found = con.sql(f"FROM read_json({file_list(files)}, {sample})")
    kinds = dict(zip(found.columns, found.types, strict=True))
    if found.columns == ["json"] and not _has_key(con, files, "json"):  # what DuckDB makes of no rows, or of no objects
        raise InputError(
            f"{files[0]} holds no event, which is an object such as "
            '{"user_id": "a", "event_time": "2024-01-31", "event_type": "view"}',
            "give at least one",
            setting=setting,
        )
    numbered = [name for name in kinds if name.rpartition("_")[2].isdecimal()]
    _refuse_twice(files[0], kinds, [name for name in numbered if _has_key(con, files, name)], setting)
    types = {name: _strings_as_text(kind) for name, kind in kinds.items()}
    used = roles(list(kinds))
    users = {name.lower(): kind.id for name, kind in kinds.items()}
    for name, role in used.items():
        if role == TEXT or (role == TIME and not NUMERIC.fullmatch(types[name])):
            mixed = str(kinds[name]) == "JSON"  # numbers with something else among them
            types[name] = "JSON" if time_unit is not None and mixed else "VARCHAR"
    types |= dict.fromkeys(_beyond_integers(con, files, types, used), "VARCHAR")
    given = ", ".join(f"{quote(name)}: {quote(kind)}" for name, kind in types.items())
    read = f"read_json({file_list(files)}, columns = {{{given}}}, {KEYS_AS_TEXT})"
    guesses = {name: str(kinds[name]) for name, role in used.items() if role == FIELD and types[name] == "VARCHAR"}
    guesses = {name: kind for name, kind in guesses.items() if kind in WRITTEN}
    proven = proven_types(con, read, guesses, set())
    replaced = {name: f"CAST({identifier(name)} AS {kind})" for name, kind in proven.items() if kind != "VARCHAR"}
    replaced |= {name: "NULL" for name, kind in kinds.items() if kind.id == "null"}
    keys = _folder_keys(files)
    own = [name for name in types if name.lower() in keys and name not in replaced]
    replaced |= {name: f"CAST({identifier(name)} AS {types[name]})" for name in own}
    floats = users.get(user) in ("double", "varchar", "json") and _has_floats(con, read, user)
    return Reading(_replaced(read, replaced), user in users, floats)


def _csv(
    con: duckdb.DuckDBPyConnection,
    files: list[Path],
    roles: Callable,
    user: str,
    wanted: dict[str, str],
    time_unit: str | None,
    setting: str,
) -> Reading:
    """DuckDB keeps lines that do not fit only without union_by_name, so files of one header are read together."""
    groups: dict[bytes, list[Path]] = defaultdict(list)
    for file in files:
        groups[_header(file)].append(file)
    guesses, reads = {}, []
    for header, group in groups.items():
        kinds = column_types(con, f"read_csv({file_list(group)}, union_by_name = true, ignore_errors = true)")
        _refuse_twice(group[0], kinds, header.decode(errors="replace"), setting)
        guesses = kinds | guesses
        reads.append((f"{file_list(group)}{_quotes(con, group[0])}", list(kinds)))
    used = roles(list(guesses))
    for name, role in used.items():
        if role == TIME and time_unit is not None:
            guesses[name] = "BIGINT"
        elif role == TIME and not (NUMERIC.fullmatch(guesses[name]) or guesses[name] in WRITTEN):
            used[name] = TEXT
    looked = {name: guesses[name] for name, role in used.items() if role != TEXT}
    ids = {name for name, role in used.items() if role == ID}
    keys = _folder_keys(files)
    as_text = _csv_query(reads, {}, keys, "ignore_errors")
    times = [name for name, role in used.items() if role == TIME and time_unit is not None]
    types = proven_types(con, as_text, looked, ids, times)
    casts = {name: kind for name, kind in types.items() if kind in WRITTEN or name.lower() in keys}
    for name, role in used.items():
        want = wanted.get(name.lower())
        if role == FIELD and want is not None and family(want) != family(types[name]):
            types[name] = want  # lines that are not written so are rejected
            casts.pop(name, None)
    read = _csv_query(reads, {name: kind for name, kind in types.items() if name not in casts}, keys, "store_rejects")
    read = _replaced(read, {name: f"CAST({identifier(name)} AS {kind})" for name, kind in casts.items()})
    users = {name.lower(): kind for name, kind in guesses.items()}
    return Reading(read, user in users, users.get(user) in ("DOUBLE", "VARCHAR") and _has_floats(con, as_text, user))


def refuse_open_quote(files: list[Path], setting: str) -> None:
    """InputError where a quote in a CSV is never closed: in a short file DuckDB then finds other columns, or none."""
    for file in files if READERS[suffix(files[0].name)] == "read_csv" else ():
        opened = None
        try:
            with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as lines:
                for number, line in enumerate(lines, 1):
                    if line.count(b'"') % 2:
                        opened = None if opened else number
        except (OSError, EOFError, zlib.error):
            continue  # DuckDB says it
        if opened:
            raise InputError(OPEN_QUOTE.format(file, opened), setting=setting)


def _has_key(con: duckdb.DuckDBPyConnection, files: list[Path], key: str) -> bool:
    """Whether an object has the key, be its value null."""
    read = f"read_json_objects({file_list(files)}, ignore_errors = true)"
    found = f"SELECT 1 FROM {read} WHERE list_contains(json_keys(json), {quote(key)}) LIMIT 1"
    return con.execute(found).fetchall() != []


def _beyond_integers(
    con: duckdb.DuckDBPyConnection, files: list[Path], types: dict[str, str], used: dict[str, str]
) -> list[str]:
    """The columns of floats in which an integer has so many digits that it would become equal to another one."""
    floats = [name for name, kind in types.items() if kind == "DOUBLE" and used.get(name) in (FIELD, ID)]
    if not floats:
        return []
    given = ", ".join(f"{quote(name)}: 'VARCHAR'" for name in floats)
    tests = ", ".join(
        rf"count(*) FILTER (CASE WHEN regexp_full_match({column}, '-?\d{{16,}}') "
        f"THEN abs(CAST({column} AS DOUBLE)) >= {EXACT['DOUBLE']} END) > 0"
        for column in map(identifier, floats)
    )
    found = con.execute(f"SELECT {tests} FROM read_json({file_list(files)}, columns = {{{given}}})").fetchall()[0]
    return [name for name, beyond in zip(floats, found, strict=True) if beyond]


def _has_floats(con: duckdb.DuckDBPyConnection, relation: str, user: str) -> bool:
    """Whether an id, as text, is written as a whole float; the codes 1e5 and 10e4 are none."""
    found = f"SELECT 1 FROM {relation} WHERE regexp_full_match(CAST({identifier(user)} AS VARCHAR), {quote(WHOLE)})"
    return con.execute(f"{found} LIMIT 1").fetchall() != []


def _folder_keys(files: list[Path]) -> set[str]:
    """The columns that are folders KEY=VALUE, in lower case."""
    return {part.partition("=")[0].lower() for file in files for part in file.parent.parts if "=" in part}


def _csv_query(reads: list[tuple[str, list[str]]], types: dict[str, str], keys: Container[str], broken: str) -> str:
    """A relation of all rows, in text but for some types; lines that do not fit are skipped.

    Args:
        reads: Files that are read together, and the names of their columns.
        types: Of columns that are no text.
        keys: Columns that are folders KEY=VALUE of the files, in lower case; always text.
        broken: DuckDB's word for what becomes of lines that do not fit.
    """
    queries = []
    for paths, names in reads:
        own = [name for name in names if name.lower() not in keys]
        given = ", ".join(f"{quote(name)}: {quote(types.get(name, 'VARCHAR'))}" for name in own)
        queries.append(f"SELECT * FROM read_csv({paths}, types = {{{given}}}, {KEYS_AS_TEXT}, {broken} = true)")
    return f"({' UNION ALL BY NAME '.join(queries)})"


def column_names(con: duckdb.DuckDBPyConnection, files: list[Path]) -> list[str]:
    """The names of the files' columns."""
    reader = READERS[suffix(files[0].name)]
    # Keys of JSON may come late.
    more = f", sample_size = -1, maximum_sample_files = {len(files)}" if reader == "read_json" else ""
    more = ", ignore_errors = true" if reader == "read_csv" else more
    return list(column_types(con, f"{reader}({file_list(files)}, union_by_name = true{more})"))


def _roles(names: list[str], columns: dict[str, str] | None, time_format: str | None) -> dict[str, str]:
    """Column of the files -> what the source uses it for; the others are not looked at."""
    columns = columns or {name: name for name in names}
    found = {}
    for name in names:
        named = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)", re.I)
        uses = {target.lower(): column for target, column in columns.items() if named.search(column)}
        ids = {"user_id", "event_type"} & {*uses}
        if not uses:
            continue
        if all(_bare(column) == name.lower() for column in uses.values()) and {*uses} <= {*ids, "event_time"}:
            found[name] = TIME if "event_time" in uses and not ids and time_format is None else TEXT
        else:
            found[name] = ID if ids else FIELD
    return found


def _replaced(read: str, columns: dict[str, str]) -> str:
    if not columns:
        return read
    given = ", ".join(f"{sql} AS {identifier(name)}" for name, sql in columns.items())
    return f"(SELECT * REPLACE ({given}) FROM {read})"


def _strings_as_text(kind: DuckDBPyType) -> str:
    """The type of a JSON's column, with text for what DuckDB finds in strings or in values of several types."""
    if kind.id in ("list", "struct", "map"):
        parts = [(name, _strings_as_text(child)) for name, child in kind.children if isinstance(child, DuckDBPyType)]
        if kind.id == "list":
            return f"{parts[0][1]}[]"
        if kind.id == "struct":
            return f"STRUCT({', '.join(f'{identifier(name)} {child}' for name, child in parts)})"
        return f"MAP({parts[0][1]}, {parts[1][1]})"
    return str(kind) if NUMERIC.fullmatch(str(kind)) or kind.id == "boolean" else "VARCHAR"


def _quotes(con: duckdb.DuckDBPyConnection, file: Path) -> str:
    """CSV quotes what needs it (RFC 4180), also where the first thousands of rows did not."""
    name = quote(escape(str(file)))
    found = con.execute(f"SELECT Quote FROM sniff_csv({name}, ignore_errors = true)").fetchall()[0][0]
    return """, quote = '"', escape = '"'""" if suffix(file.name) == ".csv" and found == "(empty)" else ""


def _header(file: Path) -> bytes:
    """The first line of a CSV file."""
    with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as lines:
        return lines.readline(1 << 20).strip()


def refuse_copies(files: list[Path], setting: str) -> None:
    """InputError where two files give the same events; files without rows, and in folders KEY=VALUE, may be equal."""
    alike_files = defaultdict(list)
    for file in files:
        values = tuple(part for part in file.parts[:-1] if "=" in part)
        alike_files[file.stat().st_size, values].append(file)
    for alike in alike_files.values():
        known: dict[bytes, Path] = {}
        for file in alike if len(alike) > 1 else ():
            with file.open("rb") as content:
                same = known.setdefault(hashlib.file_digest(content, "sha256").digest(), file)
            if same is not file and _has_rows(file):
                raise InputError(
                    f"{same} and {file} have the same content: each event would count twice",
                    "take one of them away",
                    setting=setting,
                )


def _has_rows(file: Path) -> bool:
    if file.suffix.lower() == ".parquet":
        return pq.read_metadata(file).num_rows > 0
    with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as lines:
        if READERS[suffix(file.name)] == "read_csv":
            lines.readline()
        return bool(lines.readline().strip())


def _bare(expression: str) -> str:
    """A column's name in lower case, if the expression is no more than that."""
    return expression.strip().strip('"').lower()


def family(kind: str) -> str:
    """Types of one family may be united; others would silently become text."""
    return "number" if NUMERIC.fullmatch(kind) else kind


def suffix(path: str) -> str:
    """The kind of a file or of those that a glob names: a key of READERS, if it can be read."""
    return Path(path.removesuffix(".gz")).suffix.lower()


def found_files(path: str) -> list[Path]:
    """The files that a path or glob names; a file of that very name is meant by it alone."""
    if os.path.isfile(path):
        return [Path(path)]
    return [Path(found) for found in globbed(path) if os.path.isfile(found)]
