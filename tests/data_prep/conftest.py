"""A small shop whose log, task and text every test can change."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.aggregates import Aggregator, example_table
from data_prep.config import Cutoffs, DataConfig, Label, Population, Source, TaskConfig, TextConfig, TextField
from data_prep.connections import connect
from data_prep.event_log import EventLog, count_on
from data_prep.events import read_events
from data_prep.features import Features, field_kinds, frequent_types
from data_prep.moments import EPOCH, microseconds
from data_prep.prepare import prepare
from data_prep.serializer import EventSerializer

SCHEMA = {
    "user_id": pa.string(),
    "event_time": pa.timestamp("us"),
    "event_type": pa.string(),
    "value": pa.float64(),
    "items": pa.int64(),
    "category": pa.string(),
    "tags": pa.list_(pa.string()),
    "note": pa.string(),
}


@dataclass
class Shop:
    """Writes logs into new folders and runs steps on them."""

    factory: pytest.TempPathFactory
    start: datetime = field(default=datetime(2024, 1, 1))
    con: duckdb.DuckDBPyConnection = field(default_factory=lambda: connect().execute("SET threads = 1"))

    def folder(self) -> Path:
        return self.factory.mktemp("shop")

    def day(self, days: float) -> datetime:
        return self.start + timedelta(days=days)

    def event(self, user: str | None, day: float | None, kind: str | None = "view", **fields: object) -> dict:
        time = None if day is None else self.day(day)
        return {"user_id": user, "event_time": time, "event_type": kind, **fields}

    def regulars(self) -> list[dict]:
        """90 days with two users who make every split have both labels: one buys daily, one only looks."""
        buyer = [self.event("buyer", d + 0.5, "purchase", value=float(d % 7), items=d % 3) for d in range(90)]
        return buyer + [self.event("looker", d + 0.25, "view", category=f"c{d % 3}") for d in range(90)]

    def write(self, rows: list[dict], path: Path | None = None) -> Path:
        columns = {name: kind for name, kind in SCHEMA.items() if any(name in row for row in rows)}
        columns |= {name: SCHEMA[name] for name in ("user_id", "event_time", "event_type")}
        table = pa.table({name: pa.array([row.get(name) for row in rows], kind) for name, kind in columns.items()})
        path = path or self.folder() / "log.parquet"
        pq.write_table(table, path)
        return path

    def data(self, rows: list[dict], **changes: object) -> DataConfig:
        path = self.write(rows)
        return DataConfig(**({"sources": [Source(path=str(path))], "folder": str(path.parent / "out")} | changes))

    def task(self, **changes: object) -> TaskConfig:
        """Churn within 7 days at four cutoffs; changes replace label, population, train, validation or test."""
        cutoffs = {"train": ["2024-02-01", "2024-02-08"], "validation": ["2024-02-15"], "test": ["2024-02-29"]}
        return TaskConfig(
            Label(
                **(
                    {"kind": "absent", "where": "event_type = 'purchase'", "horizon": "7 days"}
                    | changes.get("label", {})
                )
            ),
            Population(**({"within": "28 days"} | changes.get("population", {}))),
            Cutoffs(**{split: changes.get(split, default) for split, default in cutoffs.items()}),
        )

    def text(self, **changes: object) -> TextConfig:
        fields = {
            "event_type": TextField(top=20, min_users=1),
            "value": TextField(bins=4),
            "items": TextField(bins=3),
            "category": TextField(top=5, min_users=1),
        }
        return TextConfig(**({"fields": fields} | changes))

    def prepare(self, rows: list[dict], task: TaskConfig | None = None, text: TextConfig | None = None) -> Path:
        return prepare("shop", self.data(rows), task or self.task(), text or self.text())

    def rows(self, folder: Path, split: str) -> list[dict]:
        return pq.read_table(folder / f"{split}.parquet").to_pylist()

    @contextmanager
    def log(self, rows: list[dict]) -> Iterator[tuple[duckdb.DuckDBPyConnection, EventLog]]:
        """The table `log` and the view `rows` of a log; the connection is opened once, as that takes a while."""
        log = read_events(self.con, self.data(rows))
        self.con.execute("CREATE TEMP VIEW rows AS FROM log")
        try:
            yield self.con, log
        finally:
            self.con.execute("DROP VIEW rows; DROP TABLE log")

    def histories(
        self,
        rows: list[dict],
        cutoff: datetime,
        serializer: EventSerializer | TextConfig | None = None,
        target: str = "event_type = 'purchase'",
        kinds: dict[str, str] | None = None,
        types: list[str] | None = None,
        classes: tuple[str, list[str]] = (None, []),
    ) -> tuple[dict[str, dict], dict[str, str], EventSerializer | None]:
        """Aggregates and texts of every user with an event before the cutoff, as (aggregates, texts, serializer).

        A TextConfig as serializer is fitted on the events before the cutoff; classes are those of a `which` label, and
        the field that has them.
        """
        with self.log(rows) as (con, log):
            kinds = kinds or field_kinds(log.fields, {})
            types = frequent_types(count_on(con), cutoff, 1) if types is None else types
            fitted = serializer
            if not isinstance(serializer, EventSerializer):
                config = serializer or TextConfig(header=[], fields={})
                fitted = EventSerializer.fit(con, config, Features(target, log.fields, kinds, types, *classes), cutoff)
            history = fitted.load(con, {})
            at = microseconds(cutoff - EPOCH)
            users = np.flatnonzero(history.with_past(at, history.everyone))
            aggregator = Aggregator(history, fitted.features)
            columns, own = aggregator.at(at, users), aggregator.own(at, users)
            table = example_table(history, at, users, columns | own)
            if isinstance(serializer, TextConfig):
                fitted.fit_header(table)
            aggregates = {row.pop("user_id"): row for row in table.drop_columns("cutoff").to_pylist()}
            texts = fitted.texts(history, at, users, columns, own).to_pylist()
            return aggregates, dict(zip(aggregates, texts, strict=True)), fitted


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory)


@pytest.fixture(scope="module")
def con() -> duckdb.DuckDBPyConnection:
    return connect()


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder for forged files, beside the current one, in which nothing may appear."""
    here = tmp_path / "here"
    here.mkdir()
    (here / "secret.csv").write_text("a,b\n1,2\n")
    monkeypatch.chdir(here)
    yield tmp_path
    assert os.listdir(here) == ["secret.csv"]
