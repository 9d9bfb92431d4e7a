"""Runs of each task with and without what is optional."""

from functools import cache
from pathlib import Path

import pytest

from finetune.report.report import write_report
from tests.finetune.report.made_runs import make_run


@pytest.fixture(scope="session")
def full(tmp_path_factory):
    """A function that gives the folder of a run of a task, with every part of the page and its report; only read it."""

    @cache
    def written(task: str) -> Path:
        folder = make_run(tmp_path_factory.mktemp("full") / task, task)
        write_report(folder)
        return folder

    return written


@pytest.fixture
def bare(tmp_path: Path):
    """A function that makes a run of a task with nothing that is optional."""
    return lambda task: make_run(tmp_path / task, task, bare=True)
