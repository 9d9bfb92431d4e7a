"""The one thread that reads, keeps and scores: what waits is done together, so that many requests cost little more."""

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from data_prep.live import Unusable
from finetune.serving.service.model import Answer, Asked, ServedModel
from finetune.serving.service.store import Kept, Store, StoreError, kept

TOGETHER = 256  # requests that are done in one go
LOG = logging.getLogger("eventscribe.service")
MOST_WAITING = 2_048  # requests; more are sent away


class BusyError(Exception):
    """Too much waits, or the engine is stopping: come again."""


class UnusableEventsError(Exception):
    """Some of a request's events cannot be used, and so none of them was: `why` is row -> reason."""

    def __init__(self, read: Sequence[Any]) -> None:
        super().__init__("unusable events")
        self.why = {row: one.why for row, one in enumerate(read) if isinstance(one, Unusable)}


@dataclass(frozen=True)
class Append:
    """Keep events; the answer is how many of them are new."""

    events: list[dict]


@dataclass(frozen=True)
class Score:
    """The scores of some users at a cutoff, now if it is None; the answer has those with an event before it."""

    users: list[str]
    cutoff: datetime | None
    text: bool


@dataclass(frozen=True)
class Call:
    """Anything else that has to be done by the engine's thread."""

    work: Callable[[], Any]


Job = Append | Score | Call


@dataclass
class Counts:
    """What the engine did, for metrics."""

    new: int = 0
    known: int = 0
    unusable: int = 0
    batches: int = 0
    scores: int = 0


@dataclass
class Engine:
    """Does jobs in a thread of its own, until `stop`.

    Attributes:
        model: What scores.
        store: What keeps.
        before: The model that was served before, for a way back.
    """

    model: ServedModel
    store: Store
    before: ServedModel | None = None
    counts: Counts = field(default_factory=Counts)
    _jobs: "queue.SimpleQueue[tuple[Job, Future] | None]" = field(default_factory=queue.SimpleQueue)
    _stopping: bool = False

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it takes jobs."""
        return self._thread.is_alive() and not self._stopping

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        return self._jobs.qsize()

    def submit(self, job: Job) -> Future:
        """Its answer to come; raises BusyError."""
        if not self.alive or self.waiting >= MOST_WAITING:
            raise BusyError
        future: Future = Future()
        self._jobs.put((job, future))
        return future

    def stop(self) -> None:
        """Do what waits, and close the models and the store."""
        self._stopping = True
        self._jobs.put(None)
        self._thread.join()

    # By the thread

    def _work(self) -> None:
        going = True
        while going:
            batch = [self._jobs.get()]
            while len(batch) < TOGETHER and not self._jobs.empty():
                batch.append(self._jobs.get())
            going = None not in batch
            if not going:  # nothing is put behind the end but what came at the same moment
                while not self._jobs.empty():
                    batch.append(self._jobs.get())
            given = [one for one in batch if one is not None and one[1].set_running_or_notify_cancel()]
            self._do(given)
        for model in filter(None, (self.model, self.before)):
            model.close()
        self.store.close()

    def _do(self, given: list[tuple[Job, Future]]) -> None:
        kinds: dict[type, Callable[[list[Any]], list[Any]]] = {Append: self._append, Score: self._score}
        for kind, together in kinds.items():
            jobs = [(job, future) for job, future in given if isinstance(job, kind)]
            try:
                answers = together([job for job, _ in jobs]) if jobs else []
            except StoreError as error:
                for _, future in jobs:
                    future.set_exception(error)
                continue
            except Exception:  # of one of them, and whose it is shows when each is alone
                for job, future in jobs:
                    _settle(future, lambda job=job, together=together: together([job])[0])
                continue
            for (_, future), answer in zip(jobs, answers, strict=True):
                _settle(future, lambda answer=answer: answer)
        for job, future in given:
            if isinstance(job, Call):
                _settle(future, job.work)

    def _append(self, jobs: list[Append]) -> list[Any]:
        events = [event for job in jobs for event in job.events]
        read = self.model.live.read(events)
        answers: list[Any] = []
        rows, row = [], 0
        for job in jobs:
            own = range(row, row := row + len(job.events))
            if any(isinstance(read[i], Unusable) for i in own):
                answers.append(UnusableEventsError([read[i] for i in own]))
                self.counts.unusable += len(answers[-1].why)
            else:
                answers.append(own)
                rows += own
        keeping = [kept(str(read[i]), events[i]) for i in rows]
        new = dict(zip(rows, self._added(keeping), strict=True))
        fresh = [i for i in rows if new[i]]
        self.counts.new += len(fresh)
        self.counts.known += len(rows) - len(fresh)
        places = {i: number for number, i in enumerate(rows)}
        try:
            self.model.remember([keeping[places[i]] for i in fresh], fresh)
        except Exception:  # they are kept, and read from the store when they are asked for
            self._let_go(keeping)
        # A known event may have come without this process: another one, or an answer of the store that was lost.
        self._let_go([keeping[places[i]] for i in rows if not new[i]])
        return [sum(new[i] for i in one) if isinstance(one, range) else one for one in answers]

    def _added(self, keeping: list[Kept]) -> list[bool]:
        """See Store.add; where it fails the store may have done it all the same, as after a timeout."""
        try:
            return self.store.add(keeping)
        except Exception:
            self._let_go(keeping)
            raise

    def _let_go(self, events: list[Kept]) -> None:
        for event in events:
            self.model.forget(event.user)

    def _score(self, jobs: list[Score]) -> list[list[Answer]]:
        now = datetime.now(UTC).replace(tzinfo=None)
        histories = self.model.histories((user for job in jobs for user in job.users), self.store)
        asked = [[Asked(user, job.cutoff or now, job.text) for user in job.users] for job in jobs]
        answers = self.model.score_histories(histories, [one for own in asked for one in own])
        self.counts.batches += 1
        self.counts.scores += len(answers)
        found: dict[Asked, Answer] = {}
        for answer in answers:
            found[Asked(answer.user, answer.cutoff, answer.text is not None)] = answer
        return [[found[one] for one in own if one in found] for own in asked]

    # Calls, see `Call`

    def forget(self, user: str) -> int:
        """Take away a user; returns the number of events."""
        self.model.forget(user)
        return self.store.forget(user)

    def serve(self, model: ServedModel) -> None:
        """Score with another model from now on, and keep the one of before."""
        if self.before is not None:
            self.before.close()
        self.model.forget_all()
        self.before, self.model = self.model, model
        self._log_change()

    def back(self) -> bool:
        """Score with the model of before again; False where there is none."""
        if self.before is None:
            return False
        self.model.forget_all()
        self.model, self.before = self.before, self.model
        self._log_change()
        return True

    def _log_change(self) -> None:
        LOG.info("another model is served by %s: %s", self.model.scoring.runtime, self.model.name)


def _settle(future: Future, work: Callable[[], Any]) -> None:
    """Give a future what the work gives, raises, or gives as an exception."""
    try:
        answer = work()
    except Exception as error:
        answer = error
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
