"""Time to event in intervals: hazards, the curve of Kaplan and Meier, and weights for rows that the log cuts short.

Labels are those of kind `when` (`data_prep.labels.Labels`), of shape (rows, horizons): for the interval that ends at
each horizon 1 where the event lies in it, 0 where none has come by its end, and UNKNOWN behind the event, or where the
log ends before. Scores are the probability that the event has come by each horizon, of the same shape, rising along a
row. A hazard is the probability of the event in an interval where none came before (Tutz, Schmid: Modeling Discrete
Time-to-Event Data, 2016, chapter 3).

Measures are those of scikit-survival. An interval counts as a moment, and rows are censored between two of them.
"""

from collections.abc import Sequence

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from data_prep.labels import UNKNOWN
from data_prep.moments import parse_duration
from finetune.figures.measures import AT_HORIZON, at_horizon

DAY_SECONDS = 86_400


def survival_metrics(labels: np.ndarray, scores: np.ndarray, horizons: np.ndarray) -> dict[str, float]:
    """The measures of `finetune.figures.measures`; NaN for what is not defined.

    Args:
        labels: Of shape (rows, horizons).
        scores: Of the same shape.
        horizons: In days.
    """
    at = by_horizon(labels, scores)
    figures = {
        "concordance": concordance(labels, risk(scores, horizons)),
        "integrated_brier_score": float(integrated(at["brier_score"], horizons)),
        "auroc": mean_known(at["auroc"]),
        "average_precision": mean_known(at["average_precision"]),
        "log_loss": mean_known(log_losses(labels, scores)),
    }
    numbered = {name: enumerate(at[name].tolist(), start=1) for name in AT_HORIZON}
    return figures | {at_horizon(name, n): value for name, values in numbered.items() for n, value in values}


def mean_known(values: np.ndarray) -> float:
    """Of what is not NaN; NaN where there is nothing else."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def days(horizons: Sequence[str]) -> np.ndarray:
    """Of lengths such as 14 days."""
    return np.array([parse_duration(text, "horizons").total_seconds() / DAY_SECONDS for text in horizons])


def come_by(hazards: np.ndarray) -> np.ndarray:
    """Scores of hazards: 1 - (1 - h1)(1 - h2)..., of shape (rows, horizons)."""
    return 1 - np.cumprod(1 - hazards, axis=-1)


def hazards_of(scores: np.ndarray) -> np.ndarray:
    """The hazards behind scores; 1 where the event is certain to have come before."""
    left = 1 - scores
    before = np.concatenate([np.ones((len(scores), 1)), left[:, :-1]], axis=1)
    return 1 - np.divide(left, before, out=np.zeros_like(left), where=before > 0)


def kaplan_meier(labels: np.ndarray) -> np.ndarray:
    """The share of the rows whose event has come by each horizon, of shape (horizons,); NaN from the first interval on
    of which nothing is known.

    Source: Kaplan, Meier: Nonparametric estimation from incomplete observations, 1958.
    """
    at_risk, events = (labels != UNKNOWN).sum(axis=0), (labels == 1).sum(axis=0)
    return come_by(np.divide(events, at_risk, out=np.full(len(events), np.nan), where=at_risk > 0))


def uncensored(labels: np.ndarray) -> np.ndarray:
    """The probability that a row is not censored before the end of each interval, of shape (horizons,): the curve of
    Kaplan and Meier with events and censoring in each other's place."""
    followed = np.concatenate([np.ones((len(labels), 1), bool), labels[:, :-1] == 0], axis=1)
    at_risk, lost = followed.sum(axis=0), (followed & (labels == UNKNOWN)).sum(axis=0)
    return np.cumprod(1 - np.divide(lost, at_risk, out=np.zeros(len(lost)), where=at_risk > 0))


def weighted(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether the event has come by each horizon, and the weight of each row there, both of the labels' shape.

    A row of which it is not known has the weight 0, and so have all rows at a horizon that none reaches. The others
    stand for such rows, too: their weight is one over the probability that they are not censored by then, or by their
    event (Robins, Rotnitzky: Recovery of information and adjustment for dependent censoring using surrogate markers,
    1992).
    """
    left = uncensored(labels)
    inverse = np.divide(1, left, out=np.zeros_like(left), where=left > 0)
    at_event = np.cumsum((labels == 1) * inverse, axis=1)
    come = np.cumsum(labels == 1, axis=1)
    return come, np.where(come == 1, at_event, (labels == 0) * inverse) * (left > 0)


def risk(scores: np.ndarray, horizons: np.ndarray) -> np.ndarray:
    """By which rows are ordered in time, the earliest first: the days of the window that are expected to lie behind
    the event, of shape (rows,). It is the window less the restricted mean survival time (Royston, Parmar: The use of
    restricted mean survival time, 2011), by the trapezoid rule.

    Args:
        scores: Of shape (rows, horizons).
        horizons: In days.
    """
    days = np.trapezoid(np.column_stack([np.zeros(len(scores)), scores]), np.append(0.0, horizons), axis=1)
    return np.round(days, 9)  # rows that tie but for the last digits do tie


def concordance(labels: np.ndarray, ranking: np.ndarray) -> float:
    """Of all pairs of rows of which one has its event in an earlier interval than the other, the share in which it
    ranks above the other; ties count half, and pairs are weighted for censoring; NaN where there is none.

    Source: Uno, Cai, Pencina, D'Agostino, Wei: On the C-statistics for evaluating overall adequacy of risk prediction
    procedures with censored survival data, 2011.

    Args:
        labels: Of shape (rows, horizons).
        ranking: Of shape (rows,), see `risk`.
    """
    right = pairs = 0.0
    for interval, left in zip(labels.T, uncensored(labels), strict=True):
        known = interval != UNKNOWN
        events = int(interval[known].sum())
        if 0 < events < known.sum():
            weight = events * (int(known.sum()) - events) / left**2
            right += weight * float(roc_auc_score(interval[known], ranking[known]))
            pairs += weight
    return float(right / pairs) if pairs else float("nan")


def by_horizon(labels: np.ndarray, scores: np.ndarray) -> dict[str, np.ndarray]:
    """auroc (Hung, Chiang: Estimation methods for time-dependent AUC models with survival data, 2010),
    average_precision and brier_score (Graf, Schmoor, Sauerbrei, Schumacher: Assessment and comparison of prognostic
    classification schemes for survival data, 1999) at each horizon, of shape (horizons,); NaN where they are not
    defined."""
    found = {name: np.full(labels.shape[1], np.nan) for name in ("auroc", "average_precision", "brier_score")}
    come, weights = weighted(labels)
    for at, (label, score, weight) in enumerate(zip(come.T, scores.T, weights.T, strict=True)):
        known = weight > 0
        if known.any():
            found["brier_score"][at] = np.mean(weight * (label - score) ** 2)
        if len(np.unique(label[known])) == 2:
            for name, measure in (("auroc", roc_auc_score), ("average_precision", average_precision_score)):
                found[name][at] = measure(label[known], score[known], sample_weight=weight[known])
    return found


def integrated(values: np.ndarray, horizons: np.ndarray) -> np.ndarray:
    """The mean over time of what is known at each horizon, from the first to the last one, by the trapezoid rule.

    Args:
        values: Of shape (horizons, ...); horizons with NaN are left out.
        horizons: In days.
    """
    known = ~np.isnan(values.reshape(len(values), -1)).all(axis=1)
    values, horizons = values[known], horizons[known]
    if len(values) < 2:
        return values[0] if len(values) else np.array(np.nan)
    return np.trapezoid(values, horizons, axis=0) / (horizons[-1] - horizons[0])


def log_losses(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """How surprising the outcome of each interval is, of the labels' shape; NaN where it is not known."""
    hazards = hazards_of(scores)
    said = np.where(labels == 1, hazards, 1 - hazards)
    return np.where(labels == UNKNOWN, np.nan, -np.log(np.maximum(said, np.finfo(np.float64).eps)))
