"""The rows of a later time for a model that is finished: written by its own serializer, labelled by the newer log."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import cast

from data_prep import InputError
from data_prep.config import DataConfig, TaskConfig
from data_prep.connections import connect
from data_prep.cutoffs import log_end, resolve_split
from data_prep.event_log import EventLog, count_on
from data_prep.events import confined, read_events
from data_prep.examples import Examples, SplitWriter, Summary
from data_prep.facts import SplitFacts
from data_prep.given_examples import read_examples, refuse_other_origin
from data_prep.labels import LabelRule, label_horizons
from data_prep.local import part_batches, split_log
from data_prep.serializer import EventSerializer
from data_prep.served_users import give_users
from data_prep.sql import column_types, refused
from data_prep.task import check_task
from data_prep.user_moments import moment_rule

SPLIT = "test"  # whose cutoffs are taken, and whose file is written


@dataclass(frozen=True)
class Later:
    """What `write_later` found.

    Attributes:
        log: What the log has.
        cutoffs: Of the rows; where each user has its own the first and the last one.
        labelled_until: Rows of cutoffs after that have labels that mean nothing, as their windows end behind the log.
        facts: Rows, users, labels and cutoffs; None where the labels may mean nothing.
    """

    log: EventLog
    cutoffs: list[datetime]
    labelled_until: datetime
    facts: SplitFacts | None


def write_later(
    folder: Path,
    data: DataConfig,
    task: TaskConfig,
    serializer: EventSerializer,
    classes: list[str] | None,
    labelled: bool = True,
    learned: str | None = None,
) -> Later:
    """Write FOLDER/test.parquet with the test cutoffs of a task: user_id, cutoff, text, label and the aggregates.

    Nothing is learned: bins, vocabularies and classes are those of the serializer's training. The rows are those that
    `prepare` would write with that serializer.

    Args:
        folder: An empty one, where parts of a large log lie meanwhile, too.
        data: Where the events come from.
        task: Its training and validation cutoffs are not looked at.
        serializer: Of the model.
        classes: Of a `which` label, those that the model has; else None.
        labelled: Whether each label window has to end within the log.
        learned: The origin of the labels that the model learned, see `refuse_other_origin`.

    Raises:
        InputError: The log or the task cannot be used, see `prepare`.
    """
    spill = Path(folder) / "spill"
    given = read_examples(task, data, spill)
    if labelled:
        refuse_other_origin(given, learned)
    with connect(data.memory_limit, spill) as con, refused("events", "give each column the type that it had"):
        with confined(con, data, folder):
            log = read_events(con, data, types=serializer.features.types)
        has = column_types(con, "log")
        known = {name.lower() for name in has}
        if missing := [name for name in serializer.columns() if name.lower() not in known]:
            print(f"warning: no column {', '.join(missing)}: taken as missing in every event")
        con.execute(f"CREATE TEMP TABLE typed AS SELECT {serializer.casts(has)} FROM log")
        con.execute("DROP TABLE log; ALTER TABLE typed RENAME TO log")
        check_task(con, count_on(con), task, serializer.features.types)
        cutoffs = resolve_split(task, SPLIT, log, labelled)
        moments = moment_rule(task, {SPLIT: cutoffs}, given, log)
        rule = LabelRule(task, serializer.features.types, classes, log_end(log))
        for note in give_users(con, serializer.attributes, data, None):
            print(note)
        examples = Examples(task, {SPLIT: cutoffs}, serializer, rule, moments, splits=(SPLIT,))
        summary = Summary()
        with SplitWriter(folder) as writer:
            for batch in part_batches(con, examples, split_log(con, log, folder), None):
                writer.write(batch)
                summary.add(batch)
    if not summary.users[SPLIT]:
        raise InputError(
            "nobody is in the population at the test cutoffs", "choose others", setting="task.cutoffs.test"
        )
    facts = cast(SplitFacts, examples.describe(summary)[SPLIT]) if labelled else None
    until = log_end(log) - label_horizons(task.label)[0]
    return Later(log, cutoffs, until, facts)
