"""Predictions -> metrics with intervals, against the baselines on the same rows."""

import importlib.metadata
import json
import platform
from datetime import date
from pathlib import Path
from textwrap import wrap

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from data_prep import InputError
from data_prep.prepare import replacing
from finetune.baselines import Baselines, score_baselines
from finetune.batching import prepared_manifest, read_split
from finetune.config import Experiment
from finetune.metrics import Bootstrap, binary_metrics, bootstrap_users, interval
from finetune.scoring import load_classifier, score_texts

MODEL = "model"
SCORED = ("validation", "test")
INTERVALS = ("auroc", "average_precision")
PACKAGES = ("torch", "transformers", "datasets", "accelerate", "peft", "scikit-learn", "duckdb", "numpy")


def evaluate(experiment: Experiment) -> dict:
    """Score validation and test, fit the baselines, and write predictions/ and metrics.json into the run's folder.

    Returns:
        The content of metrics.json.

    Raises:
        InputError: The data is not prepared or the model not trained.
    """
    manifest = prepared_manifest(experiment)
    if manifest["label_kind"] not in ("absent", "exists"):
        raise InputError(
            f"task.label.kind {manifest['label_kind']} can be trained on but not evaluated yet; take absent or exists"
        )
    finetuning, columns = experiment.finetuning, ["user_id", "cutoff", "text", "label"]
    limits = {"train": finetuning.max_train_examples} | dict.fromkeys(SCORED, finetuning.max_eval_examples)
    rows = {split: read_split(experiment.data_folder, split, limits[split], columns) for split in SCORED}
    by_run = [_score_run(run, manifest, rows) for run in experiment.runs()]
    scores = {split: np.mean([run[split] for run in by_run], axis=0) for split in SCORED}
    baselines = score_baselines(experiment.data_folder, manifest["aggregates"], limits)
    _write_predictions(experiment.run_folder / "predictions", rows, scores, baselines)
    metrics = {"name": experiment.name, "question": manifest["question"], "label": manifest["label"]}
    metrics["horizon"] = experiment.task.label.horizon
    for split, table in rows.items():
        everyone = {MODEL: scores[split], **baselines.scores[split]}
        resamples = experiment.evaluation.bootstrap if split == "test" else 0
        metrics[split] = compare(table["label"].to_numpy(), everyone, table["user_id"].to_numpy(), resamples)
        metrics[split]["cutoffs"] = manifest["splits"][split]["cutoffs"]
    if experiment.seeds:  # what the mean of their scores gains
        labels = rows["test"]["label"].to_numpy()
        metrics["seeds"] = {
            str(seed): binary_metrics(labels, run["test"]) for seed, run in zip(experiment.seeds, by_run, strict=True)
        }
    metrics["verdict"] = verdict(metrics["test"])
    metrics["made"] = {
        "date": str(date.today()),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({platform.machine()})",
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "seed": experiment.seeds or experiment.training["seed"],
        "bootstrap_resamples": experiment.evaluation.bootstrap,
        "baseline_settings": baselines.settings,
        "content_hash": manifest["content_hash"],
    }
    path = experiment.run_folder / "metrics.json"
    path.write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    return metrics


def _score_run(experiment: Experiment, manifest: dict, rows: dict[str, pa.Table]) -> dict[str, np.ndarray]:
    """The scores of one run's model for each split."""
    model, tokenizer = load_classifier(experiment.run_folder / MODEL)
    log = json.loads((experiment.run_folder / "training_log.json").read_text(encoding="utf-8"))
    if log["content_hash"] != manifest["content_hash"]:
        raise InputError(
            f"{experiment.run_folder / MODEL} was trained on other data than {experiment.data_folder} holds now; "
            f"run scripts/train.py with the same arguments first"
        )
    batch = experiment.training["per_device_eval_batch_size"]
    return {
        split: score_texts(model, tokenizer, table["text"].to_pylist(), batch, split) for split, table in rows.items()
    }


def compare(labels: np.ndarray, scores: dict[str, np.ndarray], users: np.ndarray, resamples: int) -> dict:
    """Metrics of the model and of each baseline on the same rows.

    Args:
        labels: 0 or 1, of shape (rows,).
        scores: Name -> probabilities of shape (rows,); "model" and the baselines.
        users: Whose example each row is; intervals resample whole users.
        resamples: Of the bootstrap; 0 leaves the intervals out.

    Returns:
        rows, users, positives, the model's metrics with intervals, and under "baselines" the same for each baseline,
        with the difference model minus baseline and its paired interval.
    """
    result: dict = {"rows": len(labels), "users": len(np.unique(users)), "positives": int(labels.sum())}
    bootstrap = bootstrap_users(labels, scores, users, resamples) if resamples else None
    figures = {name: _figures(labels, values, name, bootstrap) for name, values in scores.items()}
    result |= figures.pop(MODEL)
    result["baselines"] = figures
    for name, baseline in figures.items():
        for metric in INTERVALS:
            baseline[f"{metric}_difference"] = result[metric] - baseline[metric]
            if bootstrap:
                values = getattr(bootstrap, metric)
                baseline[f"{metric}_difference_interval"] = interval(values[MODEL] - values[name])
    return result


def verdict(test: dict) -> str:
    """One sentence: is the model ahead of the best baseline, and how sure is that?"""
    name, best = max(test["baselines"].items(), key=lambda item: item[1]["auroc"])
    difference, (low, high) = best["auroc_difference"], best["auroc_difference_interval"]
    standing = "ahead of" if low > 0 else "behind" if high < 0 else "level with"
    return (
        f"On the test cutoffs the model is {standing} the best baseline, {name.replace('_', ' ')}: AUROC "
        f"{test['auroc']:.4f} against {best['auroc']:.4f}, a difference of {difference:+.4f} "
        f"(95 % interval {low:+.4f} to {high:+.4f})."
    )


def table(metrics: dict) -> str:
    """The test results as a table for the screen."""
    test = metrics["test"]
    lines = [f"{'test':<22}{'AUROC':<30}{'average precision':<30}model minus this (AUROC)"]
    for name, figures in {MODEL: test, **test["baselines"]}.items():
        cells = [f"{figures[metric]:.4f} {_show(figures[f'{metric}_interval'])}" for metric in INTERVALS]
        ahead = ""
        if name != MODEL:
            ahead = f"{figures['auroc_difference']:+.4f} {_show(figures['auroc_difference_interval'], '+.4f')}"
        lines.append(f"{name.replace('_', ' '):<22}{cells[0]:<30}{cells[1]:<30}{ahead}".rstrip())
    lines.append(
        f"{test['rows']:,} rows of {test['users']:,} users, {test['positives']:,} with {metrics['label']}; "
        f"95 % intervals by bootstrap over users"
    )
    return "\n".join([*lines, "", *wrap(metrics["verdict"], 100)])


def _figures(labels: np.ndarray, scores: np.ndarray, name: str, bootstrap: Bootstrap | None) -> dict:
    figures: dict = dict(binary_metrics(labels, scores))
    if bootstrap:
        for metric in INTERVALS:
            figures[f"{metric}_interval"] = interval(getattr(bootstrap, metric)[name])
    return figures


def _show(bounds: list[float], form: str = ".4f") -> str:
    return f"[{bounds[0]:{form}}, {bounds[1]:{form}}]"


def _write_predictions(folder: Path, rows: dict, scores: dict, baselines: Baselines) -> None:
    with replacing(folder) as made:
        for split, table in rows.items():
            columns = {key: table[key] for key in ("user_id", "cutoff", "label")}
            columns |= {"score": scores[split], **baselines.scores[split]}
            pq.write_table(pa.table(columns), made / f"{split}.parquet")
