import json
import runpy
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sklearn.metrics import roc_auc_score

from data_prep import InputError
from finetune.evaluation.backtest import score_later
from finetune.experiment.parser import changed, parse_experiment
from finetune.figures.metrics_json import read_metrics
from finetune.upkeep.monitor import monitor
from tests.commands import ROOT
from tests.conftest import write_log


@pytest.fixture(scope="module")
def newer(prepared):
    return parse_experiment("", ["--config", str(prepared)])


@pytest.fixture(scope="module")
def watched(spring, newer, tmp_path_factory):
    """The page of a cutoff whose label window has ended, and what it says."""
    page = tmp_path_factory.mktemp("watched") / "drift.html"
    return page, monitor(spring.model_folder, newer, "2024-04-08", page, draws=50)


def test_the_page_the_json_and_the_text_for_prometheus_say_the_same(watched):
    page, result = watched
    assert json.loads(page.with_suffix(".json").read_text()) == result
    samples = [
        sample
        for family in text_string_to_metric_families(page.with_suffix(".prom").read_text())
        for sample in family.samples
    ]
    values = {s.labels["signal"]: s.value for s in samples if s.name == "eventscribe_monitor_value"}
    assert values == pytest.approx({s["name"]: s["value"] for s in result["signals"]}, rel=1e-6)
    (alarms,) = [s.value for s in samples if s.name == "eventscribe_monitor_alarms"]
    assert alarms == sum(s["rings"] for s in result["signals"])
    html = page.read_text()
    assert "EventScribe monitor" in html
    assert "2024-04-08" in html


def test_scores_and_outcomes_are_those_of_the_model_at_that_cutoff(spring, newer, watched):
    _, result = watched
    later = score_later(spring.model_folder, newer.data, changed(newer, {"task.cutoffs.test": ["2024-04-08"]}).task)
    labels = later.rows["label"].to_numpy()
    assert result["rows"] == len(labels)
    found = {entry["name"]: entry for entry in result["outcomes"]}
    assert found["auroc"]["value"] == pytest.approx(roc_auc_score(labels, later.scores))
    assert found["calibration"]["value"] == pytest.approx(np.mean(later.scores) - np.mean(labels))
    promised = read_metrics(spring.run_folder)["test"]
    assert found["auroc"]["promised"] == promised["auroc"]
    assert found["auroc"]["promised_interval"] == promised["auroc_interval"]
    low, high = found["auroc"]["interval"]
    assert low < found["auroc"]["value"] < high
    assert {s["family"] for s in result["signals"]} == {"inputs", "words", "scores", "outcomes"}
    assert "tenure_days" not in {s["name"] for s in result["signals"]}


def test_outcomes_wait_for_the_end_of_the_label_window(spring, newer, tmp_path):
    result = monitor(spring.model_folder, newer, "2024-04-22", tmp_path / "drift.html", draws=20)
    assert result["outcomes"] is None
    assert {s["family"] for s in result["signals"]} == {"inputs", "words", "scores"}
    assert "Not known yet" in (tmp_path / "drift.html").read_text()


def moved(newer, folder: Path):
    """The same shop, whose amounts have grown tenfold and whose shops have other names since April."""
    lines = write_log(folder / "log.csv").read_text().splitlines()
    made = [lines[0]]
    for line in lines[1:]:
        user, time, what, amount, _ = line.split(",")
        if time >= "2024-03-20":
            amount, line = f"{10 * float(amount):.2f}" if amount else "", ""
            line = f"{user},{time},{what},{amount},east"
        made.append(line)
    (folder / "log.csv").write_text("\n".join(made) + "\n")
    source = replace(newer.data.sources[0], path=str(folder / "log.csv"))
    return replace(newer, data=replace(newer.data, sources=[source]))


def test_a_log_that_has_moved_rings_in_inputs_and_words(spring, newer, tmp_path):
    result = monitor(spring.model_folder, moved(newer, tmp_path), "2024-04-22", tmp_path / "drift.html", draws=50)
    rings = {s["name"] for s in result["signals"] if s["rings"]}
    assert "other values of shop" in rings
    assert any(name.startswith("amount") for name in rings)
    assert result["alarm"].startswith("at 2024-04-22 ")
    assert "signals ring at 2024-04-22; the loudest is" in (tmp_path / "drift.html").read_text()


def test_an_alarm_ends_the_command_with_code_3_and_one_sentence(spring, prepared, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(signal, "signal", lambda *handler: None)
    told = {"alarm": "at 2024-04-22 the shop lies elsewhere", "signals": [], "cutoff": "2024-04-22"}
    monkeypatch.setattr("finetune.upkeep.monitor.monitor", lambda *given: told)
    page = tmp_path / "drift.html"
    given = ["--model", str(spring.model_folder), "--config", str(prepared), "--cutoff", "2024-04-22", "--report", page]
    monkeypatch.setattr(sys, "argv", ["monitor.py", *map(str, given)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "scripts" / "monitor.py"), run_name="__main__")
    assert end.value.code == 3
    assert capfd.readouterr().err == "alarm: at 2024-04-22 the shop lies elsewhere\n"
    told["alarm"] = None
    runpy.run_path(str(ROOT / "scripts" / "monitor.py"), run_name="__main__")
    assert "quiet: none of 0 signals rings" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("cutoff", "values", "told"),
    [
        ("2024-04-08", {"task.label.horizon": "7 days"}, "ask the model its own question"),
        ("nonsense", {}, "^--cutoff: 'nonsense' is not a date"),
        ("1800-01-01", {}, "^--cutoff: 1800-01-01 is not between 1900 and 2199"),
        ("2024-02-19", {}, "--cutoff: the first test cutoff is 2024-02-19, and .* has seen labels up to 2024-03-18;"),
        ("2024-03-17", {}, "--cutoff: the first test cutoff is 2024-03-17, and .* has seen labels up to 2024-03-18;"),
        ("2024-06-01", {}, "--cutoff: the cutoff 2024-06-01 is later than the log, which ends on 2024-"),
    ],
)
def test_other_questions_and_moments_that_are_seen_or_behind_the_log_are_refused(
    spring, newer, tmp_path, cutoff, values, told
):
    with pytest.raises(InputError, match=told):
        monitor(spring.model_folder, changed(newer, values) if values else newer, cutoff, tmp_path / "drift.html")
    assert not (tmp_path / "drift.html").exists()


def test_another_page_is_not_replaced(spring, newer, tmp_path):
    (tmp_path / "drift.html").write_text("something else")
    with pytest.raises(InputError, match="is no page of a monitor"):
        monitor(spring.model_folder, newer, "2024-04-22", tmp_path / "drift.html", draws=5)
