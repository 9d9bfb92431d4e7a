"""What a word is about, such as how long ago the last purchase was; the words of a theme are one reason together."""

import re
from dataclasses import dataclass

from data_prep.features import plain
from data_prep.serializer import EventSerializer
from finetune.field_words import aggregate_reading
from finetune.serving.reading import Word, attribute_of

WINDOW = r"(\d+[mhd]|session)"
# Aggregates of the header by what they are about; those of columns and of types of events follow from their names.
ABOUT = {
    "recency": r"(target_)?recency_(days|over_gap(_q90)?)",
    "rhythm": r"(target_)?gap_\w+",
    "frequency": rf"(events|(target_)?active_days|target)(_{WINDOW}|_per_day|_trend_\d+_\d+)?",
    "tenure": r"(target_)?tenure_days",
}
OF_COLUMN = rf"_(sum|mean|max|last)(_{WINDOW}|_trend_\d+_\d+)?"
TITLES = {
    "recency": "the time since the last event",
    "rhythm": "the time between events",
    "frequency": "the number of events",
    "tenure": "the time since the first event",
}


@dataclass(frozen=True)
class Theme:
    """What words tell of together.

    Attributes:
        about: A key of ABOUT; amount, for the numbers of a column; value, for a value of a column; aggregate; or
            attribute, of the user.
        field: The column, or the aggregate.
        value: As words show it.
    """

    about: str
    field: str = ""
    value: str = ""

    @property
    def of_column(self) -> "Theme":
        """The same of all values of the column."""
        return Theme(self.about, self.field)

    @property
    def title(self) -> str:
        """In plain language, whatever the value."""
        if self.about == "aggregate":
            return aggregate_reading(self.field)
        if self.about == "attribute":
            return f"the user's {self.field.replace('_', ' ')}"
        column = "kind" if self.field == "event_type" else self.field.replace("_", " ")
        return TITLES.get(self.about, f"the {column} of events")


def theme_of(word: Word, serializer: EventSerializer) -> Theme:
    """What a word is about."""
    features, name = serializer.features, word.field
    if word.part == "event":
        if name == "gap":
            return Theme("tenure" if word.value == "first" else "rhythm")
        numeric = serializer.fields[name]["kind"] == "numeric"
        return Theme("amount", name) if numeric else Theme("value", name, word.value.replace(" ", "_"))
    if attribute := attribute_of(word, serializer):
        return Theme("attribute", attribute)
    for about, names in ABOUT.items():
        if re.fullmatch(names, name):
            return Theme(about)
    for kind in features.event_types:
        if re.fullmatch(rf"type_{re.escape(kind)}_(recency_days|{WINDOW})", name):
            return Theme("value", "event_type", kind)
    for column, kind in features.kinds.items():
        if kind == "numeric" and re.fullmatch(plain(column) + OF_COLUMN, name):
            return Theme("amount", column)
    if name in serializer.header:
        return Theme("aggregate", name)
    return Theme("value", features.class_field or "", name.partition(".")[2])  # how often a class came before
