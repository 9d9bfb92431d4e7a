"""The measures of the time to an event, by hand, and the objective of hazards."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import expit, logit

from data_prep import InputError
from finetune.baselines.estimators import Fitted, boosting, constant, linear, quality
from finetune.evaluation.bootstrap import bootstrap
from finetune.evaluation.contact import contact
from finetune.evaluation.rows import ScoredRows
from finetune.evaluation.scorers import blend
from finetune.figures import survival
from finetune.figures.metrics import SurvivalMetrics, compute_metrics
from finetune.model.calibration import Calibration
from finetune.model.objective import Objective

HORIZONS = ("7 days", "2 weeks")
OBJECTIVE = Objective("survival", HORIZONS)
# Two events in the first interval, one in the second, two rows without, and one that the log cuts after the first.
LABELS = np.array([[1, -1], [1, -1], [0, 1], [0, 0], [0, -1], [0, 0]])
SCORES = np.array([[0.6, 0.8], [0.3, 0.4], [0.2, 0.5], [0.1, 0.2], [0.5, 0.7], [0.4, 0.6]])


def test_measures_are_those_worked_out_by_hand():
    """The one censored row makes those that are seen to the end count 4/3
    (scikit-survival 0.28 gave the same figures, and on 24 drawn samples)."""
    found = compute_metrics("survival", LABELS, SCORES, horizons=HORIZONS)
    hazards = [0.6, 0.3, 0.8, 0.375, 0.9, 8 / 9, 0.5, 0.6, 2 / 3]  # or their opposites, of the nine known intervals
    assert found == pytest.approx(
        {
            "concordance": (6 + 1 / 0.75**2) / (8 + 2 / 0.75**2),  # 6 of 8 pairs, and 1 of 2
            "integrated_brier_score": (1.11 / 6 + (0.4 + 4 / 3 * 0.65) / 6) / 2,
            "auroc": (6 / 8 + 0.65) / 2,
            "average_precision": ((1 + 2 / 4) / 2 + 0.3 + 0.4 * (7 / 3) / (11 / 3) + 0.3 * (10 / 3) / (14 / 3)) / 2,
            "log_loss": -np.log(hazards).mean(),
            "auroc_1": 6 / 8,
            "auroc_2": (1 + 0.5 + 0.5 * 4 / 3) / (2 + 4 / 3),
            "average_precision_1": (1 + 2 / 4) / 2,
            "average_precision_2": 0.3 + 0.4 * (7 / 3) / (11 / 3) + 0.3 * (10 / 3) / (14 / 3),
            "brier_score_1": 1.11 / 6,
            "brier_score_2": (0.4 + 4 / 3 * 0.65) / 6,
        }
    )
    assert found["average_precision"] == pytest.approx(
        (found["average_precision_1"] + found["average_precision_2"]) / 2
    )
    np.testing.assert_allclose(survival.kaplan_meier(LABELS), [1 / 3, 1 - 2 / 3 * 2 / 3])
    np.testing.assert_allclose(survival.uncensored(LABELS), [1, 3 / 4])
    np.testing.assert_allclose(survival.risk(SCORES, survival.days(HORIZONS)), [7.0, 3.5, 3.15, 1.4, 5.95, 4.9])


def test_no_measure_depends_on_the_order_of_the_rows():
    found = compute_metrics("survival", LABELS, SCORES, horizons=HORIZONS)
    order = np.random.default_rng(0).permutation(len(LABELS))
    assert found == pytest.approx(compute_metrics("survival", LABELS[order], SCORES[order], horizons=HORIZONS))


def test_without_censoring_each_horizon_is_a_question_of_yes_or_no():
    labels = LABELS[[0, 1, 2, 3, 5]]
    scores, come = SCORES[[0, 1, 2, 3, 5]], np.array([[1, 1], [1, 1], [0, 1], [0, 0], [0, 0]])
    found = compute_metrics("survival", labels, scores, horizons=HORIZONS)
    for at in range(2):
        alone = compute_metrics("binary", come[:, at], scores[:, at])
        for name in ("auroc", "average_precision", "brier_score"):
            assert found[f"{name}_{at + 1}"] == pytest.approx(alone[name])
    assert SurvivalMetrics(keep_in_memory=True).compute(
        references=labels, prediction_scores=scores, horizons=HORIZONS
    ) == pytest.approx(found)


def test_what_nothing_is_known_of_is_not_defined():
    labels = np.array([[1, -1], [0, -1], [0, -1]])
    found = compute_metrics("survival", labels, SCORES[:3], horizons=HORIZONS)
    assert all(math.isnan(found[name]) for name in ("auroc_2", "average_precision_2", "brier_score_2"))
    assert found["integrated_brier_score"] == found["brier_score_1"]
    assert found["concordance"] == found["auroc_1"] == 1.0
    assert math.isnan(survival.kaplan_meier(labels)[1])
    assert all(map(math.isnan, compute_metrics("survival", LABELS[:0], SCORES[:0], horizons=HORIZONS).values()))


@pytest.mark.parametrize(
    ("labels", "scores", "reason"),
    [
        (LABELS, SCORES[:, ::-1], "score: 6 of 6 rows fall from one horizon to the next"),
        (LABELS + 1, SCORES, "label: 3 of 6 rows are none of -1 to 1, as survival labels are"),
        (LABELS, SCORES * 2, "score: 3 of 6 rows are outside 0 to 1"),
    ],
)
def test_scores_that_fall_and_other_labels_are_refused(labels, scores, reason):
    with pytest.raises(InputError) as error:
        compute_metrics("survival", labels, scores, horizons=HORIZONS)
    assert str(error.value).startswith(reason)


def simulated(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels of two intervals, a tenth of them censored behind the first one; the true scores; and what tells them."""
    random = np.random.default_rng(seed)
    told = random.normal(size=(rows, 1))
    hazards = expit(told + np.array([-1.0, -0.5]))
    events = random.random((rows, 2)) < hazards
    labels = events.astype(np.int8)
    labels[events[:, 0] | (random.random(rows) < 0.1), 1] = -1
    return labels, survival.come_by(hazards), told


def test_resamples_of_each_measure_lie_around_its_figure():
    labels, scores, _ = simulated(900)
    rows = ScoredRows("survival", labels, {"model": scores}, np.arange(900) // 3, horizons=HORIZONS)
    found, drawn = compute_metrics("survival", labels, scores, horizons=HORIZONS), bootstrap(rows, 300)["model"]
    assert drawn.keys() == found.keys() - {"log_loss"}
    for name, values in drawn.items():
        assert values.std() > 0
        assert values.mean() == pytest.approx(found[name], abs=4 * values.std() / 300**0.5 + 0.002)


LOGITS = arrays(np.float64, (4, 3), elements=st.floats(-40, 40))


@settings(max_examples=50, deadline=None)
@given(LOGITS, LOGITS)
def test_scores_never_fall_whatever_the_logits_and_nothing_that_is_done_to_them_changes_that(logits, others):
    objective = Objective("survival", ("1 day", "2 days", "3 days"))
    scores, rivals = objective.scores(logits), objective.scores(others)
    calibrated = Calibration("temperature", 1.7).apply(scores, "survival")
    for values in (scores, calibrated, blend("survival", scores, rivals)):
        assert (np.diff(values) >= 0).all()
        assert ((values >= 0) & (values <= 1)).all()
    np.testing.assert_allclose(survival.come_by(survival.hazards_of(scores)), scores, atol=1e-12)


def test_the_loss_is_that_of_the_known_intervals_and_a_masked_one_moves_nothing():
    loss = OBJECTIVE.loss()
    logits = torch.tensor([[0.5, 3.0], [-1.0, 0.2]], requires_grad=True)
    labels = torch.tensor([[1.0, -1.0], [0.0, 1.0]])
    found = loss({"logits": logits}, labels)
    probabilities = expit(logits.detach().numpy().astype(float))
    known = [probabilities[0, 0], 1 - probabilities[1, 0], probabilities[1, 1]]
    assert found.item() == pytest.approx(-np.log(known).sum() / 4)
    found.backward()
    assert logits.grad[0, 1] == 0
    other = torch.tensor([[0.5, -30.0], [-1.0, 0.2]])
    assert loss({"logits": other}, labels).item() == pytest.approx(found.item())
    assert loss({"logits": other}, labels, torch.tensor(8)).item() == pytest.approx(found.item() / 2)


def test_the_head_starts_at_the_hazards_and_a_teacher_says_them():
    np.testing.assert_allclose(OBJECTIVE.priors(LABELS), logit([2.5 / 7, 1.5 / 4]))
    taught = OBJECTIVE.taught(LABELS, SCORES)
    np.testing.assert_allclose(taught[:, 0], logit(survival.hazards_of(SCORES)))
    np.testing.assert_array_equal(taught[:, 1], LABELS)
    logits = torch.tensor(taught[:, 0], dtype=torch.float32)
    alone = OBJECTIVE.loss()({"logits": logits}, torch.tensor(LABELS, dtype=torch.float32))
    with_teacher = OBJECTIVE.loss(teacher=0.75)({"logits": logits}, torch.tensor(taught, dtype=torch.float32))
    assert with_teacher.item() == pytest.approx(alone.item() / 4)


def test_a_temperature_draws_hazards_that_are_too_sure_back():
    labels, scores, _ = simulated(4000)
    sure = survival.come_by(expit(3 * logit(survival.hazards_of(scores))))
    fitted = Calibration.fit("temperature", "survival", labels, sure)
    assert fitted.temperature == pytest.approx(3, rel=0.1)
    before, after = (
        compute_metrics("survival", labels, values, horizons=HORIZONS)
        for values in (sure, fitted.apply(sure, "survival"))
    )
    assert after["integrated_brier_score"] < before["integrated_brier_score"]


def test_baselines_learn_each_interval_from_the_rows_at_risk():
    labels, scores, told = simulated(4000)
    same = Fitted(OBJECTIVE, constant({}), told, labels, seed=0).scores(told)
    np.testing.assert_allclose(same, np.tile(survival.kaplan_meier(labels), (4000, 1)))
    for estimator in (linear({"C": 1.0}), boosting(OBJECTIVE, {"max_iter": 30}, 0)):
        fitted = Fitted(OBJECTIVE, estimator, told, labels, seed=0)
        found = fitted.scores(told)
        assert np.abs(found - scores).mean() < 0.05
        assert quality("survival", labels, found) > 0.7
        assert (np.diff(found) >= 0).all()
    nobody = np.array([[1, -1], [1, -1]])
    np.testing.assert_array_equal(Fitted(OBJECTIVE, constant({}), told[:2], nobody, seed=0).scores(told[:2]), 1.0)


def test_a_contact_counts_by_the_longest_horizon_that_the_last_cutoff_reaches():
    labels = np.concatenate([LABELS[[0, 1, 2, 3, 5]], [[0, -1], [1, -1], [0, -1]]])
    scores = np.concatenate([SCORES[[0, 1, 2, 3, 5]], [[0.1, 0.9], [0.5, 0.6], [0.2, 0.3]]])
    cutoffs = np.array(["2024-01-01"] * 5 + ["2024-02-01"] * 3, "datetime64[us]")
    rows = ScoredRows("survival", labels, {"model": scores}, np.arange(8), horizons=HORIZONS)
    found = contact(rows, cutoffs, 1 / 3, 20)
    assert (found["horizon"], found["users"], found["total"], found["found_at"]) == ("7 days", 3, 1, {"model": 1})
    assert contact(rows.where(cutoffs < cutoffs.max()), cutoffs[:5], 0.2, 20)["horizon"] == "2 weeks"
