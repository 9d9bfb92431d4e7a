"""A model that serves: its classifier, the events it reads, and the histories of the users it was asked about last."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from data_prep import InputError
from data_prep.history import History, side_by_side
from data_prep.live import LiveEvents, Unusable
from data_prep.moments import EPOCH, INSTANT
from data_prep.phrases import event_starts
from data_prep.serving import trained_zone
from finetune.runs import whom
from finetune.serving.classifier import EventClassifier
from finetune.serving.reading import reading, words_of
from finetune.serving.service.scoring import Scoring
from finetune.serving.service.store import Kept, Store

MOST_USERS, MOST_EVENTS = 20_000, 2_000_000  # whose histories are held, a few hundred bytes an event
MOMENTS = 20  # at which a user's score over time is told
LEFT_OUT = 24  # events at most that are left out, each once, to see what they did


@dataclass(frozen=True)
class Asked:
    """A question about a user: the score at a cutoff in UTC."""

    user: str
    cutoff: datetime
    text: bool = False


@dataclass(frozen=True)
class Answer:
    """The score, as `EventClassifier.answers` says it; `in_population` is whether the task asks about such a user."""

    user: str
    cutoff: datetime
    label: Any
    score: Any
    in_population: bool
    text: str | None


class ServedModel:
    """Not for several threads at a time.

    Args:
        name: The folder or the repository that it was loaded from.
        classifier: The model.
    """

    def __init__(self, name: str, classifier: EventClassifier) -> None:
        self.name, self.classifier = name, classifier
        zone = trained_zone(classifier.task) or "UTC"
        self.scoring = Scoring(classifier, Path(name))
        self.live = LiveEvents(classifier.serializer, zone, whom(classifier.task))
        self.held: OrderedDict[str, History] = OrderedDict()
        self.held_events = 0

    @classmethod
    def load(cls, name: str) -> "ServedModel":
        """Load it and let it score once, as the first time takes longer; InputError as EventClassifier's."""
        model = cls(name, EventClassifier.from_pretrained(name))
        event = {"user_id": "u", "event_time": EPOCH.replace(year=2024).isoformat(), "event_type": "e"}
        if model.attributes:
            model.live.know([])
        model.live.read([event])
        model.score_histories(model.live.histories(), [Asked("u", EPOCH.replace(year=2025))])
        model.live.know(None)
        return model

    @property
    def attributes(self) -> dict[str, str]:
        """Of users, that it reads, with their types."""
        return {name: fitted["type"] for name, fitted in self.classifier.serializer.attributes.items()}

    def close(self) -> None:
        """Let go of the histories and of the connection."""
        self.live.close()
        self.forget_all()

    # Histories

    def remember(self, events: Sequence[Kept], rows: Sequence[int]) -> None:
        """Append events to the histories that are held.

        Args:
            events: New in the store.
            rows: Where each stands among the events that `live` read last.
        """
        own = [row for row, event in zip(rows, events, strict=True) if event.user in self.held]
        for user, later in (self.live.histories(own) if own else {}).items():
            longer = self.live.append(self.held[user], later)
            self.forget(user)
            if longer is not None:  # else it is read anew when it is asked for
                self._hold(user, longer)

    def forget(self, user: str) -> None:
        """Let go of a user's history."""
        gone = self.held.pop(user, None)
        self.held_events -= len(gone.time) if gone else 0

    def forget_all(self) -> None:
        """Let go of all histories."""
        self.held.clear()
        self.held_events = 0

    def histories(self, users: Iterable[str], store: Store) -> dict[str, History]:
        """The histories of those users who have any, from the store where they are not held, or it was written to by
        another process."""
        if store.changed():
            self.forget_all()
        users = list(dict.fromkeys(users))
        missing = [user for user in users if user not in self.held]
        found = {user: self.held[user] for user in users if user in self.held}
        for user in found:
            self.held.move_to_end(user)
        if missing and (events := [event for own in store.events(missing).values() for event in own]):
            self.live.read(events, lenient=True)
            for user, history in self.live.histories().items():
                found[user] = history
                self._hold(user, history)
        return found

    def _hold(self, user: str, history: History) -> None:
        self.held[user] = history
        self.held_events += len(history.time)
        while len(self.held) > MOST_USERS or (self.held_events > MOST_EVENTS and len(self.held) > 1):
            self.forget(next(iter(self.held)))

    # Answers

    def score_events(
        self, events: list[dict], cutoff: datetime, text: bool, users: list[dict] | None = None
    ) -> list[Answer] | list[Unusable | str]:
        """The scores of users by these events and attributes alone, or of each event whether it is unusable.

        Raises:
            InputError: The model needs attributes and none are given, or they do not fit it.
        """
        read = self.live.read(events)
        if any(isinstance(one, Unusable) for one in read):
            return read
        try:
            self._know(users)
            histories = self.live.histories()
            return self.score_histories(histories, [Asked(user, cutoff, text) for user in histories])
        finally:
            self.live.know(None)

    def _know(self, users: list[dict] | None) -> None:
        """See `LiveEvents.know`; an error does not repeat what was given."""
        try:
            self.live.know(users)
        except InputError as error:
            if not self.attributes:
                raise
            types = ", ".join(f"{name} ({kind})" for name, kind in self.attributes.items())
            raise InputError(
                f"users does not fit the attributes that the model reads: {types}",
                "give one row a user, or several with known_from, and values of these types",
            ) from error

    def score_histories(self, histories: dict[str, History], asked: Sequence[Asked]) -> list[Answer]:
        """Answers to those questions that have one: the user has a history, and an event before the cutoff."""
        cutoffs: dict[datetime, dict[str, None]] = {}
        for one in asked:
            if one.user in histories:
                cutoffs.setdefault(one.cutoff, {})[one.user] = None
        written: dict[tuple[str, datetime], tuple[str, bool]] = {}
        for cutoff, users in cutoffs.items():
            texts, members = self.live.texts(side_by_side([histories[user] for user in users]), cutoff)
            for user, text, member in zip(users, texts, members, strict=True):
                if text is not None:
                    written[user, cutoff] = text, member
        if not written:
            return []
        texts = [text for text, _ in written.values()]
        scores, labels = self._answers(texts)
        said = dict(zip(written, zip(scores, labels, strict=True), strict=True))
        read = {key: written[key][0] for key in {(one.user, one.cutoff) for one in asked if one.text} if key in said}
        read = dict(zip(read, self.classifier.texts_read(list(read.values())), strict=True)) if read else {}
        return [
            Answer(one.user, one.cutoff, said[key][1], said[key][0], written[key][1], read[key] if one.text else None)
            for one in asked
            if (key := (one.user, one.cutoff)) in said
        ]

    def _answers(self, texts: list[str]) -> tuple[list, list]:
        """The score and the label of each text, as `EventClassifier.answers` has them."""
        scores = self.scoring(texts)
        labels = self.classifier.labels(scores, self.classifier.calibration.threshold)
        return scores.tolist(), [None] * len(texts) if labels is None else labels.to_pylist()

    # Why

    def explain(self, history: History, user: str, cutoff: datetime) -> dict | None:
        """What the score would be if one of a user's newest events had not happened; None without a history.

        Args:
            history: The user's.
            user: The id.
            cutoff: In UTC, without a zone.

        Returns:
            score, label and in_population; of_class, whose score it is where the label has several; and events, the
            newest first, each with time, words (as people read them), without (the score without it, None where the
            user would have no history), change (score minus that) and read (whether the text has it).
        """
        answers = self.score_histories({user: history}, [Asked(user, cutoff, True)])
        if not answers:
            return None
        (answer,) = answers
        left_out = self.live.without_each(history, LEFT_OUT, cutoff)
        texts = [text for _, text in left_out if text is not None]
        others = iter(self._answers(texts)[0] if texts else ())
        place = max(range(len(answer.score)), key=answer.score.__getitem__) if isinstance(answer.score, list) else None
        score = answer.score if place is None else answer.score[place]
        words, told = self._words(answer.text or ""), []
        for number, (time, text) in enumerate(left_out):
            found = None if text is None else next(others)
            without = found[place] if place is not None and found is not None else found
            change = None if without is None else score - without
            read = words[number] if number < len(words) else None
            told.append({"time": time, "words": read, "without": without, "change": change, "read": read is not None})
        return {
            "score": score,
            "label": answer.label,
            "in_population": answer.in_population,
            "of_class": None if place is None else self.classifier.objective.classes[place],
            "events": told,
        }

    def _words(self, text: str) -> list[list[str]]:
        """What each event of a text says to people, the newest first."""
        found: list[list[str]] = [[] for _ in event_starts(text)]
        for word in words_of(text, self.classifier.serializer):
            if word.event >= 0:
                found[word.event].append(reading(word, self.classifier.serializer))
        return found

    def over_time(self, history: History, user: str, cutoff: datetime) -> list[Answer]:
        """The score right after each of the newest moments with an event, and at the cutoff."""
        times = dict.fromkeys(EPOCH + timedelta(microseconds=at) for at in history.time.tolist())
        after = INSTANT * (not self.classifier.serializer.features.moments)  # such a model counts the instant itself
        moments = [time + after for time in times if time < cutoff][-MOMENTS:]
        return self.score_histories({user: history}, [Asked(user, moment) for moment in [*moments, cutoff]])
