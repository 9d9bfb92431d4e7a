"""The engine of one machine: DuckDB reads the log, and its users become examples part by part."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb

from data_prep.config import DataConfig
from data_prep.event_log import EventLog, count_on
from data_prep.events import Check, read_events
from data_prep.examples import Batch, Examples
from data_prep.labels import Labels
from data_prep.parts import number_of_parts, read_part, write_parts


class LocalLog:
    """The log in the table `log` of a connection; `data_prep.spark.SparkLog` has the same methods."""

    def __init__(self, con: duckdb.DuckDBPyConnection, config: DataConfig) -> None:
        self.con, self.config, self.count = con, config, count_on(con)

    def read(self, folder: Path, check: Check) -> EventLog:
        """Read all sources into the table `log`; rejected rows go to FOLDER/rejected.parquet.

        Args:
            folder: For rejected.parquet.
            check: See `fill_log`.
        """
        # Equal rows are counted where they are sorted, with the examples.
        self.log = read_events(self.con, self.config, folder, count_equal=False, check=check)
        self.folder = folder.parent
        return self.log

    def sample(self, condition: str | None) -> None:
        """Make the relation `rows` of the users who satisfy a condition over user_id, or of all."""
        self.sampled = condition is not None
        made = "TABLE" if self.sampled else "VIEW"
        self.con.execute(f"CREATE TEMP {made} sample AS FROM log WHERE {condition or 'true'}")
        self.con.execute("CREATE TEMP VIEW rows AS FROM sample")

    def batches(self, examples: Examples, labels: Labels) -> tuple[int, Iterator[Batch]]:
        """The number of parts, and the examples of all parts in their order.

        Args:
            examples: To be made.
            labels: Of the users in `rows`, which are those of the only part where all of a small log were taken.
        """
        if self.sampled:  # its memory is needed for the parts
            self.con.execute("DROP TABLE sample")
        whole = not self.sampled and number_of_parts(self.log.events) == 1
        queries = split_log(self.con, self.log, self.folder)
        return len(queries), part_batches(self.con, examples, queries, labels if whole else None)


def split_log(con: duckdb.DuckDBPyConnection, log: EventLog, folder: Path) -> list[str]:
    """Split the table `log` by users where it is large; returns a SELECT of each part's events, in their order."""
    parts = number_of_parts(log.events)
    if parts == 1:
        return ["SELECT * FROM log"]
    users = write_parts(con, "SELECT * FROM log", parts, folder / "log")
    con.execute("DROP TABLE log")
    return [read_part(folder / "log", part) for part in users]  # one that has none has no file


def part_batches(
    con: duckdb.DuckDBPyConnection, examples: Examples, parts: list[str], labels: Labels | None
) -> Iterator[Batch]:
    """The examples of all parts in their order; `labels` are those of the only part, where it is loaded already."""

    def load(part: str) -> Labels:
        con.execute(f"CREATE OR REPLACE TEMP VIEW rows AS {part}")
        return examples.load(con)

    if labels is not None:
        yield from examples.batches(labels)
        return
    with ThreadPoolExecutor(1) as pool:  # a part is loaded while the examples of the one before it are made
        loading = pool.submit(load, parts[0])
        for following in [*parts[1:], None]:
            labels = loading.result()
            if following is not None:
                loading = pool.submit(load, following)
            yield from examples.batches(labels)
