"""Expressions, conditions and types of a config, a model's folder or the hub: each must be what it claims to be.

They are parsed by DuckDB itself, and every node of the tree that it gives must be a known one: what a later DuckDB
learns to do (2.0 learned COPY within WITH) is refused until it is listed here.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from textwrap import shorten

import duckdb

from data_prep import InputError
from data_prep.syntax import (
    called_functions,
    catalog,
    function_calls,
    in_words,
    is_text,
    lone_part,
    node_kind,
    parsed,
    tree_nodes,
)

# Nodes of DuckDB's tree of which an expression is made, which is a function of its own row.
EXPRESSIONS = {
    *("COLUMN_REF", "CONSTANT", "COMPARISON", "CONJUNCTION", "FUNCTION", "OPERATOR", "CAST", "TYPE", "CASE", "BETWEEN"),
    *("LAMBDA", "LAMBDA_REF", "COLLATE", "STAR", "ORDER_MODIFIER", "ORDER_DEFAULT", "ASCENDING", "DESCENDING"),
}
# Functions that DuckDB holds for the same each time, or that a source has no use for: they read settings, plan other
# statements, wait, or tell the SQL around them, in which the key of data.pseudonymize stands.
NOT_THE_SAME = {
    *("json_serialize_plan", "current_setting", "getvariable", "write_log", "sleep_ms", "pg_sleep", "current_query"),
    *("current_localtime", "current_localtimestamp"),
}
SPREADING = {
    "unnest",
    "unlist",
    "generate_subscripts",
    "regexp_split_to_table",
}  # functions that make several rows of one
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
# All that a type may be written with: words, numbers, brackets and quoted texts, so that no comment can begin in it. Of
# E'...' a backslash would carry the end of the text elsewhere.
TYPE = re.compile(r"""(?:[A-Za-z0-9_()\[\], ]|"[^"]*"|(?<!\w)'[^']*')+""", re.A)
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


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
    if not isinstance(sql, str) or not is_text(sql):
        raise InputError(f"{sql!a} is no text", remedy, setting=setting)
    said = sql if len(sql) <= 300 else f"{sql[:300]} ..."
    # Alone it must stand, lest its parentheses reach into our SQL.
    statements, error = parsed(con, f"SELECT 1 WHERE {sql}\n")
    if error or len(statements) != 1:
        if re.fullmatch(r"\w+", sql):  # a word of SQL's own
            remedy = f"write it as '\"{sql}\"' if it is the name of a column"
        raise InputError(f"{said}: {error or 'these are several statements'}", remedy, setting=setting)
    tree = lone_part(con, statements[0], "SELECT 1 WHERE true", "where_clause")
    if not tree:
        raise InputError(f"{said}: syntax error, as more than an expression stands there", remedy, setting=setting)
    kinds = {node_kind(part) for part in tree_nodes(tree)}
    if "SUBQUERY" in kinds:
        if not setting.startswith("data."):
            remedy = "compute what it needs as a column in data.sources"
        raise InputError(f"{said} contains a SELECT, which could look at later events", remedy, setting=setting)
    if "WINDOW" in kinds:
        raise InputError(f"{said} looks at other rows by a window function", remedy, setting=setting)
    if kinds - EXPRESSIONS:
        raise InputError(f"{said} contains {in_words(min(kinds - EXPRESSIONS))}", remedy, setting=setting)
    _refuse_bare(tree, setting, said, remedy, columns)
    if "STAR" in kinds:
        raise InputError(f"{said} stands for several columns", remedy, setting=setting)
    called = called_functions(tree)
    since_today = any(
        node["function_name"].lower() == "age" and len(node["arguments"]) == 1 for node in function_calls(tree)
    )
    for names, why in (
        ({"age"} if since_today else set(), "counts from today with one argument and is not the same each time"),
        (NOT_THE_SAME | catalog(CHANGING), "is not the same each time"),
        (SPREADING, "makes several rows of one"),
        (catalog(AGGREGATES), "is an aggregate and looks at other rows"),
    ):
        if called & names:
            raise InputError(f"{said} calls {min(called & names)}, which {why}", remedy, setting=setting)
    return tree


def _refuse_bare(tree: dict, setting: str, said: str, remedy: str, columns: Callable[[], Iterable[str]]) -> None:
    """InputError where a name without parentheses is no column but a function, such as user."""
    bare = {node["column_names"][0].lower() for node in tree_nodes(tree) if node_kind(node) == "COLUMN_REF"} & BARE
    known = list(columns()) if bare else []
    bare -= {name.lower() for name in known}
    if bare:
        has = f" (there are {shorten(', '.join(known), 200, placeholder=' ...')})" if known else ""
        raise InputError(
            f"{said} names {min(bare)}, which is no column{has} but a function that is not the same each time",
            remedy,
            setting=setting,
        )


def check_column(con: duckdb.DuckDBPyConnection, setting: str, sql: str, columns: Callable[[], Iterable[str]]) -> None:
    """Refuse an expression of a source's `columns` that is no function of its own row; see `parse_expression`."""
    remedy = "write an expression over the columns of one row, or a whole SELECT as `sql`"
    parse_expression(con, setting, sql, remedy, columns)


def check_types(con: duckdb.DuckDBPyConnection, setting: str, types: Mapping[str, object]) -> None:
    """Refuse columns and types that were read back where a name has a line break, or a type is none (`check_type`)."""
    for name, kind in types.items():
        if CONTROLS.search(name):
            raise InputError(
                f"the column name {name!a} has a line break or another control character",
                "the file is damaged or forged, make it again",
                setting=setting,
            )
        check_type(con, f"{setting}.{name}", kind)


def check_type(con: duckdb.DuckDBPyConnection, setting: str, kind: object) -> None:
    """Refuse a text that is no type of DuckDB, such as one that goes on behind the type."""
    refusal = InputError(
        f"{kind!a} is no type of DuckDB", "the file is damaged or forged, make it again", setting=setting
    )
    if not isinstance(kind, str) or not is_text(kind) or CONTROLS.search(kind) or not TYPE.fullmatch(kind):
        raise refusal
    # The very text that a cast is written with: no line ends behind the type, as none does there.
    statements, error = parsed(con, f"SELECT CAST(NULL AS {kind})")
    if error or len(statements) != 1:
        raise refusal
    items = lone_part(con, statements[0], "SELECT NULL", "select_list") or []
    if len(items) != 1 or node_kind(items[0]) != "CAST" or items[0]["child"].get("literal", {}).get("text") != "":
        raise refusal
    for part in tree_nodes(items[0]["type_expr"]):
        named = node_kind(part) == "TYPE" and part["type_name"].lower() in catalog(TYPES) and not part["schema"]
        if not named and node_kind(part) != "CONSTANT":
            raise refusal


def execute_one(con: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Run SQL that is put together from what was read back, and that must be one statement."""
    if len(duckdb.extract_statements(sql)) != 1:
        raise InputError("the model's folder makes several statements of one", "it is damaged or forged, train again")
    con.execute(sql)
