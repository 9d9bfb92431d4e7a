from collections.abc import Callable, Iterator
from functools import cache

import pytest

import finetune.parser
from data_prep.prepare import prepare
from tests.configs.facts import CONFIGS, KNOWN, Facts, visits
from tests.configs.small_logs import WRITERS


@pytest.fixture(scope="session")
def known(tmp_path_factory) -> Iterator[Callable[[Facts], tuple]]:
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
        experiment = finetune.parser.parse_experiment("", given)
        return made, experiment, prepare(experiment.name, experiment.data, experiment.task, experiment.text)

    with pytest.MonkeyPatch.context() as patch:  # the parser is the same for all, and slow to build
        patch.setattr(finetune.parser, "build_parser", cache(finetune.parser.build_parser))
        yield lambda facts: prepared(facts.config, facts.log)
