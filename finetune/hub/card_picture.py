"""The picture of a model card: whether the scores can be believed, and how far they are above chance at every share."""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from PIL import Image

from finetune.figures.measures import MODEL, SHARES, best_rival
from finetune.figures.metrics_json import Metrics
from finetune.hub.redaction import public_points
from finetune.report.pictures import BLUE, DASHED, PICTURE_STYLE, SOLID, THIN, percents
from finetune.wording import listed, missing, named, number, percent, worded

SAID = (5, 10, 20, 50)  # per cent of the rows whose lift is told in words
PICTURE = "calibration-and-lift.png"  # beside the card
HEIGHT, WIDTH, DPI = 4.2, 4.8, 140  # in inches, the width of one panel
COLOURS = 64  # as many as the lines and their soft edges need; a third of the size of all


@dataclass(frozen=True)
class CardPicture:
    """What stands beside the picture.

    Attributes:
        alt: What it shows, for those who do not see it.
        reading: How to read it, a sentence a panel.
    """

    alt: str
    reading: list[str]


def draw_card_picture(metrics: Metrics, most_rows: int, folder: Path) -> CardPicture | None:
    """Write PICTURE into the folder, on white ground, which light and dark pages show alike.

    Args:
        metrics: The content of metrics.json, as evaluation left it.
        most_rows: See `public_points`, by which nothing is drawn that would tell of few users.
        folder: That of the card; a picture of an earlier evaluation is replaced, or deleted if there is none now.

    Returns:
        None where there is nothing to draw, and no file.
    """
    points, value = public_points(metrics, most_rows), metrics["task"] == "value"
    rival = best_rival(metrics["test"]["baselines"], metrics["main"])
    lift = {name: points.lift[name] for name in (MODEL, rival) if name and name in points.lift}
    drawn = [part for part, there in (("calibration", points.calibration), ("lift", lift)) if there]
    file = Path(folder) / PICTURE
    if not drawn:
        file.unlink(missing_ok=True)
        return None
    with matplotlib.style.context(["default", PICTURE_STYLE]):
        figure = Figure(figsize=(WIDTH * len(drawn), HEIGHT), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08))
        panels = dict(zip(drawn, figure.subplots(1, len(drawn), squeeze=False)[0], strict=True))
        said = []
        if "calibration" in panels:
            said.append(_calibration(panels["calibration"], points.calibration, value))
        if "lift" in panels:
            said.append(_lift(panels["lift"], points.shares, lift, metrics["test"], value))
        drawing = BytesIO()
        figure.savefig(drawing, dpi=DPI)
    # Without the name and version of the library, so that the same figures give the same file.
    Image.open(drawing).convert("RGB").quantize(COLOURS).save(file, optimize=True)
    alts, reading = zip(*said, strict=True)
    return CardPicture(" ".join(alts), list(reading))


def _calibration(axes: Axes, bins: list[list[float]], value: bool) -> tuple[str, str]:
    predicted, real = zip(*bins, strict=True)
    low, high = min(0.0, *predicted, *real), max(0.01, *predicted, *real)
    room = 0.03 * (high - low)  # half of a mark, so that none is cut
    axes.plot([low, high], [low, high], label="Perfect", **THIN)
    axes.plot(predicted, real, marker="o", label="Model", **SOLID)
    what = "value" if value else "probability"
    axes.set(xlabel=f"Predicted {what}", ylabel="Mean value that came" if value else "Share that is positive")
    axes.set(title="Calibration", xlim=(low - room, high + room), ylim=(low - room, high + room))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter("{x:,.5g}" if value else percents())
    axes.legend(loc="best")  # of values, the highest bin can stand in any corner
    pairs = [f"{number(p, None)} and {number(r, None)}" if value else f"{percent(p)} and {percent(r)}" for p, r in bins]
    came = "the mean value that came" if value else "the share that is positive"
    return (
        f"Calibration, predicted {what} and {came}, by bin: {'; '.join(pairs)}.",
        f"Calibration: the test rows in {len(bins)} bins of equal count by score; on the dotted line {came} is what "
        f"was predicted.",
    )


def _lift(axes: Axes, shares: list[float], lift: dict[str, list[float]], test: dict, value: bool) -> tuple[str, str]:
    for (name, lifts), style in zip(lift.items(), (SOLID, DASHED), strict=False):
        look = style | {"label": named(name), "marker": "o" if name == MODEL else "s", "markersize": 4}
        axes.plot(shares, lifts, **look)
    axes.axhline(1, label="Chance", **THIN)
    bars = {share: test.get(f"lift_at_{share}_interval") for share in SHARES if share / 100 >= shares[0]}
    bars = {share: span for share, span in bars.items() if span and not any(map(missing, span))}
    for share, (low, high) in bars.items():
        axes.vlines(share / 100, low, high, color=BLUE, linewidth=2, alpha=0.5)
    what = "Value" if value else "Positives"
    axes.set(title="Lift", xlabel="Share of the rows, highest scores first", ylabel=f"{what}, times chance")
    axes.set(xlim=(0, 1.02), ylim=(0, None))
    axes.xaxis.set_major_formatter(percents())
    axes.legend(loc="upper right")
    said = [at for at, share in enumerate(shares) if round(100 * share) in SAID]
    by_scorer = [f"{worded(name)} {', '.join(number(lifts[at], 2) for at in said)}" for name, lifts in lift.items()]
    steps = listed([percent(shares[at]) for at in said])
    at = listed([str(share) for share in bars])
    bar = f" Bars are 95\u00a0% intervals of the model at {at}\u00a0%." if bars else ""
    return (
        f"Lift at the top {steps}: {'; '.join(by_scorer)}.",
        f"Lift: how many times as {'much value' if value else 'many positives'} as among as many rows drawn by chance "
        f"the highest-scored ones hold.{bar}",
    )
