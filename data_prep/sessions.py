"""Sessions: the events of a user without a longer pause between them."""

from dataclasses import dataclass

import numpy as np

from data_prep.history import History, Moment, running


@dataclass(frozen=True)
class Sessions:
    """The sessions of a history's users.

    Attributes:
        gap: A longer pause begins a new session, in microseconds.
        start: The first event of each event's session, of shape (events,).
        count: The number of sessions that begin before each event and before the end, of shape (events + 1,).
        time: Of the events.
    """

    gap: int
    start: np.ndarray
    count: np.ndarray
    time: np.ndarray

    @classmethod
    def of(cls, history: History, gap: int) -> "Sessions":
        """The sessions that pauses of more than `gap` microseconds divide."""
        first = np.diff(history.time, prepend=0) > gap
        first[history.start[:-1]] = True
        count = running(first)
        return cls(gap, np.append(np.flatnonzero(first), 0)[count[1:] - 1], count, history.time)

    def since(self, moment: Moment, high: np.ndarray) -> np.ndarray:
        """The first event of the session that goes on at a moment, or `high` where none does.

        Args:
            moment: In microseconds, one or of shape (rows,).
            high: The event behind the last one until then, of shape (rows,).
        """
        if not len(self.time):
            return high
        return np.where(moment - self.time[high - 1] <= self.gap, self.start[high - 1], high)
