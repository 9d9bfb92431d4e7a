import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from data_prep import InputError
from data_prep.prepared import read_manifest
from data_prep.serializer import EventSerializer
from finetune.evaluation.compare import compare_runs
from finetune.evaluation.curves import training
from finetune.hub.model_card import Publication, write_card
from finetune.model.calibration import Calibration
from finetune.model.loading import load_classifier
from finetune.report.report import write_report
from finetune.runs import (
    check_config,
    read_calibration,
    read_pretraining_log,
    read_settings,
    read_task,
    read_trained_settings,
)
from finetune.training.checkpoints import made_by

NOT_MAPPINGS = ("", "{", "[]", "null", "3", '"text"')
NOTHING = ("{}", *NOT_MAPPINGS)


@pytest.fixture
def run(evaluated, tmp_path) -> Path:
    """A copy of an evaluated run."""
    shutil.copytree(evaluated.run_folder, tmp_path / "run")
    return tmp_path / "run"


def change(path: Path, at: str, value: object) -> None:
    """Replace what stands at a place of a JSON file; a value of ... removes it."""
    content = json.loads(path.read_text())
    *above, last = at.split("/")
    node = content
    for key in above:
        node = node[key]
    if value is ...:
        del node[last]
    else:
        node[last] = value
    path.write_text(json.dumps(content))


def refused(what, path: Path) -> None:
    with pytest.raises(InputError) as refusal:
        what()
    said = str(refusal.value)
    assert path.name in said
    assert "; " in said
    assert "\n" not in said


@pytest.mark.parametrize("content", NOTHING)
def test_a_file_of_a_model_that_holds_nothing_is_named_with_the_remedy(run, content):
    model = run / "model"
    for name, read in (
        ("task.json", lambda: read_task(model)),
        ("serializer.json", lambda: EventSerializer.from_pretrained(model)),
        ("calibration.json", lambda: Calibration.load(model)),
        ("tokenizer.json", lambda: load_classifier(model)),
        ("tokenizer_config.json", lambda: load_classifier(model)),
        ("config.json", lambda: load_classifier(model)),
    ):
        whole = (model / name).read_bytes()
        (model / name).write_text(content)
        refused(read, model / name)
        (model / name).write_bytes(whole)
    assert load_classifier(model)


def test_a_folder_of_a_run_that_is_given_for_its_model_is_told_where_the_model_lies(run, tmp_path):
    for read in (read_task, load_classifier):
        with pytest.raises(InputError, match=rf"^{run} is the folder of a run, not of its model; give {run}/model$"):
            read(run)
    seeds = tmp_path / "seeds"
    for seed in (0, 1):
        shutil.copytree(run / "model", seeds / f"seed-{seed}" / "model")
    with pytest.raises(InputError, match=rf"give {seeds}/seed-0/model or {seeds}/seed-1/model$"):
        read_task(seeds)
    with pytest.raises(InputError, match=r"holds no trained model; run scripts/train\.py"):
        read_task(tmp_path)


@pytest.mark.parametrize("content", NOTHING)
def test_a_file_of_a_run_that_holds_nothing_is_named_with_the_remedy(evaluated, run, content):
    parts = load_classifier(run / "model")
    moved = SimpleNamespace(seed_runs=lambda: [SimpleNamespace(run_folder=run)], base_folder=run)
    moved.pretraining = evaluated.pretraining
    card = (lambda: write_card(run / "model", run / "model", *parts, Calibration(), Publication()),)
    both = (lambda: compare_runs([run, evaluated.run_folder], resamples=2),)
    for name, readers in {
        "metrics.json": (lambda: write_report(run), *card, *both),
        "config.yaml": (*card, *both) if content != "{}" else card,
        "training_log.json": (lambda: training(moved, "auroc"), *card, *(both if content != "{}" else ())),
    }.items():
        whole = (run / name).read_bytes()
        (run / name).write_text(content)
        for read in readers:
            refused(read, run / name)
        (run / name).write_bytes(whole)


@pytest.mark.parametrize("content", NOT_MAPPINGS)
def test_bookkeeping_that_is_damaged_counts_as_none_and_a_log_of_pretraining_is_refused(tmp_path, content):
    for name in ("origin.json", "training_log.json", "pretraining_log.json"):
        (tmp_path / name).write_text(content)
    assert made_by(tmp_path) == read_trained_settings(tmp_path) == {}
    refused(lambda: read_pretraining_log(tmp_path), tmp_path / "pretraining_log.json")


@pytest.mark.parametrize(
    ("at", "value"),
    [
        ("config/fields/amount/bins", None),
        ("config/fields/amount/bins", "4"),
        ("config/fields/amount/strange", 1),
        ("config/fields/colour", {"vocabulary": 5, "min_users": 5}),
        ("config/max_events", "5"),
        ("config/style", "poem"),
        ("config/header", "recency"),
        ("config/strange", 1),
        ("features/types/amount", ...),
        ("features/types/amount", 3),
        ("features/kinds/shop", "magic"),
        ("features/kinds/colour", "numeric"),
        ("features/event_types", None),
        ("features/target", None),
        ("fields/amount/edges", ...),
        ("fields/amount/edges", [3, 2, 1]),
        ("fields/amount/edges", ["1", "2", "3"]),
        ("fields/amount/centers", [1]),
        ("fields/amount/kind", "categorical"),
        ("fields/shop/values", None),
        ("fields/shop/list", 1),
        ("fields/event_type", ...),
        ("header/recency_days", []),
        ("header/recency_days/edges", ...),
        ("header/strange", {"edges": [], "centers": [0.0]}),
    ],
)
def test_a_serializer_of_which_a_part_is_wrong_is_refused_when_it_is_read(run, at, value):
    path = run / "model" / "serializer.json"
    change(path, at, value)
    refused(lambda: EventSerializer.from_pretrained(path.parent), path)


@pytest.mark.parametrize(
    ("at", "value"),
    [
        ("task", {}),
        ("task/population/within", None),
        ("task/label/kind", "magic"),
        ("task/label/tiers", ["a"]),
        ("log/first", "yesterday"),
        ("log/known", {"shop": "all"}),
        ("log/has", {"view": "all"}),
        ("log/timezone", "Mars/Phobos"),
        ("log/timezone", "UTC'; SELECT '"),
        ("splits/test", ...),
        ("splits/test/cutoffs", []),
        ("content_hash", ...),
    ],
)
def test_a_task_of_which_a_part_is_wrong_is_refused_when_it_is_read(run, at, value):
    path = run / "model" / "task.json"
    change(path, at, value)
    refused(lambda: read_task(path.parent), path)


@pytest.mark.parametrize(
    "changed",
    [
        {"temperature": 0},
        {"temperature": None},
        {"temperature": -1.5},
        {"temperature": 1e-300},
        {"threshold": 7},
        {"temperature": True, "strange": 1},
        {"method": "magic"},
        {"method": "isotonic"},
        {"method": "isotonic", "x": [0.2, 0.1], "y": [0.1, 0.2]},
        {"method": "isotonic", "x": [0.1, 0.2], "y": [0.2, 0.1]},
        {"method": "isotonic", "x": [0.1, 0.2], "y": [0.1, 1.2]},
        {"method": "isotonic", "x": [0.1, 0.2], "y": [0.1]},
        {"threshold": "high"},
        {"threshold_by": "luck"},
    ],
)
def test_a_calibration_that_cannot_be_applied_is_refused_when_it_is_read(tmp_path, changed):
    Calibration("temperature", 1.5).save(tmp_path)
    path = tmp_path / "calibration.json"
    whole = json.loads(path.read_text())
    assert read_calibration(tmp_path) == whole
    path.write_text(json.dumps(whole | changed))
    refused(lambda: Calibration.load(tmp_path), path)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"num_hidden_layers": 3}, "they lack bert.encoder.layer.1"),
        ({"hidden_size": 32}, "the weights cannot be read"),
        ({"hidden_size": "wide"}, r"config\.json"),
        ({"id2label": {"0": "a", "1": "b", "2": "c"}}, "a binary label with 3 classes"),
        ({"id2label": {"0": "a", "7": "b"}}, "not a name for each class"),
        ({"eventscribe": {}}, "eventscribe.task is missing"),
        ({"eventscribe": []}, r"eventscribe is \[\]"),
        ({"pad_token_id": 99_999}, "the weights cannot be read"),
    ],
)
def test_weights_that_do_not_fit_the_config_are_refused_and_never_drawn_at_random(run, changed, named):
    path = run / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(InputError, match=named) as refusal:
        load_classifier(path.parent)
    assert "\n" not in str(refusal.value)


def test_a_scale_belongs_to_values_and_to_nothing_else(tmp_path):
    scale = {"log": False, "mean": 3.0, "deviation": 2.0}
    for task, classes, given, fits in [
        ("value", ["value"], scale, True),
        ("value", ["value"], None, False),
        ("value", ["value"], scale | {"deviation": 0}, False),
        ("tiers", ["a", "b", "c"], scale, False),
        ("tiers", ["a", "b", "c"], None, True),
    ]:
        kept = {"task": task, "scale": given, "pooling": "cls", "base": None}
        config = SimpleNamespace(eventscribe=kept, id2label=dict(enumerate(classes)))
        if fits:
            check_config(tmp_path, config)
        else:
            refused(lambda config=config: check_config(tmp_path, config), tmp_path / "config.json")


@pytest.mark.parametrize(
    ("changed", "named"), [({"model_max_length": 999}, "takes 64 tokens"), ({"pad_token": None}, "no padding token")]
)
def test_a_tokenizer_that_does_not_fit_the_model_is_refused(run, changed, named):
    path = run / "model" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(InputError, match=named):
        load_classifier(path.parent)


def test_a_manifest_of_which_a_part_is_wrong_is_refused_when_it_is_read(evaluated, tmp_path):
    path = tmp_path / "manifest.json"
    for at, value in (
        ("splits/test", ...),
        ("splits/test/cutoffs", []),
        ("config", 3),
        ("log", {}),
        ("aggregates", {}),
    ):
        shutil.copy(evaluated.data_folder / "manifest.json", path)
        assert read_manifest(tmp_path)
        change(path, at, value)
        refused(lambda: read_manifest(tmp_path), path)


def test_what_a_reader_does_not_need_may_be_missing(run):
    assert read_settings(run, {"name": str})["name"] == "tiny"
    change(run / "training_log.json", "settings", ...)
    assert read_trained_settings(run) == {}
