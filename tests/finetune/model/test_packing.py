import numpy as np
import peft
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForSequenceClassification, BertConfig, BertForMaskedLM

from finetune.model.modeling import compile_layers
from finetune.model.packing import batches_for, pack, packed
from finetune.model.pooling import pool
from finetune.model.tokenization import padded, train_tokenizer
from finetune.training.masking import MaskingCollator

WORDS = [f"w{i}" for i in range(90)]
LENGTHS = (3, 30, 17, 64, 4, 9)
PACKABLE = ("bert", "roberta", "electra", "distilbert")


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([" ".join(WORDS)], 64)


@pytest.fixture(scope="module")
def ids(tokenizer):
    random = np.random.default_rng(0)
    return [np.r_[2, random.integers(5, len(tokenizer), length - 2), 3] for length in LENGTHS]


def classifier(kind: str, vocabulary: int, **more: object):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    if kind == "distilbert":
        sizes = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "attention_dropout": 0.0}
    elif kind != "modernbert":
        sizes["attention_probs_dropout_prob"] = 0.0
    room = {"vocab_size": vocabulary, "max_position_embeddings": 64 + 2 * (kind == "roberta"), "pad_token_id": 0}
    config = AutoConfig.for_model(kind, **room, **sizes | more)
    return AutoModelForSequenceClassification.from_config(config).eval()


@pytest.mark.parametrize("how", ["cls", "mean"])
@pytest.mark.parametrize("kind", PACKABLE)
def test_packed_texts_have_the_logits_and_gradients_of_padded_ones_and_see_no_other(kind, how, tokenizer, ids):
    labels = torch.tensor([0, 1, 0, 1, 1, 0])
    found = {}
    for packs in (False, True):
        model = classifier(kind, len(tokenizer))
        if how == "mean":
            pool(model, how)
        assert not packs or pack(model, how)
        logits = model(**batches_for(model, tokenizer)(ids)).logits
        cross_entropy(logits, labels).backward()
        found[packs] = logits.detach(), [weight.grad for weight in model.parameters() if weight.grad is not None]
    torch.testing.assert_close(found[True][0], found[False][0], atol=1e-6, rtol=0)
    for one, other in zip(found[True][1], found[False][1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)
    with torch.no_grad():  # beside other texts each has the logits that it has alone, to 1e-6
        alone = torch.cat([model(**packed([text], 0 if kind != "roberta" else 1)).logits for text in ids])
    torch.testing.assert_close(alone, found[True][0], atol=1e-6, rtol=0)


def test_a_model_that_packs_reads_padded_batches_as_before(tokenizer, ids):
    model = classifier("bert", len(tokenizer))
    with torch.no_grad():
        before = model(**padded(tokenizer, ids)).logits
        assert pack(model, "cls")
        assert pack(model, "cls")  # said twice it is done once
        packed_once = model(**batches_for(model, tokenizer)(ids)).logits
        torch.testing.assert_close(packed_once, before, atol=1e-6, rtol=0)
        assert torch.equal(model(**padded(tokenizer, ids)).logits, before)


def test_an_adapter_is_packed_too_but_no_virtual_tokens(tokenizer, ids):
    lora = peft.LoraConfig(r=4, target_modules=["query"], task_type="SEQ_CLS", init_lora_weights=False)
    model = peft.get_peft_model(classifier("bert", len(tokenizer)), lora).eval()
    with torch.no_grad():
        expected = model(**padded(tokenizer, ids)).logits
        assert pack(model, "cls")
        found = model(**batches_for(model, tokenizer)(ids)).logits
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    prompts = peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=4)
    model = peft.get_peft_model(classifier("bert", len(tokenizer)), prompts)
    assert not pack(model, "cls")
    assert "attention_mask" in batches_for(model, tokenizer)(ids)


def test_sliding_windows_and_attention_with_dropout_are_not_packed(tokenizer, ids):
    for model in (
        classifier("modernbert", len(tokenizer)),
        classifier("bert", len(tokenizer), attention_probs_dropout_prob=0.1),
    ):
        assert not pack(model, "cls")
        assert "attention_mask" in batches_for(model, tokenizer)(ids)


def test_each_layer_is_compiled_and_no_weight_is_renamed(tokenizer):
    model = classifier("bert", len(tokenizer))
    names = list(model.state_dict())
    compile_layers(model)
    assert all(layer._compiled_call_impl is not None for layer in model.bert.encoder.layer)
    assert model._compiled_call_impl is None
    assert list(model.state_dict()) == names


def test_masked_words_are_the_same_ones_whether_packed_or_padded(tokenizer, ids):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(tokenizer), attention_probs_dropout_prob=0.0, **sizes)
    examples = [{"input_ids": text, "event": np.arange(len(text)) // 4} for text in ids]
    losses = []
    for packs in (False, True):
        torch.manual_seed(0)
        model = BertForMaskedLM(config).eval()
        assert not packs or pack(model, None)
        torch.manual_seed(1)
        batch = MaskingCollator(tokenizer, 0.2, "event", batches_for(model, tokenizer))(examples)
        labels = batch.pop("labels")
        assert labels.shape == batch["input_ids"].shape
        losses.append(cross_entropy(model(**batch).logits.flatten(0, 1), labels.flatten()).item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
