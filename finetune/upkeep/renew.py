"""Next month's model: trained on moved cutoffs, measured beside the one in use, promoted only where it is not worse."""

from pathlib import Path
from typing import Any

import numpy as np

from data_prep import InputError
from data_prep.config import TaskConfig
from data_prep.cutoffs import SPLITS
from data_prep.prepare import prepare
from data_prep.prepared import column_array, read_manifest
from finetune.evaluation.backtest import LaterScores, refuse_other_question, refuse_seen, score_later
from finetune.evaluation.bootstrap import bootstrap, interval
from finetune.evaluation.evaluate import check_evaluation, evaluate
from finetune.evaluation.rows import ScoredRows
from finetune.experiment.config import Experiment
from finetune.experiment.parser import changed
from finetune.figures.measures import LOWER_IS_BETTER, MAIN, measure
from finetune.figures.metrics import compute_metrics
from finetune.hub.export import described as described_export
from finetune.hub.export import export_onnx
from finetune.hub.model_card import ONNX_FILE, write_model_card
from finetune.model.objective import Objective
from finetune.report.report import write_report
from finetune.runs import REPORT, START, refuse_untrained, run_of
from finetune.training.checkpoints import refuse_other_run
from finetune.training.pretrain import pretrain
from finetune.training.train import has_finished, train
from finetune.upkeep.registry import add_entry, refuse_not_in_use, registry_of
from finetune.upkeep.start import moved_cutoffs, refuse_not_older, write_start
from finetune.wording import missing, plain_number

MARGIN = 0.005  # of AUROC: about what lies between two seeds of the same model
CHAMPION, CHALLENGER = "champion", "challenger"


def renew(model: Path, experiment: Experiment, shift: str, cold: bool = False, margin: float | None = None) -> dict:
    """Train the successor of a model on later cutoffs, compare both on the same new rows, and write who is in use.

    The successor begins with the weights of the model, or with `cold` as its config says. It is promoted where the
    lower end of the 95 % interval of its difference to the model, paired by users, lies above minus the margin
    (non-inferiority; of errors the upper end below it). Its run holds data, report and card as of any other.

    Args:
        model: The folder of the model in use.
        experiment: The settings it was trained with, on the newer log, under the new name.
        shift: How far all cutoffs move, such as 30 days.
        cold: Train from scratch.
        margin: Of the main measure; None is MARGIN, and has to be given for values.

    Returns:
        The entry of the registry.

    Raises:
        InputError: The model is not in use any more or has seen the new validation or test rows, the settings ask
            another question, or a step refuses.
    """
    margin = _margin(experiment, margin)
    cutoffs = _check(model, experiment, shift, cold)
    begins = experiment.base_folder / START
    challenger = changed(experiment, cutoffs | ({} if cold else _from(begins)))
    refuse_seen(model, challenger.task)
    refuse_other_run(challenger)
    prepare(challenger.name, challenger.data, challenger.task, challenger.text, challenger.spark)
    manifest = read_manifest(challenger.data_folder)
    if not has_finished(challenger, manifest):  # else a command that was stopped had come so far
        if cold:
            pretrain(challenger)
        else:
            print(f"{challenger.name} {write_start(model, challenger, manifest, begins)}")
        train(challenger)
    if not (challenger.run_folder / REPORT).is_file():
        evaluate(challenger)
        write_model_card(challenger.run_folder)
        print(f"report: {write_report(challenger.run_folder)}")
    _export(model, trained := challenger.model_folder)
    new = beside(model, trained, challenger, challenger.task)
    promoted, why = decided(new, margin, challenger.name)
    old = beside(model, trained, challenger, experiment.task)
    return add_entry(
        registry_of(model),
        "promoted" if promoted else "kept",
        trained if promoted else model,
        model,
        why,
        challenger=str(trained),
        cold=cold,
        margin=margin,
        data={
            "folder": str(challenger.data_folder),
            "content_hash": manifest["content_hash"],
            "cutoffs": {split: manifest["splits"][split]["cutoffs"] for split in SPLITS},
        },
        new_rows=new,
        old_rows=old,
    )


def _export(champion: Path, challenger: Path) -> None:
    """Write the challenger's model.onnx, by which a service is faster, where the champion has one."""
    output = challenger / ONNX_FILE
    if (champion / ONNX_FILE).is_file() and not output.is_file():
        try:
            print(described_export(output, export_onnx(challenger, output)))
        except InputError as error:  # PyTorch scores as well
            print(f"warning: {output} is not written: {error}")


def beside(champion: Path, challenger: Path, experiment: Experiment, task: TaskConfig) -> dict[str, Any]:
    """Both models on the rows of a task's test cutoffs, each with its own words and calibration.

    Returns:
        metric, cutoffs, rows, users, positives; champion and challenger, each value and interval; difference
        (challenger minus champion) and its interval, paired by users. None where a figure is not defined.
    """
    found = {
        name: score_later(model, experiment.data, task)
        for name, model in ((CHAMPION, champion), (CHALLENGER, challenger))
    }
    return _compared(Objective.of(task.label, []), found, experiment.evaluation.bootstrap)


def _compared(objective: Objective, found: dict[str, LaterScores], resamples: int) -> dict[str, Any]:
    champion, challenger = found[CHAMPION], found[CHALLENGER]
    kind, rows, main = objective.task, champion.rows, MAIN[objective.task]
    keys = ["user_id", "cutoff"]
    assert rows.select(keys).equals(challenger.rows.select(keys)), "as log and cutoffs are the same"
    labels, scores = column_array(rows["label"]), {name: later.scores for name, later in found.items()}
    if kind == "propensity":  # the most frequent values of another time are others
        both = [name for name in champion.classes if name in challenger.classes]
        own = {name: [later.classes.index(of_class) for of_class in both] for name, later in found.items()}
        labels, scores = labels[:, own[CHAMPION]], {name: scores[name][:, own[name]] for name in scores}
    scored = ScoredRows(kind, labels, scores, rows["user_id"].to_numpy(), **objective.known)
    drawn = {name: measures[main] for name, measures in bootstrap(scored, resamples).items()}
    figures = {
        name: compute_metrics(kind, scored.labels, values, **objective.known)[main] for name, values in scores.items()
    }
    cutoffs = [f"{cutoff:%Y-%m-%d}" for cutoff in found[CHAMPION].found.cutoffs]
    said = {"metric": main, "cutoffs": cutoffs} | scored.counts()
    for name in scores:
        said[name] = {"value": _known(figures[name]), "interval": _known(*interval(drawn[name]))}
    paired = interval(drawn[CHALLENGER] - drawn[CHAMPION])
    return said | {
        "difference": _known(figures[CHALLENGER] - figures[CHAMPION]),
        "difference_interval": _known(*paired),
    }


def decided(new: dict[str, Any], margin: float, name: str) -> tuple[bool, str]:
    """Whether a challenger takes the champion's place, and why, by `beside` on the new rows."""
    main, bounds = new["metric"], new["difference_interval"]
    if bounds is None:
        return False, f"these rows cannot tell the models apart: {main} is not defined on them, and the champion stays"
    worst = -bounds[1] if main in LOWER_IS_BETTER else bounds[0]
    apart = f"{_figure(new['difference'], '+')} [{_figure(bounds[0], '+')}, {_figure(bounds[1], '+')}]"
    title = next(measure(main, kind).title for kind in MAIN if MAIN[kind] == main)
    said = f"{title} of {name} minus that of the champion is {apart} on {new['rows']:,} new rows"
    if worst > -margin:
        return True, f"{said}, which is not worse by the margin of {_figure(margin)}"
    return False, f"{said}, which may be worse by more than the margin of {_figure(margin)}, and the champion stays"


def described(entry: dict[str, Any]) -> str:
    """An entry of the registry for the screen: both models on the new and on the old rows, and what follows."""
    lines = []
    for key, title in (("new_rows", "new test rows"), ("old_rows", "old test rows (what was forgotten)")):
        rows = entry[key]
        span = f"{rows['cutoffs'][0]} to {rows['cutoffs'][-1]}"
        lines.append(f"{title}, {span}: {rows['rows']:,} of {rows['users']:,} users")
        lines += [
            f"  {name:<12}{rows['metric']} {_span(rows[name]['value'], rows[name]['interval'])}  {entry[name]}"
            for name in (CHAMPION, CHALLENGER)
        ]
        lines.append(f"  {'difference':<12}{_span(rows['difference'], rows['difference_interval'], '+')}")
    return "\n".join([*lines, f"{entry['action']}: {entry['why']}", f"in use: {entry['in_use']}"])


def _margin(experiment: Experiment, margin: float | None) -> float:
    if margin is None and MAIN[Objective.of(experiment.task.label, []).task] in LOWER_IS_BETTER:
        raise InputError("a label of values has no margin of its own", "give --margin in its unit", setting="--margin")
    if margin is not None and not 0 < margin < np.inf:
        raise InputError(f"--margin is {margin:g}", "give a number above zero", setting="--margin")
    return MARGIN if margin is None else margin


def _check(model: Path, experiment: Experiment, shift: str, cold: bool) -> dict[str, Any]:
    """Refuse before any work; the new cutoffs."""
    refuse_untrained(model)
    if run_of(model)[0].absolute() == experiment.base_folder.absolute():
        raise InputError(f"the successor of {model} cannot have its name", "give another --name", setting="--name")
    if experiment.seeds:
        raise InputError("a renewal trains one model", "leave seeds out", setting="seeds")
    check_evaluation(experiment)
    refuse_not_in_use(model)
    refuse_other_question(model, experiment.task)
    cutoffs = moved_cutoffs(experiment, shift)
    if not cold:
        refuse_not_older(model, cutoffs)
    return cutoffs


def _from(folder: Path) -> dict[str, Any]:
    """The settings of a training that begins with weights in a folder."""
    return {"model.name_or_path": str(folder), "pretraining.max_steps": 0}


def _known(*values: float) -> Any:
    """One or two numbers for JSON; None where one is none."""
    if any(missing(value) for value in values):
        return None
    return float(values[0]) if len(values) == 1 else [float(value) for value in values]


def _figure(value: float, sign: str = "") -> str:
    return plain_number(value, 4, sign)


def _span(value: float | None, bounds: list[float] | None, sign: str = "") -> str:
    if value is None or bounds is None:
        return "-"
    return f"{_figure(value, sign)} [{_figure(bounds[0], sign)}, {_figure(bounds[1], sign)}]"
