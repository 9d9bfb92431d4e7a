"""Files of text that the SQL of a source reads in types which DuckDB guesses from their first rows."""

import re

import duckdb

from data_prep.syntax import parsed, tree_nodes

TEXT_FILES = re.compile(r"\.(csv|tsv|json|jsonl|ndjson)(\.gz|\.zst)?$", re.I)
CSV_TYPES, JSON_TYPES = {"all_varchar", "types", "dtypes", "column_types", "columns"}, {"columns"}
GUESSES = {  # reader -> the arguments that say the types
    "read_csv": CSV_TYPES,
    "read_csv_auto": CSV_TYPES,
    "read_json": JSON_TYPES,
    "read_json_auto": JSON_TYPES,
    "read_ndjson": JSON_TYPES,
    "read_ndjson_auto": JSON_TYPES,
}
SAYS = {"csv": "read_csv(..., all_varchar = true) or with `types`", "json": "read_json(..., columns = {...})"}


def sniffed(con: duckdb.DuckDBPyConnection, sql: str) -> list[tuple[str, str]]:
    """What SQL reads in guessed types: a file or a reader, and the reader that guesses nothing.

    Args:
        con: To parse with.
        sql: With its variables filled in; SQL that is no SELECT, or that DuckDB cannot parse, gives nothing.
    """
    statements, _ = parsed(con, sql)
    found = {}
    for node in tree_nodes(statements):
        if node.get("type") == "BASE_TABLE" and TEXT_FILES.search(node.get("table_name", "")):
            found[f"'{node['table_name']}'"] = SAYS["json" if "json" in node["table_name"].lower()[-12:] else "csv"]
        if node.get("type") == "TABLE_FUNCTION":
            reader = node["function"]["function_name"].lower()
            if reader in GUESSES and not GUESSES[reader] & _named_arguments(node["function"]["arguments"]):
                found[f"{reader}(...)"] = SAYS["json" if "json" in reader else "csv"]
    return sorted(found.items())


def _named_arguments(arguments: list[dict]) -> set[str]:
    """The names of arguments, but for those that are false."""
    names = set()
    for argument in arguments:
        name, value = argument["name"], argument["expression"]
        if value.get("type") == "COMPARE_EQUAL" and value["left"].get("type") == "COLUMN_REF":  # types = {...}
            name, value = value["left"]["column_names"][-1], value["right"]
        if value.get("literal", {}).get("text", "").lower() not in ("f", "false", "0"):
            names.add(name.lower())
    return names
