"""Examples: (user, cutoff) with text, label and aggregates, made for one part of the log's users after another."""

from collections import Counter, deque
from collections.abc import Iterator
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
from data_prep.config import TaskConfig, TextConfig, TextField
from data_prep.cutoffs import SPLITS, split_file
from data_prep.event_log import Count, EventLog
from data_prep.features import Features, field_kinds, frequent_types
from data_prep.history import combined
from data_prep.labels import LabelRule, Labels, class_names, describe_labels, fit_classes
from data_prep.moments import EPOCH, microseconds, show
from data_prep.population import an_event
from data_prep.serializer import EventSerializer
from data_prep.task import check_task
from data_prep.text_settings import check_fields

KEYS = ["user_id", "cutoff", "label"]  # columns with statistics
ROW_GROUP = 50_000  # rows
UNLABELLED = "unlabelled"  # the file, beside those of the splits, with histories of users outside of the population


@dataclass
class Batch:
    """The examples of some users at one cutoff."""

    split: str
    cutoff: datetime
    table: pa.Table  # user_id, cutoff, text, label and the aggregates; of UNLABELLED the first three
    new_users: int  # that the split had at no earlier cutoff


class Summary:
    """Rows, users and labels of each split, batch by batch."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, datetime], int] = Counter()
        self.users: dict[str, int] = Counter()
        self.labels: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}

    def add(self, batch: Batch) -> None:
        """Count a batch; of lists of labels only their sum is kept, of shape (1, classes)."""
        self.rows[batch.split, batch.cutoff] += len(batch.table)
        self.users[batch.split] += batch.new_users
        if batch.split == UNLABELLED:
            return
        labels = combined(batch.table["label"])
        if pa.types.is_list(labels.type):
            flat = labels.flatten().to_numpy()
            labels = flat.reshape(len(labels), -1).sum(axis=0, dtype=np.int64)[None] if len(labels) else None
        else:
            labels = labels.to_numpy()
        if labels is not None:
            self.labels[batch.split].append(labels)

    def merge(self, other: "Summary") -> None:
        """Add the counts of other users."""
        self.rows.update(other.rows)
        self.users.update(other.users)
        for split, labels in other.labels.items():
            self.labels[split] += labels


@dataclass
class Examples:
    """Everything learned on the training history: with it any part of the users becomes examples by itself."""

    task: TaskConfig
    cutoffs: dict[str, list[datetime]]
    serializer: EventSerializer
    rule: LabelRule
    aggregates: list[str]

    def moments(self) -> list[tuple[str, datetime]]:
        """Split and cutoff of each batch; users outside of the population are taken at the last training cutoff."""
        labelled = [(split, moment) for split in SPLITS for moment in self.cutoffs[split]]
        return [*labelled, (UNLABELLED, self.cutoffs["train"][-1])]

    def load(self, con: duckdb.DuckDBPyConnection) -> Labels:
        """The history of the users in the relation `rows`, with their labels."""
        return Labels(self.rule, self.serializer.load(con, self.rule.columns()))

    def batches(self, labels: Labels) -> Iterator[Batch]:
        """The examples of some users by split and cutoff, in the order of the users' ids."""
        history = labels.history
        aggregator = Aggregator(history, self.serializer.features)
        moments = self.moments()
        written = {split: np.zeros(len(history.users), bool) for split, _ in moments}
        with ThreadPoolExecutor(2) as pool:  # numpy and pyarrow let go of Python's lock
            waiting = deque()
            for split, moment in [*moments, (None, None)]:
                if split:
                    waiting.append((split, moment, pool.submit(self._table, labels, aggregator, split, moment)))
                while waiting and (split is None or len(waiting) > 2):
                    done, cutoff, table = waiting.popleft()
                    users, table = table.result()
                    yield Batch(done, cutoff, table, int((~written[done][users]).sum()))
                    written[done][users] = True

    def _table(
        self, labels: Labels, aggregator: Aggregator, split: str, moment: datetime
    ) -> tuple[np.ndarray, pa.Table]:
        """The population at a cutoff, and its examples; of UNLABELLED the other users, and their texts."""
        history, cutoff = aggregator.history, microseconds(moment - EPOCH)
        users = labels.users(cutoff)
        if split == UNLABELLED:
            return self._unlabelled(aggregator, cutoff, users)
        aggregates = aggregator.at(cutoff, users)
        own = aggregator.own(cutoff, users)
        text = self.serializer.texts(history, cutoff, users, aggregates, own)
        values = labels.at(cutoff, users)
        label = pa.array(values) if values.ndim == 1 else lists(values)
        table = example_table(history, cutoff, users, aggregates | own)
        return users, table.add_column(2, "text", text).add_column(3, "label", label)

    def _unlabelled(self, aggregator: Aggregator, cutoff: int, population: np.ndarray) -> tuple[np.ndarray, pa.Table]:
        """The users with an event before the cutoff who are outside of the population, and their texts."""
        history = aggregator.history
        others = history.with_past(cutoff)
        others[population] = False
        users = np.flatnonzero(others)
        text = pa.array([], pa.large_string())
        if len(users):  # aggregates take their time even of nobody
            aggregates, own = aggregator.at(cutoff, users), aggregator.own(cutoff, users)
            text = self.serializer.texts(history, cutoff, users, aggregates, own)
        return users, example_table(history, cutoff, users, {}).append_column("text", text)

    def describe(self, summary: Summary) -> dict[str, dict]:
        """Rows, users, labels and cutoffs of each split, for the manifest.

        Raises:
            InputError: Nobody is in the population at a cutoff, or all labels of a split are the same.
        """
        population = self.task.population
        for split in SPLITS:
            for cutoff in self.cutoffs[split]:
                if not summary.rows[split, cutoff]:
                    raise InputError(
                        f"nobody has {an_event(population)} in the {population.within} before the "
                        f"{split} cutoff {show(cutoff)}",
                        "widen `within` or move the cutoff",
                        setting="task.population",
                    )
        described = {}
        for split in SPLITS:
            rows = sum(summary.rows[split, cutoff] for cutoff in self.cutoffs[split])
            names = class_names(self.task.label, self.rule.classes)
            labels = describe_labels(np.concatenate(summary.labels[split]), rows, names, split, self.task)
            cutoffs = list(map(show, self.cutoffs[split]))
            described[split] = {"rows": rows, "users": summary.users[split], **labels, "cutoffs": cutoffs}
        return described


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


def fit_examples(
    con: duckdb.DuckDBPyConnection,
    count: Count,
    log: EventLog,
    cutoffs: dict[str, list[datetime]],
    task: TaskConfig,
    text: TextConfig,
) -> tuple[Examples, Labels]:
    """Learn classes, bins and vocabularies on the training history.

    Args:
        con: Has the relation `rows`: the events of all users, or of the sample that bins and vocabularies are for.
        count: Counts over the relation `log` of all events.
        log: What the log has.
        cutoffs: The cutoffs of each split.
        task: Label, population and cutoffs.
        text: How a history becomes text.

    Returns:
        The examples to be made, and the labels and history of the users in `rows`.

    Raises:
        InputError: A setting that the log cannot fulfil.
    """
    check_fields(text, {"event_type": "VARCHAR"} | log.fields)
    check_task(con, count, task, log.fields)
    before = cutoffs["train"][-1]
    kinds = field_kinds(log.fields, {key: asdict(spec) for key, spec in text.fields.items()})
    min_users = text.fields.get("event_type", TextField()).min_users
    classes = fit_classes(count, task, log.fields, cutoffs["train"])
    types = frequent_types(count, before, min_users)
    class_field = task.label.field if classes else None
    features = Features(task.label.where, log.fields, kinds, types, class_field, classes or [])
    aggregates = aggregate_names(features)
    rule = LabelRule(task, log.fields, classes)
    serializer = EventSerializer.fit(con, text, features, before)
    header = serializer.header_names()
    examples = Examples(task, cutoffs, serializer, rule, aggregates)
    labels = examples.load(con)
    aggregator = Aggregator(labels.history, features)
    found = []
    for moment in cutoffs["train"]:
        cutoff = microseconds(moment - EPOCH)
        users = labels.users(cutoff)
        columns = aggregator.at(cutoff, users)
        found.append(example_table(labels.history, cutoff, users, {name: columns[name] for name in header}))
    serializer.fit_header(pa.concat_tables(found))
    return examples, labels
