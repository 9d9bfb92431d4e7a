"""A small shop whose log, task and text every test can change."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.events import DataConfig, Source, connect, read_events
from data_prep.features import add_history_columns, aggregates_query, field_kinds, frequent_types
from data_prep.prepare import prepare
from data_prep.serializer import EventSerializer, TextConfig, TextField
from data_prep.task import Cutoffs, Label, Population, TaskConfig

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
            "event_type": TextField(top=20),
            "value": TextField(bins=4),
            "items": TextField(bins=3),
            "category": TextField(top=5),
        }
        return TextConfig(**({"fields": fields} | changes))

    def prepare(self, rows: list[dict], task: TaskConfig | None = None, text: TextConfig | None = None) -> Path:
        return prepare("shop", self.data(rows), task or self.task(), text or self.text())

    def rows(self, folder: Path, split: str) -> list[dict]:
        return pq.read_table(folder / f"{split}.parquet").to_pylist()

    def histories(
        self,
        rows: list[dict],
        cutoff: datetime,
        serializer: EventSerializer | TextConfig | None = None,
        target: str = "event_type = 'purchase'",
        kinds: dict[str, str] | None = None,
        types: list[str] | None = None,
    ) -> tuple[dict[str, dict], dict[str, str], EventSerializer | None]:
        """Aggregates and texts of every user with an event before the cutoff, as (aggregates, texts, serializer).

        A TextConfig as serializer is fitted on the events before the cutoff.
        """
        with connect() as con:
            log = read_events(con, self.data(rows))
            kinds = kinds or field_kinds(log.fields, {})
            types = frequent_types(con, cutoff) if types is None else types
            con.execute(
                "CREATE TABLE examples AS SELECT DISTINCT user_id, CAST($1 AS TIMESTAMP) AS cutoff FROM events "
                "WHERE event_time < cutoff",
                [cutoff],
            )
            add_history_columns(con, target)
            query = aggregates_query(cutoff, kinds, types)
            con.execute(f"CREATE TABLE aggregates AS SELECT TIMESTAMP '{cutoff}' AS cutoff, * FROM ({query})")
            found = con.execute("SELECT * EXCLUDE (cutoff) FROM aggregates")
            names = [column[0] for column in found.description]
            aggregates = {row[0]: dict(zip(names[1:], row[1:], strict=True)) for row in found.fetchall()}
            if serializer is None:
                return aggregates, {}, None
            if isinstance(serializer, TextConfig):
                serializer = EventSerializer.fit(con, serializer, kinds, cutoff)
            serializer.add_event_words(con)
            return aggregates, dict(con.execute(serializer.texts_query(cutoff)).fetchall()), serializer


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory)
