"""The model card: README.md beside the weights, which tells a stranger what the model predicts and how well."""

import re
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import torch
import yaml
from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.utils import HFValidationError, validate_repo_id
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from peft import PeftModel
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from data_prep import InputError
from data_prep.checked_json import MayLack
from data_prep.serializer import EventSerializer
from finetune.model.calibration import Calibration
from finetune.model.inference import score_texts
from finetune.model.loading import load_classifier
from finetune.model.objective import Objective
from finetune.runs import METRICS, read_metrics, read_settings, read_task, read_training_log
from finetune.wording import FEW_POSITIVES, digits, measure, number, span, worded

FEWEST_USERS = 5  # a group of fewer is not told of; what TextField.min_users is by default
EXAMPLES, EXAMPLE_EVENTS, EXAMPLE_DAYS = 2, 5, 60
SHOWN = {  # of the test metrics, in this order
    "binary": r"auroc|average_precision|log_loss|brier_score|lift_at_10|recall_at_10",
    "tiers": r"auroc|macro_f1|accuracy|log_loss|ordinal_error",
    "value": r"mae|rmse|nmae|spearman|value_gini",
    "propensity": r"auroc|micro_auroc|average_precision|recall_at_\d+|ndcg_at_\d+|synerise_score",
}
LABEL_SQL = {
    "absent": "count(*) FILTER ({window}) = 0",
    "exists": "count(*) FILTER ({window}) > 0",
    "count": "count(*) FILTER ({window})",
    "sum": 'sum("{field}") FILTER ({window})',
    "which": 'list(DISTINCT "{field}") FILTER ({window})',
}
HUB_METRICS = {"auroc": "roc_auc"}  # where the hub knows it by another name
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
LOGGED = {
    "content_hash": str,
    "steps": int,
    "trainable_parameters": int,
    "total_parameters": int,
    "processes": int,
    "device": str,
}
CONFIGURED = {
    "data": {"folder": str},
    "model": {"name_or_path": MayLack(str), "from_scratch": dict, "pooling": str, "max_tokens": int},
    "pretraining": {"max_steps": int},
    "training": {"seed": int},
    "finetuning": {"class_weights": (str, dict)},
}
TRAINING = (
    "learning_rate",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "weight_decay",
    "warmup_steps",
    "lr_scheduler_type",
    "label_smoothing_factor",
    "bf16",
    "fp16",
)


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
    model: torch.nn.Module,
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
    kind, config = model.config.eventscribe["task"], model.config
    seed, label, base = seed_of(folder), task["task"]["label"], hub_name(settings["model"].get("name_or_path"))
    own = metrics["test"] if seed is None else metrics["seeds"][seed]
    before = (metrics.get("calibration") or {}).get("before") or {}
    examples = example_texts(EventSerializer.from_pretrained(folder), task["splits"]["test"]["cutoffs"][0])
    window = f"WHERE event_time >= cutoff AND event_time < cutoff + INTERVAL '{label['horizon']}'"
    data = ModelCardData(
        model_name=task["name"],
        base_model=base,
        library_name="peft" if _adapted(model) else "transformers",
        pipeline_tag="text-classification",
        license=licence,
        datasets=[dataset] if dataset else None,
        tags=["eventscribe", "event-log", task["label"].replace(" ", "-"), *(["peft"] if _adapted(model) else [])],
        eval_results=_results(task, own, dataset),
        widget=[{"text": text} for text in examples],
    )
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"cell": _cell, "condition": _condition, "number": number}
    return environment.get_template("model_card.md.jinja").render(
        metadata=data.to_yaml(),
        task=task,
        kind=kind,
        classes=list(Objective.of_model(config).classes),
        label_sql=LABEL_SQL[task["label_kind"]].format(
            window=f"{window}\n  AND ({_condition(label['where'])})", field=label["field"]
        ),
        metrics=metrics,
        seed=seed,
        results=_table(metrics, seed, kind),
        main=measure(metrics["main"], kind)[0],
        slices=_slices(metrics),
        few=metrics["test"]["positives"] < FEW_POSITIVES,
        calibration=calibration,
        error=own.get("expected_calibration_error"),
        before=None
        if seed or calibration.method == "none"
        else before.get("expected_calibration_error"),  # measured on the mean of the seeds
        # ModernBERT has it built in.
        pooled=config.eventscribe["pooling"] == "mean" and not hasattr(config, "classifier_pooling"),
        scale=config.eventscribe["scale"],
        examples=list(zip(examples, _said(model, tokenizer, calibration, examples), strict=True)),
        source=source,
        base=base,
        adapter=_adapted(model),
        settings=_settings(settings, seed, read_training_log(folder.parent, LOGGED), metrics),
        weighted=settings["finetuning"]["class_weights"] != "none",
    )


def metrics_of(folder: Path) -> dict:
    """metrics.json of a model's run, without what tells of few users, of this machine or of the shop's money.

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
    made = metrics["made"]  # the log's first and last event are those of a user, to the second
    made["log"] |= {end: made["log"][end][:10] for end in ("first", "last")}
    made.pop("evaluation", None)  # costs, folder, and the slices' SQL, which may name anything
    metrics["profit"] = None
    for groups in (metrics.get("slices") or {}).values():
        many = [group for group in groups["groups"] if group["users"] >= FEWEST_USERS]
        groups["too_small"] = len(groups["too_small"]) + len(groups["groups"]) - len(many)
        if len(many) < len(groups["groups"]):  # a gap to a group that is hidden would tell of it
            groups["gaps"] = dict.fromkeys(groups["gaps"])
        groups["groups"] = many
    metrics.pop("curves", None)  # a curve or a histogram of few rows shows each of them
    return metrics


def settings_of(folder: Path) -> dict:
    """The config of a model's run."""
    return read_settings(folder.parent, CONFIGURED)


def seed_of(folder: Path) -> str | None:
    """Which of a run's seeds a model's folder belongs to; None where the run has one model."""
    found = re.fullmatch(r"seed-(\d+)", folder.parent.name)
    return found and found[1]


def hub_name(base: str | None) -> str | None:
    """A model's name if it is one of the hub's, and no folder on this machine."""
    try:
        validate_repo_id(base or "")
    except HFValidationError:
        return None
    return None if Path(base).exists() else base


def example_texts(serializer: EventSerializer, cutoff: str) -> list[str]:
    """Texts of users who do not exist, by the serializer itself, of values that it knows; always the same ones."""
    random, end, events = np.random.default_rng(0), datetime.fromisoformat(cutoff), []
    for user in range(EXAMPLES):
        for days in random.uniform(0, EXAMPLE_DAYS, EXAMPLE_EVENTS):
            event = {"user_id": str(user), "event_time": end - timedelta(float(days)), "event_type": "event"}
            for name, fitted in serializer.fields.items():
                value = _example_value(fitted, serializer.features.types.get(name, "VARCHAR"), random)
                if value is not None:
                    event[name] = value
            events.append(event)
    return serializer.transform(events, end)["text"].to_pylist()


def _example_value(fitted: dict, kind: str, random: np.random.Generator) -> object:
    """A value of a field, None where it knows none or they have lost their form in the vocabulary (dates)."""
    if fitted["kind"] == "numeric":
        return float(random.choice(fitted["centers"]))
    known = fitted.get("values") or fitted.get("words")
    if not known:
        return None
    if fitted["kind"] == "text":
        return " ".join(random.choice(known, min(3, len(known)), replace=False))
    value = str(random.choice(known))
    if kind not in ("VARCHAR", "VARCHAR[]", "BOOLEAN") and not value.isdigit():
        return None
    return [value] if fitted["list"] else value


def _said(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, calibration: Calibration, texts: list[str]
) -> list[str]:
    """What the model says of each text, in a few words."""
    objective = Objective.of_model(model.config)
    scores = calibration.apply(score_texts(model, tokenizer, texts, bar=tqdm(disable=True)), objective.task)
    if objective.task == "value":
        return [f"{objective.classes[0]} {number(score, None)}" for score in scores]
    if objective.task == "binary":
        return [f"{objective.classes[1]} {number(score)}" for score in scores]
    return [f"{objective.classes[row.argmax()]} {number(row.max())}" for row in scores]


def _results(task: dict, figures: dict, dataset: str | None) -> list[EvalResult]:
    """The test metrics as the hub's model-index has them."""
    return [
        EvalResult(
            task_type="text-classification",
            task_name=task["label"],
            dataset_type=dataset or task["name"],
            dataset_name=task["name"],
            dataset_split="test",
            metric_type=HUB_METRICS.get(key, key),
            metric_name=measure(key, "")[0].replace("\u00a0", " "),
            metric_value=round(value, 6),
        )
        for key, value in figures.items()
        if isinstance(value, float)
    ]


def _table(metrics: dict, seed: str | None, kind: str) -> list[list[str]]:
    """Head and rows of the test results. Of one seed's model there are plain figures beside those of the mean score."""
    test, main = metrics["test"], metrics["main"]
    shown = [key for key in test if re.fullmatch(SHOWN[kind], key)]
    scorers = {"model": test}
    if seed is not None:
        scorers = {f"**this model**, seed {seed}": metrics["seeds"][seed], "mean score of all seeds": test}
    scorers |= {worded(name): figures for name, figures in test["baselines"].items()}
    rows = [["", *(measure(key, kind)[0] for key in shown), f"model minus this ({measure(main, kind)[0]})"]]
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
    made |= {name: training.get(name) for name in TRAINING} | settings["finetuning"]
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


def _adapted(model: torch.nn.Module) -> bool:
    return isinstance(model, PeftModel)
