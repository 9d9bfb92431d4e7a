"""What a user would pick instead of BERT, fitted on the training split's aggregates and tuned on validation.

- majority: the same for everyone: the share of each class; for values mean or median. Of survival it is kaplan_meier,
  the curve of Kaplan and Meier, and all others have a model for the hazard of each interval.
- recency_rule: a logistic curve over the logarithm of the days since the last event of the kind that the label is
  about; for values a line, to the value or its logarithm.
- rfm: logistic regression on recency, frequency and monetary value: those days, the counts of such events, and the
  sums of the numeric fields, quantile-transformed to normal, missing values at the median and flagged. For values
  ridge regression of the value or its logarithm.
- logistic_regression, for values linear_regression: the same on all aggregates.
- gradient_boosting: scikit-learn's histogram boosting on all aggregates; 12 points, each with the best number of
  trees. Of survival 6 points, each with the same number of trees in all intervals.
- word_regression and word_boosting, only where events have a text field, and not for propensity: the same two on
  all aggregates and on the words that the model reads, see `finetune.baselines.words`; boosting with 6 points.
- stack, only with model_scores: see `fit_stack`; its aggregates are joined by the score of gradient_boosting, so
  that what was learned on the training rows is not lost.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from sklearn.base import BaseEstimator
from sklearn.model_selection import GroupKFold
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from data_prep import InputError
from data_prep.config import Label
from data_prep.cutoffs import SPLITS
from data_prep.facts import Manifest
from data_prep.prepared import Limit, column_array, read_split
from finetune.baselines.estimators import (
    BOOSTING_GRID,
    LOGISTIC_GRID,
    RIDGE_GRID,
    VALUE_BOOSTING_GRID,
    Fitted,
    Stages,
    boosting,
    constant,
    linear,
    normal,
    out_of_fold,
    quality,
)
from finetune.baselines.pairs import (
    NEVER,
    PAIR_GRIDS,
    PairRows,
    fit_pairs,
    pair_columns,
    pair_rows,
)
from finetune.baselines.words import known_words, word_columns
from finetune.figures.metrics import LISTS
from finetune.model.objective import Objective

SMALL = 5000  # rows
TUNED_CLASSES = 3  # of propensity, the most frequent ones
FOLDS = 5  # of the stack
WINDOW = r"\d+[mhd]|session"
RFM = re.compile(rf"target_recency_days|target(_({WINDOW}))?|.+_sum(_({WINDOW}))?")


@dataclass
class Baselines:
    """Scores of each baseline.

    Attributes:
        scores: Split -> baseline -> scores as `Objective.scores` has them (binary and value of shape (rows,), tiers and
            propensity of shape (rows, classes), survival of (rows, horizons)), in the split's order; split is
            validation or test.
        settings: Baseline -> the settings that validation chose.
    """

    scores: dict[str, dict[str, np.ndarray]]
    settings: dict[str, dict]

    def add(self, name: str, scores: dict[str, np.ndarray], settings: dict) -> None:
        """The scores of one baseline, by split, and its settings."""
        for split, values in scores.items():
            self.scores[split][name] = values
        self.settings[name] = settings


def score_baselines(
    folder: Path,
    manifest: Manifest,
    limits: dict[str, Limit] | None = None,
    seed: int = 0,
    model_scores: dict[str, np.ndarray] | None = None,
) -> Baselines:
    """Fit all baselines on the training rows, tune them on validation, and score validation and test.

    The settings are those with the best validation AUROC (mean over the classes), for values the best MAE. Scores of
    values stay within the range of the training labels. The module says what each baseline is.

    Propensity has a model a class: the settings are tuned on the three most frequent classes and serve all, and a model
    sees at most 10,000 rows of each label, drawn at random and weighted to stand for all, so that 100 classes take
    minutes.

    Args:
        folder: The prepared data.
        manifest: Its manifest.
        limits: Split -> which of its rows are read, see `data_prep.prepared.read_split`; without it all.
        seed: Of everything that is drawn.
        model_scores: validation and test -> the model's scores of these rows; None leaves the stack out.

    Raises:
        InputError: A stack of propensity or survival, or data that is not prepared.
    """
    objective = Objective.of(Label(**manifest["config"]["task"]["label"]), manifest["classes"])
    if model_scores and objective.task in LISTS:
        raise InputError(
            f"a stack of {objective.task} would be one for each class", "leave it out", setting="evaluation.stack"
        )
    data = _read(folder, manifest, objective, limits or {})
    tunings = _tunings(objective, manifest["aggregates"], data.features, seed)
    tunings += _pair_tunings(data.pairs, seed) if data.pairs else []
    baselines = Baselines({"validation": {}, "test": {}}, {})
    if objective.task != "propensity" and (known := known_words(folder, manifest)):
        words = word_columns(folder, limits or {}, known, seed)
        tunings += _word_tunings(objective, data.features, words, seed)
    # Few rows gain nothing from a second thread, and on a busy machine threads that wait for each other lose minutes.
    threads = 1 if len(data.labels["train"]) < SMALL else None
    total = sum(tuning.fits(objective) for tuning in tunings) + _stack_fits(objective) * bool(model_scores)
    with threadpool_limits(threads), tqdm(total=total, desc="baselines", unit="fit") as bar:
        for tuning in tunings:
            inputs = tuning.inputs()
            fitted, settings = tuning.run(objective.task, inputs, data.labels, bar)
            scores = {split: fitted.scores(inputs[split]) for split in baselines.scores}
            baselines.add(tuning.name, scores, settings)
        if model_scores:
            rows = {
                split: np.column_stack([data.features[split], scores["gradient_boosting"]])
                for split, scores in baselines.scores.items()
            }
            labels, users = data.labels["validation"], data.users["validation"]
            baselines.add("stack", *fit_stack(objective, rows, model_scores, labels, users, seed, bar))
    return baselines


def fit_boosting(
    folder: Path, manifest: Manifest, limits: dict[str, Limit] | None = None, settings: dict | None = None
) -> tuple[Stages, dict]:
    """The baseline gradient_boosting itself, for rows that no split has, and its settings; see `score_baselines`.

    Args:
        folder: The prepared data.
        manifest: Its manifest.
        limits: See `score_baselines`.
        settings: Those that validation chose before; None tunes it.
    """
    objective = Objective.of(Label(**manifest["config"]["task"]["label"]), manifest["classes"])
    data = _read(folder, manifest, objective, limits or {})
    tunings = _tunings(objective, manifest["aggregates"], data.features, seed=0)
    tuning = next(tuning for tuning in tunings if tuning.name == "gradient_boosting")
    tuning.grid = tuning.grid if settings is None else [settings]
    threads = 1 if len(data.labels["train"]) < SMALL else None
    with threadpool_limits(threads), tqdm(total=tuning.fits(objective), desc="boosting", unit="fit") as bar:
        return tuning.run(objective.task, data.features, data.labels, bar)


@dataclass
class _Data:
    """What the baselines are fitted to and score; each mapping is by split.

    Attributes:
        features: The aggregates, of shape (rows, aggregates).
        labels: Of train and validation.
        users: Whose each row is, of train and validation.
        pairs: Of propensity what is known of each row and class; else empty.
    """

    features: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    users: dict[str, np.ndarray]
    pairs: dict[str, PairRows]


def _read(folder: Path, manifest: Manifest, objective: Objective, limits: dict[str, Limit]) -> _Data:
    data, names = _Data({}, {}, {}, {}), manifest["aggregates"]
    own = pair_columns(manifest) if objective.task == "propensity" else []
    for split in SPLITS:
        columns = [*names, *own, "user_id", *(["label"] if split != "test" else [])]
        table = read_split(folder, split, limits.get(split), columns)
        data.features[split] = feature_rows(table, names)
        if own:
            data.pairs[split] = pair_rows(table)
        if split != "test":
            data.labels[split] = column_array(table["label"])
            data.users[split] = table["user_id"].to_numpy()
    return data


def feature_rows(table: pa.Table, names: list[str]) -> np.ndarray:
    """The aggregates of a split, of shape (rows, names), NaN where there is none."""
    return np.column_stack([table[name].to_numpy().astype(np.float64) for name in names])


def fit_stack(
    objective: Objective,
    features: dict[str, np.ndarray],
    model_scores: dict[str, np.ndarray],
    labels: np.ndarray,
    users: np.ndarray,
    seed: int = 0,
    bar: tqdm | None = None,
) -> tuple[dict[str, np.ndarray], dict]:
    """Boosting on the aggregates and the model's score: what each adds to the other.

    The model has learned the training labels by heart to some degree, so that its training scores promise too much:
    the stack is fitted on the VALIDATION rows alone. Cross-validation over users chooses its settings, and gives its
    scores of validation: each row is scored by a stack that has not seen its user. As the same scores chose the
    settings (6 points, each with a number of trees), they are slightly too good; those of test are not.

    Args:
        objective: The task; not propensity.
        features: validation and test -> of shape (rows, columns).
        model_scores: validation and test -> the model's scores.
        labels: Of the validation rows.
        users: Whose example each validation row is.
        seed: Of the folds and the boosting.
        bar: Counts the fits.

    Returns:
        validation and test -> scores, and the settings.

    Raises:
        InputError: Validation has a single user.
    """
    if len(np.unique(users)) < 2:
        raise InputError(
            "evaluation.stack needs two users or more in validation",
            "leave it out or take more examples",
            setting="evaluation.stack",
        )
    inputs = {split: np.column_stack([rows, model_scores[split]]) for split, rows in features.items()}
    rows = inputs["validation"]
    folds = GroupKFold(min(FOLDS, len(np.unique(users))), shuffle=True, random_state=seed)
    folds = list(folds.split(rows, groups=users))
    best, validation, settings = -np.inf, np.empty(0), {}
    for point in _small_grid(objective):
        estimator = boosting(objective, point, seed)
        stages = out_of_fold(
            lambda seen, made=estimator: Fitted(objective, made, rows[seen], labels[seen], seed, bar), rows, folds
        )
        for trees, scores in stages.items():
            found = quality(objective.task, labels, scores)
            if not settings or found > best:
                best, validation, settings = found, scores, point | {"max_iter": trees}
    fitted = Fitted(objective, boosting(objective, settings, seed), rows, labels, seed, bar)
    return {"validation": validation, "test": fitted.scores(inputs["test"])}, settings


@dataclass
class _Tuning:
    """A baseline before it is fitted.

    Attributes:
        grid: The settings that are tried.
        fit: Settings, rows, their labels and a bar that counts fits -> the fitted model.
        inputs: Makes split -> rows; large, so only one baseline's are kept at a time.
        per_class: Whether each class of propensity has a model of its own.
    """

    name: str
    grid: list[dict]
    fit: Callable[[dict, Any, np.ndarray, tqdm], Stages]
    inputs: Callable[[], dict[str, Any]]
    per_class: bool = False

    def fits(self, objective: Objective) -> int:
        """How many estimators `run` fits."""
        classes = len(objective.classes) if self.per_class or objective.task == "survival" else 1
        tuned = min(classes, TUNED_CLASSES) if self.per_class else classes
        return classes + len(self.grid) * tuned * (len(self.grid) > 1)

    def run(self, task: str, inputs: dict[str, Any], labels: dict[str, np.ndarray], bar: tqdm) -> tuple[Stages, dict]:
        """The best on validation, fitted on train, and its settings."""
        train, validation = labels["train"], labels["validation"]
        if self.per_class:
            frequent = np.sort(np.argsort(-train.sum(axis=0), kind="stable")[:TUNED_CLASSES])
            train, validation = train[:, frequent], validation[:, frequent]
        tried = []
        for point in self.grid if len(self.grid) > 1 else []:
            for trees, scores in self.fit(point, inputs["train"], train, bar).stages(inputs["validation"]):
                settings = point | ({"max_iter": trees} if trees else {})
                tried.append((quality(task, validation, scores), settings))
        settings = max(tried, key=lambda entry: entry[0])[1] if tried else self.grid[0]
        return self.fit(settings, inputs["train"], labels["train"], bar), settings


def _tunings(objective: Objective, names: list[str], features: dict[str, np.ndarray], seed: int) -> list[_Tuning]:
    value = objective.task == "value"
    rfm = [i for i, name in enumerate(names) if RFM.fullmatch(name)]
    curves = [{"alpha": 1, "log_scale": log} for log in (False, True)] if value else [{"C": 100}]
    same = "kaplan_meier" if objective.task == "survival" else "majority"
    grid, points = (RIDGE_GRID, VALUE_BOOSTING_GRID) if value else (LOGISTIC_GRID, BOOSTING_GRID)
    if objective.task == "survival":
        points = _small_grid(objective)

    def recency() -> dict[str, np.ndarray]:
        days = {split: rows[:, [names.index("target_recency_days")]] for split, rows in features.items()}
        return {split: np.log1p(np.nan_to_num(values, nan=NEVER)) for split, values in days.items()}

    def some() -> dict[str, np.ndarray]:
        return normal({split: rows[:, rfm] for split, rows in features.items()}, seed)

    def everything() -> dict[str, np.ndarray]:
        return normal(features, seed)

    baseline = partial(_estimators, objective, seed)
    return [
        baseline(same, [{"constant": c} for c in ("mean", "median")] if value else [{}], constant, recency),
        baseline("recency_rule", curves, linear, recency),
        baseline("rfm", grid, linear, some),
        baseline("linear_regression" if value else "logistic_regression", grid, linear, everything),
        baseline("gradient_boosting", points, lambda point: boosting(objective, point, seed), lambda: features),
    ]


def _estimators(
    objective: Objective,
    seed: int,
    name: str,
    grid: list[dict],
    make: Callable[[dict], BaseEstimator],
    inputs: Callable[[], dict[str, np.ndarray]],
) -> _Tuning:
    """A baseline of scikit-learn's estimators, of propensity one for each class."""

    def fit(settings: dict, rows: np.ndarray, labels: np.ndarray, bar: tqdm) -> Fitted:
        return Fitted(objective, make(settings), rows, labels, seed, bar)

    return _Tuning(name, grid, fit, inputs, per_class=objective.task == "propensity")


def _pair_tunings(pairs: dict[str, PairRows], seed: int) -> list[_Tuning]:
    """The baselines over pairs of a row and a class, each one model for all classes."""

    def fit(settings: dict, rows: PairRows, labels: np.ndarray, bar: tqdm) -> Stages:
        fitted = fit_pairs(settings, rows, labels, seed)
        bar.update()
        return fitted

    return [_Tuning(name, grid, fit, lambda: pairs) for name, grid in PAIR_GRIDS.items()]


def _word_tunings(
    objective: Objective, features: dict[str, np.ndarray], words: dict[str, np.ndarray], seed: int
) -> list[_Tuning]:
    """Of models that see the aggregates and the words."""
    grid, baseline = RIDGE_GRID if objective.task == "value" else LOGISTIC_GRID, partial(_estimators, objective, seed)

    def both() -> dict[str, np.ndarray]:
        return {split: np.column_stack([rows, words[split]]) for split, rows in features.items()}

    return [
        baseline("word_regression", grid, linear, lambda: normal(both(), seed)),
        baseline("word_boosting", _small_grid(objective), lambda point: boosting(objective, point, seed), both),
    ]


def _small_grid(objective: Objective) -> list[dict]:
    """Half of boosting's: each point is fitted once a fold, or once an interval."""
    grid = VALUE_BOOSTING_GRID if objective.task == "value" else BOOSTING_GRID
    return [point for point in grid if point["min_samples_leaf"] == 50]


def _stack_fits(objective: Objective) -> int:
    return 1 + FOLDS * len(_small_grid(objective))
