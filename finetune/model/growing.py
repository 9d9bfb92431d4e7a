"""A trained classifier as the start of its successor: the words and the classes that are new begin as average ones."""

import json
from collections.abc import Iterable
from typing import cast

import pyarrow as pa
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from finetune.model.encoding import backend
from finetune.model.objective import Objective
from finetune.model.tokenization import MOST_WORDS, SPECIAL, train_tokenizer


def grown_tokenizer(
    tokenizer: PreTrainedTokenizerBase, texts: Iterable[pa.Array]
) -> tuple[PreTrainedTokenizerBase, list[str]]:
    """The tokenizer with the words of other texts that it lacks behind its own, and these words.

    A tokenizer of parts of words, as pretrained models have, knows every word already and stays as it is. So does one
    of words that has as many as may be (MOST_WORDS).
    """
    content = json.loads(backend(tokenizer).to_str())
    if content["model"]["type"] != "WordLevel":
        return tokenizer, []
    most = tokenizer.model_max_length
    known = content["model"]["vocab"]
    found = train_tokenizer(texts, most).get_vocab()
    new = [word for word in sorted(found, key=found.__getitem__) if word not in known]
    new = new[: max(MOST_WORDS - len(known), 0)]
    known |= {word: len(known) + place for place, word in enumerate(new)}
    made = Tokenizer.from_str(json.dumps(content))
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=most, **SPECIAL), new


def grow_words(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, new: list[str]) -> None:
    """Give the new words of `grown_tokenizer` embeddings: the mean of the known words of the same field, of `x=9` those
    of `x=0`, `x=1` and so on; of a word without a field, or with a new one, the mean of all known words."""
    if not new:
        return
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
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


def _field(word: str) -> str:
    return word.partition("=")[0]
