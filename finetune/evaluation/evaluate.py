"""Predictions -> metrics with intervals, against the baselines on the same rows: runs/NAME/metrics.json."""

import importlib.metadata
import json
import platform
import time
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from transformers import AutoTokenizer

from data_prep import InputError
from data_prep.cutoffs import split_file
from data_prep.facts import Manifest
from data_prep.files import replacing, write_whole
from data_prep.made_up import made_up_user
from data_prep.population import Whom
from data_prep.prepared import Limit, column_array, prepared_for, read_split, sampled
from data_prep.serializer import EventSerializer
from data_prep.task import plain_question
from finetune.baselines.fit import Baselines, score_baselines
from finetune.baselines.pairs import pair_columns
from finetune.config import EvaluationConfig, Experiment
from finetune.effects import FREE_AFTER_TRAINING, weight_settings, with_effect
from finetune.evaluation.contact import contact
from finetune.evaluation.curves import curves, seconds_before, training
from finetune.evaluation.drift import drift
from finetune.evaluation.periods import history_groups, periods, times_of
from finetune.evaluation.profit import profit_curve
from finetune.evaluation.rows import ScoredRows
from finetune.evaluation.scorers import blend, compare, over_seeds
from finetune.evaluation.slices import by_cutoff, intersections, slice_metrics, slice_values
from finetune.evaluation.verdict import says_the_same, single_verdict, verdict
from finetune.measures import BLEND, LOWER_IS_BETTER, MAIN, MODEL
from finetune.metrics import compute_metrics, repeat_and_new
from finetune.metrics_json import Metrics, without_nan
from finetune.model.calibration import Calibration, check_method, choose_threshold
from finetune.model.inference import for_scoring, score_texts
from finetune.model.loading import load_classifier
from finetune.model.objective import Objective
from finetune.model.tokens import tokens_of_split
from finetune.runs import (
    CONFIGURED,
    LOGGED,
    METRICS,
    PREDICTIONS,
    read_settings,
    read_trained_settings,
    read_training_log,
)

SCORED = ("validation", "test")
MOST_RESAMPLES = 100_000
SAYS_THE_SAME = "The model says the same of everyone: it has learned nothing that tells one user from another. "
FEW_LABELS = "Model and baselines learned from the labels of {:,} users alone. "
LENGTH_SAMPLE = 20_000  # texts of each split whose tokens are counted
PACKAGES = ("torch", "transformers", "datasets", "accelerate", "peft", "scikit-learn", "duckdb", "numpy")


def evaluate(experiment: Experiment) -> Metrics | None:
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
    manifest = prepared_for(experiment.data_folder, experiment.task, experiment.text)
    objective = Objective.of(experiment.task.label, manifest["classes"])
    task, settings = objective.task, experiment.evaluation
    check_evaluation(experiment)
    limits = experiment.limits
    rows = _rows(experiment, manifest, task, limits)
    groups = {}
    if settings.slices and accelerator.is_main_process:  # first, as they may be refused
        groups = slice_values(experiment, rows["test"])
        groups |= intersections(groups) if settings.slice_pairs else {}
    raw = [_score_run(run, manifest, limits, accelerator) for run in experiment.seed_runs()]
    if not accelerator.is_main_process:
        accelerator.wait_for_everyone()
        return None
    scored = _calibrated(settings, task, rows, raw)
    stacked = scored.scores if settings.stack else None
    baselines = score_baselines(experiment.data_folder, manifest, limits, model_scores=stacked)
    train = read_split(experiment.data_folder, "train", limits["train"], ["text", "label", *manifest["aggregates"]])
    everyone = _everyone(task, scored, baselines, column_array(train["label"]))
    _write_predictions(experiment.run_folder / PREDICTIONS, rows, everyone)
    metrics = _question(experiment, manifest, objective) | _compared(settings, rows, scored, everyone)
    for split in SCORED:
        metrics[split] |= times_of(manifest["splits"][split])
    metrics |= _timeline(experiment, manifest)
    metrics["verdict"] = _verdict(experiment, metrics, scored)
    metrics |= _looked_into(settings, manifest, rows, groups, scored, everyone["test"])
    metrics["training"] = training(experiment, MAIN[task])
    metrics["drift"] = drift(train, rows["test"], manifest["aggregates"])
    metrics["lengths"] = _lengths(experiment, limits)
    if experiment.seeds:
        metrics |= _seeds(experiment, scored, everyone["test"])
        metrics["verdict"] += " " + single_verdict(cast(Metrics, metrics))
    metrics["made"] = _made(experiment, manifest, accelerator, baselines, started)
    metrics["made"]["splits"] = {"train": len(train)} | {split: len(table) for split, table in rows.items()}
    metrics = without_nan(metrics)
    _save_calibration(experiment, task, scored.fitted, scored.by_run, scored.labels["validation"])
    write_whole(experiment.run_folder / METRICS, json.dumps(metrics, indent=1, allow_nan=False) + "\n")
    accelerator.wait_for_everyone()
    return cast(Metrics, metrics)


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


def _rows(experiment: Experiment, manifest: Manifest, task: str, limits: dict[str, Limit]) -> dict[str, pa.Table]:
    columns = {"validation": ["user_id", "cutoff", "text", "label"]}
    columns["test"] = [*columns["validation"], *manifest["aggregates"]]
    if task == "propensity":
        pair_columns(manifest)  # refuses data that has none
        columns["test"].append("own")
    rows = {split: read_split(experiment.data_folder, split, limits[split], columns[split]) for split in SCORED}
    for split, table in rows.items():
        if not len(table) or table["label"].null_count:
            what = f"{table['label'].null_count:,} rows without a label" if len(table) else "no rows"
            path = experiment.data_folder / split_file(split)
            raise InputError(f"{path} has {what}", "run scripts/prepare.py again, or choose other cutoffs")
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


def _question(experiment: Experiment, manifest: Manifest, objective: Objective) -> dict:
    """What was asked."""
    task = objective.task
    return {
        "name": experiment.name,
        "task": task,
        "question": manifest["question"],
        "plain_question": plain_question(experiment.task),
        "label": manifest["label"],
        "horizon": experiment.task.label.horizon,
        "classes": None if task == "value" else list(objective.classes),
        "main": MAIN[task],
        "lower_is_better": MAIN[task] in LOWER_IS_BETTER,
    }


def _everyone(task: str, scored: _Scored, baselines: Baselines, learned: np.ndarray) -> dict[str, ScoredRows]:
    """Model and baselines on both splits; `learned` are the training labels."""
    deviation = float(learned.std()) if task == "value" else None
    popularity = learned.sum(axis=0) if task == "propensity" else None
    made = {}
    for split in SCORED:
        scores = {MODEL: scored.scores[split], **baselines.scores[split]}
        boosting = scores["pair_boosting" if task == "propensity" else "gradient_boosting"]
        scores[BLEND] = blend(task, scores[MODEL], boosting)
        made[split] = ScoredRows(task, scored.labels[split], scores, scored.users[split], deviation, popularity)
    return made


def _compared(
    settings: EvaluationConfig, rows: dict[str, pa.Table], scored: _Scored, everyone: dict[str, ScoredRows]
) -> dict:
    """What each of them is worth."""
    resamples = dict.fromkeys(SCORED, 0) | {"test": settings.bootstrap}
    metrics = {split: compare(everyone[split], resamples[split], scored.threshold) for split in SCORED}
    test = everyone["test"]
    if test.task == "propensity":
        had = column_array(rows["test"]["own"]) > 0
        for name, scores in test.scores.items():
            figures = metrics["test"] if name == MODEL else metrics["test"]["baselines"][name]
            figures |= repeat_and_new(test.labels, scores, had)
    return metrics


def _timeline(experiment: Experiment, manifest: Manifest) -> dict:
    """When the rows of each split are, and what is known of a user then: of one who is made up."""
    splits = manifest["splits"]
    shown, last = EventSerializer.from_pretrained(experiment.data_folder), splits["test"]["cutoffs"][-1]
    whom = Whom(experiment.task.members, experiment.task.at)
    return {
        "timeline": {split: {"rows": counts["rows"]} | times_of(counts) for split, counts in splits.items()},
        "made_up": made_up_user(shown, last, manifest["log"].get("has"), whom),
    }


def _verdict(experiment: Experiment, metrics: dict, scored: _Scored) -> str:
    """What the figures say, behind what makes them doubtful."""
    same = SAYS_THE_SAME if says_the_same(scored.scores["test"]) else ""
    few = FEW_LABELS.format(experiment.finetuning.labelled_users) if experiment.finetuning.labelled_users else ""
    return few + same + verdict(cast(Metrics, metrics))


def _looked_into(
    settings: EvaluationConfig,
    manifest: Manifest,
    rows: dict[str, pa.Table],
    groups: dict[str, list[str]],
    scored: _Scored,
    test: ScoredRows,
) -> dict:
    """What the test rows say of calibration, profit, single cutoffs and groups of users, and the curves."""
    fitted, threshold, resamples = scored.fitted, scored.threshold, settings.bootstrap
    profit = None
    if settings.costs and test.task == "binary":
        profit = profit_curve(test, **asdict(settings.costs), resamples=resamples, threshold=threshold)
    raw = np.mean([run["test"] for run in scored.raw], axis=0)
    cutoffs = rows["test"]["cutoff"].to_numpy()
    if moments := "most_per_user" in manifest["splits"]["test"]:
        cutoffs, groups = periods(cutoffs), history_groups(rows["test"]) | groups
    drawn = {name: scores for name, scores in test.scores.items() if name != BLEND}  # its curves hide behind others
    return {
        "calibration": {
            "method": settings.calibration,
            "temperature": fitted[0].temperature if len(fitted) == 1 else [how.temperature for how in fitted],
            "threshold": threshold,
            "threshold_by": settings.threshold if threshold is not None else None,
            "before": compute_metrics(test.task, test.labels, raw, **test.known),
        },
        "profit": profit,
        "contact": None if moments else contact(test, cutoffs, settings.budget, resamples),
        "by_cutoff": by_cutoff(test, cutoffs, resamples),
        "slices": {
            name: slice_metrics(test, values, threshold, settings.min_slice, resamples)
            for name, values in groups.items()
        },
        "curves": curves(test.task, manifest["classes"], test.labels, drawn),
    }


def _seeds(experiment: Experiment, scored: _Scored, test: ScoredRows) -> dict:
    """What each seed is worth alone, and a single one on average."""
    each = [run["test"] for run in scored.by_run]
    rivals = replace(test, scores={name: scores for name, scores in test.scores.items() if name != MODEL})
    return {
        "seeds": {
            str(seed): compute_metrics(test.task, test.labels, scores, **test.known)
            for seed, scores in zip(experiment.seeds, each, strict=True)
        },
        "single": over_seeds(rivals, each, experiment.evaluation.bootstrap),
    }


def _made(
    experiment: Experiment, manifest: Manifest, accelerator: Accelerator, baselines: Baselines, started: float
) -> dict:
    """When, how and of what the figures were made."""
    settings = experiment.evaluation
    return {
        "date": str(date.today()),
        "seconds": seconds_before(experiment) | {"evaluate": round(time.perf_counter() - started, 1)},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({platform.machine()})",
        "processes": accelerator.num_processes,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "seed": experiment.seeds or experiment.training["seed"],
        "bootstrap_resamples": settings.bootstrap,
        "evaluation": asdict(settings),
        "baseline_settings": baselines.settings,
        "content_hash": manifest["content_hash"],
        "log": manifest["log"],
    }


def check_evaluation(experiment: Experiment) -> None:
    """Refuse settings that the label has no use for, before any work."""
    settings, task = experiment.evaluation, Objective.of(experiment.task.label, []).task
    if task != "binary" and settings.costs:
        raise InputError(
            f"evaluation.costs are for labels of yes or no (absent, exists), not {task}",
            "leave them out",
            setting="evaluation.costs",
        )
    if task == "propensity" and settings.stack:
        raise InputError(
            "evaluation.stack is for single labels, not for propensity", "leave it out", setting="evaluation.stack"
        )
    check_method(settings.calibration, task)
    if settings.bootstrap > MOST_RESAMPLES:
        raise InputError(
            f"evaluation.bootstrap is {settings.bootstrap:,}",
            f"give at most {MOST_RESAMPLES:,}; 1,000 resamples do for 95 % intervals",
            setting="evaluation.bootstrap",
        )


def _score_run(
    experiment: Experiment, manifest: Manifest, limits: dict[str, Limit], accelerator: Accelerator
) -> dict[str, np.ndarray]:
    """The uncalibrated scores of one run's model for each split."""
    model, tokenizer = load_classifier(experiment.model_folder)
    read_settings(experiment.run_folder, CONFIGURED)  # the card shows it: refused now, not at the end
    log = read_training_log(experiment.run_folder, LOGGED)
    if log["content_hash"] != manifest["content_hash"]:
        raise InputError(
            f"{experiment.model_folder} was trained on other data than {experiment.data_folder} holds now",
            "run scripts/train.py with the same arguments first",
        )
    old, new = with_effect(read_trained_settings(experiment.run_folder)), weight_settings(experiment)
    other = next((key for key in old if key not in FREE_AFTER_TRAINING and old[key] != new.get(key)), None)
    if other:
        raise InputError(
            f"{experiment.model_folder} was trained with other settings ({other}: {old[other]})",
            "evaluate with the same ones, or run scripts/train.py again",
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
    for run, how, scores in zip(experiment.seed_runs(), fitted, by_run, strict=True):
        threshold = _threshold(settings, task, labels, scores["validation"])
        by = settings.threshold if threshold is not None else None
        Calibration(**asdict(how) | {"threshold": threshold, "threshold_by": by}).save(run.model_folder)


def _threshold(settings: EvaluationConfig, task: str, labels: np.ndarray, scores: np.ndarray) -> float | None:
    if task != "binary" or len(np.unique(labels)) < 2:
        return None
    costs = (settings.costs.contact, settings.costs.kept_customer) if settings.costs else ()
    return choose_threshold(settings.threshold, labels, scores, settings.budget, *costs)


def _lengths(experiment: Experiment, limits: dict[str, Limit]) -> dict[str, dict]:
    """How many tokens a text has, in bins of eight."""
    tokenizer = AutoTokenizer.from_pretrained(experiment.seed_runs()[0].model_folder, trust_remote_code=False)
    found = {}
    for split in ("train", "test"):
        lengths = tokens_of_split(tokenizer, experiment.data_folder, split, limits[split]).lengths
        found[split] = lengths[sampled(len(lengths), LENGTH_SAMPLE)]
    edges = np.arange(0, max(lengths.max() for lengths in found.values()) + 9, 8)
    return {split: {"edges": edges, "counts": np.histogram(lengths, edges)[0]} for split, lengths in found.items()}


def _write_predictions(folder: Path, rows: dict[str, pa.Table], everyone: dict[str, ScoredRows]) -> None:
    with replacing(folder) as made:
        for split, table in rows.items():
            columns = {key: table[key] for key in ("user_id", "cutoff", "label")}
            for name, values in everyone[split].scores.items():
                columns["score" if name == MODEL else name] = pa.array(values if values.ndim == 1 else list(values))
            pq.write_table(pa.table(columns), made / split_file(split))
