"""Against tests/hub.py, a hub on loopback; what is uploaded is read from it byte by byte."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from huggingface_hub import ModelCard, constants
from safetensors.numpy import load
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification

from data_prep import InputError
from data_prep.prepare import prepare
from finetune.command import guarded
from finetune.experiment.parser import parse_experiment
from finetune.hub.publish import divide_logits, publish
from finetune.model.calibration import Calibration
from finetune.model.inference import score_texts
from finetune.model.loading import load_classifier, model_folder
from finetune.serving.classifier import EventClassifier
from tests.commands import ROOT
from tests.finetune.hub.published import MARK, card, texts_of, write_metrics
from tests.finetune.model.test_modeling import FAMILIES
from tests.hub import TOKEN, Hub, Repository

pytestmark = pytest.mark.xdist_group("published runs")  # one worker makes them

ENDS = {"a wrong token": 401, "no right": 403, "a conflict": 409, "a failing hub": 500, "a dropped connection": None}


LOAD = """
import json, re, sys
from pathlib import Path
from huggingface_hub import snapshot_download
from finetune.model.calibration import Calibration
from finetune.model.inference import score_texts
from finetune.model.loading import load_classifier
from finetune.serving.classifier import EventClassifier
(texts, events, cutoff), found = json.loads(sys.stdin.read()), {}
for name in sys.argv[1:]:
    raw = EventClassifier.from_pretrained(name).predict(events, cutoff)["score"].to_pylist()
    folder = Path(snapshot_download(name))
    scores = Calibration.load(folder).apply(score_texts(*load_classifier(folder), texts), "binary")
    blocks = re.findall(r"```python\\n(.*?)```", (folder / "README.md").read_text(), re.S)
    if (folder / "adapter_config.json").is_file():  # as the card warns
        from transformers import pipeline
        assert pipeline("text-classification", model=name)(texts[:1])[0]["label"].startswith("LABEL_")
    values = []
    shown = {"values": values}
    for block in blocks if (folder / "model.onnx").is_file() else blocks[:-1]:  # as the card says, in its order
        exec(block.replace("print(", "values.append("), shown)
    said, plain, *by_onnx = values
    said, one = [row["score"] for row in said], {p["label"]: p["score"] for p in plain[0]}["churn"]
    plain = shown["classify"](texts, truncation=True)
    plain = [{p["label"]: p["score"] for p in row}["churn"] for row in plain]
    found[name] = [scores.tolist(), plain, raw, [*said, one, *(score for given in by_onnx for score in given.values())]]
print(json.dumps(found))
"""


def scores_of(folder: Path, texts: list[str]) -> np.ndarray:
    return Calibration.load(folder).apply(score_texts(*load_classifier(folder), texts), "binary")


def in_a_new_process(hub: Hub, home: Path, *arguments: object, stdin: str = "") -> subprocess.CompletedProcess:
    hidden = {"HF_HUB_OFFLINE", "HF_HOME", "HF_TOKEN"}
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_TOKEN": TOKEN}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], input=stdin, capture_output=True, text=True, env=environment
    )


def test_models_published_whole_merged_and_as_an_adapter_give_equal_scores_in_a_new_process(hub, runs, tmp_path):
    texts = texts_of(runs["full"])[:20]
    publish(runs["full"], "me/full", onnx=True)
    publish(runs["adapter"], "me/merged", merge=True)
    adapter = tmp_path / "run" / "model"
    shutil.copytree(runs["adapter"].parent, adapter.parent)
    base = {path.name: path.read_bytes() for path in runs["full"].iterdir()}
    config = json.loads(base["config.json"])
    for name in ("id2label", "label2id", "eventscribe"):  # as of a base that knows nothing of the task
        del config[name]
    base["config.json"] = json.dumps(config).encode()
    base["README.md"] = b"---\nlicense: apache-2.0\n---\n"
    hub.repositories["model me/base"] = Repository("model", False, base)
    for name in ("model/adapter_config.json", "config.yaml"):
        path = adapter.parent / name
        path.write_text(path.read_text().replace(str(runs["adapter"].parents[2] / "base"), "me/base"))
    script = ROOT / "scripts" / "publish.py"
    done = in_a_new_process(hub, tmp_path / "home", script, "--model", adapter, "--repo-id", "me/adapter", "--onnx")
    assert done.returncode == 0, done.stderr
    assert "adapter_model.safetensors" in hub.repositories["model me/adapter"].files
    data = ModelCard(card(hub, "me/adapter")).data
    assert (data.license, data.base_model, data.library_name) == (
        None,
        "me/base",
        "peft",
    )  # that of the base is its own
    assert "made from [me/base](https://huggingface.co/me/base), whose own licence holds, too" in card(
        hub, "me/adapter"
    )
    names = ["me/full", "me/merged", "me/adapter"]
    events = [
        {
            "user_id": user,
            "event_time": f"2024-03-{day:02} 10:00",
            "event_type": "purchase",
            "amount": 3.0,
            "shop": "north",
        }
        for user, day in (("early", 2), ("late", 28))
    ]
    done = in_a_new_process(
        hub, tmp_path / "empty", "-c", LOAD, *names, stdin=json.dumps([texts, events, "2024-04-01"])
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for name, folder in zip(names, (runs["full"], runs["adapter"], runs["adapter"]), strict=True):
        scores, plain, raw, shown = map(np.array, found[name])
        expected = EventClassifier.from_pretrained(folder).predict(events, "2024-04-01")["score"].to_numpy()
        assert np.allclose(raw, expected, atol=1e-6), name
        assert np.allclose(scores, scores_of(folder, texts), atol=1e-6), name
        if name == "me/adapter":
            assert "Plain transformers gives uncalibrated scores" in card(hub, name)
            uncalibrated = score_texts(*load_classifier(folder), texts)
            assert np.allclose(plain, uncalibrated, atol=1e-6)
            assert shown[2] == pytest.approx(shown[0], abs=1e-5)
        else:
            assert np.allclose(plain, scores, atol=1e-6), name
            assert np.allclose(shown, shown[0], atol=1e-5), name  # raw events, the text of them, and ONNX


def test_nothing_that_is_published_has_a_user_id_a_real_text_or_a_path_of_this_machine(hub, runs):
    for name, folder in runs.items():
        publish(folder, f"me/{name}", merge=True, onnx=name == "full")
    data = runs["full"].parents[2] / "data" / "tiny"
    real = {text for path in data.glob("*.parquet") for text in pq.read_table(path)["text"].to_pylist()}
    assert len(real) > 500
    assert MARK in (data / "test.parquet").read_bytes().decode("latin1")  # the ids would be found
    assert "model.onnx" in hub.repositories["model me/full"].files
    for repository in hub.repositories.values():
        assert {"training_args.bin", "config.yaml"}.isdisjoint(repository.files)
        for name, content in repository.files.items():
            written = content.decode("latin1")
            assert MARK not in written, name
            assert str(runs["full"].parents[2]) not in written, name
            assert str(ROOT) not in written, name
            assert sys.prefix not in written, name
            assert "an island" not in written, name
            assert "a hermit" not in written, name
            assert "03:14:15" not in written, name
            assert "1.2345" not in written, name  # what a contact costs
            assert "0.123457" not in written, name  # tells of the group that is hidden
            assert "0.987123" not in written, name  # a curve of few rows has each of them
            assert not [text for text in real if text in written], name


def test_a_repository_with_a_file_that_would_lie_elsewhere_or_too_much_in_it_is_not_fetched(hub, monkeypatch):
    files = {"config.json": b"{}", "model.safetensors": b"0" * 100, "model.onnx": b"0" * 1000}
    hub.repositories["model me/evil"] = Repository("model", False, files | {"../evil.json": b"{}"})
    with pytest.raises(InputError, match=r"^me/evil has a file '../evil.json', which would lie elsewhere"):
        model_folder("me/evil")
    monkeypatch.setattr("finetune.model.safety.LARGEST_REPOSITORY", 50)
    hub.repositories["model me/evil"] = Repository("model", False, files)
    with pytest.raises(InputError, match=r"^me/evil has .* are fetched at most"):
        model_folder("me/evil")
    assert not [request for request in hub.requests if "/resolve/" in request]
    monkeypatch.setattr("finetune.model.safety.LARGEST_REPOSITORY", 102)  # what is not fetched does not count
    with pytest.raises(InputError, match="the hub cannot be reached"):  # as the double serves no file to this process
        model_folder("me/evil")


def test_a_second_publication_updates_in_one_commit_and_leaves_no_file_of_the_first(hub, runs):
    publish(runs["full"], "me/model")
    repository = hub.repositories["model me/model"]
    repository.files |= {"adapter_config.json": b"{}", "LICENSE": b"mine"}
    assert len(repository.commits) == 1
    write_metrics(runs["full"], verdict="It got better.")
    publish(runs["full"], "me/model")
    write_metrics(runs["full"])
    assert len(repository.commits) == 2
    assert repository.commits[1]["deleted"] == ["adapter_config.json"]
    assert repository.files["LICENSE"] == b"mine"
    assert "It got better." in card(hub, "me/model")
    assert set(repository.commits[1]["files"]) == {"README.md", "metrics.json"}


def test_a_published_bert_has_what_text_embeddings_inference_reads(hub, runs, tmp_path):
    """By backends/candle/src/models/bert.rs and router/src/lib.rs as of 2026-11; no such server runs here."""
    publish(runs["full"], "me/model")
    files = hub.repositories["model me/model"].files
    config, weights = json.loads(files["config.json"]), load(files["model.safetensors"])
    assert config["architectures"] == ["BertForSequenceClassification"]
    needed = "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act pad_token_id"
    needed += " hidden_dropout_prob max_position_embeddings type_vocab_size initializer_range layer_norm_eps label2id"
    assert set(needed.split()) <= config.keys()
    assert weights["classifier.weight"].shape == (len(config["id2label"]), config["hidden_size"])
    assert {"bert.pooler.dense.weight", "bert.encoder.layer.0.attention.self.query.bias"} <= weights.keys()
    tokenizer = Tokenizer.from_str(files["tokenizer.json"].decode())
    assert tokenizer.encode("gap=1").ids[0] == tokenizer.token_to_id("[CLS]")
    assert tokenizer.get_vocab_size() == config["vocab_size"]
    assert "text-embeddings-router" in card(hub, "me/model")


def test_a_tag_names_the_commit_and_is_never_moved(hub, runs, capsys):
    publish(runs["full"], "me/model", tag="june")
    repository = hub.repositories["model me/model"]
    first = repository.sha
    write_metrics(runs["full"], verdict="It got better.")
    publish(runs["full"], "me/model", tag="july")
    with pytest.raises(InputError, match=r"me/model is published, without the tag june"):
        publish(runs["full"], "me/model", tag="june")
    write_metrics(runs["full"])
    assert repository.tags["june"] == first != repository.tags["july"]
    assert "tag: july" in capsys.readouterr().out
    with pytest.raises(InputError, match="is no tag"):
        publish(runs["full"], "me/model", tag="../x")


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("request_", ["POST /api/repos/create", "POST .*/commit/"])
def test_a_refusal_is_one_sentence_and_leaves_no_half_made_repository(hub, runs, monkeypatch, capsys, end, request_):
    hub.fail(request_, ENDS[end])
    monkeypatch.setattr("signal.signal", lambda *handler: None)  # which `guarded` would set for all tests
    with pytest.raises(SystemExit) as stopped:
        guarded(lambda: publish(runs["full"], "me/model"))
    assert stopped.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert (str(ENDS[end]) if ENDS[end] else "connection") in last
    assert last.endswith("(me/model: nothing was published)")
    assert not hub.repositories


@pytest.mark.parametrize("end", ["a failing hub", "a dropped connection"])
def test_a_refused_update_leaves_the_old_version(hub, runs, end):
    publish(runs["full"], "me/model")
    old = dict(hub.repositories["model me/model"].files)
    write_metrics(runs["full"], verdict="It got better.")
    hub.fail("POST .*/commit/", ENDS[end])
    with pytest.raises(InputError, match="it has its old version"):
        publish(runs["full"], "me/model")
    write_metrics(runs["full"])
    assert hub.repositories["model me/model"].files == old


def test_a_repository_of_which_only_the_answer_was_lost_is_deleted_again(hub, runs):
    hub.fail("POST /api/repos/create", None, after=True)
    with pytest.raises(InputError, match="nothing was published"):
        publish(runs["full"], "me/model")
    assert not hub.repositories


def test_an_empty_repository_that_cannot_be_deleted_is_told_of(hub, runs):
    hub.fail("POST .*/commit/|DELETE", 500)
    with pytest.raises(InputError, match="an empty repository may be left"):
        publish(runs["full"], "me/model")


def test_a_connection_that_breaks_once_is_tried_again(hub, runs):
    hub.fail("POST .*/commit/", None, times=1)
    publish(runs["full"], "me/model")
    assert len(hub.repositories["model me/model"].commits) == 1


def test_a_repository_of_something_else_is_not_overwritten(hub, runs):
    hub.repositories["model me/other"] = Repository("model", False, {"config.json": b"{}", "README.md": b""})
    with pytest.raises(InputError, match=r"something else .* \(config\.json\)"):
        publish(runs["full"], "me/other")
    publish(runs["full"], "me/model")
    with pytest.raises(InputError, match="is there and public"):
        publish(runs["full"], "me/model", private=True)
    publish(runs["full"], "me/secret", private=True)
    assert hub.repositories["model me/secret"].private


def test_a_dry_run_lists_the_files_and_shows_the_card_without_a_request_or_a_token(hub, runs, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    publish(runs["full"], "me/model", dry_run=True)
    assert not hub.requests
    shown = capsys.readouterr().out
    assert re.search(r"\n +4\d,\d+  model\.safetensors\n", shown)
    assert 'pipeline("text-classification", model="me/model", top_k=None)' in shown
    with pytest.raises(InputError, match="hf auth login"):
        publish(runs["full"], "me/model")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
        publish(runs["full"], "me/model")
    assert not hub.requests


def test_what_tells_of_single_users_or_cannot_be_loaded_elsewhere_is_refused(runs, tmp_path):
    def refused(change: dict[str, tuple[str, str]], reason: str, which: str = "full") -> None:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        shutil.copytree(runs[which].parent, tmp_path / "run")
        for name, (old, new) in change.items():
            path = tmp_path / "run" / name
            assert old in path.read_text()
            path.write_text(path.read_text().replace(old, new))
        with pytest.raises(InputError, match=reason):
            publish(tmp_path / "run" / "model", "me/model", dry_run=True)

    refused({}, "an adapter of a model on this machine", "adapter")
    refused({"model/task.json": ('"where": "true"', f'"where": "user_id <> \'{MARK}1\'"')}, "names user_id")
    refused({"model/serializer.json": ('"min_users": 5', '"min_users": 1')}, "min_users is 1")
    refused({"metrics.json": ('"content_hash": "', '"content_hash": "0')}, "is of other data")
    (tmp_path / "run" / "metrics.json").unlink()
    with pytest.raises(InputError, match=r"evaluate\.py first"):
        publish(tmp_path / "run" / "model", "me/model", dry_run=True)
    with pytest.raises(InputError, match="OWNER/NAME"):
        publish(runs["full"], "model", dry_run=True)


def test_the_data_is_published_only_with_pseudonyms_and_only_that_of_the_model(hub, runs, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="the log's own user ids"):
        publish(runs["full"], "me/model", with_dataset=True)
    experiment = parse_experiment("", ["--config", str(runs["full"].parents[2] / "full.yaml")])
    monkeypatch.setenv("SHOP_KEY", "a long and random key of this test")
    experiment.data.pseudonymize, experiment.data.folder = "SHOP_KEY", str(tmp_path)
    data = prepare("tiny", experiment.data, experiment.task, experiment.text)
    (data / "rejected.parquet").write_bytes(b"no")
    with pytest.raises(InputError, match="is not the data"):
        publish(runs["full"], "me/model", with_dataset=True, data=data)
    shutil.copytree(runs["full"].parent, tmp_path / "run")
    task = tmp_path / "run" / "model" / "task.json"
    new = json.loads((data / "manifest.json").read_text())["content_hash"]
    task.write_text(json.dumps(json.loads(task.read_text()) | {"content_hash": new}))
    write_metrics(task.parent)
    assert not hub.repositories
    publish(task.parent, "me/model", with_dataset=True, data=data)
    files = hub.repositories["dataset me/model-data"].files
    splits = {f"{split}.parquet" for split in ("train", "validation", "test", "unlabelled")}
    assert set(files) == splits | {"README.md", "manifest.json", "serializer.json", ".gitattributes"}
    for name, content in files.items():
        for private in (MARK, str(tmp_path), "log.csv", "SHOP_KEY", experiment.data.sources[0].path):
            assert private not in content.decode("latin1"), name
    assert files["test.parquet"] == (data / "test.parquet").read_bytes()
    assert ModelCard(card(hub, "me/model")).data.datasets == ["me/model-data"]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_encoder_has_its_logits_from_a_last_layer_that_can_be_divided(family):
    _, config, sizes = FAMILIES[family]
    model = AutoModelForSequenceClassification.from_config(config(vocab_size=30, num_labels=3, pad_token_id=0, **sizes))
    words = torch.arange(5, 25).reshape(2, 10)
    with torch.inference_mode():
        before = model.eval()(words).logits
        assert divide_logits(model, 1.7)
        assert torch.allclose(model(words).logits * 1.7, before, atol=1e-6)
