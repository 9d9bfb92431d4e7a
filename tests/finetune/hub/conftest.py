"""A hub on this machine, and runs to publish there."""

import re
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import constants
from huggingface_hub.utils import http_backoff

from data_prep.prepare import prepare
from finetune.experiment.parser import parse_experiment
from finetune.model.calibration import Calibration
from finetune.training.train import train
from tests.conftest import tiny_config, write_log
from tests.finetune.hub.published import MARK, write_metrics
from tests.hub import TOKEN, Hub


@pytest.fixture(scope="session")
def double():
    with Hub() as hub:
        yield hub


@pytest.fixture
def hub(double, monkeypatch):
    """An empty hub that this process publishes to, without waiting between retries."""
    double.forget()
    monkeypatch.setattr(constants, "ENDPOINT", double.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setitem(http_backoff.__kwdefaults__, "base_wait_time", 0)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return double


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> dict[str, Path]:
    """The folders of a full model and of an adapter on it, trained, evaluated (with made-up figures) and calibrated."""
    folder = tmp_path_factory.mktemp("published")
    log = write_log(folder / "log.csv")
    log.write_text(re.sub(r"^u(\d+),", rf"{MARK}\1,", log.read_text(), flags=re.MULTILINE))
    made = {}
    for name in ("full", "adapter"):
        config = tiny_config(folder) | {"pretraining": {"max_steps": 0}}
        config["runs"]["folder"] = str(folder / name)
        if name == "adapter":
            peft = {"method": "lora", "r": 2, "target_modules": ["query", "value"]}
            config["model"] = {"name_or_path": str(folder / "base"), "max_tokens": 64, "peft": peft}
            shutil.copytree(made["full"], folder / "base")
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(config))
        experiment = parse_experiment("", ["--config", str(path)])
        if name == "full":
            prepare(experiment.name, experiment.data, experiment.task, experiment.text)
        train(experiment)
        made[name] = experiment.run_folder / "model"
        Calibration("temperature", 1.7, threshold=0.3, threshold_by="f1").save(made[name])
        write_metrics(made[name])
    return made
