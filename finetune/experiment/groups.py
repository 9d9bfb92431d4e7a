"""Which group a row is in, by an SQL expression over its aggregates and what the log knows of its user."""

import json
import math
import re
import tempfile
from decimal import Decimal
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from data_prep import InputError
from data_prep.connections import connect, lock_down
from data_prep.events import confined, read_events
from data_prep.expressions import check_types, parse_expression
from data_prep.given_users import read_users
from data_prep.history import combined
from data_prep.prepared import opened, read_manifest, read_split
from data_prep.sql import column_types, identifier, refused
from finetune.experiment.config import Experiment

UNKNOWN, OTHER = "unknown", "other"
MOST = 20  # groups of an expression, the largest ones; all others are OTHER
PLAIN = re.compile(r"BOOLEAN|FLOAT|DOUBLE|DECIMAL.*|U?(TINY|SMALL|BIG|HUGE)INT|U?INTEGER")  # the rest becomes text


def row_groups(experiment: Experiment, rows: pa.Table, split: str, expressions: dict[str, str]) -> dict[str, list[str]]:
    """The group of each row of a split, by each expression.

    An expression may use user_id, cutoff and the aggregates, which stand in the prepared split, and the log's columns.
    Of those it sees each user's newest value strictly before the cutoff (the largest of several at the same moment),
    for which the log is read again, and of the columns of data.users the row that counts at the cutoff.

    Args:
        experiment: Its prepared data and its log.
        rows: user_id and cutoff of the rows, as `read_split` gives them under the experiment's limit.
        split: Its name.
        expressions: The name of the setting that gives an expression -> its SQL.

    Returns:
        Setting -> what the expression gives for each row: yes or no, a number, a text; "unknown" where it gives nothing
        and "other" for all but the 20 largest groups.

    Raises:
        InputError: An expression that names an unknown column, looks at other rows or fails, or a log that no longer
            has the users of the split.
    """
    folder = experiment.data_folder
    manifest = read_manifest(folder)
    stored = {name.lower(): name for name in ("user_id", "cutoff", *manifest["aggregates"])}
    of_users = manifest.get("users", {}).get("columns", {})
    types = {"event_type": "VARCHAR"} | manifest["log"]["fields"] | of_users
    fields = {name.lower(): name for name in types if name.lower() not in stored}
    log_columns = {name: types[name] for name in fields.values()}
    with (
        tempfile.TemporaryDirectory(prefix=".groups", dir=folder.parent) as spill,
        connect(experiment.data.memory_limit, Path(spill)) as con,
    ):
        _make_empty(con, opened(folder, split).schema_arrow, list(stored.values()), log_columns)
        remedy = (
            f"use user_id, cutoff, the log's columns ({', '.join(log_columns)}) or the aggregates that "
            f"{folder / 'manifest.json'} lists"
        )
        kinds, named = {}, set()
        for setting, sql in expressions.items():
            kinds[setting], names = _check(con, setting, sql, remedy)
            named |= names
        aggregates = [stored[name] for name in named if name in stored and name not in ("user_id", "cutoff")]
        table = read_split(folder, split, experiment.limits[split], aggregates)
        columns = {name: rows[name] for name in ("user_id", "cutoff")}
        columns |= {name: table[name] for name in aggregates} | {"#row": np.arange(len(rows))}
        con.register("given_rows", pa.table(columns))
        newest = {name: log_columns[name] for key, name in fields.items() if key in named}
        joins = _join_attributes(con, experiment, [name for name in newest if name in of_users], Path(spill))
        newest = {name: kind for name, kind in newest.items() if name not in of_users}
        if newest:
            _read_newest(con, experiment, newest, next(iter(expressions)))
        else:
            lock_down(con)
        joins += "".join(f' LEFT JOIN "#newest_{i}" USING ("#row")' for i in range(len(newest)))
        con.execute(f"CREATE TEMP VIEW examples AS SELECT * FROM given_rows{joins}")
        return {
            setting: _groups(con, f"{setting}: {sql}", sql, kinds[setting], len(rows))
            for setting, sql in expressions.items()
        }


def _make_empty(con: duckdb.DuckDBPyConnection, schema: pa.Schema, stored: list[str], log: dict[str, str]) -> None:
    """The relation `examples` without rows, against which expressions are checked before anything is read."""
    con.register("nothing", pa.schema([schema.field(name) for name in stored]).empty_table())
    check_types(con, "manifest.json: log.fields", log)
    fields = "".join(f", CAST(NULL AS {kind}) AS {identifier(name)}" for name, kind in log.items())
    con.execute(f"CREATE OR REPLACE TEMP VIEW empty AS SELECT *{fields} FROM nothing")


def _check(con: duckdb.DuckDBPyConnection, setting: str, sql: str, remedy: str) -> tuple[str, set[str]]:
    """The type of the expression's value, and the columns that it names, in lower case.

    Raises:
        InputError: It is no expression over the columns of one example.
    """
    columns = column_types(con, "empty")
    parsed = parse_expression(con, setting, sql, remedy, lambda: columns)
    with refused(f"{setting}: {sql}", remedy):
        described = con.execute(f"DESCRIBE SELECT ({sql}\n) AS v FROM empty").fetchall()
        rows = con.execute(f"SELECT ({sql}\n) AS v FROM empty").fetchall()
    if len(described) != 1 or rows:
        what = "gives several columns" if len(described) != 1 else "adds up over several examples"
        raise InputError(f"{sql} {what}, and a group is one value of one example", remedy, setting=setting)
    names: list[str] = []
    json.loads(json.dumps(parsed), object_hook=lambda node: names.extend(node.get("column_names", [])))
    return described[0][1], {name.lower() for name in names}


def _join_attributes(con: duckdb.DuckDBPyConnection, experiment: Experiment, names: list[str], spill: Path) -> str:
    """Make the table #attributes of row and attributes, as they were known before its cutoff; returns SQL to join it.

    Raises:
        InputError: data.users cannot be read, or has no such attribute any more.
    """
    if not names:
        return ""
    rows = read_users(experiment.data, spill)
    lost = [name for name in names if rows is None or name not in rows.types]
    if rows is None or lost:
        raise InputError(
            f"data.users has no column {lost[0]} any more",
            "give the same table, or prepare again",
            setting="data.users",
        )
    con.register("user_rows", rows.table)
    con.execute(
        f"""CREATE TEMP TABLE "#attributes" AS SELECT "#row", {", ".join(map(identifier, names))}
            FROM given_rows ASOF JOIN user_rows ON given_rows.user_id = user_rows.user_id
                 AND epoch_us(given_rows.cutoff) > user_rows.known_from"""
    )
    con.unregister("user_rows")
    return ' LEFT JOIN "#attributes" USING ("#row")'


def _read_newest(con: duckdb.DuckDBPyConnection, experiment: Experiment, fields: dict[str, str], setting: str) -> None:
    """Make the tables #newest_0, ...: row and newest value before its cutoff, of each row where there is one."""
    with confined(con, experiment.data):
        read_events(con, experiment.data)
    columns = ", ".join(f"log.{identifier(name)}" for name in fields if name != "event_type")
    con.execute(
        f"""CREATE TEMP TABLE events AS SELECT user_id, event_time, event_type{", " * bool(columns)}{columns}
            FROM log SEMI JOIN given_rows USING (user_id);
            DROP TABLE log"""
    )
    lost = con.execute(
        """SELECT count(*)
           FROM given_rows LEFT JOIN (SELECT user_id, min(event_time) AS first FROM events GROUP BY user_id)
                USING (user_id)
           WHERE first IS NULL OR first >= cutoff"""
    ).fetchall()[0][0]
    if lost:
        key = f" and the key in {experiment.data.pseudonymize}" if experiment.data.pseudonymize else ""
        raise InputError(
            f"the log has no event of {lost:,} examples any more, so it is not the one that "
            f"{experiment.data_folder} was prepared from",
            f"give the same data.sources{key}, or prepare again",
            setting=setting,
        )
    for i, (name, kind) in enumerate(fields.items()):
        column = identifier(name)
        known = f"trim({column}) <> ''" if kind == "VARCHAR" else f"{column} IS NOT NULL"  # CSV has no other nothing
        con.execute(
            f"""CREATE TEMP TABLE "#newest_{i}" AS
                SELECT "#row", newest.{column} FROM given_rows ASOF JOIN
                       (SELECT user_id, event_time, max({column}) AS {column} FROM events WHERE {known}
                        GROUP BY user_id, event_time) AS newest
                ON given_rows.user_id = newest.user_id AND given_rows.cutoff > newest.event_time"""
        )
    con.execute("DROP TABLE events")


def _groups(con: duckdb.DuckDBPyConnection, setting: str, sql: str, kind: str, rows: int) -> list[str]:
    """The group of each row."""
    remedy = "let it give one value for every example, as TRY_CAST does in the place of CAST"
    shown = "v" if PLAIN.fullmatch(kind) else "CAST(v AS VARCHAR)"
    with refused(setting, remedy):
        found = con.sql(
            f"""SELECT {shown} AS v FROM (SELECT "#row", ({sql}\n) AS v FROM examples) ORDER BY "#row" """
        ).to_arrow_table()
    if len(found) != rows:
        raise InputError(f"{setting} gives {len(found):,} values for {rows:,} examples", remedy, setting=setting)
    values = combined(found["v"]).dictionary_encode()
    names = np.array([*map(_called, values.dictionary.to_pylist()), UNKNOWN])
    code = values.indices.fill_null(len(names) - 1).to_numpy()
    return largest(names[code])


def largest(values: np.ndarray) -> list[str]:
    """The group of each row, OTHER for all but the 20 largest ones; values of shape (rows,)."""
    names, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    names = names.astype(object)
    names[np.lexsort((names, -counts))[MOST:]] = OTHER
    return names[group].tolist()


def _called(value: object) -> str:
    """A group by its value: whole numbers and dates without what is 0 in them."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float | Decimal):
        whole = float(value).is_integer() and abs(value) < 1e15
        return UNKNOWN if math.isnan(value) else str(int(value)) if whole else f"{value:.6g}"
    return str(value).removesuffix(" 00:00:00").strip() or UNKNOWN
