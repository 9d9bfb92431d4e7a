"""Predictions -> metrics with intervals, against the baselines on the same rows: runs/NAME/metrics.json."""

import importlib.metadata
import json
import math
import platform
import time
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from transformers import AutoTokenizer

from data_prep import InputError
from data_prep.checked_json import MayLack
from data_prep.files import replacing, write_whole
from data_prep.prepared import column_array, read_split, sampled
from data_prep.task import SPLITS
from finetune.baselines.fit import Baselines, score_baselines
from finetune.baselines.pairs import pair_columns
from finetune.config import EvaluationConfig, Experiment
from finetune.evaluation.bootstrap import INTERVALS, bootstrap, bootstrap_at_threshold, interval
from finetune.evaluation.curves import MODEL, curves, training
from finetune.evaluation.drift import drift
from finetune.evaluation.slices import by_cutoff, slice_metrics, slice_values
from finetune.evaluation.verdict import says_the_same, single_verdict, verdict
from finetune.hub.model_card import LOGGED, settings_of, write_model_card
from finetune.metrics import (
    LOWER_IS_BETTER,
    MAIN,
    at_threshold,
    deciles,
    measure,
    metric_names,
    repeat_and_new,
    tier_confusion,
)
from finetune.model.calibration import Calibration, check_method, choose_threshold, profit_curve
from finetune.model.inference import for_scoring, score_texts
from finetune.model.loading import load_classifier
from finetune.model.objective import Objective
from finetune.model.tokens import tokens_of_split
from finetune.runs import METRICS, PRETRAINED, read_pretraining_log, read_training_log
from finetune.training.batching import prepared_manifest
from finetune.training.checkpoints import told, trained_with

SCORED = ("validation", "test")
# Of the settings that training tells of, what evaluation may be given otherwise.
NOT_OF_THE_MODEL = {
    "processes",
    "evaluation.patience",
    "finetuning.max_train_examples",
    "finetuning.max_eval_examples",
    "training.use_cpu",
}
MOST_RESAMPLES = 100_000
SAYS_THE_SAME = "The model says the same of everyone: it has learned nothing that tells one user from another. "
LENGTH_SAMPLE = 20_000  # texts of each split whose tokens are counted
PACKAGES = ("torch", "transformers", "datasets", "accelerate", "peft", "scikit-learn", "duckdb", "numpy")


def evaluate(experiment: Experiment) -> dict | None:
    """Score validation and test, fit the baselines, and write predictions/ and metrics.json into the run's folder.

    Calibration and threshold are fitted on validation and saved with the model, which uses them whenever it scores.
    Launched in several processes, they share the scoring, and the first does the rest. finetune/README.md explains
    the keys of metrics.json; a figure that cannot be computed is null there.

    Returns:
        The content of metrics.json; None on the other processes.

    Raises:
        InputError: The data is not prepared or the model not trained, or a setting does not fit the label.
    """
    started = time.perf_counter()
    # Without a GPU, several processes know of each other only where cpu is set.
    accelerator = Accelerator(cpu=bool(experiment.training.get("use_cpu")) or not torch.cuda.is_available())
    manifest = prepared_manifest(experiment)
    objective = Objective.of(experiment.task.label, manifest["classes"])
    task, settings = objective.task, experiment.evaluation
    check_evaluation(experiment)
    finetuning = experiment.finetuning
    limits = {"train": finetuning.max_train_examples} | dict.fromkeys(SCORED, finetuning.max_eval_examples)
    rows = _rows(experiment, manifest, task, limits)
    groups = {}
    if settings.slices and accelerator.is_main_process:  # first, as they may be refused
        groups = slice_values(experiment, rows["test"])
    raw = [_score_run(run, manifest, limits, accelerator) for run in experiment.runs()]
    if not accelerator.is_main_process:
        accelerator.wait_for_everyone()
        return None
    scored = _calibrated(settings, task, rows, raw)
    stacked = scored.scores if settings.stack else None
    baselines = score_baselines(experiment.data_folder, manifest, limits, model_scores=stacked)
    _write_predictions(experiment.run_folder / "predictions", rows, scored.scores, baselines)
    train = read_split(experiment.data_folder, "train", limits["train"], ["text", "label", *manifest["aggregates"]])
    seen = column_array(train["label"])
    deviation = float(seen.std()) if task == "value" else None
    known = {"deviation": deviation, "popularity": seen.sum(axis=0) if task == "propensity" else None}
    metrics = _question(experiment, manifest, objective) | _compared(settings, task, rows, scored, baselines, known)
    for split in SCORED:
        metrics[split]["cutoffs"] = manifest["splits"][split]["cutoffs"]
    same = SAYS_THE_SAME if says_the_same(scored.scores["test"]) else ""
    metrics["verdict"] = same + verdict(metrics)
    metrics |= _looked_into(settings, task, manifest, rows, groups, scored, baselines, known)
    metrics["training"] = training(experiment, MAIN[task])
    metrics["drift"] = drift(train, rows["test"], manifest["aggregates"])
    metrics["lengths"] = _lengths(experiment, limits)
    if experiment.seeds:
        metrics |= _seeds(experiment, task, scored, baselines, known)
        metrics["verdict"] += " " + single_verdict(metrics)
    metrics["made"] = _made(experiment, manifest, accelerator, baselines, started)
    metrics = without_nan(metrics)
    _save_calibration(experiment, task, scored.fitted, scored.by_run, scored.labels["validation"])
    write_whole(experiment.run_folder / METRICS, json.dumps(metrics, indent=1, allow_nan=False) + "\n")
    write_model_card(experiment.run_folder)
    accelerator.wait_for_everyone()
    return metrics


@dataclass
class _Scored:
    """The scores of validation and test; each mapping is by these splits.

    Attributes:
        labels: Of each row.
        users: Whose each row is.
        raw: The scores of each run as its model gives them.
        fitted: The calibration of each run.
        by_run: The calibrated scores of each run.
        scores: Their mean.
        threshold: From which on a row counts as positive, if one was asked for.
    """

    labels: dict[str, np.ndarray]
    users: dict[str, np.ndarray]
    raw: list[dict[str, np.ndarray]]
    fitted: list[Calibration]
    by_run: list[dict[str, np.ndarray]]
    scores: dict[str, np.ndarray]
    threshold: float | None


def _rows(experiment: Experiment, manifest: dict, task: str, limits: dict[str, int | None]) -> dict[str, pa.Table]:
    columns = {"validation": ["user_id", "cutoff", "text", "label"]}
    columns["test"] = [*columns["validation"], *manifest["aggregates"]]
    if task == "propensity":
        pair_columns(manifest)  # refuses data that has none
        columns["test"].append("own")
    rows = {split: read_split(experiment.data_folder, split, limits[split], columns[split]) for split in SCORED}
    for split, table in rows.items():
        if not len(table) or table["label"].null_count:
            what = f"{table['label'].null_count:,} rows without a label" if len(table) else "no rows"
            path = experiment.data_folder / f"{split}.parquet"
            raise InputError(f"{path} has {what}; run scripts/prepare.py again, or choose other cutoffs")
    return rows


def _calibrated(
    settings: EvaluationConfig, task: str, rows: dict[str, pa.Table], raw: list[dict[str, np.ndarray]]
) -> _Scored:
    """What validation says of calibration and threshold, applied to both splits."""
    labels = {split: column_array(table["label"]) for split, table in rows.items()}
    users = {split: table["user_id"].to_numpy() for split, table in rows.items()}
    fitted = [Calibration.fit(settings.calibration, task, labels["validation"], run["validation"]) for run in raw]
    by_run = [{split: how.apply(run[split], task) for split in SCORED} for how, run in zip(fitted, raw, strict=True)]
    scores = {split: np.mean([run[split] for run in by_run], axis=0) for split in SCORED}
    threshold = _threshold(settings, task, labels["validation"], scores["validation"])
    if threshold is not None and threshold > scores["validation"].max():
        shared = "more rows than the budget share the highest score"
        why = "no contact pays" if settings.threshold == "money" else shared
        print(f"warning: no row counts as positive, as {why}")
    return _Scored(labels, users, raw, fitted, by_run, scores, threshold)


def _question(experiment: Experiment, manifest: dict, objective: Objective) -> dict:
    """What was asked."""
    task = objective.task
    return {
        "name": experiment.name,
        "task": task,
        "question": manifest["question"],
        "label": manifest["label"],
        "horizon": experiment.task.label.horizon,
        "classes": None if task == "value" else list(objective.classes),
        "main": MAIN[task],
        "lower_is_better": MAIN[task] in LOWER_IS_BETTER,
    }


def _compared(
    settings: EvaluationConfig,
    task: str,
    rows: dict[str, pa.Table],
    scored: _Scored,
    baselines: Baselines,
    known: dict,
) -> dict:
    """Model and baselines on both splits."""
    metrics = {}
    for split in SCORED:
        everyone = {MODEL: scored.scores[split], **baselines.scores[split]}
        resamples = settings.bootstrap if split == "test" else 0
        labels, users = scored.labels[split], scored.users[split]
        metrics[split] = compare(task, labels, everyone, users, resamples, scored.threshold, **known)
    if task == "propensity":
        had = column_array(rows["test"]["own"]) > 0
        for name, values in {MODEL: scored.scores["test"], **baselines.scores["test"]}.items():
            figures = metrics["test"] if name == MODEL else metrics["test"]["baselines"][name]
            figures |= repeat_and_new(scored.labels["test"], values, had)
    return metrics


def _looked_into(
    settings: EvaluationConfig,
    task: str,
    manifest: dict,
    rows: dict[str, pa.Table],
    groups: dict[str, np.ndarray],
    scored: _Scored,
    baselines: Baselines,
    known: dict,
) -> dict:
    """What the test rows say of calibration, profit, single cutoffs and groups of users, and the curves."""
    test = (scored.labels["test"], scored.scores["test"], scored.users["test"])
    fitted, threshold, resamples = scored.fitted, scored.threshold, settings.bootstrap
    profit = None
    if settings.costs and task == "binary":
        profit = profit_curve(*test, **asdict(settings.costs), resamples=resamples, threshold=threshold)
    return {
        "calibration": {
            "method": settings.calibration,
            "temperature": fitted[0].temperature if len(fitted) == 1 else [how.temperature for how in fitted],
            "threshold": threshold,
            "threshold_by": settings.threshold if threshold is not None else None,
            "before": measure(task, test[0], np.mean([run["test"] for run in scored.raw], axis=0), **known),
        },
        "profit": profit,
        "by_cutoff": by_cutoff(task, rows["test"]["cutoff"].to_numpy(), *test, resamples, **known),
        "slices": {
            name: slice_metrics(task, values, *test, threshold, settings.min_slice, resamples, **known)
            for name, values in groups.items()
        },
        "curves": curves(task, manifest["classes"], test[0], {MODEL: test[1], **baselines.scores["test"]}),
    }


def _seeds(experiment: Experiment, task: str, scored: _Scored, baselines: Baselines, known: dict) -> dict:
    """What each seed is worth alone, and a single one on average."""
    labels, users, each = scored.labels["test"], scored.users["test"], [run["test"] for run in scored.by_run]
    resamples, rivals = experiment.evaluation.bootstrap, baselines.scores["test"]
    return {
        "seeds": {
            str(seed): measure(task, labels, scores, **known)
            for seed, scores in zip(experiment.seeds, each, strict=True)
        },
        "single": over_seeds(task, labels, each, rivals, users, resamples, **known),
    }


def _made(
    experiment: Experiment, manifest: dict, accelerator: Accelerator, baselines: Baselines, started: float
) -> dict:
    """When, how and of what the figures were made."""
    settings = experiment.evaluation
    return {
        "date": str(date.today()),
        "seconds": _seconds(experiment) | {"evaluate": round(time.perf_counter() - started, 1)},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({platform.machine()})",
        "processes": accelerator.num_processes,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "seed": experiment.seeds or experiment.training["seed"],
        "bootstrap_resamples": settings.bootstrap,
        "evaluation": asdict(settings),
        "baseline_settings": baselines.settings,
        "content_hash": manifest["content_hash"],
        "log": manifest["log"],
        "splits": {split: manifest["splits"][split]["rows"] for split in SPLITS},
    }


def compare(
    task: str,
    labels: np.ndarray,
    scores: dict[str, np.ndarray],
    users: np.ndarray,
    resamples: int,
    threshold: float | None = None,
    **known: object,
) -> dict:
    """Metrics of the model and of each baseline on the same rows.

    Args:
        task: See `finetune.model.objective.Objective`.
        labels: Of shape (rows,), for propensity (rows, classes).
        scores: Name -> scores of shape (rows,) or (rows, classes); "model" and the baselines.
        users: Whose example each row is; intervals resample whole users.
        resamples: Of the bootstrap; 0 leaves the intervals out.
        threshold: From which on a row counts as positive; of the model alone.
        known: Of the training labels: deviation and popularity; see `finetune.metrics.measure`.

    Returns:
        rows, users, positives, the model's metrics with intervals, and under "baselines" the same for each baseline,
        with the difference model minus baseline and its paired interval.
    """
    intervals = metric_names(task, scores[MODEL], INTERVALS)
    drawn = bootstrap(task, labels, scores, users, resamples, **known) if resamples else None
    figures = {}
    for name, values in scores.items():
        figures[name] = dict(measure(task, labels, values, **known))
        if drawn:
            figures[name] |= {f"{metric}_interval": interval(drawn[name][metric]) for metric in intervals}
    result = {"rows": len(labels), "users": len(np.unique(users)), "positives": int((labels > 0).sum())}
    result |= figures.pop(MODEL)
    if task == "tiers":
        result["confusion"] = tier_confusion(labels, scores[MODEL])
    if task == "value":
        result["deciles"] = deciles(labels, scores[MODEL])
    if threshold is not None:
        result |= at_threshold(labels, scores[MODEL], threshold)
        if resamples:
            reached = bootstrap_at_threshold(labels, scores[MODEL], users, threshold, resamples)
            result |= {f"{metric}_interval": interval(values) for metric, values in reached.items()}
    result["baselines"] = figures
    for name, baseline in figures.items():
        for metric in intervals:
            baseline[f"{metric}_difference"] = result[metric] - baseline[metric]
            if drawn:
                paired = drawn[MODEL][metric] - drawn[name][metric]
                # Of scores without ties average precision lies above the base rate by chance alone: against a constant
                # score the interval called random scores ahead in 10 % of the simulations, where it should in 2.5 %.
                unfair = metric.endswith("average_precision") and len(np.unique(scores[name])) == 1
                baseline[f"{metric}_difference_interval"] = [math.nan] * 2 if unfair else interval(paired)
    return result


def over_seeds(
    task: str,
    labels: np.ndarray,
    runs: list[np.ndarray],
    baselines: dict[str, np.ndarray],
    users: np.ndarray,
    resamples: int,
    **known: object,
) -> dict:
    """How good a single checkpoint of the seeds is, over users and seeds: each resample draws users, and as many seeds
    as there are, with replacement.

    Of few seeds the spread between them comes out too small, by a factor of sqrt(1 - 1 / seeds).

    Args:
        task: See `finetune.model.objective.Objective`.
        labels: As `compare` has them.
        runs: The scores of each seed.
        baselines: Name -> scores.
        users: Whose example each row is.
        resamples: Of the bootstrap.
        known: See `compare`.

    Returns:
        The main metric's mean, its standard deviation between seeds, interval, and under "baselines" of each the
        difference to it, with its interval.
    """
    main, seeds = MAIN[task], [f"seed {i}" for i in range(len(runs))]
    everyone = dict(zip(seeds, runs, strict=True)) | baselines
    figures = {name: measure(task, labels, scores, **known)[main] for name, scores in everyone.items()}
    drawn = {name: of[main] for name, of in bootstrap(task, labels, everyone, users, resamples, **known).items()}
    picked = np.random.default_rng(0).integers(0, len(seeds), (len(seeds), resamples))
    single = np.stack([drawn[name] for name in seeds])[picked, np.arange(resamples)].mean(axis=0)
    found = [figures[name] for name in seeds]
    result = {"mean": float(np.mean(found)), "deviation": float(np.std(found, ddof=1)) if len(found) > 1 else math.nan}
    result["interval"] = interval(single)
    result["baselines"] = {
        name: {"difference": result["mean"] - figures[name], "interval": interval(single - drawn[name])}
        for name in baselines
    }
    return result


def without_nan(value: object) -> object:
    """The same for JSON: plain numbers, and None in the place of what is not a number."""
    if isinstance(value, dict):
        return {str(key): without_nan(of) for key, of in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [without_nan(of) for of in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_evaluation(experiment: Experiment) -> None:
    """Refuse settings that the label has no use for, before any work."""
    settings, task = experiment.evaluation, Objective.of(experiment.task.label, []).task
    if task != "binary" and settings.costs:
        raise InputError(f"evaluation.costs are for labels of yes or no (absent, exists), not {task}; leave them out")
    if task == "propensity" and settings.stack:
        raise InputError("evaluation.stack is for single labels, not for propensity; leave it out")
    check_method(settings.calibration, task)
    if settings.bootstrap > MOST_RESAMPLES:
        raise InputError(
            f"evaluation.bootstrap is {settings.bootstrap:,}; give at most {MOST_RESAMPLES:,}; 1,000 resamples do for "
            f"95 % intervals"
        )


def _score_run(
    experiment: Experiment, manifest: dict, limits: dict[str, int | None], accelerator: Accelerator
) -> dict[str, np.ndarray]:
    """The uncalibrated scores of one run's model for each split."""
    model, tokenizer = load_classifier(experiment.run_folder / MODEL)
    settings_of(experiment.run_folder / MODEL)  # the card shows it: refused now, not at the end
    log = read_training_log(experiment.run_folder, LOGGED)
    if log["content_hash"] != manifest["content_hash"]:
        raise InputError(
            f"{experiment.run_folder / MODEL} was trained on other data than {experiment.data_folder} holds now; "
            f"run scripts/train.py with the same arguments first"
        )
    old, new = trained_with(experiment.run_folder), told(experiment)
    other = next((key for key in old if key not in NOT_OF_THE_MODEL and old[key] != new.get(key)), None)
    if other:
        raise InputError(
            f"{experiment.run_folder / MODEL} was trained with other settings ({other}: {old[other]}); evaluate with "
            f"the same ones, or run scripts/train.py again"
        )
    batch, model = experiment.training["per_device_eval_batch_size"], for_scoring(model.to(accelerator.device))
    with accelerator.main_process_first():
        tokens = {split: tokens_of_split(tokenizer, experiment.data_folder, split, limits[split]) for split in SCORED}
    return {
        split: score_texts(model, tokenizer, tokens[split], batch, split, accelerator=accelerator) for split in SCORED
    }


def _save_calibration(
    experiment: Experiment, task: str, fitted: list[Calibration], by_run: list[dict], labels: np.ndarray
) -> None:
    """Beside each model its own calibration and threshold, as each of them scores by itself too."""
    settings = experiment.evaluation
    for run, how, scores in zip(experiment.runs(), fitted, by_run, strict=True):
        threshold = _threshold(settings, task, labels, scores["validation"])
        by = settings.threshold if threshold is not None else None
        Calibration(**asdict(how) | {"threshold": threshold, "threshold_by": by}).save(run.run_folder / MODEL)


def _threshold(settings: EvaluationConfig, task: str, labels: np.ndarray, scores: np.ndarray) -> float | None:
    if task != "binary" or len(np.unique(labels)) < 2:
        return None
    costs = (settings.costs.contact, settings.costs.kept_customer) if settings.costs else ()
    return choose_threshold(settings.threshold, labels, scores, settings.budget, *costs)


def _lengths(experiment: Experiment, limits: dict[str, int | None]) -> dict[str, dict]:
    """How many tokens a text has, in bins of eight."""
    tokenizer = AutoTokenizer.from_pretrained(experiment.runs()[0].run_folder / MODEL, trust_remote_code=False)
    found = {}
    for split in ("train", "test"):
        lengths = tokens_of_split(tokenizer, experiment.data_folder, split, limits[split]).lengths
        found[split] = lengths[sampled(len(lengths), LENGTH_SAMPLE)]
    edges = np.arange(0, max(lengths.max() for lengths in found.values()) + 9, 8)
    return {split: {"edges": edges, "counts": np.histogram(lengths, edges)[0]} for split, lengths in found.items()}


def _seconds(experiment: Experiment) -> dict[str, float]:
    """What the steps before took, where their logs say it."""
    logs = {}
    if experiment.pretraining.max_steps:
        logs["pretrain"] = [read_pretraining_log(experiment.base_folder / PRETRAINED)]
    logs["train"] = [read_training_log(run.run_folder, {"seconds": MayLack(float)}) for run in experiment.runs()]
    seconds = {step: [log.get("seconds") for log in of] for step, of in logs.items()}
    return {step: round(sum(of), 1) for step, of in seconds.items() if None not in of}


def _write_predictions(folder: Path, rows: dict, scores: dict, baselines: Baselines) -> None:
    with replacing(folder) as made:
        for split, table in rows.items():
            columns = {key: table[key] for key in ("user_id", "cutoff", "label")}
            for name, values in {"score": scores[split], **baselines.scores[split]}.items():
                columns[name] = pa.array(values if values.ndim == 1 else list(values))
            pq.write_table(pa.table(columns), made / f"{split}.parquet")
