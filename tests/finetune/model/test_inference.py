import numpy as np
import pytest
import torch

from data_prep import InputError
from finetune.model import inference
from finetune.model.inference import for_scoring, score_texts, sorted_batches
from finetune.model.loading import load_classifier
from finetune.model.tokens import tokenize
from finetune.serving.classifier import EventClassifier


def test_a_batch_has_no_more_texts_or_tokens_than_are_allowed_and_each_row_comes_once():
    lengths = np.random.default_rng(0).integers(3, 200, 500)
    batches = list(sorted_batches(lengths, 30, 1_000))
    assert sorted(np.concatenate(batches)) == list(range(500))
    assert max(map(len, batches)) == 30
    assert all(len(rows) * lengths[rows].max() <= 1_000 for rows in batches)
    assert [len(rows) for rows in sorted_batches(np.array([7, 9]), 5, 4)] == [1, 1]  # one alone has more
    assert list(sorted_batches(np.array([], int), 5, 4)) == []


def test_scores_stand_in_the_order_of_the_texts_whatever_the_chunks_and_batches(trained, monkeypatch):
    model, tokenizer = load_classifier(trained.run_folder / "model")
    texts = [f"recency_days={i % 4} [SEP] " + " ".join([f"gap={i % 3} event_type=view"] * (i % 5)) for i in range(60)]
    alone = np.array([score_texts(model, tokenizer, [text])[0] for text in texts])
    np.testing.assert_allclose(score_texts(model, tokenizer, texts), alone, atol=1e-6)
    np.testing.assert_allclose(score_texts(model, tokenizer, tokenize(tokenizer, texts)), alone, atol=1e-6)
    monkeypatch.setattr(inference, "CHUNK", 7)
    np.testing.assert_allclose(score_texts(model, tokenizer, texts, 3), alone, atol=1e-6)
    assert score_texts(model, tokenizer, []).shape == (0,)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU scores with a copy; see test_gpu.py")
def test_a_cpu_scores_with_the_model_itself(trained):
    model, _ = load_classifier(trained.run_folder / "model")
    assert for_scoring(model) is model


def test_an_unknown_precision_is_refused(trained):
    said = "^precision: 'fp16' is no precision; write fp32 or bf16$"
    with pytest.raises(InputError, match=said):
        EventClassifier.from_pretrained(trained.run_folder / "model", precision="fp16")
    with pytest.raises(InputError, match=said):
        for_scoring(torch.nn.Linear(1, 1), "fp16")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there a GPU's bf16 counts; see test_gpu.py")
@pytest.mark.parametrize("instructions", inference.BF16)
def test_a_cpu_with_bf16_scores_with_a_copy_whose_encoder_is_in_bf16_when_asked(trained, monkeypatch, instructions):
    monkeypatch.setattr(inference, "get_capabilities", lambda: {instructions: True})
    folder = trained.run_folder / "model"
    texts = [f"recency_days={i % 4} [SEP] " + " ".join(["gap=1 event_type=view"] * (i % 5)) for i in range(60)]
    exact, fast = EventClassifier.from_pretrained(folder), EventClassifier.from_pretrained(folder, precision="bf16")
    assert fast.fastest.bert.encoder.layer[0].output.dense.weight.dtype == torch.bfloat16
    assert fast.fastest.classifier.weight.dtype == fast.model.classifier.weight.dtype == torch.float32
    expected, found = exact.score(texts), fast.score(texts)
    assert 0 < np.abs(found - expected).max() < 5e-3
    assert for_scoring(fast.model) is fast.model  # nobody asked


@pytest.mark.skipif(torch.cuda.is_available(), reason="there a GPU's bf16 counts; see test_gpu.py")
def test_bf16_is_refused_where_the_cpu_would_emulate_it(trained, monkeypatch):
    monkeypatch.setattr(inference, "get_capabilities", lambda: {"avx512_f": True, "avx512_bf16": False})
    with pytest.raises(InputError, match=r"^precision: torch .* finds no bf16 instructions of this CPU; leave it out"):
        EventClassifier.from_pretrained(trained.run_folder / "model", precision="bf16")
