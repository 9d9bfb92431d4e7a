"""Cells of the quality bench, several at a time."""

import json
import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from data_prep import InputError
from finetune.wording import listed


def phases(cells: list[str]) -> list[list[list[str]]]:
    """Cells that may run beside each other: groups that share no folder, in phases one after the other.

    A cell of few labels has the data and the pretrained weights of another one, and one from another shop a model, too.
    """
    kinds: dict[str, dict[str, list[str]]] = {kind: {} for kind in ("", "-labels-", "-from-")}
    for name in cells:
        kind = next((kind for kind in kinds if kind and kind in name), "")
        kinds[kind].setdefault(name.partition(kind)[0] if kind else name, []).append(name)
    return [list(groups.values()) for groups in kinds.values()]


def beside(script: Path, groups: list[list[str]], given: Namespace) -> Iterator[dict[str, dict]]:
    """The cells of each group, as they are done; what they print is in a log.

    Args:
        script: The bench, which runs each group in a process of its own with one thread.
        groups: Of cells; `jobs` of them run at a time.
        given: The bench's arguments.

    Raises:
        InputError: A group failed.
    """
    environment, running = os.environ | {"OMP_NUM_THREADS": "1"}, []

    def run(group: list[str]) -> dict[str, dict]:
        name = group[0] + "-quick" * given.quick
        output, log = (given.folder / "groups" / f"{name}.{kind}" for kind in ("json", "log"))
        log.parent.mkdir(parents=True, exist_ok=True)
        asked = ["--cells", *group, "--seeds", *map(str, given.seeds), "--logs", given.logs, "--folder", given.folder]
        command = [sys.executable, script, *asked, "--output", output, *["--quick"] * given.quick]
        with log.open("w") as told:
            running.append(process := subprocess.Popen(command, env=environment, stdout=told, stderr=told))
        if process.wait():
            raise InputError(f"{listed(group)} failed", f"see {log}", setting="--cells")
        print(f"{listed(group)}: done", flush=True)
        cells = json.loads(output.read_text(encoding="utf-8"))["cells"]
        return {name: cells[name] for name in group}

    with ThreadPoolExecutor(given.jobs) as pool:
        waiting = [pool.submit(run, group) for group in groups]
        try:
            yield from (done.result() for done in as_completed(waiting))
        finally:  # a group that failed, or the end of this process: a stopped cell goes on where it was
            pool.shutdown(wait=False, cancel_futures=True)
            for process in running:
                process.terminate()
