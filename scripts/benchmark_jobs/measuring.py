"""How a job is measured: in a process of its own, by its seconds, its peak of memory, and the device's own limit."""

import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from importlib.metadata import version
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

PRECISIONS = {"fp32": "float32", "bf16": "bfloat16"}  # a precision -> torch's name
PACKAGES = ("torch", "transformers", "accelerate", "peft", "duckdb")
ROOT = Path(__file__).parents[2]


class JobFailedError(Exception):
    """A job ended without a result."""


class Measured(NamedTuple):
    """What one job took."""

    seconds: float
    cpu_seconds: float
    mebibytes: float
    examples: int


def measure(
    modules: tuple[str, ...], job: Callable[..., int], *arguments: object, output: Path | None = None
) -> Measured:
    """Run a job in a fresh process that measures itself; what it writes into `output` is deleted.

    Raises:
        JobFailedError: It ended without a result.
    """
    os.sync()  # what the job before has written is not written at this one's cost
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measured, args=(sender, modules, job, *arguments), daemon=True)
    process.start()
    sender.close()
    try:
        measured = receiver.recv()
        process.join()
        return measured
    except EOFError:
        process.join()
        reason = f"ended with code {process.exitcode}; see above, or free some memory if it is -9"
        raise JobFailedError(f"{job.__name__} {reason}") from None
    finally:
        process.terminate()  # after Ctrl-C
        process.join()
        if output:
            shutil.rmtree(output, ignore_errors=True)


def _measured(sender: Connection, modules: tuple[str, ...], job: Callable[..., int], *arguments: object) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches this process too, and its parent ends it
    os.environ["TQDM_DISABLE"] = "1"
    for name in modules:
        import_module(name)
    began, cpu_began = time.perf_counter(), time.process_time()
    with redirect_stdout(None):
        examples = job(*arguments)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    mebibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)
    sender.send(Measured(seconds, cpu_seconds, mebibytes, examples))


def in_process(job: Callable[..., dict], *arguments: object) -> dict:
    """What a job returns, run in a process that no other job has touched."""
    with Worker() as worker:
        return worker.run(job, *arguments)


class Worker:
    """A process for one job after another, which spares them the imports; one that fails is replaced."""

    def __enter__(self) -> "Worker":
        os.environ["TQDM_DISABLE"] = "1"
        self.pool = get_context("spawn").Pool(1)
        return self

    def __exit__(self, *error: object) -> None:
        self.pool.terminate()
        self.pool.join()

    def run(self, job: Callable[..., dict], *arguments: object) -> dict:
        """What the job returns; its error where it fails."""
        try:
            return self.pool.apply(_quiet, (job, *arguments))
        except Exception:
            self.__exit__()  # a GPU's error stays with the process
            self.__enter__()
            raise


def _quiet(job: Callable[..., dict], *arguments: object) -> dict:
    import torch
    from transformers.utils import logging

    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return job(*arguments)


def matrix_limit(device: str, kind: str) -> dict:
    """Floating-point operations a second of large matrix products of this kind (float32, bfloat16)."""
    import torch

    size = 8192 if device == "cuda" else 2048
    left, right = (torch.randn(size, size, device=device).to(getattr(torch, kind)) for _ in range(2))
    for _ in range(3):
        _ = left @ right
    rounds = 20 if device == "cuda" else 10
    with clock(device) as spent:
        for _ in range(rounds):
            _ = left @ right
    return {"flops": 2 * size**3 * rounds / spent[0]}


def matrix_limits(device: str) -> dict[str, float]:
    """`matrix_limit` of fp32, and of bf16 where the device has instructions for it."""
    import torch

    from finetune.model.inference import has_bf16

    known = PRECISIONS if has_bf16(torch.device(device)) else ("fp32",)
    return {name: matrix_limit(device, PRECISIONS[name])["flops"] for name in known}


@contextmanager
def clock(device: str) -> Iterator[list[float]]:
    """A list that holds the seconds at the end, when the device has done its work, and the process's CPU seconds."""
    import torch

    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    spent, start, cpu_start = [], time.perf_counter(), time.process_time()
    yield spent
    wait()
    spent += [time.perf_counter() - start, time.process_time() - cpu_start]


def peak(device: str) -> float:
    """The most MiB: of a GPU what torch has allocated, of a CPU the process's resident memory."""
    import torch

    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def figures(run: dict, limit: float | None, first: dict | None) -> dict[str, float | None]:
    """What the tables and the JSON show of a run.

    Args:
        run: What a job returned.
        limit: Of the device; see `matrix_limit`.
        first: The run that the others are compared with.
    """
    speed = run["tokens"] / run["seconds"]
    return {
        "rows_per_second": run["rows"] / run["seconds"],
        "tokens_per_second": speed,
        "tokens_per_cpu_second": run["tokens"] / run["cpu_seconds"],
        "seconds": run["seconds"],
        "cpu_seconds": run["cpu_seconds"],
        "padding": run.get("padding"),
        "mfu": run["flops"] / run["seconds"] / limit if limit and "flops" in run else None,
        "matrix_limit": limit,
        "peak_mib": run.get("peak_mib"),
        "warm_up_seconds": run.get("warm_up"),
        "first_is_times_as_fast": first["tokens"] / first["seconds"] / speed if first else None,
    }


def machine(device: str = "cpu") -> dict[str, str | float]:
    """The day, what this runs on, the versions and the commit."""
    name = f"{os.cpu_count()} cores of {_cpu()}"
    if device == "cuda":
        import torch

        card = torch.cuda.get_device_properties(0)
        name = f"{card.name} with {card.total_memory / 2**30:.1f} GiB, {name}"
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "device": name,
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "commit": _commit(),
    }


def told(machine: dict[str, str | float]) -> str:
    """What `machine` says, in a line."""
    versions = ", ".join(f"{name} {machine[name]}" for name in ("python", *PACKAGES, "commit"))
    return f"{machine['date']}, {machine['device']}, a load of {machine['load']} before, {versions}"


def _cpu() -> str:
    names = Path("/proc/cpuinfo")  # of Linux alone
    lines = names.read_text(encoding="utf-8").splitlines() if names.exists() else []
    found = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (found or [platform.processor() or platform.machine()])[0]


def _commit() -> str:
    if not shutil.which("git"):
        return "unknown"
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def write_json(path: Path, found: dict) -> None:
    """The figures as JSON."""
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
