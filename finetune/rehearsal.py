"""A model built once before any work, and one text sent through it: what cannot be trained is refused at once."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from data_prep import InputError
from data_prep.task import class_names
from finetune.modeling import build_classifier, build_masked_lm
from finetune.objective import Objective
from finetune.sections import Experiment
from finetune.tokenization import build_tokenizer, encode, first_line, padded

BYTES = 4  # of a weight in float32; AdamW holds its gradient and two averages beside it
TRAINED = 4 * BYTES


def rehearse(experiment: Experiment) -> None:
    """Build the experiment's classifier and let it read a text as long as model.max_tokens.

    In place of pretrained weights that are not there yet, it takes new ones with a vocabulary of a few words.

    Raises:
        InputError: The model does not fit into memory, or is no encoder that reads texts, or peft refuses its settings.
    """
    model = experiment.model
    label = experiment.task.label
    objective = Objective.of(label, class_names(label, [f"value {i}" for i in range(label.top or 1)]))
    with tempfile.TemporaryDirectory() as folder, enough_memory("take a smaller model"):
        tokenizer = build_tokenizer(model.name_or_path, ["a text"], model.max_tokens)
        if model.name_or_path is None:
            with torch.device("meta"):  # the sizes alone
                encoder = build_masked_lm(model, tokenizer)
            _refuse_too_large(encoder, experiment)
            if not model.peft and model.freeze is None:
                return
        start: str | Path | None = model.name_or_path
        if experiment.pretraining.max_steps and model.name_or_path is None:
            start = Path(folder)
            build_masked_lm(model, tokenizer).save_pretrained(start)
        _read_a_text(experiment, objective, start, tokenizer)
