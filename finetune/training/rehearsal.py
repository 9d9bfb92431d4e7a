"""The classifier of an experiment, built once before any work: what could not be trained is refused at once."""

import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from data_prep import InputError
from data_prep.labels import class_names
from finetune.experiment.config import Experiment, ModelConfig
from finetune.model.memory import TRAINING_REMEDY, enough_memory, refuse_too_large
from finetune.model.modeling import build_classifier, build_masked_lm
from finetune.model.objective import Objective
from finetune.model.tokenization import build_tokenizer, first_line, padded


def rehearse(experiment: Experiment) -> None:
    """Build the classifier and let it read a text of model.max_tokens beside a short one.

    New weights with a vocabulary of two words stand for those of a pretraining. A BERT from scratch without peft is
    only measured, as nothing else can fail.

    Raises:
        InputError: The model does not fit into memory, is no encoder that reads texts, or peft refuses its settings.
    """
    model, label = experiment.model, experiment.task.label
    objective = Objective.of(label, class_names(label, [f"value {i}" for i in range(label.top or 1)]))
    start: str | Path | None = model.name_or_path
    with tempfile.TemporaryDirectory() as folder, enough_memory(TRAINING_REMEDY):
        tokenizer = build_tokenizer(start, ["a text"], model.max_tokens)
        if start is None:
            refuse_too_large(_weights(model, tokenizer), experiment)
            if not model.peft and model.freeze is None:
                return
            if experiment.pretraining.max_steps:
                start = Path(folder)
                build_masked_lm(model, tokenizer).save_pretrained(start)
        try:
            _read(experiment, objective, start, tokenizer)
        except InputError:
            raise
        except Exception as error:
            if isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
                raise
            said = f"{type(error).__name__}: {first_line(error)}"
            if model.peft:
                raise InputError(
                    f"no text could be read with {model.peft} ({said})",
                    "see the method's settings in peft",
                    setting="model.peft",
                ) from error
            raise InputError(
                f"'{start}' could not read a text ({said})",
                "take an encoder like BERT, RoBERTa, "
                "DistilBERT, ELECTRA, ModernBERT or DeBERTa-v2, or another model.max_tokens",
                setting="model.name_or_path",
            ) from error


def _weights(model: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    """How many weights a BERT from scratch has, by those of one and of two layers, of which nothing is stored.

    Raises:
        InputError: They are too many to be counted.
    """
    counts = []
    for layers in (1, 2):
        sizes = replace(model.from_scratch, layers=layers)
        try:
            with torch.device("meta"):
                built = build_masked_lm(replace(model, from_scratch=sizes), tokenizer)
        except RuntimeError as error:
            raise InputError(
                "model.from_scratch and model.max_tokens ask for more weights than torch can count",
                "lower hidden_size or max_tokens",
                setting="model.from_scratch",
            ) from error
        counts.append(sum(weight.numel() for weight in built.parameters()))
    one, two = counts
    return one + (two - one) * (model.from_scratch.layers - 1)


def _read(
    experiment: Experiment, objective: Objective, start: str | Path | None, tokenizer: PreTrainedTokenizerBase
) -> None:
    steps = max(experiment.training["max_steps"], 100)
    classifier = build_classifier(experiment.model, objective, start, tokenizer, steps).eval()
    training = experiment.training
    setting = next((name for name in ("gradient_checkpointing", "activation_checkpointing") if training[name]), None)
    if setting and not classifier.supports_gradient_checkpointing:
        raise InputError(
            f"a {classifier.config.model_type} model cannot do it", "leave it out", setting=f"training.{setting}"
        )
    room = tokenizer.model_max_length
    if room < 8:
        raise InputError(
            f"its virtual tokens leave {max(room, 0)} tokens for a text",
            "give fewer, or a longer model.max_tokens",
            setting="model.peft",
        )
    texts = ["a text", "a text " * room]
    batch = padded(tokenizer, tokenizer(texts, truncation=True, max_length=room)["input_ids"])
    with torch.inference_mode():
        classifier(**batch)
