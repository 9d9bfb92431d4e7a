"""A month of a model in use beside the time it was made in: inputs, words, scores and, once known, outcomes."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_prep import InputError
from data_prep.config import CutoffRange, Cutoffs, TaskConfig
from data_prep.cutoffs import parse_bounds
from data_prep.facts import Manifest
from data_prep.files import write_whole
from data_prep.labels import label_horizons
from data_prep.moments import INSTANT, parse_cutoff, show
from data_prep.prepared import column_array, read_split, sampled
from data_prep.serializer import EventSerializer
from data_prep.task import plain_question
from finetune.evaluation.backtest import raw_scores, refuse_other_question, refuse_seen, run_and_data, score_later
from finetune.evaluation.bootstrap import bootstrap, interval
from finetune.evaluation.rows import ScoredRows
from finetune.experiment.config import Experiment
from finetune.figures.measures import MAIN, MODEL
from finetune.figures.metrics_json import read_metrics, without_nan
from finetune.figures.survival import days
from finetune.model.calibration import Calibration
from finetune.model.loading import load_classifier
from finetune.model.objective import Objective
from finetune.model.tokens import tokenize, tokens_of_split
from finetune.report.monitoring import refuse_other_page, write_monitor_page
from finetune.runs import refuse_untrained, run_of
from finetune.upkeep.alarms import DRAWS, LEVEL, signals
from finetune.upkeep.months import (
    BRIER,
    CALIBRATION,
    LIFT,
    Month,
    apart,
    input_family,
    inputs_of,
    outcome_family,
    outcomes,
    promise,
    score_family,
    score_line,
    word_family,
)

MOST = 20_000  # rows of a month that are looked at; more would move an index by less than .001
ALIKE = 0.1  # by how much the time of validation may be longer or shorter than that of the test, of moments
LATER = ("validation", "test")  # rows that the model was not trained on


def monitor(model: Path, newer: Experiment, cutoff: str, page: Path, draws: int = DRAWS) -> dict[str, Any]:
    """Watch a cutoff, and write PAGE (.html), and beside it the same as .json and, for Prometheus, as .prom.

    Where cutoffs are moments of users, those from the cutoff on are watched, for as long as the test's time was.
    The reference of the inputs are the run's training rows. Words, scores and outcomes are compared with its validation
    and test rows, which neither the words nor the weights were fitted to. Outcomes are looked at where the label window
    has ended within the log. See `finetune.upkeep.alarms` for the thresholds.

    Args:
        model: Its folder, runs/NAME/model, evaluated.
        newer: Its log, its label and its population count.
        cutoff: That is watched.
        page: The page that is written.
        draws: Months that are drawn again for the thresholds of each family.

    Returns:
        What the JSON file holds; `alarm` is a sentence, or None where nothing rings.

    Raises:
        InputError: The run's data is gone, another question is asked, the cutoff lies in the time that the model has
            seen or behind the log's end, or the log cannot be used.
    """
    refuse_other_page(page)
    refuse_untrained(model)
    with _of_the_cutoff():
        moment = show(parse_cutoff(cutoff))
    base, part = run_of(model)
    run, manifest = run_and_data(base, part)
    length = _length(run.task, "test") if run.task.at_moments else None
    task, metrics = _at(model, newer.task, run.task, moment, length), read_metrics(base)
    train, later = _reference(model, run, manifest)
    train, later = ([month for month in months if _before(month, moment, length)] for months in (train, later))
    if not later:
        raise InputError(f"{moment} is the only cutoff that {model} was evaluated at", "watch a later one", "--cutoff")
    at_hand = _at_hand(model, newer, task, moment, manifest)
    objective, threshold = Objective.of(run.task.label, manifest["classes"]), Calibration.load(model).threshold
    kind, horizons = objective.task, _horizons(objective, at_hand)
    promised = {} if at_hand.labels is None else promise(kind, later, horizons)
    families = [
        input_family(train, later, at_hand, manifest["aggregates"]),
        word_family(later, at_hand),
        score_family(later, at_hand, threshold),
        *([] if at_hand.labels is None else [outcome_family(later, at_hand, kind, horizons)]),
    ]
    result = {
        **{"model": str(model), "name": metrics["name"]},
        "question": plain_question(newer.task),
        "task": kind,
        **{"cutoff": moment, "until": None if length is None else show(parse_cutoff(moment) + length)},
        "rows": at_hand.rows,
        "reference": {"inputs": [m.cutoff for m in train], "later": [m.cutoff for m in later]},
        **{"level": LEVEL, "draws": draws},
        "signals": [asdict(s) | {"rings": s.rings} for s in signals(families, at_hand.rows, draws=draws)],
        "scores": _score_curves(later, at_hand, threshold),
        "outcomes": _outcomes(objective, at_hand, promised, metrics, newer, horizons),
    }
    result = without_nan(result | {"alarm": _sentence(result)})
    _write(result, page)
    return result


@contextmanager
def _of_the_cutoff() -> Iterator[None]:
    """What is wrong with the cutoff, or the test cutoffs that it gives, is said of --cutoff."""
    try:
        yield
    except InputError as error:
        if error.setting not in ("task.cutoffs.test", "cutoff"):
            raise
        raise error.called("--cutoff") from error


def _write(result: dict[str, Any], page: Path) -> None:
    page.parent.mkdir(parents=True, exist_ok=True)
    write_monitor_page(result, page)
    write_whole(page.with_suffix(".json"), json.dumps(result, indent=1, allow_nan=False) + "\n")
    write_whole(page.with_suffix(".prom"), prometheus(result))


def _at(model: Path, task: TaskConfig, trained: TaskConfig, moment: str, length: timedelta | None) -> TaskConfig:
    """The task at the cutoff that is watched, or at the moments from it on that are drawn as those of the test were;
    InputError where the model cannot be watched there."""
    test: list[str] | CutoffRange = [moment]
    if length is not None:
        assert isinstance(trained.cutoffs.test, CutoffRange), "as cutoffs are moments"
        end = (parse_cutoff(moment) + length - INSTANT).isoformat(sep=" ", timespec="microseconds")
        test = replace(trained.cutoffs.test, first=moment, last=end)
    watched = replace(task, cutoffs=Cutoffs(task.cutoffs.train, task.cutoffs.validation, test))
    refuse_other_question(model, watched)
    with _of_the_cutoff():
        refuse_seen(model, watched)
    return watched


def _length(task: TaskConfig, split: str) -> timedelta:
    """Of the time that a split's moments lie in."""
    first, last = parse_bounds(task, split)
    return last - first + INSTANT  # a moment is the microsecond behind its event


def _before(month: Month, moment: str, length: timedelta | None) -> bool:
    """Whether a month has none of the rows that are watched."""
    return abs(parse_cutoff(month.cutoff) - parse_cutoff(moment)) >= (length or INSTANT)


def _reference(model: Path, run: Experiment, manifest: Manifest) -> tuple[list[Month], list[Month]]:
    """The months of training, and those of validation and test with scores and labels.

    Where cutoffs are moments a split is one month, as they were drawn from all of its time. Validation is one of them
    where it is about as long as the test: in another time the same number of moments a user finds other users.
    """
    classifier, tokenizer = load_classifier(model)
    serializer, calibration = EventSerializer.from_pretrained(model), Calibration.load(model)
    moments = run.task.at_moments
    used = [s for s in LATER if not moments or abs(_length(run.task, s) / _length(run.task, "test") - 1) < ALIKE]
    raw = raw_scores(classifier, tokenizer, run.data_folder, used, run)
    task = Objective.of(run.task.label, manifest["classes"]).task
    found: dict[str, list[Month]] = {}
    for split in ("train", *used):
        names = ["user_id", "cutoff", "text", "label", *manifest["aggregates"]]
        rows = read_split(run.data_folder, split, run.limits[split], names)
        tokens = tokens_of_split(tokenizer, run.data_folder, split, run.limits[split])
        values, words = inputs_of(rows, tokens, tokenizer, serializer, manifest["aggregates"])
        labels = column_array(rows["label"])
        scores = calibration.apply(raw[split], task) if split in used else None
        begins = show(parse_bounds(run.task, split)[0] - INSTANT) if moments else None
        found[split] = _months(rows, values, words, scores, labels, begins)
    return found["train"], [month for split in used for month in found[split]]


def _months(
    table: pa.Table,
    values: dict[str, np.ndarray],
    words: dict[str, np.ndarray],
    scores: np.ndarray | None,
    labels: np.ndarray | None,
    begins: str | None,
) -> list[Month]:
    """Rows by their cutoffs, or those of moments as one month that begins then; of each at most MOST."""
    cutoffs = table["cutoff"].to_numpy()
    if begins is None:
        parts = {
            show(cutoff.astype("datetime64[us]").astype(datetime)): np.flatnonzero(cutoffs == cutoff)
            for cutoff in np.unique(cutoffs)
        }
    else:  # each user's first moment, as those of one user are much alike
        order = np.argsort(cutoffs, kind="stable")
        _, first = np.unique(table["user_id"].to_numpy().astype(str)[order], return_index=True)
        parts = {begins: np.sort(order[first])}
    months = []
    for cutoff, rows in parts.items():
        chosen = rows[sampled(len(rows), MOST)]
        months.append(
            Month(
                cutoff,
                {name: column[chosen] for name, column in values.items()},
                {name: counted[:, chosen] for name, counted in words.items()},
                None if scores is None else scores[chosen],
                None if labels is None else labels[chosen],
            )
        )
    return months


def _at_hand(model: Path, newer: Experiment, task: TaskConfig, moment: str, manifest: Manifest) -> Month:
    with _of_the_cutoff():
        later = score_later(model, newer.data, task, labelled=False)
    _, tokenizer = load_classifier(model)
    tokens = tokenize(tokenizer, later.rows["text"].to_pylist())
    serializer = EventSerializer.from_pretrained(model)
    values, words = inputs_of(later.rows, tokens, tokenizer, serializer, manifest["aggregates"])
    horizons = label_horizons(task.label)
    until = later.found.labelled_until + horizons[0]  # the log's end
    passed = sum(later.found.cutoffs[-1] + horizon <= until for horizon in horizons)
    labels = column_array(later.rows["label"]) if passed else None
    if labels is not None and len(horizons) > 1:
        labels = labels[:, :passed]
    begins = moment if task.at_moments else None
    (month,) = _months(later.rows, values, words, later.scores, labels, begins)
    return month


def _horizons(objective: Objective, at_hand: Month) -> np.ndarray | None:
    """Of survival those that have passed, in days."""
    if objective.task != "survival" or at_hand.labels is None:
        return None
    return days(objective.classes[: at_hand.labels.shape[1]])


def _score_curves(later: list[Month], at_hand: Month, threshold: float | None) -> dict[str, Any]:
    """Histograms of the scores, and the share from the threshold on."""
    spread = {
        "reference": np.concatenate([score_line(month.scores) for month in later if month.scores is not None]),
        "month": score_line(at_hand.scores) if at_hand.scores is not None else np.empty(0),
    }
    everything = np.concatenate([*spread.values()])
    edges = np.linspace(everything.min(), everything.max(), 31)
    found: dict[str, Any] = {"edges": edges, "threshold": threshold}
    for name, scores in spread.items():
        found[name] = {"shares": np.histogram(scores, edges)[0] / len(scores), "mean": scores.mean()}
        found[name]["above"] = None if threshold is None else np.mean(scores >= threshold)
    return found


def _outcomes(
    objective: Objective,
    at_hand: Month,
    promised: dict[str, float],
    metrics: Any,
    newer: Experiment,
    horizons: np.ndarray | None,
) -> list[dict[str, Any]] | None:
    """Each measure of the month with its interval, beside what metrics.json says of the test rows, of all horizons;
    None where no label is known."""
    if at_hand.labels is None:
        return None
    task, known, test = objective.task, objective.known, metrics["test"]
    labels, scores = _of(at_hand)
    if horizons is not None:
        test = test if len(horizons) == scores.shape[1] else {}
        scores, known = scores[:, : len(horizons)], {"horizons": known["horizons"][: len(horizons)]}
    scored = ScoredRows(task, labels, {MODEL: scores}, np.arange(at_hand.rows), **known)
    drawn = bootstrap(scored, newer.evaluation.bootstrap)[MODEL]
    now = outcomes(task, labels, scores, horizons)
    found = [
        {
            "name": name,
            "value": now[name],
            "interval": interval(drawn[name]),
            "promised": test.get(name),
            "promised_interval": test.get(f"{name}_interval"),
        }
        for name in (MAIN[task], LIFT, BRIER)
        if name in now
    ]
    random = np.random.default_rng(0)
    again = (random.integers(0, at_hand.rows, at_hand.rows) for _ in range(newer.evaluation.bootstrap))
    means = np.array([apart(labels[rows], scores[rows], horizons) for rows in again])
    gap = {"name": CALIBRATION, "value": now[CALIBRATION], "interval": interval(means)}
    return [*found, gap | {"promised": promised[CALIBRATION], "promised_interval": None}]


def _of(month: Month) -> tuple[np.ndarray, np.ndarray]:
    assert month.labels is not None
    assert month.scores is not None
    return month.labels, month.scores


def _sentence(result: dict[str, Any]) -> str | None:
    """What rings, the loudest first."""
    ringing = [signal for signal in result["signals"] if signal["rings"]]
    if not ringing:
        return None
    shown = ", ".join(f"{signal['name']} ({signal['family']})" for signal in ringing[:3])
    more, lies = f" and {len(ringing) - 3} more" if len(ringing) > 3 else "", "lie" if len(ringing) > 1 else "lies"
    return f"at {result['cutoff']} {shown}{more} {lies} further from the time of {result['model']} than quiet months do"


def prometheus(result: dict[str, Any]) -> str:
    """The signals in Prometheus' text format, for the node exporter's textfile collector or a push gateway."""
    model, found = f'model="{_escaped(result["model"])}"', result["signals"]
    each = [f'{model},family="{signal["family"]}",signal="{_escaped(signal["name"])}"' for signal in found]
    gauges = {
        "value": ("How far the month lies from the reference.", each, [signal["value"] for signal in found]),
        "threshold": ("Above which it rings.", each, [signal["threshold"] for signal in found]),
        "alarm": ("Whether it rings.", each, [int(signal["rings"]) for signal in found]),
        "alarms": ("How many signals ring.", [model], [sum(signal["rings"] for signal in found)]),
        "rows": ("Users at the cutoff.", [model], [result["rows"]]),
        "cutoff_seconds": ("The cutoff, in seconds since 1970.", [model], [_seconds(result["cutoff"])]),
    }
    lines = []
    for name, (told, labels, values) in gauges.items():
        lines += [f"# HELP eventscribe_monitor_{name} {told}", f"# TYPE eventscribe_monitor_{name} gauge"]
        lines += [f"eventscribe_monitor_{name}{{{of}}} {value:.10g}" for of, value in zip(labels, values, strict=True)]
    return "\n".join(lines) + "\n"


def _seconds(moment: str) -> int:
    return int((datetime.fromisoformat(moment) - datetime(1970, 1, 1)).total_seconds())


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
