"""Quantile bins of numbers, learned on the training history."""

import math

import numpy as np

from data_prep.checked_json import is_a

FEW_EDGES = 32  # to compare all numbers with each of so many is quicker than to search the edges for every number


def fitted_bins(content: object) -> bool:
    """Ascending edges, and as many centers as there are bins."""
    edges, centers = (content.get(key) if isinstance(content, dict) else None for key in ("edges", "centers"))
    if not isinstance(edges, list) or not isinstance(centers, list):
        return False
    numbers = all(is_a(entry, float) for entry in (*edges, *centers))
    return numbers and len(centers) == len(edges) + 1 and edges == sorted(set(edges))


def bin_steps(bins: int, tail: int = 0) -> list[float]:
    """Where the edges of quantile bins lie, in bins: 1, 2, ... up to bins - 1; with a tail the last bin is halved, then
    its upper half, and so on."""
    return [*range(1, bins), *(bins - 0.5**halving for halving in range(1, tail + 1))]


def fit_bins(values: np.ndarray, bins: int, tail: int = 0) -> dict[str, list[float]]:
    """Quantile edges and the median of each bin; bin i holds edges[i - 1] <= x < edges[i]. See `bin_steps`."""
    values = np.sort(values[np.isfinite(values)].astype(np.float64)) + 0.0  # + 0.0 turns -0.0 into 0.0
    n = len(values)
    if not n:
        return {"edges": [], "centers": [0.0]}
    places = [max(math.ceil(n * i / bins), 1) - 1 for i in bin_steps(bins, tail)]
    edges = sorted(set(values[places].tolist()))
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
