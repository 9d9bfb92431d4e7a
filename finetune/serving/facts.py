"""What a user's own history says of a theme, in sentences with the exact figures of the log."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from data_prep.event_words import event_noun, plural, with_article
from data_prep.features import plain
from data_prep.history import DAY, TOO_LARGE
from data_prep.history import History as Events
from data_prep.moments import EPOCH, microseconds
from data_prep.serializer import EventSerializer
from finetune.serving.histories import History
from finetune.serving.reading import Word, reading
from finetune.serving.themes import Theme
from finetune.wording import number, percent

LATEST = 3  # events, or days between them, that are told apart from all
MONTH = 28  # days


@dataclass(frozen=True)
class Facts:
    """A user's history, to be told of.

    Attributes:
        history: The user's.
        events: The same as the serializer loads it, the oldest event first.
        cutoff: In UTC, without a zone.
        serializer: The model's.
        read: The number of events that the model reads, the newest ones.
        typical: Aggregate -> its median over other users, where there is one.
    """

    history: History
    events: Events
    cutoff: datetime
    serializer: EventSerializer
    read: int
    typical: dict[str, float]

    def sentence(self, theme: Theme, words: Sequence[Word]) -> str | None:
        """What is true of the user and told by these words, all those of the theme; None where there is no figure."""
        header = [word.field for word in words if word.part == "header"]
        target = any(name.startswith("target") for name in header)
        match theme.about:
            case "recency":
                return self._recency(target, not all(name.startswith("target") for name in header))
            case "rhythm":
                return self._rhythm(target)
            case "frequency":
                return self._frequency(target)
            case "tenure":
                return f"The first event was {days(self._found('tenure_days'))} ago{self._typical('tenure_days')}"
            case "amount":
                return self._amount(theme.field, any("_sum" in name for name in header))
            case "aggregate":
                found = self.history.aggregates[theme.field]
                return None if found is None else f"{capital(theme.title)}: {figure(found)}{self._typical(theme.field)}"
            case "attribute":
                return self._attribute(theme.field, words)
        if any("." in name for name in header):
            return self._class(theme)
        return self._value(theme, sorted({word.event for word in words if word.part == "event"}))

    def _found(self, aggregate: str) -> float:
        """An aggregate that every user with an event has."""
        found = self.history.aggregates[aggregate]
        assert found is not None
        return found

    def _typical(self, aggregate: str) -> str:
        found = self.typical.get(aggregate)
        return "" if found is None else f" (typical user: {aggregate_figure(aggregate, found)})"

    def _recency(self, target: bool, other: bool) -> str:
        """How long ago the last target event was, and the last one of any kind if the words tell of that, too."""
        ago, ago_any = self.history.aggregates["target_recency_days"], self._found("recency_days")
        said = [self._since("target_", target_noun(self.serializer))] if target else []
        if other and (not target or ago is None or int(ago) != int(ago_any)):
            said.append(self._since("", "event of any kind"))
        return capital("; ".join(said))

    def _since(self, prefix: str, noun: str) -> str:
        ago, usual = (self.history.aggregates[f"{prefix}{name}"] for name in ("recency_days", "gap_median"))
        if ago is None:
            return f"there was no {noun} before"
        late = usual is not None and int(ago) > usual
        said = f"no {noun} for {days(ago)}" if late else f"the last {noun} was {days(ago)} ago"
        said += self._typical(f"{prefix}recency_days")
        if usual is None:
            return said
        return f"{said}, usually one every {'day' if usual == 1 else f'{figure(usual)} days'}"

    def _rhythm(self, target: bool) -> str | None:
        prefix, noun = ("target_", target_noun(self.serializer)) if target else ("", "event")
        usual, latest = (self.history.aggregates[f"{prefix}{name}"] for name in ("gap_median", "gap_last3"))
        if usual is None or latest is None:  # all events lie on one day
            return None
        between = f"{figure(usual)} day{'s' * (usual != 1)} between {plural(noun)}"
        said = f"Usually {between}{self._typical(f'{prefix}gap_median')}"
        if self._found(f"{prefix}active_days") > LATEST + 1:
            said += f", {figure(latest)} on average the last {LATEST} times"
        return said

    def _frequency(self, target: bool) -> str:
        name, noun = ("target", target_noun(self.serializer)) if target else ("events", "event")
        late, both, ever = (int(self._found(f"{name}{window}")) for window in (f"_{MONTH}d", f"_{2 * MONTH}d", ""))
        said = f"{capital(counted(late, noun))} in the last {MONTH} days{self._typical(f'{name}_{MONTH}d')}"
        if self._found("tenure_days") < 2 * MONTH:
            return f"{said}, {ever} in all"
        return f"{said}, {both - late or 'none'} in the {MONTH} days before"

    def _amount(self, field: str, summed: bool) -> str | None:
        """The latest values beside those before; where the words tell of sums, also what they come to."""
        values = self.events.columns[f"value:{field}"].to_numpy(zero_copy_only=False)[::-1]
        known, target = np.abs(values) < TOO_LARGE, self.events.columns["target"].to_numpy()[::-1] > 0
        values, name = values[known], field.replace("_", " ")
        if not len(values):
            return None
        noun, which = (target_noun(self.serializer), "") if (known == target).all() else ("event", f" with {name}")
        if len(values) < 2 * LATEST:
            said = f"Average {name} of {counted(len(values), noun)}{which}: {figure(values.mean())}"
        else:
            latest, before = float(values[:LATEST].mean()), float(values[LATEST:].mean())
            compared = f"{figure(latest)}, {beside(latest, before)} the {figure(before)} before"
            said = f"Average {name} of the last {counted(LATEST, noun)}{which}: {compared}"
        said += self._typical(f"{plain(field)}_mean")
        if not summed:
            return said
        total = f"{plain(field)}_sum_{MONTH}d"
        return f"{said}; {figure(self._found(total))} in all in the last {MONTH} days{self._typical(total)}"

    def _value(self, theme: Theme, events: list[int]) -> str | None:
        """In how many of the events that the model reads a value is, or what the header says of a type of events."""
        name, value = theme.field.replace("_", " "), theme.value.replace("_", " ")
        if not events:
            late, ago = (
                self.history.aggregates[f"type_{theme.value}_{part}"] for part in (f"{MONTH}d", "recency_days")
            )
            return None if ago is None else f"{capital(value)}: {late} in the last {MONTH} days, last {days(ago)} ago"
        what = f"{name} {value}"
        if value == "other":
            what = f"a {'kind' if theme.field == 'event_type' else name} that the model does not know"
        ago = days((self.cutoff - self.history.times[events[0]]) / timedelta(days=1))
        several = len(events) > 1
        if theme.field == "event_type" and value != "other":
            verb, what = ("are", plural(value)) if several else ("is", with_article(value))
        else:
            verb = "have" if several else "has"
        if self.read == 1:
            return f"The {'only' if len(self.history.times) == 1 else 'last'} event {verb} {what}, {ago} ago"
        which = f"of the last {self.read}" if len(self.history.times) > self.read else f"of all {self.read}"
        return f"{len(events)} {which} events {verb} {what}, the latest {ago} ago"

    def _attribute(self, name: str, words: Sequence[Word]) -> str:
        """What data.users says of the user."""
        if self.serializer.attributes[name]["kind"] == "numeric":
            found = self.history.aggregates[plain(name)]
            called = capital(name.replace("_", " "))
            return f"{called}: {'not known' if found is None else figure(found)}{self._typical(plain(name))}"
        said = [reading(word, self.serializer) for word in words]
        return capital("; ".join(dict.fromkeys(said)))

    def _class(self, theme: Theme) -> str:
        """How often a class of the label came before."""
        assert self.events.classes is not None
        number_of = self.serializer.own_names().index(f"{plain(theme.field)}.{theme.value}")
        _, time, code = self.events.classes
        times, noun = time[code == number_of], target_noun(self.serializer)
        ago = days(float(microseconds(self.cutoff - EPOCH) - times.max()) / DAY)
        name, value = theme.field.replace("_", " "), self.serializer.features.classes[number_of]
        return f"{counted(len(times), noun)} with {name} {value} before, the latest {ago} ago"


def target_noun(serializer: EventSerializer) -> str:
    """What an event is called that the label is about: its type where that alone decides."""
    return event_noun(serializer.features.target) or "target event"


def counted(count: int, noun: str) -> str:
    """3 baskets, 1 basket, no baskets."""
    return f"{count} {noun}" if count == 1 else f"{count or 'no'} {plural(noun)}"


def days(length: float) -> str:
    """Whole days that have passed."""
    return "less than a day" if length < 1 else f"{int(length)} day{'s' * (length >= 2)}"


def figure(value: float) -> str:
    """With three digits that tell something, or all that stand before the point."""
    text = number(value, max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0)
    return text.rstrip("0").rstrip(".") if "." in text else text


def aggregate_figure(name: str, value: float) -> str:
    """Of an aggregate; of days since an event the whole ones."""
    return figure(int(value)) if name.endswith(("recency_days", "tenure_days")) else figure(value)


def beside(latest: float, before: float) -> str:
    """What a number is of another one: about half of, 30 % more than."""
    if latest <= 0 or before <= 0:
        return "against"
    ratio = latest / before
    for wanted, words in ((1, "about the same as"), (0.5, "about half of"), (2, "about twice")):
        if abs(ratio / wanted - 1) <= 0.1:
            return words
    if ratio > 3:
        return f"{number(ratio, 1)} times"
    return f"{percent(abs(ratio - 1))} {'more' if ratio > 1 else 'less'} than"


def capital(text: str) -> str:
    """With a capital letter."""
    return text[:1].upper() + text[1:]
