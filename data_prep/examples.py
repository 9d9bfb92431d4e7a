"""Examples: (user, cutoff) with text, label and aggregates, made for one part of the log's users after another."""

from collections import Counter, deque
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep import InputError
from data_prep.aggregates import Aggregator, aggregate_names, example_table, lists
from data_prep.attributes import RELATION, Attributes, fit_attributes
from data_prep.config import TaskConfig, TextConfig, TextField
from data_prep.cutoffs import SPLITS, log_end, split_file
from data_prep.event_log import Count, EventLog
from data_prep.features import Features, field_kinds, frequent_types
from data_prep.given_schema import check_schema
from data_prep.given_users import UserRows
from data_prep.history import Moment, combined
from data_prep.labels import LabelRule, Labels, class_names, describe_labels, fit_classes
from data_prep.moments import EPOCH, INSTANT, microseconds, parse_duration, show
from data_prep.population import an_event
from data_prep.serializer import EventSerializer
from data_prep.task import check_task
from data_prep.text_settings import check_attributes, check_fields
from data_prep.user_moments import MomentRule, Rows, moment_rule, no_moments

KEYS = ["user_id", "cutoff", "label"]  # columns with statistics
ROW_GROUP = 50_000  # rows
UNLABELLED = "unlabelled"  # the file, beside those of the splits, with histories of users outside of the population


@dataclass
class Batch:
    """The examples of some users at one cutoff, of each at most one."""

    split: str
    cutoff: datetime | None  # of all of them; None where each has its own
    table: pa.Table  # user_id, cutoff, text, label and the aggregates; of UNLABELLED the first three
    new_users: int  # that the split had at no earlier cutoff
    asked: int = 0  # rows of task.examples that the users of this batch and of those behind it have in the split
    place: int = 1  # of a user's rows in the split, where each has its own cutoffs
    # Of UNLABELLED, which every part has once:
    attributed: int = 0  # users of the part who have a row in data.users
    equal_rows: int = 0  # events of the part that are equal to another one in every column

    @property
    def group(self) -> tuple[str, datetime | None]:
        """What a part's batches of equal split and cutoff have in common."""
        return self.split, self.cutoff


@dataclass(frozen=True)
class Asked:
    """A batch to be made: at one cutoff of all users, or at one of each."""

    split: str
    cutoff: datetime | None
    rows: Rows | None = None
    asked: int = 0
    place: int = 1


class Summary:
    """Rows, users and labels of each split, batch by batch."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, datetime | None], int] = Counter()
        self.users: dict[str, int] = Counter()
        self.asked: dict[str, int] = Counter()
        self.most_per_user: dict[str, int] = Counter()
        self.attributed = self.equal_rows = 0
        self.labels: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}

    def add(self, batch: Batch) -> None:
        """Count a batch; of lists of labels only how many are 1 and how many 0, of shape (1, 2, classes)."""
        self.rows[batch.group] += len(batch.table)
        self.users[batch.split] += batch.new_users
        self.asked[batch.split] += batch.asked
        self.attributed += batch.attributed
        self.equal_rows += batch.equal_rows
        self.most_per_user[batch.split] = max(self.most_per_user[batch.split], batch.place * bool(len(batch.table)))
        if batch.split == UNLABELLED:
            return
        labels = combined(batch.table["label"])
        if pa.types.is_list(labels.type):
            flat = labels.flatten().to_numpy()
            flat = flat.reshape(len(labels), -1) if len(labels) else None
            labels = None if flat is None else np.stack([(flat == value).sum(axis=0) for value in (1, 0)])[None]
        else:
            labels = labels.to_numpy()
        if labels is not None:
            self.labels[batch.split].append(labels)

    def merge(self, other: "Summary") -> None:
        """Add the counts of other users."""
        self.rows.update(other.rows)
        self.users.update(other.users)
        self.asked.update(other.asked)
        self.attributed += other.attributed
        self.equal_rows += other.equal_rows
        for split, most in other.most_per_user.items():
            self.most_per_user[split] = max(self.most_per_user[split], most)
        for split, labels in other.labels.items():
            self.labels[split] += labels


@dataclass
class Examples:
    """Everything learned on the training history: with it any part of the users becomes examples by itself."""

    task: TaskConfig
    cutoffs: dict[str, list[datetime]]
    serializer: EventSerializer
    rule: LabelRule
    moments: MomentRule | None = None
    """Where users have cutoffs of their own; None takes those of the calendar."""
    users: UserRows | None = None
    """The table of data.users."""
    splits: Collection[str] = (*SPLITS, UNLABELLED)
    """Those that are made."""

    @property
    def aggregates(self) -> list[str]:
        """The names of the columns behind the label."""
        return self.serializer.aggregate_names()

    def groups(self) -> list[tuple[str, datetime | None]]:
        """See `Batch.group`, in order; users outside of the population are taken at the last training cutoff."""
        labelled = [
            (split, moment)
            for split in SPLITS
            if split in self.splits
            for moment in ([None] if self.moments else self.cutoffs[split])
        ]
        return [*labelled, *([(UNLABELLED, self.cutoffs["train"][-1])] if UNLABELLED in self.splits else [])]

    def asked(self, labels: Labels, splits: Collection[str] = (*SPLITS, UNLABELLED)) -> Iterator[Asked]:
        """The batches of some users, in the order of the groups."""
        rows = self.moments.rows(labels.history, labels.members) if self.moments else {}
        for split, cutoff in self.groups():
            if split not in splits:
                continue
            if split == UNLABELLED:
                yield Asked(split, cutoff, rows["train"][0] if rows else None)
            elif split in rows:
                found, asked = rows[split]
                for place, of_each in enumerate(found.rounds(), start=1):
                    yield Asked(split, cutoff, of_each, asked if place == 1 else 0, place)
            else:
                yield Asked(split, cutoff)

    def load(self, con: duckdb.DuckDBPyConnection) -> Labels:
        """The history of the users in the relation `rows`, with their labels."""
        if self.users:
            con.register(RELATION, self.users.table)
        return Labels(self.rule, self.serializer.load(con, self.rule.columns()))

    def batches(self, labels: Labels) -> Iterator[Batch]:
        """The examples of some users by split and cutoff, in the order of the users' ids."""
        history = labels.history
        aggregator = Aggregator(history, self.serializer.features)
        written = {split: np.zeros(len(history.users), bool) for split, _ in self.groups()}
        with ThreadPoolExecutor(2) as pool:  # numpy and pyarrow let go of Python's lock
            waiting = deque()
            for asked in (*self.asked(labels), None):
                if asked:
                    waiting.append((asked, pool.submit(self._table, labels, aggregator, asked)))
                while waiting and (asked is None or len(waiting) > 2):
                    done, table = waiting.popleft()
                    users, table = table.result()
                    new = int((~written[done.split][users]).sum())
                    known = history.attributes.users if history.attributes else 0
                    once = (known, labels.equal_rows) if done.split == UNLABELLED else ()
                    yield Batch(done.split, done.cutoff, table, new, done.asked, done.place, *once)
                    written[done.split][users] = True

    def _table(self, labels: Labels, aggregator: Aggregator, asked: Asked) -> tuple[np.ndarray, pa.Table]:
        """The users of a batch, and their examples; of UNLABELLED the users of no training row, and their texts."""
        history = aggregator.history
        if asked.split == UNLABELLED:
            assert asked.cutoff is not None, "by groups"
            cutoff = microseconds(asked.cutoff - EPOCH)
            return self._unlabelled(aggregator, cutoff, asked.rows.users if asked.rows else labels.users(cutoff))
        cutoff, users = asked_at(asked, labels)
        aggregates = aggregator.at(cutoff, users)
        own = aggregator.own(cutoff, users)
        text = self.serializer.texts(history, cutoff, users, aggregates, own)
        values = labels.at(cutoff, users)
        if asked.rows and asked.rows.labels is not None:
            values = labels.rule.of_values(asked.rows.labels)
        label = pa.array(values) if values.ndim == 1 else lists(values)
        table = example_table(history, cutoff - self.serializer.features.moments, users, aggregates | own)
        return users, table.add_column(2, "text", text).add_column(3, "label", label)

    def _unlabelled(self, aggregator: Aggregator, cutoff: int, population: np.ndarray) -> tuple[np.ndarray, pa.Table]:
        """The users with an event before the cutoff who are outside of the population, and their texts."""
        history = aggregator.history
        others = history.with_past(cutoff, history.everyone)
        others[population] = False
        users = np.flatnonzero(others)
        text = pa.array([], pa.large_string())
        if len(users):  # aggregates take their time even of nobody
            aggregates, own = aggregator.at(cutoff, users), aggregator.own(cutoff, users)
            text = self.serializer.texts(history, cutoff, users, aggregates, own)
        seen = cutoff - self.serializer.features.moments
        return users, example_table(history, seen, users, {}).append_column("text", text)

    def describe(self, summary: Summary) -> dict[str, dict]:
        """Rows, users, labels and cutoffs of each split, for the manifest.

        Raises:
            InputError: Nobody is in the population at a cutoff, or all labels of a split are the same.
        """
        self._refuse_empty(summary)
        described = {}
        for split in (split for split in SPLITS if split in self.splits):
            rows = sum(rows for (of, _), rows in summary.rows.items() if of == split)
            names = class_names(self.task.label, self.rule.classes)
            labels = describe_labels(np.concatenate(summary.labels[split]), rows, names, split, self.task)
            described[split] = {"rows": rows, "users": summary.users[split], **labels, **self._times(split, summary)}
        return described

    def _refuse_empty(self, summary: Summary) -> None:
        population = self.task.members
        for split, cutoff in self.groups():
            if split == UNLABELLED:
                continue
            asked = self.moments.asked().get(split, 0) if self.moments else 0
            if summary.asked[split] < asked:
                raise InputError(
                    f"{asked - summary.asked[split]:,} of {asked:,} rows of {split} are of users whom the log does not "
                    f"have",
                    "leave them out, or give their events",
                    setting="task.examples",
                )
            if summary.rows[split, cutoff]:
                continue
            if cutoff is None or population is None:
                raise no_moments(self.task, split, self.cutoffs[split])
            raise InputError(
                f"nobody has {an_event(population.where)} in the {population.within} before the "
                f"{split} cutoff {show(cutoff)}",
                "widen `within` or move the cutoff",
                setting="task.population",
            )

    def _times(self, split: str, summary: Summary) -> dict:
        """The cutoffs of a split; where users have their own, the bounds, and the most rows that a user has."""
        if not self.moments:
            return {"cutoffs": list(map(show, self.cutoffs[split]))}
        first, last = self.cutoffs[split]
        bounds = [show(first - INSTANT), show(last - INSTANT)]
        return {"cutoffs": bounds, "most_per_user": summary.most_per_user[split]}


class SplitWriter:
    """Writes {train,validation,test,unlabelled}.parquet batch by batch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writers: dict[str, pq.ParquetWriter] = {}

    def __enter__(self) -> "SplitWriter":
        return self

    def __exit__(self, *error: object) -> None:
        for writer in self._writers.values():
            writer.close()

    def write(self, batch: Batch) -> None:
        """Write a batch behind those before it."""
        if batch.split not in self._writers:
            path, schema = self.folder / split_file(batch.split), batch.table.schema
            # Texts and aggregates hardly repeat: a dictionary of them would only cost time. pyright takes the defaults,
            # which are bools, for all that there is.
            self._writers[batch.split] = pq.ParquetWriter(
                path,
                schema,
                compression="snappy",
                use_dictionary=["cutoff"],  # pyright: ignore[reportArgumentType]
                write_statistics=KEYS,  # pyright: ignore[reportArgumentType]
            )
        if len(batch.table):  # datasets.load_dataset fails on a row group without rows
            self._writers[batch.split].write_table(batch.table, row_group_size=ROW_GROUP)


def asked_at(asked: Asked, labels: Labels) -> tuple[Moment, np.ndarray]:
    """The cutoff of a batch of labelled examples, or that of each of its users; and its users."""
    if asked.rows:
        return asked.rows.cutoffs, asked.rows.users
    assert asked.cutoff is not None, "as there are no rows"
    cutoff = microseconds(asked.cutoff - EPOCH)
    return cutoff, labels.users(cutoff)


def fit_examples(
    con: duckdb.DuckDBPyConnection,
    count: Count,
    log: EventLog,
    cutoffs: dict[str, list[datetime]],
    task: TaskConfig,
    text: TextConfig,
    given: pa.Table | None = None,
    users: UserRows | None = None,
    schema: EventSerializer | None = None,
) -> tuple[Examples, Labels]:
    """Learn classes, bins and vocabularies on the training history.

    Args:
        con: Has the relation `rows`: the events of all users, or of the sample that bins and vocabularies are for.
        count: Counts over the relation `log` of all events.
        log: What the log has.
        cutoffs: The cutoffs of each split.
        task: Label, population and cutoffs.
        text: How a history becomes text.
        given: The table of task.examples, see `MomentRule`.
        users: The table of data.users.
        schema: Whose classes, bins and vocabularies are taken instead.

    Returns:
        The examples to be made, and the labels and history of the users in `rows`.

    Raises:
        InputError: A setting that the log cannot fulfil.
    """
    check_fields(text, {"event_type": "VARCHAR"} | log.fields)
    if text.session_gap is not None and not task.at_moments:
        raise InputError(
            "text.session_gap belongs to cutoffs at events and of task.examples",
            "leave it out where cutoffs are dates",
            setting="text.session_gap",
        )
    check_task(con, count, task, log.fields)
    before = cutoffs["train"][-1]
    kinds = field_kinds(log.fields, {key: asdict(spec) for key, spec in text.fields.items()})
    min_users = text.fields.get("event_type", TextField()).min_users
    classes = schema.features.classes if schema else fit_classes(count, task, log.fields, cutoffs["train"])
    types = schema.features.event_types if schema else frequent_types(count, before, min_users)
    class_field = task.label.field if task.label.kind == "which" else None
    session = None if text.session_gap is None else microseconds(parse_duration(text.session_gap, "text.session_gap"))
    features = Features(
        task.label.where, log.fields, kinds, types, class_field, classes or [], task.at_moments, session
    )
    if schema:
        check_schema(schema, text, features, users)
    check_attributes(text, {"event_type": "VARCHAR"} | log.fields, users, aggregate_names(features))
    rule = LabelRule(task, log.fields, classes, log_end(log))
    moments = moment_rule(task, cutoffs, given, log)
    serializer = schema or EventSerializer.fit(con, text, features, before)
    examples = Examples(task, cutoffs, serializer, rule, moments, users)
    labels = examples.load(con)
    if not schema:
        _fit_on_training(con, examples, labels)
    return examples, labels


def _fit_on_training(con: duckdb.DuckDBPyConnection, examples: Examples, labels: Labels) -> None:
    """Learn the bins of the header and, where there are attributes, theirs, of the training examples."""
    history, serializer, found, training = labels.history, examples.serializer, [], []
    header, features, specs = serializer.header_names(), serializer.features, serializer.config.attributes
    aggregator = Aggregator(history, features)
    for asked in examples.asked(labels, ["train"]):
        cutoff, users = asked_at(asked, labels)
        columns = aggregator.at(cutoff, users)
        found.append(example_table(history, cutoff, users, {name: columns[name] for name in header}))
        training.append((cutoff - features.moments, users))
    serializer.fit_header(pa.concat_tables(found))
    if examples.users and specs:
        serializer.attributes = fit_attributes(con, history.users, specs, examples.users.types, training)
        history.attributes = Attributes.written(con, history.users, specs, serializer.attributes)
