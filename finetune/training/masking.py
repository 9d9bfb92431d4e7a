"""Masked-language modelling: which tokens are hidden, and what stands in their place."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from finetune.model.packing import MakeBatch
from finetune.model.tokenization import padded


@dataclass
class MaskingCollator:
    """Examples -> a padded batch in which some units are hidden and to be predicted.

    A unit is a token, or all tokens of an event; header words are units of their own, and special tokens are never
    hidden. What stands in the place of hidden tokens is decided for a unit as a whole: [MASK] for 80 % of the units,
    random words for 10 %, the tokens themselves for 10 %. Chance comes from torch's global generator.

    Source: Devlin et al., "BERT", 2019, section 3.1, Task 1, for the shares; Joshi et al., "SpanBERT", 2020, section
    3.1, for deciding them span by span. Like BERT's whole-word masking, an event leaves nothing of itself from which
    its other words could be guessed.

    Attributes:
        tokenizer: Has a mask token.
        share: The probability that a unit is hidden.
        unit: What is hidden as a whole.
        make_batch: Of the texts' token ids; see `finetune.model.packing.batches_for`. By default batches are padded.
        short: Whether the model's last layer was told to compute hidden tokens alone; see
            `finetune.model.last_layer.shorten`.
    """

    tokenizer: PreTrainedTokenizerBase
    share: float
    unit: Literal["token", "event"]
    make_batch: MakeBatch | None = None
    short: bool = False

    def __call__(self, examples: list[dict[str, list[int]]]) -> dict[str, torch.Tensor | int]:
        """Hide about `share` of the tokens of each example, and at least one unit.

        Args:
            examples: Each with input_ids and event: the number of each token's event, the same for
                neighbours alone, and -1 for header words and special tokens.

        Returns:
            The batch, and labels of the shape of its input_ids: the hidden token's id, and -100 where nothing is
            hidden. For a short last layer also head_positions, of shape (examples, positions), of a packed batch
            (1, positions): the hidden tokens of each, and -1 where an example has fewer than another; the labels are
            then of shape (positions,), those of one example after the other.
        """
        given = [np.asarray(example["input_ids"]) for example in examples]
        ids, mask = padded(self.tokenizer, given).values()
        event = torch.full_like(ids, -1)
        if self.unit == "event":
            known = pad_sequence([torch.tensor(np.asarray(row["event"])) for row in examples], True, padding_value=-1)
            event[:, : known.shape[1]] = known
        begins = (event < 0) | (event != event.roll(1, dims=1))
        begins[:, 0] = True
        unit = begins.cumsum(dim=1) - 1
        draw = torch.rand(ids.shape).gather(1, unit)
        draw[torch.isin(ids, torch.tensor(self.tokenizer.all_special_ids))] = 2  # above any share
        # The lowest draw is hidden, too: an example without a hidden token would teach nothing.
        hidden = (draw < self.share) | (draw == draw.amin(dim=1, keepdim=True)) & (draw < 1)
        fate = torch.rand(ids.shape).gather(1, unit)
        words = torch.randint(len(self.tokenizer), ids.shape)
        masked = self.tokenizer.mask_token_id
        assert isinstance(masked, int)
        shown = torch.where(fate < 0.8, masked, torch.where(fate < 0.9, words, ids))
        ids, labels = torch.where(hidden, shown, ids), torch.where(hidden, ids, -100)
        batch: Mapping[str, torch.Tensor | int] = {"input_ids": ids, "attention_mask": mask}
        if self.make_batch is not None:
            batch = self.make_batch([row[: len(known)].numpy() for row, known in zip(ids, given, strict=True)])
        if "attention_mask" not in batch:
            labels = labels[mask.bool()][None]
        if self.short:
            hidden = labels != -100
            places = torch.where(hidden, torch.arange(hidden.shape[1]), hidden.shape[1]).sort(dim=1).values
            places = places[:, : int(hidden.sum(dim=1).max())]
            batch = {**batch, "head_positions": torch.where(places < hidden.shape[1], places, -1)}
            labels = labels[hidden]
        return {"labels": labels, **batch}
