"""Texts of different lengths side by side in one row: on a GPU no padding is computed.

A packed batch has input_ids and position_ids of shape (1, tokens), `cu_seq_lens_q` of shape (texts + 1,), where each
text begins and the last one ends, and `max_length_q`, the most tokens of a text. Each text attends to itself alone.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import peft
import torch
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel, PreTrainedTokenizerBase
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from finetune.model.pooling import pool
from finetune.model.tokenization import padded

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # torch below 2.10
    varlen_attn = None

ATTENTION = "eventscribe_packed"
# Encoders with full attention whose position_ids say where a token stands; the others, such as ModernBERT with its
# sliding windows and DeBERTa with its relative positions, read padded batches.
PACKABLE = ("bert", "distilbert", "electra", "roberta")
ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout")  # one encoder's name or another's


MakeBatch = Callable[[Sequence[np.ndarray]], Mapping[str, torch.Tensor | int]]


def batches_for(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, multiple: int = 8) -> MakeBatch:
    """What makes a batch of the token ids of texts: packed where `pack` was called, else padded; see `padded`."""
    base = base_model(model)
    if base.config._attn_implementation == ATTENTION:
        return partial(packed, first_position=first_position(base))
    return partial(padded, tokenizer, multiple=multiple)


def pack(model: torch.nn.Module, pooling: str | None) -> bool:
    """Let a model read packed batches beside padded ones, and say whether it can.

    Args:
        model: A model of transformers, or of peft.
        pooling: What a classifier's head reads, see `finetune.model.pooling.pool`; None where there is a prediction
            for each token.
    """
    config = getattr(model, "active_peft_config", None)
    if config is not None and config.is_prompt_learning:  # virtual tokens stand before each text
        return False
    base = base_model(model)
    if base.config._attn_implementation == ATTENTION:
        return True
    dropout = max(getattr(base.config, name, 0.0) for name in ATTENTION_DROPOUT)
    if base.config.model_type not in PACKABLE or dropout:
        return False
    if pooling == "cls":  # the last layer finds the first tokens; of the mean `pool` was told when the model was built
        pool(base, pooling)
    AttentionInterface.register(ATTENTION, packed_attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)  # of padded batches
    base.set_attn_implementation(ATTENTION)
    return True


def packed(ids: Sequence[np.ndarray], first_position: int = 0) -> dict[str, torch.Tensor | int]:
    """A packed batch of texts.

    Args:
        ids: Token ids of each text.
        first_position: What the model calls the first position; see `first_position`.
    """
    lengths = np.fromiter(map(len, ids), np.int64, len(ids))
    starts = np.concatenate([[0], np.cumsum(lengths)])
    positions = np.arange(starts[-1]) - np.repeat(starts[:-1] - first_position, lengths)
    return {
        "input_ids": torch.from_numpy(np.concatenate(ids).astype(np.int64))[None],
        "position_ids": torch.from_numpy(positions)[None],
        "cu_seq_lens_q": torch.from_numpy(starts.astype(np.int32)),
        "max_length_q": int(lengths.max()),
    }


def first_position(model: PreTrainedModel) -> int:
    """The number of a text's first position: 0, or what follows the padding's where an encoder keeps one for it."""
    embeddings = getattr(getattr(model, model.base_model_prefix), "embeddings", None)
    padding = getattr(getattr(embeddings, "position_embeddings", None), "padding_idx", None)
    return 0 if padding is None else padding + 1


def base_model(model: torch.nn.Module) -> PreTrainedModel:
    """The model of transformers within one of peft, or that model itself."""
    return cast(PreTrainedModel, model.get_base_model() if isinstance(model, peft.PeftModel) else model)


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    cu_seq_lens_k: torch.Tensor | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Attention within each text of a packed batch; of a padded batch transformers' own.

    Args:
        module: The attention layer.
        query: Of shape (1, heads, tokens, size).
        key: Of shape (1, heads, tokens, size), where a text may have more tokens than queries; like value.
        value: See key.
        attention_mask: Of a padded batch.
        cu_seq_lens_q: Where the queries of each text of a packed batch begin, and the last ones end.
        max_length_q: The most tokens of a text.
        cu_seq_lens_k: The same of keys and values; None where each token is a query.
        more: What transformers says beside, such as the scale, which is 1 / sqrt(size) in PACKABLE.

    Returns:
        The states, of shape (1, tokens, heads, size).
    """
    if cu_seq_lens_q is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **more)
    assert max_length_q is not None
    of_keys = cu_seq_lens_q if cu_seq_lens_k is None else cu_seq_lens_k
    queries, keys, values = (part[0].transpose(0, 1) for part in (query, key, value))  # (tokens, heads, size)
    half = query.is_cuda and query.dtype in (torch.bfloat16, torch.float16)
    if varlen_attn is not None and half and not query.shape[-1] % 8:
        states = varlen_attn(queries, keys, values, cu_seq_lens_q, of_keys, max_length_q, max_length_q)
        return cast(torch.Tensor, states)[None], None
    queries, keys, values = (
        torch.nested.nested_tensor_from_jagged(part.contiguous(), starts.long(), max_seqlen=max_length_q)
        for part, starts in ((queries, cu_seq_lens_q), (keys, of_keys), (values, of_keys))
    )
    queries, keys, values = (part.transpose(1, 2) for part in (queries, keys, values))
    return functional.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).values()[None], None
