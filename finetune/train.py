"""Fine-tuning with transformers.Trainer."""

import json
import shutil
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import (
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    EvalPrediction,
    ProgressCallback,
    Trainer,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.modeling_outputs import ModelOutput
from transformers.trainer_utils import get_last_checkpoint

from data_prep import InputError
from data_prep.prepare import replacing
from data_prep.serializer import EventSerializer
from finetune.batching import LengthGroupedTrainer, load_texts, prepared_manifest, tokenize
from finetune.config import Experiment
from finetune.metrics import METRICS, binary_metrics
from finetune.modeling import build_classifier
from finetune.tokenization import build_tokenizer, first_line

PRETRAINED = "pretrained"  # the folder in a run that scripts/pretrain.py writes


def train(experiment: Experiment) -> Path:
    """Fine-tune the classifier and write runs/NAME/model: weights, tokenizer and serializer.

    The checkpoint with the best validation AUROC is kept. Also writes config.yaml and training_log.json.

    Raises:
        InputError: The data is not prepared, pretraining has not run, or a setting does not fit.
    """
    arguments = training_arguments(experiment, output_dir=str(experiment.run_folder / "checkpoints"))
    resume = _checkpoint(arguments)
    manifest = prepared_manifest(experiment)
    texts = {split: load_texts(experiment.data_folder, split) for split in ("train", "validation")}
    start = starting_point(experiment, manifest)
    set_seed(arguments.seed)
    tokenizer = build_tokenizer(start, texts["train"]["text"], experiment.model.max_tokens)
    model = build_classifier(experiment, start, tokenizer)
    data = {split: tokenize(texts[split], tokenizer, split) for split in texts}
    callbacks = []
    if experiment.evaluation.patience and arguments.load_best_model_at_end:
        callbacks.append(EarlyStoppingCallback(experiment.evaluation.patience))
    trainer = LengthGroupedTrainer(
        model=model,
        args=arguments,
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8),
        compute_loss_func=partial(mean_cross_entropy, label_smoothing=arguments.label_smoothing_factor),
        compute_metrics=_validation_metrics,
        callbacks=callbacks,
    )
    show_progress(trainer, "fine-tune")
    trainable, total = (
        sum(p.numel() for p in model.parameters() if p.requires_grad or every) for every in (False, True)
    )
    if trainer.is_world_process_zero():
        print(f"training {trainable:,} of {total:,} parameters on {len(data['train']):,} examples")
        if not resume:
            shutil.rmtree(arguments.output_dir, ignore_errors=True)  # checkpoints of an earlier run
    trainer.train(resume_from_checkpoint=resume)
    best = Path(arguments.output_dir) / "best"
    trainer.save_model(str(best))  # on every process, as sharded weights are gathered
    if trainer.is_world_process_zero():
        parameters = {"trainable_parameters": trainable, "total_parameters": total}
        _save(experiment, trainer, best, parameters | {"content_hash": manifest["content_hash"]})
    trainer.accelerator.wait_for_everyone()
    return experiment.run_folder / "model"


def mean_cross_entropy(
    outputs: ModelOutput,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Cross-entropy, averaged over all labelled items of a step.

    The BERT classes ignore num_items_in_batch, the number of items in all accumulated batches of all processes, and
    would multiply loss and gradient by gradient_accumulation_steps and by the number of processes
    (https://github.com/huggingface/transformers/issues/47688).

    Args:
        outputs: With logits of shape (..., classes).
        labels: Class indices of shape (...); -100 is ignored.
        num_items_in_batch: What the Trainer counted; None, in evaluation, averages over this batch.
        label_smoothing: Share of the probability that is spread over all classes.
    """
    logits, labels = outputs["logits"].flatten(0, -2), labels.flatten()
    if num_items_in_batch is None:
        return cross_entropy(logits, labels, label_smoothing=label_smoothing)
    return cross_entropy(logits, labels, reduction="sum", label_smoothing=label_smoothing) / num_items_in_batch


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
        if "eval_auroc" in logs:
            self.training_bar.write(
                f"step {state.global_step}: validation AUROC {logs['eval_auroc']:.4f}, loss {logs['eval_loss']:.4f}"
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
    try:
        made = TrainingArguments(**(experiment.training | {"length_column_name": "length"} | overrides))
    except (ValueError, TypeError, ImportError, RuntimeError) as error:
        raise InputError(f"training: {first_line(error)}") from error
    if made.load_best_model_at_end:
        if made.eval_strategy == "no":
            raise InputError(
                "training.eval_strategy is no, but the best checkpoint is kept; set load_best_model_at_end to false"
            )
        if made.metric_for_best_model.removeprefix("eval_") not in (*METRICS, "loss"):
            asked = made.metric_for_best_model
            raise InputError(f"training.metric_for_best_model: '{asked}' is not one of {', '.join(METRICS)}, loss")
    for name, smallest in (("per_device_train_batch_size", 1), ("per_device_eval_batch_size", 1), ("learning_rate", 0)):
        if getattr(made, name) < smallest:
            raise InputError(f"training.{name} is {getattr(made, name)}; give {smallest} or more")
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
    folder = experiment.run_folder / PRETRAINED
    if not folder.is_dir():
        raise InputError(
            f"{folder} is missing; run scripts/pretrain.py with the same --config first, or set "
            f"pretraining.max_steps to 0"
        )
    log = json.loads((experiment.run_folder / "pretraining_log.json").read_text(encoding="utf-8"))
    if log["origin"] != pretraining_origin(experiment, manifest):
        raise InputError(
            f"{folder} was made from other data or with other settings of model or pretraining; "
            f"run scripts/pretrain.py with the same arguments first"
        )
    return folder


def pretraining_origin(experiment: Experiment, manifest: dict) -> dict:
    """What pretrained weights depend on."""
    model = {key: value for key, value in asdict(experiment.model).items() if key != "peft"}
    return {"content_hash": manifest["content_hash"], "model": model, "pretraining": asdict(experiment.pretraining)}


def _validation_metrics(prediction: EvalPrediction) -> dict[str, float]:
    logits = torch.from_numpy(np.asarray(prediction.predictions, dtype=np.float32))
    return binary_metrics(prediction.label_ids, torch.softmax(logits, dim=-1)[:, 1].numpy())


def _checkpoint(arguments: TrainingArguments) -> str | None:
    """The checkpoint that training.resume_from_checkpoint asks for."""
    asked = arguments.resume_from_checkpoint
    if not asked:
        return None
    found = asked
    if asked.lower() == "true":
        found = get_last_checkpoint(arguments.output_dir) if Path(arguments.output_dir).is_dir() else None
    if not found or not Path(found).is_dir():
        raise InputError(f"training.resume_from_checkpoint: no checkpoint in {found or arguments.output_dir}")
    return found


def _save(experiment: Experiment, trainer: Trainer, best: Path, facts: dict) -> None:
    """Put the model in its place, with the log; a report must not show the pretraining of an earlier run."""
    if not experiment.pretraining.max_steps:
        (experiment.run_folder / "pretraining_log.json").unlink(missing_ok=True)
    with replacing(experiment.run_folder / "model") as folder:
        shutil.copytree(best, folder, dirs_exist_ok=True)
        trainer.model.config.save_pretrained(folder)  # an adapter is saved without the labels' names
        EventSerializer.from_pretrained(experiment.data_folder).save_pretrained(folder)
    (experiment.run_folder / "config.yaml").write_text(experiment.resolved, encoding="utf-8")
    shutil.rmtree(best)
    log = facts | {"steps": trainer.state.global_step, "best_checkpoint_auroc": trainer.state.best_metric}
    log |= {
        "device": str(trainer.args.device),
        "processes": trainer.args.world_size,
        "history": trainer.state.log_history,
    }
    (experiment.run_folder / "training_log.json").write_text(json.dumps(log, indent=1) + "\n", encoding="utf-8")
