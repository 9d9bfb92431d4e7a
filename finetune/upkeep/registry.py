"""runs/registry.jsonl: which model is in use since when, on which data and by which figures; lines are only added."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data_prep import InputError
from data_prep.checked_json import MayLack, a_moment, parse_json, text_of
from data_prep.files import held
from finetune.runs import REGISTRY, run_of

ENTRY = {
    "when": a_moment,
    "action": {"promoted", "kept", "rolled back"},
    "in_use": str,
    "champion": str,
    "challenger": MayLack(str),
    "why": str,
}


def registry_of(model: Path) -> Path:
    """The file that a model's line is in."""
    return run_of(model)[0].parent / REGISTRY


def read_registry(path: Path) -> list[dict[str, Any]]:
    """Its entries, the oldest first; none where there is no file.

    Raises:
        InputError: A line is no entry.
    """
    entries = []
    text = text_of(path, "mend it, or move it away") if path.is_file() else ""
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        entries.append(parse_json(Path(f"{path}:{number}"), line, ENTRY, "mend or delete the line"))
    return entries


def add_entry(path: Path, action: str, in_use: Path, champion: Path, why: str, **more: Any) -> dict[str, Any]:
    """Add a line, and say what it holds; it is in the file when this returns, and not forced to the disk."""
    entry = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "action": action,
        "in_use": str(in_use),
        "champion": str(champion),
        **more,
        "why": why,
    }
    otherwise = f"{path} is being written by another command; run this one again"
    with held(path.with_name(f".{path.name}.lock"), otherwise), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry, allow_nan=False) + "\n")
    return entry


def in_use(entries: Sequence[dict[str, Any]], model: Path) -> str:
    """The model that is in use in the line that a model belongs to: itself where the registry does not know it."""
    now, seen = str(model), set()
    while now not in seen:
        seen.add(now)
        about = [entry for entry in entries if any(_same(entry.get(key), now) for key in ("champion", "in_use"))]
        now = about[-1]["in_use"] if about else now
        if _same(now, str(model)):
            return str(model)
    return now


def refuse_not_in_use(model: Path) -> None:
    """InputError where the registry says that another model has taken the place of this one."""
    path = registry_of(model)
    now = in_use(read_registry(path), model)
    if not _same(now, str(model)):
        raise InputError(f"{path} says that {now} is in use, and no more {model}", "renew that one, or roll back first")


def roll_back(model: Path) -> dict[str, Any]:
    """Take a promoted model out of use: the one before it is in use again.

    Raises:
        InputError: The model is not in use, or was never promoted.
    """
    refuse_not_in_use(model)
    path = registry_of(model)
    promoted = [e for e in read_registry(path) if e["action"] == "promoted" and _same(e["in_use"], str(model))]
    if not promoted:
        raise InputError(f"{path} does not say that {model} was promoted", "there is no model to go back to")
    before = promoted[-1]["champion"]
    return add_entry(path, "rolled back", Path(before), model, f"{model} was taken out of use by --rollback")


def _same(one: str | None, other: str) -> bool:
    return one is not None and Path(one).absolute() == Path(other).absolute()
