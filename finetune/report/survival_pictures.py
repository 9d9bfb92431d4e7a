"""Pictures of the time to an event: how fast it comes by risk, calibration, and the measures of each horizon."""

import numpy as np
from matplotlib.figure import Figure

from finetune.figures.measures import MODEL, at_horizon
from finetune.figures.survival import days
from finetune.report.pictures import (
    BLUE,
    INK,
    THIN,
    Picture,
    finish,
    inline_svg,
    legend,
    percents,
    square_figure,
    styles,
    wide_figure,
)
from finetune.wording import listed, missing, named, number, percent, span


def survival_curves(horizons: list[str], curves: dict) -> Picture:
    """The share of the users without the event over time, by tenths of the risk: as it was, and as predicted."""
    figure = wide_figure()
    axes = figure.subplots()
    observed, predicted = (1 - np.array(curves["by_risk"][key], float) for key in ("observed", "predicted"))
    times = np.append(0.0, days(horizons))
    shades = np.linspace(0.35, 1.0, len(observed))
    for real, said, shade in zip(observed, predicted, shades, strict=True):
        axes.plot(times, np.append(1.0, real), color=BLUE, alpha=shade, linewidth=1.6, marker="o", markersize=3)
        axes.plot(times, np.append(1.0, said), color=INK, alpha=shade, linewidth=1.0, linestyle=":")
    axes.plot([], [], color=BLUE, marker="o", markersize=3, label="Observed (Kaplan-Meier)")
    axes.plot([], [], color=INK, linestyle=":", label="Predicted")
    axes.set(xlim=(0, times[-1]), ylim=(0, 1), xlabel="Days after the cutoff", ylabel="Share without the event")
    axes.yaxis.set_major_formatter(percents())
    legend(figure, axes)
    at = _last_known(curves["come_by"])
    ends = [f"{percent(1 - observed[row][at])} against {percent(1 - predicted[row][at])}" for row in (-1, 0)]
    reading = (
        f"Each line is a part of the rows, of equal size, the darkest the one with the highest risk. Of that one the "
        f"event had come within {horizons[at]} for {ends[0]} predicted, of the part with the lowest risk for {ends[1]}."
    )
    return Picture("Time to the event, by risk", reading, inline_svg(figure, "survival", f"Curves. {reading}"))


def calibration_by_horizon(horizons: list[str], curves: dict) -> Picture:
    """Predicted probability and the share whose event came, in bins of equal count, a line for each horizon."""
    figure = square_figure()
    axes = figure.subplots()
    for name, style in styles(horizons).items():
        bins = curves["by_horizon"][horizons.index(name)]
        axes.plot(bins["predicted"], np.array(bins["observed"], float), label=f"Within {name}", **style)
    axes.plot([0, 1], [0, 1], label="Perfect", **THIN)
    axes.set(xlabel="Predicted probability", ylabel="Share whose event came")
    finish(figure, axes)
    whole = zip(horizons, curves["expected"], curves["come_by"], strict=True)
    said = [
        f"within {name} {percent(ours, 1)} and {percent(real, 1)}" for name, ours, real in whole if not missing(real)
    ]
    reading = f"What the model expects over all rows, and what came (Kaplan-Meier): {listed(said)}."
    return Picture("Calibration by horizon", reading, inline_svg(figure, "calibration", f"Reliability. {reading}"))


def measures_by_horizon(horizons: list[str], scorers: dict[str, dict]) -> Picture:
    """The AUROC of each scorer at each horizon, with the model's intervals."""
    figure: Figure = wide_figure()
    axes = figure.subplots()
    keys = [at_horizon("auroc", n) for n in range(1, len(horizons) + 1)]
    for name, style in styles(scorers).items():
        values = [scorers[name].get(key) for key in keys]
        axes.plot(
            range(len(keys)), np.array(values, float), label=named(name), **dict(style, markevery=1, markersize=6)
        )
    test, said = scorers[MODEL], []
    for at, (name, key) in enumerate(zip(horizons, keys, strict=True)):
        bounds = test.get(f"{key}_interval")
        if bounds and not any(map(missing, bounds)):
            axes.vlines(at, *bounds, color=BLUE, linewidth=2)
            brier = test.get(at_horizon("brier_score", at + 1))
            said.append(f"within {name} {number(test[key])} ({span(bounds, 3)}), Brier score {number(brier)}")
    axes.axhline(0.5, label="Chance", **THIN)
    axes.set_xticks(range(len(keys)), horizons)
    axes.set(xlim=(-0.3, len(keys) - 0.7), xlabel="Horizon", ylabel="AUROC")
    legend(figure, axes)
    reading = f"The model's AUROC: {listed(said) or 'not defined'}. Bars and brackets are 95\u00a0% intervals."
    return Picture("By horizon", reading, inline_svg(figure, "by-horizon", f"AUROC. {reading}"))


def _last_known(shares: list[float | None]) -> int:
    """The longest horizon at which something is known."""
    return max(at for at, share in enumerate(shares) if not missing(share))
