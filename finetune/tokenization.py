"""A pretrained tokenizer, or a word-level one trained on the training texts."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, BatchEncoding, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from data_prep import InputError
from data_prep.serializer import event_starts

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


def name_for_others(folder: Path) -> None:
    """Call the tokenizer's class in tokenizer_config.json as transformers 4 knows it too, and other servers do."""
    path = folder / "tokenizer_config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["tokenizer_class"] == "TokenizersBackend":
        content["tokenizer_class"] = "PreTrainedTokenizerFast"
    content = {key: value for key, value in content.items() if key not in ("backend", "is_local", "local_files_only")}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def load_tokenizer(name_or_path: str | Path, max_tokens: int) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint, cutting texts at `max_tokens` or at what the checkpoint takes, if that is less."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"model.name_or_path: no tokenizer could be loaded from '{name_or_path}' ({first_line(error)}); "
            f"check the name, or the network and the hub's login"
        ) from error
    if not tokenizer.is_fast or tokenizer.pad_token is None:
        raise InputError(
            f"model.name_or_path: the tokenizer of '{name_or_path}' has no padding token or is not a fast one; take "
            f"the checkpoint of an encoder such as BERT"
        )
    tokenizer.model_max_length = min(max_tokens, tokenizer.model_max_length)
    return tokenizer


def encode(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> dict[str, list]:
    """The tokens of each text; those longer than the tokenizer's model_max_length lose their oldest events, whole ones.

    A text whose newest event alone is too long is cut within it.

    Returns:
        input_ids, attention_mask, and under `event` the number of each token's event, 0 for the newest one and -1 for
        the header and special tokens; each of shape (texts, tokens).
    """
    encoded = tokenizer(texts, truncation=False, return_offsets_mapping=True, verbose=False)
    found: dict[str, list] = {"input_ids": [], "attention_mask": [], "event": []}
    for i, (text, ids) in enumerate(zip(texts, encoded["input_ids"], strict=True)):
        special = np.array([sequence is None for sequence in encoded.sequence_ids(i)])
        # By its end, as some tokens begin with the space before them.
        ends = np.array(encoded["offset_mapping"][i])[:, 1] - 1
        event = np.searchsorted(event_starts(text), ends, side="right") - 1
        event[special] = -1
        if len(ids) > tokenizer.model_max_length:
            tail = int(np.argmin(special[::-1]))  # special tokens at the end
            room = tokenizer.model_max_length - tail
            starts = np.flatnonzero((event[1:] > event[:-1]) & (event[1:] > 0)) + 1
            fitting = starts[starts <= room]
            end = fitting[-1] if len(fitting) else room
            ids, event = ids[:end] + ids[len(ids) - tail :], np.r_[event[:end], event[len(event) - tail :]]
        found["input_ids"].append(ids)
        found["attention_mask"].append([1] * len(ids))
        found["event"].append(event.tolist())
    return found


def padded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[list[int]], multiple: int = 8) -> BatchEncoding:
    """Tensors input_ids and attention_mask of shape (texts, tokens) of texts by `encode`.

    The number of tokens is a multiple of 8, which GPUs are fastest at in training, or of another number, or
    model_max_length where that comes first: a model may have no positions beyond it.
    """
    longest = max(map(len, ids))
    return tokenizer.pad(
        {"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]},
        padding="max_length",
        max_length=min(-(-longest // multiple) * multiple, tokenizer.model_max_length),
        return_tensors="pt",
    )


def first_line(error: Exception) -> str:
    """The first sentence of an exception."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
