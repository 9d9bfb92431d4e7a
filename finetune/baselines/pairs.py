"""Rivals for propensity: models of pairs of a user and a class, which know how often THIS user had THIS class.

Most of what is bought next was bought before: personal frequency with popularity behind it is hard to beat (Hu et al.,
Modeling Personalized Item Frequency Information for Next-basket Recommendation, SIGIR 2020; Li et al., A Next Basket
Recommendation Reality Check, TOIS 2023, who call it GP-TopFreq).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from sklearn.base import BaseEstimator
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data_prep import InputError
from data_prep.facts import Manifest
from data_prep.features import OWN
from data_prep.prepared import column_array, sampled
from finetune.baselines.estimators import MAX_TREES, TREE_STEP
from finetune.model.objective import EDGE, log_odds

ACTIVITY = ("target_28d", "target", "target_recency_days")  # aggregates
NEVER = 10_000.0  # days since what there never was
MAX_PAIRS = 1_000_000  # of one fit
SCORED = 500_000  # pairs that are scored at once
CATEGORIES = 255  # that boosting takes
PAIR_GRIDS = {  # baseline -> the settings that are tried
    "personal_frequency": [{"count": name} for name in OWN[:-1]],
    "pair_regression": [{"C": strength} for strength in (0.0001, 0.001, 0.01, 0.1, 1.0)],
    "pair_boosting": [
        {"learning_rate": 0.08, "max_leaf_nodes": leaves, "min_samples_leaf": smallest}
        for leaves in (10, 20, 40)
        for smallest in (50, 400)
    ],
}


@dataclass
class PairRows:
    """What is known of some rows and each class.

    Attributes:
        own: Name (see `data_prep.features.OWN`) -> values of shape (rows, classes).
        activity: The aggregates ACTIVITY, of shape (rows, 3).
    """

    own: dict[str, np.ndarray]
    activity: np.ndarray

    def __len__(self) -> int:
        return len(self.activity)

    def __getitem__(self, rows: np.ndarray | slice) -> "PairRows":
        return PairRows({name: values[rows] for name, values in self.own.items()}, self.activity[rows])


def pair_columns(manifest: Manifest) -> list[str]:
    """The columns of a split that `pair_rows` reads.

    Raises:
        InputError: The data was prepared before there were any.
    """
    if "class_aggregates" not in manifest:
        raise InputError("the data was prepared by an older EventScribe", "run scripts/prepare.py again")
    return [*OWN, *ACTIVITY]


def pair_rows(table: pa.Table) -> PairRows:
    """From the columns of a split."""
    own = {name: column_array(table[name]).astype(np.float32) for name in OWN}
    return PairRows(own, np.column_stack([table[name].to_numpy().astype(np.float32) for name in ACTIVITY]))


class PairModel:
    """One model for all classes, fitted to pairs of a row and a class.

    Its inputs are the user's own counts of the class within windows and ever, the days since the last one, the class's
    share of the user's counts, how popular the class is, how popular it is with those who had the same classes as the
    user, and how active the user is.

    Args:
        estimator: Not fitted yet; boosting also takes the class itself as a category.
        rows: What is fitted to.
        labels: Of shape (rows, classes).
    """

    def __init__(self, estimator: BaseEstimator, rows: PairRows, labels: np.ndarray) -> None:
        self.estimator: Any = estimator  # a BaseEstimator has no fit of its own
        had = (rows.own["own"] > 0).astype(np.float64)
        self.shares = labels.mean(axis=0)
        # Of the rows that had one class (outer), the share with the label of each other; ten rows as popular as all.
        self.together = (had.T @ labels + 10 * self.shares) / (had.sum(axis=0) + 10)[:, None]
        drawn = sampled(len(rows), max(MAX_PAIRS // labels.shape[1], 1))
        self.alone = bool((labels[drawn] == labels[drawn][0, 0]).all())
        if not self.alone:
            self.estimator.fit(self._inputs(rows[drawn]), labels[drawn].ravel())

    def scores(self, rows: PairRows) -> np.ndarray:
        """The probability of each class, of shape (rows, classes)."""
        return self._scored(rows, lambda inputs: [self.estimator.predict_proba(inputs)])[0]

    def stages(self, rows: PairRows) -> Iterator[tuple[int, np.ndarray]]:
        """The number of trees and the scores of that many, at every 25th tree; of a regression 0 and its scores."""
        if self.alone or not isinstance(self.estimator, HistGradientBoostingClassifier):
            yield 0, self.scores(rows)
            return
        kept = range(TREE_STEP, MAX_TREES + 1, TREE_STEP)

        def staged(inputs: np.ndarray) -> list[np.ndarray]:
            every = enumerate(self.estimator.staged_predict_proba(inputs), start=1)
            return [probabilities for trees, probabilities in every if trees in kept]

        yield from zip(kept, self._scored(rows, staged), strict=False)

    def _scored(self, rows: PairRows, predict: Callable[[np.ndarray], list[np.ndarray]]) -> list[np.ndarray]:
        """Some rows at a time."""
        classes = len(self.shares)
        if self.alone:
            return [np.tile(self.shares, (len(rows), 1))]
        size, parts = max(SCORED // classes, 1), []
        for start in range(0, len(rows), size):
            found = predict(self._inputs(rows[start : start + size]))
            parts.append([probabilities[:, 1].reshape(-1, classes) for probabilities in found])
        return [np.concatenate(part) for part in zip(*parts, strict=True)]

    def _inputs(self, rows: PairRows) -> np.ndarray:
        """Of shape (rows * classes, columns)."""
        counts, last = [rows.own[name] for name in OWN[:-1]], rows.own[OWN[-1]]
        total = counts[-1].sum(axis=1, keepdims=True)
        share = counts[-1] / np.maximum(total, 1)
        known = share @ self.together + (total == 0) * self.shares
        trees = isinstance(self.estimator, HistGradientBoostingClassifier)
        columns = [np.log1p(count) for count in counts]
        columns += [last if trees else np.log1p(np.nan_to_num(last, nan=NEVER)), np.isnan(last), share]
        columns += [log_odds(np.broadcast_to(self.shares, last.shape)), log_odds(known)]
        columns += [
            np.broadcast_to(np.log1p(np.nan_to_num(values, nan=NEVER))[:, None], last.shape)
            for values in rows.activity.T
        ]
        if trees and len(self.shares) <= CATEGORIES:
            columns.append(np.broadcast_to(np.arange(len(self.shares)), last.shape))
        return np.stack([column.astype(np.float32).ravel() for column in columns], axis=1)


def personal_frequency(rows: PairRows, name: str, shares: np.ndarray) -> np.ndarray:
    """The user's own count of each class, and between equal counts the more popular class: of shape (rows, classes).

    Args:
        rows: What is scored.
        name: Of OWN, which count.
        shares: Of the training rows, the share that has each class.
    """
    return rows.own[name] + shares / (shares.max() + 1)


class PersonalFrequency:
    """`personal_frequency` as a probability: a logistic curve over its logarithm, which keeps the order.

    Args:
        name: Of OWN, which count.
        rows: What is fitted to.
        labels: Of shape (rows, classes).
    """

    def __init__(self, name: str, rows: PairRows, labels: np.ndarray) -> None:
        self.name, self.shares = name, labels.mean(axis=0)
        drawn = sampled(len(rows), max(MAX_PAIRS // labels.shape[1], 1))
        self.curve = LogisticRegression(C=100).fit(self._inputs(rows[drawn]), labels[drawn].ravel())

    def stages(self, rows: PairRows) -> Iterator[tuple[int, np.ndarray]]:
        """As of `PairModel`."""
        yield 0, self.scores(rows)

    def scores(self, rows: PairRows) -> np.ndarray:
        """Of shape (rows, classes)."""
        return self.curve.predict_proba(self._inputs(rows))[:, 1].reshape(len(rows), -1)

    def _inputs(self, rows: PairRows) -> np.ndarray:
        return np.log(personal_frequency(rows, self.name, self.shares) + EDGE).reshape(-1, 1)


def fit_pairs(settings: dict, rows: PairRows, labels: np.ndarray, seed: int) -> PersonalFrequency | PairModel:
    """Logistic regression where the settings have a C, personal frequency where they have a count, else boosting.

    Args:
        settings: One of PAIR_GRIDS.
        rows: What is fitted to.
        labels: Of shape (rows, classes).
        seed: Of boosting.
    """
    if "count" in settings:
        return PersonalFrequency(settings["count"], rows, labels)
    if "C" in settings:
        regression = LogisticRegression(C=settings["C"], solver="newton-cholesky", max_iter=100)
        return PairModel(make_pipeline(StandardScaler(), regression), rows, labels)
    given: dict[str, Any] = {"max_iter": MAX_TREES, **settings, "early_stopping": False, "random_state": seed}
    given["categorical_features"] = [len(OWN) + 4 + len(ACTIVITY)] if labels.shape[1] <= CATEGORIES else None
    return PairModel(HistGradientBoostingClassifier(**given), rows, labels)
