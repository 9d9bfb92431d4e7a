"""Groups of users beside each other: which group a test example is in, measures by group, gaps, and decay over time."""

import math
import warnings
from collections.abc import Sequence
from datetime import datetime
from itertools import combinations

import numpy as np
import pyarrow as pa
from scipy.sparse import coo_array

from data_prep.moments import show
from finetune.evaluation.bootstrap import bootstrap, interval, interval_names, user_weights
from finetune.evaluation.rows import ScoredRows
from finetune.experiment.groups import largest, row_groups
from finetune.experiment.parser import Experiment
from finetune.figures.measures import GAPS, MAIN, MODEL, RATES, at_horizon
from finetune.figures.metrics import compute_metrics

SLICES = "evaluation.slices"


def slice_values(experiment: Experiment, rows: pa.Table) -> dict[str, list[str]]:
    """The group of each test row in each of evaluation.slices, and with slice_pairs in every two of them together.

    See `finetune.experiment.groups.row_groups` for the rows, for what an expression sees and for what is refused.
    """
    settings = experiment.evaluation
    found = row_groups(experiment, rows, "test", {f"{SLICES}.{name}": sql for name, sql in settings.slices.items()})
    groups = {name.removeprefix(f"{SLICES}."): values for name, values in found.items()}
    return groups | (intersections(groups) if settings.slice_pairs else {})


def intersections(groups: dict[str, list[str]]) -> dict[str, list[str]]:
    """The group of each row in every two slices together; "other" for all but the 20 largest.

    Args:
        groups: Slice -> the group of each row.
    """
    found = {}
    for (one, firsts), (other, seconds) in combinations(groups.items(), 2):
        both = np.array([f"{first}, {second}" for first, second in zip(firsts, seconds, strict=True)], object)
        found[f"{one} and {other}"] = largest(both)
    return found


def slice_metrics(
    scored: ScoredRows,
    values: Sequence[str],
    threshold: float | None,
    min_rows: int,
    resamples: int,
    seed: int = 0,
) -> dict:
    """Measures of each group of a slice, and how far the groups are apart.

    The gaps are the largest minus the smallest value over the groups: of the true positive rate (equal opportunity;
    Hardt, Price, Srebro: Equality of Opportunity in Supervised Learning, 2016), of the share that is selected
    (demographic parity, ibid.), and of mean score minus mean label (calibration within groups). As the two groups are
    picked after looking, their intervals hold for all pairs of groups at once (Tukey: The Problem of Multiple
    Comparisons, 1953, and Kramer's standard error of each pair, with the bootstrap in the place of the studentized
    range). One that includes zero does not tell the groups apart.

    Args:
        scored: The rows with the model's scores.
        values: The group of each row.
        threshold: The score from which on a row of a binary task is selected; None where there is none.
        min_rows: A group of fewer rows is named but not measured.
        resamples: Of the users.
        seed: Of the resamples.

    Returns:
        groups (the largest first; measures and the intervals of those that have them), too_small, and gaps; what is not
            defined is NaN.
    """
    names, group, counts = np.unique(np.array(values, str), return_inverse=True, return_counts=True)
    order = np.lexsort((names, -counts))
    measured = [at for at in order if counts[at] >= max(min_rows, 1)]
    number = np.full(len(names), -1)
    number[measured] = np.arange(len(measured))
    group = number[group]
    rates, gaps = rates_and_gaps(scored, group, len(measured), threshold, resamples, seed)
    groups = []
    for i, at in enumerate(measured):
        figures, _ = _figures(scored.of_model().where(group == i), resamples, seed)
        groups.append({"value": str(names[at]), **figures, **{name: rate[i] for name, rate in rates.items()}})
    small = [{"value": str(names[at]), "rows": int(counts[at])} for at in order if number[at] < 0]
    return {"groups": groups, "too_small": small, "gaps": gaps}


def by_cutoff(scored: ScoredRows, cutoffs: np.ndarray, resamples: int, seed: int = 0) -> list[dict]:
    """Measures at each test cutoff, in order: does the model decay?

    Args:
        scored: The rows with the model's scores.
        cutoffs: Of each row, datetime64 of shape (rows,).
        resamples: Of the users.
        seed: Of the resamples.

    Returns:
        Of each cutoff cutoff, rows, users, positives, the measures with their intervals and, after the first, the
        main one's change since the first cutoff with the interval, paired by users, as many stand at both; but not
        where the log reaches other horizons from there, as another one is another question.
    """
    main, found, first = MAIN[scored.task], [], None
    for cutoff in np.unique(cutoffs):
        figures, drawn = _figures(scored.of_model().where(cutoffs == cutoff), resamples, seed, among=scored.users)
        if first and _reached(scored, figures) == _reached(scored, first[0]):
            figures[f"{main}_change"] = figures[main] - first[0][main]
            figures[f"{main}_change_interval"] = interval(drawn[main] - first[1][main])
        first = first or (figures, drawn)
        moment = cutoff.astype("datetime64[us]").astype(datetime)
        found.append({"cutoff": show(moment), **figures})
    return found


def _reached(scored: ScoredRows, figures: dict) -> list[bool]:
    """Whether something is known at each horizon of survival; empty for other tasks."""
    numbers = range(1, scored.model.shape[1] + 1) if scored.task == "survival" else ()
    return [not math.isnan(figures[at_horizon("brier_score", number)]) for number in numbers]


def _figures(
    scored: ScoredRows, resamples: int, seed: int, among: np.ndarray | None = None
) -> tuple[dict, dict[str, np.ndarray]]:
    """Counts, measures and their intervals; and the measures' values on each resample."""
    drawn = bootstrap(scored, resamples, seed, among)[MODEL]
    figures = scored.counts() | compute_metrics(scored.task, scored.labels, scored.model, **scored.known)
    figures |= {f"{name}_interval": interval(drawn[name]) for name in interval_names(scored.task, scored.model)}
    return figures, drawn


def rates_and_gaps(
    scored: ScoredRows,
    group: np.ndarray,
    groups: int,
    threshold: float | np.ndarray | None,
    resamples: int,
    seed: int,
) -> tuple[dict[str, list], dict]:
    """RATES of each group and GAPS, with their intervals; NaN for labels of no yes or no.

    Args:
        scored: The rows with the model's scores.
        group: The number of each row's group, -1 for none.
        groups: How many there are.
        threshold: The score from which on a row is selected, for all or of shape (rows,).
        resamples: Of the users.
        seed: Of the resamples.
    """
    nothing = {name: [float("nan")] * groups for name in RATES}
    gaps = {gap: float("nan") for gap in GAPS} | {f"{gap}_interval": [float("nan")] * 2 for gap in GAPS}
    if scored.task != "binary" or not groups:
        return nothing, gaps
    labels, scores = scored.labels, scored.model
    everyone, user = np.unique(scored.users, return_inverse=True)
    selected = np.full(len(scores), np.nan) if threshold is None else (scores >= threshold).astype(float)
    parts = np.stack([np.ones(len(scores)), selected, labels, np.where(labels > 0, selected, 0.0), scores - labels])
    inside = group >= 0
    place = np.arange(len(parts))[:, None] * groups + group[inside]
    sums = coo_array(
        (parts[:, inside].ravel(), (place.ravel(), np.tile(user[inside], len(parts)))),
        shape=(len(parts) * groups, len(everyone)),
    ).tocsr()

    def rates(weights: np.ndarray) -> np.ndarray:
        """Of shape (RATES, groups, resamples)."""
        rows, chosen, positive, hit, off = (sums @ weights).reshape(len(parts), groups, -1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.stack([chosen / rows, np.where(positive > 0, hit / positive, np.nan), off / rows])

    real = rates(np.ones((len(everyone), 1)))
    drawn = np.concatenate([rates(weights) for weights in user_weights(everyone, resamples, seed)], axis=2)
    for gap, rate in zip(GAPS, ("true_positive_rate", "selected_rate", "calibration_gap"), strict=True):
        values = real[RATES.index(rate), :, 0]
        known = ~np.isnan(values)
        if known.sum() > 1:
            gaps[gap], gaps[f"{gap}_interval"] = _widest(values[known], drawn[RATES.index(rate), known])
    found = {name: real[at, :, 0].tolist() for at, name in enumerate(RATES)}
    found |= {f"{name}_interval": [interval(values) for values in drawn[at]] for at, name in enumerate(RATES)}
    return found, gaps


def _widest(values: np.ndarray, drawn: np.ndarray) -> tuple[float, list[float]]:
    """The largest minus the smallest of the groups' values, and its interval by those of shape (groups, resamples)."""
    off = drawn - values[:, None]
    pairs = off[:, None] - off
    with warnings.catch_warnings():  # a group without a value in any resample
        warnings.simplefilter("ignore", RuntimeWarning)
        error = np.nanstd(pairs, axis=2, keepdims=True)
        largest = np.nanmax(np.abs(pairs) / np.where(error > 0, error, np.inf), axis=(0, 1))
        half = np.nanquantile(largest, 0.95) * error[values.argmax(), values.argmin(), 0]
    gap = float(np.ptp(values))
    return gap, [gap - float(half), gap + float(half)]
