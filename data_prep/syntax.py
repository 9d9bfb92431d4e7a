"""The tree that DuckDB itself makes of SQL: its nodes, what each is, and what it calls."""

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import duckdb

from data_prep import InputError
from data_prep.sql import NO_MEMORY


def parsed(con: duckdb.DuckDBPyConnection, sql: str) -> tuple[list[dict], str | None]:
    """The statements as DuckDB's trees, and its complaint where they are none or no SELECT."""
    try:
        found = json.loads(con.execute("SELECT json_serialize_sql(?)", [sql]).fetchall()[0][0])
    except duckdb.OutOfMemoryException as error:
        raise InputError(*NO_MEMORY) from error
    except duckdb.Error as error:
        return [], str(error).splitlines()[0]
    except RecursionError:
        return [], "it is nested too deeply"
    if found["error"]:
        return [], found["error_message"].splitlines()[0]
    return found["statements"], None


def lone_part(con: duckdb.DuckDBPyConnection, statement: dict, plain: str, part: str) -> Any:
    """A part of a statement that is otherwise the plain one, else None."""
    expected = parsed(con, plain)[0][0]["node"]
    found = statement["node"].pop(part, None)
    return found if statement["node"] == {key: value for key, value in expected.items() if key != part} else None


def is_text(sql: str) -> bool:
    """Whether it is Unicode without a NUL, behind which DuckDB reads nothing."""
    return "\0" not in sql and not re.search("[\ud800-\udfff]", sql)


def tree_nodes(tree: object) -> Iterator[dict]:
    """Every node of a tree that says what it is."""
    waiting = [tree]
    while waiting:  # and not by recursion, as a tree may be deep
        part = waiting.pop()
        if isinstance(part, dict):
            if node_kind(part):
                yield part
            part = list(part.values())
        if isinstance(part, list):
            waiting += reversed(part)


def node_kind(node: dict) -> str:
    """What a node is, such as COLUMN_REF; "" where it does not say it."""
    kind = node.get("class") or node.get("type")
    return kind if isinstance(kind, str) else ""


def in_words(kind: str) -> str:
    """COPY_QUERY_NODE -> COPY"""
    return re.sub(r"_(QUERY_NODE|NODE|REF)$", "", kind).replace("_", " ")


def called_functions(tree: object) -> set[str]:
    """The names of the functions that are called, in lower case."""
    return {node["function_name"].lower() for node in function_calls(tree)}


def function_calls(tree: object) -> Iterator[dict]:
    """The nodes that call a function, window functions among them."""
    return (node for node in tree_nodes(tree) if node_kind(node) in ("FUNCTION", "WINDOW"))


def column_name(node: dict) -> str | None:
    """A column's name without that of its table, in lower case."""
    return node["column_names"][-1].lower() if node_kind(node) == "COLUMN_REF" else None


@cache
def catalog(what: str) -> frozenset[str]:
    """What DuckDB answers to a SELECT of names over its own catalog, in lower case; that takes a while."""
    with duckdb.connect() as con:
        return frozenset(row[0].lower() for row in con.execute(f"SELECT DISTINCT {what}").fetchall())
