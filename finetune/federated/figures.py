"""What the federated model is worth at a site, beside the site's own model and one of all logs together."""

from pathlib import Path
from typing import Any

from data_prep.prepared import column_array, read_manifest, read_split, split_texts
from finetune.evaluation.backtest import raw_scores
from finetune.evaluation.rows import ScoredRows
from finetune.evaluation.scorers import compare
from finetune.experiment.config import Experiment
from finetune.figures.measures import MAIN, MODEL
from finetune.figures.metrics_json import without_nan
from finetune.model.loading import load_classifier
from finetune.model.objective import Objective
from finetune.model.tokens import CHUNK

POOLED = "pooled"


def measured(shared: Experiment, others: dict[str, tuple[Path, Path]]) -> dict[str, Any]:
    """The federated model and others on a site's test rows, all without calibration.

    Args:
        shared: The site's run of the federation.
        others: The folder of each other model, and that of the same rows with its texts.

    Returns:
        question, examples (of training), task, metric, rows, users, positives, and in models for "model" and each other
        one value and interval; of others also the difference, federated minus the other, and its interval, paired by
        users.
    """
    columns, limit = ["user_id", "cutoff", "label"], shared.limits["test"]
    rows = read_split(shared.data_folder, "test", limit, columns)
    scores = {}
    for name, (model, folder) in {MODEL: (shared.model_folder, shared.data_folder), **others}.items():
        assert read_split(folder, "test", limit, columns).equals(rows), "as the log is the same"
        scores[name] = raw_scores(*load_classifier(model), folder, ["test"], shared)["test"]
    manifest = read_manifest(shared.data_folder)
    task = Objective.of(shared.task.label, manifest["classes"]).task
    scored = ScoredRows(
        task, column_array(rows["label"]), scores, rows["user_id"].to_numpy(), horizons=manifest["classes"]
    )
    found, main = compare(scored, shared.evaluation.bootstrap), MAIN[task]
    keys = {main: "value", f"{main}_interval": "interval", f"{main}_difference": "difference"}
    keys |= {f"{main}_difference_interval": "difference_interval"}
    models = {
        name: {short: figures[key] for key, short in keys.items() if key in figures}
        for name, figures in {MODEL: found, **found["baselines"]}.items()
    }
    examples, _ = split_texts(shared.data_folder, "train", shared.finetuning.max_train_examples, CHUNK)
    facts = {"question": manifest["question"], "examples": examples, "task": task, "metric": main}
    counts = {key: found[key] for key in ("rows", "users", "positives")}
    return without_nan(facts | counts | {"models": models})
