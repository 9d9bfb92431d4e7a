"""The whole step from a log to labelled text: Parquet splits, serializer, manifest and dataset card."""

import fcntl
import hashlib
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

import duckdb
import pyarrow as pa
import xxhash
from tqdm import tqdm

from data_prep import InputError
from data_prep.events import (
    DataConfig,
    EventLog,
    confined,
    connect,
    count_on,
    expanded,
    key_mark,
    read_events,
    source_files,
)
from data_prep.examples import (
    UNLABELLED,
    SplitWriter,
    Summary,
    fit_examples,
    number_of_parts,
    part_batches,
    sample_condition,
    split_log,
)
from data_prep.features import OWN
from data_prep.files import LOG_HOLDS, MayLack, a_moment, moments, read_json
from data_prep.leaks import describe_leak, suspected_leaks
from data_prep.likeness import log_facts
from data_prep.serializer import EventSerializer, TextConfig
from data_prep.spark import SparkConfig, SparkLog, spark_session
from data_prep.sql import refused
from data_prep.task import (
    LABEL_NAMES,
    SPLITS,
    TaskConfig,
    class_names,
    doubtful_windows,
    label_name,
    question,
    resolve_cutoffs,
    show,
)

MANIFEST = "manifest.json"
MANIFEST_HOLDS = {
    "key": (None, str),
    "files": {str: int},
    "content_hash": str,
    "config": {"data": dict, "task": dict, "text": dict},
    "question": str,
    "label": str,
    "label_kind": {*LABEL_NAMES},
    "classes": (None, [str]),
    "log": LOG_HOLDS | {"fields": {str: str}},
    "splits": {split: {"rows": int, "users": int, "cutoffs": moments} for split in SPLITS},
    UNLABELLED: {"rows": int, "cutoff": a_moment},
    "aggregates": [str],
    "class_aggregates": MayLack([str]),
    "text_columns": [str],
}
FORMAT = 9  # raise it when the same config and log would give other files


def prepare(name: str, data: DataConfig, task: TaskConfig, text: TextConfig, spark: SparkConfig | None = None) -> Path:
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

    Returns:
        The output's folder.

    Raises:
        InputError: The config or the log cannot be used, in one sentence.
    """
    started = time.perf_counter()
    folder = Path(data.folder) / name
    config = {"data": asdict(data), "task": asdict(task), "text": asdict(text)}
    key = _key(config, [*expanded(data), key_mark(data)], source_files(data))
    old = read_manifest(folder)
    if key is not None and old.get("key") == key and old["files"] == _sizes(folder, old["files"]):
        print(f"{folder} is up to date")
        return folder
    if "content_hash" not in old and folder.exists() and (folder.is_file() or any(folder.iterdir())):
        raise InputError(f"{folder} holds files that are not prepared data; choose another data.folder or name")
    _keep_freed_memory()
    with replacing(folder) as made:
        with connect(data.memory_limit, made.parent / "spill") as con, refused("prepare", "see data.memory_limit"):
            manifest = _write(con, made, name, data, task, text, spark)
        manifest |= {"key": key, "config": config, "seconds": round(time.perf_counter() - started, 1)}
        (made / "README.md").write_text(_card(name, task, manifest), encoding="utf-8")
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


def read_manifest(folder: Path) -> dict:
    """The manifest of a prepared folder, empty where there is none; InputError where it is damaged."""
    path = Path(folder) / MANIFEST
    if not path.is_file():
        return {}
    return read_json(path, MANIFEST_HOLDS, f"delete {folder} and run scripts/prepare.py again")


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A new folder that takes the place of `folder` when the block ends without an error.

    It is made beside the old one and renamed, so that a killed run leaves the old content or none, never a mixture.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{folder.name}.{platform.node()}."
    for left in folder.parent.glob(f"{prefix}*"):  # by a process of this machine that was killed
        if not _is_running(left.name.removeprefix(prefix).partition(".")[0]):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{prefix}{os.getpid()}.", dir=folder.parent) as temporary:
        made = Path(temporary) / "made"
        made.mkdir()
        yield made
        if folder.exists():
            os.rename(folder, Path(temporary) / "replaced")
        os.rename(made, folder)


@contextmanager
def held(lock: Path, otherwise: str) -> Iterator[None]:
    """A file that one process holds at a time; a kill lets go of it. InputError(otherwise) where another one does."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(otherwise) from None
        yield


def write_whole(path: Path, text: str) -> None:
    """Whole or not at all, whenever the process ends."""
    new = path.with_name(f".{path.name}")
    new.write_text(text, encoding="utf-8", newline="\n")
    new.replace(path)


def _is_running(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError):
        pass
    return True


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
) -> dict:
    """Write the splits and the serializer; returns the manifest without config and times."""
    with ExitStack() as stack, tqdm(total=3, desc="prepare", unit="step") as bar:
        bar.set_postfix_str("read the log")
        on_spark = SparkLog(stack.enter_context(spark_session(spark)), data) if spark else None
        with confined(con, data, folder.parent):  # where the parts will lie, too
            log = on_spark.read(con, folder) if on_spark else read_events(con, data, folder)
        cutoffs = resolve_cutoffs(task, log)
        bar.update()
        bar.set_postfix_str("learn bins and vocabularies")
        sample = sample_condition(log)
        if on_spark:
            on_spark.sample(con, sample or "true")
        else:
            con.execute(f"CREATE TEMP {'TABLE' if sample else 'VIEW'} sample AS FROM log WHERE {sample or 'true'}")
            con.execute("CREATE TEMP VIEW rows AS FROM sample")
        count = on_spark.count if on_spark else count_on(con)
        examples, labels = fit_examples(con, count, log, cutoffs, task, text)
        examples.serializer.save_pretrained(folder)
        doubts = doubtful_windows(count, task, cutoffs)
        facts = log_facts(con, count, examples.serializer, cutoffs["train"][-1], data.timezone)
        bar.update()
        if on_spark:
            parts, batches = on_spark.number_of_parts, on_spark.batches(examples)
        else:
            if sample:  # its memory is needed for the parts
                con.execute("DROP TABLE sample")
            if sample or number_of_parts(log.events) > 1:
                labels = None
            queries = split_log(con, log, folder.parent)
            parts, batches = len(queries), part_batches(con, examples, queries, labels)
        bar.total += parts * len(examples.moments()) - 1
        bar.set_postfix_str("write texts")
        summary = Summary()
        with SplitWriter(folder) as writer:
            for batch in batches:
                writer.write(batch)
                summary.add(batch)
                bar.update()
        splits = examples.describe(summary)
        leaks = suspected_leaks(folder / "train.parquet", examples.aggregates, examples.serializer)
        doubts += map(describe_leak, leaks)
        bar.set_postfix_str("done")
    for reason, rows in log.rejected.items():
        if rows:
            print(f"left out {rows:,} row{'s' * (rows > 1)} with {reason} (see rejected.parquet)")
    splits = examples.describe(summary)
    doubts += _never_seen(splits["train"], examples.serializer)
    for note in log.notes:
        print(note)
    for doubt in doubts:
        print(f"warning: {doubt}")
    return {
        "format": FORMAT,
        "name": name,
        "question": question(task),
        "label": label_name(task.label),
        "label_kind": task.label.kind,
        "classes": class_names(task.label, examples.rule.classes),
        "log": _describe_log(log) | facts,
        "splits": splits,
        UNLABELLED: {"rows": summary.users[UNLABELLED], "cutoff": show(cutoffs["train"][-1])},
        "warnings": doubts,
        "suspected_leaks": leaks,
        "aggregates": examples.aggregates,
        "class_aggregates": list(OWN) if examples.rule.classes else [],
        "text_columns": examples.serializer.columns(),
        "content_hash": files_hash(folder.iterdir()),
    }


def _never_seen(train: dict, serializer: EventSerializer) -> list[str]:
    """A sentence for each class without a training example, and for each field of which no value is kept."""
    empty = [name for name, rows in train.get("classes", {}).items() if not rows]
    said = [f"no training example has the label '{name}', which the model cannot learn then" for name in empty]
    for name, fitted in serializer.fields.items():
        if not fitted.get("values", fitted.get("words", True)):
            what = "other" if fitted["kind"] == "categorical" else "nothing"
            said.append(
                f"text.fields.{name}: fewer than {serializer.config.fields[name].min_users} users had any one of its "
                f"values in training, so that each is written as {what}; lower min_users or leave the field out"
            )
    return said


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


def _key(config: dict, sources: list[str], files: list[Path] | None) -> str | None:
    """Changes with the config, the version of this code and any file that the sources read; None if unknowable."""
    if files is None:
        return None
    stamps = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    content = json.dumps([FORMAT, duckdb.__version__, config, sources, stamps], default=str)
    return hashlib.sha256(content.encode()).hexdigest()


def files_hash(paths: Iterable[Path]) -> str:
    """Of names and contents; it tells a change, against a forger it is no help."""
    digest = xxhash.xxh3_128()
    for path in sorted(paths):
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()


_LABELS = {
    "absent": "Label 1 means {label}.",
    "exists": "Label 1 means {label}.",
    "count": "The label is the number of events, or its tier.",
    "sum": "The label is the sum, or its tier.",
    "which": "The label is a list of 0 and 1, one for each of the classes in `manifest.json`.",
}


def _labels(counts: dict) -> str:
    """What a split's labels are like, in a few words."""
    if "positive_rate" in counts:
        return f"{counts['positive_rate']:.1%}"
    if "mean" in counts:
        return f"{counts['mean']:.4g} on average, {counts['share_above_zero']:.1%} above 0"
    classes = sorted(counts["classes"].items(), key=lambda item: -item[1])
    shown = ", ".join(f"{name} {n / counts['rows']:.1%}" for name, n in classes[:5])
    return shown + f" and {len(classes) - 5} more" * (len(classes) > 5)


def _card(name: str, task: TaskConfig, manifest: dict) -> str:
    """A dataset card that the hub and datasets.load_dataset read."""
    files = "\n".join(f"  - split: {split}\n    path: {split}.parquet" for split in SPLITS)
    if manifest[UNLABELLED]["rows"]:  # datasets opens no file without rows
        files += f"\n- config_name: {UNLABELLED}\n  data_files: {UNLABELLED}.parquet"
    rows = "\n".join(
        f"| {split} | {counts['rows']:,} | {counts['users']:,} | {_labels(counts)} | "
        f"{counts['cutoffs'][0]} to {counts['cutoffs'][-1]} ({len(counts['cutoffs'])}) |"
        for split, counts in manifest["splits"].items()
    )
    log = manifest["log"]
    suspected = "".join(f"\n**Warning:** {describe_leak(leak)}\n" for leak in manifest["suspected_leaks"])
    return f"""---
configs:
- config_name: default
  data_files:
{files}
task_categories:
- text-classification
tags:
- eventscribe
---

# {name}

{manifest["question"]}

{_LABELS[manifest["label_kind"]].format(**manifest)} One row is one user at one cutoff; its text and aggregates come
from events strictly before the cutoff, its label from the {task.label.horizon} from the cutoff on.

| split | rows | users | {manifest["label"]} | cutoffs |
|---|---|---|---|---|
{rows}

`unlabelled.parquet`, for pretraining, has the texts of {manifest[UNLABELLED]["rows"]:,} more users at the last training
cutoff, {manifest[UNLABELLED]["cutoff"]}: those with an event before it, outside of the population there. It has
no labels.
{suspected}
The log: {log["events"]:,} events of {log["users"]:,} users, {log["first"][:10]} to {log["last"][:10]} (UTC).
Columns of the log that the texts can contain: {", ".join(manifest["text_columns"])}. `manifest.json` has the whole
config, the rows left out by reason, and a hash of the content. Made by EventScribe.
"""
