import json
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file
from sklearn.metrics import log_loss
from torch.nn.functional import cross_entropy

from data_prep import InputError
from data_prep.prepare import prepare
from data_prep.serializer import EventSerializer
from finetune.effects import with_effect
from finetune.evaluation.evaluate import evaluate
from finetune.model.inference import score_texts
from finetune.model.loading import load_classifier
from finetune.model.objective import Objective, mean_cross_entropy
from finetune.model.tokenization import load_tokenizer
from finetune.parser import parse_experiment
from finetune.report.report import write_report
from finetune.runs import read_trained_settings
from finetune.training.checkpoints import alone
from finetune.training.pretrain import pretrain
from finetune.training.train import train
from tests.commands import Command

NO_CHANCE = ["--pretraining.max_steps", "0", "--model.from_scratch.dropout", "0"]
TOLD = ("step", "loss", "grad_norm", "learning_rate", "eval_auroc", "eval_loss")  # of a log's entry, without times
IN_ORDER = ["--training.train_sampling_strategy", "sequential", "--finetuning.patience", "0"]


def experiment(config: Path, runs: Path, *arguments: str):
    return parse_experiment("", ["--config", str(config), "--runs.folder", str(runs), *arguments])


def history(runs: Path, name: str = "training_log.json") -> list[dict]:
    return json.loads((runs / "tiny" / name).read_text())["history"]


def steps(runs: Path) -> np.ndarray:
    """Loss and gradient norm of each step."""
    return np.array([(entry["loss"], entry["grad_norm"]) for entry in history(runs) if "grad_norm" in entry])


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


def kill_once_there(command: Command, file: Path) -> None:
    limit = time.monotonic() + 600  # it takes seconds, but for a machine that others use
    while not file.is_file() and time.monotonic() < limit:
        time.sleep(0.01)
    assert command.kill() == -signal.SIGKILL, command.output.read_text()


def test_pretraining_is_done_once_and_a_killed_one_continues(prepared, tmp_path, capsys, commands):
    saving = ["--pretraining.max_steps", "300", "--training.save_steps", "20"]
    run = experiment(prepared, tmp_path, *saving)
    command = commands.start("pretrain.py", "--config", prepared, "--runs.folder", tmp_path, *saving)
    checkpoints = run.run_folder / "pretraining"
    kill_once_there(command, checkpoints / "checkpoint-40" / "checksums.json")
    assert not (run.run_folder / "pretrained").exists()
    folder = pretrain(run)
    assert f"continuing from {checkpoints}" in capsys.readouterr().out
    log = json.loads((folder / "pretraining_log.json").read_text())
    assert log["steps"] == 300
    assert sorted({entry["step"] for entry in log["history"] if "loss" in entry}) == list(range(1, 301))
    assert not checkpoints.exists()
    made = folder.stat().st_mtime_ns
    pretrain(experiment(prepared, tmp_path, *saving, "--training.learning_rate", "0.1"))  # is that of fine-tuning
    assert folder.stat().st_mtime_ns == made
    assert "is there already" in capsys.readouterr().out
    pretrain(experiment(prepared, tmp_path, *saving, "--training.weight_decay", "0.1", "--pretraining.max_steps", "4"))
    assert folder.stat().st_mtime_ns > made


def test_pretraining_continues_a_checkpoint(prepared, tmp_path):
    start = pretrain(experiment(prepared, tmp_path / "first"))
    arguments = ["--model.name_or_path", str(start), "--pretraining.learning_rate", "1e-9"]
    folder = pretrain(experiment(prepared, tmp_path / "second", *arguments))
    one, other = (load_file(made / "model.safetensors") for made in (start, folder))
    assert one.keys() == other.keys()
    assert all(torch.allclose(one[name], other[name], atol=1e-8) for name in one)


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


def test_training_stops_early_when_validation_no_longer_improves(prepared, tmp_path):
    arguments = ["--training.max_steps", "60", "--training.eval_steps", "2", "--finetuning.patience", "1"]
    train(experiment(prepared, tmp_path, *NO_CHANCE, *arguments, "--training.learning_rate", "1e-11"))
    assert json.loads((tmp_path / "tiny/training_log.json").read_text())["steps"] == 4


def test_a_stopped_run_resumes_to_the_same_weights(prepared, tmp_path):
    saving = ["--training.save_strategy", "steps", "--training.save_steps", "3", "--training.save_total_limit", "9"]
    saving += ["--training.load_best_model_at_end", "false", "--training.max_steps", "50"]  # more than one epoch
    (folder,) = train(experiment(prepared, tmp_path, "--pretraining.max_steps", "0", *saving))
    undisturbed = (folder / "model.safetensors").read_bytes()
    checkpoints = tmp_path / "tiny" / "checkpoints"
    for step in (42, 45, 48, 50):
        shutil.rmtree(checkpoints / f"checkpoint-{step}")
    state = json.loads((checkpoints / "checkpoint-39" / "trainer_state.json").read_text())
    before = state["stateful_callbacks"]["Clock"]["attributes"]["before"]
    again = [*saving, "--training.resume_from_checkpoint", "true"]
    train(experiment(prepared, tmp_path, "--pretraining.max_steps", "0", *again))
    assert (folder / "model.safetensors").read_bytes() == undisturbed
    state = json.loads((checkpoints / "checkpoint-42" / "trainer_state.json").read_text())
    assert state["stateful_callbacks"]["Clock"]["attributes"]["before"] > before > 0  # of both parts


def test_a_killed_run_continues_by_itself_to_the_same_weights_and_metrics(prepared, tmp_path, commands):
    saving = ["--training.max_steps", "80", "--training.eval_steps", "5", "--training.save_strategy", "steps"]
    saving += ["--training.save_steps", "5", "--finetuning.event_dropout", "0.3", "--pretraining.max_steps", "0"]
    undisturbed = experiment(prepared, tmp_path / "undisturbed", *saving)
    train(undisturbed)
    again = experiment(prepared, tmp_path / "killed", *saving)
    command = commands.start("train.py", "--config", prepared, "--runs.folder", tmp_path / "killed", *saving)
    kill_once_there(command, again.run_folder / "checkpoints" / "checkpoint-20" / "trainer_state.json")
    assert not (again.run_folder / "model").exists()
    train(again)
    logs = [json.loads((run.run_folder / "training_log.json").read_text()) for run in (undisturbed, again)]
    told = [[{k: v for k, v in entry.items() if k in TOLD} for entry in log["history"]] for log in logs]
    assert told[0] == told[1]
    weights = [(run.run_folder / "model/model.safetensors").read_bytes() for run in (undisturbed, again)]
    assert weights[0] == weights[1]


def stopped(prepared: Path, runs: Path, *arguments: str) -> Path:
    """The checkpoints of a run that was stopped after step 8; there are those of steps 4 and 8."""
    arguments = ["--pretraining.max_steps", "0", "--training.save_strategy", "steps", *arguments]
    run = experiment(prepared, runs, *arguments, "--training.save_steps", "4")
    train(run)
    checkpoints = run.run_folder / "checkpoints"
    origin = json.loads((checkpoints / "origin.json").read_text())
    assert origin["finished"]
    (checkpoints / "origin.json").write_text(json.dumps(origin | {"finished": False}))
    return checkpoints


SAVING = ["--pretraining.max_steps", "0", "--training.save_strategy", "steps", "--training.save_steps", "4"]


@pytest.mark.parametrize("lost", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_checkpoint_that_lost_a_file_is_not_continued(prepared, tmp_path, capsys, lost):
    checkpoints = stopped(prepared, tmp_path)
    (checkpoints / "checkpoint-8" / lost).unlink()
    (checkpoints / "checkpoint-4" / lost).unlink()
    train(experiment(prepared, tmp_path, *SAVING))
    assert f"{checkpoints / 'checkpoint-4'} is damaged, and there is none before it" in capsys.readouterr().out


def test_two_processes_resume_to_the_same_weights_too(prepared, tmp_path, commands):
    """In the middle of an epoch that is not the first."""
    arguments = [*NO_CHANCE, "--training.save_strategy", "steps", "--training.save_steps", "8"]
    arguments += ["--training.max_steps", "32", "--training.eval_steps", "8", "--training.save_total_limit", "9"]
    weights, run = [], tmp_path / "tiny"
    for _ in range(2):
        printed = commands.run_two("train.py", "--config", prepared, "--runs.folder", tmp_path, *arguments)
        weights.append((run / "model/model.safetensors").read_bytes())
        shutil.rmtree(run / "checkpoints/checkpoint-32")
        marker = run / "checkpoints/origin.json"
        marker.write_text(json.dumps(json.loads(marker.read_text()) | {"finished": False}))
    assert "continuing from" in printed
    assert weights[0] == weights[1]


def test_a_run_that_failed_before_its_first_checkpoint_blocks_no_other_settings(prepared, tmp_path):
    with pytest.raises(InputError, match=r"learning_rate 1e\+30: the weights are no numbers"):
        train(experiment(prepared, tmp_path, "--pretraining.max_steps", "0", "--training.learning_rate", "1e30"))
    train(experiment(prepared, tmp_path, "--pretraining.max_steps", "0"))


def shortened(content: bytes) -> bytes:
    return content[:-20]


def zeroed(content: bytes) -> bytes:
    """As after a machine stopped: the length is there, the last block is not."""
    return content[:-20] + bytes(20)


@pytest.mark.parametrize(
    ("broken", "how"),
    [
        ("model.safetensors", shortened),
        ("optimizer.pt", zeroed),
        ("model.safetensors", zeroed),
        ("trainer_state.json", zeroed),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(prepared, tmp_path, capsys, broken, how):
    checkpoints = stopped(prepared, tmp_path)
    weights = (checkpoints.parent / "model/model.safetensors").read_bytes()
    file = checkpoints / "checkpoint-8" / broken
    file.write_bytes(how(file.read_bytes()))
    train(experiment(prepared, tmp_path, *SAVING))
    printed = capsys.readouterr().out
    assert f"{checkpoints / 'checkpoint-8'} is damaged" in printed
    assert f"continuing from {checkpoints / 'checkpoint-4'}" in printed
    assert (checkpoints / "checkpoint-8" / "checksums.json").is_file()  # written anew
    assert (checkpoints.parent / "model/model.safetensors").read_bytes() == weights


def test_a_stopped_run_is_not_continued_with_other_settings_or_data(prepared, tmp_path, capsys):
    checkpoints = stopped(prepared, tmp_path)
    before = sorted(checkpoints.rglob("*"))
    with pytest.raises(InputError, match=r"training\.learning_rate: 0\.001.* choose another --name"):
        train(experiment(prepared, tmp_path, *SAVING, "--training.learning_rate", "0.01"))
    assert sorted(checkpoints.rglob("*")) == before
    train(experiment(prepared, tmp_path, *SAVING, "--training.logging_steps", "2"))
    assert "continuing" in capsys.readouterr().out
    stopped(prepared, tmp_path)
    anew = ["--training.learning_rate", "0.01", "--training.resume_from_checkpoint", "false"]
    train(experiment(prepared, tmp_path, *SAVING, *anew))
    assert "continuing" not in capsys.readouterr().out


def test_a_finished_run_is_trained_anew_with_the_same_settings_only_unless_it_is_given_up(prepared, tmp_path, capsys):
    (folder,) = train(experiment(prepared, tmp_path, *NO_CHANCE))
    train(experiment(prepared, tmp_path, *NO_CHANCE))
    assert "continuing" not in capsys.readouterr().out
    weights = (folder / "model.safetensors").read_bytes()
    other = [*NO_CHANCE, "--training.learning_rate", "0.01"]
    for step in (train, pretrain):
        with pytest.raises(InputError, match=r"a finished run of other settings \(pretraining\.max_steps: 0\)"):
            step(experiment(prepared, tmp_path, *other, "--pretraining.max_steps", "4"))
    assert (folder / "model.safetensors").read_bytes() == weights
    train(experiment(prepared, tmp_path, *other, "--training.resume_from_checkpoint", "false"))
    assert (folder / "model.safetensors").read_bytes() != weights


def test_a_finished_run_is_kept_whatever_lies_beside_it(prepared, tmp_path):
    """Without its checkpoints, and with a config that was saved by a run that replaced another one."""
    anew = ["--training.resume_from_checkpoint", "false"]
    (folder,) = train(experiment(prepared, tmp_path, *NO_CHANCE, *anew))
    shutil.rmtree(tmp_path / "tiny" / "checkpoints")
    saved = parse_experiment("", ["--config", str(tmp_path / "tiny/config.yaml"), "--training.learning_rate", "0.1"])
    weights = (folder / "model.safetensors").read_bytes()
    with pytest.raises(InputError, match="a finished run of other settings"):
        train(saved)
    assert (folder / "model.safetensors").read_bytes() == weights


def test_settings_without_effect_that_an_older_version_told_of_are_no_other_settings(trained, tmp_path):
    log = json.loads((trained.run_folder / "training_log.json").read_text())
    log["settings"] |= {"training.logging_nan_inf_filter": "True"}
    (tmp_path / "training_log.json").write_text(json.dumps(log))
    assert with_effect(read_trained_settings(tmp_path)) == read_trained_settings(trained.run_folder)


def test_a_model_is_evaluated_with_the_settings_that_it_was_trained_with(prepared, tmp_path):
    train(experiment(prepared, tmp_path, *NO_CHANCE))
    with pytest.raises(InputError, match=r"trained with other settings \(training\.learning_rate: 0\.001\)"):
        evaluate(experiment(prepared, tmp_path, *NO_CHANCE, "--training.learning_rate", "9"))


def test_the_saved_config_has_the_settings_of_the_run(prepared, tmp_path):
    (folder,) = train(experiment(prepared, tmp_path, *NO_CHANCE))
    saved = parse_experiment("", ["--config", str(tmp_path / "tiny/config.yaml")])
    assert evaluate(saved)["test"]["rows"]
    assert train(saved) == [folder]


def test_two_commands_do_not_train_in_one_folder(prepared, tmp_path):
    run = experiment(prepared, tmp_path, *NO_CHANCE)
    with alone(run.run_folder, True), pytest.raises(InputError, match="is being trained by another command"):
        train(run)
    train(run)


def test_weights_that_have_learned_from_later_histories_are_refused(prepared, tiny, tmp_path):
    """Their words would tell of the time that the model is tested on."""
    start = pretrain(experiment(prepared, tmp_path / "late"))
    (model,) = train(experiment(prepared, tmp_path / "late"))
    early = ["--task.cutoffs", '{"train": ["2024-01-29"], "validation": ["2024-02-12"], "test": ["2024-03-18"]}']
    made = experiment(tiny, tmp_path / "runs", *early)
    prepare(made.name, made.data, made.task, made.text)
    for weights, seen in ((start, "2024-02-19"), (model, "2024-03-04")):
        for steps, step in (("0", train), ("4", pretrain)):
            more = ["--model.name_or_path", str(weights), "--pretraining.max_steps", steps]
            with pytest.raises(InputError, match=f"has learned from histories up to {seen}, .* is 2024-02-12"):
                step(experiment(tiny, tmp_path / "runs", *early, *more))


def test_a_checkpoint_of_other_settings_is_not_continued_by_its_name_either(prepared, tmp_path):
    asked = ["--training.resume_from_checkpoint", str(stopped(prepared, tmp_path / "one") / "checkpoint-4")]
    with pytest.raises(InputError, match=r"other settings \(training\.learning_rate: 0\.001\)"):
        train(experiment(prepared, tmp_path / "two", *SAVING, *asked, "--training.learning_rate", "0.01"))
    train(experiment(prepared, tmp_path / "two", *SAVING, *asked))


def test_a_run_of_several_seeds_and_one_without_do_not_share_a_folder(prepared, tmp_path):
    train(experiment(prepared, tmp_path / "one", *NO_CHANCE))
    with pytest.raises(InputError, match="holds a run without --seeds"):
        train(experiment(prepared, tmp_path / "one", *NO_CHANCE, "--seeds", "0", "1"))
    train(experiment(prepared, tmp_path / "two", *NO_CHANCE, "--seeds", "0"))
    with pytest.raises(InputError, match="holds a run of several --seeds"):
        train(experiment(prepared, tmp_path / "two", *NO_CHANCE))


def test_of_several_seeds_those_that_had_finished_are_not_trained_again(prepared, tmp_path):
    run = experiment(prepared, tmp_path, *NO_CHANCE, "--seeds", "0", "1")
    train(run)
    logs = [folder.parent / "training_log.json" for folder in train(run)]  # all had finished: trained anew
    first, second = (path.stat().st_mtime_ns for path in logs)
    marker = tmp_path / "tiny/seed-1/checkpoints/origin.json"
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"finished": False}))
    train(run)
    assert logs[0].stat().st_mtime_ns == first
    assert logs[1].stat().st_mtime_ns > second


def test_a_folder_with_other_things_is_refused_and_left_alone(prepared, tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "thesis.docx").write_text("years of work")
    with pytest.raises(InputError, match=r"thesis\.docx"):
        train(experiment(prepared, tmp_path, *NO_CHANCE))
    assert [path.name for path in (tmp_path / "tiny").iterdir()] == ["thesis.docx"]


@pytest.mark.parametrize(
    "path", ["model/weights.bin", "checkpoints/checkpoint-4/model.safetensors", "pretrained/w.bin"]
)
@pytest.mark.parametrize("step", [train, pretrain])
def test_a_model_and_checkpoints_of_another_program_are_refused_and_left_alone(prepared, tmp_path, path, step):
    strange = tmp_path / "tiny" / path
    strange.parent.mkdir(parents=True)
    strange.write_text("years of work")
    with pytest.raises(InputError, match=path.split("/")[0]):
        step(experiment(prepared, tmp_path))
    assert strange.read_text() == "years of work"


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


def test_each_seed_is_a_run_and_their_mean_is_evaluated(prepared, tmp_path):
    run = experiment(prepared, tmp_path, "--seeds", "3", "4")
    pretrain(run)
    folders = train(run)
    assert folders == [tmp_path / f"tiny/seed-{seed}/model" for seed in (3, 4)]
    metrics = evaluate(run)
    assert set(metrics["seeds"]) == {"3", "4"}
    test = pq.read_table(run.data_folder / "test.parquet", columns=["text"])["text"].to_pylist()
    scores = [score_texts(*load_classifier(folder), test) for folder in folders]
    assert not np.allclose(*scores)
    found = pq.read_table(tmp_path / "tiny/predictions/test.parquet")["score"].to_numpy()
    np.testing.assert_allclose(found, np.mean(scores, axis=0), atol=1e-9)
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
    found = Objective.of_model(model.config).metrics(labels, scores)
    assert found[metric] == pytest.approx(log["best_metric"], rel=1e-4)
    if name == "value":  # the loss of a batch is mostly that of one large value
        assert np.corrcoef(scores, labels)[0, 1] > 0.1
    else:
        losses = [entry["loss"] for entry in log["history"] if "loss" in entry]
        assert np.mean(losses[-10:]) < np.mean(losses[:10])


def test_values_are_learned_on_a_log_scale_if_asked(tiny):
    run = labelled(tiny, "value", "--finetuning.log_scale", "true", "--training.learning_rate", "1e-9")
    (folder,) = train(run)
    rows = pq.read_table(run.data_folder / "train.parquet", columns=["label"])["label"].to_numpy()
    scale = load_classifier(folder)[0].config.eventscribe["scale"]
    assert scale["log"]
    assert scale["mean"] == pytest.approx(np.log1p(rows).mean())


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


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--model.peft", '{"method": "lora"}'], "pretraining.max_steps"),
        (["--model.name_or_path", "no/such-model"], "no/such-model"),
        (["--model.from_scratch.hidden_size", "1000000"], "needs .* GiB to be trained"),
        (["--training.report_to", "wandb"], "wandb"),
        (["--training.resume_from_checkpoint", "true"], "resume_from_checkpoint"),
        (["--training.resume_from_checkpoint", "nowhere"], "nowhere"),
        (["--finetuning.class_weights", '{"loss": 3}'], "loss"),
        (["--model.freeze", "encoder"], "freeze"),
        (["--finetuning.class_weights", "{}"], "class_weights"),
        (
            ["--training.dataloader_drop_last", "true", "--training.per_device_train_batch_size", "9999"],
            "dataloader_drop_last drops all",
        ),
    ],
)
def test_a_setting_that_does_not_fit_is_named_before_anything_is_written(prepared, tmp_path, arguments, named):
    with pytest.raises(InputError, match=named) as refused:
        train(experiment(prepared, tmp_path, "--pretraining.max_steps", "0", *arguments))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "tiny").exists()


def test_an_incomplete_batch_is_dropped_in_training_and_never_in_validation(prepared, tmp_path):
    train(experiment(prepared, tmp_path, *NO_CHANCE, "--training.dataloader_drop_last", "true"))
    assert any("eval_auroc" in entry for entry in history(tmp_path))


UNTOLD = ["--training.eval_strategy", "no", "--training.load_best_model_at_end", "false"]


@pytest.mark.parametrize("saved", ["steps", "no"])
@pytest.mark.parametrize(("step", "section"), [(pretrain, "pretraining"), (train, "training")])
def test_weights_that_are_not_finite_are_never_kept(prepared, tmp_path, step, section, saved):
    arguments = [f"--{section}.learning_rate", "1e30", "--training.save_strategy", saved, "--training.save_steps", "4"]
    arguments += ["--pretraining.max_steps", "4" if step is pretrain else "0"]
    with pytest.raises(InputError, match=rf"^{section}\.learning_rate: the weights are no numbers any more"):
        step(experiment(prepared, tmp_path, *UNTOLD, *arguments))
    assert not [*tmp_path.rglob("*.safetensors")]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--training.learning_rate", "1e-30", "--training.lr_scheduler_type", "constant"],
        ["--training.adam_epsilon", "1e300"],
        ["--training.max_grad_norm", "1e-30", "--pretraining.max_steps", "0"],
    ],
    ids=["rate", "epsilon", "gradient"],
)
@pytest.mark.parametrize(("step", "section"), [(pretrain, "pretraining"), (train, "training")])
def test_weights_that_training_has_not_changed_are_never_kept(prepared, tmp_path, step, section, arguments):
    asked = ["--pretraining.max_steps", "4" if step is pretrain else "0"]
    given = [text.replace("training.learning_rate", f"{section}.learning_rate") for text in arguments]
    with pytest.raises(InputError, match=rf"^{section}\.learning_rate .* has changed no weight in \d steps; raise it"):
        step(experiment(prepared, tmp_path, *given, *asked))
    assert not [*tmp_path.rglob("*.safetensors")]


def test_an_adapter_that_training_has_not_changed_is_not_kept_either(prepared, tmp_path):
    base = ["--pretraining.max_steps", "4"]
    pretrain(experiment(prepared, tmp_path, *base))
    idle = ["--model.peft", '{"method": "lora"}', "--training.learning_rate", "1e-30"]
    with pytest.raises(InputError, match="has changed no weight"):
        train(experiment(prepared, tmp_path, *base, *idle))


def test_warming_up_is_shorter_than_the_epochs_that_are_trained(prepared, tmp_path):
    epochs = ["--training.max_steps", "-1", "--training.num_train_epochs", "1", "--training.warmup_steps", "999"]
    with pytest.raises(InputError, match="rise over 999 steps, and training has"):
        train(experiment(prepared, tmp_path, *NO_CHANCE, *epochs))


@pytest.mark.parametrize(
    ("peft", "named"),
    [({"method": "magic"}, "magic"), ({"method": "poly"}, "poly"), ({"method": "lora", "rank": 4}, "rank")],
)
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
        step(train, *shorter, "--training.resume_from_checkpoint", "false")
    with pytest.raises(InputError, match=r"other data .* run scripts/train\.py"):
        step(evaluate, *shorter)


def test_a_report_shows_no_pretraining_that_the_model_did_not_have(prepared, tmp_path):
    pretrain(experiment(prepared, tmp_path))
    run = experiment(prepared, tmp_path, "--pretraining.max_steps", "0")
    train(run)
    assert "pretrain" not in evaluate(run)["made"]["seconds"]
    assert "Pretraining" not in write_report(run.run_folder).read_text()


def test_validation_labels_that_are_all_alike_choose_no_checkpoint(prepared, tmp_path):
    made = experiment(prepared, tmp_path / "runs", *NO_CHANCE)
    shutil.copytree(made.data_folder, tmp_path / "data/tiny")
    path = tmp_path / "data/tiny/validation.parquet"
    rows = pq.read_table(path)
    pq.write_table(rows.filter(pc.equal(rows["label"], 0)), path)
    folder = ["--data.folder", str(tmp_path / "data")]
    with pytest.raises(InputError, match=r"labels are 0: no auroc .*metric_for_best_model log_loss"):
        train(experiment(prepared, tmp_path / "runs", *NO_CHANCE, *folder))
    train(experiment(prepared, tmp_path / "runs", *NO_CHANCE, *folder, "--training.metric_for_best_model", "log_loss"))


def test_training_before_preparing_or_pretraining_names_the_command_to_run(prepared, tiny, tmp_path):
    with pytest.raises(InputError, match=r"prepare\.py"):
        train(experiment(tiny, tmp_path / "runs"))
    with pytest.raises(InputError, match=r"pretrain\.py"):
        train(experiment(prepared, tmp_path / "runs"))
