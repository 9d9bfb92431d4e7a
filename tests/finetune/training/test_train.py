import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from sklearn.metrics import log_loss
from torch.nn.functional import cross_entropy

from data_prep import InputError
from data_prep.prepare import prepare
from data_prep.serializer import EventSerializer
from finetune.evaluation.evaluate import evaluate
from finetune.experiment.parser import parse_experiment
from finetune.model.inference import score_texts
from finetune.model.loading import load_classifier
from finetune.model.objective import Objective, mean_cross_entropy
from finetune.model.tokenization import load_tokenizer
from finetune.report.report import write_report
from finetune.training.pretrain import pretrain
from finetune.training.train import train
from finetune.training.trainer import kept_checkpoint
from tests.finetune.training.tiny_runs import NO_CHANCE, experiment, history, steps

IN_ORDER = ["--training.train_sampling_strategy", "sequential", "--finetuning.patience", "0"]


def evaluations(runs: Path) -> np.ndarray:
    """The metrics of each evaluation that are smooth in the scores; AUROC jumps where rounding swaps a near-tie."""
    found = [entry for entry in history(runs) if "eval_loss" in entry]
    return np.array([[entry[f"eval_{name}"] for name in ("loss", "log_loss", "brier_score")] for entry in found])


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


def test_loss_and_gradient_depend_neither_on_accumulation_nor_on_the_number_of_processes(prepared, tmp_path, commands):
    size = "--training.per_device_train_batch_size"
    fixed = [*NO_CHANCE, *IN_ORDER, "--training.per_device_eval_batch_size", "16"]
    train(experiment(prepared, tmp_path / "one", *fixed, size, "16"))
    accumulated = ["--training.gradient_accumulation_steps", "4", size, "4"]
    train(experiment(prepared, tmp_path / "accumulated", *fixed, *accumulated))
    arguments = ["--config", prepared, "--runs.folder", tmp_path / "two", *fixed, size, "8"]
    if not torch.cuda.is_available():  # found out by itself
        arguments += ["--training.use_cpu", "false"]
    commands.run_two("train.py", *arguments)
    assert json.loads((tmp_path / "two/tiny/training_log.json").read_text())["processes"] == 2
    one = steps(tmp_path / "one")
    assert len(one) == 8
    np.testing.assert_allclose(steps(tmp_path / "accumulated"), one, rtol=1e-4)
    np.testing.assert_allclose(steps(tmp_path / "two"), one, rtol=1e-4)
    rows = pq.read_metadata(experiment(prepared, tmp_path).data_folder / "validation.parquet").num_rows
    assert rows % 16  # the second process would score some rows of the last batch again
    np.testing.assert_allclose(evaluations(tmp_path / "two"), evaluations(tmp_path / "one"), atol=1e-6, rtol=0)


def test_bf16_takes_the_steps_of_float32_without_a_gpu_too(prepared, tmp_path):
    fixed = [*NO_CHANCE, *IN_ORDER, "--training.eval_strategy", "no", "--training.save_strategy", "no"]
    fixed += ["--training.load_best_model_at_end", "false"]
    for name, more in (("float32", []), ("bf16", ["--training.bf16", "true"])):
        train(experiment(prepared, tmp_path / name, *fixed, *more))
    found, expected = steps(tmp_path / "bf16"), steps(tmp_path / "float32")
    assert not np.array_equal(found, expected)
    np.testing.assert_allclose(found, expected, rtol=0.05)
    model, _ = load_classifier(tmp_path / "bf16/tiny/model")
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_masked_language_modelling_does_not_depend_on_accumulation_either(prepared, tmp_path):
    torch.set_num_threads(1)
    runs = {}
    for name, size, accumulation in (("one", 16, 1), ("accumulated", 4, 4)):
        arguments = ["--training.per_device_train_batch_size", str(size), "--model.from_scratch.dropout", "0"]
        arguments += ["--training.gradient_accumulation_steps", str(accumulation)]
        pretrain(experiment(prepared, tmp_path / name, *IN_ORDER, *arguments))
        runs[name] = history(tmp_path / name, "pretrained/pretraining_log.json")[0]["loss"]
    # Other tokens are masked, so the losses are alike but not equal; four times as large is what a wrong scale gives.
    assert runs["accumulated"] == pytest.approx(runs["one"], rel=0.1)


@pytest.mark.parametrize("unit", ["token", "event"])
def test_pretraining_reads_the_histories_of_users_who_are_not_asked_too(tiny, tmp_path, unit):
    with (tmp_path / "log.csv").open("a") as log:
        log.writelines(f"gone{i},2023-12-30 12:00:00,closed,,\n" for i in range(20))  # 30 days before a cutoff
    run = experiment(tiny, tmp_path / "runs", "--pretraining.mask_unit", unit)
    folder = prepare(run.name, run.data, run.task, run.text)
    train, others = (pq.read_table(folder / f"{name}.parquet")["text"] for name in ("train", "unlabelled"))
    assert not any("closed" in text for text in train.to_pylist())
    assert len(others) >= 20
    vocabulary = load_tokenizer(pretrain(run), 64).get_vocab()
    assert "event_type=closed" in vocabulary
    log = json.loads((tmp_path / "runs/tiny/pretrained/pretraining_log.json").read_text())
    assert log["examples"] == len(train) + len(others)


def test_a_length_that_is_no_multiple_of_8_is_pretrained_and_trained(prepared, tmp_path):
    run = experiment(prepared, tmp_path, "--model.max_tokens", "13")
    pretrain(run)
    (folder,) = train(run)
    assert load_classifier(folder)[0].config.max_position_embeddings == 13


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


@pytest.mark.parametrize(
    ("values", "losses", "kept"),
    [
        ([0.70, 0.72, 0.71], [0.6, 0.5, 0.4], 1),  # the last one is worse by more than chance
        ([0.7203, 0.72], [0.693, 0.6], 1),  # the first one says the same of everyone, and ranks no better
        ([0.72, 0.7203], [0.6, 0.693], 0),  # the same in the other order
        ([0.72, 0.7203, 0.7206], [0.6, 0.693, 0.65], 2),  # by now the first one is behind
        ([0.7, 0.6997, 0.6994], [0.6, 0.59, 0.58], 1),  # ties do not add up to a step down
        ([0.7], [0.6], 0),
    ],
)
def test_of_checkpoints_that_are_tied_the_one_with_the_least_loss_is_kept(values, losses, kept):
    assert kept_checkpoint(values, losses) == kept


def test_a_tie_is_broken_by_the_loss_while_training(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr("finetune.training.trainer.TIE", 1.0)  # all are tied
    train(experiment(prepared, tmp_path, *NO_CHANCE, "--training.eval_steps", "2", "--training.learning_rate", "0.02"))
    log = json.loads((tmp_path / "tiny/training_log.json").read_text())
    found = [entry for entry in log["history"] if "eval_loss" in entry]
    best = min(found, key=lambda entry: entry["eval_loss"])
    assert best["eval_auroc"] < max(entry["eval_auroc"] for entry in found)  # or the test shows nothing
    assert log["best_metric"] == best["eval_auroc"]
    assert validation_loss(experiment(prepared, tmp_path)) == pytest.approx(best["eval_log_loss"], abs=1e-5)


def test_the_evaluation_of_the_start_is_no_checkpoint_to_keep(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr("finetune.training.trainer.TIE", 1.0)  # all are tied, so that the start could be the best
    more = ["--training.eval_on_start", "true", "--training.eval_steps", "2", "--training.learning_rate", "1e-9"]
    run = experiment(prepared, tmp_path, *NO_CHANCE, *more)
    train(run)
    states = [json.loads(path.read_text()) for path in run.checkpoint_folder.glob("checkpoint-*/trainer_state.json")]
    assert states
    assert all(state["best_model_checkpoint"] for state in states)


def test_training_stops_early_when_validation_no_longer_improves(prepared, tmp_path):
    arguments = ["--training.max_steps", "60", "--training.eval_steps", "2", "--finetuning.patience", "1"]
    train(experiment(prepared, tmp_path, *NO_CHANCE, *arguments, "--training.learning_rate", "1e-11"))
    assert json.loads((tmp_path / "tiny/training_log.json").read_text())["steps"] == 4


def test_a_model_is_evaluated_with_the_settings_that_it_was_trained_with(prepared, tmp_path):
    train(experiment(prepared, tmp_path, *NO_CHANCE))
    with pytest.raises(InputError, match=r"trained with other settings \(training\.learning_rate: 0\.001\)"):
        evaluate(experiment(prepared, tmp_path, *NO_CHANCE, "--training.learning_rate", "9"))


def test_the_saved_config_has_the_settings_of_the_run(prepared, tmp_path):
    (folder,) = train(experiment(prepared, tmp_path, *NO_CHANCE))
    saved = parse_experiment("", ["--config", str(tmp_path / "tiny/config.yaml")])
    assert evaluate(saved)["test"]["rows"]
    assert train(saved) == [folder]


def test_figures_of_a_model_that_is_replaced_are_gone(prepared, tmp_path):
    run = experiment(prepared, tmp_path, *NO_CHANCE)
    train(run)
    evaluate(run)
    write_report(run.run_folder)
    explained = {"explanation.json", "explanation.html"}
    for name in explained:
        (run.run_folder / name).write_text("{}")
    train(run)
    left = {path.name for path in run.run_folder.iterdir()}
    assert left >= {"model", "config.yaml", "training_log.json"}
    assert not left & {"metrics.json", "report.html", "predictions", *explained}
    assert not (run.run_folder / "model" / "calibration.json").exists()


def test_one_pretraining_serves_every_pooling_and_freeze(prepared, tmp_path):
    pretrain(experiment(prepared, tmp_path))
    assert train(experiment(prepared, tmp_path, "--model.pooling", "mean", "--model.freeze", "embeddings"))


def test_each_seed_is_a_run_and_the_predictions_hold_the_scores_of_each(prepared, tmp_path):
    run = experiment(prepared, tmp_path, "--seeds", "3", "4")
    pretrain(run)
    folders = train(run)
    assert folders == [tmp_path / f"tiny/seed-{seed}/model" for seed in (3, 4)]
    metrics = evaluate(run)
    assert set(metrics["seeds"]) == {"3", "4"}
    test = pq.read_table(run.data_folder / "test.parquet", columns=["text"])["text"].to_pylist()
    scores = [score_texts(*load_classifier(folder), test) for folder in folders]
    assert not np.allclose(*scores)
    found = pq.read_table(tmp_path / "tiny/predictions/test.parquet")
    columns = {"score": scores[0], "score_of_seed_3": scores[0], "score_of_seed_4": scores[1]}
    for name, expected in (columns | {"mean_of_seeds": np.mean(scores, axis=0)}).items():
        np.testing.assert_allclose(found[name].to_numpy(), expected, atol=1e-9)
    write_report(run.run_folder)


FAST = ["--training.learning_rate", "0.003"]


LABELS = {
    "tiers": {"kind": "sum", "field": "amount", "tiers": [0, 30]},
    "counts": {"kind": "count", "tiers": [0, 1, 3]},
    "value": {"kind": "sum", "field": "amount"},
    "propensity": {"kind": "which", "field": "shop", "top": 2},
}


def labelled(tiny: Path, name: str, *arguments: str):
    """The tiny experiment with a label of another kind, and its data prepared."""
    config = yaml.safe_load(tiny.read_text())
    config["task"]["label"] = LABELS[name] | {"where": "event_type = 'purchase'", "horizon": "14 days"}
    config["pretraining"]["max_steps"] = 0
    tiny.write_text(yaml.safe_dump(config), encoding="utf-8")
    run = experiment(tiny, tiny.parent / "runs", *arguments)
    prepare(run.name, run.data, run.task, run.text)
    return run


@pytest.mark.parametrize(
    ("name", "classes", "metric"),
    [
        ("tiers", ["up to 0", "above 0 to 30", "above 30"], "auroc"),
        ("counts", ["up to 0", "above 0 to 1", "above 1 to 3", "above 3"], "auroc"),
        ("value", ["value"], "mae"),
        ("propensity", ["north", "south"], "auroc"),
    ],
)
def test_labels_of_every_kind_are_learned_and_scored_in_their_own_unit(tiny, name, classes, metric):
    run = labelled(tiny, name, "--training.max_steps", "120", "--training.eval_steps", "20", *FAST)
    (folder,) = train(run)
    log = json.loads((run.run_folder / "training_log.json").read_text())
    assert log["metric"] == metric
    evaluations = [entry for entry in log["history"] if f"eval_{metric}" in entry]
    assert log["best_metric"] == (min if metric == "mae" else max)(entry[f"eval_{metric}"] for entry in evaluations)
    model, tokenizer = load_classifier(folder)
    assert sorted(model.config.id2label.values()) == sorted(classes)
    rows = pq.read_table(run.data_folder / "validation.parquet", columns=["text", "label"])
    labels = np.array(rows["label"].to_pylist())
    scores = score_texts(model, tokenizer, rows["text"].to_pylist())
    assert scores.shape == ((len(rows),) if name == "value" else (len(rows), len(classes)))
    objective = Objective.of_model(model.config)
    assert objective.metrics(labels, scores)[metric] == pytest.approx(log["best_metric"], rel=1e-4)
    if name == "value":  # the loss of a batch is mostly that of one large value
        assert np.corrcoef(scores, labels)[0, 1] > 0.1
    else:
        rows = pq.read_table(run.data_folder / "train.parquet", columns=["text", "label"])
        labels = np.array(rows["label"].to_pylist())
        scores = score_texts(model, tokenizer, rows["text"].to_pylist())
        shares = labels.mean(axis=0) if labels.ndim > 1 else np.bincount(labels) / len(labels)
        losses = [objective.metrics(labels, said)["log_loss"] for said in (scores, np.tile(shares, (len(labels), 1)))]
        assert losses[0] < losses[1] * (1 if name == "propensity" else 1.01)  # this log says nothing of the tiers


@pytest.mark.parametrize(
    ("asked", "kind", "learned"),
    [
        (["--finetuning.log_scale", "true"], "log", np.log1p),
        (["--finetuning.value_loss", "absolute_error"], "root", np.sqrt),
    ],
)
def test_values_are_learned_on_the_scale_that_fits_the_loss(tiny, asked, kind, learned):
    run = labelled(tiny, "value", *asked, "--training.learning_rate", "1e-9")
    (folder,) = train(run)
    rows = pq.read_table(run.data_folder / "train.parquet", columns=["label"])["label"].to_numpy()
    scale = load_classifier(folder)[0].config.eventscribe["scale"]
    assert {name for name in ("log", "root") if scale[name]} == {kind}
    factor = json.loads((folder.parent / "training_log.json").read_text()).get("value_factor", 1.0)
    assert scale["mean"] == pytest.approx(learned(rows).mean() * np.sqrt(factor))
    validation = pq.read_table(run.data_folder / "validation.parquet", columns=["text", "label"])
    scores, labels = score_texts(*load_classifier(folder), validation["text"].to_pylist()), validation["label"]
    errors = [np.abs(times * scores - labels.to_numpy()).mean() for times in (1, 0.98, 1.02)]
    assert (errors[0] == min(errors)) == (kind == "root")  # which the factor sees to


def test_weights_of_classes_shift_the_scores_toward_the_heavier_one(prepared, tmp_path):
    means = {}
    test = pq.read_table(experiment(prepared, tmp_path).data_folder / "test.parquet", columns=["text"])["text"]
    for weights in ("none", "auto", '{"churn": 20}'):
        steps = ["--training.max_steps", "40", "--training.load_best_model_at_end", "false"]
        run = experiment(prepared, tmp_path / weights[2:4], *NO_CHANCE, *steps, "--finetuning.class_weights", weights)
        (folder,) = train(run)
        means[weights] = score_texts(*load_classifier(folder), test.to_pylist()).mean()
    assert means["none"] < means["auto"] < means['{"churn": 20}']


def test_a_smoke_run_is_short_and_has_folders_of_its_own(prepared, tmp_path):
    run = experiment(prepared, tmp_path, "--smoke")
    assert run.name == "tiny-smoke"
    assert run.training["max_steps"] == 8  # is shorter by itself
    assert experiment(prepared, tmp_path, "--smoke", "--training.max_steps", "50").training["max_steps"] == 20
    assert run.finetuning.max_train_examples == 1000


def test_training_and_evaluation_take_a_part_of_the_examples_if_asked(prepared, tmp_path, capsys):
    limits = ["--finetuning.max_train_examples", "100", "--finetuning.max_eval_examples", "60"]
    run = experiment(prepared, tmp_path, "--pretraining.max_steps", "0", *limits)
    train(run)
    assert "on 100 examples" in capsys.readouterr().out
    metrics = evaluate(run)
    assert metrics["test"]["rows"] == metrics["validation"]["rows"] == 60


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
    pretrain(experiment(prepared, tmp_path / "base", "--pretraining.learning_rate", "1e-2"))
    with pytest.raises(InputError, match="whose weights are others now"):
        load_classifier(folder)


def test_an_incomplete_batch_is_dropped_in_training_and_never_in_validation(prepared, tmp_path):
    train(experiment(prepared, tmp_path, *NO_CHANCE, "--training.dataloader_drop_last", "true"))
    assert any("eval_auroc" in entry for entry in history(tmp_path))


def test_warming_up_is_shorter_than_the_epochs_that_are_trained(prepared, tmp_path):
    epochs = ["--training.max_steps", "-1", "--training.num_train_epochs", "1", "--training.warmup_steps", "999"]
    with pytest.raises(InputError, match="rise over 999 steps, and training has"):
        train(experiment(prepared, tmp_path, *NO_CHANCE, *epochs))


def test_a_report_shows_no_pretraining_that_the_model_did_not_have(prepared, tmp_path):
    pretrain(experiment(prepared, tmp_path))
    run = experiment(prepared, tmp_path, "--pretraining.max_steps", "0")
    train(run)
    assert "pretrain" not in evaluate(run)["made"]["seconds"]
    assert "Pretraining" not in write_report(run.run_folder).read_text()
