"""Models that could not be trained are refused before any work; the weights here are tiny and random."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from transformers import (
    BertConfig,
    BertForMaskedLM,
    NystromformerConfig,
    NystromformerForMaskedLM,
    PerceiverConfig,
    PerceiverForMaskedLM,
)

from data_prep import InputError
from data_prep.config import Label
from finetune.experiment.config import Experiment, FromScratch
from finetune.experiment.parser import parse_experiment
from finetune.model.memory import enough_memory
from finetune.model.tokenization import train_tokenizer
from finetune.training.rehearsal import rehearse
from tests.conftest import tiny_config

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
LORA = {"method": "lora", "r": 4, "target_modules": ["query", "value"]}
PREFIX = {"method": "prefix_tuning", "num_virtual_tokens": 4}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory) -> Experiment:
    folder = tmp_path_factory.mktemp("experiment")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tiny_config(folder)), encoding="utf-8")
    return parse_experiment("", ["--config", str(folder / "tiny.yaml")])


def with_model(experiment: Experiment, **settings: object) -> Experiment:
    return replace(experiment, model=replace(experiment.model, **settings))


@pytest.mark.parametrize("peft", [None, LORA, PREFIX, PREFIX | {"prefix_projection": True}])
def test_a_model_that_can_be_trained_passes(experiment, peft):
    rehearse(with_model(experiment, peft=peft))
    for label in (
        Label("sum", "true", "14 days", field="amount"),
        Label("sum", "true", "14 days", field="amount", tiers=[0, 30]),
        Label("which", "true", "14 days", field="shop", top=2),
    ):
        rehearse(with_model(replace(experiment, task=replace(experiment.task, label=label)), peft=peft))


@pytest.mark.parametrize(
    ("peft", "message"),
    [
        (LORA | {"bias": "foo"}, "Requested bias: foo"),
        (LORA | {"r": 0}, "`r` should be a positive integer"),
        (LORA | {"lora_alpha": "high"}, r"^model\.peft: "),
        (LORA | {"target_modules": ["nowhere"]}, r"^model\.peft: No modules were targeted"),
        ({"method": "multitask_prompt_tuning", "num_virtual_tokens": 4, "num_tasks": 2}, "task_ids"),
        ({"method": "prompt_tuning", "num_virtual_tokens": 100}, "virtual tokens leave 0 tokens for a text"),
        ({"method": "prefix_tuning", "num_virtual_tokens": 60}, "virtual tokens leave 4 tokens for a text"),
    ],
)
def test_an_adapter_that_could_not_be_trained_is_refused(experiment, peft, message):
    with pytest.raises(InputError, match=message) as refused:
        rehearse(with_model(experiment, peft=peft))
    assert str(refused.value).startswith("model.peft")
    assert "\n" not in str(refused.value)


def saved(folder: Path, model: type, config: type, **settings: object) -> str:
    tokenizer = train_tokenizer(["a text"], 64)
    tokenizer.save_pretrained(folder)
    model(config(vocab_size=len(tokenizer), max_position_embeddings=64, **settings)).save_pretrained(folder)
    return str(folder)


def test_an_encoder_that_reads_no_texts_of_this_kind_is_refused(experiment, tmp_path):
    perceiver = {"d_latents": 16, "d_model": 16, "num_latents": 4, "num_self_attention_heads": 2}
    perceiver |= {"num_cross_attention_heads": 2, "num_self_attends_per_block": 1}
    for folder in (
        saved(tmp_path / "nystromformer", NystromformerForMaskedLM, NystromformerConfig, num_landmarks=8, **SIZES),
        saved(tmp_path / "perceiver", PerceiverForMaskedLM, PerceiverConfig, **perceiver),
    ):
        with pytest.raises(InputError, match=rf"^model\.name_or_path: '{folder}' could not read a text .*like BERT"):
            rehearse(with_model(experiment, name_or_path=folder))
    rehearse(with_model(experiment, name_or_path=saved(tmp_path / "bert", BertForMaskedLM, BertConfig, **SIZES)))


def test_a_model_that_fits_into_no_memory_is_refused_with_what_it_needs(experiment):
    with pytest.raises(InputError, match=r"model\.from_scratch: a model of [\d,]+ weights needs [\d,]+ GiB .* lower"):
        rehearse(with_model(experiment, from_scratch=FromScratch(hidden_size=10**6, layers=100)))
    with pytest.raises(InputError, match=r"^model\.from_scratch and .* ask for more weights than torch can count"):
        rehearse(with_model(experiment, from_scratch=FromScratch(hidden_size=10**9, layers=1, heads=1)))
    with pytest.raises(InputError, match=r"^model\.from_scratch: a model of .* lower hidden_size or layers$"):
        rehearse(with_model(experiment, from_scratch=FromScratch(hidden_size=16, layers=10**9, heads=1)))
    with pytest.raises(InputError, match=r"^model\.max_tokens: a model of .* lower model\.max_tokens$"):
        rehearse(with_model(experiment, max_tokens=10**9))


def gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nMore of it")


@pytest.mark.parametrize(
    ("work", "whose"),
    [(lambda: torch.empty(10**15), "machine's"), (lambda: np.empty(10**17), "machine's"), (gpu, "GPU's")],
)
def test_the_end_of_memory_is_a_sentence_with_the_remedy(work, whose):
    message = rf"^the {whose} memory does not suffice \(.*\); take less"
    with pytest.raises(InputError, match=message) as refused, enough_memory("take less"):
        work()
    assert "\n" not in str(refused.value)


def test_other_errors_are_left_as_they_are():
    with pytest.raises(RuntimeError, match="a fault"), enough_memory("take less"):
        raise RuntimeError("a fault")
