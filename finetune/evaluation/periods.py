"""Test rows whose cutoffs are moments of users, in groups: by the time of the moment, and by what was known then."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from data_prep.facts import SplitFacts
from data_prep.history import combined

MOST = 12  # periods
LENGTHS = (1, 7, 28, 91, 364)  # days of a period
EVENTS = {"1 event": 1, "2 to 3": 2, "4 to 7": 4, "8 to 15": 8, "16 to 63": 16, "64 or more": 64}  # from so many on
DAYS = {"less than an hour": 0, "1 to 24 hours": 1 / 24, "1 to 6 days": 1, "7 to 27 days": 7, "28 days or more": 28}


def times_of(counts: SplitFacts) -> dict[str, Any]:
    """cutoffs of a split, and most_per_user where they are moments of users."""
    most = counts.get("most_per_user")
    return {"cutoffs": counts["cutoffs"]} | ({} if most is None else {"most_per_user": most})


def periods(moments: np.ndarray) -> np.ndarray:
    """The first day of each moment's period, datetime64 of shape (rows,).

    All periods are of one length, a day or some weeks, so that there are at most MOST of them.
    """
    day = moments.astype("datetime64[D]").astype(np.int64)
    since = day - day.min() if len(day) else day
    for length in LENGTHS:
        if since.max(initial=0) // length < MOST:
            break
    return (day - since % length).astype("datetime64[D]").astype("datetime64[us]")


def history_groups(rows: pa.Table) -> dict[str, list[str]]:
    """The group of each row by the number of events seen, and by the age of the history.

    Args:
        rows: With the aggregates events and tenure_days.
    """
    return {
        "events seen": _named(rows, "events", EVENTS),
        "age of the history": _named(rows, "tenure_days", DAYS),
    }


def in_order(slices: dict[str, dict]) -> dict[str, dict]:
    """The groups of `history_groups`, measured by `slice_metrics`, from few events to many and from young to old."""
    for name, order in {"events seen": list(EVENTS), "age of the history": list(DAYS)}.items():
        for groups in (slices[name]["groups"], slices[name]["too_small"]):
            groups.sort(key=lambda group: order.index(group["value"]))
    return slices


def _named(rows: pa.Table, column: str, names: Mapping[str, float]) -> list[str]:
    values = combined(rows[column]).to_numpy(zero_copy_only=False)
    place = np.searchsorted(list(names.values()), values, side="right") - 1
    return np.array(list(names))[np.maximum(place, 0)].tolist()
