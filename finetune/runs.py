"""What lies in a run's and in a model's folder: the names of the files, and readers that check what each must hold.

A run is runs/NAME; its model lies in runs/NAME/model. A model's folder may come from a stranger: nothing in it is
believed to be as training wrote it.
"""

import math
import re
from pathlib import Path
from typing import Any

import yaml

from data_prep import InputError
from data_prep.checked_json import LOG_HOLDS, MayLack, Only, a_duration, a_moment, check, moments, read_json, text_of
from data_prep.config import Label
from data_prep.cutoffs import SPLITS
from data_prep.facts import Task
from data_prep.given_examples import ORIGINS
from data_prep.labels import LABEL_NAMES
from data_prep.population import Whom
from data_prep.task import asked_in
from finetune.yaml_tree import composed

MODEL_FOLDER = "model"  # in a run's folder, like the next ones up to REPORT
CHECKPOINTS = "checkpoints"
MEMBERS = "members"  # the models that teach the run's own, until it has been trained
PRETRAINED = "pretrained"  # the weights that scripts/pretrain.py writes
PRETRAINING = "pretraining"  # its checkpoints
PREDICTIONS = "predictions"
SWEEP = "sweep"
BACKTESTS = "backtests"  # a folder for each time that the finished model was measured on
START = "start"  # the older model's weights and words that a renewed run begins with
TENSORBOARD = "tensorboard"
REPORT = "report.html"
REGISTRY = "registry.jsonl"  # beside the runs: which model is in use since when
TASK = "task.json"  # in a model's folder: what it predicts, for whom, and the windows of time that it was made from
CALIBRATION = "calibration.json"  # in a model's folder, once the run was evaluated
SETTINGS = "config.yaml"  # in a run's folder, like the next two
METRICS = "metrics.json"
TRAINING_LOG = "training_log.json"
EXPLANATION = "explanation.json"  # in a run's folder, where scripts/explain.py was told to write it there, and its page
EXPLANATION_PAGE = "explanation.html"
PRETRAINING_LOG = "pretraining_log.json"  # in the folder PRETRAINED
ORIGIN = "origin.json"  # in the folder of checkpoints: whose they are, and whether the run has finished
CHECKSUMS = "checksums.json"  # in a checkpoint: written last, so that one without it is not complete


def seed_folder(seed: int | str) -> str:
    """In a run's folder, the folder of one of its seeds, which is laid out as a run's."""
    return f"seed-{seed}"


def seed_column(seed: int | str) -> str:
    """In a run's predictions, the scores of the model of one of its seeds."""
    return f"score_of_seed_{seed}"


def seed_of(model_folder: Path) -> str | None:
    """Which of a run's seeds a model's folder belongs to; None where the run has one model."""
    found = re.fullmatch(seed_folder(r"(\d+)"), model_folder.parent.name)
    return found[1] if found else None


def run_of(model_folder: Path) -> tuple[Path, str]:
    """The folder of the run that a model's folder belongs to, and within it the folder of its seed, if it has one."""
    folder = Path(model_folder)
    run = folder.parent if folder.parent.name.strip(".") else folder.absolute().parent
    return (run, "") if seed_of(run / MODEL_FOLDER) is None else (run.parent, run.name)


def a_number_above_zero(content: Any) -> bool:
    """Of a temperature, or of a deviation."""
    return isinstance(content, int | float) and 0 < content < 1e300


def a_score(content: Any) -> bool:
    """Also the next number above 1, from which on nobody is contacted."""
    return isinstance(content, int | float) and 0 <= content <= math.nextafter(1, 2)


def a_temperature(content: Any) -> bool:
    """Evaluation looks from .05 to 20; far beyond that all scores become 0 and 1, or one half."""
    return isinstance(content, int | float) and 0.01 <= content <= 100


def a_name_for_each_class(content: Any) -> bool:
    """By 0, 1, 2 ..., as numbers or as text."""
    names = content if isinstance(content, dict) else {}
    return {*map(str, names)} == {*map(str, range(len(names) or 1))} and all(isinstance(n, str) for n in names.values())


TASKS = {"binary", "tiers", "propensity", "survival", "value"}  # see finetune.model.objective.Objective
LABEL = Only(
    kind={*LABEL_NAMES},
    where=str,
    horizon=MayLack(a_duration),
    horizons=MayLack([a_duration]),
    field=(None, str),
    tiers=(None, [float]),
    top=(None, int),
    name=(None, str),
)
SPLIT = {"rows": int, "users": int, "cutoffs": moments, "most_per_user": MayLack(int), "classes": MayLack({str: int})}
SPLIT["intervals"] = MayLack({str: {"at_risk": int, "events": int}})
TASK_HOLDS = {
    "name": str,
    "question": str,
    "label": str,
    "label_kind": {*LABEL_NAMES},
    "labels_from": MayLack({*ORIGINS}),
    "classes": MayLack([str]),
    "log": LOG_HOLDS,
    "text_columns": [str],
    "attributes": MayLack([str]),
    "schema": MayLack(str),
    "content_hash": str,
    "task": {
        "label": LABEL,
        "population": Only(within=MayLack(a_duration), where=str),
        "cutoffs": MayLack({"train": ([str], {"at": MayLack(str)})}),
    },
    "splits": dict.fromkeys(SPLITS, SPLIT),
}
CALIBRATION_HOLDS = Only(
    method={"none", "temperature", "isotonic"},
    temperature=MayLack(a_temperature),
    x=[float],
    y=[float],
    threshold=MayLack(a_score),
    threshold_by=MayLack({"f1", "budget", "money"}),
    group_by=MayLack(str),
    group_equal=MayLack({"opportunity", "selection"}),
    group_thresholds=MayLack({str: a_score}),
)
EVENTSCRIBE = {  # an entry of a model's config.json
    "task": TASKS,
    "scale": (None, {"log": bool, "root": MayLack(bool), "mean": float, "deviation": a_number_above_zero}),
    "pooling": {"cls", "mean"},
    "base": MayLack(str),
}


PRIVACY = {  # what was spent, in training_log.json and metrics.json; see finetune.training.privacy
    "epsilon": float,
    "threshold_epsilon": MayLack(float),
    "delta": float,
    "unit": {"user"},
    "clip": float,
    "examples": int,
    "users": int,
    "sample_rate": float,
    "noise_multiplier": float,
    "steps": int,
    "accountant": {"rdp"},
    "not_covered": [str],
}


REWEIGHED = {  # by finetuning.reweigh, in training_log.json and metrics.json
    "by": str,
    "weights": [{"group": str, "class": str, "rows": int, "weight": float}],
}


# What cards and evaluations need of a run's training_log.json and config.yaml.
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


def refuse_untrained(folder: Path) -> None:
    """InputError where a folder holds no model."""
    if not (folder / "config.json").is_file():
        models = [folder / MODEL_FOLDER, *sorted(folder.glob(f"{seed_folder('*')}/{MODEL_FOLDER}"))]
        if trained := [str(model) for model in models if (model / "config.json").is_file()]:
            raise InputError(f"{folder} is the folder of a run, not of its model", f"give {' or '.join(trained)}")
        raise InputError(f"{folder} holds no trained model", "run scripts/train.py with the same --config first")


def check_config(folder: Path, config: Any) -> None:
    """What transformers has read from a model's config.json, a PreTrainedConfig, must be of EventScribe and whole."""
    path, remedy = Path(folder) / "config.json", "train again"
    if not hasattr(config, "eventscribe"):
        raise InputError(f"{folder} holds a model that EventScribe did not train", "run scripts/train.py first")
    names = {"eventscribe": EVENTSCRIBE, "id2label": a_name_for_each_class}
    check(path, {name: getattr(config, name) for name in names}, names, remedy)
    task, classes, scale = config.eventscribe["task"], len(config.id2label), config.eventscribe.get("scale")
    if {"value": 1, "binary": 2}.get(task, classes) != classes or (task == "value") != (scale is not None):
        said = f"a {task} label with {classes} classes and {'no' if scale is None else 'a'} scale"
        raise InputError(f"{path} is damaged ({said})", remedy)
    if task == "survival":
        check(path, list(config.id2label.values()), [a_duration], remedy)


def check_tokenizer(folder: Path) -> None:
    """The two files of a model's tokenizer, before tokenizers read them."""
    remedy = "run scripts/train.py again"
    read_json(folder / "tokenizer.json", {"model": {"type": str}, "added_tokens": [dict]}, remedy)
    holds = {"tokenizer_class": str, "model_max_length": a_number_above_zero}
    read_json(folder / "tokenizer_config.json", holds, remedy)


def read_task(folder: Path) -> Task:
    """task.json of a model's folder."""
    refuse_untrained(Path(folder))
    path, remedy = Path(folder) / TASK, "run scripts/train.py again, which writes it"
    task = read_json(path, TASK_HOLDS, remedy)
    if "most_per_user" not in task["splits"]["train"]:  # only where cutoffs are moments of users, everybody may count
        check(path, task, {"task": {"population": {"within": str}}}, remedy)
    return task


def whom(task: Task) -> Whom:
    """Whom the task of a model's task.json asks about."""
    return asked_in(task["task"])


def window_of(task: Task) -> str:
    """The length of the whole label window, by a model's task.json."""
    return Label(**task["task"]["label"]).window


def read_calibration(folder: Path) -> dict:
    """calibration.json of a model's folder; empty where there is none."""
    path, remedy = Path(folder) / CALIBRATION, "run scripts/evaluate.py again"
    if not path.is_file():
        return {}
    found = read_json(path, CALIBRATION_HOLDS, remedy)
    x, y = found["x"], found["y"]
    rising = len(x) == len(y) > 0 and x == sorted(set(x)) and [0, *y, 1] == sorted([0, *y, 1])
    if not {"temperature": found.get("temperature") is not None, "isotonic": rising}.get(found["method"], True):
        raise InputError(f"{path} is damaged ({found['method']} without what it needs)", remedy)
    return found


def read_training_log(folder: Path, holds: dict) -> dict:
    """training_log.json of a run's folder; `holds` is what its reader needs of it."""
    return read_json(
        Path(folder) / TRAINING_LOG, holds, "run scripts/train.py with the same arguments, which writes it"
    )


def read_trained_settings(folder: Path) -> dict[str, str]:
    """The settings of the finished model in a run's folder, see `experiment.effects`; empty where there is none."""
    return read_notes(Path(folder) / TRAINING_LOG, {"settings": {str: str}}).get("settings", {})


def read_pretraining_log(folder: Path) -> dict:
    """What scripts/pretrain.py wrote about the weights in its folder; empty where it did not make them."""
    path = Path(folder) / PRETRAINING_LOG
    if not path.is_file():
        return {}
    holds = {
        "steps": int,
        "history": [{"step": int}],
        "seconds": MayLack(float),
        "last_cutoff": MayLack(a_moment),
        "made_by": MayLack({"training": {str: str}, "content_hash": str}),
    }
    return read_json(path, holds, f"delete {folder} and run scripts/pretrain.py again")


def read_settings(folder: Path, holds: dict) -> dict:
    """config.yaml of a run's folder; `holds` is what its reader needs of it."""
    path, remedy = Path(folder) / SETTINGS, "run scripts/train.py again"
    if not path.is_file():
        raise InputError(f"{path} is missing", "give the folder runs/NAME/model where scripts/train.py left it")
    text = text_of(path, remedy)
    try:
        composed(text)  # refuses what unfolds to too much
        settings = yaml.safe_load(text)
    except Exception as error:  # of a damaged file PyYAML raises what it stumbles over
        raise InputError(f"{path} is damaged (it is no YAML)", remedy) from error
    check(path, settings, holds, remedy)
    return settings


def read_notes(path: Path, holds: dict) -> dict:
    """A file that tells of work done; empty where it is missing or damaged, as the work can be done again."""
    try:
        return read_json(path, holds, "")
    except (InputError, OSError):
        return {}
