"""Fine-tuning with transformers.Trainer."""

import json
import math
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import yaml
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    ProgressCallback,
    Trainer,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    get_scheduler,
    set_seed,
)
from transformers.trainer import TRAINING_ARGS_NAME

from data_prep import InputError
from data_prep.cutoffs import SPLITS
from data_prep.files import replacing, write_whole
from data_prep.prepared import column_array, read_split, split_texts
from data_prep.serializer import EventSerializer
from finetune.config import Experiment
from finetune.model.memory import TRAINING_REMEDY, enough_memory
from finetune.model.modeling import BudgetCallback, build_classifier, compile_layers, weights_hash
from finetune.model.objective import Objective, Scale, class_weights
from finetune.model.packing import batches_for
from finetune.model.tokenization import build_tokenizer, first_line, name_for_others
from finetune.model.tokens import CHUNK, tokens_of_split
from finetune.runs import PRETRAINED, SETTINGS, TASK, TRAINING_LOG, read_pretraining_log, read_task
from finetune.training.arguments import check_warmup, training_arguments
from finetune.training.batching import Collator, LengthGroupedTrainer, packs_on, prepared_manifest
from finetune.training.checkpoints import (
    alone,
    begin,
    checkpoint_to_resume,
    finish,
    made_by,
    refuse_not_finite,
    refuse_other_run,
    starts_anew,
    told,
    trained,
)
from finetune.training.rehearsal import rehearse
from finetune.training.teacher import taught

AFTER_PRETRAINING = ("peft", "freeze", "pooling")  # of the model section: what pretraining does not know
TASK_FACTS = ("name", "question", "label", "label_kind", "classes", "log", "text_columns", "content_hash")


def train(experiment: Experiment) -> list[Path]:
    """Fine-tune the classifier and write runs/NAME/model: weights, tokenizer and serializer.

    The checkpoint with the best validation metric is kept. Also writes config.yaml and training_log.json. With several
    seeds each has all of this in runs/NAME/seed-SEED. A run that was stopped continues where it was; of several seeds
    those that had finished are not trained again.

    Returns:
        The folder of the model, or of each seed's model.

    Raises:
        InputError: The data is not prepared, pretraining has not run, a setting does not fit, or the folder holds
            another run.
    """
    refuse_other_run(experiment)
    manifest = prepared_manifest(experiment)
    rehearse(experiment)
    runs = [(run, {"training": told(run), "content_hash": manifest["content_hash"]}) for run in experiment.runs()]
    finished = [made_by(_checkpoints(run)) == origin | {"finished": True} for run, origin in runs]
    if all(finished) or starts_anew(experiment.training["resume_from_checkpoint"]):
        finished = [False] * len(runs)
    for (run, origin), done in zip(runs, finished, strict=True):
        if not done:
            _train(run, manifest, origin)
    return [run.run_folder / "model" for run, _ in runs]


def _checkpoints(experiment: Experiment) -> Path:
    return experiment.run_folder / "checkpoints"


@enough_memory(TRAINING_REMEDY)
def _train(experiment: Experiment, manifest: dict, origin: dict) -> None:
    arguments = training_arguments(experiment, output_dir=str(_checkpoints(experiment)))
    resume = checkpoint_to_resume(arguments, origin)
    trainer, facts = build_trainer(experiment, arguments, manifest)
    trainable, total = (
        sum(p.numel() for p in trainer.model.parameters() if p.requires_grad or every) for every in (False, True)
    )
    trainer.accelerator.wait_for_everyone()
    with alone(experiment.run_folder, trainer.is_world_process_zero()):
        if trainer.is_world_process_zero():
            print(f"training {trainable:,} of {total:,} parameters on {len(trainer.train_dataset):,} examples")
            begin(_checkpoints(experiment), origin, resume)
        seconds = trained(trainer, resume, "training")
        best = Path(arguments.output_dir) / "best"
        trainer.save_model(str(best))  # on every process, as sharded weights are gathered
        if trainer.is_world_process_zero():
            refuse_not_finite(best)
            facts |= {"trainable_parameters": trainable, "total_parameters": total, "seconds": round(seconds, 1)}
            _save(experiment, trainer, best, manifest, facts | {"content_hash": manifest["content_hash"]})
            finish(_checkpoints(experiment), origin)
        trainer.accelerator.wait_for_everyone()


def build_trainer(
    experiment: Experiment, arguments: TrainingArguments, manifest: dict
) -> tuple[LengthGroupedTrainer, dict]:
    """The Trainer of a run, with model and tokenized data, and what the training log says of them."""
    objective = Objective.of(experiment.task.label, manifest["classes"])
    limits = {"train": experiment.finetuning.max_train_examples, "validation": experiment.finetuning.max_eval_examples}
    folder = experiment.data_folder
    labels = {split: column_array(read_split(folder, split, n, ["label"])["label"]) for split, n in limits.items()}
    best = arguments.metric_for_best_model
    if best in ("auroc", "average_precision") and objective.task == "binary" and len(set(labels["validation"])) < 2:
        raise InputError(
            f"all {len(labels['validation']):,} validation labels are {labels['validation'][0]}: no {best} tells the "
            f"best checkpoint; choose another validation cutoff, or training.metric_for_best_model log_loss"
        )
    weights = class_weights(experiment.finetuning.class_weights, objective, labels["train"])
    priors = objective.priors(labels["train"], weights)
    share = experiment.finetuning.teacher
    labels, scale = _learned(experiment, arguments, manifest, objective, labels)
    start = starting_point(experiment, manifest)
    set_seed(arguments.seed)
    _, texts = split_texts(folder, "train", limits["train"], CHUNK)
    tokenizer = build_tokenizer(start, texts, experiment.model.max_tokens)
    steps = arguments.max_steps
    if steps < 0:
        batch = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
        steps = math.ceil(arguments.num_train_epochs * math.ceil(len(labels["train"]) / batch))
        check_warmup(arguments, steps)
    batch = arguments.train_batch_size * arguments.world_size
    if arguments.dataloader_drop_last and batch > len(labels["train"]):
        raise InputError(
            f"training.dataloader_drop_last drops all {len(labels['train']):,} examples, as a batch has {batch:,}; set "
            f"it to false, or per_device_train_batch_size lower"
        )
    try:
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=arguments.learning_rate)
        more = {"scheduler_specific_kwargs": dict(arguments.lr_scheduler_kwargs or {})}
        get_scheduler(arguments.lr_scheduler_type, optimizer, arguments.get_warmup_steps(steps), steps, **more)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"training.lr_scheduler_type {arguments.lr_scheduler_type}: {first_line(error)}; see lr_scheduler_kwargs"
        ) from error
    model = build_classifier(experiment.model, objective, start, tokenizer, steps, priors)
    # Read when the model scores; to others it is an unknown entry that they leave alone.
    model.config.eventscribe = {
        "task": objective.task,
        "scale": asdict(scale) if scale else None,
        "pooling": experiment.model.pooling,
        "base": weights_hash(start) if experiment.model.peft else None,
    }
    packs = packs_on(model, arguments, experiment.model.pooling)
    if experiment.training["torch_compile"]:
        compile_layers(model)
    with arguments.main_process_first(local=False):
        tokens = {split: tokens_of_split(tokenizer, folder, split, limit) for split, limit in limits.items()}
    data = {split: tokens[split].labelled(labels[split]) for split in tokens}
    collator = Collator(batches_for(model, tokenizer), experiment.finetuning.event_dropout, arguments.seed)
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
        packs=packs,
        model=model,
        args=arguments,
        train_dataset=data["train"],
        eval_dataset=data["validation"].without_events(),
        processing_class=tokenizer,
        data_collator=collator,
        compute_loss_func=objective.loss(
            arguments.label_smoothing_factor, weights, share, experiment.finetuning.value_loss
        ),
        compute_metrics=validation_metrics,
        callbacks=callbacks,
    )
    show_progress(trainer, "fine-tune")
    return trainer, {
        "task": objective.task,
        "metric": arguments.metric_for_best_model,
        "class_weights": weights,
        "teacher": share,
    }


def _learned(
    experiment: Experiment,
    arguments: TrainingArguments,
    manifest: dict,
    objective: Objective,
    labels: dict[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], Scale | None]:
    """The labels as they are learned: values on their scale, those of training beside what the teacher says."""
    settings, said, scale = experiment.finetuning, None, None
    if settings.teacher:
        with arguments.main_process_first(local=False):
            limit = settings.max_train_examples
            said = taught(experiment.data_folder, manifest, objective, limit, settings.value_loss)
    if objective.task == "value":
        scale = Scale.fit(labels["train"], settings.log_scale)
        labels = {split: scale.learned(values) for split, values in labels.items()}
        said = None if said is None else scale.learned(said)
    if said is not None:
        labels = labels | {"train": objective.taught(labels["train"], said)}
    return labels, scale


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


def starting_point(experiment: Experiment, manifest: dict) -> str | Path | None:
    """Where the weights come from: this run's pretraining, model.name_or_path, or None (from scratch).

    Raises:
        InputError: Pretraining has not run, or ran on other data or with another model.
    """
    if experiment.model.name_or_path:
        refuse_later(Path(experiment.model.name_or_path), manifest)
    if not experiment.pretraining.max_steps:
        return experiment.model.name_or_path
    folder = experiment.base_folder / PRETRAINED
    if not folder.is_dir():
        raise InputError(
            f"{folder} is missing; run scripts/pretrain.py with the same --config first, or set "
            f"pretraining.max_steps to 0"
        )
    if read_pretraining_log(folder).get("origin") != pretraining_origin(experiment, manifest):
        raise InputError(
            f"{folder} was made from other data or with other settings of model or pretraining; "
            f"run scripts/pretrain.py with the same arguments first"
        )
    return folder


def refuse_later(start: Path, manifest: dict) -> None:
    """Weights that EventScribe made of later histories would tell a model of the time that it is tested on."""
    seen = [read_pretraining_log(start).get("last_cutoff") or ""]
    if (start / TASK).is_file():
        splits = read_task(start)["splits"]
        seen += [*splits["train"]["cutoffs"], *splits["validation"]["cutoffs"]]
    first = manifest["splits"]["validation"]["cutoffs"][0]
    if max(seen) > first:
        raise InputError(
            f"model.name_or_path: {start} has learned from histories up to {max(seen)}, and the first validation "
            f"cutoff is {first}; start from weights that are older"
        )


def pretraining_origin(experiment: Experiment, manifest: dict) -> dict:
    """What pretrained weights depend on."""
    model = {key: value for key, value in asdict(experiment.model).items() if key not in AFTER_PRETRAINING}
    return {"content_hash": manifest["content_hash"], "model": model, "pretraining": asdict(experiment.pretraining)}


def _save(experiment: Experiment, trainer: Trainer, best: Path, manifest: dict, facts: dict) -> None:
    """Put the model in its place, with the log."""
    for folder in {experiment.run_folder, experiment.base_folder}:  # figures of the model that is replaced
        shutil.rmtree(folder / "predictions", ignore_errors=True)
        for name in ("metrics.json", "report.html"):
            (folder / name).unlink(missing_ok=True)
    with replacing(experiment.run_folder / "model") as folder:
        shutil.copytree(best, folder, dirs_exist_ok=True)
        (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)  # a pickle, which nothing here reads
        name_for_others(folder)
        trainer.model.config.save_pretrained(folder)  # an adapter is saved without the labels' names
        EventSerializer.from_pretrained(experiment.data_folder).save_pretrained(folder)
        task = {key: manifest[key] for key in TASK_FACTS} | {"task": asdict(experiment.task)}
        task["splits"] = {split: manifest["splits"][split] for split in SPLITS}
        (folder / TASK).write_text(json.dumps(task, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(best)
    log = facts | {"steps": trainer.state.global_step, "best_metric": trainer.state.best_metric}
    log |= {
        "settings": told(experiment),
        "device": str(trainer.args.device),
        "processes": trainer.args.world_size,
        "history": trainer.state.log_history,
    }
    config = yaml.safe_load(experiment.resolved)
    config["training"].pop("resume_from_checkpoint", None)  # is of this call: kept, it would replace the run silently
    for folder in {experiment.run_folder, experiment.base_folder}:  # the report of several seeds shows the last one
        write_whole(folder / SETTINGS, yaml.safe_dump(config, sort_keys=False))
        write_whole(folder / TRAINING_LOG, json.dumps(log, indent=1) + "\n")
