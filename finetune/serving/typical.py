"""The typical user of a log: medians over many users, beside which one user's figures stand."""

from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from data_prep.event_words import plural
from data_prep.features import plain
from data_prep.serializer import EventSerializer
from finetune.model.tokenization import encode
from finetune.report.report import FEWEST
from finetune.serving.attribution import Attribution, hidden, outputs_of
from finetune.serving.classifier import EventClassifier
from finetune.serving.facts import MONTH, capital, target_noun
from finetune.serving.histories import History
from finetune.serving.reasons import class_scores

COLUMNS = 3  # of numbers at most, in the table


@dataclass(frozen=True)
class TypicalUser:
    """What many users have in common.

    Attributes:
        users: How many they are.
        medians: Aggregate -> its median, where at least FEWEST users have it.
        score: The median of the calibrated scores of the class.
        output: The mean of the outputs that `attribute` explains.
        base: The mean of the outputs where every word is hidden.
    """

    users: int
    medians: dict[str, float]
    score: float
    output: float
    base: float

    @classmethod
    def of(cls, classifier: EventClassifier, histories: list[History], output: int) -> "TypicalUser | None":
        """Of these users, given the index of the class; None where they are too few."""
        if len(histories) < FEWEST:
            return None
        texts, medians = [history.text for history in histories], {}
        for name in histories[0].aggregates:
            known = [value for history in histories if (value := history.aggregates[name]) is not None]
            if len(known) >= FEWEST:
                medians[name] = float(np.median(known))
        ids = [np.array(row) for row in encode(classifier.tokenizer, texts)["input_ids"]]
        outputs, bases = (
            outputs_of(classifier.model, classifier.tokenizer, read, np.full(len(ids), output), tqdm(disable=True))
            for read in (ids, [hidden(classifier.tokenizer, row) for row in ids])
        )
        score = float(np.median(class_scores(classifier, texts, output)))
        return cls(len(histories), medians, score, float(outputs.mean()), float(bases.mean()))

    def length_share(self, attribution: Attribution) -> float:
        """How much of what sets an output apart from the mean one lies in the base, which is the text's length."""
        base = abs(attribution.base - self.base)
        words = abs((attribution.score - attribution.base) - (self.output - self.base))
        return base / (base + words) if base + words else 0.0

    def table(self, history: History, serializer: EventSerializer) -> list[dict]:
        """name, reading, user (null where the user has no such figure) and median of what a user is known by."""
        readings = _readings(serializer)
        return [
            {"name": name, "reading": reading, "user": history.aggregates[name], "median": self.medians[name]}
            for name, reading in readings.items()
            if name in self.medians
        ]


def _readings(serializer: EventSerializer) -> dict[str, str]:
    noun, readings = target_noun(serializer), {}
    if serializer.features.target != "true":
        readings = {
            "target_recency_days": f"Days since the last {noun}",
            "target_gap_median": f"Usual days between {plural(noun)}",
            f"target_{MONTH}d": f"{capital(plural(noun))} in the last {MONTH} days",
        }
    readings[f"events_{MONTH}d"] = f"Events of any kind in the last {MONTH} days"
    numeric = [name for name, kind in serializer.features.kinds.items() if kind == "numeric"]
    for column in numeric[:COLUMNS]:
        name = column.replace("_", " ")
        readings[f"{plain(column)}_sum_{MONTH}d"] = f"{capital(name)} in the last {MONTH} days"
        readings[f"{plain(column)}_mean"] = f"Average {name}"
    return readings | {"tenure_days": "Days since the first event"}
