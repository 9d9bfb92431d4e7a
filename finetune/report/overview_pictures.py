"""Pictures of the whole: the differences to each baseline, also in users, and what lies where in time."""

from datetime import datetime, timedelta

import numpy as np
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.ticker import MaxNLocator

from data_prep.moments import parse_duration
from finetune.figures.measures import MODEL, SAME_FOR_ALL, best_rival, digits, judged, measure
from finetune.figures.metrics_json import Metrics
from finetune.report.pictures import (
    AMBER,
    BLUE,
    FILL,
    GREEN,
    INK,
    MUTED,
    SOLID,
    Picture,
    dots,
    flat_figure,
    inline_svg,
    legend,
    percents,
    wide_figure,
)
from finetune.wording import missing, named, number, short_percent, span, worded

DAY = timedelta(days=1)
WINDOWS = {"train": (BLUE, "Training"), "validation": (AMBER, "Validation"), "test": (GREEN, "Test")}


def forest_pictures(metrics: Metrics) -> list[Picture]:
    """The model minus each baseline, by the main measure, with paired intervals; the majority is left out."""
    main, baselines = metrics["main"], judged(metrics)["baselines"]
    names = [
        name
        for name, figures in baselines.items()
        if name not in SAME_FOR_ALL and not missing(figures.get(f"{main}_difference"))
    ]
    if not names:
        return []
    title = measure(main, metrics["task"]).title
    values = [baselines[name][f"{main}_difference"] for name in names]
    spans = [baselines[name].get(f"{main}_difference_interval") for name in names]
    places = 4 if digits(main) else None
    figure = flat_figure(len(names) + 2)
    axes = figure.subplots()
    low, high = ends_of_differences(
        values, spans, names.index(rival) if (rival := best_rival(baselines, main)) in names else 0
    )
    dots(axes, [value if low <= value <= high else None for value in values], spans, [True] * len(names))
    for at, value in enumerate(values):
        if not low <= value <= high:  # it would press all others onto zero
            side, text, end, inside = (">", "right", high, -8) if value > 0 else ("<", "left", low, 8)
            axes.plot(end, at, side, color=BLUE, markersize=9, clip_on=False)
            place = {"xy": (end, at), "xytext": (inside, 0), "textcoords": "offset points"}
            axes.annotate(number(value, places, "+"), **place, va="center", ha=text, fontsize=10)
    axes.set_xlim(low, high)
    axes.axvline(0, color=INK, linewidth=1.2, label="No difference")
    axes.set_yticks(range(len(names)), [named(name) for name in names])
    better = "left" if metrics["lower_is_better"] else "right"
    axes.set_xlabel(f"{title}, model minus this (better to the {better})")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    legend(figure, axes)
    said = [
        f"{worded(name)} {number(value, places, '+')} ({span(bounds, places, '+')})"
        for name, value, bounds in zip(names, values, spans, strict=True)
    ]
    reading = (
        f"{title} of {'a single model' if metrics.get('single') else 'the model'} minus that of each other way, on the "
        f"same rows, with 95\u00a0% intervals{' over users and seeds' if metrics.get('single') else ''}: "
        f"{'; '.join(said)}. An interval across zero cannot tell the two apart."
    )
    return [Picture("Model minus each baseline", reading, inline_svg(figure, "forest", f"Dots. {reading}"))]


def ends_of_differences(values: list[float], spans: list[list[float] | None], best: int) -> tuple[float, float]:
    """Where the axis of the differences ends: zero is on it, and what lies within ten times the best baseline's
    reach; a value beyond that has room to be written at its end."""
    reaches = [
        [value, *(end for end in span or [] if not missing(end))] for value, span in zip(values, spans, strict=True)
    ]
    limit = 10 * max(map(abs, reaches[best]))
    near = [end for reach in reaches if max(map(abs, reach)) <= limit for end in reach]
    low, high = min(0.0, *near), max(0.0, *near)
    room = (high - low) or 1.0
    left, right = (0.35 if any(value * side > limit for value in values) else 0.1 for side in (-1, 1))
    return low - left * room, high + right * room


def contact_pictures(metrics: Metrics) -> list[Picture]:
    """How much more a contact finds by the model than by the best baseline, for each share of the users."""
    contact, rival = metrics.get("contact"), best_rival(metrics["test"]["baselines"], metrics["main"])
    band = ((contact or {}).get("ahead") or {}).get(rival)
    if not contact or rival is None or band is None or rival not in contact["found"]:
        return []
    low, high, ours, theirs = (
        np.array(values, float)
        for values in (band["low"], band["high"], contact["found"][MODEL], contact["found"][rival])
    )
    shares, apart = np.linspace(0, 1, len(ours)), ours - theirs
    figure = wide_figure()
    axes = figure.subplots()
    axes.fill_between(shares, low, high, color=FILL, alpha=0.6, linewidth=0, label="95\u00a0% interval")
    axes.plot(shares, apart, label=f"Model minus {worded(rival)}", **SOLID)
    axes.axhline(0, color=INK, linewidth=1.2)
    axes.set(
        xlim=(0, 1), xlabel="Share contacted", ylabel="More brought" if metrics["task"] == "value" else "More found"
    )
    axes.xaxis.set_major_formatter(percents())
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(lambda value, _: number(value, 0, "+"))
    legend(figure, axes)
    places, there = None if metrics["task"] == "value" else 0, contact["difference_at"][rival]
    apart_at, bounds = number(there["difference"], places, "+"), span(there["interval"], places, "+")
    clear = int(((low > 0) | (high < 0)).sum())
    reading = (
        f"What the model's list holds beyond one of {worded(rival)} of the same length: "
        f"at {short_percent(contact['share'])} {apart_at} ({bounds}). "
        f"The difference is more than chance at {clear or 'none'} of the {len(shares) - 1} shares."
    )
    title = f"Found beyond {worded(rival)}"
    return [Picture(title, reading, inline_svg(figure, "contact", f"A line within its interval. {reading}"))]


def timeline_pictures(metrics: Metrics) -> list[Picture]:
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
        most = timeline[split].get("most_per_user")
        for cutoff in cutoffs[:1] if most else cutoffs:  # of moments, the two between which they lie
            wide = horizon + (max(cutoffs) - min(cutoffs) if most else timedelta())
            axes.barh(at, wide / DAY, left=date2num(cutoff), height=0.5, color=colour, alpha=0.55, linewidth=0)
        axes.plot(
            [float(date2num(cutoff)) for cutoff in cutoffs],
            [at] * len(cutoffs),
            "|",
            color=colour,
            markersize=14,
            markeredgewidth=1.6,
        )
        until, times = min(max(cutoffs) + horizon, end), f"{len(cutoffs)} cutoff{'s' * (len(cutoffs) > 1)}"
        times = f"up to {most} moments a user" if most else times
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
    own = " and at its very moment" if "most_per_user" in timeline["train"] else ""
    reading = (
        f"{'; '.join(said)}. A text holds what lies before its cutoff{own}, a label what lies in the window behind it, "
        f"and no window reaches past the first cutoff of the next split."
    )
    return [Picture("What lies where in time", reading, inline_svg(figure, "timeline", f"Bars. {reading}"))]
