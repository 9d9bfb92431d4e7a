"""What histories are written as, for the tests of all that takes part in it."""

from dataclasses import replace

from data_prep.config import TextConfig, TextField
from data_prep.serializer import EventSerializer

CUTOFF = 40  # days after shop.start

TYPES = {"event_type": "VARCHAR", "value": "DOUBLE", "items": "BIGINT", "category": "VARCHAR", "note": "VARCHAR"}


def texts(shop, rows: list[dict], config: TextConfig | EventSerializer, day: float = CUTOFF) -> dict[str, str]:
    return shop.histories(rows, shop.day(day), config)[1]


def only(**fields: TextField) -> TextConfig:
    """Texts of the events alone, without header and days."""
    return TextConfig(header=[], fields=fields)


def words_of(shop, values: list, column: str, spec: TextField, **config: object) -> list[str]:
    """What each value of a column is written as, for one user with one event a day, without the word of the gap."""
    rows = [shop.event("u", day, **{column: value}) for day, value in enumerate(values)]
    text = texts(shop, rows, replace(only(**{column: spec}), max_events=len(values), **config))["u"]
    return [" ".join(entry.split()[1:]) for entry in reversed(text.split("gap=")[1:])]
