"""The encoder's last layer for the tokens alone whose states the head reads.

Of a classifier this is each text's first token, of masked-language modelling the hidden ones. Keys and values of all
tokens are needed, but queries, output and feed-forward only of the tokens read: the result is the same, and so are the
gradients. Weights and checkpoints stay as they are, as only the class of one module changes.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.bert.modeling_bert import eager_attention_forward


@dataclass(frozen=True)
class Read:
    """Which tokens the head reads.

    Attributes:
        head_positions: See `LastLayer.forward`.
        starts: Of a packed batch, where each text begins and the last one ends.
    """

    head_positions: torch.Tensor | None
    starts: torch.Tensor | None

    @property
    def positions(self) -> torch.Tensor | None:
        """Of shape (texts, positions), of a packed batch (1, positions); None for the first of each text."""
        if self.head_positions is None:
            return None if self.starts is None else self.starts[None, :-1].long()
        return self.head_positions.clamp(min=0)

    def taken(self, states: torch.Tensor) -> torch.Tensor:
        """Of all states those at the positions."""
        positions = self.positions
        return states[:, :1] if positions is None else torch.take_along_dim(states, positions[..., None], 1)

    def kept(self, states: torch.Tensor) -> torch.Tensor:
        """Of the states at the positions, as the head gets them; see `LastLayer.forward`."""
        if self.head_positions is None:
            return states if self.starts is None else states.transpose(0, 1)
        return states[self.head_positions >= 0] if self.starts is None else states[0]


class LastLayer:
    """What replaces the `forward` of an encoder's last layer; see `shorten`.

    Attributes:
        share: Of the tokens that the head reads, about; 0 of a classifier, where a text has one.
    """

    share: float

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *more: Any,
        head_positions: torch.Tensor | None = None,
        past_key_values: object = None,
        **named: Any,
    ) -> torch.Tensor:
        """The states that the head reads.

        Args:
            hidden_states: Of shape (texts, tokens, hidden), of a packed batch (1, tokens, hidden).
            attention_mask: None, or that of `create_bidirectional_mask`.
            more: None for encoders.
            head_positions: The tokens in ascending order, of shape (texts, positions), -1 where a text has fewer than
                another; of a packed batch of shape (1, positions). None takes the first token of each text.
            past_key_values: Of prefix tuning, with which the whole layer is computed.
            named: What transformers passes to the attention, such as the `cu_seq_lens_q` of a packed batch.

        Returns:
            Of shape (positions, hidden), of one text after the other; without head_positions (texts, 1, hidden).
        """
        if past_key_values is not None:
            whole: Any = super()
            return whole.forward(hidden_states, attention_mask, *more, past_key_values=past_key_values, **named)
        read = Read(head_positions, named.get("cu_seq_lens_q"))
        if read.starts is not None:
            assert read.positions is not None
            of_read = torch.searchsorted(read.positions[0], read.starts.long(), out_int32=True)
            named |= {"cu_seq_lens_q": of_read, "cu_seq_lens_k": read.starts}
        return self.states(hidden_states, read, attention_mask, named)

    def states(
        self, hidden: torch.Tensor, read: Read, mask: torch.Tensor | None, named: dict[str, Any]
    ) -> torch.Tensor:
        """The layer's states of what is read."""
        raise NotImplementedError

    @property
    def of_all_tokens(self) -> list[torch.nn.Module]:
        """The modules that are computed for all tokens."""
        raise NotImplementedError


class _OfBert(LastLayer):
    attention: Any
    feed_forward_chunk: Any

    def states(
        self, hidden: torch.Tensor, read: Read, mask: torch.Tensor | None, named: dict[str, Any]
    ) -> torch.Tensor:
        own, few = self.attention.self, read.taken(hidden)
        found = _attend(own, own.query(few), own.key(hidden), own.value(hidden), mask, named)
        return self.feed_forward_chunk(self.attention.output(read.kept(found), read.kept(few)))

    @property
    def of_all_tokens(self) -> list[torch.nn.Module]:
        return [self.attention.self.key, self.attention.self.value]


class _OfDistilBert(LastLayer):
    attention: Any
    sa_layer_norm: Any
    ffn: Any
    output_layer_norm: Any

    def states(
        self, hidden: torch.Tensor, read: Read, mask: torch.Tensor | None, named: dict[str, Any]
    ) -> torch.Tensor:
        own, few = self.attention, read.taken(hidden)
        found = _attend(own, own.q_lin(few), own.k_lin(hidden), own.v_lin(hidden), mask, named)
        found = self.sa_layer_norm(own.out_lin(read.kept(found)) + read.kept(few))
        return self.output_layer_norm(self.ffn(found) + found)

    @property
    def of_all_tokens(self) -> list[torch.nn.Module]:
        return [self.attention.k_lin, self.attention.v_lin]


class _OfModernBert(LastLayer):
    """Its queries, keys and values are one matrix, and stand where they are turned by their positions."""

    attn: Any
    attn_norm: Any
    mlp: Any
    mlp_norm: Any

    def states(
        self, hidden: torch.Tensor, read: Read, mask: torch.Tensor | None, named: dict[str, Any]
    ) -> torch.Tensor:
        found, _ = self.attn(self.attn_norm(hidden), attention_mask=mask, **named)
        few = read.kept(read.taken(hidden + found))
        return few + self.mlp(self.mlp_norm(few))

    @property
    def of_all_tokens(self) -> list[torch.nn.Module]:
        return [self.attn]


LAST_LAYERS = {  # by model_type
    "bert": _OfBert,
    "camembert": _OfBert,
    "distilbert": _OfDistilBert,
    "electra": _OfBert,
    "modernbert": _OfModernBert,
    "roberta": _OfBert,
    "xlm-roberta": _OfBert,
}


def shorten(model: PreTrainedModel, share: float) -> bool:
    """Let the last layer compute only what the head reads, and say whether this encoder can; twice is once.

    Args:
        model: Of transformers, with a head that reads the first token of each text, or a masked-language model whose
            batches have head_positions.
        share: See `LastLayer`.
    """
    kind, layers = LAST_LAYERS.get(model.config.model_type), encoder_layers(model)
    if kind is None or layers is None:
        return False
    layer = layers[-1]
    if not isinstance(layer, LastLayer):
        layer.__class__ = _shortened(kind, type(layer))
    assert isinstance(layer, LastLayer)
    layer.share = share
    return True


@cache
def _shortened(kind: type[LastLayer], layer: type[torch.nn.Module]) -> type:
    """A class of the layer's name, by which FSDP finds what to wrap. transformers adds gradient checkpointing to it."""
    return type(layer.__name__, (kind, layer), {})


def encoder_layers(model: PreTrainedModel) -> torch.nn.ModuleList | None:
    """The encoder's layers, None where it shares them, as ALBERT does."""
    lists = (part for part in model.modules() if isinstance(part, torch.nn.ModuleList))
    return next((part for part in lists if len(part) == model.config.num_hidden_layers), None)


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    named: dict[str, Any],
) -> torch.Tensor:
    """What the attention module's own function finds, of the shape of query: (texts, tokens, hidden)."""
    heads = [part.unflatten(-1, (-1, module.attention_head_size)).transpose(1, 2) for part in (query, key, value)]
    attention = ALL_ATTENTION_FUNCTIONS.get_interface(module.config._attn_implementation, eager_attention_forward)
    dropout = module.dropout.p if module.training else 0.0
    mask = None if mask is None else mask[:, :, :1]  # the same for every query
    found, _ = attention(module, *heads, mask, dropout=dropout, scaling=module.scaling, **named)
    return found.flatten(-2)
