"""How days, bins and aggregates are written in a text, and texts put together row by row."""

import re
from collections.abc import Sequence
from functools import lru_cache, reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc  # makes most of its functions when it is imported: pyright does not see them

from data_prep.features import plain
from data_prep.history import SECOND, History
from data_prep.moments import in_words

# Days as words: each day to 14, then steps of 15 % up to 400, as recency matters in proportion.
DAY_STEPS = list(range(15))
while DAY_STEPS[-1] < 400:
    DAY_STEPS.append(min(400, max(DAY_STEPS[-1] + 1, round(DAY_STEPS[-1] * 1.15))))
# The step of each number of days up to 400, and at the end the number behind the last step: no days at all (-1).
STEP_OF_DAY = np.append(np.searchsorted(DAY_STEPS, np.arange(401), side="right") - 1, len(DAY_STEPS))
# Shorter pauses, where texts tell of sessions: seconds, and how they are written.
SHORT_STEPS = {
    **{seconds: f"{seconds}s" for seconds in (0, 1, 2, 3, 5, 10, 20, 30)},
    **{60 * minutes: f"{minutes}m" for minutes in (1, 2, 3, 5, 10, 20, 30)},
    **{3600 * hours: f"{hours}h" for hours in (1, 2, 4, 8, 16)},
}
SHORT_UNITS = {"s": "second", "m": "minute", "h": "hour"}
FEW_TEXTS = 1 << 14
# Where an event begins in a text of either style: no value that a text can show looks like this.
EVENT_START = re.compile(
    r"(?:^|(?<= ))gap=|(?:^|(?<=\. ))(?:same day|after \d+ (?:second|minute|hour|day)s?|first)(?=: |\.)"
)


def event_starts(text: str) -> list[int]:
    """Where the events of a text begin, newest first, in characters."""
    return [match.start() for match in EVENT_START.finditer(text)]


def gap_texts(history: History, words: bool, short: bool) -> tuple[np.ndarray, list[str]]:
    """The pause before each event, the newest first: its number, and what each number is written as.

    Args:
        history: The events.
        words: Whether texts are of the style words.
        short: Whether pauses of less than a day are told apart.
    """
    days = history.gap_days()
    gap = STEP_OF_DAY[np.minimum(days, 400)]
    if short:
        seconds = np.diff(history.time, prepend=0) // SECOND
        step = np.searchsorted(list(SHORT_STEPS), seconds, side="right") + len(DAY_STEPS)
        gap = np.where(days == 0, step, gap)
    return gap[::-1], gap_words(words, short)


def gap_words(words: bool, short: bool) -> list[str]:
    """What each number of `gap_texts` is written as."""
    texts = [*(f"gap={day}" for day in DAY_STEPS), "gap=first"]
    if not words:
        texts = ["same day", "after 1 day", *(f"after {day} days" for day in DAY_STEPS[2:]), "first"]
    if short:
        texts += [f"gap={step}" if words else f"after {short_words(step)}" for step in SHORT_STEPS.values()]
    return texts


def short_words(step: str) -> str:
    """10s -> 10 seconds."""
    return f"{step[:-1]} {SHORT_UNITS[step[-1]]}{'s' * (step[:-1] != '1')}"


def bin_words(name: str, fitted: dict, words: bool) -> list[str | None]:
    """What each bin of a column is written as, and nothing where there is no number."""
    if words:
        return [f"{plain(name)}={i}" for i in range(len(fitted["edges"]) + 1)] + [None]
    return [f"{aggregate_phrase(name)} {shown_center(center)}" for center in fitted["centers"]] + [None]


def shown_center(center: float) -> str:
    """A bin's median in two digits, or whole."""
    return f"{center:.2g}" if abs(center) < 100 else f"{center:.0f}"


def aggregate_phrase(name: str) -> str:
    """events_28d -> events in 28 days; target_recency_days -> target recency days."""
    name = re.sub(r"_session$", " in this session", name)
    return re.sub(r"_(\d+[mhd])$", lambda found: f" in {in_words(found[1])}", name).replace("_", " ")


def write_rows(columns: Sequence[tuple[np.ndarray, Sequence[str | None]]], between: str) -> pa.Array:
    """Row by row the texts of several columns with something between them; null where no column has a text.

    Args:
        columns: Of each the number of every row, and the text that each number stands for or None.
        between: What stands between two texts.
    """
    # Rows mostly say the same few things: what several columns say together is written once for each combination, as
    # long as there are few of them.
    few = min(len(columns[0][0]) // 4, FEW_TEXTS)
    groups: list[tuple[np.ndarray, list[Sequence[str | None]], int]] = []
    for number, texts in columns:
        if groups and groups[-1][2] * len(texts) <= few:
            before, together, size = groups.pop()
            groups.append((before.astype(np.int64) * len(texts) + number, [*together, texts], size * len(texts)))
        else:
            groups.append((number, [texts], len(texts)))
    written = []
    for number, together, _ in groups:
        if len(together) > 1:
            texts = _combinations(tuple(map(tuple, together)), between)
        else:
            texts = pa.array(together[0], pa.large_string())
        written.append(texts.take(pa.array(number)))
    return join_rows(written, between)


@lru_cache(maxsize=32)  # the next cutoff and the next part say the same again
def _combinations(columns: tuple[tuple[str | None, ...], ...], between: str) -> pa.Array:
    """What each combination of the texts of several columns is written as, in the order of the columns."""
    written, *others = (pa.array(texts, pa.large_string()) for texts in columns)
    for texts in others:
        first, second = np.divmod(np.arange(len(written) * len(texts)), len(texts))
        written = join_rows([written.take(pa.array(first)), texts.take(pa.array(second))], between)
    return written


def join_rows(columns: list[pa.Array], between: str) -> pa.Array:
    """Row by row the texts with something between them, without the nulls; null where all are null."""
    none = None
    if all(column.null_count for column in columns):  # pyarrow 26 drops a row of nulls
        none = reduce(pc.and_, (column.is_null() for column in columns))  # pyright: ignore[reportAttributeAccessIssue]
        first = pc.if_else(none, pa.scalar("", pa.large_string()), columns[0])  # pyright: ignore[reportAttributeAccessIssue]
        columns = [first, *columns[1:]]
    separator = pa.scalar(between, pa.large_string())
    joined = pc.binary_join_element_wise(*columns, separator, null_handling="skip")  # pyright: ignore[reportAttributeAccessIssue]
    return joined if none is None else pc.if_else(none, None, joined)  # pyright: ignore[reportAttributeAccessIssue]


def end_rows(texts: pa.Array, end: str) -> pa.Array:
    """Row by row the text with something behind it."""
    ending, nothing = (pa.scalar(text, pa.large_string()) for text in (end, ""))
    return pc.binary_join_element_wise(texts, ending, nothing)  # pyright: ignore[reportAttributeAccessIssue]
