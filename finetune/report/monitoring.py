"""The page of a monitor: what rings, how far every signal lies from its threshold, and the scores beside each other."""

from pathlib import Path
from typing import Any

import matplotlib.style
from markupsafe import Markup

from data_prep import InputError
from data_prep.files import write_whole
from finetune.field_words import aggregate_reading
from finetune.figures.measures import measure
from finetune.report.pictures import (
    BLUE,
    FILL,
    INK,
    ORANGE,
    PICTURE_STYLE,
    THIN,
    Picture,
    flat_figure,
    inline_svg,
    legend,
    percents,
    wide_figure,
)
from finetune.report.report import page_template
from finetune.wording import missing, number, percent, short, span

MARK = "EventScribe monitor"  # in every page
SHOWN = 9  # signals that are drawn
FAMILIES = {
    "inputs": "What the model reads",
    "words": "What its texts no longer say",
    "scores": "What it says",
    "outcomes": "What came",
}


def write_monitor_page(result: dict[str, Any], path: Path) -> Path:
    """Write what a monitor has found as one self-contained page; InputError where it would replace another page.

    Args:
        result: See `finetune.upkeep.monitor`.
        path: The page.
    """
    refuse_other_page(path)
    with matplotlib.style.context(["default", PICTURE_STYLE]):
        pictures = [_loudness(result), _scores(result)]
    page = page_template("monitor.html.jinja").render(
        result=result,
        headline=headline(result),
        ringing=[signal for signal in result["signals"] if signal["rings"]],
        reading=lambda signal: signal_reading(signal, result["task"]),
        shown=lambda signal, key: _shown(signal, signal[key]),
        outcome=lambda entry, key: _outcome(entry, key, result["task"]),
        called=lambda name: _called(name, result["task"]),
        families=FAMILIES,
        pictures=pictures,
    )
    write_whole(path, page)
    return path


def refuse_other_page(path: Path) -> None:
    """InputError where a file is there that is none of these pages."""
    if path.exists() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
        raise InputError(f"{path} is no page of a monitor and would be replaced", "choose another --report")


def headline(result: dict[str, Any]) -> str:
    """Whether anything rings, in a sentence."""
    ringing = [signal for signal in result["signals"] if signal["rings"]]
    if not ringing:
        return f"All quiet at {result['cutoff']}: none of {len(result['signals'])} signals rings."
    loudest = signal_reading(ringing[0], result["task"])
    if len(ringing) == 1:
        return f"One of {len(result['signals'])} signals rings at {result['cutoff']}: {loudest}."
    return f"{len(ringing)} of {len(result['signals'])} signals ring at {result['cutoff']}; the loudest is {loudest}."


def signal_reading(signal: dict[str, Any], task: str) -> str:
    """What a signal is called."""
    if signal["family"] == "inputs":
        tokens = {"text_tokens": "tokens in a text"}
        return tokens.get(signal["name"], aggregate_reading(signal["name"]))
    return _called(signal["name"], task) if signal["family"] == "outcomes" else signal["name"].replace("_", " ")


def _called(name: str, task: str) -> str:
    return "Mean score minus mean label" if name == "calibration" else measure(name, task).title


def _outcome(entry: dict[str, Any], key: str, task: str) -> str:
    """A value with its interval."""
    bounds = entry[f"{key}_interval" if key == "promised" else "interval"]
    said = number(entry[key], 3, "+" if entry["name"] == "calibration" else "")
    return said if bounds is None or any(map(missing, bounds)) else f"{said} ({span(bounds)})"


def _shown(signal: dict[str, Any], value: float) -> str:
    """A signal's value or threshold: an index, or a share in per cent."""
    share = signal["family"] == "words" or signal["name"].startswith("share")
    return percent(value, 2) if share else number(value)


def _loudness(result: dict[str, Any]) -> Picture:
    """The loudest signals, as multiples of their thresholds."""
    found = result["signals"][:SHOWN]
    names = [short(signal_reading(signal, result["task"]), 56) for signal in found]
    loud = [signal["value"] / signal["threshold"] for signal in found]
    figure = flat_figure(round(1.6 * len(found)) + 2)
    axes = figure.subplots()
    limit = max(1.3, 1.1 * max(loud, default=1.0))
    colours = [ORANGE if signal["rings"] else BLUE for signal in found]
    for at, (name, value, colour, signal) in enumerate(zip(names, loud, colours, found, strict=True)):
        bar = axes.barh(at, value, color=FILL, edgecolor=colour, height=0.4, hatch="//" if signal["rings"] else None)
        bar[0].set_linewidth(1.6 if signal["rings"] else 1.0)
        text = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "fontsize": 10}
        rings = ", rings" if signal["rings"] else ""
        axes.annotate(f"{name}: {number(value, 2)}{rings}", (0, at - 0.42), **text)
    below = [at - 0.26 for at in range(len(found))]  # beside the bars alone, as a name would be crossed out
    ends = [start + 0.52 for start in below]
    axes.vlines([1] * len(found), below, ends, color=INK, linewidth=1.6, label="Threshold")
    axes.set_yticks([])
    axes.set(ylim=(len(found) - 0.5, -0.8), xlim=(0, limit), xlabel="Value, in thresholds")
    legend(figure, axes)
    said = ", ".join(f"{name} {number(value, 2)}" for name, value in zip(names, loud, strict=True))
    rest = len(result["signals"]) - len(found)
    reading = "How far each signal lies from the model's own time, as a multiple of its threshold. Above 1 it rings."
    reading += f" The other {rest} are quieter." if rest else ""
    return Picture("The loudest signals", reading, inline_svg(figure, "loudness", f"Bars: {said}."))


def _scores(result: dict[str, Any]) -> Picture:
    """The scores of the month over those of the reference."""
    scores = result["scores"]
    figure = wide_figure()
    axes = figure.subplots()
    edges = scores["edges"]
    axes.stairs(scores["reference"]["shares"], edges, fill=True, color=FILL, label="Validation and test")
    axes.stairs(scores["month"]["shares"], edges, color=ORANGE, linewidth=2.0, label=result["cutoff"])
    if scores["threshold"] is not None:
        axes.axvline(min(scores["threshold"], edges[-1]), label="Threshold of the model", **THIN)
    axes.set(xlabel="Score", ylabel="Share of the users")
    axes.yaxis.set_major_formatter(percents())
    legend(figure, axes)
    reading = (
        f"The mean score is {number(scores['month']['mean'])}; in validation and test it was "
        f"{number(scores['reference']['mean'])}."
    )
    if scores["threshold"] is not None:
        above = [percent(scores[part]["above"], 1) for part in ("month", "reference")]
        reading += f" {above[0]} of the users reach the model's threshold; then it was {above[1]}."
    return Picture("The scores", reading, Markup(inline_svg(figure, "scores", f"Histograms. {reading}")))
