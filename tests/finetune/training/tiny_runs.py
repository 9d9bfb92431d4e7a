"""Runs of the tiny experiment, and what their logs say."""

import json
from pathlib import Path

import numpy as np

from finetune.experiment.parser import parse_experiment

NO_CHANCE = ["--pretraining.max_steps", "0", "--model.from_scratch.dropout", "0"]


def experiment(config: Path, runs: Path, *arguments: str):
    return parse_experiment("", ["--config", str(config), "--runs.folder", str(runs), *arguments])


def history(runs: Path, name: str = "training_log.json") -> list[dict]:
    return json.loads((runs / "tiny" / name).read_text())["history"]


def steps(runs: Path) -> np.ndarray:
    """Loss and gradient norm of each step."""
    return np.array([(entry["loss"], entry["grad_norm"]) for entry in history(runs) if "grad_norm" in entry])
