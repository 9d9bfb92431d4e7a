"""Pretrained encoders read words in parts; the words of fields become tokens of their own."""

import pyarrow as pa
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from finetune.model.growing import grow_words, grown_tokenizer, mapped_tokenizer
from finetune.model.tokenization import load_tokenizer

TEXT = "gap_mean=na target_28d=3 [SEP] gap=1 event_type=Mail.X red paper gap=18 event_type=Mail.X"
FIELDS = {"event_type=Mail.X", "gap=1", "gap=18", "gap_mean=na", "target_28d=3"}


def texts(text: str = TEXT):
    return iter([pa.array([text], pa.large_string())])


def test_fields_become_tokens_and_names_stay_in_parts(small_bert, capsys):
    plain = load_tokenizer(small_bert, 64)
    tokenizer, new = mapped_tokenizer(small_bert, texts(), 64)
    assert set(new) == FIELDS
    assert f"reads 5 words such as {new[0]} as tokens of their own" in capsys.readouterr().out

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    number = tokenizer.get_vocab()
    names = plain("red paper", add_special_tokens=False)["input_ids"]
    mail = number["event_type=Mail.X"]
    header = [number["gap_mean=na"], number["target_28d=3"], tokenizer.sep_token_id]
    assert ids(TEXT) == [*header, number["gap=1"], mail, *names, number["gap=18"], mail]
    # Neither a longer number nor a longer name is taken for one that is known.
    for other in ("gap=181", "late_gap=1", "event_type=mail.x"):
        assert ids(other) == plain(other, add_special_tokens=False)["input_ids"]


def test_a_token_begins_as_the_mean_of_its_parts_and_nothing_else_moves(small_bert, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(small_bert)
    before = model.get_input_embeddings().weight.detach().clone()
    tokenizer, new = mapped_tokenizer(small_bert, texts(), 64)
    grow_words(model, tokenizer, new)
    weights = model.get_input_embeddings().weight
    assert torch.equal(weights[: len(before)], before)
    assert len(weights) == len(before) + len(FIELDS) == model.config.vocab_size
    parts = tokenizer("target 28d 3", add_special_tokens=False)["input_ids"]
    torch.testing.assert_close(weights[tokenizer.get_vocab()["target_28d=3"]], before[parts].mean(dim=0))
    model.save_pretrained(tmp_path)  # a plain checkpoint, which reads the same text the same way
    tokenizer.save_pretrained(tmp_path)
    again, loaded = (
        AutoModelForSequenceClassification.from_pretrained(tmp_path),
        AutoTokenizer.from_pretrained(tmp_path),
    )
    assert loaded(TEXT)["input_ids"] == tokenizer(TEXT)["input_ids"]
    inputs = loaded(TEXT, return_tensors="pt")
    assert torch.equal(again.eval()(**inputs).logits, model.eval()(**inputs).logits)


def test_later_fields_are_added_where_there_have_been_some_and_to_no_model_of_sentences(small_bert):
    tokenizer, _ = mapped_tokenizer(small_bert, texts(), 64)
    _, new = grown_tokenizer(tokenizer, texts("gap=1 gap=5 red"))
    assert new == ["gap=5"]
    assert grown_tokenizer(load_tokenizer(small_bert, 64), texts("gap=1"))[1] == []


def test_sentences_adapters_and_frozen_embeddings_leave_the_tokenizer_as_it_is(small_bert, capsys):
    sentences = "recency days 6; gap mean 13. after 8 days: basket, value 15, milk = 3."
    plain = load_tokenizer(small_bert, 64).get_vocab()
    for text, frozen, said in (
        (sentences, {}, ""),
        (TEXT, {"adapter": True}, "in parts, as an adapter learns no word\n"),
        (TEXT, {"frozen": True}, "in parts, as frozen embeddings learn no word\n"),
    ):
        tokenizer, new = mapped_tokenizer(small_bert, texts(text), 64, **frozen)
        assert (new, tokenizer.get_vocab()) == ([], plain)
        told = capsys.readouterr().out
        assert told.endswith(said)
        assert bool(told) == bool(said)
