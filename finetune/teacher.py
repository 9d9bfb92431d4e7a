"""A teacher: boosting and regression on all aggregates say what the model learns beside the labels.

A label is one throw of a coin; the teacher says how the coin was weighted. From a log of a few thousand users a BERT
learns more of that than of the labels alone (Hinton et al., Distilling the Knowledge in a Neural Network, 2015; Fakoor
et al., Fast, Accurate, and Simple Models for Tabular Data via Augmented Distillation, 2020). No row is taught by a
model that has seen its user.
"""

import hashlib
from pathlib import Path

import numpy as np
from scipy.special import expit, logit, softmax
from sklearn.model_selection import GroupKFold
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from data_prep import InputError
from data_prep.prepare import replacing
from data_prep.prepared import column_array, opened, read_split, sampled
from finetune.baselines import SMALL
from finetune.estimators import BOOSTING_GRID, LOGISTIC_GRID, boosting, linear, normal, out_of_fold, quality
from finetune.objective import Objective

VERSION = 1  # of what the teacher is; scores of another one are made anew
FOLDER = "teacher"  # beside the prepared splits; deleting it costs the minute that it saves
FOLDS = 5
MAX_ROWS = 200_000  # of one fit; more take long and change little
SEED = 0  # of folds and fits, the same for all seeds of a run
EDGE = 1e-4  # no probability is nearer to 0 or 1: beyond it a logarithm would say more than is known
POINTS = [point for point in BOOSTING_GRID if point["learning_rate"] == 0.04 and point["min_samples_leaf"] == 200]


def taught(folder: Path, manifest: dict, objective: Objective, limit: int | None) -> np.ndarray:
    """What the teacher says of the training rows, as `Objective.scores` has it; kept beside the prepared data.

    Args:
        folder: The prepared data.
        manifest: Its manifest.
        objective: The task, binary or tiers.
        limit: See `data_prep.prepared.read_split`.

    Raises:
        InputError: The data is not prepared, or there are fewer users than folds.
    """
    opened(folder, "train")
    stat = (Path(folder) / "train.parquet").stat()
    key = repr((VERSION, manifest["content_hash"], stat.st_size, stat.st_mtime_ns, limit))
    made = Path(folder) / FOLDER / hashlib.sha256(key.encode()).hexdigest()[:32]
    if not made.is_dir():
        names = manifest["aggregates"]
        table = read_split(folder, "train", limit, [*names, "user_id", "label"])
        features = np.column_stack([table[name].to_numpy().astype(np.float64) for name in names])
        labels = column_array(table["label"])
        scores = teach(objective, features, labels, table["user_id"].to_numpy())
        print(f"teacher: AUROC {quality(objective.task, labels, scores):.4f} on training users that it had not seen")
        with replacing(made) as unfinished:
            np.save(unfinished / "scores.npy", scores)
    return np.load(made / "scores.npy")


def teach(objective: Objective, features: np.ndarray, labels: np.ndarray, users: np.ndarray) -> np.ndarray:
    """The scores of a teacher of these rows, as `Objective.scores` has them.

    It is the mean of boosting and logistic regression, by the logarithms of their probabilities. Both are fitted in
    folds by user, so that each row is scored by models that were fitted to other users, and the settings of each are
    those with the best AUROC of these scores.

    Args:
        objective: The task, binary or tiers.
        features: Of shape (rows, columns), NaN where a value is missing.
        labels: Of shape (rows,).
        users: Whose each row is, of shape (rows,).

    Raises:
        InputError: There are fewer users than folds.
    """
    if len(np.unique(users)) < FOLDS:
        raise InputError(f"finetuning.teacher needs {FOLDS} users or more in training; set it to 0")
    splitter = GroupKFold(FOLDS, shuffle=True, random_state=SEED)
    folds = [(seen[sampled(len(seen), MAX_ROWS)], unseen) for seen, unseen in splitter.split(features, groups=users)]
    scaled = normal({"train": features}, SEED)["train"]
    members = []
    with (
        threadpool_limits(1 if len(features) < SMALL else None),
        tqdm(total=FOLDS * (len(POINTS) + len(LOGISTIC_GRID)), desc="teacher", unit="fit", leave=False) as bar,
    ):
        for inputs, estimators in (
            (features, [boosting(objective, point, SEED) for point in POINTS]),
            (scaled, [linear(point) for point in LOGISTIC_GRID]),
        ):
            tried = (
                (quality(objective.task, labels, scores), scores)
                for estimator in estimators
                for scores in out_of_fold(objective, estimator, inputs, labels, folds, SEED, bar).values()
            )
            members.append(max(tried, key=lambda entry: entry[0])[1])
    return mixed(objective, members)


def mixed(objective: Objective, scores: list[np.ndarray]) -> np.ndarray:
    """The mean of several scores by the logarithms of their probabilities, of binary by their log-odds."""
    if objective.task == "tiers":
        return softmax(np.mean(np.log(np.clip(scores, EDGE, 1)), axis=0), axis=-1)
    return expit(np.mean(logit(np.clip(scores, EDGE, 1 - EDGE)), axis=0))
