"""The command line of an experiment's settings: it gives the experiment, or says in one sentence what is wrong."""

import json
import os
import re
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable
from dataclasses import asdict, fields
from enum import Enum
from functools import cache
from textwrap import shorten
from typing import Any, Literal, NoReturn

import yaml
from jsonargparse import (
    ActionConfigFile,  # pyright: ignore[reportPrivateImportUsage] - its documentation imports it from here
    ArgumentParser,
    DefaultHelpFormatter,
    Namespace,
)

from data_prep import InputError
from data_prep.config import TextConfig
from data_prep.sources import from_environment
from finetune.command import at_home, guarded
from finetune.experiment.config import SECTIONS, TRAINING_DEFAULTS, TRAINING_FIXED, Experiment
from finetune.experiment.settings import read_arguments, read_config
from finetune.experiment.training_settings import TrainingSettings
from finetune.figures.measures import measure_names
from finetune.wording import listed

KINDS = {"binary": "absent and exists", "tiers": "tiers", "value": "values", "propensity": "which", "survival": "when"}
# Where a help text of transformers does not hold here.
TRAINING_HELP = {
    "training.resume_from_checkpoint": (
        "By default a run that was stopped continues where it was; false starts anew, true insists on a checkpoint, "
        "and a folder names one."
    ),
    "training.metric_for_best_model": "; ".join(
        f"for {labels} {listed(list(measure_names(task, 'validation')), 'or')}" for task, labels in KINDS.items()
    )
    + ". Default: the first of them.",
    "training.torch_compile": (
        "Compile the encoder's layer, once for all of them; it takes some 20 seconds on a GPU, and pays in runs of "
        "many minutes."
    ),
    "training.num_train_epochs": "Passes over the training data; needs max_steps -1, as max_steps goes first.",
}


class _HelpFormatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Keeps the lines of a script's example commands."""


class _Parser(ArgumentParser):
    """A parser whose errors are one sentence, as the usage of 150 settings would bury them."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        missing = str(message).removeprefix("the following arguments are required: ")
        if missing != str(message):
            are = "are" if "," in missing else "is"
            raise InputError(f"{missing} {are} missing", "the file of --config must say it")
        said = str(message).replace("Parser key ", "setting ")
        raise InputError(shorten(said, 400, placeholder=" ..."), "see --help")


@cache
def build_parser(description: str) -> ArgumentParser:
    """The command line of every script: --config FILE and --section.field value."""
    usage = "%(prog)s --config FILE [--section.field value ...]"
    parser = _Parser(description=description, usage=usage, formatter_class=_HelpFormatter)
    parser.add_argument("--config", action=ActionConfigFile, help="The experiment's YAML file.")
    parser.add_argument("--name", type=str, required=True, help="Name of the experiment and of its folders.")
    parser.add_argument(
        "--engine",
        type=Literal["duckdb", "spark"],
        default="duckdb",
        help="What prepares the data: this machine or Spark.",
    )
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="Go through quickly, to see that everything works: few steps and examples, in folders NAME-smoke.",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="*",
        default=[],
        help="Fine-tune once with each seed, and judge a single one of these models over users and seeds; without it "
        "fine-tune once with training.seed.",
    )
    for name, section in SECTIONS.items():
        if section is TrainingSettings:
            parser.add_class_arguments(section, name, skip={*TRAINING_FIXED}, instantiate=False)
        else:
            parser.add_class_arguments(section, name)
    explained = {f"training.{entry.name}": entry.metadata["help"] for entry in fields(TrainingSettings)} | TRAINING_HELP
    for action in parser._actions:  # jsonargparse reads docstrings, and this class keeps its help in the fields
        if action.dest in explained:
            action.help = " ".join(explained[action.dest].split()).replace("%", "%%")
    parser.set_defaults({f"training.{key}": value for key, value in TRAINING_DEFAULTS.items()})
    # As a file would say it: jsonargparse saves no dataclass within a mapping.
    parser.set_defaults({"text.fields": {name: asdict(field) for name, field in TextConfig().fields.items()}})
    return parser


def parse_experiment(description: str, arguments: list[str] | None = None) -> Experiment:
    """The experiment that a command line describes, by default this process's; --help is printed, and ends it.

    Raises:
        InputError: There is no such setting, or a value does not fit it or another one.
    """
    given = sys.argv[1:] if arguments is None else arguments
    parser = build_parser(description)
    if any(argument.endswith(("-h", "help")) for argument in given):
        parser.parse_args(given)
    if not any(argument.split("=")[0] == "--config" for argument in given):
        raise InputError("no --config FILE given", "start from configs/quickstart.yaml")
    return _experiment(parser, read_arguments(given))


def changed(experiment: Experiment, values: dict[str, Any]) -> Experiment:
    """The experiment with other values, by their names with dots, read and checked like a config file."""
    settings = read_config(changed_yaml(experiment, values))
    return _experiment(build_parser(""), [f"--config={json.dumps(settings)}"])


def changed_yaml(experiment: Experiment, values: dict[str, Any]) -> str:
    """Its config file."""
    content = yaml.safe_load(experiment.resolved)
    for name, value in values.items():
        *path, last = name.split(".")
        node = content
        for part in path:
            node = node[part]
        node[last] = value
    return yaml.safe_dump(content, sort_keys=False)


def _experiment(parser: ArgumentParser, arguments: list[str]) -> Experiment:
    parsed = parser.parse_args(arguments)
    resolved = parser.dump(parsed.clone(), skip_validation=True)  # as it has just been parsed
    made = parser.instantiate(parsed)
    training = made.training.as_dict() if isinstance(made.training, Namespace) else dict(made.training)
    made.training = {name: _plain(value) for name, value in training.items()}
    _check(made)
    _expand_folders(made)
    if made.smoke:
        _shorten(made)
    sections = {key: made[key] for key in ("name", "seeds", *SECTIONS) if key != "spark"}
    return Experiment(**sections, spark=made.spark if made.engine == "spark" else None, resolved=resolved)


def _plain(value: Any) -> Any:
    """A choice that a file gives by its name in transformers, such as ADAFACTOR, as the text that stands for it."""
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return value.value if isinstance(value, Enum) else value


def _check(made: Namespace) -> None:
    """Refuse settings that do not go together."""
    sizes, evaluation, training = made.model.from_scratch, made.evaluation, made.training
    if not made.name or set(made.name) & set("/\\ ") or made.name.startswith(".") or not made.name.isprintable():
        raise InputError(
            f"name {made.name!r} must be usable as a folder's name, without spaces, slashes and characters that are "
            f"not printed, such as my-churn",
            setting="name",
        )
    if sizes.hidden_size % sizes.heads:
        raise InputError(
            f"model.from_scratch.hidden_size {sizes.hidden_size} is not a multiple of heads {sizes.heads}",
            "change one",
            setting="model.from_scratch.hidden_size",
        )
    if min(made.seeds, default=0) < 0 or len(set(made.seeds)) < len(made.seeds):
        raise InputError(
            f"seeds {made.seeds} must be different whole numbers from 0 on, such as [0, 1, 2]", setting="seeds"
        )
    if made.model.peft is not None and "method" not in made.model.peft:
        raise InputError(
            "model.peft needs a method, such as {method: lora}", "null trains all weights", setting="model.peft"
        )
    if made.model.max_tokens < 8:
        raise InputError(
            f"model.max_tokens {made.model.max_tokens} leaves no room for an event",
            "give 8 or more",
            setting="model.max_tokens",
        )
    if any(not name.strip() for name in evaluation.slices):
        raise InputError("a slice needs a name, as in {country: country}", setting="evaluation.slices")
    if evaluation.threshold == "money" and evaluation.costs is None:
        raise InputError(
            "evaluation.threshold money needs evaluation.costs, such as {contact: 1, kept_customer: 25}",
            setting="evaluation.threshold",
        )
    if training["max_steps"] > 0 and training["num_train_epochs"] != TrainingSettings.num_train_epochs:
        raise InputError(
            f"training.num_train_epochs {training['num_train_epochs']:g} would do nothing beside training.max_steps "
            f"{training['max_steps']}",
            "set max_steps to -1",
            setting="training.num_train_epochs",
        )


def _expand_folders(made: Namespace) -> None:
    """A leading ~ and $NAME of the environment, in every setting that names a file or a folder."""
    allowed = made.data.environment
    made.data.folder = _expanded(made.data.folder, "data.folder", allowed)
    made.runs.folder = _expanded(made.runs.folder, "runs.folder", allowed)
    made.model.name_or_path = _expanded(made.model.name_or_path, "model.name_or_path", allowed)
    made.text.schema = _expanded(made.text.schema, "text.schema", allowed)
    for key in ("resume_from_checkpoint", "deepspeed", "fsdp_config", "accelerator_config"):
        made.training[key] = _expanded(made.training[key], f"training.{key}", allowed)
    if made.task.examples is not None:
        made.task.examples.path = _expanded(made.task.examples.path, "task.examples.path", allowed, r"\$(\w+)")
    if made.data.users is not None:
        made.data.users.path = _expanded(made.data.users.path, "data.users.path", allowed, r"\$(\w+)")
    for i, source in enumerate(made.data.sources):  # whose ${name} may be of data.variables
        source.path = _expanded(source.path, f"data.sources[{i}].path", allowed, r"\$(\w+)")


def _expanded(path: Any, setting: str, allowed: list[str] | None, variable: str = r"\$(?:(\w+)|\{(\w+)\})") -> Any:
    if not isinstance(path, str):
        return path

    def value(match: re.Match) -> str:
        return from_environment(next(filter(None, match.groups())), allowed, match[0], setting)

    try:
        return at_home(re.sub(variable, value, path))
    except InputError as error:
        raise error.within(setting) from None


def _shorten(made: Namespace) -> None:
    """What --smoke does."""
    training = made.training
    made.name += "-smoke"
    made.pretraining.max_steps = min(made.pretraining.max_steps, 10)
    made.finetuning.max_eval_examples = min(made.finetuning.max_eval_examples or 1000, 1000)
    if made.finetuning.privacy is None:  # which does not hold where rows are drawn over all users
        made.finetuning.max_train_examples = 1000
    made.evaluation.bootstrap = min(made.evaluation.bootstrap, 100)
    steps = 20 if training["max_steps"] < 0 else min(training["max_steps"], 20)
    training |= {"max_steps": steps, "eval_steps": max(1, steps // 2), "logging_steps": 5}


def command(description: str, step: Callable[[Experiment], object], arguments: list[str] | None = None) -> None:
    """Run one step of an experiment as a command; see `finetune.command.guarded` and `parse_experiment`."""
    guarded(lambda: step(parse_experiment(description, arguments)))


def taken(option: str, arguments: list[str]) -> tuple[str | None, list[str]]:
    """The text of an option that is no setting, and the arguments without it.

    A mapping, or a file, is the section of that name, and stays.
    """
    rest, found = list(arguments), None
    for place, argument in enumerate(arguments):
        name, equals, text = argument.partition("=")
        value = text if equals else " ".join(arguments[place + 1 : place + 2])
        if name == f"--{option}" and value and not value.startswith(("{", "-")) and not os.path.isfile(value):
            found = value
            del rest[place : place + 1 + (not equals)]
            break
    return found, rest
