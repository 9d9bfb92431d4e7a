"""The card says what the model predicts, how well, and how to read it; what it says runs."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from transformers import BertConfig, BertForSequenceClassification, pipeline

import finetune
from data_prep import InputError
from finetune.hub.export import export_onnx
from finetune.hub.model_card import Publication, write_model_card
from finetune.hub.publish import publish, stage_model
from finetune.model.calibration import Calibration
from finetune.model.inference import score_texts
from finetune.model.loading import load_classifier
from finetune.model.objective import Objective
from tests.finetune.hub.published import card, texts_of, write_metrics

pytestmark = pytest.mark.xdist_group("published runs")  # one worker makes them


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
    beside = {"auroc": 0.63, "auroc_difference": 0.02, "auroc_difference_interval": [-0.01, 0.05]}
    single = {"auroc": 0.65, "auroc_interval": [0.61, 0.69], "log_loss": 0.61, "deviation": 0.01, "validation": 0.7}
    single["baselines"] = {"recency_rule": beside, "mean_of_seeds": beside | {"auroc": 0.66}}
    seeds = {"7": {"auroc": 0.654, "log_loss": 0.6}, "8": {"auroc": 0.646, "log_loss": 0.62}}
    write_metrics(runs["full"], seeds=seeds, single=single)
    written = runs["full"].parent / "metrics.json"
    metrics = json.loads(written.read_text())
    metrics["made"]["seed"] = [8, 7]
    written.write_text(json.dumps(metrics))
    seeds = tmp_path / "run" / "seed-7"
    shutil.copytree(runs["full"].parent, seeds)
    shutil.move(seeds / "metrics.json", tmp_path / "run")
    write_metrics(runs["full"])
    (path,) = write_model_card(tmp_path / "run")
    read = ModelCard(path.read_text())
    assert [result.metric_value for result in read.data.eval_results] == [0.654, 0.6]
    assert "| **this model**, seed 7 | 0.654 | 0.600 |" in read.text
    assert re.search(r"\| a single model, mean of 2 seeds \| 0\.650 \[0\.610 to 0\.690\] \| 0\.610", read.text)
    assert re.search(r"\| recency rule \|.*\| \+0\.020 \[.0\.010 to \+0\.050\] \|", read.text)
    assert "| mean of seeds | 0.660 |" in read.text
    assert "differences are those of a single one of them, over users and seeds" in read.text
    assert "and those of the slices below, are of seed 8" in read.text
    assert "| seed | 7 |" in read.text


@pytest.mark.parametrize(
    ("kind", "root"), [("tiers", False), ("propensity", False), ("value", False), ("value", True), ("value", None)]
)
def test_a_card_of_another_label_says_how_to_read_it_and_plain_transformers_and_onnx_give_the_same(
    runs, tmp_path, monkeypatch, kind, root
):
    folder, label, scale = tmp_path / "run" / "model", "sum", None
    shutil.copytree(runs["full"].parent, folder.parent)
    objective = Objective(kind, ("value",) if kind == "value" else ("none", "up to 50", "more"))
    if kind == "propensity":
        label = "which"
    elif kind == "value":
        scale = {"log": not root, "mean": 2.0, "deviation": 0.5}
        scale |= {} if root is None else {"root": root}  # an older model has none
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
    if root:
        assert "value = root \u00d7 |root| with root = output \u00d7 0.5 + 2.0, which" in written
        assert np.allclose((found[:, 0] * 0.5 + 2.0) * np.abs(found[:, 0] * 0.5 + 2.0), scores, atol=1e-5)
    elif kind == "value":
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
