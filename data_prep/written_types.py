"""The type of a column of text by how all of its values are written, wherever they stand."""

from collections.abc import Collection

import duckdb

from data_prep.sql import NUMERIC, identifier, quote

DATE, CLOCK = r"\d{4}-\d{2}-\d{2}", r"\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?"
WRITTEN = {  # type -> how each value is written that may be read in it
    "BOOLEAN": "(?i)true|false|t|f|yes|no",
    "DATE": DATE,
    "TIME": CLOCK,
    "TIMESTAMP": f"{DATE}([ T]{CLOCK})?",
    "TIMESTAMP WITH TIME ZONE": rf"{DATE}[ T]{CLOCK} ?(Z|UTC|[+-](0\d|1[0-3])(:?[0-5]\d)?|[+-]14(:?00)?)",
}
# 1e5, 1_000, 007, +5 and numbers of more digits than BIGINT has are codes: as numbers some of them would become equal.
WHOLE = r"(0|[1-9]\d*)"
NUMBER = rf" *-?(0|[1-9]\d{{0,17}}|({WHOLE}\.\d*|\.\d+)([eE][+-]?\d+)?|{WHOLE}[eE][+-]\d+|(?i:nan|inf|infinity)) *"
NO_DIGITS = ("nan", "NaN", "NAN", "inf", "Inf", "infinity", "Infinity")  # numbers, too, and no integers
STRAY = 1e-3  # up to that share of a column of numbers may be something else: such rows are rejected


def proven_types(
    con: duckdb.DuckDBPyConnection,
    relation: str,
    guesses: dict[str, str],
    ids: set[str],
    numbers: Collection[str] = (),
) -> dict[str, str]:
    """Column -> a type that its values bear out; VARCHAR where there is none.

    Args:
        con: Looks through the relation, once or twice.
        relation: Of text.
        guesses: The type of each column by its first values; one that is neither a number nor among WRITTEN is text,
            and may be numbers all the same.
        ids: Columns that are BIGINT only where each value is an integer as DuckDB writes it, so that nothing is lost.
        numbers: Columns that are numbers by the config's word, where any value is one.
    """
    counts = _counted(con, relation, {name: _tests(name, guess, name in ids) for name, guess in guesses.items()})
    declared = {
        name: "DOUBLE" if counts[name]["points"] else "BIGINT" for name in numbers if counts[name].get("numbers")
    }
    doubtful = [
        name
        for name in guesses
        if name not in declared and _mostly_numbers(counts[name]) and counts[name].get("codes", 1)
    ]
    for name, exact in _counted(con, relation, {name: _written_as_numbers(name) for name in doubtful}).items():
        counts[name] |= exact
    return {name: _proven(guess, counts[name]) for name, guess in guesses.items()} | declared


def _counted(
    con: duckdb.DuckDBPyConnection, relation: str, tests: dict[str, dict[str, str]]
) -> dict[str, dict[str, int]]:
    """Column -> test -> what the test's SQL aggregate gives."""
    counts = {name: {} for name in tests}
    wanted = [(name, what, sql) for name, column in tests.items() for what, sql in column.items()]
    if wanted:
        found = con.execute(f"SELECT {', '.join(sql for _, _, sql in wanted)} FROM {relation}").fetchall()[0]
        for (name, what, _), count in zip(wanted, found, strict=True):
            counts[name][what] = count
    return counts


def _tests(column: str, guess: str, is_id: bool) -> dict[str, str]:
    """What is counted of a column: name -> SQL aggregate."""
    name = identifier(column)
    tests = {"values": f"count({name})"}
    if is_id:
        tests["kept"] = f"count(*) FILTER (CAST(try_cast({name} AS BIGINT) AS VARCHAR) = {name})"
    elif guess in WRITTEN:
        written = f"regexp_full_match({name}, {quote(WRITTEN[guess])}) AND try_cast({name} AS {guess}) IS NOT NULL"
        tests["guess"] = f"count(*) FILTER ({written})"
    else:
        tests["numbers"] = _digits(name, f"try_cast({name} AS DOUBLE) IS NOT NULL")
    if NUMERIC.fullmatch(guess) and not is_id:
        marks = " OR ".join(f"contains({name}, '{mark}')" for mark in "eE_")
        tests["points"] = _digits(name, f"contains({name}, '.')")
        padded = rf"{name} < '1' AND regexp_matches({name}, '^ *([+]|-?0\d)')"
        tests["codes"] = f"count(*) FILTER (CASE WHEN {name} < ':' THEN strlen({name}) > 18 OR {marks} OR {padded} END)"
    return tests


def _written_as_numbers(column: str) -> dict[str, str]:
    """The slower tests: of text whose values are numbers, and of numbers that may be codes."""
    name = identifier(column)
    numbers = f"count(*) FILTER (regexp_full_match({name}, {quote(NUMBER)}))"
    coded = f"try_cast({name} AS DOUBLE) IS NOT NULL AND NOT regexp_full_match({name}, {quote(NUMBER)})"
    points = _digits(name, f"regexp_matches({name}, '[.eE]')")
    return {"numbers": numbers, "points": points, "coded": f"count(*) FILTER ({coded})"}


def _digits(name: str, condition: str) -> str:
    """SQL that counts numbers; digits, signs and points stand before the colon and letters behind it, which is fast."""
    words = ", ".join(map(quote, NO_DIGITS))
    return f"count(*) FILTER (CASE WHEN {name} < ':' THEN {condition} ELSE {name} IN ({words}) END)"


def _proven(guess: str, counts: dict[str, int]) -> str:
    values = counts["values"]
    if values and counts.get("kept") == values:
        return "BIGINT"
    if values and counts.get("guess") == values:
        return guess
    if _mostly_numbers(counts):
        return "DOUBLE" if counts["points"] else "BIGINT"
    return "VARCHAR"


def _mostly_numbers(counts: dict[str, int]) -> bool:
    """A single code makes the column text, as it would be cast and not be rejected like other strays."""
    numbers = counts.get("numbers", 0)
    return numbers > 0 and not counts.get("coded") and counts["values"] - numbers <= STRAY * counts["values"]
