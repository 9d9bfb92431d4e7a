"""Have the inputs moved between training and test? Population stability index of each input."""

import re
from collections import Counter, defaultdict

import numpy as np
import pyarrow as pa

from data_prep.history import combined
from data_prep.phrases import event_starts
from data_prep.prepared import sampled

SAMPLE = 50_000  # rows of either split; more would move the index by less than .001
BINS = 10  # quantiles of the training rows
VALUES = 20  # of a field, the most frequent in training; the rest counts as one
AGING = re.compile(r"(.+_)?tenure_days|sessions|text_events|(.+_)?max")
WORD = re.compile(r"(\w+)=(\S+)")


def drift(train: pa.Table, test: pa.Table, aggregates: list[str]) -> list[dict]:
    """How far each input of the test rows has moved from the training rows.

    The population stability index is the sum over bins of (q - p) ln(q / p), p and q being the shares of training and
    test rows (Siddiqi: Credit Risk Scorecards, 2006, chapter 9; the symmetric Kullback-Leibler divergence). By his rule
    of thumb below .1 nothing has moved, above .25 much has. Numbers are binned by the deciles of the training rows,
    missing ones have a bin of their own, and every bin counts half a row more than it has, so that none is empty.
    Without any move its mean is about (bins - 1) (1 / training rows + 1 / test rows) (Yurdakul: Statistical Properties
    of Population Stability Index, 2018): below some hundred rows it says little.

    Args:
        train: Columns text and the aggregates; of more than 50,000 rows the same random ones are taken.
        test: The same of the test rows.
        aggregates: The columns that are compared; besides them the number of events in a text (text_events) and, in
            the style `words`, each `name=value` of the newest event (newest_NAME).

    Returns:
        input, psi and ages of each, the largest first; NaN at the end, where a split has no rows. What ages moves as
        a log grows older, by construction: tenure, what counts over all time, maxima and the length of a text.
    """
    tables = [table.take(sampled(len(table), SAMPLE)) for table in (train, test)]
    found = {}
    for name in aggregates:
        values = [numbers(table[name]) for table in tables]
        found[name] = stability(*_binned(*values))
    read = [read_texts(combined(table["text"]).to_pylist()) for table in tables]
    found["text_events"] = stability(*_binned(*(lengths for lengths, _ in read)))
    for name in dict.fromkeys([*read[0][1], *read[1][1]]):
        counts = [fields.get(name, Counter({None: len(lengths)})) for lengths, fields in read]
        found[f"newest_{name}"] = stability(*_matched(*counts))
    order = sorted(found, key=lambda name: (np.isnan(found[name]), -np.nan_to_num(found[name]), name))
    return [{"input": name, "psi": found[name], "ages": ages(name, aggregates)} for name in order]


def ages(name: str, aggregates: list[str]) -> bool:
    """Whether an input moves by construction as a log grows older; see `drift`."""
    windows = (other.removeprefix(f"{name}_") for other in aggregates if other.startswith(f"{name}_"))
    over_all_time = any(re.fullmatch(r"\d+[mhd]|session", window) for window in windows) and not name.endswith("_mean")
    return over_all_time or bool(AGING.fullmatch(name))


def numbers(column: pa.ChunkedArray) -> np.ndarray:
    """A column of numbers as float64, NaN where there is none."""
    return combined(column).to_numpy(zero_copy_only=False).astype(np.float64)


def stability(train: np.ndarray, test: np.ndarray) -> float:
    """The index of two counts of shape (bins,)."""
    if not train.sum() or not test.sum():
        return float("nan")
    there = train + test > 0
    p, q = ((counts[there] + 0.5) / (counts.sum() + 0.5 * there.sum()) for counts in (train, test))
    return float(np.sum((q - p) * np.log(q / p)))


def decile_edges(train: np.ndarray) -> np.ndarray:
    """Between the bins of a number, by the training rows."""
    known = train[~np.isnan(train)]
    edges = np.quantile(known, np.arange(1, BINS) / BINS, method="lower") if len(known) else np.zeros(0)
    # A value of more than a tenth of the rows ends its bin, or all that lies above a frequent 0 would be one with it.
    return np.unique([*edges, *np.nextafter(edges[1:][edges[1:] == edges[:-1]], np.inf)])


def bins_of(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The bin of each row, 0 to len(edges); len(edges) + 1 where the value is missing."""
    return np.where(np.isnan(values), len(edges) + 1, np.searchsorted(edges, values, side="right"))


def _binned(train: np.ndarray, test: np.ndarray) -> list[np.ndarray]:
    """Rows by decile of the training rows, the missing ones at the end."""
    edges = decile_edges(train)
    return [np.bincount(bins_of(values, edges), minlength=len(edges) + 2) for values in (train, test)]


def read_texts(texts: list[str]) -> tuple[np.ndarray, dict[str, Counter]]:
    """The number of events of each text; and of the newest events field -> value -> how often it is written, with the
    texts that do not write the field under None."""
    lengths, fields, having = np.zeros(len(texts)), defaultdict(Counter), Counter()
    for i, text in enumerate(texts):
        starts = [*event_starts(text), len(text)]
        lengths[i] = len(starts) - 1
        if not text.startswith("gap=", starts[0]):  # the style sentences
            continue
        pairs = WORD.findall(text, starts[0], starts[1])
        having.update({name for name, _ in pairs})
        for name, value in pairs:
            fields[name][value] += 1
    for name, values in fields.items():
        values[None] = len(texts) - having[name]
    return lengths, fields


def _matched(train: Counter, test: Counter) -> list[np.ndarray]:
    """Counts of the same values: the most frequent ones of training, and of all others together."""
    kept = [value for value, _ in train.most_common(VALUES)]
    return [
        np.array([*(counts[value] for value in kept), counts.total() - sum(counts[v] for v in kept)])
        for counts in (train, test)
    ]
