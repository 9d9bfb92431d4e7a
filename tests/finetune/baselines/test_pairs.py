import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from data_prep import InputError
from data_prep.features import OWN
from finetune.baselines import pairs
from finetune.baselines.pairs import PairModel, PairRows, PersonalFrequency, fit_pairs, pair_columns, personal_frequency


def rows_of(counts: np.ndarray, recency: np.ndarray | None = None) -> PairRows:
    """Rows with these counts of each class in every window."""
    own = dict.fromkeys(OWN[:-1], counts.astype(np.float32))
    own[OWN[-1]] = np.where(counts > 0, 5.0 if recency is None else recency, np.nan).astype(np.float32)
    return PairRows(own, np.ones((len(counts), 3), np.float32))


def test_personal_frequency_ranks_by_count_and_then_by_popularity():
    rows = rows_of(np.array([[2, 0, 0, 1], [0, 0, 0, 0]]))
    shares = np.array([0.1, 0.2, 0.5, 0.0])
    found = personal_frequency(rows, "own", shares)
    behind = shares / 1.5
    np.testing.assert_allclose(found, [[2 + behind[0], behind[1], behind[2], 1], behind])
    assert np.argsort(-found, axis=1).tolist() == [[0, 3, 2, 1], [2, 1, 0, 3]]


def test_the_curve_of_personal_frequency_keeps_the_order():
    random = np.random.default_rng(0)
    rows = rows_of(random.poisson(1, (500, 4)))
    labels = (random.random((500, 4)) < expit(rows.own["own"] - 2)).astype(int)
    fitted = PersonalFrequency("own_28d", rows, labels)
    scores, order = fitted.scores(rows), personal_frequency(rows, "own_28d", labels.mean(axis=0))
    assert scores.shape == (500, 4)
    assert (np.diff(scores.ravel()[np.argsort(order.ravel(), kind="stable")]) >= 0).all()
    assert scores.mean() == pytest.approx(labels.mean(), abs=0.01)


def test_the_inputs_of_a_pair_are_those_of_a_computation_by_hand():
    counts, labels = np.array([[3, 1], [0, 0]]), np.array([[1, 0], [0, 0]])
    fitted = fit_pairs({"C": 1.0}, rows_of(counts, np.array([[2.0, 9.0], [0, 0]])), labels, 0)
    np.testing.assert_allclose(fitted.shares, [0.5, 0])
    # Of the one row that had a class, all have label 0 and none label 1; ten rows as popular as all beside it.
    np.testing.assert_allclose(fitted.together, [[(1 + 5) / 11, 0], [(1 + 5) / 11, 0]])
    found = fitted._inputs(rows_of(counts, np.array([[2.0, 9.0], [0, 0]])))
    assert found.shape == (4, 12)
    never, edge = np.log1p(pairs.NEVER), np.log(pairs.EDGE / (1 - pairs.EDGE))
    expected = [
        [*[np.log(4)] * 4, np.log(3), 0, 0.75, 0, np.log((6 / 11) / (5 / 11)), *[np.log(2)] * 3],
        [*[np.log(2)] * 4, np.log(10), 0, 0.25, edge, edge, *[np.log(2)] * 3],
        [*[0] * 4, never, 1, 0, 0, 0, *[np.log(2)] * 3],
        [*[0] * 4, never, 1, 0, edge, edge, *[np.log(2)] * 3],
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("settings", [{"C": 1.0}, {"learning_rate": 0.1, "max_leaf_nodes": 8, "max_iter": 50}])
def test_a_model_of_pairs_learns_how_a_class_depends_on_its_own_count(settings, monkeypatch):
    monkeypatch.setattr(pairs, "SCORED", 1000)  # several parts
    random = np.random.default_rng(0)
    counts = random.poisson(2, (3000, 3))
    chance = expit(2 * np.log1p(counts) - 3)
    labels = (random.random(counts.shape) < chance).astype(int)
    fitted = fit_pairs(settings, rows_of(counts), labels, 0)
    found = fitted.scores(rows_of(counts))
    assert np.abs(found - chance).mean() < 0.03
    stages = list(fitted.stages(rows_of(counts)))
    assert [trees for trees, _ in stages] == ([0] if "C" in settings else [25, 50])
    np.testing.assert_allclose(stages[-1][1], found)


def test_boosting_tells_classes_apart_that_differ_in_nothing_else():
    random = np.random.default_rng(0)
    counts = random.poisson(1, (2000, 2))
    labels = np.column_stack([counts[:, 0] > 0, counts[:, 1] == 0]).astype(int)  # one is bought again, one never is
    point = {"learning_rate": 0.1, "max_leaf_nodes": 8, "max_iter": 50}
    scores = fit_pairs(point, rows_of(counts), labels, 0).scores(rows_of(counts))
    assert min(roc_auc_score(of, by) for of, by in zip(labels.T, scores.T, strict=True)) > 0.99


def test_a_part_of_many_pairs_is_fitted_to(monkeypatch):
    monkeypatch.setattr(pairs, "MAX_PAIRS", 300)
    seen = []

    class Counting(pairs.LogisticRegression):
        def fit(self, inputs, labels):
            seen.append(inputs.shape[0])
            return super().fit(inputs, labels)

    random = np.random.default_rng(0)
    counts = random.poisson(2, (1000, 3))
    PairModel(Counting(), rows_of(counts), (counts > random.poisson(2, counts.shape)).astype(int))
    assert seen == [300]


def test_labels_that_are_all_the_same_give_their_share():
    rows = rows_of(np.ones((4, 2)))
    fitted = fit_pairs({"C": 1.0}, rows, np.zeros((4, 2), int), 0)
    assert (fitted.scores(rows) == 0).all()
    assert [trees for trees, _ in fitted.stages(rows)] == [0]


def test_data_that_was_prepared_before_there_were_own_counts_is_refused():
    with pytest.raises(InputError, match="older EventScribe; run scripts/prepare"):
        pair_columns({"classes": ["a"]})
