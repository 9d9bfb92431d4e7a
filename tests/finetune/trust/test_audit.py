"""The audit finds the leak of a recipe that learns few users by heart, and none where it has epsilon 1."""

import json

import pytest

from data_prep import InputError
from finetune.experiment.parser import parse_experiment
from finetune.report.audit_page import answers, audit_page
from finetune.training import private_trainer
from finetune.trust.audit import audit
from tests.commands import script_module

BY_HEART = {
    "pretraining.max_steps": 0,
    "training.max_steps": 150,
    "training.learning_rate": 3e-3,
    "training.per_device_train_batch_size": 32,
    "training.weight_decay": 0,
    "training.eval_strategy": "no",
    "training.load_best_model_at_end": "false",
    "training.save_strategy": "no",
    "training.report_to": "none",
    "model.from_scratch": "{hidden_size: 64, layers: 1, heads: 2, dropout: 0}",
}


def recipe(prepared, **changes):
    given = [str(part) for name, value in (BY_HEART | changes).items() for part in (f"--{name}", value)]
    return parse_experiment("", ["--config", str(prepared), *given])


@pytest.fixture(scope="module")
def leaky(prepared, tmp_path_factory):
    return audit(
        recipe(prepared, **{"finetuning.max_train_examples": 100}),
        tmp_path_factory.mktemp("leaky"),
        shadows=2,
        canaries=100,
    )


@pytest.fixture(scope="module")
def private(prepared, tmp_path_factory):
    """The leaky recipe and nothing changed but epsilon."""
    settings = {
        "finetuning.max_train_examples": 100,
        "finetuning.privacy": "{epsilon: 1, delta: 1e-5, examples: 2, schema: learned}",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(private_trainer, "new_secret", lambda: 1)
        return audit(recipe(prepared, **settings), tmp_path_factory.mktemp("private"), shadows=0, canaries=100)


def test_a_model_of_few_users_that_was_trained_for_long_leaks(leaky):
    canaries = leaky["attacks"]["canaries"]
    for attack in ("loss", "likelihood_ratio"):
        # A canary's label is a coin, which a model that never saw her is right about in one of two cases.
        assert canaries[attack]["auroc_interval"][0] > 0.55
        assert canaries[attack]["epsilon_lower_bound"] > 0
    assert max(attack["epsilon_lower_bound"] for attack in canaries.values()) > 0.2
    assert answers(leaky)["headline"].startswith("There is a leak")


def test_the_same_recipe_with_epsilon_1_leaks_nothing_that_the_attack_by_loss_finds(private):
    for each in private["attacks"].values():
        assert each.keys() == {"loss"}
        assert each["loss"]["epsilon_lower_bound"] <= 1
        assert each["loss"]["auroc_interval"][0] < 0.55
    assert private["privacy"] == {"epsilon": 1, "delta": 1e-5}
    assert answers(private)["headline"] == "These attacks found no leak."


def test_a_bound_that_is_barely_above_nothing_is_called_small(leaky):
    small = json.loads(json.dumps(leaky))
    for each in small["attacks"].values():
        for attack in each.values():
            attack["epsilon_lower_bound"] = min(attack["epsilon_lower_bound"], 0.05)
    assert answers(small)["headline"].startswith("There is a small leak: the attacks guess a little better than a coin")


def test_the_page_says_so_and_escapes_what_a_config_says(leaky, private):
    page = audit_page(leaky | {"question": "<img src=x onerror=alert(1)>"})
    assert "<img src=x" not in page
    assert page.count("<figure>") == 2
    assert "://" not in page.replace("http://www.w3.org", "")
    over = json.loads(json.dumps(leaky)) | {"privacy": {"epsilon": 0.1, "delta": 1e-5}}
    assert "know more than the stated epsilon allows" in audit_page(over)
    assert "found no leak" in audit_page(private)


def test_what_cannot_be_audited_is_refused_in_a_sentence(prepared, tmp_path):
    with pytest.raises(InputError, match=r"an audit is of one model; leave --seeds out"):
        audit(recipe(prepared, seeds="[0, 1]"), tmp_path)
    with pytest.raises(InputError, match=r"--shadows is 1, of which no mean is known"):
        audit(recipe(prepared), tmp_path, shadows=1)
    with pytest.raises(InputError, match=r"training has 10 users, of whom half would be in"):
        audit(recipe(prepared, **{"finetuning.labelled_users": 10}), tmp_path, shadows=0, canaries=0)
    assert not list(tmp_path.iterdir())


def test_the_command_leaves_a_page_and_its_figures_alone(prepared, tmp_path, monkeypatch, leaky):
    from argparse import Namespace

    monkeypatch.setattr("finetune.trust.audit.audit", lambda *given: leaky)
    output = tmp_path / "audit.html"
    given = Namespace(config=prepared, shadows=2, canaries=60, seed=0, settings=["--training.max_steps", "3"])
    script_module("audit").run(Namespace(**vars(given), output=output))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["audit.html", "audit.json"]
    assert json.loads((tmp_path / "audit.json").read_text())["audit"] == "tiny"
    (tmp_path / "audit.json").write_text("[]")
    with pytest.raises(InputError, match=r"would replace .*audit.json"):
        script_module("audit").run(Namespace(**vars(given), output=output))
    (tmp_path / "audit.json").unlink()  # what is left may be the report of a run
    with pytest.raises(InputError, match=r"would replace .*audit.html"):
        script_module("audit").run(Namespace(**vars(given), output=output))
