"""Scored rows -> what metrics.json says of them, beside the baselines on the same rows."""

import importlib.metadata
import platform
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import AutoTokenizer

from data_prep import InputError
from data_prep.cutoffs import split_file
from data_prep.facts import Manifest
from data_prep.files import replacing
from data_prep.given_examples import own_labels
from data_prep.made_up import made_up_user
from data_prep.moments import in_words
from data_prep.population import Whom
from data_prep.prepared import Limit, column_array, read_split, sampled
from data_prep.serializer import EventSerializer
from data_prep.task import plain_question
from finetune.baselines.fit import Baselines, score_baselines
from finetune.baselines.pairs import pair_columns
from finetune.evaluation.contact import contact
from finetune.evaluation.curves import curves, seconds_before, training
from finetune.evaluation.drift import drift
from finetune.evaluation.group_thresholds import ByGroup, thresholds_by_group
from finetune.evaluation.periods import history_groups, in_order, periods, times_of
from finetune.evaluation.profit import profit_curve
from finetune.evaluation.rows import ScoredRows
from finetune.evaluation.scorers import blend, boosting_of, compare, over_seeds
from finetune.evaluation.slices import by_cutoff, slice_metrics
from finetune.evaluation.verdict import says_the_same, verdict
from finetune.experiment.config import EvaluationConfig, Experiment
from finetune.figures.measures import BLEND, LOWER_IS_BETTER, MAIN, MEAN_OF_SEEDS, MODEL, UNDRAWN
from finetune.figures.metrics import compute_metrics
from finetune.figures.metrics_json import Metrics
from finetune.model.calibration import Calibration
from finetune.model.objective import Objective
from finetune.model.tokens import tokens_of_split
from finetune.wording import same_of_everyone

SCORED = ("validation", "test")
FEW_LABELS = "Model and baselines learned from the labels of {:,} users alone."
LENGTH_SAMPLE = 20_000  # texts of each split whose tokens are counted
PACKAGES = ("torch", "transformers", "datasets", "accelerate", "peft", "scikit-learn", "duckdb", "numpy")


@dataclass
class Scored:
    """The scores of validation and test; each mapping is by these splits.

    Attributes:
        labels: Of each row.
        users: Whose each row is.
        raw: The scores of each run as its model gives them.
        fitted: The calibration of each run.
        by_run: The calibrated scores of each run.
        threshold: From which on a row counts as positive, if one was asked for; of the first run.
        by_group: The thresholds of single groups, if they were asked for; of the first run.
    """

    labels: dict[str, np.ndarray]
    users: dict[str, np.ndarray]
    raw: list[dict[str, np.ndarray]]
    fitted: list[Calibration]
    by_run: list[dict[str, np.ndarray]]
    threshold: float | None
    by_group: ByGroup | None = None

    @property
    def scores(self) -> dict[str, np.ndarray]:
        """Those of the first run, whose model is the one that is used."""
        return self.by_run[0]


def rows_to_score(experiment: Experiment, manifest: Manifest, task: str) -> dict[str, pa.Table]:
    """The rows of validation and test, with their labels and what is measured of them.

    Raises:
        InputError: There is none, or one without a label.
    """
    limits = experiment.limits
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


def calibrated(
    task: str,
    rows: dict[str, pa.Table],
    raw: list[dict[str, np.ndarray]],
    fitted: list[Calibration],
    threshold: float | None = None,
) -> Scored:
    """The scores of each run's model by its calibration.

    Args:
        task: See `finetune.model.objective.Objective`.
        rows: By `rows_to_score`.
        raw: Of each run the scores of both splits as the model gives them.
        fitted: The calibration of each run.
        threshold: From which on a row counts as positive.
    """
    labels, users = labels_of(rows), {split: table["user_id"].to_numpy() for split, table in rows.items()}
    by_run = [{split: how.apply(run[split], task) for split in SCORED} for how, run in zip(fitted, raw, strict=True)]
    return Scored(labels, users, raw, fitted, by_run, threshold)


def labels_of(rows: dict[str, pa.Table]) -> dict[str, np.ndarray]:
    """The labels of each split, of shape (rows,) or (rows, classes)."""
    return {split: column_array(table["label"]) for split, table in rows.items()}


def measured(
    experiment: Experiment,
    manifest: Manifest,
    rows: dict[str, pa.Table],
    groups: dict[str, list[str]],
    scored: Scored,
    processes: int,
) -> tuple[dict, dict[str, ScoredRows]]:
    """The content of metrics.json, and the rows of both splits with the scores of model and baselines.

    The baselines are fitted on the training rows of the experiment's data, and tuned on its validation rows.

    Args:
        experiment: Its data, its run, and its settings of the evaluation.
        manifest: Of the data.
        rows: By `rows_to_score`.
        groups: Slice -> the group of each test row.
        scored: By `calibrated`.
        processes: That scored them.
    """
    objective = Objective.of(experiment.task.label, manifest["classes"])
    task, settings, limits = objective.task, experiment.evaluation, experiment.limits
    stacked = scored.scores if settings.stack else None
    baselines = score_baselines(experiment.data_folder, manifest, limits, model_scores=stacked)
    train = read_split(experiment.data_folder, "train", limits["train"], ["text", "label", *manifest["aggregates"]])
    everyone = _everyone(objective, rows, scored, baselines, column_array(train["label"]))
    resamples = dict.fromkeys(SCORED, 0) | {"test": settings.bootstrap}
    metrics = _question(experiment, manifest, objective)
    metrics |= {split: compare(everyone[split], resamples[split], scored.threshold) for split in SCORED}
    if experiment.seeds:
        metrics |= _seeds(experiment, scored, everyone)
    for split in SCORED:
        metrics[split] |= times_of(manifest["splits"][split])
    metrics |= _timeline(experiment, manifest)
    metrics |= _verdict(experiment, metrics, scored)
    metrics |= _looked_into(settings, manifest, rows, groups, scored, everyone["test"])
    metrics["training"] = training(experiment, MAIN[task])
    metrics["drift"] = drift(train, rows["test"], manifest["aggregates"])
    metrics["lengths"] = _lengths(experiment, limits)
    metrics["made"] = _made(experiment, manifest, processes, baselines)
    metrics["made"]["splits"] = {"train": len(train)} | {split: len(table) for split, table in rows.items()}
    return metrics, everyone


def _question(experiment: Experiment, manifest: Manifest, objective: Objective) -> dict:
    """What was asked."""
    task = objective.task
    return {
        "name": experiment.name,
        "task": task,
        "question": manifest["question"],
        "plain_question": plain_question(experiment.task, own_labels(manifest)),
        "labels_from": manifest.get("labels_from"),
        "label": manifest["label"],
        "horizon": in_words(experiment.task.label.window),
        "classes": None if task == "value" else list(objective.classes),
        "main": MAIN[task],
        "lower_is_better": MAIN[task] in LOWER_IS_BETTER,
    }


def _everyone(
    objective: Objective, rows: dict[str, pa.Table], scored: Scored, baselines: Baselines, learned: np.ndarray
) -> dict[str, ScoredRows]:
    """Model and baselines on both splits; `learned` are the training labels."""
    task = objective.task
    deviation = float(learned.std()) if task == "value" else None
    popularity = learned.sum(axis=0) if task == "propensity" else None
    made = {}
    for split in SCORED:
        scores = {MODEL: scored.scores[split], **baselines.scores[split]}
        scores[BLEND] = blend(task, scores[MODEL], boosting_of(task, scores))
        if len(scored.by_run) > 1:
            scores[MEAN_OF_SEEDS] = np.mean([run[split] for run in scored.by_run], axis=0)
        labels, users = scored.labels[split], scored.users[split]
        had = column_array(rows[split]["own"]) > 0 if "own" in rows[split].column_names else None
        made[split] = ScoredRows(task, labels, scores, users, deviation, popularity, **objective.known, had=had)
    return made


def _timeline(experiment: Experiment, manifest: Manifest) -> dict:
    """When the rows of each split are, and what is known of a user then: of one who is made up."""
    splits = manifest["splits"]
    shown, last = EventSerializer.from_pretrained(experiment.data_folder), splits["test"]["cutoffs"][-1]
    whom = Whom(experiment.task.members, experiment.task.at)
    return {
        "timeline": {split: {"rows": counts["rows"]} | times_of(counts) for split, counts in splits.items()},
        "made_up": made_up_user(shown, last, manifest["log"].get("has"), whom),
    }


def _verdict(experiment: Experiment, metrics: dict, scored: Scored) -> dict:
    """What the figures say, behind what makes them doubtful."""
    seeds = experiment.seeds or [experiment.training["seed"]]
    collapsed = [seed for seed, run in zip(seeds, scored.by_run, strict=True) if says_the_same(run["test"])]
    labelled = experiment.finetuning.labelled_users
    few = FEW_LABELS.format(labelled) if labelled else ""
    said = filter(None, [few, same_of_everyone(collapsed, len(seeds)), verdict(cast(Metrics, metrics))])
    return {"collapsed": collapsed, "verdict": " ".join(said)}


def _looked_into(
    settings: EvaluationConfig,
    manifest: Manifest,
    rows: dict[str, pa.Table],
    groups: dict[str, list[str]],
    scored: Scored,
    test: ScoredRows,
) -> dict:
    """What the test rows say of calibration, profit, single cutoffs and groups of users, and the curves."""
    fitted, threshold, resamples = scored.fitted, scored.threshold, settings.bootstrap
    profit = None
    if settings.costs and test.task == "binary":
        profit = profit_curve(test, **asdict(settings.costs), resamples=resamples, threshold=threshold)
    cutoffs = rows["test"]["cutoff"].to_numpy()
    if moments := "most_per_user" in manifest["splits"]["test"]:
        cutoffs, groups = periods(cutoffs), history_groups(rows["test"]) | groups
    slices = {
        name: slice_metrics(test, values, threshold, settings.min_slice, resamples) for name, values in groups.items()
    }
    drawn = {name: scores for name, scores in test.scores.items() if name not in UNDRAWN}
    return {
        "calibration": {
            "method": settings.calibration,
            "temperature": fitted[0].temperature if len(fitted) == 1 else [how.temperature for how in fitted],
            "threshold": threshold,
            "threshold_by": settings.threshold if threshold is not None else None,
            "before": compute_metrics(test.task, test.labels, scored.raw[0]["test"], **test.known),
        },
        "profit": profit,
        "contact": None if moments else contact(test, cutoffs, settings.budget, resamples),
        "by_cutoff": by_cutoff(test, cutoffs, resamples),
        "group_thresholds": _group_thresholds(settings, groups, scored, test),
        "slices": in_order(slices) if moments else slices,
        "curves": curves(test.task, manifest["classes"], test.labels, drawn),
    }


def _group_thresholds(
    settings: EvaluationConfig, groups: dict[str, list[str]], scored: Scored, test: ScoredRows
) -> dict | None:
    """What thresholds of single groups do; None where there is none."""
    chosen = scored.by_group
    if chosen is None or not chosen.thresholds or scored.threshold is None:
        return None
    return thresholds_by_group(test, groups[chosen.by], chosen, scored.threshold, settings)


def _seeds(experiment: Experiment, scored: Scored, everyone: dict[str, ScoredRows]) -> dict:
    """What each seed is worth alone, and where there are several a single one."""
    test, each = everyone["test"], [run["test"] for run in scored.by_run]
    found: dict = {
        "seeds": {str(seed): test.figures(scores) for seed, scores in zip(experiment.seeds, each, strict=True)}
    }
    if len(each) > 1:
        found["single"] = over_seeds(test, each, experiment.evaluation.bootstrap, scored.threshold)
        chosen = [everyone["validation"].figures(run["validation"])[MAIN[test.task]] for run in scored.by_run]
        found["single"]["validation"] = float(np.mean(chosen))
    return found


def _made(experiment: Experiment, manifest: Manifest, processes: int, baselines: Baselines) -> dict:
    """When, how and of what the figures were made."""
    settings = experiment.evaluation
    return {
        "date": str(date.today()),
        "seconds": seconds_before(experiment),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({platform.machine()})",
        "processes": processes,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "seed": experiment.seeds or experiment.training["seed"],
        "bootstrap_resamples": settings.bootstrap,
        "evaluation": asdict(settings),
        "baseline_settings": baselines.settings,
        "content_hash": manifest["content_hash"],
        "log": manifest["log"],
    }


def _lengths(experiment: Experiment, limits: dict[str, Limit]) -> dict[str, dict]:
    """How many tokens a text has, in bins of eight."""
    tokenizer = AutoTokenizer.from_pretrained(experiment.seed_runs()[0].model_folder, trust_remote_code=False)
    found = {}
    for split in ("train", "test"):
        lengths = tokens_of_split(tokenizer, experiment.data_folder, split, limits[split]).lengths
        found[split] = lengths[sampled(len(lengths), LENGTH_SAMPLE)]
    edges = np.arange(0, max(lengths.max() for lengths in found.values()) + 9, 8)
    return {split: {"edges": edges, "counts": np.histogram(lengths, edges)[0]} for split, lengths in found.items()}


def write_predictions(
    folder: Path,
    rows: dict[str, pa.Table],
    everyone: dict[str, ScoredRows],
    seeds: dict[str, dict[str, np.ndarray]] | None = None,
) -> None:
    """Write user_id, cutoff, label and every score of each split into a folder, as a whole.

    Args:
        folder: Where to.
        rows: Of each split.
        everyone: The rows with their scores.
        seeds: Column -> the scores of each split that the model of a seed gives.
    """
    with replacing(folder) as made:
        for split, table in rows.items():
            columns = {key: table[key] for key in ("user_id", "cutoff", "label")}
            for name, values in everyone[split].scores.items():
                columns["score" if name == MODEL else name] = _column(values)
            columns |= {name: _column(of[split]) for name, of in (seeds or {}).items()}
            pq.write_table(pa.table(columns), made / split_file(split))


def _column(scores: np.ndarray) -> pa.Array:
    return pa.array(scores if scores.ndim == 1 else list(scores))
