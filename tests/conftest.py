"""Shared by all tests: no network, no caches outside of the test's folder, a tiny log and a tiny experiment."""

import gc
import os
import shutil
from dataclasses import replace

# One thread: tiny models gain nothing from a second one, and lose much where another process holds it.
os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
# What finetune.command.guarded sets, before transformers is imported, which reads it then.
os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

from pathlib import Path

import hypothesis
import numpy as np
import pytest
import yaml
from hypothesis.configuration import set_hypothesis_home_dir

from tests.commands import POINTS, TREES, command_server
from tests.spark import LOCAL

hypothesis.settings.register_profile("leaves nothing behind", database=None, deadline=None)  # no time is asserted
hypothesis.settings.load_profile("leaves nothing behind")


def pytest_collection_modifyitems(items):
    """A module's tests run in one worker, or each worker would make what they share."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


def pytest_collection_finish():
    """What the imported libraries hold stays: no collection, of which each training makes one, looks at it again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """A skipped test fails where NO_SKIPS is set, as .ci/run does: what the test needs could not be installed."""
    report = yield
    if report.skipped and "NO_SKIPS" in os.environ and not item.get_closest_marker("gpu"):
        reason = report.longrepr[-1]
        report.outcome, report.longrepr = "failed", f"NO_SKIPS is set, but this test was skipped. {reason}"
    return report


@pytest.fixture(scope="session", autouse=True)
def caches_in_a_temporary_folder(tmp_path_factory):
    """Whatever a library caches is gone after the tests."""
    os.environ["HF_HOME"] = str(tmp_path_factory.mktemp("hf"))
    set_hypothesis_home_dir(tmp_path_factory.mktemp("hypothesis"))


def write_log(path: Path, users: int = 150, days: int = 120, seed: int = 0) -> Path:
    """A CSV log of users with steady but different rates of purchase; a third of them stops for good at some day."""
    random = np.random.default_rng(seed)
    rows = ["user,time,what,amount,shop"]
    for user in range(users):
        gap = random.uniform(2, 12)
        end = random.uniform(20, days) if random.random() < 0.35 else days
        day = random.uniform(0, gap)
        while day < end:
            moment = np.datetime64("2024-01-01T00:00:00") + np.timedelta64(int(day * 86400), "s")
            what = "view" if random.random() < 0.3 else "purchase"
            amount = f"{random.gamma(2, 10):.2f}" if what == "purchase" else ""
            rows.append(f"u{user},{str(moment).replace('T', ' ')},{what},{amount},{random.choice(['north', 'south'])}")
            day += random.exponential(gap)
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def tiny_config(folder: Path) -> dict:
    """An experiment on write_log's log that runs in seconds."""
    return {
        "name": "tiny",
        "data": {
            "folder": str(folder / "data"),
            "sources": [
                {
                    "path": str(folder / "log.csv"),
                    "columns": {
                        "user_id": "user",
                        "event_time": "time",
                        "event_type": "what",
                        "amount": "amount",
                        "shop": "shop",
                    },
                }
            ],
        },
        "task": {
            "label": {"kind": "absent", "where": "event_type = 'purchase'", "horizon": "14 days"},
            "population": {"within": "28 days"},
            "cutoffs": {
                "train": {"first": "2024-01-29", "last": "2024-02-19", "every": "7 days"},
                "validation": ["2024-03-04"],
                "test": ["2024-03-18", "2024-04-01"],
            },
        },
        "text": {"fields": {"event_type": {"top": 5}, "amount": {"bins": 4}, "shop": {"top": 5}}, "max_events": 5},
        "model": {"from_scratch": {"hidden_size": 16, "layers": 1, "heads": 2}, "max_tokens": 64},
        "pretraining": {"max_steps": 4},
        "training": {
            "max_steps": 8,
            "eval_steps": 4,
            "logging_steps": 1,
            "per_device_train_batch_size": 16,
            "use_cpu": True,
        },
        "runs": {"folder": str(folder / "runs")},
        "evaluation": {"bootstrap": 50},
    }


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The YAML of a tiny experiment, beside its log."""
    write_log(tmp_path / "log.csv")
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_config(tmp_path)), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def commands(tmp_path_factory):
    """Starts scripts in processes of their own, without the seconds that importing torch takes each of them."""
    with command_server(tmp_path_factory.mktemp("commands")) as commands:
        yield commands


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Path:
    """The YAML of a tiny experiment whose data is prepared; its runs are shared, so give each test's its own folder."""
    from data_prep.prepare import prepare
    from finetune.experiment.parser import parse_experiment

    folder = tmp_path_factory.mktemp("prepared")
    write_log(folder / "log.csv")
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_config(folder)), encoding="utf-8")
    experiment = parse_experiment("", ["--config", str(path)])
    prepare(experiment.name, experiment.data, experiment.task, experiment.text)
    return path


@pytest.fixture(scope="session")
def trained(prepared, tmp_path_factory):
    """The experiment of a tiny model that was trained on `prepared`; its run folder is shared, so only read it."""
    from finetune.experiment.parser import parse_experiment
    from finetune.training.train import train

    folder = tmp_path_factory.mktemp("trained")
    arguments = ["--config", str(prepared), "--runs.folder", str(folder), "--pretraining.max_steps", "0"]
    experiment = parse_experiment("", arguments)
    train(experiment)
    return experiment


@pytest.fixture(scope="session")
def few_trees():
    """Boosting grows 50 trees instead of 300, at two points of its grid, so that the tests are fast."""
    from finetune.baselines import estimators, fit, pairs

    with pytest.MonkeyPatch.context() as patch:
        for module in (estimators, pairs):
            patch.setattr(module, "MAX_TREES", TREES)
        for grid in ("BOOSTING_GRID", "VALUE_BOOSTING_GRID"):
            patch.setattr(fit, grid, getattr(fit, grid)[POINTS])
        yield


@pytest.fixture(scope="session")
def evaluated(trained, few_trees, tmp_path_factory):
    """The same, evaluated and with its report; only read it, too."""
    from finetune.evaluation.evaluate import evaluate
    from finetune.hub.model_card import write_model_card
    from finetune.report.report import write_report

    folder = tmp_path_factory.mktemp("evaluated")
    experiment = replace(trained, runs=replace(trained.runs, folder=str(folder)))
    shutil.copytree(trained.run_folder, experiment.run_folder)
    evaluate(experiment)
    write_model_card(experiment.run_folder)
    write_report(experiment.run_folder)
    return experiment


@pytest.fixture(scope="session")
def spark():
    """One Spark for all tests, as it takes seconds to start; they are in the group `Spark` of pytest-xdist."""
    from data_prep.spark import spark_session

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]))
        patch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
        patch.setenv("SHOP_KEY", "a key of more than sixteen letters")  # executors have the environment of their start
        with spark_session(LOCAL):
            yield LOCAL
