"""Predictions -> metrics with intervals, against the baselines on the same rows: runs/NAME/metrics.json."""

import json
import secrets
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
from finetune.experiment.config import EvaluationConfig, Experiment
from finetune.experiment.effects import FREE_AFTER_TRAINING, weight_settings, with_effect
from finetune.experiment.groups import row_groups
from finetune.figures.metrics import LISTS
from finetune.figures.metrics_json import Metrics, without_nan
from finetune.model.calibration import Calibration, check_method, choose_threshold
from finetune.model.inference import for_scoring, score_texts
from finetune.model.loading import load_classifier
from finetune.model.objective import Objective
from finetune.model.private_threshold import private_threshold
from finetune.model.tokens import tokens_of_split
from finetune.runs import (
    CONFIGURED,
    LOGGED,
    METRICS,
    PREDICTIONS,
    PRIVACY,
    read_settings,
    read_trained_settings,
    read_training_log,
    seed_column,
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
    thresholds = _thresholds(experiment, rows["validation"], task, validation, scored)
    scored.threshold = thresholds[0]
    _warn_of_nobody(experiment, scored)
    scored.by_group = _by_group(settings, validation, scored.scores["validation"], known, scored.threshold)
    metrics, everyone = measured(experiment, manifest, rows, groups, scored, accelerator.num_processes)
    by_seed = zip(experiment.seeds, scored.by_run, strict=bool(experiment.seeds))
    seeds = {seed_column(seed): run for seed, run in by_seed}
    write_predictions(experiment.run_folder / PREDICTIONS, rows, everyone, seeds)
    metrics["made"]["seconds"] |= {"evaluate": round(time.perf_counter() - started, 1)}
    metrics = without_nan(metrics)
    _save_calibration(experiment, fitted, thresholds, scored.by_run, validation, known)
    write_whole(experiment.run_folder / METRICS, json.dumps(metrics, indent=1, allow_nan=False) + "\n")
    accelerator.wait_for_everyone()
    return cast(Metrics, metrics)


def _warn_of_nobody(experiment: Experiment, scored: Scored) -> None:
    if scored.threshold is not None and scored.threshold > scored.scores["validation"].max():
        shared = "more rows than the budget share the highest score"
        why = "no contact pays" if experiment.evaluation.threshold == "money" else shared
        if experiment.finetuning.privacy:
            why = "the threshold was drawn with noise, which is large where users are few"
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
    if experiment.finetuning.privacy:
        _check_private(settings)
    if settings.bootstrap > MOST_RESAMPLES:
        raise InputError(
            f"evaluation.bootstrap is {settings.bootstrap:,}",
            f"give at most {MOST_RESAMPLES:,}; 1,000 resamples do for 95 % intervals",
            setting="evaluation.bootstrap",
        )


def _check_private(settings: EvaluationConfig) -> None:
    """Refuse what validation rows would choose without noise, and what would then be published with the model."""
    for setting, given, only in (
        ("evaluation.calibration", settings.calibration, "none"),
        ("evaluation.threshold", settings.threshold, "budget"),
        ("evaluation.group_thresholds", settings.group_thresholds, None),
    ):
        if given != only:
            raise InputError(
                f"finetuning.privacy does not hold with {setting}, as validation rows choose it without noise",
                "leave it out" if only is None else f"leave it at {only}",
                setting=setting,
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
    fitted: list[Calibration],
    thresholds: list[float | None],
    by_run: list[dict],
    labels: np.ndarray,
    groups: list[str],
) -> None:
    """Beside each model its own calibration and thresholds, as each of them scores by itself too."""
    settings = experiment.evaluation
    for run, how, threshold, scores in zip(experiment.seed_runs(), fitted, thresholds, by_run, strict=True):
        by = settings.threshold if threshold is not None else None
        own = {}
        if groups and threshold is not None:
            own = choose_by_group(settings, labels, scores["validation"], groups, threshold).saved
        Calibration(**asdict(how) | {"threshold": threshold, "threshold_by": by} | own).save(run.model_folder)


def _thresholds(
    experiment: Experiment, rows: pa.Table, task: str, labels: np.ndarray, scored: Scored
) -> list[float | None]:
    """That of each run."""
    if experiment.finetuning.privacy:
        chosen = _private_threshold(experiment, rows, scored.scores["validation"]) if task == "binary" else None
        return [chosen]  # there is one run
    return [_threshold(experiment.evaluation, task, labels, of["validation"]) for of in scored.by_run]


def _private_threshold(experiment: Experiment, rows: pa.Table, scores: np.ndarray) -> float | None:
    """Drawn once for a model, of the newest row of each user: another draw would cost epsilon anew."""
    (run,) = experiment.seed_runs()
    spent = read_training_log(run.run_folder, {"privacy": PRIVACY})["privacy"].get("threshold_epsilon")
    kept = Calibration.load(run.model_folder).threshold
    if kept is not None:
        print(f"the threshold stays at {kept:.4f}: another draw would cost epsilon anew; train again to change it")
        return kept
    if not spent or experiment.limits["validation"] is not None:
        why = "no part of epsilon is left for one" if not spent else "finetuning.max_eval_examples draws rows over all"
        print(f"no threshold is chosen, as {why}")
        return None
    newest = rows.append_column("place", pa.array(np.arange(len(rows)))).sort_by("cutoff")
    users, places = newest["user_id"].to_numpy()[::-1], newest["place"].to_numpy()[::-1]
    places = places[np.unique(users, return_index=True)[1]]
    random = np.random.default_rng(secrets.randbits(128))
    return private_threshold(scores[places], experiment.evaluation.budget, spent, random)


def _threshold(settings: EvaluationConfig, task: str, labels: np.ndarray, scores: np.ndarray) -> float | None:
    if task != "binary" or len(np.unique(labels)) < 2:
        return None
    costs = (settings.costs.contact, settings.costs.kept_customer) if settings.costs else ()
    return choose_threshold(settings.threshold, labels, scores, settings.budget, *costs)
