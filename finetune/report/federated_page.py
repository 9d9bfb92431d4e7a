"""The page of a federation: what each site gains, the rounds, and who was left out."""

from typing import Any

import matplotlib.style
from matplotlib.ticker import MaxNLocator

from finetune.figures.measures import LOWER_IS_BETTER, MODEL, measure
from finetune.report.pictures import PICTURE_STYLE, THIN, Picture, inline_svg, legend, styles, wide_figure
from finetune.report.report import page_template
from finetune.wording import listed, number, plain_number, standing

MODELS = {MODEL: "Federated", "alone": "The site alone", "pooled": "All logs pooled"}
STANDING = {"ahead": "ahead of", "behind": "behind", "level": "level with"}


def federated_page(found: dict[str, Any]) -> str:
    """The page as HTML.

    Args:
        found: By `finetune.federated.server.serve`.
    """
    with matplotlib.style.context(["default", PICTURE_STYLE]):
        pictures = [_rounds(found)]
    return page_template("federated.html.jinja").render(
        x=found,
        models={name: title for name, title in MODELS.items() if name in _shown(found)},
        others=[name for name in MODELS if name in _shown(found) and name != MODEL],
        digits=_digits(found),
        metric=_title(found),
        method=method(found),
        answers=answers(found),
        pictures=pictures,
        outcome=lambda site, other: _outcome(found["sites"][site], other),
    )


def method(found: dict[str, Any]) -> str:
    """FedAvg, or FedProx with its weight."""
    return f"FedProx ({found['proximal']:g})" if found["proximal"] else "FedAvg"


def answers(found: dict[str, Any]) -> dict[str, str]:
    """How the federated model stands beside each site alone and beside the pooled one, and who was left out."""
    sites = found["sites"]
    said = {}
    for other, title in (("alone", "the site alone"), ("pooled", "the model of all logs")):
        if other not in _shown(found):
            continue
        by = {"ahead": [], "behind": [], "level": []}
        for name, figures in sites.items():
            by[_outcome(figures, other)].append(name)
        parts = [f"{STANDING[how]} {title} at {listed(names)}" for how, names in by.items() if names]
        said[other] = f"The federated model is {listed(parts)}."
    out = [f"{name} has left: {why}" for name, why in found["left"].items()]
    for entry in found["history"]:
        out += [f"round {entry['round']}: {name}, {why}" for name, why in entry["left_out"].items()]
    said["out"] = "; ".join(out) or "Nobody."
    return said


def table(found: dict[str, Any]) -> str:
    """The figures of every site for the screen."""
    digits, lines = _digits(found), []
    width = max(map(len, found["sites"]))
    for name, figures in found["sites"].items():
        parts = []
        for model, title in MODELS.items():
            of = figures["models"].get(model)
            if of is None or of["value"] is None:
                continue
            ahead = f" ({_figure(of['difference'], digits, '+')} [{_bounds(of, digits)}])" if model != MODEL else ""
            parts.append(f"{title.lower()} {_figure(of['value'], digits)}{ahead}")
        lines.append(f"{name:<{width}}  {_title(found)} on {figures['rows']:,} rows: {', '.join(parts)}")
    return "\n".join([*lines, "in brackets: federated minus the other, with the 95 % interval over users"])


def _figure(value: float | None, digits: int, sign: str = "") -> str:
    return "-" if value is None else plain_number(value, digits, sign)


def _bounds(of: dict[str, Any], digits: int) -> str:
    return ", ".join(_figure(end, digits, "+") for end in of["difference_interval"] or [None, None])


def _task(found: dict[str, Any]) -> str:
    return next(iter(found["sites"].values()))["task"]


def _title(found: dict[str, Any]) -> str:
    """The measure of the test rows."""
    return measure(next(iter(found["sites"].values()))["metric"], _task(found)).title


def _digits(found: dict[str, Any]) -> int:
    return measure(next(iter(found["sites"].values()))["metric"], _task(found)).digits or 3


def _shown(found: dict[str, Any]) -> set[str]:
    return {model for figures in found["sites"].values() for model in figures["models"]}


def _outcome(figures: dict[str, Any], other: str) -> str:
    """Where the interval of the difference shows the federated model."""
    interval = figures["models"].get(other, {}).get("difference_interval")
    if not interval or None in interval:
        return "level"
    return standing(interval, figures["metric"] in LOWER_IS_BETTER)


def _rounds(found: dict[str, Any]) -> Picture:
    """What each site's validation rows say of the model after each round."""
    figure = wide_figure()
    axes = figure.subplots()
    history = found["history"]
    names = list(dict.fromkeys(name for entry in history for name in entry["validation"]))
    metric = measure(next((entry["metric"] for entry in history if "metric" in entry), "loss"), _task(found)).title
    ends = []
    for name, style in styles(names).items():
        known = [(entry["round"], entry["validation"][name]) for entry in history if name in entry["validation"]]
        axes.plot(*zip(*known, strict=True), label=name, **dict(style, markevery=1))
        ends.append(f"{name} {number(known[-1][1])}")
    if found["best_round"]:
        axes.axvline(found["best_round"], **THIN)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="Round", ylabel=f"{metric} of validation")
    if names:
        legend(figure, axes)
    title = "The model after each round"
    reading = (
        f"Round {found['best_round']} is kept (the line), by the mean of the sites. At the end: {', '.join(ends)}."
    )
    return Picture(title, reading, inline_svg(figure, "rounds", f"{title}. {reading}"))
