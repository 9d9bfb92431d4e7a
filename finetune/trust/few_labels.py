"""What a recipe and boosting are worth where the labels of few users are known: trained anew, on the same test rows."""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_prep import InputError
from data_prep.facts import Manifest
from data_prep.prepared import column_array, prepared_for, read_split
from finetune.baselines.fit import feature_rows, fit_boosting
from finetune.experiment.config import Experiment, RunsConfig
from finetune.figures.measures import MODEL
from finetune.serving.classifier import EventClassifier
from finetune.training.pretrain import pretrain
from finetune.training.train import train
from finetune.trust.beside import BOOSTING, figures_beside, threshold_by
from finetune.trust.later import UNDAMAGED


def few_labels(experiment: Experiment, rows: pa.Table, labelled: Sequence[int]) -> dict:
    """A step for each number of users whose labels are known: model and boosting learn and choose by these alone.

    The pretraining of the run, which reads no label, serves all of them where it lies beside the run. Scores are not
    calibrated; each scorer has the threshold that its own validation rows choose.

    Args:
        experiment: The recipe, with its prepared data.
        rows: The test rows, with text, label and aggregates.
        labelled: Numbers of users.

    Raises:
        InputError: More users than there are, or labels that tell nothing; see `train`.
    """
    manifest = prepared_for(experiment.data_folder, experiment.task, experiment.text)
    if experiment.seeds:
        raise InputError("--labelled-users trains one model each", "leave seeds out", setting="seeds")
    steps = []
    with tempfile.TemporaryDirectory(prefix=".few-labels", dir=experiment.data_folder.parent) as folder:
        for users in sorted(set(labelled)):
            run = replace(
                experiment,
                runs=RunsConfig(str(Path(folder) / str(users))),
                finetuning=replace(experiment.finetuning, labelled_users=users),
                training=experiment.training | {"resume_from_checkpoint": None, "report_to": "none"},
            )
            figures = _figures(run, _trained(run, experiment), manifest, rows)
            steps.append({"step": f"{users:,} users"} | UNDAMAGED | figures)
    return {"name": "labelled_users", "title": "Only some users have labels", "clean": "last", "steps": steps}


def _trained(run: Experiment, experiment: Experiment) -> Path:
    if run.pretraining.max_steps:
        if experiment.pretrained_folder.is_dir():
            shutil.copytree(experiment.pretrained_folder, run.pretrained_folder)
        pretrain(run)  # nothing to do where it is of the same settings and data
    return train(run)[0]


def _figures(run: Experiment, model: Path, manifest: Manifest, rows: pa.Table) -> dict[str, Any]:
    names, settings = manifest["aggregates"], run.evaluation
    known = read_split(run.data_folder, "validation", run.limits["validation"], ["text", "label", *names])
    boosting, _ = fit_boosting(run.data_folder, manifest, run.limits)
    classifier, batch = EventClassifier.from_pretrained(model), run.training["per_device_eval_batch_size"]
    scores = [
        {
            MODEL: classifier.score(table["text"].to_pylist(), batch),
            BOOSTING: boosting.scores(feature_rows(table, names)),
        }
        for table in (known, rows)
    ]
    labels = column_array(known["label"])
    thresholds: dict[str, float | None] = {
        name: threshold_by(settings, settings.threshold, labels, values) for name, values in scores[0].items()
    }
    users = rows["user_id"].to_numpy()
    return figures_beside(column_array(rows["label"]), users, scores[1], thresholds, settings.bootstrap)
