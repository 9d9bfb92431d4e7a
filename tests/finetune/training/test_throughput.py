import json
import sqlite3
from contextlib import closing

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from accelerate import Accelerator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from finetune.experiment.parser import parse_experiment
from finetune.training.pretrain import pretrain
from finetune.training.throughput import Throughput, flops_per_token, peak_flops
from finetune.training.train import train
from tests.commands import ROOT

TRAIN = ROOT / "scripts" / "train.py"
SPEED = ["tokens_per_second", "padding_fraction"]


def experiment(config, runs, *arguments):
    return parse_experiment("", ["--config", str(config), "--runs.folder", str(runs), *arguments])


def test_tokens_and_padding_are_counted_exactly_and_afresh_after_each_entry(monkeypatch):
    now = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    throughput = Throughput(1, Accelerator(cpu=True))
    for mask in (torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]]), torch.tensor([[1, 1]])):
        throughput.count({"input_ids": mask, "attention_mask": mask})
    now = 5.0
    throughput.pause(2)
    assert throughput.entries() == {"tokens_per_second": 2.0, "padding_fraction": pytest.approx(0.4)}
    mask = torch.tensor([[1, 1, 0, 0]])
    throughput.count({"input_ids": mask, "attention_mask": mask})
    now = 6.0
    assert throughput.entries() == {"tokens_per_second": 2.0, "padding_fraction": 0.5}
    throughput.count({"input_ids": mask})  # packed
    now = 8.0
    assert throughput.entries() == {"tokens_per_second": 2.0, "padding_fraction": 0.0}


def test_training_counts_the_tokens_of_its_batches(prepared, tmp_path, monkeypatch):
    counted = []
    count = Throughput.count
    monkeypatch.setattr(Throughput, "count", lambda self, batch: (counted.append(batch), count(self, batch)))
    arguments = ["--pretraining.max_steps", "0", "--training.train_sampling_strategy", "sequential"]
    run = experiment(prepared, tmp_path, *arguments, "--training.gradient_accumulation_steps", "2")
    train(run)
    history = json.loads((run.run_folder / "training_log.json").read_text())["history"]
    padding = [entry["padding_fraction"] for entry in history if "padding_fraction" in entry]
    assert len(counted) == 16
    assert len(padding) == 8
    counted = [batch["attention_mask"] for batch in counted]
    pairs = zip(counted[::2], counted[1::2], strict=True)
    expected = [1 - sum(int(m.sum()) for m in pair) / sum(m.numel() for m in pair) for pair in pairs]
    np.testing.assert_allclose(padding, expected)
    texts = pq.read_table(run.data_folder / "train.parquet", columns=["text"])["text"].to_pylist()[:16]
    words = [len(text.split()) for text in texts]
    assert counted[0].shape[0] == 16
    assert (counted[0].sum(1).numpy() >= np.array(words)).all()


def test_tensorboard_has_the_speed_of_pretraining_and_fine_tuning_and_a_second_run_is_not_refused(prepared, tmp_path):
    run = experiment(prepared, tmp_path)
    pretrain(run)
    folder = run.run_folder / "tensorboard"
    wanted = {f"train/{name}" for name in ("loss", "learning_rate", "grad_norm", *SPEED)}
    (first,) = folder.iterdir()
    for step in (train, train):
        step(run)
    files = list(folder.iterdir())
    assert len(files) == 3
    for file in files:
        events = EventAccumulator(str(file)).Reload()
        assert wanted <= set(events.Tags()["scalars"])
        assert len(events.Scalars("train/padding_fraction")) == (4 if file == first else 8)


def test_trackio_logs_to_its_folder_without_a_network_and_a_second_run_is_not_refused(prepared, tmp_path, commands):
    arguments = ["--config", prepared, "--runs.folder", tmp_path / "runs", "--pretraining.max_steps", "0"]
    arguments += ["--training.report_to", "trackio", "--training.project", "tiny"]
    twice = tmp_path / "twice.py"
    run = f"runpy.run_path({str(TRAIN)!r}, run_name='__main__')"
    twice.write_text(f"import runpy\nfor _ in range(2):\n    {run}\n", encoding="utf-8")
    folder = {"TRACKIO_DIR": tmp_path / "trackio"}  # read when it is imported, hence a process
    command = commands.start(twice, *arguments, environment=folder)
    assert command.wait() == 0, command.output.read_text()
    with closing(sqlite3.connect(tmp_path / "trackio" / "tiny.db")) as database:
        logged = [json.loads(row) for (row,) in database.execute("select metrics from metrics")]
    assert sum({f"train/{name}" for name in ("loss", *SPEED)} <= set(entry) for entry in logged) == 16


def test_a_matrix_costs_two_operations_a_weight_forward_and_up_to_four_backward():
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 5), nn.Linear(5, 2))
    assert flops_per_token(model) == 6 * 30
    model[0].requires_grad_(False)
    assert flops_per_token(model) == 4 * 20 + 6 * 10  # no gradient for what is looked up
    model[1].requires_grad_(False)
    assert flops_per_token(model) == 2 * 20 + 4 * 10


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H200", 989),
        ("NVIDIA L4", 121),
        ("NVIDIA A10", 125),
        ("Tesla T4", 65),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA L40S", None),
        ("NVIDIA A10G", None),
    ],
)
def test_a_gpu_is_known_by_its_name(name, tflops):
    assert peak_flops(name) == (tflops and tflops * 1e12)
