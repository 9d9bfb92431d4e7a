from collections.abc import Callable
from functools import cache

import pytest

from data_prep.prepare import prepare
from finetune.experiment.parser import parse_experiment
from tests.configs.facts import CONFIGS, KNOWN, Facts, visits
from tests.configs.small_logs import WRITERS


@pytest.fixture(scope="session")
def known(tmp_path_factory) -> Callable[[Facts], tuple]:
    """The log of some facts, the experiment that its config describes there, and what it prepares; each made once."""

    @cache
    def log(name: str):
        facts = next(facts for facts in KNOWN if facts.log == name)
        return WRITERS[name](visits(facts), tmp_path_factory.mktemp(name))

    @cache
    def prepared(config: str, name: str) -> tuple:
        made, folder = log(name), tmp_path_factory.mktemp("prepared")
        variables = [part for key, path in made.variables.items() for part in (f"--data.variables.{key}", path)]
        given = ["--config", str(CONFIGS / f"{config}.yaml"), *variables, "--data.folder", str(folder)]
        experiment = parse_experiment("", given)
        return made, experiment, prepare(experiment.name, experiment.data, experiment.task, experiment.text)

    return lambda facts: prepared(facts.config, facts.log)
