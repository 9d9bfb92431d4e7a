"""Who is in the population at a cutoff: the users with a matching event in the time before it."""

import numpy as np

from data_prep.config import Population
from data_prep.history import History, running
from data_prep.moments import microseconds, parse_duration
from data_prep.sql import condition


def member_column(population: Population) -> dict[str, str]:
    """Name -> SQL over an event: what `load_history` reads for `Members`."""
    return {"member": condition(population.where)}


class Members:
    """The users of a history who are in the population, at any cutoff.

    Args:
        population: Who they are.
        history: With the column of `member_column`.
    """

    def __init__(self, population: Population, history: History) -> None:
        self.within = microseconds(parse_duration(population.within, "task.population.within"))
        self.history, self.matching = history, running(history.columns["member"].to_numpy())

    def at(self, cutoff: int) -> np.ndarray:
        """Indices of the users with a matching event in [cutoff - within, cutoff); times in microseconds."""
        return self.history.having(self.matching, cutoff - self.within, cutoff)


def an_event(population: Population) -> str:
    """What a user of the population has before a cutoff."""
    return "an event" if population.where == "true" else f"an event with {population.where}"
