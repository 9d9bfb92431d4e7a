"""The model card: README.md beside the weights, which tells a stranger what the model predicts and how well."""

import re
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from peft import PeftModel
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data_prep import InputError
from data_prep.checked_json import MayLack
from data_prep.facts import Task
from data_prep.serializer import EventSerializer
from finetune.hub.redaction import PUBLIC_TRAINING, example_texts, hub_name, public_metrics
from finetune.measures import digits, measure, measure_names
from finetune.model.calibration import Calibration
from finetune.model.inference import score_texts
from finetune.model.loading import load_classifier
from finetune.model.objective import Objective
from finetune.runs import CONFIGURED, LOGGED, METRICS, read_metrics, read_settings, read_task, read_training_log
from finetune.wording import FEW_POSITIVES, number, span, worded

LABEL_SQL = {
    "absent": "count(*) FILTER ({window}) = 0",
    "exists": "count(*) FILTER ({window}) > 0",
    "count": "count(*) FILTER ({window})",
    "sum": 'sum("{field}") FILTER ({window})',
    "which": 'list(DISTINCT "{field}") FILTER ({window})',
}
# What a card needs of the run's files.
GROUP = {"value": str, "rows": int, "users": int, "positives": int}
EVALUATED = {
    "main": str,
    "verdict": str,
    "test": {"rows": int, "users": int, "positives": int, "baselines": {str: dict}},
    "calibration": MayLack({"before": MayLack({"expected_calibration_error": MayLack(float)})}),
    "slices": MayLack({str: {"groups": [GROUP], "gaps": dict, "too_small": list}}),
    "seeds": MayLack({str: dict}),
    "made": {
        "date": str,
        "versions": {str: str},
        "bootstrap_resamples": int,
        "content_hash": str,
        "log": {"first": str, "last": str},
    },
}


def write_model_card(run_folder: Path) -> list[Path]:
    """Write README.md into the model's folder of an evaluated run, or into that of each seed.

    Returns:
        The cards.

    Raises:
        InputError: The run was not trained or not evaluated.
    """
    folders = sorted(path.parent for path in Path(run_folder).glob("seed-*/model/config.json"))
    cards = []
    for folder in folders or [Path(run_folder) / "model"]:
        card = folder / "README.md"
        card.write_text(model_card(folder, *load_classifier(folder), Calibration.load(folder)), encoding="utf-8")
        cards.append(card)
    return cards


def model_card(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    calibration: Calibration,
    source: str = "model",
    licence: str | None = None,
    dataset: str | None = None,
) -> str:
    """The card with its metadata.

    Args:
        folder: The model's folder in its run, as training and evaluation left it.
        model: As it lies beside the card: with an adapter or merged, its head as it is.
        tokenizer: Its tokenizer.
        calibration: What EventScribe does to the model's scores.
        source: What from_pretrained is called with: a repository, or a folder.
        licence: By the hub's name for it.
        dataset: The repository of the data.

    Raises:
        InputError: A file of the run is missing or damaged.
    """
    task, metrics, settings = read_task(folder), metrics_of(folder), settings_of(folder)
    seed, base = seed_of(folder), hub_name(settings["model"].get("name_or_path"))
    figures = metrics["test"] if seed is None else metrics["seeds"][seed]
    examples = example_texts(EventSerializer.from_pretrained(folder), task["splits"]["test"]["cutoffs"][0])
    parts = (
        {"source": source, "base": base, "adapter": isinstance(model, PeftModel)},
        _question(task, model),
        _how_to_read(model, tokenizer, calibration, examples),
        _results(metrics, seed, model),
        _calibration(metrics, seed, figures, calibration),
        {
            "settings": _settings(settings, seed, read_training_log(folder.parent, LOGGED), metrics),
            "weighted": settings["finetuning"]["class_weights"] != "none",
        },
    )
    metadata = _metadata(task, figures, model, examples, base, licence, dataset)
    content = {name: value for part in parts for name, value in part.items()}
    return _template().render(metadata=metadata.to_yaml(), **content)


def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"cell": _cell, "condition": _condition, "number": number}
    return environment.get_template("model_card.md.jinja")


def metrics_of(folder: Path) -> dict:
    """metrics.json of a model's run, as it may be published: see `public_metrics`.

    Raises:
        InputError: The run was not evaluated, or on other data.
    """
    path = (folder.parent if seed_of(folder) is None else folder.parent.parent) / METRICS
    if not path.is_file():
        raise InputError(
            f"{path} is missing, and a card tells how well the model predicts; run scripts/evaluate.py first"
        )
    metrics = read_metrics(path.parent, EVALUATED)
    if metrics["made"]["content_hash"] != read_task(folder)["content_hash"]:
        raise InputError(f"{path} is of other data than the model was trained on; run scripts/evaluate.py again")
    if seed_of(folder) is not None and seed_of(folder) not in (metrics.get("seeds") or {}):
        raise InputError(f"{path} has no figures of {folder.parent.name}; run scripts/evaluate.py with its --seeds")
    return public_metrics(metrics)


def settings_of(folder: Path) -> dict:
    """The config of a model's run."""
    return read_settings(folder.parent, CONFIGURED)


def seed_of(folder: Path) -> str | None:
    """Which of a run's seeds a model's folder belongs to; None where the run has one model."""
    found = re.fullmatch(r"seed-(\d+)", folder.parent.name)
    return found[1] if found else None


def _metadata(
    task: Task,
    figures: dict[str, Any],
    model: PreTrainedModel,
    examples: list[str],
    base: str | None,
    licence: str | None,
    dataset: str | None,
) -> ModelCardData:
    """What the hub reads of a card; the test metrics as its model-index has them."""
    adapted, kind = isinstance(model, PeftModel), model.config.eventscribe["task"]
    results = [
        EvalResult(
            task_type="text-classification",
            task_name=task["label"],
            dataset_type=dataset or task["name"],
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
        license=licence,
        datasets=[dataset] if dataset else None,
        tags=["eventscribe", "event-log", task["label"].replace(" ", "-"), *(["peft"] if adapted else [])],
        eval_results=results,
        widget=[{"text": text} for text in examples],
    )


def _question(task: Task, model: PreTrainedModel) -> dict[str, object]:
    """What is predicted, in words and in SQL."""
    label, objective = task["task"]["label"], Objective.of_model(model.config)
    window = f"WHERE event_time >= cutoff AND event_time < cutoff + INTERVAL '{label['horizon']}'"
    window = f"{window}\n  AND ({_condition(label['where'])})"
    return {
        "task": task,
        "kind": objective.task,
        "classes": list(objective.classes),
        "label_sql": LABEL_SQL[task["label_kind"]].format(window=window, field=label["field"]),
    }


def _how_to_read(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, calibration: Calibration, examples: list[str]
) -> dict[str, object]:
    """What plain transformers would read otherwise, and what the model answers to the examples."""
    own = model.config.eventscribe
    answers = _answers(model, tokenizer, calibration, examples)
    return {
        # ModernBERT has it built in.
        "pooled": own["pooling"] == "mean" and not hasattr(model.config, "classifier_pooling"),
        "scale": own["scale"],
        "examples": list(zip(examples, answers, strict=True)),
    }


def _answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, calibration: Calibration, texts: list[str]
) -> list[str]:
    """What the model answers to each text, in a few words."""
    objective = Objective.of_model(model.config)
    scores = calibration.apply(score_texts(model, tokenizer, texts, bar=tqdm(disable=True)), objective.task)
    if objective.task == "value":
        return [f"{objective.classes[0]} {number(score, None)}" for score in scores]
    if objective.task == "binary":
        return [f"{objective.classes[1]} {number(score)}" for score in scores]
    return [f"{objective.classes[row.argmax()]} {number(row.max())}" for row in scores]


def _results(metrics: dict, seed: str | None, model: PreTrainedModel) -> dict[str, object]:
    """The tables of the test, and what is said beside them."""
    kind = Objective.of_model(model.config).task
    return {
        "metrics": metrics,
        "seed": seed,
        "results": _table(metrics, seed, kind, len(model.config.id2label or ())),
        "main": measure(metrics["main"], kind).title,
        "slices": _slices(metrics),
        "few": metrics["test"]["positives"] < FEW_POSITIVES,
    }


def _calibration(
    metrics: dict, seed: str | None, figures: dict[str, Any], calibration: Calibration
) -> dict[str, object]:
    """How the scores are calibrated, and what that changed."""
    before = (metrics.get("calibration") or {}).get("before") or {}
    of_this_model = seed is None and calibration.method != "none"  # it is measured on the mean of the seeds
    return {
        "calibration": calibration,
        "error": figures.get("expected_calibration_error"),
        "before": before.get("expected_calibration_error") if of_this_model else None,
    }


def _table(metrics: dict, seed: str | None, kind: str, classes: int) -> list[list[str]]:
    """Head and rows of the test results. Of one seed's model there are plain figures beside those of the mean score."""
    test, main = metrics["test"], metrics["main"]
    shown = [key for key in measure_names(kind, "card", classes) if key in test]
    scorers = {"model": test}
    if seed is not None:
        scorers = {f"**this model**, seed {seed}": metrics["seeds"][seed], "mean score of all seeds": test}
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


def _slices(metrics: dict) -> dict[str, dict]:
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


def _settings(settings: dict, seed: str | None, log: dict, metrics: dict) -> dict[str, object]:
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


def _cell(value: object) -> str:
    """A user's text inside of a Markdown table."""
    return " ".join(str(value).replace("|", "\\|").split())
