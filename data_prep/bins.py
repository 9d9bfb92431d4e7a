"""Quantile bins of numbers, learned on the training history."""

from collections.abc import Callable

import numpy as np

from data_prep.checked_json import is_a

HEAVY = 1.3  # sums of money of 94 to 97 % of the users: 1.25 to 1.75 on the logs that this was chosen on
NEAR = 1e-8  # by which a product of rows and a share may miss a whole number
FEW_EDGES = 32  # to compare all numbers with each of so many is quicker than to search the edges for every number


def fitted_bins(content: object) -> bool:
    """Ascending edges, and as many centers as there are bins."""
    edges, centers = (content.get(key) if isinstance(content, dict) else None for key in ("edges", "centers"))
    if not isinstance(edges, list) or not isinstance(centers, list):
        return False
    numbers = all(is_a(entry, float) for entry in (*edges, *centers))
    return numbers and len(centers) == len(edges) + 1 and edges == sorted(set(edges))


def quantile_edges(quantiles: Callable[[np.ndarray], np.ndarray], bins: int, tail: int = 0) -> list[float]:
    """The edges of quantile bins, ascending.

    With a tail the last bin is halved, then its upper half, and so on, as long as the upper half begins HEAVY times as
    high: more words for the few largest of values that are spread so widely, and none for others.

    Args:
        quantiles: Shares of the rows, of shape (shares,) -> the values up to which they lie.
        bins: How many.
        tail: The most bins that are halved.
    """
    edges = sorted(set(quantiles(np.arange(1, bins) / bins).tolist()))
    for edge in quantiles(1 - 0.5 ** np.arange(1, tail + 1) / bins).tolist():
        if not edges or edge <= edges[-1] or edge < HEAVY * edges[-1]:
            break
        edges.append(edge)
    return edges


def fit_bins(values: np.ndarray, bins: int, tail: int = 0) -> dict[str, list[float]]:
    """Quantile edges and the median of each bin; bin i holds edges[i - 1] <= x < edges[i]. See `quantile_edges`."""
    values = np.sort(values[np.isfinite(values)].astype(np.float64)) + 0.0  # + 0.0 turns -0.0 into 0.0
    n = len(values)
    if not n:
        return {"edges": [], "centers": [0.0]}
    edges = quantile_edges(lambda shares: values[np.maximum(np.ceil(n * shares - NEAR), 1).astype(int) - 1], bins, tail)
    inside = np.split(values, np.searchsorted(values, edges))
    centers = [float(np.median(part)) if len(part) else edges[max(i - 1, 0)] for i, part in enumerate(inside)]
    return {"edges": edges, "centers": centers}


def bin_numbers(values: np.ndarray, edges: list[float]) -> np.ndarray:
    """The bin of each number, and one more where there is no number."""
    if len(edges) <= FEW_EDGES:
        bins = np.zeros(len(values), np.int8)
        for edge in edges:
            bins += values >= edge
    else:
        bins = np.searchsorted(np.array(edges, np.float64), values, side="right")
    bins[np.isnan(values)] = len(edges) + 1
    return bins
