"""One self-contained HTML page that tells what a run is worth: runs/NAME/report.html."""

import base64
import hashlib
import shlex
from functools import cache
from pathlib import Path

import matplotlib.style
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from data_prep import InputError
from data_prep.checked_json import MayLack, read_json
from data_prep.files import write_whole
from data_prep.given_examples import own_labels
from finetune.figures.measures import LOWER_IS_BETTER, MODEL, SEED_DEVIATIONS, digits, judged, measure, measure_names
from finetune.figures.metrics_json import Metrics, read_metrics
from finetune.report.decision import answers, decision
from finetune.report.overview_pictures import contact_pictures, forest_pictures, timeline_pictures
from finetune.report.pictures import PICTURE_STYLE
from finetune.report.run_pictures import (
    cutoff_pictures,
    drift_pictures,
    loss_pictures,
    profit_pictures,
    slice_pictures,
    text_pictures,
)
from finetune.report.score_pictures import curve_pictures, probability_pictures, ranking_pictures
from finetune.runs import EXPLANATION, METRICS, REPORT, SETTINGS, read_settings
from finetune.wording import (
    FEW_POSITIVES,
    listed,
    missing,
    named,
    number,
    percent,
    span,
    standing,
    worded,
)

CAUSES = 5  # that are shown
FEWEST = 10  # users behind a figure of an explanation
BELIEVED = "How far its scores can be believed"
SLICED = "Between groups"
CURVES = "Curves, and how far they lie from the best baseline's"
COUNTS = ("rows", "users", "positives")


def write_report(run_folder: Path) -> Path:
    """Write run_folder/report.html, one file that asks for nothing else; the same inputs give the same bytes.

    Reads metrics.json, which has every figure that is shown, and config.yaml.

    Raises:
        InputError: One of the files is missing or old.
    """
    folder, remedy = Path(run_folder), "run scripts/train.py and then scripts/evaluate.py with the same --config"
    for name in (SETTINGS, METRICS):
        if not (folder / name).is_file():
            raise InputError(f"{folder / name} is missing", remedy)
    settings = read_settings(folder, {"runs": MayLack({"folder": MayLack(str)})})
    config, metrics = (folder / SETTINGS).read_text(encoding="utf-8"), read_metrics(folder)
    test, script = judged(metrics), Path(__file__).with_name("slider.js").read_text(encoding="utf-8")
    scorers = {MODEL: test} | test["baselines"]
    with matplotlib.style.context(["default", PICTURE_STYLE]):
        contacted, forest, timeline = (draw(metrics) for draw in (contact_pictures, forest_pictures, timeline_pictures))
        sections = {
            "How well it ranks, and whether that lasts": ranking_pictures(metrics) + cutoff_pictures(metrics),
            CURVES: curve_pictures(metrics),
            BELIEVED: probability_pictures(metrics) + profit_pictures(metrics),
            SLICED: slice_pictures(metrics),
            "Inputs and training": text_pictures(metrics) + loss_pictures(metrics) + drift_pictures(metrics),
        }
    keys = _numbers(metrics["test"])
    classes = len(metrics["classes"] or ())
    compared, single, apart = (
        [key for key in measure_names(metrics["task"], place, classes) if key in keys]
        for place in ("leading", "beside", "apart")
    )
    page = page_template("report.html.jinja").render(
        metrics=metrics,
        decision=decision(metrics),
        answers=answers(metrics),
        own_labels=own_labels(metrics),
        contacted=contacted,
        forest=forest,
        timeline=timeline,
        made_up=_made_up(metrics),
        causes=_causes(folder),
        script=script,
        script_hash=f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
        scorers=scorers,
        keys=keys,
        compared=compared,
        single=single,
        apart=apart,
        shown=[*compared, *single],
        few_positives=FEW_POSITIVES,
        seed_deviations=SEED_DEVIATIONS,
        sections={title: pictures for title, pictures in sections.items() if pictures},
        sliced=SLICED,
        three=CURVES,
        believed=BELIEVED,
        config=config,
        run_folder=shlex.quote(_run_path(settings, metrics["name"])),
    )
    write_whole(folder / REPORT, page)
    return folder / REPORT


def _numbers(figures: dict) -> list[str]:
    """The measures among what is known of a scorer."""
    keys = [key for key, value in figures.items() if value is None or isinstance(value, float | int)]
    return [key for key in keys if key not in COUNTS and not key.endswith("_interval")]


def _run_path(settings: dict, name: str) -> str:
    """The run's folder as its config has it, so that a command of the page can be copied."""
    return str(Path((settings.get("runs") or {}).get("folder") or "runs") / name)


def _made_up(metrics: Metrics) -> list[tuple[str, str]]:
    """When each event of the user who does not exist happened, and what was seen of it."""
    lines = []
    for event in (metrics["made_up"] or {"events": []})["events"]:
        fields = dict(event["fields"])
        said = [worded(str(fields.pop("event_type")))] if "event_type" in fields else []
        said += [f"{worded(name)} {_written(value)}" for name, value in fields.items()]
        lines.append((f"{event['days']} day{'s' * (event['days'] != 1)} before", ", ".join(said)))
    return lines


def _written(value: object) -> str:
    """A value of a field as people write it."""
    if isinstance(value, list):
        return " ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _causes(folder: Path) -> list[dict] | None:
    """What moves the scores most, by the explanation of a sample that lies in the run's folder; None without one."""
    path = folder / EXPLANATION
    if not path.is_file():
        return None
    cause = {"cause": str, "users": int, "score_change": float, "raises": MayLack(str), "lowers": MayLack(str)}
    found = read_json(path, {"causes": MayLack([cause])}, "run scripts/explain.py again").get("causes") or []
    return [cause for cause in found if cause["users"] >= FEWEST][:CAUSES] or None


@cache  # compiling takes a quarter of a second, and a sweep writes its page after each trial
def page_template(name: str) -> Template:
    """One of the templates beside this module, with the filters of the page."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "named": named,
        "worded": worded,
        "number": number,
        "span": span,
        "percent": percent,
        "outcome": _outcome,
        "seen": smallest_seen,
    }
    environment.filters |= {"measure": measure, "digits": digits, "listed": listed}
    return environment.get_template(name)


def smallest_seen(interval: list[float] | None) -> float | None:
    """The smallest true gap whose 95 % interval would exclude zero in 80 % of such tests; None without an interval.

    Half of the interval is at least 1.96 standard errors, as it holds for all pairs of groups at once; 80 % power takes
    .84 of them more (Cohen: Statistical Power Analysis for the Behavioral Sciences, 1988, section 2.4).
    """
    if interval is None or any(map(missing, interval)):
        return None
    return (interval[1] - interval[0]) / 2 * (1 + 0.84 / 1.96)


def _outcome(interval: list[float] | None, key: str = "auroc") -> str:
    """Which of the two the interval of model minus baseline shows ahead; nothing where there is no interval."""
    if interval is None or any(map(missing, interval)):
        return ""
    words = {"ahead": "model ahead", "behind": "this one ahead", "level": "includes zero"}
    return words[standing(interval, key in LOWER_IS_BETTER)]
