"""Pictures of a run's scores against what came: predictions/test.parquet, with the figures of metrics.json."""

import numpy as np
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import precision_recall_curve, roc_curve

from finetune.label_pictures import at_k, class_auroc, confusion, deciles, tier_roc, value_gain
from finetune.metrics import SHARES
from finetune.pictures import (
    BLUE,
    DASHED,
    FILL,
    INK,
    MODEL,
    PERCENT,
    SOLID,
    THIN,
    Picture,
    captured,
    finish,
    inline_svg,
    legend,
    plot,
    square_figure,
    styles,
)
from finetune.wording import listed, missing, named, number, percent, span, worded

BINS = 10  # of the calibration curve, with equal counts
MAJORITY = "majority"


def ranking_pictures(metrics: dict, labels: np.ndarray, scores: dict[str, np.ndarray]) -> list[Picture]:
    """How well the model orders users, beside the baselines.

    Args:
        metrics: The content of metrics.json.
        labels: Of the rows that all scored; see `finetune.objective.Objective`.
        scores: Of "model" and of each baseline, of shape (rows,), or (rows, classes) for tiers and propensity.
    """
    task, scorers = metrics["task"], {MODEL: metrics["test"]} | metrics["test"]["baselines"]
    scorers.pop(MAJORITY, None)  # the same score for all is chance, which has a line of its own
    if task == "binary":
        if len(np.unique(labels)) < 2:
            return []
        return [
            _roc(scorers, labels, scores),
            _precision_recall(scorers, metrics["test"], labels, scores),
            _gain(scorers, labels, scores),
            _lift(scorers),
        ]
    if task == "tiers":
        return [confusion(metrics["test"], metrics["classes"]), tier_roc(metrics["classes"], labels, scores[MODEL])]
    if task == "value":
        return [deciles(metrics["test"]), value_gain(scorers, labels, scores)]
    if not labels.any():
        return []
    return [class_auroc(scorers, metrics["classes"], labels, scores), at_k(scorers, labels, scores)]


def probability_pictures(metrics: dict, labels: np.ndarray, scores: np.ndarray) -> list[Picture]:
    """Whether the model's scores can be taken for probabilities; nothing for values and where only one class came.

    Args:
        metrics: The content of metrics.json.
        labels: Of the rows that all scored.
        scores: The model's.
    """
    if metrics["task"] == "value" or len(np.unique(labels)) < 2:
        return []
    test, before = metrics["test"], (metrics["calibration"] or {}).get("before") or {}
    if metrics["task"] == "binary":
        threshold = (metrics["calibration"] or {}).get("threshold")
        return [_calibration(test, before, labels, scores), _distribution(test, labels, scores, threshold)]
    pairs = labels[:, None] == np.arange(scores.shape[1]) if metrics["task"] == "tiers" else labels
    return [_calibration(test, before, pairs.ravel().astype(float), scores.ravel(), "pairs of row and class")]


def _roc(scorers: dict[str, dict], labels: np.ndarray, scores: dict[str, np.ndarray]) -> Picture:
    """The curve of each scorer, and how many pairs it ranks rightly, which is what AUROC means."""
    figure = square_figure()
    axes = figure.subplots()
    names = {name: f"{named(name)} {number(of['auroc'])}" for name, of in scorers.items()}
    for name, style in styles(scorers).items():
        plot(axes, *roc_curve(labels, scores[name])[:2], label=names[name], **style)
    axes.plot([0, 1], [0, 1], label=f"Chance {number(0.5)}", **THIN)
    axes.set(xlabel="Share of all negatives above a threshold", ylabel="Share of all positives above it")
    finish(figure, axes)
    pairs = [f"{worded(name)} {percent(of['auroc'], 1)}" for name, of in scorers.items()]
    reading = f"A positive row ranks above a negative one in this share of all pairs: {', '.join(pairs)}."
    return Picture("ROC curve", reading, inline_svg(figure, "roc", f"ROC curves. AUROC: {', '.join(names.values())}."))


def _precision_recall(
    scorers: dict[str, dict], test: dict, labels: np.ndarray, scores: dict[str, np.ndarray]
) -> Picture:
    figure = square_figure()
    axes = figure.subplots()
    names = {name: f"{named(name)} {number(of['average_precision'])}" for name, of in scorers.items()}
    for name, style in styles(scorers).items():
        precision, recall, _ = precision_recall_curve(labels, scores[name])
        # Without scikit-learn's closing point, a precision of 1 that no threshold gives.
        plot(axes, recall[:-1], precision[:-1], label=names[name], drawstyle="steps-post", **style)
    rate = test["positives"] / test["rows"]
    axes.axhline(rate, label=f"Base rate {number(rate)}", **THIN)
    axes.set(xlabel="Recall: share of all positives found", ylabel="Precision: positives among those found")
    finish(figure, axes)
    value = test["average_precision"]
    times = "" if missing(value) else f", {value / rate:.1f} times what contacting anyone would give"
    reading = f"Precision averaged over every recall is {percent(value, 1)} for the model{times} ({percent(rate, 1)})."
    alt = f"Precision-recall curves. Average precision: {', '.join(names.values())}; base rate {number(rate)}."
    return Picture("Precision and recall", reading, inline_svg(figure, "precision-recall", alt))


def _gain(scorers: dict[str, dict], labels: np.ndarray, scores: dict[str, np.ndarray]) -> Picture:
    """The share of all positives among the highest-scored rows, for each share of rows."""
    figure = square_figure()
    axes = figure.subplots()
    for name, style in styles(scorers).items():
        plot(axes, *captured(labels, scores[name]), label=named(name), **style | {"marker": ""})
    axes.plot([0, 1], [0, 1], label="Chance", **THIN)
    recalls = [scorers[MODEL].get(f"recall_at_{top}") for top in SHARES]
    for top, recall in zip(SHARES, recalls, strict=True):
        if not missing(recall):
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
        lifts = [float("nan") if missing(lift) else lift for lift in lifts]
        axes.plot(range(len(SHARES)), lifts, label=named(name), **style | {"markevery": 1, "markersize": 6})
        if bounds := scorers[name].get("lift_at_10_interval") if name == MODEL else None:
            axes.vlines(SHARES.index(10), *[np.nan if missing(end) else end for end in bounds], color=BLUE, linewidth=2)
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
        f"{named(name)} {', '.join(number(of.get(f'lift_at_{top}'), 1) for top in SHARES)}"
        for name, of in scorers.items()
    )
    alt = f"Lift at the top {listed([str(top) for top in SHARES])} per cent. {said}."
    return Picture("Lift", reading, inline_svg(figure, "lift", alt))


def _calibration(test: dict, before: dict, labels: np.ndarray, scores: np.ndarray, unit: str = "rows") -> Picture:
    """The reliability curve over bins of equal count, above a histogram of the scores."""
    bins = np.array_split(np.argsort(scores, kind="stable"), min(BINS, len(scores)))
    predicted, observed = (np.array([values[rows].mean() for rows in bins]) for values in (scores, labels))
    highest, low = max(predicted.max(), observed.max()), min(0.0, predicted.min())  # scores may be no probabilities
    limit = max(0.01, highest, min(1.0, 1.1 * highest))
    figure = square_figure()
    axes, histogram = figure.subplots(2, height_ratios=(3, 1))
    axes.plot(predicted, observed, marker="o", label=f"Model, {len(bins)} bins of equal count", clip_on=False, **SOLID)
    axes.plot([low, limit], [low, limit], label="Perfect", **THIN)
    axes.set(ylabel="Share that is positive")
    finish(figure, axes, limit, low)
    edges = np.linspace(*_range(scores), 41)
    histogram.hist(scores, bins=edges, color=FILL, edgecolor=BLUE, linewidth=0.6)
    histogram.set(xlim=(edges[0], edges[-1]), xlabel="Predicted probability", ylabel=unit.split()[0].capitalize())
    histogram.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    histogram.yaxis.set_major_formatter("{x:,.0f}")
    histogram.xaxis.set_major_locator(MaxNLocator(4))
    histogram.xaxis.set_major_formatter(PERCENT)
    reading = (
        f"Over all {unit} the model expects {percent(scores.mean(), 1)} positives and {percent(labels.mean(), 1)} came."
    )
    if not missing(error := test.get("expected_calibration_error")):
        reading += f" Its probabilities are off by {100 * error:.1f} percentage points on average"
        was = before.get("expected_calibration_error")
        reading += "." if missing(was) else f", before calibration by {100 * was:.1f}."
    pairs = ", ".join(f"{percent(p)} and {percent(o)}" for p, o in zip(predicted, observed, strict=True))
    alt = f"Predicted probability and share that is positive, by bin: {pairs}. Below, a histogram of the scores."
    return Picture("Calibration", reading, inline_svg(figure, "calibration", alt))


def _range(scores: np.ndarray) -> tuple[float, float]:
    """What a histogram of scores spans: from zero on, where they do not lie close together."""
    low, high = float(scores.min()), max(float(scores.max()), 0.01)
    return (low, high) if low < 0 or 0.75 * high < low < high else (0.0, high)


def _distribution(test: dict, labels: np.ndarray, scores: np.ndarray, threshold: float | None) -> Picture:
    """Histograms of the scores of positive and of negative rows, as shares of each."""
    figure = square_figure()
    axes = figure.subplots()
    edges = np.linspace(*_range(scores), 31)
    for label, name, style in ((0, "Negative rows", DASHED), (1, "Positive rows", SOLID)):
        counts, _ = np.histogram(scores[labels == label], edges)
        axes.stairs(counts / counts.sum(), edges, label=name, **style | {"fill": False})
        if label:
            axes.stairs(counts / counts.sum(), edges, fill=True, color=FILL, alpha=0.5, zorder=0.9)
    if threshold is not None and edges[0] <= threshold <= edges[-1]:
        axes.axvline(threshold, label=f"Threshold {number(threshold)}", color=INK, linewidth=1.2)
    axes.set(xlim=(edges[0], edges[-1]), xlabel="Predicted probability", ylabel="Share of the positive / negative rows")
    axes.set_ylim(0, None)
    axes.yaxis.set_major_formatter(PERCENT)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(PERCENT)
    legend(figure, axes)
    middle = [percent(np.median(scores[labels == label]), 1) for label in (1, 0)]
    reading = f"Half of the positive rows score above {middle[0]}, half of the negative ones above {middle[1]}."
    if not missing(test.get("ks")):
        reading += (
            f" The score that parts them best lies below {percent(test['ks'])} more of the positives than of the "
            f"negatives (KS)."
        )
    alt = f"Histograms of the scores of positive and negative rows. {reading}"
    return Picture("Scores by label", reading, inline_svg(figure, "distribution", alt))
