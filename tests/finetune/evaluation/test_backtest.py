import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from data_prep import InputError
from data_prep.later import write_later
from data_prep.serializer import EventSerializer
from finetune.evaluation.backtest import backtest, score_later
from finetune.experiment.parser import changed, parse_experiment, taken
from finetune.figures.metrics_json import read_metrics
from finetune.model.calibration import Calibration
from finetune.report.report import write_report
from finetune.runs import BACKTESTS, METRICS
from tests.finetune.conftest import in_own_folder

LATER = ["2024-04-08", "2024-04-15"]


@pytest.fixture(scope="module")
def run(evaluated, tmp_path_factory):
    """An evaluated run in a folder of this module's own, to which backtests are added."""
    return in_own_folder(evaluated, tmp_path_factory.mktemp("backtested"))


@pytest.fixture(scope="module")
def newer(prepared):
    return parse_experiment("", ["--config", str(prepared), "--task.cutoffs.test", json.dumps(LATER)])


@pytest.fixture(scope="module")
def measured(run, newer):
    return backtest(run.model_folder, newer)


def test_the_rows_of_its_own_time_come_out_as_they_were_prepared(run, tmp_path):
    serializer = EventSerializer.from_pretrained(run.model_folder)
    found = write_later(tmp_path, run.data, run.task, serializer, None)
    was, again = (pq.read_table(folder / "test.parquet") for folder in (run.data_folder, tmp_path))
    assert again.equals(was)
    assert found.facts["rows"] == len(was)
    assert [f"{cutoff:%Y-%m-%d}" for cutoff in found.cutoffs] == run.task.cutoffs.test


def test_it_measures_later_cutoffs_one_by_one_and_leaves_the_run_as_it_is(run, newer, evaluated, measured):
    metrics, folder = measured
    assert folder == run.run_folder / BACKTESTS / "2024-04-08_2024-04-15"
    assert [entry["cutoff"] for entry in metrics["by_cutoff"]] == LATER == metrics["test"]["cutoffs"]
    assert metrics["test"]["rows"] == sum(entry["rows"] for entry in metrics["by_cutoff"])
    assert {"gradient_boosting", "logistic_regression", "rfm"} <= metrics["test"]["baselines"].keys()
    for name in (METRICS, "report.html", "predictions/test.parquet", "model/calibration.json"):
        assert (run.run_folder / name).read_bytes() == (evaluated.run_folder / name).read_bytes()
    assert read_metrics(folder)["verdict"] == metrics["verdict"]
    assert "2024-04-15" in write_report(folder).read_text()


def test_calibration_threshold_and_the_baselines_are_those_of_the_runs_own_time(run, evaluated, measured):
    metrics, folder = measured
    was = read_metrics(evaluated.run_folder)
    calibration = Calibration.load(run.model_folder)
    assert metrics["calibration"]["threshold"] == calibration.threshold == was["calibration"]["threshold"]
    assert metrics["made"]["baseline_settings"] == was["made"]["baseline_settings"]
    assert metrics["validation"] == was["validation"]
    table = pq.read_table(folder / "predictions" / "test.parquet")
    later = score_later(run.model_folder, run.data, replace(run.task, cutoffs=replace(run.task.cutoffs, test=LATER)))
    table = table.sort_by([("user_id", "ascending"), ("cutoff", "ascending")])
    assert later.rows["label"].to_pylist() == table["label"].to_pylist()
    assert later.scores == pytest.approx(table["score"].to_numpy(), abs=1e-6)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (
            {"task.cutoffs.test": ["2024-03-17"]},
            "the first test cutoff is 2024-03-17, and .* has seen labels up to 2024-03-18",
        ),
        ({"task.label.horizon": "7 days"}, "task.label.horizon is 7 days, and .* was trained with 14 days"),
        ({"task.population.within": "35 days"}, "task.population.within is 35 days, and .* was trained with 28 days"),
        ({"task.cutoffs.test": ["2024-04-29"]}, "the label window of the cutoff 2024-04-29 ends on 2024-05-13"),
    ],
)
def test_what_the_model_has_seen_or_was_never_asked_is_refused(run, newer, values, told):
    with pytest.raises(InputError, match=told):
        backtest(run.model_folder, changed(newer, values))


def test_a_model_whose_data_is_gone_or_that_was_not_evaluated_is_refused(run, newer, tmp_path):
    other = tmp_path / "tiny"
    shutil.copytree(run.run_folder, other)
    config = yaml.safe_load((other / "config.yaml").read_text())
    config["data"]["folder"] = str(tmp_path / "nowhere")
    (other / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(InputError, match=r"holds no prepared data; run scripts/prepare.py --config"):
        backtest(other / "model", newer)
    (other / "model" / "calibration.json").unlink()
    with pytest.raises(InputError, match=r"was not evaluated yet"):
        backtest(other / "model", newer)


def test_a_column_that_the_newer_log_lacks_is_missing_in_every_event_and_said(run, newer, capsys):
    log = run.data.sources[0]
    without = {name: column for name, column in log.columns.items() if name != "shop"}
    data = replace(newer.data, sources=[replace(log, columns=without)])
    found = score_later(run.model_folder, data, newer.task)
    assert "warning: no column shop: taken as missing in every event" in capsys.readouterr().out
    assert not any("shop=" in text for text in found.rows["text"].to_pylist())
    assert np.isfinite(found.scores).all()


def test_a_folder_is_told_from_the_section_of_the_same_name():
    assert taken("model", ["--model", "runs/x/model", "--config", "a"]) == ("runs/x/model", ["--config", "a"])
    assert taken("model", ["--name", "b", "--model=runs/x/model"]) == ("runs/x/model", ["--name", "b"])
    for rest in (["--model", "{max_tokens: 64}"], ["--model.max_tokens", "64"], ["--config", "a", "--model"]):
        assert taken("model", rest) == (None, rest)
