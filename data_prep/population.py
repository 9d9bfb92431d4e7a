"""Whom a task asks about at a cutoff: users with a matching event in the time before it, or right after an event."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import numpy as np

from data_prep.config import Population
from data_prep.event_words import event_phrase
from data_prep.history import History, Moment, running
from data_prep.moments import in_words, microseconds, parse_duration
from data_prep.sql import condition


@dataclass(frozen=True)
class Whom:
    """The users whom a task asks about at a moment.

    Attributes:
        population: Who they are; None is everybody with a history.
        at: SQL condition of the events right after which it asks; None asks at any moment.
    """

    population: Population | None
    at: str | None = None

    def columns(self) -> dict[str, str]:
        """Name -> SQL over an event: what `load_history` reads for `Members`."""
        sql = {"member": condition(self.population.where)} if self.population else {}
        return sql | ({"trigger": condition(self.at)} if self.at else {})

    @property
    def within(self) -> timedelta:
        """How far the look-back of the population reaches."""
        assert self.population is not None, "as it is asked for"
        return parse_duration(self.population.within or "", "task.population.within")

    def phrase(self) -> str:
        """What they have, behind "users with"."""
        return self._said(event_phrase, "at the cutoff", "before")

    def absent(self) -> str:
        """What nobody has where there is nobody."""
        return self._said(an_event, "at it", "before it")

    def _said(self, called: Callable[[str], str], at: str, before: str) -> str:
        after = f"{called(self.at)} {at}" if self.at else ""
        if self.population is None:
            return after or f"an event {before}"
        member = f"{called(self.population.where)} in the {in_words(self.population.within or '')} {before}"
        return f"{after} and {member}" if after else member


EVERYBODY = Whom(None)


class Members:
    """The users of a history whom a task asks about, at any cutoff."""

    def __init__(self, whom: Whom, history: History) -> None:
        self.history = history
        self.marks = {name: running(history.columns[name].to_numpy()) for name in whom.columns()}
        if whom.population:
            self.within = microseconds(whom.within)

    def among(self, cutoff: Moment, users: np.ndarray) -> np.ndarray:
        """Whether each of some users is asked about at a cutoff, of shape (users,).

        They have an event before it; with a population a matching one in [cutoff - within, cutoff); with a trigger one
        at the last microsecond before it.
        """
        asked = self.history.with_past(cutoff, users)
        if "member" in self.marks:
            asked &= self.history.having(self.marks["member"], cutoff - self.within, cutoff, users)
        if "trigger" in self.marks:
            asked &= self.history.having(self.marks["trigger"], cutoff - 1, cutoff, users)
        return asked

    def at(self, cutoff: Moment) -> np.ndarray:
        """Indices of those of all users who are asked about at a cutoff."""
        return np.flatnonzero(self.among(cutoff, self.history.everyone))


def an_event(where: str) -> str:
    """An event of a condition, in words."""
    return "an event" if where == "true" else f"an event with {where}"
