"""The SQL of a source: one SELECT over files that it names, whose window functions look back only."""

import os
import re
from collections.abc import Iterable, Iterator

import duckdb

from data_prep import InputError
from data_prep.expressions import EXPRESSIONS, NOT_THE_SAME
from data_prep.files import globbed
from data_prep.syntax import called_functions, column_name, in_words, is_text, node_kind, parsed, tree_nodes

# Nodes of DuckDB's tree beside those of an expression: a source also relates tables.
RELATIONS = {
    *("SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE", "BASE_TABLE", "JOIN", "SUBQUERY"),
    *("TABLE_FUNCTION", "EXPRESSION_LIST", "EMPTY", "PIVOT", "WINDOW", "POSITIONAL_REFERENCE"),
    *("LIMIT_MODIFIER", "LIMIT_PERCENT_MODIFIER", "DISTINCT_MODIFIER"),
}
# Names that DuckDB reads without a function.
FILE_NAMES = re.compile(r"\.(parquet|csv|tsv|json|jsonl|ndjson)(\.gz|\.zst)?$", re.I)
READER_FUNCTIONS = {
    *("read_csv", "read_csv_auto", "read_parquet", "parquet_scan", "read_text", "read_blob", "read_json"),
    *("read_json_auto", "read_json_objects", "read_json_objects_auto"),
    *("read_ndjson", "read_ndjson_auto", "read_ndjson_objects"),
}
MAKERS = {"range", "generate_series", "unnest", "json_each", "json_tree", "repeat"}  # tables of their arguments
FORWARD = {"lead", "last_value", "last", "nth_value", "ntile", "percent_rank", "cume_dist", "fill"}  # of a window
INTERVALS = {  # how DuckDB reads INTERVAL 7 DAYS
    *("trunc", "to_years", "to_months", "to_weeks", "to_days", "to_hours", "to_minutes", "to_seconds"),
    *("to_quarters", "to_milliseconds", "to_microseconds"),
}
SYSTEM = ("/proc/", "/sys/")  # of the process and the machine
TRUST = "set data.trust_sql: true if you wrote it yourself or trust who did"


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
    select = _one_select(con, setting, sql)
    nodes = list(tree_nodes(select))
    for node in nodes:
        kind = node_kind(node)
        if kind not in EXPRESSIONS | RELATIONS:
            raise InputError(
                f"the SQL contains {in_words(kind)} and may only be one SELECT",
                f"check the SQL, or {TRUST}",
                setting=setting,
            )
    # An argument of a reader may be a list, which is a function, too.
    readers = [node["function"] for node in nodes if node_kind(node) == "TABLE_FUNCTION"]
    strange = {reader["function_name"].lower() for reader in readers if not reader["schema"]}
    strange -= READER_FUNCTIONS | MAKERS
    strange |= {".".join(reader["qualified_name"]["path"]) for reader in readers if reader["schema"]}
    strange |= called_functions(select) & NOT_THE_SAME
    if strange:
        raise InputError(
            f"the SQL calls {min(strange)}, which a source may not, as it reads files by read_csv, "
            f"read_parquet, read_json or their names alone",
            f"check the SQL, or {TRUST}",
            setting=setting,
        )
    names = [*_tables(con, setting, nodes), *(name for reader in readers for name in _arguments(setting, reader))]
    for name in names:
        if "://" in name:
            address = name.partition("://")[0]  # the rest may hold a secret
            raise InputError(
                f"the SQL reads the address {address}://..., but only files on this machine may be read",
                f"fetch them first, or {TRUST}",
                setting=setting,
            )
    times = _time_columns(nodes)
    ahead = [] if looks_back_only else filter(None, (_looks_ahead(node, times) for node in nodes))
    for reason in ahead:
        raise InputError(
            f"the window function {reason} could look at later events",
            "order it by time and end its frame "
            "at CURRENT ROW, or set looks_back_only: true in this source if it never looks ahead",
            setting=setting,
        )
    return names


def _one_select(con: duckdb.DuckDBPyConnection, setting: str, sql: str) -> dict:
    """The tree of SQL that is one SELECT; else InputError, with what else it does."""
    if not is_text(sql):
        raise InputError("the SQL holds a NUL or half a character", "check the SQL and what it reads", setting=setting)
    statements, error = parsed(con, sql)
    if error or len(statements) != 1:
        try:  # what it does, where that is not just a wrong word
            found = [one for one in duckdb.extract_statements(sql) if one.type != duckdb.StatementType.SELECT]
        except (duckdb.Error, ValueError):  # the latter of statements that DuckDB's Python has no name for
            said = error or "several statements"
            raise InputError(said, "check the SQL, which may only be one SELECT", setting=setting) from None
        first = re.sub(r"--[^\n]*|/\*.*?\*/", " ", found[0].query, flags=re.S).split()[0].upper() if found else ""
        if re.search(r"\bPIVOT\b", sql, re.I):  # DuckDB makes several statements of it, to look for the values first
            raise InputError(
                "the SQL has a PIVOT that looks for its columns in the data and may only be one SELECT",
                "name them, as in PIVOT t ON kind IN ('a', 'b') USING sum(x)",
                setting=setting,
            )
        what = f"runs {first}" if first else f"has {len(statements)} statements"
        raise InputError(
            f"the SQL {what} and may only be one SELECT",
            f"check the SQL, or, where a SELECT ends it, {TRUST}",
            setting=setting,
        )
    return statements[0]


def refuse_missing(setting: str, names: Iterable[str]) -> None:
    """InputError where a file or glob that SQL names is not there: a locked DuckDB says that it may not be read."""
    for name in names:
        path = os.path.expanduser(name)
        if "://" not in name and not os.path.exists(path) and not globbed(path):
            raise InputError(
                f"no file matches '{name}'",
                "check the SQL and the path, which starts at the current folder",
                setting=setting,
            )


def refuse_special(setting: str, names: Iterable[str]) -> None:
    """InputError where a name stands for something else than files and folders of a disk.

    The system's own ones tell of this process, as /proc/self/environ does, and devices and pipes may never end.
    """
    for name in names:
        path = os.path.expanduser(name)
        for found in {path, *globbed(path)}:
            real = os.path.realpath(found)
            special = os.path.exists(real) and not os.path.isfile(real) and not os.path.isdir(real)
            if special or (real + "/").startswith(SYSTEM):
                raise InputError(
                    f"'{name}' is no file of a disk, but the system's own, a device or a pipe",
                    f"name a file, or {TRUST}",
                    setting=setting,
                )


def _tables(con: duckdb.DuckDBPyConnection, setting: str, nodes: list[dict]) -> Iterator[str]:
    """The files that stand in the place of tables."""
    own = con.execute(
        "SELECT table_name FROM duckdb_tables() UNION ALL SELECT view_name FROM duckdb_views() WHERE NOT internal"
    ).fetchall()
    known = {row[0].lower() for row in own}
    known |= {entry["key"].lower() for node in nodes for entry in (node.get("cte_map") or {"map": []})["map"]}
    for node in nodes:
        if node_kind(node) == "BASE_TABLE":
            path = node["qualified_name"]["path"]
            name = ".".join(path)
            if "://" in name or FILE_NAMES.search(name):
                yield name
            elif len(path) > 1 or name.lower() not in known:
                raise InputError(
                    f"the SQL reads '{name}', which is neither a file that DuckDB knows by its ending nor a "
                    f"name of the same SQL",
                    f"check the SQL, or {TRUST}",
                    setting=setting,
                )


def _arguments(setting: str, reader: dict) -> Iterator[str]:
    """The files that a function reads."""
    if reader["function_name"].lower() not in READER_FUNCTIONS:
        return
    for given in (argument["expression"] for argument in reader["arguments"] if not argument["name"]):
        if node_kind(given) == "COMPARISON" and node_kind(given["left"]) == "COLUMN_REF":  # header = true
            continue
        is_list = node_kind(given) == "FUNCTION" and given["function_name"] == "list_value"
        for part in [argument["expression"] for argument in given["arguments"]] if is_list else [given]:
            if node_kind(part) != "CONSTANT" or part["literal"]["kind"] != "STRING":
                raise InputError(
                    f"the SQL computes the name of a file that {reader['function_name']} reads",
                    f"write it out, or {TRUST}",
                    setting=setting,
                )
            yield part["literal"]["text"]


def _time_columns(nodes: list[dict]) -> set[str]:
    """event_time and the columns that it is made of, in lower case."""
    times: set[str] = set()
    found = {"event_time"}
    while found - times:
        times |= found
        made = [node for node in nodes if str(node.get("alias") or "").lower() in times]
        found = {name for node in made for name in map(column_name, tree_nodes(node)) if name}
    return times


def _looks_ahead(node: dict, times: set[str]) -> str | None:
    """Of a window function that may see later rows what it is called and why: what is not known to look back may.

    It looks back where it is ordered by columns alone, the time first, ascending, its frame ends at the current row or
    a written number of rows before it, and so does lag.
    """
    if node_kind(node) != "WINDOW":
        return None
    name = node["function_name"].lower()
    if name in FORWARD:
        return name
    orders = [order["expression"] for order in node["orders"]]
    if not orders or all(node_kind(order) == "CONSTANT" for order in orders):
        return f"{name} over rows without an order"
    if any(order["type"] not in ("ORDER_DEFAULT", "ASCENDING") for order in node["orders"]):
        return f"{name} in descending order"
    if any(node_kind(order) != "COLUMN_REF" for order in orders):
        return f"{name} ordered by another thing than a column"
    columns, parts = ([column_name(part) for part in tree_nodes(tree)] for tree in (orders, node["partitions"]))
    if any(column in parts for column in columns):
        return f"{name} ordered by a column that is the same in its partition"
    if column_name(orders[0]) not in times:
        return f"{name} ordered by another column than event_time or what that is made of"
    if "FOLLOWING" in node["end"]:
        return f"{name} with FOLLOWING"
    lagged = [argument["expression"] for argument in node["arguments"][1:2]] if name == "lag" else []
    if not all(_is_distance(part) for part in (node["start_expr"], node["end_expr"], node["offset_expr"], *lagged)):
        return f"{name} with a distance that is not a number above zero"
    return None


def _is_distance(node: dict | None) -> bool:
    """Whether it is none, or a number or INTERVAL that is written out and not below zero."""
    if node is None:
        return True
    parts = list(tree_nodes(node))
    called, written = called_functions(node), [part["literal"] for part in parts if node_kind(part) == "CONSTANT"]
    kinds = {node_kind(part) for part in parts}
    whole = len(written) == 1 and written[0]["kind"] == "INTEGER" and written[0]["text"].isdecimal()
    return whole and kinds <= {"CONSTANT", "FUNCTION", "CAST", "TYPE", "ORDER_MODIFIER"} and called <= INTERVALS
