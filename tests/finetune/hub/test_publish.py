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
import yaml
from huggingface_hub import ModelCard, constants
from huggingface_hub.utils import http_backoff
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification, pipeline

import finetune
from data_prep import InputError
from data_prep.prepare import prepare
from finetune.command import guarded
from finetune.hub.export import export_onnx
from finetune.hub.model_card import Publication, write_model_card
from finetune.hub.publish import divide_logits, publish, stage_model
from finetune.model.calibration import Calibration
from finetune.model.inference import score_texts
from finetune.model.loading import load_classifier
from finetune.model.objective import Objective
from finetune.parser import parse_experiment
from finetune.serving.classifier import EventClassifier
from finetune.training.train import train
from tests.commands import ROOT
from tests.conftest import tiny_config, write_log
from tests.finetune.model.test_modeling import FAMILIES
from tests.hub import TOKEN, Hub, Repository
from tests.metrics_json import least_metrics

MARK = "customer-8841-"  # every user id of the log begins with it
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


@pytest.fixture(scope="module")
def double():
    with Hub() as hub:
        yield hub


@pytest.fixture
def hub(double, monkeypatch):
    """An empty hub that this process publishes to, without waiting between retries."""
    double.forget()
    monkeypatch.setattr(constants, "ENDPOINT", double.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setitem(http_backoff.__kwdefaults__, "base_wait_time", 0)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return double


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """The folders of a full model and of an adapter on it, trained, evaluated (with made-up figures) and calibrated."""
    folder = tmp_path_factory.mktemp("published")
    log = write_log(folder / "log.csv")
    log.write_text(re.sub(r"^u(\d+),", rf"{MARK}\1,", log.read_text(), flags=re.MULTILINE))
    made = {}
    for name in ("full", "adapter"):
        config = tiny_config(folder) | {"pretraining": {"max_steps": 0}}
        config["runs"]["folder"] = str(folder / name)
        if name == "adapter":
            peft = {"method": "lora", "r": 2, "target_modules": ["query", "value"]}
            config["model"] = {"name_or_path": str(folder / "base"), "max_tokens": 64, "peft": peft}
            shutil.copytree(made["full"], folder / "base")
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(config))
        experiment = parse_experiment("", ["--config", str(path)])
        if name == "full":
            prepare(experiment.name, experiment.data, experiment.task, experiment.text)
        train(experiment)
        made[name] = experiment.run_folder / "model"
        Calibration("temperature", 1.7, threshold=0.3, threshold_by="f1").save(made[name])
        write_metrics(made[name])
    return made


def write_metrics(folder: Path, **changed: object) -> None:
    """metrics.json of the model's run, with figures that nobody measured."""
    task = json.loads((folder / "task.json").read_text())
    figures = {
        "auroc": 0.71,
        "auroc_interval": [0.6, 0.8],
        "log_loss": 0.5,
        "expected_calibration_error": 0.02,
        "ks": None,
    }
    groups = [
        {"value": "north", "rows": 200, "users": 60, "positives": 50, "auroc": 0.7, "auroc_interval": [0.6, 0.8]},
        {"value": "an island", "rows": 100, "users": 2, "positives": 9, "auroc": 0.7, "auroc_interval": [0.6, 0.8]},
    ]
    small, steps = [{"value": "a hermit", "rows": 1}], [0] * 101
    baseline = figures | {"auroc_difference": -0.01, "auroc_difference_interval": [-0.02, 0.03]}
    metrics = {
        "test": {"rows": 246, "users": 129, "positives": 61, **figures, "baselines": {"recency_rule": baseline}},
        "verdict": "The model is level with the recency rule.",
        "calibration": {"method": "temperature", "before": {"auroc": 0.71, "expected_calibration_error": 0.09}},
        "slices": {"shop": {"groups": groups, "too_small": small, "gaps": {"calibration": 0.123457}}},
        "profit": {"contact": 1.2345, "kept_customer": 9.0}
        | {key: [] for key in ("shares", "profits", "interval_low", "interval_high")},
        "curves": {
            "rows": 246,
            "medians": {"positive": 0.987123, "negative": 0.1},
            "calibration": {"predicted": [0.1, 0.5], "observed": [0.2, 0.4], "rows": [123, 123]}
            | {"mean_score": 0.3, "mean_label": 0.3},
            "gain": {"model": {"rows": [0.0, 0.2, 1.0], "captured": [0.0, 0.5, 1.0]}},
        },
        "contact": {"cutoff": "2024-04-01", "users": 9, "total": 98765.4321, "share": 0.1, "contacted_at": 1}
        | {"contacted": steps, "low": steps, "high": steps, "found": {"model": steps}, "ahead": {}}
        | {"found_at": {"model": 1}},
        "made": {
            "date": "2026-11-24",
            "evaluation": {"folder": str(folder.parents[1]), "slices": {"who": f"user_id = '{MARK}1'"}},
            "log": {"first": "2024-01-01 03:14:15", "last": "2024-04-29 02:07:18", "events": 1, "users": 1}
            | {"rejected": {}},
            "versions": {"torch": "2"},
            "bootstrap_resamples": 50,
            "content_hash": task["content_hash"],
        },
    }
    whole = least_metrics(task["name"], str(changed.get("task", "binary")), 0.7, {})
    for name, content in (metrics | changed).items():
        whole[name] = whole[name] | content if isinstance(content, dict) and name in whole else content
    (folder.parent / "metrics.json").write_text(json.dumps(whole))


def texts_of(folder: Path) -> list[str]:
    task = json.loads((folder / "task.json").read_text())
    data = folder.parents[2] / "data" / task["name"]
    return pq.read_table(data / "test.parquet", columns=["text"])["text"].to_pylist()


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


def card(hub: Hub, name: str) -> str:
    return hub.repositories[f"model {name}"].files["README.md"].decode()


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


def test_the_card_is_valid_and_says_what_the_model_predicts_and_how_well(hub, runs):
    publish(runs["full"], "me/model", licence="mit")
    read = ModelCard(card(hub, "me/model"))
    read.validate()
    assert read.data.license == "mit"
    assert read.data.pipeline_tag == "text-classification"
    assert read.data.library_name == "transformers"
    assert [example["example_title"] for example in read.data.widget] == ["Made-up user 1", "Made-up user 2"]
    assert {result.metric_type: result.metric_value for result in read.data.eval_results}["roc_auc"] == 0.71
    for part in (
        "Which users with an event in the 28 days before the cutoff",
        "count(*) FILTER (WHERE event_time >= cutoff",
        "2024-01-01 to 2024-04-29",
        "| model | 0.710 [0.600 to 0.800] |",
        "| recency rule | 0.710 [0.600 to 0.800] | 0.500 | \u22120.010 [\u22120.020 to +0.030] |",
        "| north | 200 | 60 | 50 | 0.700 [0.600 to 0.800] |",
        "2 smaller groups are not shown.",
        "Expected calibration error on test 0.020, before calibration 0.090.",
        "From a score of 0.300 on",
        "Both give the same probabilities",
        'EventClassifier.from_pretrained("me/model")',
        'classifier.predict(events, cutoff="2024-04-01")',
        f"EventScribe**; version {finetune.__version__} wrote this card",
        "The licence is `mit`.",
        "| `amount` | `DOUBLE` | a number in the log's own unit; the middles of its bins run from ",
        "bin: 10\u00a0% and 20\u00a0%; 50\u00a0% and 40\u00a0%.",
        "](calibration-and-lift.png)",
        "| learning_rate | 0.001 |",
    ):
        assert part in read.text, part
    image = hub.repositories["model me/model"].files["calibration-and-lift.png"]
    assert image.startswith(b"\x89PNG")
    assert len(image) < 60_000
    with pytest.raises(InputError, match="refuses the card"):
        publish(runs["full"], "me/model", licence="my-own")  # it has the form of a name, and the hub does not know it


@pytest.mark.parametrize("licence", ["my | own", "My-Own", "MIT", "", "mit\nlicense_name: x", "mit\n"])
def test_a_licence_that_cannot_be_a_name_of_the_hub_is_refused_before_anything_is_made(hub, runs, licence, capsys):
    with pytest.raises(InputError, match=r"^--license '.* is no name of a licence on the hub; write .* such as apache"):
        publish(runs["full"], "me/model", licence=licence, dry_run=True)
    assert not hub.repositories
    assert capsys.readouterr().out == ""


def test_a_licence_and_where_to_install_from_are_asked_for_and_not_guessed(hub, runs, capsys):
    publish(runs["full"], "me/model", dry_run=True)
    shown = capsys.readouterr().out
    assert shown.startswith(
        "no licence was named, so that nobody else may use what is published; name one as --license"
    )
    front = yaml.safe_load(shown.partition("\n---\n")[2].partition("\n---\n")[0])
    assert "license" not in front
    for part in (
        "Its owner has named no licence",
        "pip install .   # in a",
        "Ask whoever published the model",
    ):
        assert part in shown
    install = "pip install git+https://git.example.com/shop/eventscribe"
    publish(runs["full"], "me/model", dry_run=True, licence="mit", install=install)
    shown = capsys.readouterr().out
    assert "license: mit\n" in shown
    assert f"```\n{install}\n```" in shown
    for part in ("no licence", "in a checkout", "Ask whoever"):
        assert part not in shown


def test_an_onnx_file_and_a_picture_of_an_earlier_publication_do_not_stay(hub, runs):
    publish(runs["full"], "me/model")
    repository = hub.repositories["model me/model"]
    assert "calibration-and-lift.png" in repository.files
    repository.files |= {"model.onnx": b"as --onnx publishes it", "shop.png": b"its owner's"}
    write_metrics(runs["full"], curves={})
    publish(runs["full"], "me/model")
    write_metrics(runs["full"])
    assert set(repository.commits[1]["deleted"]) == {"model.onnx", "calibration-and-lift.png"}
    assert "shop.png" in repository.files
    assert "calibration-and-lift" not in card(hub, "me/model")
    assert "scripts/export.py --model me/model --output model.onnx" in card(hub, "me/model")


def test_after_evaluation_the_card_lies_beside_the_weights_and_says_what_only_eventscribe_reads(runs, tmp_path):
    shutil.copytree(runs["full"].parent, tmp_path / "run")
    model = tmp_path / "run" / "model"
    card = model / "README.md"
    assert write_model_card(tmp_path / "run") == [card]
    assert "scores**: the temperature calibration in `calibration.json` is" in card.read_text()
    Calibration("isotonic", x=(0.0, 1.0), y=(0.1, 0.9)).save(model)
    write_model_card(tmp_path / "run")
    assert "scores**: the isotonic calibration in `calibration.json` is" in card.read_text()
    config = model / "config.json"
    config.write_text(config.read_text().replace('"pooling": "cls"', '"pooling": "mean"'))
    write_model_card(tmp_path / "run")
    assert "**Only EventScribe reads this model rightly**" in card.read_text()


def test_the_card_of_one_of_several_seeds_has_its_own_figures(runs, tmp_path):
    write_metrics(runs["full"], seeds={"7": {"auroc": 0.654, "log_loss": 0.6}})
    seeds = tmp_path / "run" / "seed-7"
    shutil.copytree(runs["full"].parent, seeds)
    shutil.move(seeds / "metrics.json", tmp_path / "run")
    write_metrics(runs["full"])
    (path,) = write_model_card(tmp_path / "run")
    read = ModelCard(path.read_text())
    assert [result.metric_value for result in read.data.eval_results] == [0.654, 0.6]
    assert "| **this model**, seed 7 | 0.654 | 0.600 |" in read.text
    assert "| seed | 7 |" in read.text


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


@pytest.mark.parametrize("kind", ["tiers", "propensity", "value"])
def test_a_card_of_another_label_says_how_to_read_it_and_plain_transformers_and_onnx_give_the_same(
    runs, tmp_path, monkeypatch, kind
):
    folder, label, scale = tmp_path / "run" / "model", "sum", None
    shutil.copytree(runs["full"].parent, folder.parent)
    objective = Objective(kind, ("value",) if kind == "value" else ("none", "up to 50", "more"))
    if kind == "propensity":
        label = "which"
    elif kind == "value":
        scale = {"log": True, "mean": 2.0, "deviation": 0.5}
        Calibration().save(folder)
    config = BertConfig.from_pretrained(folder, **objective.labels)
    config.eventscribe = {"task": kind, "scale": scale, "pooling": "cls"}
    model = BertForSequenceClassification(config)
    torch.nn.init.normal_(model.classifier.weight)
    model.save_pretrained(folder)
    task = json.loads((folder / "task.json").read_text())
    task["task"]["label"] |= {"kind": label, "field": "amount"}
    (folder / "task.json").write_text(json.dumps(task | {"label_kind": label}))
    main = "mae" if kind == "value" else "auroc"
    figures = {"rows": 246, "users": 129, "positives": 61, main: 0.7, "cutoffs": ["2024-03-18", "2024-04-01"]}
    figures["baselines"] = {"rfm": {main: 0.6}, "blend": {main: 0.65}}
    if kind == "value":
        figures["deciles"] = [{"rows": 24, "predicted": 90.0 - 9 * at, "real": 80.5} for at in range(10)]
    before = {"method": "none", "before": {main: 0.7}}
    write_metrics(folder, task=kind, slices={}, calibration=before, test=figures)
    staged = stage_model(folder, tmp_path / "staged", Publication("me/model"))
    written = (staged / "README.md").read_text()
    parts = {"value": "values", "tiers": "log-probabilities", "propensity": "log-odds"}[kind]
    assert f"The blend is the mean of the model and gradient boosting (of their {parts}), half and half" in written
    assert ("| 10 | 24 | 9.000 | 80.50 |" in written) == (kind == "value")
    published = json.loads((staged / "metrics.json").read_text())["test"]
    assert len(published.get("deciles", [])) == (10 if kind == "value" else 0)
    texts = texts_of(runs["full"])[:5]
    scores = Calibration.load(folder).apply(score_texts(*load_classifier(folder), texts), kind)
    plain = pipeline("text-classification", model=str(staged), top_k=None, function_to_apply=None)(texts)
    found = np.array([[{p["label"]: p["score"] for p in row}[name] for name in objective.classes] for row in plain])
    if kind == "value":
        assert "value = exp(output \u00d7 0.5 + 2.0) \u2212 1" in written
        assert np.allclose(np.exp(found[:, 0] * 0.5 + 2.0) - 1, scores, atol=1e-5)
    else:
        assert "Both give the same probabilities" in written
        assert "`none`, `up to 50`, `more`" in written
        assert np.allclose(found, scores, atol=1e-6)
        assert scores.std() > 0.01
    write_model_card(folder.parent)
    export_onnx(folder, folder.parent / "model.onnx")
    monkeypatch.chdir(folder.parent)
    raw, _, by_onnx = run_snippets((folder / "README.md").read_text())
    np.testing.assert_allclose(by_onnx[raw[0]["user_id"]], raw[0]["score"], rtol=1e-5)


def run_snippets(card: str) -> list:
    """What the Python of a card prints, one block after the other."""
    printed = []
    names = {"printed": printed}
    for block in re.findall(r"```python\n(.*?)```", card, re.DOTALL):
        exec(block.replace("print(", "printed.append("), names)
    return printed
