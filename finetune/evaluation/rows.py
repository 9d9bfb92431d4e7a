"""Scored rows: what every measure, interval, curve and group of an evaluation is computed from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from finetune.figures.measures import MODEL
from finetune.figures.metrics import compute_metrics, repeat_and_new


@dataclass(frozen=True)
class ScoredRows:
    """Rows with their labels, the scores that each scorer gives them, and whose they are.

    Attributes:
        task: binary, tiers, propensity, survival or value; see `finetune.model.objective.Objective`.
        labels: As `finetune.figures.metrics.compute_metrics` takes them.
        scores: Scorer -> scores as compute_metrics takes them; "model" is ours.
        users: Whose row each is, of shape (rows,).
        deviation: Standard deviation of the training labels, for nmae.
        popularity: Of shape (classes,): how many training examples have each class, for novelty.
        horizons: Of survival, their names.
        had: Of propensity, of the labels' shape: whether the user had the class before the cutoff, where that is known.
    """

    task: str
    labels: np.ndarray
    scores: dict[str, np.ndarray]
    users: np.ndarray
    deviation: float | None = None
    popularity: np.ndarray | None = None
    horizons: Sequence[str] | None = None
    had: np.ndarray | None = None

    @property
    def model(self) -> np.ndarray:
        """The model's scores."""
        return self.scores[MODEL]

    @property
    def known(self) -> dict[str, Any]:
        """What `compute_metrics` has to know of the task and of the training labels."""
        return {"deviation": self.deviation, "popularity": self.popularity, "horizons": self.horizons}

    def figures(self, scores: np.ndarray) -> dict[str, float]:
        """The measures of some scores of these rows, of classes that a user had before and of new ones apart."""
        apart = {} if self.had is None else repeat_and_new(self.labels, scores, self.had)
        return compute_metrics(self.task, self.labels, scores, **self.known) | apart

    def of_model(self) -> "ScoredRows":
        """The same rows with the model's scores alone."""
        return replace(self, scores={MODEL: self.model})

    def where(self, mask: np.ndarray) -> "ScoredRows":
        """The rows where a mask of shape (rows,) is true."""
        scores = {name: values[mask] for name, values in self.scores.items()}
        had = None if self.had is None else self.had[mask]
        return replace(self, labels=self.labels[mask], scores=scores, users=self.users[mask], had=had)

    def counts(self) -> dict[str, int]:
        """rows, users and positives; a value counts as positive above zero."""
        return {
            "rows": len(self.labels),
            "users": len(np.unique(self.users)),
            "positives": int((self.labels > 0).sum()),
        }
