"""One self-contained HTML page that tells what a run is worth: runs/NAME/report.html."""

import io
import json
import math
import re
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import matplotlib.style
import numpy as np
import pyarrow.parquet as pq
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from sklearn.metrics import precision_recall_curve, roc_curve

from data_prep import InputError

BINS = 10  # of the calibration curve, with equal counts
TOP = 0.1  # the share of rows, those with the highest scores, that the precision-recall curve's reading is about
POINTS = 800  # of a curve; nobody sees more
FEW_POSITIVES = 50  # below it, metrics can hardly tell two scorers apart

# Pictures are drawn in these colours and shown in the page's own, which differ in light and dark. The palette is Okabe
# & Ito, "Color Universal Design", 2008; and each line has a dash pattern of its own.
INK, MUTED, GRID, FILL = "#111111", "#666666", "#dddddd", "#99bbdd"
BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
PAGE_COLOURS = {INK: "currentColor", MUTED: "var(--muted)", GRID: "var(--line)", FILL: "var(--fill)"}
PAGE_COLOURS |= {BLUE: "var(--blue)", ORANGE: "var(--orange)", GREEN: "var(--green)", PURPLE: "var(--purple)"}
SOLID = {"color": BLUE, "linestyle": "-", "linewidth": 2.5}
DOTTED = {"color": PURPLE, "linestyle": (0, (1, 1.4)), "linewidth": 2.0}
DASH_DOT = {"color": GREEN, "linestyle": (0, (6, 2, 1, 2)), "linewidth": 1.7}
DASHED = {"color": ORANGE, "linestyle": (0, (5, 2)), "linewidth": 1.7}
LINE_STYLES = (SOLID, DOTTED, DASH_DOT, DASHED)  # the model's first
THIN = {"color": MUTED, "linestyle": (0, (2, 3)), "linewidth": 1.0}
PERCENT = FuncFormatter(lambda share, _: f"{100 * share:.3g}\u00a0%")
PICTURE_STYLE = {
    "svg.fonttype": "none",  # text stays text, in the page's font
    "svg.hashsalt": "eventscribe",
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "legend.handlelength": 2.6,
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), INK),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), MUTED),
}


@dataclass
class Picture:
    """A picture and what it says."""

    title: str
    reading: str
    svg: Markup


def write_report(run_folder: Path) -> Path:
    """Write run_folder/report.html, one file that asks for nothing else; the same inputs give the same bytes.

    Reads metrics.json, predictions/test.parquet, training_log.json, config.yaml and, where there is one,
    pretraining_log.json.

    Raises:
        InputError: One of the files is missing.
    """
    folder = Path(run_folder)
    metrics = json.loads(_existing(folder / "metrics.json").read_bytes())
    training = json.loads(_existing(folder / "training_log.json").read_bytes())
    pretraining = {"steps": 0, "history": []}
    if (folder / "pretraining_log.json").is_file():
        pretraining = json.loads((folder / "pretraining_log.json").read_bytes())
    scorers = {"model": metrics["test"]} | metrics["test"]["baselines"]
    labels, scores, unscored = _predictions(_existing(folder / "predictions" / "test.parquet"), list(scorers))
    with matplotlib.style.context(["default", PICTURE_STYLE]):
        pictures = [_losses(training, pretraining)]
        if len(np.unique(labels)) == 2:
            ranking = [_roc(scorers, labels, scores), _precision_recall(scorers, labels, scores)]
            pictures = [*ranking, _calibration(labels, scores["model"]), *pictures]
    page = page_template("report.html.jinja").render(
        metrics=metrics,
        scorers=scorers,
        few_positives=FEW_POSITIVES,
        pictures=[picture for picture in pictures if picture],
        unscored=unscored,
        training=training,
        pretraining=pretraining,
        config=_existing(folder / "config.yaml").read_text(encoding="utf-8"),
    )
    (folder / "report.html").write_text(page, encoding="utf-8", newline="\n")
    return folder / "report.html"


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"{path} is missing; run scripts/train.py and then scripts/evaluate.py with the same --config")
    return path


def _predictions(path: Path, names: list[str]) -> tuple[np.ndarray, dict[str, np.ndarray], int]:
    """Labels and each scorer's scores of the rows that all of them scored, and how many rows are not among these."""
    table = pq.read_table(path)
    scores = np.column_stack([table["score" if name == "model" else name].to_numpy() for name in names])
    scored = ~np.isnan(scores).any(axis=1)
    return table["label"].to_numpy()[scored], dict(zip(names, scores[scored].T, strict=True)), int((~scored).sum())


def _roc(scorers: dict[str, dict], labels: np.ndarray, scores: dict[str, np.ndarray]) -> Picture:
    """The curve of each scorer, and how many pairs it ranks rightly, which is what AUROC means."""
    figure = square_figure()
    axes = figure.subplots()
    names = {name: f"{_named(name)} {_number(of['auroc'])}" for name, of in scorers.items()}
    for (name, label), style in zip(names.items(), cycle(LINE_STYLES), strict=False):
        _plot(axes, *roc_curve(labels, scores[name])[:2], label=label, **style)
    axes.plot([0, 1], [0, 1], label=f"Chance {_number(0.5)}", **THIN)
    axes.set(xlabel="Share of all negatives above a threshold", ylabel="Share of all positives above it")
    _finish(figure, axes)
    pairs = (f"{_named(name).lower()} {_percent(of['auroc'], 1)}" for name, of in scorers.items())
    reading = f"A positive row ranks above a negative one in this share of all pairs: {', '.join(pairs)}."
    return Picture("ROC curve", reading, inline_svg(figure, "roc", f"ROC curves. AUROC: {', '.join(names.values())}."))


def _precision_recall(scorers: dict[str, dict], labels: np.ndarray, scores: dict[str, np.ndarray]) -> Picture:
    """The curve of each scorer, and what a contact list of the model's top rows would hold."""
    figure = square_figure()
    axes = figure.subplots()
    names = {name: f"{_named(name)} {_number(of['average_precision'])}" for name, of in scorers.items()}
    for (name, label), style in zip(names.items(), cycle(LINE_STYLES), strict=False):
        precision, recall, _ = precision_recall_curve(labels, scores[name])
        # Without scikit-learn's closing point, a precision of 1 that no threshold gives.
        _plot(axes, recall[:-1], precision[:-1], label=label, drawstyle="steps-post", **style)
    rate = labels.mean()
    axes.axhline(rate, label=f"Base rate {_number(rate)}", **THIN)
    axes.set(xlabel="Recall: share of all positives found", ylabel="Precision: positives among those found")
    _finish(figure, axes)
    top = labels[np.argsort(-scores["model"], kind="stable")][: max(1, round(TOP * len(labels)))]
    reading = (
        f"The {_percent(TOP)} of rows with the model's highest scores hold {_percent(top.sum() / labels.sum())} of all "
        f"positives; {_percent(top.mean())} of those rows are positive, {top.mean() / rate:.1f} times the base rate."
    )
    alt = f"Precision-recall curves. Average precision: {', '.join(names.values())}; base rate {_number(rate)}."
    return Picture("Precision and recall", reading, inline_svg(figure, "precision-recall", alt))


def _calibration(labels: np.ndarray, scores: np.ndarray) -> Picture:
    """The reliability curve over bins of equal count, above a histogram of the scores."""
    bins = np.array_split(np.argsort(scores, kind="stable"), min(BINS, len(scores)))
    predicted, observed = (np.array([values[rows].mean() for rows in bins]) for values in (scores, labels))
    limit = min(1.0, 1.1 * max(predicted.max(), observed.max()))
    figure = square_figure()
    axes, histogram = figure.subplots(2, height_ratios=(3, 1))
    axes.plot(predicted, observed, marker="o", label=f"Model, {len(bins)} bins of equal count", clip_on=False, **SOLID)
    axes.plot([0, limit], [0, limit], label="Perfect", **THIN)
    axes.set(ylabel="Share that is positive")
    _finish(figure, axes, limit)
    histogram.hist(scores, bins=np.linspace(0, max(scores.max(), 0.01), 41), color=FILL, edgecolor=BLUE, linewidth=0.6)
    histogram.set(xlim=(0, None), xlabel="Predicted probability", ylabel="Rows")
    histogram.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    histogram.yaxis.set_major_formatter("{x:,.0f}")
    histogram.xaxis.set_major_formatter(PERCENT)
    gap, rows = 100 * np.abs(predicted - observed), [len(rows) for rows in bins]
    reading = (
        f"The model expects {_percent(scores.mean(), 1)} positives and {_percent(labels.mean(), 1)} came; a bin is off "
        f"by {np.average(gap, weights=rows):.1f} percentage points on average, {gap.max():.1f} at most."
    )
    pairs = ", ".join(f"{_percent(p)} and {_percent(o)}" for p, o in zip(predicted, observed, strict=True))
    alt = f"Predicted probability and share that is positive, by bin: {pairs}. Below, a histogram of the scores."
    return Picture("Calibration", reading, inline_svg(figure, "calibration", alt))


def _losses(training: dict, pretraining: dict) -> Picture | None:
    """Losses and validation AUROC over the steps, a panel for each that was logged; None where nothing was."""
    loss, auroc = _series(training, "loss"), _series(training, "eval_auroc")
    marked = SOLID | {"marker": "o", "markersize": 4}
    panels = {
        "Pretraining: loss on masked words": {"masked words": (_series(pretraining, "loss"), DASHED)},
        "Fine-tuning: loss": {"training": (loss, DASHED), "validation": (_series(training, "eval_loss"), marked)},
        "Fine-tuning: validation AUROC": {"AUROC": (auroc, marked)},
    }
    panels = {title: lines for title, lines in panels.items() if any(steps for (steps, _), _ in lines.values())}
    if not panels:
        return None
    figure, said = square_figure(), []
    for axes, (title, lines) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels.items(), strict=True):
        for name, ((steps, values), style) in lines.items():
            axes.plot(steps, values, label=name, **style)
            if values and name != "AUROC":
                said.append(f"{name} {_number(values[0], 2)} to {_number(values[-1], 2)}")
        axes.set_title(title)
        axes.set_xlim(0, pretraining["steps"] if title.startswith("Pretraining") else training["steps"])
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        if len(lines) > 1:
            axes.legend(ncols=2, borderpad=0, borderaxespad=0.2)
    axes.set_xlabel("Step")
    reading = f"Loss, first to last: {', '.join(said)}." if said else ""
    if not np.isnan(auroc[1]).all():
        best = int(np.nanargmax(auroc[1]))
        step, value = auroc[0][best], auroc[1][best]
        axes.plot(step, value, "o", markersize=11, color="none", markeredgecolor=INK, zorder=6, clip_on=False)
        reading += f" Validation AUROC is best at step {step:,} of {training['steps']:,}: {_number(value)}."
    alt = f"Curves over the steps. {'; '.join(panels)}. {reading}"
    return Picture("Training", reading, inline_svg(figure, "training", alt))


def _series(log: dict, key: str) -> tuple[list[int], list[float]]:
    """Steps and values of one key of transformers' log history."""
    entries = [entry for entry in log["history"] if key in entry]
    return [entry["step"] for entry in entries], [float(entry[key]) for entry in entries]


def square_figure() -> Figure:
    """An empty figure of the size that a page shows."""
    return Figure(figsize=(5.2, 5.2), layout="constrained")


def _plot(axes: Axes, x: np.ndarray, y: np.ndarray, **style: object) -> None:
    """A curve whose x only rises or only falls, thinned evenly by point and by x."""
    by_x = np.searchsorted(abs(x - x[0]), np.linspace(0, abs(x[-1] - x[0]), POINTS))
    kept = np.union1d(np.linspace(0, len(x) - 1, POINTS).astype(int), by_x)
    axes.plot(x[kept], y[kept], **style)


def _finish(figure: Figure, axes: Axes, limit: float = 1.0) -> None:
    """Both axes from 0 to `limit` in per cent, and the legend below, where it hides no line."""
    axes.set(xlim=(0, limit), ylim=(0, limit))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter(PERCENT)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=2, borderpad=0.4)


def inline_svg(figure: Figure, name: str, alt: str) -> Markup:
    """The figure as inline SVG: no metadata, ids that no other picture of the page has, and the page's colours."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    view, drawing = re.search(r'<svg[^>]*?(viewBox="[^"]*")[^>]*>(.*)', file.getvalue(), re.DOTALL).groups()
    drawing = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", drawing)
    for drawn, shown in PAGE_COLOURS.items():
        drawing = drawing.replace(drawn, shown)
    return Markup(f'<svg role="img" aria-label="{escape(alt)}" {view}>{drawing}')


def page_template(name: str) -> Template:
    """One of the templates beside this module, with the filters of the page."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"named": _named, "number": _number, "span": _span, "percent": _percent, "outcome": _outcome}
    return environment.get_template(name)


def _named(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _missing(value: float | None) -> bool:
    return value is None or math.isnan(value)


def _number(value: float | None, digits: int = 3, sign: str = "") -> str:
    """With a real minus sign; an en dash where there is no value."""
    return "\u2013" if _missing(value) else f"{value:{sign},.{digits}f}".replace("-", "\u2212")


def _span(interval: list[float] | None, digits: int = 3, sign: str = "") -> str:
    """Both ends of an interval."""
    if interval is None or any(map(_missing, interval)):
        return "\u2013"
    return " to ".join(_number(end, digits, sign) for end in interval)


def _percent(share: float | None, digits: int = 0) -> str:
    return "\u2013" if _missing(share) else f"{100 * share:.{digits}f}\u00a0%"


def _outcome(interval: list[float] | None) -> str:
    """Which of the two the interval of model minus baseline shows ahead; nothing where there is no interval."""
    if interval is None or any(map(_missing, interval)):
        return ""
    return "model ahead" if interval[0] > 0 else "baseline ahead" if interval[1] < 0 else "includes zero"
