"""What a classifier's head reads of each text: the state of its first token, or the mean of all."""

from collections.abc import Mapping

import torch
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from finetune.model.last_layer import shorten


def pool(model: PreTrainedModel, how: str) -> None:
    """Let the head read this state of each text, of padded and of packed batches.

    The first token's state is what heads read; the last layer computes no other one where `shorten` knows the encoder.
    The mean is put in the first place, before the pooler, or at the encoder's end where there is no pooler. ModernBERT
    takes it by itself.

    Args:
        model: A sequence classifier.
        how: cls or mean.
    """
    if how == "cls":
        shorten(model, 0.0)
    elif not hasattr(model.config, "classifier_pooling"):
        _pool_mean(model)


def _pool_mean(model: PreTrainedModel) -> None:
    encoder, given = getattr(model, model.base_model_prefix), {}

    def remember(part: torch.nn.Module, values: tuple, named: dict) -> None:
        given["mask"] = named.get("attention_mask", values[1] if len(values) > 1 else None)
        given["starts"] = named.get("cu_seq_lens_q")

    def pooled(states: torch.Tensor) -> torch.Tensor:
        if given["starts"] is None:
            return _mean_first(states, given["mask"])
        return torch.segment_reduce(states[0], "mean", lengths=given["starts"].diff().long(), axis=0)[:, None]

    def at_the_end(part: torch.nn.Module, values: tuple, found: ModelOutput) -> ModelOutput:
        found["last_hidden_state"] = pooled(found["last_hidden_state"])
        return found

    encoder.register_forward_pre_hook(remember, with_kwargs=True)
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler.register_forward_pre_hook(lambda part, values: (pooled(values[0]),))
    else:
        encoder.register_forward_hook(at_the_end)


def pooled_states(model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The encoder's last state of each text, of shape (texts, hidden): of its first token, or the mean of all tokens,
    as the head of the classifier reads it (before the pooler, which some encoders have between).

    Args:
        model: A sequence classifier of which `pool` was told.
        batch: Padded, with input_ids and attention_mask.
    """
    encoder = getattr(model, model.base_model_prefix)
    states = encoder(**batch).last_hidden_state
    by_itself = hasattr(model.config, "classifier_pooling") or getattr(encoder, "pooler", None) is not None
    if model.config.eventscribe["pooling"] == "mean" and by_itself:  # else `pool` has put it in the first place
        states = _mean_first(states, batch["attention_mask"])
    return states[:, 0]


def _mean_first(states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """States of shape (texts, tokens, hidden) with the mean of each text's tokens in place of the first."""
    if mask is None:
        mask = torch.ones(states.shape[:2], device=states.device)
    # Of prefix tuning the mask also covers the prefix, which has no states.
    weights = mask[:, -states.shape[1] :, None].to(states.dtype)
    mean = (states * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True)
    return torch.cat([mean, states[:, 1:]], 1)
