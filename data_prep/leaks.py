"""A last look at prepared data: an input that tells the label by itself has probably seen the future."""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.attributes import column_names
from data_prep.given_users import SETTING
from data_prep.history import combined
from data_prep.phrases import EVENT_START
from data_prep.serializer import EventSerializer

SUSPICIOUS = 0.98  # AUROC of one input alone
ROWS, GROUPS = 2_000, 4  # that are looked at of the training examples, from so many row groups
FEWEST = 10  # rows with and without the label, below which chance alone may tell them apart


def suspected_leaks(path: Path, aggregates: list[str], serializer: EventSerializer) -> list[dict]:
    """The inputs whose own AUROC on training labels is above .98, in either direction.

    It is taken over all rows, and over the pairs of rows of the same cutoff, or of the same day where users have
    cutoffs of their own: what counts from a fixed day, such as the day of the next purchase, is of another size at
    each.

    Inputs are the aggregates, and each value of the columns that the texts tell of: whether an event of a text has it,
    and whether the newest one has. An attribute of data.users is one input, whichever of its values tells most; a
    category also by the share of the label among other users with the same value.
    Labels of several classes and numbers are taken as yes or no in several ways: each class, each tier, above zero and
    above the median.

    Args:
        path: The prepared training examples.
        aggregates: Names of their columns of numbers.
        serializer: Wrote their texts.

    Returns:
        input (an aggregate, or COLUMN = VALUE ...) and auroc of each, the most suspicious first.
    """
    table = _sample(path, [*aggregates, *(["user_id"] if serializer.attributes else [])])
    labels = _yes_or_no(combined(table["label"]))
    cutoff = combined(table["cutoff"]).to_numpy(zero_copy_only=False)
    if serializer.features.moments:  # hardly two rows have the same
        cutoff = cutoff.astype("datetime64[D]")
    _, cutoff = np.unique(cutoff, return_inverse=True)
    ways = [_Ways(labels, groups) for groups in (np.zeros(len(labels), np.int64), cutoff)]
    found = {}
    of_users = {name: column_names(name, fitted) for name, fitted in serializer.attributes.items()}
    for name in aggregates:
        values = combined(table[name]).to_numpy(zero_copy_only=False).astype(np.float64)  # null becomes NaN
        # What is missing is below or above all else, whichever tells more.
        ends = (-np.inf, np.inf) if np.isnan(values).any() else (0,)
        found[name] = max(_told(np.where(np.isnan(values), end, values), ways) for end in ends)
    for name, columns in of_users.items():  # each as a whole
        alone = [found.pop(column) for column in columns]
        if serializer.attributes[name]["kind"] == "categorical":
            value = np.argmax([table[column].to_numpy() for column in columns], axis=0)
            alone += [_told(rates, ways) for rates in _rates(value, labels, table["user_id"].to_numpy())]
        found[f"{SETTING}.{name}"] = max(alone)
    for name, present in _words(table["text"].to_pylist(), serializer):
        found[name] = _told(present, ways)
    suspected = [{"input": name, "auroc": round(auroc, 4)} for name, auroc in found.items() if auroc > SUSPICIOUS]
    return sorted(suspected, key=lambda leak: -leak["auroc"])


def describe_leak(leak: dict) -> str:
    """What a user should know of a suspected leak, in a sentence."""
    known = "as of before the cutoff" if leak["input"].startswith(SETTING) else "at the time of its event"
    return (
        f"{leak['input']} alone tells the training labels with an AUROC of {leak['auroc']:.3f}, a suspected leak; is "
        f"it known {known}?"
    )


def _sample(path: Path, inputs: list[str]) -> pa.Table:
    """Evenly spread rows of a split, from some of its row groups."""
    file = pq.ParquetFile(path)
    groups = np.unique(np.linspace(0, file.num_row_groups - 1, GROUPS).round().astype(int))
    table = file.read_row_groups(groups.tolist(), columns=["cutoff", "label", "text", *inputs])
    return table.take(pa.array(np.arange(0, len(table), -(-len(table) // ROWS))))


def _rates(value: np.ndarray, labels: np.ndarray, users: np.ndarray) -> Iterator[np.ndarray]:
    """For each column of labels its share among the rows of the same value, of the users of the other half."""
    _, number = np.unique(users, return_inverse=True)
    half, size = number % 2, value.max() + 1
    for column in labels.T:
        rates = np.zeros(len(value))
        for one in (0, 1):
            others = half != one
            counts, positives = (np.bincount(value[others], weights, size) for weights in (None, column[others]))
            rates[~others] = ((positives + column.mean()) / (counts + 1))[value[~others]]
        yield rates


def _yes_or_no(labels: pa.Array) -> np.ndarray:
    """Labels as columns of true and false, of shape (rows, ways)."""
    if pa.types.is_list(labels.type):
        return labels.flatten().to_numpy().reshape(len(labels), -1) > 0
    values = labels.to_numpy()
    limits = {0.0, float(np.median(values))}
    if values.dtype.kind == "i" and values.max() < 100:
        limits |= set(range(int(values.max())))
    return np.stack([values > limit for limit in sorted(limits)], axis=1)


class _Ways:
    """Columns of labels of which an AUROC can be told, over pairs of rows of the same group.

    Args:
        labels: Of shape (rows, ways).
        groups: The number of each row's group, of shape (rows,).
    """

    def __init__(self, labels: np.ndarray, groups: np.ndarray) -> None:
        sizes = np.bincount(groups)
        positives = np.stack([labels[groups == group].sum(axis=0) for group in range(len(sizes))])  # (groups, ways)
        negatives = sizes[:, None] - positives
        both = (positives > 0) & (negatives > 0)
        enough = (np.where(both, positives, 0).sum(axis=0) >= FEWEST) & (
            np.where(both, negatives, 0).sum(axis=0) >= FEWEST
        )
        before = np.cumsum(sizes) - sizes  # rows in earlier groups, whose ranks come first
        self.labels, self.groups = labels[:, enough], groups
        self.least = (positives * before[:, None] + positives * (positives + 1) / 2).sum(axis=0)[enough]
        self.pairs = (positives * negatives).sum(axis=0)[enough]

    def auroc(self, order: np.ndarray) -> float:
        """The highest one over the columns of labels, above one half whatever the direction.

        Args:
            order: The place of each row's value among all different ones, of shape (rows,).
        """
        _, place, rows = np.unique(order + self.groups * len(order), return_inverse=True, return_counts=True)
        ranks = (np.cumsum(rows) - (rows - 1) / 2)[place]  # equal values have the mean of their ranks
        auroc = (ranks @ self.labels - self.least) / self.pairs
        return float(np.maximum(auroc, 1 - auroc).max(initial=0.5))


def _told(values: np.ndarray, ways: list[_Ways]) -> float:
    """The highest AUROC of an input."""
    _, order = np.unique(values, return_inverse=True)
    return max(way.auroc(order) for way in ways)


def _words(texts: list[str], serializer: EventSerializer) -> Iterator[tuple[str, np.ndarray]]:
    """Each value of a column, and whether a text's events have it, or its newest event that tells of the column."""
    words = serializer.config.style == "words"
    columns = {
        value if words else value.replace("_", " "): name
        for name, fitted in serializer.fields.items()
        for value in fitted.get("values", fitted.get("words", []))
    }
    having: dict[str, set[int]] = defaultdict(set)
    for row, text in enumerate(texts):
        begin, seen = EVENT_START.search(text), set()
        events = text[begin.start() :] if begin else text
        # Most events say what newer ones said: each word counts once, where it stands first.
        for written in dict.fromkeys(events.split(" ") if words else re.split(r": |, |\. |\.$", events)):
            name, _, value = written.rpartition("=")
            name = name or columns.get(value)
            if name and name != "gap":
                having[f"{name} = {value}"].add(row)
                if name not in seen:
                    having[f"{name} = {value} in the newest event that has one"].add(row)
                seen.add(name)
    for name, rows in having.items():
        present = np.zeros(len(texts), bool)
        present[list(rows)] = True
        yield name, present
