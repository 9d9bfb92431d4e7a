"""Events from a stream into the store, and scores back: JSON lines of standard input, or a Redis stream.

An event is acknowledged when the store has it, and its scores are written. What comes twice, after a stop in between,
is one event in the store; its score may be written twice.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import IO, Any, Protocol

from pydantic import ValidationError

from data_prep import InputError
from data_prep.moments import EPOCH, INSTANT
from finetune.runs import whom
from finetune.serving.service.engine import Append, BusyError, Call, Engine, UnusableEventsError
from finetune.serving.service.model import Answer, Asked
from finetune.serving.service.schemas import Event, Scored
from finetune.serving.service.store import StoreError, redis_client, redis_errors

TOGETHER = 200  # events that are kept in one transaction
WAIT = 1_000  # milliseconds for a new entry of a Redis stream
ABANDONED = 60_000  # milliseconds after which an entry that another consumer has not acknowledged is taken over
GROUP = "eventscribe"


@dataclass(frozen=True)
class Line:
    """An event as it came: by what it is acknowledged, its JSON, and what the stream has there."""

    place: str
    text: str
    given: Any = None


class Stream(Protocol):
    """Where events come from, and scores go."""

    def batches(self) -> Iterator[list[Line]]:
        """Some lines at a time, until there are no more."""
        ...

    def done(self, lines: Sequence[Line], scores: Sequence[str], rejected: Mapping[str, str]) -> None:
        """Write scores, put aside what was rejected (place -> why), and then acknowledge the lines."""
        ...


def consume(engine: Engine, stream: Stream, complain: Callable[[str], None]) -> dict[str, int]:
    """Keep the events of a stream, and write scores of their users as JSON, see `Scored`.

    Of a model whose cutoffs are at events the score is written after the events that its task asks after, of others
    after each batch with an event of the user. It is the score right behind the user's newest event.

    Args:
        engine: With model and store.
        stream: Where events come from, and scores go.
        complain: Is told of each event that cannot be used, by its place; it is put aside with the reason and
            acknowledged, as it never can be used.

    Returns:
        How many events are new, known and unusable, and how many scores were written.
    """
    counts: dict[str, int] = dict.fromkeys(("new", "known", "unusable", "scores"), 0)
    for lines in stream.batches():
        events, rejected = _parsed(lines)
        kept, new = _keep(engine, events, rejected)
        for place, why in rejected.items():
            complain(f"{place}: {why}")
        users = list(dict.fromkeys(event["user_id"] for event in kept))
        scores = engine.submit(Call(lambda users=users: _answers(engine, users))).result() if users else []
        stream.done(lines, [Scored.of(answer).model_dump_json() for answer in scores], rejected)
        found = {"new": new, "known": len(kept) - new, "unusable": len(rejected), "scores": len(scores)}
        counts = {name: counts[name] + found[name] for name in counts}
    return counts


def _parsed(lines: Sequence[Line]) -> tuple[dict[str, dict], dict[str, str]]:
    """Place -> event, of those that are events; place -> why, of the others."""
    events, rejected = {}, {}
    for line in lines:
        try:
            events[line.place] = Event.model_validate_json(line.text).plain()
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            named = ".".join(map(str, first["loc"]))
            rejected[line.place] = f"{named + ': ' if named else ''}{first['msg']}"
    return events, rejected


def _keep(engine: Engine, events: dict[str, dict], rejected: dict[str, str]) -> tuple[list[dict], int]:
    """The events that are in the store now, and how many of them are new; the others are added to the rejected."""
    if not events:
        return [], 0
    try:
        return list(events.values()), engine.submit(Append(list(events.values()))).result()
    except UnusableEventsError as error:
        places = list(events)
        rejected |= {places[row]: why for row, why in error.why.items()}
        return _keep(engine, {place: event for place, event in events.items() if place not in rejected}, rejected)
    except (StoreError, BusyError):
        raise
    except Exception as error:  # of one of them, which would come again and again
        if len(events) == 1:
            rejected |= dict.fromkeys(events, f"it cannot be read ({type(error).__name__})")
            return [], 0
        alone = [_keep(engine, {place: event}, rejected) for place, event in events.items()]
        return [event for kept, _ in alone for event in kept], sum(new for _, new in alone)


def _answers(engine: Engine, users: list[str]) -> list[Answer]:
    """The scores right behind each user's newest event, of those that the task asks for; by the engine's thread."""
    model = engine.model
    histories = model.histories(users, engine.store)
    after = INSTANT * (not model.classifier.serializer.features.moments)  # such a model counts the instant itself
    asked = [
        Asked(user, EPOCH + timedelta(microseconds=int(history.time[-1])) + after)
        for user, history in histories.items()
    ]
    answers = model.score_histories(histories, asked)
    trigger = whom(model.classifier.task).at is not None
    return [answer for answer in answers if answer.in_population or not trigger]


class JsonLines:
    """Events of a file of JSON lines, such as standard input; scores go to another one."""

    def __init__(self, read: IO[str], written: IO[str]) -> None:
        self.read, self.written = read, written

    def batches(self) -> Iterator[list[Line]]:
        """See Stream: the lines that have come, at most TOGETHER; a slow sender's line does not wait for others."""
        waiting: queue.Queue[str | None] = queue.Queue(TOGETHER)

        def read() -> None:
            for text in self.read:
                waiting.put(text)
            waiting.put(None)

        threading.Thread(target=read, name="lines", daemon=True).start()
        number, text = 0, waiting.get()
        while text is not None:
            lines: list[Line] = []
            while text is not None:
                number += 1
                lines += [Line(f"line {number}", text)] if text.strip() else []
                if waiting.empty() or len(lines) >= TOGETHER:
                    break
                text = waiting.get()
            if lines:
                yield lines
            text = waiting.get() if text is not None else None

    def done(self, lines: Sequence[Line], scores: Sequence[str], rejected: Mapping[str, str]) -> None:
        """See Stream; of what was rejected nothing but the complaint is left, as the sender has the lines."""
        self.written.writelines(f"{score}\n" for score in scores)
        self.written.flush()


class RedisStream:
    """Events of a Redis stream, each entry with the JSON in its field `event`; scores go to NAME:scores as `score`,
    and what cannot be used to NAME:rejected, with its fields, its id as `entry`, and `why`.

    Several consumers of a group share the entries. What one of them did not acknowledge, as it was stopped, it reads
    first when it starts again, and after a minute another one takes it over.

    Args:
        url: Of the server.
        name: Of the stream.
        consumer: Of this process, in the group GROUP.
        last: Whether to end where nothing new has come for a second, and not to wait on.
    """

    def __init__(self, url: str, name: str, consumer: str, last: bool = False) -> None:
        try:
            import redis
        except ImportError as error:
            raise InputError("a Redis stream needs redis", "pip install -e '.[redis]'", setting="--stream") from error
        self.name, self.consumer, self.last, self.failed = name, consumer, last, (redis.RedisError, OSError)
        self.client = redis_client(url, "--stream", WAIT / 1000 + 5)
        try:
            self.client.xgroup_create(name, GROUP, id="0", mkstream=True)
        except redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):  # it is there already
                raise InputError(f"--stream {name}: {error}", setting="--stream") from error
        except self.failed as error:
            raise InputError(
                f"--stream: no Redis answers there ({error})", "start it, or check the address", setting="--stream"
            ) from error

    def batches(self) -> Iterator[list[Line]]:
        """See Stream; first what this consumer was given before a stop."""
        start = "0"
        while True:
            entries = self._read(start)
            if entries:
                yield [Line(place, (fields or {}).get("event", ""), fields) for place, fields in entries]
            elif start == "0":
                start = ">"
            elif self.last:
                return

    def _read(self, start: str) -> list[tuple[str, dict[str, str] | None]]:
        """Entries of this consumer that are not acknowledged, from 0 on; new ones from > on, or abandoned ones."""
        with redis_errors(self.failed):
            given: Any = self.client.xreadgroup(GROUP, self.consumer, {self.name: start}, count=TOGETHER, block=WAIT)
            if given and given[0][1]:
                return given[0][1]
            if start == "0":
                return []
            taken: Any = self.client.xautoclaim(self.name, GROUP, self.consumer, ABANDONED, count=TOGETHER)
            return taken[1]

    def done(self, lines: Sequence[Line], scores: Sequence[str], rejected: Mapping[str, str]) -> None:
        """See Stream: all of it or nothing."""
        with redis_errors(self.failed):
            pipe = self.client.pipeline(transaction=True)
            for score in scores:
                pipe.xadd(f"{self.name}:scores", {"score": score})
            for line in lines:
                if line.place in rejected:
                    more = {"entry": line.place, "why": rejected[line.place]}
                    pipe.xadd(f"{self.name}:rejected", {**(line.given or {}), **more})
            pipe.xack(self.name, GROUP, *(line.place for line in lines))
            pipe.execute()
