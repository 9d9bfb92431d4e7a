"""finetuning.labelled_users: who learns from whose labels."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from data_prep import InputError
from data_prep.prepared import Labelled, labelled_users, read_split
from finetune.baselines import fit
from finetune.evaluation.evaluate import evaluate
from finetune.experiment.parser import parse_experiment
from finetune.training import teacher
from finetune.training.pretrain import pretrain
from finetune.training.train import train

FEW = ["--finetuning.labelled_users", "40"]


def experiment(config: Path, runs: Path, *arguments: str):
    return parse_experiment("", ["--config", str(config), "--runs.folder", str(runs), *arguments])


@pytest.fixture
def folder(prepared) -> Path:
    return experiment(prepared, prepared.parent).data_folder


def test_the_same_users_are_labelled_in_each_split_and_another_draw_has_others(folder):
    everyone = set(read_split(folder, "train", None, ["user_id"])["user_id"].to_pylist())
    drawn = set(labelled_users(folder, Labelled(40)).to_pylist())
    assert len(drawn) == 40
    assert drawn < everyone
    for split in ("train", "validation"):
        whole = pq.read_table(folder / f"{split}.parquet", columns=["user_id", "text", "label"])
        expected = whole.filter(pc.is_in(whole["user_id"], pa.array(drawn)))
        assert read_split(folder, split, Labelled(40), ["text", "label"]).equals(expected.select(["text", "label"]))
    assert read_split(folder, "train", Labelled(40, rows=7), ["label"]).num_rows == 7
    assert drawn == set(labelled_users(folder, Labelled(40)).to_pylist())
    assert drawn > set(labelled_users(folder, Labelled(20)).to_pylist())  # more labels are added to the same ones
    assert drawn != set(labelled_users(folder, Labelled(40, draw=1)).to_pylist())


def test_model_teacher_and_baselines_see_the_same_rows_and_test_is_whole(prepared, folder, tmp_path, monkeypatch):
    """All other labels are turned around, which changes nothing."""
    found = []
    turned = tmp_path / "turned"
    turned.mkdir()
    users = labelled_users(folder, Labelled(40))
    for name in ("manifest.json", "serializer.json", "test.parquet", "unlabelled.parquet"):
        (turned / name).write_bytes((folder / name).read_bytes())
    for split in ("train", "validation"):
        table = pq.read_table(folder / f"{split}.parquet")
        labels, known = table["label"].to_numpy(), pc.is_in(table["user_id"], users).to_numpy()
        changed = np.where(known, labels, 1 - labels)
        place = table.schema.get_field_index("label")
        pq.write_table(
            table.set_column(place, "label", pa.array(changed, table.schema.field(place).type)),
            turned / f"{split}.parquet",
        )
    monkeypatch.setattr(teacher, "POINTS", [{"learning_rate": 0.2, "max_leaf_nodes": 5, "min_samples_leaf": 5}])
    monkeypatch.setattr(fit, "BOOSTING_GRID", fit.BOOSTING_GRID[:1])
    for data in (folder, turned):
        runs = tmp_path / f"runs-{data.name}"
        asked = experiment(prepared, runs, *FEW, "--finetuning.teacher", "0.5", "--pretraining.max_steps", "0")
        monkeypatch.setattr(type(asked), "data_folder", data)
        train(asked)
        metrics = evaluate(asked)
        found.append({key: metrics[key] for key in ("validation", "test", "verdict")})
    assert found[0] == found[1]
    rows = read_split(folder, "validation", Labelled(40), ["label"]).num_rows
    assert found[0]["validation"]["rows"] == rows
    assert metrics["made"]["splits"]["train"] == read_split(folder, "train", Labelled(40), ["label"]).num_rows
    assert found[0]["test"]["rows"] == pq.read_metadata(folder / "test.parquet").num_rows
    assert found[0]["verdict"].startswith("Model and baselines learned from the labels of 40 users alone. ")


def test_pretraining_reads_all_texts_and_serves_any_number_of_labels(prepared, tmp_path, capsys):
    made = pretrain(experiment(prepared, tmp_path))
    before = (made / "model.safetensors").read_bytes()
    asked = experiment(prepared, tmp_path, *FEW)
    assert pretrain(asked) == made
    assert "is there already, made with the same settings" in capsys.readouterr().out
    train(asked)
    assert (made / "model.safetensors").read_bytes() == before
    log = json.loads((made / "pretraining_log.json").read_text())
    splits = [pq.read_metadata(asked.data_folder / f"{split}.parquet").num_rows for split in ("train", "unlabelled")]
    assert log["examples"] == sum(splits)


def test_a_run_with_few_labels_that_was_stopped_continues_to_the_same_weights(prepared, tmp_path, commands, capsys):
    more = [*FEW, "--pretraining.max_steps", "0", "--training.save_strategy", "steps", "--training.save_steps", "4"]
    whole = experiment(prepared, tmp_path / "whole", *more)
    train(whole)
    origin = whole.run_folder / "checkpoints" / "origin.json"
    stopped = experiment(prepared, tmp_path / "stopped", *more)
    (stopped.run_folder / "checkpoints").mkdir(parents=True)
    first = whole.run_folder / "checkpoints" / "checkpoint-4"
    first.rename(stopped.run_folder / "checkpoints" / "checkpoint-4")
    said = json.loads(origin.read_text()) | {"finished": False}
    (stopped.run_folder / "checkpoints" / "origin.json").write_text(json.dumps(said))
    with pytest.raises(InputError, match=r"other settings \(finetuning.labelled_users: 40\)"):
        train(experiment(prepared, tmp_path / "stopped", *more, "--finetuning.labelled_users", "30"))
    train(stopped)
    assert "continuing from" in capsys.readouterr().out
    weights = [(run.model_folder / "model.safetensors").read_bytes() for run in (whole, stopped)]
    assert weights[0] == weights[1]


def test_a_model_of_all_labels_is_not_compared_with_baselines_of_few(prepared, trained):
    asked = experiment(prepared, trained.base_folder.parent, *FEW, "--pretraining.max_steps", "0")
    with pytest.raises(InputError, match=r"was trained with other settings \(finetuning.labelled_users: None\)"):
        evaluate(asked)


@pytest.mark.parametrize(
    ("users", "said"),
    [
        ("1000", r"finetuning.labelled_users is 1,000, and training has \d+ users; lower it, or leave it out to take"),
        ("1", r"finetuning.labelled_users 1: of these users' train labels all \d+ are [01]; raise it, or draw others"),
    ],
)
def test_too_few_users_and_labels_of_one_class_are_refused(prepared, tmp_path, users, said):
    more = ["--pretraining.max_steps", "0", "--finetuning.labelled_users", users]
    with pytest.raises(InputError, match=said):
        train(experiment(prepared, tmp_path, *more))
