import numpy as np
import pytest

from finetune.training.value_factor import best_factor

RANDOM = np.random.default_rng(0)


def test_the_best_factor_makes_the_absolute_error_the_least():
    scores = np.append(RANDOM.gamma(2, 20, 300), np.zeros(50))
    labels = np.append(1.3 * scores[:300] * RANDOM.lognormal(0, 0.5, 300), np.full(50, 7.0))
    factor = best_factor(labels, scores)
    errors = [np.abs(times * scores - labels).sum() for times in (factor, factor * 1.02, factor / 1.02)]
    assert errors[0] == min(errors)
    assert factor == pytest.approx(1.3, abs=0.1)
    assert best_factor(-labels, -scores) == factor
    refunds = np.append(labels, np.full(900, -50.0)), np.append(scores, np.full(900, -50.0))
    assert best_factor(*refunds) == 1  # most are right as they are
    assert best_factor(labels[:99], scores[:99]) == 1  # too few rows
    assert best_factor(np.zeros(350), scores) == 1  # by zero nothing would be told apart
