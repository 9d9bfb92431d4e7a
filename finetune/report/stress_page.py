"""The page of a stress test: what damage costs the model and boosting, as sentences, curves and a table."""

from typing import Any

import matplotlib.style

from finetune.report.pictures import PICTURE_STYLE, Picture, inline_svg, legend, styles, wide_figure
from finetune.report.report import page_template
from finetune.wording import number, percent, short, span, standing

SCORERS = {"model": "Model", "gradient_boosting": "Gradient boosting"}
LITTLE = 0.01  # of AUROC
WORST = 3


def stress_page(found: dict[str, Any]) -> str:
    """The page as HTML.

    Args:
        found: By `finetune.trust.stress.stress`.
    """
    with matplotlib.style.context(["default", PICTURE_STYLE]):
        pictures = [_curve(found, entry) for entry in every_entry(found)]
    return page_template("stress.html.jinja").render(
        x=found, scorers=SCORERS, answers=answers(found), pictures=pictures, entries=every_entry(found), worse=_standing
    )


def every_entry(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Damages, and what is no damage."""
    return [*found["damages"], *found["others"]]


def answers(found: dict[str, Any]) -> dict[str, Any]:
    """What hurts most, whether boosting bears it better, who is contacted then, and what does no harm."""
    steps = [(damage, step) for damage in found["damages"] for step in damage["steps"]]
    worst = sorted(found["damages"], key=lambda damage: min(step["model"]["auroc"] for step in damage["steps"]))[:WORST]
    lost = [_loss(found, damage) for damage in worst]
    behind = [_step(*pair) for pair in steps if _standing(pair[1]) == "behind"]
    ahead = [_step(*pair) for pair in steps if _standing(pair[1]) == "ahead"]
    moved = max(steps, key=lambda pair: abs(pair[1]["model"]["contacted"] - found["clean"]["model"]["contacted"]))
    harmless = [
        damage["title"]
        for damage in found["damages"]
        if all(abs(step["model"]["auroc"] - found["clean"]["model"]["auroc"]) < LITTLE for step in damage["steps"])
    ]
    beside = f"The model is behind boosting in {len(behind)} of {len(steps)} steps of damage, and ahead in {len(ahead)}"
    as_it_is = {"ahead": "ahead of boosting", "behind": "behind boosting", "level": "level with boosting"}
    contacted = (
        f"{_step(*moved)}: {percent(moved[1]['model']['contacted'], 1)} of the rows reach the threshold instead of "
        f"{percent(found['clean']['model']['contacted'], 1)}; with boosting "
        f"{percent(moved[1]['gradient_boosting']['contacted'], 1)} instead of "
        f"{percent(found['clean']['gradient_boosting']['contacted'], 1)}."
    )
    return {
        "headline": lost[0],
        "more": " ".join(lost[1:]),
        "beside": f"{beside}. Without damage it is {as_it_is[_standing(found['clean'])]}.",
        "behind": "; ".join(behind),
        "contacted": contacted,
        "harmless": "; ".join(harmless) or "nothing",
        "others": [(entry["title"], _each(entry["steps"])) for entry in found["others"]],
    }


def _each(steps: list[dict[str, Any]]) -> str:
    """Of each step the AUROC of both."""
    said = [
        f"{step['step']}: {number(step['model']['auroc'], 3)} and {number(step['gradient_boosting']['auroc'], 3)}"
        for step in steps
    ]
    return f"AUROC of the model and of boosting: {'; '.join(said)}."


def _loss(found: dict[str, Any], damage: dict[str, Any]) -> str:
    step = min(damage["steps"], key=lambda step: step["model"]["auroc"])
    falls = [
        f"{number(found['clean'][name]['auroc'], 3)} to {number(step[name]['auroc'], 3)}"
        for name in ("model", "gradient_boosting")
    ]
    return f"{_step(damage, step)}: the model's AUROC goes from {falls[0]}, boosting's from {falls[1]}."


def _step(damage: dict[str, Any], step: dict[str, Any]) -> str:
    return f"{damage['title']} ({step['step']})"


def _standing(step: dict[str, Any]) -> str:
    """Which of the two the interval of the difference shows ahead."""
    interval = step["gradient_boosting"]["auroc_difference_interval"]
    return "level" if interval is None or None in interval else standing(interval, False)


def _curve(found: dict[str, Any], damage: dict[str, Any]) -> Picture:
    """AUROC of both over the steps, on the same axis in all pictures of the page."""
    every = [found["clean"], *(step for other in every_entry(found) for step in other["steps"])]
    ends = [end for step in every for name in SCORERS for end in step[name]["auroc_interval"] if end is not None]
    place = damage.get("clean", "first")  # where the figures without damage stand: first, last or none
    clean = [{"step": "all users" if place == "last" else "as it is"} | found["clean"]]
    steps = [*(clean if place == "first" else []), *damage["steps"], *(clean if place == "last" else [])]
    figure = wide_figure()
    axes = figure.subplots()
    said = []
    for shift, (name, style) in zip((-0.04, 0.04), styles(SCORERS).items(), strict=True):
        values = [step[name]["auroc"] for step in steps]
        at = [x + shift for x in range(len(steps))]
        axes.plot(at, values, label=SCORERS[name], **dict(style, markevery=1))
        for x, step in zip(at, steps, strict=True):
            if None not in step[name]["auroc_interval"]:
                axes.vlines(x, *step[name]["auroc_interval"], color=style["color"], linewidth=1)
        said.append(f"{SCORERS[name]}: " + ", ".join(f"{step['step']} {number(step[name]['auroc'])}" for step in steps))
    axes.set_xticks(range(len(steps)), [short(step["step"], 14) for step in steps])
    axes.set(
        xlim=(-0.3, len(steps) - 0.7), ylim=(min(ends, default=0) - 0.01, max(ends, default=1) + 0.01), ylabel="AUROC"
    )
    legend(figure, axes)
    last = damage["steps"][0 if place == "last" else -1]  # the worst case
    reading = (
        f"{'At' if place == 'none' else 'With'} {last['step']} the model has {number(last['model']['auroc'])} "
        f"({span(last['model']['auroc_interval'])}), boosting {number(last['gradient_boosting']['auroc'])} "
        f"({span(last['gradient_boosting']['auroc_interval'])})."
    )
    identity = f"damage-{every_entry(found).index(damage)}"
    return Picture(damage["title"], reading, inline_svg(figure, identity, f"{damage['title']}. {'. '.join(said)}."))
