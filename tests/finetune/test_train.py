import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import log_loss
from torch.nn.functional import cross_entropy

from data_prep import InputError
from data_prep.prepare import prepare
from data_prep.serializer import EventSerializer
from finetune.config import parse_experiment
from finetune.evaluation import evaluate
from finetune.objective import mean_cross_entropy
from finetune.pretrain import pretrain
from finetune.scoring import load_classifier, score_texts
from finetune.train import train

TRAIN = Path(__file__).parents[2] / "scripts" / "train.py"
NO_CHANCE = ["--pretraining.max_steps", "0", "--model.from_scratch.dropout", "0"]
IN_ORDER = ["--training.train_sampling_strategy", "sequential", "--evaluation.patience", "0"]


def experiment(config: Path, runs: Path, *arguments: str):
    return parse_experiment("", ["--config", str(config), "--evaluation.folder", str(runs), *arguments])


def history(runs: Path, name: str = "training_log.json") -> list[dict]:
    return json.loads((runs / "tiny" / name).read_text())["history"]


def steps(runs: Path) -> np.ndarray:
    """Loss and gradient norm of each step."""
    return np.array([(entry["loss"], entry["grad_norm"]) for entry in history(runs) if "grad_norm" in entry])


def evaluations(runs: Path) -> np.ndarray:
    """The metrics of each evaluation that are smooth in the scores; AUROC jumps where rounding swaps a near-tie."""
    found = [entry for entry in history(runs) if "eval_loss" in entry]
    return np.array([(entry["eval_log_loss"], entry["eval_brier_score"]) for entry in found])


def validation_loss(experiment) -> float:
    """Of the saved model, loaded anew; smooth in the weights, where AUROC jumps at near-ties."""
    rows = pq.read_table(experiment.data_folder / "validation.parquet", columns=["text", "label"])
    scores = score_texts(*load_classifier(experiment.run_folder / "model"), rows["text"].to_pylist())
    return log_loss(rows["label"].to_numpy(), scores)


def best_evaluation(log: dict) -> dict:
    return max((entry for entry in log["history"] if "eval_auroc" in entry), key=lambda entry: entry["eval_auroc"])


def test_the_loss_is_the_mean_over_all_labelled_items_of_a_step():
    logits, labels = torch.randn(6, 3, 5), torch.randint(0, 5, (6, 3))
    labels[0, 0] = -100
    expected = cross_entropy(logits.flatten(0, 1), labels.flatten())
    assert torch.allclose(mean_cross_entropy({"logits": logits}, labels), expected)
    count = (labels != -100).sum()
    halves = [mean_cross_entropy({"logits": logits[h]}, labels[h], count) for h in (slice(0, 2), slice(2, 6))]
    assert torch.allclose(sum(halves), expected)


def test_loss_and_gradient_depend_neither_on_accumulation_nor_on_the_number_of_processes(prepared, tmp_path):
    size = "--training.per_device_train_batch_size"
    fixed = [*NO_CHANCE, *IN_ORDER, "--training.per_device_eval_batch_size", "16"]
    train(experiment(prepared, tmp_path / "one", *fixed, size, "16"))
    accumulated = ["--training.gradient_accumulation_steps", "4", size, "4"]
    train(experiment(prepared, tmp_path / "accumulated", *fixed, *accumulated))
    arguments = ["--config", prepared, "--evaluation.folder", tmp_path / "two", *fixed, size, "8"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29533", TRAIN]
    done = subprocess.run([*map(str, [*launch, *arguments])], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "two/tiny/training_log.json").read_text())["processes"] == 2
    one = steps(tmp_path / "one")
    assert len(one) == 8
    np.testing.assert_allclose(steps(tmp_path / "accumulated"), one, rtol=1e-4)
    np.testing.assert_allclose(steps(tmp_path / "two"), one, rtol=1e-4)
    rows = pq.read_metadata(experiment(prepared, tmp_path).data_folder / "validation.parquet").num_rows
    assert rows % 16  # the second process would score some rows of the last batch again
    np.testing.assert_allclose(evaluations(tmp_path / "two"), evaluations(tmp_path / "one"), atol=1e-6, rtol=0)


def test_masked_language_modelling_does_not_depend_on_accumulation_either(prepared, tmp_path):
    torch.set_num_threads(1)
    runs = {}
    for name, size, accumulation in (("one", 16, 1), ("accumulated", 4, 4)):
        arguments = ["--training.per_device_train_batch_size", str(size), "--model.from_scratch.dropout", "0"]
        arguments += ["--training.gradient_accumulation_steps", str(accumulation)]
        pretrain(experiment(prepared, tmp_path / name, *IN_ORDER, *arguments))
        runs[name] = history(tmp_path / name, "pretraining_log.json")[0]["loss"]
    # Other tokens are masked, so the losses are alike but not equal; four times as large is what a wrong scale gives.
    assert runs["accumulated"] == pytest.approx(runs["one"], rel=0.1)


def test_a_run_is_repeatable_and_its_model_is_complete(prepared, tmp_path):
    for runs in (tmp_path / "a", tmp_path / "b"):
        pretrain(experiment(prepared, runs))
        train(experiment(prepared, runs))
    folder = tmp_path / "a" / "tiny" / "model"
    weights = [(tmp_path / runs / "tiny/model/model.safetensors").read_bytes() for runs in "ab"]
    assert weights[0] == weights[1]
    assert EventSerializer.from_pretrained(folder).to_json()
    model, tokenizer = load_classifier(folder)
    assert model.config.id2label == {0: "no_churn", 1: "churn"}
    texts = ["recency_days=1 [SEP] d=3", "recency_days=9 [SEP] d=3 gap=2 event_type=purchase", "recency_days=2"]
    together = score_texts(model, tokenizer, texts)
    alone = [score_texts(model, tokenizer, [text])[0] for text in texts]
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_the_best_checkpoint_is_kept(prepared, tmp_path):
    train(experiment(prepared, tmp_path, *NO_CHANCE, "--training.eval_steps", "2", "--training.learning_rate", "0.02"))
    log = json.loads((tmp_path / "tiny/training_log.json").read_text())
    best = best_evaluation(log)
    assert log["best_metric"] == best["eval_auroc"]
    assert best["step"] < log["steps"]
    assert validation_loss(experiment(prepared, tmp_path)) == pytest.approx(best["eval_log_loss"], abs=1e-5)


def test_training_stops_early_when_validation_no_longer_improves(prepared, tmp_path):
    arguments = ["--training.max_steps", "60", "--training.eval_steps", "2", "--evaluation.patience", "1"]
    train(experiment(prepared, tmp_path, *NO_CHANCE, *arguments, "--training.learning_rate", "0"))
    assert json.loads((tmp_path / "tiny/training_log.json").read_text())["steps"] == 4


def test_a_stopped_run_resumes_to_the_same_weights(prepared, tmp_path):
    saving = ["--training.save_strategy", "steps", "--training.save_steps", "3", "--training.save_total_limit", "9"]
    saving += ["--training.load_best_model_at_end", "false", "--training.max_steps", "50"]  # more than one epoch
    (folder,) = train(experiment(prepared, tmp_path, "--pretraining.max_steps", "0", *saving))
    undisturbed = (folder / "model.safetensors").read_bytes()
    checkpoints = tmp_path / "tiny" / "checkpoints"
    for step in (42, 45, 48, 50):
        shutil.rmtree(checkpoints / f"checkpoint-{step}")
    again = [*saving, "--training.resume_from_checkpoint", "true"]
    train(experiment(prepared, tmp_path, "--pretraining.max_steps", "0", *again))
    assert (folder / "model.safetensors").read_bytes() == undisturbed


def test_lora_trains_the_adapter_and_the_head_and_loads_back_with_the_same_scores(prepared, tmp_path):
    base = experiment(prepared, tmp_path / "base")
    pretrain(base)
    start = tmp_path / "base" / "tiny" / "pretrained"
    lora = '{"method": "lora", "r": 4, "target_modules": ["query", "value"]}'
    arguments = ["--model.name_or_path", str(start), "--model.peft", lora, "--pretraining.max_steps", "0"]
    (folder,) = train(experiment(prepared, tmp_path, *arguments))
    log = json.loads((tmp_path / "tiny/training_log.json").read_text())
    assert 0 < log["trainable_parameters"] < log["total_parameters"] / 4
    assert (folder / "adapter_model.safetensors").stat().st_size < 20_000
    assert load_classifier(folder)[0].config.id2label == {0: "no_churn", 1: "churn"}
    expected = best_evaluation(log)["eval_log_loss"]
    assert validation_loss(experiment(prepared, tmp_path)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--model.peft", '{"method": "lora"}'], "pretraining.max_steps"),
        (["--model.name_or_path", "no/such-model"], "no/such-model"),
        (["--training.lr_scheduler_type", "linera"], "linera"),
        (["--training.report_to", "wandb"], "wandb"),
        (["--training.eval_strategy", "no"], "eval_strategy"),
        (["--training.metric_for_best_model", "foo"], "foo"),
        (["--training.per_device_train_batch_size", "0"], "per_device_train_batch_size"),
        (["--training.learning_rate", "-1"], "learning_rate"),
        (["--training.max_steps", "0"], "max_steps"),
        (["--training.resume_from_checkpoint", "true"], "resume_from_checkpoint"),
        (["--training.resume_from_checkpoint", "nowhere"], "nowhere"),
    ],
)
def test_a_setting_that_a_library_refuses_is_named(prepared, tmp_path, arguments, named):
    with pytest.raises(InputError, match=named) as refused:
        train(experiment(prepared, tmp_path, "--pretraining.max_steps", "0", *arguments))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "tiny").exists()


@pytest.mark.parametrize(("peft", "named"), [({"method": "magic"}, "magic"), ({"method": "lora", "rank": 4}, "rank")])
def test_a_peft_method_or_field_that_peft_does_not_know_is_named(prepared, tmp_path, peft, named):
    pretrain(experiment(prepared, tmp_path))
    with pytest.raises(InputError, match=named):
        train(experiment(prepared, tmp_path, "--model.peft", json.dumps(peft)))


def test_data_pretraining_and_model_of_other_settings_are_refused(tiny, tmp_path):
    def step(run, *arguments):
        return run(experiment(tiny, tmp_path / "runs", *arguments))

    def prepare_again(made):
        return prepare(made.name, made.data, made.task, made.text)

    step(prepare_again)
    step(pretrain)
    with pytest.raises(InputError, match=r"`task`; run scripts/prepare\.py"):
        step(train, "--task.label.horizon", "7 days")
    with pytest.raises(InputError, match=r"settings of model or pretraining; run scripts/pretrain\.py"):
        step(train, "--model.from_scratch.hidden_size", "32")
    step(train)
    shorter = ["--text.max_events", "2"]
    with pytest.raises(InputError, match=r"`text`; run scripts/prepare\.py"):
        step(evaluate, *shorter)
    step(prepare_again, *shorter)
    with pytest.raises(InputError, match=r"run scripts/pretrain\.py"):
        step(train, *shorter)
    with pytest.raises(InputError, match=r"other data .* run scripts/train\.py"):
        step(evaluate, *shorter)


def test_a_run_without_pretraining_keeps_no_log_of_an_earlier_one(prepared, tmp_path):
    pretrain(experiment(prepared, tmp_path))
    train(experiment(prepared, tmp_path, "--pretraining.max_steps", "0"))
    assert not (tmp_path / "tiny" / "pretraining_log.json").exists()


def test_training_before_preparing_or_pretraining_names_the_command_to_run(prepared, tiny, tmp_path):
    with pytest.raises(InputError, match=r"prepare\.py"):
        train(experiment(tiny, tmp_path / "runs"))
    with pytest.raises(InputError, match=r"pretrain\.py"):
        train(experiment(prepared, tmp_path / "runs"))
