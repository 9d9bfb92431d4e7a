"""Pictures of scores for labels that are not yes or no: tiers, values and propensity."""

import re

import numpy as np
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import roc_auc_score, roc_curve

from finetune.pictures import (
    BLUE,
    DASHED,
    DOTTED,
    FILL,
    INK,
    MODEL,
    PERCENT,
    THIN,
    Picture,
    captured,
    finish,
    flat_figure,
    inline_svg,
    legend,
    plot,
    square_figure,
    styles,
)
from finetune.wording import listed, missing, named, number, percent, short, worded

CLASSES = 15  # of propensity: that many of the most frequent are drawn
LONGEST = 20  # list of classes that is drawn
MARKED = re.compile(r"(precision|recall)_at_\d+")  # of metrics.json


def confusion(test: dict, classes: list[str]) -> Picture:
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


def tier_roc(classes: list[str], labels: np.ndarray, scores: np.ndarray) -> Picture:
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


def deciles(test: dict) -> Picture:
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


def value_gain(scorers: dict[str, dict], labels: np.ndarray, scores: dict[str, np.ndarray]) -> Picture:
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


def class_auroc(
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


def at_k(scorers: dict[str, dict], labels: np.ndarray, scores: dict[str, np.ndarray]) -> Picture:
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
