"""The table of task.examples: the moments, and perhaps the labels, that a team has already."""

from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep import InputError
from data_prep.config import DataConfig, ExamplesTable, Label, Source, TaskConfig
from data_prep.connections import connect
from data_prep.events import confined, read_events
from data_prep.history import combined
from data_prep.sources import expand, file_columns, refused_source
from data_prep.sql import NUMERIC, column_types

SETTING = "task.examples"
LABEL = "example_label"  # the label among the columns of events
FROM_LOG = "leave it out, and labels come from the log"
AS_EVENTS = {"user_id": "user_id", "event_time": "cutoff", "event_type": "'example'"}


def examples_source(examples: ExamplesTable, data: DataConfig) -> DataConfig:
    """The table as a log of its own, which is read as the events are: ids, times and zones count the same."""
    columns = examples.columns if examples.path is not None else None
    source = Source(sql=examples.sql, path=examples.path, columns=columns)
    return replace(data, sources=[source], max_rejected=1.0, duplicates="keep", max_events_per_user=None)


def read_examples(task: TaskConfig, data: DataConfig, spill: Path) -> pa.Table | None:
    """user_id, cutoff (the microsecond behind the moment) and perhaps label; None where there is no table.

    Raises:
        InputError: The table cannot be read, a row has no user or no time, two rows are of one cutoff, or a label is
            none of the task.
    """
    if task.examples is None:
        return None
    if (task.examples.sql is None) == (task.examples.path is None):
        raise InputError("task.examples needs either `sql` or `path`", "give one of them", setting=SETTING)
    if task.examples.sql is not None and task.examples.columns:
        raise InputError("task.examples.columns belongs to `path`", "name the columns in `sql`", setting=SETTING)
    source = examples_source(task.examples, data)
    try:
        with connect(data.memory_limit, spill) as con:
            with confined(con, source):
                log = read_events(con, replace(source, sources=[_as_events(con, source)]))
            lost = next(((rows, reason) for reason, rows in log.rejected.items() if rows), None)
            if lost:
                raise InputError(f"{lost[0]:,} rows have {lost[1]}", "correct them or leave them out", setting=SETTING)
            kind = column_types(con, "log").get(LABEL)
            label = f", {LABEL} AS label" if kind else ""
            table = con.sql(f"SELECT user_id, epoch_us(event_time) + 1 AS cutoff{label} FROM log").to_arrow_table()
    except InputError as error:
        raise error.called(SETTING) if error.setting.startswith("data.sources") else error from error
    keys = table.group_by(["user_id", "cutoff"]).aggregate([([], "count_all")])
    if len(keys) < len(table):
        twice = keys.filter(pc.field("count_all") > 1)["user_id"][0]
        raise InputError(f"user '{twice}' has two rows of one cutoff", "keep one of them", setting=SETTING)
    return table if kind is None else table.set_column(2, "label", _labels(table["label"], kind, task.label))


def _as_events(con: duckdb.DuckDBPyConnection, config: DataConfig) -> Source:
    """The table as a source of events."""
    (source,) = config.sources
    given = dict(source.columns or {})
    if source.sql is not None:
        sql = expand(source.sql, config, SETTING).strip().rstrip(";")
        with refused_source(source, config, SETTING):
            names = [row[0] for row in con.execute(f"DESCRIBE {sql}").fetchall()]
    else:
        names = list(given) or file_columns(con, expand(source.path or "", config, SETTING))
    missing = [name for name in ("user_id", "cutoff") if name not in names]
    if missing:
        raise InputError(
            f"task.examples has no column {' and no column '.join(missing)} (it has {', '.join(names)})",
            "name it `AS` or map it",
            setting=SETTING,
        )
    columns = AS_EVENTS | ({LABEL: "label"} if "label" in names else {})
    if source.sql is None:
        return replace(source, columns={name: given.get(column, column) for name, column in columns.items()})
    shown = ", ".join(f"{column} AS {name}" for name, column in columns.items())
    return replace(source, sql=f"SELECT {shown} FROM ({sql}\n)")


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
