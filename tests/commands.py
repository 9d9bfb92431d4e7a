"""Scripts in processes of their own that need no seconds to import torch: they are forked from one that has."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]
TREES = 50  # of boosting, see the fixture few_trees
POINTS = slice(2, None, 7)  # two of its grid's twelve, which differ in everything but the number of leaves


def script_module(name: str) -> ModuleType:
    """A script of scripts/ as a module, which runs nothing."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Each line of the input starts a command, or waits for one.
SERVER = f"""
TREES = {TREES}
POINTS = {POINTS}
"""
SERVER += """
import gc, json, os, resource, runpy, sys, traceback
import finetune.training.sweep, finetune.evaluation.evaluate, finetune.report.report
import optuna, sqlalchemy.dialects.sqlite
from finetune.baselines import estimators, fit, pairs
estimators.MAX_TREES = pairs.MAX_TREES = TREES
fit.BOOSTING_GRID, fit.VALUE_BOOSTING_GRID = fit.BOOSTING_GRID[POINTS], fit.VALUE_BOOSTING_GRID[POINTS]
gc.freeze()
print("ready", flush=True)
for line in sys.stdin:
    order = json.loads(line)
    if "wait" in order:
        print(os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1]), flush=True)
        continue
    process = os.fork()
    if not process:
        output = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1), os.dup2(output, 2)
        if order["largest_file"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (order["largest_file"],) * 2)
        os.environ |= order["environment"]
        sys.argv = order["command"]
        code = 0
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as error:
            code = error.code
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code or 0)
    print(process, flush=True)
"""


@dataclass
class Command:
    """A script that was started."""

    server: subprocess.Popen
    process: int
    output: Path  # what it prints to stdout and stderr

    def wait(self) -> int:
        """Its exit code."""
        return _ask(self.server, {"wait": self.process})

    def kill(self) -> int:
        """Kill it with SIGKILL; returns its exit code, which is another one where it was done before."""
        with suppress(ProcessLookupError):
            os.kill(self.process, signal.SIGKILL)
        return self.wait()


@dataclass
class Commands:
    """Starts scripts."""

    server: subprocess.Popen
    folder: Path
    started: int = 0

    def start(
        self,
        script: str | Path,
        *arguments: object,
        largest_file: int | None = None,
        environment: dict[str, object] | None = None,
    ) -> Command:
        """Start scripts/SCRIPT or a file, with more variables of the environment and a limit in bytes on files."""
        self.started += 1
        output = self.folder / str(self.started)
        order = {"command": [str(ROOT / "scripts" / script), *map(str, arguments)], "output": str(output)}
        more = {name: str(value) for name, value in (environment or {}).items()}
        process = _ask(self.server, order | {"environment": more, "largest_file": largest_file})
        return Command(self.server, process, output)

    def run(self, script: str, *arguments: object, largest_file: int | None = None) -> tuple[int, str]:
        """The exit code of a script, and what it printed."""
        command = self.start(script, *arguments, largest_file=largest_file)
        return command.wait(), command.output.read_text()

    def run_two(self, script: str, *arguments: object) -> str:
        """What two processes of one run printed, started as torchrun and `accelerate launch` start them."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        both = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        ranks = [
            self.start(script, *arguments, environment=both | {"RANK": rank, "LOCAL_RANK": rank}) for rank in (0, 1)
        ]
        codes = [rank.wait() for rank in ranks]
        printed = "".join(rank.output.read_text() for rank in ranks)
        assert codes == [0, 0], printed
        return printed


@contextmanager
def command_server(folder: Path) -> Iterator[Commands]:
    """What starts scripts, whose outputs lie in a folder."""
    # torch asks the driver for GPUs otherwise, and a process that is forked afterwards has none.
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
    command = [sys.executable, "-c", SERVER]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) as server:
        assert server.stdout.readline() == "ready\n"
        yield Commands(server, folder)


def _ask(server: subprocess.Popen, order: dict) -> int:
    print(json.dumps(order), file=server.stdin, flush=True)
    return int(server.stdout.readline())
