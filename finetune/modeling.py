"""Load or build the classifier, and attach LoRA or another PEFT method."""

from pathlib import Path

import peft
import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from data_prep import InputError
from data_prep.task import label_name
from finetune.config import Experiment, ModelConfig
from finetune.tokenization import first_line


def build_classifier(
    experiment: Experiment, start: str | Path | None, tokenizer: PreTrainedTokenizerBase
) -> torch.nn.Module:
    """A sequence classifier with two classes.

    Args:
        experiment: Its model section, and the label's name for id2label.
        start: Folder or hub name of the weights to start from; None builds new ones.
        tokenizer: Gives the vocabulary's size and the special tokens of a new model.
    """
    name = label_name(experiment.task.label)
    labels = {
        "id2label": {0: f"no_{name}", 1: name},
        "label2id": {f"no_{name}": 0, name: 1},
        "num_labels": 2,
    }
    if start is None:
        if experiment.model.peft:
            raise InputError(
                "model.peft adapts trained weights, and a model from scratch has none; set model.name_or_path or "
                "pretraining.max_steps"
            )
        return BertForSequenceClassification(_bert_config(experiment.model, tokenizer, **labels))
    model, new = _load(AutoModelForSequenceClassification, start, attention_probs_dropout_prob=0.0, **labels)
    _fit_length(model, tokenizer)
    return _attach_peft(model, experiment.model.peft, new) if experiment.model.peft else model


def build_masked_lm(model: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The same encoder with a masked-language-model head."""
    if model.name_or_path is None:
        return BertForMaskedLM(_bert_config(model, tokenizer))
    masked_lm, _ = _load(AutoModelForMaskedLM, model.name_or_path)
    _fit_length(masked_lm, tokenizer)
    return masked_lm


def _bert_config(model: ModelConfig, tokenizer: PreTrainedTokenizerBase, **labels: object) -> BertConfig:
    sizes = model.from_scratch
    return BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=sizes.hidden_size,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        intermediate_size=4 * sizes.hidden_size,
        max_position_embeddings=model.max_tokens,
        hidden_dropout_prob=sizes.dropout,
        attention_probs_dropout_prob=0.0,
        pad_token_id=tokenizer.pad_token_id,
        **labels,
    )


def _load(kind: type, start: str | Path, **settings: object) -> tuple[PreTrainedModel, set[str]]:
    """A model, and the names of its modules that the checkpoint lacks and that start from random weights."""
    try:
        # float32: mixed precision training keeps its master weights in it, and a checkpoint may carry another type.
        model, info = kind.from_pretrained(start, dtype=torch.float32, output_loading_info=True, **settings)
        return model, {key.rpartition(".")[0] for key in info["missing_keys"]}
    except (OSError, ValueError) as error:
        raise InputError(
            f"model.name_or_path: '{start}' could not be loaded ({first_line(error)}); "
            f"check the name, or the network and the hub's login"
        ) from error


def _fit_length(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Texts are cut at the model's own length where it takes fewer tokens than model.max_tokens."""
    positions = getattr(model.config, "max_position_embeddings", None) or tokenizer.model_max_length
    if model.config.model_type in ("roberta", "xlm-roberta", "camembert"):
        positions -= model.config.pad_token_id + 1  # positions count from there
    tokenizer.model_max_length = min(tokenizer.model_max_length, positions)


def _attach_peft(model: PreTrainedModel, settings: dict, new: set[str]) -> peft.PeftModel:
    """The model with an adapter; modules with new weights (the head, often the pooler) are trained and saved with it,
    or they would be drawn anew whenever the adapter is loaded."""
    settings = dict(settings)
    method = str(settings.pop("method", "")).upper()
    methods = {str(kind.value): config for kind, config in peft.PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    if method not in methods:
        raise InputError(f"model.peft.method: '{method.lower()}' is not one of {', '.join(sorted(methods)).lower()}")
    try:
        config = methods[method](task_type=peft.TaskType.SEQ_CLS, **{"modules_to_save": sorted(new)} | settings)
        return peft.get_peft_model(model, config)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"model.peft: {first_line(error)}; see the settings of {methods[method].__name__} in peft"
        ) from error
