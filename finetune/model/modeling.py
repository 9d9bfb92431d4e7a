"""Load or build the classifier, freeze parts of it, and attach LoRA or another PEFT method."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import peft
import torch
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    ModernBertConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from data_prep import InputError
from data_prep.files import files_hash
from finetune.experiment.config import ModelConfig
from finetune.model.first_token import hear_all
from finetune.model.growing import grow_words
from finetune.model.last_layer import encoder_layers
from finetune.model.objective import Objective
from finetune.model.packing import ATTENTION_DROPOUT, base_model
from finetune.model.pooling import pool
from finetune.model.safety import refuse_loaders, refuse_shards
from finetune.model.tokenization import first_line

# Methods that want several tasks or other adapters, look for a decoder, or cannot save the head.
NOT_FOR_CLASSIFIERS = ("POLY", "XLORA", "ADAPTION_PROMPT", "TRAINABLE_TOKENS")


def build_classifier(
    settings: ModelConfig,
    objective: Objective,
    start: str | Path | None,
    tokenizer: PreTrainedTokenizerBase,
    steps: int,
    priors: np.ndarray | None = None,
    words: Sequence[str] = (),
) -> PreTrainedModel:
    """A sequence classifier with the objective's outputs.

    Args:
        settings: The model section.
        objective: Gives the number of outputs and their names.
        start: Folder or hub name of the weights to start from; None builds new ones.
        tokenizer: Gives the vocabulary's size and the special tokens of a new model.
        steps: Of the training, for the PEFT methods that plan by them.
        priors: What a new head says of every text before it is trained, of shape (outputs,); None says nothing. A rare
            class would else take many steps to be called rare.
        words: Those of the tokenizer that the start lacks, see `finetune.model.growing.mapped_tokenizer`.

    Raises:
        InputError: The checkpoint is no encoder or does not fit, or a setting that peft refuses.
    """
    if start is None:
        return _new_classifier(settings, objective, tokenizer, priors)
    if settings.freeze is not None and settings.peft:
        raise InputError(
            "model.freeze does nothing beside model.peft, which freezes all but adapter and head",
            "drop it",
            setting="model.freeze",
        )
    config, trained_head = _classifier_config(settings, objective, start)
    model, new = _load(AutoModelForSequenceClassification, start, config)
    _fit(model, tokenizer, start, words)
    if not trained_head:
        _start_at(model, priors)
    pool(model, settings.pooling)
    if settings.freeze is not None:
        _freeze(model, settings.freeze, new)
    if not settings.peft:
        if settings.name_or_path is None and settings.pooling == "cls" and settings.freeze is None:
            hear_all(model, tokenizer)  # the weights come from an own pretraining, and all of them are trained
        return model
    adapted = _attach_peft(model, settings.peft, new, steps)
    config = adapted.active_peft_config
    if config.is_prompt_learning:  # its tokens stand before the text, and take positions also as a prefix of keys
        assert isinstance(config, peft.PromptLearningConfig)
        room = _positions(model, tokenizer) - config.num_virtual_tokens
        tokenizer.model_max_length = min(tokenizer.model_max_length, room)
    return cast(PreTrainedModel, adapted)  # it acts as its base


def _new_classifier(
    settings: ModelConfig, objective: Objective, tokenizer: PreTrainedTokenizerBase, priors: np.ndarray | None
) -> PreTrainedModel:
    if settings.peft or settings.freeze is not None:
        what = "peft adapts" if settings.peft else "freeze keeps"
        raise InputError(
            f"model.{what} trained weights, and a model from scratch has none",
            "set model.name_or_path or pretraining.max_steps",
            setting=f"model.{what}",
        )
    new = AutoModelForSequenceClassification.from_config(_new_config(settings, tokenizer, **objective.labels))
    _start_at(new, priors)
    pool(new, settings.pooling)
    return new


def _classifier_config(settings: ModelConfig, objective: Objective, start: str | Path) -> tuple[PreTrainedConfig, bool]:
    """The config of trained weights with the objective's labels, and whether they have a trained head."""
    config = _encoder_config(start)
    trained_head = any("ForSequenceClassification" in name for name in config.architectures or [])
    if trained_head and config.num_labels != len(objective.classes):
        raise InputError(
            f"'{start}' has a head for {config.num_labels} labels, and the task has "
            f"{len(objective.classes)} ({', '.join(objective.classes[:5])})",
            "start from a checkpoint without a head",
            setting="model.name_or_path",
        )
    told = list((config.id2label or {}).values())
    if trained_head and told != list(objective.classes) and not all(name.startswith("LABEL_") for name in told):
        now = ", ".join(objective.classes)
        print(f"the head of '{start}' was trained to tell {', '.join(told)}, and goes on as {now}")
    for name, value in objective.labels.items():
        if name != "num_labels":  # which id2label gives
            setattr(config, name, value)
    for name in ATTENTION_DROPOUT:
        if hasattr(config, name):
            setattr(config, name, 0.0)
    if hasattr(config, "classifier_pooling"):
        config.classifier_pooling = settings.pooling
    return config, trained_head


def _start_at(model: PreTrainedModel, priors: np.ndarray | None) -> None:
    """Give the last layer of a new head these biases."""
    if priors is None:
        return
    outputs = [
        part
        for name, part in model.named_modules()
        if isinstance(part, torch.nn.Linear) and not name.startswith(f"{model.base_model_prefix}.")
    ]
    with torch.no_grad():
        outputs[-1].bias.copy_(torch.from_numpy(priors))


def weights_hash(folder: str | Path) -> str | None:
    """Of the weights in a folder, None where it is a name of the hub: an adapter fits the weights it was trained on."""
    if not Path(folder).is_dir():
        return None
    return files_hash(Path(folder).glob("*.safetensors"))


def build_masked_lm(
    model: ModelConfig, tokenizer: PreTrainedTokenizerBase, words: Sequence[str] = ()
) -> PreTrainedModel:
    """The same encoder with a masked-language-model head."""
    if model.name_or_path is None:
        return AutoModelForMaskedLM.from_config(_new_config(model, tokenizer))
    masked_lm, _ = _load(AutoModelForMaskedLM, model.name_or_path, _encoder_config(model.name_or_path))
    _fit(masked_lm, tokenizer, model.name_or_path, words)
    return masked_lm


def _new_config(model: ModelConfig, tokenizer: PreTrainedTokenizerBase, **labels: object) -> PreTrainedConfig:
    """Of a model that is built from scratch."""
    sizes = model.from_scratch
    common = {
        "vocab_size": len(tokenizer),
        "hidden_size": sizes.hidden_size,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "max_position_embeddings": model.max_tokens,
        "pad_token_id": tokenizer.pad_token_id,
        **labels,
    }
    if sizes.architecture == "bert":
        return BertConfig(
            **common,
            intermediate_size=4 * sizes.hidden_size,
            hidden_dropout_prob=sizes.dropout,
            attention_probs_dropout_prob=0.0,
        )
    return ModernBertConfig(
        **common,
        intermediate_size=2 * sizes.hidden_size,  # its gate doubles it
        # Histories are short enough to be read whole.
        global_attn_every_n_layers=1,  # pyright: ignore[reportCallIssue] - transformers takes it from its **kwargs
        embedding_dropout=sizes.dropout,
        mlp_dropout=sizes.dropout,
        classifier_dropout=sizes.dropout,
        classifier_pooling=model.pooling,
        bos_token_id=tokenizer.cls_token_id,
        cls_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        sep_token_id=tokenizer.sep_token_id,
    )


def _encoder_config(start: str | Path) -> PreTrainedConfig:
    """The checkpoint's config; InputError where it is no encoder like BERT, or its weights lie elsewhere."""
    try:
        refuse_shards(Path(start))
    except InputError as error:
        raise error.within("model.name_or_path") from None
    try:
        config = AutoConfig.from_pretrained(start, trust_remote_code=False)
    except Exception as error:  # of a damaged file transformers raises what it stumbles over
        raise _not_loaded(start, error) from error
    named = config.architectures or []
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise _not_loaded(start, ValueError("architectures in its config.json are no names"))
    refuse_loaders(start, config)
    if type(config) not in MODEL_FOR_MASKED_LM_MAPPING or config.is_encoder_decoder:
        raise InputError(
            f"'{start}' is a {config.model_type} model and no encoder",
            "take one like BERT, RoBERTa, DistilBERT, ELECTRA, ModernBERT or DeBERTa-v2",
            setting="model.name_or_path",
        )
    return config


def _load(kind: type, start: str | Path, config: PreTrainedConfig) -> tuple[PreTrainedModel, set[str]]:
    """A model, and the names of its modules that the checkpoint lacks and that start from random weights."""
    try:
        # float32: mixed precision training keeps its master weights in it, and a checkpoint may carry another type.
        model, info = kind.from_pretrained(
            start,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            trust_remote_code=False,
            use_safetensors=True,  # a pickle could run code
        )
        return model, {key.rpartition(".")[0] for key in info["missing_keys"]}
    except MemoryError:
        raise
    except Exception as error:
        raise _not_loaded(start, error) from error


def _not_loaded(start: str | Path, error: Exception) -> InputError:
    if (Path(start) / "adapter_config.json").is_file():
        return InputError(
            f"'{start}' is an adapter", "give its base, or weights it was merged into", setting="model.name_or_path"
        )
    return InputError(
        f"'{start}' could not be loaded ({first_line(error)})",
        "check the name, or the network and the hub's login",
        setting="model.name_or_path",
    )


def _fit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, start: str | Path, words: Sequence[str]) -> None:
    """Give the new words embeddings; texts are cut at the model's own length where it takes fewer tokens than
    model.max_tokens.

    Raises:
        InputError: The tokenizer has words that the model does not know.
    """
    known = cast(int, model.get_input_embeddings().num_embeddings)
    needed = max(tokenizer.get_vocab().values()) + 1 - len(words)  # which are the last ones
    if needed > known:
        raise InputError(
            f"the tokenizer of '{start}' has {needed:,} words and the model {known:,}",
            "take the tokenizer that the model was trained with",
            setting="model.name_or_path",
        )
    grow_words(model, tokenizer, list(words))
    tokenizer.model_max_length = min(tokenizer.model_max_length, _positions(model, tokenizer))


def _positions(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """How many tokens the model takes."""
    positions = getattr(model.config, "max_position_embeddings", None) or tokenizer.model_max_length
    embeddings = getattr(getattr(model, model.base_model_prefix), "embeddings", None)
    padding = getattr(getattr(embeddings, "position_embeddings", None), "padding_idx", None)
    if padding is not None:  # RoBERTa and its like count positions from there
        positions -= padding + 1
    return positions


def compile_layers(model: torch.nn.Module) -> None:
    """Let torch.compile fuse what one layer of the encoder does: compiled once for all of them, in seconds.

    The names of the weights stay; a model that shares its layers stays as it is.
    """
    for layer in encoder_layers(base_model(model)) or []:
        layer.compile(dynamic=True)


def _freeze(model: PreTrainedModel, what: str | int, new: set[str]) -> None:
    """Keep the embeddings, the embeddings and the first layers, or the whole encoder as they are; never new weights."""
    encoder, layers = getattr(model, model.base_model_prefix), encoder_layers(model)
    if layers is None:
        raise InputError(
            f"a {model.config.model_type} model shares its layers", "leave freeze out", setting="model.freeze"
        )
    if isinstance(what, int) and what > len(layers):
        raise InputError(f"model.freeze is {what}, and the model has {len(layers)} layers", setting="model.freeze")
    kept = [encoder] if what == "encoder" else [encoder.embeddings, *layers[: what if isinstance(what, int) else 0]]
    for part in kept:
        part.requires_grad_(False)
    for name in new:
        model.get_submodule(name).requires_grad_(True)


def _attach_peft(model: PreTrainedModel, settings: dict, new: set[str], steps: int) -> peft.PeftModel:
    """The model with an adapter; the head and modules with new weights (often the pooler) are trained and saved with
    it, or they would be drawn anew whenever the adapter is loaded."""
    settings = dict(settings)
    method = str(settings.pop("method", "")).upper()
    methods = {str(kind.value): config for kind, config in peft.PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    for name in NOT_FOR_CLASSIFIERS:
        methods.pop(name, None)
    if method not in methods:
        raise InputError(
            f"'{method.lower()}' is not one of {', '.join(sorted(methods)).lower()}", setting="model.peft.method"
        )
    if settings.get("inference_mode"):
        raise InputError(
            "model.peft.inference_mode would train nothing", "leave it out", setting="model.peft.inference_mode"
        )
    for name, value in settings.items():
        if name.endswith("dropout") and isinstance(value, int | float) and not 0 <= value < 1:
            raise InputError(
                f"model.peft.{name} is {value:g}", "give a number from 0 to below 1", setting=f"model.peft.{name}"
            )
    saved = settings.get("modules_to_save") or []
    if not isinstance(saved, list) or not all(isinstance(name, str) for name in saved):
        raise InputError(
            f"model.peft.modules_to_save is {saved!r}",
            "give a list of names, such as [embeddings]",
            setting="model.peft.modules_to_save",
        )
    modules = [f".{name}" for name, _ in model.named_modules()]
    for name in saved:
        if not any(module.endswith(f".{name}") for module in modules):
            raise InputError(f"the model has no module '{name}'", "leave it out", setting="model.peft.modules_to_save")
    head = [name for name, part in model.named_children() if name != model.base_model_prefix and [*part.parameters()]]
    # Not what is within a module that is asked for: peft would wrap it twice.
    needed = {name for name in (*head, *new) if not any(f".{whole}." in f".{name}." for whole in saved)}
    settings["modules_to_save"] = sorted({*saved, *needed})
    if method == "ADALORA":
        settings = {"total_step": steps, "tinit": steps // 5, "tfinal": steps // 2} | settings
    try:
        config = methods[method](task_type=peft.TaskType.SEQ_CLS, **settings)
        return peft.get_peft_model(model, config)
    except (TypeError, ValueError, AttributeError) as error:  # the last where a method looks for a decoder's layers
        raise InputError(
            f"{first_line(error)}", f"see the settings of {methods[method].__name__} in peft", setting="model.peft"
        ) from error


class BudgetCallback(TrainerCallback):
    """Moves AdaLoRA's ranks to where they matter, after each step, which the Trainer leaves to its user."""

    def on_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: peft.PeftModel,
        **more: object,
    ) -> None:
        """Before the gradients are deleted, as the method needs them."""
        cast(peft.AdaLoraModel, model.base_model).update_and_allocate(state.global_step + 1)
