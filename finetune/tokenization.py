"""A pretrained tokenizer, or a word-level one trained on the training texts."""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from data_prep import InputError

SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def build_tokenizer(start: str | Path | None, texts: Iterable[str], max_tokens: int) -> PreTrainedTokenizerBase:
    """The tokenizer of the checkpoint to start from, or for a model from scratch one trained on the training texts."""
    return train_tokenizer(texts, max_tokens) if start is None else load_tokenizer(start, max_tokens)


def train_tokenizer(texts: Iterable[str], max_tokens: int) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are the texts' words, split at spaces; [SEP] within a text is the special token."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words = (text.replace("[SEP]", " ") for text in texts)  # counted as a word, it would take a second id
    tokenizer.train_from_iterator(
        words, trainers.WordLevelTrainer(special_tokens=list(SPECIAL.values()), show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_tokens, **SPECIAL)


def load_tokenizer(name_or_path: str | Path, max_tokens: int) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint, cutting texts at `max_tokens` or at what the checkpoint takes, if that is less."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"model.name_or_path: no tokenizer could be loaded from '{name_or_path}' ({first_line(error)}); "
            f"check the name, or the network and the hub's login"
        ) from error
    tokenizer.model_max_length = min(max_tokens, tokenizer.model_max_length)
    return tokenizer


def first_line(error: Exception) -> str:
    """The first sentence of an exception."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
