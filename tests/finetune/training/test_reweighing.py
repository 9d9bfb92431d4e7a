"""finetuning.reweigh: a group and the label are independent in what is learned."""

import json
from collections import Counter

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from torch.nn import functional

from data_prep import InputError
from data_prep.prepared import read_split
from finetune.model.objective import mean_cross_entropy
from finetune.training.reweighing import independent_weights
from finetune.training.train import train
from tests.finetune.training.tiny_runs import experiment

ALONE = ["--pretraining.max_steps", "0"]


def test_the_weights_are_those_of_the_papers_example():
    """Kamiran and Calders, 2012, table 1: ten applicants, of five women two are accepted and of five men four."""
    women, accepted = np.array([1] * 5 + [0] * 5), np.array([1, 1, 0, 0, 0, 1, 1, 1, 1, 0])
    counts, weights = independent_weights(women, accepted, 2)
    assert counts.tolist() == [[1, 4], [3, 2]]
    np.testing.assert_allclose(weights, [[2, 0.75], [0.2 / 0.3, 1.5]])


@hypothesis.given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=200))
def test_weighted_rows_keep_the_size_of_each_group_and_class_and_make_them_independent(rows):
    every = [(group, label) for group in range(4) for label in range(3)]
    group, label = np.array([*rows, *every]).T  # so that none lacks a class
    _, weights = independent_weights(group, label, 3)
    share = np.zeros((4, 3))
    np.add.at(share, (group, label), weights[group, label] / len(group))
    of_group, of_class = np.bincount(group) / len(group), np.bincount(label) / len(group)
    np.testing.assert_allclose(share, np.outer(of_group, of_class))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_the_weighted_mean_of_the_rows_losses(smoothing):
    random = np.random.default_rng(0)
    logits, labels, weights = random.normal(size=(6, 3)), random.integers(0, 3, 6), random.uniform(0.2, 3, 6)
    targets = torch.tensor(np.eye(3)[labels] * weights[:, None])
    found = mean_cross_entropy({"logits": torch.tensor(logits)}, targets, torch.tensor(18), smoothing)
    alone = functional.cross_entropy(
        torch.tensor(logits), torch.tensor(labels), reduction="none", label_smoothing=smoothing
    )
    assert found.item() == pytest.approx((alone.numpy() * weights).sum() / 6)


def test_what_is_learned_of_reweighed_rows_says_the_same_of_both_groups():
    random = np.random.default_rng(0)
    group = random.integers(0, 2, 4_000)
    labels = (random.random(4_000) < np.where(group == 1, 0.7, 0.2)).astype(int)
    _, weights = independent_weights(group, labels, 2)
    found = {}
    for name, targets in (
        ("plain", np.eye(2)[labels]),
        ("reweighed", np.eye(2)[labels] * weights[group, labels][:, None]),
    ):
        of_group = torch.zeros(2, 2, requires_grad=True)
        optimizer = torch.optim.LBFGS([of_group], max_iter=50)

        def loss(of_group=of_group, optimizer=optimizer, targets=targets):
            optimizer.zero_grad()
            total = mean_cross_entropy({"logits": of_group[group]}, torch.tensor(targets), torch.tensor(8_000))
            total.backward()
            return total

        optimizer.step(loss)
        found[name] = torch.softmax(of_group.detach(), 1)[:, 1].numpy()
    assert found["plain"][1] - found["plain"][0] > 0.4
    np.testing.assert_allclose(found["reweighed"], labels.mean(), atol=1e-3)


def test_a_training_weighs_its_rows_and_its_log_says_how(prepared, tmp_path, capsys):
    arguments = [*ALONE, "--finetuning.reweigh", "tenure_days < 25"]
    plain, asked = (
        experiment(prepared, tmp_path / "plain", *ALONE),
        experiment(prepared, tmp_path / "asked", *arguments),
    )
    for run in (plain, asked):
        train(run)
    assert "reweighing: 2 groups of tenure_days < 25" in capsys.readouterr().out
    log = json.loads((asked.run_folder / "training_log.json").read_text())["reweigh"]
    rows = read_split(asked.data_folder, "train", None, ["tenure_days", "label"]).to_pylist()
    counts = Counter(("yes" if row["tenure_days"] < 25 else "no", ["no_churn", "churn"][row["label"]]) for row in rows)
    assert {(part["group"], part["class"]): part["rows"] for part in log["weights"]} == dict(counts)
    for part in log["weights"]:
        of_group = sum(n for (group, _), n in counts.items() if group == part["group"])
        of_class = sum(n for (_, name), n in counts.items() if name == part["class"])
        assert part["weight"] == pytest.approx(of_group * of_class / len(rows) / part["rows"])
    weights = [(run.model_folder / "model.safetensors").read_bytes() for run in (plain, asked)]
    assert weights[0] != weights[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--finetuning.teacher", "0.7"], "has little effect beside a teacher"),
        (
            ["--task.label", "{kind: sum, field: amount, where: event_type = 'purchase', horizon: 14 days}"],
            "a value label has no classes to be independent of",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_any_work(prepared, tmp_path, arguments, said):
    with pytest.raises(InputError, match=said):
        train(experiment(prepared, tmp_path, *ALONE, "--finetuning.reweigh", "shop", *arguments))
    assert not (tmp_path / "tiny").exists()


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        (
            "country",
            r"finetuning\.reweigh: country: .*use user_id, cutoff, the log's columns \(event_type, amount, shop\)",
        ),
        (
            "event_type <> 'never'",
            "gives all .* training rows the group yes; give an expression that tells groups apart",
        ),
    ],
)
def test_an_expression_that_gives_no_groups_is_refused(prepared, tmp_path, sql, said):
    with pytest.raises(InputError, match=said):
        train(experiment(prepared, tmp_path, *ALONE, "--finetuning.reweigh", sql))
