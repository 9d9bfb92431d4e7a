"""The table of task.examples: the moments, and perhaps the labels, that a team has already."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep import InputError
from data_prep.config import DataConfig, Label, TaskConfig
from data_prep.connections import connect
from data_prep.history import combined
from data_prep.side_tables import check_table, read_table, refuse_missing, table_source
from data_prep.sql import NUMERIC

SETTING = "task.examples"
LABEL = "example_label"  # the label among the columns of events
ORIGINS = {"log": "the log", "table": "the team's own table"}  # of labels
FROM_LOG = "leave it out, and labels come from the log"
AS_EVENTS = {"user_id": "user_id", "event_time": "cutoff", "event_type": "'example'"}


def read_examples(task: TaskConfig, data: DataConfig, spill: Path) -> pa.Table | None:
    """user_id, cutoff (the microsecond behind the moment) and perhaps label; None where there is no table.

    Raises:
        InputError: The table cannot be read, a row has no user or no time, two rows are of one cutoff, or a label is
            none of the task.
    """
    if task.examples is None:
        return None
    check_table(task.examples, SETTING)
    with connect(data.memory_limit, spill) as con:
        kind = read_table(con, table_source(task.examples, data), SETTING, "cutoff", _as_event).get(LABEL)
        label = f", {LABEL} AS label" if kind else ""
        table = con.sql(f"SELECT user_id, epoch_us(event_time) + 1 AS cutoff{label} FROM log").to_arrow_table()
    keys = table.group_by(["user_id", "cutoff"]).aggregate([([], "count_all")])
    if len(keys) < len(table):
        twice = keys.filter(pc.field("count_all") > 1)["user_id"][0]
        raise InputError(f"user '{twice}' has two rows of one cutoff", "keep one of them", setting=SETTING)
    return table if kind is None else table.set_column(2, "label", _labels(table["label"], kind, task.label))


def labels_from(given: pa.Table | None) -> str:
    """The origin of the labels, one of ORIGINS, by what `read_examples` gave; manifests and models keep it."""
    return "table" if given is not None and "label" in given.column_names else "log"


def own_labels(facts: Mapping[str, Any]) -> bool:
    """Whether labels are the team's own; older manifests and models do not say, and count as of the log."""
    return facts.get("labels_from") == "table"


def refuse_other_origin(given: pa.Table | None, learned: str | None) -> None:
    """InputError where labels are of another origin than those that a model learned; None where it does not say."""
    if learned and (here := labels_from(given)) != learned:
        raise InputError(
            f"the labels are of {ORIGINS[here]} here, and the model learned those of {ORIGINS[learned]}",
            "give it labels of the same origin",
            setting=SETTING,
        )


def _as_event(names: list[str]) -> dict[str, str]:
    """The columns of an event, of those of the table."""
    refuse_missing(names, ("user_id", "cutoff"), SETTING)
    return AS_EVENTS | ({LABEL: "label"} if "label" in names else {})


def _labels(values: pa.ChunkedArray, kind: str, label: Label) -> pa.Array:
    """The table's labels as those of the task."""
    if label.kind in ("which", "when"):
        raise InputError(f"task.examples.label cannot be that of kind {label.kind}", FROM_LOG, setting=SETTING)
    if not NUMERIC.fullmatch(kind) and kind != "BOOLEAN":
        raise InputError(f"task.examples.label is {kind}, not a number", FROM_LOG, setting=SETTING)
    if values.null_count:
        raise InputError(f"{values.null_count:,} rows have no label", "leave them out", setting=SETTING)
    numbers = combined(values.cast(pa.float64())).to_numpy()
    if label.kind in ("absent", "exists") and not np.isin(numbers, (0, 1)).all():
        raise InputError(
            f"task.examples.label has values other than 0 and 1, and task.label.kind is {label.kind}",
            "give 1 where that is so",
            setting=SETTING,
        )
    if label.kind != "sum" and (numbers != np.rint(numbers)).any():
        raise InputError("task.examples.label has numbers that are not whole", FROM_LOG, setting=SETTING)
    return pa.array(numbers if label.kind == "sum" else numbers.astype(np.int64))
