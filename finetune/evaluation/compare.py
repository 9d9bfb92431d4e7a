"""Several runs on the same test rows: paired differences, what each cost, and in which settings they differ."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any, Literal

import matplotlib.style
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.ticker import MaxNLocator

from data_prep import InputError
from data_prep.checked_json import MayLack
from data_prep.files import write_whole
from data_prep.prepared import column_array
from finetune.effects import effect
from finetune.evaluation.bootstrap import bootstrap, interval
from finetune.evaluation.rows import ScoredRows
from finetune.measures import LOWER_IS_BETTER, MAIN, digits, measure, measure_names
from finetune.metrics import compute_metrics
from finetune.report.pictures import MUTED, PICTURE_STYLE, Picture, dots, flat_figure, inline_svg
from finetune.report.report import page_template
from finetune.runs import (
    METRICS,
    PREDICTIONS,
    SETTINGS,
    TRAINING_LOG,
    read_metrics,
    read_settings,
    read_training_log,
    seed_folder,
)
from finetune.wording import FEW_POSITIVES, listed, missing, number, short, span

MARK = "EventScribe comparison"  # in every page
LOGGED = ("trainable_parameters", "total_parameters", "steps")  # by the training log
COST = ("trained_parameters", "steps", "seconds")


@dataclass
class Run:
    """What an evaluated run left in its folder."""

    folder: Path
    metrics: dict
    logs: list[dict]  # of training, one a seed
    settings: dict[str, str]  # name with dots -> value
    rows: pa.Table  # user_id, cutoff and label, sorted
    scores: np.ndarray  # in their order


def compare_runs(
    folders: Sequence[Path], against: Literal["best", "first"] = "best", resamples: int = 1000, seed: int = 0
) -> dict:
    """Measures of several runs on the same test rows, and their differences, paired by a bootstrap over users.

    The run with the best main measure is called the best only where its difference to every other one has a 95 %
    interval without zero; those whose interval includes it are level with it.

    Args:
        folders: Of the runs, runs/NAME; pages (.html) among them are passed over, so that runs/* works.
        against: What each run is compared with: the best, or the first that is given.
        resamples: Of the users.
        seed: Of the resamples.

    Returns:
        task, main, lower_is_better, question, rows, users, positives; verdict; against, a run's name; best, a name or
        None; settings, the names of those that differ; and runs, the best first, each with name, folder, the measures
        shown and their intervals, difference (this run minus `against`) and its interval, standing (best, level,
        behind, or untold), validation, trained_parameters, total_parameters, steps, seconds and settings. What is not
        known is None, what cannot be computed NaN.

    Raises:
        InputError: A folder that is no evaluated run, fewer than two, one twice, or other tasks, rows or labels.
    """
    runs = _read_all([Path(folder) for folder in folders])
    task, rows = runs[0].metrics["task"], runs[0].rows
    labels, users = column_array(rows["label"]), rows["user_id"].to_numpy()
    main, sign = MAIN[task], -1 if MAIN[task] in LOWER_IS_BETTER else 1
    named = _names(runs)
    drawn = bootstrap(
        ScoredRows(task, labels, {name: run.scores for name, run in named.items()}, users), resamples, seed
    )
    figures = {name: compute_metrics(task, labels, run.scores) for name, run in named.items()}
    order = sorted(named, key=lambda name: -sign * np.nan_to_num(figures[name][main]))
    compared = order[0] if against == "best" else next(iter(named))
    settings, entries = _different([run.settings for run in runs]), []
    for name in order:
        run = named[name]
        entry = {"name": name, "folder": str(run.folder), **_measured(name, compared, figures, drawn, task)}
        behind = interval(sign * (drawn[order[0]][main] - drawn[name][main]))[0]
        entry["standing"] = "untold" if math.isnan(behind) else "behind" if behind > 0 else "level"
        entry |= {"validation": run.metrics["validation"][main], **_cost(run.logs)}
        entries.append(entry | {"settings": {key: run.settings.get(key) for key in settings}})
    if all(entry["standing"] == "behind" for entry in entries[1:]):
        entries[0]["standing"] = "best"
    result = {
        "task": task,
        "main": main,
        "lower_is_better": sign < 0,
        "question": runs[0].metrics["question"],
        "rows": len(labels),
        "users": len(np.unique(users)),
        "positives": int((labels > 0).sum()),
        "against": compared,
        "best": order[0] if entries[0]["standing"] == "best" else None,
        "settings": settings,
        "runs": entries,
    }
    return result | {"verdict": _verdict(result)}


def _read_all(folders: list[Path]) -> list[Run]:
    """The runs, whose rows are the same."""
    folders = [folder for folder in folders if folder.suffix != ".html"]
    places = [folder.resolve() for folder in folders]
    for i, folder in enumerate(folders):
        if places[i] in places[:i]:
            raise InputError(f"{folder} is given twice, and a run does not differ from itself; give it once")
    if len(folders) < 2:
        raise InputError(
            f"a comparison needs two runs, and {len(folders) or 'none'} is given; name their folders, as in "
            f"scripts/compare.py runs/*"
        )
    runs = [_read(folder) for folder in folders]
    alike: list[list[Run]] = []
    for run in runs:
        group = next((group for group in alike if not _apart(group[0], run)), None)
        if group is None:
            alike.append([run])
        else:
            group.append(run)
    if len(alike) > 1:
        alike.sort(key=len, reverse=True)
        one, other = alike[0][0], alike[1][0]
        groups = [" ".join(str(run.folder) for run in group) for group in alike if len(group) > 1]
        remedy = f"comparable are {'; or '.join(groups)}" if groups else "no two of these runs are comparable"
        raise InputError(f"{other.folder} {_apart(one, other)}; {remedy}")
    return runs


def _read(folder: Path) -> Run:
    names = (METRICS, TRAINING_LOG, SETTINGS, f"{PREDICTIONS}/test.parquet")
    for name in names:
        if not (folder / name).is_file():
            raise InputError(
                f"{folder} is no evaluated run ({name} is missing); leave it out, or run scripts/train.py and "
                f"scripts/evaluate.py with its --config first"
            )
    task = read_metrics(folder, {})["task"]
    needed = {"name": str, "question": str, "classes": (None, [str]), "validation": {MAIN[task]: (None, float)}}
    metrics, config = read_metrics(folder, needed), read_settings(folder, {"seeds": [int]})
    runs = [folder / seed_folder(seed) for seed in config["seeds"]] or [folder]
    logs = [
        read_training_log(run, dict.fromkeys(("seconds", *LOGGED), MayLack(float)) | {"steps": float}) for run in runs
    ]
    path = folder / names[3]
    try:
        table = pq.read_table(path, columns=["user_id", "cutoff", "label", "score"])
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is damaged; run scripts/train.py and scripts/evaluate.py again") from error
    table = table.sort_by([("user_id", "ascending"), ("cutoff", "ascending")])
    rows = table.select(["user_id", "cutoff", "label"])
    return Run(folder, metrics, logs, _flat(config), rows, column_array(table["score"]))


def _apart(one: Run, other: Run) -> str:
    """Why the second cannot be compared with the first, as the end of a sentence; nothing where it can."""
    if one.metrics["task"] != other.metrics["task"]:
        return f"predicts another kind of label ({other.metrics['task']}) than {one.folder} ({one.metrics['task']})"
    keys = ["user_id", "cutoff"]
    if not one.rows.select(keys).equals(other.rows.select(keys)):
        return f"has other test rows ({len(other.rows):,}) than {one.folder} ({len(one.rows):,})"
    if not one.rows.equals(other.rows) or _classes(one) != _classes(other):
        return f"has other labels on the same test rows than {one.folder}"
    return ""


def _classes(run: Run) -> list[str]:
    """Their names; for yes-or-no labels that of label 1, as older versions wrote the other one with a space."""
    classes = run.metrics["classes"] or []
    return classes[-1:] if run.metrics["task"] == "binary" else classes


def _flat(config: dict, before: str = "") -> dict[str, str]:
    """Every setting that has a value, by its name with dots."""
    found: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{before}{key}.")
        elif value is not None:
            found[f"{before}{key}"] = f"{value:g}" if isinstance(value, float) else str(value)
    return found


def _names(runs: list[Run]) -> dict[str, Run]:
    """What each run is called: its folder where two have the same name."""
    names = [run.metrics["name"] for run in runs]
    return {name if names.count(name) == 1 else str(run.folder): run for name, run in zip(names, runs, strict=True)}


def _different(settings: list[dict[str, str]]) -> list[str]:
    """The settings that are not the same in all runs."""
    known = {key for run in settings for key in run if effect(key) != "nothing"}
    return sorted(key for key in known if len({run.get(key) for run in settings}) > 1)


def _measured(
    name: str,
    compared: str,
    figures: dict[str, dict[str, float]],
    drawn: dict[str, dict[str, np.ndarray]],
    task: str,
) -> dict[str, Any]:
    """The measures of one run, and its difference to another one, with their intervals."""
    main, shown = MAIN[task], measure_names(task, "compare")
    return {
        **{key: figures[name][key] for key in shown},
        **{f"{key}_interval": interval(drawn[name][key]) for key in shown},
        "difference": figures[name][main] - figures[compared][main],
        "difference_interval": interval(drawn[name][main] - drawn[compared][main]),
    }


def _cost(logs: list[dict]) -> dict[str, Any]:
    """Size and steps of one seed's training, and the seconds of all seeds."""
    last, seconds = logs[-1], [log["seconds"] for log in logs if log.get("seconds") is not None]
    trained, total, steps = (last.get(key) for key in LOGGED)
    return {
        "trained_parameters": trained,
        "total_parameters": total,
        "steps": steps,
        "seconds": sum(seconds) if len(seconds) == len(logs) else None,
    }


def _verdict(compared: dict) -> str:
    """One sentence: is a run the best, and how sure is that?"""
    runs, main, task = compared["runs"], compared["main"], compared["task"]
    title = measure(main, task).title
    called = {run["name"]: f"{run['name']} ({number(run[main], _places(main))})" for run in runs}
    if runs[0]["standing"] == "untold":
        return f"These test rows cannot tell the runs apart: {title} is not defined on them."
    few = ""
    if task != "value" and compared["positives"] < FEW_POSITIVES:
        few = f"Only {compared['positives']} positives, too few to tell: "
    if compared["best"]:
        others = "the other run" if len(runs) == 2 else f"each of the other {len(runs) - 1} runs"
        said = (
            f"{called[compared['best']]} is the best in {title}: its difference to {others} has an interval without 0"
        )
    else:
        level = [called[run["name"]] for run in runs if run["standing"] == "level"]
        said = f"No run is the best for sure: in {title} {listed(level)} are level"
        behind = [called[run["name"]] for run in runs if run["standing"] == "behind"]
        said += f", and {listed(behind)} {'is' if len(behind) == 1 else 'are'} behind" if behind else ""
    return f"{few}{said}{'; lower is better.' if compared['lower_is_better'] else '.'}"


def _places(key: str) -> int | None:
    """One decimal more than a report shows, as runs lie close together."""
    shown = digits(key)
    return None if shown is None else shown + 1


def table(compared: dict) -> str:
    """The comparison for the screen."""
    main = compared["main"]
    head = ["run", measure(main, compared["task"]).title, f"minus {compared['against']}", "standing", "validation"]
    lines = [[*head, *(key.replace("_", " ") for key in COST)]]
    for run in compared["runs"]:
        cells = [_cell(run[main], run[f"{main}_interval"], _places(main))]
        cells.append("" if run["name"] == compared["against"] else _difference(run, main))
        cells += [run["standing"], number(run["validation"], _places(main))]
        lines.append([run["name"], *cells, *(number(run[key], 0) for key in COST)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    text.append(
        f"{compared['rows']:,} test rows of {compared['users']:,} users, {compared['positives']:,} positives; 95 % "
        f"intervals by bootstrap over users, paired for the differences"
    )
    for key in compared["settings"]:
        values = (f"{run['name']} {_setting(run, key)}" for run in compared["runs"])
        text.append(f"{key}: {', '.join(values)}")
    return "\n".join([*text, "", *wrap(compared["verdict"], 100)])


def _cell(value: float, bounds: list[float], places: int | None, sign: str = "") -> str:
    return number(value, places, sign) + ("" if missing(bounds[0]) else f" [{span(bounds, places, sign)}]")


def _difference(run: dict, main: str) -> str:
    return _cell(run["difference"], run["difference_interval"], _places(main), "+")


def _setting(run: dict, key: str) -> str:
    value = run["settings"][key]
    return "\u2013" if value is None else short(value, 60)


def write_page(compared: dict, path: Path) -> Path:
    """Write the comparison as one self-contained page; InputError where it would replace another one."""
    if path.exists() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
        raise InputError(f"{path} is no comparison and would be replaced; choose another --output")
    with matplotlib.style.context(["default", PICTURE_STYLE]):
        pictures = [] if compared["runs"][0]["standing"] == "untold" else [_picture(compared)]
    page = page_template("compare.html.jinja").render(
        compared=compared,
        shown=measure_names(compared["task"], "compare"),
        places=_places,
        setting=_setting,
        few_positives=FEW_POSITIVES,
        pictures=pictures,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page)
    return path


def _picture(compared: dict) -> Picture:
    """The difference of each run to the one that all are compared with."""
    runs, main = compared["runs"], compared["main"]
    title = measure(main, compared["task"]).title
    figure = flat_figure(len(runs))
    axes = figure.subplots()
    sure = compared["task"] == "value" or compared["positives"] >= FEW_POSITIVES
    spans = [run["difference_interval"] for run in runs]
    dots(axes, [run["difference"] for run in runs], spans, [sure] * len(runs))
    axes.axvline(0, color=MUTED, linewidth=1.2)
    axes.set_yticks(range(len(runs)), [short(run["name"], 24) for run in runs])
    axes.set_xlabel(f"Difference in {title}")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    others = [run for run in runs if run["name"] != compared["against"]]
    clear = [run["name"] for run in others if run["difference_interval"][0] * run["difference_interval"][1] > 0]
    reading = f"Runs whose difference to {compared['against']} has an interval without zero: {listed(clear) or 'none'}."
    said = "; ".join(f"{run['name']} {_difference(run, main)}" for run in others)
    alt = f"{title} of each run minus that of {compared['against']}, with intervals. {said}."
    return Picture("Differences", reading, inline_svg(figure, "differences", alt))
