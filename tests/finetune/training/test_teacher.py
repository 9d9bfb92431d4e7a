import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch.nn import functional

from data_prep import InputError
from data_prep.features import OWN
from data_prep.files import files_hash
from data_prep.prepare import prepare
from data_prep.prepared import read_manifest, read_split
from finetune.baselines.pairs import PairRows
from finetune.experiment.parser import parse_experiment
from finetune.model.inference import score_texts
from finetune.model.loading import load_classifier
from finetune.model.objective import EDGE, Objective, Scale, log_odds
from finetune.runs import ORIGIN, TRAINING_LOG
from finetune.training import teacher
from finetune.training.teacher import CHECKSUM, FOLDER, SCORES, mixed, taught, teach
from finetune.training.train import has_finished, train

BINARY = Objective("binary", ("no_churn", "churn"))
TIERS = Objective("tiers", ("none", "some", "much"))
VALUE = Objective("value", ("value_sum",))
PROPENSITY = Objective("propensity", ("milk", "bread"))


@pytest.fixture(autouse=True)
def few_fits(monkeypatch):
    point = {"learning_rate": 0.2, "max_leaf_nodes": 20, "min_samples_leaf": 5}
    monkeypatch.setattr(teacher, "POINTS", [point])
    monkeypatch.setattr(teacher, "VALUE_POINTS", [point])
    monkeypatch.setattr(teacher, "LOGISTIC_GRID", teacher.LOGISTIC_GRID[-1:])


def said(*given: object, **more: str) -> np.ndarray:
    """The scores of a teacher."""
    return teach(*given, **more)[0]


def rows(users: int = 150, each: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    """Features of which the first names the user, whose each row is, and the generator."""
    random = np.random.default_rng(seed)
    whose = np.repeat(np.arange(users), each)
    features = np.column_stack([random.permutation(users)[whose], random.normal(size=(users * each, 2))])
    features[::7, 2] = np.nan
    return features, whose, random


def test_no_row_is_taught_by_a_model_that_saw_its_user():
    features, users, random = rows()
    labels = random.integers(0, 2, 150)[users]  # each user's own: known only to those who have seen another of its rows
    assert 0.4 < roc_auc_score(labels, said(BINARY, features, labels, users)) < 0.6
    alone = said(BINARY, features, labels, np.arange(len(users)))  # as if each row were a user
    assert roc_auc_score(labels, alone) > 0.9


def test_shuffled_labels_teach_nothing_and_others_what_there_is():
    features, users, random = rows(users=400)
    labels = (random.random(len(users)) < 1 / (1 + np.exp(-2 * features[:, 1]))).astype(int)
    taught_well = said(BINARY, features, labels, users)
    assert roc_auc_score(labels, taught_well) > 0.8
    np.testing.assert_array_equal(said(BINARY, features, labels, users), taught_well)
    shuffled = random.permutation(labels)
    assert 0.45 < roc_auc_score(shuffled, said(BINARY, features, shuffled, users)) < 0.55


def test_tiers_have_a_probability_each():
    features, users, _ = rows()
    labels = np.digitize(features[:, 1], [-0.5, 0.5])
    scores = said(TIERS, features, labels, users)
    assert scores.shape == (len(users), 3)
    np.testing.assert_allclose(scores.sum(axis=1), 1)
    assert (scores.argmax(axis=1) == labels).mean() > 0.9


@pytest.mark.parametrize(("loss", "of"), [("absolute_error", np.median), ("squared_error", np.mean)])
def test_values_are_taught_in_their_own_unit(loss, of):
    whose = np.arange(600)
    many = np.arange(600) % 2
    labels = np.where(np.arange(600) % 5 < 2, 100.0, 0.0) + 10 * many  # two in five spend 100 more
    scores = said(VALUE, many[:, None].astype(float), labels, whose, value_loss=loss)
    assert scores.shape == (600,)
    for group in (0, 1):
        assert abs(scores[many == group].mean() - of(labels[many == group])) < 3


def test_of_values_the_teacher_knows_a_few_who_spend_by_far_the_most(monkeypatch):
    monkeypatch.undo()  # the points that are shipped
    random = np.random.default_rng(0)
    features, users = random.uniform(0, 1, (1500, 1)), np.arange(1500)
    most = features[:, 0] > 0.93  # a hundred, and 80 of them in four folds: no leaf of 200 rows is theirs alone
    labels = np.where(most, 1000.0, 10.0)
    scores = said(VALUE, features, labels, users, value_loss="absolute_error")
    assert scores[most].mean() > 800
    assert scores[~most].mean() < 50


def test_the_share_of_boosting_is_the_one_whose_scores_are_best_on_users_that_were_not_seen():
    random = np.random.default_rng(0)
    features, users = random.uniform(-1, 1, (800, 1)), np.arange(800)
    middle = (abs(features[:, 0]) < 0.5).astype(int)  # which no line tells from both ends
    assert teach(BINARY, features, middle, users)[1] >= 0.75
    slope = (features[:, 0] > random.uniform(-1, 1, 800)).astype(int)
    assert teach(BINARY, features, slope, users)[1] <= 0.5


def test_scores_are_mixed_by_their_logarithms():
    even = mixed(BINARY, [np.array([0.8, 0.5, 1.0]), np.array([0.2, 0.5, 1.0])], [0.5, 0.5])
    np.testing.assert_allclose(even, [0.5, 0.5, 1 - EDGE])
    odds = mixed(BINARY, [np.array([0.9]), np.array([0.5])], [0.5, 0.5])
    np.testing.assert_allclose(odds / (1 - odds), np.sqrt(9))
    odds = mixed(BINARY, [np.array([0.9]), np.array([0.5])], [0.25, 0.75])
    np.testing.assert_allclose(odds / (1 - odds), 9**0.25)
    tiers = mixed(TIERS, [np.array([[0.8, 0.1, 0.1]]), np.array([[0.2, 0.4, 0.4]])], [0.5, 0.5])
    np.testing.assert_allclose(tiers, np.sqrt([[0.16, 0.04, 0.04]]) / np.sqrt([0.16, 0.04, 0.04]).sum())
    np.testing.assert_allclose(mixed(VALUE, [np.array([8.0]), np.array([0.0])], [0.75, 0.25]), [6.0])


def test_labels_stand_beside_the_logits_that_the_teacher_would_have():
    found = BINARY.taught(np.array([0, 1]), np.array([0.2, 0.5]))
    half = np.log(4) / 2
    np.testing.assert_allclose(found, [[[half, -half], [1, 0]], [[0, 0], [0, 1]]], atol=1e-12)
    found = TIERS.taught(np.array([2]), np.array([[0.5, 0.25, 0.25]]))
    np.testing.assert_allclose(found, [[[2 * np.log(2) / 3, -np.log(2) / 3, -np.log(2) / 3], [0, 0, 1]]])
    found = PROPENSITY.taught(np.array([[1, 0]]), np.array([[0.5, 0.0]]))
    np.testing.assert_allclose(found, [[[0, np.log(EDGE / (1 - EDGE))], [1, 0]]])
    found = VALUE.taught(np.array([1.5, 0.0]), np.array([1.0, 0.5]))
    np.testing.assert_allclose(found, [[[1.0], [1.5]], [[0.5], [0.0]]])


@pytest.mark.parametrize("objective", [BINARY, TIERS, PROPENSITY, VALUE])
def test_the_loss_is_the_share_of_each_however_a_step_is_cut_into_batches(objective):
    classes = len(objective.classes)
    logits, said = torch.randn(12, classes), torch.randn(12, classes)
    labels = torch.randint(0, 2, (12, classes)).float()
    if objective in (BINARY, TIERS):
        labels = functional.one_hot(torch.randint(0, classes, (12,)), classes).float()
    loss = objective.loss(teacher=0.7, value_loss="absolute_error")
    ours = logits
    if objective == VALUE:
        own = (logits - labels).abs().mean()
    elif objective == PROPENSITY:
        own = functional.binary_cross_entropy_with_logits(logits, labels)
    else:
        own, ours = functional.cross_entropy(logits, labels), logits - logits.mean(-1, keepdim=True)
    expected = 0.7 * ((ours - said) ** 2).mean() + 0.3 * own
    both = torch.stack([said, labels], 1)
    assert torch.allclose(loss({"logits": logits}, both), expected)
    items = torch.tensor(both.numel())  # as the Trainer counts them
    parts = [loss({"logits": logits[part]}, both[part], items) for part in (slice(0, 3), slice(3, 12))]
    assert torch.allclose(sum(parts), expected)


def test_evaluation_has_the_loss_of_the_labels_alone():
    logits, labels = torch.randn(12, 3), torch.randint(0, 3, (12,))
    taught = TIERS.loss(0.1, [1.0, 2.0, 3.0], 0.7)({"logits": logits}, labels)
    assert torch.equal(taught, TIERS.loss(0.1, [1.0, 2.0, 3.0])({"logits": logits}, labels))
    logits, labels = torch.randn(12, 2), torch.randint(0, 2, (12, 2)).float()
    taught = PROPENSITY.loss(teacher=0.7)({"logits": logits}, labels)
    assert torch.equal(taught, PROPENSITY.loss()({"logits": logits}, labels))


def test_pairs_of_a_user_and_a_class_teach_propensity():
    random = np.random.default_rng(0)
    users = np.repeat(np.arange(100), 6)
    counts = random.poisson(1, (600, 3))
    labels = (random.random((600, 3)) < np.where(counts > 0, 0.8, 0.1)).astype(int)
    own = dict.fromkeys(OWN[:-1], counts.astype(np.float32))
    rows = PairRows(own | {OWN[-1]: np.where(counts, 5, np.nan)}, np.ones((600, 3), np.float32))
    scores = said(Objective("propensity", ("a", "b", "c")), rows, labels, users)
    assert scores.shape == (600, 3)
    assert min(roc_auc_score(of, by) for of, by in zip(labels.T, scores.T, strict=True)) > 0.7


def test_few_users_are_refused():
    features, users, random = rows(users=4)
    with pytest.raises(InputError, match="teacher needs 5 users"):
        said(BINARY, features, random.integers(0, 2, len(users)), users)


def experiment(prepared, folder, *more: str):
    """On a copy of the prepared data, for the teacher's scores lie beside it."""
    data = folder.parent / "data"
    if not data.is_dir():
        shutil.copytree(parse_experiment("", ["--config", str(prepared)]).data.folder, data)
    places = ["--data.folder", str(data), "--runs.folder", str(folder)]
    return parse_experiment("", ["--config", str(prepared), *places, "--pretraining.max_steps", "0", *more])


def test_a_run_learns_what_its_teacher_says(prepared, tmp_path, capsys):
    asked = experiment(prepared, tmp_path / "one", "--finetuning.teacher", "1")
    before = {*(asked.data_folder / FOLDER).glob("*")}  # other tests share the data, and have teachers of fewer users
    train(asked)
    assert re.search(
        r"teacher: \d+% boosting and \d+% regression, AUROC 0\.\d+ on training users", capsys.readouterr().out
    )
    kept = [*({*(asked.data_folder / FOLDER).iterdir()} - before)]
    assert len(kept) == 1
    manifest = json.loads((asked.data_folder / "manifest.json").read_text())
    scores = taught(asked.data_folder, manifest, BINARY, None, "squared_error")
    assert scores.shape == (len(read_split(asked.data_folder, "train", None, ["label"])),)
    log = json.loads((asked.run_folder / TRAINING_LOG).read_text())
    assert log["teacher"] == 1
    losses = [entry["loss"] for entry in log["history"] if "loss" in entry]
    again = experiment(prepared, tmp_path / "again", "--finetuning.teacher", "1")
    train(again)  # from the kept scores
    assert "teacher" not in capsys.readouterr().out
    weights = [(run.run_folder / "model" / "model.safetensors").read_bytes() for run in (asked, again)]
    assert weights[0] == weights[1]
    say(kept[0], np.zeros_like(scores))  # a teacher who is sure that nobody churns
    none = experiment(prepared, tmp_path / "none", "--finetuning.teacher", "1")
    train(none)
    log = json.loads((none.run_folder / TRAINING_LOG).read_text())
    assert next(entry["loss"] for entry in log["history"] if "loss" in entry) > 10 * losses[0]


def say(kept: Path, scores: np.ndarray) -> None:
    """Let a teacher have said something else."""
    np.save(kept / SCORES, scores)
    (kept / CHECKSUM).write_text(files_hash([kept / SCORES]))


def test_a_part_of_the_rows_has_a_teacher_of_its_own_and_what_is_damaged_is_taught_anew(prepared, tmp_path, capsys):
    asked = experiment(prepared, tmp_path / "part")
    manifest = json.loads((asked.data_folder / "manifest.json").read_text())
    before = {*(asked.data_folder / FOLDER).glob("*")}
    said = taught(asked.data_folder, manifest, BINARY, 100, "squared_error")
    assert said.shape == (100,)
    (kept,) = {*(asked.data_folder / FOLDER).glob("*")} - before
    content = (kept / SCORES).read_bytes()
    (kept / SCORES).write_bytes(content[:-8] + bytes(8))
    capsys.readouterr()
    assert np.array_equal(taught(asked.data_folder, manifest, BINARY, 100, "squared_error"), said)
    assert f"warning: {kept} is damaged and is made anew" in capsys.readouterr().out
    assert (kept / SCORES).read_bytes() == content


@pytest.mark.parametrize("loss", ["absolute_error", "squared_error"])
def test_a_run_of_values_learns_what_its_teacher_says(prepared, tmp_path, loss):
    path = tmp_path / "label.yaml"
    path.write_text("task: {label: {kind: sum, field: amount}}\n")
    data, runs = tmp_path / "data", tmp_path / "runs"
    more = ["--pretraining.max_steps", "0", "--finetuning.teacher", "1", "--finetuning.value_loss", loss]
    more += ["--finetuning.log_scale", str(loss == "squared_error"), "--training.learning_rate", "0.01"]
    places = ["--data.folder", str(data), "--runs.folder", str(runs)]
    asked = parse_experiment("", ["--config", str(prepared), "--config", str(path), *places, *more])
    prepare(asked.name, asked.data, asked.task, asked.text)
    manifest = json.loads((asked.data_folder / "manifest.json").read_text())
    said = taught(asked.data_folder, manifest, VALUE, None, loss)
    (kept,) = (asked.data_folder / FOLDER).iterdir()
    say(kept, np.full_like(said, 7.0))  # a teacher who says the same of everyone
    (model,) = train(asked)
    classifier, tokenizer = load_classifier(model)
    texts = read_split(asked.data_folder, "validation", None, ["text"])["text"].to_pylist()
    factor = json.loads((model.parent / "training_log.json").read_text()).get("value_factor", 1.0)
    start = Scale(**classifier.config.eventscribe["scale"]).value(0) / factor
    scores = score_texts(classifier, tokenizer, texts) / factor
    assert np.abs(scores - 7).mean() < np.abs(start - 7) / 2


LEARNS = ["--model.pooling", "mean", "--training.learning_rate", "0.005"]
LEARNS += ["--training.max_steps", "120", "--training.eval_steps", "120"]


@pytest.fixture
def large(prepared, tmp_path):
    """The folder of a model of the same data that has learned something."""
    (folder,) = train(experiment(prepared, tmp_path / "large", "--finetuning.teacher", "0", *LEARNS))
    return folder


def test_a_small_model_learns_the_log_odds_of_a_finished_one(prepared, large, tmp_path):
    texts, found = [], {}
    for name, more in (("labels", ["0"]), ("taught", ["1", "--finetuning.teacher_model", str(large)])):
        student = experiment(prepared, tmp_path / name, *LEARNS, "--finetuning.teacher", *more)
        student.training["seed"] = 7  # another beginning than the teacher's
        (found[name],) = train(student)
        texts = texts or read_split(student.data_folder, "train", None, ["text"])["text"].to_pylist()
    of_teacher = log_odds(score_texts(*load_classifier(large), texts))
    apart = {
        name: np.abs(log_odds(score_texts(*load_classifier(folder), texts)) - of_teacher).mean()
        for name, folder in found.items()
    }
    assert apart["taught"] < 0.5 * np.abs(of_teacher - of_teacher.mean()).mean()
    assert apart["taught"] < apart["labels"]
    assert json.loads((student.run_folder / TRAINING_LOG).read_text())["teacher_model"] == str(large)
    manifest = read_manifest(student.data_folder)
    assert has_finished(student, manifest)
    origin = student.checkpoint_folder / ORIGIN
    origin.write_text(json.dumps(json.loads(origin.read_text()) | {"finished": False}))  # as a stop leaves it
    model, _ = load_classifier(large)
    model.classifier.bias.data += 1
    model.save_pretrained(large)  # trained again, under the same path
    assert not has_finished(student, manifest)
    with pytest.raises(InputError, match=r"stopped and had other settings \(weights of finetuning\.teacher_model"):
        train(student)


def test_a_model_that_may_not_teach_is_refused(prepared, large, tmp_path):
    model = ["--finetuning.teacher_model", str(large)]
    with pytest.raises(InputError, match="say its share"):
        train(experiment(prepared, tmp_path / "runs", "--finetuning.teacher", "0", *model))
    model += ["--finetuning.teacher", "0.5"]
    with pytest.raises(InputError, match="labels of more users"):
        train(experiment(prepared, tmp_path / "runs", *model, "--finetuning.labelled_users", "50"))
    task = json.loads((large / "task.json").read_text())
    (large / "task.json").write_text(json.dumps(task | {"content_hash": "of later cutoffs"}))
    with pytest.raises(InputError, match="trained on other data"):
        train(experiment(prepared, tmp_path / "runs", *model))


def relabel(folder: Path, split: str, median: float, shuffled: bool) -> None:
    """Let the label be whether the last event is long ago, which text and aggregates tell; or a shuffling of that."""
    path = folder / f"{split}.parquet"
    rows = pq.read_table(path)
    labels = rows["recency_days"].to_numpy() > median
    labels = np.random.default_rng(0).permutation(labels) if shuffled else labels
    place = rows.column_names.index("label")
    pq.write_table(rows.set_column(place, "label", pa.array(labels.astype(int)).cast(rows["label"].type)), path)


def test_a_student_of_shuffled_labels_learns_nothing_and_one_of_the_true_ones_what_there_is(prepared, tmp_path):
    found = {}
    for kind in ("true", "shuffled"):
        steps = ("--training.max_steps", "60", "--training.eval_steps", "60", "--finetuning.teacher", "0.7")
        asked = experiment(prepared, tmp_path / kind / "runs", *steps)
        days = pq.read_table(asked.data_folder / "train.parquet")["recency_days"].to_numpy()
        for split in ("train", "validation", "test"):
            relabel(asked.data_folder, split, float(np.median(days)), kind == "shuffled")
        (model,) = train(asked)
        test = read_split(asked.data_folder, "test", None, ["label", "text"])
        scores = score_texts(*load_classifier(model), test["text"].to_pylist())
        found[kind] = roc_auc_score(test["label"].to_numpy(), scores)
    assert found["true"] > 0.85
    assert abs(found["shuffled"] - 0.5) < 0.1
