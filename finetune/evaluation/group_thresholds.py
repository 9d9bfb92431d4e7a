"""A threshold for each group in the place of one for all: chosen on validation, and what it brings and costs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.evaluation.bootstrap import interval, user_weights
from finetune.evaluation.rows import ScoredRows
from finetune.evaluation.slices import rates_and_gaps
from finetune.experiment.config import EvaluationConfig
from finetune.experiment.groups import OTHER
from finetune.figures.measures import RATES
from finetune.model.calibration import equal_thresholds

ONE, OWN = "one", "own"  # the one threshold for all, and each group's own
KEPT = RATES[:2]  # the share selected, and the true positive rate
NOT_SEEN = "validation gave it none of its own"


@dataclass(frozen=True)
class ByGroup:
    """Thresholds of the groups of a slice.

    Attributes:
        by: The slice.
        equal: What they make equal on validation.
        thresholds: Group -> its threshold.
        common: Group -> why it keeps the one threshold.
    """

    by: str
    equal: str
    thresholds: dict[str, float]
    common: dict[str, str]

    @property
    def saved(self) -> dict[str, Any]:
        """As `finetune.model.calibration.Calibration` has them."""
        return {"group_by": self.by, "group_equal": self.equal, "group_thresholds": self.thresholds}


def choose_by_group(
    settings: EvaluationConfig, labels: np.ndarray, scores: np.ndarray, groups: Sequence[str], threshold: float
) -> ByGroup:
    """The thresholds that the validation rows choose; all keep the one threshold where fewer than two groups can.

    Args:
        settings: With group_thresholds.
        labels: 0 or 1, of shape (rows,).
        scores: Calibrated, of shape (rows,).
        groups: Of each row.
        threshold: The one for all.
    """
    asked = settings.group_thresholds
    assert asked is not None, "as it was asked for"
    of_row, common = np.array(groups, str), {}
    for name in np.unique(of_row):
        own = of_row == name
        if name == OTHER:
            common[str(name)] = "many small groups together"
        elif own.sum() < settings.min_slice:
            common[str(name)] = f"fewer than {settings.min_slice} validation rows"
        elif not (labels[own] > 0).any():
            common[str(name)] = "no positive validation row"
    fitted = ~np.isin(of_row, list(common))
    found = {}
    if len(np.unique(of_row[fitted])) > 1:
        found = equal_thresholds(asked.equal, labels[fitted], scores[fitted], of_row[fitted], threshold)
    return ByGroup(asked.by, asked.equal, found, common)


def thresholds_by_group(
    scored: ScoredRows,
    groups: Sequence[str],
    chosen: ByGroup,
    threshold: float,
    settings: EvaluationConfig,
    seed: int = 0,
) -> dict[str, Any]:
    """What the groups' own thresholds do on rows that did not choose them, beside the one threshold on the same rows.

    Args:
        scored: The test rows of a binary task with the model's scores.
        groups: Of each row.
        chosen: By `choose_by_group`.
        threshold: The one for all.
        settings: With bootstrap, min_slice and perhaps costs.
        seed: Of the bootstrap.

    Returns:
        by and equal; groups (the largest first) with rows, threshold (None where it is the one), and under one and own
        KEPT with intervals; common, group -> why it keeps the one threshold; gaps of both; and overall the contacted,
        precision, recall and perhaps profit of both, and difference (own minus one), with intervals.
    """
    of_row = np.array(groups, str)
    names, group, counts = np.unique(of_row, return_inverse=True, return_counts=True)
    shown = [at for at in np.lexsort((names, -counts)) if counts[at] >= settings.min_slice]
    number = np.full(len(names), -1)
    number[shown] = np.arange(len(shown))
    own = np.array([chosen.thresholds.get(name, threshold) for name in names.tolist()])[group]
    rules = {ONE: np.full(len(own), threshold), OWN: own}
    found = {
        name: rates_and_gaps(scored, number[group], len(shown), from_on, settings.bootstrap, seed)
        for name, from_on in rules.items()
    }
    keys = [key for name in KEPT for key in (name, f"{name}_interval")]
    unseen = {name: NOT_SEEN for name in names.tolist() if name not in chosen.thresholds | chosen.common}
    return {
        "by": chosen.by,
        "equal": chosen.equal,
        "groups": [
            {"value": str(names[at]), "rows": int(counts[at]), "threshold": chosen.thresholds.get(str(names[at]))}
            | {rule: {key: rates[key][i] for key in keys} for rule, (rates, _) in found.items()}
            for i, at in enumerate(shown)
        ],
        "common": chosen.common | unseen,
        "gaps": {rule: gaps for rule, (_, gaps) in found.items()},
        "overall": _overall(scored, rules, settings, seed),
    }


def _overall(scored: ScoredRows, rules: dict[str, np.ndarray], settings: EvaluationConfig, seed: int) -> dict[str, Any]:
    """Both rules on all rows, and their paired difference."""
    labels, everyone = scored.labels, len(scored.labels)
    users, user = np.unique(scored.users, return_inverse=True)

    def of_users(values: np.ndarray) -> np.ndarray:
        return np.bincount(user, values, len(users))

    selected = {rule: (scored.model >= from_on).astype(float) for rule, from_on in rules.items()}
    sums = {rule: np.stack([of_users(rows), of_users(rows * labels)]) for rule, rows in selected.items()}
    both = np.stack([of_users(np.ones(everyone)), of_users(labels)])
    weights = np.concatenate([*user_weights(users, settings.bootstrap, seed)], axis=1)

    def figures(of_rule: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
        (chosen, hit), (rows, positives) = of_rule @ weights, both @ weights
        with np.errstate(invalid="ignore", divide="ignore"):
            made = {"selected_rate": chosen / rows, "precision": hit / chosen, "recall": hit / positives}
            if settings.costs:  # of as many rows as there are, or a total would spread with the weights
                earned = settings.costs.kept_customer * hit - settings.costs.contact * chosen
                made["profit"] = earned / rows * everyone
        return made

    once = np.ones((len(users), 1))
    real = {rule: {key: float(value[0]) for key, value in figures(sums[rule], once).items()} for rule in rules}
    drawn = {rule: figures(sums[rule], weights) for rule in rules}
    found = {
        rule: {"contacted": int(selected[rule].sum()), "found": int((selected[rule] * labels).sum())}
        | real[rule]
        | {f"{key}_interval": interval(values) for key, values in drawn[rule].items()}
        for rule in rules
    }
    apart = {key: real[OWN][key] - real[ONE][key] for key in real[ONE]}
    apart |= {f"{key}_interval": interval(drawn[OWN][key] - drawn[ONE][key]) for key in real[ONE]}
    return found | {"difference": apart}
