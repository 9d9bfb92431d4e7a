"""Reads small logs of SQL and of files, for the tests of all that takes part in it."""

import re
from pathlib import Path

import pytest

from data_prep import InputError
from data_prep.config import DataConfig, Source
from data_prep.connections import connect
from data_prep.event_log import EventLog
from data_prep.events import read_events


def read(data: DataConfig, folder: Path | None = None) -> tuple[EventLog, list[dict]]:
    """The log and the rows of the table `log`, by user, time, type and fields."""
    with connect() as con:
        log = read_events(con, data, folder)
        found = con.execute("SELECT * FROM log ORDER BY ALL")
        names = [column[0] for column in found.description]
        return log, [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def from_sql(*queries: str, **changes: object) -> DataConfig:
    return DataConfig(**({"sources": [Source(sql=query) for query in queries], "max_rejected": 0.9} | changes))


def message(data: DataConfig, folder: Path | None = None) -> str:
    """The refusal, which is one sentence on one line that names the source and ends with a remedy."""
    with pytest.raises(InputError) as error:
        read(data, folder)
    text = str(error.value)
    assert "\n" not in text
    assert not re.search(r"LINE \d|Error:|Candidate|Possible|SELECT [*]", text)
    assert text.startswith("data.")
    assert not text.endswith(".")
    return text


def counted(log: EventLog) -> dict[str, int]:
    """The rejected rows by reason, without the reasons that no row has."""
    return {why: count for why, count in log.rejected.items() if count}


ONE = "SELECT 1 AS user_id, TIMESTAMP '2024-01-01' AS event_time, 'view' AS event_type"
