"""Every setting of an experiment, with its help text, and the command line that all scripts share."""

import argparse
import math
import os
import re
import signal
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import pairwise
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal, NoReturn

import torch
import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, DefaultHelpFormatter, Namespace, set_parsing_settings
from jsonargparse.typing import (
    ClosedUnitInterval,
    NonNegativeFloat,
    NonNegativeInt,
    OpenUnitInterval,
    PositiveFloat,
    PositiveInt,
)
from transformers import TrainingArguments
from transformers.utils import logging as transformers_logging

from data_prep import InputError
from data_prep.events import DataConfig
from data_prep.serializer import TextConfig
from data_prep.spark import SparkConfig
from data_prep.task import TaskConfig

set_parsing_settings(docstring_parse_attribute_docstrings=True)

# Where our defaults differ from transformers' own, each with its reason.
TRAINING_DEFAULTS = {
    "learning_rate": 1e-3,  # a small model from scratch; a pretrained one wants 2e-5 to 5e-5
    "per_device_train_batch_size": 64,
    "per_device_eval_batch_size": 256,
    "max_steps": 500,
    "weight_decay": 0.01,
    "warmup_steps": 0.08,  # below 1: a share of all steps
    "eval_strategy": "steps",
    "eval_steps": 100,
    "logging_steps": 20,
    "logging_nan_inf_filter": False,  # it waits for the GPU in each step, and hides a loss that is no number
    "save_strategy": "best",  # a checkpoint only where the validation metric improves
    "save_total_limit": 2,  # if the machine stops while the newest is written, there is one before it
    "load_best_model_at_end": True,  # by auroc, for values by mae; see finetune.objective
    "restore_callback_states_from_checkpoint": True,  # or a resumed run would stop early at another step
    "train_sampling_strategy": "group_by_length",  # little padding
    "dataloader_pin_memory": torch.cuda.is_available(),  # without a GPU it only warns
    "ddp_find_unused_parameters": False,  # every trained weight is used in every step
    "report_to": "tensorboard",  # files beside the run, without an account or a server
    "disable_tqdm": False,
}
# Fields of TrainingArguments that a run sets itself or that would take its metrics away, and the token, which comes
# from the hub's own login: a config is saved and shared.
TRAINING_FIXED = {
    "output_dir",
    "do_train",
    "do_eval",
    "do_predict",
    "label_names",
    "length_column_name",
    "hub_token",
    "remove_unused_columns",
    "prediction_loss_only",
    "eval_do_concat_batches",
}


@dataclass
class FromScratch:
    """Sizes of a BERT that is built anew, on the words of the log."""

    hidden_size: PositiveInt = 128
    """Width of the hidden states; a multiple of `heads`."""
    layers: PositiveInt = 2
    """Number of transformer layers."""
    heads: PositiveInt = 2
    """Attention heads a layer."""
    dropout: ClosedUnitInterval = 0.1
    """Dropout of hidden states and of the classifier; attention dropout is 0, because it halves the speed on CPUs."""


@dataclass
class ModelConfig:
    """The classifier: a pretrained BERT, or one built from scratch."""

    name_or_path: str | None = None
    """A hub name such as google-bert/bert-base-uncased, or a folder; null builds a model from scratch."""
    from_scratch: FromScratch = field(default_factory=FromScratch)
    """Sizes of the model built from scratch; without effect where name_or_path is given."""
    max_tokens: PositiveInt = 128
    """Longest text in tokens; longer ones lose their end, which is the oldest events."""
    peft: dict[str, Any] | None = None
    """A method of the peft library and its own settings, such as {method: lora, r: 16, lora_alpha: 32}; the
    classification head is always trained. null trains all weights."""
    pooling: Literal["cls", "mean"] = "cls"
    """What the head reads: the first token's state, or the mean over all tokens. Except for ModernBERT, which has it
    built in, a model with mean is read rightly by EventScribe only, not by transformers alone."""
    freeze: Literal["embeddings", "encoder"] | NonNegativeInt | None = None
    """What a pretrained model keeps as it is: its embeddings, the whole encoder (only the head is trained), or the
    embeddings and that many of the first layers. null keeps nothing."""


@dataclass
class FinetuningConfig:
    """What fine-tuning does beside the settings of `training`."""

    class_weights: Literal["none", "auto"] | dict[str, float] = "none"
    """What an example counts for in the loss: auto gives rare classes as much weight as frequent ones, {churn: 3} says
    it by name. Weights shift the probabilities, so that they no longer are those of the log; none is the default."""
    event_dropout: ClosedUnitInterval = 0.0
    """Share of the events that are left out of a training text, drawn anew each time; against overfitting."""
    log_scale: bool = False
    """Values (sum and count without tiers) are learned as log(1 + value), as few users spend most of the money."""
    max_train_examples: PositiveInt | None = None
    """Train on a random part of this size, for a quick try; null takes all."""
    max_eval_examples: PositiveInt | None = None
    """The same for validation and test."""


@dataclass
class PretrainingConfig:
    """Masked-language-model pretraining on the training texts and those of users who are not asked."""

    max_steps: NonNegativeInt = 0
    """Number of steps; 0 leaves pretraining out. 300 suit a log of a few thousand users, 900 overfit it."""
    mask: OpenUnitInterval = 0.2
    """Share of the tokens that are masked."""
    mask_unit: Literal["token", "event"] = "token"
    """What is masked as a whole: single tokens, or all tokens of an event (header words singly)."""
    learning_rate: PositiveFloat = 1e-3
    """Peak learning rate; the other settings are those of `training`."""


@dataclass
class Costs:
    """What a contact costs and what it brings, in one currency; for expected profit."""

    contact: NonNegativeFloat
    """The cost of contacting one user."""
    kept_customer: PositiveFloat
    """What is gained on average by contacting a user whose label is 1."""


@dataclass
class EvaluationConfig:
    """What the test metrics are compared with, and how sure they are."""

    folder: str = "runs"
    """A run goes to FOLDER/NAME."""
    bootstrap: PositiveInt = 1000
    """Resamples of the users behind each 95 % interval."""
    patience: NonNegativeInt = 3
    """Early stopping: evaluations without a better validation AUROC before training ends; 0 never stops early."""
    calibration: Literal["none", "temperature", "isotonic"] = "none"
    """How scores become the probabilities that validation saw: temperature divides the logits by one number, isotonic
    (absent and exists only) follows any rising curve. It is fitted on validation and used whenever the model scores."""
    threshold: Literal["f1", "budget", "money"] = "f1"
    """What chooses the score above which a user counts as positive, on validation and for absent and exists only: the
    best F1, the top share `budget`, or the highest expected profit by `costs`."""
    budget: OpenUnitInterval = 0.1
    """The share of the users who can be contacted, for threshold: budget."""
    costs: Costs | None = None
    """What a contact costs and brings, such as {contact: 1, kept_customer: 25}; draws the expected profit."""
    slices: dict[str, str] = field(default_factory=dict)
    """Groups of users that are compared with each other: name -> SQL over the aggregates of an example and over the
    newest values of the log's fields, such as {country: country, tenure: "tenure_days < 90"}."""
    min_slice: PositiveInt = 100
    """Rows below which a group is not measured by itself."""
    stack: bool = False
    """Also fit boosting on the aggregates and the model's score, which shows what each adds to the other."""


def _default_space() -> dict[str, dict[str, Any]]:
    return {
        "training.learning_rate": {"low": 1e-5, "high": 3e-3, "log": True},
        "training.weight_decay": {"low": 0.0, "high": 0.1},
        "training.per_device_train_batch_size": {"choices": [32, 64]},
        "finetuning.event_dropout": {"low": 0.0, "high": 0.3},
    }


@dataclass
class SweepConfig:
    """The search of scripts/sweep.py; without effect elsewhere."""

    trials: PositiveInt = 20
    """Trials of the study in all, those that were pruned among them; a study that has fewer is continued."""
    space: dict[str, dict[str, Any]] = field(default_factory=_default_space)
    """Settings of training, model and finetuning, each with the range or the values that are tried:
    {training.learning_rate: {low: 1e-5, high: 1e-3, log: true}, model.from_scratch.layers: {choices: [2, 4]}}. Whole
    numbers as low and high give whole numbers."""
    pruning: Literal["median", "none"] = "median"
    """Whether a trial ends early that is worse than the median of the others at the same step; the first five never."""


@dataclass
class Experiment:
    """One experiment, as one YAML file."""

    name: str
    data: DataConfig
    task: TaskConfig
    text: TextConfig
    model: ModelConfig
    pretraining: PretrainingConfig
    finetuning: FinetuningConfig
    training: dict[str, Any]  # fields of TrainingArguments
    seeds: list[int]  # a run each; empty for one run with training.seed
    evaluation: EvaluationConfig
    sweep: SweepConfig
    spark: SparkConfig | None  # None prepares on this machine
    resolved: str  # the whole config as YAML
    part: str = ""  # the folder of one of several seeds

    @property
    def data_folder(self) -> Path:
        """Where the prepared data lies."""
        return Path(self.data.folder) / self.name

    @property
    def run_folder(self) -> Path:
        """Where the run's outputs lie."""
        return self.base_folder / self.part

    @property
    def base_folder(self) -> Path:
        """The same for all seeds of a run."""
        return Path(self.evaluation.folder) / self.name

    def runs(self) -> list["Experiment"]:
        """The fine-tuning runs: this one, or one for each of the seeds, in folders within this one's."""
        if not self.seeds:
            return [self]
        return [
            replace(self, seeds=[], part=f"seed-{seed}", training=self.training | {"seed": seed}) for seed in self.seeds
        ]


# Where a help text of transformers does not hold here.
TRAINING_HELP = {
    "training.resume_from_checkpoint": (
        "By default a run that was stopped continues where it was; false starts anew, true insists on a checkpoint, "
        "and a folder names one."
    ),
    "training.metric_for_best_model": (
        "auroc, average_precision, log_loss or brier_score; for tiers also macro_f1, weighted_f1 and accuracy; for "
        "values mae and rmse. Default: auroc, for values mae."
    ),
    "training.num_train_epochs": "Passes over the training data; needs max_steps -1, as max_steps goes first.",
}


class _HelpFormatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Keeps the lines of a script's example commands."""


class _Parser(ArgumentParser):
    """A parser whose errors are one sentence, as the usage of 150 settings would bury them."""

    def error(self, message: str, ex: Exception | None = None) -> None:
        text = re.sub(r"typing\.Literal\[(.*?)\]", r"one of \1", str(message))
        text = re.sub(r"<class '(\w+)'>", r"\1", text).replace('Parser key "', 'setting "')
        _refuse(f"{shorten(text, 400, placeholder=' ...')}; see --help")


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
        help="Fine-tune once with each seed, and score by the mean of all; without it once with training.seed.",
    )
    parser.add_class_arguments(SparkConfig, "spark")
    parser.add_class_arguments(DataConfig, "data")
    parser.add_class_arguments(TaskConfig, "task")
    parser.add_class_arguments(TextConfig, "text")
    parser.add_class_arguments(ModelConfig, "model")
    parser.add_class_arguments(PretrainingConfig, "pretraining")
    parser.add_class_arguments(FinetuningConfig, "finetuning")
    parser.add_class_arguments(TrainingArguments, "training", skip=TRAINING_FIXED, instantiate=False)
    parser.add_class_arguments(EvaluationConfig, "evaluation")
    parser.add_class_arguments(SweepConfig, "sweep")
    explained = {f"training.{entry.name}": entry.metadata["help"] for entry in fields(TrainingArguments)}
    for action in parser._actions:  # jsonargparse reads docstrings, and this class keeps its help in the fields
        if action.dest in explained:
            text = TRAINING_HELP.get(action.dest, explained[action.dest])
            action.help = " ".join(text.split()).replace("%", "%%")
    parser.set_defaults({f"training.{key}": value for key, value in TRAINING_DEFAULTS.items()})
    return parser


def parse_experiment(description: str, arguments: list[str] | None = None) -> Experiment:
    """The experiment that the command line describes; exits with code 2 and one sentence where it does not parse."""
    parser = build_parser(description)
    given = sys.argv[1:] if arguments is None else arguments
    files = [
        Path(argument.partition("=")[2] or following)
        for argument, following in pairwise([*given, ""])
        if argument.split("=")[0] == "--config"
    ]
    if not files and not any(argument.endswith(("-h", "help")) for argument in given):
        parser.error("no --config FILE given; start from configs/quickstart.yaml")
    for path in files:
        _check_yaml(path)
    parsed = parser.parse_args(arguments)
    resolved = parser.dump(parsed.clone())
    made = parser.instantiate(parsed)
    if not made.name or set(made.name) & set("/\\ ") or made.name.startswith("."):
        parser.error(f"name '{made.name}' must be usable as a folder's name, without spaces and slashes")
    sizes = made.model.from_scratch
    if sizes.hidden_size % sizes.heads:
        parser.error(f"model.from_scratch.hidden_size {sizes.hidden_size} is not a multiple of heads {sizes.heads}")
    if min(made.seeds, default=0) < 0 or len(set(made.seeds)) < len(made.seeds):
        parser.error(f"seeds {made.seeds} must be different whole numbers from 0 on")
    if made.model.peft is not None and "method" not in made.model.peft:
        parser.error("model.peft needs a method, such as {method: lora}; null trains all weights")
    if made.model.max_tokens < 8:
        parser.error(f"model.max_tokens {made.model.max_tokens} leaves no room for an event; give 8 or more")
    if made.evaluation.costs and not all(map(math.isfinite, asdict(made.evaluation.costs).values())):
        parser.error("evaluation.costs must be numbers, such as {contact: 1, kept_customer: 25}")
    if any(not name.strip() for name in made.evaluation.slices):
        parser.error("evaluation.slices: a slice needs a name, as in {country: country}")
    if made.evaluation.threshold == "money" and made.evaluation.costs is None:
        parser.error("evaluation.threshold money needs evaluation.costs, such as {contact: 1, kept_customer: 25}")
    training = made.training.as_dict() if isinstance(made.training, Namespace) else dict(made.training)
    if training["max_steps"] > 0 and training["num_train_epochs"] != TrainingArguments.num_train_epochs:
        parser.error(
            f"training.num_train_epochs {training['num_train_epochs']:g} would do nothing beside training.max_steps "
            f"{training['max_steps']}; set max_steps to -1"
        )
    if made.smoke:
        made.name += "-smoke"
        made.pretraining.max_steps = min(made.pretraining.max_steps, 10)
        made.finetuning.max_train_examples = made.finetuning.max_eval_examples = 1000
        made.evaluation.bootstrap = min(made.evaluation.bootstrap, 100)
        steps = 20 if training["max_steps"] < 0 else min(training["max_steps"], 20)
        training |= {"max_steps": steps, "eval_steps": max(1, steps // 2), "logging_steps": 5}
    names = ("name", "data", "task", "text", "model", "pretraining", "finetuning", "evaluation", "sweep")
    sections = {key: made[key] for key in names}
    spark = made.spark if made.engine == "spark" else None
    return Experiment(**sections, spark=spark, training=training, seeds=made.seeds, resolved=resolved)


def _check_yaml(path: Path) -> None:
    """Refuse a file that is no YAML mapping or says something twice, of which YAML would silently take the last."""
    if not path.is_file():
        return  # the parser says so
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        _refuse(
            f"{path} is not valid YAML{where}: {getattr(error, 'problem', None) or 'it is not text'}; mend it there"
        )
    if not isinstance(root, yaml.MappingNode):
        _refuse(f"{path} is not an experiment in YAML; start from configs/quickstart.yaml")
    nodes = [root]
    for node in nodes:
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value]
            twice = next((key for key, _ in node.value if keys.count(key.value) > 1), None)
            if twice is not None:
                _refuse(f"{path}: '{twice.value}' stands twice (line {twice.start_mark.line + 1}); remove one")
            nodes += [value for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            nodes += node.value


def _refuse(message: object) -> NoReturn:
    if os.environ.get("RANK", "0") == "0":  # once for all processes
        print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


class CommandParser(argparse.ArgumentParser):
    """The command line of a script that takes a trained model instead of an experiment; an error is one sentence."""

    def __init__(self, description: str) -> None:
        super().__init__(description=description, formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """End with code 2."""
        _refuse(f"{message}; see --help")


def command(description: str, step: Callable[[Experiment], object]) -> None:
    """Run one step of an experiment as a command; see `guarded`."""
    guarded(lambda: step(parse_experiment(description)))


def guarded(step: Callable[[], object]) -> None:
    """Run a command's work: bad input ends it with one sentence and exit code 2, Ctrl-C with 130."""
    if "TRANSFORMERS_VERBOSITY" not in os.environ:  # tables of new weights and bars of single files
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill cleans up like Ctrl-C
    try:
        step()
    except InputError as error:
        _refuse(error)
    except OSError as error:
        if error.errno is None:
            raise
        what = error.filename or "writing a file"
        _refuse(f"{what}: {os.strerror(error.errno)}; check the folder that is written to, and the space left")
    except (KeyboardInterrupt, RuntimeError) as error:
        if isinstance(error, RuntimeError) and str(error) != "Query interrupted":  # what DuckDB makes of Ctrl-C
            raise
        print("\ninterrupted; finished outputs are kept, unfinished ones were not put in their place", file=sys.stderr)
        sys.exit(130)
