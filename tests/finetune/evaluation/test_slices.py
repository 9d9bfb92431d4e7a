import csv
import json
import os
import shutil
from collections import Counter
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from data_prep import InputError
from data_prep.prepare import prepare
from data_prep.prepared import read_split
from finetune.evaluation.bootstrap import interval_names
from finetune.evaluation.rows import ScoredRows
from finetune.evaluation.slices import by_cutoff, intersections, rates_and_gaps, slice_metrics, slice_values
from finetune.experiment.parser import parse_experiment
from finetune.figures.measures import MAIN, MEASURES
from finetune.figures.metrics import compute_metrics


@pytest.fixture(scope="module")
def experiment(prepared):
    return parse_experiment("", ["--config", str(prepared)])


def sliced(experiment, limit=None, **slices):
    evaluation = replace(experiment.evaluation, slices=slices)
    finetuning = replace(experiment.finetuning, max_eval_examples=limit)
    rows = read_split(experiment.data_folder, "test", limit, ["user_id", "cutoff"])
    return slice_values(replace(experiment, evaluation=evaluation, finetuning=finetuning), rows)


def newest(log, column, user, cutoff):
    """By hand: the value of the user's last event before the cutoff that has one, the largest of several."""
    known = [
        (datetime.fromisoformat(row["time"]), row[column])
        for row in log
        if row["user"] == user and row[column] and datetime.fromisoformat(row["time"]) < cutoff
    ]
    return max(known)[1] if known else None


def test_a_field_is_its_newest_value_strictly_before_the_cutoff_and_an_aggregate_that_of_the_split(experiment):
    source = experiment.data.sources[0].path
    with open(source, encoding="utf-8") as file:
        log = list(csv.DictReader(file))
    found = sliced(
        experiment,
        shop="shop",
        kind="event_type = 'view'",
        large="amount >= 20",
        both="shop || ' ' || CASE WHEN events_28d > 3 THEN 'often' ELSE 'seldom' END",
    )
    test = read_split(experiment.data_folder, "test", None, ["user_id", "cutoff", "events_28d"])
    for i, row in enumerate(test.to_pylist()):
        user, cutoff = row["user_id"], row["cutoff"]
        shop, amount = newest(log, "shop", user, cutoff), newest(log, "amount", user, cutoff)
        assert found["shop"][i] == shop
        assert found["kind"][i] == ("yes" if newest(log, "what", user, cutoff) == "view" else "no")
        assert found["large"][i] == ("unknown" if amount is None else "yes" if float(amount) >= 20 else "no")
        assert found["both"][i] == f"{shop} {'often' if row['events_28d'] > 3 else 'seldom'}"
    assert set(found["kind"]) == {"yes", "no"}


def test_the_log_is_read_only_where_an_expression_names_one_of_its_columns(experiment):
    blind = replace(experiment, data=replace(experiment.data, sources=[]))
    assert set(sliced(blind, new="tenure_days < 85", month="date_trunc('month', cutoff)")["new"]) == {"yes", "no"}
    with pytest.raises(InputError, match=r"data\.sources is empty"):
        sliced(blind, new="tenure_days < 85", shop="SHOP")


def test_a_drawn_sample_of_the_split_has_the_groups_of_its_own_rows(experiment):
    expressions = {"shop": "shop", "user": "user_id || cutoff", "many": "events_28d > 3"}
    everyone = zip(*sliced(experiment, **expressions | {"user": "hash(user_id || cutoff) % 19"}).values(), strict=True)
    drawn = sliced(experiment, 40, **expressions | {"user": "hash(user_id || cutoff) % 19"})
    assert len(drawn["shop"]) == 40
    assert not Counter(zip(*drawn.values(), strict=True)) - Counter(everyone)


def test_groups_are_called_as_people_would_and_small_ones_are_put_together(experiment):
    found = sliced(
        experiment,
        number="events_28d::DECIMAL(9, 2) / 2",
        whole="2.0",
        missing="CASE WHEN events_28d > 3 THEN 'NaN'::DOUBLE END",
        blank="' '",
        day="cutoff",
        users="user_id",
    )
    assert {"0.5", "1", "1.5"} <= set(found["number"])
    assert set(found["whole"]) == {"2"}
    assert set(found["missing"]) == set(found["blank"]) == {"unknown"}
    assert set(found["day"]) == {"2024-03-18", "2024-04-01"}
    assert len(set(found["users"])) == 21
    assert Counter(found["users"]).most_common(1)[0][0] == "other"


def test_pseudonyms_of_the_same_key_match_and_another_key_is_refused(experiment, tmp_path, monkeypatch):
    data = replace(experiment.data, folder=str(tmp_path / "data"), pseudonymize="SHOP_KEY")
    hidden, slices = replace(experiment, data=data), {"shop": "shop", "size": "amount"}
    monkeypatch.setenv("SHOP_KEY", "a key that is long enough")
    prepare(hidden.name, hidden.data, hidden.task, hidden.text)
    found = [Counter(zip(*sliced(made, **slices).values(), strict=True)) for made in (experiment, hidden)]
    assert found[0] == found[1]
    monkeypatch.setenv("SHOP_KEY", "another key that is long enough")
    with pytest.raises(InputError, match=r"no event of .* any more.*the key in SHOP_KEY.*prepare again"):
        sliced(hidden, **slices)
    assert not list(hidden.data_folder.parent.glob(".slices*"))


@pytest.mark.parametrize("kind", ["VARCHAR) AS x; COPY (SELECT 1) TO 'out.csv' --", "VARCHAR) FROM glob('*'", 7])
def test_a_type_in_a_forged_manifest_runs_nothing(experiment, tmp_path, monkeypatch, kind):
    forged = replace(experiment, data=replace(experiment.data, folder=str(tmp_path / "data")))
    shutil.copytree(experiment.data_folder, forged.data_folder)
    manifest = json.loads((forged.data_folder / "manifest.json").read_text())
    manifest["log"]["fields"]["shop"] = kind
    (forged.data_folder / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(InputError, match=r"manifest\.json.*log\.fields\.shop.* (is no type of DuckDB|not a text)"):
        sliced(forged, shop="shop")
    assert os.listdir() == []


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("country", r"country.* not found.*the log's columns \(event_type, amount, shop\).*manifest\.json"),
        ("shop =", "syntax error"),
        ("shop) FROM (SELECT 1", "syntax error"),
        ("(SELECT max(events_28d) FROM asked)", "contains a SELECT"),
        ("max(events_28d)", "calls max, which is an aggregate and looks at other rows"),
        ("events_28d > avg(events_28d)", "calls avg, which is an aggregate"),
        ("COLUMNS(*)", "stands for several columns"),
        ("unnest([1, 2])", "calls unnest, which makes several rows of one"),
        ("random() < 0.5", "random, which is not the same each time"),
        ("CAST(shop AS INTEGER)", r"Could not convert string .*TRY_CAST"),
        ("label", "label.* not found"),
    ],
)
def test_an_expression_that_gives_no_group_is_refused_in_one_sentence_that_names_it(experiment, sql, said):
    with pytest.raises(InputError, match=said) as refusal:
        sliced(experiment, good="shop", mine=sql)
    assert str(refusal.value).startswith("evaluation.slices.mine: ")
    assert "\n" not in str(refusal.value)


KNOWN = {"deviation": 10.0, "horizons": ("1 day", "2 days", "3 days", "4 days")}


def rows(task: str, size: int = 400, seed: int = 0):
    """Labels, scores and users of a task; two rows a user."""
    random = np.random.default_rng(seed)
    users = np.repeat(np.arange(size // 2), 2).astype(str)
    if task == "value":
        labels = np.maximum(random.normal(10, 20, size), 0)
        return labels, labels + random.normal(0, 5, size), users
    if task == "binary":
        scores = random.random(size)
        return (random.random(size) < scores).astype(int), scores, users
    scores = random.dirichlet(np.ones(4), size)
    labels = random.integers(0, 4, size)
    if task == "survival":
        labels = np.array([[1, -1, -1, -1], [0, 1, -1, -1], [0, 0, 0, 1], [0, 0, -1, -1]], np.int8)[labels]
        return labels, np.cumsum(scores, axis=1) * 0.9, users
    return (np.eye(4, dtype=np.int8)[labels] if task == "propensity" else labels), scores, users


@pytest.mark.parametrize("task", MAIN)
def test_the_figures_of_a_group_are_those_of_its_rows(task):
    labels, scores, users = rows(task)
    values = np.array(["a", "b", "b", "b", "c"] * 80)
    found = slice_metrics(ScoredRows(task, labels, {"model": scores}, users, **KNOWN), values.tolist(), 0.5, 81, 50)
    assert found["too_small"] == [{"value": "a", "rows": 80}, {"value": "c", "rows": 80}]
    (group,) = found["groups"]
    inside = values == "b"
    figures = compute_metrics(task, labels[inside], scores[inside], **KNOWN)
    assert (group["value"], group["rows"], group["users"]) == ("b", 240, len(np.unique(users[inside])))
    assert group["positives"] == (labels[inside] > 0).sum()
    np.testing.assert_equal({name: group[name] for name in figures}, figures)
    for name in interval_names(task, scores):
        low, high = group[f"{name}_interval"]
        assert low <= group[name] <= high or np.isnan([group[name], low, high]).all()
    assert np.isnan(group["selected_rate"]) == (task != "binary")
    assert all(np.isnan(found["gaps"][gap]) for gap in ("equal_opportunity", "demographic_parity", "calibration"))


def test_gaps_are_the_largest_minus_the_smallest_over_the_groups_as_computed_by_hand():
    labels, scores, users = rows("binary", 2000)
    values = np.array(["a", "b", "c", "d"] * 500)
    scores[values == "b"] **= 3
    found = slice_metrics(ScoredRows("binary", labels, {"model": scores}, users), values.tolist(), 0.4, 1, 200)
    selected, by_hand = scores >= 0.4, {}
    for group in found["groups"]:
        inside = values == group["value"]
        by_hand[group["value"]] = (
            selected[inside & (labels == 1)].mean(),
            selected[inside].mean(),
            scores[inside].mean() - labels[inside].mean(),
        )
        kept = [group[name] for name in ("true_positive_rate", "selected_rate", "calibration_gap")]
        assert kept == pytest.approx(by_hand[group["value"]])
        for name in ("true_positive_rate", "selected_rate", "calibration_gap"):
            low, high = group[f"{name}_interval"]
            assert low < group[name] < high
    spread = np.ptp(list(by_hand.values()), axis=0)
    for gap, width in zip(("equal_opportunity", "demographic_parity", "calibration"), spread, strict=True):
        assert found["gaps"][gap] == pytest.approx(width)
        low, high = found["gaps"][f"{gap}_interval"]
        assert 0 < low < width < high  # b is far from the others


def test_the_interval_of_a_gap_that_is_not_there_includes_zero_about_as_often_as_it_says():
    told = 0
    for seed in range(150):
        labels, scores, users = rows("binary", 300, seed)
        values = np.random.default_rng(seed + 1000).choice(["a", "b", "c", "d", "e"], 300, p=[0.1, 0.1, 0.2, 0.3, 0.3])
        groups = np.unique(values, return_inverse=True)[1]
        _, gaps = rates_and_gaps(ScoredRows("binary", labels, {"model": scores}, users), groups, 5, 0.5, 200, 0)
        told += gaps["demographic_parity_interval"][0] > 0
    assert told / 150 < 0.1


@pytest.mark.parametrize("task", MAIN)
def test_what_cannot_be_told_is_nan_and_never_a_crash(task):
    labels, scores, users = rows(task, 40)
    labels[:20] = labels[0]  # one class in a group
    scores[:] = scores[0]  # constant scores
    values = ["one"] * 20 + ["both"] * 20
    for threshold in (None, 0.0, 2.0):
        found = slice_metrics(ScoredRows(task, labels, {"model": scores}, users, **KNOWN), values, threshold, 5, 20)
        assert [group["rows"] for group in found["groups"]] == [20, 20]
        assert {"both", "one"} == {group["value"] for group in found["groups"]}
    nothing = slice_metrics(ScoredRows(task, labels[:0], {"model": scores[:0]}, users[:0], **KNOWN), [], 0.5, 0, 20)
    assert (nothing["groups"], nothing["too_small"]) == ([], [])
    assert np.isnan(nothing["gaps"]["calibration"])
    assert (
        by_cutoff(
            ScoredRows(task, labels[:0], {"model": scores[:0]}, users[:0], **KNOWN), np.array([], "datetime64[us]"), 20
        )
        == []
    )


def test_a_group_without_positives_leaves_equal_opportunity_to_the_others():
    labels, scores, users = rows("binary", 600)
    values = np.array(["a", "b", "c"] * 200)
    labels[values == "c"] = 0
    found = slice_metrics(ScoredRows("binary", labels, {"model": scores}, users), values, 0.5, 1, 50)
    groups = {group["value"]: group for group in found["groups"]}
    assert np.isnan([groups["c"]["true_positive_rate"], groups["c"]["auroc"]]).all()
    rates = [groups[name]["true_positive_rate"] for name in "ab"]
    assert found["gaps"]["equal_opportunity"] == pytest.approx(abs(rates[0] - rates[1]))
    assert found["gaps"]["equal_opportunity_interval"][0] < found["gaps"]["equal_opportunity"]


@pytest.mark.parametrize("task", MAIN)
def test_each_cutoff_has_the_figures_of_its_rows_and_its_paired_change_since_the_first(task):
    labels, scores, users = (np.concatenate([part] * 3) for part in rows(task, 200))
    scores[400:] = scores[400:][::-1]  # the third cutoff is ranked by chance
    cutoffs = np.repeat(np.array(["2024-01-01", "2024-02-01", "2024-03-01T12:00"], "datetime64[us]"), 200)
    found = by_cutoff(ScoredRows(task, labels, {"model": scores}, users, **KNOWN), cutoffs, 50)
    assert [entry["cutoff"] for entry in found] == ["2024-01-01", "2024-02-01", "2024-03-01 12:00"]
    main = MAIN[task]
    for entry, part in zip(found, (slice(0, 200), slice(200, 400), slice(400, 600)), strict=True):
        figures = compute_metrics(task, labels[part], scores[part], **KNOWN)
        np.testing.assert_equal({name: entry[name] for name in figures}, figures)
        assert set(MEASURES[task]) & set(entry)
        assert entry[f"{main}_interval"][0] < entry[main] < entry[f"{main}_interval"][1]
        assert {f"{name}_interval" for name in interval_names(task, scores)} <= set(entry)
    assert f"{main}_change" not in found[0]
    assert found[1][f"{main}_change_interval"] == [0.0, 0.0]  # the same rows again: paired, not drawn twice
    if task == "binary":
        assert found[2]["auroc"] == pytest.approx(roc_auc_score(labels[400:], scores[400:]))
        low, high = found[2]["auroc_change_interval"]
        assert low < found[2]["auroc_change"] < high < 0


def test_popularity_in_training_gives_groups_and_cutoffs_novelty_and_synerises_score():
    labels, scores, users = rows("propensity", 200)
    known = {"deviation": None, "popularity": np.array([40, 30, 20, 10])}
    (group,) = slice_metrics(
        ScoredRows("propensity", labels, {"model": scores}, users, **known), ["all"] * 200, None, 1, 50
    )["groups"]
    (cutoff,) = by_cutoff(
        ScoredRows("propensity", labels, {"model": scores}, users, **known),
        np.full(200, "2024-01-01", "datetime64[us]"),
        50,
    )
    figures = compute_metrics("propensity", labels, scores, **known)
    for entry in (group, cutoff):
        assert [entry[name] for name in ("novelty", "synerise_score")] == [
            figures["novelty"],
            figures["synerise_score"],
        ]
        low, high = entry["synerise_score_interval"]
        assert low < entry["synerise_score"] < high


def test_every_two_slices_are_crossed_and_few_groups_of_them_become_other():
    groups = {"shop": ["north", "south", "north"], "new": ["yes", "yes", "no"], "tier": ["a", "a", "b"]}
    found = intersections(groups)
    assert found["shop and new"] == ["north, yes", "south, yes", "north, no"]
    assert set(found) == {"shop and new", "shop and tier", "new and tier"}
    many = intersections({"one": [str(i % 30) for i in range(300)], "other": ["x"] * 300})["one and other"]
    assert len(set(many)) == 21
    assert many.count("other") == 100
