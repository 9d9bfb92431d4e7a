"""Model and boosting beside each other on the same rows: what a stress test says of one step."""

from typing import Any

import numpy as np

from finetune.evaluation.rows import ScoredRows
from finetune.evaluation.scorers import compare
from finetune.experiment.config import EvaluationConfig
from finetune.figures.measures import MODEL
from finetune.model.calibration import choose_threshold

BOOSTING = "gradient_boosting"
SHOWN = ("auroc", "expected_calibration_error", "log_loss")


def figures_beside(
    labels: np.ndarray,
    users: np.ndarray,
    scores: dict[str, np.ndarray],
    thresholds: dict[str, float | None],
    resamples: int,
    has: np.ndarray | None = None,
) -> dict[str, dict[str, Any]]:
    """Of MODEL and BOOSTING: AUROC, calibration, the share contacted and the share of the positives that is found.

    Args:
        labels: 0 or 1, of shape (rows,).
        users: Whose row each is.
        scores: Scorer -> of shape (rows,).
        thresholds: Of each scorer, from which on a row is contacted.
        resamples: Of the bootstrap.
        has: Which rows can be contacted at all; None is every row.
    """
    compared = compare(ScoredRows("binary", labels, scores, users), resamples)
    positives, can = labels > 0, np.ones(len(labels), bool) if has is None else has
    found = {}
    for name, values in scores.items():
        figures = compared if name == MODEL else compared["baselines"][name]
        contacted = can & (values >= (thresholds[name] or 0.0))
        found[name] = {key: figures[key] for key in figures if key.startswith(SHOWN)} | {
            "mean_score": float(values.mean()),
            "positive_rate": float(positives.mean()),
            "contacted": float(contacted.mean()),
            "found": float(contacted[positives].mean()) if positives.any() else None,
        }
    return found


def threshold_by(settings: EvaluationConfig, by: str, labels: np.ndarray, scores: np.ndarray) -> float:
    """The threshold that validation rows choose, see `choose_threshold`."""
    costs = (settings.costs.contact, settings.costs.kept_customer) if settings.costs else ()
    return choose_threshold(by, labels, scores, settings.budget, *costs)
