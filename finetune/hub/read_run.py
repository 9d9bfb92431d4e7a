"""What cards, publications and exports read of a model's run: its figures, settings and seed."""

from pathlib import Path

from data_prep import InputError
from finetune.figures.metrics_json import Metrics, read_metrics
from finetune.runs import CONFIGURED, METRICS, read_settings, read_task, seed_of


def metrics_of(folder: Path) -> Metrics:
    """metrics.json of a model's run; see `public_metrics` for what may be published of it.

    Raises:
        InputError: The run was not evaluated, or on other data.
    """
    path = (folder.parent if seed_of(folder) is None else folder.parent.parent) / METRICS
    if not path.is_file():
        raise InputError(
            f"{path} is missing, and a card tells how well the model predicts", "run scripts/evaluate.py first"
        )
    metrics = read_metrics(path.parent)
    if metrics["made"]["content_hash"] != read_task(folder)["content_hash"]:
        raise InputError(f"{path} is of other data than the model was trained on", "run scripts/evaluate.py again")
    if seed_of(folder) is not None and seed_of(folder) not in metrics["seeds"]:
        raise InputError(f"{path} has no figures of {folder.parent.name}", "run scripts/evaluate.py with its --seeds")
    return metrics


def settings_of(folder: Path) -> dict:
    """The config of a model's run."""
    return read_settings(folder.parent, CONFIGURED)
