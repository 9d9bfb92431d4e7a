"""Pictures of a run's scores against what came: predictions/test.parquet, with the figures of metrics.json."""

import re

import numpy as np
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import precision_recall_curve, roc_auc_score, roc_curve

from finetune.pictures import (
    BLUE,
    DASHED,
    DOTTED,
    FILL,
    INK,
    PERCENT,
    SOLID,
    THIN,
    Picture,
    finish,
    flat_figure,
    inline_svg,
    legend,
    plot,
    square_figure,
    styles,
)
from finetune.wording import listed, missing, named, number, percent, short, span, worded

BINS = 10  # of the calibration curve, with equal counts
TOPS = (1, 5, 10, 20)  # per cent of the rows, as in the keys of metrics.json
CLASSES = 15  # of propensity: that many of the most frequent are drawn
LONGEST = 20  # list of classes that is drawn
MODEL, MAJORITY = "model", "majority"
MARKED = re.compile(r"(precision|recall)_at_\d+")  # of metrics.json


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
        return [_confusion(metrics["test"], metrics["classes"]), _tier_roc(metrics["classes"], labels, scores[MODEL])]
    if task == "value":
        return [_deciles(metrics["test"]), _value_gain(scorers, labels, scores)]
    if not labels.any():
        return []
    return [_class_auroc(scorers, metrics["classes"], labels, scores), _at_k(scorers, labels, scores)]


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
    recalls = [scorers[MODEL].get(f"recall_at_{top}") for top in TOPS]
    for top, recall in zip(TOPS, recalls, strict=True):
        if not missing(recall):
            axes.plot(top / 100, recall, "o", color=INK, markersize=6, zorder=6)
    axes.set(xlabel="Share of the rows contacted, highest scores first", ylabel="Share of all positives among them")
    finish(figure, axes)
    reading = (
        f"The model's top {listed([str(top) for top in TOPS])}\u00a0% of the rows (dots) hold "
        f"{listed([percent(recall) for recall in recalls])} of all positives."
    )
    alt = f"Curves of cumulative gain of {', '.join(named(name) for name in scorers)}. {reading}"
    return Picture("Cumulative gain", reading, inline_svg(figure, "gain", alt))


def _lift(scorers: dict[str, dict]) -> Picture:
    figure = square_figure()
    axes = figure.subplots()
    for name, style in styles(scorers).items():
        lifts = [scorers[name].get(f"lift_at_{top}") for top in TOPS]
        lifts = [float("nan") if missing(lift) else lift for lift in lifts]
        axes.plot(range(len(TOPS)), lifts, label=named(name), **style | {"markevery": 1, "markersize": 6})
        if bounds := scorers[name].get("lift_at_10_interval") if name == MODEL else None:
            axes.vlines(TOPS.index(10), *[np.nan if missing(end) else end for end in bounds], color=BLUE, linewidth=2)
    axes.axhline(1, label="Chance", **THIN)
    axes.set_xticks(range(len(TOPS)), [f"top {top}\u00a0%" for top in TOPS])
    axes.set(xlim=(-0.3, len(TOPS) - 0.7), ylabel="Positives, times the base rate", xlabel="Rows contacted")
    axes.set_ylim(0, None)
    legend(figure, axes)
    test = scorers[MODEL]
    reading = (
        f"Among the model's top 10\u00a0% positives are {number(test.get('lift_at_10'), 1)} times as frequent as among "
        f"all rows (95\u00a0% interval {span(test.get('lift_at_10_interval'), 1)}, the bar)."
    )
    said = "; ".join(
        f"{named(name)} {', '.join(number(of.get(f'lift_at_{top}'), 1) for top in TOPS)}"
        for name, of in scorers.items()
    )
    alt = f"Lift at the top {listed([str(top) for top in TOPS])} per cent. {said}."
    return Picture("Lift", reading, inline_svg(figure, "lift", alt))


def captured(worth: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shares of the rows, highest scores first, and of all worth among them; rows of equal scores come together."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    shares, gained = (ends + 1) / len(scores), np.cumsum(worth[order])[ends] / worth.sum()
    return np.append(0.0, shares), np.append(0.0, gained)


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
    edges = np.linspace(min(scores.min(), 0), max(scores.max(), 0.01), 41)
    histogram.hist(scores, bins=edges, color=FILL, edgecolor=BLUE, linewidth=0.6)
    histogram.set(xlim=(edges[0], None), xlabel="Predicted probability", ylabel=unit.split()[0].capitalize())
    histogram.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    histogram.yaxis.set_major_formatter("{x:,.0f}")
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


def _distribution(test: dict, labels: np.ndarray, scores: np.ndarray, threshold: float | None) -> Picture:
    """Histograms of the scores of positive and of negative rows, as shares of each."""
    figure = square_figure()
    axes = figure.subplots()
    edges = np.linspace(min(scores.min(), 0), max(scores.max(), 0.01), 31)
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


def _confusion(test: dict, classes: list[str]) -> Picture:
    """How the rows of each tier are told, shaded by the share of the tier's rows."""
    counts = np.array(test["confusion"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = len(classes)
    figure = square_figure()
    axes = figure.subplots()
    for row, column in np.ndindex(size, size):
        place = (column - 0.5, row - 0.5)
        axes.add_patch(Rectangle(place, 1, 1, facecolor=FILL, alpha=float(shares[row, column]), linewidth=0))
        if row == column:
            axes.add_patch(Rectangle(place, 1, 1, fill=False, edgecolor=INK, linewidth=1.2))
        if size <= 8:
            text = f"{counts[row, column]:,}\n{percent(shares[row, column])}"
            axes.text(column, row, text, ha="center", va="center", fontsize=10 if size <= 5 else 8)
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), xlabel="Predicted tier", ylabel="True tier")
    axes.set_xticks(range(size), [short(name, 18) for name in classes], rotation=25, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(size), [short(name, 18) for name in classes])
    axes.grid(False)
    right = np.trace(counts) / max(counts.sum(), 1)
    near = sum(np.trace(counts, offset) for offset in (-1, 0, 1)) / max(counts.sum(), 1)
    reading = (
        f"{percent(right)} of the rows fall into their own tier (framed), {percent(near)} into it or one beside it. "
        f"Percentages are shares of the true tier."
    )
    said = "; ".join(
        f"{name}: {', '.join(f'{n:,} as {of}' for n, of in zip(row, classes, strict=True))}"
        for name, row in zip(classes, counts.tolist(), strict=True)
    )
    return Picture("Confusion matrix", reading, inline_svg(figure, "confusion", f"Rows of each true tier. {said}."))


def _tier_roc(classes: list[str], labels: np.ndarray, scores: np.ndarray) -> Picture:
    """The model's ROC curve of each tier against all others."""
    figure = square_figure()
    axes = figure.subplots()
    areas = {}
    for at, (name, style) in enumerate(styles(classes).items()):
        own = labels == at
        if 0 < own.sum() < len(own):
            areas[name] = roc_auc_score(own, scores[:, at])
            label = f"{short(name, 18)} {number(areas[name])}"
            plot(axes, *roc_curve(own, scores[:, at])[:2], label=label, **style)
    axes.plot([0, 1], [0, 1], label=f"Chance {number(0.5)}", **THIN)
    axes.set(xlabel="Share of the other tiers above a threshold", ylabel="Share of the tier above it")
    finish(figure, axes)
    said = ", ".join(f"{name} {number(area)}" for name, area in areas.items())
    reading = f"The model's AUROC for each tier against all others: {said or 'only one tier came'}."
    return Picture("ROC curve of each tier", reading, inline_svg(figure, "tier-roc", f"ROC curves. {reading}"))


def _deciles(test: dict) -> Picture:
    """Mean predicted and mean real value of ten groups of users, highest predictions first."""
    deciles = test["deciles"]
    predicted, real = (
        [float("nan") if missing(of[key]) else of[key] for of in deciles] for key in ("predicted", "real")
    )
    figure = square_figure()
    axes = figure.subplots()
    at = range(1, len(deciles) + 1)
    axes.bar(at, real, color=FILL, edgecolor=BLUE, label="Real")
    axes.plot(at, predicted, label="Predicted", **DASHED | {"marker": "D", "markersize": 6})
    axes.set_xticks(at)
    axes.set(xlabel="Tenth of the rows, highest predictions first", ylabel="Mean value")
    axes.yaxis.set_major_formatter("{x:,.5g}")
    legend(figure, axes)
    reading = ""
    if deciles:
        reading = (
            f"The top tenth was predicted {number(deciles[0]['predicted'], None)} on average and came to "
            f"{number(deciles[0]['real'], None)}, the lowest {number(deciles[-1]['predicted'], None)} and "
            f"{number(deciles[-1]['real'], None)}."
        )
    pairs = "; ".join(f"{number(of['predicted'], None)} and {number(of['real'], None)}" for of in deciles)
    return Picture(
        "Predicted and real",
        reading,
        inline_svg(figure, "deciles", f"Mean predicted and real value by tenth: {pairs}."),
    )


def _value_gain(scorers: dict[str, dict], labels: np.ndarray, scores: dict[str, np.ndarray]) -> Picture:
    """The share of all value that the users with the highest predictions bring."""
    figure = square_figure()
    axes = figure.subplots()
    names = {name: f"{named(name)} {number(of.get('value_gini'))}" for name, of in scorers.items()}
    if labels.sum() > 0:
        for name, style in styles(scorers).items():
            plot(axes, *captured(labels, scores[name]), label=names[name], **style)
        plot(axes, *captured(labels, labels), label="Perfect 1.000", **DOTTED | {"color": INK, "linewidth": 1.2})
    axes.plot([0, 1], [0, 1], label=f"Chance {number(0.0)}", **THIN)
    axes.set(xlabel="Share of the rows, highest predictions first", ylabel="Share of all value among them")
    finish(figure, axes)
    said = ", ".join(f"{worded(name)} {number(of.get('value_gini'))}" for name, of in scorers.items())
    reading = f"Gini of the value captured, where a perfect ranking has 1: {said}."
    return Picture("Value captured", reading, inline_svg(figure, "value-gain", f"Curves of value captured. {reading}"))


def _class_auroc(
    scorers: dict[str, dict], classes: list[str], labels: np.ndarray, scores: dict[str, np.ndarray]
) -> Picture:
    """AUROC of each scorer for the most frequent classes, a row each."""
    counts = labels.sum(axis=0, dtype=int)
    drawn = [at for at in np.argsort(-counts, kind="stable")[:CLASSES] if 0 < counts[at] < len(labels)]
    figure = flat_figure(len(drawn) + 2)
    axes = figure.subplots()
    areas = {name: [roc_auc_score(labels[:, at], scores[name][:, at]) for at in drawn] for name in scorers}
    for name, style in styles(scorers).items():
        look = {"linestyle": "none", "marker": style["marker"], "color": style["color"], "label": named(name)}
        if name == MODEL:
            look |= {"markersize": 9, "zorder": 5}
        else:
            look |= {"markersize": 7, "markerfacecolor": "none", "markeredgewidth": 1.6}
        axes.plot(areas[name], range(len(drawn)), **look)
    axes.axvline(0.5, label="Chance", **THIN)
    axes.set_yticks(range(len(drawn)), [f"{short(classes[at], 22)} ({counts[at]:,})" for at in drawn])
    axes.set(ylim=(len(drawn) - 0.5, -0.5), xlabel="AUROC")
    legend(figure, axes)
    said = "; ".join(
        f"{classes[at]}: {', '.join(f'{named(name)} {number(areas[name][i])}' for name in scorers)}"
        for i, at in enumerate(drawn)
    )
    best = [max(areas, key=lambda name, i=i: areas[name][i]) for i in range(len(drawn))]
    reading = (
        f"The {len(drawn)} most frequent of {len(classes)} classes, with their positives in brackets. The model has "
        f"the highest AUROC in {best.count(MODEL)} of them."
    )
    return Picture("AUROC of the largest classes", reading, inline_svg(figure, "class-auroc", f"AUROC. {said}."))


def _at_k(scorers: dict[str, dict], labels: np.ndarray, scores: dict[str, np.ndarray]) -> Picture:
    """Precision and recall of a row's k highest-scored classes, over the rows that have any class."""
    told = labels[labels.any(axis=1)].astype(float)
    longest = min(LONGEST, labels.shape[1])
    at = np.arange(1, longest + 1)
    figure = square_figure()
    panels = dict(zip(("Precision", "Recall"), figure.subplots(2, sharex=True), strict=True))
    for name, style in styles(scorers).items():
        best = np.argsort(-scores[name][labels.any(axis=1)], axis=1, kind="stable")[:, :longest]
        hits = np.cumsum(np.take_along_axis(told, best, axis=1), axis=1)
        for of, values in (("Precision", hits / at), ("Recall", hits / told.sum(axis=1, keepdims=True))):
            panels[of].plot(at, values.mean(axis=0), label=named(name), **style | {"markevery": max(1, longest // 5)})
    for title, axes in panels.items():
        axes.set(title=f"{title} at k", ylim=(0, None))
        axes.yaxis.set_major_formatter(PERCENT)
    axes.set_xlabel("k: classes recommended to each user")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    legend(figure, axes)
    test = scorers[MODEL]
    known = sorted(key for key in test if MARKED.fullmatch(key))
    said = [f"{key.replace('_', ' ')} is {percent(test[key], 1)}" for key in known]
    reading = f"For the model {listed(said)}." if said else ""
    alt = f"Curves of precision and recall over k, for {', '.join(named(name) for name in scorers)}. {reading}"
    return Picture("Precision and recall at k", reading, inline_svg(figure, "at-k", alt))
