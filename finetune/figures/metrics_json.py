"""What metrics.json holds: made from the table of measures, so that whoever reads it can rely on every figure's form.

`finetune/README.md` says what each part means; `finetune.evaluation` writes them.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np

from data_prep import InputError
from data_prep.checked_json import Alike, MayBeEmpty, MayLack, a_duration, a_moment, check, is_a, moments, read_json
from data_prep.cutoffs import SPLITS
from data_prep.given_examples import ORIGINS
from finetune.figures.measures import (
    AT_THRESHOLD,
    GAPS,
    LOWER_IS_BETTER,
    MAIN,
    MEAN_OF_SEEDS,
    MODEL,
    RATES,
    REPEAT_AND_NEW,
    measure_names,
)
from finetune.runs import METRICS, PRIVACY, REWEIGHED, TASKS


class Metrics(TypedDict):
    """metrics.json as `read_metrics` gives it. Entries that older versions did not write are None or empty."""

    name: str
    task: str
    question: str
    plain_question: str | None
    labels_from: str | None
    label: str
    horizon: str
    classes: Any  # list[str]; None where the label is a value
    main: str
    lower_is_better: bool
    validation: dict[str, Any]
    test: dict[str, Any]
    collapsed: list[int]
    verdict: str
    calibration: dict[str, Any] | None
    profit: Any  # a dict; None without costs
    contact: Any  # a dict; None where nobody is contacted
    timeline: dict[str, Any] | None
    made_up: dict[str, Any] | None
    by_cutoff: list[dict[str, Any]]
    slices: dict[str, dict[str, Any]]
    group_thresholds: Any  # a dict; None where no groups have thresholds of their own
    curves: dict[str, Any]
    training: dict[str, Any]
    drift: list[dict[str, Any]]
    lengths: dict[str, dict[str, Any]]
    seeds: dict[str, dict[str, Any]]
    single: Any  # a dict; None where there are no several seeds
    made: dict[str, Any]


def an_interval(content: Any) -> bool:
    """Its two ends; None where they are not defined."""
    return _figures(2)(content)


def a_count_above_zero(content: Any) -> bool:
    """Of rows or users who were measured."""
    return is_a(content, int) and content > 0


def a_share(content: Any) -> bool:
    """From 0 to 1."""
    return is_a(content, float) and 0 <= content <= 1


def a_histogram(content: Any) -> bool:
    """Edges and the counts between them."""
    edges, counts = (content.get(key) for key in ("edges", "counts")) if isinstance(content, dict) else (None, None)
    return isinstance(counts, list) and _figures(len(counts) + 1)(edges) and all(isinstance(n, int) for n in counts)


def _figures(number: int) -> Callable[[Any], bool]:
    """So many numbers, some of which may not be defined."""

    def a_list(content: Any) -> bool:
        return (
            isinstance(content, list) and len(content) == number and all(is_a(n, float) or n is None for n in content)
        )

    a_list.__name__ = f"a list of {number} numbers"
    return a_list


def _square(size: int) -> Callable[[Any], bool]:
    """Rows and columns of numbers, as many of the one as of the other."""

    def a_table(content: Any) -> bool:
        return isinstance(content, list) and len(content) == size and all(map(_figures(size), content))

    a_table.__name__ = f"a table of {size} rows and columns"
    return a_table


FIGURE, INTERVAL = MayLack(float), MayLack(an_interval)
NUMBER = (None, float)  # which is always there
COUNTS = {"rows": a_count_above_zero, "users": a_count_above_zero, "positives": int}
PAIRED = {"difference": NUMBER, "interval": (None, an_interval)}
DECILE = {"rows": a_count_above_zero, "predicted": NUMBER, "real": NUMBER}
FIGURES = [NUMBER]
SERIES = Alike(steps=[int], values=FIGURES)
STEPS = _figures(101)  # shares of the users, in per cent
CONTACT = {
    "cutoff": a_moment,
    "horizon": MayLack(a_duration),
    "users": int,
    "total": float,
    "share": a_share,
    "contacted": STEPS,
    "found": {MODEL: STEPS, str: STEPS},
    "low": STEPS,
    "high": STEPS,
    "ahead": {str: {"low": STEPS, "high": STEPS}},
    "contacted_at": float,
    "found_at": {MODEL: float, str: float},
    "found_at_interval": INTERVAL,
    "difference_at": {str: PAIRED},
}
PROFIT = Alike(
    contact=float,
    kept_customer=float,
    shares=[float],
    profits=[float],
    interval_low=FIGURES,
    interval_high=FIGURES,
    best_share=NUMBER,
    best_profit=NUMBER,
    share_at_threshold=FIGURE,
    profit_at_threshold=FIGURE,
    profit_at_threshold_interval=INTERVAL,
)
_RATED = dict.fromkeys(RATES[:2], FIGURE) | {f"{key}_interval": INTERVAL for key in RATES[:2]}
_OVERALL = {
    key: held
    for name in ("selected_rate", "precision", "recall", "profit")
    for key, held in ((name, FIGURE), (f"{name}_interval", INTERVAL))
}
_GAPS = dict.fromkeys(GAPS, FIGURE) | {f"{name}_interval": INTERVAL for name in GAPS}
GROUP_THRESHOLDS = {
    "by": str,
    "equal": {"opportunity", "selection"},
    "groups": [{"value": str, "rows": a_count_above_zero, "threshold": FIGURE, "one": _RATED, "own": _RATED}],
    "common": {str: str},
    "gaps": {"one": _GAPS, "own": _GAPS},
    "overall": {rule: {"contacted": int, "found": int} | _OVERALL for rule in ("one", "own")}
    | {"difference": _OVERALL},
}
CALIBRATION = MayBeEmpty(Alike(predicted=FIGURES, observed=FIGURES, rows=[int], mean_score=NUMBER, mean_label=NUMBER))
GAIN = {str: Alike(rows=[float], captured=[float])}
ROC = {str: Alike(false_positive_rate=[float], true_positive_rate=[float])}
PAIRS = {"calibration": CALIBRATION, "histograms": MayBeEmpty({"all": a_histogram})}
CURVES: dict[str, dict[str, Any]] = {
    "binary": {
        "roc": ROC,
        "precision_recall": {str: Alike(recall=[float], precision=[float])},
        "gain": GAIN,
        "differences": MayLack({str: {str: STEPS}}),
        "calibration": CALIBRATION,
        "histograms": MayBeEmpty(dict.fromkeys(("all", "negative", "positive"), a_histogram)),
        "medians": MayBeEmpty({"positive": NUMBER, "negative": NUMBER}),
    },
    "tiers": PAIRS | {"auroc": {str: NUMBER}, "roc": ROC},
    "value": {"gain": GAIN, "perfect_gain": MayBeEmpty(GAIN[str])},
    "survival": {
        "by_horizon": [Alike(rows=[int], predicted=FIGURES, observed=FIGURES)],
        "by_risk": Alike(rows=[int], predicted=[FIGURES], observed=[FIGURES]),
        "come_by": FIGURES,
        "expected": FIGURES,
    },
    "propensity": PAIRS
    | {
        "class_auroc": MayBeEmpty({"classes": [str], "positives": [int], "auroc": {str: FIGURES}}),
        "at_k": {str: Alike(precision=FIGURES, recall=FIGURES)},
    },
}
MADE = {
    "date": str,
    "seconds": MayLack({str: float}),
    "device": str,
    "processes": int,
    "versions": {str: str},
    "seed": (int, [int]),
    "bootstrap_resamples": int,
    "baseline_settings": {str: dict},
    "evaluation": MayLack({"costs": MayLack({"contact": float, "kept_customer": float})}),
    "content_hash": str,
    "log": MayLack({"first": a_moment, "last": a_moment, "events": int, "users": int, "rejected": {str: int}}),
    "splits": MayLack({str: int}),
}
# Where older versions, or a run without several seeds, wrote nothing.
EMPTY = {"collapsed": [], "by_cutoff": [], "slices": {}, "drift": [], "lengths": {}, "seeds": {}}


def read_metrics(folder: Path) -> Metrics:
    """metrics.json of a run's folder.

    Raises:
        InputError: It is missing, of a version that drew no curves, or holds something else than an evaluation writes.
    """
    path, remedy = Path(folder) / METRICS, "run scripts/evaluate.py again"
    metrics = read_json(path, {}, remedy)
    if not {"task", "curves"} <= metrics.keys():
        raise InputError(f"{path} is of an older version", remedy)
    check(path, metrics, {"task": TASKS, "classes": MayLack([str])}, remedy)
    task, classes = metrics["task"], metrics.get("classes") or []
    if (task == "value") != (not classes) or (task == "binary" and len(classes) != 2):
        raise InputError(f"{path} is damaged (a {task} label with {len(classes)} classes)", remedy)
    if task == "survival":
        check(path, classes, [a_duration], remedy)
    holds = metrics_holds(task, len(classes))
    check(path, metrics, holds, remedy)
    lacking = {key: None for key, value in holds.items() if isinstance(value, MayLack)} | EMPTY
    return cast(Metrics, lacking | {key: value for key, value in metrics.items() if value is not None})


MAY_COUNT = ("trainable_parameters", "total_parameters", "processes", "members", "unlabelled")  # in training


def metrics_holds(task: str, classes: int) -> dict[str, Any]:
    """What metrics.json of a task with so many classes must hold, for `check`."""
    main = MAIN[task]
    scored = COUNTS | figures_hold(task, classes)
    baseline = _baseline_holds(task, classes)
    compared = scored | {"cutoffs": moments, "baselines": {str: baseline}}
    single = figures_hold(task, classes) | {"deviation": NUMBER, "validation": NUMBER}
    single |= {"baselines": {MEAN_OF_SEEDS: baseline, str: baseline}}
    compared |= {"confusion": MayLack(_square(max(classes, 2))), "deciles": MayLack([DECILE])}
    group = scored | {"value": str} | dict.fromkeys(RATES, FIGURE)
    changed = {f"{main}_change": FIGURE, f"{main}_change_interval": INTERVAL}
    training = dict.fromkeys(("loss", "eval_loss", f"eval_{main}", "padding_fraction", "pretraining_loss"), SERIES)
    return dict.fromkeys(("name", "question", "label", "verdict"), str) | {
        "task": {task},
        "plain_question": MayLack(str),
        "labels_from": MayLack({*ORIGINS}),
        "horizon": a_duration,
        "classes": MayLack([str]),
        "main": {main},
        "lower_is_better": {main in LOWER_IS_BETTER},
        "validation": compared,
        "test": compared,
        "collapsed": MayLack([int]),
        "calibration": MayLack(
            {
                "method": {"none", "temperature", "isotonic"},
                "temperature": MayLack((float, FIGURES)),
                "threshold": FIGURE,
                "threshold_by": MayLack({"f1", "budget", "money"}),
                "before": MayLack(figures_hold(task, classes)),
            }
        ),
        "profit": MayLack(PROFIT),
        "contact": MayLack(CONTACT),
        "timeline": MayLack({split: {"cutoffs": moments, "rows": int} for split in SPLITS}),
        "made_up": MayLack({"cutoff": a_moment, "events": [{"days": int, "fields": dict}], "text": str}),
        "by_cutoff": MayLack([scored | {"cutoff": a_moment} | changed]),
        "slices": MayLack(
            {str: {"groups": [group], "gaps": MayLack(_GAPS), "too_small": MayLack([{"value": str, "rows": int}])}}
        ),
        "group_thresholds": MayLack(GROUP_THRESHOLDS),
        "curves": {"rows": int, "unscored": int} | CURVES[task],
        "training": training
        | dict.fromkeys(("steps", "pretraining_steps"), int)
        | dict.fromkeys(MAY_COUNT, MayLack(int))
        | {
            "device": MayLack(str),
            "class_weights": MayLack(_figures(classes)),
            "teacher": FIGURE,
            "teacher_model": MayLack(str),
            "reweigh": MayLack(REWEIGHED),
            "privacy": MayLack(PRIVACY),
            "value_factor": MayLack(NUMBER),
        },
        "drift": MayLack([{"input": str, "psi": NUMBER, "ages": MayLack(bool)}]),
        "lengths": MayLack({str: a_histogram}),
        "seeds": MayLack({str: figures_hold(task, classes)}),
        "single": MayLack(single),
        "made": MADE,
    }


def _baseline_holds(task: str, classes: int) -> dict[str, Any]:
    """A baseline's measures, and what the model is beside it; of the blend also what it is beside the baselines."""
    apart = {f"{MAIN[task]}_difference": FIGURE, f"{MAIN[task]}_difference_interval": INTERVAL}
    return figures_hold(task, classes) | apart | {"over": MayLack({str: PAIRED})}


def figures_hold(task: str, classes: int) -> dict[str, Any]:
    """The measures of one scorer and their intervals; older versions lack some, but never the main one."""
    more = {"binary": AT_THRESHOLD, "propensity": REPEAT_AND_NEW}.get(task, ())
    names = [*measure_names(task, classes=classes), *more]
    found = dict.fromkeys(names, FIGURE) | {f"{name}_interval": INTERVAL for name in names}
    return found | {MAIN[task]: NUMBER}


def without_nan(value: Any) -> Any:
    """The same for JSON: plain numbers, and None in the place of what is not a number."""
    if isinstance(value, dict):
        return {str(key): without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [without_nan(part) for part in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
