"""Training rows that weigh so much that a group and the label are independent.

Source: Kamiran and Calders, "Data preprocessing techniques for classification without discrimination", 2012, section
5.3 (reweighing): a row of group g and class y weighs P(g) P(y) / P(g, y).
"""

from collections.abc import Sequence

import numpy as np

from data_prep import InputError
from data_prep.prepared import read_split
from finetune.experiment.config import Experiment
from finetune.experiment.groups import row_groups
from finetune.model.objective import Objective

SETTING = "finetuning.reweigh"
LARGE = 10  # a weight above it lets few rows decide


def refuse_reweighing(experiment: Experiment) -> None:
    """InputError where finetuning.reweigh does not fit the label or another setting."""
    settings, task = experiment.finetuning, Objective.of(experiment.task.label, []).task
    if settings.reweigh is None:
        return
    if task not in ("binary", "tiers"):
        raise InputError(f"a {task} label has no classes to be independent of", "leave it out", setting=SETTING)
    if settings.teacher:
        raise InputError(
            f"{SETTING} has little effect beside a teacher, who has learned from rows that weigh the same",
            "set finetuning.teacher to 0",
            setting=SETTING,
        )


def reweighed(experiment: Experiment, objective: Objective, labels: np.ndarray) -> tuple[np.ndarray, dict]:
    """The training labels as each class's share of a row's weight, and what the training log says of the weights.

    Args:
        experiment: With finetuning.reweigh.
        objective: Of one of several classes.
        labels: Of the training rows, of shape (rows,).

    Returns:
        An array of shape (rows, classes), whose rows add up to their weights; and by and weights, of each group and
        class its rows and their weight.
    """
    sql = experiment.finetuning.reweigh
    assert sql is not None, "as it was asked for"
    rows = read_split(experiment.data_folder, "train", experiment.limits["train"], ["user_id", "cutoff"])
    groups = row_groups(experiment, rows, "train", {SETTING: sql})[SETTING]
    names, group = np.unique(np.array(groups, str), return_inverse=True)
    if len(names) < 2:
        raise InputError(
            f"{SETTING}: {sql} gives all {len(labels):,} training rows the group {names[0]}",
            "give an expression that tells groups apart",
            setting=SETTING,
        )
    counts, weights = independent_weights(group, labels, len(objective.classes))
    _say(sql, names.tolist(), objective.classes, counts, weights)
    found = [
        {"group": str(name), "class": of_class, "rows": int(counts[i, j]), "weight": float(weights[i, j])}
        for i, name in enumerate(names)
        for j, of_class in enumerate(objective.classes)
        if counts[i, j]
    ]
    return np.eye(len(objective.classes))[labels] * weights[group, labels][:, None], {"by": sql, "weights": found}


def independent_weights(group: np.ndarray, labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of each group and class, and what each of them weighs; both of shape (groups, classes).

    Args:
        group: The number of each row's group.
        labels: The class of each row.
        classes: How many there are.
    """
    counts = np.zeros((group.max() + 1, classes), np.int64)
    np.add.at(counts, (group, labels), 1)
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / len(group)
    return counts, np.divide(expected, counts, out=np.zeros(counts.shape), where=counts > 0)


def _say(sql: str, names: list[str], classes: Sequence[str], counts: np.ndarray, weights: np.ndarray) -> None:
    found = weights[counts > 0]
    print(f"reweighing: {len(names)} groups of {sql}; training rows weigh {found.min():.2f} to {found.max():.2f}")
    for name, of_group in zip(names, counts, strict=True):
        lacking = [of_class for of_class, rows in zip(classes, of_group, strict=True) if not rows]
        if lacking:
            print(f"warning: no training row of {name} is {lacking[0]}, so that its label stays dependent")
    if found.max() > LARGE:
        few = int(counts[weights > LARGE].sum())
        print(f"warning: {few:,} training rows weigh more than {LARGE} each; merge small groups in {SETTING}")
