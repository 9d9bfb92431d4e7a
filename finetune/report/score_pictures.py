"""Pictures of a run's scores against what came: the test metrics and curves of metrics.json."""

import numpy as np
from matplotlib.ticker import MaxNLocator

from finetune.measures import BLEND, MAJORITY, MODEL, SHARES
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
    square_figure,
    styles,
)
from finetune.wording import listed, missing, named, number, percent, span, worded


def ranking_pictures(metrics: dict) -> list[Picture]:
    """How well the model orders users, beside the baselines; nothing where the labels cannot tell.

    Args:
        metrics: The content of metrics.json.
    """
    task, curves = metrics["task"], metrics["curves"]
    scorers = {MODEL: metrics["test"]} | metrics["test"]["baselines"]
    for name in (MAJORITY, BLEND):  # chance has a line of its own, and the blend's hides behind those of its parts
        scorers.pop(name, None)
    if task == "binary" and curves["roc"]:
        return [
            _roc(scorers, curves["roc"]),
            _precision_recall(scorers, metrics["test"], curves["precision_recall"]),
            _gain(scorers, curves["gain"]),
            _lift(scorers),
        ]
    if task == "tiers" and curves["rows"]:
        return [confusion(metrics["test"], metrics["classes"]), tier_roc(metrics["classes"], curves)]
    if task == "value" and curves["rows"]:
        return [deciles(metrics["test"]), value_gain(scorers, curves)]
    if task == "propensity" and curves["class_auroc"]:
        return [class_auroc(scorers, metrics["classes"], curves["class_auroc"]), at_k(scorers, curves["at_k"])]
    return []


def probability_pictures(metrics: dict) -> list[Picture]:
    """Whether the model's scores can be taken for probabilities; nothing for values and where only one class came.

    Args:
        metrics: The content of metrics.json.
    """
    curves, test = metrics["curves"], metrics["test"]
    if not curves.get("calibration"):
        return []
    calibration = metrics["calibration"] or {}
    before = calibration.get("before") or {} if calibration.get("method", "none") != "none" else {}
    if metrics["task"] == "binary":
        return [_calibration(test, before, curves, "rows"), _distribution(test, curves, calibration.get("threshold"))]
    return [_calibration(test, before, curves, "pairs of row and class")]


def _roc(scorers: dict[str, dict], curves: dict[str, dict]) -> Picture:
    """The curve of each scorer, and how many pairs it ranks rightly, which is what AUROC means."""
    figure = square_figure()
    axes = figure.subplots()
    names = {name: f"{named(name)} {number(figures['auroc'])}" for name, figures in scorers.items()}
    for name, style in styles(scorers).items():
        curve = curves[name]
        axes.plot(curve["false_positive_rate"], curve["true_positive_rate"], label=names[name], **style)
    axes.plot([0, 1], [0, 1], label=f"Chance {number(0.5)}", **THIN)
    axes.set(xlabel="Share of all negatives above a threshold", ylabel="Share of all positives above it")
    finish(figure, axes)
    pairs = [f"{worded(name)} {percent(figures['auroc'], 1)}" for name, figures in scorers.items()]
    reading = f"A positive row ranks above a negative one in this share of all pairs: {', '.join(pairs)}."
    return Picture("ROC curve", reading, inline_svg(figure, "roc", f"ROC curves. AUROC: {', '.join(names.values())}."))


def _precision_recall(scorers: dict[str, dict], test: dict, curves: dict[str, dict]) -> Picture:
    figure = square_figure()
    axes = figure.subplots()
    names = {name: f"{named(name)} {number(figures['average_precision'])}" for name, figures in scorers.items()}
    for name, style in styles(scorers).items():
        axes.plot(curves[name]["recall"], curves[name]["precision"], label=names[name], **style)
    rate = test["positives"] / test["rows"]
    axes.axhline(rate, label=f"Base rate {number(rate)}", **THIN)
    axes.set(xlabel="Recall: share of all positives found", ylabel="Precision: positives among those found")
    finish(figure, axes)
    value = test["average_precision"]
    times = "" if missing(value) else f", {value / rate:.1f} times what contacting anyone would give"
    reading = f"Precision averaged over every recall is {percent(value, 1)} for the model{times} ({percent(rate, 1)})."
    alt = f"Precision-recall curves. Average precision: {', '.join(names.values())}; base rate {number(rate)}."
    return Picture("Precision and recall", reading, inline_svg(figure, "precision-recall", alt))


def _gain(scorers: dict[str, dict], curves: dict[str, dict]) -> Picture:
    """The share of all positives among the highest-scored rows, for each share of rows."""
    figure = square_figure()
    axes = figure.subplots()
    for name, style in styles(scorers).items():
        axes.plot(curves[name]["rows"], curves[name]["captured"], label=named(name), **dict(style, marker=""))
    axes.plot([0, 1], [0, 1], label="Chance", **THIN)
    recalls = [scorers[MODEL].get(f"recall_at_{top}") for top in SHARES]
    for top, recall in zip(SHARES, recalls, strict=True):
        if recall is not None and not missing(recall):
            axes.plot(top / 100, recall, "o", color=INK, markersize=6, zorder=6)
    axes.set(xlabel="Share of the rows contacted, highest scores first", ylabel="Share of all positives among them")
    finish(figure, axes)
    reading = (
        f"The model's top {listed([str(top) for top in SHARES])}\u00a0% of the rows (dots) hold "
        f"{listed([percent(recall) for recall in recalls])} of all positives."
    )
    alt = f"Curves of cumulative gain of {', '.join(named(name) for name in scorers)}. {reading}"
    return Picture("Cumulative gain", reading, inline_svg(figure, "gain", alt))


def _lift(scorers: dict[str, dict]) -> Picture:
    figure = square_figure()
    axes = figure.subplots()
    for name, style in styles(scorers).items():
        lifts = [scorers[name].get(f"lift_at_{top}") for top in SHARES]
        lifts = [float("nan") if lift is None else lift for lift in lifts]
        axes.plot(range(len(SHARES)), lifts, label=named(name), **dict(style, markevery=1, markersize=6))
        if bounds := scorers[name].get("lift_at_10_interval") if name == MODEL else None:
            low, high = (np.nan if missing(end) else end for end in bounds)
            axes.vlines(SHARES.index(10), low, high, color=BLUE, linewidth=2)
    axes.axhline(1, label="Chance", **THIN)
    axes.set_xticks(range(len(SHARES)), [f"top {top}\u00a0%" for top in SHARES])
    axes.set(xlim=(-0.3, len(SHARES) - 0.7), ylabel="Positives, times the base rate", xlabel="Rows contacted")
    axes.set_ylim(0, None)
    legend(figure, axes)
    test = scorers[MODEL]
    reading = (
        f"Among the model's top 10\u00a0% positives are {number(test.get('lift_at_10'), 1)} times as frequent as among "
        f"all rows (95\u00a0% interval {span(test.get('lift_at_10_interval'), 1)}, the bar)."
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
