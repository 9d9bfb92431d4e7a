import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from finetune.baselines import BOOSTING_GRID, LOGISTIC_GRID, score_baselines
from finetune.config import parse_experiment

AGGREGATES = ["target_recency_days", "signal", "sometimes_missing"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Splits whose label depends on recency, and on the absence of a value that only flexible models can use."""
    folder = tmp_path_factory.mktemp("splits")
    random = np.random.default_rng(0)
    for split, rows in (("train", 1500), ("validation", 500), ("test", 500)):
        recency, signal = random.exponential(10, rows), random.normal(size=rows)
        missing = np.where(random.random(rows) < 0.3, np.nan, random.normal(size=rows))
        logit = 0.15 * (recency - 10) + np.abs(signal) * 2 - 2 + 2 * np.isnan(missing)
        label = (random.random(rows) < 1 / (1 + np.exp(-logit))).astype(int)
        recency[:3] = np.nan
        columns = {"target_recency_days": recency, "signal": signal, "sometimes_missing": missing, "label": label}
        pq.write_table(pa.table(columns), folder / f"{split}.parquet")
    return folder


@pytest.fixture(scope="module")
def baselines(folder):
    return score_baselines(folder, AGGREGATES)


def aurocs(folder, baselines, split="test"):
    table = pq.read_table(folder / f"{split}.parquet")
    return {name: roc_auc_score(table["label"], scores) for name, scores in baselines.scores[split].items()}


def test_the_recency_rule_ranks_by_recency_alone(folder, baselines):
    recency = pq.read_table(folder / "test.parquet")["target_recency_days"].to_numpy()
    order = np.argsort(np.nan_to_num(recency, nan=np.inf), kind="stable")
    assert (np.diff(baselines.scores["test"]["recency_rule"][order]) >= 0).all()


def test_each_baseline_uses_what_it_can(folder, baselines):
    found = aurocs(folder, baselines)
    assert found["recency_rule"] < found["logistic_regression"] < found["gradient_boosting"]


def test_settings_come_from_the_grids(baselines):
    settings = baselines.settings
    assert settings["logistic_regression"]["C"] in LOGISTIC_GRID
    assert {key: settings["gradient_boosting"][key] for key in BOOSTING_GRID[0]} in BOOSTING_GRID


def test_baselines_do_not_look_at_the_test_labels(folder, baselines, tmp_path):
    for split in ("train", "validation", "test"):
        table = pq.read_table(folder / f"{split}.parquet")
        if split == "test":
            table = table.set_column(3, "label", pa.array(1 - table["label"].to_numpy()))
        pq.write_table(table, tmp_path / f"{split}.parquet")
    again = score_baselines(tmp_path, AGGREGATES)
    for name, scores in baselines.scores["test"].items():
        np.testing.assert_array_equal(again.scores["test"][name], scores)


def test_baselines_run_on_prepared_data(prepared):
    data = parse_experiment("", ["--config", str(prepared)]).data_folder
    baselines = score_baselines(data, json.loads((data / "manifest.json").read_text())["aggregates"])
    assert aurocs(data, baselines)["gradient_boosting"] > 0.6
