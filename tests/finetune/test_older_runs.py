"""older_run/ was made before the packages had their wings, on the log of tests.conftest and with its config."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data_prep.prepare import prepare
from finetune import EventClassifier
from finetune.evaluation.evaluate import evaluate
from finetune.experiment.parser import parse_experiment
from finetune.hub.model_card import write_model_card
from finetune.report.report import write_report
from finetune.training.pretrain import pretrain
from tests.conftest import write_log

OLDER = Path(__file__).with_name("older_run") / "tiny"


@pytest.fixture
def older(tmp_path: Path, monkeypatch) -> Path:
    """A copy of the run, beside its log; its config has paths relative to that folder."""
    monkeypatch.chdir(tmp_path)
    write_log(Path("log.csv"))
    shutil.copytree(OLDER, "runs/tiny")
    return Path("runs/tiny")


def test_an_older_run_is_evaluated_with_the_same_figures_and_reported(older, capsys):
    experiment = parse_experiment("", ["--config", str(older / "config.yaml")])
    assert "evaluation.patience is called finetuning.patience now" in capsys.readouterr().out
    assert (experiment.finetuning.patience, experiment.run_folder) == (2, older)
    before = json.loads((older / "metrics.json").read_text())
    write_report(older)
    assert write_model_card(older)
    prepare(experiment.name, experiment.data, experiment.task, experiment.text)
    assert pretrain(experiment) == older / "pretrained"
    assert "is there already" in capsys.readouterr().out
    metrics = evaluate(experiment)
    assert metrics.pop("made")["content_hash"] == before.pop("made")["content_hash"]
    assert metrics["test"]["auroc"] == pytest.approx(before["test"]["auroc"], abs=1e-6)
    assert metrics.keys() >= before.keys()
    assert metrics["test"].keys() >= before["test"].keys()
    assert metrics["collapsed"] == [experiment.training["seed"]]
    said, was = (found["verdict"].partition("On the test cutoffs")[2] for found in (metrics, before))
    assert said.startswith(was.partition(";")[0])  # what it advises has changed since


def test_an_older_model_scores_as_it_did(older):
    data = parse_experiment("", ["--config", str(older / "config.yaml")]).data
    stored = pq.read_table(older / "predictions" / "test.parquet").to_pylist()
    cutoff = stored[0]["cutoff"]
    scores = EventClassifier.from_pretrained(older / "model").predict(data, cutoff=cutoff)
    expected = {row["user_id"]: row["score"] for row in stored if row["cutoff"] == cutoff}
    found = {row["user_id"]: row["score"] for row in scores.to_pylist()}
    assert found.keys() >= expected.keys()
    assert {user: found[user] for user in expected} == pytest.approx(expected, abs=1e-6)
