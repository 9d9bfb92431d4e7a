"""A rival for a model that moves from one shop to another: a logistic regression on scale-free aggregates."""

from itertools import product
from pathlib import Path

import numpy as np

STRENGTHS = (0.001, 0.01, 0.1, 1.0)  # C of the regression
WEIGHTS = (0.0, 1.0, 10.0, 100.0)  # of a row of the new shop beside one of the old; 0 moves the regression as it is


def moved_regression(old: Path, new: Path, users: int) -> tuple[np.ndarray, dict]:
    """Fitted on all labels of the old shop and on those of some users of the new one.

    The aggregates that both shops have are quantile-transformed by each shop's own training rows, whose labels that
    does not need. Strength and weight are those with the best AUROC on the new shop's known validation labels.

    Args:
        old: Prepared data of the old shop.
        new: Of the new shop.
        users: Whose labels are known there, see `data_prep.prepared.Labelled`.

    Returns:
        Scores of the new shop's test rows, and the settings.
    """
    from sklearn.linear_model import LogisticRegression

    from data_prep.prepared import Labelled, read_manifest, read_split
    from finetune.baselines.estimators import normal, quality

    names = [name for name in read_manifest(new)["aggregates"] if name in read_manifest(old)["aggregates"]]

    def rows(folder: Path, split: str, limit: Labelled | None = None) -> tuple[np.ndarray, np.ndarray]:
        table = read_split(folder, split, limit, [*names, "label"])
        columns = [table[name].to_numpy().astype(float) for name in names]
        return np.column_stack(columns), table["label"].to_numpy()

    known = Labelled(users)
    there, taught = rows(old, "train")
    parts = {"train": rows(new, "train"), "validation": rows(new, "validation", known), "test": rows(new, "test")}
    here, labels = rows(new, "train", known)

    def scale_free(features: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        # Without the flags of what is missing, which differ between shops.
        return {split: columns[:, : len(names)] for split, columns in normal(features, 0).items()}

    moved = scale_free({split: features for split, (features, _) in parts.items()} | {"known": here})
    there = scale_free({"train": there})["train"]
    found = []
    for strength, weight in product(STRENGTHS, WEIGHTS):
        fitted = LogisticRegression(C=strength, solver="newton-cholesky").fit(
            np.concatenate([there, moved["known"]]),
            np.concatenate([taught, labels]),
            np.concatenate([np.ones(len(taught)), np.full(len(labels), weight)]),
        )
        judged, scores = (fitted.predict_proba(moved[split])[:, 1] for split in ("validation", "test"))
        found.append((quality("binary", parts["validation"][1], judged), scores, {"C": strength, "weight": weight}))
    _, scores, settings = max(found, key=lambda one: one[0])
    return scores, settings
