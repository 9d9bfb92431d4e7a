"""Ask a database through ADBC.

DuckDB's own ATTACH would download an extension for each kind of database, which is not possible everywhere; the
drivers of ADBC are ordinary packages (pip install -e '.[databases]').
"""

import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from urllib.parse import quote

import pyarrow as pa

from data_prep import InputError

DRIVERS = {"sqlite": "adbc_driver_sqlite", "postgresql": "adbc_driver_postgresql"}
# SQLite's columns hold any type; the driver takes a column's from that many rows.
SQLITE_ROWS = {"adbc.sqlite.query.batch_rows": "1000000"}
# Where user or password have other characters, libpq reads the address differently and quotes parts of the password.
WORD = r"(?:[^\s:@/?#%]|%[0-9A-Fa-f]{2})*"
POSTGRESQL = re.compile(rf"postgresql://({WORD}(:(?P<password>{WORD}))?@)?[^\s@]*")

# Texts, names and comments: what stands in them is neither the first word of a statement nor the end of one.
INERT = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`|\[[^\]]*\]|--[^\n]*|/\*.*?(?:\*/|$)""", re.S)
ROWS = re.compile(r"(SELECT|WITH|\(\s*SELECT)\b", re.I)


@contextmanager
def query_database(address: str, sql: str, setting: str) -> Iterator[pa.RecordBatchReader]:
    """The answer of a database, which can be read once, while the block lasts.

    Args:
        address: sqlite:///FILE or postgresql://USER:PASSWORD@HOST:PORT/DATABASE.
        sql: One SELECT in the database's dialect, which may begin WITH; nothing that it changes is kept.
        setting: The source, for messages.

    Raises:
        InputError: The address or the SQL is wrong, or the driver is missing; no message has a part of the password.
    """
    scheme, _, path = address.partition("://")
    if scheme not in DRIVERS:
        raise InputError(
            f"{setting}.database starts with none of {', '.join(f'{known}://' for known in DRIVERS)}",
            "correct it",
            setting=f"{setting}.database",
        )
    path = path.removeprefix("/")
    if scheme == "sqlite" and not Path(path).is_file():  # SQLite would make an empty database
        raise InputError(f"there is no file '{path}'", "write sqlite:///FILE", setting=f"{setting}.database")
    if scheme == "postgresql" and not POSTGRESQL.fullmatch(address):
        raise InputError(
            f"{setting}.database cannot be taken apart",
            "write postgresql://USER:PASSWORD@HOST:PORT/DATABASE, and "
            "special characters of the password as %XX (@ as %40, / as %2F, : as %3A, % as %25)",
            setting=f"{setting}.database",
        )
    try:
        driver = importlib.import_module(f"{DRIVERS[scheme]}.dbapi")
    except ImportError as error:
        raise InputError(
            f"{setting}.database needs {error.name}", "pip install -e '.[databases]'", setting=f"{setting}.database"
        ) from error
    _refuse_other_statements(sql, setting, scheme == "sqlite")
    # What a statement writes into files, such as by ATTACH, a rollback does not take back.
    path, options = (f"file:{quote(path)}?mode=ro", SQLITE_ROWS) if scheme == "sqlite" else (address, {})
    try:
        with driver.connect(path) as connection, connection.cursor(adbc_stmt_kwargs=options) as cursor:
            cursor.execute(sql)
            yield cursor.fetch_record_batch()
    except driver.Error as error:
        text = re.sub(
            r"^[A-Z_]+: (\[\w+\] )?(Failed to prepare query: )?(ERROR: +)?", "", str(error).partition("\n")[0]
        )
        text = shorten(text, 300, placeholder=" ...").rstrip(" .!")
        raise InputError(text, "check the address, the permissions and the SQL", setting=setting) from error


def _refuse_other_statements(sql: str, setting: str, alone: bool) -> None:
    """InputError where SQL is no SELECT, or more than one where the database would drop the others without a word."""
    bare = INERT.sub(" ", sql).strip()
    said = shorten(sql, 60, placeholder=" ...")
    if not ROWS.match(bare):
        raise InputError(
            f"{said} is no SELECT", "ask for rows, by one statement that begins SELECT or WITH", setting=setting
        )
    if "\0" in sql or (alone and ";" in bare.rstrip("; \t\r\n")):
        raise InputError(f"{said} is more than one statement", "give one SELECT", setting=setting)


def stored_password(address: str, stored: list[str]) -> bool:
    """Whether the password of an address stands in one of the texts that are saved with the data."""
    match = POSTGRESQL.fullmatch(address)
    password = match and match["password"]
    return bool(password) and any(text == password or f":{password}@" in text for text in stored)


def numeric_columns(answer: pa.RecordBatchReader) -> list[str]:
    """Columns of PostgreSQL's NUMERIC, which arrives as text."""
    return [field.name for field in answer.schema if (field.metadata or {}).get(b"POSTGRESQL:type") == b"numeric"]
