"""Every encoder and PEFT method with tiny random weights: built, trained, saved, and read in a new process."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    DebertaV2Config,
    DebertaV2ForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ElectraConfig,
    ElectraForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    ModernBertConfig,
    ModernBertForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from data_prep import InputError
from finetune.experiment.config import FromScratch, ModelConfig
from finetune.model.modeling import BudgetCallback, build_classifier, build_masked_lm
from finetune.model.objective import Objective
from finetune.model.tokenization import build_tokenizer, encode, train_tokenizer
from tests.commands import ROOT

TEXTS = [
    f"recency_days={i} [SEP] gap={i} event_type=purchase value={i % 3} gap=first event_type=view" for i in range(8)
]
CHURN = Objective("binary", ("no_churn", "churn"))
TINY = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}
FAMILIES = {
    "bert": (BertForMaskedLM, BertConfig, TINY | {"max_position_embeddings": 40}),
    "roberta": (RobertaForMaskedLM, RobertaConfig, TINY | {"max_position_embeddings": 41}),
    "distilbert": (
        DistilBertForMaskedLM,
        DistilBertConfig,
        {"n_layers": 2, "n_heads": 2, "dim": 16, "hidden_dim": 32, "max_position_embeddings": 40},
    ),
    "electra": (ElectraForMaskedLM, ElectraConfig, TINY | {"embedding_size": 16, "max_position_embeddings": 40}),
    "modernbert": (ModernBertForMaskedLM, ModernBertConfig, TINY | {"max_position_embeddings": 40}),
    "deberta-v2": (
        DebertaV2ForMaskedLM,
        DebertaV2Config,
        TINY | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "max_position_embeddings": 40},
    ),
}
# On BERT; those that adapt single weights name them.
METHODS = {
    "lora": {"method": "lora", "r": 4, "target_modules": ["query", "value"]},
    "dora": {"method": "lora", "r": 4, "use_dora": True, "target_modules": ["query", "value"]},
    "rslora": {"method": "lora", "r": 4, "use_rslora": True, "target_modules": ["query", "value"]},
    "adalora": {"method": "adalora", "init_r": 4, "target_r": 2, "target_modules": ["query", "value"]},
    "ia3": {
        "method": "ia3",
        "target_modules": ["key", "value", "output.dense"],
        "feedforward_modules": ["output.dense"],
    },
    "loha": {"method": "loha", "r": 4, "target_modules": ["query", "value"]},
    "lokr": {"method": "lokr", "r": 4, "target_modules": ["query", "value"]},
    "oft": {"method": "oft", "oft_block_size": 4, "target_modules": ["query", "value"]},
    "vera": {"method": "vera", "r": 4, "target_modules": ["query", "value"]},
    "ln_tuning": {"method": "ln_tuning", "target_modules": ["LayerNorm"]},
    "prefix_tuning": {"method": "prefix_tuning", "num_virtual_tokens": 4},
    "prompt_tuning": {"method": "prompt_tuning", "num_virtual_tokens": 4},
    "p_tuning": {"method": "p_tuning", "num_virtual_tokens": 4, "encoder_hidden_size": 16},
}
UNMERGED = {"prefix_tuning", "prompt_tuning", "p_tuning"}  # virtual tokens are no part of the weights
READ = """
import json, sys, torch
from pathlib import Path
from finetune.model.loading import load_classifier
from finetune.model.tokenization import encode
texts, found = json.loads(sys.argv[1]), {}
for folder in sorted(Path(sys.argv[2]).iterdir()):
    model, tokenizer = load_classifier(folder)
    encoded = encode(tokenizer, texts)
    batch = tokenizer.pad({k: encoded[k] for k in ("input_ids", "attention_mask")}, return_tensors="pt")
    with torch.inference_mode():
        logits = {"read": model(**batch).logits.tolist()}
        if hasattr(model, "merge_and_unload") and folder.name not in sys.argv[3].split(","):
            logits["merged"] = model.merge_and_unload()(**batch).logits.tolist()
    found[folder.name] = logits
print(json.dumps(found))
"""


def checkpoint(folder: Path, family: str) -> Path:
    """A tiny random encoder of the family with a tokenizer of words."""
    tokenizer = train_tokenizer(TEXTS, 64)
    model, config, sizes = FAMILIES[family]
    special = {"pad_token_id": 0, "bos_token_id": 2, "cls_token_id": 2, "eos_token_id": 3, "sep_token_id": 3}
    torch.manual_seed(0)
    model(config(vocab_size=len(tokenizer), **special, **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def built(start: Path, objective: Objective = CHURN, **settings: object):
    tokenizer = build_tokenizer(start, [], 64)
    return build_classifier(
        ModelConfig(name_or_path=str(start), **settings), objective, start, tokenizer, 10
    ), tokenizer


def logits(model: torch.nn.Module, tokenizer) -> torch.Tensor:
    encoded = encode(tokenizer, TEXTS)
    batch = {key: encoded[key] for key in ("input_ids", "attention_mask")}
    return model(**tokenizer.pad(batch, return_tensors="pt")).logits


def trained(model: torch.nn.Module, tokenizer) -> None:
    """A few steps, so that no weight that is trained is what it was."""
    torch.manual_seed(1)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for step in range(3):
        model.train()
        torch.nn.functional.cross_entropy(logits(model, tokenizer), torch.tensor([0, 1] * 4)).backward()
        optimizer.step()
        if getattr(model, "peft_type", None) == "ADALORA":
            state = type("State", (), {"global_step": step})
            BudgetCallback().on_optimizer_step(None, state, None, model=model)
        optimizer.zero_grad()


def told(pooling: str = "cls") -> dict:
    """What training writes into the config for scoring."""
    return {"task": "binary", "scale": None, "pooling": pooling}


def read_in_a_new_process(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    arguments = [sys.executable, "-c", READ, json.dumps(TEXTS), str(folder), ",".join(UNMERGED)]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_every_encoder_is_trained_saved_and_read_with_the_same_logits(tmp_path):
    expected = {}
    for family in FAMILIES:
        model, tokenizer = built(checkpoint(tmp_path / "start" / family, family))
        before = logits(model.eval(), tokenizer)
        trained(model, tokenizer)
        expected[family] = logits(model.eval(), tokenizer).detach()
        assert not torch.allclose(before, expected[family])
        model.config.eventscribe = told()
        model.save_pretrained(tmp_path / "made" / family)
        tokenizer.save_pretrained(tmp_path / "made" / family)
    for family, found in read_in_a_new_process(tmp_path / "made").items():
        np.testing.assert_allclose(found["read"], expected[family], atol=1e-5, err_msg=family)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_is_cut_at_the_encoders_own_length(tmp_path, family):
    start = checkpoint(tmp_path, family)
    for build in (
        built,
        lambda start: (build_masked_lm(ModelConfig(str(start)), t := build_tokenizer(start, [], 64)), t),
    ):
        model, tokenizer = build(start)
        assert tokenizer.model_max_length == 40
        ids = encode(tokenizer, [" ".join(["gap=1"] * 90)])["input_ids"]
        assert len(ids[0]) == 40
        with torch.inference_mode():
            assert model(torch.tensor(ids)).logits.isfinite().all()


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_has_no_dropout_and_hidden_states_keep_theirs(tmp_path, family):
    model, _ = built(checkpoint(tmp_path, family))
    config = model.config
    assert getattr(config, "attention_probs_dropout_prob", getattr(config, "attention_dropout", None)) == 0


def test_the_mean_over_tokens_is_read_saved_and_loaded(tmp_path):
    expected = {}
    for family in FAMILIES:
        start = checkpoint(tmp_path / "start" / family, family)
        for peft in [None] if family != "bert" else [None, METHODS["lora"], METHODS["prefix_tuning"]]:
            name = f"{family}-{(peft or {}).get('method')}"
            model, tokenizer = built(start, pooling="mean", peft=peft)
            trained(model, tokenizer)
            expected[name] = logits(model.eval(), tokenizer).detach()
            alone = [
                model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).logits for text in TEXTS
            ]
            torch.testing.assert_close(
                torch.cat(alone), expected[name], atol=1e-5, rtol=0
            )  # padding counts for nothing
            model.config.eventscribe = told("mean")
            for part in (model, model.config, tokenizer):
                part.save_pretrained(tmp_path / "made" / name)
    for name, found in read_in_a_new_process(tmp_path / "made").items():
        np.testing.assert_allclose(found["read"], expected[name], atol=1e-5, err_msg=name)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_modernbert_from_scratch_pools_as_transformers_alone_reads_it(tmp_path, pooling):
    tokenizer = train_tokenizer(TEXTS, 64)
    sizes = FromScratch(architecture="modernbert", hidden_size=32, layers=2, heads=2)
    settings = ModelConfig(from_scratch=sizes, pooling=pooling, max_tokens=64)
    torch.manual_seed(0)
    model = build_classifier(settings, CHURN, None, tokenizer, 10).eval()
    model.save_pretrained(tmp_path)
    alone = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        found = logits(alone, tokenizer)
        torch.testing.assert_close(found, logits(model, tokenizer), atol=1e-6, rtol=0)
        encoded = encode(tokenizer, TEXTS[:1])
        batch = {key: torch.tensor(encoded[key]) for key in ("input_ids", "attention_mask")}
        states = alone.model(**batch).last_hidden_state
        read = states.mean(1) if pooling == "mean" else states[:, 0]
        expected = alone.classifier(alone.drop(alone.head(read)))
    assert torch.allclose(found[:1], expected, atol=1e-5)
    masked = build_masked_lm(settings, tokenizer)
    assert type(masked) is ModernBertForMaskedLM
    assert masked.config.num_hidden_layers == 2


def test_a_new_head_starts_at_the_priors_and_a_trained_one_as_it_was(tmp_path):
    priors = np.array([2.0, -1.0])
    tokenizer = train_tokenizer(TEXTS, 64)
    for architecture in ("bert", "modernbert"):
        settings = ModelConfig(from_scratch=FromScratch(architecture, 32, 1, 2))
        model = build_classifier(settings, CHURN, None, tokenizer, 10, priors)
        assert model.classifier.bias.tolist() == priors.tolist()
    for family in FAMILIES:
        start = checkpoint(tmp_path / family, family)
        given = ModelConfig(name_or_path=str(start), peft=METHODS["lora"] if family == "bert" else None)
        model = build_classifier(given, CHURN, start, build_tokenizer(start, [], 64), 10, priors)
        biases = [of.tolist() for name, of in model.named_parameters() if of.shape == (2,) and name.endswith("bias")]
        assert biases == [priors.tolist()] * (2 if family == "bert" else 1)  # peft trains a copy
    trained_before = tmp_path / "trained"
    build_classifier(ModelConfig(), CHURN, None, tokenizer, 10, priors).save_pretrained(trained_before)
    tokenizer.save_pretrained(trained_before)
    given = ModelConfig(name_or_path=str(trained_before))
    model = build_classifier(given, CHURN, trained_before, tokenizer, 10, -priors)
    assert model.classifier.bias.tolist() == priors.tolist()


def test_the_mean_takes_the_first_tokens_place(tmp_path):
    start = checkpoint(tmp_path, "bert")
    plain, tokenizer = built(start)
    torch.manual_seed(0)
    mean, _ = built(start, pooling="mean")
    mean.load_state_dict(plain.state_dict())
    batch = tokenizer(TEXTS[:1], return_tensors="pt", return_token_type_ids=False)
    states = mean.eval().bert(**batch).last_hidden_state
    pooled = torch.tanh(plain.bert.pooler.dense(states.mean(1)))
    torch.testing.assert_close(mean(**batch).logits, plain.classifier(pooled))


def test_every_peft_method_is_trained_saved_merged_and_read_with_the_same_logits(tmp_path):
    start, expected, untrained = checkpoint(tmp_path / "start", "bert"), {}, {}
    for name, settings in METHODS.items():
        model, tokenizer = built(start, peft=settings)
        untrained[name] = logits(model.eval(), tokenizer).detach()
        trained(model, tokenizer)
        head = [p for key, p in model.named_parameters() if "classifier" in key and "modules_to_save" in key]
        assert head, name
        assert all(p.requires_grad for p in head), name
        encoder = [p for key, p in model.named_parameters() if key.endswith("word_embeddings.weight")]
        assert not any(p.requires_grad for p in encoder), name
        expected[name] = logits(model.eval(), tokenizer).detach()
        model.config.eventscribe = told()
        for part in (model, model.config, tokenizer):
            part.save_pretrained(tmp_path / "made" / name)
    found = read_in_a_new_process(tmp_path / "made")
    for name in METHODS:
        assert not torch.allclose(untrained[name], expected[name]), name
        np.testing.assert_allclose(found[name]["read"], expected[name], atol=1e-5, err_msg=name)
        if name not in UNMERGED:
            np.testing.assert_allclose(found[name]["merged"], expected[name], atol=1e-5, err_msg=name)


def test_modules_that_are_asked_for_are_saved_beside_head_and_new_weights(tmp_path):
    start = checkpoint(tmp_path / "start", "bert")
    for i, asked in enumerate((["LayerNorm"], ["pooler"])):
        model, tokenizer = built(start, peft=METHODS["lora"] | {"modules_to_save": asked})
        trained(model, tokenizer)
        free = {name for name, value in model.named_parameters() if value.requires_grad and "lora" not in name}
        for part in ("pooler", "classifier", *asked):
            assert any(part in name for name in free), part
        expected = logits(model.eval(), tokenizer).detach()
        model.config.eventscribe = told()
        for part in (model, model.config, tokenizer):
            part.save_pretrained(tmp_path / str(i) / "made")
        found = read_in_a_new_process(tmp_path / str(i))["made"]
        np.testing.assert_allclose(found["read"], expected, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("freeze", ["embeddings", 1, "encoder"])
def test_what_is_frozen_stays_as_it_is_and_the_rest_is_trained(tmp_path, family, freeze):
    model, tokenizer = built(checkpoint(tmp_path, family), freeze=freeze)
    before = {name: value.clone() for name, value in model.named_parameters()}
    trained(model, tokenizer)
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    encoder = {name for name in before if name.startswith(model.base_model_prefix) and "pooler" not in name}
    layers = {i: {name for name in encoder if f".{i}." in name.replace("layers", "layer")} for i in (0, 1)}
    assert not {name for name in changed if "embeddings" in name.split(".")[:2]}
    assert bool(layers[0] & changed) == (freeze == "embeddings")
    assert bool(layers[1] & changed) == (freeze != "encoder")
    assert any("classifier" in name for name in changed)
    if freeze == "encoder":
        assert not encoder & changed


def test_the_head_has_an_output_for_each_class_and_their_names(tmp_path):
    start = checkpoint(tmp_path, "bert")
    for objective, kind in (
        (Objective("tiers", ("none", "some", "much")), "single_label_classification"),
        (Objective("propensity", ("milk", "bread", "eggs", "beer")), "multi_label_classification"),
        (Objective("value", ("value",)), "regression"),
    ):
        for model in (built(start, objective)[0], built(start, objective, peft=METHODS["lora"])[0]):
            assert model.config.id2label == dict(enumerate(objective.classes))
            assert model.config.problem_type == kind
            assert logits(model, build_tokenizer(start, [], 64)).shape == (len(TEXTS), len(objective.classes))


def refused(start: Path, **settings: object) -> str:
    with pytest.raises(InputError) as error:
        built(start, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_checkpoint_that_does_not_fit_is_refused_in_one_sentence(tmp_path):
    start = checkpoint(tmp_path / "bert", "bert")
    decoder = tmp_path / "gpt2"
    GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=16, vocab_size=40)).save_pretrained(decoder)
    train_tokenizer(TEXTS, 64).save_pretrained(decoder)
    assert "gpt2 model and no encoder" in refused(decoder)
    train_tokenizer([*TEXTS, "many more words than the model knows"], 64).save_pretrained(start)
    assert "take the tokenizer that the model was trained with" in refused(start)
    tiers = checkpoint(tmp_path / "tiers", "bert")
    model, tokenizer = built(tiers, Objective("tiers", ("none", "some", "much")))
    model.save_pretrained(tmp_path / "trained")
    tokenizer.save_pretrained(tmp_path / "trained")
    assert "a head for 3 labels, and the task has 2" in refused(tmp_path / "trained")
    (tiers / "model.safetensors").write_bytes(b"damaged")
    assert "could not be loaded" in refused(tiers)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *itertools.product(["config.json", "tokenizer.json"], ["", "{}", "[]", "null", '{"model": {}}']),
        *itertools.product(["tokenizer_config.json"], ["", "[]", "null"]),
    ],
)
def test_a_checkpoint_with_a_damaged_file_is_named_in_one_sentence(tmp_path, name, content):
    start = checkpoint(tmp_path / "bert", "bert")
    (start / name).write_text(content)
    assert f"'{start}'" in refused(start)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"peft": {"method": "magic"}}, "magic"),
        ({"peft": {"method": "lora", "rank": 4}}, "rank"),
        ({"peft": {"method": "lora", "target_modules": ["nowhere"]}}, "No modules were targeted"),
        ({"peft": {"method": "lora", "inference_mode": True}}, "inference_mode"),
        ({"peft": {"method": "lora", "modules_to_save": "pooler"}}, "modules_to_save"),
        ({"peft": {"method": "lora", "modules_to_save": ["nowhere"]}}, "no module 'nowhere'"),
        ({"peft": {"method": "lora", "lora_dropout": 1.0}}, "lora_dropout is 1; give a number from 0 to below 1"),
        ({"freeze": 3}, "the model has 2 layers"),
    ],
)
def test_a_setting_that_does_not_fit_the_model_is_named(tmp_path, settings, named):
    assert named in refused(checkpoint(tmp_path, "bert"), **settings)
