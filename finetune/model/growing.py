"""Trained weights as the start of other ones: the words and the classes that are new begin as average ones."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import pyarrow as pa
import torch
from tokenizers import Tokenizer
from transformers import AddedToken, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from data_prep import InputError
from finetune.model.encoding import backend
from finetune.model.objective import Objective
from finetune.model.tokenization import MOST_WORDS, SPECIAL, load_tokenizer, train_tokenizer

BETWEEN = re.compile("[_=.]")  # the parts of a field's word


def mapped_tokenizer(
    start: str | Path, texts: Iterable[pa.Array], max_tokens: int, adapter: bool = False, frozen: bool = False
) -> tuple[PreTrainedTokenizerBase, list[str]]:
    """The tokenizer of weights to start from with the words of this log that it lacks, and these words, for
    `grow_words`; a line says how many words are kept.

    One of parts of words, as pretrained models have, gets the words of fields (`gap=3`) alone, and still reads names in
    parts: a header of numbers is one token a number then, and not a dozen.

    Args:
        start: A folder or a name of the hub.
        texts: Of this log's training.
        max_tokens: See `load_tokenizer`.
        adapter: Whether the weights stay as they are, so that there is no place for new words.
        frozen: Whether the embeddings do, so that a word is better read in its parts.
    """
    tokenizer = load_tokenizer(start, max_tokens)
    found = _words(texts, max_tokens)
    if not _of_words(tokenizer):
        new = _new_fields(tokenizer, found)
        if not new:
            return tokenizer, []
        who = "an adapter learns" if adapter else "frozen embeddings learn" if frozen else ""
        how = f"in parts, as {who} no word" if who else "as tokens of their own from now on"
        print(f"'{start}' reads {len(new):,} words such as {new[0]} {how}")
        return (tokenizer, []) if who else _with_fields(tokenizer, new)
    known = set(tokenizer.get_vocab())
    grown, new = (tokenizer, []) if adapter else _with_words(tokenizer, found)
    kept, lacking = sum(word in known for word in found), len(found) - len(new)
    said = f"'{start}' knows {kept:,} of the {len(found):,} words of this log"
    if new:
        said += f"; {len(new):,} are new and begin as the mean of their field"
    if lacking > kept:
        why = "an adapter learns no word; set pretraining.max_steps" if adapter else f"of at most {MOST_WORDS:,} words"
        said += f"; {lacking - kept:,} stay unknown ({why})"
    unused = len(known) - len(SPECIAL) - kept
    print(said + (f"; {unused:,} of its own do not occur here" if unused else ""))
    return grown, new


def grown_tokenizer(
    tokenizer: PreTrainedTokenizerBase, texts: Iterable[pa.Array]
) -> tuple[PreTrainedTokenizerBase, list[str]]:
    """The tokenizer with the words of other texts that it lacks behind its own, and these words.

    A tokenizer of parts of words gets those of fields, if it has had such words before. One that has as many as may be
    (MOST_WORDS) stays as it is.
    """
    of_words = _of_words(tokenizer)
    if not of_words and not any(map(_of_field, tokenizer.get_vocab().keys())):
        return tokenizer, []
    found = _words(texts, tokenizer.model_max_length)
    return _with_words(tokenizer, found) if of_words else _with_fields(tokenizer, _new_fields(tokenizer, found))


def _of_words(tokenizer: PreTrainedTokenizerBase) -> bool:
    return json.loads(backend(tokenizer).to_str())["model"]["type"] == "WordLevel"


def _words(texts: Iterable[pa.Array], max_tokens: int) -> list[str]:
    """Those of the texts, the most frequent ones first."""
    found = train_tokenizer(texts, max_tokens).get_vocab()
    return sorted(found.keys() - set(SPECIAL.values()), key=found.__getitem__)


def _with_words(tokenizer: PreTrainedTokenizerBase, words: list[str]) -> tuple[PreTrainedTokenizerBase, list[str]]:
    content = json.loads(backend(tokenizer).to_str())
    known = content["model"]["vocab"]
    if sorted(known.values()) != list(range(len(known))):
        raise InputError(
            "the tokenizer of the weights to start from leaves numbers of words out",
            "take the tokenizer that the model was trained with",
            setting="model.name_or_path",
        )
    new = [word for word in words if word not in known][: max(MOST_WORDS - len(known), 0)]
    if not new:
        return tokenizer, []
    known |= {word: len(known) + place for place, word in enumerate(new)}
    made = Tokenizer.from_str(json.dumps(content))
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=tokenizer.model_max_length, **SPECIAL), new


def _new_fields(tokenizer: PreTrainedTokenizerBase, words: list[str]) -> list[str]:
    known = tokenizer.get_vocab()  # a copy of all words, made once
    return [word for word in words if _of_field(word) and word not in known]


def _with_fields(tokenizer: PreTrainedTokenizerBase, new: list[str]) -> tuple[PreTrainedTokenizerBase, list[str]]:
    # Whole words, or gap=1 would be found in gap=18; for byte pairs with the space before, a part of the word to them.
    space = type(backend(tokenizer).pre_tokenizer).__name__ != "BertPreTokenizer"
    tokenizer.add_tokens([AddedToken(word, single_word=True, lstrip=space, normalized=False) for word in new])
    return tokenizer, new


def grow_words(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, new: list[str]) -> None:
    """Give the new words of `grown_tokenizer` embeddings: the mean of the known words of the same field, of `x=9` those
    of `x=0`, `x=1` and so on; of a word without a field, or with a new one, the mean of all known words. Where a
    tokenizer has parts of words, `gap_mean=3` begins as the mean of the parts of `gap mean 3`."""
    if not new:
        return
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    if not _of_words(tokenizer):
        _begin_as_parts(model, tokenizer, new)
        return
    number = {word: place for word, place in tokenizer.get_vocab().items() if word not in SPECIAL.values()}
    fields: dict[str, list[int]] = {}
    old = {word: place for word, place in number.items() if word not in set(new)}
    for word, place in old.items():
        fields.setdefault(_field(word), []).append(place)
    weights = cast(torch.Tensor, model.get_input_embeddings().weight)
    with torch.no_grad():
        for word in new:
            alike = fields.get(_field(word), []) if "=" in word else []
            weights[number[word]] = weights[alike or list(old.values())].mean(dim=0)


def _begin_as_parts(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, new: list[str]) -> None:
    weights = cast(torch.Tensor, model.get_input_embeddings().weight)
    parts = tokenizer([BETWEEN.sub(" ", word) for word in new], add_special_tokens=False)["input_ids"]
    number = tokenizer.get_vocab()
    with torch.no_grad():
        for word, found in zip(new, parts, strict=True):
            weights[number[word]] = weights[found].mean(dim=0)


def regroup_classes(model: PreTrainedModel, classes: list[str]) -> list[str]:
    """Give the head an output for each of these classes, in their order; one that is new begins as the mean of all.

    Returns:
        The classes that are new.
    """
    old = list(Objective.of_model(model.config).classes)
    if old == classes:
        return []
    name, last = [
        (name, part)
        for name, part in model.named_modules()
        if isinstance(part, torch.nn.Linear) and not name.startswith(f"{model.base_model_prefix}.")
    ][-1]
    made = torch.nn.Linear(last.in_features, len(classes)).to(last.weight.device)
    with torch.no_grad():
        for values, known in ((made.weight, last.weight), (made.bias, last.bias)):
            for place, of_class in enumerate(classes):
                values[place] = known[old.index(of_class)] if of_class in old else known.mean(dim=0)
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, made)
    model.config.id2label = dict(enumerate(classes))
    model.config.label2id = {of_class: place for place, of_class in enumerate(classes)}
    return [of_class for of_class in classes if of_class not in old]


def _of_field(word: str) -> bool:
    return re.match(r"\w+=\S", word) is not None


def _field(word: str) -> str:
    return word.partition("=")[0]
