from functools import cache

import duckdb
import pytest
import yaml

from data_prep.prepare import prepare
from finetune.experiment.parser import parse_experiment
from finetune.serving.classifier import EventClassifier
from finetune.training.train import train
from tests.finetune.serving.explained import LABELS


@pytest.fixture(scope="session")
def classifier(trained):
    return EventClassifier.from_pretrained(trained.run_folder / "model")


@pytest.fixture(scope="session")
def log_table(trained):
    """The log that it was trained on."""
    query = "SELECT user AS user_id, time AS event_time, what AS event_type, amount, shop FROM read_csv(?)"
    return duckdb.sql(query, params=[trained.data.sources[0].path]).to_arrow_table()


@pytest.fixture(scope="session")
def events(log_table):
    """The log that it was trained on, as dicts."""
    return log_table.to_pylist()


@pytest.fixture(scope="session")
def learned(prepared, tmp_path_factory):
    """Makes a classifier of a task that has learned more of the same log than `classifier`."""

    @cache
    def made(task):
        folder = tmp_path_factory.mktemp(task)
        config = yaml.safe_load(prepared.read_text())
        config["data"]["folder"], config["runs"]["folder"] = str(folder / "data"), str(folder / "runs")
        config["task"]["label"] = LABELS[task] | {"where": "event_type = 'purchase'", "horizon": "14 days"}
        config["training"] |= {"max_steps": 120, "eval_steps": 120, "learning_rate": 0.005}
        config["model"]["pooling"] = "mean"  # with which so small a model learns most in so few steps
        config["pretraining"]["max_steps"] = 0
        path = folder / "config.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        run = parse_experiment("", ["--config", str(path)])
        prepare(run.name, run.data, run.task, run.text)
        (model,) = train(run)
        return EventClassifier.from_pretrained(model)

    return made
