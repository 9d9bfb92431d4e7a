"""When does a month ring? Thresholds from resampled months of the model's own time, for all signals together.

A signal is a number that says how far a month lies from the reference: 0 for not at all. A family of signals has its
threshold from months that are drawn again: of a month of the reference as many rows as the month at hand has, with
replacement, and measured as that one is. Each signal is divided by what it stays below in 95 of 100 drawn months, and
the largest of these ratios decides: it lies above the ratio's quantile in LEVEL / families of the drawn months. So a
month as quiet as those of the reference rings at most in LEVEL of the cases, however many signals there are and however
they hang together (the single-step maxT of Westfall and Young: Resampling-Based Multiple Testing, 1993, section 2.6).
The rows of a drawn month vary twice, as rows of their month and as drawn ones. To this is added how far apart months
may lie that are not among the drawn ones: with few months that is far, see `_between`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

LEVEL = 0.05
DRAWS = 1000  # of each family
USUAL = 0.95  # of the drawn months each signal alone stays below what it is divided by


@dataclass(frozen=True)
class Signal:
    """One signal of a month.

    Attributes:
        name: Of what is watched.
        family: Of the signals that have a threshold together.
        value: How far the month lies from the reference.
        threshold: Above which it rings.
    """

    name: str
    family: str
    value: float
    threshold: float

    @property
    def rings(self) -> bool:
        """Whether the month is further away than quiet months are."""
        return self.value > self.threshold

    @property
    def loudness(self) -> float:
        """The value in thresholds."""
        return self.value / self.threshold


@dataclass(frozen=True)
class Family:
    """Signals that are measured together.

    Attributes:
        name: Of the family.
        months: Rows of each month of the reference.
        measure: Month (None for the one at hand) and the indices of its rows -> signal -> value; NaN where it is not
            defined, below 0 where the month lies on the side that never rings. A month of the reference is measured
            without itself in the reference.
        least: Signal -> what three rows alone can make of it, below which it never rings; a reference in which nothing
            was ever seen does not say that it never happens.
        squares: Signals that grow with the square of a shift, as an index does; the others grow with the shift.
    """

    name: str
    months: Sequence[int]
    measure: Callable[[int | None, np.ndarray], dict[str, float]]
    least: dict[str, float]
    squares: frozenset[str] = frozenset()


def signals(families: Sequence[Family], rows: int, seed: int = 0, draws: int = DRAWS) -> list[Signal]:
    """The signals of a month of so many rows, the loudest first; those that are not defined are left out."""
    found = []
    for family in families:
        at_hand = family.measure(None, np.arange(rows))
        at_hand = {name: max(value, 0.0) for name, value in at_hand.items() if not math.isnan(value)}
        limits = thresholds(family, rows, list(at_hand), LEVEL / len(families), seed, draws)
        found += [Signal(name, family.name, value, limits[name]) for name, value in at_hand.items()]
    return sorted(found, key=lambda signal: (-signal.loudness, signal.name))


def thresholds(
    family: Family, rows: int, names: Sequence[str], level: float, seed: int = 0, draws: int = DRAWS
) -> dict[str, float]:
    """The threshold of each of these signals, above which one of them lies in at most `level` of the quiet months."""
    random, drawn = np.random.default_rng(seed), np.zeros((draws, len(names)))
    for draw in range(draws):
        month = draw % len(family.months)  # each as often as the others
        chosen = random.integers(0, family.months[month], rows)
        values = family.measure(month, chosen)
        drawn[draw] = [values.get(name, math.nan) for name in names]
    drawn = np.nan_to_num(drawn)
    far = np.maximum(drawn, 0)
    least = np.array([family.least.get(name, 0.0) for name in names])
    usual = np.maximum(np.quantile(far, USUAL, axis=0), least) if names else least
    usual = np.maximum(usual, np.finfo(float).tiny)
    largest = np.sort((far / usual).max(axis=1, initial=0))
    # Of a month like the drawn ones each place among them is as likely: so many of them lie above this one.
    place = min(math.ceil((draws + 1) * (1 - level)), draws) - 1
    limits = max(largest[place], 1.0) * usual
    powers = _powers(family, names)
    squares = limits**powers + _between(family, rows, drawn**powers, names, level)
    return dict(zip(names, (squares ** (1 / powers)).tolist(), strict=True))


def _between(family: Family, rows: int, drawn: np.ndarray, names: Sequence[str], level: float) -> np.ndarray:
    """How far apart quiet months may lie, beyond what their rows vary by: squares of shape (signals,).

    A month's square is that of its own shift and of its rows' noise. Months that are drawn again have that noise once
    more, so that it can be subtracted, with its standard error, as small months would show shifts of noise alone. A new
    shift lies within Student's t times the root of the rest: the prediction interval of a normal value (Hahn and
    Meeker: Statistical Intervals, 1991, section 4.7), where months that are each compared with the others alone lie
    further away than a new one does.

    Args:
        family: Of at least two months, or nothing is known.
        rows: Of the month at hand.
        drawn: Squares of the drawn months, of shape (draws, signals).
        names: Of the signals.
        level: How often a quiet month may lie further away.
    """
    count = len(family.months)
    if count < 2:
        return np.zeros(len(names))
    found = [family.measure(month, np.arange(size)) for month, size in enumerate(family.months)]
    squares = np.nan_to_num([[values.get(name, math.nan) for name in names] for values in found])
    squares = squares ** _powers(family, names)
    own = squares[np.arange(len(drawn)) % count]
    noise, spread = np.maximum((drawn - own).mean(axis=0), 0), (drawn - own).std(axis=0)
    less = (noise + spread / math.sqrt(count)) * np.mean(rows / np.array(family.months))
    return student.ppf(1 - level / 2, count - 1) ** 2 * np.maximum(squares.mean(axis=0) - less, 0)


def _powers(family: Family, names: Sequence[str]) -> np.ndarray:
    """That make a square of each signal."""
    return np.array([1 if name in family.squares else 2 for name in names])
