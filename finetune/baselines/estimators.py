"""scikit-learn's estimators, fitted to any of the five tasks, with scores as the model has them."""

from collections.abc import Callable, Iterator
from itertools import islice, repeat
from typing import Any, Protocol, Self

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import mean_absolute_error, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import QuantileTransformer
from tqdm import tqdm

from data_prep.labels import UNKNOWN
from finetune.figures.survival import by_horizon, come_by, mean_known
from finetune.model.objective import Objective, signed_root, signed_square

# 12 points; the number of trees comes from the validation curve of each.
BOOSTING_GRID = [
    {"learning_rate": rate, "max_leaf_nodes": leaves, "min_samples_leaf": smallest}
    for rate in (0.04, 0.08)
    for leaves in (5, 10, 20)
    for smallest in (50, 200)
]
VALUE_BOOSTING_GRID = [  # the curve stands in for the rate; MAE asks for the median, whose loss is absolute_error
    {"loss": loss, "learning_rate": 0.08, "max_leaf_nodes": leaves, "min_samples_leaf": smallest}
    for loss in ("squared_error", "absolute_error")
    for leaves in (5, 10, 20)
    for smallest in (50, 200)
]
LOGISTIC_GRID = [{"C": strength} for strength in (0.0003, 0.001, 0.01, 0.1)]
RIDGE_GRID = [{"alpha": strength, "log_scale": log} for log in (False, True) for strength in (1, 100, 10_000)]
MAX_TREES = 300
NOISE = 0.01  # of a deviation, see MedianBoostingRegressor
TREE_STEP = 25  # the curve is read at every 25th tree
MAX_ROWS = 10_000  # of each label, for one class of propensity


class Fitted:
    """An estimator after its fit; for propensity one for each class, for survival one for each interval.

    That of an interval says its hazard and is fitted to the rows at risk (Cox: Regression models and life-tables, 1972,
    section 6; Singer, Willett: It's about time, 1993).

    Where the rows have a single class there is nothing to fit, and everyone is given it.

    Args:
        objective: The task.
        estimator: Not fitted yet; it is copied.
        rows: Inputs of shape (rows, columns).
        labels: Of shape (rows,), for propensity (rows, classes): some or all of the task's classes; for survival
            (rows, horizons).
        seed: Of the rows that are drawn for propensity.
        bar: Counts the fits.
    """

    def __init__(
        self,
        objective: Objective,
        estimator: BaseEstimator,
        rows: np.ndarray,
        labels: np.ndarray,
        seed: int,
        bar: tqdm | None = None,
    ) -> None:
        self.objective, self.estimator, self.estimators, self.empty, self.odds = objective, estimator, [], [], []
        self.range = (labels.min(), labels.max())
        several = objective.task == "propensity"
        for column in labels.T if several or objective.task == "survival" else [labels]:
            drawn, odds = balanced(column, MAX_ROWS, seed) if several else (slice(None), 1.0)
            if objective.task == "survival":
                drawn = np.flatnonzero(column != UNKNOWN)
                if not len(drawn):  # all have had the event: nobody is at risk, and nothing is known of the hazard
                    drawn, column = slice(None), np.zeros_like(column)
            alone = objective.task != "value" and (column[drawn] == column[drawn][0]).all()
            self.odds.append(odds)
            fitted_to = rows[drawn]
            self.empty.append(np.isnan(fitted_to).all(axis=0))
            made: Any = DummyClassifier() if alone else clone(estimator)  # a BaseEstimator has no fit of its own
            self.estimators.append(made.fit(_filled(fitted_to, self.empty[-1]), column[drawn]))
            if bar is not None:
                bar.update()

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """As `Objective.scores` has them; values no further than the labels that were fitted to."""
        method = "predict" if self.objective.task == "value" else "predict_proba"
        return self._shaped([getattr(model, method)(filled) for model, filled in self._inputs(rows)])

    def stages(self, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Of boosting the number of trees and the scores of that many, at every 25th tree; of others 0 and theirs."""
        if isinstance(self.estimator, HistGradientBoostingClassifier | HistGradientBoostingRegressor):
            yield from islice(enumerate(self._staged(rows), start=1), TREE_STEP - 1, MAX_TREES, TREE_STEP)
        else:
            yield 0, self.scores(rows)

    def _staged(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """The scores of boosting after each tree."""
        method = "staged_predict" if self.objective.task == "value" else "staged_predict_proba"
        stages = [
            repeat(model.predict_proba(filled))
            if isinstance(model, DummyClassifier)
            else getattr(model, method)(filled)
            for model, filled in self._inputs(rows)
        ]
        yield from map(self._shaped, zip(*stages, strict=False))

    def _inputs(self, rows: np.ndarray) -> Iterator[tuple[BaseEstimator, np.ndarray]]:
        for estimator, empty in zip(self.estimators, self.empty, strict=True):
            yield estimator, _filled(rows, empty)

    def _shaped(self, found: list[np.ndarray] | tuple[np.ndarray, ...]) -> np.ndarray:
        """From what each estimator says."""
        if self.objective.task == "value":
            return np.clip(found[0], *self.range)
        classes = len(self.objective.classes) if self.objective.task == "tiers" else 2
        every: list[np.ndarray] = []
        for estimator, probabilities in zip(self.estimators, found, strict=True):
            every.append(np.zeros((len(probabilities), classes)))
            every[-1][:, estimator.classes_] = probabilities  # a class that no row had stays at zero
        if self.objective.task == "propensity":
            positive, odds = np.column_stack([probabilities[:, 1] for probabilities in every]), np.array(self.odds)
            return odds * positive / (odds * positive + 1 - positive)
        if self.objective.task == "survival":
            return come_by(np.column_stack([probabilities[:, 1] for probabilities in every]))
        return every[0] if self.objective.task == "tiers" else every[0][:, 1]


def quality(task: str, labels: np.ndarray, scores: np.ndarray) -> float:
    """What settings are chosen by, higher is better: AUROC, the mean over the classes that some rows have and others
    have not, or over the horizons; for values minus the MAE. -inf where AUROC is not defined."""
    if task == "value":
        return -float(mean_absolute_error(labels, scores))
    if task == "survival":
        found = by_horizon(labels, scores)["auroc"]
        return -np.inf if np.isnan(found).all() else mean_known(found)
    if task == "tiers":
        labels = labels[:, None] == np.arange(scores.shape[1])
    pairs = zip(labels.reshape(len(labels), -1).T, scores.reshape(len(scores), -1).T, strict=True)
    areas = [roc_auc_score(column, score) for column, score in pairs if 0 < column.sum() < len(column)]
    return float(np.mean(areas)) if areas else -np.inf


def balanced(labels: np.ndarray, limit: int, seed: int) -> tuple[np.ndarray, float]:
    """The indices of at most `limit` rows of each label, drawn at random, and what the odds that are fitted to them are
    to be multiplied by.

    He et al., Practical Lessons from Predicting Clicks on Ads at Facebook, 2014, section 6.3. Weights of the rows would
    do the same, but scikit-learn's boosting bins weighted columns a hundred times slower.
    """
    generator, drawn, stands_for = np.random.default_rng(seed), [], {0: 1.0, 1: 1.0}
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        kept = generator.choice(rows, limit, replace=False) if len(rows) > limit else rows
        drawn.append(kept)
        stands_for[int(label)] = len(rows) / len(kept)
    return np.sort(np.concatenate(drawn)), stands_for[1] / stands_for[0]


def constant(settings: dict) -> BaseEstimator:
    """The same for all rows: the shares of the classes, or for values what the setting `constant` names."""
    return DummyRegressor(strategy=settings["constant"]) if settings else DummyClassifier(strategy="prior")


def linear(settings: dict) -> BaseEstimator:
    """Logistic regression where the settings have a C, else ridge regression of the value or its logarithm."""
    if "C" in settings:
        return LogisticRegression(C=settings["C"], solver="newton-cholesky", max_iter=100)
    ridge = Ridge(alpha=settings["alpha"])
    if not settings["log_scale"]:
        return ridge
    return TransformedTargetRegressor(ridge, func=_signed_log, inverse_func=_signed_exp, check_inverse=False)


def _signed_log(values: np.ndarray) -> np.ndarray:
    """log(1 + value), mirrored for what is below zero (refunds)."""
    return np.sign(values) * np.log1p(np.abs(values))


def _signed_exp(values: np.ndarray) -> np.ndarray:
    return np.sign(values) * np.expm1(np.abs(values))


class MedianBoostingRegressor(HistGradientBoostingRegressor):
    """Boosting by the absolute error, of the values' signed square roots: their median is the root of the median.

    Where most values are equal, such as zero, they are the median at which boosting begins. The gradient of the
    absolute error is then the same for all rows, and no split gains anything. So a little noise stands beside the
    roots: a hundredth of their deviation.
    """

    def fit(self, rows: np.ndarray, values: np.ndarray) -> Self:
        """Rows of shape (rows, columns), values of shape (rows,)."""
        roots = signed_root(values)
        noise = np.random.default_rng(self.random_state).normal(0, NOISE * roots.std(), len(roots))
        return super().fit(rows, roots + noise)

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Values of shape (rows,)."""
        return signed_square(super().predict(rows))

    def staged_predict(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """The same after each tree."""
        return map(signed_square, super().staged_predict(rows))


def boosting(objective: Objective, settings: dict, seed: int) -> BaseEstimator:
    """scikit-learn's histogram boosting, which takes missing values as they are.

    Without a max_iter in the settings it has as many trees in all as two classes would have, and 75 steps at least: for
    several tiers each step is a tree a tier.
    """
    steps = max(2 * MAX_TREES // len(objective.classes), 3 * TREE_STEP) if objective.task == "tiers" else MAX_TREES
    made = HistGradientBoostingRegressor if objective.task == "value" else HistGradientBoostingClassifier
    given: dict[str, Any] = {"max_iter": steps, **settings, "early_stopping": False, "random_state": seed}
    if given.get("loss") == "absolute_error":
        made = MedianBoostingRegressor
    return made(**given)


class Stages(Protocol):
    """A fitted model, which may have grown in stages."""

    def stages(self, rows: Any) -> Iterator[tuple[int, np.ndarray]]:
        """Number of trees and the scores of that many; 0 for what has none."""
        ...

    def scores(self, rows: Any) -> np.ndarray:
        """Of the whole model."""
        ...


def out_of_fold(
    fit: Callable[[np.ndarray], Stages], rows: Any, folds: list[tuple[np.ndarray, np.ndarray]]
) -> dict[int, np.ndarray]:
    """The scores of each row by a model that was fitted without its fold.

    Args:
        fit: Fits to the rows of these indices.
        rows: What is scored; to be indexed by an array.
        folds: Indices of the rows that are fitted to, and of those that are scored; each row is scored in one fold.

    Returns:
        Number of trees (0 for what has none) -> scores.
    """
    found: dict[int, np.ndarray] = {}
    for seen, unseen in folds:
        for trees, scores in fit(seen).stages(rows[unseen]):
            found.setdefault(trees, np.empty((len(rows), *scores.shape[1:])))[unseen] = scores
    return found


def normal(features: dict[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """Missing values at the median and flagged, all quantile-transformed to normal as the training rows say."""
    rows = len(features["train"])
    steps = make_pipeline(
        SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True),
        QuantileTransformer(
            n_quantiles=min(1000, rows), output_distribution="normal", subsample=20_000, random_state=seed
        ),
    ).fit(features["train"])
    return {split: steps.transform(rows) for split, rows in features.items()}


def _filled(rows: np.ndarray, empty: np.ndarray) -> np.ndarray:
    """Zeros for columns that had no value in any row of the fit, on which boosting would fail."""
    return np.where(empty, 0.0, rows) if empty.any() else rows
