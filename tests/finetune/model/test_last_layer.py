"""The last layer computes only what the head reads: nothing that is read may differ."""

import copy

import numpy as np
import peft
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForMaskedLM, AutoModelForSequenceClassification

from finetune.model.last_layer import LAST_LAYERS, LastLayer, encoder_layers, shorten
from finetune.model.modeling import compile_layers
from finetune.model.packing import PACKABLE, batches_for, pack
from finetune.model.pooling import pool
from finetune.model.tokenization import padded, train_tokenizer
from finetune.training.masking import MaskingCollator
from finetune.training.throughput import flops_per_token

LENGTHS = (3, 30, 17, 40, 4, 9)
ADAPTERS = {
    "lora": peft.LoraConfig(r=4, target_modules="all-linear", task_type="SEQ_CLS", init_lora_weights=False),
    "ia3": peft.IA3Config(
        target_modules=["key", "value", "output.dense"],
        feedforward_modules=["output.dense"],
        task_type="SEQ_CLS",
        init_ia3_weights=False,
    ),
    "prefix": peft.PrefixTuningConfig(num_virtual_tokens=4, task_type="SEQ_CLS"),
    "prompts": peft.PromptTuningConfig(num_virtual_tokens=4, task_type="SEQ_CLS"),
}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([" ".join(f"w{i}" for i in range(90))], 64)


@pytest.fixture(scope="module")
def ids(tokenizer):
    random = np.random.default_rng(0)
    return [np.r_[2, random.integers(5, len(tokenizer), length - 2), 3] for length in LENGTHS]


def built(kind: str, vocabulary: int, head: type = AutoModelForSequenceClassification):
    """A model without dropout, in training."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    if kind == "distilbert":
        sizes = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}
        off = {"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0}
    elif kind == "modernbert":
        off = {"classifier_pooling": "cls", "local_attention": 8, "global_attn_every_n_layers": 2}
    room = {"vocab_size": vocabulary, "max_position_embeddings": 66, "pad_token_id": 0}
    return head.from_config(AutoConfig.for_model(kind, **room, **sizes, **off)).train()


def answers(model: torch.nn.Module, batch: dict, labels: torch.Tensor):
    """Logits, and the gradients of their cross-entropy."""
    logits = model(**batch).logits
    cross_entropy(logits.flatten(0, -2), labels.flatten()).backward()
    return logits.detach(), {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def assert_same(found, expected):
    torch.testing.assert_close(found[0], expected[0], atol=1e-6, rtol=0)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize("kind", LAST_LAYERS)
def test_logits_and_gradients_of_a_classifier_are_those_of_the_whole_layer(kind, tokenizer, ids):
    batch, labels = padded(tokenizer, ids), torch.tensor([0, 1, 0, 1, 1, 0])
    model = built(kind, len(tokenizer))
    short = copy.deepcopy(model)
    assert shorten(short, 0.0)
    assert shorten(short, 0.0)  # said twice it is done once
    assert [isinstance(layer, LastLayer) for layer in encoder_layers(short)] == [False, True]
    assert [type(layer).__name__ for layer in encoder_layers(short)] == [type(encoder_layers(model)[0]).__name__] * 2
    states = getattr(short, short.base_model_prefix)(**batch).last_hidden_state
    assert states.shape == (len(ids), 1, 32)
    assert_same(answers(short, batch, labels), answers(model, batch, labels))
    assert list(short.state_dict()) == list(model.state_dict())


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_of_the_last_layer_are_read_and_trained(name, tokenizer, ids):
    batch, labels, found = padded(tokenizer, ids), torch.tensor([0, 1, 0, 1, 1, 0]), []
    for short in (False, True):
        model = built("bert", len(tokenizer))
        if short:
            pool(model, "cls")
        torch.manual_seed(1)
        found.append(answers(peft.get_peft_model(model, ADAPTERS[name]), batch, labels))
    assert_same(found[1], found[0])
    if name == "lora":
        assert found[1][1]["base_model.model.bert.encoder.layer.1.output.dense.lora_A.default.weight"].any()


@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("kind", LAST_LAYERS)
def test_the_loss_and_gradients_of_hidden_words_are_those_of_the_whole_layer_and_head(kind, packs, tokenizer, ids):
    if packs and kind not in PACKABLE:
        return
    examples = [{"input_ids": text, "event": np.arange(len(text)) // 4} for text in ids]
    whole = built(kind, len(tokenizer), AutoModelForMaskedLM)
    model = copy.deepcopy(whole)
    short = shorten(model, 0.2)
    assert short
    batches = []
    for part, less in ((whole, False), (model, True)):
        assert not packs or pack(part, None)
        torch.manual_seed(1)
        batches.append(MaskingCollator(tokenizer, 0.2, "event", batches_for(part, tokenizer), less)(examples))
    labels = [batch.pop("labels") for batch in batches]
    assert torch.equal(labels[1], labels[0][labels[0] != -100])
    expected, found = answers(whole, batches[0], labels[0]), answers(model, batches[1], labels[1])
    assert_same(found, (expected[0][labels[0] != -100], expected[1]))


def test_checkpointed_and_compiled_layers_give_the_same(tokenizer, ids):
    batch, labels = padded(tokenizer, ids), torch.tensor([0, 1, 0, 1, 1, 0])
    expected = answers(built("bert", len(tokenizer)), batch, labels)
    checkpointed = built("bert", len(tokenizer))
    pool(checkpointed, "cls")
    checkpointed.gradient_checkpointing_enable()
    calls = []
    checkpointed.bert.encoder.layer[1].intermediate.register_forward_hook(lambda *_: calls.append(1))
    assert_same(answers(checkpointed, batch, labels), expected)
    assert len(calls) == 2  # once more on the way back
    compiled = built("bert", len(tokenizer))
    pool(compiled, "cls")
    compile_layers(compiled)
    assert compiled.bert.encoder.layer[1]._compiled_call_impl is not None


def test_a_model_whose_layers_are_others_stays_as_it_is(tokenizer):
    model = built("deberta-v2", len(tokenizer))
    assert not shorten(model, 0.0)
    assert not any(isinstance(part, LastLayer) for part in model.modules())


def test_what_is_not_computed_is_not_counted(tokenizer):
    model = built("bert", len(tokenizer))
    whole = flops_per_token(model.bert.encoder)
    matrix = 32 * 32
    assert whole == 6 * 2 * 8 * matrix - 2 * matrix  # 4 + 2 * 2 matrices a layer; before the first one none is trained
    pool(model, "cls")
    assert flops_per_token(model.bert.encoder) == whole - 6 * 6 * matrix
    encoder_layers(model)[-1].share = 0.5
    assert flops_per_token(model.bert.encoder) == whole - 3 * 6 * matrix
