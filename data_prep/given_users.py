"""The table of data.users: attributes of the users, each row with the moment from which on it is known."""

from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from data_prep import InputError
from data_prep.config import DataConfig
from data_prep.connections import connect
from data_prep.event_log import REQUIRED
from data_prep.history import NEVER
from data_prep.side_tables import check_table, read_table, refuse_missing, table_source
from data_prep.sql import NUMERIC, identifier, text_sql

SETTING = "data.users"
SINCE = "known_from"
ALWAYS = "TIMESTAMP '2000-01-01'"  # stands for the moment of rows that are known always
WHOLE = ("BIGINT", "INTEGER", "SMALLINT", "TINYINT", "UINTEGER", "USMALLINT", "UTINYINT")
KINDS = ("BIGINT", "DOUBLE", "BOOLEAN", "VARCHAR")  # that attributes are kept as
AS_OF_TODAY = (
    "data.users has no known_from, so that its attributes are taken as known always; attributes as of today are a "
    "common leak"
)


@dataclass(frozen=True)
class UserRows:
    """The table of users.

    Attributes:
        table: user_id, known_from (microseconds since 1970 in UTC; NEVER of what is known always) and the attributes,
            by user and time.
        types: Attribute -> one of KINDS.
        dated: Whether the rows say when they were known.
    """

    table: pa.Table
    types: dict[str, str]
    dated: bool

    @property
    def users(self) -> int:
        """How many users it has."""
        return len(self.table["user_id"].unique())

    @property
    def notes(self) -> list[str]:
        """What a user should know of it, in sentences."""
        return [] if self.dated else [AS_OF_TODAY]


def read_users(
    data: DataConfig,
    spill: Path | None = None,
    types: dict[str, str] | None = None,
    con: duckdb.DuckDBPyConnection | None = None,
    called: str = SETTING,
) -> UserRows | None:
    """What data.users has; None where there is no such table.

    Args:
        data: Ids, times and pseudonyms are read as those of its events.
        spill: Where DuckDB may put what does not fit into memory.
        types: Attribute -> the kind that it had in training, which text files do not say.
        con: A new connection that knows what is in memory; None opens one.
        called: What the table is called in messages.

    Raises:
        InputError: The table cannot be read, has no user_id or no attribute, a row has no user or no time, two rows of
            a user are known from the same moment, or an attribute is of a nested type.
    """
    if data.users is None:
        return None
    check_table(data.users, called)
    dated = True

    def as_event(names: list[str]) -> dict[str, str]:
        nonlocal dated
        refuse_missing(names, ("user_id",), called)
        dated = SINCE in names
        taken = [name for name in names if name.lower() in REQUIRED[1:]]
        if taken:
            raise InputError(
                f"the attribute '{taken[0]}' has the name of a column of the events",
                "give it another name",
                setting=called,
            )
        own = {name: name for name in names if name not in ("user_id", SINCE)}
        if not own:
            raise InputError("it has no attribute beside user_id", "name its columns", setting=called)
        return {"user_id": "user_id", "event_time": SINCE if dated else ALWAYS, "event_type": "'user'"} | own

    # Of birthdays and contracts to come, too.
    source = _wide(table_source(data.users, data))
    with con or connect(data.memory_limit, spill) as opened:
        found = read_table(opened, source, called, SINCE, as_event, types)
        kinds = {name: _kind(name, kind, called) for name, kind in found.items() if name not in REQUIRED}
        columns = "".join(f", {_value(name, found[name], kind)} AS {identifier(name)}" for name, kind in kinds.items())
        since = "epoch_us(event_time)" if dated else f"CAST({NEVER} AS BIGINT)"
        _refuse_twice(opened, dated, called)
        table = opened.sql(f"SELECT user_id, {since} AS {SINCE}{columns} FROM log ORDER BY 1, 2").to_arrow_table()
    return UserRows(table, kinds, dated)


def no_users(types: dict[str, str]) -> pa.Table:
    """The table of users without any, given the kind of each attribute."""
    kinds: dict[str, pa.DataType] = dict(zip(KINDS, (pa.int64(), pa.float64(), pa.bool_(), pa.string()), strict=True))
    columns = {name: pa.array([], kinds[kind]) for name, kind in types.items()}
    return pa.table({"user_id": pa.array([], pa.string()), SINCE: pa.array([], pa.int64()), **columns})


def _wide(source: DataConfig) -> DataConfig:
    source.since, source.until = "1900-01-01", "2199-12-31"
    return source


def _kind(name: str, kind: str, called: str) -> str:
    """What an attribute is kept as."""
    if kind in WHOLE:
        return "BIGINT"
    if NUMERIC.fullmatch(kind):
        return "DOUBLE"
    if kind.endswith("]") or kind.startswith(("STRUCT", "MAP", "UNION", "JSON", "VARIANT", "BLOB")):
        raise InputError(
            f"the attribute '{name}' is {kind}",
            "give a number or a text, as array_to_string makes one of a list",
            setting=called,
        )
    return "BOOLEAN" if kind == "BOOLEAN" else "VARCHAR"


def _value(name: str, given: str, kind: str) -> str:
    """SQL of an attribute as it is kept; a text without anything in it is none."""
    if kind == "VARCHAR":
        return text_sql(identifier(name), given) if given != '"NULL"' else "CAST(NULL AS VARCHAR)"
    return f"CAST({identifier(name)} AS {kind})"


def _refuse_twice(con: duckdb.DuckDBPyConnection, dated: bool, called: str) -> None:
    twice = con.execute(
        "SELECT user_id FROM log GROUP BY user_id, event_time HAVING count(*) > 1 ORDER BY ALL LIMIT 1"
    ).fetchall()
    if twice:
        same = f"of one {SINCE}" if dated else f"and no {SINCE} tells which is newer"
        raise InputError(f"user '{twice[0][0]}' has two rows {same}", "keep one of them", setting=called)
