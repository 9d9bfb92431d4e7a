"""Logs that a test writes and reads."""

import json
from pathlib import Path

import pytest

from data_prep.config import DataConfig, Source
from data_prep.connections import connect
from data_prep.event_log import EventLog
from data_prep.events import read_events

HEADER = ["user_id", "event_time", "event_type"]


def write(path: Path, rows: list[list], names: list[str] = HEADER) -> Path:
    """A CSV file, or JSON lines with what is no text as it is."""
    if path.suffix == ".csv":
        path.write_text(
            "\n".join(",".join("" if value is None else str(value) for value in row) for row in [names, *rows])
        )
    else:
        path.write_text("\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows))
    return path


def read(path: Path, columns: dict[str, str] | None = None, **changes: object) -> tuple[EventLog, list[dict]]:
    """The log of a file, and its rows in order of user, time and the rest."""
    source = Source(
        path=str(path), columns=columns, **{key: changes.pop(key) for key in ("time_unit",) if key in changes}
    )
    with connect() as con:
        log = read_events(con, DataConfig([source], **({"max_rejected": 0.9} | changes)))
        return log, con.sql(
            "SELECT user_id, event_time, event_type, * EXCLUDE (user_id, event_time, event_type) FROM log ORDER BY ALL"
        ).to_arrow_table().to_pylist()


def counted(log: EventLog) -> dict[str, int]:
    return {why: count for why, count in log.rejected.items() if count}


FORMATS = pytest.mark.parametrize("name", ["log.csv", "log.jsonl"])
