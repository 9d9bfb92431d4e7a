import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

from finetune.metrics import _Sorted, binary_metrics, bootstrap_users, interval


@st.composite
def scored(draw):
    """Labels of both classes and scores with ties."""
    size = draw(st.integers(4, 60))
    labels = np.array(draw(st.lists(st.integers(0, 1), min_size=size, max_size=size)))
    labels[:2] = 0, 1
    levels = draw(st.lists(st.integers(0, 12), min_size=size, max_size=size))
    weights = np.array(draw(st.lists(st.integers(0, 4), min_size=size, max_size=size)))
    weights[:2] = 1
    return labels, np.array(levels) / 12, weights


@settings(max_examples=60, deadline=None)
@given(scored())
def test_metrics_equal_those_of_scikit_learn(sample):
    labels, scores, _ = sample
    metrics = binary_metrics(labels, scores)
    assert metrics["auroc"] == pytest.approx(roc_auc_score(labels, scores))
    assert metrics["average_precision"] == pytest.approx(average_precision_score(labels, scores))
    assert metrics["log_loss"] == pytest.approx(log_loss(labels, scores))
    assert metrics["brier_score"] == pytest.approx(brier_score_loss(labels, scores))


@settings(max_examples=200, deadline=None)
@given(scored())
def test_weighted_metrics_equal_those_of_scikit_learn_with_sample_weights(sample):
    labels, scores, weights = sample
    auroc, precision = _Sorted(labels, scores).weighted_metrics(weights)
    assert auroc == pytest.approx(roc_auc_score(labels, scores, sample_weight=weights))
    assert precision == pytest.approx(average_precision_score(labels, scores, sample_weight=weights))


def simulate(users: int, seed: int):
    """Each user has several rows with one trait, so that rows are not independent."""
    random = np.random.default_rng(seed)
    trait = np.repeat(random.normal(size=users), 3)
    labels = (random.random(3 * users) < 1 / (1 + np.exp(-trait))).astype(int)
    return labels, 1 / (1 + np.exp(-trait - random.normal(size=3 * users))), np.repeat(np.arange(users), 3)


def test_a_scorer_compared_with_itself_differs_by_nothing():
    labels, scores, users = simulate(60, 0)
    drawn = bootstrap_users(labels, {"a": scores, "b": scores.copy()}, users, 50)
    assert np.array_equal(drawn.auroc["a"], drawn.auroc["b"])
    assert interval(drawn.auroc["a"] - drawn.auroc["b"]) == [0.0, 0.0]


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    truth_labels, truth_scores, _ = simulate(40_000, 999)
    truth = roc_auc_score(truth_labels, truth_scores)
    hits = 0
    for seed in range(200):
        labels, scores, users = simulate(120, seed)
        low, high = interval(bootstrap_users(labels, {"a": scores}, users, 200, seed=seed).auroc["a"])
        hits += low <= truth <= high
    assert 0.90 <= hits / 200 <= 0.985


def test_resamples_with_one_class_only_are_left_out():
    drawn = bootstrap_users(np.array([0, 1]), {"a": np.array([0.2, 0.8])}, np.array(["x", "y"]), 40)
    assert np.isnan(drawn.auroc["a"]).any()
    assert interval(drawn.auroc["a"]) == [1.0, 1.0]
