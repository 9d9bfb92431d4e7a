"""Files that are whole or not there, locks that a kill lets go of, and hashes of contents."""

import fcntl
import os
import platform
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from glob import escape, glob, has_magic
from pathlib import Path

import xxhash

from data_prep import InputError


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A new folder that takes the place of `folder` when the block ends without an error.

    It is made beside the old one and renamed, so that a killed run leaves the old content or none, never a mixture.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{folder.name}.{platform.node()}."
    for left in folder.parent.glob(f"{escape(prefix)}*"):  # by a process of this machine that was killed
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


def files_hash(paths: Iterable[Path]) -> str:
    """Of names and contents; it tells a change, against a forger it is no help."""
    digest = xxhash.xxh3_128()
    for path in sorted(paths):
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()


def globbed(path: str) -> list[str]:
    """What a glob names; InputError where it would look through the whole disk, which no limit of time stops."""
    folder, magic, rest = "", False, path.split(os.sep)
    for part in rest:
        magic = magic or has_magic(part)
        folder += "" if magic else part + os.sep
    top = os.path.realpath(folder)
    if "**" in rest and os.path.dirname(top) == top:
        raise InputError(f"'{path}' would look through the whole disk", "name a folder before **")
    return glob(path, recursive=True)
