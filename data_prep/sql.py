"""DuckDB's words, and what SQL may do that comes from a config, from a model's folder or from the hub.

Conditions, expressions and sources are parsed by DuckDB itself, and every node of the tree that it gives must be a
known one: what a later DuckDB learns to do (2.0 learned COPY within WITH) is refused until it is listed here.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import cache
from glob import glob
from pathlib import Path
from textwrap import shorten

import duckdb

from data_prep import InputError

# Nodes of DuckDB's tree: an expression is a function of its own row, a source also relates tables.
EXPRESSIONS = {
    *("COLUMN_REF", "CONSTANT", "COMPARISON", "CONJUNCTION", "FUNCTION", "OPERATOR", "CAST", "TYPE", "CASE", "BETWEEN"),
    *("LAMBDA", "LAMBDA_REF", "COLLATE", "STAR", "ORDER_MODIFIER", "ORDER_DEFAULT", "ASCENDING", "DESCENDING"),
}
RELATIONS = {
    *("SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE", "BASE_TABLE", "JOIN", "SUBQUERY"),
    *("TABLE_FUNCTION", "EXPRESSION_LIST", "EMPTY", "PIVOT", "WINDOW", "POSITIONAL_REFERENCE"),
    *("LIMIT_MODIFIER", "LIMIT_PERCENT_MODIFIER", "DISTINCT_MODIFIER"),
}
FILES = re.compile(
    r"\.(parquet|csv|tsv|json|jsonl|ndjson)(\.gz|\.zst)?$", re.I
)  # names that DuckDB reads without a function
READERS = {
    *("read_csv", "read_csv_auto", "read_parquet", "parquet_scan", "read_text", "read_blob", "read_json"),
    *("read_json_auto", "read_json_objects", "read_json_objects_auto"),
    *("read_ndjson", "read_ndjson_auto", "read_ndjson_objects"),
}
MAKERS = {"range", "generate_series", "unnest", "json_each", "json_tree", "repeat"}  # tables of their arguments
# Functions that DuckDB holds for the same each time, or that a source has no use for: they read settings, plan other
# statements, or wait.
NEVER = {
    *("json_serialize_plan", "current_setting", "getvariable", "write_log", "sleep_ms", "pg_sleep"),
    *("current_localtime", "current_localtimestamp"),
}
SPREADING = {"unnest", "unlist", "generate_subscripts"}  # functions that make several rows of one
# Names that are functions without parentheses where no column is called so.
BARE = {
    *("current_date", "current_time", "current_timestamp", "localtime", "localtimestamp", "current_user", "user"),
    *("session_user", "current_role", "current_catalog", "current_schema"),
}
TYPES = "type_name FROM duckdb_types() WHERE internal"
AGGREGATES = "function_name FROM duckdb_functions() WHERE function_type = 'aggregate'"
# Functions that are not the same each time, macros that call them or look into the catalog, and DuckDB's internal ones.
CHANGING = """function_name FROM duckdb_functions() WHERE stability <> 'CONSISTENT'
    OR regexp_matches(macro_definition, 'SELECT|current_') OR starts_with(function_name, '__')"""
FORWARD = {"lead", "last_value", "last", "nth_value", "ntile", "percent_rank", "cume_dist", "fill"}  # of a window
# All that a type may be written with: words, numbers, brackets and quoted texts, so that no comment can begin in it. Of
# E'...' a backslash would carry the end of the text elsewhere.
TYPE = re.compile(r"""(?:[A-Za-z0-9_()\[\], ]|"[^"]*"|(?<!\w)'[^']*')+""", re.A)
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
INTERVALS = {  # how DuckDB reads INTERVAL 7 DAYS
    *("trunc", "to_years", "to_months", "to_weeks", "to_days", "to_hours", "to_minutes", "to_seconds"),
    *("to_quarters", "to_milliseconds", "to_microseconds"),
}
GLOB = r"[*?\[]"
NO_MEMORY = "the memory does not suffice; raise data.memory_limit or free memory and disk"
TRUST = "set data.trust_sql: true if you wrote it yourself or trust who did"


def identifier(name: str) -> str:
    """A column name, quoted for SQL."""
    return '"' + name.replace('"', '""') + '"'


def quote(text: str) -> str:
    """A string literal for SQL."""
    return "'" + text.replace("'", "''") + "'"


def timestamp(moment: datetime) -> str:
    """A timestamp literal for SQL."""
    return f"TIMESTAMP {quote(moment.isoformat(sep=' '))}"


def text_list(values: list[str]) -> str:
    """A list of string literals for SQL."""
    return "[" + ", ".join(map(quote, values)) + "]::VARCHAR[]"


def text_sql(column: str, kind: str) -> str:
    """SQL of a column as text without spaces around it, NULL where that is nothing, given its type."""
    text = {"VARCHAR": column, "JSON": f"{column} ->> '$'"}.get(kind, f"CAST({column} AS VARCHAR)")
    return f"nullif(trim({text}), '')"


def word(text: str) -> str:
    """SQL that makes one word of a text: 'Frozen Food' -> 'frozen_food'."""
    return rf"trim(regexp_replace(lower({text}), '[^\pL\pM\pN]+', '_', 'g'), '_')"


def condition(where: str) -> str:
    """SQL of 1 where a condition of the config holds for an event, else 0; a comment may end the condition."""
    return f"CAST(coalesce(CAST(({where}\n) AS BOOLEAN), false) AS TINYINT)"


class refused:  # noqa: N801 - reads as a phrase: `with refused("task.label.where", "check its names"): ...`
    """Context that turns DuckDB's complaint about a part of the config into an InputError naming part and remedy."""

    def __init__(self, setting: str, remedy: str) -> None:
        self.setting, self.remedy = setting, remedy

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, duckdb.OutOfMemoryException):
            raise InputError(NO_MEMORY) from error
        if isinstance(error, duckdb.IOException) and "No space left" in str(error):
            raise InputError("no space is left on the disk that is written to; free some or write elsewhere") from error
        if isinstance(error, duckdb.IOException) and re.search("write|writing|create directory", str(error)):
            inner = re.search(r'"exception_message":("(?:[^"\\]|\\.)*")', str(error))  # of a thread that wrote
            text = (json.loads(inner[1]) if inner else re.sub(r"^[\w ]+ Error: ", "", str(error))).splitlines()[0]
            text = shorten(text, 300, placeholder=" ...").rstrip(" .!")
            raise InputError(f"{text}; check the folder that is written to, and the space left") from error
        if isinstance(error, duckdb.Error):
            # The first paragraph says it, before hints on DuckDB's options; behind it comes the file of a broken CSV.
            text, _, more = re.sub(r"^[\w ]+ Error: ", "", str(error)).partition("\n\n")
            text = re.split(r"\nPossible|\nThe search space|Try setting", text)[0]
            text = re.sub(r"^Original Line: .*\n", "", text, flags=re.M)  # has the user's name
            text = re.sub(r"^.*\bERROR: ", "", text)  # PostgreSQL's own, inside of DuckDB's
            text = text.replace(" in FROM clause!\nCandidate bindings:", ", perhaps").replace(" on Line:", " on line")
            file = re.search(r"^  file = (.+)$", more, re.M)
            text = shorten((f"{file[1]}: " if file else "") + text, 300, placeholder=" ...").rstrip(" .!")
            raise InputError(f"{self.setting}: {text}; {self.remedy}") from error


def parse_expression(
    con: duckdb.DuckDBPyConnection, setting: str, sql: str, remedy: str, columns: Callable[[], Iterable[str]] = tuple
) -> dict:
    """An SQL expression over the columns of one row, as DuckDB parses it.

    Args:
        con: To parse with.
        setting: Where the expression stands, for messages.
        sql: The expression; a comment may end it.
        remedy: What to do, at the end of messages.
        columns: Gives the names of the columns, among which one may be called like a function without parentheses.

    Raises:
        InputError: It does not parse, is more than one expression, looks at other rows or at files, gives several
            rows or columns, or calls a function that is not the same each time.
    """
    if not isinstance(sql, str) or not _is_text(sql):
        raise InputError(f"{setting}: {sql!a} is no text; {remedy}")
    said = sql if len(sql) <= 300 else f"{sql[:300]} ..."
    # Alone it must stand, lest its parentheses reach into our SQL.
    statements, error = _parsed(con, f"SELECT 1 WHERE {sql}\n")
    if error or len(statements) != 1:
        if re.fullmatch(r"\w+", sql):  # a word of SQL's own
            remedy = f"write it as '\"{sql}\"' if it is the name of a column"
        raise InputError(f"{setting}: {said}: {error or 'these are several statements'}; {remedy}")
    tree = _only(con, statements[0], "SELECT 1 WHERE true", "where_clause")
    if not tree:
        raise InputError(f"{setting}: {said}: syntax error, as more than an expression stands there; {remedy}")
    kinds = {_kind(part) for part in _nodes(tree)}
    if "SUBQUERY" in kinds:
        if not setting.startswith("data."):
            remedy = "compute what it needs as a column in data.sources"
        raise InputError(f"{setting}: {said} contains a SELECT, which could look at later events; {remedy}")
    if "WINDOW" in kinds:
        raise InputError(f"{setting}: {said} looks at other rows by a window function; {remedy}")
    if kinds - EXPRESSIONS:
        raise InputError(f"{setting}: {said} contains {_said(min(kinds - EXPRESSIONS))}; {remedy}")
    _refuse_bare(tree, setting, said, remedy, columns)
    if "STAR" in kinds:
        raise InputError(f"{setting}: {said} stands for several columns; {remedy}")
    called = _called(tree)
    since_today = any(node["function_name"].lower() == "age" and len(node["arguments"]) == 1 for node in _calls(tree))
    for names, why in (
        ({"age"} if since_today else set(), "counts from today with one argument and is not the same each time"),
        (NEVER | _catalog(CHANGING), "is not the same each time"),
        (SPREADING, "makes several rows of one"),
        (_catalog(AGGREGATES), "is an aggregate and looks at other rows"),
    ):
        if called & names:
            raise InputError(f"{setting}: {said} calls {min(called & names)}, which {why}; {remedy}")
    return tree


def _refuse_bare(tree: dict, setting: str, said: str, remedy: str, columns: Callable[[], Iterable[str]]) -> None:
    """InputError where a name without parentheses is no column but a function, such as user."""
    bare = {node["column_names"][0].lower() for node in _nodes(tree) if _kind(node) == "COLUMN_REF"} & BARE
    known = list(columns()) if bare else []
    bare -= {name.lower() for name in known}
    if bare:
        has = f" (there are {shorten(', '.join(known), 200, placeholder=' ...')})" if known else ""
        raise InputError(
            f"{setting}: {said} names {min(bare)}, which is no column{has} but a function that is not the same each "
            f"time; {remedy}"
        )


def check_column(con: duckdb.DuckDBPyConnection, setting: str, sql: str, columns: Callable[[], Iterable[str]]) -> None:
    """Refuse an expression of a source's `columns` that is no function of its own row; see `parse_expression`."""
    remedy = "write an expression over the columns of one row, or a whole SELECT as `sql`"
    parse_expression(con, setting, sql, remedy, columns)


def check_source(con: duckdb.DuckDBPyConnection, setting: str, sql: str, looks_back_only: bool) -> list[str]:
    """The files and globs that the SQL of a source names, which is one SELECT over them.

    Args:
        con: To parse with; the SQL may also name the tables and views that it has.
        setting: The source, for messages.
        sql: With its variables filled in.
        looks_back_only: Let window functions be, by the owner's word.

    Raises:
        InputError: It is more than a SELECT, reads another thing than named files, or looks ahead by a window function.
    """
    if not _is_text(sql):
        raise InputError(f"{setting}: the SQL holds a NUL or half a character; check the SQL and what it reads")
    statements, error = _parsed(con, sql)
    if error or len(statements) != 1:
        try:  # what it does, where that is not just a wrong word
            found = [one for one in duckdb.extract_statements(sql) if one.type != duckdb.StatementType.SELECT]
        except duckdb.Error:
            raise InputError(f"{setting}: {error}; check the SQL and what it reads") from None
        first = re.sub(r"--[^\n]*|/\*.*?\*/", " ", found[0].query, flags=re.S).split()[0].upper() if found else ""
        if re.search(r"\bPIVOT\b", sql, re.I):  # DuckDB makes several statements of it, to look for the values first
            raise InputError(
                f"{setting}: the SQL has a PIVOT that looks for its columns in the data and may only be one SELECT; "
                f"name them, as in PIVOT t ON kind IN ('a', 'b') USING sum(x)"
            )
        what = f"runs {first}" if first else f"has {len(statements)} statements"
        raise InputError(
            f"{setting}: the SQL {what} and may only be one SELECT; check the SQL, or, where a SELECT ends it, {TRUST}"
        )
    nodes = list(_nodes(statements[0]))
    for node in nodes:
        if _kind(node) not in EXPRESSIONS | RELATIONS:
            raise InputError(
                f"{setting}: the SQL contains {_said(_kind(node))} and may only be one SELECT; check the SQL, or "
                f"{TRUST}"
            )
    # An argument of a reader may be a list, which is a function, too.
    readers = [node["function"] for node in nodes if _kind(node) == "TABLE_FUNCTION"]
    strange = {reader["function_name"].lower() for reader in readers if not reader["schema"]} - READERS - MAKERS
    strange |= {".".join(reader["qualified_name"]["path"]) for reader in readers if reader["schema"]}
    strange |= _called(statements[0]) & NEVER
    if strange:
        raise InputError(
            f"{setting}: the SQL calls {min(strange)}, which a source may not, as it reads files by read_csv, "
            f"read_parquet, read_json or their names alone; check the SQL, or {TRUST}"
        )
    names = [*_tables(con, setting, nodes), *(name for reader in readers for name in _arguments(setting, reader))]
    for name in names:
        if "://" in name:
            address = name.partition("://")[0]  # the rest may hold a secret
            raise InputError(
                f"{setting}: the SQL reads the address {address}://..., but only files on this machine may be read; "
                f"fetch them first, or {TRUST}"
            )
    times = _time_columns(nodes)
    ahead = [] if looks_back_only else filter(None, (_looks_ahead(node, times) for node in nodes))
    for reason in ahead:
        raise InputError(
            f"{setting}: the window function {reason} could look at later events; order it by time and end its frame "
            f"at CURRENT ROW, or set looks_back_only: true in this source if it never looks ahead"
        )
    return names


def refuse_missing(setting: str, names: Iterable[str]) -> None:
    """InputError where a file or glob that SQL names is not there: a locked DuckDB says that it may not be read."""
    for name in names:
        path = os.path.expanduser(name)
        if "://" not in name and not os.path.exists(path) and not glob(path, recursive=True):
            raise InputError(
                f"{setting}: no file matches '{name}'; check the SQL and the path, which starts at the current folder"
            )


def check_type(con: duckdb.DuckDBPyConnection, setting: str, kind: object) -> None:
    """Refuse a text that is no type of DuckDB, such as one that goes on behind the type."""
    refusal = InputError(f"{setting}: {kind!a} is no type of DuckDB; the file is damaged or forged, make it again")
    if not isinstance(kind, str) or not _is_text(kind) or CONTROLS.search(kind) or not TYPE.fullmatch(kind):
        raise refusal
    # The very text that a cast is written with: no line ends behind the type, as none does there.
    statements, error = _parsed(con, f"SELECT CAST(NULL AS {kind})")
    if error or len(statements) != 1:
        raise refusal
    items = _only(con, statements[0], "SELECT NULL", "select_list") or []
    if len(items) != 1 or _kind(items[0]) != "CAST" or items[0]["child"].get("literal", {}).get("text") != "":
        raise refusal
    for part in _nodes(items[0]["type_expr"]):
        named = _kind(part) == "TYPE" and part["type_name"].lower() in _catalog(TYPES) and not part["schema"]
        if not named and _kind(part) != "CONSTANT":
            raise refusal


def check_types(con: duckdb.DuckDBPyConnection, setting: str, types: dict[str, object]) -> None:
    """Refuse columns and types that were read back where a name has a line break, or a type is none (`check_type`)."""
    for name, kind in types.items():
        if CONTROLS.search(name):
            raise InputError(
                f"{setting}: the column name {name!a} has a line break or another control character; the file is "
                f"damaged or forged, make it again"
            )
        check_type(con, f"{setting}.{name}", kind)


def execute_one(con: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Run SQL that is put together from what was read back, and that must be one statement."""
    if len(duckdb.extract_statements(sql)) != 1:
        raise InputError("the model's folder makes several statements of one; it is damaged or forged, train again")
    con.execute(sql)


def lock_down(
    con: duckdb.DuckDBPyConnection, folders: Iterable[Path] = (), patterns: Iterable[str] = ()
) -> duckdb.DuckDBPyConnection:
    """Take from a connection, for good, all files but these, the network, extensions and its settings.

    Args:
        con: Its folder for spilling stays.
        folders: Where it may read and write.
        patterns: Files and globs that it may read; of a glob, the files that it names now, and not their folder.
    """
    files = {form for name in patterns for form in (name, os.path.expanduser(name))}  # DuckDB knows ~, too
    for pattern in sorted(files):
        if re.search(GLOB, pattern) and "://" not in pattern:
            files |= {row[0] for row in con.execute("SELECT file FROM glob(?)", [pattern]).fetchall()}
            files |= set(glob(pattern, recursive=True))  # the sources' own, where it differs from DuckDB's
    con.execute(
        f"""SET allowed_directories = {text_list([str(folder) for folder in folders])};
            SET allowed_paths = {text_list(sorted(files))};
            SET allowed_configs = ['TimeZone'];
            SET enable_external_access = false;
            SET lock_configuration = true"""
    )
    return con


def _parsed(con: duckdb.DuckDBPyConnection, sql: str) -> tuple[list[dict], str | None]:
    """The statements as DuckDB's trees, and its complaint where they are none or no SELECT."""
    try:
        found = json.loads(con.execute("SELECT json_serialize_sql(?)", [sql]).fetchall()[0][0])
    except duckdb.OutOfMemoryException as error:
        raise InputError(NO_MEMORY) from error
    except duckdb.Error as error:
        return [], str(error).splitlines()[0]
    except RecursionError:
        return [], "it is nested too deeply"
    if found["error"]:
        return [], found["error_message"].splitlines()[0]
    return found["statements"], None


def _only(con: duckdb.DuckDBPyConnection, statement: dict, plain: str, part: str) -> object:
    """A part of a statement that is otherwise the plain one, else None."""
    expected = _parsed(con, plain)[0][0]["node"]
    found = statement["node"].pop(part, None)
    return found if statement["node"] == {key: value for key, value in expected.items() if key != part} else None


def _is_text(sql: str) -> bool:
    """Whether it is Unicode without a NUL, behind which DuckDB reads nothing."""
    return "\0" not in sql and not re.search("[\ud800-\udfff]", sql)


def _nodes(tree: object) -> Iterator[dict]:
    """Every node of a tree that says what it is."""
    waiting = [tree]
    while waiting:  # and not by recursion, as a tree may be deep
        part = waiting.pop()
        if isinstance(part, dict):
            if _kind(part):
                yield part
            part = list(part.values())
        if isinstance(part, list):
            waiting += reversed(part)


def _kind(node: dict) -> str | None:
    kind = node.get("class") or node.get("type")
    return kind if isinstance(kind, str) else None


def _said(kind: str) -> str:
    """COPY_QUERY_NODE -> COPY"""
    return re.sub(r"_(QUERY_NODE|NODE|REF)$", "", kind).replace("_", " ")


def _called(tree: object) -> set[str]:
    """The names of the functions that are called, in lower case."""
    return {node["function_name"].lower() for node in _calls(tree)}


def _calls(tree: object) -> Iterator[dict]:
    return (node for node in _nodes(tree) if _kind(node) in ("FUNCTION", "WINDOW"))


@cache
def _catalog(what: str) -> frozenset[str]:
    """What DuckDB answers to a SELECT of names over its own catalog, in lower case; that takes a while."""
    with duckdb.connect() as con:
        return frozenset(row[0].lower() for row in con.execute(f"SELECT DISTINCT {what}").fetchall())


def _tables(con: duckdb.DuckDBPyConnection, setting: str, nodes: list[dict]) -> Iterator[str]:
    """The files that stand in the place of tables."""
    own = con.execute(
        "SELECT table_name FROM duckdb_tables() UNION ALL SELECT view_name FROM duckdb_views() WHERE NOT internal"
    ).fetchall()
    known = {row[0].lower() for row in own}
    known |= {entry["key"].lower() for node in nodes for entry in (node.get("cte_map") or {"map": []})["map"]}
    for node in nodes:
        if _kind(node) == "BASE_TABLE":
            path = node["qualified_name"]["path"]
            name = ".".join(path)
            if "://" in name or FILES.search(name):
                yield name
            elif len(path) > 1 or name.lower() not in known:
                raise InputError(
                    f"{setting}: the SQL reads '{name}', which is neither a file that DuckDB knows by its ending nor a "
                    f"name of the same SQL; check the SQL, or {TRUST}"
                )


def _arguments(setting: str, reader: dict) -> Iterator[str]:
    """The files that a function reads."""
    if reader["function_name"].lower() not in READERS:
        return
    for given in (argument["expression"] for argument in reader["arguments"] if not argument["name"]):
        if _kind(given) == "COMPARISON" and _kind(given["left"]) == "COLUMN_REF":  # header = true
            continue
        is_list = _kind(given) == "FUNCTION" and given["function_name"] == "list_value"
        for part in [argument["expression"] for argument in given["arguments"]] if is_list else [given]:
            if _kind(part) != "CONSTANT" or part["literal"]["kind"] != "STRING":
                raise InputError(
                    f"{setting}: the SQL computes the name of a file that {reader['function_name']} reads; write it "
                    f"out, or {TRUST}"
                )
            yield part["literal"]["text"]


def _time_columns(nodes: list[dict]) -> set[str]:
    """event_time and the columns that it is made of, in lower case."""
    times: set[str] = set()
    found = {"event_time"}
    while found - times:
        times |= found
        made = [node for node in nodes if str(node.get("alias") or "").lower() in times]
        found = {name for node in made for name in map(_names, _nodes(node)) if name}
    return times


def _looks_ahead(node: dict, times: set[str]) -> str | None:
    """Of a window function that may see later rows what it is called and why: what is not known to look back may.

    It looks back where it is ordered by columns alone, the time first, ascending, its frame ends at the current row or
    a written number of rows before it, and so does lag.
    """
    if _kind(node) != "WINDOW":
        return None
    name = node["function_name"].lower()
    if name in FORWARD:
        return name
    orders = [order["expression"] for order in node["orders"]]
    if not orders or all(_kind(order) == "CONSTANT" for order in orders):
        return f"{name} over rows without an order"
    if any(order["type"] not in ("ORDER_DEFAULT", "ASCENDING") for order in node["orders"]):
        return f"{name} in descending order"
    if any(_kind(order) != "COLUMN_REF" for order in orders):
        return f"{name} ordered by another thing than a column"
    columns, parts = ([_names(part) for part in _nodes(of)] for of in (orders, node["partitions"]))
    if any(column in parts for column in columns):
        return f"{name} ordered by a column that is the same in its partition"
    if _names(orders[0]) not in times:
        return f"{name} ordered by another column than event_time or what that is made of"
    if "FOLLOWING" in node["end"]:
        return f"{name} with FOLLOWING"
    lagged = [argument["expression"] for argument in node["arguments"][1:2]] if name == "lag" else []
    if not all(_is_distance(part) for part in (node["start_expr"], node["end_expr"], node["offset_expr"], *lagged)):
        return f"{name} with a distance that is not a number above zero"
    return None


def _names(node: dict) -> str | None:
    """A column's name without that of its table, in lower case."""
    return node["column_names"][-1].lower() if _kind(node) == "COLUMN_REF" else None


def _is_distance(node: dict | None) -> bool:
    """Whether it is none, or a number or INTERVAL that is written out and not below zero."""
    if node is None:
        return True
    parts = list(_nodes(node))
    called, written = _called(node), [part["literal"] for part in parts if _kind(part) == "CONSTANT"]
    kinds = {_kind(part) for part in parts}
    whole = len(written) == 1 and written[0]["kind"] == "INTEGER" and written[0]["text"].isdecimal()
    return whole and kinds <= {"CONSTANT", "FUNCTION", "CAST", "TYPE", "ORDER_MODIFIER"} and called <= INTERVALS
