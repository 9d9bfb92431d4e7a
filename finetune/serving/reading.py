"""A text word by word: which event and which field a word tells of, and what it says in plain language."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce

import numpy as np

from data_prep.attributes import MISSING
from data_prep.event_words import plural, with_article
from data_prep.features import plain
from data_prep.phrases import DAY_STEPS, aggregate_phrase, event_starts, short_words, shown_center
from data_prep.serializer import OWN_STEPS, EventSerializer
from finetune.field_words import field_reading


@dataclass(frozen=True)
class Word:
    """A word of a text in the style `words`, or a phrase of one in the style `sentences`.

    Attributes:
        start: Where it begins, in characters.
        event: The event's number, 0 for the newest; -1 for the header.
        field: The column, `gap` for the days since the event before, or in the header the aggregate.
        value: As the text has it.
    """

    start: int
    event: int
    field: str
    value: str

    @property
    def part(self) -> str:
        """Where it stands."""
        return "header" if self.event < 0 else "event"


def words_of(text: str, serializer: EventSerializer) -> list[Word]:
    """The words of a text that the serializer wrote, in their order; [SEP] and punctuation are no words."""
    starts = event_starts(text)
    split = _split_words if serializer.config.style == "words" else _split_sentences
    return [
        Word(start, int(np.searchsorted(starts, start, side="right")) - 1, field, value)
        for start, field, value in split(text, starts, serializer)
    ]


def reading(word: Word, serializer: EventSerializer) -> str:
    """What a word says in plain language; of a bin its range, as the model knows no more of a number."""
    if word.field == "gap" and word.event >= 0:
        return _gap(word.value)
    name, in_words = field_reading(word.part, word.field), serializer.config.style == "words"
    if attribute := attribute_of(word, serializer):
        return f"{name}: {_attribute(word, serializer.attributes[attribute], in_words)}"
    if word.part == "header" and word.field not in serializer.header:  # of a class, see EventSerializer.own_names
        often = word.value if in_words else str(OWN_STEPS.index(int(word.value.rpartition(" ")[2])))
        return f"{name}: {_often(often)} times, recent ones count more"
    fitted = serializer.header[word.field] if word.part == "header" else serializer.fields[word.field]
    if "edges" in fitted:
        return f"{name}{':' * (word.part == 'header')} {_range(word, fitted, in_words)}"
    value = word.value.replace("_", " ")
    return value if word.field == "event_type" or fitted["kind"] == "text" else f"{name} {value}"


def attribute_of(word: Word, serializer: EventSerializer) -> str | None:
    """The attribute of data.users that a word tells of; None where it tells of events."""
    names = (name for name in serializer.attributes if plain(name) == word.field)
    return next(names, None) if word.part == "header" else None


def _attribute(word: Word, fitted: dict, in_words: bool) -> str:
    """What a word says of an attribute."""
    if in_words and word.value == MISSING:
        return "not known"
    if fitted["kind"] == "numeric":
        return _range(word, fitted, in_words)
    value = word.value if in_words else word.value[len(word.field) + 1 :]
    return value.replace("_", " ")


def events_reading(word: Word, serializer: EventSerializer, noun: str) -> str:
    """The same as what a user has: events with price 5 to 9.5, mailings, baskets in the last 28 days: 1.

    Args:
        word: The word.
        serializer: That wrote it.
        noun: What a target event is called.
    """
    said = reading(word, serializer)
    if word.part == "header":
        names = {"a target event": with_article(noun), "target events": plural(noun), "target event": noun}
        return reduce(lambda text, name: text.replace(name, names[name]), names, said)
    if word.field == "gap":
        return {"first event": "the first event"}.get(said, f"events {said}".replace(" same day as", " on the day of"))
    if word.field == "event_type":
        return "events of a kind that the model does not know" if said == "other" else plural(said)
    return f"events with {said}"


def _split_words(text: str, starts: list[int], serializer: EventSerializer) -> Iterator[tuple[int, str, str]]:
    columns = {plain(name): name for name in serializer.fields}
    for match in re.finditer(r"\S+", text):
        name, equals, value = match[0].partition("=")
        if equals:
            # A column may have an aggregate's name.
            yield match.start(), columns.get(name, name) if match.start() >= starts[0] else name, value
        elif match[0] != "[SEP]":
            of_text = (name for name, fitted in serializer.fields.items() if match[0] in fitted.get("words", ()))
            yield match.start(), next(of_text), match[0]


def _split_sentences(text: str, starts: list[int], serializer: EventSerializer) -> Iterator[tuple[int, str, str]]:
    for match in re.finditer(r"(?:^|(?<=; ))(.+?)(?=; |\. $|$)", text[: starts[0]]):
        named = [name for name in serializer.header if _says(match[0], name)]
        named += [plain(name) for name in serializer.attributes if match[0].startswith(f"{_spoken(name)} ")]
        own = f"{plain(serializer.features.class_field or '')}.{match[0].rpartition(' ')[0].replace(' ', '_')}"
        yield match.start(), max(named, key=len, default=own), match[0]
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        gap, _, rest = text[start:end].rstrip(". ").partition(": ")
        yield start, "gap", gap
        fields, at = list(serializer.fields), start + len(gap) + 2
        for phrase in rest.split(", ") if rest else []:
            # The phrases come in the order of the fields, of which some may say nothing and a list several things.
            while len(fields) > 1 and not _fits(phrase, fields[0], serializer):
                fields.pop(0)
            if serializer.fields[fields[0]]["kind"] == "text":
                yield from ((at + match.start(), fields[0], match[0]) for match in re.finditer(r"\S+", phrase))
            else:
                yield at, fields[0], phrase
            at += len(phrase) + 2


def _spoken(name: str) -> str:
    """How a sentence calls an attribute."""
    return plain(name).replace("_", " ")


def _fits(phrase: str, field: str, serializer: EventSerializer) -> bool:
    fitted = serializer.fields[field]
    if fitted["kind"] == "numeric":
        return _says(phrase, field)
    if fitted["kind"] == "text":
        return set(phrase.split(" ")) <= set(fitted["words"])
    return phrase == "other" or phrase in {value.replace("_", " ") for value in fitted["values"]}


def _says(phrase: str, name: str) -> bool:
    """Whether a phrase is the name and a number."""
    return re.fullmatch(rf"{re.escape(aggregate_phrase(name))} -?[\d.]+(e[+-]\d+)?", phrase) is not None


def _gap(value: str) -> str:
    """`3` or `after 3 days` -> 3 days after the event before; `5m` -> 5 minutes after it."""
    if value == "first":
        return "first event"
    if short := re.fullmatch(r"(?:after )?(\d+) ?([smh])(?:econds?|inutes?|ours?)?", value):
        return f"{short_words(short[1] + short[2])} after the event before"
    days = int("".join(re.findall(r"\d", value)) or 0)
    if not days:
        return "same day as the event before"
    end = next((step for step in DAY_STEPS if step > days), days + 1) - 1
    span = (
        f"{days} days or more" if days == DAY_STEPS[-1] else f"{days} to {end} days" if end > days else f"{days} days"
    )
    return f"{'1 day' if days == 1 else span} after the event before"


def _often(value: str) -> str:
    """The numbers of a step of OWN_STEPS."""
    low, high = ([*OWN_STEPS, 0][int(value) + more] for more in (0, 1))
    return f"{low} or more" if not high else f"{low}" if high - low == 1 else f"{low} to {high - 1}"


def _range(word: Word, fitted: dict, in_words: bool) -> str:
    """The numbers of a bin; a text in the style `sentences` shows its median, which may be that of several bins."""
    if word.value == "na":
        return "unknown"
    edges, centers = fitted["edges"], fitted["centers"]
    shown = word.value.rpartition(" ")[2]
    places = [int(shown)] if in_words else [i for i, center in enumerate(centers) if shown_center(center) == shown]
    first, last = places[0], places[-1]
    if not edges:
        return "any"
    if first == 0:
        return f"below {_number(edges[last])}" if last < len(edges) else "any"
    if last == len(edges):
        return f"{_number(edges[first - 1])} or more"
    low, high = edges[first - 1], edges[last]
    if all(number == round(number) for number in (*edges, *centers)):  # counts
        return _number(low) if high - low == 1 else f"{_number(low)} to {_number(high - 1)}"
    return f"{_number(low)} to {_number(high)}"


def _number(number: float) -> str:
    return (f"{number:.3g}" if abs(number) < 1000 else f"{number:,.0f}").replace("-", "\u2212")
