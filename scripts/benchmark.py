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
The first line, and the JSON of --json, say the day, the device, the load, the versions and the commit.
"""

import argparse
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

from data_prep import InputError

EVALUATION = ("finetune.evaluation.evaluate",)  # what its jobs import before the clock starts


Rows = dict[str, Any]  # the figures of the rows that were printed, for the JSON


def prepare(events: int, cutoffs: int, table: list[int], memory_limit: str, folder: Path | None, moments: bool) -> Rows:
    """Print the comparison, or the table of sizes where `table` is given."""
    with tempfile.TemporaryDirectory(prefix="eventscribe-benchmark-", dir=folder) as temporary:
        logs = folder or Path(temporary)
        if table:
            kinds = (False, True) if moments else (False,)
            return _sizes(table, preparing.spread(cutoffs), memory_limit, logs, Path(temporary), kinds)
        return _comparison(events, preparing.spread(cutoffs), logs, Path(temporary))


def evaluate(rows: int, scorers: int, resamples: int) -> Rows:
    """Print how long metrics, intervals and paired differences of simulated predictions take."""
    print(f"{rows:,} predictions, {scorers} scorers, {resamples:,} resamples\n")
    _print_row("evaluate", "seconds", "CPU seconds", "peak MiB")
    _print_row(*["---"] * 4)
    jobs = {
        "metrics and intervals": evaluating.compare_predictions,
        "with threshold, profit, curves, 4 cutoffs and 4 groups": evaluating.compare_parts,
    }
    found = {}
    for name, job in jobs.items():
        run = measuring.measure(EVALUATION, job, rows, scorers, resamples)
        _print_row(name, *_seconds(run), run.mebibytes)
        found[name] = run._asdict()
    return found


def tokenize(rows: int, model: str, lengths: str, **others: object) -> Rows:
    """Print how many texts a second become tokens, by EventScribe and by the tokenizer itself, with all cores.

    The tokenizer itself, which is slow, reads an eighth of the texts.
    """
    read = texts.made_up_texts(rows, lengths)
    todo = {
        "EventScribe, words": (scoring.tokenize_with, "words", model, read),
        "EventScribe, WordPiece": (scoring.tokenize_with, "own", model, read),
        "the tokenizer itself, WordPiece": (scoring.tokenize_with, "tokenizer", model, read[: max(rows // 8, 64)]),
    }
    return _model_rows("tokenize", todo, {})


def train(rows: int, model: str, lengths: str, device: str, limits: dict[str, float] | None = None) -> Rows:
    """Print the speed of fine-tuning, of EventScribe and of transformers' text-classification example."""
    read, steps = texts.made_up_texts(rows, lengths), 40 if device == "cuda" else 4
    limits = limits or measuring.in_process(measuring.matrix_limits, device)
    todo = {
        name: (training.train_with, how, model, read, device, steps)
        for name, how in training.training_jobs(device, limits).items()
    }
    return _model_rows("train", todo, limits)


def score(rows: int, model: str, lengths: str, device: str, limits: dict[str, float] | None = None) -> Rows:
    """Print the speed from texts to scores, of EventScribe and of transformers' pipeline."""
    read = texts.made_up_texts(rows, lengths)
    limits = limits or measuring.in_process(measuring.matrix_limits, device)
    todo = {
        name: (scoring.score_with, how, model, read, device)
        for name, how in scoring.scoring_jobs(device, rows, limits).items()
    }
    return _model_rows("score", todo, limits)


def predict(rows: int, model: str, device: str, limits: dict[str, float] | None = None) -> Rows:
    """Print how long raw events take to become scores, by scripts/predict.py, and how much of it is not the model."""
    _print_row("predict", "users", "seconds", "CPU seconds", "users/s", "without the model", "peak MiB")
    _print_row(*["---"] * 7)
    found = {}
    with tempfile.TemporaryDirectory(prefix="eventscribe-benchmark-") as folder:
        made = measuring.in_process(predicting.trained_on, Path(folder), model, rows)
        for precision in limits or measuring.in_process(measuring.matrix_limits, device):
            output = Path(folder) / f"{precision}.parquet"
            run = measuring.in_process(predicting.predict_with, made["model"], made["log"], output, device, precision)
            run["without_model"] = 1 - run["model_seconds"] / run["seconds"]
            times = f"{run['seconds']:.1f}", f"{run['cpu_seconds']:.1f}"
            speed, waits = run["rows"] / run["seconds"], f"{run['without_model']:.2f}"
            _print_row(f"{model}, {precision}", run["rows"], *times, speed, waits, run["peak_mib"])
            found[precision] = run
    return found


def growth(rows: int, model: str, device: str, plot: Path | None) -> Rows:
    """Print how seconds and memory grow with the number of texts and with their length, of EventScribe."""
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
    return found


def serve(model: Path, users: int, seconds: int, rate: int, slow: int, minutes: int) -> Rows:
    """Print how fast scripts/serve.py answers on this machine, whose cores the clients use as well."""
    from finetune.runs import read_task

    cutoff = read_task(model)["splits"]["test"]["cutoffs"][-1].replace(" ", "T")
    events, fresh = serving.made_up_events(model, users, 0), serving.made_up_events(model, users, 1)
    print(f"{users:,} users with {len(events):,} events before {cutoff}\n")
    _print_row("serve", "clients", "asked", "answers/s", "p50 ms", "p95 ms", "p99 ms", "CPU ms", "failed", "MiB")
    _print_row(*["---"] * 10)
    found = {}
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
                    found.setdefault(name, []).append({"clients": clients, "asked": asked} | run)
    return found


def everything(model: str, lengths: str, device: str) -> Rows:
    """Print every benchmark, on logs and rows of which all of them take ten minutes on two cores."""
    began = time.perf_counter()
    found = {"prepare": prepare(3_000_000, 8, [], "3GB", None, moments=False)}
    limits = measuring.in_process(measuring.matrix_limits, device)
    few, both = (60_000 if device == "cuda" else 400), {"lengths": lengths, "limits": limits}
    steps: list[tuple[str, Callable[..., Rows], str, int, dict[str, Any]]] = [
        ("tokenize", tokenize, model, 50_000, {"lengths": lengths}),
        ("train", train, model, 4_000, both),
        ("score", score, model, few, both),
        ("predict", predict, model, few // 2, {"limits": limits}),
        ("predict-tiny", predict, texts.BERT_TINY, 8_000, {"limits": limits}),
    ]
    for name, step, step_model, rows, more in steps:
        print(f"\nafter {time.perf_counter() - began:.0f} s: ", end="")
        found[name] = step(rows=rows, model=step_model, device=device, **more)
    print(f"\nafter {time.perf_counter() - began:.0f} s: ", end="")
    found["evaluate"] = evaluate(200_000, 5, 1000)
    print(f"\n{time.perf_counter() - began:.0f} s in all")
    return found


def _model_rows(step: str, todo: dict[str, tuple], limits: dict[str, float]) -> Rows:
    """Run the jobs and print their rows."""
    if limits:
        speeds = ", ".join(f"{limit / 1e12:,.2f} TFLOP/s in {name}" for name, limit in limits.items())
        print(f"large matrix products: {speeds}\n")
    heads = "texts/s", "tokens/s", "tokens / CPU s", "padding", "MFU", "peak MiB", "warm-up s"
    _print_row(step, *heads, "first row is times as fast")
    _print_row(*["---"] * 9)
    first, found = None, {}
    for name, (job, *arguments) in todo.items():
        run = measuring.in_process(job, *arguments)
        limit = limits.get("bf16" if "bf16" in name else "fp32")
        figures = found[name] = measuring.figures(run, limit, first)
        first = first or run
        shown = [figures[key] for key in ("rows_per_second", "tokens_per_second", "tokens_per_cpu_second")]
        shown += ["" if figures[key] is None else f"{figures[key]:.2f}" for key in ("padding", "mfu")]
        shown += ["" if figures["peak_mib"] is None else figures["peak_mib"]]
        for key in ("warm_up_seconds", "first_is_times_as_fast"):
            shown.append("" if figures[key] is None else f"{figures[key]:.1f}")
        _print_row(name, *shown)
    return found


def _comparison(events: int, cutoffs: Cutoffs, logs: Path, outputs: Path) -> Rows:
    users, count = events // 25, len([*chain(*cutoffs.values())])
    log = preparing.simulated(logs, events, users)
    log.read_bytes()
    print(f"{events:,} events of {users:,} users in {DAYS} days, {count} cutoffs\n")
    _print_row("prepare", "seconds", "CPU seconds", "events/s", "peak MiB", "examples")
    _print_row(*["---"] * 6)
    by_hand = f"hand-written DuckDB x {count}"
    jobs = {
        "EventScribe": (preparing.EVENTSCRIBE, preparing.eventscribe),
        by_hand: (("duckdb",), preparing.hand_written),
        "pandas": (("pandas",), with_pandas.with_pandas),
        "pandas, texts by a loop": (("pandas",), with_pandas.with_pandas_and_a_loop),
    }
    found = {}
    for name, (modules, job) in jobs.items():
        run = measuring.measure(modules, job, log, outputs / "output", cutoffs, output=outputs / "output")
        _print_row(name, *_seconds(run), events / run.seconds, run.mebibytes, run.examples)
        found[name] = run._asdict()
    print()
    for name in (by_hand, "pandas", "pandas, texts by a loop"):
        ratio = found["EventScribe"]["seconds"] / found[name]["seconds"]
        print(f"EventScribe / {name}: {ratio:.3f} of the seconds")
    return found


def _sizes(
    sizes: list[int], cutoffs: Cutoffs, memory_limit: str, logs: Path, outputs: Path, kinds: tuple[bool, ...]
) -> Rows:
    count = len([*chain(*cutoffs.values())])
    print(f"EventScribe, {count} cutoffs, data.memory_limit {memory_limit}\n")
    _print_row("events", "users", "cutoffs", "examples", "seconds", "CPU seconds", "events/s", "peak MiB")
    _print_row(*["---"] * 8)
    found = {}
    for events, moments in product(sizes, kinds):
        users = events // 100
        log = preparing.simulated(logs, events, users)
        output = outputs / "output"
        run = measuring.measure(
            preparing.EVENTSCRIBE, preparing.eventscribe, log, output, cutoffs, memory_limit, moments, output=output
        )
        kind = "moments" if moments else "calendar"
        _print_row(events, users, kind, run.examples, *_seconds(run), events / run.seconds, run.mebibytes)
        found[f"{events} events, {kind}"] = run._asdict()
    return found


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
            step.add_argument("--plot", type=options.file, help="Also draw it there: .svg, .png or .pdf.")
        elif name != "predict":
            step.add_argument("--lengths", choices=("real", "128", "512"), default="real", help="Tokens of the texts.")
        step.add_argument(
            "--device", type=options.device, default=None, help="cpu or cuda; by default cuda where there is one."
        )


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
    for step in steps.choices.values():
        step.add_argument("--json", type=options.file, help="Also write the figures there, with what they ran on.")
    given = vars(parser.parse_args())
    if "device" in given:
        given["device"] = given["device"] or options.device("cuda" if options.has_cuda() else "cpu")
    name, json = given.pop("step"), given.pop("json")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill cleans up like Ctrl-C
    try:
        all_steps = {"prepare": prepare, "evaluate": evaluate, "serve": serve}
        all_steps |= {name: made for name, (made, _) in MODEL_STEPS.items()}
        machine = measuring.machine(given.get("device", "cpu"))
        print(f"{measuring.told(machine)}\n")
        found = all_steps[name](**given)
        if json:
            measuring.write_json(json, {"machine": machine, **(found if name == "all" else {name: found})})
    except (JobFailedError, InputError, OSError) as error:
        options.refuse(" ".join(str(error).split()))
    except KeyboardInterrupt:
        print("\ninterrupted; what was written is deleted, but for the logs in --folder", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
