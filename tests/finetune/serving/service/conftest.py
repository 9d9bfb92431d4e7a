import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from finetune.model.calibration import Calibration
from finetune.serving.service.app import make_app
from finetune.serving.service.engine import Engine
from finetune.serving.service.model import ServedModel
from finetune.serving.service.store import open_store

KEY = "a key of the tests"


@dataclass
class Running:
    """A service in this process."""

    client: TestClient
    engine: Engine

    def append(self, events: list[dict], status: int = 200) -> dict:
        answer = self.client.post("/events", json={"events": events})
        assert answer.status_code == status, answer.text
        return answer.json()

    def get(self, path: str, status: int = 200, **query: object) -> dict:
        answer = self.client.get(path, params=query)
        assert answer.status_code == status, answer.text
        return answer.json()


@contextmanager
def running(model: Path, store: str, key: str | None = None) -> Iterator[Running]:
    engine = Engine(ServedModel.load(str(model)), open_store(store))
    headers = {"X-API-Key": key} if key else {}
    with TestClient(make_app(engine, key), raise_server_exceptions=True, headers=headers) as client:
        yield Running(client, engine)


@pytest.fixture(scope="module")
def model(trained, tmp_path_factory) -> Path:
    """The folder of a calibrated model."""
    folder = tmp_path_factory.mktemp("served") / "model"
    shutil.copytree(trained.run_folder / "model", folder)
    Calibration("isotonic", x=(0.2, 0.5, 0.8), y=(0.1, 0.3, 0.9), threshold=0.3).save(folder)
    return folder


@pytest.fixture
def service(model, tmp_path) -> Iterator[Running]:
    with running(model, f"sqlite:///{tmp_path / 'histories.db'}") as service:
        yield service


@pytest.fixture(scope="module")
def log(log_table) -> dict[str, list[dict]]:
    """User -> the events of the log that the model was trained on, as a sender would send them."""
    found: dict[str, list[dict]] = {}
    for row in log_table.to_pylist():
        event = {name: value for name, value in row.items() if value is not None}
        found.setdefault(row["user_id"], []).append(event | {"event_time": row["event_time"].isoformat()})
    json.dumps(found)  # nothing but what JSON has
    return found
