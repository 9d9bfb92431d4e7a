import json

import pytest

from data_prep import InputError
from data_prep.serializer import EventSerializer
from finetune.hub.redaction import (
    FEWEST_USERS,
    hub_name,
    public_config,
    public_manifest,
    public_metrics,
    public_task,
    refuse_private,
)

LOG = {"first": "2024-01-01 03:14:15", "last": "2024-04-29 02:07:18", "events": 7}
DAYS = {"first": "2024-01-01", "last": "2024-04-29", "events": 7}


def metrics(*users: int) -> dict:
    """Of groups with so many users each, and of one that was too small to be measured."""
    groups = [{"value": f"group {n}", "users": n} for n in users]
    slices = {"shop": {"groups": groups, "too_small": [{"value": "a hermit"}], "gaps": {"calibration": 0.1}}}
    made = {"log": LOG, "evaluation": {"folder": "/home/me"}, "date": "2024-05-01"}
    return {
        "slices": slices,
        "profit": {"contact": 1.0},
        "curves": {"medians": {}},
        "contact": {"total": 1.0},
        "group_thresholds": {"by": "shop"},
        "training": {"steps": 7, "reweigh": {"by": "shop"}},
        "test": {"mae": 1.0},
        "made": made,
    }


def test_published_metrics_have_no_small_group_no_money_no_curve_and_nothing_of_this_machine():
    given = metrics(FEWEST_USERS, FEWEST_USERS - 1)
    before = json.dumps(given)
    assert public_metrics(given) == {
        "slices": {
            "shop": {
                "groups": [{"value": "group 5", "users": 5}],
                "too_small": 2,
                "gaps": {"calibration": None},  # one to the hidden group would tell of it
            }
        },
        "profit": None,
        "training": {"steps": 7},
        "test": {"mae": 1.0},
        "made": {"log": DAYS, "date": "2024-05-01"},
    }
    assert json.dumps(given) == before  # a copy is cut, not the figures themselves


def test_gaps_are_published_where_every_group_is():
    assert public_metrics(metrics(FEWEST_USERS, 80))["slices"]["shop"]["gaps"] == {"calibration": 0.1}


def test_tenths_of_values_are_published_where_each_stands_for_enough_users():
    for rows, shown in ((2 * FEWEST_USERS, True), (2 * FEWEST_USERS - 1, False)):
        tenths = [{"rows": rows + at, "predicted": 9.0 - at, "real": 8.0} for at in range(10)]
        test = {"mae": 1.0, "cutoffs": ["2024-03-01", "2024-04-01"], "deciles": tenths}
        assert public_metrics(metrics(7) | {"test": test})["test"] == test | {"deciles": tenths if shown else []}


def test_a_log_begins_and_ends_by_day_in_what_is_published():
    assert public_task({"name": "n", "log": LOG}) == {"name": "n", "log": DAYS}
    private = {"key": "mark", "files": ["/logs/a.csv"], "warnings": ["row 7"], "seconds": 1.0}
    config = {"data": {"folder": "/home/me"}, "task": {"a": 1}, "text": {"b": 2, "schema": "/home/me/data"}}
    assert public_manifest(private | {"config": config, "log": LOG, "splits": {}}) == {
        "config": {"task": {"a": 1}, "text": {"b": 2}},
        "log": DAYS,
        "splits": {},
    }


def test_a_config_does_not_say_where_it_was_loaded_from():
    assert public_config({"_name_or_path": "/home/me/base", "is_local": True, "hidden_size": 16}) == {"hidden_size": 16}


def test_a_base_is_named_only_if_it_is_the_hubs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me").mkdir()
    (tmp_path / "me" / "mine").mkdir()
    names = ["google-bert/bert-base-uncased", "me/mine", str(tmp_path), "", None]
    assert [hub_name(name) for name in names] == ["google-bert/bert-base-uncased", None, None, None, None]


@pytest.mark.parametrize(
    ("part", "where", "rows", "named"),
    [
        ("label", "true", {"toys": 100, "a whim": FEWEST_USERS - 1}, "the class 'a whim' stands for fewer than 5"),
        ("population", "USER_ID <> 'u7'", {"toys": 100}, r"task\.population\.where names user_id"),
        ("label", "x = 1", {"toys": 100, "never": 0}, None),
    ],
)
def test_a_task_that_tells_of_single_users_is_refused(trained, part, where, rows, named):
    folder = trained.run_folder / "model"
    task = json.loads((folder / "task.json").read_text())
    task["label_kind"] = "which"
    task["splits"]["train"]["classes"] = rows
    task["task"][part]["where"] = where
    serializer = EventSerializer.from_pretrained(folder)
    if named is None:
        refuse_private(task, serializer)
    else:
        with pytest.raises(InputError, match=named):
            refuse_private(task, serializer)
