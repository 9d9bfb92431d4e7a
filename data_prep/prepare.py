"""The whole step from a log to labelled text: Parquet splits, serializer, manifest and dataset card."""

import hashlib
import json
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import duckdb
import pyarrow as pa
from tqdm import tqdm

from data_prep import InputError
from data_prep.card import dataset_card
from data_prep.config import DataConfig, SparkConfig, TaskConfig, TextConfig, settings_of
from data_prep.connections import Pause, connect
from data_prep.cutoffs import SPLITS, coarse_moments, doubtful_windows, resolve_cutoffs, split_file
from data_prep.event_log import EventLog, note_equal_rows
from data_prep.events import confined
from data_prep.examples import UNLABELLED, Batch, Examples, SplitWriter, Summary, fit_examples
from data_prep.facts import Manifest
from data_prep.features import OWN
from data_prep.files import files_hash, replacing
from data_prep.given_examples import labels_from, read_examples
from data_prep.given_schema import mark, read_given_schema, schema_doubts
from data_prep.given_users import read_users
from data_prep.labels import class_names, label_name
from data_prep.leaks import describe_leak, suspected_leaks
from data_prep.likeness import log_facts
from data_prep.local import LocalLog
from data_prep.moments import show
from data_prep.parts import sample_condition
from data_prep.prepared import MANIFEST, find_manifest
from data_prep.serializer import EventSerializer
from data_prep.side_tables import table_source
from data_prep.sources import expanded, source_files
from data_prep.spark import SparkLog, spark_session
from data_prep.sql import refused
from data_prep.task import check_columns, question
from data_prep.text_settings import check_fields
from data_prep.user_facts import user_facts, user_notes
from data_prep.users import key_mark

FORMAT = 11  # raise it when the same config and log would give other files


def prepare(
    name: str,
    data: DataConfig,
    task: TaskConfig,
    text: TextConfig,
    spark: SparkConfig | None = None,
    schema: EventSerializer | None = None,
    ready: Callable[[], None] = lambda: None,
) -> Path:
    """Write FOLDER/NAME: {train,validation,test,unlabelled}.parquet, serializer.json, manifest.json and README.md.

    unlabelled.parquet has, for pretraining, the histories at the last training cutoff of the users outside of the
    population there; those of the users in it stand in train.parquet.

    The same config and log give the same files; a second call finds them and returns at once. The files take
    their place at the end, all at once (see `replacing`).

    Args:
        name: Of the experiment; the output's folder is called so.
        data: Where the events come from and where the output goes.
        task: Label, population and cutoffs.
        text: How a history becomes text.
        spark: Where Spark runs; None prepares on this machine. The output is the same.
        schema: Writes the texts; None takes that of text.schema, or learns bins and vocabularies of this log.
        ready: Called once the log's columns are known to be right, before a row is read; not in data.time_limit.

    Returns:
        The output's folder.

    Raises:
        InputError: The config or the log cannot be used, in one sentence.
    """
    started = time.perf_counter()
    folder = Path(data.folder) / name
    schema = schema or read_given_schema(text)
    config = {"data": settings_of(data), "task": settings_of(task), "text": settings_of(text)}
    given = [schema.to_json()] if schema else []
    read = [data, *(table_source(table, data) for table in (task.examples, data.users) if table)]
    files = [source_files(sources) for sources in read]
    known = None if None in files else [path for found in files for path in found or []]
    key = _key(config, [*(text for sources in read for text in expanded(sources)), key_mark(data), *given], known)
    old = find_manifest(folder)
    if old and key is not None and old["key"] == key and old["files"] == _sizes(folder, old["files"]):
        ready()
        print(f"{folder} is up to date")
        return folder
    if old is None and folder.exists() and (folder.is_file() or any(folder.iterdir())):
        raise InputError(f"{folder} holds files that are not prepared data", "choose another data.folder or name")
    _keep_freed_memory()
    with replacing(folder) as made:
        with connect(data.memory_limit, made.parent / "spill") as con, refused("prepare", "see data.memory_limit"):
            written = _write(con, made, name, data, task, text, spark, schema, ready)
        written |= {"key": key, "config": config, "seconds": round(time.perf_counter() - started, 1)}
        manifest = cast(Manifest, written)
        (made / "README.md").write_text(dataset_card(name, task, manifest), encoding="utf-8")
        manifest["files"] = _sizes(made, [path.name for path in made.iterdir()])
        (made / MANIFEST).write_text(json.dumps(manifest, indent=1, default=str) + "\n", encoding="utf-8")
    rows = ", ".join(f"{split} {manifest['splits'][split]['rows']:,}" for split in SPLITS)
    print(f"{folder}: {rows} examples in {manifest['seconds']} s")
    return folder


def _keep_freed_memory() -> None:
    """Arrow arrays of one part reuse the memory of the part before: a third of the time in the kernel is saved."""
    if "jemalloc" in pa.supported_memory_backends():
        pa.set_memory_pool(pa.jemalloc_memory_pool())
        pa.jemalloc_set_decay_ms(20_000)


def _sizes(folder: Path, names: Iterable[str]) -> dict[str, int]:
    """The size of each of these files that is there."""
    return {name: (folder / name).stat().st_size for name in sorted(names) if (folder / name).is_file()}


def _write(
    con: duckdb.DuckDBPyConnection,
    folder: Path,
    name: str,
    data: DataConfig,
    task: TaskConfig,
    text: TextConfig,
    spark: SparkConfig | None,
    schema: EventSerializer | None,
    ready: Callable[[], None],
) -> dict:
    """Write the splits and the serializer; returns the manifest without config and times."""
    with ExitStack() as stack, tqdm(total=3, desc="prepare", unit="step") as bar:
        bar.set_postfix_str("read the log")
        engine = SparkLog(stack.enter_context(spark_session(spark)), con, data) if spark else LocalLog(con, data)
        with confined(con, data, folder.parent) as pause:  # where the parts will lie, too
            log = engine.read(folder, partial(_check_columns, con, task, text, ready, pause))
        cutoffs = resolve_cutoffs(task, log)
        given = read_examples(task, data, folder.parent / "spill")
        users = read_users(data, folder.parent / "spill")
        bar.update()
        bar.set_postfix_str("take the given bins and vocabularies" if schema else "learn bins and vocabularies")
        engine.sample(sample_condition(log))
        examples, labels = fit_examples(con, engine.count, log, cutoffs, task, text, given, users, schema)
        examples.serializer.save_pretrained(folder)
        doubts = doubtful_windows(engine.count, task, cutoffs, log) + coarse_moments(engine.count, task, data.timezone)
        facts = log_facts(con, engine.count, examples.serializer, cutoffs["train"][-1], data.timezone)
        doubts += schema_doubts(con, schema, cutoffs["train"][-1], facts["known"]) if schema else []
        bar.update()
        parts, batches = engine.batches(examples, labels)
        del labels  # the memory of their history is needed for the parts
        bar.total += parts * len(examples.groups()) - 1
        bar.set_postfix_str("write texts")
        summary = _written(folder, batches, bar)
        if log.equal_rows is None:
            note_equal_rows(log, summary.equal_rows)
        splits = examples.describe(summary)
        known = users and user_facts(users, summary.attributed, folder, examples.serializer)
        leaks = suspected_leaks(folder / split_file("train"), examples.aggregates, examples.serializer)
        bar.set_postfix_str("done")
    doubts += [*map(describe_leak, leaks), *_never_seen(splits["train"], None if schema else examples.serializer)]
    doubts += [*(examples.moments.left_out() if examples.moments else []), *(users.notes if users else [])]
    log.notes += [user_notes(known, log.users)] if known else []
    _print_notes(log, doubts)
    return ({"users": known} if known else {}) | {
        "format": FORMAT,
        "name": name,
        "question": question(task, labels_from(given) == "table"),
        "label": label_name(task.label),
        "label_kind": task.label.kind,
        "labels_from": labels_from(given),
        "classes": class_names(task.label, examples.rule.classes),
        "log": _describe_log(log) | facts,
        "splits": splits,
        UNLABELLED: {"rows": summary.users[UNLABELLED], "cutoff": show(cutoffs["train"][-1])},
        "warnings": doubts,
        "suspected_leaks": leaks,
        **_columns(examples, schema),
        "content_hash": files_hash(folder.iterdir()),
    }


def _check_columns(
    con: duckdb.DuckDBPyConnection,
    task: TaskConfig,
    text: TextConfig,
    ready: Callable[[], None],
    pause: Pause,
    types: dict[str, str],
) -> None:
    """Refuse a column that the log does not have before a row of it is read."""
    check_fields(text, {"event_type": "VARCHAR"} | types)
    check_columns(con, task, types)
    with pause():
        ready()


def _written(folder: Path, batches: Iterable[Batch], bar: tqdm) -> Summary:
    """Write the splits; returns their rows, users and labels."""
    summary = Summary()
    with SplitWriter(folder) as writer:
        for _, group in groupby(batches, key=lambda batch: batch.group):
            for batch in group:
                writer.write(batch)
                summary.add(batch)
            bar.update()
    return summary


def _columns(examples: Examples, schema: EventSerializer | None) -> dict[str, Any]:
    """The columns of the splits, what the texts can tell of, and which schema that was given."""
    serializer = examples.serializer
    return {
        "aggregates": examples.aggregates,
        "class_aggregates": list(OWN) if examples.rule.classes else [],
        "text_columns": serializer.columns(),
        **({"attributes": list(serializer.attributes)} if serializer.attributes else {}),
        **({"schema": mark(schema)} if schema else {}),
    }


def _print_notes(log: EventLog, doubts: list[str]) -> None:
    """What a user should know of the rows that were left out, of the log and of the examples."""
    for reason, rows in log.rejected.items():
        if rows:
            print(f"left out {rows:,} row{'s' * (rows > 1)} with {reason} (see rejected.parquet)")
    for note in log.notes:
        print(note)
    for doubt in doubts:
        print(f"warning: {doubt}")


def _never_seen(train: dict, learned: EventSerializer | None) -> list[str]:
    """A sentence for each class without a training example, and for each field of which no value was learned."""
    intervals = train.get("intervals", {})
    counts = train.get("classes", {}) | {f"first within {name}": of["events"] for name, of in intervals.items()}
    empty = [name for name, rows in counts.items() if not rows]
    sentences = [f"no training example has the label '{name}', which the model cannot learn then" for name in empty]
    if learned is None:
        return sentences
    for name, fitted in learned.fields.items():
        if not fitted.get("values", fitted.get("words", True)):
            what = "other" if fitted["kind"] == "categorical" else "nothing"
            sentences.append(
                f"text.fields.{name}: fewer than {learned.config.fields[name].min_users} users had any one of its "
                f"values in training, so that each is written as {what}; lower min_users or leave the field out"
            )
    return sentences


def _describe_log(log: EventLog) -> dict:
    return {
        "first": str(log.first),
        "last": str(log.last),
        "events": log.events,
        "users": log.users,
        "rejected": log.rejected,
        "left_out": log.left_out,
        "equal_rows": log.equal_rows,
        "fields": log.fields,
    }


def _key(config: dict, sources: list[str | None], files: list[Path] | None) -> str | None:
    """Changes with the config, the version of this code and any file that the sources read; None if unknowable."""
    if files is None:
        return None
    stamps = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    content = json.dumps([FORMAT, duckdb.__version__, config, sources, stamps], default=str)
    return hashlib.sha256(content.encode()).hexdigest()
