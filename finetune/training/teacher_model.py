"""A finished model as the teacher: a large model's knowledge in a small one that answers faster.

Hinton et al., Distilling the Knowledge in a Neural Network, 2015. Unlike `finetune.training.teacher` it has seen the
labels of the rows that it teaches; it has seen no later ones, as it is of the same prepared data.
"""

from pathlib import Path

import numpy as np

from data_prep import InputError
from data_prep.facts import Manifest
from data_prep.prepared import Limit
from finetune.experiment.config import FinetuningConfig
from finetune.model.inference import for_scoring, score_texts
from finetune.model.loading import load_classifier
from finetune.model.tokens import tokens_of_split
from finetune.runs import read_task

SETTING = "finetuning.teacher_model"


def refuse_teacher(settings: FinetuningConfig, manifest: Manifest) -> None:
    """InputError where finetuning.teacher_model cannot teach on this data."""
    if settings.teacher_model is None:
        return
    if not settings.teacher:
        raise InputError(f"{SETTING} without finetuning.teacher", "say its share, such as 0.7", setting=SETTING)
    if settings.labelled_users is not None:
        raise InputError(
            f"{SETTING} has seen labels of more users than finetuning.labelled_users", "drop one", setting=SETTING
        )
    if read_task(Path(settings.teacher_model))["content_hash"] != manifest["content_hash"]:
        raise InputError(
            f"{SETTING}: {settings.teacher_model} was trained on other data, and may have seen what comes later here",
            "train both on the same data/NAME, by data.folder and name, with other settings of model",
            setting=SETTING,
        )


def taught_by_model(model: Path, data: Path, limit: Limit) -> np.ndarray:
    """What a model says of the training rows, uncalibrated, as `Objective.scores` has it; values in their own unit.

    Args:
        model: Its folder.
        data: The prepared data, which it was trained on, too.
        limit: See `data_prep.prepared.read_split`; of training.
    """
    classifier, tokenizer = load_classifier(model)
    tokens = tokens_of_split(tokenizer, data, "train", limit)
    return score_texts(for_scoring(classifier), tokenizer, tokens, name="teacher")
