"""A federation of one site is plain training; of several, one that is killed leaves the others a model of all."""

import json
import os
import runpy
import signal
from argparse import Namespace
from datetime import datetime
from multiprocessing import Pipe, get_context
from threading import Thread

import pytest
import torch
import yaml
from safetensors.torch import load_file

from data_prep import InputError
from data_prep.prepare import prepare
from data_prep.serializer import EventSerializer
from finetune.evaluation.evaluate import evaluate
from finetune.experiment.parser import changed, parse_experiment
from finetune.federated.federate import federate
from finetune.federated.server import Plan, serve
from finetune.federated.site import Rounds, join
from finetune.report.federated_page import answers, federated_page, table
from finetune.serving.classifier import EventClassifier
from finetune.training.train import train
from tests.commands import ROOT, script_module
from tests.conftest import tiny_config, write_log


def site(folder, name, seed=0, **changes):
    """The config of a site with a log of its own."""
    folder.mkdir()
    write_log(folder / "log.csv", 100 + 30 * seed, seed=seed)
    config = tiny_config(folder) | {"name": name}
    config["pretraining"] = {"max_steps": 0}
    config["training"] |= {"report_to": "none"} | changes
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def weights_of(experiment):
    (path,) = experiment.model_folder.glob("*.safetensors")
    return load_file(path)


@pytest.mark.parametrize("adapter", [False, True], ids=["all weights", "adapter"])
def test_a_federation_of_one_site_is_plain_training_to_the_bit(trained, tmp_path, adapter):
    lora = ["--model.peft", '{"method": "lora", "r": 2, "target_modules": ["query"]}']
    more = ["--model.name_or_path", str(trained.model_folder), *lora] if adapter else []
    # By which nothing is tied: a training looks at the loss of checkpoints whose AUROC is, and a federation does not.
    more += ["--training.metric_for_best_model", "average_precision"]
    experiment = parse_experiment("", ["--config", str(site(tmp_path / "one", "one")), *more])
    here, there = Pipe()
    found = []
    server = Thread(target=lambda: found.append(serve([here], Plan("f", rounds=4))), daemon=True)
    server.start()
    join(there, experiment)
    server.join(30)
    (found,) = found
    plain = changed(experiment, {"name": "plain", "training.eval_steps": 2, "finetuning.patience": 0})
    prepare(plain.name, plain.data, plain.task, plain.text)
    train(plain)
    federated = changed(experiment, {"name": "f-one"})
    for name, weight in weights_of(plain).items():
        assert torch.equal(weights_of(federated)[name], weight), name
    own, shared = (EventSerializer.from_pretrained(run.model_folder) for run in (plain, federated))
    assert {name: of["edges"] for name, of in own.header.items()} == {
        name: of["edges"] for name, of in shared.header.items()
    }
    assert [len(found["history"]), found["left"], list(found["sites"])] == [4, {}, ["one"]]
    log = json.loads((federated.run_folder / "training_log.json").read_text())
    assert found["history"][0]["numbers"] == log["trainable_parameters"]
    assert (log["trainable_parameters"] < log["total_parameters"] / 2) == adapter
    # The alone model validates at other steps, and may have kept another one.
    assert found["sites"]["one"]["models"].keys() == {"model", "alone"}


@pytest.fixture(scope="module")
def federated(tmp_path_factory):
    """Three sites, of which c is killed in the second of four rounds; forked, without the seconds of the imports."""
    folder, on_evaluate = tmp_path_factory.mktemp("federated"), Rounds.on_evaluate

    def killed(self, args, state, control, metrics, **more):
        if "-c/" in args.output_dir and state.global_step == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        on_evaluate(self, args, state, control, metrics, **more)

    configs = [site(folder / name, name, seed) for seed, name in enumerate("abc")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rounds, "on_evaluate", killed)
        patch.setattr("finetune.federated.federate.get_context", lambda _: get_context("fork"))
        found = federate(configs, Plan("f", 4, proximal=0.01, timeout=120), pooled=True)
    runs = [parse_experiment("", ["--config", str(path), "--name", f"f-{path.stem}"]) for path in configs]
    return folder, found, runs


def test_a_site_that_is_killed_is_named_and_the_others_have_one_model(federated):
    folder, found, (a, b, c) = federated
    assert found["left"] == {"c": "it is gone"}
    assert [entry["sites"] for entry in found["history"]] == [["a", "b", "c"], *[["a", "b"]] * 3]
    for name, weight in weights_of(a).items():
        assert torch.equal(weights_of(b)[name], weight), name
    assert not c.model_folder.exists()
    assert all((folder / name / "runs" / f"f-{name}.log").stat().st_size for name in "abc")
    serializers = [EventSerializer.from_pretrained(of.model_folder).to_json() for of in (a, b)]
    assert serializers[0] == serializers[1]


def test_the_model_scores_raw_events_and_is_evaluated_as_any_other(federated):
    _, found, (a, b, _) = federated
    scores = [
        EventClassifier.from_pretrained(of.model_folder).predict(b.data, datetime(2024, 4, 1))["score"].to_pylist()
        for of in (a, b)
    ]
    assert scores[0] == scores[1]
    run = parse_experiment("", ["--config", str(a.run_folder / "config.yaml")])
    metrics = evaluate(run)
    assert metrics["test"]["auroc"] == pytest.approx(found["sites"]["a"]["models"]["model"]["value"], abs=1e-9)


def test_each_site_is_measured_beside_its_own_model_and_the_pooled_one(federated):
    _, found, _ = federated
    assert list(found["sites"]) == ["a", "b"]
    for figures in found["sites"].values():
        assert figures["models"].keys() == {"model", "alone", "pooled"}
        for name in ("alone", "pooled"):
            of, model = figures["models"][name], figures["models"]["model"]
            assert of["difference"] == pytest.approx(model["value"] - of["value"])
            assert of["difference_interval"][0] <= of["difference"] <= of["difference_interval"][1]
    lines = table(found).splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["a", "b"]
    assert "pooled" in lines[0]


def test_the_page_says_who_gains_and_who_has_left(federated):
    found = json.loads(json.dumps(federated[1], allow_nan=False))
    page = federated_page(found | {"federated": "<img src=x onerror=alert(1)>"})
    assert "<img src=x" not in page
    assert "c has left: it is gone" in page
    assert "FedProx (0.01)" in page
    assert "://" not in page.replace("http://www.w3.org", "")
    for site_figures in found["sites"].values():
        site_figures["models"]["alone"]["difference_interval"] = [0.01, 0.02]
    assert answers(found)["alone"] == "The federated model is ahead of the site alone at a and b."


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["--pretraining.max_steps", "3"], "pretraining is not federated"),
        (["--training.max_steps", "9"], "training.max_steps is 9, of which 4 rounds do not have the same number each"),
        (["--seeds", "0", "1"], "a federation trains one model"),
        (["--finetuning.privacy", "{epsilon: 8}"], "private steps are not federated yet"),
        (["--finetuning.members", "2", "--finetuning.teacher", "0.7"], "each site would be taught by its own"),
        (["--task.label", "{kind: count, where: true, horizon: 14 days}"], "has a scale or classes of each site's own"),
        (["--name", "same"], "the sites are called same, same"),
    ],
)
def test_what_cannot_be_federated_is_refused_before_any_work(tmp_path, settings, said):
    configs = [site(tmp_path / name, name) for name in "ab"]
    with pytest.raises(InputError, match=said):
        federate(configs, Plan("f", 4), settings)
    assert not (tmp_path / "a" / "runs").exists()
    assert not (tmp_path / "a" / "data").exists()


@pytest.mark.parametrize(
    "given",
    ["--timeout inf", "--timeout 3000000", "--timeout nan", "--norm_bound nan", "--norm_bound inf", "--proximal nan"],
)
def test_the_command_refuses_numbers_that_nothing_can_be_bound_by(monkeypatch, capsys, given):
    monkeypatch.setattr("sys.argv", ["federate.py", "--sites", "a.yaml", "--name", "f", *given.split()])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "scripts" / "federate.py"), run_name="__main__")
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert given.split()[0] in said
    assert "to 1,000,000" in said


def test_the_command_refuses_a_page_that_is_something_else(tmp_path):
    (tmp_path / "out.json").write_text("[]")
    (tmp_path / "report.html").write_text("of a run")
    plan = {"name": "f", "rounds": 4, "proximal": 0.0, "norm_bound": 5.0, "timeout": 9.0}
    for page, replaced in (("out.html", "out.json"), ("report.html", "report.html")):
        given = Namespace(**plan, join=None, output=tmp_path / page, sites=[], settings=[])
        with pytest.raises(InputError, match=f"would replace .*{replaced}"):
            script_module("federate").run(given)
