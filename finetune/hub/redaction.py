"""What is cut before a card or a repository is published, or refused where cutting is not enough: all that tells of a
single user, of this machine, or of the shop's money."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from huggingface_hub.utils import HFValidationError, validate_repo_id

from data_prep import InputError
from data_prep.facts import LogFacts, Manifest, SplitFacts, Task
from data_prep.serializer import EventSerializer
from finetune.figures.metrics_json import Metrics
from finetune.runs import whom
from finetune.wording import missing

FEWEST_USERS = 5  # a group of fewer is not shown; what TextField.min_users is by default
STEPS = (20, 10, 4, 2)  # into so many parts the rows by score are cut where the lift is drawn, if they are enough
# What libraries write into a config of where they loaded it from.
PATHS = {"name_or_path", "_name_or_path", "is_local", "local_files_only"}
# Of a manifest: the key's mark, the files read, what was said of the log, and the times of this machine.
PRIVATE_IN_MANIFEST = {"key", "files", "warnings", "seconds"}
PUBLIC_SECTIONS = ("task", "text")  # of the config in a manifest; `data` says where the log lies
# The settings of `training` that a card shows; the others may name folders and trackers.
PUBLIC_TRAINING = (
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


def refuse_private(task: Task, serializer: EventSerializer) -> None:
    """InputError where conditions, vocabulary or classes, which a model cannot do without, tell of single users.

    Args:
        task: The content of task.json.
        serializer: That of the model.
    """
    asked = whom(task)
    conditions = {"task.label.where": task["task"]["label"]["where"], "task.cutoffs.train.at": asked.at or ""}
    conditions["task.population.where"] = asked.population.where if asked.population else ""
    for setting, where in conditions.items():
        if re.search(r"\buser_id\b", where, re.IGNORECASE):
            raise InputError(
                f"{setting} names user_id, and it would be published ({where})",
                "choose these users in data.sources instead, prepare and train again",
                setting=setting,
            )
    specs = {f"text.fields.{name}": spec for name, spec in serializer.config.fields.items()}
    specs |= {f"text.attributes.{name}": spec for name, spec in (serializer.config.attributes or {}).items()}
    for setting, spec in specs.items():
        if spec.min_users < 2 and not spec.bins:
            raise InputError(
                f"{setting}.min_users is {spec.min_users}, so that the vocabulary tells of single users",
                "raise it, prepare and train again",
                setting=f"{setting}.min_users",
            )
    rare = [name for name, rows in task["splits"]["train"].get("classes", {}).items() if 0 < rows < FEWEST_USERS]
    if task["label_kind"] == "which" and rare:
        raise InputError(
            f"the class '{rare[0]}' stands for fewer than {FEWEST_USERS} training rows, and classes are published",
            "lower task.label.top, prepare and train again",
        )


def public_task(task: Task) -> dict:
    """The content of task.json, with the log's ends by day."""
    return task | {"log": _by_day(task["log"])}


def public_metrics(metrics: Metrics) -> Metrics:
    """The content of metrics.json, without what tells of few users, of this machine or of the shop's money."""
    made = {key: value for key, value in metrics["made"].items() if key != "evaluation"}  # costs, folder, slices' SQL
    public = {**metrics, "made": made | {"log": _by_day(made["log"])}, "profit": None}
    # A curve or a histogram of few rows shows each of them; a value is turnover; thresholds by group are a decision.
    for key in ("curves", "contact", "group_thresholds"):
        public.pop(key, None)
    public["training"] = {key: value for key, value in metrics["training"].items() if key != "reweigh"}  # small groups
    if metrics["test"].get("deciles"):
        public["test"] = metrics["test"] | {"deciles": public_deciles(metrics)}
    if metrics.get("slices"):
        public["slices"] = {name: _public_slice(groups) for name, groups in metrics["slices"].items()}
    return cast(Metrics, public)


@dataclass(frozen=True)
class PublicPoints:
    """What a picture draws of a model that is published.

    Attributes:
        calibration: Mean predicted and mean real value of each bin that has enough users; of one bin alone, none.
        shares: Of the rows, highest scores first; none where there are too few.
        lift: By scorer, how many times as much as by chance each share holds; empty for labels of several classes.
    """

    calibration: list[list[float]]
    shares: list[float]
    lift: dict[str, list[float]]


def public_points(metrics: Metrics, most_rows: int) -> PublicPoints:
    """What the picture of a card draws of the curves in metrics.json, which themselves are not published.

    Every point, and every step from one to the next, stands for at least FEWEST_USERS users.

    Args:
        metrics: The content of metrics.json, as evaluation left it.
        most_rows: That a user can have in a bin: see `most_rows`, and there one a class where bins are of pairs.
    """
    curves, fewest = metrics.get("curves") or {}, FEWEST_USERS * most_rows
    bins = curves.get("calibration") or {}
    found = zip(*(bins.get(key, ()) for key in ("predicted", "observed", "rows")), strict=True)
    if metrics["task"] == "value":
        parts = metrics["test"].get("deciles") or []
        found = [(part["predicted"], part["real"], part["rows"]) for part in reversed(parts)]
    found = [[*means] for *means, rows in found if rows >= fewest and not any(map(missing, means))]
    steps = next((steps for steps in STEPS if curves.get("rows", 0) >= steps * fewest), 0)
    shares = [step / steps for step in range(1, steps + 1)]
    lift = {
        name: (np.interp(shares, curve["rows"], curve["captured"]) / shares).tolist()
        for name, curve in (curves.get("gain") or {}).items()
        if shares
    }
    return PublicPoints(found if len(found) > 1 else [], shares, lift)


def public_deciles(metrics: Metrics) -> list[dict]:
    """Mean predicted and real value of tenths of the test rows, where each stands for at least FEWEST_USERS users."""
    parts, fewest = metrics["test"].get("deciles") or [], FEWEST_USERS * most_rows(metrics["test"])
    return parts if all(part["rows"] >= fewest for part in parts) else []


def most_rows(split: SplitFacts | dict[str, Any]) -> int:
    """The most rows that a user can have in a split."""
    return split.get("most_per_user") or len(split["cutoffs"])


def _public_slice(groups: dict) -> dict:
    """The groups of a slice that have enough users, and how many others there are."""
    shown = [group for group in groups["groups"] if group["users"] >= FEWEST_USERS]
    hidden = len(groups["groups"]) - len(shown)
    # A gap to a group that is hidden would tell of it.
    gaps = dict.fromkeys(groups["gaps"]) if hidden else groups["gaps"]
    return groups | {"groups": shown, "gaps": gaps, "too_small": len(groups["too_small"]) + hidden}


def public_manifest(manifest: Manifest) -> dict:
    """The content of manifest.json, without where the log lies and what was found wrong with it."""
    public = {key: value for key, value in manifest.items() if key not in PRIVATE_IN_MANIFEST}
    public["config"] = {section: manifest["config"][section] for section in PUBLIC_SECTIONS}
    public["config"]["text"] = {key: value for key, value in public["config"]["text"].items() if key != "schema"}
    public["config"]["task"] = {key: value for key, value in public["config"]["task"].items() if key != "examples"}
    return public | {"log": _by_day(manifest["log"])}


def public_config(config: dict) -> dict:
    """The content of a config.json or tokenizer_config.json, without where it was loaded from."""
    return {key: value for key, value in config.items() if key not in PATHS}


def hub_name(base: str | None) -> str | None:
    """A model's name if it is one of the hub's, and no folder on this machine."""
    if base is None:
        return None
    try:
        validate_repo_id(base)
    except HFValidationError:
        return None
    return None if Path(base).exists() else base


def _by_day(log: LogFacts) -> dict:
    """The log's first and last event are those of a user, to the second; their days are not."""
    return log | {end: log[end][:10] for end in ("first", "last")}
