import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from data_prep import InputError
from finetune.evaluation.bootstrap import (
    bootstrap,
    bootstrap_at_threshold,
    interval,
    interval_names,
    user_weights,
)
from finetune.evaluation.counts import Rows, score_bins
from finetune.evaluation.rows import ScoredRows
from finetune.figures.measures import MAIN, MEASURES
from finetune.figures.metrics import compute_metrics

POPULARITY = np.arange(1, 13)
KNOWN = {"deviation": 3.0, "popularity": POPULARITY, "horizons": ("7 days", "14 days", "28 days")}


def simulate(task: str, users: int, seed: int, rows: int = 3, levels: int | None = None):
    """Each user has several rows with one trait, so that rows are not independent; levels makes ties."""
    random = np.random.default_rng(seed)
    trait = np.repeat(random.normal(size=users), rows)
    seen = trait + random.normal(size=len(trait))
    if levels:
        seen = np.round(seen * levels / 4) * 4 / levels
    if task == "binary":
        labels, scores = (random.random(len(trait)) < 1 / (1 + np.exp(-trait))).astype(int), 1 / (1 + np.exp(-seen))
    elif task == "value":
        labels = np.where(random.random(len(trait)) < 0.4, 0, np.round(np.exp(trait / 2), 1))
        scores = np.round(1 + seen / 3, 3)
    elif task == "tiers":
        labels = np.digitize(trait + random.normal(size=len(trait)), [-0.5, 1])
        odds = np.exp(-np.abs(seen[:, None] - np.array([-1, 0, 2])))
        scores = odds / odds.sum(axis=1, keepdims=True)
    elif task == "survival":  # not censored, as resamples keep the weights against that
        hazards = 1 / (1 + np.exp(-trait[:, None] - np.array([-1, 0, -1])))
        labels = (random.random(hazards.shape) < hazards).astype(np.int8)
        labels[:, 1:][np.cumsum(labels[:, :-1], axis=1) > 0] = -1
        scores = 1 - np.cumprod(1 / (1 + np.exp(seen[:, None] + np.array([-1, 0, -1]))), axis=1)
    else:
        odds = seen[:, None] + np.linspace(-3, 0, 12)
        labels = (random.random(odds.shape) < 1 / (1 + np.exp(-odds))).astype(np.int8)
        scores = 1 / (1 + np.exp(-odds - random.normal(size=odds.shape)))
    return labels, scores, np.repeat([f"user-{i}" for i in range(users)], rows)


@pytest.mark.parametrize("levels", [None, 6])
@pytest.mark.parametrize("task", MEASURES)
def test_a_resample_has_the_measures_of_its_rows_written_out(task, levels):
    labels, scores, users = simulate(task, 30, seed=1, levels=levels)
    shuffled = np.random.default_rng(0).permutation(len(users))
    labels, scores, users = labels[shuffled], scores[shuffled], users[shuffled]
    drawn = bootstrap(ScoredRows(task, labels, {"a": scores}, users, **KNOWN), 40, seed=5)["a"]
    assert tuple(drawn) == interval_names(task, scores)
    weights = np.concatenate(list(user_weights(users, 40, seed=5)), axis=1).astype(int)
    of_row = np.searchsorted(np.unique(users), users)
    for i in range(40):
        rows = np.repeat(np.arange(len(users)), weights[of_row, i])
        expected = compute_metrics(task, labels[rows], scores[rows], **KNOWN)
        found = {metric: values[i] for metric, values in drawn.items()}
        assert found == pytest.approx({metric: expected[metric] for metric in found}, rel=1e-4, abs=1e-6, nan_ok=True)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 9), st.integers(2, 20))
def test_a_resample_has_scikit_learns_measures_with_sample_weights(seed, levels, users):
    random = np.random.default_rng(seed)
    rows = 3 * users
    labels, scores = random.integers(0, 2, rows), random.integers(0, levels + 1, rows) / levels
    users = random.integers(0, users, rows)
    drawn = bootstrap(ScoredRows("binary", labels, {"a": scores}, users), 3, seed=seed)["a"]
    weights = next(user_weights(users, 3, seed))[np.searchsorted(np.unique(users), users)]
    for i, weight in enumerate(weights.T):
        both = 0 < weight @ labels < weight.sum()
        for name, metric in (
            ("auroc", sklearn_metrics.roc_auc_score),
            ("average_precision", sklearn_metrics.average_precision_score),
        ):
            expected = metric(labels, scores, sample_weight=weight) if both else np.nan
            assert drawn[name][i] == pytest.approx(expected, nan_ok=True)
        if weight.any():
            loss = sklearn_metrics.log_loss(labels, scores, labels=[0, 1], sample_weight=weight)
            assert drawn["log_loss"][i] == pytest.approx(loss, rel=1e-4, abs=1e-5)
            brier = sklearn_metrics.brier_score_loss(labels, scores, pos_label=1, sample_weight=weight)
            assert drawn["brier_score"][i] == pytest.approx(brier, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("task", MEASURES)
def test_a_scorer_compared_with_itself_differs_by_nothing(task):
    labels, scores, users = simulate(task, 200, seed=0)
    drawn = bootstrap(
        ScoredRows(task, labels, {"a": scores, "other": scores[::-1], "b": scores.copy()}, users, **KNOWN), 300
    )
    for metric, values in drawn["a"].items():
        assert interval(values - drawn["b"][metric]) == [0.0, 0.0]
        assert not np.array_equal(values, drawn["other"][metric])


@pytest.mark.parametrize(
    ("task", "names"),
    [
        ("binary", ("auroc", "average_precision", "log_loss", "brier_score", "lift_at_10", "recall_at_20")),
        ("value", ("mae", "rmse", "spearman", "value_gini")),
        ("tiers", ("auroc", "macro_f1", "ordinal_error")),
    ],
)
def test_intervals_of_a_scorer_and_of_a_difference_cover_the_truth_about_as_often_as_they_say(task, names):
    def scorers(users: int, seed: int):
        """The scores of `simulate`, and worse ones."""
        labels, scores, users = simulate(task, users, seed)
        noise = np.random.default_rng(seed + 10_000).normal(size=scores.shape)
        if task == "value":
            return labels, {"a": scores, "b": scores + noise}, users
        odds = scores / (1 - scores) * np.exp(noise)
        worse = odds / (1 + odds)
        return labels, {"a": scores, "b": worse / worse.sum(axis=1, keepdims=True) if task == "tiers" else worse}, users

    labels, both, _ = scorers(100_000, seed=99)
    truth, main = {name: compute_metrics(task, labels, values) for name, values in both.items()}, MAIN[task]
    trials, hits = 400, dict.fromkeys([*names, "difference"], 0)
    for seed in range(trials):
        labels, both, users = scorers(300, seed)
        drawn = bootstrap(ScoredRows(task, labels, both, users), 256, seed)
        for name in names:
            low, high = interval(drawn["a"][name])
            hits[name] += low <= truth["a"][name] <= high
        low, high = interval(drawn["a"][main] - drawn["b"][main])
        hits["difference"] += low <= truth["a"][main] - truth["b"][main] <= high
    assert {name: hit / trials for name, hit in hits.items() if not 0.93 <= hit / trials <= 0.97} == {}


def test_what_a_threshold_gives_is_resampled_by_users():
    labels, scores, users = simulate("binary", 120, seed=3)
    drawn = bootstrap_at_threshold(labels, scores, users, 0.6, 40, seed=2)
    weights = np.concatenate(list(user_weights(users, 40, seed=2)), axis=1)[np.searchsorted(np.unique(users), users)]
    for i in range(40):
        of = {"y_true": labels, "y_pred": scores >= 0.6, "sample_weight": weights[:, i]}
        for name in ("precision", "recall", "f1", "accuracy"):
            expected = getattr(sklearn_metrics, f"{name}_score")(**of)
            assert drawn[name][i] == pytest.approx(expected, abs=1e-6), name


def test_users_with_rows_alike_widen_the_interval():
    random = np.random.default_rng(0)
    trait = random.normal(size=150)
    labels, scores = (np.repeat(part, 8) for part in ((trait > 0).astype(int), 1 / (1 + np.exp(-trait - 1))))
    scores = np.clip(scores + random.normal(size=len(scores)) / 9 + np.repeat(random.normal(size=150), 8) / 4, 0, 1)
    widths = []
    for users in (np.repeat(np.arange(150), 8), np.arange(150 * 8)):
        low, high = interval(bootstrap(ScoredRows("binary", labels, {"a": scores}, users), 500)["a"]["auroc"])
        widths.append(high - low)
    assert widths[0] > 1.8 * widths[1]


def test_slices_of_the_same_users_see_the_same_resamples():
    labels, scores, users = simulate("binary", 120, seed=3)
    some = np.random.default_rng(0).random(len(users)) < 0.4
    part = bootstrap(ScoredRows("binary", labels[some], {"a": scores[some]}, users[some]), 60, seed=2, among=users)["a"]
    weights = np.concatenate(list(user_weights(users, 60, seed=2)), axis=1)[np.searchsorted(np.unique(users), users)]
    for i in range(60):
        expected = sklearn_metrics.roc_auc_score(labels[some], scores[some], sample_weight=weights[some, i])
        assert part["auroc"][i] == pytest.approx(expected)


def test_a_seed_gives_the_same_resamples_in_any_order_of_the_rows():
    labels, scores, users = simulate("binary", 80, seed=3)
    order = np.random.default_rng(0).permutation(len(users))
    first = bootstrap(ScoredRows("binary", labels, {"a": scores}, users), 150, seed=4)["a"]
    again = bootstrap(ScoredRows("binary", labels[order], {"a": scores[order]}, users[order]), 150, seed=4)["a"]
    for metric, values in first.items():
        np.testing.assert_allclose(values, again[metric], rtol=1e-5)
    other = bootstrap(ScoredRows("binary", labels, {"a": scores}, users), 150, seed=5)["a"]
    assert not np.array_equal(first["auroc"], other["auroc"])


def test_weights_are_poissons_and_independent():
    weights = np.concatenate(list(user_weights(np.arange(5000), 200)), axis=1)
    assert weights.shape == (5000, 200)
    shares = np.bincount(weights.ravel().astype(int), minlength=5)[:5] / weights.size
    np.testing.assert_allclose(shares, np.exp(-1) / np.array([1, 1, 2, 6, 24]), atol=0.001)
    assert np.abs(np.corrcoef(weights[:, :20].T) - np.eye(20)).max() < 0.07
    assert len(list(user_weights(np.arange(3), 0))) == 0


def test_neighbouring_scores_share_a_bin_without_moving_the_measures():
    random = np.random.default_rng(0)
    rows = 200_000
    seen = random.normal(size=rows)
    labels = (random.random(rows) < 1 / (1 + np.exp(5 - 2 * seen))).astype(int)
    scores = 1 / (1 + np.exp(-seen - random.normal(size=rows)))
    scores[random.random(rows) < 0.1] = 0.25  # some tie
    bins = score_bins(scores)
    assert 10_000 < bins.max() < 2**14
    assert np.all(np.diff(bins[np.argsort(-scores, kind="stable")]) >= 0)
    assert np.ptp(scores[bins == bins[scores == 0.25][0]]) == 0
    exact, binned = (compute_metrics("binary", labels, values) for values in (scores, 1 - bins / 2**14))
    assert binned["auroc"] == pytest.approx(exact["auroc"], abs=1e-6)
    assert binned["average_precision"] == pytest.approx(exact["average_precision"], abs=1e-4)
    for name in ("recall_at_1", "recall_at_10"):
        assert binned[name] == pytest.approx(exact[name], abs=2e-4)
    values = np.where(labels, np.exp(seen + random.normal(size=rows)), 0)
    exact = compute_metrics("value", values, seen)
    drawn = bootstrap(ScoredRows("value", values, {"a": seen}, np.arange(rows)), 60)["a"]
    for name in ("spearman", "value_gini"):
        assert drawn[name].mean() == pytest.approx(exact[name], abs=4 * drawn[name].std() / 60**0.5 + 2e-4)


def test_a_score_that_many_rows_share_is_counted_to_the_last_row():
    """float32 alone would stop at 2^24 rows."""
    rows = 2**23 + 1
    table = Rows(np.zeros(rows, np.int8), 1).table(np.zeros(rows, np.int8), 1)
    assert table(np.full((1, 1), 4, np.float32))[0, 0] == 4 * rows


def test_what_a_resample_cannot_tell_is_nan_and_left_out_of_the_interval():
    with warnings.catch_warnings(action="error"):
        drawn = bootstrap(
            ScoredRows("binary", np.array([0, 1]), {"a": np.array([0.2, 0.8])}, np.array(["x", "y"])), 60
        )["a"]
        one_class = bootstrap(ScoredRows("binary", np.zeros(6, int), {"a": np.full(6, 0.5)}, np.arange(6)), 20)["a"]
        values = bootstrap(ScoredRows("value", np.zeros(6), {"a": np.zeros(6)}, np.arange(6)), 20)["a"]
        no_popularity = bootstrap(ScoredRows("propensity", np.eye(3, dtype=int), {"a": np.eye(3)}, np.arange(3)), 20)[
            "a"
        ]
    assert np.isnan(drawn["auroc"]).any()
    assert interval(drawn["auroc"]) == [1.0, 1.0]
    assert np.isnan(interval(one_class["auroc"])).all()
    assert interval(one_class["brier_score"]) == [0.25, 0.25]
    assert np.isnan(interval(values["spearman"])).all()
    assert np.isnan(interval(values["nmae"])).all()
    assert np.isnan(interval(no_popularity["synerise_score"])).all()
    assert "recall_at_3" in no_popularity


@pytest.mark.parametrize("task", MEASURES)
def test_no_rows_have_no_intervals(task):
    scores = np.empty((0, 12)) if task in ("tiers", "propensity", "survival") else np.empty(0)
    labels = np.empty((0, 12), int) if task in ("propensity", "survival") else np.empty(0, int)
    for among in (None, np.arange(4)):
        drawn = bootstrap(ScoredRows(task, labels, {"a": scores}, np.empty(0, int)), 7, among=among)["a"]
        assert tuple(drawn) == interval_names(task, scores)
        assert np.isnan(list(drawn.values())).all()


def test_scores_that_are_none_are_refused_under_their_scorers_name():
    with pytest.raises(InputError, match="rfm: 1 of 2 rows are NaN"):
        bootstrap(ScoredRows("binary", np.array([0, 1]), {"rfm": np.array([0.5, np.nan])}, np.arange(2)), 5)
