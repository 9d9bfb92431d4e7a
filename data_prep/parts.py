"""Parts of a log that hold whole users: how many, who is in which, and where their events lie."""

from pathlib import Path

import duckdb

from data_prep.event_log import EventLog
from data_prep.sql import file_list, quote

PART_EVENTS = 1_250_000  # a part of the log with that many events needs about 1 GB of memory
SAMPLE_USERS = 20_000  # bins and vocabularies are learned on that many users, chosen by their hash
# A number below 65,536 for each user, the same on every machine; slow enough to be worked out once a user.
BUCKET = "CAST('0x' || left(md5(user_id), 4) AS INTEGER)"


def number_of_parts(events: int) -> int:
    """A power of two, so that a part has at most about PART_EVENTS events; small logs stay whole."""
    return 1 if events <= 2 * PART_EVENTS else 1 << (-(-events // PART_EVENTS) - 1).bit_length()


def sample_condition(log: EventLog) -> str | None:
    """SQL of the users on whom bins and vocabularies are learned, the same on every machine; None for all of them."""
    if log.users <= SAMPLE_USERS:
        return None
    limit = 65_536 * SAMPLE_USERS // log.users
    # Without LIMIT the condition would move inwards, and the hash be worked out for every event.
    users = f"SELECT DISTINCT user_id FROM log LIMIT {log.users}"
    return f"user_id IN (SELECT user_id FROM ({users}) WHERE {BUCKET} < {limit})"


def write_parts(con: duckdb.DuckDBPyConnection, events: str, parts: int, folder: Path) -> dict[int, int]:
    """Write events into files by a hash of the user.

    Args:
        con: Where the SELECT runs.
        events: A SELECT of events with user_id.
        parts: Their number, up to 65,536.
        folder: A new one, for `read_part`.

    Returns:
        The number of users in each part that has any.
    """
    con.execute(
        f"""CREATE TEMP TABLE places AS SELECT user_id, {BUCKET} * {parts} // 65536 AS part
            FROM (SELECT DISTINCT user_id FROM ({events}))"""
    )
    con.execute(
        f"""COPY (SELECT * FROM ({events}) JOIN places USING (user_id))
            TO {quote(str(folder))} (FORMAT parquet, PARTITION_BY (part), COMPRESSION lz4, PRESERVE_ORDER false,
                                     DICTIONARY_SIZE_LIMIT 1000)"""
    )
    users = dict(con.execute("SELECT part, count(*) FROM places GROUP BY part ORDER BY part").fetchall())
    con.execute("DROP TABLE places")
    return users


def read_part(folder: Path, part: int) -> str:
    """A SELECT of the events of a part that `write_parts` wrote."""
    files = sorted((folder / f"part={part}").iterdir())
    return f"SELECT * FROM read_parquet({file_list(files)}, hive_partitioning = false)"
