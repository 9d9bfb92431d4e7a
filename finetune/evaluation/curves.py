"""What the report's pictures draw of the test rows and of the training, small enough for metrics.json."""

import heapq
from collections.abc import Callable

import numpy as np
from sklearn.metrics import roc_auc_score

from data_prep.checked_json import MayLack
from finetune.experiment.config import Experiment
from finetune.figures.measures import MODEL, SAME_FOR_ALL
from finetune.figures.metrics import deciles, running_total
from finetune.figures.survival import days, kaplan_meier, risk
from finetune.runs import PRIVACY, REWEIGHED, read_pretraining_log, read_training_log

POINTS, FINE = 200, 20_000  # of a curve, chosen from so many in equal steps along it
GRID = 100  # steps of a difference between two curves
DECIMALS = 6  # of a point; a page has a thousand pixels
BARS, BARS_BY_LABEL = 40, 30  # of the histograms
CLASSES = 15  # of propensity: that many of the most frequent are drawn
BINS = 10  # of rows by their risk
LONGEST = 20  # list of classes that is drawn


def curves(task: str, classes: list[str] | None, labels: np.ndarray, scores: dict[str, np.ndarray]) -> dict:
    """Curves, bins and medians of the rows that all scorers gave a score; their order does not matter.

    Those of the majority are left out, as the same score for all is chance.

    Args:
        task: See `finetune.model.objective.Objective`.
        classes: Names of the tiers or of propensity's classes, or the horizons.
        labels: Of shape (rows,), for propensity and survival (rows, classes).
        scores: "model" and the baselines -> scores of shape (rows,), or (rows, classes) for tiers and propensity; NaN
            where there is none.

    Returns:
        rows and unscored (how many have all scores, and have not), and

        - binary: roc, precision_recall and gain of each scorer; calibration, histograms and medians of the model; and
          differences, curve -> baseline -> the model minus it in GRID steps from 0 to 1 of what the curve runs over
        - tiers: auroc and roc of the model, by tier; calibration and histograms over pairs of row and tier
        - value: gain of each scorer, and perfect_gain
        - survival: by_horizon, of each horizon bins of equal count by the model's score there, and by_risk, bins by
          `finetune.figures.survival.risk`, the least first: rows, the mean score and the share by Kaplan and Meier
        - propensity: class_auroc and at_k of each scorer; calibration and histograms over pairs of row and class

        An entry is empty where the labels cannot give it, such as a ROC curve of one class.
    """
    scored = np.ones(len(labels), bool)
    for values in scores.values():
        scored &= np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    labels = labels[scored]
    scorers = {name: values[scored] for name, values in scores.items() if name not in SAME_FOR_ALL}
    found = {"rows": len(labels), "unscored": int((~scored).sum())}
    if task == "binary":
        return found | _binary(labels, scorers)
    if task == "value":
        return found | _value(labels, scorers)
    assert classes is not None  # which values alone lack
    if task == "survival":
        return found | _survival(classes, labels, scorers[MODEL])
    if task == "tiers":
        return found | _tiers(classes, labels, scorers[MODEL])
    return found | _propensity(classes, labels, scorers)


def seconds_before(experiment: Experiment) -> dict[str, float]:
    """What the steps before evaluation took, where their logs say it."""
    logs = {}
    if experiment.pretraining.max_steps:
        logs["pretrain"] = [read_pretraining_log(experiment.pretrained_folder)]
    logs["train"] = [read_training_log(run.run_folder, {"seconds": MayLack(float)}) for run in experiment.seed_runs()]
    seconds = {step: [log.get("seconds") for log in taken] for step, taken in logs.items()}
    return {step: round(sum(taken), 1) for step, taken in seconds.items() if None not in taken}


def training(experiment: Experiment, main: str) -> dict:
    """What the report shows of the training's logs, of several seeds the last one's.

    Returns:
        steps, trainable_parameters, total_parameters, device, processes, class_weights, teacher, teacher_model,
        members and unlabelled;
        privacy, reweigh and value_factor, where training had them; pretraining_steps (0 where the run has no
        pretraining); and of loss, eval_loss, the main metric's eval_METRIC, padding_fraction and pretraining_loss the
        steps and values that were logged.
    """
    holds = {
        "history": [{"step": int}],
        "privacy": MayLack(PRIVACY),
        "reweigh": MayLack(REWEIGHED),
        "value_factor": MayLack(float),
    }
    log, before = read_training_log(experiment.seed_runs()[-1].run_folder, holds), {}
    if experiment.pretraining.max_steps:
        before = read_pretraining_log(experiment.pretrained_folder)
    before = before or {"steps": 0, "history": []}
    facts = ("steps", "trainable_parameters", "total_parameters", "device", "processes", "class_weights", "teacher")
    facts += ("teacher_model", "members", "unlabelled")
    drawn = ("loss", "eval_loss", f"eval_{main}", "padding_fraction")
    return {
        **{key: log.get(key) for key in facts},
        "pretraining_steps": before["steps"],
        **{key: log[key] for key in ("privacy", "reweigh", "value_factor") if log.get(key)},
        **{key: _series(log, key) for key in drawn},
        "pretraining_loss": _series(before, "loss"),
    }


def _series(log: dict, key: str) -> dict[str, list]:
    """One key of transformers' log history."""
    entries = [entry for entry in log["history"] if key in entry]
    return {"steps": [entry["step"] for entry in entries], "values": [entry[key] for entry in entries]}


def _binary(labels: np.ndarray, scorers: dict[str, np.ndarray]) -> dict:
    if len(np.unique(labels)) < 2:
        drawn = ("roc", "precision_recall", "gain", "differences", "calibration", "histograms", "medians")
        return {key: {} for key in drawn}
    model, totals = scorers[MODEL], {name: running_total(labels, values) for name, values in scorers.items()}
    positive, negative = model[labels == 1], model[labels == 0]
    return {
        "roc": {name: _roc(*total) for name, total in totals.items()},
        "precision_recall": {name: _precision_recall(*total) for name, total in totals.items()},
        "gain": {name: _gain(*total) for name, total in totals.items()},
        "differences": {
            "roc": _differences(totals, _true_positives_at),
            "precision_recall": _differences(totals, _precision_at),
            "gain": _differences(totals, _captured_at),
        },
        "calibration": _calibration(labels, model),
        "histograms": {
            "all": _histogram(model, model, BARS),
            "negative": _histogram(negative, model, BARS_BY_LABEL),
            "positive": _histogram(positive, model, BARS_BY_LABEL),
        },
        "medians": {"positive": np.median(positive), "negative": np.median(negative)},
    }


def _tiers(classes: list[str], labels: np.ndarray, scores: np.ndarray) -> dict:
    own = {name: (labels == at, scores[:, at]) for at, name in enumerate(classes)}
    own = {name: pair for name, pair in own.items() if 0 < pair[0].sum() < len(labels)}
    return {
        "auroc": {name: roc_auc_score(*pair) for name, pair in own.items()},
        "roc": {name: _roc(*running_total(*pair)) for name, pair in own.items()},
        **_pairs(labels[:, None] == np.arange(len(classes)), scores, len(np.unique(labels)) > 1),
    }


def _value(labels: np.ndarray, scorers: dict[str, np.ndarray]) -> dict:
    if labels.sum() <= 0:
        return {"gain": {}, "perfect_gain": {}}
    return {
        "gain": {name: _gain(*running_total(labels, values)) for name, values in scorers.items()},
        "perfect_gain": _gain(*running_total(labels, labels)),
    }


def _propensity(classes: list[str], labels: np.ndarray, scorers: dict[str, np.ndarray]) -> dict:
    found = {"class_auroc": {}, "at_k": {}, **_pairs(labels, scorers[MODEL], len(np.unique(labels)) > 1)}
    if not labels.any():
        return found
    counts, has = labels.sum(axis=0, dtype=int), labels.any(axis=1)
    drawn = [at for at in np.argsort(-counts, kind="stable")[:CLASSES] if 0 < counts[at] < len(labels)]
    areas = {name: [roc_auc_score(labels[:, at], scores[:, at]) for at in drawn] for name, scores in scorers.items()}
    found["class_auroc"] = {"classes": [classes[at] for at in drawn], "positives": counts[drawn], "auroc": areas}
    found["at_k"] = {name: _at_k(labels[has], scores[has]) for name, scores in scorers.items()}
    return found


def _survival(horizons: list[str], labels: np.ndarray, scores: np.ndarray) -> dict:
    def binned(order: np.ndarray, at: int | slice) -> dict:
        bins = np.array_split(np.argsort(order, kind="stable"), min(BINS, len(order)))
        return {
            "rows": [len(rows) for rows in bins],
            "predicted": [scores[rows].mean(axis=0)[at] for rows in bins],
            "observed": [kaplan_meier(labels[rows])[at] for rows in bins],
        }

    whole = binned(risk(scores, days(horizons)), slice(None))
    each = [binned(scores[:, at], at) for at in range(len(horizons))]
    return {"by_horizon": each, "by_risk": whole, "come_by": kaplan_meier(labels), "expected": scores.mean(axis=0)}


def _pairs(labels: np.ndarray, scores: np.ndarray, differ: bool) -> dict:
    """Calibration and histogram over all pairs of row and class, both of shape (rows, classes), if labels differ."""
    if not differ:
        return {"calibration": {}, "histograms": {}}
    scores = scores.ravel()
    return {
        "calibration": _calibration(labels.ravel(), scores),
        "histograms": {"all": _histogram(scores, scores, BARS)},
    }


def _roc(rows: np.ndarray, found: np.ndarray) -> dict[str, np.ndarray]:
    """The ROC curve, from the rows and the positives above each score."""
    missed = rows - found
    return _thinned(false_positive_rate=missed / missed[-1], true_positive_rate=found / found[-1])


def _precision_recall(rows: np.ndarray, found: np.ndarray) -> dict[str, np.ndarray]:
    """The precision-recall curve with the corners of its steps, as a straight line between two scores would promise a
    precision that no threshold gives. For the same reason it begins at the highest score, without scikit-learn's point
    of recall 0 and precision 1."""
    rows, found = rows[1:], found[1:]
    return _thinned(recall=np.repeat(found / found[-1], 2)[:-1], precision=np.repeat(found / rows, 2)[1:])


def _gain(rows: np.ndarray, found: np.ndarray) -> dict[str, np.ndarray]:
    """Shares of the rows, highest scores first, and of the positives or the value that they hold."""
    return _thinned(rows=rows / rows[-1], captured=found / found[-1])


def _differences(
    totals: dict[str, tuple[np.ndarray, np.ndarray]], curve: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> dict[str, np.ndarray]:
    """The model's curve minus that of each baseline, of shape (GRID + 1,): of all points, as the curves are thinned by
    about as much as they differ."""
    values = {name: curve(*total) for name, total in totals.items()}
    return {name: np.round(values[MODEL] - theirs, DECIMALS) for name, theirs in values.items() if name != MODEL}


def _at(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A curve from 0 to 1 in steps of the same size."""
    return np.interp(np.linspace(0, 1, GRID + 1), x, y)


def _true_positives_at(rows: np.ndarray, found: np.ndarray) -> np.ndarray:
    missed = rows - found
    return _at(missed / missed[-1], found / found[-1])


def _captured_at(rows: np.ndarray, found: np.ndarray) -> np.ndarray:
    return _at(rows / rows[-1], found / found[-1])


def _precision_at(rows: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Precision where a recall is reached; NaN at recall 0, of which there is none."""
    needed = _at(found / found[-1], rows)
    return np.divide(np.linspace(0, found[-1], GRID + 1), needed, where=needed > 0, out=np.full(GRID + 1, np.nan))


def _thinned(**axes: np.ndarray) -> dict[str, np.ndarray]:
    """A curve by at most POINTS of its points: the ends, and then always the one furthest from the line so far.

    Equal steps along the curve would cut the corners of a precision-recall curve of some hundred rows.

    Source: Douglas, Peucker: Algorithms for the reduction of the number of points required to represent a digitized
    line or its caricature, 1973.
    """
    x, y = axes.values()
    if len(x) > FINE:
        along = np.append(0.0, np.cumsum(np.hypot(np.diff(x), np.diff(y))))
        fine = np.unique(np.searchsorted(along, np.linspace(0, along[-1], FINE)))
        x, y = x[fine], y[fine]
    kept, parts = [0, len(x) - 1], []

    def split(start: int, end: int) -> None:
        if end - start < 2:
            return
        right, up = x[start + 1 : end] - x[start], y[start + 1 : end] - y[start]
        dx, dy = x[end] - x[start], y[end] - y[start]
        place = np.clip((right * dx + up * dy) / ((dx**2 + dy**2) or 1), 0, 1)
        off = np.hypot(right - place * dx, up - place * dy)
        heapq.heappush(parts, (-off.max(), start + 1 + int(off.argmax()), start, end))

    split(*kept)
    while parts and len(kept) < POINTS:
        _, furthest, start, end = heapq.heappop(parts)
        kept.append(furthest)
        split(start, furthest)
        split(furthest, end)
    kept.sort()
    return dict(zip(axes, (np.round(x[kept], DECIMALS), np.round(y[kept], DECIMALS)), strict=True))


def _calibration(labels: np.ndarray, scores: np.ndarray) -> dict:
    """Of ten bins of equal count, lowest scores first: mean score (predicted), share of positives (observed) and rows;
    mean_score and mean_label over all rows."""
    bins = deciles(labels, scores)[::-1]
    return {
        "predicted": [part["predicted"] for part in bins],
        "observed": [part["real"] for part in bins],
        "rows": [part["rows"] for part in bins],
        "mean_score": scores.mean(),
        "mean_label": labels.mean(),
    }


def _histogram(scores: np.ndarray, all_scores: np.ndarray, bars: int) -> dict[str, np.ndarray]:
    """Counts within edges that span all scores: from zero on, where they do not lie close together."""
    low, high = float(all_scores.min()), max(float(all_scores.max()), 0.01)
    close = low < 0 or 0.75 * high < low < high
    counts, edges = np.histogram(scores, np.linspace(low if close else 0.0, high, bars + 1))
    return {"edges": edges, "counts": counts}


def _at_k(labels: np.ndarray, scores: np.ndarray) -> dict[str, np.ndarray]:
    """Mean precision and recall of a row's 1, 2, ... highest-scored classes; every row has a class."""
    longest = min(LONGEST, labels.shape[1])
    best = np.argsort(-scores, axis=1, kind="stable")[:, :longest]
    hits = np.cumsum(np.take_along_axis(labels, best, axis=1), axis=1, dtype=float)
    precision, recall = hits / np.arange(1, longest + 1), hits / labels.sum(axis=1, keepdims=True)
    return {"precision": precision.mean(axis=0), "recall": recall.mean(axis=0)}
