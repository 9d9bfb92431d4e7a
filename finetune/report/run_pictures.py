"""Pictures of a run's metrics.json: profit, cutoffs, slices, drift, lengths and losses."""

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from finetune.field_words import aggregate_reading
from finetune.figures.measures import DRIFT, digits, measure
from finetune.figures.metrics_json import Metrics
from finetune.report.pictures import (
    BLUE,
    DASHED,
    DOTTED,
    FILL,
    INK,
    MUTED,
    SOLID,
    THIN,
    Picture,
    dots,
    flat_figure,
    inline_svg,
    legend,
    panels_figure,
    percents,
    square_figure,
)
from finetune.wording import FEW_POSITIVES, listed, missing, number, percent, short, span

BARS = 15  # inputs whose drift is drawn
GROUPS = 20  # of a slice that are drawn
DRAWN = 0.05  # drift up to that is not drawn


def profit_pictures(metrics: Metrics) -> list[Picture]:
    """Expected profit over the share of the rows contacted; nothing without evaluation.costs."""
    profit = metrics["profit"]
    if not profit or not profit["shares"]:
        return []
    low, high = (np.array(profit[key], float) for key in ("interval_low", "interval_high"))  # None becomes NaN
    figure = square_figure()
    axes = figure.subplots()
    axes.fill_between(profit["shares"], low, high, color=FILL, alpha=0.6, linewidth=0, label="95\u00a0% interval")
    axes.plot(profit["shares"], profit["profits"], label="Expected profit", **SOLID)
    axes.axhline(0, label="No contact", **THIN)
    if not missing(profit["best_share"]):
        axes.plot(profit["best_share"], profit["best_profit"], "o", color=INK, markersize=7, label="Best", zorder=6)
    chosen = profit.get("share_at_threshold")
    if not missing(chosen):
        at = (chosen, profit["profit_at_threshold"])
        axes.plot(*at, "D", color=INK, markerfacecolor="none", markersize=8, label="At the threshold", zorder=6)
    axes.set(xlim=(0, 1), xlabel="Share of the rows contacted, highest scores first", ylabel="Profit on the test rows")
    axes.xaxis.set_major_formatter(percents())
    axes.yaxis.set_major_formatter("{x:,.6g}")
    legend(figure, axes)
    costs = f"at {profit['contact']:,g} a contact and {profit['kept_customer']:,g} a positive"
    at = profit["shares"].index(profit["best_share"]) if profit["best_share"] in profit["shares"] else None
    bounds = "" if at is None else f" (95\u00a0% interval {span([float(low[at]), float(high[at])], None)})"
    reading = ""
    if not missing(chosen):
        reading = (
            f"With the threshold that validation chose, {percent(chosen, 1)} are contacted and earn "
            f"{number(profit['profit_at_threshold'], None)} (95\u00a0% interval "
            f"{span(profit['profit_at_threshold_interval'], None)}). "
        )
    reading += (
        f"Looking back, these test rows would have earned most, {number(profit['best_profit'], None)}{bounds}, by "
        f"contacting the top {percent(profit['best_share'], 1)}, {costs}; contacting all would have earned "
        f"{number(profit['profits'][-1], None)}."
    )
    alt = f"Curve of the expected profit over the share contacted, with its interval. {reading}"
    return [Picture("Profit", reading, inline_svg(figure, "profit", alt))]


def cutoff_pictures(metrics: Metrics) -> list[Picture]:
    """The main metric at each test cutoff; nothing where there is only one."""
    main, points = metrics["main"], metrics["by_cutoff"]
    if len(points) < 2:
        return []
    name = measure(main, metrics["task"]).title
    figure = flat_figure(6)
    axes = figure.subplots()
    _draw(axes, points, main, upright=True)
    _draw_whole(axes.axhline, axes.axhspan, metrics)
    shown = range(0, len(points), -(-len(points) // 6))
    axes.set_xticks(shown, [str(points[at]["cutoff"])[:10] for at in shown], rotation=30, ha="right")
    moments = "most_per_user" in metrics["test"]
    axes.set(xlabel="Test moments from" if moments else "Test cutoff", ylabel=name)
    legend(figure, axes)
    first, last, places = points[0], points[-1], 4 if digits(main) else None  # as differences have them
    change = number(last.get(f"{main}_change"), places, "+")
    low, high = (number(end, places, "+") for end in last.get(f"{main}_change_interval") or [None, None])
    where = ("at the first test cutoff", "at the last", "cutoff")
    if moments:
        where = (f"at test moments from {str(first['cutoff'])[:10]} on", "in the last period", "period")
    changed = f": changed by {change} [{low}, {high}] since the first {where[2]} (95\u00a0% interval)"
    if f"{main}_change" not in last:
        changed = ", from which the log reaches fewer horizons, so that these are two questions"
    reading = (
        f"{name} is {number(first.get(main), digits(main))} {where[0]} and "
        f"{number(last.get(main), digits(main))} {where[1]}{changed}."
    )
    said = "; ".join(_sentence(str(point["cutoff"]), point, main) for point in points)
    return [Picture("By cutoff", reading, inline_svg(figure, "cutoffs", f"{name} with intervals by cutoff. {said}."))]


def slice_pictures(metrics: Metrics) -> list[Picture]:
    """The main metric of each group, a picture a slice."""
    return [
        _slice(metrics, at, name, content["groups"])
        for at, (name, content) in enumerate(metrics["slices"].items())
        if content["groups"]
    ]


def _slice(metrics: Metrics, at: int, name: str, groups: list[dict]) -> Picture:
    main = metrics["main"]
    title = measure(main, metrics["task"]).title
    known = len(groups)
    groups = groups[:GROUPS]  # the largest, where they have no order of their own
    figure = flat_figure(len(groups) + 2)
    axes = figure.subplots()
    _draw(axes, groups, main)
    _draw_whole(axes.axvline, axes.axvspan, metrics)
    axes.set_yticks(range(len(groups)), [f"{short(group['value'], 22)} ({group['rows']:,})" for group in groups])
    axes.set_xlabel(title)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    legend(figure, axes)
    measured = [group for group in groups if not missing(group.get(main))]
    reading = f"{title} can be told for none of the groups."
    if len(measured) == 1:
        only = measured[0]
        reading = f"{title} is {number(only[main], digits(main))} in the only group measured, {only['value']}."
    if len(measured) > 1:
        worst, best = (
            choose(measured, key=lambda group: group[main])
            for choose in ((max, min) if metrics["lower_is_better"] else (min, max))
        )
        reading = (
            f"{title} runs from {number(worst[main], digits(main))} ({worst['value']}) to "
            f"{number(best[main], digits(main))} ({best['value']}); {_apart(worst, best, main)}. "
        )
        if len(measured) > 2:
            reading += (
                f"The two were picked from {len(measured)} groups after looking, and the largest of several gaps is "
                f"large by chance too. "
            )
        reading += "Rows in brackets."
    if known > GROUPS:
        reading += f" The {GROUPS} largest of {known} groups are drawn."
    said = "; ".join(_sentence(str(group["value"]), group, main) for group in groups)
    alt = f"{title} with intervals by {name}. {said}."
    return Picture(f"By {name}", reading, inline_svg(figure, f"slice-{at}", alt))


def _draw(axes, entries: list[dict], main: str, upright: bool = False) -> None:
    spans = [entry.get(f"{main}_interval") for entry in entries]
    dots(
        axes,
        [entry.get(main) for entry in entries],
        spans,
        [entry["positives"] >= FEW_POSITIVES for entry in entries],
        upright,
    )


def _draw_whole(line, band, metrics: Metrics) -> None:
    """The metric of all test rows, which the parts are compared with."""
    main, test = metrics["main"], metrics["test"]
    bounds, shaded = test.get(f"{main}_interval"), ""
    if bounds and not any(map(missing, bounds)):
        band(*bounds, color=FILL, alpha=0.35, linewidth=0)
        shaded = ", its interval shaded"
    if not missing(test[main]):
        line(test[main], label=f"All test rows {number(test[main], digits(main))}{shaded}", color=MUTED, linewidth=1.2)


def _apart(one: dict, other: dict, main: str) -> str:
    """Whether two intervals overlap, in words."""
    spans = [entry.get(f"{main}_interval") for entry in (one, other)]
    known = [span for span in spans if span is not None and not any(map(missing, span))]
    if len(known) < len(spans):
        return "without an interval"
    (low, high), (other_low, other_high) = known
    return f"their intervals {'overlap' if low <= other_high and other_low <= high else 'do not overlap'}"


def _sentence(name: str, entry: dict, main: str) -> str:
    value, bounds = number(entry.get(main), digits(main)), span(entry.get(f"{main}_interval"), digits(main))
    return f"{name}: {value} ({bounds}), {entry['positives']:,} positives"


def drift_pictures(metrics: Metrics) -> list[Picture]:
    """The population stability index of the inputs that moved most between training and test, without what must move.

    A metrics.json of an older version does not say which do.
    """
    known = [entry for entry in metrics["drift"] if not missing(entry["psi"])]
    moved = [entry for entry in known if not entry.get("ages")]
    aging = [entry for entry in known if entry.get("ages") and entry["psi"] > DRIFT[0]]
    if not moved:
        return []
    drawn = [entry for entry in moved if entry["psi"] > DRAWN]
    shown, below = drawn[:BARS], len(moved) - len(drawn)
    names = [aggregate_reading(entry["input"]) for entry in shown]
    above = [sum(entry["psi"] > mark for entry in moved) for mark in DRIFT]
    reading = (
        f"Of {len(moved)} inputs {above[0]} moved by more than {DRIFT[0]}, which is usually called some drift, and "
        f"{above[1]} by more than {DRIFT[1]}, much drift. "
    )
    if shown:
        reading += f"The largest is {names[0]} with {number(shown[0]['psi'], 2)}. "
    reading += f"{below} moved by {DRAWN} or less and are not drawn. "
    if len(drawn) > len(shown):
        reading += f"Of the others the {BARS} largest are. "
    reading += (
        "Look at what changed there; if it is here to stay, train again with cutoffs up to it."
        if above[1]
        else "Nothing here asks for a new training."
    )
    if aging:
        said = listed([f"{aggregate_reading(entry['input'])} ({number(entry['psi'], 2)})" for entry in aging[:5]])
        more = f" and {len(aging) - 5} more" if len(aging) > 5 else ""
        reading += (
            f" Not drawn are {said}{more}: they count from a user's first event on, so that they move as the log "
            f"grows older, and that is no drift."
        )
    if "target event" in reading or any("target event" in name for name in names):
        reading += " Target events are those that the label is about."
    svg = _drift_bars(names, [entry["psi"] for entry in shown]) if shown else Markup("")
    return [Picture("Drift of the inputs", reading, svg)]


def _drift_bars(names: list[str], values: list[float]) -> Markup:
    """A bar for each input, its name above it, as names are long."""
    limit = max(0.3, 1.2 * values[0])
    figure = flat_figure(round(1.6 * len(values)) + 2)
    axes = figure.subplots()
    axes.barh(range(len(values)), values, color=FILL, edgecolor=BLUE, height=0.4)
    for at, (name, value) in enumerate(zip(names, values, strict=True)):
        text = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "fontsize": 10}
        axes.annotate(f"{short(name, 60)}: {number(value, 2)}", (0, at - 0.42), **text)
    for mark, word, style in zip(DRIFT, ("some", "much"), (DOTTED, DASHED), strict=True):
        look = style | {"color": INK, "linewidth": 1.4, "label": f"{mark:g}: {word} drift"}
        below = [at - 0.2 for at in range(len(values))]  # beside the bars alone, as a name would be crossed out
        axes.vlines([mark] * len(values), below, [start + 0.4 for start in below], **look)
    axes.set_yticks([])
    axes.set(ylim=(len(values) - 0.5, -0.8), xlim=(0, limit), xlabel="Population stability index")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    legend(figure, axes)
    said = ", ".join(f"{name} {number(value)}" for name, value in zip(names, values, strict=True))
    return inline_svg(figure, "drift", f"Bars of the drift index: {said}.")


def text_pictures(metrics: Metrics) -> list[Picture]:
    """How long the texts are, in training and test, and how much of the training batches was padding."""
    lengths = {name: bins for name, bins in metrics["lengths"].items() if sum(bins["counts"])}
    training = metrics["training"]
    padding = _series(training, "padding_fraction")
    if not lengths and not padding[0]:
        return []
    figure, said = square_figure(), []
    panels = list(figure.subplots(bool(lengths) + bool(padding[0]), squeeze=False)[:, 0])
    if lengths:
        axes = panels.pop(0)
        for name, style in (("train", DASHED), ("test", SOLID)):
            if name in lengths:
                edges, counts = lengths[name]["edges"], np.array(lengths[name]["counts"])
                axes.stairs(counts / counts.sum(), edges, label=name, **style)
                middle = edges[int(np.searchsorted(np.cumsum(counts), counts.sum() / 2)) + 1]
                said.append(f"half of the {name} texts have at most {middle:,.0f} tokens")
        axes.set(title="Tokens of a text", ylim=(0, None))
        axes.yaxis.set_major_formatter(percents())
        axes.legend()
    if padding[0]:
        axes = panels.pop(0)
        axes.plot(*padding, **SOLID)
        axes.set(title="Fine-tuning: share of padding", ylim=(0, None), xlim=(0, training["steps"]), xlabel="Step")
        axes.yaxis.set_major_formatter(percents())
        said.append(f"{percent(float(np.mean(padding[1])), 1)} of the training batches was padding")
    reading = f"{listed(said)}."
    reading = reading[0].upper() + reading[1:]
    return [Picture("Texts", reading, inline_svg(figure, "texts", f"Histograms and curves. {reading}"))]


def loss_pictures(metrics: Metrics) -> list[Picture]:
    """Losses and the main validation metric over the steps, a panel for each that was logged."""
    main, title, training = metrics["main"], measure(metrics["main"], metrics["task"]).title, metrics["training"]
    loss, judged = _series(training, "loss"), _series(training, f"eval_{main}")
    marked = SOLID | {"marker": "o", "markersize": 4}
    learned, validated = {"training": (loss, DASHED)}, {"validation": (_series(training, "eval_loss"), marked)}
    panels = {"Pretraining: loss on masked words": {"masked words": (_series(training, "pretraining_loss"), DASHED)}}
    teacher = training.get("teacher")
    if teacher:  # losses of different targets, which one axis would compare
        panels |= {"Fine-tuning: training loss, with the teacher's": learned}
        panels |= {"Fine-tuning: validation loss, of labels alone": validated}
    else:
        panels |= {"Fine-tuning: loss": learned | validated}
    panels |= {f"Fine-tuning: validation {title}": {title: (judged, marked)}}
    panels = {title: lines for title, lines in panels.items() if any(steps for (steps, _), _ in lines.values())}
    if not panels:
        return []
    figure, said = panels_figure(len(panels)), []
    for axes, (heading, lines) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels.items(), strict=True):
        for name, ((steps, values), style) in lines.items():
            axes.plot(steps, values, label=name, **style)
            if values and name != title:
                said.append(f"{name} {number(values[0], 2)} to {number(values[-1], 2)}")
        axes.set_title(heading)
        axes.set_xlim(0, training["pretraining_steps" if heading.startswith("Pretraining") else "steps"])
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        if len(lines) > 1:
            axes.legend(ncols=2, borderpad=0, borderaxespad=0.2)
    axes.set_xlabel("Step")
    reading = f"Loss, first to last: {', '.join(said)}." if said else ""
    if teacher and loss[0]:
        reading += (
            f" The loss of training is to {percent(teacher)} the distance to what the teacher says, that of validation "
            f"is of the labels alone: the one cannot be held against the other."
        )
    if not np.isnan(judged[1]).all():
        best = int((np.nanargmin if metrics["lower_is_better"] else np.nanargmax)(judged[1]))
        step, value = judged[0][best], judged[1][best]
        axes.plot(step, value, "o", markersize=11, color="none", markeredgecolor=INK, zorder=6, clip_on=False)
        reading += (
            f" Validation {title} is best at step {step:,} of {training['steps']:,}: {number(value, digits(main))}."
        )
    alt = f"Curves over the steps. {'; '.join(panels)}. {reading}"
    return [Picture("Training", reading, inline_svg(figure, "training", alt))]


def _series(training: dict, key: str) -> tuple[list[int], list[float]]:
    """Steps and values; NaN where there is no value."""
    return training[key]["steps"], [float("nan") if missing(value) else value for value in training[key]["values"]]
