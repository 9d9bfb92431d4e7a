"""Histories of single users of a log: their texts, and the moments of their events."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from data_prep.config import DataConfig, Population
from data_prep.connections import connect
from data_prep.moments import parse_duration
from data_prep.serving import ServedLog, read_past
from data_prep.sql import condition, timestamp
from finetune.serving.classifier import EventClassifier

SEED = 0  # of the sample


@dataclass(frozen=True)
class History:
    """What a user did before the cutoff.

    Attributes:
        text: As the serializer writes it.
        times: Of all events, the newest first, also of those that the text leaves out.
    """

    text: str
    times: list[datetime]


def histories_of(
    classifier: EventClassifier,
    events: Any,
    cutoff: datetime,
    choose: Callable[[duckdb.DuckDBPyConnection], list[str]],
) -> tuple[list[History], ServedLog]:
    """The histories of the users whom `choose` names among those of the view `past`, and what the log has."""
    limit = events.memory_limit if isinstance(events, DataConfig) else None
    with tempfile.TemporaryDirectory() as folder, connect(limit, Path(folder)) as con:
        log = read_past(con, events, classifier.serializer, cutoff, task=classifier.task)
        for note in log.notes():
            print(note)
        con.register("chosen", pa.table({"user_id": pa.array(choose(con), pa.string())}))
        con.execute("CREATE TEMP TABLE rows AS SELECT * FROM past SEMI JOIN chosen USING (user_id)")
        if not con.execute("SELECT count(*) FROM rows").fetchall()[0][0]:
            return [], log
        texts = classifier.serializer.examples(con, cutoff).select(["user_id", "text"]).to_pylist()
        times = dict(
            con.execute("SELECT user_id, list(event_time ORDER BY event_time DESC) FROM rows GROUP BY ALL").fetchall()
        )
        return [History(row["text"], times[row["user_id"]]) for row in texts], log


def drawn_users(con: duckdb.DuckDBPyConnection, sample: int, cutoff: datetime, members: Population | None) -> list[str]:
    """So many users of the view `past`, or of the population, drawn at random; always the same ones."""
    where = "true"
    if members:
        since = cutoff - parse_duration(members.within, "task.population.within")
        where = f"{condition(members.where)} = 1 AND event_time >= {timestamp(since)}"
    ids = con.execute(f"SELECT DISTINCT user_id FROM past WHERE {where} ORDER BY user_id").fetchall()
    drawn = np.random.default_rng(SEED).permutation(len(ids))[:sample]
    return [ids[i][0] for i in np.sort(drawn)]
