"""The words of categories and of free text: SQL that makes them, and those that most users have."""

import duckdb

from data_prep.sql import word


def frequent_words(
    con: duckdb.DuckDBPyConnection, column: str, words: str, past: str, top: int, min_users: int
) -> list[str]:
    """The words of most users, ties in alphabetical order; `words` is SQL of the list of a value's words."""
    rows = con.execute(
        f"""WITH pairs AS (SELECT DISTINCT user_id, {column} {past}),
                 written AS (SELECT {column} AS value, unnest({words}) AS word
                             FROM (SELECT DISTINCT {column} FROM pairs))
            SELECT word FROM (SELECT DISTINCT user_id, word FROM pairs JOIN written ON {column} = value)
            GROUP BY word HAVING count(*) >= {min_users} ORDER BY count(*) DESC, word LIMIT {top}"""
    ).fetchall()
    return [row[0] for row in rows]


def category_words(column: str, is_list: bool) -> str:
    """SQL of the list of a categorical column's values as single words: 'Frozen Food' -> ['frozen_food']."""
    values = f"CAST({column} AS VARCHAR[])" if is_list else f"[CAST({column} AS VARCHAR)]"
    return f"list_filter(list_transform({values}, lambda v: {word('v')}), lambda v: v <> '')"


def text_words(column: str) -> str:
    """SQL of the list of a text column's words, in lower case."""
    return rf"regexp_extract_all(lower({column}), '[\pL\pM\pN]+')"
