"""Cutoffs of single users: the moments right after their events, or those of a table that a team has already.

A cutoff in the arrays is the microsecond behind its moment: all events of that very instant are history, and the label
window is open at its start.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep import InputError
from data_prep.config import CutoffRange, TaskConfig
from data_prep.cutoffs import SPLITS
from data_prep.event_log import EventLog
from data_prep.history import History
from data_prep.moments import EPOCH, INSTANT, microseconds, parse_duration, show
from data_prep.population import Members, an_event

PER_USER = 10  # moments of a user and split, unless told otherwise


@dataclass(frozen=True)
class Rows:
    """Examples to be made, in the order of their users and moments.

    Attributes:
        users: Index of each row's user, of shape (rows,).
        cutoffs: Of each row, in microseconds.
        labels: Of each row, where a table brings them.
    """

    users: np.ndarray
    cutoffs: np.ndarray
    labels: np.ndarray | None = None

    def of(self, chosen: np.ndarray) -> "Rows":
        """Some rows, by a mask or by their places."""
        labels = None if self.labels is None else self.labels[chosen]
        return replace(self, users=self.users[chosen], cutoffs=self.cutoffs[chosen], labels=labels)

    def rounds(self) -> Iterator["Rows"]:
        """The first row of each user, then the second one of those who have it, and so on; none is one empty round."""
        place = np.arange(len(self.users)) - _starts(self.users)
        order = np.argsort(place, kind="stable")
        ends = np.cumsum(np.bincount(place, minlength=1))
        for begin, end in zip([0, *ends], ends, strict=False):
            yield self.of(order[begin:end])


@dataclass(frozen=True)
class Draw:
    """Which of a user's moments in a split are taken: at most `per_user`, at least `gap` microseconds apart."""

    per_user: int
    gap: int


@dataclass(frozen=True)
class MomentRule:
    """Where the cutoffs of the users lie in each split.

    Attributes:
        bounds: Split -> the first and the last cutoff that a user may have, in microseconds.
        draws: Split -> which moments are taken; empty where `given` has them.
        given: user_id, cutoff (microseconds) and perhaps label, in this order, sorted; None where they are at events.
    """

    bounds: dict[str, tuple[int, int]]
    draws: dict[str, Draw]
    given: pa.Table | None = None

    def asked(self) -> dict[str, int]:
        """Split -> rows of the table within its bounds."""
        if self.given is None:
            return {}
        at = self.given["cutoff"].to_numpy()
        return {split: int(((at >= first) & (at <= last)).sum()) for split, (first, last) in self.bounds.items()}

    def left_out(self) -> list[str]:
        """A sentence where rows of the table are in no split."""
        rows = 0 if self.given is None else len(self.given) - sum(self.asked().values())
        return [f"{rows:,} rows of task.examples lie between no `first` and `last` of a split"] if rows else []

    def rows(self, history: History, members: Members) -> dict[str, tuple[Rows, int]]:
        """Split -> the rows of the users of a history who are in the population, and how many there were in all."""
        found = {}
        candidates = self._at_events(history) if self.given is None else self._in_table(history, self.given)
        for split, (first, last) in self.bounds.items():
            rows = candidates.of((candidates.cutoffs >= first) & (candidates.cutoffs <= last))
            asked = len(rows.users)
            rows = rows.of(members.among(rows.cutoffs, rows.users))
            if split in self.draws:
                rows = rows.of(_spaced(rows, self.draws[split].gap))
                rows = rows.of(_drawn(rows, history.users, self.draws[split].per_user))
            found[split] = rows, asked
        return found

    def _at_events(self, history: History) -> Rows:
        matching = np.flatnonzero(history.columns["trigger"].to_numpy())
        users, cutoffs = history.owner[matching], history.time[matching] + 1
        new = np.ones(len(matching), bool)  # several at one instant are one moment
        new[1:] = (users[1:] != users[:-1]) | (cutoffs[1:] != cutoffs[:-1])
        return Rows(users[new], cutoffs[new])

    def _in_table(self, history: History, given: pa.Table) -> Rows:
        place = pc.index_in(given["user_id"], history.users)  # pyright: ignore[reportAttributeAccessIssue]
        table = given.filter(place.is_valid())
        users = place.drop_null().to_numpy().astype(np.int64)
        labels = table["label"].to_numpy() if "label" in table.column_names else None
        rows = Rows(users, table["cutoff"].to_numpy(), labels)
        rows = rows.of(np.lexsort((rows.cutoffs, rows.users)))
        early = rows.of(~history.with_past(rows.cutoffs, rows.users))
        if len(early.users):
            raise InputError(
                f"user '{history.users[int(early.users[0])]}' has no event up to the cutoff "
                f"{show(EPOCH + (int(early.cutoffs[0]) - 1) * INSTANT)}",
                "leave rows without a history out",
                setting="task.examples",
            )
        return rows


def moment_rule(
    task: TaskConfig, cutoffs: dict[str, list[datetime]], given: pa.Table | None, log: EventLog
) -> MomentRule | None:
    """Where the cutoffs of single users lie; None where they are those of the calendar.

    Args:
        task: With its cutoffs.
        cutoffs: By `resolve_cutoffs`.
        given: By `data_prep.given_examples`, where there is a table.
        log: What the log has.

    Raises:
        InputError: A cutoff of the table lies behind the log's end.
    """
    if not task.at_moments:
        return None
    bounds = {
        split: (microseconds(found[0] - EPOCH), microseconds(found[-1] - EPOCH)) for split, found in cutoffs.items()
    }
    if given is not None:
        assert log.last is not None, "as a log without an event is refused"
        latest = EPOCH + (int(given["cutoff"].to_numpy().max()) - 1) * INSTANT
        if latest > log.last:
            raise InputError(
                f"a cutoff is {show(latest)}, but the log ends on {show(log.last)}",
                "leave rows after its end out, or give the newer events",
                setting="task.examples",
            )
        return MomentRule(bounds, {}, given)
    draws = {}
    for split in SPLITS:
        value = getattr(task.cutoffs, split)
        assert isinstance(value, CutoffRange), "by resolve_cutoffs"
        gap = 0 if value.gap is None else microseconds(parse_duration(value.gap, f"task.cutoffs.{split}.gap"))
        draws[split] = Draw(value.per_user or PER_USER, gap)
    return MomentRule(bounds, draws)


def no_moments(task: TaskConfig, split: str, cutoffs: list[datetime]) -> InputError:
    """What is said of a split without an example."""
    who = an_event(task.at) if task.at else "a row of task.examples"
    if task.members:
        who += f" and {an_event(task.members.where)} in the {task.members.within} before it"
    return InputError(
        f"nobody has {who} from {show(cutoffs[0])} to {show(cutoffs[-1])}",
        "move `first` and `last`, or ask for other events",
        setting=f"task.cutoffs.{split}",
    )


def _starts(users: np.ndarray) -> np.ndarray:
    """The first row of each row's user, given users in order."""
    return np.searchsorted(users, users)


def _spaced(rows: Rows, gap: int) -> np.ndarray:
    """Whether each row is taken: the first of a user, and then each that comes at least `gap` after the last taken one.

    So no later event changes whether an earlier one is taken.
    """
    taken = np.zeros(len(rows.users), bool)
    times, rank = np.unique(rows.cutoffs, return_inverse=True)
    number = rows.users * (len(times) + 1) + rank
    following = np.searchsorted(number, rows.users * (len(times) + 1) + np.searchsorted(times, rows.cutoffs + gap))
    following = np.maximum(following, np.arange(1, len(taken) + 1))  # without a gap the next one
    at = np.flatnonzero(_starts(rows.users) == np.arange(len(taken)))
    users = np.append(rows.users, -1)
    while len(at):
        taken[at] = True
        at = following[at][users[following[at]] == users[at]]
    return taken


def _drawn(rows: Rows, names: pa.Array, per_user: int) -> np.ndarray:
    """Whether each row is among the `per_user` of its user with the lowest hash, in any order of rows and parts."""
    count = np.bincount(rows.users)
    many = np.flatnonzero(count[rows.users] > per_user) if len(rows.users) else rows.users
    taken = np.ones(len(rows.users), bool)
    users = np.unique(rows.users[many])
    keys = [hashlib.blake2b(names[int(user)].as_py().encode(), digest_size=8).digest() for user in users]
    key = np.frombuffer(b"".join(keys), "<u8")[np.searchsorted(users, rows.users[many])]
    order = np.lexsort((_mixed(_mixed(rows.cutoffs[many].astype(np.uint64)) ^ key), rows.users[many]))
    ordered = rows.users[many][order]
    taken[many[order]] = np.arange(len(ordered)) - _starts(ordered) < per_user
    return taken


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """SplitMix64 (Steele, Lea and Flood 2014) of numbers of 64 bits: the same on every machine."""
    with np.errstate(over="ignore"):
        mixed = numbers + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))
