"""Alarms over simulated months: quiet ones hardly ring, and each kind of change does."""

import numpy as np
import pytest

from finetune.figures.metrics import compute_metrics
from finetune.upkeep.alarms import LEVEL, Family, signals, thresholds
from finetune.upkeep.months import Month, input_family, outcome_family, outcomes, score_family, word_family

AGGREGATES = ["recency_days", "events_28d", "value_mean", "gap_mean", "tenure_days", "always"]


def month(random: np.random.Generator, rows: int = 250, **change: float) -> Month:
    """Users whose habits hang together; what is changed is a shift, or a share of words or of labels."""
    habit = random.normal(change.get("habit", 0), 1, rows)
    noise = random.normal(0, 1, (4, rows))
    mood = random.normal(0, change.get("mood", 0.05))  # each month has its own
    values = {name: habit + part + mood for name, part in zip(AGGREGATES, noise, strict=False)}
    values["recency_days"] = values["recency_days"] + change.get("recency", 0)
    values |= {"tenure_days": random.normal(change.get("tenure", 0), 1, rows), "always": np.zeros(rows)}
    values["newest_shop"] = random.choice(["north", "south", "west"], rows, p=[0.6, 0.3, 0.1])
    words = {"other values of shop": np.stack([random.binomial(8, change.get("other", 0.02), rows), np.full(rows, 8)])}
    words["unknown words"] = np.stack([random.binomial(60, change.get("unknown", 0), rows), np.full(rows, 60)])
    scores = 1 / (1 + np.exp(-(habit + mood - 1)))
    real = np.clip(scores + change.get("more", 0), 0, 1) if not change.get("blind") else np.full(rows, scores.mean())
    labels = (random.random(rows) < real).astype(int)
    return Month("2024-01-01", values, words, scores, labels)


def families(random: np.random.Generator, at_hand: Month) -> list[Family]:
    train, later = ([month(random, at_hand.rows) for _ in range(count)] for count in (6, 4))
    return [
        input_family(train, later, at_hand, AGGREGATES),
        word_family(later, at_hand),
        score_family(later, at_hand, 0.6),
        outcome_family(later, at_hand, "binary"),
    ]


def ringing(seed: int, **change: float) -> set[str]:
    random = np.random.default_rng(seed)
    at_hand = month(random, **change)
    return {signal.name for signal in signals(families(random, at_hand), at_hand.rows, draws=100) if signal.rings}


def test_of_many_quiet_months_at_most_one_in_twenty_rings_in_any_signal():
    """The reference is drawn anew for each, too; of 40 months at most 5 ring with a probability of .98."""
    rings = sum(bool(ringing(seed)) for seed in range(40))
    assert rings <= 5, rings
    assert LEVEL == 0.05


@pytest.mark.parametrize(("rows", "months", "most"), [(2_000, 30, 4), (20_000, 60, 8)])
def test_in_large_months_what_lies_between_months_hardly_rings_either(rows, months, most):
    """Rows say little there, and four months little of how months differ: without t, 12 of 60 rang at 20,000.

    So many of so many ring with a probability of .98 at most, were it one in twenty.
    """
    rings = 0
    for seed in range(months):
        random = np.random.default_rng(seed)
        at_hand, *later = [scored(random, rows) for _ in range(5)]
        family = score_family(later, at_hand, 0.6)
        rings += any(signal.rings for signal in signals([family], rows, draws=50))
    assert rings <= most, rings


def scored(random: np.random.Generator, rows: int) -> Month:
    """A month of scores alone, as `month` has them."""
    scores = 1 / (1 + np.exp(1 - random.normal(random.normal(0, 0.05), 1, rows)))
    return Month("2024-01-01", {"score": scores}, {}, scores)


def test_outcomes_are_those_of_the_evaluation_also_where_scores_are_equal():
    random = np.random.default_rng(5)
    labels, scores = random.integers(0, 2, 300), random.random(300).round(1)
    found, expected = outcomes("binary", labels, scores), compute_metrics("binary", labels, scores)
    assert found["auroc"] == pytest.approx(expected["auroc"])
    assert found["lift_at_10"] == pytest.approx(expected["lift_at_10"])
    assert found["calibration"] == pytest.approx(scores.mean() - labels.mean())


@pytest.mark.parametrize(
    ("change", "signal"),
    [
        ({"recency": 1.0}, "recency_days"),
        ({"other": 0.08}, "other values of shop"),
        ({"unknown": 0.05}, "unknown words"),
        ({"habit": 0.8}, "score"),
        ({"habit": 0.8}, "share above the threshold"),
        ({"blind": True}, "auroc"),
        ({"blind": True}, "lift_at_10"),
        ({"more": 0.25}, "calibration"),
    ],
)
def test_a_change_rings_and_by_its_own_name(change, signal):
    assert signal in ringing(1, **change)


def test_what_ages_by_construction_never_rings():
    assert ringing(2, tenure=5.0) <= ringing(2)
    assert "tenure_days" not in {signal for seed in range(3) for signal in ringing(seed, tenure=9.0)}


def test_as_many_quiet_months_ring_as_the_level_says_however_many_signals_there_are():
    """Independent signals and ones that are all the same, of months that the thresholds have not seen."""
    random = np.random.default_rng(0)
    for mixing in (np.eye(30), np.ones((1, 30))):

        def measure(place, rows, mixing=mixing):
            values = np.abs(random.normal(size=len(mixing))) @ mixing
            values *= not np.array_equal(rows, np.arange(10))  # the months themselves are all alike
            return {f"signal {i}": value for i, value in enumerate(values)}

        family = Family("made up", [10] * 5, measure, {})
        names = [f"signal {i}" for i in range(30)]
        limits = thresholds(family, 10, names, 0.05, draws=1000)
        quiet = [measure(None, None) for _ in range(1000)]
        rings = np.mean([any(month[name] > limits[name] for name in names) for month in quiet])
        assert 0.02 < rings < 0.09, rings


def test_a_thing_that_never_happened_may_happen_to_three_users_without_an_alarm():
    random = np.random.default_rng(3)
    at_hand = month(random)
    at_hand.words["unknown words"][0][:2] = 1
    at_hand.values["always"][:2] = 1
    found = {signal.name: signal for signal in signals(families(random, at_hand), at_hand.rows, draws=100)}
    assert not found["unknown words"].rings
    assert not found["always"].rings
    assert found["unknown words"].value > 0


def test_a_value_that_is_not_defined_has_no_signal():
    random = np.random.default_rng(4)
    at_hand = month(random)
    at_hand.labels[:] = 0
    names = {signal.name for signal in signals(families(random, at_hand), at_hand.rows, draws=50)}
    assert "auroc" not in names
    assert "calibration" in names
