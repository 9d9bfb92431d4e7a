"""Pictures of the whole: the differences to each baseline, and what lies where in time."""

from datetime import datetime, timedelta

from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.ticker import MaxNLocator

from data_prep.moments import parse_duration
from finetune.measures import MAJORITY, digits, measure
from finetune.report.pictures import (
    AMBER,
    BLUE,
    FILL,
    GREEN,
    INK,
    MUTED,
    Picture,
    dots,
    flat_figure,
    inline_svg,
    legend,
)
from finetune.wording import missing, named, number, span, worded

DAY = timedelta(days=1)
WINDOWS = {"train": (BLUE, "Training"), "validation": (AMBER, "Validation"), "test": (GREEN, "Test")}


def forest_pictures(metrics: dict) -> list[Picture]:
    """The model minus each baseline, by the main measure, with paired intervals; the majority is left out."""
    main, baselines = metrics["main"], metrics["test"]["baselines"]
    names = [
        name
        for name, figures in baselines.items()
        if name != MAJORITY and not missing(figures.get(f"{main}_difference"))
    ]
    if not names:
        return []
    title = measure(main, metrics["task"]).title
    values = [baselines[name][f"{main}_difference"] for name in names]
    spans = [baselines[name].get(f"{main}_difference_interval") for name in names]
    figure = flat_figure(len(names) + 2)
    axes = figure.subplots()
    dots(axes, values, spans, [True] * len(names))
    axes.axvline(0, color=INK, linewidth=1.2, label="No difference")
    axes.set_yticks(range(len(names)), [named(name) for name in names])
    better = "left" if metrics["lower_is_better"] else "right"
    axes.set_xlabel(f"{title}, model minus this (better to the {better})")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    legend(figure, axes)
    places = 4 if digits(main) else None
    said = [
        f"{worded(name)} {number(value, places, '+')} ({span(bounds, places, '+')})"
        for name, value, bounds in zip(names, values, spans, strict=True)
    ]
    reading = (
        f"{title} of the model minus that of each other way, on the same rows, with 95\u00a0% intervals: "
        f"{'; '.join(said)}. An interval across zero cannot tell the two apart."
    )
    return [Picture("Model minus each baseline", reading, inline_svg(figure, "forest", f"Dots. {reading}"))]


def timeline_pictures(metrics: dict) -> list[Picture]:
    """The log, the cutoffs of training, validation and test, and the windows from which their labels come."""
    timeline, log = metrics.get("timeline"), metrics["made"].get("log")
    if not timeline or not log:
        return []
    horizon = parse_duration(metrics["horizon"], "horizon")
    begin, end = (datetime.fromisoformat(log[key]).replace(tzinfo=None) for key in ("first", "last"))
    figure = flat_figure(6)
    axes = figure.subplots()
    axes.barh(0, (end - begin) / DAY, left=date2num(begin), height=0.5, color=FILL, label="Events of the log")
    said = [f"The log runs from {begin:%Y-%m-%d} to {end:%Y-%m-%d}"]
    for at, (split, (colour, name)) in enumerate(WINDOWS.items(), start=1):
        cutoffs = [datetime.fromisoformat(cutoff).replace(tzinfo=None) for cutoff in timeline[split]["cutoffs"]]
        for cutoff in cutoffs:
            axes.barh(at, horizon / DAY, left=date2num(cutoff), height=0.5, color=colour, alpha=0.55, linewidth=0)
        axes.plot(
            [float(date2num(cutoff)) for cutoff in cutoffs],
            [at] * len(cutoffs),
            "|",
            color=colour,
            markersize=14,
            markeredgewidth=1.6,
        )
        until, times = max(cutoffs) + horizon, f"{len(cutoffs)} cutoff{'s' * (len(cutoffs) > 1)}"
        said.append(
            f"{name.lower()} has {timeline[split]['rows']:,} rows at {times} from {min(cutoffs):%Y-%m-%d} on, "
            f"with labels from events up to {until:%Y-%m-%d}"
        )
    axes.set_yticks(range(4), ["Log", *(name for _, name in WINDOWS.values())])
    axes.set_ylim(3.6, -0.6)
    axes.set_xlim(float(date2num(begin - 2 * DAY)), float(date2num(end + 2 * DAY)))
    locator = AutoDateLocator(maxticks=7)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.plot([], [], "|", color=MUTED, markersize=12, markeredgewidth=1.6, label="Cutoff")
    axes.bar(0, 0, color=MUTED, alpha=0.55, label=f"Label window, {metrics['horizon']}")
    legend(figure, axes)
    reading = (
        f"{'; '.join(said)}. A text holds what lies before its cutoff, a label what lies in the window behind it, and "
        f"no window reaches past the first cutoff of the next split."
    )
    return [Picture("What lies where in time", reading, inline_svg(figure, "timeline", f"Bars. {reading}"))]
