import numpy as np
import pytest

from data_prep import InputError
from finetune.batching import LengthGroupedSampler, load_texts

LENGTHS = np.random.default_rng(0).integers(5, 128, 5003)


def batches(epoch: int = 0, size: int = 16) -> list[np.ndarray]:
    sampler = LengthGroupedSampler(LENGTHS, size, seed=1)
    sampler.set_epoch(epoch)
    order = np.array(list(sampler))
    return [order[start : start + size] for start in range(0, len(order), size)]


def test_every_example_comes_once():
    assert sorted(np.concatenate(batches())) == list(range(len(LENGTHS)))


def test_a_batch_has_little_padding():
    padded = sum(LENGTHS[batch].max() * len(batch) for batch in batches())
    assert LENGTHS.sum() / padded > 0.95


def test_batches_come_in_an_order_that_says_nothing_about_their_length():
    means = [LENGTHS[batch].mean() for batch in batches()[:-1]]
    assert abs(np.corrcoef(means[1:], means[:-1])[0, 1]) < 0.2  # transformers' own order has 0.9


def test_the_incomplete_batch_is_the_last_one():
    assert [len(batch) for batch in batches()[:-1]] == [16] * (len(LENGTHS) // 16)


def test_the_order_depends_on_seed_and_epoch_alone():
    assert all(np.array_equal(a, b) for a, b in zip(batches(epoch=3), batches(epoch=3), strict=True))
    assert not np.array_equal(batches(epoch=0)[0], batches(epoch=1)[0])


def test_a_split_that_is_not_prepared_is_refused_with_the_command_to_run(tmp_path):
    with pytest.raises(InputError, match=r"prepare\.py"):
        load_texts(tmp_path, "train")
