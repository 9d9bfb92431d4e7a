"""The words of categories and of free text: SQL that makes them, those that most users have, and bins of numbers."""

import duckdb

from data_prep.bins import fit_bins
from data_prep.config import TextField
from data_prep.features import plain
from data_prep.history import combined
from data_prep.sql import identifier, quote, text_list, word


def fit_columns(
    con: duckdb.DuckDBPyConnection, specs: dict[str, TextField], types: dict[str, str], past: str
) -> dict[str, dict]:
    """The bins and vocabularies of columns.

    Args:
        con: Where the rows are.
        specs: Column -> how it enters a text.
        types: Column -> DuckDB type.
        past: SQL behind the columns of a SELECT, from FROM to a condition; the rows have a user_id.

    Returns:
        See `EventSerializer.fields`.
    """
    fitted = {}
    for name, spec in specs.items():
        column = identifier(name)
        if spec.bins:
            values = con.sql(f"SELECT CAST({column} AS DOUBLE) AS x {past} AND x IS NOT NULL").to_arrow_table()
            fitted[name] = {"kind": "numeric", **fit_bins(combined(values["x"]).to_numpy(), spec.bins)}
        elif spec.top:
            is_list = types.get(name, "").endswith("]")
            values = word_users(con, column, category_words(column, is_list), past, spec.min_users, spec.top)
            fitted[name] = {"kind": "categorical", "list": is_list, "values": [*values]}
        else:
            words = word_users(con, column, text_words(column), past, spec.min_users, spec.vocabulary)
            fitted[name] = {"kind": "text", "words": [*words]}
    return fitted


def word_users(
    con: duckdb.DuckDBPyConnection, column: str, words: str, past: str, min_users: int, top: int | None = None
) -> dict[str, int]:
    """Words and their users, the words of most users first, ties in alphabetical order.

    Args:
        con: Where the rows are.
        column: SQL of the column.
        words: SQL of the list of a value's words.
        past: See `fit_columns`.
        min_users: Words of fewer users are left out.
        top: The most words; None takes all.
    """
    rows = con.execute(
        f"""WITH pairs AS (SELECT DISTINCT user_id, {column} {past}),
                 written AS (SELECT {column} AS value, unnest({words}) AS word
                             FROM (SELECT DISTINCT {column} FROM pairs))
            SELECT word, count(*) FROM (SELECT DISTINCT user_id, word FROM pairs JOIN written ON {column} = value)
            GROUP BY word HAVING count(*) >= {min_users} ORDER BY count(*) DESC, word {f"LIMIT {top}" if top else ""}"""
    ).fetchall()
    return dict(rows)


def category_words(column: str, is_list: bool) -> str:
    """SQL of the list of a categorical column's values as single words: 'Frozen Food' -> ['frozen_food']."""
    values = f"CAST({column} AS VARCHAR[])" if is_list else f"[CAST({column} AS VARCHAR)]"
    return f"list_filter(list_transform({values}, lambda v: {word('v')}), lambda v: v <> '')"


def text_words(column: str) -> str:
    """SQL of the list of a text column's words, in lower case."""
    return rf"regexp_extract_all(lower({column}), '[\pL\pM\pN]+')"


def kept_text(column: str, known: list[str], most: int) -> str:
    """SQL of the list of the first words of a text column's value that are known, each once."""
    kept = f"list_filter({text_words(column)}, lambda w: list_contains({text_list(known)}, w))"
    # The outer list has one element; it gives `kept` a name, or it would be computed again for each word.
    once = f"list_transform([{kept}], lambda k: list_filter(k, lambda w, i: list_position(k, w) = i))[1]"
    return f"{once}[1:{most}]"


def value_words(name: str, fitted: dict, spec: TextField, words: bool) -> str:
    """SQL of the words of a categorical or text column's value in a text, NULL where it has none.

    Args:
        name: The column.
        fitted: See `fit_columns`.
        spec: How the column enters a text.
        words: Whether texts are of the style words.
    """
    column = identifier(name)
    if fitted["kind"] == "text":
        return f"nullif(array_to_string({kept_text(column, fitted['words'], spec.words or 0)}, ' '), '')"
    if name == "event_type" and len(fitted["values"]) < 2:
        return "CAST(NULL AS VARCHAR)"  # a word that every event has says nothing
    prefix = quote(plain(name) + "=" if words else "")
    known = f"CASE WHEN list_contains({text_list(fitted['values'])}, v) THEN v ELSE 'other' END"
    shown = known if words else f"replace({known}, '_', ' ')"
    values = f"list_transform({category_words(column, fitted['list'])}, lambda v: {prefix} || {shown})"
    return f"nullif(array_to_string({values}, {quote(' ' if words else ', ')}), '')"
