import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml

from data_prep import InputError
from data_prep.prepared import read_manifest
from data_prep.serializer import EventSerializer
from finetune.experiment.config import RunsConfig
from finetune.experiment.parser import changed
from finetune.hub.model_card import ONNX_FILE
from finetune.model.growing import grow_words, grown_tokenizer, regroup_classes
from finetune.model.loading import load_classifier
from finetune.model.objective import Objective
from finetune.model.tokenization import SPECIAL
from finetune.runs import REGISTRY, START, read_task
from finetune.training.train import train
from finetune.upkeep.registry import add_entry, read_registry, refuse_not_in_use, roll_back
from finetune.upkeep.renew import beside, decided, described, renew
from finetune.upkeep.start import moved_cutoffs
from tests.commands import script_module
from tests.finetune.upkeep.conftest import SHIFT


def test_all_cutoffs_move_by_the_same_length_of_time(settings):
    moved = moved_cutoffs(settings("summer"), "14 days")
    assert moved["task.cutoffs.train"]["first"] == "2024-02-12"
    assert moved["task.cutoffs.train"]["every"] == "7 days"
    assert moved["task.cutoffs.validation"] == ["2024-03-18"]
    assert moved["task.cutoffs.test"] == ["2024-04-01", "2024-04-15"]


def test_a_renewal_compares_both_on_the_same_new_and_old_rows_and_is_written_down(spring, renewed):
    entry, registry = renewed.entry, Path(spring.runs.folder) / REGISTRY
    assert read_registry(registry)[0] == entry
    assert entry["new_rows"]["cutoffs"] == ["2024-04-01", "2024-04-15"]
    assert entry["old_rows"]["cutoffs"] == ["2024-03-18", "2024-04-01"]
    for rows in (entry["new_rows"], entry["old_rows"]):
        apart = rows["challenger"]["value"] - rows["champion"]["value"]
        assert rows["difference"] == pytest.approx(apart)
        low, high = rows["difference_interval"]
        assert low <= rows["difference"] <= high
    assert entry["data"]["content_hash"] == read_manifest(renewed.run.data_folder)["content_hash"]
    promoted = entry["new_rows"]["difference_interval"][0] > -entry["margin"]
    assert entry["action"] == ("promoted" if promoted else "kept")
    run = renewed.run.run_folder
    assert entry["in_use"] == str(run / "model" if promoted else spring.model_folder)
    assert {"model", "metrics.json", "report.html", "config.yaml"} <= {path.name for path in run.iterdir()}
    assert "what was forgotten" in described(entry)
    assert described(entry).endswith(f"in use: {entry['in_use']}")


def test_the_figures_of_the_challenger_are_those_of_its_own_evaluation(renewed):
    metrics = json.loads((renewed.run.run_folder / "metrics.json").read_text())
    assert renewed.entry["new_rows"]["challenger"]["value"] == pytest.approx(metrics["test"]["auroc"], abs=1e-9)
    assert renewed.entry["new_rows"]["rows"] == metrics["test"]["rows"]


def test_the_successor_begins_with_the_old_weights_and_its_config_trains_it_again(spring, renewed):
    start = renewed.run.run_folder / START
    config = yaml.safe_load((renewed.run.run_folder / "config.yaml").read_text())
    assert config["model"]["name_or_path"] == str(start)
    assert read_task(start)["content_hash"] == read_task(spring.model_folder)["content_hash"]
    old, words = load_classifier(spring.model_folder)
    new, more = load_classifier(start)
    place = {word: more.get_vocab()[word] for word in words.get_vocab()}
    assert place == words.get_vocab()
    grown = new.get_input_embeddings().weight[: len(words)]
    assert torch.equal(grown, old.get_input_embeddings().weight)
    assert torch.equal(new.classifier.weight, old.classifier.weight)


def test_new_words_begin_as_the_mean_of_their_field_and_known_texts_keep_their_scores(spring):
    model, tokenizer = load_classifier(spring.model_folder)
    serializer = EventSerializer.from_pretrained(spring.model_folder)
    assert serializer.config.style == "words"
    text = "[SEP] gap=first event_type=view shop=north"
    before = model(**tokenizer(text, return_tensors="pt")).logits
    texts = pa.array([f"{text} shop=east colour=red", "shop=east loose"], pa.large_string())
    grown, new = grown_tokenizer(tokenizer, iter([texts]))
    assert sorted(new) == ["colour=red", "loose", "shop=east"]
    known = tokenizer.get_vocab()
    grow_words(model, grown, new)
    assert torch.equal(model(**grown(text, return_tensors="pt")).logits, before)
    weights, number = model.get_input_embeddings().weight, grown.get_vocab()
    shops = [known[word] for word in known if word.startswith("shop=")]
    words = [known[word] for word in known if word not in SPECIAL.values()]
    assert torch.allclose(weights[number["shop=east"]], weights[shops].mean(dim=0))
    for word in ("colour=red", "loose"):
        assert torch.allclose(weights[number[word]], weights[words].mean(dim=0))
    assert grown("shop=east", add_special_tokens=False)["input_ids"] == [number["shop=east"]]


def test_outputs_follow_their_classes_and_a_new_one_begins_as_the_mean(spring):
    model, _ = load_classifier(spring.model_folder)
    old = model.classifier.weight.clone()
    assert regroup_classes(model, ["churn", "later", "no_churn"]) == ["later"]
    assert torch.equal(model.classifier.weight[[0, 2]], old[[1, 0]])
    assert torch.allclose(model.classifier.weight[1], old.mean(dim=0))
    assert Objective.of_model(model.config).classes == ("churn", "later", "no_churn")
    assert regroup_classes(model, ["churn", "later", "no_churn"]) == []


def rows(low: float, high: float, metric: str = "auroc") -> dict:
    return {"metric": metric, "difference": (low + high) / 2, "difference_interval": [low, high], "rows": 1000}


@pytest.mark.parametrize(
    ("found", "promoted"),
    [
        (rows(-0.004, 0.01), True),
        (rows(0.001, 0.01), True),
        (rows(-0.006, 0.02), False),
        (rows(-0.02, -0.01), False),
        (rows(-0.02, 0.004, "mae"), True),
        (rows(-0.02, 0.006, "mae"), False),
        (rows(0, 0) | {"difference_interval": None}, False),
    ],
)
def test_it_is_promoted_only_where_the_worst_of_the_interval_is_within_the_margin(found, promoted):
    assert decided(found, 0.005, "july")[0] == promoted
    assert ("stays" in decided(found, 0.005, "july")[1]) != promoted


@pytest.mark.parametrize(
    ("shift", "more", "told"),
    [
        ("13 days", (), "has seen labels up to 2024-03-18, and the first validation cutoff would be 2024-03-17"),
        ("0 days", (), "--shift"),
        ("14 days", ("--task.label.horizon", "7 days"), "ask the model its own question"),
        ("14 days", ("--seeds", "1", "2"), "a renewal trains one model"),
    ],
)
def test_what_the_old_weights_have_seen_and_other_questions_are_refused(spring, settings, shift, more, told):
    with pytest.raises(InputError, match=told):
        renew(spring.model_folder, settings("autumn", *more), shift)
    assert not settings("autumn").run_folder.exists()


def test_weights_that_have_seen_the_new_validation_are_refused_by_training_too(renewed, settings, tmp_path):
    older = changed(settings("tiny"), {"model.name_or_path": renewed.entry["challenger"]})
    with pytest.raises(InputError, match="start from weights that are older"):
        train(replace(older, runs=RunsConfig(str(tmp_path))))


def test_a_margin_of_values_has_to_be_given_and_be_above_zero(spring, settings):
    value = settings(
        "autumn", "--task.label", "{kind: sum, where: \"event_type = 'purchase'\", horizon: 14 days, field: amount}"
    )
    with pytest.raises(InputError, match="give --margin in its unit"):
        renew(spring.model_folder, value, "14 days")
    with pytest.raises(InputError, match="--margin is -1"):
        renew(spring.model_folder, settings("autumn"), "14 days", margin=-1.0)


def test_only_the_model_in_use_is_renewed_and_rolling_back_puts_the_one_before_in_use(tmp_path):
    june, july, august = (tmp_path / name / "model" for name in ("june", "july", "august"))
    registry = tmp_path / REGISTRY
    refuse_not_in_use(june)
    add_entry(registry, "kept", june, june, "worse", challenger=str(august))
    refuse_not_in_use(june)
    add_entry(registry, "promoted", july, june, "better", challenger=str(july))
    refuse_not_in_use(july)
    with pytest.raises(InputError, match=r"july/model is in use, and no more .*june"):
        refuse_not_in_use(june)
    add_entry(registry, "promoted", august, july, "better", challenger=str(august))
    with pytest.raises(InputError, match="august/model is in use"):
        refuse_not_in_use(june)
    assert roll_back(august)["in_use"] == str(july)
    refuse_not_in_use(july)
    assert roll_back(july)["in_use"] == str(june)
    with pytest.raises(InputError, match="there is no model to go back to"):
        roll_back(june)
    assert [entry["action"] for entry in read_registry(registry)] == ["kept", *["promoted"] * 2, *["rolled back"] * 2]
    with registry.open("a") as file:
        file.write('{"when": 3}\n')
    with pytest.raises(InputError, match=r"registry.jsonl:6 is damaged"):
        refuse_not_in_use(june)


def test_the_best_of_the_same_model_is_no_difference(spring):
    same = beside(spring.model_folder, spring.model_folder, spring, spring.task)
    assert same["difference"] == 0
    assert np.array_equal(same["difference_interval"], [0, 0])


def test_a_renewal_that_was_stopped_behind_its_training_does_not_train_again(
    spring, settings, renewed, tmp_path, monkeypatch
):
    for name in ("train", "evaluate", "write_start"):
        monkeypatch.setattr(f"finetune.upkeep.renew.{name}", None)
    monkeypatch.setattr("finetune.upkeep.renew.refuse_not_in_use", lambda model: None)
    monkeypatch.setattr("finetune.upkeep.renew.registry_of", lambda model: tmp_path / REGISTRY)
    entry = renew(spring.model_folder, settings("summer"), "14 days")
    assert {key: entry[key] for key in ("new_rows", "old_rows", "in_use")} == {
        key: renewed.entry[key] for key in ("new_rows", "old_rows", "in_use")
    }


def test_a_promoted_model_is_published_under_its_tag_and_stays_in_use_where_the_hub_fails(
    spring, renewed, prepared, hub, capsys
):
    registry, repository = Path(spring.runs.folder) / REGISTRY, "model me/shop"
    promoted, given = renewed.run.model_folder, ["--runs.folder", spring.runs.folder, "--pretraining.max_steps", "0"]
    asked = Namespace(model=spring.model_folder, config=str(prepared), name="summer", shift=SHIFT, cold=False, margin=1)
    asked = Namespace(**vars(asked), publish="me/shop", private=False, license="mit", rollback=False)
    run = script_module("renew").run
    (spring.model_folder / ONNX_FILE).touch()  # its successor has one, too
    try:
        run(asked, given)
        assert (promoted / ONNX_FILE).is_file()
        assert list(hub.repositories[repository].tags) == ["summer"]
        assert "model.safetensors" in hub.repositories[repository].files
        assert "tag: summer" in capsys.readouterr().out
        assert roll_back(promoted)["in_use"] == str(spring.model_folder)
        assert list(hub.repositories[repository].tags) == ["summer"]  # the version can still be asked for

        hub.forget()
        hub.fail("POST /api/models/me/shop/commit", 403)
        again = f"python scripts/publish.py --model {promoted} --repo-id me/shop --tag summer"
        with pytest.raises(InputError, match=f"promoted and in use all the same.; {again}"):
            run(asked, given)
        assert repository not in hub.repositories  # as it was made for the commit
        assert read_registry(registry)[-1]["in_use"] == str(promoted)
        roll_back(promoted)
    finally:
        (spring.model_folder / ONNX_FILE).unlink()
        (promoted / ONNX_FILE).unlink(missing_ok=True)
    assert [entry["action"] for entry in read_registry(registry)[-4:]] == ["promoted", "rolled back"] * 2
