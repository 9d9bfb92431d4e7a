"""Settings that would end a run inside the Trainer are refused before any work; nothing here trains."""

from dataclasses import replace

import pytest
import yaml

from data_prep import InputError
from data_prep.config import Label
from finetune.experiment.config import Experiment, FinetuningConfig
from finetune.experiment.parser import parse_experiment
from finetune.training.arguments import training_arguments
from tests.conftest import tiny_config


@pytest.fixture(scope="module")
def experiment(tmp_path_factory) -> Experiment:
    folder = tmp_path_factory.mktemp("experiment")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tiny_config(folder)), encoding="utf-8")
    return parse_experiment("", ["--config", str(folder / "tiny.yaml")])


def with_training(experiment: Experiment, **settings: object) -> Experiment:
    return replace(experiment, training=experiment.training | settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_steps": -1, "num_train_epochs": 0}, r"num_train_epochs is 0 and max_steps is -1, which trains nothing"),
        ({"max_steps": -1, "num_train_epochs": -2.0}, r"num_train_epochs is -2 and max_steps is -1"),
        ({"max_steps": 0}, r"training\.max_steps is 0; give a number of steps"),
        ({"max_steps": -5}, r"training\.max_steps is -5; give a number of steps"),
        ({"eval_steps": -4}, r"training\.eval_steps is -4; give"),
        ({"logging_steps": -4}, r"training\.logging_steps is -4; give"),
        ({"save_strategy": "steps", "load_best_model_at_end": False, "save_steps": -4}, r"training\.save_steps is -4"),
        ({"learning_rate": -1.0}, r"training\.learning_rate is -1\.0, which trains nothing; give a number above"),
        ({"learning_rate": 0.0}, r"training\.learning_rate is 0\.0, which trains nothing"),
        ({"warmup_steps": 8}, r"warmup_steps 8 lets the learning rate rise over 8 steps, and training has 8"),
        ({"warmup_steps": 1_000_000}, r"warmup_steps 1e\+06 lets the learning rate rise over 1,000,000 steps"),
        ({"max_steps": 1}, r"warmup_steps 0\.08 lets the learning rate rise over 1 steps, and training has 1"),
        (
            {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"lr_end": -5}},
            r"lr_scheduler_type polynomial with lr_scheduler_kwargs: the learning rate falls below zero",
        ),
        ({"weight_decay": -0.1}, r"training\.weight_decay is -0\.1; give 0 or more"),
        ({"max_grad_norm": -1.0}, r"training\.max_grad_norm is -1\.0; give 0 or more"),
        ({"per_device_train_batch_size": 0}, r"per_device_train_batch_size is 0; give 1 or more"),
        ({"gradient_accumulation_steps": 0}, r"gradient_accumulation_steps is 0; give 1 or more"),
        ({"eval_accumulation_steps": 0}, r"eval_accumulation_steps is 0; give 1 or more"),
        ({"dataloader_num_workers": -1}, r"dataloader_num_workers is -1; give 0 or more"),
        ({"neftune_noise_alpha": -1.0}, r"neftune_noise_alpha is -1\.0; give 0 or more"),
        ({"seed": -1}, r"training\.seed is -1; give 0 to 4294967295"),
        ({"seed": 4294967296}, r"training\.seed is 4294967296; give 0 to 4294967295"),
        ({"data_seed": -1}, r"training\.data_seed is -1; give 0 to 4294967295"),
        ({"label_smoothing_factor": 1.5}, r"label_smoothing_factor is 1\.5; give 0 to below 1"),
        ({"log_level": "foo"}, r"training\.log_level is 'foo'; give one of detail, debug"),
        ({"train_sampling_strategy": "foo"}, r"train_sampling_strategy is 'foo'; give one of random, "),
        ({"debug": "underflow_overflow"}, r"training\.debug underflow_overflow cannot"),
        ({"batch_eval_metrics": True}, r"training\.batch_eval_metrics"),
        ({"adam_beta1": 1.5}, r"training\.optim adamw_torch_fused: Invalid beta parameter at index 0: 1\.5"),
        ({"adam_epsilon": -1.0}, r"training\.optim adamw_torch_fused: Invalid epsilon"),
        ({"optim": "nothing"}, "nothing is not a valid OptimizerNames"),
        *(
            ({"optim": name}, rf"training\.optim {name}: .*{package}")
            for name, package in {
                "adamw_bnb_8bit": "bitsandbytes",
                "galore_adamw": "galore_torch",
                "lomo": "lomo_optim",
                "schedule_free_adamw": "schedulefree",
                "apollo_adamw": "apollo_torch",
                "adamw_torch_4bit": "torchao",
                "grokadamw": "grokadamw",
                "stable_adamw": "torch-optimi",
            }.items()
        ),
        ({"use_liger_kernel": True}, "liger-kernel"),
        ({"deepspeed": {"zero_optimization": {}}}, "deepspeed"),
        ({"lr_scheduler_type": "linera"}, "linera"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, r"lr_scheduler_type cosine_with_min_lr with lr_scheduler_kwargs"),
        ({"lr_scheduler_kwargs": {"a": 1}}, r"lr_scheduler_type linear with lr_scheduler_kwargs: .*argument 'a'"),
        ({"dataloader_multiprocessing_context": "foo", "dataloader_num_workers": 1}, "multiprocessing_context"),
        ({"dataloader_prefetch_factor": 2}, "dataloader_prefetch_factor"),
        ({"dataloader_persistent_workers": True}, "persistent_workers"),
        ({"report_to": "wandb"}, "wandb"),
        ({"accelerator_config": {"foo": 1}}, "foo"),
        ({"accelerator_config": "/nope"}, "^training: .*/nope.*; mend that setting$"),
        ({"eval_strategy": "no"}, "eval_strategy"),
        ({"metric_for_best_model": "foo"}, "'foo' is not one of auroc"),
        (
            {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"foo": 1}},
            r"training\.gradient_checkpointing_kwargs: Unexpected keyword arguments: foo",
        ),
        (
            {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"every_n_layers": 0}},
            r"training\.gradient_checkpointing_kwargs: ",
        ),
        ({"optim_args": "foo"}, r"training\.optim_args: 'foo' is not NAME=VALUE; write such as rank=128"),
        ({"optim_args": "x=1"}, r"training\.optim_args: adamw_torch_fused takes none; leave it out"),
        ({"eval_delay": 100}, r"training\.eval_delay is 100 and max_steps \d+, so that no checkpoint is validated"),
        ({"optim_args": "a=1, b=2=3"}, r"training\.optim_args: 'b=2=3' is not NAME=VALUE"),
        ({"ddp_backend": "foo"}, r"training\.ddp_backend is 'foo'; give one of gloo, nccl"),
        ({"ddp_backend": "gloo"}, r"training\.ddp_backend is for several processes, and this is one; leave it out"),
        ({"push_to_hub": True}, r"scripts/publish\.py"),
    ],
)
def test_a_setting_that_would_end_a_run_in_its_middle_is_named(experiment, tmp_path, settings, message):
    with pytest.raises(InputError, match=message) as refused:
        training_arguments(with_training(experiment, **settings), output_dir=str(tmp_path / "made"))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "made").exists()


def test_what_may_be_left_out_or_is_a_bound_is_taken(experiment, tmp_path):
    settings = {
        "learning_rate": 1e-9,
        "warmup_steps": 0,
        "seed": 2**32 - 1,
        "max_steps": -1,
        "num_train_epochs": 0.5,
        "data_seed": 0,
    }
    settings |= {"eval_steps": None, "logging_steps": 0.1, "eval_accumulation_steps": None, "optim": "adafactor"}
    settings |= {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
    made = training_arguments(with_training(experiment, **settings), output_dir=str(tmp_path / "made"))
    assert (made.seed, made.num_train_epochs) == (2**32 - 1, 0.5)
    assert made.output_dir == str(tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_smoothing_and_a_log_scale_need_labels_that_fit(experiment):
    with pytest.raises(InputError, match=r"finetuning\.value_loss: a binary label is no value"):
        training_arguments(replace(experiment, finetuning=FinetuningConfig(value_loss="absolute_error")))
    with pytest.raises(InputError, match=r"finetuning\.log_scale: a binary label is no value"):
        training_arguments(replace(experiment, finetuning=FinetuningConfig(log_scale=True)))
    value = Label("sum", "event_type = 'purchase'", "14 days", field="amount")
    values = replace(experiment, task=replace(experiment.task, label=value))
    with pytest.raises(InputError, match="a value label has no classes to smooth"):
        training_arguments(with_training(values, label_smoothing_factor=0.1))


def test_an_adapter_that_cannot_be_loaded_back_is_not_kept_as_the_best_checkpoint(experiment):
    peft = {"method": "prefix_tuning", "num_virtual_tokens": 4, "prefix_projection": True}
    projected = replace(experiment, model=replace(experiment.model, peft=peft))
    with pytest.raises(InputError, match=r"prefix_projection .*--training\.load_best_model_at_end false"):
        training_arguments(projected)
    assert training_arguments(with_training(projected, load_best_model_at_end=False, save_strategy="no"))


def test_sharded_weights_keep_no_best_checkpoint(experiment, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(InputError, match=r"--training\.load_best_model_at_end false"):
        training_arguments(experiment)


def test_a_run_of_sharded_weights_that_is_refused_leaves_the_next_one_alone(experiment, tmp_path, monkeypatch):
    for settings in ({"fsdp": True}, {"fsdp": True, "load_best_model_at_end": False, "optim_target_modules": "a"}):
        with pytest.raises(InputError):
            training_arguments(with_training(experiment, **settings, adam_beta1=1.5), output_dir=str(tmp_path))
        assert training_arguments(experiment, output_dir=str(tmp_path))


def test_trackers_know_a_run_by_its_name(experiment, tmp_path):
    (run,) = replace(experiment, seeds=[3]).seed_runs()
    arguments = training_arguments(run, output_dir=str(tmp_path))
    assert (arguments.project, arguments.run_name) == ("tiny", "tiny-seed-3")
