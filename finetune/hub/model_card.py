"""The model card: README.md beside the weights, which tells a stranger what the model predicts and how well."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from peft import PeftModel
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import finetune
from data_prep.facts import Task
from data_prep.given_examples import own_labels
from data_prep.markdown import cell, inline, paragraph
from data_prep.moments import in_words
from data_prep.serializer import EventSerializer
from finetune.figures.measures import BLEND, digits, judged, measure, measure_names
from finetune.figures.metrics_json import Metrics
from finetune.hub.card_picture import PICTURE, draw_card_picture
from finetune.hub.examples import code, example_events, example_texts, example_users, expected_columns, lines, literal
from finetune.hub.read_run import metrics_of, settings_of
from finetune.hub.redaction import PUBLIC_TRAINING, hub_name, most_rows, public_metrics
from finetune.model.calibration import Calibration
from finetune.model.inference import score_texts
from finetune.model.loading import load_classifier
from finetune.model.objective import Objective, Scale
from finetune.runs import LOGGED, MODEL_FOLDER, read_task, read_training_log, seed_folder, seed_of, whom, window_of
from finetune.wording import FEW_POSITIVES, listed, number, span, worded

ONNX_FILE = "model.onnx"  # beside the weights, where it was asked for
LABEL_SQL = {
    "absent": "count(*) FILTER ({window}) = 0",
    "exists": "count(*) FILTER ({window}) > 0",
    "count": "count(*) FILTER ({window})",
    "sum": 'sum("{field}") FILTER ({window})',
    "when": "min(event_time) FILTER ({window}) - cutoff",
    "which": 'list(DISTINCT "{field}") FILTER ({window})',
}


@dataclass(frozen=True)
class Publication:
    """What a card tells and the run does not know.

    Attributes:
        repo_id: OWNER/NAME on a hub; None of a card that lies in a run's folder.
        licence: By the hub's name for it; None where the owner named none, as nobody else can.
        dataset: The repository of the data.
        install: The command that installs EventScribe at a reader's.
        onnx: Whether ONNX_FILE lies beside the card.
    """

    repo_id: str | None = None
    licence: str | None = None
    dataset: str | None = None
    install: str | None = None
    onnx: bool = False

    @property
    def source(self) -> str:
        """What from_pretrained is called with; of a run, in its folder."""
        return self.repo_id or MODEL_FOLDER


def write_model_card(run_folder: Path) -> list[Path]:
    """Write README.md and its picture into the model's folder of an evaluated run, or into that of each seed.

    Returns:
        The cards.

    Raises:
        InputError: The run was not trained or not evaluated.
    """
    folders = sorted(path.parent for path in Path(run_folder).glob(f"{seed_folder('*')}/{MODEL_FOLDER}/config.json"))
    return [
        write_card(folder, folder, *load_classifier(folder), Calibration.load(folder), Publication())
        for folder in folders or [Path(run_folder) / "model"]
    ]


def write_card(
    target: Path,
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    calibration: Calibration,
    publication: Publication,
) -> Path:
    """Write README.md, the card with its metadata, and its picture where the figures give one.

    Args:
        target: Where to.
        folder: The model's folder in its run, as training and evaluation left it.
        model: As it lies beside the card: with an adapter or merged, its head as it is.
        tokenizer: Its tokenizer.
        calibration: What EventScribe does to the model's scores.
        publication: How the card calls what is published.

    Raises:
        InputError: A file of the run is missing or damaged.
    """
    task, raw, settings = read_task(folder), metrics_of(folder), settings_of(folder)
    metrics, seed, base = public_metrics(raw), seed_of(folder), hub_name(settings["model"].get("name_or_path"))
    figures = metrics["test"] if seed is None else metrics["seeds"][seed]
    examples = _examples(folder, task, model, tokenizer, calibration)
    classes = len(model.config.id2label or ()) if metrics["task"] in ("tiers", "propensity", "survival") else 1
    picture = draw_card_picture(raw, classes * most_rows(task["splits"]["test"]), target)
    parts = (
        {"publication": publication, "base": base, "adapter": isinstance(model, PeftModel)},
        {"model_type": model.config.model_type},
        {"version": finetune.__version__, "onnx_file": ONNX_FILE, "licence": licence_sentence(publication.licence)},
        _question(task, model),
        _how_to_read(model, tokenizer),
        examples,
        _results(metrics, seed, model),
        _calibration(metrics, seed, figures, calibration),
        {"picture": picture, "picture_file": PICTURE},
        {
            "settings": _settings(settings, seed, read_training_log(folder.parent, LOGGED), metrics),
            "weighted": _weighted(settings["finetuning"]),
        },
    )
    metadata = _metadata(task, figures, model, examples["texts"], base, publication)
    content = {name: value for part in parts for name, value in part.items()}
    card = Path(target) / "README.md"
    card.write_text(_template().render(metadata=metadata.to_yaml(), **content), encoding="utf-8")
    return card


def licence_sentence(licence: str | None) -> str:
    """What a card says of the licence."""
    if licence is None:
        return "Its owner has named no licence, so that nobody else may copy, use or change it: ask the owner."
    return f"The licence is {code(licence)}."


def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "cell": cell,
        "condition": _condition,
        "inline": inline,
        "paragraph": paragraph,
        "number": number,
    }
    environment.filters |= {"code": code, "lines": lines, "literal": literal}
    return environment.get_template("model_card.md.jinja")


def _metadata(
    task: Task,
    figures: dict[str, Any],
    model: PreTrainedModel,
    texts: list[str],
    base: str | None,
    publication: Publication,
) -> ModelCardData:
    """What the hub reads of a card; the test metrics as its model-index has them."""
    adapted, kind = isinstance(model, PeftModel), model.config.eventscribe["task"]
    results = [
        EvalResult(
            task_type="text-classification",
            task_name=task["label"],
            dataset_type=publication.dataset or task["name"],
            dataset_name=task["name"],
            dataset_split="test",
            metric_type=measure(key, kind).hub or key,
            metric_name=measure(key, kind).title.replace("\u00a0", " "),
            metric_value=round(value, 6),
        )
        for key, value in figures.items()
        if isinstance(value, float)
    ]
    return ModelCardData(
        model_name=task["name"],
        base_model=base,
        library_name="peft" if adapted else "transformers",
        pipeline_tag="text-classification",
        license=publication.licence,
        datasets=[publication.dataset] if publication.dataset else None,
        tags=["eventscribe", "event-log", task["label"].replace(" ", "-"), *(["peft"] if adapted else [])],
        eval_results=results,
        widget=[{"text": text, "example_title": f"Made-up user {at}"} for at, text in enumerate(texts, 1)],
    )


def _question(task: Task, model: PreTrainedModel) -> dict[str, object]:
    """What is predicted, in words and in SQL."""
    label, objective = task["task"]["label"], Objective.of_model(model.config)
    horizon = in_words(window_of(task))
    window = f"WHERE event_time >= cutoff AND event_time < cutoff + INTERVAL '{horizon}'"
    if moments := "most_per_user" in task["splits"]["test"]:
        window = f"WHERE event_time > cutoff AND event_time <= cutoff + INTERVAL '{horizon}'"
    window = f"{window}\n  AND ({_condition(label['where'])})"
    return {
        "task": task,
        "moments": moments,
        "horizon": horizon,
        "whom": whom(task),
        "own_labels": own_labels(task),
        "kind": objective.task,
        "classes": list(objective.classes),
        "label_sql": LABEL_SQL[task["label_kind"]].format(window=window, field=label.get("field")),
    }


def _how_to_read(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, object]:
    """What plain transformers would read otherwise."""
    own = model.config.eventscribe
    return {
        # ModernBERT has it built in.
        "pooled": own["pooling"] == "mean" and not hasattr(model.config, "classifier_pooling"),
        "scale": asdict(Scale(**own["scale"])) if own["scale"] else None,  # an older model has no root in it
        "max_tokens": tokenizer.model_max_length,
    }


def _examples(
    folder: Path, task: Task, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, calibration: Calibration
) -> dict[str, Any]:
    """Made-up events, the columns that they have, the texts of them, and what the model answers."""
    serializer, cutoff = EventSerializer.from_pretrained(folder), task["splits"]["test"]["cutoffs"][-1]
    events = example_events(serializer, cutoff, task["log"].get("has"), whom(task))
    texts = example_texts(serializer, events, cutoff)
    return {
        "cutoff": cutoff,
        "columns": expected_columns(serializer, events, task["log"].get("timezone")),
        "events": [event for event in events if event["user_id"] == events[0]["user_id"]],
        "users": (example_users(serializer, events) or [])[:1],
        "texts": texts,
        "answer": _answer(model, tokenizer, calibration, texts[0]),
    }


def _answer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, calibration: Calibration, text: str) -> str:
    """What the model answers to a text, in a sentence."""
    objective = Objective.of_model(model.config)
    score = calibration.apply(score_texts(model, tokenizer, [text], bar=tqdm(disable=True)), objective.task)[0]
    if objective.task == "value":
        return f"The predicted {objective.classes[0]} is {number(score, None)}."
    if objective.task == "binary":
        return f"The score, the probability of {code(objective.classes[1])}, is {number(score)}."
    if objective.task == "survival":
        each = [f"{number(value)} within {name}" for name, value in zip(objective.classes, score, strict=True)]
        return f"The event comes with a probability of {listed(each)}."
    return f"The highest score, that of {code(objective.classes[score.argmax()])}, is {number(score.max())}."


def _results(metrics: Metrics, seed: str | None, model: PreTrainedModel) -> dict[str, object]:
    """The tables of the test, and what is said beside them."""
    kind = Objective.of_model(model.config).task
    return {
        "metrics": metrics,
        "privacy": metrics["training"].get("privacy"),
        "value_factor": metrics["training"].get("value_factor"),
        "seed": seed,
        "drawn_of": metrics["made"]["seed"][0] if metrics.get("single") else None,
        "results": _table(metrics, seed, kind, len(model.config.id2label or ())),
        "main": measure(metrics["main"], kind).title,
        "slices": _slices(metrics),
        "few": metrics["test"]["positives"] < FEW_POSITIVES,
        "deciles": [] if seed is not None else metrics["test"].get("deciles") or [],
        "blended": BLEND in metrics["test"]["baselines"],
    }


def _calibration(
    metrics: Metrics, seed: str | None, figures: dict[str, Any], calibration: Calibration
) -> dict[str, object]:
    """How the scores are calibrated, and what that changed."""
    before = (metrics.get("calibration") or {}).get("before") or {}
    of_this_model = seed is None and calibration.method != "none"  # it is measured on the first seed
    return {
        "calibration": calibration,
        "error": figures.get("expected_calibration_error"),
        "before": before.get("expected_calibration_error") if of_this_model else None,
    }


def _table(metrics: Metrics, seed: str | None, kind: str, classes: int) -> list[list[str]]:
    """Head and rows of the test results. One seed's model has plain figures beside those of any one."""
    test, main = judged(metrics), metrics["main"]
    shown = [key for key in measure_names(kind, "card", classes) if key in test]
    scorers = {"model": test}
    if seed is not None:
        scorers = {f"**this model**, seed {seed}": metrics["seeds"][seed]}
        scorers |= {f"a single model, mean of {len(metrics['seeds'])} seeds": test} if metrics.get("single") else {}
    scorers |= {worded(name): figures for name, figures in test["baselines"].items()}
    rows = [["", *(measure(key, kind).title for key in shown), f"model minus this ({measure(main, kind).title})"]]
    for name, figures in scorers.items():
        rows.append([name, *(_figure(figures, key) for key in shown), _figure(figures, f"{main}_difference", "+")])
    return rows


def _figure(figures: dict, key: str, sign: str = "") -> str:
    """A figure with its interval; nothing where there is no such figure."""
    if key not in figures:
        return ""
    places = digits(key.removesuffix("_difference"))
    interval = figures.get(f"{key}_interval")
    return number(figures[key], places, sign) + (f" [{span(interval, places, sign)}]" if interval else "")


def _weighted(finetuning: dict[str, Any]) -> str | None:
    """What counted for more or less in the loss."""
    if finetuning.get("reweigh") is not None:  # older configs have none
        return "Examples"
    return "Classes" if finetuning["class_weights"] != "none" else None


def _slices(metrics: Metrics) -> dict[str, dict]:
    """Of each slice the table's rows, the gaps that could be measured, and how many groups are not shown."""
    main = metrics["main"]
    return {
        name: {
            "rows": [
                [group["value"], *(f"{group[key]:,}" for key in ("rows", "users", "positives")), _figure(group, main)]
                for group in groups["groups"]
            ],
            "gaps": [
                f"{gap.replace('_', ' ')} {_figure(groups['gaps'], gap)}"
                for gap, value in groups["gaps"].items()
                if not gap.endswith("_interval") and value is not None
            ],
            "too_small": groups["too_small"],
        }
        for name, groups in (metrics.get("slices") or {}).items()
    }


def _settings(settings: dict, seed: str | None, log: dict, metrics: Metrics) -> dict[str, object]:
    """How the model was made, by name; nothing of where on its maker's machine."""
    model, pretraining, training = (settings[section] for section in ("model", "pretraining", "training"))
    base = model.get("name_or_path")
    made = {
        "starts from": (hub_name(base) or "a checkpoint of its maker's own") if base else "random weights",
        "sizes": None if base else model["from_scratch"],
        "pretraining": f"masked words, {pretraining['max_steps']} steps" if pretraining["max_steps"] else None,
        "adapter": model.get("peft"),
        "freeze": model.get("freeze"),
        "pooling": model["pooling"],
        "max_tokens": model["max_tokens"],
    }
    made |= {name: training.get(name) for name in PUBLIC_TRAINING} | settings["finetuning"]
    made |= {
        "seed": str(training["seed"]) if seed is None else seed,
        "steps taken": log["steps"],
        "trained parameters": f"{log['trainable_parameters']:,} of {log['total_parameters']:,}",
        "processes": f"{log['processes']} ({log['device']})",
        "evaluated": f"{metrics['made']['date']}, {metrics['made']['bootstrap_resamples']} bootstrap resamples",
        "versions": ", ".join(f"{name} {version}" for name, version in metrics["made"]["versions"].items()),
    }
    flow = {name: value for name, value in made.items() if isinstance(value, dict)}
    made |= {name: yaml.safe_dump(value, default_flow_style=True, width=1000).strip() for name, value in flow.items()}
    return {name: value for name, value in made.items() if value}  # without what is off


def _condition(where: str) -> str:
    """A condition of the config within brackets, which a comment at its end must not take away."""
    return f"{where}\n" if "--" in where else where
