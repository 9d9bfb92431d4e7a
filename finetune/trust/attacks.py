"""Attacks on a model that say who it learned from, and what their guesses prove about epsilon.

A guess is right or wrong about a user who was in or out by a fair coin. Sources: Yeom et al., "Privacy Risk in Machine
Learning", 2018 (the loss attack); Carlini et al., "Membership Inference Attacks From First Principles", 2022, section V
(the likelihood ratio, with one variance for all, as there are few shadow models); Steinke, Nasr and Jagielski, "Privacy
Auditing with One (1) Training Run", 2023, theorem 5.2 (what the guesses prove).
"""

import math

import numpy as np
from scipy.stats import beta, binom, rankdata

GUESSED = (0.1, 0.2, 0.5, 1.0)  # shares of the users about whom it is guessed, the surest ones; the best one counts
SHOWN = 0.2  # of them
CONFIDENCE = 0.95
LEAST_DEVIATION = 1e-3


def likelihood_ratio(target: np.ndarray, shadows: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """How much likelier each user's confidence is where the model learned from her, as a logarithm.

    Args:
        target: The confidence (log-odds of the true label) of the attacked model in each user, of shape (users,).
        shadows: Of the other models, of shape (models, users).
        inside: Whether each of them learned from the user, of the same shape.
    """
    means, deviations = [], []
    for mask in (inside, ~inside):
        counts = mask.sum(axis=0)
        with np.errstate(invalid="ignore"):
            mean = np.where(mask, shadows, 0).sum(axis=0) / counts
        deviation = np.where(mask & (counts > 1), shadows - mean, 0)
        freedom = np.where(counts > 1, counts - 1, 0).sum()
        means.append(mean)
        deviations.append(max(float(np.sqrt((deviation**2).sum() / max(freedom, 1))), LEAST_DEVIATION))
    gained = np.nanmean(means[0] - means[1])  # of users whom no shadow model learned from, or every one
    means[0] = np.where(np.isnan(means[0]), means[1] + gained, means[0])
    means[1] = np.where(np.isnan(means[1]), means[0] - gained, means[1])
    inner, outer = (
        -0.5 * ((target - mean) / deviation) ** 2 - np.log(deviation)
        for mean, deviation in zip(means, deviations, strict=True)
    )
    return inner - outer


def judged(
    scores: np.ndarray, member: np.ndarray, delta: float, seed: int, attacks: int = 1, resamples: int = 1000
) -> dict:
    """What an attack's scores are worth.

    Args:
        scores: Higher where the user is said to have been in, of shape (users,).
        member: Whether she was, by a fair coin.
        delta: Of the guarantee that is tested.
        seed: Of the bootstrap.
        attacks: How many are judged, of which the best one will be told.
        resamples: Of users.

    Returns:
        users; auroc, with auroc_interval (95 %, over users); guesses, right and epsilon (the log-odds of a right guess
        about the fifth of whom it is surest, at least 0) with epsilon_interval (95 %, Clopper-Pearson); and
        epsilon_lower_bound, which holds with 95 % confidence for whatever trains that model, for all attacks at once.
    """
    drawn = np.random.default_rng(seed).integers(0, len(scores), (resamples, len(scores)))
    areas = [_auroc(scores[rows], member[rows]) for rows in drawn if 0 < member[rows].sum() < len(rows)]
    guesses, right = _guesses(scores, member, SHOWN)
    low = float(beta.ppf((1 - CONFIDENCE) / 2, right, guesses - right + 1)) if right else 0.0
    high = float(beta.ppf((1 + CONFIDENCE) / 2, right + 1, guesses - right)) if right < guesses else 1.0
    return {
        "users": len(scores),
        "auroc": _auroc(scores, member),
        "auroc_interval": np.quantile(areas, [0.025, 0.975]).tolist(),
        "guesses": guesses,
        "right": right,
        "epsilon": _odds(right / guesses),
        "epsilon_interval": [_odds(low), _odds(high)],
        "epsilon_lower_bound": lower_bound(scores, member, delta, attacks),
    }


def _auroc(scores: np.ndarray, member: np.ndarray) -> float:
    """By the ranks of the members (Mann and Whitney, 1947)."""
    members = int(member.sum())
    above = rankdata(scores)[member].sum() - members * (members + 1) / 2
    return float(above / (members * (len(scores) - members)))


def _odds(share: float) -> float:
    """Of a right guess, as a logarithm and at least 0."""
    return math.inf if share >= 1 else max(math.log(share / (1 - share)), 0.0) if share > 0.5 else 0.0


def _guesses(scores: np.ndarray, member: np.ndarray, share: float) -> tuple[int, int]:
    """How many guesses there are about the surest share, and how many of them are right.

    The highest scores are guessed in, the lowest out, as many of the one as of the other.
    """
    each = max(int(len(scores) * share) // 2, 1)
    order = np.argsort(scores, kind="stable")
    return 2 * each, int(member[order[-each:]].sum() + (~member[order[:each]]).sum())


def lower_bound(scores: np.ndarray, member: np.ndarray, delta: float, attacks: int = 1) -> float:
    """The epsilon below which so many right guesses of any attack would come in fewer than 5 of 100 trainings.

    Each of the shares in GUESSED is tried by each attack, at a confidence that makes up for it (Bonferroni).
    """
    chance = (1 - CONFIDENCE) / (len(GUESSED) * attacks)
    return max(_bound(len(scores), *_guesses(scores, member, share), delta, chance) for share in GUESSED)


def _bound(users: int, guesses: int, right: int, delta: float, chance: float) -> float:
    low, high = 0.0, 1.0
    if p_value(users, guesses, right, 0.0, delta) >= chance:
        return 0.0
    while p_value(users, guesses, right, high, delta) < chance and high < 64:
        low, high = high, 2 * high
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if p_value(users, guesses, right, middle, delta) < chance else (low, middle)
    return low


def p_value(users: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """The most likely that so many guesses can be right where training is (epsilon, delta)-private.

    Source: Steinke et al., 2023, theorem 5.2 and appendix D.

    Args:
        users: Each of whom was in or out by a fair coin.
        guesses: About some of them.
        right: Of the guesses.
        epsilon: Of the guarantee.
        delta: Of the guarantee.
    """
    chance = 1 / (1 + np.exp(-epsilon))
    pure = binom.sf(right - 1, guesses, chance)
    at = np.arange(1, right + 1)
    sums = np.cumsum(binom.pmf(right - at, guesses, chance))
    extra = float((sums / at).max()) if right else 0.0
    return float(min(pure + 2 * users * delta * extra, 1.0))
