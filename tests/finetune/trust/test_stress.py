"""What damage costs, on a model whose label one field alone tells."""

import json
import runpy
import signal
import sys
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import yaml
from sklearn.metrics import roc_auc_score

from data_prep import InputError
from data_prep.prepare import prepare
from finetune.baselines.fit import fit_boosting
from finetune.evaluation.evaluate import evaluate
from finetune.experiment.parser import parse_experiment
from finetune.report.stress_page import answers, stress_page
from finetune.training.train import train
from finetune.trust.stress import stress
from tests.commands import ROOT
from tests.finetune.trust.planted import planted_config, write_planted


@pytest.fixture(scope="module", autouse=True)
def boosting_is_fitted_once():
    """The settings and the rows are the same in all of these tests."""
    fitted = {}

    def fit(folder, manifest, limits, settings):
        assert settings is None or settings["max_iter"] in (25, 50)
        if folder not in fitted:
            fitted[folder] = fit_boosting(folder, manifest, limits, settings)
        return fitted[folder]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("finetune.trust.stress.fit_boosting", fit)
        yield


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    write_planted(folder / "log.csv")
    experiment = parse_experiment("", ["--config", str(planted_config(folder))])
    prepare(experiment.name, experiment.data, experiment.task, experiment.text)
    train(experiment)
    evaluate(experiment)
    return experiment


@pytest.fixture(scope="module")
def found(planted):
    return stress(planted.model_folder, planted)


@pytest.fixture(scope="module")
def beyond(planted, tmp_path_factory):
    """With a newer config and with few labels; of the damages one."""
    path = tmp_path_factory.mktemp("newer") / "newer.yaml"
    newer = yaml.safe_load((planted.run_folder / "config.yaml").read_text())
    newer["task"]["cutoffs"]["test"] = ["2024-03-25"]
    path.write_text(yaml.safe_dump(newer), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("finetune.trust.stress.damages", some("missing:level"))
        later = parse_experiment("", ["--config", str(path)])
        return stress(planted.model_folder, planted, labelled=(60, 12), later=later)


def other(found: dict, name: str) -> dict[str, dict]:
    entry = next(entry for entry in found["others"] if entry["name"] == name)
    return {step["step"]: step for step in entry["steps"]}


def test_each_test_cutoff_stands_by_itself_and_later_ones_behind_it(planted, beyond):
    steps = other(beyond, "cutoffs")
    assert list(steps) == ["2024-03-11", "2024-03-18", "2024-03-25"]
    rows = pq.read_table(planted.run_folder / "predictions" / "test.parquet").to_pylist()
    own = [row for row in rows if f"{row['cutoff']:%F}" == "2024-03-11"]
    by_hand = roc_auc_score([row["label"] for row in own], [row["score"] for row in own])
    assert steps["2024-03-11"]["model"]["auroc"] == pytest.approx(by_hand)
    metrics = json.loads((planted.run_folder / "backtests" / "2024-03-25" / "metrics.json").read_text())["test"]
    later = steps["2024-03-25"]
    assert later["model"]["auroc"] == pytest.approx(metrics["auroc"])
    assert later["gradient_boosting"]["auroc"] == pytest.approx(metrics["baselines"]["gradient_boosting"]["auroc"])
    assert later["model"]["found"] == pytest.approx(metrics["recall"])


def test_model_and_boosting_are_trained_anew_on_the_labels_of_so_many_users(planted, beyond, monkeypatch):
    assert list(other(beyond, "labelled_users")) == ["12 users", "60 users"]
    steps = other(beyond, "labelled_users")
    assert steps["60 users"]["gradient_boosting"]["auroc"] > 0.9
    assert steps["60 users"]["model"]["auroc"] > 0.9
    assert steps["12 users"]["model"] != steps["60 users"]["model"]
    assert not list(planted.data_folder.parent.glob(".few-labels*"))
    monkeypatch.setattr("finetune.trust.stress.damages", some("missing:level"))
    with pytest.raises(InputError, match=r"finetuning.labelled_users is 1,000, and training has 120 users"):
        stress(planted.model_folder, planted, labelled=[1000])


def test_the_page_draws_cutoffs_and_labels_and_says_their_figures(beyond):
    page = stress_page(beyond)
    assert page.count("<figure>") == 3
    said = dict(answers(beyond)["others"])
    assert said["Only some users have labels"].startswith("AUROC of the model and of boosting: 12 users: ")
    assert "Later and later cutoffs: 2024-03-25" in page


def curve(found: dict, name: str) -> dict[str, dict]:
    steps = next(damage["steps"] for damage in found["damages"] if damage["name"] == name)
    return {step["step"]: step for step in steps}


def test_the_undamaged_figures_are_those_of_the_evaluation(planted, found):
    test = json.loads((planted.run_folder / "metrics.json").read_text())["test"]
    assert found["rows"] == test["rows"]
    assert found["clean"]["model"]["auroc"] == pytest.approx(test["auroc"])
    boosting = test["baselines"]["gradient_boosting"]
    assert found["clean"]["gradient_boosting"]["auroc"] == pytest.approx(boosting["auroc"])
    assert found["clean"]["changed_texts"] == 0


def test_without_the_field_that_carries_the_signal_nobody_can_tell(found):
    assert found["clean"]["model"]["auroc"] > 0.9
    assert found["clean"]["gradient_boosting"]["auroc"] > 0.9
    lost = curve(found, "missing:level")
    for name in ("model", "gradient_boosting"):
        assert abs(lost["100\u00a0%"][name]["auroc"] - 0.5) < 0.12
        assert lost["10\u00a0%"][name]["auroc"] > lost["50\u00a0%"][name]["auroc"] > lost["100\u00a0%"][name]["auroc"]


def test_a_field_that_carries_nothing_costs_nothing(found):
    for name in ("model", "gradient_boosting"):
        assert curve(found, "missing:noise")["100\u00a0%"][name]["auroc"] == pytest.approx(
            found["clean"][name]["auroc"], abs=0.03
        )
    color = curve(found, "missing:color")["100\u00a0%"]  # which no text tells of
    assert color["changed_texts"] == 0
    assert color["model"] == found["clean"]["model"]


def test_each_damage_changes_what_it_says_and_nothing_else(found):
    rows = found["rows"]
    assert curve(found, "missing:level")["100\u00a0%"]["changed_texts"] == rows
    assert 0 < curve(found, "dropped")["10\u00a0%"]["changed_texts"] < rows
    assert curve(found, "duplicated")["100\u00a0%"]["changed_texts"] == rows
    assert curve(found, "delayed")["7 days"]["model"]["auroc"] < 0.65  # the level of last week is not there yet
    assert curve(found, "shuffled")["all"]["changed_texts"] == 0  # a day has one event of each user
    assert curve(found, "renamed:purchase")["always"]["changed_texts"] == 0
    assert 0 < curve(found, "bot")["10\u00a0%"]["changed_texts"] < 0.3 * rows
    assert curve(found, "new:color")["100\u00a0%"]["changed_texts"] == 0
    inflated = curve(found, "scaled")["times 10"]  # everybody's level is high then
    assert inflated["model"]["mean_score"] - inflated["model"]["positive_rate"] > 0.2


def test_the_same_seed_gives_the_same_figures_and_another_one_others(planted, found, monkeypatch):
    monkeypatch.setattr("finetune.trust.stress.damages", some("dropped"))
    again, other = stress(planted.model_folder, planted), stress(planted.model_folder, planted, seed=1)
    assert curve(again, "dropped") == curve(found, "dropped")
    assert curve(other, "dropped") != curve(found, "dropped")
    few = stress(planted.model_folder, planted, users=60)
    assert (few["users"], few["rows"]) == (60, 120)


def some(*names: str):
    from finetune.trust.damage import damages

    return lambda *given: [damage for damage in damages(*given) if damage.name in names]


def test_rows_whose_history_is_gone_are_counted_and_not_contacted(planted, monkeypatch):
    monkeypatch.setattr("finetune.trust.damage.DAYS", (90,))
    monkeypatch.setattr("finetune.trust.stress.damages", some("delayed"))
    gone = curve(stress(planted.model_folder, planted), "delayed")["90 days"]
    assert gone["without_history"] == 240
    assert gone["model"]["contacted"] == 0
    assert gone["model"]["auroc"] == gone["gradient_boosting"]["auroc"] == 0.5


def test_the_page_is_self_contained_and_says_what_hurts_most(found):
    assert "level" in answers(found)["headline"] or "fields" in answers(found)["headline"]
    planted = found | {"question": "<script>alert(1)</script>"}
    page = stress_page(planted)
    assert "<script>alert" not in page
    assert "://" not in page.replace("http://www.w3.org", "")
    assert page.count("<figure>") == len(found["damages"]) + 1  # and the cutoffs


def test_wrong_inputs_are_refused_in_a_sentence(planted, tmp_path, trained):
    with pytest.raises(InputError, match=r"--users is 1,000, and test has 120 users"):
        stress(planted.model_folder, planted, users=1000)
    with pytest.raises(InputError, match=r"has no threshold"):
        stress(trained.model_folder, trained)
    with pytest.raises(InputError, match=r"prepared with other settings of `task`|trained on other data"):
        stress(planted.model_folder, replace(trained, task=planted.task))
    other = replace(planted, data=replace(planted.data, sources=[replace(planted.data.sources[0])]))
    write_planted(tmp_path / "log.csv", seed=5)
    other.data.sources[0].path = str(tmp_path / "log.csv")
    with pytest.raises(InputError, match=r"the log gives .* test rows another text"):
        stress(planted.model_folder, other)


def test_the_command_writes_page_and_json_and_replaces_nothing_else(planted, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("finetune.trust.damage.SHARES", (0.5,))
    monkeypatch.setattr("finetune.trust.stress.damages", some("missing:level"))
    monkeypatch.setattr(signal, "signal", lambda *handler: None)
    output = tmp_path / "stress.html"
    config = str(planted.run_folder / "config.yaml")
    command = ["stress.py", "--model", str(planted.model_folder), "--config", config, "--output", str(output)]
    monkeypatch.setattr(sys, "argv", command)
    runpy.run_path(str(ROOT / "scripts" / "stress.py"), run_name="__main__")
    assert json.loads(output.with_suffix(".json").read_text())["stress"] == "planted"
    output.with_suffix(".json").write_text("{}")
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "scripts" / "stress.py"), run_name="__main__")
    assert end.value.code == 2
    assert "which is something else; choose another name" in capsys.readouterr().err
