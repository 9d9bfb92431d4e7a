"""The page of a search for settings: which trial to take, what it gains over the config's own, and all trials."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.style
from matplotlib.ticker import MaxNLocator, NullFormatter

from finetune.figures.measures import SEED_DEVIATIONS
from finetune.report.pictures import (
    DASHED,
    INK,
    PICTURE_STYLE,
    SOLID,
    THIN,
    Picture,
    inline_svg,
    legend,
    wide_figure,
)
from finetune.report.report import page_template
from finetune.wording import listed, number, setting_words

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

STATES = {"COMPLETE": "finished", "PRUNED": "ended early", "FAIL": "failed", "RUNNING": "running"}
LITTLE = "A gain below twice that may be chance."


@dataclass
class Search:
    """What is known of a search.

    Attributes:
        name: Of the experiment.
        metric: The title of the validation measure that judges.
        lower: Whether it is better the lower it is.
        space: Setting -> its range or choices.
        wanted: Trials in all.
        trials: Those that there are.
        best: The best of those that have finished, if one has.
        own: The one with the config's own settings, if there is one.
        deviation: Of the measure between the seeds of this run, where they were tried.
        config: The file with the best settings.
    """

    name: str
    metric: str
    lower: bool
    space: dict[str, dict[str, Any]]
    wanted: int
    trials: list["FrozenTrial"]
    best: "FrozenTrial | None"
    own: "FrozenTrial | None"
    deviation: float | None
    config: Path


def sweep_page(search: Search) -> str:
    """The page as HTML."""
    finished = [trial for trial in search.trials if trial.state.name == "COMPLETE"]
    with matplotlib.style.context(["default", PICTURE_STYLE]):
        pictures = [_progress(finished, search)] if finished else []
        if search.best:
            pictures += [_against(finished, search, name, tried) for name, tried in search.space.items()]
    return page_template("sweep.html.jinja").render(
        search=search,
        answers=answers(search),
        states=STATES,
        in_short=in_short,
        setting_words=setting_words,
        value=_value,
        pictures=pictures,
    )


def answers(search: Search) -> dict[str, Any]:
    """Which trial to take, what it gains, whether that is more than chance, and whether the config has it already:
    headline, gain, sure and have; and taken, the trial's number.

    Trials that another seed could bring to the best one's value are not told apart from it: of these the config's own
    settings are taken, if they are among them.
    """
    best, own = search.best, search.own
    if best is None or best.value is None:
        return {"headline": "No trial has finished."}
    level = _level(search)
    gain = f"The validation {search.metric} of trial {best.number} is {number(best.value, 4)}"
    if own is None or own.value is None:
        gain += ". No finished trial has the config's own settings, so that what it gains over them is not known."
    elif own.number == best.number:
        gain += ": these are the config's own settings, and no other trial is better."
    else:
        gain += (
            f", better by {number(abs(own.value - best.value), 4)} than with the config's own settings (trial "
            f"{own.number}, {number(own.value, 4)})."
        )
    take, have, taken = f"Take trial {best.number}", "", best
    if own is not None and own.number in [best.number, *(trial.number for trial in level)]:
        take, taken = f"Keep the settings of the config: trial {own.number}", own
        have = "The config has these settings already."
    if not level:
        return {"headline": f"{take}.", "gain": gain, "sure": _noise(search), "have": have, "taken": taken.number}
    alike = listed([str(at) for at in sorted(trial.number for trial in [best, *level])])
    headline = f"{take}. Trials {alike} lie no further apart than other seeds can bring them."
    sure = f"{_noise(search)} {_quickest([best, *level])}".strip()
    return {"headline": headline, "gain": gain, "sure": sure, "have": have, "taken": taken.number}


def _level(search: Search) -> list["FrozenTrial"]:
    """The finished trials beside the best one that twice a standard deviation between seeds could bring to it."""
    best, apart = search.best, _deviation(search)
    if best is None or best.value is None or apart is None:
        return []
    return [
        trial
        for trial in search.trials
        if trial.state.name == "COMPLETE" and trial.number != best.number and trial.value is not None
        if abs(trial.value - best.value) < 2 * apart
    ]


def _deviation(search: Search) -> float | None:
    """Of the measure between seeds: of this run's, or else the largest that was seen on real logs."""
    if search.deviation is not None:
        return search.deviation
    return SEED_DEVIATIONS[1] if search.metric == "AUROC" else None


def _quickest(level: list["FrozenTrial"]) -> str:
    """Which of the trials that cannot be told apart costs least."""
    timed = [(trial.duration, trial.number) for trial in level if trial.duration]
    if not timed:
        return ""
    least, at = min(timed)
    seconds = number(least.total_seconds(), 1)
    return f"Of the {len(level)} trials that cannot be told apart trial {at} took least time, {seconds} s."


def _noise(search: Search) -> str:
    """What a gain is to be held against."""
    picked = (
        "The best of many trials looks a little better on validation than it is; the test split was not read. Train "
        "both with --seeds 0 1 2 and compare them where it matters."
    )
    if search.deviation is not None:
        apart = number(search.deviation, 4)
        return f"Between the seeds of this run it has a standard deviation of {apart}. {LITTLE} {picked}"
    if search.metric == "AUROC":
        low, high = (number(end, 4) for end in SEED_DEVIATIONS)
        return (
            f"Another seed alone moves it: on seven labels of real logs by a standard deviation of {low} to {high}. "
            f"A gain below twice the larger one may be chance. {picked}"
        )
    return f"How far another seed alone moves it is not known here. {picked}"


def _value(trial: "FrozenTrial") -> float | None:
    """Of a trial that did not finish the last evaluation."""
    if trial.value is None and trial.last_step is not None:
        return trial.intermediate_values[trial.last_step]
    return trial.value


def in_short(value: object) -> str:
    """The value of a setting."""
    return "\u2013" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _final_values(finished: list["FrozenTrial"]) -> list[float]:
    """Of trials that all have one."""
    return [trial.value for trial in finished if trial.value is not None]


def _progress(finished: list["FrozenTrial"], search: Search) -> Picture:
    """The value of each finished trial and the best one so far."""
    figure = wide_figure()
    axes = figure.subplots()
    numbers, values, best = [trial.number for trial in finished], _final_values(finished), []
    for value in values:
        best.append((min if search.lower else max)([*best[-1:], value]))
    axes.plot(numbers, values, label="Trial", **dict(DASHED, marker="o", linestyle="none"))
    axes.step(numbers, best, where="post", label="Best so far", **SOLID)
    if search.own and search.own.value is not None:
        axes.axhline(search.own.value, label="The config's own settings", **THIN)
    axes.set(xlabel="Trial", ylabel=f"Validation {search.metric}")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    legend(figure, axes)
    reading = f"The first finished trial had {values[0]:.4f}, the best has {best[-1]:.4f}."
    alt = f"Validation {search.metric} of {len(values)} finished trials, and the best so far. {reading}"
    return Picture("Best value over the trials", reading, inline_svg(figure, "progress", alt))


def _against(finished: list["FrozenTrial"], search: Search, name: str, tried: dict[str, Any]) -> Picture:
    """The value of each finished trial over one of the settings."""
    assert search.best is not None
    figure = wide_figure()
    axes = figure.subplots()
    settings, values = [trial.params[name] for trial in finished], _final_values(finished)
    if "choices" in tried:
        axes.set_xticks(range(len(tried["choices"])), [in_short(choice) for choice in tried["choices"]])
        axes.set_xlim(-0.5, len(tried["choices"]) - 0.5)
    elif tried.get("log"):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")  # matplotlib's own is LaTeX
        axes.xaxis.set_minor_formatter(NullFormatter())
    at = [tried["choices"].index(value) for value in settings] if "choices" in tried else settings
    axes.plot(at, values, "o", color=SOLID["color"], label="Trial")
    best = next(i for i, trial in enumerate(finished) if trial.number == search.best.number)
    ring = {"color": "none", "markeredgecolor": INK, "markersize": 12}
    axes.plot(at[best], values[best], "o", label="Best", **ring)
    axes.set(xlabel=setting_words(name), ylabel=f"Validation {search.metric}")
    legend(figure, axes)
    reading = f"The best trial has {in_short(search.best.params[name])}."
    pairs = ", ".join(f"{in_short(setting)}: {value:.4f}" for setting, value in zip(settings, values, strict=True))
    alt = f"Validation {search.metric} of each finished trial by {name}. {pairs}."
    return Picture(setting_words(name), reading, inline_svg(figure, name.replace(".", "-"), alt))
