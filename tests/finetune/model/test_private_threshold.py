"""The threshold's odds hardly change with one user, and it lies near the quantile where there are users enough."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.model.private_threshold import intervals, private_threshold

SCORES = st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.3001, 0.5, 0.99, 1.0]) | st.floats(0, 1), max_size=30)


def log_density(scores: list[float], places: np.ndarray, budget: float, epsilon: float) -> np.ndarray:
    edges, probabilities = intervals(np.array(scores, float), budget, epsilon)
    found = np.searchsorted(edges, places, side="right") - 1
    return np.log(probabilities[found]) - np.log(np.diff(edges)[found])


@given(SCORES, st.floats(0, 1), st.floats(0.01, 0.99), st.sampled_from([0.1, 1.0, 5.0]))
def test_one_user_more_changes_the_density_everywhere_by_epsilon_at_most(scores, one_more, budget, epsilon):
    edges = np.unique([0.0, 1.0, one_more, *scores])
    inside = (edges[:-1] + edges[1:]) / 2
    inside = inside[(inside > edges[:-1]) & (inside < edges[1:])]
    without, beside = (log_density(part, inside, budget, epsilon) for part in (scores, [*scores, one_more]))
    assert np.abs(without - beside).max() <= epsilon * (1 + 1e-9)


def test_the_bound_is_nearly_reached_by_a_hand_made_case():
    """So that half of the noise would fail it: who is below all others makes the likely places likelier, and the
    unlikely ones unlikelier."""
    without, beside = (log_density(scores, np.array([0.95]), 0.95, 1.0) for scores in ([0.9] * 20, [0.0, *[0.9] * 20]))
    assert 0.9 < np.abs(without - beside)[0] <= 1.0


def test_it_lies_near_the_quantile_of_many_users_and_anywhere_of_few():
    random = np.random.default_rng(0)
    scores = random.beta(2, 6, 4000)
    above = [np.mean(scores >= private_threshold(scores, 0.1, 0.5, random)) for _ in range(200)]
    assert np.mean(above) == pytest.approx(0.1, abs=0.01)
    assert np.quantile(np.abs(np.array(above) - 0.1), 0.95) < 0.02
    of_two = [private_threshold(np.array([0.4, 0.6]), 0.5, 1e-3, random) for _ in range(400)]
    assert 0.2 < np.std(of_two) < 0.35  # that of any place alike is .29


def test_probabilities_add_up_where_users_are_many_or_share_a_score():
    for scores in (np.full(5000, 0.5), np.linspace(0, 1, 100_000), np.array([]), np.array([-0.5, 1.5])):
        edges, probabilities = intervals(scores, 0.1, 50.0)
        assert probabilities.sum() == pytest.approx(1)
        assert np.isfinite(probabilities).all()
        assert (edges[0], edges[-1]) == (0, 1)
