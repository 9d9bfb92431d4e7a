"""Pictures of scores for labels that are not yes or no: tiers, values and propensity."""

import re

import numpy as np
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from finetune.figures.measures import MODEL
from finetune.report.pictures import (
    BLUE,
    DASHED,
    DOTTED,
    FILL,
    INK,
    THIN,
    Picture,
    finish,
    flat_figure,
    inline_svg,
    legend,
    percents,
    square_figure,
    styles,
)
from finetune.wording import listed, missing, named, number, percent, short, worded

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
        f"{name}: {', '.join(f'{n:,} as {tier}' for n, tier in zip(row, classes, strict=True))}"
        for name, row in zip(classes, counts.tolist(), strict=True)
    )
    return Picture("Confusion matrix", reading, inline_svg(figure, "confusion", f"Rows of each true tier. {said}."))


def tier_roc(classes: list[str], curves: dict) -> Picture:
    """The model's ROC curve of each tier against all others."""
    figure = square_figure()
    axes = figure.subplots()
    for name, style in styles(classes).items():
        if curve := curves["roc"].get(name):
            label = f"{short(name, 18)} {number(curves['auroc'][name])}"
            axes.plot(curve["false_positive_rate"], curve["true_positive_rate"], label=label, **style)
    axes.plot([0, 1], [0, 1], label=f"Chance {number(0.5)}", **THIN)
    axes.set(xlabel="Share of the other tiers above a threshold", ylabel="Share of the tier above it")
    finish(figure, axes)
    said = ", ".join(f"{name} {number(area)}" for name, area in curves["auroc"].items())
    reading = f"The model's AUROC for each tier against all others: {said or 'only one tier came'}."
    return Picture("ROC curve of each tier", reading, inline_svg(figure, "tier-roc", f"ROC curves. {reading}"))


def deciles(test: dict) -> Picture:
    """Mean predicted and mean real value of ten groups of users, highest predictions first."""
    deciles = test["deciles"]
    predicted, real = (
        [float("nan") if missing(part[key]) else part[key] for part in deciles] for key in ("predicted", "real")
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
    pairs = "; ".join(f"{number(part['predicted'], None)} and {number(part['real'], None)}" for part in deciles)
    return Picture(
        "Predicted and real",
        reading,
        inline_svg(figure, "deciles", f"Mean predicted and real value by tenth: {pairs}."),
    )


def value_gain(scorers: dict[str, dict], curves: dict) -> Picture:
    """The share of all value that the users with the highest predictions bring."""
    figure = square_figure()
    axes = figure.subplots()
    names = {name: f"{named(name)} {number(figures.get('value_gini'))}" for name, figures in scorers.items()}
    drawn = [(curves["gain"].get(name), dict(style, label=names[name])) for name, style in styles(scorers).items()]
    drawn.append((curves["perfect_gain"], dict(DOTTED, color=INK, linewidth=1.2, label="Perfect 1.000")))
    for curve, style in drawn:
        if curve:
            axes.plot(curve["rows"], curve["captured"], **style)
    axes.plot([0, 1], [0, 1], label=f"Chance {number(0.0)}", **THIN)
    axes.set(xlabel="Share of the rows, highest predictions first", ylabel="Share of all value among them")
    finish(figure, axes)
    said = ", ".join(f"{worded(name)} {number(figures.get('value_gini'))}" for name, figures in scorers.items())
    reading = f"Gini of the value captured, where a perfect ranking has 1: {said}."
    return Picture("Value captured", reading, inline_svg(figure, "value-gain", f"Curves of value captured. {reading}"))


def class_auroc(scorers: dict[str, dict], classes: list[str], curves: dict) -> Picture:
    """AUROC of each scorer for the most frequent classes, a row each."""
    drawn, areas = curves["classes"], curves["auroc"]
    figure = flat_figure(len(drawn) + 2)
    axes = figure.subplots()
    for name, style in styles(scorers).items():
        look = {"linestyle": "none", "marker": style["marker"], "color": style["color"], "label": named(name)}
        if name == MODEL:
            look |= {"markersize": 9, "zorder": 5}
        else:
            look |= {"markersize": 7, "markerfacecolor": "none", "markeredgewidth": 1.6}
        axes.plot(areas[name], range(len(drawn)), **look)
    axes.axvline(0.5, label="Chance", **THIN)
    named_rows = [f"{short(name, 22)} ({count:,})" for name, count in zip(drawn, curves["positives"], strict=True)]
    axes.set_yticks(range(len(drawn)), named_rows)
    axes.set(ylim=(len(drawn) - 0.5, -0.5), xlabel="AUROC")
    legend(figure, axes)
    said = "; ".join(
        f"{one}: {', '.join(f'{named(name)} {number(areas[name][i])}' for name in scorers)}"
        for i, one in enumerate(drawn)
    )
    best = [max(scorers, key=lambda name, i=i: areas[name][i]) for i in range(len(drawn))]
    reading = (
        f"The {len(drawn)} most frequent of {len(classes)} classes, with their positives in brackets. The model has "
        f"the highest AUROC in {best.count(MODEL)} of them."
    )
    return Picture("AUROC of the largest classes", reading, inline_svg(figure, "class-auroc", f"AUROC. {said}."))


def at_k(scorers: dict[str, dict], curves: dict[str, dict]) -> Picture:
    """Precision and recall of a row's k highest-scored classes, over the rows that have any class."""
    figure = square_figure()
    panels = dict(zip(("Precision", "Recall"), figure.subplots(2, sharex=True), strict=True))
    for name, style in styles(scorers).items():
        for title, axes in panels.items():
            values = curves[name][title.lower()]
            every = max(1, len(values) // 5)
            axes.plot(range(1, len(values) + 1), values, label=named(name), **style | {"markevery": every})
    for title, axes in panels.items():
        axes.set(title=f"{title} at k", ylim=(0, None))
        axes.yaxis.set_major_formatter(percents())
    axes.set_xlabel("k: classes recommended to each user")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    legend(figure, axes)
    test = scorers[MODEL]
    known = sorted(key for key in test if MARKED.fullmatch(key))
    said = [f"{key.replace('_', ' ')} is {percent(test[key], 1)}" for key in known]
    reading = f"For the model {listed(said)}." if said else ""
    alt = f"Curves of precision and recall over k, for {', '.join(named(name) for name in scorers)}. {reading}"
    return Picture("Precision and recall at k", reading, inline_svg(figure, "at-k", alt))
