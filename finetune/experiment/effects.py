"""What each setting changes: the pretrained weights, the weights, the evaluation, or nothing; stated here alone.

By it a stopped run knows whether it may go on, an evaluation whether a model is the one that the settings describe, and
a comparison in which settings two runs differ.
"""

import os
from typing import Literal

from data_prep.config import settings_of
from finetune.experiment.config import RENAMED, Experiment

Effect = Literal["pretraining", "training", "evaluation", "nothing"]  # the first step whose outcome a setting changes
# A setting, or all settings that begin so; the longest name holds. `processes` is their number under a launcher.
EFFECTS: dict[str, Effect] = {
    "name": "nothing",
    "engine": "nothing",
    "smoke": "nothing",
    "seeds": "training",
    "spark": "nothing",
    "data": "pretraining",
    "data.folder": "nothing",
    "runs": "nothing",
    "task": "training",
    "text": "training",
    "text.schema": "nothing",  # its content is part of the data's
    "processes": "pretraining",
    "model": "pretraining",
    "model.peft": "training",
    "model.freeze": "training",
    "model.pooling": "training",
    "pretraining": "pretraining",
    "finetuning": "training",
    "finetuning.labelled": "training",  # pretraining reads the texts of all users
    "finetuning.max_train_examples": "pretraining",
    "training": "pretraining",  # pretraining has those of its own in their place, but for these:
    "training.eval": "training",
    "training.learning_rate": "training",
    "training.load_best_model_at_end": "training",
    "training.max_steps": "training",
    "training.metric_for_best_model": "training",
    "training.num_train_epochs": "training",
    "training.save": "training",
    "training.dataloader_num_workers": "nothing",
    "training.dataloader_pin_memory": "nothing",
    "training.disable_tqdm": "nothing",
    "training.log_level": "nothing",
    "training.batch_eval_metrics": "nothing",
    "training.bf16_full_eval": "nothing",
    "training.ddp_timeout": "nothing",
    "training.eval_accumulation_steps": "nothing",
    "training.fp16_full_eval": "nothing",
    "training.hub_": "nothing",
    "training.log_on_each_node": "nothing",
    "training.logging_first_step": "nothing",
    "training.push_to_hub": "nothing",
    "training.skip_memory_metrics": "nothing",
    "training.torch_empty_cache_steps": "nothing",
    "training.trackio_": "nothing",
    "training.logging_nan_inf_filter": "nothing",
    "training.logging_steps": "nothing",
    "training.logging_strategy": "nothing",
    "training.per_device_eval_batch_size": "nothing",
    "training.project": "nothing",
    "training.report_to": "nothing",
    "training.resume_from_checkpoint": "nothing",
    "training.run_name": "nothing",
    "training.save_total_limit": "nothing",
    "evaluation": "evaluation",
    "evaluation.slice": "nothing",  # of a run's worth
    "sweep": "nothing",
}
# They say how the weights were found; who has less time or other machines may evaluate a model without them.
FREE_AFTER_TRAINING = {
    "processes",
    "finetuning.patience",
    "finetuning.max_train_examples",
    "finetuning.max_eval_examples",
    "training.use_cpu",
}

CHANCE = {"seeds", "training.seed", "training.data_seed"}  # another one makes another model, neither better nor worse
ADDED = {  # what earlier versions did unwritten
    "finetuning.labelled_users": "None",
    "finetuning.labelled_draw": "0",
    "finetuning.members": "0",
    "finetuning.privacy": "None",
    "finetuning.reweigh": "None",
    "finetuning.teacher_model": "None",
    "finetuning.value_scale": "None",
}


def effect(setting: str) -> Effect:
    """What a setting changes, by its name with dots; one of another version may have changed the weights."""
    known = [name for name in EFFECTS if setting.startswith(name)]
    return EFFECTS[max(known, key=len)] if known else "training"


def weight_settings(experiment: Experiment) -> dict[str, str]:
    """The settings that a run's weights depend on beside the content of its data, as text by their names."""
    settings = {"processes": os.environ.get("WORLD_SIZE", "1")}
    for section in ("task", "text", "model", "pretraining", "finetuning"):
        settings |= {f"{section}.{key}": value for key, value in settings_of(getattr(experiment, section)).items()}
    settings |= {f"training.{key}": value for key, value in experiment.training.items()}
    return with_effect({key: str(_written(value)) for key, value in settings.items()})


def pretraining_settings(experiment: Experiment) -> dict[str, str]:
    """The same of the pretrained weights."""
    return with_effect(weight_settings(experiment), {"pretraining"})


def with_effect(settings: dict[str, str], effects: set[Effect] | None = None) -> dict[str, str]:
    """Of settings that were written down those that change the weights, or have one of these effects.

    An earlier version wrote down more, had other names, and did not have the settings of ADDED.
    """
    named = ADDED | {RENAMED.get(key, key): value for key, value in settings.items()}
    return {key: value for key, value in named.items() if effect(key) in (effects or {"pretraining", "training"})}


def _written(value: object) -> object:
    """The same for 0 and 0.0, which a config that is saved and read again may exchange."""
    if isinstance(value, dict):
        return {key: _written(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_written(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
