"""The same step on Spark: whole users in each partition, and in each of them the same code as on one machine.

Events travel as Arrow data in a binary column, so that Spark changes no type and no time zone. Executors need this
package, the files of the sources and, with data.pseudonymize, the key in their environment.
"""

import os
import pickle
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep import InputError
from data_prep.config import DataConfig, SparkConfig
from data_prep.connections import connect, lock_down
from data_prep.event_log import REASON, SPAN, EventLog, leave_out
from data_prep.events import Check, confined, fill_log
from data_prep.examples import Batch, Examples
from data_prep.labels import Labels
from data_prep.parts import BUCKET, number_of_parts
from data_prep.rejected import move_rejected
from data_prep.sources import source_paths
from data_prep.sql import column_types, identifier

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

SLOTS = 256  # of users by hash, which stay together until the number of parts is known; no more parts than these
PIECE = 20_000  # rows that travel in one binary value
PIECES = "key int, n long, data binary"  # the schema of all DataFrames here


class SparkLog:
    """The log on Spark.

    Attributes:
        types: The type of each column.
        number_of_parts: Each has whole users.
        parts: A DataFrame whose partition i has the events of part i.

    Args:
        spark: The session.
        con: Of the driver.
        config: The sources.
        trained: See `data_prep.events.read_events`.
    """

    def __init__(
        self,
        spark: "SparkSession",
        con: duckdb.DuckDBPyConnection,
        config: DataConfig,
        trained: dict[str, str] | None = None,
    ) -> None:
        self.spark, self.con, self.config, self.trained = spark, con, config, trained
        self.changes: list[str] = []  # SQL that each part's table `log` is changed by, in order

    def read(self, folder: Path, check: Check | None = None) -> EventLog:
        """Read all sources in tasks, one for each Parquet file and one for each other source.

        The table `log` of the connection stays empty; rejected rows go to FOLDER/rejected.parquet. For `check` see
        `fill_log`.
        """
        con = self.con
        notes = fill_log(con, self.config, read=False, types=self.trained, check=check)
        tasks = _tasks(self.config)
        types = column_types(con, "log")
        read = partial(_read, config=self.config, tasks=tasks, types=types, trained=self.trained)
        pieces = self.spark.range(len(tasks), numPartitions=len(tasks)).mapInArrow(read, PIECES).persist()
        with _one_sentence():
            counts = {row[0]: row[1] for row in pieces.groupBy("key").sum("n").collect()}
        for row in _rows(pieces.where("key < 0")):
            _insert(con, "log", row["data"])
        rejected = move_rejected(con, self.config, sum(counts.values()), folder)
        self.types = column_types(con, "log")
        self.pieces = pieces.where("key >= 0")
        self._part(number_of_parts(sum(n for slot, n in counts.items() if slot >= 0)))
        log = EventLog(rejected=rejected, fields=self.types, notes=notes)
        leave_out(log, self.config, self.count, self.changes.append)
        self.part(number_of_parts(log.events))
        firsts, lasts = zip(*(span for span in self._answers(_span) if span[0] is not None), strict=True)
        log.first, log.last = min(firsts), max(lasts)
        return log

    def part(self, number: int) -> None:
        """Hand the users out anew, to so many parts or as many as there can be."""
        if self.number_of_parts != min(number, SLOTS):
            self.parts.unpersist()
            self._part(number)

    def _part(self, number: int) -> None:
        self.number_of_parts = min(number, SLOTS)
        part = _integer(f"key * {self.number_of_parts} div {SLOTS}")
        self.parts = self.pieces.repartitionById(self.number_of_parts, part).persist()

    def count(self, sql: str) -> dict[str, int]:
        """See `data_prep.event_log.Count`."""
        found = Counter()
        for part in self._answers(partial(_count, sql=sql)):
            found.update(part)
        return found

    def sample(self, condition: str | None) -> None:
        """Make the table `rows` of the users who satisfy a condition over user_id, or of all."""
        _create(self.con, "rows", self.types)
        for row in _rows(self._map(partial(_select, condition=condition or "true"))):
            _insert(self.con, "rows", row["data"])

    def batches(self, examples: Examples, labels: Labels) -> tuple[int, Iterator[Batch]]:
        """The number of parts, and the examples of all parts in their order, in each by split and cutoff.

        Args:
            examples: To be made.
            labels: Of the users in `rows`, for which a part has no use.
        """
        return self.number_of_parts, self._batches(examples)

    def _batches(self, examples: Examples) -> Iterator[Batch]:
        groups = len(examples.groups())
        made = self._map(partial(_examples, examples=examples, groups=groups))
        # A group becomes a partition of its own, because the driver holds one partition after another.
        made = made.repartitionById(self.number_of_parts * groups, _integer("key"))
        for _, rows in groupby(_rows(made), key=lambda row: row["key"]):
            found = sorted((pickle.loads(row["data"]) for row in rows), key=lambda piece: piece[0])
            for _, pieces in groupby(found, key=lambda piece: piece[0][0]):
                (_, batch, data), *more = pieces
                tables = [_unpacked(data), *(_unpacked(data) for _, _, data in more)]
                yield replace(batch, table=pa.concat_tables(tables))

    def tables(self, work: Callable[[duckdb.DuckDBPyConnection], pa.Table]) -> Iterator[pa.Table]:
        """What `work` gives for a connection with the table `log` of each part; the parts in their order."""
        # A partition of its own for each, as for `batches`: the executors make all, and the driver holds one.
        made = self._map(partial(_table, work=work)).repartitionById(self.number_of_parts, _integer("key"))
        for _, rows in groupby(_rows(made), key=lambda row: row["key"]):
            pieces = sorted((pickle.loads(row["data"]) for row in rows), key=lambda piece: piece[0])
            yield pa.concat_tables([_unpacked(data) for _, data in pieces])

    def _map(self, work: Callable) -> "DataFrame":
        """What `work` gives for a connection with the table `log` of a part, and the number of the part."""
        run = partial(_work, work=work, types=self.types, changes=self.changes, memory_limit=self.config.memory_limit)
        return self.parts.mapInArrow(run, PIECES)

    def _answers(self, work: Callable) -> Iterator[Any]:
        for row in _rows(self._map(work)):
            yield pickle.loads(row["data"])


@contextmanager
def spark_session(config: SparkConfig) -> Iterator["SparkSession"]:
    """The active session, or one that ends with the block."""
    try:
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise InputError("engine spark needs pyspark and Java 17", "pip install -e '.[spark]'") from error
    if config.master and not re.match(r"local(\[.+\])?$|yarn$|(spark|k8s|mesos)://.", config.master):
        raise InputError(
            f"spark.master '{config.master}' is no master",
            "write local[4], yarn, spark://HOST:7077 or k8s://URL",
            setting="spark.master",
        )
    active = SparkSession.getActiveSession()
    if active is not None:
        yield active
        return
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = SparkSession.builder.appName("eventscribe").config("spark.ui.showConsoleProgress", "false")
    for batch in ("execution.arrow.maxRecordsPerBatch", "inMemoryColumnarStorage.batchSize"):
        builder = builder.config(f"spark.sql.{batch}", "16")  # rows, each of which holds thousands of events
    for name, value in config.settings.items():
        builder = builder.config(name, value)
    if config.master:
        builder = builder.master(config.master)
    try:
        spark = builder.getOrCreate()
    except Exception as error:  # py4j and pyspark have several
        reason = str(error).strip().splitlines()[-1]
        raise InputError(
            f"spark.master {config.master}: Spark does not start ({reason})",
            "check it and Java",
            setting="spark.master",
        ) from error
    spark.sparkContext.setLogLevel("OFF")
    try:
        yield spark
    finally:
        spark.stop()


@contextmanager
def _one_sentence() -> Iterator[None]:
    """Turn an executor's InputError into one here."""
    try:
        yield
    except Exception as error:  # py4j and pyspark have several
        sentence = re.search(r"InputError: (.+)", str(error))
        if sentence is None:
            raise
        raise InputError(sentence[1]) from error


def _rows(pieces: "DataFrame") -> Iterator:
    with _one_sentence():
        yield from pieces.toLocalIterator()


def _integer(sql: str) -> "Column":
    from pyspark.sql.functions import expr

    return expr(f"cast({sql} as int)")


def _tasks(config: DataConfig) -> list[tuple[int, str | None]]:
    """What each task reads: the index of a source, and the file where it is one of several Parquet files."""
    tasks = []
    for i, source in enumerate(config.sources):
        files = source_paths(config, i) if source.path else []
        # Files of other columns are read together, as they are united by name.
        parquet = len(files) > 1 and files[0].suffix.lower() == ".parquet"
        if parquet and len({str(pq.read_schema(file)) for file in files}) == 1:
            tasks += [(i, str(file)) for file in files]
        else:
            tasks.append((i, None))
    return tasks


# What runs on executors


def _read(
    batches: Iterator[pa.RecordBatch],
    config: DataConfig,
    tasks: list[tuple[int, str | None]],
    types: dict[str, str],
    trained: dict[str, str] | None,
) -> Iterator[pa.RecordBatch]:
    """The rows of some tasks in pieces by slot; rejected ones have the slot -1."""
    for batch in batches:
        for i, file in (tasks[i] for i in batch["id"].to_pylist()):
            sources = list(config.sources)
            if file is not None:
                sources[i] = replace(sources[i], path=file)
            with _connection(config.memory_limit) as con:
                _create(con, "log", types)
                config = replace(config, sources=sources)
                with confined(con, config):
                    fill_log(con, config, only=i, types=trained)
                users = (
                    f"SELECT user_id AS id, {BUCKET} * {SLOTS} // 65536 AS slot FROM (SELECT DISTINCT user_id FROM log)"
                )
                table = con.sql(
                    f"""SELECT CASE WHEN rejected_because IS NULL THEN slot ELSE -1 END AS "#slot", log.*
                        FROM log LEFT JOIN ({users}) ON user_id = id ORDER BY 1"""
                ).to_arrow_table()
            slots = table["#slot"].to_numpy()
            starts = np.flatnonzero(np.diff(slots, prepend=-2))
            for start, end in zip(starts, [*starts[1:], len(slots)], strict=True):
                usable = table.drop_columns(["#slot", *REASON] if slots[start] >= 0 else ["#slot"])
                for n, data in _packed(usable.slice(start, end - start)):
                    yield _row(slots[start], n, data)


def _work(
    batches: Iterator[pa.RecordBatch],
    work: Callable,
    types: dict[str, str],
    changes: list[str],
    memory_limit: str | None,
) -> Iterator[pa.RecordBatch]:
    """What some work gives for a connection with the table `log` of one part, and the number of the part."""
    from pyspark import TaskContext

    with _connection(memory_limit) as con:
        _create(lock_down(con), "log", types)
        for batch in batches:
            for data in batch["data"]:
                _insert(con, "log", data.as_py())
        for change in changes:
            con.execute(change)
        task = TaskContext.get()
        assert task is not None, "on an executor"
        yield from work(con, task.partitionId())


def _span(con: duckdb.DuckDBPyConnection, part: int) -> Iterator[pa.RecordBatch]:
    yield _row(part, 1, pickle.dumps(con.execute(SPAN).fetchall()[0]))


def _count(con: duckdb.DuckDBPyConnection, part: int, sql: str) -> Iterator[pa.RecordBatch]:
    yield _row(part, 1, pickle.dumps(dict(con.execute(sql).fetchall())))


def _select(con: duckdb.DuckDBPyConnection, part: int, condition: str) -> Iterator[pa.RecordBatch]:
    for n, data in _packed(con.sql(f"SELECT * FROM log WHERE {condition}").to_arrow_table()):
        yield _row(part, n, data)


def _table(con: duckdb.DuckDBPyConnection, part: int, work: Callable) -> Iterator[pa.RecordBatch]:
    for place, (n, data) in enumerate(_packed(work(con))):
        yield _row(part, n, pickle.dumps((place, data)))


def _examples(con: duckdb.DuckDBPyConnection, part: int, examples: Examples, groups: int) -> Iterator[pa.RecordBatch]:
    con.execute("CREATE TEMP VIEW rows AS FROM log")
    batches = groupby(examples.batches(examples.load(con)), key=lambda batch: batch.group)
    for group, (_, of_group) in enumerate(batches):
        for i, batch in enumerate(of_group):
            for place, (n, data) in enumerate(_packed(batch.table)):
                yield _row(part * groups + group, n, pickle.dumps(((i, place), replace(batch, table=None), data)))


def _row(key: int, n: int, data: bytes) -> pa.RecordBatch:
    columns = {"key": pa.array([key], pa.int32()), "n": pa.array([n], pa.int64()), "data": pa.array([data])}
    return pa.RecordBatch.from_pydict(columns)


def _packed(table: pa.Table) -> Iterator[tuple[int, bytes]]:
    """The table in pieces, at least one: the rows of each, and its bytes."""
    for at in range(0, max(len(table), 1), PIECE):
        piece, sink = table.slice(at, PIECE), pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as stream:
            stream.write_table(piece)
        yield len(piece), sink.getvalue().to_pybytes()


def _unpacked(data: bytes) -> pa.Table:
    return pa.ipc.open_stream(data).read_all()


@contextmanager
def _connection(memory_limit: str | None) -> Iterator[duckdb.DuckDBPyConnection]:
    with tempfile.TemporaryDirectory() as folder, connect(memory_limit, Path(folder)) as con:
        yield con


def _create(con: duckdb.DuckDBPyConnection, table: str, types: dict[str, str]) -> None:
    con.execute(f"CREATE TEMP TABLE {table} ({', '.join(f'{identifier(n)} {kind}' for n, kind in types.items())})")


def _insert(con: duckdb.DuckDBPyConnection, table: str, data: bytes) -> None:
    con.register("piece", _unpacked(data))
    con.execute(f"INSERT INTO {table} BY NAME SELECT * FROM piece")
    con.unregister("piece")
