"""Labels of the team's own table: what is written says so, and no other labels measure the model."""

import csv
import json
from datetime import datetime, timedelta

import pytest
import yaml

from data_prep import InputError
from data_prep.prepare import prepare
from data_prep.prepared import read_manifest
from finetune.evaluation.backtest import backtest
from finetune.evaluation.evaluate import evaluate
from finetune.experiment.parser import parse_experiment
from finetune.hub.model_card import write_model_card
from finetune.report.report import write_report
from finetune.runs import TASK, read_task
from finetune.training.train import train
from tests.conftest import tiny_config, write_log
from tests.finetune.serving.own_log import log_of

BOUNDS = {"train": ("2024-02-01", "2024-02-20"), "validation": ("2024-03-01", "2024-03-10")}
BOUNDS["test"] = ("2024-03-20", "2024-04-05")
LATER = {"first": "2024-04-10", "last": "2024-04-20"}


def experiment_of(folder, name: str, table: dict | None, test: dict | None = None):
    """The experiment of a table of examples; of none, cutoffs are at views."""
    config = tiny_config(folder)
    at = {} if table else {"at": "event_type = 'view'", "per_user": 3, "gap": "1d"}
    cutoffs = {split: {"first": first, "last": last} | at for split, (first, last) in BOUNDS.items()}
    cutoffs["test"] |= test or {}
    label = {"kind": "exists", "where": "event_type = 'purchase'", "horizon": "5d"}
    config["task"], config["pretraining"] = {"label": label, "cutoffs": cutoffs}, {"max_steps": 0}
    if table:
        config["task"]["examples"] = table
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return parse_experiment("", ["--config", str(folder / f"{name}.yaml")])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained and evaluated experiment of a table with labels, and its folder."""
    folder = tmp_path_factory.mktemp("own")
    write_log(folder / "log.csv")
    experiment = experiment_of(folder, "own", {"path": str(folder / "moments.csv")})
    since: dict[str, str] = {}
    for event in log_of(experiment):
        since.setdefault(event["user_id"], event["event_time"])
    rows = []
    for place, user in enumerate(user for user, first in since.items() if first < "2024-01-31"):
        starts = [first for first, _ in BOUNDS.values()] + [LATER["first"]]
        later = timedelta(days=place % 8, hours=3)
        rows += [[user, datetime.fromisoformat(start) + later, place % 3 // 2] for start in starts]
    with (folder / "moments.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["user_id", "cutoff", "label"], *rows])
    prepare(experiment.name, experiment.data, experiment.task, experiment.text)
    train(experiment)
    evaluate(experiment)
    return experiment, folder


def test_manifest_task_cards_and_report_tell_of_the_teams_own_label(run):
    experiment, _ = run
    asked = "What is the label of the team's own table for users at the row's cutoff in task.examples?"
    for facts in (read_manifest(experiment.data_folder), read_task(experiment.model_folder)):
        assert (facts["labels_from"], facts["question"]) == ("table", asked)
    data_card = (experiment.data_folder / "README.md").read_text(encoding="utf-8")
    assert "The label is that of the team's own table: 1 means" in data_card
    write_model_card(experiment.run_folder)
    card = (experiment.model_folder / "README.md").read_text(encoding="utf-8")
    assert "predicts the label of the team's own table" in card
    assert "```sql" not in card
    page = write_report(experiment.run_folder).read_text(encoding="utf-8")
    assert "what is the label of the team&#39;s own table?" in page
    for said in (data_card, card, page):
        assert "5 days after" not in said


def test_labels_of_another_origin_measure_no_model(run):
    experiment, folder = run
    newer = experiment_of(folder, "later", None, LATER)
    refused = "the labels are of the log here, and the model learned those of the team's own table; give it labels of"
    with pytest.raises(InputError, match=refused):
        backtest(experiment.model_folder, newer)
    unlabelled = {"sql": f"SELECT user_id, cutoff FROM '{folder / 'moments.csv'}'"}
    with pytest.raises(InputError, match=refused):
        backtest(experiment.model_folder, experiment_of(folder, "without", unlabelled, LATER))
    own = experiment_of(folder, "again", {"path": str(folder / "moments.csv")}, LATER)
    metrics, _ = backtest(experiment.model_folder, own)
    assert metrics["labels_from"] == "table"
    path = experiment.model_folder / TASK
    path.write_text(json.dumps({key: said for key, said in read_task(path.parent).items() if key != "labels_from"}))
    backtest(experiment.model_folder, newer)  # an older model does not say
