"""What transformers.Trainer is given: the section `training`, checked before any work."""

import copy
import os
import tempfile
from textwrap import shorten
from typing import Any, cast

import torch
from accelerate.parallelism_config import ParallelismConfig
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, TensorDataset
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments
from transformers.integrations.liger import apply_liger_kernel
from transformers.trainer_utils import IntervalStrategy, SchedulerType
from transformers.training_args import OptimizerNames, trainer_log_levels

from data_prep import InputError
from finetune.experiment.config import Experiment
from finetune.figures.measures import LOWER_IS_BETTER, measure_names
from finetune.model.objective import Objective
from finetune.model.tokenization import first_line
from finetune.runs import TENSORBOARD

# The smallest and the largest value of the settings that transformers takes as they are, and fails or does nothing
# with in the middle of a run.
LIMITS = {
    "per_device_train_batch_size": (1, None),
    "per_device_eval_batch_size": (1, None),
    "gradient_accumulation_steps": (1, None),
    "eval_accumulation_steps": (1, None),
    "dataloader_num_workers": (0, None),
    "weight_decay": (0, None),
    "max_grad_norm": (0, None),
    "neftune_noise_alpha": (0, None),
    "eval_delay": (0, None),
    "seed": (0, 2**32 - 1),  # numpy's
    "data_seed": (0, 2**32 - 1),
}
TAKES_NO_ARGUMENTS = ("adamw_torch", "adamw_torch_fused", "adafactor")  # the Trainer would leave them out silently
SAMPLING = ("random", "sequential", "group_by_length", "batch_rebalance")


def training_arguments(experiment: Experiment, **overrides: Any) -> TrainingArguments:
    """TrainingArguments of the config's training section, with which an optimizer has been built once.

    Raises:
        InputError: A value or a combination that transformers or torch refuses, or a package that is missing.
    """
    name = "-".join(part for part in (experiment.name, experiment.part) if part)
    settings = experiment.training | {"length_column_name": "length", "remove_unused_columns": False} | overrides
    settings["run_name"] = settings["run_name"] or name
    if settings["project"] == "huggingface":  # where trackio puts what names no project
        settings["project"] = experiment.name
    objective = Objective.of(experiment.task.label, [])
    _check_together(settings, experiment, objective)
    if settings["load_best_model_at_end"] or settings["save_strategy"] == "best":
        best = _best_metric(settings, objective)
        settings |= {"metric_for_best_model": best, "greater_is_better": best not in {*LOWER_IS_BETTER, "loss"}}
    if os.environ.get("WORLD_SIZE", "1") != "1" and not torch.cuda.is_available():
        settings["use_cpu"] = True  # or each process would train a model of its own
    if settings["bf16"] and not torch.accelerator.is_available():
        settings["use_cpu"] = True  # transformers asks for it in so many words, though there is nothing else
    settings["dataloader_pin_memory"] &= torch.cuda.is_available()  # without a GPU it only warns
    settings["torch_compile"] = False  # of the whole model, which takes minutes; see modeling.compile_layers
    log_to(experiment)
    before = set(os.environ)
    try:
        if settings["parallelism_config"] is not None:
            settings["parallelism_config"] = ParallelismConfig(**settings["parallelism_config"])
        made = TrainingArguments(**settings)
        _check_values(made)
        _try_optimizer(made)
    except (ValueError, TypeError, ImportError, RuntimeError, AttributeError, OSError) as error:
        for name in set(os.environ) - before:  # training.fsdp speaks to accelerate, and to every later run, by it
            del os.environ[name]
        if isinstance(error, InputError):
            raise
        said = shorten(first_line(error), 300, placeholder=" ...")
        raise InputError(f"training: {said}", "mend that setting") from error
    return made


def log_to(experiment: Experiment) -> None:
    """Let the next Trainer's TensorBoard log lie in this run's folder."""
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(experiment.run_folder / TENSORBOARD)


def _check_together(settings: dict, experiment: Experiment, objective: Objective) -> None:
    """Refuse settings that do not go together, or not with the label."""
    sharded = settings["fsdp"] or os.environ.get("ACCELERATE_USE_FSDP") == "true"
    if sharded and settings["load_best_model_at_end"]:
        raise InputError(
            "the best checkpoint cannot be loaded back into sharded weights",
            "give --training.load_best_model_at_end false --training.save_strategy no",
        )
    if settings["push_to_hub"]:
        raise InputError(
            "training.push_to_hub would upload every checkpoint as it is",
            "publish the model with scripts/publish.py",
            setting="training.push_to_hub",
        )
    _check_label(settings, experiment, objective)
    if "underflow_overflow" in settings["debug"]:
        raise InputError(
            "training.debug underflow_overflow cannot read the masks of these models",
            "leave it out, and look at grad_norm in the log",
            setting="training.debug",
        )
    if settings["load_best_model_at_end"] and (experiment.model.peft or {}).get("prefix_projection"):
        raise InputError(
            "model.peft.prefix_projection cannot be loaded back as the best checkpoint",
            "leave it out, or give --training.load_best_model_at_end false --training.save_strategy no",
            setting="model.peft.prefix_projection",
        )
    for pair in (settings["optim_args"] or "").replace(" ", "").split(","):
        if pair.count("=") != 1 and settings["optim_args"]:
            raise InputError(
                f"'{pair}' is not NAME=VALUE", "write such as rank=128,scale=0.25", setting="training.optim_args"
            )
    if settings["optim_args"] and settings["optim"] in TAKES_NO_ARGUMENTS:
        raise InputError(
            f"{settings['optim']} takes none",
            "leave it out, or set adam_beta1, adam_beta2 and adam_epsilon",
            setting="training.optim_args",
        )
    backends = torch.distributed.Backend.backend_list[1:] if torch.distributed.is_available() else []
    if settings["ddp_backend"] not in (None, *backends):
        raise InputError(
            f"training.ddp_backend is '{settings['ddp_backend']}'",
            f"give one of {', '.join(backends)}",
            setting="training.ddp_backend",
        )
    if settings["ddp_backend"] and os.environ.get("WORLD_SIZE", "1") == "1":
        raise InputError(
            "training.ddp_backend is for several processes, and this is one",
            "leave it out",
            setting="training.ddp_backend",
        )
    if settings["batch_eval_metrics"]:
        raise InputError("AUROC is none of single batches", "leave it at false", setting="training.batch_eval_metrics")


def _check_label(settings: dict, experiment: Experiment, objective: Objective) -> None:
    """Refuse what the kind of label has no use for."""
    if settings["label_smoothing_factor"] and objective.task not in ("binary", "tiers"):
        raise InputError(
            f"a {objective.task} label has no classes to smooth",
            "leave it at 0",
            setting="training.label_smoothing_factor",
        )
    if experiment.finetuning.log_scale and objective.task != "value":
        raise InputError(f"a {objective.task} label is no value", "leave it at false", setting="finetuning.log_scale")
    if experiment.finetuning.value_loss != "squared_error" and objective.task != "value":
        raise InputError(
            f"a {objective.task} label is no value", "leave it at squared_error", setting="finetuning.value_loss"
        )


def _best_metric(settings: dict, objective: Objective) -> str:
    best = (settings["metric_for_best_model"] or objective.best).removeprefix("eval_")
    known = (*measure_names(objective.task, "validation"), "loss")
    if settings["eval_strategy"] == "no":
        raise InputError(
            "training.eval_strategy is no, but the best checkpoint is kept",
            "set load_best_model_at_end to false",
            setting="training.eval_strategy",
        )
    if best not in known:
        raise InputError(f"'{best}' is not one of {', '.join(known)}", setting="training.metric_for_best_model")
    return best


def _check_values(made: TrainingArguments) -> None:
    """Refuse values that would end a run in its middle, or train nothing."""
    for name, (smallest, largest) in LIMITS.items():
        value = getattr(made, name)
        if value is not None and (value < smallest or (largest is not None and value > largest)):
            allowed = f"{smallest} or more" if largest is None else f"{smallest} to {largest}"
            raise InputError(f"training.{name} is {value}", f"give {allowed}", setting=f"training.{name}")
    if not 0 <= made.label_smoothing_factor < 1:
        raise InputError(
            f"training.label_smoothing_factor is {made.label_smoothing_factor}",
            "give 0 to below 1",
            setting="training.label_smoothing_factor",
        )
    if made.learning_rate <= 0:
        raise InputError(
            f"training.learning_rate is {made.learning_rate}, which trains nothing",
            "give a number above 0",
            setting="training.learning_rate",
        )
    _check_steps(made)
    for name in ("log_level", "log_level_replica"):
        if getattr(made, name) not in trainer_log_levels:
            raise InputError(
                f"training.{name} is '{getattr(made, name)}'",
                f"give one of {', '.join(trainer_log_levels)}",
                setting=f"training.{name}",
            )
    if made.train_sampling_strategy not in SAMPLING:
        raise InputError(
            f"training.train_sampling_strategy is '{made.train_sampling_strategy}'",
            f"give one of {', '.join(SAMPLING)}",
            setting="training.train_sampling_strategy",
        )


def _check_steps(made: TrainingArguments) -> None:
    if made.max_steps == 0 or made.max_steps < -1:
        raise InputError(
            f"training.max_steps is {made.max_steps}",
            "give a number of steps, or -1 to train for num_train_epochs",
            setting="training.max_steps",
        )
    if made.max_steps < 0 and made.num_train_epochs <= 0:
        raise InputError(
            f"training.num_train_epochs is {made.num_train_epochs:g} and max_steps is -1, which trains nothing",
            "give epochs above 0 or steps",
            setting="training.num_train_epochs",
        )
    if made.max_steps > 0:
        check_warmup(made, made.max_steps)
    by_steps = made.load_best_model_at_end and made.eval_strategy == IntervalStrategy.STEPS
    if by_steps and 0 < made.max_steps < made.eval_delay:
        raise InputError(
            f"training.eval_delay is {made.eval_delay:g} and max_steps {made.max_steps:,}, so that no checkpoint is "
            f"validated and none can be the best",
            "give fewer",
            setting="training.eval_delay",
        )
    for what in ("logging", "eval", "save"):
        steps = getattr(made, f"{what}_steps")
        if getattr(made, f"{what}_strategy") == IntervalStrategy.STEPS and steps is not None and steps <= 0:
            raise InputError(
                f"training.{what}_steps is {steps:g}",
                "give a number of steps, or a share of them below 1",
                setting=f"training.{what}_steps",
            )


def check_warmup(made: TrainingArguments, steps: int) -> None:
    """InputError where the learning rate would still rise when training, of so many steps, ends."""
    warmup = made.get_warmup_steps(steps)
    if warmup >= steps:
        raise InputError(
            f"training.warmup_steps {made.warmup_steps:g} lets the learning rate rise over {warmup:,} steps, and "
            f"training has {steps:,}",
            "give fewer, or a share of them below 1",
            setting="training.warmup_steps",
        )


def _try_optimizer(made: TrainingArguments) -> None:
    """Build a Trainer with its optimizer for a model of a few numbers, as the Trainer would do it after all else.

    Raises:
        InputError: A package is missing, or a value is out of range.
    """
    sizes: dict[str, Any] = {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 4}
    tiny = BertForSequenceClassification(BertConfig(vocab_size=8, max_position_embeddings=8, **sizes))
    part = "training"
    try:
        nothing = TensorDataset(torch.empty(0))
        DataLoader(
            nothing,
            num_workers=made.dataloader_num_workers,
            prefetch_factor=made.dataloader_prefetch_factor,
            persistent_workers=made.dataloader_persistent_workers,
            multiprocessing_context=made.dataloader_multiprocessing_context,
        )
        if made.use_liger_kernel:
            apply_liger_kernel(tiny, made.liger_kernel_config)
        with tempfile.TemporaryDirectory() as folder:  # the Trainer makes it
            arguments = copy.copy(made)
            arguments.output_dir = folder
            trainer = Trainer(model=tiny, args=arguments, eval_dataset=nothing)
        part = f"training.optim {OptimizerNames(made.optim).value}"
        trainer.create_optimizer()
        part = f"training.lr_scheduler_type {SchedulerType(made.lr_scheduler_type).value} with lr_scheduler_kwargs"
        steps = max(made.max_steps, 2)
        scheduler = trainer.create_scheduler(steps)
        if isinstance(scheduler, LambdaLR) and min(scheduler.lr_lambdas[0](step) for step in (steps // 2, steps)) < 0:
            raise ValueError("the learning rate falls below zero")
        if made.activation_checkpointing:
            part = "training.gradient_checkpointing_kwargs"
            more = dict(cast(dict[str, Any], made.activation_checkpointing_kwargs or {}))
            layers = {name: more.pop(name) for name in ("every_n_layers", "offload") if name in more}
            tiny.train().activation_checkpointing_enable(more or None, **layers)
            tiny(torch.zeros((1, 2), dtype=torch.long, device=tiny.device)).logits.sum().backward()
    except Exception as error:
        raise InputError(f"{part}: {first_line(error)}", "choose another value, or install what is missing") from error
