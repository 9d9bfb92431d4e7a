"""A whole log -> a file of scores on Spark: whole users in each partition, and in each the code of one machine.

The model's folder travels as one file to every machine, where each Python worker loads it once. Executors need this
package with torch, the files of the sources and, with data.pseudonymize, the key in their environment.
"""

import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from datetime import date, datetime
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from uuid import uuid4

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from data_prep import InputError
from data_prep.attributes import RELATION
from data_prep.config import DataConfig, SparkConfig
from data_prep.connections import connect
from data_prep.population import EVERYBODY, Whom
from data_prep.serving import BATCH, MEMORY, PART_USERS, cutoff_of, log_texts, read_past_on_spark
from data_prep.spark import SparkLog, spark_session
from finetune.model.loading import model_folder
from finetune.runs import whom
from finetune.serving.classifier import EventClassifier
from finetune.serving.predict import PLAN, READS, USERS, alone, check_arguments, several_processes, take_place, to_score


def predict_on_spark(
    model: str | Path,
    data: DataConfig,
    cutoff: datetime | date | str,
    output: Path,
    spark: SparkConfig,
    *,
    text: bool = False,
    batch_size: int = BATCH,
    population: bool = False,
    part_users: int = PART_USERS,
    called: str = "data.sources[0]",
    top: float | None = None,
    embeddings: bool = False,
) -> Path:
    """Score a log as `finetune.serving.predict.predict_log` does, in the executors of Spark.

    Spark does anew what an executor was lost with. A command that was stopped begins anew.

    Args:
        model: See `predict_log`, as all but the next one.
        data: The log; memory_limit is of each task.
        cutoff: The moment of prediction.
        output: A Parquet file, which is replaced; the driver writes it.
        spark: Where Spark runs.
        text: Also write the text that the model read.
        batch_size: The most texts at a time.
        population: Keep only the users whom the task asks about.
        part_users: Users of a part, which one task scores; there are 256 parts at most.
        called: What the events are called in messages.
        top: Also list the users with the highest scores.
        embeddings: Also write a vector of each user.

    Returns:
        The output.

    Raises:
        InputError: See `predict_log`; Spark does not start, several processes were launched, or OUTPUT.parts is of a
            command without Spark.
    """
    output, work = Path(output), Path(output).with_name(f"{Path(output).name}.parts")
    check_arguments(output, data, batch_size, part_users, top)
    classifier = to_score(folder := model_folder(model), top)
    moment, members = cutoff_of(classifier.serializer, cutoff), whom(classifier.task) if population else EVERYBODY
    _refuse_started(work)
    own, limit = work / "log", data.memory_limit or MEMORY
    with alone(work, True), spark_session(spark) as session, connect(limit, work / "spill") as con:
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir()
        engine = SparkLog(session, con, data, classifier.serializer.features.types)
        log = read_past_on_spark(engine, classifier.serializer, moment, classifier.task, own, part_users, called)
        for note in log.notes():
            print(note)
        name = _sent(engine, folder, bool(classifier.serializer.attributes), own)
        score = partial(
            _scored, name=name, cutoff=moment, whom=members, text=text, batch_size=batch_size, embeddings=embeddings
        )
        _write(engine.tables(score), work / "all.parquet")
        take_place(work, output, classifier.task, moment, top, limit)
    return output


def _refuse_started(work: Path) -> None:
    if several_processes():
        raise InputError("--engine spark and several processes of accelerate launch exclude each other", "drop one")
    if (work / PLAN).is_file():
        raise InputError(
            f"{work} holds the parts of a command that was stopped",
            "run it again without --engine spark, delete the folder, or choose another --output",
        )


def _sent(engine: SparkLog, folder: Path, attributes: bool, own: Path) -> str:
    """Make the file by which executors get the model, and the attributes of users that it reads; returns its name."""
    path = own / f"eventscribe-{uuid4().hex}.tar"
    with tarfile.open(path, "w") as archive:
        for file in sorted({file for pattern in READS for file in folder.glob(pattern)}):
            archive.add(file.resolve(), file.name)  # in the cache of the hub they are links
        if attributes:
            pq.write_table(engine.con.sql(f"SELECT * FROM {RELATION}").to_arrow_table(), own / USERS)
            archive.add(own / USERS, USERS)
    engine.spark.sparkContext.addFile(str(path))
    return path.name


def _write(tables: Iterator[pa.Table], path: Path) -> None:
    """Write tables of one schema into a file, one after the other; there is one at least."""
    first = next(tables)
    with pq.ParquetWriter(path, first.schema, compression="zstd") as writer:
        for table in chain([first], tables):
            if len(table):
                writer.write_table(table)


# What runs on executors


def _scored(
    con: duckdb.DuckDBPyConnection,
    name: str,
    cutoff: datetime | None,
    whom: Whom,
    text: bool,
    batch_size: int,
    embeddings: bool,
) -> pa.Table:
    """The answers to the users in the table `log`; see `EventClassifier.answers`."""
    classifier, users = _sent_model(name)
    if users is not None:
        con.register(RELATION, users)
    texts = log_texts(con, classifier.serializer, cutoff, whom)
    return classifier.answers(texts, text, batch_size, embeddings)


@lru_cache(1)
def _sent_model(name: str) -> tuple[EventClassifier, pa.Table | None]:
    """What `_sent` sent."""
    from pyspark import SparkFiles, TaskContext

    task = TaskContext.get()
    assert task is not None, "on an executor"
    torch.set_num_threads(task.cpus())  # a machine has many tasks at a time
    with tempfile.TemporaryDirectory() as folder, tarfile.open(SparkFiles.get(name)) as archive:
        archive.extractall(folder, filter="data")
        users = Path(folder) / USERS
        return EventClassifier.from_pretrained(folder), pq.read_table(users) if users.is_file() else None
