"""A pretrained tokenizer, or a word-level one trained on the training texts."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, BatchEncoding, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from data_prep import InputError
from data_prep.checked_json import read_json
from finetune.model.encoding import Encoder

SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
MOST_WORDS = 30_000
LARGEST_NUMBER = 10_000_000  # of a word of any encoder; tokenizers writes each number up to the largest one
PROBE = ["", "a [SEP] gap=first \u00e9t\u00e9"]  # texts that any tokenizer of a model can take
SPACE = re.compile(r"[^\S\x1c-\x1f]+")  # what tokenizers takes for white space


def build_tokenizer(start: str | Path | None, texts: Iterable[pa.Array], max_tokens: int) -> PreTrainedTokenizerBase:
    """The tokenizer of the checkpoint to start from, or for a model from scratch one trained on the training texts."""
    return train_tokenizer(texts, max_tokens) if start is None else load_tokenizer(start, max_tokens)


def train_tokenizer(texts: list[str] | Iterable[pa.Array], max_tokens: int) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are the texts' words, split at spaces.

    The most frequent words have the lowest numbers, as tokenizers' own WordLevelTrainer gives them.

    Args:
        texts: In a list, or in arrays one after the other.
        max_tokens: Longer texts lose their oldest events.
    """
    counts = Counter()
    for part in [pa.array(texts, pa.large_string())] if isinstance(texts, list) else texts:
        words = pc.split_pattern(part, " ").flatten()  # pyright: ignore[reportAttributeAccessIssue] - made at run time
        for found in pc.value_counts(words).to_pylist():  # pyright: ignore[reportAttributeAccessIssue]
            for word in SPACE.split(found["values"].replace("[SEP]", " ")):
                counts[word] += found["counts"]
    words = sorted(counts.keys() - {"", *SPECIAL.values()}, key=lambda word: (-counts[word], word))
    return word_tokenizer(words, max_tokens)


def word_tokenizer(words: list[str], max_tokens: int) -> PreTrainedTokenizerFast:
    """A tokenizer of these words, numbered in their order, up to MOST_WORDS; [SEP] within a text is the special token.

    Args:
        words: Without those that are special.
        max_tokens: Longer texts lose their oldest events.
    """
    known = [*SPECIAL.values(), *words][:MOST_WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(list(SPECIAL.values()))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_tokens, **SPECIAL)


def name_for_others(folder: Path) -> None:
    """Call the tokenizer's class in tokenizer_config.json as transformers 4 knows it too, and other servers do."""
    path = folder / "tokenizer_config.json"
    content = read_json(path, {"tokenizer_class": str}, "run scripts/train.py again")
    if content["tokenizer_class"] == "TokenizersBackend":
        content["tokenizer_class"] = "PreTrainedTokenizerFast"
    content = {key: value for key, value in content.items() if key not in ("backend", "is_local", "local_files_only")}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def load_tokenizer(name_or_path: str | Path, max_tokens: int) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint, cutting texts at `max_tokens` or at what the checkpoint takes, if that is less."""
    problem, setting = f"no tokenizer could be loaded from '{name_or_path}'", "model.name_or_path"
    remedy = "check the name, or the network and the hub's login"
    with readable(problem, remedy, setting):
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
    if not tokenizer.is_fast or tokenizer.pad_token is None:
        raise InputError(
            f"the tokenizer of '{name_or_path}' has no padding token or is not a fast one",
            "take the checkpoint of an encoder such as BERT",
            setting=setting,
        )
    with readable(problem, remedy, setting):
        if (largest := max(tokenizer.get_vocab().values())) > LARGEST_NUMBER:
            raise ValueError(f"a word has the number {largest:,}")
        if tokenizer.model_max_length < 1:
            raise ValueError(f"model_max_length is {tokenizer.model_max_length}")
        tokenizer.model_max_length = min(max_tokens, int(tokenizer.model_max_length))
        encode(tokenizer, PROBE)
    return tokenizer


@contextmanager
def readable(problem: str, remedy: str, setting: str = "") -> Iterator[None]:
    """One sentence where transformers, peft or tokenizers cannot read a file: they raise what they stumble over."""
    try:
        yield
    except BaseException as error:
        panics = type(error).__name__ == "PanicException"  # of the Rust of tokenizers, and no Exception
        if not isinstance(error, Exception) and not panics:
            raise
        raise InputError(f"{problem} ({first_line(error)})", remedy, setting) from error


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> dict[str, list]:
    """The tokens of a few texts as lists; see `finetune.model.encoding.Encoder`.

    Returns:
        input_ids, attention_mask, and under `event` the number of each token's event, 0 for the newest one and -1 for
        the header and special tokens; each of shape (texts, tokens).
    """
    ids, event, lengths = Encoder(tokenizer)(pa.array(texts, pa.large_string()))
    parts = np.cumsum(lengths)[:-1]
    found = [part.tolist() for part in np.split(ids, parts)] if len(lengths) else []
    return {
        "input_ids": found,
        "attention_mask": [[1] * len(row) for row in found],
        "event": [part.tolist() for part in np.split(event, parts)] if len(lengths) else [],
    }


def padded(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[Sequence[int] | np.ndarray], multiple: int = 8
) -> BatchEncoding:
    """Tensors input_ids and attention_mask of shape (texts, tokens) of the token ids of texts.

    The number of tokens is a multiple of 8, which GPUs are fastest at in training, or of another number, or
    model_max_length where that comes first: a model may have no positions beyond it.
    """
    lengths = np.fromiter(map(len, ids), np.int64, len(ids))
    width = min(-(-int(lengths.max()) // multiple) * multiple, tokenizer.model_max_length)
    mask = np.arange(width) < lengths[:, None]
    found = np.full(mask.shape, tokenizer.pad_token_id)
    found[mask] = np.concatenate([np.asarray(row) for row in ids])
    return BatchEncoding({"input_ids": torch.from_numpy(found), "attention_mask": torch.from_numpy(mask.astype(int))})


def first_line(error: BaseException) -> str:
    """The first sentence of an exception; of a KeyError more than the key."""
    said = "" if isinstance(error, KeyError) else str(error).strip()
    return (said.splitlines() or [f"{type(error).__name__} {error}".strip()])[0].rstrip(".")
