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

import math
import secrets
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import Dataset

from data_prep import InputError
from finetune.experiment.config import Privacy
from finetune.model.tokens import Tokens
from finetune.training.batching import Collator

if TYPE_CHECKING:
    from opacus.accountants import RDPAccountant


@dataclass(frozen=True)
class Mechanism:
    """What one step does to the users.

    Attributes:
        settings: finetuning.privacy.
        users: Of the training rows.
        sample_rate: With which each of them takes part in a step.
        steps: Of the training.
        noise_multiplier: Standard deviation of the noise over `clip`.
        threshold_epsilon: Of epsilon the part that is left to the choice of the threshold, see
            `finetune.model.private_threshold`; both add up (basic composition: Dwork and Roth, "The Algorithmic
            Foundations of Differential Privacy", 2014, theorem 3.16).
    """

    settings: Privacy
    users: int
    sample_rate: float
    steps: int
    noise_multiplier: float
    threshold_epsilon: float = 0.0

    @classmethod
    def of(cls, settings: Privacy, users: int, expected: int, steps: int, threshold: bool = False) -> "Mechanism":
        """With the least noise that keeps epsilon and delta over so many steps, by Opacus' search.

        Args:
            settings: finetuning.privacy.
            users: Of the training rows.
            expected: How many of them a step is to have on average.
            steps: Of the training.
            threshold: Whether a threshold is chosen afterwards.

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
        rate, of_threshold = expected / users, settings.epsilon * settings.threshold_share * threshold
        target = settings.epsilon - of_threshold
        try:
            with _without_hints():
                noise = get_noise_multiplier(
                    target_epsilon=target,
                    target_delta=settings.delta,
                    sample_rate=rate,
                    steps=steps,
                    accountant="rdp",
                    epsilon_tolerance=min(0.01, target / 100),
                )
        except ValueError as error:
            raise InputError(
                f"finetuning.privacy.epsilon {settings.epsilon:g} is out of reach in {steps:,} steps",
                "raise it, or give fewer training.max_steps",
                setting="finetuning.privacy.epsilon",
            ) from error
        return cls(settings, users, rate, steps, noise, of_threshold)

    @property
    def expected(self) -> float:
        """Users of a step, on average."""
        return self.sample_rate * self.users

    def accountant(self) -> "RDPAccountant":
        """One that has counted nothing yet."""
        from opacus.accountants import RDPAccountant

        return RDPAccountant()

    def facts(self, accountant: "RDPAccountant", not_covered: Sequence[str]) -> dict:
        """What the log, the report and the card say; `epsilon` is that of the weights and the threshold together."""
        settings = self.settings
        with _without_hints():
            spent = accountant.get_epsilon(settings.delta)
        return {
            "epsilon": math.ceil((spent + self.threshold_epsilon) * 1e4) / 1e4,
            "threshold_epsilon": self.threshold_epsilon,
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


class UserDraws(Dataset):
    """Step by step batches of the rows of those users who are drawn, as the collator makes them.

    What is drawn depends on the secret and the step alone, so that a stopped run goes on as it would have. The secret
    comes from the operating system: who knew it could tell who took part, and take the noise away.

    Args:
        rows: Of all users.
        users: Whose each row is, as numbers from 0 on, of shape (rows,).
        mechanism: How many of them a step draws.
        secret: Of the run.
        collator: Makes the batches.
        together: How many rows may stand in a batch; one user has her rows in one batch, even if they are more.
    """

    def __init__(
        self,
        rows: Tokens,
        users: np.ndarray,
        mechanism: Mechanism,
        secret: int,
        collator: Collator,
        together: int = 1,
    ) -> None:
        self.together = together
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
        """Under `batches` those of a step, and under `rows` of each batch how many rows each of its users has."""
        # Other events are left out of a row that comes again. Nobody may know which: rows are numbered over all users.
        self.collator.epoch, self.collator.seed = step, self.secret
        batches: list[list[np.ndarray]] = []
        for own in sorted(self.drawn(step), key=lambda own: self.rows.lengths[own].max()):  # little padding
            if not batches or sum(map(len, batches[-1])) + len(own) > self.together:
                batches.append([])
            batches[-1].append(own)
        return {
            "batches": [self.collator([self.rows[int(row)] for own in users for row in own]) for users in batches],
            "rows": [[len(own) for own in users] for users in batches],
        }

    def noise(self, step: int, device: torch.device) -> torch.Generator:
        """What draws a step's noise."""
        return torch.Generator(device).manual_seed(int(self._random(step, 1).integers(2**63)))

    def seed(self, step: int) -> int:
        """Of a step's dropout: a known one would tell who stood before whom."""
        return int(self._random(step, 2).integers(2**63))

    def _random(self, step: int, use: int) -> np.random.Generator:
        return np.random.default_rng([self.secret, step, use])


def new_secret() -> int:
    """From the operating system."""
    return secrets.randbits(128)
