from functools import partial

import numpy as np
import pytest
import torch
from transformers import TrainerState

from finetune.model.tokenization import padded, train_tokenizer
from finetune.training.batching import Collator, LengthGroupedSampler

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


def rows(events: int = 30, count: int = 200) -> list[dict]:
    """Examples of a header of two words and of events of two words each, whose token is their number."""
    event = [-1, -1, -1, *np.repeat(np.arange(events), 2).tolist(), -1]
    ids = [7, 8, 9, *(100 + number for number in event[3:-1]), 9]
    return [{"input_ids": ids, "event": event, "label": i % 2, "row": i} for i in range(count)]


def collated(collator: Collator, given: list[dict]) -> list[list[int]]:
    batch = collator(given)
    return [ids[mask.bool()].tolist() for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["a b"], 200)


def test_event_dropout_leaves_out_whole_events_at_its_rate(tokenizer):
    collator = Collator(partial(padded, tokenizer), 0.3, seed=1)
    kept = collated(collator, rows())
    for ids in kept:
        assert ids[:3] + ids[-1:] == [7, 8, 9, 9]
        events = ids[3:-1]
        assert events[::2] == events[1::2] == sorted(set(events))
    assert np.mean([len(ids) - 4 for ids in kept]) / 60 == pytest.approx(0.7, abs=0.03)
    assert collated(collator, rows()[50:60]) == kept[50:60]  # a row's own, whatever batch it is in
    collator.on_epoch_begin(None, TrainerState(epoch=1.0), None)
    assert collated(collator, rows()) != kept


def test_event_dropout_keeps_the_newest_event_at_least_and_leaves_validation_alone(tokenizer):
    collator = Collator(partial(padded, tokenizer), 1.0)
    assert collated(collator, rows(count=2)) == [[7, 8, 9, 100, 100, 9]] * 2
    assert len(collated(collator, rows(events=0, count=1))[0]) == 4
    validation = [{key: row[key] for key in ("input_ids", "label")} for row in rows(count=2)]
    assert collated(collator, validation) == [row["input_ids"] for row in validation]


def test_labels_are_whole_numbers_for_classes_and_floats_otherwise(tokenizer):
    for label, kind in ((1, torch.int64), (0.5, torch.float32), ([0, 1], torch.float32)):
        collator = Collator(partial(padded, tokenizer))
        assert collator([{"input_ids": [1], "label": label}])["labels"].dtype == kind
