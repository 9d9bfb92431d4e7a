"""A run that was stopped, killed or damaged continues to the same weights, and one that had finished is kept."""

import json
import pickle
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers.trainer_pt_utils import safe_globals

from data_prep import InputError
from finetune.experiment.parser import parse_experiment
from finetune.training.checkpoints import _checksums
from finetune.training.pretrain import pretrain
from finetune.training.train import train
from tests.commands import Command
from tests.finetune.training.tiny_runs import NO_CHANCE, experiment

TOLD = ("step", "loss", "grad_norm", "learning_rate", "eval_auroc", "eval_loss")  # of a log's entry, without times


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


def test_a_checkpoint_of_other_settings_is_not_continued_by_its_name_either(prepared, tmp_path):
    asked = ["--training.resume_from_checkpoint", str(stopped(prepared, tmp_path / "one") / "checkpoint-4")]
    with pytest.raises(InputError, match=r"other settings \(training\.learning_rate: 0\.001\)"):
        train(experiment(prepared, tmp_path / "two", *SAVING, *asked, "--training.learning_rate", "0.01"))
    train(experiment(prepared, tmp_path / "two", *SAVING, *asked))


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


class Trap:
    """What writes a file when its pickle is loaded."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple:
        return Path.touch, (self.place,)


@pytest.fixture(scope="module")
def left(prepared, tmp_path_factory) -> Path:
    return stopped(prepared, tmp_path_factory.mktemp("left"))


def forged(left: Path, folder: Path) -> Path:
    """A copy of a checkpoint, for somebody to change."""
    shutil.copytree(left, folder / "theirs")
    return folder / "theirs" / "checkpoint-4"


def refused(prepared: Path, runs: Path, checkpoint: Path) -> str:
    """What is said where a run continues from it; its checksums are right, as a forger writes them, too."""
    (checkpoint / "checksums.json").write_text(json.dumps(_checksums(checkpoint)))
    with pytest.raises(InputError) as error:
        train(experiment(prepared, runs, *SAVING, "--training.resume_from_checkpoint", str(checkpoint)))
    return str(error.value)


@pytest.mark.parametrize("file", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "pytorch_model.bin"])
def test_a_checkpoint_of_a_stranger_runs_no_code(prepared, left, tmp_path, file):
    checkpoint = forged(left, tmp_path)
    (checkpoint / file).write_bytes(pickle.dumps(Trap(tmp_path / "ran"), protocol=2))
    if file == "pytorch_model.bin":
        (checkpoint / "model.safetensors").unlink()
    said = refused(prepared, tmp_path, checkpoint)
    assert "could run code and is never read" in said or "training cannot continue from" in said
    with (checkpoint / file).open("wb") as content:  # the newer form, which torch.save writes
        torch.save(Trap(tmp_path / "ran"), content)
    assert refused(prepared, tmp_path, checkpoint)
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(Trap(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()  # it is a trap


def test_shards_of_a_stranger_are_never_read(prepared, left, tmp_path):
    checkpoint = forged(left, tmp_path)
    (checkpoint / "pytorch_model_fsdp_0").mkdir()
    (checkpoint / "pytorch_model_fsdp_0" / ".metadata").write_bytes(pickle.dumps(Trap(tmp_path / "ran"), protocol=2))
    assert "pytorch_model_fsdp_0 holds shards" in refused(prepared, tmp_path, checkpoint)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("stateful_callbacks", {"Progress": {"args": {"name": "x"}, "attributes": {}}}, "Progress is unknown"),
        ("stateful_callbacks", {"TrainerControl": {"args": {}, "attributes": {"on_log": 1}}}, "on_log is unknown"),
        ("total_flos", "x", 'total_flos is "x", not a number'),
        ("global_step", -1, "global_step is -1, not a count"),
    ],
)
def test_a_trainer_state_that_holds_something_else_is_refused(prepared, left, tmp_path, name, value, said):
    checkpoint = forged(left, tmp_path)
    path = checkpoint / "trainer_state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    assert said in refused(prepared, tmp_path, checkpoint)


def test_averages_that_are_smaller_than_their_weights_are_refused_before_a_step(prepared, left, tmp_path):
    checkpoint = forged(left, tmp_path)
    state = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    state["state"][0]["exp_avg"] = torch.zeros(1)  # a fused step of it writes past its end
    torch.save(state, checkpoint / "optimizer.pt")
    assert "the optimizer's exp_avg is not as large as its weight" in refused(prepared, tmp_path, checkpoint)


def test_a_random_state_beyond_its_numbers_is_refused(prepared, left, tmp_path):
    checkpoint = forged(left, tmp_path)
    with safe_globals():
        state = torch.load(checkpoint / "rng_state.pth", weights_only=True)
    name, numbers, _, *more = state["numpy"]
    torch.save(state | {"numpy": (name, numbers, 10**6, *more)}, checkpoint / "rng_state.pth")
    assert "the random state is damaged" in refused(prepared, tmp_path, checkpoint)
