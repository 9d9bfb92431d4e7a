"""Masked-language-model pretraining on the histories of all users, before fine-tuning."""

import json
import shutil
from pathlib import Path

from transformers import TrainingArguments, set_seed

from data_prep import InputError
from data_prep.examples import UNLABELLED
from data_prep.files import replacing
from data_prep.prepared import prepared_for
from finetune.experiment.config import Experiment
from finetune.model.growing import mapped_tokenizer
from finetune.model.last_layer import shorten
from finetune.model.memory import TRAINING_REMEDY, enough_memory
from finetune.model.modeling import build_masked_lm, compile_layers
from finetune.model.objective import mean_cross_entropy
from finetune.model.packing import batches_for
from finetune.model.tokenization import build_tokenizer
from finetune.model.tokens import join, tokens_of_split
from finetune.runs import PRETRAINING, PRETRAINING_LOG, read_pretraining_log
from finetune.training.arguments import training_arguments
from finetune.training.checkpoints import (
    alone,
    begin,
    checkpoint_to_resume,
    refuse_not_finite,
    refuse_other_run,
    starts_anew,
    trained,
)
from finetune.training.masking import MaskingCollator
from finetune.training.privacy_rules import refuse_unprotected
from finetune.training.rehearsal import rehearse
from finetune.training.start import pretraining_origin, refuse_later, same_pretraining, word_texts
from finetune.training.trainer import LengthGroupedTrainer, packs_on, show_progress


@enough_memory(TRAINING_REMEDY)
def pretrain(experiment: Experiment) -> Path | None:
    """Train the encoder to fill masked words or events, and write runs/NAME/pretrained.

    Only texts of training cutoffs are used, and no label: the training texts, and the histories of the users outside
    of the population. Where it was stopped it continues from its newest complete checkpoint (one every
    training.save_steps steps), and where it had finished with the same settings and data nothing is done.

    Returns:
        The folder; None where pretraining.max_steps is 0.

    Raises:
        InputError: The data is not prepared, a setting does not fit, or the folder holds another run.

    Source: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers", 2019, section 3.1, Task 1.
    """
    if not experiment.pretraining.max_steps:
        print("pretraining.max_steps is 0: no pretraining")
        return None
    checkpoints = experiment.base_folder / PRETRAINING
    arguments = pretraining_arguments(experiment, checkpoints)
    refuse_unprotected(experiment)
    refuse_other_run(experiment)
    manifest = prepared_for(experiment.data_folder, experiment.task, experiment.text)
    rehearse(experiment)  # of what comes after it
    if experiment.model.name_or_path:
        refuse_later(Path(experiment.model.name_or_path), manifest)
    folder = experiment.pretrained_folder
    origin = pretraining_origin(experiment, manifest)
    anew = starts_anew(arguments.resume_from_checkpoint)
    log = read_pretraining_log(folder)
    if same_pretraining(log, origin) and not anew:
        print(f"{folder} is there already, made with the same settings from the same data")
        return folder
    arguments.resume_from_checkpoint = "false" if anew else None  # a folder that it names is one of fine-tuning
    if log and not anew:
        print(f"{folder} was made with other settings or from other data, and is replaced")
    resume = checkpoint_to_resume(arguments, origin)
    trainer = _build_trainer(experiment, arguments)
    trainer.accelerator.wait_for_everyone()
    with alone(experiment.base_folder, trainer.is_world_process_zero()):
        if trainer.is_world_process_zero():
            begin(checkpoints, origin, resume)
        seconds = trained(trainer, resume, "pretraining")
        last = checkpoints / "last"
        trainer.save_model(str(last))  # on every process, as sharded weights are gathered
        if trainer.is_world_process_zero():
            refuse_not_finite(last)
            last_cutoff = manifest["splits"]["train"]["cutoffs"][-1]
            _save(trainer, last, folder, {"last_cutoff": last_cutoff, "made_by": origin}, seconds)
            shutil.rmtree(checkpoints)
        trainer.accelerator.wait_for_everyone()
    return folder


def pretraining_arguments(experiment: Experiment, checkpoints: Path) -> TrainingArguments:
    """Those of fine-tuning, but for what a masked-language model has no use for.

    What it leaves or replaces stands in `finetune.experiment.effects` as a setting that changes fine-tuning alone.
    """
    return training_arguments(
        experiment,
        output_dir=str(checkpoints),
        max_steps=experiment.pretraining.max_steps,
        learning_rate=experiment.pretraining.learning_rate,
        eval_strategy="no",
        save_strategy="no" if experiment.training["save_strategy"] == "no" else "steps",
        load_best_model_at_end=False,
        metric_for_best_model=None,
        run_name=experiment.training["run_name"] or f"{experiment.name}-pretraining",  # beside fine-tuning in a tracker
    )


def _build_trainer(experiment: Experiment, arguments: TrainingArguments) -> LengthGroupedTrainer:
    """With the model and the tokenized texts."""
    settings, limit = experiment.pretraining, experiment.finetuning.max_train_examples
    splits = ("train", UNLABELLED)
    texts = word_texts(experiment, splits)
    set_seed(arguments.seed)
    start, most = experiment.model.name_or_path, experiment.model.max_tokens
    tokenizer, words = mapped_tokenizer(start, texts, most) if start else (build_tokenizer(None, texts, most), [])
    if tokenizer.mask_token is None:
        raise InputError(f"the tokenizer of '{start}' has no mask token", setting="model.name_or_path")
    model = build_masked_lm(experiment.model, tokenizer, words)
    short = shorten(model, settings.mask)  # before the layers are compiled
    packs = packs_on(model, arguments, None)
    if experiment.training["torch_compile"]:
        compile_layers(model)
    with arguments.main_process_first(local=False):
        tokens = join([tokens_of_split(tokenizer, experiment.data_folder, split, limit) for split in splits])
    make_batch = batches_for(model, tokenizer)
    trainer = LengthGroupedTrainer(
        packs=packs,
        model=model,
        args=arguments,
        train_dataset=tokens,
        processing_class=tokenizer,
        data_collator=MaskingCollator(tokenizer, settings.mask, settings.mask_unit, make_batch, short),
        compute_loss_func=mean_cross_entropy,
    )
    show_progress(trainer, "pretrain")
    return trainer


def _save(trainer: LengthGroupedTrainer, last: Path, folder: Path, facts: dict, seconds: float) -> None:
    """Put the last weights in their place, with the log."""
    log = facts | {
        "examples": len(trainer.train_dataset),
        "steps": trainer.state.global_step,
        "seconds": round(seconds, 1),
        "history": trainer.state.log_history,
    }
    with replacing(folder) as made:
        shutil.copytree(last, made, dirs_exist_ok=True)
        (made / PRETRAINING_LOG).write_text(json.dumps(log, indent=1) + "\n", encoding="utf-8")
