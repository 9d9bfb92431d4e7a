"""Reading what `data_prep.prepare` wrote: the manifest and the splits."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep import InputError
from data_prep.checked_json import LOG_HOLDS, MayLack, a_moment, moments, read_json
from data_prep.config import TaskConfig, TextConfig, settings_of
from data_prep.cutoffs import SPLITS, split_file
from data_prep.examples import UNLABELLED
from data_prep.facts import Manifest
from data_prep.given_examples import ORIGINS
from data_prep.given_users import KINDS
from data_prep.history import combined
from data_prep.labels import LABEL_NAMES

MANIFEST = "manifest.json"
MANIFEST_HOLDS = {
    "key": (None, str),
    "files": {str: int},
    "content_hash": str,
    "config": {"data": dict, "task": dict, "text": dict},
    "question": str,
    "label": str,
    "label_kind": {*LABEL_NAMES},
    "labels_from": MayLack({*ORIGINS}),
    "classes": (None, [str]),
    "log": LOG_HOLDS | {"fields": {str: str}},
    "splits": {
        split: {"rows": int, "users": int, "cutoffs": moments, "most_per_user": MayLack(int)} for split in SPLITS
    },
    UNLABELLED: {"rows": int, "cutoff": a_moment},
    "aggregates": [str],
    "class_aggregates": MayLack([str]),
    "text_columns": [str],
    "attributes": MayLack([str]),
    "users": MayLack({"columns": {str: {*KINDS}}}),
    "schema": MayLack(str),
}


UNREADABLE = (pa.ArrowException, OSError, ValueError, KeyError)  # what pyarrow raises of a damaged file
AGAIN = "run scripts/prepare.py with the same arguments first"


@dataclass(frozen=True)
class Labelled:
    """A limit to the rows of some users of the training split, the same ones in each split.

    Attributes:
        users: How many. They are drawn by a hash of their ids.
        draw: Another number draws others.
        rows: How many of their rows are drawn; None for all.
    """

    users: int
    draw: int = 0
    rows: int | None = None


Limit = int | Labelled | None  # which rows of a split are read


def find_manifest(folder: Path) -> Manifest | None:
    """The manifest of a prepared folder, None where there is none; InputError where it is damaged."""
    path = Path(folder) / MANIFEST
    if not path.is_file():
        return None
    return read_json(path, MANIFEST_HOLDS, f"delete {folder} and run scripts/prepare.py again")


def read_manifest(folder: Path) -> Manifest:
    """The same; InputError where there is none, too."""
    manifest = find_manifest(folder)
    if manifest is None:
        raise InputError(f"{folder} holds no prepared data", AGAIN)
    return manifest


def prepared_for(folder: Path, task: TaskConfig, text: TextConfig) -> Manifest:
    """The manifest of data that was prepared for this task and with these texts.

    Raises:
        InputError: The data is not prepared, or was prepared for another task or other texts.
    """
    manifest = read_manifest(folder)
    for section, settings in (("task", task), ("text", text)):
        if manifest["config"][section] != settings_of(settings):
            raise InputError(f"{folder} was prepared with other settings of `{section}`", AGAIN)
    return manifest


def read_split(folder: Path, split: str, limit: Limit, columns: Sequence[str]) -> pa.Table:
    """These columns of a prepared split.

    Args:
        folder: The prepared data.
        split: Its name.
        limit: The number of rows that are drawn at random, always the same ones; or whose rows; None for all.
        columns: Their names; the histories outside of the population (`data_prep.examples.UNLABELLED`) have no label.

    Raises:
        InputError: The split has not been prepared, or training has fewer users than the limit asks for.
    """
    if isinstance(limit, Labelled):
        table = _read(folder, split, [*columns, *({"user_id"} - {*columns})])
        users = labelled_users(folder, limit)
        table, limit = table.filter(pc.is_in(table["user_id"], users)).select(list(columns)), limit.rows  # pyright: ignore[reportAttributeAccessIssue]  # pyarrow makes it at run time
    else:
        table = _read(folder, split, columns)
    return table.take(sampled(len(table), limit)) if limit else table


def labelled_users(folder: Path, limit: Labelled) -> pa.Array:
    """The ids of the users whose rows a limit takes.

    Raises:
        InputError: The training split has fewer users.
    """
    users = pc.unique(_read(folder, "train", ["user_id"])["user_id"])  # pyright: ignore[reportAttributeAccessIssue]  # pyarrow makes it at run time
    if limit.users > len(users):
        raise InputError(
            f"finetuning.labelled_users is {limit.users:,}, and training has {len(users):,} users",
            "lower it, or leave it out to take all",
            setting="finetuning.labelled_users",
        )
    hashes = [hashlib.sha256(f"{limit.draw} {user}".encode()).digest() for user in users.to_pylist()]
    return users.take(sorted(range(len(users)), key=hashes.__getitem__)[: limit.users])


def split_texts(folder: Path, split: str, limit: Limit, size: int) -> tuple[int, Iterator[pa.Array]]:
    """The number of texts of a split, and the texts in arrays of at most so many, read one after the other.

    Args:
        folder: The prepared data.
        split: Its name.
        limit: See `read_split`.
        size: Of an array.

    Raises:
        InputError: See `read_split`.
    """
    if limit:
        texts = read_split(folder, split, limit, ["text"])["text"]
        chunks = (combined(texts.slice(start, size)) for start in range(0, len(texts), size))
        return len(texts), chunks
    file = opened(folder, split)
    return file.metadata.num_rows, _texts(file, size, Path(folder) / split_file(split))


def opened(folder: Path, split: str) -> pq.ParquetFile:
    """The file of a split.

    Raises:
        InputError: The split has not been prepared, or its file is damaged.
    """
    path = Path(folder) / split_file(split)
    if not path.is_file():
        raise InputError(f"{path} is missing", "run scripts/prepare.py with the same --config first")
    try:
        return pq.ParquetFile(path)
    except UNREADABLE as error:
        raise _damaged(path) from error


def column_array(column: pa.ChunkedArray) -> np.ndarray:
    """Labels or scores as an array of shape (rows,), of lists (rows, classes)."""
    values = combined(column)
    if pa.types.is_list(values.type):
        return values.flatten().to_numpy(zero_copy_only=False).reshape(len(values), -1)
    return values.to_numpy(zero_copy_only=False)


def sampled(rows: int, limit: int | None) -> np.ndarray:
    """The indices of at most `limit` rows, drawn at random but always the same, in their order."""
    if limit is None or limit >= rows:
        return np.arange(rows)
    return np.sort(np.random.default_rng(0).choice(rows, limit, replace=False))


def _read(folder: Path, split: str, columns: Sequence[str]) -> pa.Table:
    path, file = Path(folder) / split_file(split), opened(folder, split)
    try:
        table = file.read(columns=list(columns))
        table.validate(full=True)  # that text is UTF-8
    except UNREADABLE as error:
        raise _damaged(path) from error
    if {*columns} - {*table.column_names}:  # which pyarrow passes over
        raise _damaged(path)
    return table


def _texts(file: pq.ParquetFile, size: int, path: Path) -> Iterator[pa.Array]:
    try:
        for batch in file.iter_batches(size, columns=["text"]):
            batch.validate(full=True)
            yield batch["text"]
    except UNREADABLE as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> InputError:
    return InputError(f"{path} is damaged", f"delete {path.parent} and run scripts/prepare.py again")
