"""DP-SGD whose unit is the user: how much noise, who takes part in a step, and what a user may move.

Each step draws every user of the training rows with the same probability, by a coin of its own (Poisson sampling). The
gradient of the mean loss of at most `examples` of the user's rows is clipped to `clip`; the gradients of all drawn
users are summed, Gaussian noise of standard deviation noise_multiplier * clip is added to each number of the sum, and
the sum is divided by the expected number of users. A user who is added or taken away moves the sum by at most `clip`,
however many rows she has. This is the sampled Gaussian mechanism, whose cost Opacus' RDP accountant sums up.

Sources: Abadi et al., "Deep Learning with Differential Privacy", 2016, algorithm 1; McMahan et al., "Learning
Differentially Private Recurrent Language Models", 2018, section 2 (users in the place of rows); Mironov et al., "Rényi
Differential Privacy of the Sampled Gaussian Mechanism", 2019 (the accountant).
"""

import importlib.util
import math
import os
import re
import secrets
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import TrainingArguments

from data_prep import InputError
from finetune.config import Experiment, Privacy
from finetune.model.tokens import Tokens
from finetune.runs import TASK, read_pretraining_log
from finetune.training.batching import Collator

if TYPE_CHECKING:
    from opacus.accountants import RDPAccountant

NOT_COVERED = (
    "the words, bins and classes that were learned from the training histories, where only values of fewer than "
    "min_users users are folded",
    "the calibration and the threshold, which validation rows chose without noise",
    "the figures of the evaluation and of its baselines, and the losses in the log of training",
    "settings that were chosen by trying several and looking at validation",
    "the number of training users, which counts as known",
)
OF_VALUES = "the mean and the deviation of the training labels, by which values are scaled"
OF_WEIGHTS = "whatever the weights that training started from were made of"


@dataclass(frozen=True)
class Mechanism:
    """What one step does to the users.

    Attributes:
        settings: finetuning.privacy.
        users: Of the training rows.
        sample_rate: With which each of them takes part in a step.
        steps: Of the training.
        noise_multiplier: Standard deviation of the noise over `clip`.
    """

    settings: Privacy
    users: int
    sample_rate: float
    steps: int
    noise_multiplier: float

    @classmethod
    def of(cls, settings: Privacy, users: int, expected: int, steps: int) -> "Mechanism":
        """With the least noise that keeps epsilon and delta over so many steps, by Opacus' search.

        Args:
            settings: finetuning.privacy.
            users: Of the training rows.
            expected: How many of them a step is to have on average.
            steps: Of the training.

        Raises:
            InputError: There are too few users, or no noise is enough.
        """
        from opacus.accountants.utils import get_noise_multiplier

        if expected > users:
            raise InputError(
                f"training.per_device_train_batch_size is {expected:,}, and training has {users:,} users",
                "lower it, as a step draws that many users on average",
                setting="training.per_device_train_batch_size",
            )
        if settings.delta >= 1 / users:
            raise InputError(
                f"finetuning.privacy.delta is {settings.delta:g}, which for {users:,} users may give one of them away "
                f"altogether",
                f"give far less than {1 / users:.1g}",
                setting="finetuning.privacy.delta",
            )
        rate = expected / users
        try:
            with _without_hints():
                noise = get_noise_multiplier(
                    target_epsilon=settings.epsilon,
                    target_delta=settings.delta,
                    sample_rate=rate,
                    steps=steps,
                    accountant="rdp",
                    epsilon_tolerance=min(0.01, settings.epsilon / 100),
                )
        except ValueError as error:
            raise InputError(
                f"finetuning.privacy.epsilon {settings.epsilon:g} is out of reach in {steps:,} steps",
                "raise it, or give fewer training.max_steps",
                setting="finetuning.privacy.epsilon",
            ) from error
        return cls(settings, users, rate, steps, noise)

    @property
    def expected(self) -> float:
        """Users of a step, on average."""
        return self.sample_rate * self.users

    def accountant(self) -> "RDPAccountant":
        """One that has counted nothing yet."""
        from opacus.accountants import RDPAccountant

        return RDPAccountant()

    def facts(self, accountant: "RDPAccountant", not_covered: Sequence[str]) -> dict:
        """What the log, the report and the card say."""
        settings = self.settings
        with _without_hints():
            spent = accountant.get_epsilon(settings.delta)
        return {
            "epsilon": round(spent, 4),
            "delta": settings.delta,
            "unit": settings.unit,
            "clip": settings.clip,
            "examples": settings.examples,
            "users": self.users,
            "sample_rate": self.sample_rate,
            "noise_multiplier": self.noise_multiplier,
            "steps": sum(steps for _, _, steps in accountant.history),
            "accountant": "rdp",
            "not_covered": list(not_covered),
        }


@contextmanager
def _without_hints() -> Iterator[None]:
    """Opacus says while it searches that other orders might give a tighter bound; the one that it gives holds."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Optimal order is the")
        yield


def not_covered(experiment: Experiment, values: bool) -> list[str]:
    """What the guarantee does not hold for, in sentences' ends; `values` is whether the label is a value."""
    found = [*NOT_COVERED, *([OF_VALUES] if values else [])]
    return [*found, *([OF_WEIGHTS] if experiment.model.name_or_path else [])]


class UserDraws(Dataset):
    """Step by step a batch of rows for each user who is drawn, as the collator makes it.

    What is drawn depends on the secret and the step alone, so that a stopped run goes on as it would have. The secret
    comes from the operating system: who knew it could tell who took part, and take the noise away.

    Args:
        rows: Of all users.
        users: Whose each row is, as numbers from 0 on, of shape (rows,).
        mechanism: How many of them a step draws.
        secret: Of the run.
        collator: Makes the batches.
    """

    def __init__(self, rows: Tokens, users: np.ndarray, mechanism: Mechanism, secret: int, collator: Collator) -> None:
        self.rows, self.mechanism, self.secret, self.collator = rows, mechanism, secret, collator
        order = np.argsort(users, kind="stable")
        self.of_user = np.split(order, np.cumsum(np.bincount(users))[:-1])

    def __len__(self) -> int:
        return self.mechanism.steps

    def drawn(self, step: int) -> list[np.ndarray]:
        """The rows of each user who takes part in a step, at most `examples` a user."""
        random, most = self._random(step, 0), self.mechanism.settings.examples
        found = []
        for user in np.flatnonzero(random.random(len(self.of_user)) < self.mechanism.sample_rate):
            rows = self.of_user[user]
            found.append(random.choice(rows, most, replace=False) if len(rows) > most else rows)
        return found

    def __getitem__(self, step: int) -> dict[str, list]:
        self.collator.epoch = step  # other events are left out of a row that comes again
        return {"users": [self.collator([self.rows[int(row)] for row in rows]) for rows in self.drawn(step)]}

    def noise(self, step: int, device: torch.device) -> torch.Generator:
        """What draws a step's noise."""
        return torch.Generator(device).manual_seed(int(self._random(step, 1).integers(2**63)))

    def _random(self, step: int, use: int) -> np.random.Generator:
        return np.random.default_rng([self.secret, step, use])


def new_secret() -> int:
    """From the operating system."""
    return secrets.randbits(128)


def add_clipped(sums: list[torch.Tensor], weights: Sequence[torch.nn.Parameter], clip: float) -> float:
    """Add the gradients of the weights to the sums, scaled down where together they are longer than `clip`.

    Returns:
        Their length before.
    """
    found = [(total, weight.grad) for total, weight in zip(sums, weights, strict=True) if weight.grad is not None]
    length = float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(part) for _, part in found])))
    if math.isfinite(length):  # else the user counts as nothing
        scale = min(clip / length, 1.0) if length else 1.0
        for total, part in found:
            total.add_(part, alpha=scale)
    return length


def refuse_unprotected(experiment: Experiment) -> None:
    """InputError where a setting reads the same users past the noise, or the accounting would not hold."""
    if experiment.finetuning.privacy is None:
        return
    if importlib.util.find_spec("opacus") is None:
        raise InputError("finetuning.privacy needs Opacus", "install the extra `privacy`: pip install -e '.[privacy]'")
    for setting, wrong, why, remedy in _refused(experiment):
        if wrong:
            raise InputError(f"finetuning.privacy does not hold with {setting}, as {why}", remedy, setting=setting)
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise InputError("finetuning.privacy trains in one process", "launch it without accelerate's several processes")


def _refused(experiment: Experiment) -> list[tuple[str, bool, str, str]]:
    """Settings, whether they are wrong here, why, and what to do."""
    training, finetuning, start = experiment.training, experiment.finetuning, experiment.model.name_or_path
    of_histories = start is not None and ((Path(start) / TASK).is_file() or bool(read_pretraining_log(Path(start))))
    without, chosen = "the same users without noise", "validation labels choose the best checkpoint"
    last = "give --training.load_best_model_at_end false --training.save_strategy no"
    made = "EventScribe made these weights of histories, which may be those of the same users"
    drawn = "which rows it takes of one user depends on the others"
    optimizer = str(getattr(training["optim"], "value", training["optim"]))
    accumulated = training["gradient_accumulation_steps"] != 1
    return [
        ("pretraining.max_steps", experiment.pretraining.max_steps > 0, f"pretraining reads {without}", "set it to 0"),
        ("finetuning.teacher", finetuning.teacher > 0, f"a teacher is fitted to {without}", "set it to 0"),
        (
            "finetuning.class_weights",
            finetuning.class_weights != "none",
            "class weights are scaled by the counts of the labels",
            "leave it at none",
        ),
        (
            "finetuning.reweigh",
            finetuning.reweigh is not None,
            "its weights are made of the counts of the labels",
            "leave it out",
        ),
        ("finetuning.max_train_examples", finetuning.max_train_examples is not None, drawn, "leave it out"),
        ("finetuning.labelled_users", finetuning.labelled_users is not None, drawn, "leave it out"),
        ("seeds", len(experiment.seeds) > 1, "each seed spends epsilon anew", "give one"),
        ("training.load_best_model_at_end", training["load_best_model_at_end"], chosen, last),
        ("training.save_strategy", training["save_strategy"] == "best", chosen, "give no or steps"),
        (
            "training.max_steps",
            training["max_steps"] < 0,
            "the noise is chosen by the number of steps",
            "give it instead of num_train_epochs",
        ),
        (
            "training.gradient_accumulation_steps",
            accumulated,
            "a step has one batch of users, however large",
            "leave it at 1",
        ),
        (
            "training.auto_find_batch_size",
            training["auto_find_batch_size"],
            "the noise is chosen by the size of the batch",
            "leave it out",
        ),
        (
            "training.optim",
            re.search("lomo|layerwise", optimizer) is not None,
            "it takes its steps before there is noise",
            "choose adamw_torch",
        ),
        ("training.deepspeed", bool(training["deepspeed"]), "DeepSpeed makes the gradients itself", "leave it out"),
        ("training.fp16", training["fp16"], "gradients are clipped as they are", "train in bf16 or float32"),
        ("model.name_or_path", of_histories, made, "start from public weights, or from scratch"),
    ]


def refuse_arguments(arguments: TrainingArguments) -> None:
    """InputError where the machine, and not the config, stands against it."""
    if arguments.n_gpu > 1:
        raise InputError("finetuning.privacy trains on one GPU", "set CUDA_VISIBLE_DEVICES to one of them")
