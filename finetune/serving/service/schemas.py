"""What requests and answers look like: FastAPI checks the former and documents both."""

import json
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, model_validator

from finetune.serving.service.model import Answer

MOST = 1_000  # events or users of a request
AT = "The moment of prediction, such as 2024-03-01T10:00:00+02:00; without a zone in UTC; default: now."
UserId = Annotated[str, Field(min_length=1, max_length=256)]


class Event(BaseModel):
    """An event, with the fields of the training log beside these; names that it did not have are kept and not read."""

    model_config = ConfigDict(extra="allow")

    user_id: Annotated[StrictStr, Field(max_length=256)] | StrictInt
    event_time: str = Field(max_length=64, description="ISO 8601; without a zone in that of the training log.")
    event_type: str = Field(max_length=256)
    event_id: Annotated[StrictStr, Field(max_length=256)] | StrictInt | None = Field(
        default=None,
        description="Of a user's events of one id the first is kept; without ids, equal events are one.",
    )

    @model_validator(mode="after")
    def is_plain(self) -> "Event":
        """Refuse what JSON has no word for, which Python reads all the same."""
        try:
            json.dumps(self.model_extra, allow_nan=False)
        except ValueError:
            raise ValueError("NaN and Infinity are no numbers of JSON; leave the field out") from None
        return self

    def plain(self) -> dict[str, Any]:
        """As a dict without what is missing."""
        found = {name: value for name, value in self.model_dump().items() if value is not None}
        return found | {"user_id": str(self.user_id)}


class Events(BaseModel):
    """Events of one user or of many."""

    events: list[Event] = Field(min_length=1, max_length=MOST)


class EventsToScore(Events):
    """All events of each user, and of a model that reads attributes of users these."""

    users: list[dict[str, Any]] | None = Field(
        default=None,
        max_length=MOST,
        description="user_id, attributes and perhaps known_from; users without a row have no attributes.",
    )
    at: str | None = Field(default=None, description=AT)
    text: bool = Field(default=False, description="Also say the text that the model read.")


class UsersToScore(BaseModel):
    """Users whose events are kept."""

    users: list[UserId] = Field(min_length=1, max_length=MOST)
    at: str | None = Field(default=None, description=AT)
    text: bool = Field(default=False, description="Also say the text that the model read.")


class Stored(BaseModel):
    """What became of events: those that are not new were kept before."""

    stored: int
    known: int


class Scored(BaseModel):
    """A user's score at a moment: see GET /model for what it means."""

    user_id: str
    at: datetime
    score: float | list[float] = Field(description="Calibrated; of several classes a list, in the order of GET /model.")
    label: str | list[str] | None
    in_population: bool = Field(description="Whether the task asks about such a user: no other was learned of.")
    text: str | None = None

    @classmethod
    def of(cls, answer: Answer) -> "Scored":
        """An answer of the engine."""
        return cls(
            user_id=answer.user,
            at=answer.cutoff.replace(tzinfo=UTC),
            score=answer.score,
            label=answer.label,
            in_population=answer.in_population,
            text=answer.text,
        )


class Scores(BaseModel):
    """The scores, and the users who have none, as no event of theirs lies before the moment."""

    scores: list[Scored]
    without_history: list[str] = []


class Forgotten(BaseModel):
    """How many events of the user were taken away."""

    events: int


class Effect(BaseModel):
    """An event, and what the score would be if it had not happened: nothing of it in text, counts and gaps."""

    time: datetime
    words: list[str] | None = Field(description="What the model reads of it; null where the text does not have it.")
    without: float | None = Field(description="Null where the user would have no history.")
    change: float | None = Field(description="The score minus that without the event.")


class Explained(Scored):
    """Why a user has the score, which is that of `of_class` where the label has several."""

    of_class: str | None
    events: list[Effect]


class Timeline(BaseModel):
    """The score right after each of the newest moments with an event, and at last at the moment asked for."""

    scores: list[Scored]


class ModelName(BaseModel):
    """A model to serve."""

    model: str = Field(min_length=1, description="A folder such as runs/july/model, or a repository of the hub.")


class ModelFacts(BaseModel):
    """What is served."""

    model: str
    name: str
    question: str
    task: str
    label: str
    classes: list[str] | None
    horizon: str
    population: str = Field(description="Whom it learned of: users with this.")
    threshold: float | None = Field(description="From which score on the label is the second class.")
    calibration: str
    timezone: str
    fields: dict[str, str] = Field(description="Of an event, with the types that they had in training.")
    attributes: dict[str, str] = Field(description="Of users, that POST /score needs; empty where none are read.")
    training_cutoffs: list[str]
    runtime: str = Field(description="ONNX Runtime or PyTorch, by which it scores.")
    before: str | None = Field(description="The model that POST /model/rollback serves again.")
