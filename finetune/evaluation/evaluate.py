"""Predictions -> metrics with intervals, against the baselines on the same rows: runs/NAME/metrics.json."""

import json
import time
from dataclasses import asdict
from typing import cast

import numpy as np
import pyarrow as pa
import torch
from accelerate import Accelerator

from data_prep import InputError
from data_prep.facts import Manifest
from data_prep.files import write_whole
from data_prep.prepared import Limit, prepared_for
from finetune.config import EvaluationConfig, Experiment
from finetune.effects import FREE_AFTER_TRAINING, weight_settings, with_effect
from finetune.evaluation.figures import (
    SCORED,
    Scored,
    calibrated,
    labels_of,
    measured,
    rows_to_score,
    write_predictions,
)
from finetune.evaluation.group_thresholds import ByGroup, choose_by_group
from finetune.evaluation.slices import SLICES, slice_values
from finetune.groups import row_groups
from finetune.metrics import LISTS
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

MOST_RESAMPLES = 100_000


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
    rows = rows_to_score(experiment, manifest, task)
    groups, known = {}, []
    if settings.slices and accelerator.is_main_process:  # first, as they may be refused
        groups = slice_values(experiment, rows["test"])
        known = _validation_groups(experiment, rows["validation"])
    raw = [_score_run(run, manifest, limits, accelerator) for run in experiment.seed_runs()]
    if not accelerator.is_main_process:
        accelerator.wait_for_everyone()
        return None
    validation = labels_of(rows)["validation"]
    fitted = [Calibration.fit(settings.calibration, task, validation, run["validation"]) for run in raw]
    scored = calibrated(task, rows, raw, fitted)
    scored.threshold = _threshold(settings, task, validation, scored.scores["validation"])
    _warn_of_nobody(settings, scored)
    scored.by_group = _by_group(settings, validation, scored.scores["validation"], known, scored.threshold)
    metrics, everyone = measured(experiment, manifest, rows, groups, scored, accelerator.num_processes)
    write_predictions(experiment.run_folder / PREDICTIONS, rows, everyone)
    metrics["made"]["seconds"] |= {"evaluate": round(time.perf_counter() - started, 1)}
    metrics = without_nan(metrics)
    _save_calibration(experiment, task, fitted, scored.by_run, validation, known)
    write_whole(experiment.run_folder / METRICS, json.dumps(metrics, indent=1, allow_nan=False) + "\n")
    accelerator.wait_for_everyone()
    return cast(Metrics, metrics)


def _warn_of_nobody(settings: EvaluationConfig, scored: Scored) -> None:
    if scored.threshold is not None and scored.threshold > scored.scores["validation"].max():
        shared = "more rows than the budget share the highest score"
        why = "no contact pays" if settings.threshold == "money" else shared
        print(f"warning: no row counts as positive, as {why}")


def _validation_groups(experiment: Experiment, rows: pa.Table) -> list[str]:
    """The group of each validation row, where groups are to have thresholds of their own."""
    asked = experiment.evaluation.group_thresholds
    if asked is None:
        return []
    setting = f"{SLICES}.{asked.by}"
    return row_groups(experiment, rows, "validation", {setting: experiment.evaluation.slices[asked.by]})[setting]


def _by_group(
    settings: EvaluationConfig, labels: np.ndarray, scores: np.ndarray, groups: list[str], threshold: float | None
) -> ByGroup | None:
    if settings.group_thresholds is None:
        return None
    if threshold is None:
        print("warning: evaluation.group_thresholds has no effect, as all validation labels are the same")
        return None
    chosen = choose_by_group(settings, labels, scores, groups, threshold)
    for group, why in chosen.common.items():
        print(f"group thresholds: {chosen.by} {group} keeps the one threshold: {why}")
    if not chosen.thresholds:
        print(f"warning: no two groups of {chosen.by} can have thresholds of their own; all keep the one threshold")
    return chosen


def check_evaluation(experiment: Experiment) -> None:
    """Refuse settings that the label has no use for, before any work."""
    settings, task = experiment.evaluation, Objective.of(experiment.task.label, []).task
    if asked := settings.group_thresholds:
        _check_group_thresholds(asked.by, list(settings.slices), task)
    if task != "binary" and settings.costs:
        raise InputError(
            f"evaluation.costs are for labels of yes or no (absent, exists), not {task}",
            "leave them out",
            setting="evaluation.costs",
        )
    if task in LISTS and settings.stack:
        raise InputError(
            f"evaluation.stack is for single labels, not for {task}", "leave it out", setting="evaluation.stack"
        )
    check_method(settings.calibration, task)
    if settings.bootstrap > MOST_RESAMPLES:
        raise InputError(
            f"evaluation.bootstrap is {settings.bootstrap:,}",
            f"give at most {MOST_RESAMPLES:,}; 1,000 resamples do for 95 % intervals",
            setting="evaluation.bootstrap",
        )


def _check_group_thresholds(by: str, slices: list[str], task: str) -> None:
    if task != "binary":
        raise InputError(
            f"evaluation.group_thresholds are for labels of yes or no (absent, exists), not {task}",
            "leave them out",
            setting="evaluation.group_thresholds",
        )
    if by not in slices:
        known = f"give one of {', '.join(slices)}" if slices else "name the groups in evaluation.slices first"
        raise InputError(
            f"evaluation.group_thresholds.by is {by}, and that is none of evaluation.slices",
            known,
            setting="evaluation.group_thresholds.by",
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
    experiment: Experiment,
    task: str,
    fitted: list[Calibration],
    by_run: list[dict],
    labels: np.ndarray,
    groups: list[str],
) -> None:
    """Beside each model its own calibration and thresholds, as each of them scores by itself too."""
    settings = experiment.evaluation
    for run, how, scores in zip(experiment.seed_runs(), fitted, by_run, strict=True):
        threshold = _threshold(settings, task, labels, scores["validation"])
        by = settings.threshold if threshold is not None else None
        own = {}
        if groups and threshold is not None:
            own = choose_by_group(settings, labels, scores["validation"], groups, threshold).saved
        Calibration(**asdict(how) | {"threshold": threshold, "threshold_by": by} | own).save(run.model_folder)


def _threshold(settings: EvaluationConfig, task: str, labels: np.ndarray, scores: np.ndarray) -> float | None:
    if task != "binary" or len(np.unique(labels)) < 2:
        return None
    costs = (settings.costs.contact, settings.costs.kept_customer) if settings.costs else ()
    return choose_threshold(settings.threshold, labels, scores, settings.budget, *costs)
