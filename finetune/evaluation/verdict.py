"""What the figures of an evaluation say, in sentences and as a table on the screen."""

import math
from textwrap import wrap

import numpy as np

from finetune.figures.measures import BLEND, MEAN_OF_SEEDS, MODEL, best_rival, judged, measure, measure_names
from finetune.figures.metrics_json import Metrics
from finetune.wording import FEW_POSITIVES, number, plain_number, span, standing, worded

STANDING = {"ahead": "is ahead of", "behind": "is behind", "level": "cannot be told apart from"}
SAME = 0.01  # scores that differ by less than that part of themselves say the same of everyone


def verdict(metrics: Metrics) -> str:
    """A sentence: is a single checkpoint ahead of the best baseline, and how sure is that? Where it is behind, a second
    one says what to take instead, and with several seeds another one what their mean has."""
    test, main, sign = judged(metrics), metrics["main"], -1 if metrics["lower_is_better"] else 1
    called, several = measure(main, metrics["task"]).title, bool(metrics.get("single"))
    name = best_rival(test["baselines"], main)
    if math.isnan(test[main]) or name is None:
        return f"The test rows cannot tell how good the model is: {called} is not defined on them."
    best = test["baselines"][name]
    difference, interval = best[f"{main}_difference"], best[f"{main}_difference_interval"]
    found = standing(interval, metrics["lower_is_better"])
    few, who, over = "", "the model", ""
    if several:
        who, over = f"a single model (the mean of {len(metrics['seeds'])} seeds)", " over users and seeds"
    if metrics["task"] != "value" and test["positives"] < FEW_POSITIVES:
        few = f"Only {test['positives']} positives, too few to tell: "
    said = (
        f"{few}On the test cutoffs {who} {STANDING[found]} the baseline that is best there, {worded(name)}: "
        f"{called} {test[main]:.4f} against {best[main]:.4f}, a difference of {number(difference, 4, '+')} "
        f"(95 % interval {span(interval, 4, '+')}{over})"
    )
    said += "; lower is better." if sign < 0 else "."
    blended = test["baselines"].get(BLEND)
    if found == "behind":
        both = f"; the mean of model and boosting has {called} {blended[main]:.4f}" if blended else ""
        said += f" On this log {worded(name)} is the better choice{both}."
    return said + (_of_seeds(test, main, called) if several else "")


def _of_seeds(test: dict, main: str, called: str) -> str:
    """How far the seeds lie apart, and what the mean of their scores has."""
    mean = test["baselines"][MEAN_OF_SEEDS]
    gained = -mean[f"{main}_difference"]
    return (
        f" Between the seeds {called} has a standard deviation of {test['deviation']:.4f}; the mean of their scores "
        f"has {mean[main]:.4f} ({number(gained, 4, '+')}), which no single model gives."
    )


def says_the_same(scores: np.ndarray) -> bool:
    """Whether a model tells no user from another, as one that has learned nothing but how frequent each class is.

    Args:
        scores: Of shape (rows,) or (rows, classes).
    """
    columns = scores.reshape(len(scores), -1)
    return len(columns) > 1 and bool((np.ptp(columns, axis=0) <= SAME * np.abs(columns).mean(axis=0)).all())


def table(metrics: Metrics) -> str:
    """The test results as a table for the screen."""
    test, shown = judged(metrics), measure_names(metrics["task"], "screen")
    main = shown[0]
    columns = [f"{measure(metric, metrics['task']).title:<30}" for metric in shown]
    lines = [f"{'test':<22}{''.join(columns)}model minus this ({measure(main, metrics['task']).title})"]
    for name, figures in {MODEL: test, **test["baselines"]}.items():
        cells = [f"{_show(figures[metric])} {_span(figures[f'{metric}_interval'])}" for metric in shown]
        apart = ""
        if name != MODEL:
            apart = f"{_show(figures[f'{main}_difference'], '+')} "
            apart += _span(figures[f"{main}_difference_interval"], "+")
        lines.append(f"{worded(name):<22}{''.join(f'{cell:<30}' for cell in cells)}{apart}".rstrip())
    counted = {"value": "a value above 0", "tiers": "a label above the lowest tier"}.get(
        metrics["task"], metrics["label"]
    )
    rows = f"{test['rows']:,} rows of {test['users']:,} users, {test['positives']:,} with {counted}"
    if metrics["task"] == "propensity":
        pairs = test["rows"] * len(metrics["classes"])
        rows = f"{test['rows']:,} rows of {test['users']:,} users, {test['positives']:,} of {pairs:,} labels are 1"
    over = " and seeds; the model is a single one of theirs" if metrics.get("single") else ""
    lines.append(f"{rows}; 95 % intervals by bootstrap over users{over}")
    return "\n".join([*lines, "", *wrap(metrics["verdict"], 100)])


def _show(value: float | None, sign: str = "") -> str:
    return "-" if value is None else plain_number(value, 4, sign)


def _span(bounds: list[float | None], sign: str = "") -> str:
    return f"[{_show(bounds[0], sign)}, {_show(bounds[1], sign)}]"
