"""Histories of single users of a log: their texts, and the exact figures behind them."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from data_prep.config import DataConfig
from data_prep.connections import connect
from data_prep.moments import microseconds
from data_prep.population import Whom
from data_prep.serializer import EventSerializer
from data_prep.serving import ServedLog, read_past
from data_prep.sql import condition, timestamp
from finetune.serving.classifier import EventClassifier

SEED = 0  # of the sample


@dataclass(frozen=True)
class History:
    """What a user did before the cutoff.

    Attributes:
        user: The id.
        text: As the serializer writes it.
        times: Of all events, the newest first, also of those that the text leaves out.
        aggregates: The exact numbers of whose bins the header's words are made, and all others; None where a user has
            none.
    """

    user: str
    text: str
    times: list[datetime]
    aggregates: dict[str, float | None]


@contextmanager
def past_log(
    classifier: EventClassifier, events: Any, cutoff: datetime | None, users: Any = None
) -> Iterator[tuple[duckdb.DuckDBPyConnection, ServedLog]]:
    """A connection with the view `past` of the events before the cutoff, and what the log has, which is printed."""
    limit = events.memory_limit if isinstance(events, DataConfig) else None
    with tempfile.TemporaryDirectory() as folder, connect(limit, Path(folder)) as con:
        log = read_past(con, events, classifier.serializer, cutoff, task=classifier.task, users=users)
        for note in log.notes():
            print(note)
        yield con, log


def histories_of(
    con: duckdb.DuckDBPyConnection, serializer: EventSerializer, cutoff: datetime | None, users: list[str]
) -> list[History]:
    """The histories of some users of the view `past`, in the order of their ids; their events become the table `rows`.

    Users without an event in it are left out.
    """
    con.register("chosen", pa.table({"user_id": pa.array(users, pa.string())}))
    con.execute("CREATE OR REPLACE TEMP TABLE rows AS SELECT * FROM past SEMI JOIN chosen USING (user_id)")
    if not con.execute("SELECT count(*) FROM rows").fetchall()[0][0]:
        return []
    examples = serializer.examples(con, cutoff)
    times = dict(
        con.execute("SELECT user_id, list(event_time ORDER BY event_time DESC) FROM rows GROUP BY ALL").fetchall()
    )
    said = examples.select(["user_id", "text"]).to_pylist()
    aggregates = examples.drop_columns(["user_id", "cutoff", "text"]).to_pylist()
    return [
        History(row["user_id"], row["text"], times[row["user_id"]], numbers)
        for row, numbers in zip(said, aggregates, strict=True)
    ]


def users_of(
    con: duckdb.DuckDBPyConnection, serializer: EventSerializer, cutoff: datetime | None, members: Whom
) -> list[str]:
    """The ids of the users of the view `past` who are `members`, in their order."""
    asked, end = ["true"], "max(event_time) + INTERVAL 1 MICROSECOND"
    if cutoff:
        end = timestamp(serializer.past_of(cutoff))
    if members.population:
        within = microseconds(members.within)
        newest = f"max(event_time) FILTER ({condition(members.population.where)} = 1)"
        asked.append(f"{newest} >= {end} - INTERVAL {within} MICROSECONDS")
    if members.at:
        asked.append(f"max(event_time) FILTER ({condition(members.at)} = 1) = {end} - INTERVAL 1 MICROSECOND")
    query = f"SELECT user_id FROM past GROUP BY user_id HAVING {' AND '.join(asked)} ORDER BY user_id"
    return [user for (user,) in con.execute(query).fetchall()]


def drawn(users: list[str], sample: int) -> list[str]:
    """So many of the users at random, always the same ones; all, where they are fewer."""
    chosen = np.random.default_rng(SEED).permutation(len(users))[:sample]
    return [users[at] for at in np.sort(chosen)]
