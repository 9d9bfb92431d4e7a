import numpy as np
import pytest

from finetune.evaluation.contact import contact
from finetune.evaluation.rows import ScoredRows
from finetune.evaluation.scorers import blend

LAST = np.datetime64("2024-03-01")


def rows(labels, scores, task: str = "binary", **others) -> ScoredRows:
    labels = np.array(labels)
    return ScoredRows(task, labels, {"model": np.array(scores, float)} | others, np.arange(len(labels)))


def test_the_last_cutoff_alone_counts_and_each_share_finds_what_lies_above():
    labels, scores = [1, 1, 0, 1, 0, 0, 0, 0, 0, 0, 1, 1], [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 1, 1]
    cutoffs = np.where(np.arange(12) < 10, LAST, LAST - 30)
    found = contact(rows(labels, scores, base=np.full(12, 0.3)), cutoffs, 0.2, 50)
    assert (found["cutoff"], found["users"], found["total"]) == ("2024-03-01", 10, 3.0)
    assert [found["found"]["model"][share] for share in (10, 20, 30, 40, 100)] == pytest.approx([1, 2, 2, 3, 3])
    assert (found["contacted_at"], found["found_at"]["model"]) == pytest.approx((2, 2))
    assert found["found_at"]["base"] == pytest.approx(0.6)  # the same score for all finds what chance finds
    assert found["difference_at"]["base"]["difference"] == pytest.approx(1.4)
    low, high = found["found_at_interval"]
    assert 0 <= low <= 2 <= high
    ahead = found["ahead"]["base"]
    assert len(ahead["low"]) == len(ahead["high"]) == 101
    assert [ahead["low"][20], ahead["high"][20]] == pytest.approx(list(found["difference_at"]["base"]["interval"]))


def test_users_of_equal_scores_are_contacted_in_any_order():
    found = contact(rows([1, 0, 0, 1], [0.9, 0.5, 0.5, 0.5]), np.full(4, LAST), 0.5, 0)
    assert found["found_at"]["model"] == pytest.approx(1 + 1 / 3)
    assert np.isnan(found["found_at_interval"]).all()


def test_of_values_it_is_their_sum_and_other_labels_have_no_contact():
    found = contact(rows([10.0, 0.0, 30.0, 0.0], [3.0, 1.0, 2.0, 0.5], "value"), np.full(4, LAST), 0.5, 10)
    assert (found["total"], found["found_at"]["model"]) == pytest.approx((40, 40))
    for task, labels in (("tiers", [0, 1]), ("binary", [0, 0]), ("value", [-1.0, 5.0])):
        scores = np.full((2, 2), 0.5) if task == "tiers" else [0.5, 0.4]
        assert contact(rows(labels, scores, task), np.full(2, LAST), 0.1, 5) is None


def test_the_interval_holds_what_as_many_contacts_find_among_other_users():
    random = np.random.default_rng(0)

    def draw(users: int) -> tuple[np.ndarray, np.ndarray]:
        labels = (random.random(users) < 0.2).astype(int)
        return labels, labels + random.normal(size=users)

    truth = contact(rows(*draw(200_000)), np.full(200_000, LAST), 0.1, 0)["found_at"]["model"] / 200_000 * 400
    inside = 0
    for _ in range(100):
        low, high = contact(rows(*draw(400)), np.full(400, LAST), 0.1, 200)["found_at_interval"]
        inside += low <= truth <= high
    assert inside >= 88  # of 100, where 95 are meant


def test_a_blend_is_the_mean_of_log_odds_or_of_values():
    assert blend("binary", np.array([0.8]), np.array([0.5])) == pytest.approx([2 / 3])
    assert blend("value", np.array([4.0]), np.array([8.0])) == pytest.approx([6.0])
    tiers = blend("tiers", np.array([[0.8, 0.2]]), np.array([[0.2, 0.8]]))
    assert tiers == pytest.approx(np.array([[0.5, 0.5]]))
