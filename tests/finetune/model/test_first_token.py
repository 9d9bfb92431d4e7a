"""The first token of a new classifier reads all tokens and differs between texts; given weights stay as they were."""

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from finetune.experiment.config import FromScratch, ModelConfig
from finetune.model.last_layer import encoder_layers
from finetune.model.modeling import build_classifier, build_masked_lm
from finetune.model.objective import Objective
from finetune.model.tokenization import encode, train_tokenizer

CHURN = Objective("binary", ("no_churn", "churn"))
TEXTS = [f"a={i % 7} b={i % 5} [SEP] gap={i % 3} value={i % 4}" for i in range(60)]
SIZES = FromScratch(hidden_size=32, layers=2, heads=2)


@pytest.fixture
def pretrained(tmp_path):
    """Weights of a masked-language model, and its tokenizer."""
    tokenizer = train_tokenizer(TEXTS, 32)
    torch.manual_seed(0)
    build_masked_lm(ModelConfig(from_scratch=SIZES, max_tokens=32), tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path, tokenizer


def attended(model, tokenizer):
    """What comes into the last layer's first layer norm at the first token, of shape (texts, hidden)."""
    found = []
    norm = encoder_layers(model)[-1].attention.output.LayerNorm
    hook = norm.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0][:, 0]))
    with torch.inference_mode():
        logits = model.eval()(**tokenizer.pad(encode(tokenizer, TEXTS), return_tensors="pt")).logits
    hook.remove()
    return found[0], logits


def test_what_is_the_same_of_every_text_is_taken_away(pretrained, tmp_path):
    folder, tokenizer = pretrained
    settings = ModelConfig(from_scratch=SIZES, max_tokens=32)
    torch.manual_seed(0)
    model = build_classifier(settings, CHURN, folder, tokenizer, 10)
    states, logits = attended(model, tokenizer)
    constant, differing = states.mean(0).norm(), states.std(0).norm()
    layer = encoder_layers(model)[-1].attention
    assert not layer.self.query.weight.any()
    assert not layer.self.query.bias.any()
    with torch.no_grad():
        layer.output.dense.bias.zero_()  # as it was
    before, without = attended(model, tokenizer)
    assert before.mean(0).norm() > 20 * before.std(0).norm()
    assert constant < 3 * differing
    assert logits.std(0).max() > 5 * without.std(0).max()  # the head hears the difference between texts
    model.save_pretrained(tmp_path / "model")
    alone = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    assert torch.allclose(attended(alone, tokenizer)[1], without, atol=1e-6)  # a plain BERT, as it is now


def test_the_same_seed_makes_the_same_classifier_and_the_draws_behind_it(pretrained):
    folder, tokenizer = pretrained
    made = []
    for _ in range(2):
        torch.manual_seed(3)
        model = build_classifier(ModelConfig(from_scratch=SIZES, max_tokens=32), CHURN, folder, tokenizer, 10)
        made.append((attended(model, tokenizer)[1], torch.rand(1)))
    assert torch.equal(made[0][0], made[1][0])
    assert torch.equal(made[0][1], made[1][1])


def test_the_first_token_reads_all_tokens_alike_and_learns_to_choose(pretrained):
    folder, tokenizer = pretrained
    model = build_classifier(ModelConfig(from_scratch=SIZES, max_tokens=32), CHURN, folder, tokenizer, 10).eval()
    batch = tokenizer.pad(encode(tokenizer, TEXTS[:4]), return_tensors="pt")
    layer, found = encoder_layers(model)[-1].attention, {}
    hooks = [
        layer.self.value.register_forward_hook(lambda part, values, made: found.update(value=made)),
        layer.output.dense.register_forward_pre_hook(lambda part, values: found.update(read=values[0][:, 0])),
    ]
    model(**batch).logits[:, 1].sum().backward()
    for hook in hooks:
        hook.remove()
    tokens = batch["attention_mask"].sum(1, keepdim=True)
    mean = (found["value"] * batch["attention_mask"][..., None]).sum(1) / tokens
    assert torch.allclose(found["read"], mean, atol=1e-6)
    assert layer.self.query.weight.grad.abs().max() > 0


def test_random_weights_stay(pretrained):
    _, tokenizer = pretrained
    model = build_classifier(ModelConfig(from_scratch=SIZES, max_tokens=32), CHURN, None, tokenizer, 10)
    layer = encoder_layers(model)[-1].attention
    assert not layer.output.dense.bias.any()
    assert layer.self.query.weight.any()


@pytest.mark.parametrize(
    "settings",
    [
        {"name_or_path": "given"},
        {"pooling": "mean"},
        {"freeze": 1},
        {"peft": {"method": "lora", "r": 2, "target_modules": ["query"]}},
    ],
    ids=str,
)
def test_weights_that_are_given_or_kept_stay(pretrained, settings):
    folder, tokenizer = pretrained
    given = {key: str(folder) if value == "given" else value for key, value in settings.items()}
    model = build_classifier(ModelConfig(from_scratch=SIZES, max_tokens=32, **given), CHURN, folder, tokenizer, 10)
    masked = build_masked_lm(ModelConfig(name_or_path=str(folder)), tokenizer)
    layers = [encoder_layers(part)[-1].attention for part in (model, masked)]
    assert torch.equal(*(layer.output.dense.bias for layer in layers))
    assert layers[0].self.query.weight.any()
