"""A page and the same as JSON beside it."""

import json
import os
from pathlib import Path

from data_prep import InputError
from data_prep.config import DataConfig
from data_prep.files import write_whole
from data_prep.side_tables import all_logs
from data_prep.sources import source_files
from finetune.runs import read_notes


def refuse_output(path: Path, events: DataConfig, key: str, other: str = "is something else") -> None:
    """InputError where a page or the JSON beside it would replace something else than earlier ones, or what is read.

    Args:
        path: The page.
        events: That are read, with the table of users.
        key: An earlier one has it.
        other: What is said of any other file.
    """
    read = {source.resolve() for log in all_logs(events) for source in source_files(log) or []}
    refuse_other_page(path, key, other, bool(read & {path.resolve(), path.with_suffix(".json").resolve()}))


def refuse_other_page(path: Path, key: str, other: str = "is something else", refused: bool = False) -> None:
    """The same where no events are read, or where it is known that the page is `refused`."""
    beside = path.with_suffix(".json")
    replaced = next((file for file in (beside, path) if os.path.lexists(file)), beside)
    if refused or (os.path.lexists(replaced) and not read_notes(beside, {key: str})):
        raise InputError(
            f"--output {path} would replace {replaced}, which {other}", "choose another name", setting="--output"
        )


def write_beside(path: Path, page: str, content: dict) -> None:
    """Write the JSON, and then the page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path.with_suffix(".json"), json.dumps(content, indent=1, allow_nan=False) + "\n")
    write_whole(path, page)
