"""One renewal for all of these tests: a tiny model of spring, and its successor two weeks later."""

from types import SimpleNamespace

import pytest

from finetune.experiment.parser import parse_experiment
from tests.finetune.conftest import in_own_folder
from tests.finetune.hub.conftest import double, hub

__all__ = ["double", "hub"]  # fixtures

SHIFT = "14 days"


@pytest.fixture(scope="session")
def spring(evaluated, tmp_path_factory):
    """An evaluated run in a folder of its own, beside which its successors lie."""
    return in_own_folder(evaluated, tmp_path_factory.mktemp("upkeep"))


@pytest.fixture(scope="session")
def settings(prepared, spring):
    """Of the successor: those of the model, in its folder of runs, under another name."""

    def settings(name: str, *more: str):
        given = ["--config", str(prepared), "--runs.folder", spring.runs.folder, "--name", name]
        return parse_experiment("", [*given, "--pretraining.max_steps", "0", *more])

    return settings


@pytest.fixture(scope="session")
def renewed(spring, settings):
    """The entry of the registry, and the experiment of the successor."""
    from finetune.upkeep.registry import roll_back
    from finetune.upkeep.renew import renew

    entry = renew(spring.model_folder, settings("summer"), SHIFT)
    if entry["action"] == "promoted":  # which is chance of a tiny model; the other tests renew the same one again
        roll_back(settings("summer").model_folder)
    return SimpleNamespace(entry=entry, run=settings("summer"))
