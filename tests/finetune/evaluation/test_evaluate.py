import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from sklearn.metrics import auc, average_precision_score, mean_absolute_error, roc_auc_score

from data_prep import InputError
from data_prep.prepare import prepare
from finetune.evaluation.compare import compare_runs
from finetune.evaluation.evaluate import evaluate
from finetune.evaluation.rows import ScoredRows
from finetune.evaluation.scorers import blend, compare, over_seeds
from finetune.evaluation.verdict import says_the_same, table, verdict
from finetune.experiment.parser import parse_experiment
from finetune.figures.metrics import repeat_and_new
from finetune.figures.metrics_json import without_nan
from finetune.model.calibration import Calibration
from finetune.report.decision import advice
from finetune.report.report import write_report
from finetune.training.train import train
from finetune.wording import worded


def scores(quality: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores and users; the higher the quality, the better the ranking."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, 600)
    noise = random.normal(size=600)
    return labels, 1 / (1 + np.exp(-(quality * (2 * labels - 1) + noise))), np.repeat(np.arange(200), 3)


def told(test: dict, task: str = "binary", main: str = "auroc", lower: bool = False) -> str:
    return verdict({"task": task, "main": main, "lower_is_better": lower, "test": test})


def test_every_figure_is_of_the_rows_it_is_said_of():
    labels, good, users = scores(1.0)
    bad = scores(0.2)[1]
    result = compare(ScoredRows("binary", labels, {"model": good, "rule": bad}, users), 100)
    assert (result["rows"], result["users"], result["positives"]) == (600, 200, labels.sum())
    assert result["auroc"] == pytest.approx(roc_auc_score(labels, good))
    rule = result["baselines"]["rule"]
    assert rule["average_precision"] == pytest.approx(average_precision_score(labels, bad))
    assert rule["auroc_difference"] == pytest.approx(result["auroc"] - rule["auroc"])
    for figures in (result, rule):
        assert figures["auroc_interval"][0] < figures["auroc"] < figures["auroc_interval"][1]
    low, high = rule["auroc_difference_interval"]
    assert 0 < low < rule["auroc_difference"] < high


def test_a_model_does_not_differ_from_itself():
    labels, good, users = scores(1.0)
    rule = compare(ScoredRows("binary", labels, {"model": good, "rule": good}, users), 100)["baselines"]["rule"]
    for name, value in rule.items():
        if "_difference" in name:
            assert value in (0, [0, 0])


@pytest.mark.parametrize(
    ("model", "baseline", "standing"),
    [(1.0, 0.2, "is ahead of"), (0.2, 1.0, "is behind"), (0.6, 0.6, "cannot be told apart from")],
)
def test_the_verdict_says_which_is_ahead_and_only_where_the_interval_supports_it(model, baseline, standing):
    labels, ours, users = scores(model)
    theirs = scores(baseline)[1]
    everyone = {"model": ours, "weak_rule": 1 - ours, "strong_rule": theirs, "blend": labels * 0.9}
    result = compare(ScoredRows("binary", labels, everyone, users), 100)
    said = told(result)
    assert f"the model {standing} the baseline that is best there, strong rule" in said
    better = " On this log strong rule is the better choice; the mean of model and boosting has AUROC 1.0000."
    assert said.endswith(better) == (standing == "is behind") == ("better choice" in said)
    del result["baselines"]["blend"]
    alone = "better choice."
    assert told(result).endswith(alone) == (standing == "is behind")


def test_average_precision_is_not_compared_with_a_constant_score():
    """Random scores would be called ahead in one of ten logs, as theirs lies above the base rate by chance alone."""
    labels, ours, users = scores(1.0)
    both = {"model": ours, "majority": np.full(600, 0.3)}
    constant = compare(ScoredRows("binary", labels, both, users), 100)["baselines"]
    assert np.isnan(constant["majority"]["average_precision_difference_interval"]).all()
    assert np.isfinite(constant["majority"]["auroc_difference_interval"]).all()


def test_of_values_the_lower_error_is_ahead():
    random = np.random.default_rng(0)
    values = random.gamma(2, 10, 600)
    near, far = values + random.normal(size=600), values + 9 * random.normal(size=600)
    users = np.arange(600)
    ahead = compare(ScoredRows("value", values, {"model": near, "ridge": far}, users, deviation=values.std()), 100)
    assert ahead["nmae"] == pytest.approx(mean_absolute_error(values, near) / values.std())
    assert "is ahead of the baseline that is best there, ridge: MAE" in told(ahead, "value", "mae", True)
    behind = compare(ScoredRows("value", values, {"model": far, "ridge": near}, users, deviation=values.std()), 100)
    assert "is behind the baseline that is best there" in told(behind, "value", "mae", True)


def test_few_positives_and_a_single_class_are_said():
    labels, ours, users = scores(1.0)
    few = np.where(np.cumsum(labels) > 20, 0, labels)
    result = compare(ScoredRows("binary", few, {"model": ours, "rule": 1 - ours}, users), 50)
    assert told(result).startswith("Only 20 positives, too few to tell: ")
    result = compare(ScoredRows("binary", 0 * labels, {"model": ours, "rule": 1 - ours}, users), 50)
    assert "AUROC is not defined" in told(result)


def test_an_interval_over_users_and_seeds_is_wider_than_that_of_a_seed():
    labels, good, users = scores(1.0)
    rule = scores(0.5)[1]
    rows = ScoredRows("binary", labels, {"model": good, "rule": rule, "gradient_boosting": rule, "blend": rule}, users)
    same = over_seeds(rows, [good, good], 400)
    alone = compare(replace(rows, scores={"model": good, "rule": rule}), 400)
    assert same["deviation"] == 0
    assert same["auroc_interval"] == pytest.approx(alone["auroc_interval"])
    for key, value in alone["baselines"]["rule"].items():
        assert same["baselines"]["rule"][key] == pytest.approx(value)
    both = over_seeds(rows, [good, scores(0.3)[1]], 400)["baselines"]
    low, high = both["rule"]["auroc_difference_interval"]
    before = same["baselines"]["rule"]["auroc_difference_interval"]
    assert high - low > 1.2 * (before[1] - before[0])
    assert low < both["rule"]["auroc_difference"] < high
    each = [roc_auc_score(labels, blend("binary", seed, rule)) for seed in (good, scores(0.3)[1])]
    assert both["blend"]["auroc"] == pytest.approx(np.mean(each))  # of a single model, too
    assert both["blend"]["over"]["rule"]["difference"] == pytest.approx(np.mean(each) - both["rule"]["auroc"])


def test_precision_and_recall_of_a_single_model_are_means_over_the_seeds_too():
    labels, good, users = scores(1.0)
    worse, threshold = scores(0.3)[1], float(np.median(good))
    rows = ScoredRows("binary", labels, {"model": good, "rule": worse}, users)
    one, same = compare(rows, 400, threshold), over_seeds(rows, [good, good], 400, threshold)
    both = over_seeds(rows, [good, worse], 400, threshold)
    for metric in ("precision", "recall", "f1", "accuracy"):
        assert same[metric] == pytest.approx(one[metric])
        assert same[f"{metric}_interval"] == pytest.approx(one[f"{metric}_interval"])
        other = compare(replace(rows, scores={"model": worse}), 0, threshold)[metric]
        assert both[metric] == pytest.approx((one[metric] + other) / 2)
        low, high = both[f"{metric}_interval"]
        assert high - low > one[f"{metric}_interval"][1] - one[f"{metric}_interval"][0]
    assert "confusion" not in both
    assert "precision" not in over_seeds(rows, [good, worse], 400)


def noisy(quality: float, seed: int) -> np.ndarray:
    """Scores of the rows of `scores`, with noise of their own."""
    labels, noise = scores(1.0)[0], np.random.default_rng(seed).normal(size=600)
    return 1 / (1 + np.exp(-(quality * (2 * labels - 1) + noise)))


def seeds_beside(rule: np.ndarray, seeds: list[np.ndarray]) -> tuple[dict, list[float]]:
    """What metrics.json says of models of several seeds, and the interval of their mean score minus the rule."""
    labels, _, users = scores(1.0)
    mean = np.mean(seeds, axis=0)
    everyone = {"model": seeds[0], "rule": rule, "gradient_boosting": 1 - rule, "mean_of_seeds": mean}
    everyone["blend"] = blend("binary", seeds[0], 1 - rule)
    rows = ScoredRows("binary", labels, everyone, users)
    metrics = {"task": "binary", "main": "auroc", "lower_is_better": False, "label": "churn"}
    metrics |= {"test": compare(rows, 400), "single": over_seeds(rows, seeds, 400), "seeds": dict.fromkeys("012")}
    of_mean = compare(ScoredRows("binary", labels, {"model": mean, "rule": rule}, users), 400)["baselines"]["rule"]
    return metrics, of_mean["auroc_difference_interval"]


def test_where_the_mean_of_seeds_is_ahead_and_a_single_one_level_the_single_one_is_judged():
    metrics, (low, _) = seeds_beside(noisy(1.0, 9), [noisy(0.9, seed) for seed in (1, 2, 3)])
    assert low > 0
    said = verdict(metrics)
    assert "a single model (the mean of 3 seeds) cannot be told apart from the baseline that is best there" in said
    assert "over users and seeds" in said
    mean = metrics["test"]["baselines"]["mean_of_seeds"]["auroc"]
    assert f"the mean of their scores has {mean:.4f} (+" in said
    advised = advice(metrics)
    assert advised.startswith("No, but as good.")
    assert f"would be better, by more than chance ({1000 * mean:.0f} of 1,000 pairs in the right order)" in advised


def test_where_the_mean_of_seeds_is_behind_and_a_single_one_level_the_single_one_is_judged():
    good, failed = (0.45 + 0.1 * noisy(1.1, seed) for seed in (1, 2)), noisy(0.3, 3)
    metrics, (_, high) = seeds_beside(noisy(0.9, 9), [*good, failed])
    assert high < 0
    assert "cannot be told apart from the baseline that is best there, rule" in verdict(metrics)
    assert advice(metrics).startswith("No, but as good.")
    assert "would be no better" in advice(metrics)


@pytest.mark.parametrize(
    ("scores", "same"),
    [
        (np.array([0.2, 0.3, 0.2]), False),
        (np.array([0.2, 0.2005, 0.2]), True),
        (np.array([[0.2, 0.9], [0.2, 0.9], [0.2, 0.9001]]), True),
        (np.array([[0.2, 0.9], [0.2, 0.9], [0.3, 0.9]]), False),
        (np.array([0.2]), False),
    ],
)
def test_a_model_that_says_the_same_of_everyone_is_known(scores, same):
    assert says_the_same(scores) == same


def experiment_of(config, folder, *arguments):
    given = ["--config", str(config), "--runs.folder", str(folder), "--pretraining.max_steps", "0", *arguments]
    return parse_experiment("", given)


def test_evaluation_writes_predictions_and_metrics_that_agree(prepared, tmp_path):
    more = ["--evaluation.stack", "true", "--evaluation.costs", "{contact: 1, kept_customer: 5}"]
    more += ["--evaluation.slices", "{old: 'tenure_days > 60', shop: shop}", "--evaluation.min_slice", "20"]
    more += ["--evaluation.calibration", "temperature", "--evaluation.threshold", "money"]
    experiment = experiment_of(prepared, tmp_path, *more)
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
    assert {"recency_rule", "rfm", "logistic_regression", "gradient_boosting", "majority", "stack", "blend"} == set(
        metrics["test"]["baselines"]
    )
    shown = table(metrics)
    for name, figures in {"model": metrics["test"], **metrics["test"]["baselines"]}.items():
        line = next(line for line in shown.splitlines() if line.startswith(worded(name)))
        assert f"{figures['auroc']:.4f} [" in line
    # At the threshold that validation chose, as it is saved with the model.
    saved = Calibration.load(run / "model")
    assert (saved.method, saved.threshold) == ("temperature", metrics["calibration"]["threshold"])
    contacted = predictions["score"].to_numpy() >= saved.threshold
    assert np.array(metrics["test"]["confusion"])[:, 1].sum() == contacted.sum()
    assert metrics["profit"]["profits"][-1] == 5 * metrics["test"]["positives"] - metrics["test"]["rows"]
    for name, curve in metrics["curves"]["roc"].items():
        figures = metrics["test"] if name == "model" else metrics["test"]["baselines"][name]
        area = auc(curve["false_positive_rate"], curve["true_positive_rate"])
        assert area == pytest.approx(figures["auroc"], abs=1e-3)
    assert metrics["curves"]["calibration"]["mean_score"] == pytest.approx(predictions["score"].to_numpy().mean())
    log = json.loads((run / "training_log.json").read_text())
    logged = {entry["step"]: entry["eval_auroc"] for entry in log["history"] if "eval_auroc" in entry}
    assert metrics["training"]["steps"] == log["steps"] == 8
    assert dict(zip(*metrics["training"]["eval_auroc"].values(), strict=True)) == logged
    assert len(metrics["training"]["loss"]["values"]) == 8
    assert sum(cutoff["rows"] for cutoff in metrics["by_cutoff"]) == metrics["test"]["rows"]
    for parts in metrics["slices"].values():
        assert sum(group["rows"] for group in parts["groups"] + parts["too_small"]) == metrics["test"]["rows"]
    assert sum(metrics["lengths"]["test"]["counts"]) == metrics["test"]["rows"]
    assert (run / "model" / "calibration.json").is_file()


LABELS = {
    "tiers": {"kind": "count", "tiers": [0, 2]},
    "value": {"kind": "sum", "field": "amount"},
    "propensity": {"kind": "which", "field": "shop", "top": 2},
}


@pytest.mark.parametrize("task", LABELS)
def test_every_kind_of_label_is_evaluated_and_reported(tiny, tmp_path, task):
    config = yaml.safe_load(tiny.read_text())
    config["task"]["label"] = LABELS[task] | {"where": "event_type = 'purchase'", "horizon": "14 days"}
    tiny.write_text(yaml.safe_dump(config))
    experiment = experiment_of(tiny, tmp_path / "runs", "--evaluation.slices", "{old: tenure_days > 60}")
    prepare(experiment.name, experiment.data, experiment.task, experiment.text)
    train(experiment)
    metrics = evaluate(experiment)
    assert metrics["task"] == task
    predictions = pq.read_table(experiment.run_folder / "predictions" / "test.parquet")
    labels, found = (np.array(predictions[name].to_pylist()) for name in ("label", "score"))
    if task == "value":
        assert metrics["test"]["mae"] == pytest.approx(mean_absolute_error(labels, found))
    elif task == "tiers":
        assert metrics["test"]["accuracy"] == pytest.approx((labels == found.argmax(axis=1)).mean())
        assert np.sum(metrics["test"]["confusion"]) == len(labels)
    else:
        assert metrics["test"]["auroc"] == pytest.approx(roc_auc_score(labels, found, average="macro"))
        parts = [*metrics["by_cutoff"], *metrics["slices"]["old"]["groups"]]
        assert all(part["novelty"] is not None for part in parts)
        had = np.array(pq.read_table(experiment.data_folder / "test.parquet")["own"].to_pylist()) > 0
        for figures, scores in ((metrics["test"], "score"), (metrics["test"]["baselines"]["rfm"], "rfm")):
            own = repeat_and_new(labels, np.array(predictions[scores].to_pylist()), had)
            assert {name: figures[name] for name in own} == without_nan(own)
        assert f"of {labels.size:,} labels are 1" in table(metrics)
    name = metrics["main"]
    baselines = metrics["test"]["baselines"]
    for figures in baselines.values():
        assert figures[f"{name}_difference"] == pytest.approx(metrics["test"][name] - figures[name])
    assert set(baselines["blend"]["over"]) == {*baselines} - {"blend", "stack"}
    for rival, apart in baselines["blend"]["over"].items():
        assert apart["difference"] == pytest.approx(baselines["blend"][name] - baselines[rival][name])
    assert table(metrics)
    assert metrics["verdict"] in write_report(experiment.run_folder).read_text()


def test_of_several_seeds_a_single_model_is_judged(prepared, tmp_path):
    experiment = experiment_of(prepared, tmp_path, "--seeds", "0", "1", "--training.max_steps", "2")
    train(experiment)
    metrics = evaluate(replace(experiment))
    assert set(metrics["seeds"]) == {"0", "1"}
    found = [metrics["seeds"][seed]["auroc"] for seed in "01"]
    assert metrics["single"]["auroc"] == pytest.approx(np.mean(found))
    assert metrics["single"]["deviation"] == pytest.approx(np.std(found, ddof=1))
    assert "a single model (the mean of 2 seeds)" in metrics["verdict"]
    assert metrics["test"]["auroc"] == found[0]  # the model that the report's commands use
    table = pq.read_table(tmp_path / "tiny/predictions/test.parquet")
    labels, each = table["label"].to_numpy(), [table[f"score_of_seed_{seed}"].to_numpy() for seed in "01"]
    assert [roc_auc_score(labels, scores) for scores in each] == pytest.approx(found)
    assert np.array_equal(table["score"].to_numpy(), each[0])
    mean = roc_auc_score(labels, np.mean(each, axis=0))
    assert metrics["test"]["baselines"]["mean_of_seeds"]["auroc"] == pytest.approx(mean)
    beside = metrics["single"]["baselines"]["gradient_boosting"]
    assert beside["auroc_difference"] == pytest.approx(np.mean(found) - beside["auroc"])
    page = write_report(tmp_path / "tiny").read_text()
    assert metrics["verdict"] in page
    assert "are of the one of seed 0, which the commands of this page use" in page
    shutil.copytree(tmp_path / "tiny", tmp_path / "twin")
    compared = compare_runs([tmp_path / "tiny", tmp_path / "twin"], resamples=50)
    for run in compared["runs"]:
        assert run["auroc"] == pytest.approx(np.mean(found))
        high = run["to_rival_interval"][1]
        assert (run["beside_rival"] == "behind") == (high < 0)
        assert run["validation"] == pytest.approx(metrics["single"]["validation"])
    assert all((tmp_path / "tiny" / f"seed-{seed}" / "model" / "calibration.json").is_file() for seed in (0, 1))


@pytest.mark.parametrize(
    ("label", "arguments", "named"),
    [
        ("value", ["--evaluation.calibration", "temperature"], "evaluation.calibration"),
        ("tiers", ["--evaluation.calibration", "isotonic"], "evaluation.calibration"),
        ("tiers", ["--evaluation.costs", "{contact: 1, kept_customer: 5}"], "evaluation.costs"),
        ("propensity", ["--evaluation.stack", "true"], "evaluation.stack"),
        (
            "value",
            ["--evaluation.bootstrap", "100000000000"],
            r"evaluation\.bootstrap is 100,000,000,000; give at most",
        ),
    ],
)
def test_a_setting_that_the_label_has_no_use_for_is_refused_before_any_work(tiny, tmp_path, label, arguments, named):
    from finetune.evaluation.evaluate import check_evaluation

    config = yaml.safe_load(tiny.read_text())
    config["task"]["label"] = LABELS[label] | {"where": "event_type = 'purchase'", "horizon": "14 days"}
    tiny.write_text(yaml.safe_dump(config))
    with pytest.raises(InputError, match=named):
        check_evaluation(experiment_of(tiny, tmp_path, *arguments))


@pytest.mark.parametrize("file", ["training_log.json", "config.yaml"])
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("{")])
def test_a_run_that_lost_a_file_is_refused_before_any_work(trained, tmp_path, file, damage):
    shutil.copytree(trained.run_folder, tmp_path / "tiny")
    damage(tmp_path / "tiny" / file)
    before = sorted((tmp_path / "tiny").rglob("*"))
    run = replace(trained, runs=replace(trained.runs, folder=str(tmp_path)))
    with pytest.raises(InputError, match=re.escape(file)):
        evaluate(run)
    assert sorted((tmp_path / "tiny").rglob("*")) == before


def test_two_processes_give_the_metrics_of_one(evaluated, tmp_path, commands):
    """Everything but the number of processes, the seconds, the date and the folder."""
    shutil.copytree(evaluated.run_folder, tmp_path / "tiny")
    arguments = ["--config", tmp_path / "tiny/config.yaml", "--training.use_cpu", "false", "--runs.folder", tmp_path]
    commands.run_two("evaluate.py", *arguments)
    found = []
    for folder, processes in ((evaluated.run_folder, 1), (tmp_path / "tiny", 2)):
        metrics = json.loads((folder / "metrics.json").read_text())
        made = metrics["made"]
        assert made.pop("processes") == processes
        del made["seconds"], made["date"]
        found.append(metrics)
    assert found[0] == found[1]
