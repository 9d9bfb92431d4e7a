"""Masked-language-model pretraining on the histories of all users, before fine-tuning."""

import json
import shutil
from pathlib import Path

from datasets import concatenate_datasets
from transformers import set_seed

from data_prep.examples import UNLABELLED
from data_prep.prepare import replacing
from finetune.batching import LengthGroupedTrainer, load_texts, prepared_manifest, tokenize
from finetune.config import Experiment
from finetune.masking import MaskingCollator
from finetune.modeling import build_masked_lm
from finetune.objective import mean_cross_entropy
from finetune.tokenization import build_tokenizer
from finetune.train import PRETRAINED, pretraining_origin, refuse_strange_files, show_progress, training_arguments


def pretrain(experiment: Experiment) -> Path | None:
    """Train the encoder to fill masked words or events, and write runs/NAME/pretrained.

    Only texts of training cutoffs are used, and no label: the training texts, and the histories of the users whom the
    task does not ask about. Returns None where pretraining.max_steps is 0.

    Source: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers", 2019, section 3.1, Task 1.
    """
    settings = experiment.pretraining
    if not settings.max_steps:
        print("pretraining.max_steps is 0: no pretraining")
        return None
    arguments = training_arguments(
        experiment,
        output_dir=str(experiment.run_folder / "checkpoints"),
        max_steps=settings.max_steps,
        learning_rate=settings.learning_rate,
        eval_strategy="no",
        save_strategy="no",
        load_best_model_at_end=False,
        metric_for_best_model=None,
    )
    refuse_strange_files(experiment.run_folder)
    manifest = prepared_manifest(experiment)
    limit = experiment.finetuning.max_train_examples
    texts = concatenate_datasets(
        [load_texts(experiment.data_folder, name, limit, columns=["text"]) for name in ("train", UNLABELLED)]
    )
    set_seed(arguments.seed)
    tokenizer = build_tokenizer(experiment.model.name_or_path, texts["text"], experiment.model.max_tokens)
    model = build_masked_lm(experiment.model, tokenizer)
    trainer = LengthGroupedTrainer(
        model=model,
        args=arguments,
        train_dataset=tokenize(texts, tokenizer, "train"),
        processing_class=tokenizer,
        data_collator=MaskingCollator(tokenizer, settings.mask, settings.mask_unit),
        compute_loss_func=mean_cross_entropy,
    )
    show_progress(trainer, "pretrain")
    seconds = trainer.train().metrics["train_runtime"]
    folder = experiment.run_folder / PRETRAINED
    last = Path(arguments.output_dir) / "last"
    trainer.save_model(str(last))  # on every process, as sharded weights are gathered
    if trainer.is_world_process_zero():
        with replacing(folder) as made:
            shutil.copytree(last, made, dirs_exist_ok=True)
        shutil.rmtree(last)
        log = {
            "origin": pretraining_origin(experiment, manifest),
            "examples": len(texts),
            "steps": trainer.state.global_step,
            "seconds": round(seconds, 1),
            "history": trainer.state.log_history,
        }
        (experiment.run_folder / "pretraining_log.json").write_text(json.dumps(log, indent=1) + "\n", encoding="utf-8")
    trainer.accelerator.wait_for_everyone()
    return folder
