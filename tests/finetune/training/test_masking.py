import pytest
import torch

from finetune.model.tokenization import encode, train_tokenizer
from finetune.training.masking import MaskingCollator

TEXT = "recency=1 count=2 value=3 [SEP] " + " ".join(f"gap={i} type=basket value={i % 7}" for i in range(12))
SHORT = "recency=1 [SEP] gap=first value=7"


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([TEXT, SHORT], 64)


def examples(tokenizer, texts: list[str]) -> list[dict]:
    encoded = encode(tokenizer, texts)
    return [dict(zip(encoded, values, strict=True)) for values in zip(*encoded.values(), strict=True)]


def masked(tokenizer, texts: list[str], share: float, unit: str) -> tuple[dict, torch.Tensor, torch.Tensor]:
    """The batch, the ids before the masking and the events, each of shape (examples, tokens)."""
    torch.manual_seed(0)
    made = examples(tokenizer, texts)
    batch = MaskingCollator(tokenizer, share, unit)(made)
    ids = torch.full_like(batch["input_ids"], tokenizer.pad_token_id)
    event = torch.full_like(ids, -1)
    for row, example in enumerate(made):
        ids[row, : len(example["input_ids"])] = torch.tensor(example["input_ids"])
        event[row, : len(example["event"])] = torch.tensor(example["event"])
    return batch, ids, event


def test_an_event_is_hidden_as_a_whole_or_not_at_all(tokenizer):
    batch, _, event = masked(tokenizer, [TEXT] * 200, 0.3, "event")
    hidden = (batch["labels"] != -100)[event >= 0].view(200, 12, 3)
    replaced = (batch["input_ids"] == tokenizer.mask_token_id)[event >= 0].view(200, 12, 3)
    assert torch.equal(hidden.any(dim=2), hidden.all(dim=2))
    assert replaced.all(dim=2).sum() / hidden.all(dim=2).sum() == pytest.approx(0.8, abs=0.05)  # as a whole, too
    assert len(hidden.any(dim=2).unique(dim=0)) > 100  # each example's events are chosen for themselves


def test_single_tokens_are_hidden_where_the_unit_is_a_token(tokenizer):
    batch, _, event = masked(tokenizer, [TEXT] * 50, 0.3, "token")
    hidden = batch["labels"] != -100
    assert 1 in hidden[event == 0].view(50, 3).sum(dim=1)


@pytest.mark.parametrize("unit", ["token", "event"])
def test_about_the_asked_share_is_hidden_and_replaced_as_in_bert(tokenizer, unit):
    batch, ids, event = masked(tokenizer, [TEXT] * 2000, 0.2, unit)
    words = ~torch.isin(ids, torch.tensor(tokenizer.all_special_ids))
    hidden = batch["labels"] != -100
    for some in (words & (event < 0), words & (event >= 0)):
        assert hidden[some].float().mean() == pytest.approx(0.2, abs=0.02)
    after, before = batch["input_ids"][hidden], ids[hidden]
    assert (after == tokenizer.mask_token_id).float().mean() == pytest.approx(0.8, abs=0.02)
    assert (after == before).float().mean() == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("unit", ["token", "event"])
def test_only_hidden_tokens_have_a_label_and_only_they_change(tokenizer, unit):
    batch, ids, _ = masked(tokenizer, [TEXT, SHORT], 0.5, unit)
    hidden = batch["labels"] != -100
    assert torch.equal(batch["labels"][hidden], ids[hidden])
    assert torch.equal(batch["input_ids"][~hidden], ids[~hidden])
    assert batch.keys() == {"input_ids", "attention_mask", "labels"}
    assert ids.shape[1] % 8 == 0
    assert torch.equal(batch["attention_mask"] == 1, ids != tokenizer.pad_token_id)


@pytest.mark.parametrize("unit", ["token", "event"])
def test_special_tokens_are_never_hidden_not_even_in_an_event(tokenizer, unit):
    batch, ids, event = masked(tokenizer, [TEXT, SHORT, "recency=1 [SEP] gap=first unknown", "unknown"], 0.999, unit)
    special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids))
    assert tokenizer.unk_token_id in ids[event >= 0]
    assert torch.equal(special, batch["labels"] == -100)


@pytest.mark.parametrize("unit", ["token", "event"])
def test_no_example_is_without_a_hidden_token(tokenizer, unit):
    batch, _, _ = masked(tokenizer, [SHORT] * 500 + [TEXT] * 500, 1e-6, unit)
    assert (batch["labels"] != -100).any(dim=1).all()


def test_the_same_seed_hides_the_same_tokens(tokenizer):
    one, other = (masked(tokenizer, [TEXT, SHORT], 0.3, "event")[0] for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
