import json

import numpy as np
import pytest

from data_prep import InputError
from finetune.figures.measures import GAPS, MAIN
from finetune.figures.metrics_json import read_metrics, without_nan
from tests.metrics_json import least_metrics


@pytest.fixture
def read(tmp_path):
    """A function that writes metrics.json of a task with entries changed, by their names with dots, and reads it."""

    def changed(task: str = "binary", **changes) -> dict:
        metrics = least_metrics("shop", task, 0.7, {"gradient_boosting": 0.8})
        for name, value in changes.items():
            *above, last = name.split("__")
            part = metrics
            for key in above:
                part = part.setdefault(key, {})
            part[last] = value
        (tmp_path / "metrics.json").write_text(json.dumps(metrics))
        return read_metrics(tmp_path)

    return changed


@pytest.mark.parametrize("task", MAIN)
def test_what_older_versions_did_not_write_is_none_or_empty(read, task):
    metrics = read(task)
    assert metrics["task"] == task
    lacking = ("plain_question", "contact", "made_up", "calibration", "profit", "single")
    assert [metrics[key] for key in lacking] == [None] * 6
    assert (metrics["by_cutoff"], metrics["drift"]) == ([], [])
    assert (metrics["slices"], metrics["lengths"], metrics["seeds"]) == ({}, {}, {})


SERIES = {"steps": [1, 2], "values": [0.5]}
CURVE = {"false_positive_rate": [0, 1], "true_positive_rate": [0, 0.5, 1]}
BINS = {"predicted": [0.5], "observed": [0.5], "rows": [3], "mean_score": 0.5}
CONTACT = {"cutoff": "2024-04-01", "users": 9, "total": 3.0, "share": 1.5}
GROUPS = {"plan": {"groups": [], "gaps": dict.fromkeys(GAPS) | {"calibration_interval": 0.1}}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"test__auroc": "x"}, 'test.auroc is "x"'),
        ({"test__auroc_interval": 5}, "test.auroc_interval is 5, not an interval"),
        ({"test__baselines__gradient_boosting": {}}, "test.baselines.gradient_boosting.auroc is missing"),
        ({"test__positives": None}, "test.positives is null, not a whole number"),
        ({"test__lift_at_10": [1]}, "test.lift_at_10 is [1], not a number"),
        ({"test__confusion": [[1, 2], [3]]}, "not a table of 2 rows and columns"),
        ({"main": "mae"}, 'main is "mae", not one of auroc'),
        ({"lower_is_better": True}, "lower_is_better is true"),
        ({"classes": ["churn"]}, "a binary label with 1 classes"),
        ({"horizon": "soon"}, 'horizon is "soon", not a duration'),
        ({"curves__calibration": {"a": 1}}, "curves.calibration.predicted is missing"),
        ({"curves__calibration": BINS}, "curves.calibration.mean_label is missing"),
        ({"curves__roc": {"model": CURVE}}, "the lists of curves.roc.model differ in length"),
        ({"calibration": {"method": "none", "before": 3}}, "calibration.before is 3, not a mapping"),
        ({"training__loss": SERIES}, "the lists of training.loss differ in length: steps 2, values 1"),
        ({"training__class_weights": [1.0]}, "training.class_weights is [1.0], not a list of 2 numbers"),
        ({"contact": CONTACT}, "contact.share is 1.5, not a share"),
        ({"slices": GROUPS}, "slices.plan.gaps.calibration_interval is 0.1, not an interval"),
        ({"lengths": {"test": {"edges": [0, 8], "counts": [1, 2]}}}, "not a histogram"),
        ({"drift": [{"input": "events"}]}, "drift[0].psi is missing"),
        ({"single": {"mean": 0.8, "deviation": 0.01}}, "single.auroc is missing"),  # as older versions wrote it
        ({"test__rows": 0}, "test.rows is 0, not a count above zero"),
        ({"made__log": {"first": "yesterday"}}, 'made.log.first is "yesterday", not a moment'),
    ],
)
def test_a_figure_of_another_form_is_named_with_its_place(read, changes, said):
    with pytest.raises(InputError) as refusal:
        read(**changes)
    assert said in str(refusal.value)
    assert str(refusal.value).endswith("; run scripts/evaluate.py again")


def test_numbers_that_are_none_become_null():
    found = without_nan({"a": float("nan"), "b": [np.float64(1.5), np.inf], "c": np.array([1, 2]), 3: "x"})
    assert found == {"a": None, "b": [1.5, None], "c": [1, 2], "3": "x"}
