"""A model that is put in use while the service runs."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune.model.calibration import Calibration
from finetune.serving.service.watch import state_of, watch
from tests.finetune.serving.service.conftest import running

EVENT = {"user_id": "u1", "event_time": "2024-03-01T10:00:00", "event_type": "purchase"}
HIGH = Calibration("isotonic", x=(0.2, 0.5, 0.8), y=(0.91, 0.93, 0.99), threshold=0.95)


@pytest.fixture
def link(model, tmp_path) -> Path:
    """A name that stands for the model."""
    (tmp_path / "current").symlink_to(model)
    return tmp_path / "current"


def other_model(model: Path, folder: Path) -> Path:
    shutil.copytree(model, folder)
    HIGH.save(folder)
    return folder


def becomes(holds: Callable[[], bool]) -> None:
    for _ in range(1_000):
        if holds():
            return
        time.sleep(0.02)
    raise AssertionError("in vain")


def test_another_folder_under_the_same_name_is_served_and_no_request_fails(model, link, tmp_path):
    with running(link, f"sqlite:///{tmp_path / 'h.db'}") as service:
        service.append([EVENT])
        watch(service.engine, lambda: str(link), state_of(str(link)), every=0.02)
        assert service.get("/users/u1/score", at="2024-03-05")["score"] < 0.9
        (tmp_path / "new").symlink_to(other_model(model, tmp_path / "july"))
        (tmp_path / "new").replace(link)
        # Asked all the time, and each answer is a score.
        becomes(lambda: service.get("/users/u1/score", at="2024-03-05")["score"] > 0.9)


def test_what_the_registry_puts_in_use_is_served_and_what_cannot_be_loaded_is_not(model, tmp_path, caplog):
    now = [str(model)]
    with running(model, f"sqlite:///{tmp_path / 'h.db'}") as service:
        service.append([EVENT])
        watch(service.engine, lambda: now[0], state_of(str(model)), every=0.02)
        broken = other_model(model, tmp_path / "broken")
        (broken / "serializer.json").write_text("{}")
        now[0] = str(broken)
        becomes(lambda: "the model in use cannot be served" in caplog.text)
        assert service.get("/model")["model"] == str(model)
        shutil.copy(model / "serializer.json", broken)  # mended
        becomes(lambda: service.get("/model")["model"] == str(broken))
        assert service.get("/model")["before"] == str(model)
        assert service.get("/users/u1/score", at="2024-03-05")["score"] > 0.9


def test_a_folder_without_a_model_is_waited_for(tmp_path):
    assert state_of(str(tmp_path)) is None
    (tmp_path / "config.json").write_text("{}")
    first = state_of(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert first not in (None, state_of(str(tmp_path)))
