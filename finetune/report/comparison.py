"""What a comparison of runs says: which one to take in a sentence, a table for the screen, and one page."""

from pathlib import Path
from textwrap import wrap

import matplotlib.style
from matplotlib.ticker import MaxNLocator

from data_prep import InputError
from data_prep.files import write_whole
from finetune.experiment.effects import CHANCE
from finetune.figures.measures import digits, measure, measure_names
from finetune.report.pictures import INK, PICTURE_STYLE, Picture, dots, flat_figure, inline_svg, legend
from finetune.report.report import page_template
from finetune.wording import FEW_POSITIVES, listed, missing, named, number, setting_words, short, span, worded

MARK = "EventScribe comparison"  # in every page
COST = ("trained_parameters", "steps", "seconds")
STANDINGS = {
    "best": "the best for sure",
    "level": "level with the best",
    "behind": "behind the best",
    "untold": "untold",
}


def take(compared: dict) -> str | None:
    """The run that is advised: the best one, or of those that cannot be told from it the one that is best on
    validation. None where nothing can be told."""
    if compared["best"]:
        return compared["best"]
    sign = -1 if compared["lower_is_better"] else 1
    level = [run for run in compared["runs"] if run["standing"] == "level"]
    if compared["runs"][0]["standing"] == "untold":
        return None
    return max(level, key=lambda run: float("-inf") if missing(run["validation"]) else sign * run["validation"])["name"]


def verdict(compared: dict) -> dict[str, str]:
    """Which run to take, how sure that is, and whether the best baseline is better still: headline, sure and rival."""
    runs, main, task = compared["runs"], compared["main"], compared["task"]
    title = measure(main, task).title
    if compared["take"] is None:
        return {"headline": f"These test rows cannot tell the runs apart: {title} is not defined on them."}
    called = {run["name"]: f"{run['name']} ({number(run[main], _places(main))})" for run in runs}
    if compared["best"]:
        others = "the other run" if len(runs) == 2 else f"each of the other {len(runs) - 1} runs"
        value = number(runs[0][main], _places(main))
        sure = f"Its {title}, {value}, is better than that of {others}, by more than chance"
    else:
        level = [called[run["name"]] for run in runs if run["standing"] == "level"]
        behind = [called[run["name"]] for run in runs if run["standing"] == "behind"]
        sure = f"In {title} these rows cannot tell {listed(level)} apart, and of them it is the best on validation"
        sure += f"; {listed(behind)} {'is' if len(behind) == 1 else 'are'} worse, by more than chance" if behind else ""
    few = ""
    if task != "value" and compared["positives"] < FEW_POSITIVES:
        few = f" With only {compared['positives']} positives that is a guess."
    if compared["settings"] and set(compared["settings"]) <= CHANCE:
        few = f" The runs differ in the seed alone, so that what lies between them is chance.{few}"
    return {
        "headline": f"Of these runs take {compared['take']}{_rival_in_short(compared)}.",
        "sure": f"{sure}{'; lower is better.' if compared['lower_is_better'] else '.'}{few}",
        "rival": _beside_rival(compared),
    }


def _rival_in_short(compared: dict) -> str:
    """What the best baseline is to the run that is advised, as the end of a sentence; nothing where that is unknown."""
    if compared["rival"] is None:
        return ""
    run, rival = (
        next(run for run in compared["runs"] if run["name"] == compared["take"]),
        worded(compared["rival"]["name"]),
    )
    said = {"ahead": f", which is better than {rival}", "behind": f", but {rival} is better still"}
    said["level"] = f", which cannot be told apart from {rival}"
    return said.get(run["beside_rival"], "")


def _beside_rival(compared: dict) -> str:
    rival, main = compared["rival"], compared["main"]
    if rival is None:
        return "No baseline's scores lie with these runs; evaluate them again to see boosting beside them."
    run = next(run for run in compared["runs"] if run["name"] == compared["take"])
    places = _places(main)
    apart = f"a difference of {number(run['to_rival'], places, '+')} ({span(run['to_rival_interval'], places, '+')})"
    said = f"{named(rival['name'])}, the best baseline, has {number(rival[main], places)} on the same rows: "
    if run["beside_rival"] == "behind":
        return f"{said}it is better than this run by more than chance, {apart}; use it for this log."
    if run["beside_rival"] == "ahead":
        return f"{said}this run is better by more than chance, {apart}."
    return f"{said}it and this run cannot be told apart, {apart}."


def _places(key: str) -> int | None:
    """One decimal more than a report shows, as runs lie close together."""
    shown = digits(key)
    return None if shown is None else shown + 1


def table(compared: dict) -> str:
    """The comparison for the screen."""
    main, rival = compared["main"], compared["rival"]
    head = ["run", measure(main, compared["task"]).title, f"minus {compared['against']}"]
    head += [*([f"minus {worded(rival['name'])}"] if rival else []), "standing", "validation"]
    lines = [[*head, *(key.replace("_", " ") for key in COST)]]
    for run in compared["runs"]:
        cells = [_cell(run[main], run[f"{main}_interval"], _places(main))]
        cells.append("" if run["name"] == compared["against"] else _difference(run, main))
        cells += [_cell(run["to_rival"], run["to_rival_interval"], _places(main), "+")] if rival else []
        cells += [run["standing"], number(run["validation"], _places(main))]
        lines.append([run["name"], *cells, *(number(run[key], 0) for key in COST)])
    if rival:
        cells = [_cell(rival[main], rival[f"{main}_interval"], _places(main)), _difference(rival, main)]
        lines.append([worded(rival["name"]), *cells, "", "baseline", *[""] * (len(COST) + 1)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    text.append(
        f"{compared['rows']:,} test rows of {compared['users']:,} users, {compared['positives']:,} positives; 95 % "
        f"intervals by bootstrap over users, paired for the differences{_seeds(compared)}"
    )
    for key in compared["settings"]:
        values = (f"{run['name']} {_setting(run, key)}" for run in compared["runs"])
        text.append(f"{key}: {', '.join(values)}")
    return "\n".join([*text, "", *wrap(" ".join(compared["verdict"].values()), 100)])


def _seeds(compared: dict) -> str:
    """Which runs have several seeds, and that a single one of their models is compared."""
    several = [f"{run['name']} ({run['seeds']})" for run in compared["runs"] if run["seeds"] > 1]
    if not several:
        return ""
    return f"; of {listed(several)} with several seeds a single model, over users and seeds"


def _cell(value: float, bounds: list[float], places: int | None, sign: str = "") -> str:
    return number(value, places, sign) + ("" if missing(bounds[0]) else f" [{span(bounds, places, sign)}]")


def _difference(run: dict, main: str) -> str:
    return _cell(run["difference"], run["difference_interval"], _places(main), "+")


def _setting(run: dict, key: str) -> str:
    value = run["settings"][key]
    return "\u2013" if value is None else short(value, 60)


def write_page(compared: dict, path: Path) -> Path:
    """Write the comparison as one self-contained page; InputError where it would replace another one."""
    if path.exists() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
        raise InputError(f"{path} is no comparison and would be replaced", "choose another --output")
    with matplotlib.style.context(["default", PICTURE_STYLE]):
        pictures = [] if compared["take"] is None else [_picture(compared)]
    page = page_template("compare.html.jinja").render(
        compared=compared,
        shown=measure_names(compared["task"], "compare"),
        places=_places,
        setting=_setting,
        seeds=_seeds(compared),
        setting_words=setting_words,
        standings=STANDINGS,
        few_positives=FEW_POSITIVES,
        pictures=pictures,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page)
    return path


def _picture(compared: dict) -> Picture:
    """The difference of each run, and of the best baseline, to the run that all are compared with."""
    main, against, rival = compared["main"], compared["against"], compared["rival"]
    title = measure(main, compared["task"]).title
    entries = {short(run["name"], 24): run for run in compared["runs"]}
    if rival:
        entries[f"{named(rival['name'])} (baseline)"] = rival
    figure = flat_figure(len(entries) + 1)
    axes = figure.subplots()
    sure = compared["task"] == "value" or compared["positives"] >= FEW_POSITIVES
    spans = [entry["difference_interval"] for entry in entries.values()]
    dots(axes, [entry["difference"] for entry in entries.values()], spans, [sure] * len(entries))
    axes.axvline(0, color=INK, linewidth=1.2, label=f"No difference to {short(against)}")
    axes.set_yticks(range(len(entries)), list(entries))
    better = "left" if compared["lower_is_better"] else "right"
    axes.set_xlabel(f"{title}, better to the {better}")
    axes.xaxis.set_major_locator(MaxNLocator(3))  # their labels are as long as small differences need
    legend(figure, axes)
    said = "; ".join(_in_words(name, entry, compared) for name, entry in entries.items() if entry["name"] != against)
    reading = f"{title} beside that of {against}, on the same rows, with paired 95\u00a0% intervals: {said}."
    return Picture("Differences", reading, inline_svg(figure, "differences", f"Dots. {reading}"))


def _in_words(name: str, entry: dict, compared: dict) -> str:
    """One entry beside the one that all are compared with."""
    places, bounds = _places(compared["main"]), entry["difference_interval"]
    if missing(bounds[0]):
        return f"{name} cannot be told"
    difference = f"{number(entry['difference'], places, '+')} ({span(bounds, places, '+')})"
    if bounds[0] == bounds[1] == 0:
        return f"{name} says the same"
    if bounds[0] * bounds[1] <= 0:
        return f"{name} cannot be told apart, {difference}"
    worse = (entry["difference"] > 0) == compared["lower_is_better"]
    return f"{name} is {'worse' if worse else 'better'}, {difference}, by more than chance"
