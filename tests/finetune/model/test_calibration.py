import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn.metrics import average_precision_score, f1_score, log_loss

from data_prep import InputError
from finetune.evaluation.profit import profit_curve
from finetune.evaluation.rows import ScoredRows
from finetune.model.calibration import Calibration, choose_threshold


def overconfident(rows: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and scores whose log-odds are twice the true ones."""
    random = np.random.default_rng(seed)
    true = random.normal(size=rows)
    return (random.random(rows) < expit(true)).astype(int), expit(2 * true)


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_calibrated_scores_of_other_rows_lose_less(method):
    labels, scores = overconfident()
    calibration = Calibration.fit(method, "binary", labels, scores)
    others, theirs = overconfident(seed=1)
    assert log_loss(others, calibration.apply(theirs, "binary")) < log_loss(others, theirs) - 0.04


def test_the_temperature_of_doubled_log_odds_is_two():
    assert Calibration.fit("temperature", "binary", *overconfident(40_000)).temperature == pytest.approx(2, abs=0.1)


def test_temperature_keeps_the_order_and_the_sum_of_tiers():
    random = np.random.default_rng(0)
    scores = random.dirichlet([1, 1, 1], 500)
    calibration = Calibration.fit("temperature", "tiers", random.integers(0, 3, 500), scores)
    found = calibration.apply(scores, "tiers")
    np.testing.assert_allclose(found.sum(axis=1), 1)
    np.testing.assert_array_equal(found.argsort(axis=1), scores.argsort(axis=1))


def test_each_class_of_propensity_is_calibrated():
    labels, scores = overconfident()
    labels, scores = labels.reshape(-1, 4), scores.reshape(-1, 4)
    calibration = Calibration.fit("temperature", "propensity", labels, scores)
    assert calibration.temperature == pytest.approx(2, abs=0.3)
    assert calibration.apply(scores, "propensity").shape == scores.shape


@given(scores=st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_probabilities_stay_within_zero_and_one(scores):
    scores = np.array(scores)
    for method in ("temperature", "isotonic"):
        found = Calibration.fit(method, "binary", *overconfident(200)).apply(scores, "binary")
        assert ((found >= 0) & (found <= 1)).all()
        assert (np.diff(found[np.argsort(scores)]) >= 0).all()


def test_isotonic_ranks_as_the_scores_do_and_takes_part_in_no_tie():
    labels, scores = overconfident(500)
    calibration = Calibration.fit("isotonic", "binary", labels, scores)
    others, theirs = overconfident(2000, seed=1)
    found = calibration.apply(theirs, "binary")
    np.testing.assert_array_equal(np.argsort(found), np.argsort(theirs))
    assert average_precision_score(others, found) == average_precision_score(others, theirs)
    steps = np.interp(theirs, calibration.x, calibration.y)
    assert len(np.unique(steps)) < 1900
    np.testing.assert_allclose(found, steps, atol=1e-6)


def test_what_is_saved_is_loaded(tmp_path):
    for method in ("none", "temperature", "isotonic"):
        made = Calibration.fit(method, "binary", *overconfident(200))
        made.save(tmp_path)
        scores = np.linspace(0, 1, 11)
        np.testing.assert_array_equal(Calibration.load(tmp_path).apply(scores, "binary"), made.apply(scores, "binary"))
    (tmp_path / "calibration.json").write_text(json.dumps({"method": "none", "strange": 1}))
    with pytest.raises(InputError, match=r"evaluate\.py again"):
        Calibration.load(tmp_path)
    (tmp_path / "calibration.json").unlink()
    assert Calibration.load(tmp_path) == Calibration()


@pytest.mark.parametrize(("method", "task"), [("temperature", "value"), ("isotonic", "tiers")])
def test_a_method_that_does_not_fit_is_refused(method, task):
    with pytest.raises(InputError, match=r"evaluation\.calibration"):
        Calibration.fit(method, task, np.zeros(3), np.zeros(3))


def test_no_threshold_has_a_higher_f1_than_the_chosen_one():
    labels, scores = overconfident(300)
    chosen = choose_threshold("f1", labels, scores, 0.1)
    best = max(f1_score(labels, scores >= limit) for limit in scores)
    assert f1_score(labels, scores >= chosen) == best


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_a_budget_contacts_that_share_and_no_more(share):
    labels, scores = overconfident(1000)
    contacted = (scores >= choose_threshold("budget", labels, scores, share)).mean()
    assert share - 0.002 <= contacted <= share


def test_equal_scores_never_exceed_a_budget():
    labels, scores = overconfident(1000)
    steps = scores.round(1)
    contacted = (steps >= choose_threshold("budget", labels, steps, 0.1)).mean()
    assert contacted == max(share for share in [(steps >= limit).mean() for limit in [2.0, *steps]] if share <= 0.1)
    assert not (np.ones(1000) >= choose_threshold("budget", labels, np.ones(1000), 0.1)).any()


def profits(labels, scores, contact, kept):
    return {limit: (kept * labels - contact)[scores >= limit].sum() for limit in scores}


def test_money_is_earned_most_at_the_chosen_threshold():
    labels, scores = overconfident(400)
    scores = scores.round(2)  # ties, which are contacted together
    chosen = choose_threshold("money", labels, scores, 0.1, 1, 2.5)
    possible = profits(labels, scores, 1, 2.5)
    assert possible[chosen] == max(possible.values())


def test_nobody_is_contacted_where_no_contact_pays():
    labels, scores = np.array([0, 1, 0]), np.array([0.9, 0.5, 0.1])
    assert not (scores >= choose_threshold("money", labels, scores, 0.1, 10, 1)).any()


def test_the_profit_curve_ends_with_everybody_and_its_best_is_the_highest():
    labels, scores = overconfident(1000)
    users = np.arange(1000) // 2
    curve = profit_curve(ScoredRows("binary", labels, {"model": scores}, users), 1, 2.5, 200)
    assert (curve["shares"][0], curve["profits"][0], curve["shares"][-1]) == (0, 0, 1)
    assert curve["profits"][-1] == pytest.approx(2.5 * labels.sum() - 1000)
    assert curve["best_profit"] == max(curve["profits"])
    order = np.argsort(-scores)
    tenth = curve["shares"].index(0.1)
    assert curve["profits"][tenth] == pytest.approx((2.5 * labels - 1)[order[:100]].sum())
    inside = np.array(curve["interval_low"]) <= curve["profits"], curve["profits"] <= np.array(curve["interval_high"])
    assert np.mean(inside) > 0.95


def test_the_profit_of_the_threshold_is_that_of_the_rows_that_reach_it():
    labels, scores = overconfident(1000)
    curve = profit_curve(
        ScoredRows("binary", labels, {"model": scores}, np.arange(1000) // 2), 1, 2.5, 200, threshold=0.4
    )
    chosen = scores >= 0.4
    assert curve["share_at_threshold"] == chosen.mean()
    assert curve["profit_at_threshold"] == pytest.approx((2.5 * labels - 1)[chosen].sum())
    low, high = curve["profit_at_threshold_interval"]
    assert low < curve["profit_at_threshold"] < high
    assert np.isnan(
        profit_curve(ScoredRows("binary", labels, {"model": scores}, np.arange(1000)), 1, 2.5, 10)[
            "profit_at_threshold"
        ]
    )


def test_the_order_of_rows_of_equal_scores_earns_nothing():
    labels = np.sort(np.arange(1000) % 2)[::-1]  # the positive ones first
    for ordered in (labels, labels[::-1]):
        curve = profit_curve(ScoredRows("binary", ordered, {"model": np.ones(1000)}, np.arange(1000)), 1, 2, 10)
        assert (
            np.abs(curve["profits"]).max() < 100
        )  # the positive ones first would earn 500, last they would lose as much


def test_fewer_rows_than_steps_and_no_profit_have_a_curve():
    curve = profit_curve(
        ScoredRows("binary", np.zeros(3, int), {"model": np.array([0.2, 0.2, 0.1])}, np.arange(3)), 1, 5, 10
    )
    assert curve["best_share"] == curve["best_profit"] == 0
    assert curve["profits"] == [0, -1, -2, -3]


def test_scores_of_zero_and_one_survive_the_temperature():
    found = Calibration("temperature", 2.0).apply(np.array([0.0, 1.0, 0.5]), "binary")
    assert np.isfinite(logit(found)).all()
    assert found[2] == 0.5
