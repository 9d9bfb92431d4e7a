import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from data_prep import InputError
from finetune.model.inference import embed_texts
from finetune.model.pooling import pooled_states
from finetune.serving.classifier import EventClassifier
from finetune.serving.predict import predict_log

CUTOFF = "2024-04-01"


def read_by_the_head(classifier: EventClassifier, text: str) -> torch.Tensor:
    """What reaches the pooler, or the head where there is none."""
    model, seen = classifier.model, []
    encoder = getattr(model, model.base_model_prefix)
    hook = encoder.pooler.register_forward_pre_hook(lambda part, given: seen.append(given[0][:, 0]))
    with torch.inference_mode():
        model(**classifier.tokenizer(text, return_tensors="pt", truncation=True))
    hook.remove()
    return seen[0][0]


def test_a_vector_is_the_state_that_the_head_reads_of_the_same_text(classifier, events):
    vectors = classifier.embed(events, CUTOFF)
    texts = classifier.predict(events, CUTOFF, text=True)
    assert vectors.select(["user_id", "cutoff"]).equals(texts.select(["user_id", "cutoff"]))
    assert vectors.schema.field("embedding").type == pa.list_(pa.float32(), 16)
    for row in (0, 7, 50):
        expected = read_by_the_head(classifier, texts["text"][row].as_py())
        np.testing.assert_allclose(vectors["embedding"][row].as_py(), expected, atol=1e-5)


def test_with_mean_pooling_it_is_the_mean_over_all_tokens(learned, events):
    classifier = learned("binary")
    (vector,) = classifier.embed([e for e in events if e["user_id"] == "u1"], CUTOFF)["embedding"].to_pylist()
    text = classifier.predict([e for e in events if e["user_id"] == "u1"], CUTOFF, text=True)["text"][0].as_py()
    with torch.inference_mode():
        encoder = classifier.model.bert
        states = encoder(**classifier.tokenizer(text, return_tensors="pt")).last_hidden_state[0]
    np.testing.assert_allclose(vector, states.mean(dim=0), atol=1e-5)
    np.testing.assert_allclose(vector, read_by_the_head(classifier, text), atol=1e-5)


def test_neither_the_batch_nor_its_padding_moves_a_vector(classifier, events):
    everyone, singly = (classifier.embed(events, CUTOFF, batch_size=size, population=True) for size in (64, 1))
    one, other = (pc.list_flatten(table["embedding"]).to_numpy() for table in (everyone, singly))
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_scores_follow_from_the_vectors(classifier, events):
    vectors = classifier.embed(events, CUTOFF)
    states = torch.tensor(vectors["embedding"].to_pylist())
    with torch.inference_mode():
        pooled = classifier.model.bert.pooler(states[:, None])
        logits = classifier.model.classifier(pooled)
    scores = classifier.calibration.apply(torch.softmax(logits.double(), -1)[:, 1].numpy(), "binary")
    np.testing.assert_allclose(scores, classifier.predict(events, CUTOFF)["score"], atol=1e-5)


def test_a_file_of_scores_has_fixed_size_lists_and_the_same_scores(trained, classifier, tmp_path):
    more = {"part_users": 40}
    given = (trained.model_folder, trained.data, CUTOFF)
    plain = pq.read_table(predict_log(*given, tmp_path / "plain.parquet", **more))
    with_vectors = pq.read_table(predict_log(*given, tmp_path / "vectors.parquet", embeddings=True, **more))
    assert with_vectors.drop_columns("embedding").equals(plain)
    assert with_vectors.schema.field("embedding").type == pa.list_(pa.float32(), 16)
    found = dict(zip(*(with_vectors[name].to_pylist() for name in ("user_id", "embedding")), strict=True))
    for row in classifier.embed(trained.data, CUTOFF).slice(0, 20).to_pylist():
        assert found[row["user_id"]] == pytest.approx(row["embedding"], abs=1e-5)


def test_virtual_tokens_are_refused(classifier):
    class Prompted(torch.nn.Module):
        active_peft_config = type("Config", (), {"is_prompt_learning": True})

    with pytest.raises(InputError, match="virtual tokens"):
        embed_texts(Prompted(), classifier.tokenizer, ["a"])


def test_an_encoder_without_a_pooler_has_the_mean_too():
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    from finetune.model.pooling import pool

    config = DistilBertConfig(vocab_size=50, dim=16, n_layers=1, n_heads=2, hidden_dim=32, attention_dropout=0.0)
    model = DistilBertForSequenceClassification(config).eval()
    batch = {"input_ids": torch.tensor([[1, 5, 6, 0]]), "attention_mask": torch.tensor([[1, 1, 1, 0]])}
    with torch.inference_mode():
        states = model.distilbert(**batch).last_hidden_state[0, :3]
        for how, expected in (("cls", states[0]), ("mean", states.mean(dim=0))):
            model.config.eventscribe = {"pooling": how}
            if how == "mean":
                pool(model, how)
            np.testing.assert_allclose(pooled_states(model, batch)[0], expected, atol=1e-5)
