"""What a caller has in memory, as Arrow data."""

from datetime import datetime
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from data_prep import InputError
from data_prep.event_log import event_table
from data_prep.sources import refuse_twice


def in_memory(events: Any, called: str = "events") -> pa.Table | pa.RecordBatchReader:
    """A caller's rows as Arrow data; InputError where they are none.

    Args:
        events: A DuckDB relation; an Arrow table, batch or reader; a pandas frame; or dicts in a list or a tuple.
        called: What they are called in messages.
    """
    try:
        if isinstance(events, duckdb.DuckDBPyRelation):
            return events.to_arrow_reader()  # a relation belongs to its own connection
        if isinstance(events, list | tuple) and all(isinstance(event, dict) for event in events):
            return event_table(events, _plain)
        if isinstance(events, pa.RecordBatch):
            return pa.Table.from_batches([events])
        frame: Any = events
        if hasattr(frame, "iloc") and hasattr(frame, "columns"):
            refuse_twice([str(name) for name in frame.columns], called)  # which pyarrow refuses in its own words
            return pa.Table.from_pandas(frame, preserve_index=False)
    except InputError:
        raise
    except (pa.ArrowException, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise InputError(f"{called}: {str(error).splitlines()[0]}", "give each column values of one type") from error
    if isinstance(events, pa.Table | pa.RecordBatchReader):
        return events
    raise InputError(
        f"{called}: {type(events).__name__} cannot be read",
        "give a path, a DuckDB relation, an Arrow table, a pandas frame, a list of dicts or a DataConfig",
    )


def _plain(value: Any) -> Any:
    """Of numpy's and pandas' own values Python's, which pyarrow takes side by side; None where there is no time."""
    if isinstance(value, np.datetime64):
        value = value.astype("datetime64[us]")
    if isinstance(value, np.generic):
        return value.item()
    return None if isinstance(value, datetime) and value != value else value  # pandas' NaT equals nothing
