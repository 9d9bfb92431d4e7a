"""Pictures of a run's scores against what came: the test metrics and curves of metrics.json."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from finetune.figures.measures import MODEL, SAME_FOR_ALL, SHARES, UNDRAWN, best_rival
from finetune.figures.metrics_json import Metrics
from finetune.report.label_pictures import at_k, class_auroc, confusion, deciles, tier_roc, value_gain
from finetune.report.pictures import (
    BLUE,
    DASHED,
    FILL,
    INK,
    SOLID,
    THIN,
    Picture,
    finish,
    inline_svg,
    legend,
    percents,
    small_figure,
    square_figure,
    styles,
    wide_figure,
)
from finetune.report.survival_pictures import calibration_by_horizon, measures_by_horizon, survival_curves
from finetune.wording import listed, missing, named, number, percent, span, worded

UNSURE = 5  # per cent of the positives: below it a precision rests on few rows


def ranking_pictures(metrics: Metrics) -> list[Picture]:
    """How well the model orders users, beside the baselines; nothing where the labels cannot tell.

    Args:
        metrics: The content of metrics.json.
    """
    task, curves = metrics["task"], metrics["curves"]
    scorers = _drawn(metrics)
    if task == "binary" and curves["roc"]:
        return [_lift(scorers)]
    if task == "tiers" and curves["rows"]:
        return [confusion(metrics["test"], metrics["classes"]), tier_roc(metrics["classes"], curves)]
    if task == "value" and curves["rows"]:
        return [deciles(metrics["test"]), value_gain(scorers, curves)]
    if task == "propensity" and curves["class_auroc"]:
        return [class_auroc(scorers, metrics["classes"], curves["class_auroc"]), at_k(scorers, curves["at_k"])]
    if task == "survival" and curves["rows"]:
        return [survival_curves(metrics["classes"], curves), measures_by_horizon(metrics["classes"], scorers)]
    return []


def curve_pictures(metrics: Metrics) -> list[Picture]:
    """ROC, precision-recall and gain curves of yes-or-no labels, and below each the difference to the best baseline.

    Args:
        metrics: The content of metrics.json.
    """
    curves = metrics["curves"]
    if metrics["task"] != "binary" or not curves["roc"]:
        return []
    scorers, rival = _drawn(metrics), best_rival(metrics["test"]["baselines"], metrics["main"])
    differences = {name: by_rival.get(rival) for name, by_rival in (curves.get("differences") or {}).items()}
    return [
        _roc(scorers, curves["roc"], rival, differences.get("roc")),
        _precision_recall(
            scorers, metrics["test"], curves["precision_recall"], rival, differences.get("precision_recall")
        ),
        _gain(scorers, curves["gain"], rival, differences.get("gain")),
    ]


def _drawn(metrics: Metrics) -> dict[str, dict]:
    """The scorers that have a line: chance has one of its own, and the blend's hides behind those of its parts."""
    scorers = {MODEL: metrics["test"]} | metrics["test"]["baselines"]
    return {name: figures for name, figures in scorers.items() if name not in (*SAME_FOR_ALL, *UNDRAWN)}


def probability_pictures(metrics: Metrics) -> list[Picture]:
    """Whether the model's scores can be taken for probabilities; nothing for values and where only one class came.

    Args:
        metrics: The content of metrics.json.
    """
    curves, test = metrics["curves"], metrics["test"]
    if metrics["task"] == "survival" and curves["rows"]:
        return [calibration_by_horizon(metrics["classes"], curves)]
    if not curves.get("calibration"):
        return []
    calibration = metrics["calibration"] or {}
    before = calibration.get("before") or {} if calibration.get("method", "none") != "none" else {}
    if metrics["task"] == "binary":
        return [_calibration(test, before, curves, "rows"), _distribution(test, curves, calibration.get("threshold"))]
    return [_calibration(test, before, curves, "pairs of row and class")]


def _panels(differences: list[float | None] | None, rival: str | None, first: int = 0) -> tuple[Figure, Axes, str]:
    """A figure with a panel for curves and, where they are known, one for the difference to the best baseline, from the
    per cent `first` on; and what that says."""
    figure = small_figure()
    if not differences or rival is None:
        return figure, figure.subplots(), ""
    axes, below = figure.subplots(2, sharex=True, height_ratios=(2, 1))
    points = 100 * np.array(differences, float)  # None becomes NaN
    points[:first] = np.nan
    below.plot(np.linspace(0, 1, len(points)), points, **SOLID)
    below.axhline(0, color=INK, linewidth=1.0)
    below.set_title(f"Model minus {worded(rival)}")
    below.set_ylabel("Percentage\npoints")
    below.yaxis.set_major_locator(MaxNLocator(4))
    below.yaxis.set_major_formatter(lambda value, _: number(value, 1 if np.nanmax(abs(points)) < 3 else 0, "+"))
    low, high = (number(end, 1, "+") for end in (np.nanmin(points), np.nanmax(points)))
    where = f" from {first}\u00a0% on" if first else ""
    return figure, axes, f" Below: minus {worded(rival)}{where}, between {low} and {high} percentage points."


def _roc(scorers: dict[str, dict], curves: dict[str, dict], rival: str | None, differences: list | None) -> Picture:
    """The curve of each scorer, and how many pairs it ranks rightly, which is what AUROC means."""
    figure, axes, apart = _panels(differences, rival)
    for name, style in styles(scorers).items():
        curve = curves[name]
        axes.plot(curve["false_positive_rate"], curve["true_positive_rate"], label=named(name), **style)
    axes.plot([0, 1], [0, 1], label="Chance", **THIN)
    axes.set(ylabel="Share of all positives above it")
    finish(figure, axes)
    figure.axes[-1].set_xlabel("Share of all negatives above a threshold")
    pairs = ", ".join(f"{worded(name)} {percent(figures['auroc'], 1)}" for name, figures in scorers.items())
    reading = f"A positive row ranks above a negative one in this share of all pairs: {pairs}.{apart}"
    return Picture("ROC curve", reading, inline_svg(figure, "roc", f"ROC curves. {reading}"))


def _precision_recall(
    scorers: dict[str, dict], test: dict, curves: dict[str, dict], rival: str | None, differences: list | None
) -> Picture:
    figure, axes, apart = _panels(differences, rival, UNSURE)
    for name, style in styles(scorers).items():
        axes.plot(curves[name]["recall"], curves[name]["precision"], label=named(name), **style)
    rate = test["positives"] / test["rows"]
    axes.axhline(rate, label="Base rate", **THIN)
    axes.set(ylabel="Positives among those found")
    finish(figure, axes)
    figure.axes[-1].set_xlabel("Share of all positives found")
    value = test["average_precision"]
    times = "" if missing(value) else f", {value / rate:.1f} times what contacting anyone would give"
    reading = (
        f"Precision averaged over every recall is {percent(value, 1)} for the model{times} ({percent(rate, 1)}).{apart}"
    )
    values = ", ".join(f"{worded(name)} {number(figures['average_precision'])}" for name, figures in scorers.items())
    alt = f"Precision-recall curves. Average precision: {values}; base rate {number(rate)}.{apart}"
    return Picture("Precision and recall", reading, inline_svg(figure, "precision-recall", alt))


def _gain(scorers: dict[str, dict], curves: dict[str, dict], rival: str | None, differences: list | None) -> Picture:
    """The share of all positives among the highest-scored rows, for each share of rows."""
    figure, axes, apart = _panels(differences, rival)
    for name, style in styles(scorers).items():
        axes.plot(curves[name]["rows"], curves[name]["captured"], label=named(name), **dict(style, marker=""))
    axes.plot([0, 1], [0, 1], label="Chance", **THIN)
    recalls = [scorers[MODEL].get(f"recall_at_{top}") for top in SHARES]
    for top, recall in zip(SHARES, recalls, strict=True):
        if recall is not None and not missing(recall):
            axes.plot(top / 100, recall, "o", color=INK, markersize=5, zorder=6)
    axes.set(ylabel="Share of all positives among them")
    finish(figure, axes)
    figure.axes[-1].set_xlabel("Share of the rows contacted")
    reading = (
        f"The model's top {listed([str(top) for top in SHARES])}\u00a0% of the rows (dots) hold "
        f"{listed([percent(recall) for recall in recalls])} of all positives.{apart}"
    )
    alt = f"Curves of cumulative gain of {', '.join(named(name) for name in scorers)}. {reading}"
    return Picture("Cumulative gain", reading, inline_svg(figure, "gain", alt))


def _lift(scorers: dict[str, dict]) -> Picture:
    figure = wide_figure()
    axes = figure.subplots()
    for name, style in styles(scorers).items():
        lifts = [scorers[name].get(f"lift_at_{top}") for top in SHARES]
        lifts = [float("nan") if lift is None else lift for lift in lifts]
        axes.plot(range(len(SHARES)), lifts, label=named(name), **dict(style, markevery=1, markersize=6))
    test = scorers[MODEL]
    bounds = [test.get(f"lift_at_{top}_interval") for top in SHARES]
    for at, ends in enumerate(bounds):
        if ends and not any(map(missing, ends)):
            axes.vlines(at, *ends, color=BLUE, linewidth=2)
    axes.axhline(1, label="Chance", **THIN)
    axes.set_xticks(range(len(SHARES)), [f"top {top}\u00a0%" for top in SHARES])
    axes.set(xlim=(-0.3, len(SHARES) - 0.7), ylabel="Times the base rate", xlabel="Rows contacted")
    axes.set_ylim(0, None)
    legend(figure, axes)
    each = [
        f"the top {top}\u00a0% {number(test.get(f'lift_at_{top}'), 1)} ({span(ends, 1)})"
        for top, ends in zip(SHARES, bounds, strict=True)
    ]
    reading = (
        f"How many times as frequent positives are among the model's highest scores as among all rows: {listed(each)}. "
        f"Bars and brackets are 95\u00a0% intervals."
    )
    said = "; ".join(
        f"{named(name)} {', '.join(number(figures.get(f'lift_at_{top}'), 1) for top in SHARES)}"
        for name, figures in scorers.items()
    )
    alt = f"Lift at the top {listed([str(top) for top in SHARES])} per cent. {said}."
    return Picture("Lift", reading, inline_svg(figure, "lift", alt))


def _calibration(test: dict, before: dict, curves: dict, unit: str) -> Picture:
    """The reliability curve over bins of equal count, above a histogram of the scores."""
    bins, histogram = curves["calibration"], curves["histograms"]["all"]
    predicted, observed = bins["predicted"], bins["observed"]
    highest, low = max(*predicted, *observed), min(0.0, *predicted)  # scores may be no probabilities
    limit = max(0.01, highest, min(1.0, 1.1 * highest))
    figure = square_figure()
    axes, below = figure.subplots(2, height_ratios=(3, 1))
    name = f"Model, {len(predicted)} bins of equal count"
    axes.plot(predicted, observed, marker="o", label=name, clip_on=False, **SOLID)
    axes.plot([low, limit], [low, limit], label="Perfect", **THIN)
    axes.set(ylabel="Share that is positive")
    finish(figure, axes, limit, low)
    edges = histogram["edges"]
    below.hist(edges[:-1], bins=edges, weights=histogram["counts"], color=FILL, edgecolor=BLUE, linewidth=0.6)
    below.set(xlim=(edges[0], edges[-1]), xlabel="Predicted probability", ylabel=unit.split()[0].capitalize())
    below.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    below.yaxis.set_major_formatter("{x:,.0f}")
    below.xaxis.set_major_locator(MaxNLocator(4))
    below.xaxis.set_major_formatter(percents())
    reading = (
        f"Over all {unit} the model expects {percent(bins['mean_score'], 1)} positives and "
        f"{percent(bins['mean_label'], 1)} came."
    )
    error = test.get("expected_calibration_error")
    if error is not None and not missing(error):
        reading += f" Its probabilities are off by {100 * error:.1f} percentage points on average"
        was = before.get("expected_calibration_error")
        reading += "." if was is None or missing(was) else f", before calibration by {100 * was:.1f}."
    pairs = ", ".join(f"{percent(p)} and {percent(o)}" for p, o in zip(predicted, observed, strict=True))
    alt = f"Predicted probability and share that is positive, by bin: {pairs}. Below, a histogram of the scores."
    return Picture("Calibration", reading, inline_svg(figure, "calibration", alt))


def _distribution(test: dict, curves: dict, threshold: float | None) -> Picture:
    """Histograms of the scores of positive and of negative rows, as shares of each."""
    figure = square_figure()
    axes = figure.subplots()
    for label, style in (("negative", DASHED), ("positive", SOLID)):
        edges, counts = curves["histograms"][label]["edges"], np.array(curves["histograms"][label]["counts"])
        axes.stairs(counts / counts.sum(), edges, label=f"{named(label)} rows", **dict(style, fill=False))
        if label == "positive":
            axes.stairs(counts / counts.sum(), edges, fill=True, color=FILL, alpha=0.5, zorder=0.9)
    if threshold is not None and edges[0] <= threshold <= edges[-1]:
        axes.axvline(threshold, label=f"Threshold {number(threshold)}", color=INK, linewidth=1.2)
    axes.set(xlim=(edges[0], edges[-1]), xlabel="Predicted probability", ylabel="Share of the positive / negative rows")
    axes.set_ylim(0, None)
    axes.yaxis.set_major_formatter(percents())
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(percents())
    legend(figure, axes)
    middle = [percent(curves["medians"][label], 1) for label in ("positive", "negative")]
    reading = f"Half of the positive rows score above {middle[0]}, half of the negative ones above {middle[1]}."
    if middle[0] == middle[1]:
        reading += " The scores of both hardly differ."
    if not missing(test.get("ks")):
        reading += (
            f" Where a score parts them best, the share of the positives above it is {number(100 * test['ks'], 0)} "
            f"percentage points higher than that of the negatives (KS)."
        )
    alt = f"Histograms of the scores of positive and negative rows. {reading}"
    return Picture("Scores by label", reading, inline_svg(figure, "distribution", alt))
