"""Time EventScribe beside what you would write instead, on logs from scripts/simulate.py.

python scripts/benchmark.py prepare
python scripts/benchmark.py prepare --table 1_000_000,10_000_000,100_000_000 --memory-limit 3GB
python scripts/benchmark.py prepare --table 1_000_000,10_000_000 --cutoffs 11 --moments
python scripts/benchmark.py evaluate
python scripts/benchmark.py tokenize
python scripts/benchmark.py train --device cuda --model bert-base --json train.json
python scripts/benchmark.py score
python scripts/benchmark.py predict --model bert-tiny --rows 20_000
python scripts/benchmark.py growth --plot growth.svg
python scripts/benchmark.py serve --model runs/quickstart/model
python scripts/benchmark.py all

Each job runs in a process of its own, one after the other. Seconds run from the first byte read to the last one
written, without the start of Python and its imports; peak MiB is the resident memory of the whole process; events/s are
the log's events by the seconds, however many cutoffs they are used for. Every job uses the threads that its library
takes by default, and the log is read once before the first one. On a machine that others use as well, compare the CPU
seconds: jobs of several threads wait longest for cores, so the seconds of DuckDB grow more than those of pandas.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from itertools import chain, product
from pathlib import Path
from typing import Any

from benchmark_jobs import (
    evaluating,
    growing,
    measuring,
    options,
    predicting,
    preparing,
    scoring,
    serving,
    texts,
    training,
    with_pandas,
)
from benchmark_jobs.measuring import JobFailedError, Measured
from benchmark_jobs.preparing import DAYS, Cutoffs

EVALUATION = ("finetune.evaluation.evaluate",)  # what its jobs import before the clock starts


def prepare(events: int, cutoffs: int, table: list[int], memory_limit: str, folder: Path | None, moments: bool) -> None:
    """Print the comparison, or the table of sizes where `table` is given."""
    with tempfile.TemporaryDirectory(prefix="eventscribe-benchmark-", dir=folder) as temporary:
        if table:
            kinds = (False, True) if moments else (False,)
            _sizes(table, preparing.spread(cutoffs), memory_limit, folder or Path(temporary), Path(temporary), kinds)
        else:
            _comparison(events, preparing.spread(cutoffs), folder or Path(temporary), Path(temporary))


def evaluate(rows: int, scorers: int, resamples: int) -> None:
    """Print how long metrics, intervals and paired differences of simulated predictions take."""
    print(f"{rows:,} predictions, {scorers} scorers, {resamples:,} resamples, {_machine()}\n")
    _print_row("evaluate", "seconds", "CPU seconds", "peak MiB")
    _print_row(*["---"] * 4)
    run = measuring.measure(EVALUATION, evaluating.compare_predictions, rows, scorers, resamples)
    _print_row("metrics and intervals", *_seconds(run), run.mebibytes)
    run = measuring.measure(EVALUATION, evaluating.compare_parts, rows, scorers, resamples)
    _print_row("with threshold, profit, curves, 4 cutoffs and 4 groups", *_seconds(run), run.mebibytes)


def tokenize(rows: int, model: str, lengths: str, json: Path | None, **others: object) -> None:
    """Print how many texts a second become tokens, by EventScribe and by the tokenizer itself, with all cores.

    The tokenizer itself, which is slow, reads an eighth of the texts.
    """
    read = texts.made_up_texts(rows, lengths)
    todo = {
        "EventScribe, words": (scoring.tokenize_with, "words", model, read),
        "EventScribe, WordPiece": (scoring.tokenize_with, "own", model, read),
        "the tokenizer itself, WordPiece": (scoring.tokenize_with, "tokenizer", model, read[: max(rows // 8, 64)]),
    }
    _model_rows("tokenize", todo, {}, json)


def train(
    rows: int, model: str, lengths: str, device: str, json: Path | None, limits: dict[str, float] | None = None
) -> None:
    """Print the speed of fine-tuning, of EventScribe and of transformers' text-classification example."""
    read, steps = texts.made_up_texts(rows, lengths), 40 if device == "cuda" else 4
    limits = limits or measuring.in_process(measuring.matrix_limits, device)
    todo = {
        name: (training.train_with, how, model, read, device, steps)
        for name, how in training.training_jobs(device, limits).items()
    }
    _model_rows("train", todo, limits, json)


def score(
    rows: int, model: str, lengths: str, device: str, json: Path | None, limits: dict[str, float] | None = None
) -> None:
    """Print the speed from texts to scores, of EventScribe and of transformers' pipeline."""
    read = texts.made_up_texts(rows, lengths)
    limits = limits or measuring.in_process(measuring.matrix_limits, device)
    todo = {
        name: (scoring.score_with, how, model, read, device)
        for name, how in scoring.scoring_jobs(device, rows, limits).items()
    }
    _model_rows("score", todo, limits, json)


def predict(rows: int, model: str, device: str, json: Path | None, limits: dict[str, float] | None = None) -> None:
    """Print how long raw events take to become scores, by scripts/predict.py, and how much of it is not the model."""
    print(f"{_machine()}\n")
    _print_row("predict", "users", "seconds", "users/s", "without the model", "peak MiB")
    _print_row(*["---"] * 6)
    found = {}
    for precision in limits or measuring.in_process(measuring.matrix_limits, device):
        run = measuring.in_process(predicting.predict_with, model, rows, device, precision)
        run["without_model"] = 1 - run["model_seconds"] / run["seconds"]
        speed, waits = run["rows"] / run["seconds"], f"{run['without_model']:.2f}"
        _print_row(f"{model}, {precision}", run["rows"], f"{run['seconds']:.1f}", speed, waits, run["peak_mib"])
        found[precision] = run
    if json:
        measuring.write_json(json, {"machine": _machine(), "predict": found})


def growth(rows: int, model: str, device: str, plot: Path | None, json: Path | None) -> None:
    """Print how seconds and memory grow with the number of texts and with their length, of EventScribe."""
    print(f"{_machine()}\n")
    found = growing.growth(rows, model, device)
    _print_row("growth", "size", "texts", "tokens", "seconds", "tokens/s", "peak MiB", "seconds / tokens, first is 1")
    _print_row(*["---"] * 8)
    for job, kinds in found.items():
        for sizes in kinds.values():
            first = sizes[0]["seconds"] / sizes[0]["tokens"]
            for size in sizes:
                pace = size["seconds"] / size["tokens"]
                shown = (size["label"], size["rows"], size["tokens"], f"{size['seconds']:.2f}", 1 / pace)
                _print_row(job, *shown, "" if size["peak_mib"] is None else size["peak_mib"], f"{pace / first:.2f}")
    if plot:
        growing.draw(found, plot)
    if json:
        measuring.write_json(json, {"machine": _machine(), "growth": found})


def serve(model: Path, users: int, seconds: int, rate: int, slow: int, minutes: int) -> None:
    """Print how fast scripts/serve.py answers on this machine, whose cores the clients use as well."""
    from finetune.runs import read_task

    cutoff = read_task(model)["splits"]["test"]["cutoffs"][-1].replace(" ", "T")
    events, fresh = serving.made_up_events(model, users, 0), serving.made_up_events(model, users, 1)
    print(f"{users:,} users with {len(events):,} events before {cutoff}, {_machine()}\n")
    _print_row("serve", "clients", "asked", "answers/s", "p50 ms", "p95 ms", "p99 ms", "CPU ms", "failed", "MiB")
    _print_row(*["---"] * 10)
    with tempfile.TemporaryDirectory() as folder, serving.served(model, Path(folder)) as port:
        serving.fill(port, events, users, cutoff)
        with serving.slow_clients(port, slow) if slow else nullcontext():
            for name, ask in serving.loads(users, cutoff, fresh).items():
                loads = [(1, None), (8, None), (32, None), (32, rate)] if name == "a score" else [(1, None), (8, None)]
                mixed = name == serving.MIXED
                for clients, due in [(4, 10)] * minutes if mixed else loads:
                    run = serving.under_load(port, ask, clients, due, 60 if mixed else seconds)
                    times = [f"{run[key]:.1f}" for key in ("per_second", "p50", "p95", "p99", "cpu")]
                    asked = f"{due} a second" if due else "at once"
                    _print_row(name, clients, asked, *times, run["failed"], run["mib"])


def everything(model: str, lengths: str, device: str, json: Path | None) -> None:
    """Print every benchmark, on logs and rows of which all of them take ten minutes on two cores."""
    began = time.perf_counter()
    prepare(3_000_000, 8, [], "3GB", None, moments=False)
    limits = measuring.in_process(measuring.matrix_limits, device)
    few, both = (60_000 if device == "cuda" else 400), {"lengths": lengths, "limits": limits}
    steps: list[tuple[str, Callable[..., None], str, int, dict[str, Any]]] = [
        ("tokenize", tokenize, model, 50_000, {"lengths": lengths}),
        ("train", train, model, 4_000, both),
        ("score", score, model, few, both),
        ("predict", predict, model, few // 2, {"limits": limits}),
        ("predict-tiny", predict, texts.BERT_TINY, 8_000, {"limits": limits}),
    ]
    for name, step, step_model, rows, more in steps:
        path = json.with_name(f"{json.stem}-{name}.json") if json else None
        print(f"\nafter {time.perf_counter() - began:.0f} s: ", end="")
        step(rows=rows, model=step_model, device=device, json=path, **more)
    print(f"\nafter {time.perf_counter() - began:.0f} s: ", end="")
    evaluate(200_000, 5, 1000)
    print(f"\n{time.perf_counter() - began:.0f} s in all")


def _model_rows(step: str, todo: dict[str, tuple], limits: dict[str, float], json: Path | None) -> None:
    """Run the jobs, print their rows, and write them as JSON with what they ran on."""
    speeds = ", ".join(f"{limit / 1e12:,.2f} TFLOP/s in {name}" for name, limit in limits.items())
    print(f"{_machine()}{f'; large matrix products: {speeds}' if speeds else ''}\n")
    _print_row(step, "texts/s", "tokens/s", "padding", "MFU", "peak MiB", "warm-up s", "first row is times as fast")
    _print_row(*["---"] * 8)
    first, found = None, {}
    for name, (job, *arguments) in todo.items():
        run = measuring.in_process(job, *arguments)
        limit = limits.get("bf16" if "bf16" in name else "fp32")
        figures = found[name] = measuring.figures(run, limit, first)
        first = first or run
        shown = [figures[key] for key in ("rows_per_second", "tokens_per_second")]
        shown += ["" if figures[key] is None else f"{figures[key]:.2f}" for key in ("padding", "mfu")]
        shown += ["" if figures["peak_mib"] is None else figures["peak_mib"]]
        for key in ("warm_up_seconds", "first_is_times_as_fast"):
            shown.append("" if figures[key] is None else f"{figures[key]:.1f}")
        _print_row(name, *shown)
    if json:
        measuring.write_json(json, {"machine": _machine(), "limits": limits, step: found})


def _comparison(events: int, cutoffs: Cutoffs, logs: Path, outputs: Path) -> None:
    users, count = events // 25, len([*chain(*cutoffs.values())])
    log = preparing.simulated(logs, events, users)
    log.read_bytes()
    print(f"{events:,} events of {users:,} users in {DAYS} days, {count} cutoffs, {_machine()}\n")
    _print_row("prepare", "seconds", "CPU seconds", "events/s", "peak MiB", "examples")
    _print_row(*["---"] * 6)
    by_hand = f"hand-written DuckDB x {count}"
    jobs = {
        "EventScribe": (preparing.EVENTSCRIBE, preparing.eventscribe),
        by_hand: (("duckdb",), preparing.hand_written),
        "pandas": (("pandas",), with_pandas.with_pandas),
        "pandas, texts by a loop": (("pandas",), with_pandas.with_pandas_and_a_loop),
    }
    seconds = {}
    for name, (modules, job) in jobs.items():
        run = measuring.measure(modules, job, log, outputs / "output", cutoffs, output=outputs / "output")
        _print_row(name, *_seconds(run), events / run.seconds, run.mebibytes, run.examples)
        seconds[name] = run.seconds
    print()
    for name in (by_hand, "pandas", "pandas, texts by a loop"):
        print(f"EventScribe / {name}: {seconds['EventScribe'] / seconds[name]:.3f} of the seconds")


def _sizes(
    sizes: list[int], cutoffs: Cutoffs, memory_limit: str, logs: Path, outputs: Path, kinds: tuple[bool, ...]
) -> None:
    count = len([*chain(*cutoffs.values())])
    print(f"EventScribe, {count} cutoffs, data.memory_limit {memory_limit}, {_machine()}\n")
    _print_row("events", "users", "cutoffs", "examples", "seconds", "CPU seconds", "events/s", "peak MiB")
    _print_row(*["---"] * 8)
    for events, moments in product(sizes, kinds):
        users = events // 100
        log = preparing.simulated(logs, events, users)
        output = outputs / "output"
        run = measuring.measure(
            preparing.EVENTSCRIBE, preparing.eventscribe, log, output, cutoffs, memory_limit, moments, output=output
        )
        kind = "moments" if moments else "calendar"
        _print_row(events, users, kind, run.examples, *_seconds(run), events / run.seconds, run.mebibytes)


def _machine() -> str:
    return f"{os.cpu_count()} cores with a load of {os.getloadavg()[0]:.1f} before"


def _seconds(run: Measured) -> tuple[str, str]:
    return f"{run.seconds:.1f}", f"{run.cpu_seconds:.1f}"


def _print_row(*cells: object) -> None:
    print("| " + " | ".join(cell if isinstance(cell, str) else f"{cell:,.0f}" for cell in cells) + " |", flush=True)


MODEL_STEPS = {  # of a model: what runs it, and how many texts by default
    "tokenize": (tokenize, 100_000),
    "train": (train, 4_000),
    "score": (score, 1_000),
    "predict": (predict, 2_000),
    "growth": (growth, 2_000),
    "all": (everything, None),
}


def _add_model_steps(steps: "argparse._SubParsersAction[options.Parser]") -> None:
    for name, (function, rows) in MODEL_STEPS.items():
        doc = function.__doc__
        step = steps.add_parser(name, help=doc.split(",")[0].removeprefix("Print ") + ".", description=doc)
        if rows:
            step.add_argument(
                "--rows", type=options.rows, default=rows, help="Users of the log." if name == "predict" else "Texts."
            )
        step.add_argument(
            "--model",
            type=options.model,
            default="bert-tiny" if name in ("growth", "predict") else "minilm",
            help="minilm, bert-base or bert-tiny (random weights), or a folder.",
        )
        if name == "growth":
            step.add_argument("--plot", type=Path, help="Also draw it there: .svg, .png or .pdf.")
        elif name != "predict":
            step.add_argument("--lengths", choices=("real", "128", "512"), default="real", help="Tokens of the texts.")
        step.add_argument(
            "--device", type=options.device, default=None, help="cpu or cuda; by default cuda where there is one."
        )
        step.add_argument("--json", type=Path, help="Also write the figures there.")


def _add_serve(steps: "argparse._SubParsersAction[options.Parser]") -> None:
    step = steps.add_parser("serve", help="Requests to answers, of scripts/serve.py.", description=serve.__doc__)
    step.add_argument("--model", type=options.trained, required=True, help="runs/NAME/model.")
    step.add_argument("--users", type=options.rows, default=1_000, help="With 50 events each, before the clock starts.")
    step.add_argument("--seconds", type=int, choices=range(1, 3601), metavar="N", default=10, help="For each row.")
    step.add_argument(
        "--rate", type=int, choices=range(1, 100_001), metavar="N", default=100, help="Scores a second, in its row."
    )
    step.add_argument(
        "--minutes",
        type=int,
        choices=range(0, 1_001),
        metavar="N",
        default=0,
        help="Of a mix of ten requests a second behind the other rows, a row a minute: whether its memory stays.",
    )
    step.add_argument(
        "--slow", type=int, choices=range(0, 10_001), metavar="N", default=0, help="Slow clients beside these."
    )


def main() -> None:
    """Run the benchmark that the command line names."""
    parser = options.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(dest="step", required=True, parser_class=options.Parser)
    step = steps.add_parser(
        "prepare",
        help="The log to labelled texts.",
        description="EventScribe beside a hand-written query for DuckDB, run once a cutoff, and beside pandas.",
    )
    step.add_argument("--events", type=options.events, default=5_000_000, help="Of the log, with 25 a user.")
    step.add_argument("--cutoffs", type=options.cutoffs, default=8, help="Weekly ones; the last two validate and test.")
    step.add_argument(
        "--table",
        type=lambda text: [options.events(part) for part in text.split(",")],
        default=[],
        help="Instead: EventScribe alone on logs of these sizes, with 100 events a user.",
    )
    step.add_argument("--memory-limit", type=options.memory, default="3GB", help="data.memory_limit for --table.")
    step.add_argument(
        "--moments", action="store_true", help="With --table also rows with as many cutoffs right after views of users."
    )
    step.add_argument("--folder", type=options.folder, help="Keeps the logs for the next time; outputs are deleted.")
    step = steps.add_parser("evaluate", help="Predictions to metrics with intervals.", description=evaluate.__doc__)
    step.add_argument("--rows", type=options.events, default=1_000_000, help="Predictions of each scorer, four a user.")
    step.add_argument("--scorers", type=int, choices=range(1, 10), default=5, help="The model and baselines.")
    step.add_argument("--resamples", type=int, choices=range(1, 100_001), metavar="N", default=1000)
    _add_serve(steps)
    _add_model_steps(steps)
    given = vars(parser.parse_args())
    if "device" in given:
        given["device"] = given["device"] or options.device("cuda" if options.has_cuda() else "cpu")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill cleans up like Ctrl-C
    try:
        all_steps = {"prepare": prepare, "evaluate": evaluate, "serve": serve}
        all_steps |= {name: made for name, (made, _) in MODEL_STEPS.items()}
        all_steps[given.pop("step")](**given)
    except JobFailedError as error:
        options.refuse(error)
    except KeyboardInterrupt:
        print("\ninterrupted; what was written is deleted, but for the logs in --folder", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
