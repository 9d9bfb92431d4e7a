"""Attributes of users who are to be scored, in the types that they had in training."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from data_prep import InputError
from data_prep.attributes import RELATION, needed
from data_prep.config import DataConfig, UsersTable
from data_prep.connections import connect
from data_prep.given_users import SETTING, no_users, read_users
from data_prep.in_memory import in_memory
from data_prep.sql import identifier, refused

GIVEN = "given_users"  # what a caller has in memory, as a relation


def give_users(con: duckdb.DuckDBPyConnection, attributes: dict[str, dict], data: DataConfig, users: Any) -> list[str]:
    """Make the relation RELATION, which texts of a model with attributes need.

    Args:
        con: Where it is made.
        attributes: Of the model, see `EventSerializer.attributes`.
        data: Of the events: its users are read where no others are given, and its time zone counts.
        users: user_id, the attributes and perhaps known_from: a path or glob, or what `in_memory` takes. Of none, as
            an empty list, no attributes are known.

    Returns:
        What a user should know of it, in sentences.

    Raises:
        InputError: The model needs attributes and none are given, or the other way round; or see `read_users`.
    """
    if not attributes:
        if users is not None:
            raise InputError("users: the model reads no attributes of users", "leave them out")
        return [f"{SETTING} is not read, as the model knows no attributes of users"] if data.users else []
    if users is None and data.users is None:
        raise needed(attributes)
    called = SETTING if users is None else "users"
    types = {name: fitted["type"] for name, fitted in attributes.items()}
    with connect(data.memory_limit) as own:
        if isinstance(users, str | Path):
            data = replace(data, users=UsersTable(path=str(users)))
        elif users is not None:
            given = in_memory(users, called)
            if isinstance(given, pa.Table) and not len(given) and not (isinstance(users, list | tuple) and users):
                con.register(RELATION, no_users(types))
                return []
            if not given.schema.names:  # as of [{}], which DuckDB takes for no table
                raise InputError(f"{called} has no column user_id", "give each row a user_id and attributes")
            own.register(GIVEN, given)
            data = replace(data, users=UsersTable(sql=f"SELECT * FROM {GIVEN}"), trust_sql=False)
        rows = read_users(data, types=types, con=own, called=called)
    assert rows is not None, "as there is a table"
    own_name = {name.lower(): name for name in rows.types}
    columns = ""
    for name, fitted in attributes.items():
        kind = "DOUBLE" if fitted["kind"] == "numeric" else fitted["type"]
        value = identifier(own_name[name.lower()]) if name.lower() in own_name else "NULL"
        columns += f", CAST({value} AS {kind}) AS {identifier(name)}"
    con.register("given", rows.table)
    with refused(called, "give each attribute the type that it had in training"):
        table = con.sql(f"SELECT user_id, known_from{columns} FROM given").to_arrow_table()
    con.unregister("given")
    con.register(RELATION, table)
    lacking = [name for name in attributes if name.lower() not in own_name]
    return [f"warning: {called} has no column {', '.join(lacking)}: taken as missing for every user"] if lacking else []


def users_without(con: duckdb.DuckDBPyConnection, events: str) -> list[str]:
    """A sentence where users of a relation of events have no row in RELATION."""
    users, without = con.execute(
        f"""SELECT count(*), count(*) FILTER (user_id NOT IN (SELECT user_id FROM {RELATION}))
            FROM (SELECT DISTINCT user_id FROM {events})"""
    ).fetchall()[0]
    if not without:
        return []
    return [f"{without:,} of {users:,} users have no row among the attributes, which are missing then"]
