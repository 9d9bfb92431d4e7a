"""Token ids of many texts as flat arrays: mapped from files beside the prepared data, and read by every step."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from torch.utils.data import Dataset
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from data_prep import InputError
from data_prep.cutoffs import split_file
from data_prep.files import files_hash
from data_prep.prepared import Limit, opened, read_manifest, split_texts
from finetune.model.encoding import Encoder, Parts, backend

VERSION = 2  # of the files; another one makes them anew
FOLDER = "tokens"  # beside the prepared splits; deleting it costs the seconds that it saves
CHECKSUM = "checksum"  # of a folder's arrays: a file that was cut would train on other texts without a word
CHUNK = 8_192  # texts that are encoded at a time, in each thread


@dataclass(frozen=True)
class Tokens(Dataset):
    """The tokens of texts, and their labels where there are any.

    Attributes:
        ids: Token ids of all texts, one after the other, of shape (tokens,).
        event: The number of each token's event, 0 for a text's newest one and -1 for its header and special tokens; of
            shape (tokens,).
        starts: Where each text begins, and the end, of shape (texts + 1,).
        labels: Of shape (texts,) or (texts, classes).
    """

    ids: np.ndarray
    event: np.ndarray | None
    starts: np.ndarray
    labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> dict:
        """input_ids, the number of the row and, where there are any, event and label."""
        part = slice(self.starts[row], self.starts[row + 1])
        found = {"input_ids": self.ids[part], "row": row}
        if self.event is not None:
            found["event"] = self.event[part]
        if self.labels is not None:
            found["label"] = self.labels[row]
        return found

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each text, of shape (texts,)."""
        return np.diff(self.starts)

    def labelled(self, labels: np.ndarray) -> "Tokens":
        """The same tokens with these labels."""
        assert len(labels) == len(self)
        return replace(self, labels=labels)

    def without_events(self) -> "Tokens":
        """The same tokens, of which none can be left out."""
        return replace(self, event=None)


def tokenize(
    tokenizer: PreTrainedTokenizerBase | Encoder, texts: Sequence[str] | pa.Array | pa.ChunkedArray, threads: int = 1
) -> Tokens:
    """The tokens of texts in memory; see `Encoder`.

    Args:
        tokenizer: Cuts at its model_max_length; or an encoder of it.
        texts: By the serializer.
        threads: How many chunks are encoded at a time.
    """
    encoder = tokenizer if isinstance(tokenizer, Encoder) else Encoder(tokenizer)
    column: Any = texts if isinstance(texts, pa.Array | pa.ChunkedArray) else pa.array(texts, pa.large_string())
    chunks = [column.slice(start, CHUNK) for start in range(0, len(column), CHUNK)]
    return _joined(list(_encoded(encoder, chunks, threads)))


def tokens_of_split(
    tokenizer: PreTrainedTokenizerBase, folder: Path, split: str, limit: Limit = None, main: bool = True
) -> Tokens:
    """The tokens of a prepared split, from FOLDER where the same tokenizer has made them before, else put there.

    The arrays are mapped, not read: what a step does not touch takes no memory, and processes share what they touch.
    Arrays that are not as they were written are made anew.

    Args:
        tokenizer: Cuts at its model_max_length.
        folder: The prepared data.
        split: Its name.
        limit: See `data_prep.prepared.read_split`.
        main: Of several processes that call this at the same time, whether this one shows progress.
    """
    key = xxhash.xxh3_128(backend(tokenizer).to_str().encode())
    opened(folder, split)  # or refused
    stat = (Path(folder) / split_file(split)).stat()  # a file that was changed by hand gets its own tokens
    depends = (VERSION, read_manifest(folder)["content_hash"], stat.st_size, stat.st_mtime_ns)
    key.update(repr((*depends, tokenizer.model_max_length, limit)).encode())
    made = Path(folder) / FOLDER / f"{split}-{key.hexdigest()}"
    tokens = _read(made)
    if tokens is None:
        if made.is_dir():
            print(f"warning: {made} is damaged and is made anew")
            shutil.rmtree(made)
        rows, texts = split_texts(folder, split, limit, CHUNK)
        with tqdm(total=rows, desc=f"tokenize {split}", unit="text", disable=not main, leave=False) as bar:
            texts = chain([pa.array([], pa.string())], texts)  # or of no texts there would be no files
            _write(made, _encoded(Encoder(tokenizer), texts, (os.cpu_count() or 1) if main else 1), bar)
        tokens = _read(made)
        if tokens is None:
            raise InputError(
                f"{made} cannot be read back as it was written", "check the disk, or write data.folder elsewhere"
            )
    return tokens


def join(parts: Sequence[Tokens]) -> Tokens:
    """The texts of several, one after the other; what is mapped is read."""
    columns = []
    for part in parts:
        assert part.event is not None  # as `tokens_of_split` gives them
        columns.append((part.ids, part.event, part.lengths))
    return _joined(columns)


def _encoded(encoder: Encoder, chunks: Sequence[pa.Array] | Iterator[pa.Array], threads: int) -> Iterator[Parts]:
    """ids, events and lengths of one chunk after another; pyarrow and numpy let go of Python's lock."""
    if threads == 1:
        yield from map(encoder, chunks)
        return
    with ThreadPoolExecutor(threads) as pool:
        waiting = []
        for chunk in chunks:
            waiting.append(pool.submit(encoder, chunk))
            if len(waiting) > threads:
                yield waiting.pop(0).result()
        for one in waiting:
            yield one.result()


def _joined(parts: list[Parts]) -> Tokens:
    if not parts:
        return Tokens(np.empty(0, np.int32), np.empty(0, np.int16), np.zeros(1, np.int64))
    ids, event, lengths = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Tokens(ids, event, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))


def _write(made: Path, parts: Iterator[Parts], bar: tqdm) -> None:
    """Write the arrays of `Tokens` into a new folder, which takes its place as a whole; never all in memory.

    A file is an array as it lies in memory, and its name's ending is numpy's name of the type.
    """
    made.parent.mkdir(exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=".", dir=made.parent))
    try:
        lengths = [np.zeros(1, np.int64)]
        for ids, event, counts in parts:
            for name, array in (("ids", ids), ("event", event)):
                with open(unfinished / f"{name}.{array.dtype}", "ab") as file:
                    array.tofile(file)
            lengths.append(counts)
            bar.update(len(counts))
        np.cumsum(np.concatenate(lengths), dtype=np.int64).tofile(unfinished / "starts.int64")
        (unfinished / CHECKSUM).write_text(files_hash(_arrays(unfinished)), encoding="utf-8")
        os.chmod(unfinished, 0o755)
        if not made.is_dir():  # or another command was faster, with the same arrays
            os.rename(unfinished, made)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _read(made: Path) -> Tokens | None:
    """The arrays of a folder; None where one is missing, or is not as it was written."""
    try:
        if (made / CHECKSUM).read_bytes() != files_hash(_arrays(made)).encode():
            return None
    except OSError:
        return None
    return Tokens(**{path.stem: _mapped(path) for path in _arrays(made)})


def _arrays(made: Path) -> list[Path]:
    return list(made.glob("[!.]*.*"))


def _mapped(path: Path) -> np.ndarray:
    kind = path.suffix[1:]
    return np.memmap(path, kind, "r") if path.stat().st_size else np.empty(0, kind)
