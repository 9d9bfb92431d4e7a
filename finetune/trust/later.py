"""A finished model and boosting of its time at later cutoffs, one by one."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from data_prep.cutoffs import split_file
from data_prep.prepared import column_array
from finetune.evaluation.backtest import backtest
from finetune.experiment.config import Experiment
from finetune.figures.measures import MODEL
from finetune.runs import PREDICTIONS
from finetune.serving.classifier import EventClassifier
from finetune.trust.beside import BOOSTING, figures_beside, threshold_by

UNDAMAGED = {"without_history": 0, "changed_texts": 0}


def later_cutoffs(model: Path, newer: Experiment, classifier: EventClassifier) -> list[dict[str, Any]]:
    """A step for each test cutoff of a newer config, by `backtest`, which also leaves its own figures beside the run.

    Args:
        model: The folder of an evaluated model.
        newer: Its log and its test cutoffs.
        classifier: The model.

    Raises:
        InputError: As `backtest`.
    """
    _, folder = backtest(model, newer)
    validation, test = (pq.read_table(folder / PREDICTIONS / split_file(split)) for split in ("validation", "test"))
    by = classifier.calibration.threshold_by
    assert by is not None, "as the model has a threshold"
    chosen = threshold_by(newer.evaluation, by, column_array(validation["label"]), validation[BOOSTING].to_numpy())
    thresholds = {MODEL: classifier.calibration.threshold, BOOSTING: chosen}
    users, cutoffs, labels = test["user_id"].to_numpy(), test["cutoff"].to_numpy(), column_array(test["label"])
    scores, steps = {MODEL: test["score"].to_numpy(), BOOSTING: test[BOOSTING].to_numpy()}, []
    for cutoff in np.unique(cutoffs):
        at = cutoffs == cutoff
        own = {name: values[at] for name, values in scores.items()}
        beside = figures_beside(labels[at], users[at], own, thresholds, newer.evaluation.bootstrap)
        steps.append({"step": str(cutoff)[:10]} | UNDAMAGED | beside)
    return steps
