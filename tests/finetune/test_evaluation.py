import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from data_prep import InputError
from finetune.config import parse_experiment
from finetune.evaluation import compare, evaluate, table, verdict
from finetune.train import train


def scores(quality: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores and users; the higher the quality, the better the ranking."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, 600)
    noise = random.normal(size=600)
    return labels, 1 / (1 + np.exp(-(quality * (2 * labels - 1) + noise))), np.repeat(np.arange(200), 3)


def test_every_figure_is_of_the_rows_it_is_said_of():
    labels, good, users = scores(1.0)
    bad = scores(0.2)[1]
    result = compare(labels, {"model": good, "rule": bad}, users, 100)
    assert (result["rows"], result["users"], result["positives"]) == (600, 200, labels.sum())
    assert result["auroc"] == pytest.approx(roc_auc_score(labels, good))
    rule = result["baselines"]["rule"]
    assert rule["average_precision"] == pytest.approx(average_precision_score(labels, bad))
    assert rule["auroc_difference"] == pytest.approx(result["auroc"] - rule["auroc"])
    for figures in (result, rule):
        assert figures["auroc_interval"][0] < figures["auroc"] < figures["auroc_interval"][1]
    low, high = rule["auroc_difference_interval"]
    assert 0 < low < rule["auroc_difference"] < high


@pytest.mark.parametrize(
    ("model", "baseline", "standing"), [(1.0, 0.2, "ahead of"), (0.2, 1.0, "behind"), (0.6, 0.6, "level with")]
)
def test_the_verdict_says_which_is_ahead_and_only_where_the_interval_supports_it(model, baseline, standing):
    labels, ours, users = scores(model)
    theirs = scores(baseline)[1]
    result = compare(labels, {"model": ours, "weak_rule": 1 - ours, "strong_rule": theirs}, users, 100)
    assert f"is {standing} the best baseline, strong rule" in verdict(result)


def test_evaluation_writes_predictions_and_metrics_that_agree(prepared, tmp_path):
    arguments = ["--config", str(prepared), "--evaluation.folder", str(tmp_path), "--pretraining.max_steps", "0"]
    experiment = parse_experiment("", arguments)
    with pytest.raises(InputError, match=r"train\.py"):
        evaluate(experiment)
    train(experiment)
    metrics = evaluate(experiment)
    run = tmp_path / "tiny"
    assert json.loads((run / "metrics.json").read_text()) == metrics
    for split in ("validation", "test"):
        predictions = pq.read_table(run / "predictions" / f"{split}.parquet")
        prepared_rows = pq.read_table(experiment.data_folder / f"{split}.parquet")
        assert predictions.column_names[:4] == ["user_id", "cutoff", "label", "score"]
        for key in ("user_id", "cutoff", "label"):
            assert predictions[key].equals(prepared_rows[key])
        assert metrics[split]["auroc"] == pytest.approx(roc_auc_score(predictions["label"], predictions["score"]))
        for name, figures in metrics[split]["baselines"].items():
            assert figures["auroc"] == pytest.approx(roc_auc_score(predictions["label"], predictions[name]))
    shown = table(metrics)
    for name, figures in {"model": metrics["test"], **metrics["test"]["baselines"]}.items():
        line = next(line for line in shown.splitlines() if line.startswith(name.replace("_", " ")))
        assert f"{figures['auroc']:.4f} [" in line
