"""Training from another shop's model: its words are mapped by name, the others begin as the mean of their field."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from data_prep.prepare import prepare
from data_prep.prepared import split_texts
from finetune import EventClassifier
from finetune.experiment.parser import parse_experiment
from finetune.model.growing import mapped_tokenizer
from finetune.model.loading import load_classifier
from finetune.model.modeling import build_classifier
from finetune.model.objective import Objective
from finetune.model.tokenization import load_tokenizer
from finetune.training.pretrain import pretrain
from finetune.training.train import train
from tests.conftest import tiny_config, write_log

NONE = ["--pretraining.max_steps", "0"]


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    """The YAML of a shop with another town, another type of event and a field more, prepared."""
    folder = tmp_path_factory.mktemp("other")
    log = write_log(folder / "log.csv", users=120, seed=3)
    log.write_text(log.read_text().replace("north", "east").replace("view", "click"), encoding="utf-8")
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_config(folder) | {"name": "other"}), encoding="utf-8")
    experiment = parse_experiment("", ["--config", str(path)])
    prepare(experiment.name, experiment.data, experiment.task, experiment.text)
    return path


def begins_with(model: Path, config: Path, runs: Path, *arguments: str):
    more = ["--runs.folder", str(runs), "--model.name_or_path", str(model), "--model.from_scratch", "null"]
    return parse_experiment("", ["--config", str(config), *more, *arguments])


def test_words_that_both_shops_have_keep_their_weights_and_new_ones_begin_as_their_field(trained, other, capsys):
    experiment = begins_with(trained.model_folder, other, other.parent / "runs")
    _, texts = split_texts(experiment.data_folder, "train", None, 64)
    tokenizer, new = mapped_tokenizer(trained.model_folder, texts, 64)
    old, known = load_classifier(trained.model_folder)
    assert {"shop=east", "event_type=click"} <= set(new)
    said = capsys.readouterr().out
    both = len(set(known.get_vocab()) & words_of(experiment))
    assert f"knows {both} of the {len(words_of(experiment))} words of this log; {len(new)} are new" in said
    model = build_classifier(
        experiment.model, Objective.of(experiment.task.label, None), trained.model_folder, tokenizer, 1, words=new
    )
    weights, before = model.get_input_embeddings().weight, old.get_input_embeddings().weight
    number = tokenizer.get_vocab()
    for word, place in known.get_vocab().items():
        assert torch.equal(weights[number[word]], before[place]), word
    shops = [place for word, place in known.get_vocab().items() if word.startswith("shop=")]
    torch.testing.assert_close(weights[number["shop=east"]], before[shops].mean(dim=0))
    torch.testing.assert_close(model.classifier.weight, old.classifier.weight)


def words_of(experiment) -> set[str]:
    texts = [text for part in split_texts(experiment.data_folder, "train", None, 64)[1] for text in part.to_pylist()]
    return {word for text in texts for word in text.split()} - {"[SEP]"}


def test_the_commands_train_on_the_new_words_with_and_without_a_pretraining(trained, other, tmp_path, capsys):
    plain = begins_with(trained.model_folder, other, tmp_path / "plain", *NONE)
    train(plain)
    pretrained = begins_with(trained.model_folder, other, tmp_path / "pretrained", "--pretraining.max_steps", "2")
    pretrain(pretrained)
    assert "are new and begin as the mean of their field" in capsys.readouterr().out
    train(pretrained)
    assert "words of this log" not in capsys.readouterr().out  # its own pretraining knows them all
    for run in (plain, pretrained):
        model, tokenizer = load_classifier(run.model_folder)
        assert words_of(run) <= set(tokenizer.get_vocab())
        assert model.get_input_embeddings().num_embeddings == len(tokenizer)


def test_an_adapter_learns_no_words_and_says_how_many_stay_unknown(trained, other, tmp_path, capsys):
    run = begins_with(trained.model_folder, other, tmp_path, *NONE, "--model.peft", "{method: lora, r: 2}")
    train(run)
    assert "stay unknown (an adapter learns no word; set pretraining.max_steps)" in capsys.readouterr().out
    _, tokenizer = load_classifier(run.model_folder)
    assert tokenizer.get_vocab() == load_tokenizer(trained.model_folder, 64).get_vocab()


def test_a_pretrained_encoder_learns_the_words_of_fields_with_and_without_a_pretraining(
    small_bert, other, tmp_path, capsys
):
    plain = begins_with(small_bert, other, tmp_path / "plain", *NONE)
    train(plain)
    assert "words such as " in capsys.readouterr().out
    pretrained = begins_with(small_bert, other, tmp_path / "pretrained", "--pretraining.max_steps", "2")
    pretrain(pretrained)
    assert "as tokens of their own" in capsys.readouterr().out
    train(pretrained)
    assert "as tokens of their own" not in capsys.readouterr().out  # its own pretraining knows them all
    fields = {word for word in words_of(plain) if "=" in word}
    for run in (plain, pretrained):
        model, tokenizer = load_classifier(run.model_folder)
        new = {*tokenizer.get_vocab()} - {*load_tokenizer(small_bert, 64).get_vocab()}
        assert new == fields if run is plain else new > fields  # it has read the texts without a label, too
        assert model.get_input_embeddings().num_embeddings == len(tokenizer)
    scored = EventClassifier.from_pretrained(plain.model_folder).predict(plain.data, cutoff="2024-03-01")
    assert np.isfinite(scored["score"].to_numpy()).all()


def test_sentences_an_adapter_and_frozen_embeddings_leave_a_pretrained_encoder_its_words(small_bert, other, tmp_path):
    sentences = [*NONE, "--text.style", "sentences", "--data.folder", str(tmp_path / "data")]
    written = begins_with(small_bert, other, tmp_path / "written", *sentences)
    prepare(written.name, written.data, written.task, written.text)
    adapted = begins_with(small_bert, other, tmp_path / "adapted", *NONE, "--model.peft", "{method: lora, r: 2}")
    frozen = begins_with(small_bert, other, tmp_path / "frozen", *NONE, "--model.freeze", "embeddings")
    for run in (written, adapted, frozen):
        train(run)
        _, tokenizer = load_classifier(run.model_folder)
        assert tokenizer.get_vocab() == load_tokenizer(small_bert, 64).get_vocab()
