"""Several runs on the same test rows: paired differences, what each cost, and in which settings they differ."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep import InputError
from data_prep.checked_json import MayLack
from data_prep.cutoffs import split_file
from data_prep.prepared import column_array
from finetune.evaluation.bootstrap import bootstrap, interval
from finetune.evaluation.rows import ScoredRows
from finetune.evaluation.scorers import mean_figures, one_of
from finetune.experiment.effects import CHANCE, effect
from finetune.figures.measures import LOWER_IS_BETTER, MAIN, best_rival, measure_names
from finetune.figures.metrics_json import Metrics, read_metrics
from finetune.report.comparison import take, verdict
from finetune.runs import (
    METRICS,
    PREDICTIONS,
    REGISTRY,
    SETTINGS,
    TRAINING_LOG,
    read_settings,
    read_training_log,
    seed_column,
    seed_folder,
)
from finetune.wording import standing

RIVAL = "\0"  # its key among the scorers, as no name of a run or a folder can be
LOGGED = ("trainable_parameters", "total_parameters", "steps")  # by the training log


@dataclass
class Run:
    """What an evaluated run left in its folder."""

    folder: Path
    metrics: Metrics
    logs: list[dict]  # of training, one a seed
    settings: dict[str, str]  # name with dots -> value
    rows: pa.Table  # user_id, cutoff and label, sorted
    scores: dict[str, np.ndarray]  # in their order; of several seeds those of each, by its folder
    rivals: dict[str, np.ndarray]  # the baseline that was best in this run's evaluation -> its scores, in their order


def compare_runs(
    folders: Sequence[Path], against: Literal["best", "first"] = "best", resamples: int = 1000, seed: int = 0
) -> dict:
    """Measures of several runs on the same test rows, and their differences, paired by a bootstrap over users.

    A run of several seeds stands for a single one of its models: its measures are the means over the seeds, and its
    intervals are over users and seeds (see `finetune.evaluation.scorers.over_seeds`).

    Beside them stands the rival: of the baselines that were evaluated with the runs the best one on these rows.
    The run with the best main measure is called the best only where its difference to every other one has a 95 %
    interval without zero; those whose interval includes it are level with it.

    Args:
        folders: Of the runs, runs/NAME; pages (.html) and the registry are passed over, so that runs/* works.
        against: What each run is compared with: the best, or the first that is given.
        resamples: Of the users.
        seed: Of the resamples.

    Returns:
        task, main, lower_is_better, question, rows, users, positives; verdict (see finetune.report.comparison);
        against, a run's name; best and take, the name of the run that is the best and that is advised, or None;
        settings, the names of those that differ, those of CHANCE last; runs, the best first, each with name, folder,
        the measures shown and their intervals, difference (this run minus `against`) and its interval, standing (best,
        level, behind, or untold), validation, seeds (how many), trained_parameters, total_parameters, steps, seconds
        and settings, and to_rival (this run minus the rival) with its interval and beside_rival (ahead, level, behind,
        or untold); and rival, its name, measures and difference, or None where the runs have no baseline. What is not
        known is None, what cannot be computed NaN.

    Raises:
        InputError: A folder that is no evaluated run, fewer than two, one twice, or other tasks, rows or labels.
    """
    runs = _read_all([Path(folder) for folder in folders])
    task = runs[0].metrics["task"]
    main, sign = MAIN[task], -1 if MAIN[task] in LOWER_IS_BETTER else 1
    named = _names(runs)
    rival = _rival(runs, main)
    each = {name: run.scores for name, run in named.items()} | ({RIVAL: {"": rival[1]}} if rival else {})
    scored, figures, drawn = _measured_each(runs[0], each, resamples, seed)
    order = sorted(named, key=lambda name: -sign * np.nan_to_num(figures[name][main]))
    compared = order[0] if against == "best" else next(iter(named))
    settings = _different([run.settings for run in runs])
    asked = runs[0].metrics
    entries = [_entry(name, named[name], order[0], compared, figures, drawn, settings) for name in order]
    if all(entry["standing"] == "behind" for entry in entries[1:]):
        entries[0]["standing"] = "best"
    result = {
        "task": task,
        "main": main,
        "lower_is_better": sign < 0,
        "question": asked.get("plain_question") or asked["question"],
        **scored.counts(),
        "against": compared,
        "best": order[0] if entries[0]["standing"] == "best" else None,
        "settings": settings,
        "runs": entries,
        "rival": {"name": rival[0], **_measured(RIVAL, compared, figures, drawn, task)} if rival else None,
    }
    result["take"] = take(result)
    return result | {"verdict": verdict(result)}


def _measured_each(
    run: Run, each: dict[str, dict[str, np.ndarray]], resamples: int, seed: int
) -> tuple[ScoredRows, dict[str, dict[str, float]], dict[str, dict[str, np.ndarray]]]:
    """The rows, and of each name the measures and what they are on each resample: of a single one of its models.

    Args:
        run: One of the runs, whose rows are those of all.
        each: Name -> the scores of its models, by what tells them apart.
        resamples: Of the users.
        seed: Of the resamples.
    """
    task, rows = run.metrics["task"], run.rows
    scores = {f"{name}{model}": values for name, of in each.items() for model, values in of.items()}
    horizons = _classes(run) if task == "survival" else None
    scored = ScoredRows(task, column_array(rows["label"]), scores, rows["user_id"].to_numpy(), horizons=horizons)
    drawn, figures, resampled = bootstrap(scored, resamples, seed), {}, {}
    for at, (name, of) in enumerate(each.items()):
        keys = [f"{name}{model}" for model in of]
        figures[name] = mean_figures([scored.figures(scores[key]) for key in keys])
        resampled[name] = one_of([drawn[key] for key in keys], at)
    return scored, figures, resampled


def _read_all(folders: list[Path]) -> list[Run]:
    """The runs, whose rows are the same."""
    folders = [folder for folder in folders if folder.suffix != ".html" and folder.name != REGISTRY]
    places = [folder.resolve() for folder in folders]
    for i, folder in enumerate(folders):
        if places[i] in places[:i]:
            raise InputError(f"{folder} is given twice, and a run does not differ from itself", "give it once")
    if len(folders) < 2:
        raise InputError(
            f"a comparison needs two runs, and {len(folders) or 'none'} is given",
            "name their folders, as in scripts/compare.py runs/*",
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
        raise InputError(f"{other.folder} {_apart(one, other)}", remedy)
    return runs


def _read(folder: Path) -> Run:
    names = (METRICS, TRAINING_LOG, SETTINGS, f"{PREDICTIONS}/{split_file('test')}")
    for name in names:
        if not (folder / name).is_file():
            raise InputError(
                f"{folder} is no evaluated run ({name} is missing)",
                "leave it out, or run scripts/train.py and scripts/evaluate.py with its --config first",
            )
    metrics, config = read_metrics(folder), read_settings(folder, {"seeds": [int]})
    runs = [folder / seed_folder(seed) for seed in config["seeds"]] or [folder]
    logs = [
        read_training_log(run, dict.fromkeys(("seconds", *LOGGED), MayLack(float)) | {"steps": float}) for run in runs
    ]
    path = folder / names[3]
    rival = best_rival(metrics["test"]["baselines"], metrics["main"])
    try:
        names = pq.read_schema(path).names
        known = [rival] if rival and rival in names else []
        columns = {f"/{seed_folder(seed)}": seed_column(seed) for seed in config["seeds"]} or {"": "score"}
        if not {*columns.values()} <= {*names}:
            raise InputError(f"{path} has no scores of single seeds", "run scripts/evaluate.py again")
        table = pq.read_table(path, columns=["user_id", "cutoff", "label", *columns.values(), *known])
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is damaged", "run scripts/train.py and scripts/evaluate.py again") from error
    table = table.sort_by([("user_id", "ascending"), ("cutoff", "ascending")])
    rows = table.select(["user_id", "cutoff", "label"])
    rivals = {name: column_array(table[name]) for name in known}
    scores = {model: column_array(table[column]) for model, column in columns.items()}
    return Run(folder, metrics, logs, _flat(config), rows, scores, rivals)


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
    """The settings that are not the same in all runs; last those that are chance."""
    known = {key for run in settings for key in run if effect(key) != "nothing"}
    return sorted(
        (key for key in known if len({run.get(key) for run in settings}) > 1), key=lambda key: (key in CHANCE, key)
    )


def _entry(
    name: str,
    run: Run,
    first: str,
    compared: str,
    figures: dict[str, dict[str, float]],
    drawn: dict[str, dict[str, np.ndarray]],
    settings: list[str],
) -> dict[str, Any]:
    """All that is said of one run; `first` is the one with the best measure."""
    task = run.metrics["task"]
    main, sign = MAIN[task], -1 if MAIN[task] in LOWER_IS_BETTER else 1
    return {
        "name": name,
        "folder": str(run.folder),
        **_measured(name, compared, figures, drawn, task),
        "standing": _standing(sign * (drawn[first][main] - drawn[name][main])),
        "validation": run.metrics["single"]["validation"] if run.metrics["single"] else run.metrics["validation"][main],
        "seeds": len(run.scores),
        **_cost(run.logs),
        "settings": {key: run.settings.get(key) for key in settings},
        **(_beside(name, figures, drawn, main) if RIVAL in drawn else {}),
    }


def _standing(behind: np.ndarray) -> str:
    """Of a run, by how far the first one is ahead of it on each resample."""
    low = interval(behind)[0]
    return "untold" if math.isnan(low) else "behind" if low > 0 else "level"


def _rival(runs: list[Run], main: str) -> tuple[str, np.ndarray] | None:
    """The best baseline of all runs, by the measure that their evaluations gave it, and its scores."""
    known = {(at, name): run.metrics["test"]["baselines"][name] for at, run in enumerate(runs) for name in run.rivals}
    best = best_rival({str(key): figures for key, figures in known.items()}, main)
    return next(((name, runs[at].rivals[name]) for at, name in known if str((at, name)) == best), None)


def _beside(name: str, figures: dict, drawn: dict, main: str) -> dict[str, Any]:
    """The main measure of one run minus that of the rival."""
    bounds = interval(drawn[name][main] - drawn[RIVAL][main])
    return {
        "to_rival": figures[name][main] - figures[RIVAL][main],
        "to_rival_interval": bounds,
        "beside_rival": standing(bounds, main in LOWER_IS_BETTER) if not math.isnan(bounds[0]) else "untold",
    }


def _measured(
    name: str,
    compared: str,
    figures: dict[str, dict[str, float]],
    drawn: dict[str, dict[str, np.ndarray]],
    task: str,
) -> dict[str, Any]:
    """The measures of one run or of the rival, and its difference to another one, with their intervals."""
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
