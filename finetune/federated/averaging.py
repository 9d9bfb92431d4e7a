"""Federated averaging (FedAvg, McMahan et al., 2017), and which updates count."""

import math
import statistics
from collections import Counter

import torch

from finetune.federated.messages import Weights


def average(updates: list[tuple[int, Weights]]) -> Weights:
    """The mean of weights of equal names and shapes, each counted as often as its site has examples.

    Args:
        updates: Examples and weights of each site; of one site its very weights come back.
    """
    total = sum(examples for examples, _ in updates)
    return {
        name: sum(
            (weights[name].double() * (examples / total) for examples, weights in updates), start=torch.zeros(())
        ).to(first.dtype)
        for name, first in updates[0][1].items()
    }


def capped(examples: dict[str, int]) -> dict[str, int]:
    """What each site counts as: its examples, and no more than all others together have, so that a site that says too
    many has half of the mean at most."""
    total = sum(examples.values())
    return {site: min(n, total - n) if len(examples) > 1 else n for site, n in examples.items()}


def sound(updates: dict[str, Weights]) -> tuple[dict[str, Weights], dict[str, str]]:
    """The updates that are finite and have the names and shapes that most have, and why others have not."""
    layouts = {
        site: frozenset((name, w.shape, w.dtype) for name, w in weights.items()) for site, weights in updates.items()
    }
    usual = Counter(layouts.values()).most_common(1)[0][0] if updates else frozenset()
    kept, out = {}, {}
    for site, weights in updates.items():
        if layouts[site] != usual or not weights:
            out[site] = "its weights are of another model"
        elif not all(torch.isfinite(weight).all() for weight in weights.values()):
            out[site] = "its weights are no numbers"
        else:
            kept[site] = weights
    return kept, out


def within_bound(
    start: Weights, updates: dict[str, Weights], bound: float
) -> tuple[dict[str, Weights], dict[str, str], dict[str, float]]:
    """The updates that are not too long, why others are left out, and the length of each.

    Weights that came back unchanged are no update: where another site has one, they neither count nor make the median.

    Args:
        start: The weights that all sites began with; an update is what a site made of them, minus them.
        updates: By `sound`.
        bound: How many times the median length is too long. Of an even number the smaller middle one is the median,
            so that of two sites a liar does not raise it.
    """
    lengths = {
        site: math.hypot(*(float((weight.double() - start[name].double()).norm()) for name, weight in weights.items()))
        for site, weights in updates.items()
    }
    changed = [length for length in lengths.values() if length > 0]
    median = statistics.median_low(changed) if changed else 0.0
    out = {
        site: f"its update is {length / median:.1f} times as long as the median"
        for site, length in lengths.items()
        if length > bound * median
    }
    out |= {site: "its weights are unchanged" for site, length in lengths.items() if changed and not length > 0}
    return {site: weights for site, weights in updates.items() if site not in out}, out, lengths
