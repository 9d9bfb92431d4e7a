"""What only a GPU can show: `python -m pytest -m gpu` on a machine with CUDA; elsewhere none of it is selected."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from data_prep.serializer import EventSerializer
from finetune.evaluation.evaluate import evaluate
from finetune.experiment.parser import parse_experiment
from finetune.model.inference import for_scoring, score_texts
from finetune.model.loading import load_classifier
from finetune.model.modeling import compile_layers
from finetune.model.packing import ATTENTION, batches_for, pack
from finetune.model.tokenization import padded, train_tokenizer
from finetune.serving.classifier import EventClassifier
from finetune.training.pretrain import pretrain
from finetune.training.train import train

pytestmark = pytest.mark.gpu

SIZES = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
SAME = ["--training.use_cpu", "false", "--model.from_scratch.dropout", "0", "--finetuning.patience", "0"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([" ".join(f"w{i}" for i in range(200))], 512)


@pytest.fixture(scope="module")
def ids(tokenizer):
    random = np.random.default_rng(0)
    lengths = random.integers(3, 512, 60)
    return [np.r_[2, random.integers(5, len(tokenizer), length - 2), 3] for length in lengths]


@pytest.fixture
def model(tokenizer):
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(tokenizer), attention_probs_dropout_prob=0.0, **SIZES)
    config.eventscribe = {"task": "binary", "scale": None, "pooling": "cls", "base": None}
    return BertForSequenceClassification(config).cuda().eval()


def moved(batch: dict) -> dict:
    return {key: part.cuda() if torch.is_tensor(part) else part for key, part in batch.items()}


@torch.no_grad()
def logits(model, batch: dict) -> torch.Tensor:
    return model(**moved(batch)).logits.float()


def test_packed_equals_padded_in_float32_and_in_bf16(model, tokenizer, ids):
    expected = logits(model, padded(tokenizer, ids))
    assert pack(model, "cls")
    packed = batches_for(model, tokenizer)(ids)
    torch.testing.assert_close(logits(model, packed), expected, atol=1e-4, rtol=0)
    fastest = for_scoring(model)
    assert fastest is not model
    assert fastest.config._attn_implementation == ATTENTION
    torch.testing.assert_close(logits(fastest, packed), expected, atol=1e-2, rtol=0)


def test_layers_that_are_compiled_give_the_same_logits_for_any_batch(model, tokenizer, ids):
    pack(model, "cls")
    make_batch = batches_for(model, tokenizer)
    parts = [ids[:7], ids[7:30], ids[30:]]
    expected = [logits(model, make_batch(part)) for part in parts]
    compile_layers(model)
    for part, one in zip(parts, expected, strict=True):
        torch.testing.assert_close(logits(model, make_batch(part)), one, atol=1e-4, rtol=0)


def run(prepared, folder, *arguments: str):
    """A training on the GPU; the loss and the gradient's norm of each step, and the experiment."""
    given = ["--config", str(prepared), "--runs.folder", str(folder), "--pretraining.max_steps", "0"]
    experiment = parse_experiment("", [*given, *SAME, *arguments])
    train(experiment)
    log = json.loads((experiment.run_folder / "training_log.json").read_text())
    assert log["device"].startswith("cuda")
    return np.array([(row["loss"], row["grad_norm"]) for row in log["history"] if "grad_norm" in row]), experiment


@pytest.fixture(scope="module")
def full(prepared, tmp_path_factory):
    return run(prepared, tmp_path_factory.mktemp("fp32"))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_takes_the_steps_of_float32(prepared, full, tmp_path, precision):
    found, _ = run(prepared, tmp_path, f"--training.{precision}", "true")
    np.testing.assert_allclose(found[:, 0], full[0][:, 0], atol=1e-2)
    np.testing.assert_allclose(found[:, 1], full[0][:, 1], rtol=0.1)


def test_a_gpu_takes_the_steps_of_a_cpu(prepared, full, tmp_path):
    in_order = ["--training.train_sampling_strategy", "sequential"]  # else a GPU draws them and a CPU groups them
    found, _ = run(prepared, tmp_path / "gpu", *in_order)
    given = ["--config", str(prepared), "--runs.folder", str(tmp_path / "cpu"), "--pretraining.max_steps", "0"]
    experiment = parse_experiment("", [*given, *SAME[2:], *in_order])
    train(experiment)
    log = json.loads((experiment.run_folder / "training_log.json").read_text())
    expected = np.array([(row["loss"], row["grad_norm"]) for row in log["history"] if "grad_norm" in row])
    np.testing.assert_allclose(found, expected, rtol=2e-3)


def test_accumulated_batches_take_the_steps_of_a_large_one(prepared, tmp_path):
    found = []
    for size, accumulation in ((16, 1), (4, 4)):
        sizes = [
            "--training.per_device_train_batch_size",
            str(size),
            "--training.train_sampling_strategy",
            "sequential",
        ]
        arguments = [*sizes, "--training.gradient_accumulation_steps", str(accumulation)]
        found.append(run(prepared, tmp_path / str(size), *arguments)[0])
    np.testing.assert_allclose(found[0], found[1], rtol=2e-3)


def test_a_run_that_was_stopped_takes_the_steps_of_one_that_was_not(prepared, tmp_path):
    saving = ["--training.save_strategy", "steps", "--training.save_steps", "4", "--training.eval_steps", "4"]
    expected, experiment = run(prepared, tmp_path / "whole", *saving)
    stopped = tmp_path / "stopped" / experiment.name
    checkpoints = experiment.run_folder / "checkpoints"
    shutil.copytree(checkpoints, stopped / "checkpoints")
    shutil.rmtree(stopped / "checkpoints" / "checkpoint-8")
    origin = stopped / "checkpoints" / "origin.json"
    origin.write_text(json.dumps(json.loads(origin.read_text()) | {"finished": False}))
    found, _ = run(prepared, tmp_path / "stopped", *saving, "--training.logging_steps", "1")
    np.testing.assert_allclose(found[-4:], expected[-4:], rtol=1e-3)


def test_an_adapter_is_pretrained_on_trained_saved_and_scores_alike_merged_in_bf16(prepared, tmp_path):
    given = ["--config", str(prepared), "--runs.folder", str(tmp_path), "--pretraining.max_steps", "4", *SAME]
    lora = '{"method": "lora", "r": 4, "target_modules": ["query", "value"]}'
    experiment = parse_experiment("", [*given, "--model.peft", lora, "--training.bf16", "true"])
    pretrain(experiment)
    train(experiment)
    model, tokenizer = load_classifier(experiment.run_folder / "model")
    texts = pq.read_table(experiment.data_folder / "test.parquet", columns=["text"])["text"].to_pylist()
    exact = score_texts(model, tokenizer, texts)
    np.testing.assert_allclose(score_texts(for_scoring(model), tokenizer, texts), exact, atol=5e-3)
    np.testing.assert_allclose(score_texts(model.cpu(), tokenizer, texts), exact, atol=1e-5)


def test_raw_events_get_the_scores_of_the_evaluation(full):
    _, experiment = full
    evaluate(experiment)
    expected = pq.read_table(experiment.run_folder / "predictions/test.parquet").to_pandas()
    classifier = EventClassifier.from_pretrained(experiment.run_folder / "model")
    for cutoff, rows in expected.groupby("cutoff"):
        found = classifier.predict(experiment.data, cutoff.to_pydatetime()).to_pandas().set_index("user_id")
        np.testing.assert_allclose(found.loc[rows.user_id].score, rows.score, atol=5e-3)
    assert next(classifier.fastest.parameters()).is_cuda


def test_export_and_explanation_run_on_the_model_of_a_gpu(full, tmp_path):
    from finetune.hub.export import export_onnx
    from finetune.serving.attribution import attribute

    _, experiment = full
    model, tokenizer = load_classifier(experiment.run_folder / "model")
    texts = pq.read_table(experiment.data_folder / "test.parquet", columns=["text"])["text"].to_pylist()[:8]
    serializer = EventSerializer.from_pretrained(experiment.run_folder / "model")
    for found in attribute(model, tokenizer, serializer, texts, bar=False):
        assert np.isfinite(found.events).all()
    export_onnx(experiment.run_folder / "model", tmp_path / "model.onnx")
