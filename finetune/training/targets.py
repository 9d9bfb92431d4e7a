"""What is learned: labels on their scale, beside what a teacher says of them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainingArguments

from data_prep import InputError
from data_prep.facts import Manifest
from finetune.experiment.config import Experiment
from finetune.model.objective import Objective, Scale
from finetune.training.members import taught_by_members
from finetune.training.reweighing import reweighed
from finetune.training.teacher import taught
from finetune.training.teacher_model import taught_by_model


def targets(
    experiment: Experiment,
    arguments: TrainingArguments,
    manifest: Manifest,
    objective: Objective,
    labels: dict[str, np.ndarray],
    members: Sequence[Path],
) -> tuple[dict[str, np.ndarray], Scale | None, dict[str, Any]]:
    """The labels as they are learned: values on their scale, those of training by their weights or beside what the
    teacher says; and what the training log says of the weights."""
    settings, said, known, scale, facts = experiment.finetuning, None, None, None, {}
    of_all = labels["train"]
    if settings.reweigh is not None:
        with arguments.main_process_first(local=False):
            made, weights = reweighed(experiment, objective, labels["train"])
        labels, facts = labels | {"train": made}, {"reweigh": weights}
    if settings.teacher:
        with arguments.main_process_first(local=False):
            limit = experiment.limits["train"]
            if members:
                of_all, known, said = taught_by_members(experiment, objective, members)
                facts = {"unlabelled": int(np.count_nonzero(~known))}
            elif settings.teacher_model is not None:
                said = taught_by_model(Path(settings.teacher_model), experiment.data_folder, limit)
            else:
                said = taught(experiment.data_folder, manifest, objective, limit, settings.value_loss)
    if objective.task == "value":
        root = settings.value_loss == "absolute_error" and not settings.log_scale
        scale, given = Scale.fit(labels["train"], settings.log_scale, root), settings.value_scale
        scale = scale if given is None else replace(scale, mean=given.mean, deviation=given.deviation)
        of_all = scale.learned(of_all)
        labels = {split: scale.learned(values) for split, values in labels.items()}
        said = None if said is None else scale.learned(said)
    if said is not None:
        labels = labels | {"train": objective.taught(of_all, said, known)}
    return labels, scale, facts


def refuse_few_labels(objective: Objective, labels: dict[str, np.ndarray], users: int) -> None:
    """InputError where the labels of so few users leave nothing to tell apart, or nothing to choose by."""
    for split, known in labels.items():
        one = objective.task == "binary" and len(set(known)) == 1
        if not len(known) or one:
            found = f"all {len(known):,} are {known[0]}" if one else "there is none"
            raise InputError(
                f"finetuning.labelled_users {users:,}: of these users' {split} labels {found}",
                "raise it, or draw others with finetuning.labelled_draw",
                setting="finetuning.labelled_users",
            )


def refuse_one_class(objective: Objective, labels: np.ndarray, best: str | None) -> None:
    """InputError where validation labels are all the same, so that no ranking tells the best checkpoint."""
    if best in ("auroc", "average_precision") and objective.task == "binary" and len(set(labels)) < 2:
        raise InputError(
            f"all {len(labels):,} validation labels are {labels[0]}: no {best} tells the best checkpoint",
            "choose another validation cutoff, or training.metric_for_best_model log_loss",
        )
