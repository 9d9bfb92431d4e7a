import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score
from torch.nn import functional

from data_prep import InputError
from data_prep.config import Label
from finetune.figures.measures import MAIN, MEASURES, measure_names
from finetune.model.objective import Objective, Scale, class_weights

RANDOM = np.random.default_rng(0)
BINARY = Objective("binary", ("no_churn", "churn"))
TIERS = Objective("tiers", ("none", "some", "much"))
PROPENSITY = Objective("propensity", ("milk", "bread"))
VALUE = Objective("value", ("value",))


def label(**settings: object) -> Label:
    return Label(where="true", horizon="7 days", **settings)


@pytest.mark.parametrize(
    ("asked", "classes", "expected"),
    [
        (label(kind="absent"), ["no_churn", "churn"], BINARY),
        (label(kind="exists", name="refund"), ["no_refund", "refund"], Objective("binary", ("no_refund", "refund"))),
        (label(kind="sum", field="value", tiers=[0, 9]), ["none", "some", "much"], TIERS),
        (label(kind="count", tiers=[0, 9]), ["none", "some", "much"], TIERS),
        (label(kind="sum", field="value"), None, VALUE),
        (label(kind="which", field="category", top=2), ["milk", "bread"], PROPENSITY),
    ],
)
def test_each_kind_of_label_has_its_objective(asked, classes, expected):
    assert Objective.of(asked, classes) == expected


@pytest.mark.parametrize(
    ("objective", "labels", "expected"),
    [
        (TIERS, torch.randint(0, 3, (12,)), functional.cross_entropy),
        (PROPENSITY, torch.randint(0, 2, (12, 2)).float(), functional.binary_cross_entropy_with_logits),
        (VALUE, torch.randn(12), lambda logits, labels: functional.mse_loss(logits[:, 0], labels)),
    ],
)
def test_the_loss_is_the_mean_however_a_step_is_cut_into_batches(objective, labels, expected):
    logits = torch.randn(12, len(objective.classes))
    loss = objective.loss()
    assert torch.allclose(loss({"logits": logits}, labels), expected(logits, labels))
    items = torch.tensor(labels.numel())
    parts = [loss({"logits": logits[part]}, labels[part], items) for part in (slice(0, 3), slice(3, 12))]
    assert torch.allclose(sum(parts), expected(logits, labels))


def test_values_may_be_learned_by_their_absolute_error():
    logits, labels = torch.randn(12, 1), torch.randn(12)
    found = VALUE.loss(value_loss="absolute_error")({"logits": logits}, labels)
    assert torch.allclose(found, (logits[:, 0] - labels).abs().mean())


def test_weights_and_smoothing_are_those_of_torch():
    logits, labels = torch.randn(30, 3), torch.randint(0, 3, (30,))
    weights = class_weights("auto", TIERS, labels.numpy())
    found = TIERS.loss(0.1, weights)({"logits": logits}, labels)
    each = functional.cross_entropy(logits, labels, torch.tensor(weights), reduction="none", label_smoothing=0.1)
    assert torch.allclose(found, each.mean())


def test_weights_are_one_on_average_and_even_out_the_classes():
    labels = np.repeat([0, 1, 2], [80, 15, 5])
    weights = np.array(class_weights("auto", TIERS, labels))
    assert weights[labels].mean() == pytest.approx(1)
    np.testing.assert_allclose(weights * [80, 15, 5], 100 / 3)
    named = np.array(class_weights({"much": 4}, TIERS, labels))
    np.testing.assert_allclose(named / named[0], [1, 1, 4])
    assert class_weights("none", PROPENSITY, labels) is None
    for asked, objective, message in [
        ("auto", PROPENSITY, "no classes to weigh"),
        ({"huge": 2}, TIERS, "'huge' does not fit"),
        ({"much": 0}, TIERS, "above zero"),
    ]:
        with pytest.raises(InputError, match=message):
            class_weights(asked, objective, labels)


@pytest.mark.parametrize("kind", [{"log": False}, {"log": True}, {"log": False, "root": True}])
def test_a_scale_is_undone(kind):
    values = RANDOM.gamma(0.5, 40, 500) - (0 if kind["log"] else 5)
    scale = Scale.fit(values, **kind)
    learned = scale.learned(values)
    assert learned.mean() == pytest.approx(0, abs=1e-9)
    assert learned.std() == pytest.approx(1)
    np.testing.assert_allclose(scale.value(learned), values, atol=1e-9)


def test_a_root_scale_counts_large_values_less_and_keeps_their_sign():
    scale = Scale(log=False, mean=1.0, deviation=2.0, root=True)
    np.testing.assert_allclose(scale.learned(np.array([-9.0, 0.0, 1.0, 49.0])), [-2, -0.5, 0, 3])
    np.testing.assert_allclose(scale.value(np.array([-2.0, -0.5, 0.0, 3.0])), [-9, 0, 1, 49])


@pytest.mark.parametrize("root", [False, True])
def test_values_of_a_scale_are_multiplied(root):
    scale, outputs = Scale(log=False, mean=1.0, deviation=2.0, root=root), np.array([-3.0, 0.0, 4.0])
    np.testing.assert_allclose(scale.times(1.44).value(outputs), 1.44 * scale.value(outputs))


def test_a_log_scale_refuses_values_below_zero():
    with pytest.raises(InputError, match="a label is -3"):
        Scale.fit(np.array([1.0, -3.0]), True)


def test_metrics_are_scikit_learns():
    labels, scores = RANDOM.integers(0, 3, 400), RANDOM.dirichlet(np.ones(3), 400)
    found = TIERS.metrics(labels, scores)
    assert found["auroc"] == pytest.approx(roc_auc_score(labels, scores, multi_class="ovr"))
    assert found["log_loss"] == pytest.approx(log_loss(labels, scores))
    several = RANDOM.integers(0, 2, (400, 2))
    found = PROPENSITY.metrics(several, scores[:, :2])
    assert found["auroc"] == pytest.approx(roc_auc_score(several, scores[:, :2]))
    assert found["log_loss"] == pytest.approx(np.mean([log_loss(several[:, i], scores[:, i]) for i in (0, 1)]))
    values = np.array([1.0, 2.0]), np.array([1.0, 5.0])
    assert VALUE.metrics(*values) == pytest.approx({"mae": 1.5, "rmse": 4.5**0.5, "spearman": 1, "value_gini": 1})


def test_each_task_is_validated_by_some_of_its_metrics():
    probabilities = RANDOM.dirichlet(np.ones(3), 50)
    for objective, labels, scores in (
        (BINARY, RANDOM.integers(0, 2, 50), probabilities[:, 0]),
        (TIERS, RANDOM.integers(0, 3, 50), probabilities),
        (PROPENSITY, RANDOM.integers(0, 2, (50, 2)), probabilities[:, :2]),
        (VALUE, RANDOM.random(50), RANDOM.random(50)),
    ):
        names = measure_names(objective.task, "validation")
        assert tuple(objective.metrics(labels, scores)) == names
        assert set(names) <= set(MEASURES[objective.task])
        assert objective.best == MAIN[objective.task]


def test_a_model_that_came_apart_is_told_in_a_sentence():
    with pytest.raises(InputError, match="2 of 3 rows are NaN"):
        BINARY.metrics(np.array([0, 1, 1]), np.array([0.5, np.nan, np.nan]))


def test_a_class_that_no_row_has_is_left_out_of_the_mean_auroc():
    labels, scores = RANDOM.integers(0, 2, 100), RANDOM.dirichlet(np.ones(3), 100)
    assert np.isfinite(TIERS.metrics(labels, scores)["auroc"])


def test_scores_are_probabilities_or_the_output_itself():
    logits = RANDOM.normal(size=(5, 3))
    np.testing.assert_allclose(TIERS.scores(logits).sum(axis=1), 1)
    assert BINARY.scores(logits[:, :2]).shape == VALUE.scores(logits[:, :1]).shape == (5,)
    np.testing.assert_allclose(PROPENSITY.scores(logits[:, :2]), 1 / (1 + np.exp(-logits[:, :2])))


def test_priors_are_the_logits_of_how_frequent_each_class_is():
    labels = np.repeat([0, 1, 2], [700, 200, 100])
    shares = np.exp(TIERS.priors(labels))
    np.testing.assert_allclose(shares, [0.7, 0.2, 0.1], atol=1e-3)
    weighted = np.exp(TIERS.priors(labels, [1 / 7, 1 / 2, 1]))
    np.testing.assert_allclose(weighted / weighted.sum(), 1 / 3, atol=2e-3)
    several = PROPENSITY.priors(np.column_stack([labels > 0, np.zeros(1000)]))
    np.testing.assert_allclose(1 / (1 + np.exp(-several)), [0.3, 0.0005], atol=1e-3)
    assert VALUE.priors(np.array([1.5, 0.0])) is None
