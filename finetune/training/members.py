"""Several models that are trained first and teach the run's own together, which then scores as their mean does.

With few labels two trainings can differ by as much as the text brings, and the mean of several is steadier. One model
can learn it, from more texts than have labels: Hinton et al., Distilling the Knowledge in a Neural Network, 2015; Xie
et al., Self-training with Noisy Student, 2020.
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from data_prep import InputError
from data_prep.files import replacing
from data_prep.prepared import Labelled, column_array, labelled_users, read_split
from finetune.experiment.config import Experiment, FinetuningConfig
from finetune.model.objective import Objective
from finetune.runs import MEMBERS
from finetune.training.teacher import SCORES, mixed
from finetune.training.teacher_model import taught_by_model

SETTING = "finetuning.members"
SAID = "said"  # in their folder: what they say on average
SEED_STEP = 7919  # between the seeds of members; runs whose seeds are nearer than that have none in common
READINGS = 2  # of each labelled row in the training of a member, which has
FEWEST_STEPS = 120  # at least


def refuse_members(settings: FinetuningConfig) -> None:
    """InputError where finetuning.members does not fit another setting."""
    if settings.members and not settings.teacher:
        raise InputError(f"{SETTING} without finetuning.teacher", "say their share, such as 0.7", setting=SETTING)
    if settings.members and settings.teacher_model is not None:
        raise InputError(f"{SETTING} and finetuning.teacher_model would both teach", "drop one", setting=SETTING)


def member_runs(run: Experiment, once: int) -> list[Experiment]:
    """The trainings of the members of a run, in folders within its own.

    Each keeps its last weights, as few validation rows would choose a checkpoint by chance. It has as many steps as
    read each labelled row READINGS times, FEWEST_STEPS at least, and no more than training.max_steps where that is
    given; the warm-up is as long in proportion. No tracker is told of it, and it continues by itself.

    Args:
        run: One seed's.
        once: How many steps read each training row that has a label once.
    """
    training = run.training | {"load_best_model_at_end": False, "report_to": "none", "resume_from_checkpoint": None}
    if (most := training["max_steps"]) > 0:
        training["max_steps"] = min(most, max(FEWEST_STEPS, READINGS * once))
        if training["warmup_steps"] >= 1:  # less than that is a share of the steps
            training["warmup_steps"] = int(training["warmup_steps"]) * training["max_steps"] // most
    return [
        replace(
            run,
            finetuning=replace(run.finetuning, members=0),
            training=training | {"seed": (run.training["seed"] + SEED_STEP * number) % 2**32},
            part=str(Path(run.part) / MEMBERS / str(number)),
            teaches=True,
        )
        for number in range(1, run.finetuning.members + 1)
    ]


def forget_members(run: Experiment) -> None:
    """Delete what a model that has been trained was taught by; renamed first, so that a kill leaves no half of it."""
    folder = run.run_folder / MEMBERS
    gone = folder.with_name(f".{MEMBERS}")
    shutil.rmtree(gone, ignore_errors=True)
    if folder.is_dir():
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def forget_said(run: Experiment) -> None:
    """Delete what earlier members said."""
    shutil.rmtree(run.run_folder / MEMBERS / SAID, ignore_errors=True)


def taught_by_members(
    experiment: Experiment, objective: Objective, models: Sequence[Path]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All training rows, those without a label (finetuning.labelled_users), too; of all rows, and not of those with a
    label, finetuning.max_train_examples are drawn.

    Args:
        experiment: The settings.
        objective: The task.
        models: The members' folders.

    Returns:
        Labels of shape (rows,) or (rows, classes); which rows have a label that may be learned from, of shape (rows,);
        and the mean of what the members say, as `Objective.scores` has it.
    """
    folder, settings = experiment.data_folder, experiment.finetuning
    table = read_split(folder, "train", settings.max_train_examples, ["user_id", "label"])
    labels, known = column_array(table["label"]), np.ones(len(table), bool)
    if isinstance(limit := experiment.limits["train"], Labelled):
        known = pc.is_in(table["user_id"], labelled_users(folder, limit)).to_numpy()  # pyright: ignore[reportAttributeAccessIssue]  # pyarrow makes it at run time
    kept = experiment.run_folder / MEMBERS / SAID
    if not kept.is_dir():
        count = np.count_nonzero(known)
        print(f"members that teach: {len(models)}, on {len(table):,} texts, {count:,} of which have a label")
        said = [taught_by_model(model, folder, settings.max_train_examples) for model in models]
        made = mixed(objective, said, [1.0] * len(said))
        with replacing(kept) as unfinished:
            np.save(unfinished / SCORES, made)
    return labels, known, np.load(kept / SCORES)
