"""Connections to DuckDB: how one is opened, and what it may reach once it is locked."""

import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from glob import escape, glob
from pathlib import Path

import duckdb

from data_prep import InputError
from data_prep.sql import quote, refused, text_list

GLOB = r"[*?\[]"
AGAIN = 0.5  # seconds after which what begins behind the limit of time is stopped, too

Pause = Callable[[], AbstractContextManager[None]]  # a block within another one whose time does not count there


def connect(memory_limit: str | None = None, spill_folder: Path | None = None) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB in UTC that spills to `spill_folder` when its memory limit is reached."""
    con = duckdb.connect()
    # The statistics that pyarrow writes into Parquet leave NaN out, and by them DuckDB takes a column for free of it:
    # nullif(x, 'NaN'), isnan(x) and comparisons are then decided before a row is read. A WHERE of the owner's own SQL
    # may still skip groups of rows by them, which data_prep/README.md says: without that logs would be read whole.
    con.execute(
        """SET TimeZone = 'UTC'; SET enable_progress_bar = false; SET disabled_optimizers = 'statistics_propagation';
           SET autoinstall_known_extensions = false; SET python_enable_replacements = false"""
    )
    if spill_folder is not None:
        con.execute(f"SET temp_directory = {quote(str(spill_folder))}")
    if memory_limit:
        if not re.match(r"\s*\d", memory_limit):  # -1 and none are no limit to DuckDB
            raise InputError(f"'{memory_limit}' is no size", "write one such as 4GB", setting="data.memory_limit")
        with refused("data.memory_limit", "write a size such as 4GB"):
            con.execute(f"SET memory_limit = {quote(memory_limit)}")
    return con


def lock_down(
    con: duckdb.DuckDBPyConnection, folders: Iterable[Path] = (), patterns: Iterable[str] = ()
) -> duckdb.DuckDBPyConnection:
    """Take from a connection, for good, all files but these, the network, extensions and its settings.

    Args:
        con: Its folder for spilling stays.
        folders: Where it may read and write.
        patterns: Files and globs that it may read; of a glob, the files that it names now, and not their folder.
    """
    files = {form for name in patterns for form in (name, os.path.expanduser(name))}  # DuckDB knows ~, too
    for pattern in sorted(files):
        if re.search(GLOB, pattern) and "://" not in pattern:
            files |= {row[0] for row in con.execute("SELECT file FROM glob(?)", [pattern]).fetchall()}
            files |= set(glob(pattern, recursive=True))  # the sources' own, where it differs from DuckDB's
    # As they are, and as `file_list` writes them where a name looks like a glob.
    allowed = [form for folder in folders for form in (str(folder), escape(str(folder)))]
    files |= {escape(name) for name in files}
    con.execute(
        f"""SET allowed_directories = {text_list(allowed)};
            SET allowed_paths = {text_list(sorted(files))};
            SET allowed_configs = ['TimeZone'];
            SET enable_external_access = false;
            SET lock_configuration = true"""
    )
    return con


@contextmanager
def stopped_after(con: duckdb.DuckDBPyConnection, seconds: float | None) -> Iterator[Pause]:
    """Stop what the connection does in the block when the block has taken that long; None lets it go on.

    The time within `with pause():`, where `pause` is what the block is given, does not count.

    Raises:
        InputError: It was stopped.
    """
    if seconds is None:
        yield nullcontext
        return
    watch = _Watch(con, seconds)
    watch.start()
    try:
        yield watch.pause
    except (InputError, duckdb.Error) as error:
        if watch.over.is_set():
            raise InputError(
                f"reading the sources took longer than {seconds:g} seconds",
                "raise it, or mend what multiplies rows",
                setting="data.time_limit",
            ) from error
        raise
    finally:
        watch.stop()


class _Watch:
    """Interrupts a connection from the moment on when it was watched for so many seconds."""

    def __init__(self, con: duckdb.DuckDBPyConnection, seconds: float) -> None:
        self.con, self.left, self.over = con, seconds, threading.Event()

    def start(self) -> None:
        self.began, self.done = time.monotonic(), threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.done.set()
        self.thread.join()
        self.left = max(self.left - (time.monotonic() - self.began), 0)

    @contextmanager
    def pause(self) -> Iterator[None]:
        self.stop()
        try:
            yield
        finally:
            self.start()

    def _watch(self) -> None:
        if not self.done.wait(self.left):
            self.over.set()
            while not self.done.wait(AGAIN):
                self.con.interrupt()
