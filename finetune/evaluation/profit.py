"""What contacting the users with the highest scores would earn."""

import math

import numpy as np
from scipy.sparse import coo_array

from finetune.evaluation.rows import ScoredRows

STEPS = 100  # shares of the rows at which profit is given


def profit_curve(
    scored: ScoredRows,
    contact: float,
    kept_customer: float,
    resamples: int,
    threshold: float | None = None,
    seed: int = 0,
) -> dict:
    """The expected profit of contacting the rows with the highest scores, for each share of the rows.

    Each contacted row costs `contact`; each positive one among them brings `kept_customer` on average. Rows of equal
    scores are contacted in random order. Intervals resample whole users, with the rows of each step of a hundredth kept
    together.

    Args:
        scored: The rows of a binary task with the model's scores.
        contact: Cost of a contact.
        kept_customer: What a contacted positive brings.
        resamples: Of the bootstrap.
        threshold: The score from which on a row is contacted, as validation chose it.
        seed: Of the bootstrap.

    Returns:
        contact, kept_customer, shares, profits, interval_low and interval_high of shape (shares,); the best share with
        its profit, which looks better than it is, as these rows chose it; and share_at_threshold,
        profit_at_threshold and profit_at_threshold_interval, NaN without a threshold.
    """
    labels, scores = scored.labels, scored.model
    generator, drawn = np.random.default_rng(seed), []
    step, steps = _steps(scores, generator), min(STEPS, len(labels))
    chosen = np.zeros(len(labels), bool) if threshold is None else scores >= threshold
    # What a user's rows of each step earn, and last those that are chosen: with it, a resample is one product.
    everyone, user = np.unique(scored.users, return_inverse=True)
    users, worth = len(everyone), kept_customer * labels - contact
    place = (np.append(user, user[chosen]), np.append(step, np.full(chosen.sum(), steps)))
    earned = coo_array((np.append(worth, worth[chosen]), place), shape=(users, steps + 1)).tocsr()
    # As many users as there are: a total, unlike a mean, would spread more with Poisson's weights.
    for _ in range(resamples):
        times = np.bincount(generator.integers(0, users, users), minlength=users)
        drawn.append(_added(times @ earned))
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0) if drawn else np.full((2, steps + 1), np.nan)
    profits, shares = _added(earned.sum(axis=0)), np.cumsum(np.bincount(step, minlength=steps)) / len(labels)
    *profits, at_threshold = profits.tolist()
    (*low, low_chosen), (*high, high_chosen) = low.tolist(), high.tolist()
    best, given = int(np.argmax(profits)), threshold is not None
    return {
        "contact": contact,
        "kept_customer": kept_customer,
        "shares": [0.0, *shares.tolist()],
        "profits": [0.0, *profits],
        "interval_low": [0.0, *low],
        "interval_high": [0.0, *high],
        "best_share": float(shares[best]) if profits[best] > 0 else 0.0,
        "best_profit": float(max(profits[best], 0.0)),
        "share_at_threshold": float(chosen.mean()) if given else math.nan,
        "profit_at_threshold": at_threshold if given else math.nan,
        "profit_at_threshold_interval": [low_chosen, high_chosen] if given else [math.nan] * 2,
    }


def _steps(scores: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The step of each row: the highest scores are in step 0, and equal ones in random order."""
    order = np.lexsort((generator.random(len(scores)), -scores))
    step = np.empty(len(scores), np.int64)
    step[order] = np.arange(len(scores)) * min(STEPS, len(scores)) // len(scores)
    return step


def _added(earned: np.ndarray) -> np.ndarray:
    """What the steps earn one after the other, and the last entry as it is."""
    return np.append(np.cumsum(earned[:-1]), earned[-1])
