from dataclasses import asdict

import pytest

from finetune.experiment.config import SECTIONS
from finetune.experiment.effects import EFFECTS, effect, pretraining_settings, weight_settings, with_effect
from finetune.experiment.parser import parse_experiment
from finetune.experiment.training_settings import TrainingSettings
from finetune.training.pretrain import pretraining_arguments


@pytest.fixture
def settings(tiny) -> set[str]:
    found = parse_experiment("", ["--config", str(tiny)])
    names = {f"training.{name}" for name in found.training}
    for section in SECTIONS:
        if SECTIONS[section] is not TrainingSettings and section != "spark":
            names |= {f"{section}.{name}" for name in asdict(getattr(found, section))}
    return names


def test_each_entry_of_the_table_is_a_setting_or_begins_one(settings):
    known = settings | {"name", "engine", "smoke", "seeds", "spark", "processes"}
    assert not [entry for entry in EFFECTS if not any(name.startswith(entry) for name in known)]


def test_each_setting_has_an_effect_and_the_longest_name_holds(settings):
    assert all(any(name.startswith(entry) for entry in EFFECTS) for name in settings)
    assert {effect(name) for name in settings} == {"pretraining", "training", "evaluation", "nothing"}
    assert effect("model.max_tokens") == "pretraining"
    assert effect("model.peft.r") == "training"
    assert effect("training.save_steps") == "training"
    assert effect("training.save_total_limit") == "nothing"
    for name in ("logging_first_step", "push_to_hub", "hub_model_id", "ddp_timeout", "eval_accumulation_steps"):
        assert effect(f"training.{name}") == "nothing"
    assert effect("data.sources") == "pretraining"
    assert effect("data.folder") == "nothing"
    assert effect("a setting of another version") == "training"


def test_pretrained_weights_do_not_depend_on_what_comes_after_them(tiny):
    def both(*arguments: str) -> tuple[dict, dict]:
        found = parse_experiment("", ["--config", str(tiny), *arguments])
        return pretraining_settings(found), weight_settings(found)

    plain = both()
    assert plain[0].items() <= plain[1].items()
    after = (["--model.peft", "{method: lora}"], ["--training.max_steps", "7"], ["--finetuning.labelled_users", "9"])
    for changed in after:
        other = both(*changed)
        assert other[0] == plain[0]
        assert other[1] != plain[1]
    for changed in (["--pretraining.mask", "0.3"], ["--model.max_tokens", "32"], ["--training.seed", "7"]):
        assert both(*changed)[0] != plain[0]
    assert both("--training.logging_steps", "3", "--runs.folder", "there", "--evaluation.budget", "0.2") == plain


def test_pretraining_runs_with_the_settings_that_the_table_says(tiny, tmp_path):
    def given(*arguments: str) -> dict:
        found = parse_experiment("", ["--config", str(tiny), "--pretraining.max_steps", "5", *arguments])
        return pretraining_arguments(found, tmp_path).to_dict()

    before = given()
    after = ("learning_rate 0.5", "max_steps 77", "metric_for_best_model loss", "eval_strategy epoch", "eval_steps 3")
    after = given(*(word for setting in after for word in f"--training.{setting}".split()))
    changed = {key for key in before if before[key] != after[key]}
    assert changed <= {"eval_steps"}  # without evaluations there
    own = given("--training.weight_decay", "0.3", "--training.seed", "5", "--training.warmup_steps", "2")
    changed = {key for key in before if before[key] != own[key]}
    assert changed == {"weight_decay", "seed", "warmup_steps"}
    assert {effect(f"training.{key}") for key in changed} == {"pretraining"}


def test_what_earlier_versions_wrote_down_is_read_by_its_new_names():
    old = {"evaluation.patience": "3", "training.logging_nan_inf_filter": "True", "text.style": "words"}
    named = {"finetuning.patience": "3", "text.style": "words"}
    added = {
        f"finetuning.{name}": "None"
        for name in ("labelled_users", "privacy", "reweigh", "teacher_model", "value_scale")
    }
    added["finetuning.labelled_draw"] = "0"
    added["finetuning.members"] = "0"
    assert with_effect(old) == named | added
    assert with_effect(named | {"finetuning.labelled_users": "9"})["finetuning.labelled_users"] == "9"
