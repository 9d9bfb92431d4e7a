"""Reads small files as logs, broken ones too."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data_prep import InputError
from data_prep.config import DataConfig, Source
from data_prep.connections import connect
from data_prep.event_log import EventLog
from data_prep.events import read_events

HEADER = "user_id,event_time,event_type,price\n"

LINES = "".join(f"u{i},2024-01-{i % 28 + 1:02d} 10:00:00,view,{i}\n" for i in range(100))


def read(folder: Path, name: str, **changes: object) -> tuple[EventLog, list[str]]:
    """The log of one file or glob, and the details of its rejected rows."""
    with connect() as con:
        log = read_events(con, DataConfig([Source(path=str(folder / name))], **changes), folder)
    path = folder / "rejected.parquet"
    return log, pq.read_table(path)["rejected_detail"].to_pylist() if path.is_file() else []


def message(data: DataConfig) -> str:
    """The refusal, which is one sentence without DuckDB's own words."""
    with connect() as con, pytest.raises(InputError) as error:
        read_events(con, data)
    text = str(error.value)
    assert text.startswith("data.sources[0]")
    for jargon in ("\n", "LINE 1", "Error:", "Candidate", "Possible", "Traceback"):
        assert jargon not in text
    assert len(text) < 500
    return text


def refused(path: Path) -> str:
    return message(DataConfig([Source(path=str(path))]))


def shop_csv(folder: Path) -> Path:
    path = folder / "log.csv"
    path.write_text(HEADER + LINES)
    return path
