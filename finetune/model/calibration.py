"""Scores -> calibrated probabilities, and the score from which a user counts as positive; fitted on validation."""

import json
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, logit, softmax
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import log_loss, precision_recall_curve

from data_prep import InputError
from data_prep.files import write_whole
from finetune.figures.survival import come_by, hazards_of, log_losses, mean_known
from finetune.runs import CALIBRATION, read_calibration

WITHIN_STEPS = 1e-6  # the part of a score by isotonic calibration that the uncalibrated score keeps
SMALLEST = 1e-7  # probabilities keep that distance from 0 and 1, where the log-odds end


@dataclass(frozen=True)
class Calibration:
    """What happens to a model's scores before anybody sees them.

    Attributes:
        method: temperature divides log-odds or log-probabilities by one number (Guo et al., "On Calibration of Modern
            Neural Networks", 2017, section 4.2); isotonic is a rising step curve through the validation rows (Zadrozny
            and Elkan, "Transforming Classifier Scores into Accurate Multiclass Probability Estimates", 2002), whose
            steps rise by less than a millionth with the score, so that it ranks as without calibration.
        temperature: Above 1 draws probabilities towards the middle.
        x: Scores at the knots of the isotonic curve, ascending.
        y: The probabilities there.
        threshold: A calibrated score from which on a row counts as positive; None where nothing was chosen.
        threshold_by: What chose it.
        group_by: The slice whose groups have thresholds of their own; None where none was asked for.
        group_equal: What they make equal.
        group_thresholds: Group -> its threshold; groups that are not named have the common one.
    """

    method: Literal["none", "temperature", "isotonic"] = "none"
    temperature: float | None = None
    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()
    threshold: float | None = None
    threshold_by: Literal["f1", "budget", "money"] | None = None
    group_by: str | None = None
    group_equal: Literal["opportunity", "selection"] | None = None
    group_thresholds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def fit(cls, method: str, task: str, labels: np.ndarray, scores: np.ndarray) -> "Calibration":
        """From the validation rows.

        Args:
            method: evaluation.calibration.
            task: See `finetune.model.objective.Objective`.
            labels: Of shape (rows,), or (rows, classes) for propensity and survival.
            scores: Of shape (rows,), or (rows, classes) for tiers, propensity and survival.

        Raises:
            InputError: A method that the task has no use for.
        """
        if method == "none":
            return cls()
        check_method(method, task)
        if method == "isotonic":
            curve = IsotonicRegression(y_min=SMALLEST, y_max=1 - SMALLEST, out_of_bounds="clip").fit(scores, labels)
            return cls("isotonic", x=tuple(curve.X_thresholds_.tolist()), y=tuple(curve.y_thresholds_.tolist()))

        def loss(log_temperature: float) -> float:
            calibrated = cls("temperature", float(np.exp(log_temperature))).apply(scores, task)
            if task == "tiers":
                return log_loss(labels, calibrated, labels=np.arange(scores.shape[1]))
            if task == "survival":
                return mean_known(log_losses(labels, calibrated))
            return log_loss(labels.ravel(), calibrated.ravel(), labels=[0, 1])

        found = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded")
        return cls("temperature", float(np.exp(found.x)))

    def apply(self, scores: np.ndarray, task: str) -> np.ndarray:
        """Calibrated scores of the same shape; of tiers each row still adds up to 1, and of survival, where hazards are
        calibrated, it still never falls."""
        if self.method == "none":
            return scores
        if self.method == "isotonic":
            # The curve has steps, on which rows would tie that the model tells apart.
            return (1 - WITHIN_STEPS) * np.interp(scores, self.x, self.y) + WITHIN_STEPS * scores
        if task == "tiers":
            return softmax(log_softmax(np.log(np.maximum(scores, SMALLEST)), axis=1) / self.temperature, axis=1)
        said = hazards_of(scores) if task == "survival" else scores
        calibrated = expit(logit(np.clip(said, SMALLEST, 1 - SMALLEST)) / self.temperature)
        return come_by(calibrated) if task == "survival" else calibrated

    def save(self, folder: Path) -> None:
        """Write calibration.json beside the model."""
        write_whole(Path(folder) / CALIBRATION, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Calibration":
        """Of a model's folder; one that changes nothing where there is no file."""
        return cls(**{key: value for key, value in read_calibration(folder).items() if value is not None})

    def thresholds_of(self, groups: Sequence[str | None]) -> np.ndarray:
        """The threshold of each row by its group, of shape (rows,); of None and of other groups the common one."""
        assert self.threshold is not None, "as groups have thresholds beside it"
        return np.array([self.group_thresholds.get(group or "", self.threshold) for group in groups], float)


def check_method(method: str, task: str) -> None:
    """Refuse a method that the task has no use for."""
    if method != "none" and (task == "value" or (method == "isotonic" and task != "binary")):
        fits = "none" if task == "value" else "none or temperature"
        raise InputError(
            f"evaluation.calibration {method} does not fit a {task} label",
            f"write {fits}",
            setting="evaluation.calibration",
        )


def choose_threshold(
    by: str, labels: np.ndarray, scores: np.ndarray, budget: float, contact: float = 0.0, kept: float = 0.0
) -> float:
    """The score from which on a validation row counts as positive.

    Args:
        by: f1: the highest F1. budget: the highest-scored share `budget` of the rows, or fewer where equal scores would
            exceed it. money: the highest profit, where each row above costs `contact` and each positive one among them
            brings `kept`.
        labels: 0 or 1, of shape (rows,).
        scores: Calibrated, of shape (rows,).
        budget: A share of the rows.
        contact: Cost of a contact.
        kept: What a contacted positive brings.

    Returns:
        A score; one above all where no contact pays, or where more rows than the budget share the highest score.
    """
    nobody = float(np.nextafter(scores.max(), np.inf))
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.diff(scores[order]) != 0, True)  # rows of equal scores are contacted together
    if by == "budget":
        fitting = np.flatnonzero(ends[: math.floor(budget * len(scores) + 1e-9)])
        return float(scores[order[fitting[-1]]]) if len(fitting) else nobody
    if by == "money":
        profit = np.cumsum(kept * labels[order] - contact)
        best = int(np.argmax(np.where(ends, profit, -np.inf)))
        return float(scores[order[best]]) if profit[best] > 0 else nobody
    precision, recall, thresholds = precision_recall_curve(labels, scores)
    total = precision + recall
    f1 = np.divide(2 * precision * recall, total, out=np.zeros(len(total)), where=total > 0)[:-1]
    return float(thresholds[int(np.argmax(f1))])


def equal_thresholds(
    equal: str, labels: np.ndarray, scores: np.ndarray, groups: np.ndarray, threshold: float
) -> dict[str, float]:
    """A threshold for each group of the validation rows, which together contact at most as many as the one threshold.

    Args:
        equal: selection: of each group the same share is contacted, that of the one threshold. opportunity: of each
            group's positives the same share is, the largest that so many contacts allow (Hardt, Price, Srebro: Equality
            of Opportunity in Supervised Learning, 2016, of thresholds without their randomization).
        labels: 0 or 1, of shape (rows,).
        scores: Calibrated, of shape (rows,).
        groups: Of each row; for opportunity each has a positive.
        threshold: The one for all, as `choose_threshold` found it.

    Returns:
        Group -> threshold. It is empty where so many contacts reach no positive in each of them.
    """
    names, rows = np.unique(groups), scores >= threshold
    of_group = {str(name): groups == name for name in names}
    if equal == "selection":
        return {
            name: choose_threshold("budget", labels[own], scores[own], float(rows.mean()))
            for name, own in of_group.items()
        }
    ranked = {name: np.sort(scores[own])[::-1] for name, own in of_group.items()}
    positive = {name: np.sort(scores[own & (labels > 0)])[::-1] for name, own in of_group.items()}

    def by_level(level: float) -> dict[str, float]:
        return {name: float(own[math.ceil(level * len(own) - 1e-9) - 1]) for name, own in positive.items()}

    def contacted(level: float) -> int:
        return sum(int((ranked[name] >= from_on).sum()) for name, from_on in by_level(level).items())

    levels = np.unique(np.concatenate([np.arange(1, len(own) + 1) / len(own) for own in positive.values()]))
    fits = bisect_right(levels, int(rows.sum()), key=contacted)
    return by_level(float(levels[fits - 1])) if fits else {}
