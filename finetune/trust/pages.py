"""Where a page and the JSON beside it may be written."""

from pathlib import Path

from data_prep import InputError
from data_prep.config import DataConfig
from data_prep.sources import source_files
from finetune.runs import read_notes


def refuse_output(path: Path, key: str, data: DataConfig) -> None:
    """The JSON beside the page replaces nothing but an earlier one, which has this key; InputError otherwise."""
    beside = path.with_suffix(".json")
    read = {source.resolve() for source in source_files(data) or []}
    own = not beside.exists() or bool(read_notes(beside, {key: str}))
    if not own or read & {path.resolve(), beside.resolve()}:
        raise InputError(
            f"--output {path} would replace {beside}, which is something else",
            "choose another name",
            setting="--output",
        )
