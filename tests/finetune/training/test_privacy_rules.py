"""What is published of a private model is private, given in public, refused, or said not to be covered."""

import json
import re
import shutil

import numpy as np
import pytest

from data_prep import InputError
from data_prep.prepare import prepare
from data_prep.serializer import SERIALIZER
from finetune.evaluation.evaluate import check_evaluation, evaluate
from finetune.experiment.parser import parse_experiment
from finetune.hub.model_card import write_model_card
from finetune.model.calibration import Calibration
from finetune.report.report import write_report
from finetune.runs import CALIBRATION, TRAINING_LOG
from finetune.training.privacy_rules import refuse_unprotected
from finetune.training.train import train
from tests.conftest import write_log
from tests.finetune.training.test_privacy import PRIVATE

SUM = "{kind: sum, field: amount, where: event_type = 'purchase', horizon: 14 days}"


def private(config, folder, **changes):
    given = PRIVATE | {"--runs.folder": folder / "runs", "--finetuning.privacy": "{epsilon: 4}"}
    given |= {f"--{name}": value for name, value in changes.items()}
    return parse_experiment("", ["--config", str(config), *[str(part) for pair in given.items() for part in pair]])


def log_of(folder, seed: int, more: str = ""):
    """A source over the columns of the tiny log, as another config has it."""
    path = write_log(folder / f"log-{seed}{len(more)}.csv", seed=seed)
    path.write_text(path.read_text() + more)
    columns = {"user_id": "user", "event_time": "time", "event_type": "what", "amount": "amount", "shop": "shop"}
    return json.dumps([{"path": str(path), "columns": columns}])


@pytest.fixture(scope="module")
def public(prepared, tmp_path_factory):
    """The schema of other users, and a private run with it."""
    folder = tmp_path_factory.mktemp("public")
    changes = {"data.folder": folder / "data", "text.schema": folder / "data" / "open"}
    opened = parse_experiment("", ["--config", str(prepared), "--name", "open"])
    experiment = private(prepared, folder, **changes, **{"data.sources": log_of(folder, 7)})
    data = parse_experiment(
        "", ["--config", str(prepared), "--data.sources", log_of(folder, 8), "--data.folder", str(folder / "data")]
    ).data
    prepare(opened.name, data, opened.task, opened.text)
    prepare(experiment.name, experiment.data, experiment.task, experiment.text)
    train(experiment)
    evaluate(experiment)
    return experiment


def test_one_more_user_with_rare_words_leaves_every_byte_of_serializer_and_tokenizer(public, tmp_path):
    odd = "".join(
        f"v,2024-0{1 + day // 28}-{1 + day % 28:02} 10:00:00,purchase,99999.00,atlantis\n" for day in range(80)
    )
    changes = {"data.folder": tmp_path / "data", "text.schema": public.text.schema, "training.max_steps": 2}
    beside = private(
        public.run_folder / "config.yaml", tmp_path, **changes, **{"data.sources": log_of(tmp_path, 7, odd)}
    )
    prepare(beside.name, beside.data, beside.task, beside.text)
    train(beside)
    logs = [json.loads((run.run_folder / TRAINING_LOG).read_text())["privacy"] for run in (public, beside)]
    assert logs[0]["users"] + 1 == logs[1]["users"]
    for name in (SERIALIZER, "tokenizer.json", "tokenizer_config.json", "config.json"):
        one, other = ((run.model_folder / name).read_bytes() for run in (public, beside))
        assert one == other, name
    assert b"shop=north" in (beside.model_folder / "tokenizer.json").read_bytes()


def test_the_threshold_costs_what_the_log_says_and_is_drawn_once(public, capsys):
    spent = json.loads((public.run_folder / TRAINING_LOG).read_text())["privacy"]
    assert spent["threshold_epsilon"] == pytest.approx(0.4)
    assert 3.9 < spent["epsilon"] <= 4
    saved = Calibration.load(public.model_folder)
    assert (saved.method, saved.threshold_by) == ("none", "budget")
    scores = json.loads((public.run_folder / "metrics.json").read_text())["calibration"]
    assert scores["threshold"] == saved.threshold
    capsys.readouterr()
    evaluate(public)
    assert f"the threshold stays at {saved.threshold:.4f}" in capsys.readouterr().out
    assert Calibration.load(public.model_folder) == saved
    (public.model_folder / CALIBRATION).unlink()
    evaluate(public)
    assert Calibration.load(public.model_folder).threshold != saved.threshold  # noise: no rank of a score gives it


def test_no_threshold_is_drawn_of_a_part_of_the_rows(public, tmp_path, capsys):
    shutil.copytree(public.run_folder, tmp_path / "runs" / public.name)
    (tmp_path / "runs" / public.name / "model" / CALIBRATION).unlink()
    part = private(public.run_folder / "config.yaml", tmp_path, **{"finetuning.max_eval_examples": 60})
    evaluate(part)
    assert "no threshold is chosen, as finetuning.max_eval_examples draws" in capsys.readouterr().out
    assert Calibration.load(part.model_folder).threshold is None


def test_log_report_and_card_say_whose_words_they_are(public):
    spent = json.loads((public.run_folder / TRAINING_LOG).read_text())["privacy"]
    task = json.loads((public.model_folder / "task.json").read_text())
    write_model_card(public.run_folder)
    page, card = write_report(public.run_folder).read_text(), (public.model_folder / "README.md").read_text()
    assert spent["not_covered"][0].startswith(f"whether the schema of words and bins (SHA-256 {task['schema'][:12]}")
    for text in (page, re.sub(r"\s+", " ", card)):
        assert "Of epsilon, 0.40 is the threshold's" in text
        assert all(part in text for part in spent["not_covered"])
        assert "which were learned from the training histories" not in text


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "words and bins, which are learned from the histories; give text.schema"),
        (
            {"text.schema": "data/tiny"},
            r"\(data/tiny\) were learned from the same sources; give those of public events",
        ),
        ({"text.schema": "same"}, "were learned from the same sources"),
        (
            {"text.schema": "x", "finetuning.privacy.schema": "learned"},
            "is learned, and text.schema is given; leave one",
        ),
        ({"training.lr_scheduler_type": "reduce_lr_on_plateau"}, "validation labels would choose the learning rate"),
        ({"training.lr_scheduler_type": "greedy"}, "validation labels would choose the learning rate"),
        ({"task.label": SUM}, "deviation of the labels would be learned without noise; give finetuning.value_scale"),
    ],
)
def test_what_would_be_learned_of_the_users_is_refused(public, prepared, tmp_path, changes, says, monkeypatch):
    own = parse_experiment("", ["--config", str(prepared)])
    monkeypatch.chdir(own.data_folder.parent.parent)
    if changes.get("text.schema") == "same":
        changes = changes | {"text.schema": shutil.copytree(own.data_folder, tmp_path / "copied")}
    if not any(name.startswith("text") for name in changes) and changes:
        changes = changes | {"text.schema": public.text.schema}
    with pytest.raises(InputError, match=says) as error:
        refuse_unprotected(private(prepared, tmp_path, **changes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("evaluation.calibration", "temperature"),
        ("evaluation.threshold", "f1"),
        ("evaluation.group_thresholds", "{by: shop}"),
    ],
)
def test_what_validation_would_choose_without_noise_is_refused(prepared, tmp_path, setting, value):
    changes = {setting: value, "evaluation.slices": "{shop: shop}"}
    with pytest.raises(InputError, match=f"does not hold with {setting}, as validation rows choose it without noise"):
        check_evaluation(private(prepared, tmp_path, **changes))


def test_values_are_scaled_by_what_is_given(public, tmp_path):
    changes = {"task.label": SUM, "finetuning.value_scale": "{mean: 40, deviation: 60}", "training.max_steps": 2}
    changes |= {"data.folder": tmp_path / "data", "text.schema": tmp_path / "data" / "open"}
    opened = private(public.run_folder / "config.yaml", tmp_path, **changes | {"name": "open", "text.schema": "null"})
    opened.data.sources[0].path = opened.data.sources[0].path.replace("log-70", "log-80")
    prepare("open", opened.data, opened.task, opened.text)
    valued = private(public.run_folder / "config.yaml", tmp_path, **changes)
    prepare(valued.name, valued.data, valued.task, valued.text)
    (model,) = train(valued)
    scale = json.loads((model / "config.json").read_text())["eventscribe"]["scale"]
    assert scale == {"log": False, "root": False, "mean": 40, "deviation": 60}
    spent = json.loads((valued.run_folder / TRAINING_LOG).read_text())["privacy"]
    assert spent["threshold_epsilon"] == 0  # of values none is chosen
    assert np.isclose(spent["epsilon"], 4, atol=0.05)
