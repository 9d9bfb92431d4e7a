"""finetuning.members: models that are trained first, whose mean teaches the run's own."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from data_prep import InputError
from data_prep.prepare import prepare
from data_prep.prepared import Labelled, labelled_users, read_split
from finetune.evaluation.evaluate import evaluate
from finetune.model.inference import score_texts
from finetune.model.loading import load_classifier
from finetune.model.objective import Objective, log_odds
from finetune.report.report import write_report
from finetune.runs import ORIGIN, TRAINING_LOG
from finetune.training import members, teacher
from finetune.training import train as training
from finetune.training.checkpoints import alone
from finetune.training.members import FEWEST_STEPS, READINGS, SEED_STEP, member_runs
from finetune.training.train import train
from tests.finetune.training.tiny_runs import experiment

FEW = ["--finetuning.labelled_users", "40", "--finetuning.teacher", "0.7", "--pretraining.max_steps", "0"]
TWO = [*FEW, "--finetuning.members", "2"]
EVERYONE = Objective("binary", ("no_churn", "churn"))


@pytest.fixture(autouse=True)
def few_fits(monkeypatch):
    """As in test_few_labels.py, since what a teacher said of these rows is kept beside the data."""
    monkeypatch.setattr(teacher, "POINTS", [{"learning_rate": 0.2, "max_leaf_nodes": 5, "min_samples_leaf": 5}])


@pytest.fixture
def kept(monkeypatch):
    """The members' folders stay."""
    monkeypatch.setattr(training, "forget_members", lambda run: None)


def texts_of(run, limit=None) -> list[str]:
    return read_split(run.data_folder, "train", limit, ["text"])["text"].to_pylist()


def scores_of(folder: Path, texts: list[str]) -> np.ndarray:
    return log_odds(score_texts(*load_classifier(folder), texts))


def test_members_have_seeds_of_their_own_the_last_weights_and_no_more_steps_than_rows_ask_for(prepared, tmp_path):
    asked = experiment(prepared, tmp_path, *TWO, "--training.max_steps", "400", "--seeds", "0", "1")
    made = [member for run in asked.seed_runs() for member in member_runs(run, 90)]
    seeds = [member.training["seed"] for member in made]
    assert seeds == [SEED_STEP, 2 * SEED_STEP, SEED_STEP + 1, 2 * SEED_STEP + 1]
    assert {member.training["max_steps"] for member in made} == {READINGS * 90}
    assert not any(member.training["load_best_model_at_end"] or member.finetuning.members for member in made)
    assert made[3].run_folder == asked.base_folder / "seed-1" / "members" / "2"
    run = asked.seed_runs()[0]
    assert run.training["load_best_model_at_end"]  # the run's own are untouched
    assert member_runs(run, 3)[0].training["max_steps"] == FEWEST_STEPS
    assert member_runs(run, 9_000)[0].training["max_steps"] == 400
    run.training["max_steps"] = -1  # epochs read each row as often as they say
    assert member_runs(run, 9_000)[0].training["max_steps"] == -1


def test_a_members_warm_up_is_as_long_in_proportion_and_no_tracker_hears_of_it(prepared, tmp_path):
    asked = experiment(prepared, tmp_path, *TWO, "--training.max_steps", "400", "--training.warmup_steps", "200")
    asked.training |= {"report_to": "tensorboard", "resume_from_checkpoint": "true"}
    made = member_runs(asked, 3)[0].training
    assert (made["max_steps"], made["warmup_steps"]) == (120, 60)
    assert (made["report_to"], made["resume_from_checkpoint"]) == ("none", None)
    asked.training["warmup_steps"] = 0.1
    assert member_runs(asked, 3)[0].training["warmup_steps"] == 0.1


def test_the_runs_own_log_lies_in_its_folder(prepared, tmp_path):
    asked = experiment(prepared, tmp_path, *TWO, "--training.report_to", "tensorboard", "--training.max_steps", "2")
    train(asked)
    assert [*(asked.run_folder / "tensorboard").glob("*tfevents*")]


def test_members_are_not_deleted_while_another_command_trains_them(prepared, tmp_path):
    asked = experiment(prepared, tmp_path, *TWO)
    there = asked.run_folder / "members" / "1"
    there.mkdir(parents=True)
    asked.training["resume_from_checkpoint"] = "false"
    with alone(asked.run_folder, True), pytest.raises(InputError, match="is being trained by another command"):
        train(asked)
    assert there.is_dir()


@pytest.mark.parametrize(
    "more",
    [
        ["--model.peft", "{method: lora, r: 2, target_modules: [query]}", "--model.name_or_path", "START"],
        ["--training.max_steps", "-1", "--training.num_train_epochs", "1"],
        ["--finetuning.max_train_examples", "90"],
    ],
)
def test_members_go_with_adapters_epochs_and_a_part_of_the_rows(prepared, trained, tmp_path, more, kept):
    more = [str(trained.model_folder) if part == "START" else part for part in more]
    more += ["--model.from_scratch", "null"] if "--model.name_or_path" in more else []
    asked = experiment(prepared, tmp_path, *TWO, *more)
    (folder,) = train(asked)
    assert np.isfinite(scores_of(folder, texts_of(asked)[:5])).all()
    log = json.loads((asked.run_folder / TRAINING_LOG).read_text())
    rows = 90 if "90" in more else len(texts_of(asked))
    assert 0 < log["unlabelled"] < rows


def test_a_model_says_what_its_members_say_on_average_also_of_users_without_labels(prepared, tmp_path, kept, capsys):
    learns = ["--model.pooling", "mean", "--training.learning_rate", "0.005", "--finetuning.teacher", "1"]
    learns += ["--training.max_steps", "150", "--training.eval_steps", "150"]
    asked = experiment(prepared, tmp_path, *TWO, *learns)
    (folder,) = train(asked)
    texts = texts_of(asked)
    known = len(texts_of(asked, Labelled(40)))
    said = capsys.readouterr().out
    assert f"members that teach: 2, on {len(texts):,} texts, {known:,} of which have a label" in said
    assert f"parameters on {known:,} examples" in said  # of a member
    assert f"parameters on {len(texts):,} examples" in said
    single = [scores_of(asked.run_folder / "members" / str(number) / "model", texts) for number in (1, 2)]
    found, mean = scores_of(folder, texts), np.mean(single, axis=0)
    apart = [np.abs(found - scores).mean() for scores in (mean, *single)]
    assert apart[0] < min(apart[1:])
    assert np.corrcoef(found, mean)[0, 1] > 0.8
    log = json.loads((asked.run_folder / TRAINING_LOG).read_text())
    of_members = [
        json.loads((asked.run_folder / "members" / str(number) / TRAINING_LOG).read_text()) for number in (1, 2)
    ]
    assert (log["members"], log["unlabelled"]) == (2, len(texts) - known)
    assert [part["members"] for part in of_members] == [0, 0]
    assert log["seconds"] > sum(part["seconds"] for part in of_members)


def test_the_labels_of_other_users_change_nothing(prepared, tmp_path, monkeypatch):
    asked = experiment(prepared, tmp_path, *TWO)
    folder, turned = asked.data_folder, tmp_path / "turned"
    shutil.copytree(folder, turned, ignore=shutil.ignore_patterns("teacher", "tokens"))
    table = pq.read_table(folder / "train.parquet")
    labels = table["label"].to_numpy()
    known = pc.is_in(table["user_id"], labelled_users(folder, Labelled(40))).to_numpy()
    assert 0 < known.sum() < len(known) - 100
    place = table.schema.get_field_index("label")
    changed = pa.array(np.where(known, labels, 1 - labels), table.schema.field(place).type)
    pq.write_table(table.set_column(place, "label", changed), turned / "train.parquet")
    weights = []
    for data in (folder, turned):
        run = experiment(prepared, tmp_path / f"runs-{data.name}", *TWO)
        monkeypatch.setattr(type(run), "data_folder", data)
        (made,) = train(run)
        weights.append((made / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_a_run_that_was_stopped_trains_only_what_is_missing_and_ends_in_the_same_weights(
    prepared, tmp_path, monkeypatch, capsys
):
    more = [*TWO, "--training.save_strategy", "steps", "--training.save_steps", "4"]
    whole = experiment(prepared, tmp_path / "whole", *more)
    train(whole)
    assert not (whole.run_folder / "members").exists()
    wanted = (whole.model_folder / "model.safetensors").read_bytes()
    stopped = experiment(prepared, tmp_path / "stopped", *more)

    def stop(*given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "_save", stop)  # after the first member's last step
        with pytest.raises(KeyboardInterrupt):
            train(stopped)
    with monkeypatch.context() as patch:
        patch.setattr(training, "build_trainer", wrapped(training.build_trainer, stop))  # both members are there
        with pytest.raises(KeyboardInterrupt):
            train(stopped)
    assert not (stopped.run_folder / TRAINING_LOG).exists()  # nothing is told of a member
    capsys.readouterr()
    train(stopped)
    assert "member " not in capsys.readouterr().out
    assert (stopped.model_folder / "model.safetensors").read_bytes() == wanted
    assert not (stopped.run_folder / "members").exists()
    origin = stopped.checkpoint_folder / ORIGIN
    origin.write_text(json.dumps(json.loads(origin.read_text()) | {"finished": False}))
    with pytest.raises(InputError, match=r"other settings \(finetuning\.members: 2\)"):
        train(experiment(prepared, tmp_path / "stopped", *more, "--finetuning.members", "3"))


def wrapped(build, stop):
    """Builds the members' trainers; the run's own stops."""

    def built(run, arguments, manifest, words, models=()):
        return stop() if models else build(run, arguments, manifest, words, models)

    return built


def test_other_settings_train_the_members_anew(prepared, tmp_path, kept, capsys):
    train(experiment(prepared, tmp_path, *TWO))
    again = experiment(prepared, tmp_path, *TWO, "--training.learning_rate", "1e-4")
    again.training["resume_from_checkpoint"] = "false"
    capsys.readouterr()
    train(again)
    assert capsys.readouterr().out.count("member ") == 2


def test_report_and_page_say_who_taught(prepared, tmp_path, few_trees):
    asked = experiment(prepared, tmp_path, *TWO, "--seeds", "0", "1")
    train(asked)
    metrics = evaluate(asked)
    assert metrics["training"]["members"] == 2
    assert len(metrics["seeds"]) == 2
    rows, known = len(texts_of(asked)), len(texts_of(asked, Labelled(40)))
    page = write_report(asked.run_folder).read_text()
    for said in (
        "from what 2 models say on average of a user, and",
        "These were trained before it, and had learned from boosting and regression in the same way.",
        f"Of {rows - known} more texts it was told no label, and learned what they say alone.",
        f"From {known} examples:",
    ):
        assert said in page


def test_values_are_learned_on_the_scale_of_the_labels_that_are_known(prepared, tmp_path, kept):
    path = tmp_path / "label.yaml"
    path.write_text("task: {label: {kind: sum, field: amount}}\n")
    learns = ["--data.folder", str(tmp_path / "data"), "--finetuning.teacher", "1", "--training.learning_rate", "0.01"]
    learns += ["--config", str(path), "--finetuning.value_loss", "absolute_error", "--training.max_steps", "60"]
    asked = experiment(prepared, tmp_path / "runs", *TWO, *learns)
    prepare(asked.name, asked.data, asked.task, asked.text)
    (folder,) = train(asked)
    texts = texts_of(asked)
    found, *single = (
        score_texts(*load_classifier(made), texts)
        for made in (folder, *sorted(asked.run_folder.glob("members/*/model")))
    )
    mean = np.mean(single, axis=0)
    assert len(single) == 2
    assert np.abs(found - mean).mean() < 0.3 * mean.mean()  # in the values' own unit
    scale = load_classifier(folder)[0].config.eventscribe["scale"]
    known = read_split(asked.data_folder, "train", Labelled(40), ["label"])["label"].to_numpy()
    assert scale["mean"] == pytest.approx(np.sqrt(known).mean(), rel=1e-3)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--finetuning.teacher", "0"], "finetuning.members without finetuning.teacher; say their share, such as 0.7"),
        (["--finetuning.teacher_model", "MODEL"], "finetuning.members and finetuning.teacher_model would both teach"),
        (["--finetuning.members", "-1"], "finetuning.members"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_anything_is_trained(prepared, trained, tmp_path, more, says):
    more = [str(trained.model_folder) if part == "MODEL" else part for part in more]
    with pytest.raises(InputError) as error:
        train(experiment(prepared, tmp_path, "--finetuning.teacher", "0.7", "--finetuning.members", "2", *more))
    assert says in str(error.value)
    assert not any(tmp_path.iterdir())


def test_rows_without_a_label_learn_what_the_members_say_in_its_place():
    known = np.array([True, False])
    made = EVERYONE.taught(np.array([1, 1]), np.array([0.2, 0.2]), known)
    np.testing.assert_allclose(made[:, 1], [[0, 1], [0.8, 0.2]])
    np.testing.assert_allclose(made[0, 0], made[1, 0])
    tiers = Objective("tiers", ("none", "some", "much")).taught(
        np.array([2, 2]), np.array([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]]), known
    )
    np.testing.assert_allclose(tiers[:, 1], [[0, 0, 1], [0.5, 0.3, 0.2]])
    several = Objective("propensity", ("milk", "bread")).taught(
        np.array([[1, 0], [1, 0]]), np.array([[0.5, 0.1], [0.5, 0.1]]), known
    )
    np.testing.assert_allclose(several[:, 1], [[1, 0], [0.5, 0.1]])
    values = Objective("value", ("value_sum",)).taught(np.array([3.0, 3.0]), np.array([1.0, 1.5]), known)
    np.testing.assert_allclose(values[:, :, 0], [[1, 3], [1.5, 1.5]])
    survival = Objective("survival", ("7 days", "14 days")).taught(
        np.array([[0, 1], [0, 1]]), np.array([[0.2, 0.6], [0.2, 0.6]]), known
    )
    np.testing.assert_allclose(survival[:, 1], [[0, 1], [0.2, 0.5]])  # the hazards: .4 of the .8 that are left


def test_the_module_has_no_members_of_a_run_that_asks_for_none(prepared, tmp_path):
    assert member_runs(experiment(prepared, tmp_path), 90) == []
    members.forget_members(experiment(prepared, tmp_path))  # nothing is there to delete
