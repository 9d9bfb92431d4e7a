"""Scores -> calibrated probabilities, and the score from which a user counts as positive; fitted on validation."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.sparse import coo_array
from scipy.special import expit, log_softmax, logit, softmax
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import log_loss, precision_recall_curve

from data_prep import InputError
from data_prep.files import write_whole
from finetune.runs import CALIBRATION, read_calibration

STEPS = 100  # shares of the rows at which profit is given
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
    """

    method: Literal["none", "temperature", "isotonic"] = "none"
    temperature: float | None = None
    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()
    threshold: float | None = None
    threshold_by: Literal["f1", "budget", "money"] | None = None

    @classmethod
    def fit(cls, method: str, task: str, labels: np.ndarray, scores: np.ndarray) -> "Calibration":
        """From the validation rows.

        Args:
            method: evaluation.calibration.
            task: See `finetune.model.objective.Objective`.
            labels: Of shape (rows,), or (rows, classes) for propensity.
            scores: Of shape (rows,), or (rows, classes) for tiers and propensity.

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
            return log_loss(labels.ravel(), calibrated.ravel(), labels=[0, 1])

        found = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded")
        return cls("temperature", float(np.exp(found.x)))

    def apply(self, scores: np.ndarray, task: str) -> np.ndarray:
        """Calibrated scores of the same shape; of tiers each row still adds up to 1."""
        if self.method == "none":
            return scores
        if self.method == "isotonic":
            # The curve has steps, on which rows would tie that the model tells apart.
            return (1 - WITHIN_STEPS) * np.interp(scores, self.x, self.y) + WITHIN_STEPS * scores
        if task == "tiers":
            return softmax(log_softmax(np.log(np.maximum(scores, SMALLEST)), axis=1) / self.temperature, axis=1)
        return expit(logit(np.clip(scores, SMALLEST, 1 - SMALLEST)) / self.temperature)

    def save(self, folder: Path) -> None:
        """Write calibration.json beside the model."""
        write_whole(Path(folder) / CALIBRATION, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Calibration":
        """Of a model's folder; one that changes nothing where there is no file."""
        return cls(**read_calibration(folder))


def check_method(method: str, task: str) -> None:
    """Refuse a method that the task has no use for."""
    if method != "none" and (task == "value" or (method == "isotonic" and task != "binary")):
        fits = "none" if task == "value" else "none or temperature"
        raise InputError(f"evaluation.calibration {method} does not fit a {task} label; write {fits}")


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


def profit_curve(
    labels: np.ndarray,
    scores: np.ndarray,
    users: np.ndarray,
    contact: float,
    kept_customer: float,
    resamples: int,
    threshold: float | None = None,
    seed: int = 0,
) -> dict:
    """The expected profit of contacting the rows with the highest scores, for each share of the rows.

    Each contacted row costs `contact`; each positive one among them brings `kept_customer` on average. Rows of equal
    scores are contacted in random order. Intervals resample whole users, with the rows of each step of a hundredth kept
    together.

    Args:
        labels: 0 or 1, of shape (rows,).
        scores: Of shape (rows,).
        users: Whose example each row is.
        contact: Cost of a contact.
        kept_customer: What a contacted positive brings.
        resamples: Of the bootstrap.
        threshold: The score from which on a row is contacted, as validation chose it.
        seed: Of the bootstrap.

    Returns:
        contact, kept_customer, shares, profits, interval_low and interval_high of shape (shares,); the best share with
        its profit, which looks better than it is, as these rows chose it; and share_at_threshold,
        profit_at_threshold and profit_at_threshold_interval, NaN without a threshold.
    """
    steps = min(STEPS, len(labels))
    generator, drawn = np.random.default_rng(seed), []
    order = np.lexsort((generator.random(len(labels)), -scores))
    step = np.empty(len(labels), np.int64)
    step[order] = np.arange(len(labels)) * steps // len(labels)
    _, user = np.unique(users, return_inverse=True)
    chosen = np.zeros(len(labels), bool) if threshold is None else scores >= threshold
    # What a user's rows of each step earn, and last those that are chosen: with it, a resample is one product.
    worth = kept_customer * labels - contact
    place = (np.append(user, user[chosen]), np.append(step, np.full(chosen.sum(), steps)))
    earned = coo_array((np.append(worth, worth[chosen]), place), shape=(user.max() + 1, steps + 1)).tocsr()
    # As many users as there are: a total, unlike a mean, would spread more with Poisson's weights.
    for _ in range(resamples):
        times = np.bincount(generator.integers(0, earned.shape[0], earned.shape[0]), minlength=earned.shape[0])
        drawn.append(_added(times @ earned))
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0) if drawn else np.full((2, steps + 1), np.nan)
    profits, shares = _added(earned.sum(axis=0)), np.cumsum(np.bincount(step, minlength=steps)) / len(labels)
    *profits, at_threshold = profits.tolist()
    (*low, low_chosen), (*high, high_chosen) = low.tolist(), high.tolist()
    best, told = int(np.argmax(profits)), threshold is not None
    return {
        "contact": contact,
        "kept_customer": kept_customer,
        "shares": [0.0, *shares.tolist()],
        "profits": [0.0, *profits],
        "interval_low": [0.0, *low],
        "interval_high": [0.0, *high],
        "best_share": float(shares[best]) if profits[best] > 0 else 0.0,
        "best_profit": float(max(profits[best], 0.0)),
        "share_at_threshold": float(chosen.mean()) if told else math.nan,
        "profit_at_threshold": at_threshold if told else math.nan,
        "profit_at_threshold_interval": [low_chosen, high_chosen] if told else [math.nan] * 2,
    }


def _added(earned: np.ndarray) -> np.ndarray:
    """What the steps earn one after the other, and the last entry as it is."""
    return np.append(np.cumsum(earned[:-1]), earned[-1])
