import pytest
from transformers import AutoTokenizer

from data_prep import InputError
from finetune.tokenization import load_tokenizer, train_tokenizer

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


def test_a_name_without_a_tokenizer_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match="no-such-folder"):
        load_tokenizer(tmp_path / "no-such-folder", 32)
