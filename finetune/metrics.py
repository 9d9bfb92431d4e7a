"""Classification metrics: an evaluate.Metric over scikit-learn, and intervals by bootstrap over users."""

from dataclasses import dataclass

import datasets
import evaluate
import numpy as np
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score
from tqdm import trange

METRICS = ("auroc", "average_precision", "log_loss", "brier_score")


class BinaryMetrics(evaluate.Metric):
    """AUROC, average precision, log loss and Brier score of the probability of label 1."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Metrics of a binary classifier's scores.",
            citation="",
            inputs_description="references: 0 or 1; prediction_scores: the probability of label 1.",
            features=datasets.Features(
                {"references": datasets.Value("int64"), "prediction_scores": datasets.Value("float64")}
            ),
        )

    def _compute(self, references: list[int], prediction_scores: list[float]) -> dict[str, float]:
        return {
            "auroc": float(roc_auc_score(references, prediction_scores)),
            "average_precision": float(average_precision_score(references, prediction_scores)),
            "log_loss": float(log_loss(references, prediction_scores, labels=[0, 1])),
            "brier_score": float(brier_score_loss(references, prediction_scores)),
        }


def binary_metrics(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """The metrics of one set of scores; nothing is written to a cache."""
    return BinaryMetrics(keep_in_memory=True).compute(references=labels, prediction_scores=scores)


@dataclass
class Bootstrap:
    """AUROC and average precision of each scorer on each resample of the users; arrays of length `resamples`."""

    auroc: dict[str, np.ndarray]
    average_precision: dict[str, np.ndarray]


def bootstrap_users(
    labels: np.ndarray, scores: dict[str, np.ndarray], users: np.ndarray, resamples: int, seed: int = 0
) -> Bootstrap:
    """Resample whole users with replacement, as the examples of one user belong together.

    All scorers see the same resamples, so that their differences are paired. Resampling is a weight for each row (how
    often its user was drawn), and one sorted pass over the weights gives both metrics; resamples with one class only
    count as NaN.
    """
    _, user_index = np.unique(users, return_inverse=True)
    sorted_scores = {name: _Sorted(labels, values) for name, values in scores.items()}
    auroc = {name: np.full(resamples, np.nan) for name in scores}
    precision = {name: np.full(resamples, np.nan) for name in scores}
    generator = np.random.default_rng(seed)
    drawn = user_index.max() + 1
    for i in trange(resamples, desc="bootstrap", unit="resample", leave=False):
        weights = np.bincount(generator.integers(0, drawn, drawn), minlength=drawn)[user_index]
        for name, ranked in sorted_scores.items():
            auroc[name][i], precision[name][i] = ranked.weighted_metrics(weights)
    return Bootstrap(auroc, precision)


def interval(values: np.ndarray) -> list[float]:
    """The 95 % percentile interval of bootstrap values, [nan, nan] where there is none."""
    kept = values[~np.isnan(values)]
    return [float(q) for q in np.quantile(kept, [0.025, 0.975])] if len(kept) else [float("nan")] * 2


class _Sorted:
    """Rows sorted by falling score, with the starts of ties, to weigh them again and again."""

    def __init__(self, labels: np.ndarray, scores: np.ndarray) -> None:
        self.order = np.argsort(-scores, kind="stable")
        ranked = scores[self.order]
        self.starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
        self.positive = labels[self.order].astype(np.float64)

    def weighted_metrics(self, weights: np.ndarray) -> tuple[float, float]:
        """AUROC and average precision, as scikit-learn's with sample_weight."""
        ranked = weights[self.order].astype(np.float64)
        positives = np.add.reduceat(ranked * self.positive, self.starts)
        both = np.add.reduceat(ranked, self.starts)
        above, seen = np.cumsum(positives), np.cumsum(both)
        total, negatives = above[-1], seen[-1] - above[-1]
        if not total or not negatives:
            return float("nan"), float("nan")
        # A negative is ranked below all positives above it and half of those it ties with.
        auroc = np.sum((both - positives) * (above - positives / 2)) / (total * negatives)
        shown = seen > 0
        precision = np.sum(positives[shown] / total * (above[shown] / seen[shown]))
        return float(auroc), float(precision)
