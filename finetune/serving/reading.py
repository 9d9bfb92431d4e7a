"""A text word by word: which event and which field a word tells of, and what it says in plain language."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data_prep.features import plain
from data_prep.phrases import DAY_STEPS, aggregate_phrase, event_starts, short_words
from data_prep.serializer import OWN_STEPS, EventSerializer

# What aggregates with short names are called; an event day is one with an event.
AGGREGATES = {
    "recency_days": "days since the last {}event",
    "tenure_days": "days since the first {}event",
    "event_gap_seconds": "seconds between the last event and the one before",
    "session_seconds": "seconds since the session began",
    "sessions": "sessions so far",
    "gap_mean": "days between {}event days, mean",
    "gap_std": "days between {}event days, deviation",
    "gap_median": "days between {}event days, median",
    "gap_q90": "days between {}event days, 90 % are below",
    "gap_last3": "days between {}event days, mean of the last three",
    "recency_over_gap": "days since the last {}event, as a multiple of the mean between {}event days",
}


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
    if word.part == "header" and word.field not in serializer.header:  # of a class, see EventSerializer.own_names
        return f"{name}: {_often(word.value)} times, recent ones count more" if in_words else word.value
    fitted = serializer.header[word.field] if word.part == "header" else serializer.fields[word.field]
    if "edges" in fitted:
        colon = ":" if word.part == "header" else ""
        return f"{name}{colon} {_range(word.value, fitted)}" if in_words else word.value
    value = word.value.replace("_", " ")
    return value if word.field == "event_type" or fitted["kind"] == "text" else f"{name} {value}"


def field_reading(part: str, field: str) -> str:
    """What a field is called: target_28d of the header -> target events in 28 days; shop.north -> shop north before."""
    if part == "event":
        return "days since the event before" if field == "gap" else field.replace("_", " ")
    name = field.removeprefix("target_")
    if name in AGGREGATES:
        return AGGREGATES[name].replace("{}", "" if name == field else "target ")
    if "." in field:
        return f"{field.replace('.', ' ').replace('_', ' ')} before"
    return re.sub(r"^target(?= in )", "target events", aggregate_phrase(field))


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


def _range(value: str, fitted: dict) -> str:
    """The numbers of a bin."""
    if value == "na":
        return "unknown"
    edges, place = fitted["edges"], int(value)
    if not edges:
        return "any"
    if place == 0:
        return f"below {_number(edges[0])}"
    if place == len(edges):
        return f"{_number(edges[-1])} or more"
    low, high = edges[place - 1 : place + 1]
    if all(number == round(number) for number in (*edges, *fitted["centers"])):  # counts
        return _number(low) if high - low == 1 else f"{_number(low)} to {_number(high - 1)}"
    return f"{_number(low)} to {_number(high)}"


def _number(number: float) -> str:
    return (f"{number:.3g}" if abs(number) < 1000 else f"{number:,.0f}").replace("-", "\u2212")
