"""The measures of each kind of label: scikit-learn's where it has them, as a function and as an evaluate.Metric."""

from collections.abc import Callable, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
from scipy.stats import spearmanr
from sklearn.metrics import (
    accuracy_score,
    auc,
    average_precision_score,
    brier_score_loss,
    confusion_matrix,
    f1_score,
    log_loss,
    mean_absolute_error,
    ndcg_score,
    precision_recall_fscore_support,
    roc_auc_score,
    roc_curve,
    root_mean_squared_error,
)

from data_prep import InputError
from finetune.figures.measures import SHARES, TOP, measure_names
from finetune.figures.survival import days, survival_metrics

CALIBRATION_BINS = 15
LISTS = ("propensity", "survival")  # tasks whose label is a list


def compute_metrics(
    task: str,
    labels: np.ndarray,
    scores: np.ndarray,
    deviation: float | None = None,
    popularity: np.ndarray | None = None,
    horizons: Sequence[str] | None = None,
) -> dict[str, float]:
    """The measures of a task, see `finetune.figures.measures`.

    What is not defined is nan: everything without rows, the ranking measures of binary rows of one class, nmae and
    novelty without what they are relative to. Rows with equal scores are taken in any order: what depends on which of
    them come first, such as lift, is its expected value over these orders.

    Args:
        task: binary, tiers, propensity, survival or value.
        labels: 0 or 1 of shape (rows,), class indices of shape (rows,), 0 or 1 of shape (rows, classes), 1, 0 or -1 of
            shape (rows, horizons) as `finetune.figures.survival` has them, or values of shape (rows,).
        scores: Probabilities of shape (rows,) for binary, (rows, classes) for tiers and propensity, (rows, horizons)
            for survival; values of shape (rows,).
        deviation: Standard deviation of the training labels, for nmae.
        popularity: Of shape (classes,): how many training examples have each class, for novelty.
        horizons: Of survival, such as 14 days.

    Returns:
        Metric -> figure. Propensity with fewer than ten classes says precision_at_4 where four are all there are.

    Raises:
        InputError: Scores that are NaN, infinite, or no probabilities; labels that do not fit the task.
    """
    labels, scores = checked(task, labels, scores)
    if not len(labels):
        return dict.fromkeys(measure_names(task, classes=scores.shape[-1]), float("nan"))
    if task == "value":
        return _value(labels, scores, deviation)
    if task == "propensity":
        return _propensity(labels, scores, popularity)
    if task == "survival":
        assert horizons is not None, "as its rows have them"
        return survival_metrics(labels, scores, days(horizons))
    return {"binary": _binary, "tiers": _tiers}[task](labels, scores)


def checked(task: str, labels: np.ndarray, scores: np.ndarray, name: str = "score") -> tuple[np.ndarray, np.ndarray]:
    """Labels as integers (values as float64) and scores as float64, of the shapes that the task has.

    Raises:
        InputError: As measure says; `name` is the column that the sentence names.
    """
    labels, scores = np.asarray(labels), np.asarray(scores, np.float64)
    rows = f"of {len(scores):,} rows"
    if labels.shape != (scores.shape[:1] if task == "tiers" else scores.shape):
        raise InputError(f"{name}: scores of shape {scores.shape} do not fit {task} labels of shape {labels.shape}")
    if strange := _strange(~np.isfinite(scores)):
        raise InputError(f"{name}: {strange:,} {rows} are NaN or infinite", "score them again or leave the rows out")
    if task == "value":
        if strange := _strange(~np.isfinite(labels)):
            raise InputError(f"label: {strange:,} {rows} are NaN or infinite", "leave the rows out")
        return labels.astype(np.float64), scores
    if strange := _strange((scores < 0) | (scores > 1)):
        raise InputError(
            f"{name}: {strange:,} {rows} are outside 0 to 1, such as {scores[(scores < 0) | (scores > 1)][0]:g}",
            f"a {task} label needs probabilities",
        )
    if task == "tiers" and (strange := int((np.abs(scores.sum(axis=1) - 1) > 1e-3).sum())):
        raise InputError(
            f"{name}: {strange:,} {rows} have probabilities that do not sum to 1", "give one for each tier"
        )
    if task == "survival" and (strange := _strange(np.diff(scores) < -1e-9)):
        raise InputError(f"{name}: {strange:,} {rows} fall from one horizon to the next", "give cumulative ones")
    first, classes = -(task == "survival"), scores.shape[1] if task == "tiers" else 2
    if strange := _strange(~np.isin(labels, np.arange(first, classes))):
        raise InputError(f"label: {strange:,} {rows} are none of {first} to {classes - 1}, as {task} labels are")
    return labels.astype(np.int64), scores


def at_threshold(labels: np.ndarray, scores: np.ndarray, threshold: float) -> dict:
    """Precision, recall, f1 and accuracy of contacting every row whose score reaches the threshold, and the confusion
    matrix [[tn, fp], [fn, tp]]; nan where there is nobody to divide by."""
    labels, scores = checked("binary", labels, scores)
    chosen = (scores >= threshold).astype(np.int64)
    confusion = confusion_matrix(labels, chosen, labels=[0, 1]).tolist() if len(labels) else [[0, 0], [0, 0]]
    if not len(labels):
        return dict.fromkeys(("precision", "recall", "f1", "accuracy"), float("nan")) | {"confusion": confusion}
    nobody: Any = np.nan  # scikit-learn has no types, and its default is a text
    found = precision_recall_fscore_support(labels, chosen, average="binary", zero_division=nobody)[:3]
    figures = dict(zip(("precision", "recall", "f1"), map(float, found), strict=True))
    return figures | {"accuracy": float(accuracy_score(labels, chosen)), "confusion": confusion}


def deciles(labels: np.ndarray, scores: np.ndarray) -> list[dict]:
    """Ten parts of the rows (as many as there are rows, if fewer), highest predicted value first.

    Returns:
        For each part rows, and the mean predicted and real value; rows that tie across a border count for both sides
        with their expected value.
    """
    labels, scores = checked("value", labels, scores)
    borders = np.unique(np.round(np.linspace(0, len(labels), 11)))
    rows = np.diff(borders)
    predicted, real = (
        np.diff(np.interp(borders, *running_total(values, scores))) / rows for values in (scores, labels)
    )
    return [
        {"rows": int(count), "predicted": float(p), "real": float(r)}
        for count, p, r in zip(rows, predicted, real, strict=True)
    ]


def tier_confusion(labels: np.ndarray, scores: np.ndarray) -> list[list[int]]:
    """Rows of each true tier (outer list) whose likeliest tier is each (inner list); of equals, the lowest."""
    labels, scores = checked("tiers", labels, scores)
    classes = range(scores.shape[1])
    if not len(labels):
        return [[0 for _ in classes] for _ in classes]
    return confusion_matrix(labels, scores.argmax(axis=1), labels=classes).tolist()


def recommended(scores: np.ndarray) -> np.ndarray:
    """The probability that each class is in a row's top k, where equal scores are ordered by chance.

    Args:
        scores: Of shape (rows, classes).

    Returns:
        Of the same shape; each row sums to k, ten or the number of classes if fewer.
    """
    k = min(TOP, scores.shape[1])
    last = np.partition(scores, -k, axis=1)[:, -k][:, None]
    above, tied = scores > last, scores == last
    return above + tied * ((k - above.sum(axis=1)) / tied.sum(axis=1))[:, None]


def repeat_and_new(labels: np.ndarray, scores: np.ndarray, had: np.ndarray) -> dict[str, float]:
    """Macro AUROC among the users who had a class before, and among those who had not, as most of what is bought next
    was bought before, and the rest is another question (Li et al., A Next Basket Recommendation Reality Check, 2023).

    Args:
        labels: Of shape (rows, classes).
        scores: Of the same shape.
        had: Of the same shape, whether the user had the class before the cutoff.

    Returns:
        repeat_auroc and new_auroc, nan where no class has both labels.
    """
    found = {}
    for name, chosen in (("repeat_auroc", had), ("new_auroc", ~had)):
        areas = [
            roc_auc_score(labels[rows, i], scores[rows, i])
            for i, rows in enumerate(chosen.T)
            if 0 < labels[rows, i].sum() < rows.sum()
        ]
        found[name] = float(np.mean(areas)) if areas else float("nan")
    return found


def row_diversity(scores: np.ndarray) -> np.ndarray:
    """Diversity of each row, as the RecSys Challenge 2025 defines it: the entropy of a row's scores, scaled to sum 1,
    over that of a uniform row (https://github.com/Synerise/recsys2025, training_pipeline/metrics.py).

    Args:
        scores: Of shape (rows, classes).
    """
    total, classes = scores.sum(axis=1, keepdims=True), scores.shape[1]
    if classes == 1:
        return np.full(len(scores), np.nan)
    shares = np.divide(scores, total, out=np.full(scores.shape, 1 / classes), where=total > 0)
    return -(shares * np.log2(shares + 1e-9)).sum(axis=1) / np.log2(classes)


def row_popularity(scores: np.ndarray, popularity: np.ndarray | None) -> np.ndarray:
    """How popular what is recommended to each row is: the top k classes' popularity, each times its score, over the
    popularity of the k most popular classes (RecSys Challenge 2025, as row_diversity). Its mean gives novelty.

    Args:
        scores: Of shape (rows, classes).
        popularity: Of shape (classes,); nan where there is none.
    """
    if popularity is None or not np.sum(popularity):
        return np.full(len(scores), np.nan)
    most = np.sort(popularity)[-min(TOP, len(popularity)) :].sum()
    return (recommended(scores) * scores) @ (np.asarray(popularity) / most)


def novelty(popularity: np.ndarray | float) -> np.ndarray | float:
    """Of the mean of row_popularity; the challenge takes the hundredth power because shares are near 1."""
    return (1 - popularity) ** 100


def _strange(which: np.ndarray) -> int:
    """In how many rows something is."""
    return int(which.reshape(len(which), -1).any(axis=1).sum()) if which.size else 0


def _binary(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    figures = dict.fromkeys(measure_names("binary"), float("nan"))
    figures["log_loss"] = float(log_loss(labels, scores, labels=[0, 1]))
    figures["brier_score"] = float(brier_score_loss(labels, scores, pos_label=1))
    figures["expected_calibration_error"] = _calibration_error(labels, scores)
    positives, rows = int(labels.sum()), len(labels)
    if not 0 < positives < rows:
        return figures
    figures["auroc"] = float(roc_auc_score(labels, scores))
    figures["average_precision"] = float(average_precision_score(labels, scores))
    figures["gini"] = 2 * figures["auroc"] - 1
    false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
    figures["ks"] = float(np.max(true - false))
    contacted = (positives * true + (rows - positives) * false) / rows
    for share in SHARES:  # a straight line between two scores is what any order of the rows between them gives
        figures[f"recall_at_{share}"] = float(np.interp(share / 100, contacted, true))
        figures[f"lift_at_{share}"] = figures[f"recall_at_{share}"] / (share / 100)
    return figures


def _calibration_error(labels: np.ndarray, scores: np.ndarray) -> float:
    """Expected calibration error (Naeini, Cooper, Hauskrecht: Obtaining well calibrated probabilities using Bayesian
    binning, AAAI 2015): the mean over the rows of |positive rate - mean score| of their bin. Fifteen bins of equally
    many rows (equal scores always share one), because bins of equal width leave nearly all rows of a rare label in one
    (Nguyen, O'Connor: Posterior calibration and exploratory analysis for natural language processing models, 2015)."""
    last = -(-np.arange(1, CALIBRATION_BINS) * len(scores) // CALIBRATION_BINS) - 1  # row of a bin, lowest score first
    borders = np.sort(scores)[last]
    gaps = np.bincount(np.searchsorted(borders, scores), labels - scores)
    return float(np.abs(gaps).sum() / len(labels))


def _tiers(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    classes, chosen = np.arange(scores.shape[1]), scores.argmax(axis=1)
    nobody: Any = 0  # scikit-learn has no types, and its default is a text
    return {
        "auroc": _over_classes(roc_auc_score, labels[:, None] == classes, scores),
        "macro_f1": float(f1_score(labels, chosen, average="macro", zero_division=nobody)),
        "weighted_f1": float(f1_score(labels, chosen, average="weighted", zero_division=nobody)),
        "accuracy": float(accuracy_score(labels, chosen)),
        "log_loss": float(log_loss(labels, scores / scores.sum(axis=1, keepdims=True), labels=classes)),
        "ordinal_error": float(mean_absolute_error(labels, chosen)),
    }


def _over_classes(metric: Callable, labels: np.ndarray, scores: np.ndarray) -> float:
    """Mean over the classes that some rows have and others have not; labels and scores of shape (rows, classes)."""
    both = [i for i, column in enumerate(labels.T) if 0 < column.sum() < len(column)]
    return float(np.mean([metric(labels[:, i], scores[:, i]) for i in both])) if both else float("nan")


def _value(labels: np.ndarray, scores: np.ndarray, deviation: float | None) -> dict[str, float]:
    error = float(mean_absolute_error(labels, scores))
    differ = np.ptp(labels) > 0
    figures = {
        "mae": error,
        "rmse": float(root_mean_squared_error(labels, scores)),
        "nmae": error / deviation if deviation else float("nan"),
        "spearman": float("nan"),
        "value_gini": float("nan"),
    }
    if differ:  # one prediction for all ranks nobody above another, so 0
        figures["spearman"] = 0.0
        if np.ptp(scores) > 0:
            ranked: Any = spearmanr(labels, scores)  # scipy names its fields at run time
            figures["spearman"] = float(ranked.statistic)
    if differ and labels.sum() > 0:
        figures["value_gini"] = _value_gini(labels, scores) / _value_gini(labels, labels)
    return figures


def _value_gini(labels: np.ndarray, ranking: np.ndarray) -> float:
    """Twice the area between the share of the value that the best-ranked rows hold and the diagonal."""
    rows, values = running_total(labels, ranking)
    return 2 * float(auc(rows / rows[-1], values / values[-1])) - 1


def running_total(values: np.ndarray, ranking: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many rows, and the sum of their values, after each distinct score, highest first and starting at 0."""
    _, group, rows = np.unique(-ranking, return_inverse=True, return_counts=True)
    sums = np.bincount(group, values, minlength=len(rows))
    return np.r_[0, np.cumsum(rows)], np.r_[0.0, np.cumsum(sums)]


def _propensity(labels: np.ndarray, scores: np.ndarray, popularity: np.ndarray | None) -> dict[str, float]:
    k = min(TOP, scores.shape[1])
    chosen = recommended(scores)
    hits, has = (chosen * labels).sum(axis=1), labels.sum(axis=1)
    flat = labels.ravel(), scores.ravel()
    some = has > 0
    figures = {
        "auroc": _over_classes(roc_auc_score, labels, scores),
        "micro_auroc": _over_classes(roc_auc_score, *(part[:, None] for part in flat)),
        "average_precision": _over_classes(average_precision_score, labels, scores),
        "micro_average_precision": _over_classes(average_precision_score, *(part[:, None] for part in flat)),
        f"precision_at_{k}": float(hits.mean() / k),
        f"recall_at_{k}": float((hits[some] / has[some]).mean()) if some.any() else float("nan"),
        f"ndcg_at_{k}": _ndcg(labels[some], scores[some], k) if some.any() else float("nan"),
        f"coverage_at_{k}": float(np.mean(1 - np.prod(1 - chosen, axis=0))),
        "log_loss": float(log_loss(*flat, labels=[0, 1])),
        "novelty": float(novelty(row_popularity(scores, popularity).mean())),
        "diversity": float(row_diversity(scores).mean()),
    }
    figures["synerise_score"] = 0.8 * figures["auroc"] + 0.1 * figures["novelty"] + 0.1 * figures["diversity"]
    return figures


def _ndcg(labels: np.ndarray, scores: np.ndarray, k: int) -> float:
    """scikit-learn's, which averages over ties row by row and is slow at it: only the rows with ties go that way."""
    if scores.shape[1] == 1:
        return 1.0
    tied = (np.diff(np.sort(scores, axis=1), axis=1) == 0).any(axis=1)
    parts = [(part, ties) for part, ties in ((tied, True), (~tied, False)) if part.any()]
    found = [ndcg_score(labels[part], scores[part], k=k, ignore_ties=not ties) * part.sum() for part, ties in parts]
    return float(sum(found) / len(labels))


class _Metrics(evaluate.Metric):
    """compute_metrics() behind evaluate's interface, which hands over Python lists (2 s for a million rows)."""

    task: str

    def _info(self) -> evaluate.MetricInfo:
        label, score = datasets.Value("float64" if self.task == "value" else "int64"), datasets.Value("float64")
        return evaluate.MetricInfo(
            description=f"{', '.join(measure_names(self.task))} of a {self.task} label; see compute_metrics.",
            citation="",
            inputs_description="references: labels; prediction_scores: scores; as compute_metrics takes them.",
            features=datasets.Features(
                {
                    "references": datasets.Sequence(label) if self.task in LISTS else label,
                    "prediction_scores": datasets.Sequence(score) if self.task in ("tiers", *LISTS) else score,
                }
            ),
        )

    def _compute(self, references: list, prediction_scores: list, **more: Any) -> dict[str, float]:
        return compute_metrics(self.task, np.array(references), np.array(prediction_scores), **more)


class BinaryMetrics(_Metrics):
    """Of the probability of label 1."""

    task = "binary"


class TiersMetrics(_Metrics):
    """Of the probability of each tier."""

    task = "tiers"


class ValueMetrics(_Metrics):
    """Of a predicted value."""

    task = "value"


class PropensityMetrics(_Metrics):
    """Of the probability of each of several labels."""

    task = "propensity"


class SurvivalMetrics(_Metrics):
    """Of the probability that an event has come by each horizon."""

    task = "survival"


METRIC = {m.task: m for m in (BinaryMetrics, TiersMetrics, ValueMetrics, PropensityMetrics, SurvivalMetrics)}
