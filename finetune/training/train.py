"""Fine-tuning with transformers.Trainer."""

import json
import math
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import torch
import yaml
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainingArguments,
    get_scheduler,
    set_seed,
)
from transformers.trainer import TRAINING_ARGS_NAME

from data_prep import InputError
from data_prep.config import settings_of
from data_prep.cutoffs import SPLITS
from data_prep.facts import Manifest
from data_prep.files import replacing, write_whole
from data_prep.prepared import Limit, column_array, prepared_for, read_split
from data_prep.serializer import EventSerializer
from finetune.experiment.config import Experiment
from finetune.experiment.effects import weight_settings
from finetune.model.growing import mapped_tokenizer
from finetune.model.memory import TRAINING_REMEDY, enough_memory
from finetune.model.modeling import BudgetCallback, build_classifier, compile_layers, weights_hash
from finetune.model.objective import Objective, Scale, class_weights
from finetune.model.packing import batches_for
from finetune.model.tokenization import build_tokenizer, first_line, name_for_others, word_tokenizer
from finetune.model.tokens import tokens_of_split
from finetune.runs import (
    BACKTESTS,
    EXPLANATION,
    EXPLANATION_PAGE,
    METRICS,
    PREDICTIONS,
    REPORT,
    SETTINGS,
    TASK,
    TRAINING_LOG,
    read_training_log,
)
from finetune.training.arguments import check_warmup, log_to, training_arguments
from finetune.training.batching import Collator
from finetune.training.checkpoints import (
    alone,
    begin,
    checkpoint_to_resume,
    finish,
    made_by,
    refuse_not_finite,
    refuse_other_run,
    starts_anew,
    trained,
)
from finetune.training.members import forget_members, forget_said, member_runs, refuse_members
from finetune.training.privacy_rules import refuse_unprotected
from finetune.training.private_trainer import PrivateTrainer, privacy_of
from finetune.training.rehearsal import rehearse
from finetune.training.reweighing import refuse_reweighing
from finetune.training.start import starting_point, word_texts
from finetune.training.targets import refuse_few_labels, refuse_one_class, targets
from finetune.training.teacher_model import refuse_teacher
from finetune.training.trainer import LengthGroupedTrainer, packs_on, show_progress
from finetune.training.value_factor import scaled_to_validation

TASK_FACTS = (
    "name",
    "question",
    "label",
    "label_kind",
    "labels_from",
    "classes",
    "log",
    "text_columns",
    "attributes",
    "schema",
    "content_hash",
)


def train(
    experiment: Experiment, words: list[str] | None = None, callbacks: Sequence[TrainerCallback] = ()
) -> list[Path]:
    """Fine-tune the classifier and write runs/NAME/model: weights, tokenizer and serializer.

    The checkpoint with the best validation metric is kept. Also writes config.yaml and training_log.json. With several
    seeds each has all of this in runs/NAME/seed-SEED. A run that was stopped continues where it was; of several seeds
    those that had finished are not trained again.

    Args:
        experiment: The settings.
        words: Of the tokenizer of a model from scratch; None takes those of the training texts, or of text.schema.
        callbacks: Of the Trainer, beside its own.

    Returns:
        The folder of the model, or of each seed's model.

    Raises:
        InputError: The data is not prepared, pretraining has not run, a setting does not fit, or the folder holds
            another run.
    """
    refuse_unprotected(experiment)
    refuse_reweighing(experiment)
    refuse_other_run(experiment)
    manifest = prepared_for(experiment.data_folder, experiment.task, experiment.text)
    refuse_teacher(experiment.finetuning, manifest)
    refuse_members(experiment.finetuning)
    rehearse(experiment)
    runs = [(run, _origin(run, manifest)) for run in experiment.seed_runs()]
    finished = [has_finished(run, manifest) for run, _ in runs]
    if all(finished) or starts_anew(experiment.training["resume_from_checkpoint"]):
        finished = [False] * len(runs)
    for (run, origin), done in zip(runs, finished, strict=True):
        if not done:
            _train(run, manifest, origin, words, callbacks)
    return [run.model_folder for run, _ in runs]


def has_finished(run: Experiment, manifest: Manifest) -> bool:
    """Whether a model of these settings and of this data is there already."""
    return made_by(run.checkpoint_folder) == _origin(run, manifest) | {"finished": True}


def _origin(run: Experiment, manifest: Manifest) -> dict:
    teacher = run.finetuning.teacher_model  # one that was trained again under its path is another one
    taught = {} if teacher is None else {"teacher": weights_hash(teacher)}
    return {"training": weight_settings(run), "content_hash": manifest["content_hash"]} | taught


@enough_memory(TRAINING_REMEDY)
def _train(
    experiment: Experiment,
    manifest: Manifest,
    origin: dict,
    words: list[str] | None,
    callbacks: Sequence[TrainerCallback],
) -> None:
    arguments = training_arguments(experiment, output_dir=str(experiment.checkpoint_folder))
    resume = checkpoint_to_resume(arguments, origin)
    models, taken = _members(experiment, arguments, manifest, words)
    trainer, facts = build_trainer(experiment, arguments, manifest, words, models)
    for callback in callbacks:
        trainer.add_callback(callback)
    trainable, total = (
        sum(p.numel() for p in trainer.model.parameters() if p.requires_grad or every) for every in (False, True)
    )
    trainer.accelerator.wait_for_everyone()
    with alone(experiment.run_folder, trainer.is_world_process_zero()):
        if trainer.is_world_process_zero():
            print(f"training {trainable:,} of {total:,} parameters on {len(trainer.train_dataset):,} examples")
            begin(experiment.checkpoint_folder, origin, resume)
        seconds = taken + trained(trainer, resume, "training")
        facts |= scaled_to_validation(experiment, trainer)
        best = experiment.checkpoint_folder / "best"
        trainer.save_model(str(best))  # on every process, as sharded weights are gathered
        if trainer.is_world_process_zero():
            refuse_not_finite(best)
            facts |= {"privacy": trainer.facts()} if isinstance(trainer, PrivateTrainer) else {}
            facts |= {"trainable_parameters": trainable, "total_parameters": total, "seconds": round(seconds, 1)}
            _save(experiment, trainer, best, manifest, facts | {"content_hash": manifest["content_hash"]})
            finish(experiment.checkpoint_folder, origin)
            forget_members(experiment)
        trainer.accelerator.wait_for_everyone()


def _members(
    run: Experiment, arguments: TrainingArguments, manifest: Manifest, words: list[str] | None
) -> tuple[list[Path], float]:
    """The models of finetuning.members, trained unless they are there already, and how many seconds they took."""
    if not run.finetuning.members:
        return [], 0.0
    main = arguments.process_index == 0
    rows = len(_labels(run.data_folder, "train", run.limits["train"]))
    batch = arguments.train_batch_size * arguments.world_size * arguments.gradient_accumulation_steps
    members = member_runs(run, rows // batch)
    with alone(run.run_folder, main):
        with arguments.main_process_first(local=False):
            if main and starts_anew(run.training["resume_from_checkpoint"]):
                forget_members(run)
        for number, member in enumerate(members, start=1):
            if has_finished(member, manifest):
                continue
            if main:
                forget_said(run)
                print(f"member {number} of {len(members)}, whose seed is {member.training['seed']}")
            _train(member, manifest, _origin(member, manifest), words, ())
    log_to(run)
    seconds = [read_training_log(member.run_folder, {"seconds": float})["seconds"] for member in members]
    return [member.model_folder for member in members], sum(seconds)


def build_trainer(
    experiment: Experiment,
    arguments: TrainingArguments,
    manifest: Manifest,
    words: list[str] | None = None,
    members: Sequence[Path] = (),
) -> tuple[LengthGroupedTrainer, dict]:
    """The Trainer of a run, with model and tokenized data, and what the training log says of them; members are the
    models of finetuning.members."""
    objective = Objective.of(experiment.task.label, manifest["classes"])
    limits = {split: experiment.limits[split] for split in ("train", "validation")}
    folder = experiment.data_folder
    labels = {split: _labels(folder, split, limits[split]) for split in limits}
    if experiment.finetuning.labelled_users:
        refuse_few_labels(objective, labels, experiment.finetuning.labelled_users)
    refuse_one_class(objective, labels["validation"], arguments.metric_for_best_model)
    weights = class_weights(experiment.finetuning.class_weights, objective, labels["train"])
    private = experiment.finetuning.privacy is not None
    priors = None if private else objective.priors(labels["train"], weights)  # which count the labels without noise
    asked = experiment, arguments, manifest, objective
    labels, scale, facts = targets(*asked, labels, members)
    if members:  # teach the texts of all users, also of those whose labels are not known
        limits["train"] = experiment.finetuning.max_train_examples
    model, tokenizer = _model(*asked, words, _steps(arguments, len(labels["train"])), priors, scale)
    # Before the layers are compiled; where users are told apart, each row stays by itself.
    packs = not private and packs_on(model, arguments, experiment.model.pooling)
    if experiment.training["torch_compile"]:
        compile_layers(model)
    with arguments.main_process_first(local=False):
        tokens = {split: tokens_of_split(tokenizer, folder, split, limit) for split, limit in limits.items()}
    data = {split: tokens[split].labelled(labels[split]) for split in tokens}
    collator = Collator(batches_for(model, tokenizer), experiment.finetuning.event_dropout, arguments.seed)
    kind = partial(PrivateTrainer, **privacy_of(*asked)) if private else LengthGroupedTrainer
    trainer = kind(
        packs=packs,
        model=model,
        args=arguments,
        train_dataset=data["train"],
        eval_dataset=data["validation"].without_events(),
        processing_class=tokenizer,
        data_collator=collator,
        compute_loss_func=objective.loss(
            arguments.label_smoothing_factor, weights, experiment.finetuning.teacher, experiment.finetuning.value_loss
        ),
        compute_metrics=partial(_validation_metrics, objective, scale, len(data["validation"]), arguments),
        callbacks=[collator, *_callbacks(experiment, arguments, model)],
    )
    show_progress(trainer, "fine-tune")
    return trainer, facts | {
        "task": objective.task,
        "metric": arguments.metric_for_best_model,
        "class_weights": weights,
        "teacher": experiment.finetuning.teacher,
        "teacher_model": experiment.finetuning.teacher_model,
        "members": len(members),
    }


def _model(
    experiment: Experiment,
    arguments: TrainingArguments,
    manifest: Manifest,
    objective: Objective,
    words: list[str] | None,
    steps: int,
    priors: np.ndarray | None,
    scale: Scale | None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The classifier as training begins, and its tokenizer."""
    start = starting_point(experiment, manifest)
    set_seed(arguments.seed)
    tokenizer, unknown = _tokenizer(experiment, start, word_texts(experiment, ["train"]), words)
    model = build_classifier(experiment.model, objective, start, tokenizer, steps, priors, unknown)
    # Read when the model scores; to others it is an unknown entry that they leave alone.
    model.config.eventscribe = {
        "task": objective.task,
        "scale": asdict(scale) if scale else None,
        "pooling": experiment.model.pooling,
        "base": weights_hash(start) if experiment.model.peft and start is not None else None,
    }
    return model, tokenizer


def _tokenizer(
    experiment: Experiment, start: str | Path | None, texts: Iterable[pa.Array], words: list[str] | None
) -> tuple[PreTrainedTokenizerBase, list[str]]:
    """The tokenizer, and its words that the weights to start from lack: those of an own pretraining lack none."""
    if words is not None:
        return word_tokenizer(words, experiment.model.max_tokens), []
    if start is None or experiment.pretraining.max_steps:
        return build_tokenizer(start, texts, experiment.model.max_tokens), []
    adapter, frozen = (part is not None for part in (experiment.model.peft, experiment.model.freeze))
    return mapped_tokenizer(start, texts, experiment.model.max_tokens, adapter=adapter, frozen=frozen)


def _labels(folder: Path, split: str, limit: Limit) -> np.ndarray:
    return column_array(read_split(folder, split, limit, ["label"])["label"])


def _steps(arguments: TrainingArguments, examples: int) -> int:
    """The steps of a training, with a schedule that holds for them.

    Raises:
        InputError: It does not hold, or there is no batch.
    """
    steps, batch = arguments.max_steps, arguments.train_batch_size * arguments.world_size
    if steps < 0:
        per_epoch = math.ceil(examples / (batch * arguments.gradient_accumulation_steps))
        steps = math.ceil(arguments.num_train_epochs * per_epoch)
        check_warmup(arguments, steps)
    if arguments.dataloader_drop_last and batch > examples:
        raise InputError(
            f"training.dataloader_drop_last drops all {examples:,} examples, as a batch has {batch:,}",
            "set it to false, or per_device_train_batch_size lower",
            setting="training.dataloader_drop_last",
        )
    try:
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=arguments.learning_rate)
        more = {"scheduler_specific_kwargs": dict(cast(dict[str, Any], arguments.lr_scheduler_kwargs or {}))}
        get_scheduler(arguments.lr_scheduler_type, optimizer, arguments.get_warmup_steps(steps), steps, **more)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"training.lr_scheduler_type {arguments.lr_scheduler_type}: {first_line(error)}",
            "see lr_scheduler_kwargs",
            setting="training.lr_scheduler_type",
        ) from error
    return steps


def _callbacks(experiment: Experiment, arguments: TrainingArguments, model: PreTrainedModel) -> list[TrainerCallback]:
    made: list[TrainerCallback] = [BudgetCallback()] if getattr(model, "peft_type", None) == "ADALORA" else []
    if experiment.finetuning.patience and arguments.load_best_model_at_end:
        made.append(EarlyStoppingCallback(experiment.finetuning.patience))
    return made


def _validation_metrics(
    objective: Objective, scale: Scale | None, examples: int, arguments: TrainingArguments, prediction: EvalPrediction
) -> dict[str, float]:
    labels, logits = prediction.label_ids, prediction.predictions
    assert isinstance(labels, np.ndarray)
    assert isinstance(logits, np.ndarray)
    scores = objective.scores(logits)
    if not np.isfinite(scores).all():
        raise InputError(
            f"training.learning_rate {arguments.learning_rate:g}: the weights are no numbers any more",
            "lower it",
            setting="training.learning_rate",
        )
    assert len(labels) == examples  # of several processes the last batch has some twice, which must be gone here
    return objective.metrics(*(scale.value(part) if scale else part for part in (labels, scores)))


def _save(experiment: Experiment, trainer: LengthGroupedTrainer, best: Path, manifest: Manifest, facts: dict) -> None:
    """Put the model in its place, with the log."""
    folders = {experiment.run_folder} | ({experiment.base_folder} if not experiment.teaches else set())
    for folder in folders:  # figures of the model that is replaced
        for name in (PREDICTIONS, BACKTESTS):
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in (METRICS, REPORT, EXPLANATION, EXPLANATION_PAGE):
            (folder / name).unlink(missing_ok=True)
    with replacing(experiment.model_folder) as folder:
        shutil.copytree(best, folder, dirs_exist_ok=True)
        (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)  # a pickle, which nothing here reads
        name_for_others(folder)
        trainer.model.config.save_pretrained(folder)  # an adapter is saved without the labels' names
        EventSerializer.from_pretrained(experiment.data_folder).save_pretrained(folder)
        task = {key: value for key, value in manifest.items() if key in TASK_FACTS} | {
            "task": settings_of(replace(experiment.task, examples=None))
        }
        task["splits"] = {split: manifest["splits"][split] for split in SPLITS}
        (folder / TASK).write_text(json.dumps(task, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(best)
    log = facts | {"steps": trainer.state.global_step, "best_metric": trainer.state.best_metric}
    log |= {
        "settings": weight_settings(experiment),
        "device": str(trainer.args.device),
        "processes": trainer.args.world_size,
        "history": trainer.state.log_history,
    }
    config = yaml.safe_load(experiment.resolved)
    config["training"].pop("resume_from_checkpoint", None)  # is of this call: kept, it would replace the run silently
    for folder in folders:  # the report of several seeds shows the last one
        write_whole(folder / SETTINGS, yaml.safe_dump(config, sort_keys=False))
        write_whole(folder / TRAINING_LOG, json.dumps(log, indent=1) + "\n")
