"""What stands in the source of transformers.TrainingArguments is what the class itself has."""

import subprocess
import sys
from dataclasses import fields
from enum import Enum
from typing import get_args, get_type_hints

import pytest
from accelerate.parallelism_config import ParallelismConfig
from transformers import TrainingArguments

from finetune.experiment.parser import parse_experiment
from finetune.experiment.training_settings import TrainingSettings
from finetune.training.arguments import training_arguments
from tests.commands import ROOT


def written(kind: object) -> object:
    """A type with its choices in the place of an enumeration, which is another class."""
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind.__name__, *((name, member.value) for name, member in kind.__members__.items())
    if kind in (ParallelismConfig, dict[str, object]):
        return "mapping"
    return tuple(written(part) for part in get_args(kind)) or kind


def test_names_types_defaults_and_help_texts_are_those_of_the_class():
    own, their = get_type_hints(TrainingSettings), get_type_hints(TrainingArguments)
    assert [*own] == [*their]
    for mine, other in zip(fields(TrainingSettings), fields(TrainingArguments), strict=True):
        assert mine.name == other.name
        assert (mine.default, mine.default_factory) == (other.default, other.default_factory), mine.name
        assert mine.metadata["help"] == other.metadata["help"]
        if mine.name != "parallelism_config":  # a mapping here, and a class of accelerate there
            assert written(own[mine.name]) == written(their[mine.name]), mine.name


def test_a_choice_may_have_the_name_that_transformers_gives_it(tiny):
    experiment = parse_experiment("", ["--config", str(tiny), "--training.optim", "ADAFACTOR"])
    assert training_arguments(experiment, output_dir=str(tiny.parent)).optim == "adafactor"


def test_how_a_model_is_spread_over_processes_reaches_accelerate(tiny):
    arguments = ["--config", str(tiny), "--training.parallelism_config", "{tp_size: 1}"]
    made = training_arguments(parse_experiment("", arguments), output_dir=str(tiny.parent))
    assert made.parallelism_config == ParallelismConfig(tp_size=1)


@pytest.mark.parametrize("arguments", [["--help"], ["--training.max_steps", "many"]])
def test_a_help_text_and_a_refused_setting_come_without_torch_and_transformers(arguments):
    code = f"""
import sys
from finetune.command import guarded
from finetune.experiment.parser import parse_experiment
try:
    guarded(lambda: parse_experiment("", ["--config", "configs/quickstart.yaml", *{arguments}]))
except SystemExit as end:
    print(end.code, {{"torch", "transformers", "peft"}} & {{*sys.modules}})
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.endswith(f"{2 * (arguments != ['--help'])} set()\n"), ended.stderr
