"""Whom to contact at the last cutoff: how many of those who matter are reached by each share of the users."""

from collections.abc import Sequence
from datetime import datetime

import numpy as np
from scipy.sparse import csc_array

from data_prep.moments import show
from finetune.evaluation.bootstrap import interval, user_weights
from finetune.evaluation.counts import score_bins
from finetune.evaluation.rows import ScoredRows
from finetune.figures.measures import MODEL
from finetune.figures.survival import weighted

SHARES = np.linspace(0, 1, 101)  # of the users


def contact(scored: ScoredRows, cutoffs: np.ndarray, share: float, resamples: int, seed: int = 0) -> dict | None:
    """What contacting the users with the highest scores at the last cutoff finds, for each share of them.

    A user stands there once, so that the counts are of people. Users of equal scores are contacted in any order, and
    what is found is its expected value over these orders. Intervals are over users, for as many users and contacts as
    there are.

    Args:
        scored: The test rows with the scores of the model and of the baselines; of a binary, value or survival task.
        cutoffs: Of each row, datetime64 of shape (rows,).
        share: Of the users who can be contacted.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Returns:
        cutoff, users; total, the number of positives or the sum of the values; share; shares and contacted, of shape
        (101,); found, scorer -> of shape (101,); low and high, the interval of the model's; ahead, baseline -> low and
        high, the interval of the model minus it; and at `share` contacted_at, found_at, of each scorer, and
        difference_at, of each baseline the model minus it, with the interval; of survival horizon, the longest one that
        the log reaches from there: whose event comes by it counts. None for tiers and propensity, for values below
        zero, and where nobody is to be found.
    """
    if scored.task not in ("binary", "value", "survival") or not len(cutoffs):
        return None
    last = cutoffs.max()
    rows, more = scored.where(cutoffs == last), {}
    if rows.horizons is not None:
        rows, horizon = _by_longest(rows, rows.horizons)
        more = {"horizon": horizon}
    total = float(rows.labels.sum())
    if rows.labels.min() < 0 or total <= 0:
        return None
    users = contacted(np.append(SHARES, share), len(rows.labels))
    shares = users / len(rows.labels)  # of whole users, or a contact could find more than there are
    reached = {name: _Reached(scores, rows.labels) for name, scores in rows.scores.items()}
    found = {name: scorer(np.ones((len(rows.labels), 1)), shares)[0] * users for name, scorer in reached.items()}
    drawn = {name: means * users for name, means in _resampled(rows.users, reached, shares, resamples, seed).items()}
    low, high = _ends(drawn[MODEL])
    ahead = {name: _ends(drawn[MODEL] - values) for name, values in drawn.items() if name != MODEL}
    return {
        "cutoff": show(last.astype("datetime64[us]").astype(datetime)),
        **more,
        "users": len(rows.labels),
        "total": total,
        "share": share,
        "shares": SHARES,
        "contacted": users[:-1],
        "found": {name: values[:-1] for name, values in found.items()},
        "low": low[:-1],
        "high": high[:-1],
        "ahead": {name: {"low": ends[0][:-1], "high": ends[1][:-1]} for name, ends in ahead.items()},
        "contacted_at": users[-1],
        "found_at": {name: values[-1] for name, values in found.items()},
        "found_at_interval": [low[-1], high[-1]],
        "difference_at": {
            name: {"difference": found[MODEL][-1] - found[name][-1], "interval": ends[:, -1]}
            for name, ends in ahead.items()
        },
    }


def _by_longest(rows: ScoredRows, horizons: Sequence[str]) -> tuple[ScoredRows, str]:
    """The rows of one cutoff as those of yes or no at the longest horizon at which all are known, and that one."""
    come, weights = weighted(rows.labels)
    at = int(np.flatnonzero((weights > 0).all(axis=0))[-1])  # the first one is always known
    scores = {name: values[:, at] for name, values in rows.scores.items()}
    return ScoredRows("binary", come[:, at], scores, rows.users), horizons[at]


def contacted(share: float | np.ndarray, users: int) -> np.ndarray:
    """How many users a share of them is, whole: one half goes to the even number."""
    return np.round(np.multiply(share, users))


def _ends(drawn: np.ndarray) -> np.ndarray:
    """The intervals of resamples of shape (resamples, shares), as an array of shape (2, shares)."""
    return np.transpose([interval(values) for values in drawn.T])


def _resampled(
    users: np.ndarray, reached: dict[str, "_Reached"], shares: np.ndarray, resamples: int, seed: int
) -> dict[str, np.ndarray]:
    """What a contact of each scorer finds on the same resamples of the users, of shape (resamples, shares)."""
    means = {name: np.empty((resamples, len(shares))) for name in reached}
    user, done = np.unique(users, return_inverse=True)[1], 0  # each row's among those of user_weights
    for weights in user_weights(users, resamples, seed):
        part = slice(done, done + weights.shape[1])
        for name, scorer in reached.items():
            means[name][part] = scorer(weights[user], shares)
        done = part.stop
    return means


class _Reached:
    """What a contact finds on average among the highest scores, for any weights of the rows."""

    def __init__(self, scores: np.ndarray, labels: np.ndarray) -> None:
        bins = score_bins(scores)
        shape, place = (bins.max() + 1, len(scores)), (bins, np.arange(len(scores)))
        self.rows = csc_array((np.ones(len(scores)), place), shape=shape)
        self.found = csc_array((labels.astype(float), place), shape=shape)

    def __call__(self, weights: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """Of weights of shape (rows, resamples): the mean label of the contacted, of shape (resamples, shares)."""
        rows, found = (np.cumsum(part @ weights, axis=0) for part in (self.rows, self.found))
        means = np.zeros((weights.shape[1], len(shares)))
        for at in range(weights.shape[1]):
            reached = shares * rows[-1, at]
            sums = np.interp(reached, np.r_[0, rows[:, at]], np.r_[0, found[:, at]])
            np.divide(sums, reached, out=means[at], where=reached > 0)
        return means
