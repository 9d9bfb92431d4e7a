"""Fine-tuning with transformers.Trainer."""

import json
import math
import os
import pickle
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    ProgressCallback,
    Trainer,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from data_prep import InputError
from data_prep.prepare import replacing
from data_prep.serializer import EventSerializer
from data_prep.task import SPLITS
from finetune.batching import Collator, LengthGroupedTrainer, load_texts, prepared_manifest, tokenize
from finetune.config import Experiment
from finetune.modeling import BudgetCallback, build_classifier, weights_hash
from finetune.objective import LOWER_IS_BETTER, VALIDATION_METRICS, Objective, Scale, class_weights
from finetune.scoring import TASK
from finetune.tokenization import build_tokenizer, first_line

ORIGIN = "origin.json"  # in the folder of checkpoints: whose they are, and whether the run has finished
RUN_FILES = re.compile(
    r"(\..*|checkpoints|model|pretrained|predictions|sweep|tensorboard|seed-\d+|config\.yaml|metrics\.json|report\.html"
    r"|(pre)?training_log\.json)"
)
# Settings that change nothing in the weights: with others a stopped run may go on.
WITHOUT_EFFECT = {
    "resume_from_checkpoint",
    "report_to",
    "run_name",
    "project",
    "disable_tqdm",
    "log_level",
    "log_level_replica",
    "logging_steps",
    "logging_strategy",
    "dataloader_num_workers",
    "per_device_eval_batch_size",
}
TASK_FACTS = ("name", "question", "label", "label_kind", "classes", "log", "text_columns", "content_hash")
PRETRAINED = "pretrained"  # the folder in a run that scripts/pretrain.py writes


def train(experiment: Experiment) -> list[Path]:
    """Fine-tune the classifier and write runs/NAME/model: weights, tokenizer and serializer.

    The checkpoint with the best validation metric is kept. Also writes config.yaml and training_log.json. With several
    seeds each has all of this in runs/NAME/seed-SEED. A run that was stopped continues where it was.

    Returns:
        The folder of the model, or of each seed's model.

    Raises:
        InputError: The data is not prepared, pretraining has not run, or a setting does not fit.
    """
    return [_train(run) for run in experiment.runs()]


def _train(experiment: Experiment) -> Path:
    arguments = training_arguments(experiment, output_dir=str(experiment.run_folder / "checkpoints"))
    refuse_strange_files(experiment.run_folder)
    manifest = prepared_manifest(experiment)
    origin = {"training": told(experiment), "content_hash": manifest["content_hash"]}
    resume = checkpoint_to_resume(arguments, origin)
    trainer, facts = build_trainer(experiment, arguments, manifest)
    trainable, total = (
        sum(p.numel() for p in trainer.model.parameters() if p.requires_grad or every) for every in (False, True)
    )
    trainer.accelerator.wait_for_everyone()
    marker = Path(arguments.output_dir) / ORIGIN
    if trainer.is_world_process_zero():
        print(f"training {trainable:,} of {total:,} parameters on {len(trainer.train_dataset):,} examples")
        if not resume:
            shutil.rmtree(arguments.output_dir, ignore_errors=True)  # checkpoints of an earlier run
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.write_text(json.dumps(origin | {"finished": False}), encoding="utf-8")
    seconds = trainer.train(resume_from_checkpoint=resume).metrics["train_runtime"]
    best = Path(arguments.output_dir) / "best"
    trainer.save_model(str(best))  # on every process, as sharded weights are gathered
    if trainer.is_world_process_zero():
        facts |= {"trainable_parameters": trainable, "total_parameters": total, "seconds": round(seconds, 1)}
        _save(experiment, trainer, best, manifest, facts | {"content_hash": manifest["content_hash"]})
        marker.write_text(json.dumps(origin | {"finished": True}), encoding="utf-8")
    trainer.accelerator.wait_for_everyone()
    return experiment.run_folder / "model"


def build_trainer(
    experiment: Experiment, arguments: TrainingArguments, manifest: dict
) -> tuple[LengthGroupedTrainer, dict]:
    """The Trainer of a run, with model and tokenized data, and what the training log says of them."""
    objective = Objective.of(experiment.task.label, manifest["classes"])
    limits = {"train": experiment.finetuning.max_train_examples, "validation": experiment.finetuning.max_eval_examples}
    texts = {split: load_texts(experiment.data_folder, split, limit) for split, limit in limits.items()}
    labels = {split: np.array(texts[split]["label"]) for split in texts}
    weights = class_weights(experiment.finetuning.class_weights, objective, labels["train"])
    scale = None
    if objective.task == "value":
        scale = Scale.fit(labels["train"], experiment.finetuning.log_scale)
        for split, values in labels.items():
            texts[split] = texts[split].remove_columns("label").add_column("label", scale.learned(values))
    start = starting_point(experiment, manifest)
    set_seed(arguments.seed)
    tokenizer = build_tokenizer(start, texts["train"]["text"], experiment.model.max_tokens)
    steps = arguments.max_steps
    if steps < 0:
        batch = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
        steps = math.ceil(arguments.num_train_epochs * math.ceil(len(texts["train"]) / batch))
    model = build_classifier(experiment.model, objective, start, tokenizer, steps)
    # Read when the model scores; to others it is an unknown entry that they leave alone.
    model.config.eventscribe = {
        "task": objective.task,
        "scale": asdict(scale) if scale else None,
        "pooling": experiment.model.pooling,
        "base": weights_hash(start) if experiment.model.peft else None,
    }
    data = {split: tokenize(texts[split], tokenizer, split) for split in texts}
    collator = Collator(tokenizer, experiment.finetuning.event_dropout, arguments.seed)
    callbacks = [collator]
    if getattr(model, "peft_type", None) == "ADALORA":
        callbacks.append(BudgetCallback())
    if experiment.evaluation.patience and arguments.load_best_model_at_end:
        callbacks.append(EarlyStoppingCallback(experiment.evaluation.patience))

    def validation_metrics(prediction: EvalPrediction) -> dict[str, float]:
        found, scores = prediction.label_ids, objective.scores(prediction.predictions)
        if not np.isfinite(scores).all():
            raise InputError(
                f"training.learning_rate {arguments.learning_rate:g}: the weights are no numbers any more; lower it"
            )
        # Of several processes the last batch has some examples twice, which must be gone here.
        assert len(found) == len(data["validation"])
        return objective.metrics(*(scale.value(part) if scale else part for part in (found, scores)))

    trainer = LengthGroupedTrainer(
        model=model,
        args=arguments,
        train_dataset=data["train"].add_column("row", np.arange(len(data["train"]))),
        eval_dataset=data["validation"].remove_columns("event"),
        processing_class=tokenizer,
        data_collator=collator,
        compute_loss_func=objective.loss(arguments.label_smoothing_factor, weights),
        compute_metrics=validation_metrics,
        callbacks=callbacks,
    )
    show_progress(trainer, "fine-tune")
    return trainer, {
        "task": objective.task,
        "metric": arguments.metric_for_best_model,
        "class_weights": weights,
    }


class Progress(ProgressCallback):
    """The Trainer's bar with the loss in it, and one line an evaluation, in place of a line for every log entry."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: object
    ) -> None:
        """Name the bar."""
        super().on_train_begin(args, state, control, **more)
        if self.training_bar is not None:
            self.training_bar.set_description(self.name)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict, **more: object
    ) -> None:
        """Show the newest loss, and the validation metrics where there are any."""
        if self.training_bar is None:
            return
        if "loss" in logs:
            self.training_bar.set_postfix_str(f"loss {logs['loss']:.4f}")
        if "eval_loss" in logs:
            name = next(name for name in (args.metric_for_best_model, "auroc", "mae", "loss") if f"eval_{name}" in logs)
            self.training_bar.write(
                f"step {state.global_step}: validation {'AUROC' if name == 'auroc' else name} "
                f"{logs[f'eval_{name}']:.4f}, loss {logs['eval_loss']:.4f}"
            )

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: object
    ) -> None:
        """Name the bar of an evaluation."""
        super().on_prediction_step(args, state, control, **more)
        if self.prediction_bar is not None:
            self.prediction_bar.set_description("validate", refresh=False)


def show_progress(trainer: Trainer, name: str) -> None:
    """Replace the Trainer's own bar, unless training.disable_tqdm asks for plain lines."""
    if not trainer.args.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(Progress(name))


def training_arguments(experiment: Experiment, **overrides: object) -> TrainingArguments:
    """TrainingArguments of the config's training section.

    Raises:
        InputError: A value or a combination that transformers refuses.
    """
    settings = experiment.training | {"length_column_name": "length", "remove_unused_columns": False} | overrides
    objective = Objective.of(experiment.task.label, [])
    if settings["load_best_model_at_end"] or settings["save_strategy"] == "best":
        best = (settings["metric_for_best_model"] or objective.best).removeprefix("eval_")
        known = (*VALIDATION_METRICS[objective.task], "loss")
        if settings["eval_strategy"] == "no":
            raise InputError(
                "training.eval_strategy is no, but the best checkpoint is kept; set load_best_model_at_end to false"
            )
        if best not in known:
            raise InputError(f"training.metric_for_best_model: '{best}' is not one of {', '.join(known)}")
        settings |= {"metric_for_best_model": best, "greater_is_better": best not in LOWER_IS_BETTER}
    if os.environ.get("WORLD_SIZE", "1") != "1" and not torch.cuda.is_available():
        settings["use_cpu"] = True  # or each process would train a model of its own
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(experiment.run_folder / "tensorboard")
    try:
        made = TrainingArguments(**settings)
    except (ValueError, TypeError, ImportError, RuntimeError) as error:
        raise InputError(f"training: {first_line(error)}") from error
    for name, smallest in (
        ("per_device_train_batch_size", 1),
        ("per_device_eval_batch_size", 1),
        ("gradient_accumulation_steps", 1),
        ("learning_rate", 0),
        ("seed", 0),
    ):
        if getattr(made, name) < smallest:
            raise InputError(f"training.{name} is {getattr(made, name)}; give {smallest} or more")
    if not 0 <= made.label_smoothing_factor < 1:
        raise InputError(f"training.label_smoothing_factor is {made.label_smoothing_factor}; give 0 to below 1")
    if made.max_steps == 0:
        raise InputError("training.max_steps is 0; give a number of steps, or -1 to train for num_train_epochs")
    return made


def starting_point(experiment: Experiment, manifest: dict) -> str | Path | None:
    """Where the weights come from: this run's pretraining, model.name_or_path, or None (from scratch).

    Raises:
        InputError: Pretraining has not run, or ran on other data or with another model.
    """
    if not experiment.pretraining.max_steps:
        return experiment.model.name_or_path
    folder = experiment.base_folder / PRETRAINED
    if not folder.is_dir():
        raise InputError(
            f"{folder} is missing; run scripts/pretrain.py with the same --config first, or set "
            f"pretraining.max_steps to 0"
        )
    log = json.loads((experiment.base_folder / "pretraining_log.json").read_text(encoding="utf-8"))
    if log["origin"] != pretraining_origin(experiment, manifest):
        raise InputError(
            f"{folder} was made from other data or with other settings of model or pretraining; "
            f"run scripts/pretrain.py with the same arguments first"
        )
    return folder


def pretraining_origin(experiment: Experiment, manifest: dict) -> dict:
    """What pretrained weights depend on."""
    model = {key: value for key, value in asdict(experiment.model).items() if key not in ("peft", "freeze", "pooling")}
    return {"content_hash": manifest["content_hash"], "model": model, "pretraining": asdict(experiment.pretraining)}


def checkpoint_to_resume(arguments: TrainingArguments, origin: dict) -> str | None:
    """The checkpoint to continue from; None to start anew.

    Args:
        arguments: resume_from_checkpoint and output_dir.
        origin: The settings and data of this run.

    Raises:
        InputError: The checkpoints are those of other settings or data, or the one that is asked for is not there.
    """
    asked, folder = arguments.resume_from_checkpoint, Path(arguments.output_dir)
    if asked and asked.lower() == "false":
        return None
    try:
        made_by = json.loads((folder / ORIGIN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        made_by = {}
    if not asked and made_by.get("finished", True):
        return None
    if asked and asked.lower() != "true":
        if not _is_whole(Path(asked), arguments.save_only_model):
            raise InputError(f"training.resume_from_checkpoint: no complete checkpoint in {asked}")
        return asked
    checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    if checkpoints and made_by and made_by | {"finished": 0} != origin | {"finished": 0}:
        old, new = ({**made["training"], "data": made["content_hash"]} for made in (made_by, origin))
        changed = next(key for key in {**old, **new} if old.get(key) != new.get(key))
        raise InputError(
            f"{folder} holds a run that was stopped and had other settings ({changed}: {old.get(changed)}); give the "
            f"same ones to continue it, --training.resume_from_checkpoint false to drop it, or another --name"
        )
    while checkpoints:
        checkpoint = checkpoints.pop()
        if _is_whole(checkpoint, arguments.save_only_model):
            print(f"continuing from {checkpoint}")
            return str(checkpoint)
        what = "the one before it is taken" if checkpoints else "and there is none before it"
        print(f"warning: {checkpoint} is damaged, {what}")
    if asked:
        raise InputError(f"training.resume_from_checkpoint: no complete checkpoint in {folder}")
    return None


def _is_whole(checkpoint: Path, only_model: bool) -> bool:
    """Whether a checkpoint has its files, and each has its full length: a kill in the middle of writing leaves a part.

    Args:
        checkpoint: Its folder.
        only_model: Whether it was saved without the optimizer.
    """
    if not only_model and not all(any(checkpoint.glob(name)) for name in ("optimizer*", "scheduler.pt", "rng_state*")):
        return False
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        for path in checkpoint.glob("*.safetensors"):
            with safe_open(path, "pt"):  # the header says how long the file must be
                pass
        for path in checkpoint.glob("*.pt*"):
            torch.load(path, map_location="cpu", weights_only=False, mmap=True)
    except (OSError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError):
        return False
    return any(checkpoint.glob("*.safetensors")) or any(checkpoint.glob("pytorch_model_fsdp*"))


def told(experiment: Experiment) -> dict:
    """The settings that a run's weights depend on, as text by their names."""
    settings = {"processes": os.environ.get("WORLD_SIZE", "1"), "evaluation.patience": experiment.evaluation.patience}
    for section in ("task", "text", "model", "pretraining", "finetuning"):
        settings |= {f"{section}.{key}": value for key, value in asdict(getattr(experiment, section)).items()}
    settings |= {f"training.{key}": value for key, value in experiment.training.items() if key not in WITHOUT_EFFECT}
    return {key: str(value) for key, value in settings.items()}


def refuse_strange_files(folder: Path) -> None:
    """A run writes into a folder of its own.

    Raises:
        InputError: The folder holds other things than a run's, among them models and checkpoints of other programs.
    """
    strange = [path.name for path in folder.iterdir() if not RUN_FILES.fullmatch(path.name)] if folder.is_dir() else []
    # What pretraining leaves there when it is killed is called last.
    for name, mark, left in (("model", "serializer.json", set()), ("checkpoints", ORIGIN, {"last"})):
        part = folder / name
        if part.is_dir() and not (part / mark).is_file():
            strange += [f"{name}/{path.name}" for path in sorted(part.iterdir()) if path.name not in left][:1]
    if strange or (folder.exists() and not folder.is_dir()):
        raise InputError(
            f"{folder} holds something else than a run ({(strange or ['a file'])[0]}); choose another --name or "
            f"evaluation.folder"
        )


def _save(experiment: Experiment, trainer: Trainer, best: Path, manifest: dict, facts: dict) -> None:
    """Put the model in its place, with the log; a report must not show the pretraining of an earlier run."""
    if not experiment.pretraining.max_steps:
        (experiment.run_folder / "pretraining_log.json").unlink(missing_ok=True)
    for folder in {experiment.run_folder, experiment.base_folder}:  # figures of the model that is replaced
        shutil.rmtree(folder / "predictions", ignore_errors=True)
        for name in ("metrics.json", "report.html"):
            (folder / name).unlink(missing_ok=True)
    with replacing(experiment.run_folder / "model") as folder:
        shutil.copytree(best, folder, dirs_exist_ok=True)
        trainer.model.config.save_pretrained(folder)  # an adapter is saved without the labels' names
        EventSerializer.from_pretrained(experiment.data_folder).save_pretrained(folder)
        task = {key: manifest[key] for key in TASK_FACTS} | {"task": asdict(experiment.task)}
        task["splits"] = {split: manifest["splits"][split] for split in SPLITS}
        (folder / TASK).write_text(json.dumps(task, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(best)
    log = facts | {"steps": trainer.state.global_step, "best_metric": trainer.state.best_metric}
    log |= {
        "device": str(trainer.args.device),
        "processes": trainer.args.world_size,
        "history": trainer.state.log_history,
    }
    for folder in {experiment.run_folder, experiment.base_folder}:  # the report of several seeds shows the last one
        (folder / "config.yaml").write_text(experiment.resolved, encoding="utf-8")
        (folder / "training_log.json").write_text(json.dumps(log, indent=1) + "\n", encoding="utf-8")
