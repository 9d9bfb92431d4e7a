"""A finished model on later cutoffs: its own words, calibration and threshold, and the baselines of its own time."""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data_prep import InputError
from data_prep.config import CutoffRange, DataConfig, Label, TaskConfig, settings_of
from data_prep.cutoffs import split_file
from data_prep.facts import Manifest
from data_prep.files import files_hash, replacing, write_whole
from data_prep.labels import label_horizons
from data_prep.later import SPLIT, Later, write_later
from data_prep.moments import parse_moment, show
from data_prep.prepared import MANIFEST, find_manifest, opened, read_split
from data_prep.serializer import SERIALIZER, EventSerializer
from finetune.evaluation.evaluate import check_evaluation
from finetune.evaluation.figures import SCORED, calibrated, measured, rows_to_score, write_predictions
from finetune.evaluation.group_thresholds import ByGroup
from finetune.evaluation.slices import slice_values
from finetune.experiment.config import Experiment, RunsConfig
from finetune.experiment.parser import parse_experiment
from finetune.figures.metrics_json import Metrics, without_nan
from finetune.model.calibration import Calibration
from finetune.model.inference import for_scoring, score_texts
from finetune.model.loading import load_classifier
from finetune.model.objective import Objective
from finetune.model.tokens import tokens_of_split
from finetune.runs import (
    BACKTESTS,
    CALIBRATION,
    LOGGED,
    METRICS,
    PREDICTIONS,
    SETTINGS,
    TRAINING_LOG,
    read_task,
    read_training_log,
    run_of,
)


def backtest(model: Path, newer: Experiment) -> tuple[Metrics, Path]:
    """Measure a finished model at the test cutoffs of a newer config, cutoff by cutoff.

    The model's serializer writes the texts, and its calibration and threshold count. The baselines are fitted anew on
    the rows that the run was trained on, tuned on its validation rows, and say what they would have said then. Of the
    newer config its log, its test cutoffs and its evaluation count; its label and population have to be the model's.

    Args:
        model: Its folder, runs/NAME/model; of a run with several seeds that of one of them.
        newer: The newer config.

    Returns:
        The content of metrics.json, and the folder that holds it, with predictions, in runs/NAME/backtests.

    Raises:
        InputError: A cutoff lies in the time that the model has seen, another question is asked, the run's prepared
            data is gone, or the log cannot be used.
    """
    started = time.perf_counter()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("evaluating with --model is one process", "leave accelerate launch out")
    base, part = run_of(model)
    if not (Path(model) / CALIBRATION).is_file():
        raise InputError(f"{model} was not evaluated yet", "run scripts/evaluate.py with its own --config first")
    check_evaluation(newer)
    refuse_other_question(model, newer.task)
    refuse_seen(model, newer.task)
    run, manifest = run_and_data(base, part)
    calibration = Calibration.load(model)
    settings = replace(newer.evaluation, calibration=calibration.method)
    if calibration.threshold_by is not None:
        settings = replace(settings, threshold=calibration.threshold_by)
    with _together(run, manifest, newer, model) as (folder, assembled, found):
        experiment = replace(
            run,
            name=base.name,
            part=part,
            seeds=[],
            data=replace(newer.data, folder=str(folder.parent)),
            runs=RunsConfig(str(base.parent)),
            evaluation=settings,
        )
        objective = Objective.of(run.task.label, manifest["classes"])
        rows = rows_to_score(experiment, assembled, objective.task)
        groups = slice_values(experiment, rows[SPLIT]) if settings.slices else {}
        raw = raw_scores(*load_classifier(Path(model)), folder, SCORED, experiment)
        scored = calibrated(objective.task, rows, [raw], [calibration], calibration.threshold)
        scored.by_group = _own_thresholds(calibration, groups)
        if settings.group_thresholds and scored.by_group is None:
            print(f"warning: {model} has no thresholds of groups of these slices, and none are chosen on later rows")
        metrics, everyone = measured(experiment, assembled, rows, groups, scored, 1)
        metrics["made"]["seconds"] = {"evaluate": round(time.perf_counter() - started, 1)}
        metrics = without_nan(metrics)
        output = base / part / BACKTESTS / _named(found.cutoffs)
        with replacing(output) as made:
            write_predictions(made / PREDICTIONS, rows, everyone)
            write_whole(made / METRICS, json.dumps(metrics, indent=1, allow_nan=False) + "\n")
            write_whole(made / SETTINGS, newer.resolved)
            shutil.copy(base / part / TRAINING_LOG, made / TRAINING_LOG)
    return cast(Metrics, metrics), output


def _own_thresholds(calibration: Calibration, groups: dict[str, list[str]]) -> ByGroup | None:
    """Those of single groups that the model was saved with; None where the groups are not known here."""
    by, equal = calibration.group_by, calibration.group_equal
    if not calibration.group_thresholds or by not in groups or equal is None:
        return None
    return ByGroup(by, equal, calibration.group_thresholds, {})


@dataclass(frozen=True)
class LaterScores:
    """A model's calibrated scores of the rows of a later time.

    Attributes:
        rows: user_id, cutoff, text, label and the aggregates, in the order of user and cutoff.
        scores: As `Objective.scores` has them, in this order.
        found: See `Later`.
        classes: What each column of the labels and scores of several classes is.
    """

    rows: pa.Table
    scores: np.ndarray
    found: Later
    classes: tuple[str, ...]


def score_later(model: Path, data: DataConfig, task: TaskConfig, labelled: bool = True) -> LaterScores:
    """Score the users of a task's test cutoffs with a finished model, whatever time that is.

    Args:
        model: Its folder.
        data: The log.
        task: Its label and population are the model's, see `refuse_other_question`.
        labelled: See `write_later`.
    """
    serializer, known = EventSerializer.from_pretrained(model), read_task(model)
    with tempfile.TemporaryDirectory(prefix=".later", dir=Path(model).absolute().parent) as temporary:
        folder = Path(temporary)
        classes = _classes(known["classes"], task)
        found = write_later(folder, data, task, serializer, classes, labelled, known.get("labels_from"))
        rows = read_split(folder, SPLIT, None, _columns(folder))
    rows = rows.sort_by([("user_id", "ascending"), ("cutoff", "ascending")]).combine_chunks()
    classifier, tokenizer = load_classifier(Path(model))
    scores = score_texts(for_scoring(classifier), tokenizer, rows["text"].to_pylist(), name="later rows")
    objective = Objective.of_model(classifier.config)
    scores = Calibration.load(Path(model)).apply(scores, objective.task)
    return LaterScores(rows, scores, found, objective.classes)


def refuse_other_question(model: Path, task: TaskConfig) -> None:
    """InputError where a task asks something else than the model was trained to say."""
    trained, asked = read_task(model)["task"], settings_of(task)
    for section in ("label", "population"):
        old, new = trained[section], asked[section]
        key = next((key for key in {**old, **new} if old.get(key) != new.get(key)), None)
        if key:
            raise InputError(
                f"task.{section}.{key} is {new.get(key)}, and {model} was trained with {old.get(key)}",
                "ask the model its own question",
                setting=f"task.{section}.{key}",
            )


def seen_until(model: Path) -> datetime:
    """The end of the last label window that a model's training or validation has looked at."""
    task = read_task(model)
    last = max(datetime.fromisoformat(task["splits"][split]["cutoffs"][-1]) for split in ("train", "validation"))
    return last + label_horizons(Label(**task["task"]["label"]), f"{model}: task.label")[-1]


def refuse_seen(model: Path, task: TaskConfig) -> None:
    """InputError where a test cutoff lies before the end of what a model has seen."""
    given, setting = task.cutoffs.test, "task.cutoffs.test"
    texts = [given.first] if isinstance(given, CutoffRange) else given
    first, seen = min((parse_moment(str(text), setting) for text in texts), default=None), seen_until(model)
    if first is not None and first < seen:
        raise InputError(
            f"the first test cutoff is {show(first)}, and {model} has seen labels up to {show(seen)}",
            "choose later cutoffs",
            setting=setting,
        )


def raw_scores(
    classifier: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    splits: Sequence[str],
    experiment: Experiment,
) -> dict[str, np.ndarray]:
    """The uncalibrated scores of some splits of prepared data."""
    scoring, batch = for_scoring(classifier), experiment.training["per_device_eval_batch_size"]
    tokens = {split: tokens_of_split(tokenizer, folder, split, experiment.limits[split]) for split in splits}
    return {split: score_texts(scoring, tokenizer, tokens[split], batch, split) for split in splits}


def run_and_data(base: Path, part: str = "") -> tuple[Experiment, Manifest]:
    """The experiment that a run was trained by, and the manifest of its prepared data.

    Args:
        base: The run's folder.
        part: Within it the folder of a seed.

    Raises:
        InputError: The data is not there as it was.
    """
    run = parse_experiment("", ["--config", str(base / SETTINGS)])
    manifest = find_manifest(run.data_folder)
    if manifest is None or manifest["content_hash"] != read_training_log(base / part, LOGGED)["content_hash"]:
        what = "holds no prepared data" if manifest is None else "holds other data now"
        raise InputError(
            f"{base} was trained on {run.data_folder}, which {what}",
            f"run scripts/prepare.py --config {base / SETTINGS} on the log of that time",
        )
    return run, manifest


@contextmanager
def _together(
    run: Experiment, manifest: Manifest, newer: Experiment, model: Path
) -> Iterator[tuple[Path, Manifest, Later]]:
    """A folder of prepared data whose training and validation rows are the run's, and whose test rows are later."""
    base, _ = run_of(model)
    with tempfile.TemporaryDirectory(prefix=".backtest", dir=base) as temporary:
        folder = Path(temporary) / base.name
        folder.mkdir()
        serializer, classes = EventSerializer.from_pretrained(model), _classes(manifest["classes"], run.task)
        learned = read_task(model).get("labels_from")
        found = write_later(folder, newer.data, newer.task, serializer, classes, learned=learned)
        for split in ("train", "validation"):
            (folder / split_file(split)).symlink_to((run.data_folder / split_file(split)).absolute())
        shutil.copy(Path(model) / SERIALIZER, folder / SERIALIZER)
        log = {"first": str(found.log.first), "last": str(found.log.last)}
        log |= {"events": found.log.events, "users": found.log.users, "rejected": found.log.rejected}
        assert found.facts is not None, "as the rows are labelled"
        assembled = cast(
            Manifest,
            manifest
            | {
                "splits": manifest["splits"] | {SPLIT: found.facts},
                "log": manifest["log"] | log,
                "content_hash": files_hash(folder.glob("*.parquet")),
            },
        )
        (folder / MANIFEST).write_text(json.dumps(assembled, default=str), encoding="utf-8")
        yield folder, assembled, found


def _classes(names: list[str] | None, task: TaskConfig) -> list[str] | None:
    """Those of a `which` label, which alone are learned."""
    return names if task.label.kind == "which" else None


def _columns(folder: Path) -> list[str]:
    return opened(folder, SPLIT).schema_arrow.names


def _named(cutoffs: list[datetime]) -> str:
    """The folder of a backtest, by its first and its last cutoff."""
    ends = [f"{moment:%Y-%m-%d}" for moment in (cutoffs[0], cutoffs[-1])]
    return "_".join(dict.fromkeys(ends))
