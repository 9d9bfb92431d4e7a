"""Connections to DuckDB: how one is opened, and what it may reach once it is locked."""

import os
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from glob import escape, glob
from pathlib import Path

import duckdb

from data_prep import InputError
from data_prep.sql import quote, refused, text_list

GLOB = r"[*?\[]"
AGAIN = 0.5  # seconds after which what begins behind the limit of time is stopped, too


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
def stopped_after(con: duckdb.DuckDBPyConnection, seconds: float | None) -> Iterator[None]:
    """Stop what the connection does in the block when the block has taken that long; None lets it go on.

    Raises:
        InputError: It was stopped.
    """
    if seconds is None:
        yield
        return
    done, over = threading.Event(), threading.Event()

    def watch() -> None:
        if not done.wait(seconds):
            over.set()
            while not done.wait(AGAIN):
                con.interrupt()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    except (InputError, duckdb.Error) as error:
        if over.is_set():
            raise InputError(
                f"reading the sources took longer than {seconds:g} seconds",
                "raise it, or mend what multiplies rows",
                setting="data.time_limit",
            ) from error
        raise
    finally:
        done.set()
        thread.join()
