"""What finetuning.privacy asks of the other settings, and what its guarantee does not hold for."""

import importlib.util
import os
import re
from pathlib import Path

from transformers import TrainingArguments

from data_prep import InputError
from data_prep.config import settings_of
from data_prep.facts import Manifest
from data_prep.prepared import find_manifest
from finetune.experiment.config import Experiment
from finetune.model.objective import Objective
from finetune.runs import TASK, read_pretraining_log

LEARNED = (
    "the words, bins and classes, which were learned from the training histories, where only values of fewer than "
    "min_users users are folded"
)
GIVEN = "whether the schema of words and bins (SHA-256 {}...) was made of public facts alone, as its owner says"
NOT_COVERED = (
    "the exact counts and figures beside the weights, in task.json, metrics.json and the cards: rows, users, labels "
    "and days of the log, what the evaluation found of the model and its baselines, and the losses of training",
    "settings that were chosen by trying several and looking at validation",
    "the number of training users, which counts as known",
    "the rounding of the noise in floating point",
)
OF_WEIGHTS = "whatever the weights that training started from were made of"


def not_covered(experiment: Experiment, manifest: Manifest) -> list[str]:
    """What the guarantee does not hold for, in sentences' ends."""
    schema = GIVEN.format(manifest["schema"][:12]) if "schema" in manifest else LEARNED
    return [schema, *NOT_COVERED, *([OF_WEIGHTS] if experiment.model.name_or_path else [])]


def refuse_unprotected(experiment: Experiment) -> None:
    """InputError where a setting reads the same users past the noise, or the accounting would not hold."""
    if experiment.finetuning.privacy is None:
        return
    if importlib.util.find_spec("opacus") is None:
        raise InputError("finetuning.privacy needs Opacus", "install the extra `privacy`: pip install -e '.[privacy]'")
    _refuse_own_words(experiment)
    for setting, wrong, why, remedy in [*_refused(experiment), *_refused_of_labels(experiment)]:
        if wrong:
            raise InputError(f"finetuning.privacy does not hold with {setting}, as {why}", remedy, setting=setting)
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise InputError("finetuning.privacy trains in one process", "launch it without accelerate's several processes")


def _refuse_own_words(experiment: Experiment) -> None:
    """InputError where words and bins are learned from the same users, and nobody has agreed to that."""
    privacy, schema, setting = experiment.finetuning.privacy, experiment.text.schema, "finetuning.privacy.schema"
    assert privacy is not None, "by refuse_unprotected"
    if privacy.schema == "learned":
        if schema is not None:
            raise InputError(f"{setting} is learned, and text.schema is given", "leave one out", setting=setting)
        return
    if schema is None:
        raise InputError(
            "finetuning.privacy does not hide a user in the words and bins, which are learned from the histories",
            f"give text.schema, a folder with a serializer.json of public events, or accept it by --{setting} learned",
            setting="text.schema",
        )
    made = find_manifest(Path(schema))
    own = experiment.data_folder.resolve() == Path(schema).resolve()
    if own or (
        made
        and "schema" not in made
        and made["config"]["data"].get("sources") == settings_of(experiment.data)["sources"]
    ):
        raise InputError(
            f"the words and bins in text.schema ({schema}) were learned from the same sources",
            "give those of public events",
            setting="text.schema",
        )


def _refused_of_labels(experiment: Experiment) -> list[tuple[str, bool, str, str]]:
    """As `_refused`: what is learned of labels without noise."""
    finetuning, scheduler = experiment.finetuning, str(experiment.training["lr_scheduler_type"])
    value = Objective.of(experiment.task.label, []).task == "value"
    return [
        (
            "a label of values",
            value and finetuning.value_scale is None,
            "the mean and the deviation of the labels would be learned without noise",
            "give finetuning.value_scale {mean: ..., deviation: ...} as known without the log, or task.label.tiers",
        ),
        (
            "training.lr_scheduler_type",
            re.search("plateau|greedy", scheduler, re.IGNORECASE) is not None,
            "validation labels would choose the learning rate",
            "choose linear, cosine or constant",
        ),
    ]


def _refused(experiment: Experiment) -> list[tuple[str, bool, str, str]]:
    """Settings, whether they are wrong here, why, and what to do."""
    training, finetuning, start = experiment.training, experiment.finetuning, experiment.model.name_or_path
    of_histories = start is not None and ((Path(start) / TASK).is_file() or bool(read_pretraining_log(Path(start))))
    without, chosen = "the same users without noise", "validation labels choose the best checkpoint"
    last = "give --training.load_best_model_at_end false --training.save_strategy no"
    made = "EventScribe made these weights of histories, which may be those of the same users"
    drawn = "which rows it takes of one user depends on the others"
    optimizer = str(getattr(training["optim"], "value", training["optim"]))
    accumulated = training["gradient_accumulation_steps"] != 1
    return [
        ("pretraining.max_steps", experiment.pretraining.max_steps > 0, f"pretraining reads {without}", "set it to 0"),
        ("finetuning.teacher", finetuning.teacher > 0, f"a teacher is fitted to {without}", "set it to 0"),
        (
            "finetuning.class_weights",
            finetuning.class_weights != "none",
            "class weights are scaled by the counts of the labels",
            "leave it at none",
        ),
        (
            "finetuning.reweigh",
            finetuning.reweigh is not None,
            "its weights are made of the counts of the labels",
            "leave it out",
        ),
        ("finetuning.max_train_examples", finetuning.max_train_examples is not None, drawn, "leave it out"),
        ("finetuning.labelled_users", finetuning.labelled_users is not None, drawn, "leave it out"),
        ("seeds", len(experiment.seeds) > 1, "each seed spends epsilon anew", "give one"),
        ("training.load_best_model_at_end", training["load_best_model_at_end"], chosen, last),
        ("training.save_strategy", training["save_strategy"] == "best", chosen, "give no or steps"),
        (
            "training.max_steps",
            training["max_steps"] < 0,
            "the noise is chosen by the number of steps",
            "give it instead of num_train_epochs",
        ),
        (
            "training.gradient_accumulation_steps",
            accumulated,
            "a step has one batch of users, however large",
            "leave it at 1",
        ),
        (
            "training.auto_find_batch_size",
            training["auto_find_batch_size"],
            "the noise is chosen by the size of the batch",
            "leave it out",
        ),
        (
            "training.optim",
            re.search("lomo|layerwise", optimizer) is not None,
            "it takes its steps before there is noise",
            "choose adamw_torch",
        ),
        ("training.deepspeed", bool(training["deepspeed"]), "DeepSpeed makes the gradients itself", "leave it out"),
        ("training.fp16", training["fp16"], "gradients are clipped as they are", "train in bf16 or float32"),
        ("model.name_or_path", of_histories, made, "start from public weights, or from scratch"),
    ]


def refuse_arguments(arguments: TrainingArguments) -> None:
    """InputError where the machine, and not the config, stands against it."""
    if arguments.n_gpu > 1:
        raise InputError("finetuning.privacy trains on one GPU", "set CUDA_VISIBLE_DEVICES to one of them")
