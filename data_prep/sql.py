"""DuckDB's words: names, literals and types in SQL, and its complaints as sentences."""

import json
import re
from collections.abc import Iterable
from datetime import datetime
from glob import escape
from pathlib import Path
from textwrap import shorten

import duckdb

from data_prep import InputError

NUMERIC = re.compile(r"U?(TINYINT|SMALLINT|INTEGER|BIGINT|HUGEINT)|FLOAT|DOUBLE|DECIMAL\(\d+,\d+\)")
NO_MEMORY = ("the memory does not suffice", "raise memory_limit or free memory and disk")


def identifier(name: str) -> str:
    """A column name, quoted for SQL."""
    return '"' + name.replace('"', '""') + '"'


def quote(text: str) -> str:
    """A string literal for SQL."""
    return "'" + text.replace("'", "''") + "'"


def file_list(files: Iterable[Path]) -> str:
    """A list of files for DuckDB's readers, which would take *, ? and [ in their names for those of a glob."""
    return text_list([escape(str(file)) for file in files])


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
            raise InputError(*NO_MEMORY) from error
        if isinstance(error, duckdb.IOException) and "No space left" in str(error):
            raise InputError(
                "no space is left on the disk that is written to", "free some or write elsewhere"
            ) from error
        if isinstance(error, duckdb.IOException) and re.search("write|writing|create directory", str(error)):
            inner = re.search(r'"exception_message":("(?:[^"\\]|\\.)*")', str(error))  # of a thread that wrote
            text = (json.loads(inner[1]) if inner else re.sub(r"^[\w ]+ Error: ", "", str(error))).splitlines()[0]
            text = shorten(text, 300, placeholder=" ...").rstrip(" .!")
            raise InputError(text, "check the folder that is written to, and the space left") from error
        if isinstance(error, duckdb.Error):
            # The first paragraph says it, before hints on DuckDB's options; behind it comes the file of a broken CSV.
            text, _, more = re.sub(r"^[\w ]+ Error: ", "", str(error)).partition("\n\n")
            text = re.split(r"\nPossible|\nThe search space|Try setting", text)[0]
            text = re.sub(r"^Original Line: .*\n", "", text, flags=re.M)  # has the user's name
            text = re.sub(r"^.*\bERROR: ", "", text)  # PostgreSQL's own, inside of DuckDB's
            text = text.replace(" in FROM clause!\nCandidate bindings:", ", perhaps").replace(" on Line:", " on line")
            file = re.search(r"^  file = (.+)$", more, re.M)
            text = shorten((f"{file[1]}: " if file else "") + text, 300, placeholder=" ...").rstrip(" .!")
            raise InputError(text, self.remedy, setting=self.setting) from error


def column_types(con: duckdb.DuckDBPyConnection, relation: str) -> dict[str, str]:
    """The type of each column of a relation."""
    return {row[0]: row[1] for row in con.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()}
