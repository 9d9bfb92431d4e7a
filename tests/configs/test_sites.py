"""The three sites of one federation ask the same of other households."""

from data_prep.config import settings_of
from finetune.experiment.parser import parse_experiment
from tests.commands import ROOT

SITES = ("north", "middle", "south")


def test_the_sites_differ_in_name_and_households_alone():
    made = [parse_experiment("", ["--config", str(ROOT / "configs" / "sites" / f"{site}.yaml")]) for site in SITES]
    assert [one.name for one in made] == [*SITES]
    for part in ("task", "text", "model", "finetuning"):
        assert len({str(settings_of(getattr(one, part))) for one in made}) == 1
    assert len({str(one.training) for one in made}) == 1
    told = [[source["sql"] for source in settings_of(one.data)["sources"]] for one in made]
    groups = ("< 340", "BETWEEN 340 AND 399", ">= 400")
    for queries, group in zip(told, groups, strict=True):
        assert all(query.count(group) == 1 for query in queries)
    plain = [[query.replace(group, "") for query in queries] for queries, group in zip(told, groups, strict=True)]
    assert plain[0] == plain[1] == plain[2]
