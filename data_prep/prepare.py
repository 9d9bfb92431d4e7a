"""The whole step from a log to labelled text: Parquet splits, serializer, manifest and dataset card."""

import hashlib
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import duckdb
from tqdm import tqdm

from data_prep import InputError
from data_prep.events import DataConfig, EventLog, connect, expanded, identifier, quote, read_events, source_files
from data_prep.features import (
    add_history_columns,
    aggregate_names,
    aggregates_query,
    field_kinds,
    frequent_types,
)
from data_prep.serializer import EventSerializer, TextConfig, check_fields, header_names
from data_prep.task import SPLITS, TaskConfig, label_examples, label_name, question, resolve_cutoffs, show, timestamp

FORMAT = 3  # raise it when the same config and log would give other files


def prepare(name: str, data: DataConfig, task: TaskConfig, text: TextConfig) -> Path:
    """Write FOLDER/NAME: {train,validation,test}.parquet, serializer.json, manifest.json and README.md.

    The same config and log give the same files; a second call finds them and returns at once. The files take
    their place at the end, all at once (see `replacing`).

    Args:
        name: Of the experiment; the output's folder is called so.
        data: Where the events come from and where the output goes.
        task: Label, population and cutoffs.
        text: How a history becomes text.

    Returns:
        The output's folder.

    Raises:
        InputError: The config or the log cannot be used, in one sentence.
    """
    started = time.perf_counter()
    folder = Path(data.folder) / name
    config = {"data": asdict(data), "task": asdict(task), "text": asdict(text)}
    key = _key(config, expanded(data), source_files(data))
    old = read_manifest(folder)
    if key is not None and old.get("key") == key and old["files"] == _sizes(folder, old["files"]):
        print(f"{folder} is up to date")
        return folder
    if "content_hash" not in old and folder.exists() and (folder.is_file() or any(folder.iterdir())):
        raise InputError(f"{folder} holds files that are not prepared data; choose another data.folder or name")
    with replacing(folder) as made:
        with connect(data.memory_limit, made.parent / "spill") as con:
            manifest = _write(con, made, name, data, task, text)
        manifest |= {"key": key, "config": config, "seconds": round(time.perf_counter() - started, 1)}
        (made / "README.md").write_text(_card(name, task, manifest), encoding="utf-8")
        manifest["files"] = _sizes(made, [path.name for path in made.iterdir()])
        (made / "manifest.json").write_text(json.dumps(manifest, indent=1, default=str) + "\n", encoding="utf-8")
    rows = ", ".join(f"{split} {manifest['splits'][split]['rows']:,}" for split in SPLITS)
    print(f"{folder}: {rows} examples in {manifest['seconds']} s")
    return folder


def read_manifest(folder: Path) -> dict:
    """The manifest of a prepared folder, empty where there is none; InputError where it cannot be read."""
    path = Path(folder) / "manifest.json"
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise InputError(f"{path} is damaged; delete {folder} and run scripts/prepare.py again") from error


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
    con: duckdb.DuckDBPyConnection, folder: Path, name: str, data: DataConfig, task: TaskConfig, text: TextConfig
) -> dict:
    """Write the splits and the serializer; returns the manifest without config and times."""
    with tqdm(total=4, desc="prepare", unit="step") as bar:
        bar.set_postfix_str("read the log")
        log = read_events(con, data)
        cutoffs = resolve_cutoffs(task, log)
        check_fields(text, {"event_type": "VARCHAR"} | log.fields)
        kinds = field_kinds(log.fields, {key: asdict(spec) for key, spec in text.fields.items()})
        fitted_before = cutoffs["train"][-1]
        bar.update()
        bar.set_postfix_str("label")
        splits = label_examples(con, task, cutoffs)
        event_types = frequent_types(con, fitted_before)
        aggregates = aggregate_names(kinds, event_types)
        header_names(text.header, [key for key, kind in kinds.items() if kind == "numeric"], aggregates)
        bar.update()
        bar.total = 4 + 2 * sum(map(len, cutoffs.values()))
        bar.set_postfix_str("aggregate")
        add_history_columns(con, task.label.where)
        for split in SPLITS:  # training first: the serializer is fitted on its aggregates alone
            for cutoff in cutoffs[split]:
                _insert(con, "aggregates" if split == "train" else "later_aggregates", cutoff, kinds, event_types)
                bar.update()
        serializer = EventSerializer.fit(con, text, kinds, fitted_before)
        serializer.save_pretrained(folder)
        con.execute("INSERT INTO aggregates SELECT * FROM later_aggregates; DROP TABLE later_aggregates")
        bar.update()
        bar.set_postfix_str("write")
        serializer.add_event_words(con)
        con.execute("CREATE TEMP TABLE texts (user_id VARCHAR, cutoff TIMESTAMP, text VARCHAR)")
        for split in SPLITS:
            for cutoff in cutoffs[split]:
                query = serializer.texts_query(cutoff)
                con.execute(f"INSERT INTO texts SELECT user_id, {timestamp(cutoff)}, text FROM ({query})")
                bar.update()
            columns = ", ".join(map(identifier, aggregates))
            con.execute(
                f"""COPY (SELECT user_id, cutoff, text, CAST(label AS BIGINT) AS label, {columns}
                          FROM examples JOIN texts USING (user_id, cutoff) JOIN aggregates USING (user_id, cutoff)
                          WHERE split = '{split}' ORDER BY cutoff, user_id)
                    TO {quote(str(folder / f"{split}.parquet"))} (FORMAT parquet, COMPRESSION zstd)"""
            )
        bar.set_postfix_str("done")
        bar.update()
    for reason, count in log.rejected.items():
        if count:
            print(f"left out {count:,} row{'s' * (count > 1)} with {reason}")
    return {
        "format": FORMAT,
        "name": name,
        "question": question(task),
        "label": label_name(task.label),
        "log": _describe_log(log),
        "splits": {
            split: counts
            | {
                "positive_rate": round(counts["positives"] / counts["rows"], 6),
                "cutoffs": list(map(show, cutoffs[split])),
            }
            for split, counts in splits.items()
        },
        "aggregates": aggregates,
        "text_fields": list(text.fields),
        "content_hash": _content_hash(folder),
    }


def _insert(con: duckdb.DuckDBPyConnection, table: str, cutoff: datetime, kinds: dict, event_types: list[str]) -> None:
    query = f"SELECT {timestamp(cutoff)} AS cutoff, * FROM ({aggregates_query(cutoff, kinds, event_types)})"
    exists = con.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name = ?", [table]).fetchone()[0]
    con.execute(f"INSERT INTO {table} {query}" if exists else f"CREATE TEMP TABLE {table} AS {query}")


def _describe_log(log: EventLog) -> dict:
    return {
        "first": str(log.first),
        "last": str(log.last),
        "events": log.events,
        "users": log.users,
        "rejected": log.rejected,
        "fields": log.fields,
    }


def _key(config: dict, sources: list[str], files: list[Path] | None) -> str | None:
    """Changes with the config, the version of this code and any file that the sources read; None if unknowable."""
    if files is None:
        return None
    stamps = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    content = json.dumps([FORMAT, duckdb.__version__, config, sources, stamps], default=str)
    return hashlib.sha256(content.encode()).hexdigest()


def _content_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _card(name: str, task: TaskConfig, manifest: dict) -> str:
    """A dataset card that the hub and datasets.load_dataset read."""
    files = "\n".join(f"  - split: {split}\n    path: {split}.parquet" for split in SPLITS)
    rows = "\n".join(
        f"| {split} | {counts['rows']:,} | {counts['users']:,} | {counts['positive_rate']:.1%} | "
        f"{counts['cutoffs'][0]} to {counts['cutoffs'][-1]} ({len(counts['cutoffs'])}) |"
        for split, counts in manifest["splits"].items()
    )
    log = manifest["log"]
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

Label 1 means {manifest["label"]}. One row is one user at one cutoff; its text and aggregates come from events strictly
before the cutoff, its label from the {task.label.horizon} from the cutoff on.

| split | rows | users | {manifest["label"]} | cutoffs |
|---|---|---|---|---|
{rows}

The log: {log["events"]:,} events of {log["users"]:,} users, {log["first"]} to {log["last"]} (UTC).
Columns of the log that the texts can contain: {", ".join(manifest["text_fields"])}. `manifest.json` has the whole
config, the rows left out by reason, and a hash of the content. Made by EventScribe.
"""
