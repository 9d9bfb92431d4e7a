"""What manifest.json of prepared data and task.json of a model hold, for type checkers.

Whether a file that is read holds it is checked by MANIFEST_HOLDS of `data_prep.prepared` and TASK_HOLDS of
`finetune.runs`.
"""

from typing import Any, NotRequired, TypedDict


class LogFacts(TypedDict):
    """The log; moments in ISO 8601, `fields` column -> DuckDB type. What was left out of it stands in manifests."""

    first: str
    last: str
    events: int
    users: int
    fields: dict[str, str]
    timezone: NotRequired[str]  # older ones lack it and the next three
    silent_days: NotRequired[int]
    known: NotRequired[dict[str, float]]
    has: NotRequired[dict[str, list[str]]]  # event type -> columns
    rejected: NotRequired[dict[str, int]]
    left_out: NotRequired[dict[str, int]]
    equal_rows: NotRequired[int]


class SplitFacts(TypedDict):
    """A split; what its labels are like by the label's kind: classes is name -> examples."""

    rows: int
    users: int
    cutoffs: list[str]
    most_per_user: NotRequired[int]  # rows of a user; where each has its own cutoffs, which lie between the two above
    positive_rate: NotRequired[float]
    mean: NotRequired[float]
    share_above_zero: NotRequired[float]
    classes: NotRequired[dict[str, int]]
    intervals: NotRequired[dict[str, dict[str, int]]]  # horizon -> at_risk and events of the interval that ends there


class UserFacts(TypedDict):
    """The table of data.users: users in it, and those of them with an event; `columns` attribute -> kind; `missing`
    split -> attribute that is read -> share of the examples without it."""

    users: int
    with_events: int
    columns: dict[str, str]
    missing: dict[str, dict[str, float]]


class Facts(TypedDict):
    """What both files hold; classes are None of a label without any."""

    name: str
    question: str
    label: str
    label_kind: str
    labels_from: NotRequired[str]  # see `data_prep.given_examples`
    classes: list[str] | None
    log: LogFacts
    splits: dict[str, SplitFacts]
    text_columns: list[str]
    attributes: NotRequired[list[str]]  # of data.users, that texts tell of
    schema: NotRequired[str]  # SHA-256 of the serializer.json that was given, where bins and words are not of this log
    content_hash: str


class Manifest(Facts):
    """manifest.json: `config` by section, `files` (name -> bytes), `key` as in `data_prep.prepare`."""

    format: int
    key: str | None
    files: dict[str, int]
    config: dict[str, dict[str, Any]]
    unlabelled: dict[str, Any]
    warnings: list[str]
    suspected_leaks: list[dict[str, Any]]
    seconds: float
    aggregates: list[str]
    class_aggregates: NotRequired[list[str]]
    users: NotRequired[UserFacts]


class Task(Facts):
    """task.json: `task` has label and population."""

    task: dict[str, dict[str, Any]]
