"""Rows that are counted by user and score once, and then weighted by how often each user is drawn."""

from collections.abc import Callable

import numpy as np
from scipy.sparse import csc_array

BINS = 2**14  # of scores; where there are more distinct ones, neighbours share a bin


class Rows:
    """Rows in the order of their users.

    Attributes:
        order: Which row comes at each place.
        user: The number of the user of the row at each place, rising.
        starts: Where the rows of each user begin, and the end; of shape (users + 1,).
    """

    def __init__(self, user: np.ndarray, users: int) -> None:
        self.order = np.argsort(user, kind="stable")
        self.user = user[self.order]
        self.starts = np.searchsorted(self.user, np.arange(users + 1))

    def table(self, group: np.ndarray, groups: int, values: np.ndarray | None = None, each: int = 1) -> Callable:
        """Sums by user and group (of rows, where there are no values), to be weighted.

        Args:
            group: Of each row, or of each of the `each` cells of each row.
            groups: How many there are.
            values: As group.
            each: Cells of a row.

        Returns:
            From weights of shape (users, resamples) to sums of shape (groups, resamples).
        """
        values = np.ones(len(group)) if values is None else values
        return _weighted(
            csc_array((values, group.astype(np.int32), each * self.starts), shape=(groups, len(self.starts) - 1)),
            len(group),
        )

    def means(self, *values: np.ndarray) -> Callable:
        """From weights to the weighted mean of each of the values (of shape (rows,), nan left out); of shape (values,
        resamples)."""
        known, users = ~np.isnan(values), len(self.starts) - 1
        # Less their middle, small sums keep their digits in float32.
        middles = [part[some].mean() if some.any() else np.nan for part, some in zip(values, known, strict=True)]
        left = np.where(known, np.array(values) - np.array(middles)[:, None], 0)
        by_user = [np.bincount(self.user, part, minlength=users) for part in (*left, *known)]
        sums = _weighted(csc_array(np.array(by_user)), len(self.user))

        def mean(weights: np.ndarray) -> np.ndarray:
            above, below = np.split(sums(weights), 2)
            return np.array(middles)[:, None] + above / below

        return mean


def _weighted(sums: csc_array, rows: int) -> Callable:
    """From weights of shape (users, resamples) to sums of shape (groups, resamples); sums of shape (groups, users).

    Not by a dense product: BLAS with several threads took a hundred times longer beside other work.
    """
    # float32 counts up to 2^24, and Poisson(1) draws each row once on average.
    kind = np.float32 if rows < 2**23 else np.float64
    counted = sums.astype(kind)
    return lambda weights: counted @ weights.astype(kind, copy=False)


class Ranking:
    """Rows of two classes by score, highest first; called with weights, their curve."""

    def __init__(
        self, labels: np.ndarray, scores: np.ndarray, rows: Rows, each: int = 1, values: np.ndarray | None = None
    ) -> None:
        bins = score_bins(scores)
        self.counts = rows.table(2 * bins + labels, 2 * int(bins.max(initial=0)) + 2, values, each)

    def __call__(self, weights: np.ndarray) -> "Curve":
        """Of each resample, from weights of shape (users, resamples)."""
        return Curve(self.counts(weights))


class Curve:
    """What is found, going down the scores of each resample; counts of shape (2 * bins, resamples), label 0 first."""

    def __init__(self, counts: np.ndarray) -> None:
        self.negative, self.positive = counts[0::2], counts[1::2]
        self.above = np.cumsum(self.positive, axis=0, dtype=np.float64)
        self.seen = np.cumsum(self.negative + self.positive, axis=0, dtype=np.float64)
        self.positives, self.negatives = self.above[-1], self.seen[-1] - self.above[-1]
        self.both = np.where((self.positives > 0) & (self.negatives > 0), 1, np.nan)

    def auroc(self) -> np.ndarray:
        """Of shape (resamples,); nan where only one class is."""
        # A negative is ranked below all positives above it and half of those it ties with.
        below = np.sum(self.negative * (self.above - self.positive / 2), axis=0)
        return self.both * below / (self.positives * self.negatives)

    def average_precision(self) -> np.ndarray:
        """Of shape (resamples,); nan where only one class is."""
        precision = np.divide(self.above, self.seen, out=np.zeros_like(self.seen), where=self.seen > 0)
        return self.both * np.sum(self.positive * precision, axis=0) / self.positives

    def recall(self, shares: np.ndarray) -> np.ndarray:
        """At each share of the rows; of shape (shares, resamples)."""
        seen, above = (np.vstack([np.zeros(len(part.T)), part]).T.copy() for part in (self.seen, self.above))
        reached = [np.interp(shares * x[-1], x, y) for x, y in zip(seen, above, strict=True)]
        return self.both * np.transpose(reached) / self.positives


def score_bins(scores: np.ndarray, most: int = BINS) -> np.ndarray:
    """The bin of each score, 0 for the highest; equal scores share one.

    Each distinct score has its own where there are no more than `most`. Otherwise a bin holds one row at the top, and
    further down 16 / most of the rows above it, up to 2 / most of all rows: what is asked of the top ranks (average
    precision, lift) needs them finer. A score of more rows than that is alone.
    """
    _, group, counts = np.unique(-scores, return_inverse=True, return_counts=True)
    if len(counts) <= most:
        return group
    widest, borders = max(1, 2 * len(scores) // most), [0]
    while borders[-1] < len(scores):
        borders.append(borders[-1] + min(max(borders[-1] * 16 // most, 1), widest))
    bins = np.searchsorted(borders, np.cumsum(counts) - counts, side="right")
    return np.cumsum(np.r_[False, (np.diff(bins) > 0) | (counts[1:] > widest)])[group]
