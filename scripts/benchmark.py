"""Time EventScribe beside what you would write instead, on logs from scripts/simulate.py.

python scripts/benchmark.py prepare
python scripts/benchmark.py prepare --table 1_000_000,10_000_000,100_000_000 --memory-limit 3GB
python scripts/benchmark.py evaluate
python scripts/benchmark.py tokenize
python scripts/benchmark.py train --device cuda --model bert-base --json train.json
python scripts/benchmark.py score
python scripts/benchmark.py all

Each job runs in a process of its own, one after the other. Seconds run from the first byte read to the last one
written, without the start of Python and its imports; peak MiB is the resident memory of the whole process; events/s are
the log's events by the seconds, however many cutoffs they are used for. Every job uses the threads that its library
takes by default, and the log is read once before the first one. On a machine that others use as well, compare the CPU
seconds: jobs of several threads wait longest for cores, so the seconds of DuckDB grow more than those of pandas.
"""

import argparse
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from datetime import datetime, timedelta
from importlib import import_module
from itertools import chain
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import benchmark_model as jobs

if TYPE_CHECKING:  # a library is imported where it is measured, so that no process holds another one's memory
    import numpy as np
    import pandas as pd

START, DAYS = datetime(2024, 1, 1), 180
HORIZON = timedelta(7)
MAX_EVENTS = 100
EVENTSCRIBE = ("data_prep.prepare", "pandas")  # which pyarrow imports at its first array, where it is installed
WINDOWS = (7, 14, 28, 56, 84)  # days
PRICE_EDGES = (8.0, 10.9, 13.5, 16.3, 19.5, 23.2, 27.8, 34.3, 46.0)  # about the deciles of a simulated log
QUANTITY_EDGES = (2, 3, 4)

Cutoffs = dict[str, list[datetime]]  # split -> its cutoffs


class Measured(NamedTuple):
    """What one job took."""

    seconds: float
    cpu_seconds: float
    mebibytes: float
    examples: int


def prepare(events: int, cutoffs: int, table: list[int], memory_limit: str, folder: Path | None) -> None:
    """Print the comparison, or the table of sizes where `table` is given."""
    with tempfile.TemporaryDirectory(prefix="eventscribe-benchmark-", dir=folder) as temporary:
        if table:
            _sizes(table, spread(cutoffs), memory_limit, folder or Path(temporary), Path(temporary))
        else:
            _comparison(events, spread(cutoffs), folder or Path(temporary), Path(temporary))


def evaluate(rows: int, scorers: int, resamples: int) -> None:
    """Print how long metrics, intervals and paired differences of simulated predictions take."""
    print(f"{rows:,} predictions, {scorers} scorers, {resamples:,} resamples, {_machine()}\n")
    _print_row("evaluate", "seconds", "CPU seconds", "peak MiB")
    _print_row(*["---"] * 4)
    run = measure(("finetune.evaluation.evaluate",), compare_predictions, rows, scorers, resamples)
    _print_row("metrics and intervals", *_seconds(run), run.mebibytes)
    run = measure(("finetune.evaluation.evaluate",), compare_parts, rows, scorers, resamples)
    _print_row("with threshold, profit, curves, 4 cutoffs and 4 groups", *_seconds(run), run.mebibytes)


def tokenize(rows: int, model: str, lengths: str, json: Path | None, **others: object) -> None:
    """Print how many texts a second become tokens, by EventScribe and by the tokenizer itself, with all cores."""
    texts = jobs.made_up_texts(rows, lengths)
    hows = {
        "EventScribe, words": "words",
        "EventScribe, WordPiece": "own",
        "the tokenizer itself, WordPiece": "tokenizer",
    }
    _model_rows("tokenize", {name: (jobs.tokenize_with, how, model, texts) for name, how in hows.items()}, {}, json)


def train(rows: int, model: str, lengths: str, device: str, json: Path | None) -> None:
    """Print the speed of fine-tuning, of EventScribe and of transformers' text-classification example."""
    texts, steps = jobs.made_up_texts(rows, lengths), 40 if device == "cuda" else 8
    todo = {
        name: (jobs.train_with, how, model, texts, device, steps) for name, how in jobs.training_jobs(device).items()
    }
    _model_rows("train", todo, _limits(device), json)


def score(rows: int, model: str, lengths: str, device: str, json: Path | None) -> None:
    """Print the speed from texts to scores, of EventScribe and of transformers' pipeline."""
    texts, todo = jobs.made_up_texts(rows, lengths), {}
    for name, how in jobs.scoring_jobs(device, rows).items():
        todo[name] = (jobs.score_with, how, model, texts, device)
    _model_rows("score", todo, _limits(device), json)


def everything(model: str, lengths: str, device: str, json: Path | None) -> None:
    """Print every benchmark, on logs and rows of which all of them take ten minutes on two cores."""
    prepare(1_000_000, 8, [], "3GB", None)
    sizes = {"tokenize": 100_000, "train": 4_000, "score": 60_000 if device == "cuda" else 600}
    for name, step in {"tokenize": tokenize, "train": train, "score": score}.items():
        path = json.with_name(f"{json.stem}-{name}.json") if json else None
        print()
        step(rows=sizes[name], model=model, lengths=lengths, device=device, json=path)
    print()
    evaluate(200_000, 5, 1000)


def _limits(device: str) -> dict[str, float]:
    kinds = {"fp32": "float32"} | ({"bf16": "bfloat16"} if device == "cuda" else {})
    return {name: jobs.in_process(jobs.matrix_limit, device, kind)["flops"] for name, kind in kinds.items()}


def _model_rows(step: str, todo: dict[str, tuple], limits: dict[str, float], json: Path | None) -> None:
    """Run the jobs, print their rows, and write them as JSON with what they ran on."""
    said = ", ".join(f"{limit / 1e12:,.2f} TFLOP/s in {name}" for name, limit in limits.items())
    print(f"{_machine()}{f'; large matrix products: {said}' if said else ''}\n")
    _print_row(step, "texts/s", "tokens/s", "padding", "MFU", "peak MiB", "warm-up s", "first row is times as fast")
    _print_row(*["---"] * 8)
    first, found = None, {}
    for name, (job, *arguments) in todo.items():
        run = jobs.in_process(job, *arguments)
        limit = limits.get("fp32" if "fp32" in name or "bf16" not in limits else "bf16")
        figures = found[name] = jobs.figures(run, limit, first)
        first = first or run
        shown = [figures[key] for key in ("rows_per_second", "tokens_per_second")]
        shown += ["" if figures[key] is None else f"{figures[key]:.2f}" for key in ("padding", "mfu")]
        shown += ["" if figures["peak_mib"] is None else figures["peak_mib"]]
        for key in ("warm_up_seconds", "first_is_times_as_fast"):
            shown.append("" if figures[key] is None else f"{figures[key]:.1f}")
        _print_row(name, *shown)
    if json:
        jobs.write_json(json, {"machine": _machine(), "limits": limits, step: found})


def compare_predictions(rows: int, scorers: int, resamples: int) -> int:
    """The model and others on the same rows, four of each user, as finetune.evaluation.evaluate compares them."""
    from finetune.evaluation.evaluate import compare

    labels, scores, users = _predictions(rows, scorers)
    return compare("binary", labels, scores, users, resamples)["rows"]


def compare_parts(rows: int, scorers: int, resamples: int) -> int:
    """The same with all else that finetune.evaluation.evaluate makes of predictions."""
    import numpy as np

    from finetune.evaluation.curves import curves
    from finetune.evaluation.evaluate import MODEL, compare
    from finetune.evaluation.slices import by_cutoff, slice_metrics
    from finetune.model.calibration import profit_curve

    labels, scores, users = _predictions(rows, scorers)
    model = (labels, scores[MODEL], users)
    profit_curve(*model, 1.0, 25.0, resamples, threshold=0.3)
    curves("binary", None, labels, scores)
    by_cutoff("binary", np.datetime64("2024-01-01") + np.arange(rows) % 4, *model, resamples)
    slice_metrics("binary", (users % 4).astype(str), *model, 0.3, 100, resamples)
    return compare("binary", labels, scores, users, resamples, threshold=0.3)["rows"]


def _predictions(rows: int, scorers: int) -> tuple:
    import numpy as np

    from finetune.evaluation.evaluate import MODEL

    random = np.random.default_rng(0)
    labels = (random.random(rows) < 0.2).astype(np.int64)
    names = [MODEL, *(f"scorer_{i}" for i in range(1, scorers))]
    scores = {name: 1 / (1 + np.exp(1.5 - labels - random.normal(size=rows))) for name in names}
    return labels, scores, np.arange(rows) // 4


def spread(cutoffs: int) -> Cutoffs:
    """Weekly cutoffs until the log's last label window: the last is the test, the one before it the validation."""
    moments = [START + timedelta(DAYS) - i * HORIZON for i in range(cutoffs, 0, -1)]
    return {"train": moments[:-2], "validation": moments[-2:-1], "test": moments[-1:]}


def _comparison(events: int, cutoffs: Cutoffs, logs: Path, outputs: Path) -> None:
    users, count = events // 25, len([*chain(*cutoffs.values())])
    log = simulated(logs, events, users)
    log.read_bytes()
    print(f"{events:,} events of {users:,} users in {DAYS} days, {count} cutoffs, {_machine()}\n")
    _print_row("prepare", "seconds", "CPU seconds", "events/s", "peak MiB", "examples")
    _print_row(*["---"] * 6)
    by_hand = f"hand-written DuckDB x {count}"
    jobs = {
        "EventScribe": (EVENTSCRIBE, eventscribe),
        by_hand: (("duckdb",), hand_written),
        "pandas": (("pandas",), with_pandas),
        "pandas, texts by a loop": (("pandas",), with_pandas_and_a_loop),
    }
    seconds = {}
    for name, (modules, job) in jobs.items():
        run = measure(modules, job, log, outputs / "output", cutoffs, output=outputs / "output")
        _print_row(name, *_seconds(run), events / run.seconds, run.mebibytes, run.examples)
        seconds[name] = run.seconds
    print()
    for name in (by_hand, "pandas", "pandas, texts by a loop"):
        print(f"EventScribe / {name}: {seconds['EventScribe'] / seconds[name]:.3f} of the seconds")


def _sizes(sizes: list[int], cutoffs: Cutoffs, memory_limit: str, logs: Path, outputs: Path) -> None:
    count = len([*chain(*cutoffs.values())])
    print(f"EventScribe, {count} cutoffs, data.memory_limit {memory_limit}, {_machine()}\n")
    _print_row("events", "users", "examples", "seconds", "CPU seconds", "events/s", "peak MiB")
    _print_row(*["---"] * 7)
    for events in sizes:
        users = events // 100
        log = simulated(logs, events, users)
        output = outputs / "output"
        run = measure(EVENTSCRIBE, eventscribe, log, output, cutoffs, memory_limit, output=output)
        _print_row(events, users, run.examples, *_seconds(run), events / run.seconds, run.mebibytes)


def _machine() -> str:
    return f"{os.cpu_count()} cores with a load of {os.getloadavg()[0]:.1f} before"


def _seconds(run: Measured) -> tuple[str, str]:
    return f"{run.seconds:.1f}", f"{run.cpu_seconds:.1f}"


def simulated(folder: Path, events: int, users: int) -> Path:
    """The log with so many events, made by scripts/simulate.py where it is missing."""
    made = folder / f"{events}-events-{users}-users"
    script = Path(__file__).with_name("simulate.py")
    if not (made / "events.parquet").is_file():
        sizes = f"--events={events} --users={users} --days={DAYS} --start={START:%Y-%m-%d}".split()
        done = subprocess.run([sys.executable, script, f"--folder={made}", *sizes], stdout=subprocess.DEVNULL)
        if done.returncode:
            sys.exit(done.returncode)
    return made / "events.parquet"


def measure(
    modules: tuple[str, ...], job: Callable[..., int], *arguments: object, output: Path | None = None
) -> Measured:
    """Run a job in a fresh process that measures itself; what it writes into `output` is deleted."""
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
        _refuse(f"{job.__name__} ended with code {process.exitcode}; see above, or free some memory if it is -9")
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
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)
    sender.send(Measured(seconds, cpu_seconds, peak, examples))


def eventscribe(log: Path, output: Path, cutoffs: Cutoffs, memory_limit: str | None = None) -> int:
    """The whole step: validated events, labels, all default aggregates, fitted bins, texts, Parquet, manifest."""
    from data_prep.config import Cutoffs, DataConfig, Label, Population, Source, TaskConfig, TextConfig, TextField
    from data_prep.prepare import prepare
    from data_prep.prepared import read_manifest

    made = prepare(
        "benchmark",
        DataConfig([Source(path=str(log))], folder=str(output), memory_limit=memory_limit),
        TaskConfig(
            Label(kind="exists", where="event_type = 'purchase'", horizon=f"{HORIZON.days} days"),
            Population(within=f"{DAYS} days"),  # everybody with a history, as in the other jobs
            Cutoffs(**{split: list(map(str, moments)) for split, moments in cutoffs.items()}),
        ),
        TextConfig(
            fields={
                "event_type": TextField(top=20),
                "category": TextField(top=200),
                "price": TextField(bins=len(PRICE_EDGES) + 1),
                "quantity": TextField(bins=len(QUANTITY_EDGES) + 1),
            },
            max_events=MAX_EVENTS,
        ),
    )
    return sum(counts["rows"] for counts in read_manifest(made)["splits"].values())


def hand_written(log: Path, output: Path, cutoffs: Cutoffs) -> int:
    """The query below, run once for each cutoff in a new connection, as a script for one cutoff would."""
    import duckdb

    output.mkdir()
    rows = 0
    for cutoff in chain(*cutoffs.values()):
        with duckdb.connect() as con:
            con.execute("SET preserve_insertion_order = false")
            query = f"COPY ({hand_written_query(log, cutoff)}) TO '{output}/{cutoff:%Y-%m-%d}.parquet'"
            rows += con.execute(f"{query} (FORMAT parquet, COMPRESSION zstd)").fetchone()[0]
    return rows


def hand_written_query(log: Path, cutoff: datetime) -> str:
    """A SELECT of user_id and the text of the newest events before the cutoff, newest first, with given bins.

    The fastest of six ways that were tried, among them string_agg over window functions and lists of structs. It has
    no validation, no order of events at the same moment, no labels, aggregates, header and learned bins.
    """
    price = " ".join(f"WHEN price < {edge} THEN ' price={i}'" for i, edge in enumerate(PRICE_EDGES))
    quantity = " ".join(f"WHEN quantity < {edge} THEN ' quantity={i}'" for i, edge in enumerate(QUANTITY_EDGES))
    gap = "CAST((epoch_us(event_time) - epoch_us(previous)) // 86400000000 AS VARCHAR)"
    return f"""
        SELECT user_id, array_to_string(list(
                   'gap=' || coalesce({gap}, 'first') || ' event_type=' || event_type || ' category=' || category
                   || CASE {price} ELSE ' price={len(PRICE_EDGES)}' END
                   || CASE WHEN quantity IS NULL THEN '' {quantity} ELSE ' quantity={len(QUANTITY_EDGES)}' END
                   ORDER BY event_time DESC)[:{MAX_EVENTS}], ' ') AS text
        FROM (SELECT *, lag(event_time) OVER (PARTITION BY user_id ORDER BY event_time) AS previous
              FROM '{log}' WHERE event_time < TIMESTAMP '{cutoff}')
        GROUP BY user_id"""


def with_pandas(log: Path, output: Path, cutoffs: Cutoffs, by_a_loop: bool = False) -> int:
    """EventScribe's job as a practised user of pandas would write it.

    Like EventScribe it validates the rows, labels everybody with a history, computes 111 aggregates (recency, tenure,
    counts, active days, sums and means in five windows, gaps, event types, ratios), learns bins and categories on the
    training history, and writes texts with a header of the same groups into three Parquet files. As there, events are
    sorted and turned into words only once.
    It leaves out: an order of events at the same moment, exact decimal sums, gap_last3, numbers of distinct values,
    days as steps, and manifest, card and hash.
    """
    import numpy as np
    import pandas as pd

    output.mkdir()
    events, users = _read_with_pandas(log)
    past = events[events.event_time < cutoffs["train"][-1]]
    types = past.event_type.value_counts().index[:10]
    for name in types:
        events[f"type_{name}"] = events.event_type == name
    aggregates = {}
    for cutoff in chain(*cutoffs.values()):
        frame = _aggregates_with_pandas(events[events.event_time < cutoff], cutoff, types)
        window = events[(events.event_time >= cutoff) & (events.event_time < cutoff + HORIZON)]
        buyers = window.user[window.target].unique()
        frame.insert(0, "label", frame.index.isin(buyers).astype("int64"))
        frame.insert(0, "cutoff", cutoff)
        aggregates[cutoff] = frame
    train = pd.concat([aggregates[cutoff] for cutoff in cutoffs["train"]])
    edges = {name: _fitted_edges(train[name], 16) for name in _header_names()}
    del train

    words = pd.DataFrame({"user": events.user, "words": _words_with_pandas(events, past)})
    in_order, first = words.words.tolist(), np.searchsorted(events.user, np.arange(len(users)))
    rows = 0
    for split, moments in cutoffs.items():
        for cutoff in moments:
            frame, known = aggregates[cutoff], events.event_time < cutoff
            if by_a_loop:
                end = (first + np.bincount(events.user[known], minlength=len(users)))[frame.index]
                start = np.maximum(first[frame.index], end - MAX_EVENTS)
                entries = [" ".join(in_order[i:j][::-1]) for i, j in zip(start.tolist(), end.tolist(), strict=True)]
            else:
                newest = words[known].groupby("user").tail(MAX_EVENTS)
                entries = newest.iloc[::-1].groupby("user").words.agg(" ".join)
            columns = [_binned(name, frame[name], edges[name], f"{name}=na") for name in edges]
            header = map(" ".join, zip(*columns, strict=True))
            texts = [f"{top} [SEP] {rest}" for top, rest in zip(header, entries, strict=True)]
            frame.insert(1, "text", pd.Series(texts, frame.index, dtype="str"))
            frame.insert(0, "user_id", users[frame.index])
        table = pd.concat([aggregates.pop(cutoff) for cutoff in moments])
        table.to_parquet(output / f"{split}.parquet", index=False, compression="zstd")
        rows += len(table)
    return rows


def with_pandas_and_a_loop(log: Path, output: Path, cutoffs: Cutoffs) -> int:
    """The same, but texts are joined in a loop over slices of one sorted list: less like pandas, and faster."""
    return with_pandas(log, output, cutoffs, by_a_loop=True)


def _read_with_pandas(log: Path) -> "tuple[pd.DataFrame, pd.Index]":
    """The usable events by user and time with what each adds to its user's past, and the users' names by number."""
    import numpy as np
    import pandas as pd

    day = pd.Timedelta(days=1)
    events = pd.read_parquet(log)
    for name in ("user_id", "event_type"):
        events[name] = events[name].astype("str").str.strip().replace("", None)
    good = events.user_id.notna() & events.event_type.notna() & events.event_time.dt.year.between(1900, 2199)
    events = events[good]
    numbers, users = pd.factorize(events.user_id, sort=True)
    events = events.drop(columns="user_id").assign(user=numbers)
    events = events.iloc[np.lexsort((events.event_time, events.user))].reset_index(drop=True)
    events = events.astype(
        {"event_type": "category", "category": "category", "price": "float64", "quantity": "float64"}
    )
    events["events"], events["target"] = 1, events.event_type == "purchase"
    events["gap"] = events.groupby("user").event_time.diff() // day
    date = events.event_time.dt.floor("D")
    for prefix, some in (("", date), ("target_", date[events.target])):
        gap = some.groupby(events.user[some.index]).diff() / day
        events[f"{prefix}day_gap"] = gap.where(gap > 0)
        events[f"{prefix}active_days"] = (gap != 0).reindex(events.index, fill_value=False)
    for field in ("price", "quantity"):
        events[f"has_{field}"] = events[field].notna()
    events["weekend"], events["hour"] = events.event_time.dt.day_of_week >= 5, events.event_time.dt.hour
    return events, users


def _aggregates_with_pandas(past: "pd.DataFrame", cutoff: datetime, types: "pd.Index") -> "pd.DataFrame":
    """One row a user, from the events before the cutoff."""
    import numpy as np
    import pandas as pd

    past = past.assign(age=(cutoff - past.event_time) / pd.Timedelta(days=1))
    columns = {}
    for prefix, some in (("", past), ("target_", past[past.target])):
        age = some.groupby("user").age
        columns |= {f"{prefix}recency_days": age.min(), f"{prefix}tenure_days": age.max()}
        gap = some[["user", f"{prefix}day_gap"]].dropna().groupby("user")[f"{prefix}day_gap"]
        columns |= {f"{prefix}gap_{name}": getattr(gap, name)() for name in ("mean", "std", "median", "max", "last")}
        columns[f"{prefix}gap_q90"] = gap.quantile(0.9)
    for name in types:
        columns[f"type_{name}_recency_days"] = past[past.event_type == name].groupby("user").age.min()
    users = past.groupby("user")
    columns |= {"weekend_share": users.weekend.mean(), "hour_mean": users.hour.mean()}
    fields = ("price", "quantity")
    columns |= {f"{field}_{name}": getattr(users[field], name)() for field in fields for name in ("max", "last")}
    frame = pd.DataFrame(columns)

    counted = ["events", "target", "active_days", "target_active_days", *(f"type_{name}" for name in types)]
    counted += [prefix + field for field in fields for prefix in ("", "has_")]
    for window in (None, *reversed(WINDOWS)):
        if window:
            past = past[past.age <= window]
        sums = past.groupby("user")[counted].sum().reindex(frame.index, fill_value=0)
        for field in fields:
            sums[f"{field}_mean"] = sums[field] / sums.pop(f"has_{field}").replace(0, np.nan)
        sums = sums.rename(columns={field: f"{field}_sum" for field in fields})
        frame = frame.join(sums.add_suffix(f"_{window}d" if window else ""))
    ratios = {}
    for prefix, name in (("", "events"), ("target_", "target")):
        for of in ("gap_mean", "gap_q90"):
            ratios[f"{prefix}recency_over_{of}"] = frame[f"{prefix}recency_days"] / frame[prefix + of]
        ratios[f"{prefix}gap_last_over_mean"] = frame[f"{prefix}gap_last"] / frame[f"{prefix}gap_mean"]
        ratios[f"{name}_per_day"] = frame[name] / frame.tenure_days.clip(1)
    for name in ("events", "target", *(f"{field}_sum" for field in fields)):
        for short, long in ((14, 28), (28, 56), (28, 84)):
            total = frame[f"{name}_{long}d"].replace(0, np.nan)
            ratios[f"{name}_trend_{short}_{long}"] = frame[f"{name}_{short}d"] / total
    return frame.assign(**ratios)


def _header_names() -> list[str]:
    names = ["recency_days", "target_recency_days"]
    names += [f"{name}_{window}d" for name in ("events", "target") for window in WINDOWS]
    names += ["active_days_28d", "active_days_56d", "active_days_84d", "active_days"]
    names += ["gap_mean", "gap_std", "gap_median", "gap_q90", "recency_over_gap_mean", "tenure_days"]
    return [*names, "price_sum", "price_mean", "quantity_sum", "quantity_mean"]


def _words_with_pandas(events: "pd.DataFrame", past: "pd.DataFrame") -> "pd.Series":
    """The words of each event; bins and frequent values are those of the past."""
    import numpy as np
    import pandas as pd

    gaps = np.array([*(f"gap={i}" for i in range(401)), "gap=first"], object)
    words = gaps[events.gap.clip(upper=400).fillna(401).astype("int64")]
    for name, top in (("event_type", 20), ("category", 200)):
        frequent = past.groupby(name, observed=True).user.nunique().nlargest(top).index
        shown = [f" {name}={value if value in frequent else 'other'}" for value in events[name].cat.categories]
        words = words + np.array([*shown, ""], object)[events[name].cat.codes]
    for name, edges in (("price", PRICE_EDGES), ("quantity", QUANTITY_EDGES)):
        words = words + _binned(f" {name}", events[name], _fitted_edges(past[name], len(edges) + 1), "")
    return pd.Series(words, events.index, dtype=object)  # joined as Python strings, twice as fast as the type str


def _fitted_edges(values: "pd.Series", bins: int) -> "np.ndarray":
    import numpy as np

    shares = np.arange(1, bins) / bins
    return values.quantile(shares, interpolation="lower").dropna().unique()


def _binned(name: str, values: "pd.Series", edges: "np.ndarray", missing: str) -> "np.ndarray":
    """A word for each value, such as price=3."""
    import numpy as np

    words = np.array([*(f"{name}={i}" for i in range(len(edges) + 1)), missing], object)
    return words[np.where(values.isna(), len(edges) + 1, np.digitize(values, edges))]


def _print_row(*cells: object) -> None:
    print("| " + " | ".join(cell if isinstance(cell, str) else f"{cell:,.0f}" for cell in cells) + " |", flush=True)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence."""

    def error(self, message: str) -> NoReturn:
        _refuse(message.removeprefix("argument ") + ("" if ";" in message else "; see --help"))


def _refuse(message: object) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def _events(text: str) -> int:
    if not re.fullmatch(r"\d+(_\d+)*", text) or int(text) < 10_000:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number from 10_000 on; write 5_000_000")
    return int(text)


def _cutoffs(text: str) -> int:
    most = DAYS // HORIZON.days - 1
    if not re.fullmatch(r"\d+", text) or not 3 <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number from 3 to {most}; write 8")
    return int(text)


def _memory(text: str) -> str:
    if not re.fullmatch(r"\d+(\.\d+)?\s*[KMGT]i?B", text):
        raise argparse.ArgumentTypeError(f"'{text}' is no size; write 3GB")
    return text


def _rows(text: str) -> int:
    if not re.fullmatch(r"\d+(_\d+)*", text) or int(text) < 64:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number from 64 on; write 4_000")
    return int(text)


def _model(text: str) -> str:
    if text == jobs.BERT_BASE or text == "minilm":
        return text
    if not (Path(text) / "config.json").is_file():
        raise argparse.ArgumentTypeError(f"'{text}' is no folder of a model; write minilm, bert-base or one")
    return text


def _device(text: str) -> str:
    if text not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"'{text}' is no device; write cpu or cuda")
    if text == "cuda" and not _has_cuda():
        raise argparse.ArgumentTypeError("cuda: torch finds no GPU on this machine; write cpu")
    return text


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _folder(text: str) -> Path:
    try:
        Path(text).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is no folder ({os.strerror(error.errno)}); name another") from error
    return Path(text)


def main() -> None:
    """Run the benchmark that the command line names."""
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(dest="step", required=True, parser_class=_Parser)
    step = steps.add_parser(
        "prepare",
        help="The log to labelled texts.",
        description="EventScribe beside a hand-written query for DuckDB, run once a cutoff, and beside pandas.",
    )
    step.add_argument("--events", type=_events, default=5_000_000, help="Size of the log, with 25 events a user.")
    step.add_argument("--cutoffs", type=_cutoffs, default=8, help="Weekly ones; the last two validate and test.")
    step.add_argument(
        "--table",
        type=lambda text: [_events(part) for part in text.split(",")],
        default=[],
        help="Instead: EventScribe alone on logs of these sizes, with 100 events a user.",
    )
    step.add_argument("--memory-limit", type=_memory, default="3GB", help="data.memory_limit for --table.")
    step.add_argument("--folder", type=_folder, help="Keeps the logs there for the next time; outputs are deleted.")
    step = steps.add_parser("evaluate", help="Predictions to metrics with intervals.", description=evaluate.__doc__)
    step.add_argument("--rows", type=_events, default=1_000_000, help="Predictions of each scorer, four a user.")
    step.add_argument("--scorers", type=int, choices=range(1, 10), default=5, help="The model and baselines.")
    step.add_argument("--resamples", type=int, choices=range(1, 100_001), metavar="N", default=1000)
    for name, rows in {"tokenize": 100_000, "train": 4_000, "score": 1_000, "all": None}.items():
        doc = {"tokenize": tokenize, "train": train, "score": score, "all": everything}[name].__doc__
        step = steps.add_parser(name, help=doc.split(",")[0].removeprefix("Print ") + ".", description=doc)
        if rows:
            step.add_argument("--rows", type=_rows, default=rows, help="Texts.")
        step.add_argument(
            "--model", type=_model, default="minilm", help="minilm, bert-base (random weights) or a folder."
        )
        step.add_argument("--lengths", choices=("real", "128", "512"), default="real", help="Tokens of the texts.")
        step.add_argument(
            "--device", type=_device, default=None, help="cpu or cuda; by default cuda where there is one."
        )
        step.add_argument("--json", type=Path, help="Also write the figures there.")
    given = vars(parser.parse_args())
    if "device" in given:
        given["device"] = given["device"] or _device("cuda" if _has_cuda() else "cpu")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill cleans up like Ctrl-C
    try:
        all_steps = {"prepare": prepare, "evaluate": evaluate, "tokenize": tokenize, "train": train, "score": score}
        (all_steps | {"all": everything})[given.pop("step")](**given)
    except KeyboardInterrupt:
        print("\ninterrupted; what was written is deleted, but for the logs in --folder", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
