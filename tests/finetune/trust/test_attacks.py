"""What guesses prove, against what is known by hand."""

import numpy as np
import pytest
from scipy.stats import binom

from finetune.trust.attacks import judged, likelihood_ratio, lower_bound, p_value


def test_without_delta_the_p_value_is_that_of_a_binomial():
    assert p_value(100, 40, 30, 0.0, 0.0) == pytest.approx(binom.sf(29, 40, 0.5))
    assert p_value(100, 40, 30, 1.0, 0.0) == pytest.approx(binom.sf(29, 40, np.e / (1 + np.e)))
    assert p_value(100, 40, 30, 1.0, 1e-3) > p_value(100, 40, 30, 1.0, 0.0)
    assert p_value(100, 40, 0, 1.0, 0.1) == 1


def test_an_attack_that_is_always_right_proves_much_and_a_coin_proves_nothing():
    random = np.random.default_rng(0)
    member = random.random(200) < 0.5
    sure = judged(member + 0.1 * random.random(200), member, 1e-5, seed=0)
    assert sure["auroc"] == 1
    assert (sure["guesses"], sure["right"]) == (40, 40)
    assert sure["epsilon"] == np.inf
    # All of 100 guesses right (of 200 a few are wrong, as members are not half of the users) at a chance of .05 / 4:
    # q ^ 100 = .0125, and q = e^eps / (1 + e^eps).
    q = 0.0125 ** (1 / 100)
    assert sure["epsilon_lower_bound"] == pytest.approx(np.log(q / (1 - q)), abs=0.02)
    coin = judged(random.random(200), member, 1e-5, seed=0)
    assert coin["auroc_interval"][0] < 0.5 < coin["auroc_interval"][1]
    assert coin["epsilon_lower_bound"] == 0


def test_the_bound_is_true_of_a_mechanism_whose_epsilon_is_known():
    """Randomized response tells the truth with e^eps / (1 + e^eps): the bound exceeds it in 5 of 100 trainings."""
    random, epsilon, above = np.random.default_rng(1), 1.5, 0
    bounds = []
    for _ in range(50):
        member = random.random(300) < 0.5
        told = np.where(random.random(300) < 1 / (1 + np.exp(-epsilon)), member, ~member)
        bounds.append(lower_bound(told + 1e-6 * random.random(300), member, 0.0))
        above += bounds[-1] > epsilon
    assert above <= 4
    assert np.mean(bounds) > 0.7  # and it is no idle bound


def test_the_best_of_four_attacks_that_know_nothing_proves_nothing_in_95_of_100_audits():
    random, alone, together = np.random.default_rng(3), 0, 0
    for _ in range(200):
        member = random.random(300) < 0.5
        guesses = random.random((4, 300))
        alone += max(lower_bound(scores, member, 1e-5) for scores in guesses) > 0
        together += max(lower_bound(scores, member, 1e-5, attacks=4) for scores in guesses) > 0
    assert together <= 10 < alone


def test_the_likelihood_ratio_knows_which_users_are_hard():
    """A user who is learned by heart is known by her own two bells; the loss alone ranks her behind the easy ones."""
    random = np.random.default_rng(2)
    hard = np.repeat([0.0, 5.0], 100)  # how easy each user is without memory
    inside = random.random((33, 200)) < 0.5
    sure = hard + 1.0 * inside + 0.3 * random.standard_normal((33, 200))
    ratio = likelihood_ratio(sure[0], sure[1:], inside[1:])
    assert judged(ratio, inside[0], 0, 0)["auroc"] > 0.97
    assert judged(sure[0], inside[0], 0, 0)["auroc"] < 0.8
    alone = inside.copy()
    alone[1:, 0], alone[1:, 1] = True, False  # no shadow model stayed without the one or learned from the other
    assert np.isfinite(likelihood_ratio(sure[0], sure[1:], alone[1:])).all()
