"""A threshold that hides each user: the exponential mechanism for a quantile.

Source: Smith, "Privacy-preserving Statistical Estimation with Optimal Convergence Rates", 2011, algorithm 2.
"""

import numpy as np


def private_threshold(scores: np.ndarray, budget: float, epsilon: float, random: np.random.Generator) -> float:
    """The score from which on about the share `budget` of the users lies; epsilon-private in one user more or less.

    Args:
        scores: Probabilities, one a user, of shape (users,): of two, a user would count twice.
        budget: The share.
        epsilon: What it may cost. The users above are missed by some 15 / epsilon: of 2,000, at 1, by a hundredth.
        random: Draws it; nobody may know its seed.
    """
    edges, probabilities = intervals(scores, budget, epsilon)
    place = random.choice(len(probabilities), p=probabilities)
    return float(random.uniform(edges[place], edges[place + 1]))


def intervals(scores: np.ndarray, budget: float, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    """From 0 to 1 the scores in order, of shape (users + 2,), and with which probability the threshold lies between
    each and the next one, where every place is equally likely.

    A place is the likelier by exp(-epsilon / 2) for each user by which those above it miss the budget. One user more
    changes that number by 1 at most (by 1 - budget, or by budget), which is the sensitivity of the mechanism.
    """
    edges = np.concatenate([[0.0], np.sort(np.clip(scores, 0.0, 1.0)), [1.0]])
    users = len(scores)
    missed = np.abs(np.arange(users, -1, -1) - budget * users)
    with np.errstate(divide="ignore"):  # nothing lies between equal scores
        said = np.log(np.diff(edges)) - epsilon / 2 * missed
    weights = np.exp(said - said.max())
    return edges, weights / weights.sum()
