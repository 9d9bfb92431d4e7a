import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn import metrics as sklearn_metrics
from sklearn.calibration import calibration_curve

from data_prep import InputError
from finetune.figures.measures import LOWER_IS_BETTER, MAIN, MEASURES
from finetune.figures.metrics import (
    BinaryMetrics,
    PropensityMetrics,
    TiersMetrics,
    ValueMetrics,
    at_threshold,
    compute_metrics,
    deciles,
    recommended,
    repeat_and_new,
    tier_confusion,
)


@st.composite
def sample(draw, task: str):
    """Labels and scores with ties: few rows of few distinct scores."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows, levels, classes = draw(st.integers(5, 60)), draw(st.integers(1, 12)), draw(st.integers(2, 13))
    if task == "binary":
        labels = random.integers(0, 2, rows)
        labels[:2] = 0, 1
        return labels, random.integers(0, levels + 1, rows) / levels
    if task == "tiers":
        scores = random.integers(1, levels + 2, (rows, classes)).astype(float)
        return random.integers(0, classes, rows), scores / scores.sum(axis=1, keepdims=True)
    if task == "propensity":
        scores = random.integers(0, levels + 1, (rows, classes)) / levels
        return (random.random((rows, classes)) < 0.3).astype(np.int8), scores
    labels = np.maximum(random.integers(-3, levels + 1, rows), 0).astype(float)
    labels[:2] = 0, 1
    return labels, random.integers(0, levels + 1, rows).astype(float)


@settings(max_examples=25, deadline=None)
@given(sample("binary"))
def test_measures_of_a_yes_or_no_are_scikit_learns(case):
    labels, scores = case
    found = compute_metrics("binary", labels, scores)
    assert tuple(found) == tuple(MEASURES["binary"])
    assert found["auroc"] == pytest.approx(sklearn_metrics.roc_auc_score(labels, scores))
    assert found["average_precision"] == pytest.approx(sklearn_metrics.average_precision_score(labels, scores))
    assert found["log_loss"] == pytest.approx(sklearn_metrics.log_loss(labels, scores))
    assert found["brier_score"] == pytest.approx(sklearn_metrics.brier_score_loss(labels, scores))
    false, true, _ = sklearn_metrics.roc_curve(labels, scores)
    assert found["ks"] == pytest.approx(max(true - false))
    assert found["gini"] == pytest.approx(2 * found["auroc"] - 1)


def test_the_calibration_error_is_that_of_scikit_learns_calibration_curve():
    random = np.random.default_rng(0)
    labels, scores = random.integers(0, 2, 300), random.random(300)
    real, predicted = calibration_curve(labels, scores, n_bins=15, strategy="quantile")
    found = compute_metrics("binary", labels, scores)["expected_calibration_error"]
    assert found == pytest.approx(np.abs(real - predicted).mean())  # bins of 20 rows


@settings(max_examples=25, deadline=None)
@given(sample("binary"))
def test_the_calibration_error_is_at_least_that_of_all_rows_and_at_most_that_of_each_score(case):
    """Bins hold whole scores, so that they only ever add up what single scores are off by."""
    labels, scores = case
    each = [abs((labels - scores)[scores == score].sum()) for score in np.unique(scores)]
    found = len(labels) * compute_metrics("binary", labels, scores)["expected_calibration_error"]
    assert abs((labels - scores).sum()) - 1e-9 <= found <= sum(each) + 1e-9


def test_lift_and_recall_are_expected_over_the_orders_of_tied_rows():
    random = np.random.default_rng(0)
    labels, scores = random.integers(0, 2, 40), random.integers(0, 6, 40) / 6
    found = compute_metrics("binary", labels, scores)
    for share, rows in ((5, 2), (10, 4), (20, 8)):
        draws = []
        for _ in range(4000):
            shuffled = random.permutation(40)
            draws.append(labels[shuffled[np.argsort(-scores[shuffled], kind="stable")[:rows]]].sum() / labels.sum())
        assert found[f"recall_at_{share}"] == pytest.approx(np.mean(draws), abs=0.003)
        assert found[f"lift_at_{share}"] == pytest.approx(found[f"recall_at_{share}"] / (share / 100))


def test_lift_without_ties_is_the_rate_of_the_best_rows_over_the_rate_of_all():
    random = np.random.default_rng(1)
    labels, scores = random.integers(0, 2, 500), random.permutation(500) / 500
    found = compute_metrics("binary", labels, scores)
    for share in (1, 5, 10, 20):
        best = labels[np.argsort(-scores)[: 5 * share]]
        assert found[f"lift_at_{share}"] == pytest.approx(best.mean() / labels.mean())
        assert found[f"recall_at_{share}"] == pytest.approx(best.sum() / labels.sum())


@settings(max_examples=20, deadline=None)
@given(sample("tiers"))
def test_measures_of_tiers_are_scikit_learns(case):
    labels, scores = case
    found, chosen, classes = compute_metrics("tiers", labels, scores), scores.argmax(axis=1), np.arange(scores.shape[1])
    assert tuple(found) == tuple(MEASURES["tiers"])
    assert found["macro_f1"] == pytest.approx(sklearn_metrics.f1_score(labels, chosen, average="macro"))
    assert found["weighted_f1"] == pytest.approx(sklearn_metrics.f1_score(labels, chosen, average="weighted"))
    assert found["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(labels, chosen))
    assert found["log_loss"] == pytest.approx(sklearn_metrics.log_loss(labels, scores, labels=classes))
    assert found["ordinal_error"] == pytest.approx(np.abs(labels - chosen).mean())
    confusion = np.array(tier_confusion(labels, scores))
    np.testing.assert_array_equal(confusion, sklearn_metrics.confusion_matrix(labels, chosen, labels=classes))
    one_against_rest = [labels == i for i in classes]
    told = [i for i in classes if 0 < one_against_rest[i].sum() < len(labels)]
    each = [sklearn_metrics.roc_auc_score(one_against_rest[i], scores[:, i]) for i in told]
    assert found["auroc"] == pytest.approx(np.mean(each) if told else np.nan, nan_ok=True)


@settings(max_examples=20, deadline=None)
@given(sample("value"))
def test_measures_of_a_value_are_scikit_learns(case):
    labels, scores = case
    found = compute_metrics("value", labels, scores, deviation=4.0)
    assert tuple(found) == tuple(MEASURES["value"])
    assert found["mae"] == pytest.approx(sklearn_metrics.mean_absolute_error(labels, scores))
    assert found["rmse"] == pytest.approx(sklearn_metrics.root_mean_squared_error(labels, scores))
    assert found["nmae"] == pytest.approx(found["mae"] / 4)
    if np.ptp(scores):
        assert found["spearman"] == pytest.approx(spearmanr(labels, scores).statistic)
    assert -1 - 1e-9 <= found["value_gini"] <= 1 + 1e-9
    assert compute_metrics("value", labels, labels * 7)["value_gini"] == pytest.approx(1)


def test_the_value_gini_of_a_yes_or_no_is_that_of_its_auroc():
    random = np.random.default_rng(0)
    labels, scores = random.integers(0, 2, 300), random.integers(0, 20, 300) / 20
    expected = 2 * sklearn_metrics.roc_auc_score(labels, scores) - 1
    assert compute_metrics("value", labels, scores)["value_gini"] == pytest.approx(expected)


@settings(max_examples=20, deadline=None)
@given(sample("propensity"))
def test_measures_of_propensities_are_scikit_learns(case):
    labels, scores = case
    found, k = compute_metrics("propensity", labels, scores), min(10, scores.shape[1])
    assert tuple(found) == tuple(name.replace("_at_10", f"_at_{k}") for name in MEASURES["propensity"])
    told = [i for i in range(scores.shape[1]) if 0 < labels[:, i].sum() < len(labels)]
    for name, metric in (
        ("auroc", sklearn_metrics.roc_auc_score),
        ("average_precision", sklearn_metrics.average_precision_score),
    ):
        each = [metric(labels[:, i], scores[:, i]) for i in told]
        assert found[name] == pytest.approx(np.mean(each) if told else np.nan, nan_ok=True)
        if 0 < labels.sum() < labels.size:
            assert found[f"micro_{name}"] == pytest.approx(metric(labels, scores, average="micro"))
    each = [sklearn_metrics.log_loss(labels[:, i], scores[:, i], labels=[0, 1]) for i in range(scores.shape[1])]
    assert found["log_loss"] == pytest.approx(np.mean(each))
    some = labels.any(axis=1)
    if some.any():
        ndcg = sklearn_metrics.ndcg_score(labels[some], scores[some], k=k)
        assert found[f"ndcg_at_{k}"] == pytest.approx(ndcg)


def test_the_top_k_is_expected_over_the_orders_of_tied_classes():
    random = np.random.default_rng(0)
    labels, scores = random.integers(0, 2, (12, 14)), random.integers(0, 4, (12, 14)) / 4
    found = compute_metrics("propensity", labels, scores)
    hits, covered = [], []
    for _ in range(3000):
        best = np.argsort(-scores - random.random(scores.shape) / 100, axis=1)[:, :10]
        hits.append(np.take_along_axis(labels, best, axis=1).sum(axis=1))
        covered.append(len(np.unique(best)) / 14)
    hits = np.mean(hits, axis=0)
    assert found["precision_at_10"] == pytest.approx(hits.mean() / 10, abs=0.003)
    assert found["recall_at_10"] == pytest.approx((hits / labels.sum(axis=1)).mean(), abs=0.003)
    assert found["coverage_at_10"] == pytest.approx(np.mean(covered), abs=0.003)
    np.testing.assert_allclose(recommended(scores).sum(axis=1), 10)


def test_novelty_diversity_and_their_score_are_those_of_the_recsys_challenge():
    """Figures worked out by hand from its definitions, for two rows of eleven and of three classes."""
    popularity = np.arange(1, 12)
    certain = np.tile((popularity > 1).astype(float), (2, 1))  # of the ten most popular
    found = compute_metrics("propensity", np.eye(11, dtype=int)[:2], certain, popularity=popularity)
    assert found["novelty"] == pytest.approx(0)
    assert found["diversity"] == pytest.approx(np.log2(10) / np.log2(11), abs=1e-6)
    scores = np.array([[0.02, 0.01, 0.01], [0.01, 0.01, 0.02]])
    found = compute_metrics("propensity", np.array([[1, 0, 0], [0, 0, 1]]), scores, popularity=np.array([6, 3, 1]))
    shares = [(6 * 0.02 + 3 * 0.01 + 1 * 0.01) / 10, (6 * 0.01 + 3 * 0.01 + 1 * 0.02) / 10]
    assert found["novelty"] == pytest.approx((1 - np.mean(shares)) ** 100)
    assert found["diversity"] == pytest.approx(1.5 / np.log2(3), abs=1e-6)
    assert found["auroc"] == 1
    assert found["synerise_score"] == pytest.approx(0.8 + 0.1 * found["novelty"] + 0.1 * found["diversity"])


def test_repeat_and_new_values_are_judged_apart():
    had = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [0, 0]], bool)
    labels = np.array([[1, 0], [0, 1], [1, 1], [0, 1], [0, 0]])
    scores = np.array([[0.9, 0.1], [0.2, 0.9], [0.3, 0.5], [0.4, 0.5], [0.1, 0.5]])
    # Class 0: of those who had it, 1 of 1 pairs in order; of the others, 1 of 2. Class 1: all who had it have label 1;
    # of the others, 2 of 2.
    assert repeat_and_new(labels, scores, had) == {"repeat_auroc": 1.0, "new_auroc": 0.75}
    nothing = repeat_and_new(labels, scores, np.zeros_like(had))
    assert math.isnan(nothing["repeat_auroc"])


@settings(max_examples=25, deadline=None)
@given(sample("binary"), st.integers(0, 12))
def test_figures_at_a_threshold_are_scikit_learns(case, level):
    labels, scores = case
    found, chosen = at_threshold(labels, scores, level / 12), scores >= level / 12
    assert found["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(labels, chosen))
    assert found["recall"] == pytest.approx(sklearn_metrics.recall_score(labels, chosen))
    assert found["f1"] == pytest.approx(sklearn_metrics.f1_score(labels, chosen))
    expected = sklearn_metrics.precision_score(labels, chosen, zero_division=np.nan)
    assert found["precision"] == pytest.approx(expected, nan_ok=True)
    np.testing.assert_array_equal(found["confusion"], sklearn_metrics.confusion_matrix(labels, chosen, labels=[0, 1]))


def test_deciles_hold_all_rows_from_the_highest_prediction_down():
    random = np.random.default_rng(0)
    labels, scores = random.gamma(1, 10, 203), random.permutation(203).astype(float)
    found = deciles(labels, scores)
    parts = np.split(np.argsort(-scores), np.cumsum([part["rows"] for part in found])[:-1])
    assert [part["rows"] for part in found] == [20, 21, 20, 20, 21, 20, 20, 20, 21, 20]
    for part, rows in zip(found, parts, strict=True):
        assert part["predicted"] == pytest.approx(scores[rows].mean())
        assert part["real"] == pytest.approx(labels[rows].mean())


def test_deciles_share_what_ties_across_their_borders():
    found = deciles(np.arange(100.0), np.full(100, 7.0))
    assert found == [{"rows": 10, "predicted": pytest.approx(7), "real": pytest.approx(49.5)}] * 10
    assert [part["rows"] for part in deciles(np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0, 2.0]))] == [1, 1, 1]
    assert deciles(np.array([]), np.array([])) == []


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([task for task in MEASURES if task != "survival"]).flatmap(
        lambda task: st.tuples(st.just(task), sample(task))
    ),
    st.randoms(),
)
def test_no_measure_depends_on_the_order_of_the_rows(case, random):
    task, (labels, scores) = case
    order = list(range(len(labels)))
    random.shuffle(order)
    found = compute_metrics(task, labels[order], scores[order], deviation=2.0)
    assert found == pytest.approx(compute_metrics(task, labels, scores, deviation=2.0), nan_ok=True)


@pytest.mark.parametrize(
    ("metric", "task"),
    [
        (BinaryMetrics, "binary"),
        (TiersMetrics, "tiers"),
        (ValueMetrics, "value"),
        (PropensityMetrics, "propensity"),
    ],
)
def test_evaluates_metrics_give_the_same_figures(metric, task):
    random = np.random.default_rng(0)
    labels, scores = random.integers(0, 2, 30), random.random(30)
    if task in ("tiers", "propensity"):
        scores = random.dirichlet(np.ones(3), 30)
    if task == "propensity":
        labels = random.integers(0, 2, (30, 3))
    more = {"value": {"deviation": 2.0}, "propensity": {"popularity": np.array([3, 2, 1])}}.get(task, {})
    found = metric(keep_in_memory=True).compute(references=labels, prediction_scores=scores, **more)
    assert found == compute_metrics(task, labels, scores, **more)
    assert not np.isnan(list(found.values())).any()


def test_every_task_has_a_main_metric_and_metrics_that_fall_are_known():
    assert {task: MAIN[task] in names for task, names in MEASURES.items()} == dict.fromkeys(MEASURES, True)
    assert not LOWER_IS_BETTER - {name for names in MEASURES.values() for name in names}


@pytest.mark.parametrize("label", [0, 1])
def test_rows_of_one_class_have_losses_and_no_ranking(label):
    with warnings.catch_warnings(action="error"):
        found = compute_metrics("binary", np.full(4, label), np.array([0.1, 0.2, 0.2, 0.9]))
    told = {name for name, value in found.items() if not np.isnan(value)}
    assert told == {"log_loss", "brier_score", "expected_calibration_error"}


def test_one_score_for_all_ranks_nobody():
    with warnings.catch_warnings(action="error"):
        found = compute_metrics("binary", np.array([0, 0, 0, 1]), np.full(4, 0.25))
        of_values = compute_metrics("value", np.array([0.0, 0.0, 4.0]), np.full(3, 5.0), deviation=2.0)
        of_tiers = compute_metrics("tiers", np.array([0, 1, 2]), np.full((3, 3), 1 / 3))
        of_several = compute_metrics("propensity", np.array([[0, 1], [1, 0]]), np.full((2, 2), 0.5))
    assert found["auroc"] == of_tiers["auroc"] == of_several["auroc"] == of_several["micro_auroc"] == 0.5
    assert found["average_precision"] == 0.25
    assert found["gini"] == found["ks"] == found["expected_calibration_error"] == 0
    assert [found[f"lift_at_{share}"] for share in (1, 5, 10, 20)] == pytest.approx([1, 1, 1, 1])
    assert of_values["spearman"] == 0
    assert of_values["value_gini"] == pytest.approx(0)


def test_what_cannot_be_told_of_values_and_tiers_is_nan():
    with warnings.catch_warnings(action="error"):
        equal = compute_metrics("value", np.full(3, 2.0), np.array([1.0, 2.0, 3.0]))
        refunds = compute_metrics("value", np.array([-3.0, 1.0]), np.array([1.0, 2.0]))
        one_tier = compute_metrics("tiers", np.zeros(3, int), np.full((3, 2), 0.5))
        unwanted = compute_metrics("propensity", np.zeros((3, 2), int), np.full((3, 2), 0.5))
    assert np.isnan([equal["spearman"], equal["value_gini"], equal["nmae"], refunds["value_gini"]]).all()
    assert refunds["spearman"] == pytest.approx(1)
    assert np.isnan(one_tier["auroc"])
    assert one_tier["accuracy"] == 1
    names = ("auroc", "micro_auroc", "average_precision", "recall_at_2", "ndcg_at_2", "novelty", "synerise_score")
    assert np.isnan([unwanted[name] for name in names]).all()
    assert unwanted["precision_at_2"] == 0


@pytest.mark.parametrize("task", MEASURES)
def test_no_rows_have_no_figures(task):
    scores = np.empty((0, 12)) if task in ("tiers", "propensity") else np.empty(0)
    labels = np.empty((0, 12), int) if task == "propensity" else np.empty(0, int)
    with warnings.catch_warnings(action="error"):
        found = compute_metrics(task, labels, scores)
    assert tuple(found) == tuple(MEASURES[task])
    assert np.isnan(list(found.values())).all()


def test_a_threshold_that_nobody_reaches_and_no_rows_have_dashes():
    with warnings.catch_warnings(action="error"):
        nobody, nothing = at_threshold([0, 1], [0.1, 0.2], 0.9), at_threshold(np.array([], int), np.array([]), 0.5)
    assert np.isnan(nobody["precision"])
    assert (nobody["recall"], nobody["f1"], nobody["confusion"]) == (0, 0, [[1, 0], [1, 0]])
    assert np.isnan([nothing[name] for name in ("precision", "recall", "f1", "accuracy")]).all()
    assert nothing["confusion"] == [[0, 0], [0, 0]]
    assert tier_confusion(np.array([], int), np.empty((0, 2))) == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("task", "labels", "scores", "message"),
    [
        ("binary", [0, 1, 1], [0.5, np.nan, np.nan], "score: 2 of 3 rows are NaN or infinite"),
        ("binary", [0, 1, 1], [0.5, 0.1, 1.5], "1 of 3 rows are outside 0 to 1, such as 1.5"),
        ("binary", [0, 1, 2], [0.5, 0.1, 0.5], "label: 1 of 3 rows are none of 0 to 1"),
        ("binary", [0, 1], [[0.5, 0.5], [0.1, 0.9]], "do not fit binary labels"),
        ("tiers", [0, 1], [[0.5, 0.5], [0.5, 0.9]], "1 of 2 rows have probabilities that do not sum to 1"),
        ("tiers", [0, 2], [[0.5, 0.5], [0.5, 0.5]], "label: 1 of 2 rows are none of 0 to 1"),
        ("propensity", [[0, 1], [1, 0]], [[0.5, -1], [-3, 0.9]], "2 of 2 rows are outside 0 to 1, such as -1"),
        ("value", [0, np.nan], [0.5, 3], "label: 1 of 2 rows are NaN"),
        ("value", [0, 1], [np.inf, 3], "score: 1 of 2 rows are NaN or infinite"),
    ],
)
def test_scores_that_are_none_are_refused_with_how_many(task, labels, scores, message):
    with pytest.raises(InputError, match=message):
        compute_metrics(task, np.array(labels), np.array(scores))
