"""A teacher: boosting and regression on the aggregates say what the model learns beside the labels.

A label is one throw of a coin; the teacher says how the coin was weighted. From a log of a few thousand users a BERT
learns more of that than of the labels alone (Hinton et al., Distilling the Knowledge in a Neural Network, 2015; Fakoor
et al., Fast, Accurate, and Simple Models for Tabular Data via Augmented Distillation, 2020). No row is taught by a
model that has seen its user.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator
from sklearn.model_selection import GroupKFold
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from data_prep import InputError
from data_prep.prepare import replacing
from data_prep.prepared import column_array, opened, read_split, sampled
from finetune.baselines import SMALL, feature_rows
from finetune.estimators import (
    LOGISTIC_GRID,
    Fitted,
    Stages,
    boosting,
    linear,
    normal,
    out_of_fold,
    quality,
)
from finetune.objective import EDGE, Objective, log_odds
from finetune.pairs import PAIR_GRIDS, PairRows, fit_pairs, pair_columns, pair_rows

VERSION = 2  # of what the teacher is; scores of another one are made anew
FOLDER = "teacher"  # beside the prepared splits; deleting it costs the minute that it saves
FOLDS = 5
MAX_ROWS = 200_000  # of one fit; more take long and change little
SEED = 0  # of folds and fits, the same for all seeds of a run
# One point for boosting: three at half the rate took five times as long for .0003 of AUROC on Complete Journey.
POINTS = [{"learning_rate": 0.08, "max_leaf_nodes": 10, "min_samples_leaf": 200}]
PAIR_POINTS = [{"learning_rate": 0.08, "max_leaf_nodes": 20, "min_samples_leaf": 400}]


def taught(folder: Path, manifest: dict, objective: Objective, limit: int | None) -> np.ndarray:
    """What the teacher says of the training rows, as `Objective.scores` has it; kept beside the prepared data.

    Args:
        folder: The prepared data.
        manifest: Its manifest.
        objective: The task, binary, tiers or propensity.
        limit: See `data_prep.prepared.read_split`.

    Raises:
        InputError: The data is not prepared, or there are fewer users than folds.
    """
    opened(folder, "train")
    stat = (Path(folder) / "train.parquet").stat()
    key = repr((VERSION, manifest["content_hash"], stat.st_size, stat.st_mtime_ns, limit))
    made = Path(folder) / FOLDER / hashlib.sha256(key.encode()).hexdigest()[:32]
    if not made.is_dir():
        pairs = objective.task == "propensity"
        names = pair_columns(manifest) if pairs else manifest["aggregates"]
        table = read_split(folder, "train", limit, [*names, "user_id", "label"])
        labels, users = column_array(table["label"]), table["user_id"].to_numpy()
        scores = teach(objective, pair_rows(table) if pairs else feature_rows(table, names), labels, users)
        print(f"teacher: AUROC {quality(objective.task, labels, scores):.4f} on training users that it had not seen")
        with replacing(made) as unfinished:
            np.save(unfinished / "scores.npy", scores)
    return np.load(made / "scores.npy")


def teach(objective: Objective, rows: np.ndarray | PairRows, labels: np.ndarray, users: np.ndarray) -> np.ndarray:
    """The scores of a teacher of these rows, as `Objective.scores` has them.

    It is the mean of boosting and logistic regression, by the logarithms of their probabilities; for propensity they
    are those over pairs of a user and a class. Both are fitted in folds by user, so that each row is scored by models
    that were fitted to other users, and the settings of each are those with the best AUROC of these scores.

    Args:
        objective: The task; not value.
        rows: Features of shape (rows, columns), NaN where a value is missing; for propensity what is known of each
            class.
        labels: Of shape (rows,), for propensity (rows, classes).
        users: Whose each row is, of shape (rows,).

    Raises:
        InputError: There are fewer users than folds.
    """
    if len(np.unique(users)) < FOLDS:
        raise InputError(f"finetuning.teacher needs {FOLDS} users or more in training; set it to 0")
    splitter = GroupKFold(FOLDS, shuffle=True, random_state=SEED)
    folds = [(seen[sampled(len(seen), MAX_ROWS)], unseen) for seen, unseen in splitter.split(users, groups=users)]
    members = _pair_members(rows, labels) if isinstance(rows, PairRows) else _members(objective, rows, labels)
    best = []
    fits = FOLDS * sum(len(of) for _, of in members)
    with threadpool_limits(1 if len(users) < SMALL else None), tqdm(total=fits, desc="teacher", unit="fit") as bar:
        for inputs, points in members:
            found = (-np.inf, None)
            for fit in points:
                for scores in out_of_fold(fit, inputs, folds).values():
                    found = max(found, (quality(objective.task, labels, scores), scores), key=lambda entry: entry[0])
                bar.update(FOLDS)
            best.append(found[1])
    return mixed(objective, best)


Members = list[tuple[Any, list[Callable[[np.ndarray], Stages]]]]  # what is scored, and a fit for each point of a grid


def _members(objective: Objective, features: np.ndarray, labels: np.ndarray) -> Members:
    def fits(inputs: np.ndarray, estimators: list[BaseEstimator]) -> tuple:
        return inputs, [
            lambda seen, made=made: Fitted(objective, made, inputs[seen], labels[seen], SEED) for made in estimators
        ]

    return [
        fits(features, [boosting(objective, point, SEED) for point in POINTS]),
        fits(normal({"train": features}, SEED)["train"], [linear(point) for point in LOGISTIC_GRID]),
    ]


def _pair_members(rows: PairRows, labels: np.ndarray) -> Members:
    return [
        (rows, [lambda seen, point=point: fit_pairs(point, rows[seen], labels[seen], SEED) for point in grid])
        for grid in (PAIR_POINTS, PAIR_GRIDS["pair_regression"])
    ]


def mixed(objective: Objective, scores: list[np.ndarray]) -> np.ndarray:
    """The mean of several scores by their log-odds, of tiers by the logarithms of their probabilities."""
    if objective.task == "tiers":
        return softmax(np.mean(np.log(np.clip(scores, EDGE, 1)), axis=0), axis=-1)
    return expit(np.mean(log_odds(np.array(scores)), axis=0))
