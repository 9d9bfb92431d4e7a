import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from finetune.config import RunsConfig


@pytest.fixture(scope="session", autouse=True)
def boosting_of_few_trees(few_trees):
    """For all of these tests."""


def in_own_folder(experiment, folder: Path):
    """A copy of an evaluated run, beside which others may be put."""
    shutil.copytree(experiment.run_folder, folder / experiment.name)
    return replace(experiment, runs=RunsConfig(str(folder)))
