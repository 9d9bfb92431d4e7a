"""What a classifier's head reads of each text: the state of its first token, or the mean of all."""

from collections.abc import Mapping

import torch
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput


def pool(model: PreTrainedModel, how: str) -> None:
    """Put the pooled state of each text in the first place, which the head reads, of padded and of packed batches.

    It is put there before the pooler, or at the encoder's end where there is no pooler. ModernBERT pools by itself.

    Args:
        model: A sequence classifier.
        how: cls or mean.
    """
    if hasattr(model.config, "classifier_pooling"):
        return
    encoder, given = getattr(model, model.base_model_prefix), {}

    def remember(part: torch.nn.Module, values: tuple, named: dict) -> None:
        given["mask"] = named.get("attention_mask", values[1] if len(values) > 1 else None)
        given["starts"] = named.get("cu_seq_lens_q")

    def pooled(states: torch.Tensor) -> torch.Tensor:
        if given["starts"] is not None:
            return _of_packed(states[0], given["starts"], how)[:, None]
        return states if how == "cls" else _mean_first(states, given["mask"])

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


def _of_packed(states: torch.Tensor, starts: torch.Tensor, how: str) -> torch.Tensor:
    """Of texts side by side, with states of shape (tokens, hidden), one state each."""
    if how == "cls":
        return states[starts[:-1].long()]
    return torch.segment_reduce(states, "mean", lengths=starts.diff().long(), axis=0)


def _mean_first(states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """States of shape (texts, tokens, hidden) with the mean of each text's tokens in place of the first."""
    if mask is None:
        mask = torch.ones(states.shape[:2], device=states.device)
    # Of prefix tuning the mask also covers the prefix, which has no states.
    weights = mask[:, -states.shape[1] :, None].to(states.dtype)
    mean = (states * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True)
    return torch.cat([mean, states[:, 1:]], 1)
