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
from sklearn.metrics import root_mean_squared_error
from sklearn.model_selection import GroupKFold
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from data_prep import InputError
from data_prep.cutoffs import split_file
from data_prep.facts import Manifest
from data_prep.files import files_hash, replacing
from data_prep.prepared import Limit, column_array, opened, read_split, sampled
from finetune.baselines.estimators import (
    LOGISTIC_GRID,
    RIDGE_GRID,
    Fitted,
    Stages,
    boosting,
    linear,
    normal,
    out_of_fold,
    quality,
)
from finetune.baselines.fit import SMALL, feature_rows
from finetune.baselines.pairs import PAIR_GRIDS, PairRows, fit_pairs, pair_columns, pair_rows
from finetune.model.objective import EDGE, Objective, log_odds

VERSION = 7  # of what the teacher is; scores of another one are made anew
FOLDER = "teacher"  # beside the prepared splits; deleting it costs the minute that it saves
SCORES, CHECKSUM = "scores.npy", "checksum"
FOLDS = 5
MAX_ROWS = 200_000  # of one fit; more take long and change little
SEED = 0  # of folds and fits, the same for all seeds of a run
# One point for boosting: three at half the rate took five times as long for .0003 of AUROC on Complete Journey.
POINTS = [{"learning_rate": 0.08, "max_leaf_nodes": 10, "min_samples_leaf": 200}]
# Of values smaller leaves, too: few users spend by far the most.
VALUE_POINTS = [*POINTS, {"learning_rate": 0.08, "max_leaf_nodes": 5, "min_samples_leaf": 50}]
PAIR_POINTS = [{"learning_rate": 0.08, "max_leaf_nodes": 20, "min_samples_leaf": 400}]
SHARES = (0.5, 0.75, 0.25, 1.0, 0.0)  # of boosting; between equals the first


def taught(folder: Path, manifest: Manifest, objective: Objective, limit: Limit, value_loss: str) -> np.ndarray:
    """What the teacher says of the training rows, as `Objective.scores` has it; kept beside the prepared data.

    Args:
        folder: The prepared data.
        manifest: Its manifest.
        objective: The task.
        limit: See `data_prep.prepared.read_split`; of training.
        value_loss: Of `objective.VALUE_LOSSES`.

    Raises:
        InputError: The data is not prepared, or there are fewer users than folds.
    """
    opened(folder, "train")
    stat = (Path(folder) / split_file("train")).stat()
    key = repr((VERSION, manifest["content_hash"], stat.st_size, stat.st_mtime_ns, limit, value_loss))
    made = Path(folder) / FOLDER / hashlib.sha256(key.encode()).hexdigest()[:32]
    if not _is_whole(made):
        if made.is_dir():
            print(f"warning: {made} is damaged and is made anew")
        pairs = objective.task == "propensity"
        names = pair_columns(manifest) if pairs else manifest["aggregates"]
        table = read_split(folder, "train", limit, [*names, "user_id", "label"])
        labels, users = column_array(table["label"]), table["user_id"].to_numpy()
        rows = pair_rows(table) if pairs else feature_rows(table, names)
        scores, share = teach(objective, rows, labels, users, value_loss)
        found = _goodness(objective, value_loss, labels, scores)
        error = "MAE" if value_loss == "absolute_error" else "RMSE"
        said = f"{error} {-found:,.4g}" if objective.task == "value" else f"AUROC {found:.4f}"
        parts = f"{share:.0%} boosting and {1 - share:.0%} regression"
        print(f"teacher: {parts}, {said} on training users that it had not seen")
        with replacing(made) as unfinished:
            np.save(unfinished / SCORES, scores)
            (unfinished / CHECKSUM).write_text(files_hash([unfinished / SCORES]), encoding="utf-8")
    return np.load(made / SCORES)


def _is_whole(made: Path) -> bool:
    """Whether the scores lie there as they were written."""
    try:
        return (made / CHECKSUM).read_bytes() == files_hash([made / SCORES]).encode()
    except OSError:
        return False


def teach(
    objective: Objective,
    rows: np.ndarray | PairRows,
    labels: np.ndarray,
    users: np.ndarray,
    value_loss: str = "squared_error",
) -> tuple[np.ndarray, float]:
    """The scores of a teacher of these rows, as `Objective.scores` has them, and the share of boosting in them.

    They are `mixed` from boosting and regression on the aggregates; for propensity from those over pairs of a user and
    a class. Both are fitted in folds by user, so that each row is scored by models that were fitted to other users. The
    settings of each, and the share, are those whose scores have the best AUROC, of values the smallest error.

    Args:
        objective: The task.
        rows: Features of shape (rows, columns), NaN where a value is missing; for propensity what is known of each
            class.
        labels: Of shape (rows,), for propensity (rows, classes).
        users: Whose each row is, of shape (rows,).
        value_loss: Of values, which error is small.

    Raises:
        InputError: There are fewer users than folds.
    """
    if len(np.unique(users)) < FOLDS:
        raise InputError(
            f"finetuning.teacher needs {FOLDS} users or more in training", "set it to 0", setting="finetuning.teacher"
        )
    splitter = GroupKFold(FOLDS, shuffle=True, random_state=SEED)
    folds = [(seen[sampled(len(seen), MAX_ROWS)], unseen) for seen, unseen in splitter.split(users, groups=users)]
    if isinstance(rows, PairRows):
        members = _pair_members(rows, labels)
    else:
        members = _members(objective, rows, labels, value_loss)
    best = []
    fits = FOLDS * sum(len(points) for _, points in members)
    with threadpool_limits(1 if len(users) < SMALL else None), tqdm(total=fits, desc="teacher", unit="fit") as bar:
        for inputs, points in members:
            found = (-np.inf, None)
            for fit in points:
                for scores in out_of_fold(fit, inputs, folds).values():
                    good = _goodness(objective, value_loss, labels, scores)
                    found = max(found, (good, scores), key=lambda entry: entry[0])
                bar.update(FOLDS)
            best.append(found[1])

    def both(share: float) -> np.ndarray:
        return mixed(objective, best, [share, 1 - share])

    share = max(SHARES, key=lambda part: _goodness(objective, value_loss, labels, both(part)))
    return both(share), share


def _goodness(objective: Objective, value_loss: str, labels: np.ndarray, scores: np.ndarray) -> float:
    """Higher is better."""
    if objective.task == "value" and value_loss == "squared_error":
        return -float(root_mean_squared_error(labels, scores))
    return quality(objective.task, labels, scores)


Members = list[tuple[Any, list[Callable[[np.ndarray], Stages]]]]  # what is scored, and a fit for each point of a grid


def _members(objective: Objective, features: np.ndarray, labels: np.ndarray, value_loss: str) -> Members:
    def fits(inputs: np.ndarray, estimators: list[BaseEstimator]) -> tuple:
        return inputs, [
            lambda seen, made=made: Fitted(objective, made, inputs[seen], labels[seen], SEED) for made in estimators
        ]

    value = objective.task == "value"
    more = {"loss": value_loss} if value else {}
    return [
        fits(features, [boosting(objective, point | more, SEED) for point in (VALUE_POINTS if value else POINTS)]),
        fits(
            normal({"train": features}, SEED)["train"],
            [linear(point) for point in (RIDGE_GRID if value else LOGISTIC_GRID)],
        ),
    ]


def _pair_members(rows: PairRows, labels: np.ndarray) -> Members:
    return [
        (rows, [lambda seen, point=point: fit_pairs(point, rows[seen], labels[seen], SEED) for point in grid])
        for grid in (PAIR_POINTS, PAIR_GRIDS["pair_regression"])
    ]


def mixed(objective: Objective, scores: list[np.ndarray], shares: list[float]) -> np.ndarray:
    """The mean of several scores that have these shares: of values, of log-odds, or for tiers of the logarithms of
    their probabilities."""
    if objective.task == "value":
        return np.average(scores, axis=0, weights=shares)
    if objective.task == "tiers":
        return softmax(np.average(np.log(np.clip(scores, EDGE, 1)), axis=0, weights=shares), axis=-1)
    return expit(np.average(log_odds(np.array(scores)), axis=0, weights=shares))
