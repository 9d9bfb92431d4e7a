"""A threshold for each group: chosen on validation, measured on test, followed by predict only where it is asked."""

import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep import InputError
from data_prep.prepared import read_split
from finetune.evaluation.evaluate import evaluate
from finetune.evaluation.group_thresholds import NOT_SEEN, ByGroup, choose_by_group, thresholds_by_group
from finetune.evaluation.rows import ScoredRows
from finetune.evaluation.slices import slice_values
from finetune.experiment.config import Costs, EvaluationConfig, GroupThresholds
from finetune.experiment.parser import parse_experiment
from finetune.figures.metrics_json import read_metrics
from finetune.hub.redaction import public_metrics
from finetune.model.calibration import Calibration, equal_thresholds
from finetune.report.report import write_report
from finetune.serving.predict import predict_log


def drawn(rows: int = 3_000, seed: int = 0):
    """Labels, scores and groups, of which one has lower scores than its labels deserve."""
    random = np.random.default_rng(seed)
    groups = random.choice(["north", "south", "west"], rows, p=[0.5, 0.3, 0.2])
    chance = random.beta(2, 4, rows)
    labels = (random.random(rows) < chance).astype(int)
    return labels, np.where(groups == "south", chance * 0.6, chance), groups


def test_equal_selection_contacts_the_same_share_of_each_group_and_as_many_as_before():
    labels, scores, groups = drawn()
    threshold = float(np.quantile(scores, 0.9))
    found = equal_thresholds("selection", labels, scores, groups, threshold)
    shares = {name: (scores[groups == name] >= from_on).mean() for name, from_on in found.items()}
    assert (scores[groups == "south"] >= threshold).mean() < 0.05
    assert set(shares) == {"north", "south", "west"}
    assert all(0.1 - 1 / (groups == name).sum() <= share <= 0.1 for name, share in shares.items())


def test_equal_opportunity_is_the_largest_recall_that_as_many_contacts_allow():
    labels, scores, groups = drawn()
    threshold = float(np.quantile(scores, 0.9))
    found = equal_thresholds("opportunity", labels, scores, groups, threshold)
    own = np.array([found[name] for name in groups.tolist()])
    contacted, allowed = int((scores >= own).sum()), int((scores >= threshold).sum())
    assert contacted <= allowed
    reached = {name: (scores >= own)[(groups == name) & (labels > 0)].mean() for name in found}
    assert max(reached.values()) - min(reached.values()) < 0.01
    level = min(reached.values())
    more = 0  # by hand: with one positive more of each group it would be too many
    for name in found:
        positive = np.sort(scores[(groups == name) & (labels > 0)])[::-1]
        more += (scores[groups == name] >= positive[round(level * len(positive)) + 1]).sum()
    assert more > allowed


def test_so_few_contacts_that_a_group_would_have_none_change_nothing():
    labels, scores, groups = np.array([1, 1, 0, 0]), np.array([0.9, 0.1, 0.8, 0.2]), np.array(["a", "b", "b", "b"])
    assert equal_thresholds("opportunity", labels, scores, groups, 0.85) == {}
    assert equal_thresholds("opportunity", labels, scores, groups, 0.05) == {"a": 0.9, "b": 0.1}


def test_groups_that_are_too_small_unseen_or_without_positives_keep_the_one_threshold_and_say_why():
    labels, scores, groups = drawn()
    labels = np.where(groups == "west", 0, labels)
    settings = EvaluationConfig(bootstrap=20, min_slice=100, group_thresholds=GroupThresholds("region", "opportunity"))
    known = np.append(groups, ["tiny"] * 3)
    chosen = choose_by_group(settings, np.append(labels, [1] * 3), np.append(scores, [0.5] * 3), known, 0.5)
    assert set(chosen.thresholds) == {"north", "south"}
    assert chosen.common == {"tiny": "fewer than 100 validation rows", "west": "no positive validation row"}
    unseen = np.where(groups == "north", "new", groups)
    users = np.arange(len(labels)).astype(str)
    found = thresholds_by_group(ScoredRows("binary", labels, {"model": scores}, users), unseen, chosen, 0.5, settings)
    assert found["common"]["new"] == NOT_SEEN
    own = {group["value"]: group["threshold"] for group in found["groups"]}
    assert own == {"new": None, "south": chosen.thresholds["south"], "west": None}


def test_what_it_costs_is_counted_by_hand_and_nothing_changes_where_the_thresholds_are_the_same():
    labels, scores, groups = drawn()
    users = (np.arange(len(labels)) // 2).astype(str)
    rows = ScoredRows("binary", labels, {"model": scores}, users)
    settings = EvaluationConfig(bootstrap=200, costs=Costs(1, 5), group_thresholds=GroupThresholds("region"))
    chosen = ByGroup("region", "selection", {"north": 0.6, "south": 0.3}, {})
    found = thresholds_by_group(rows, groups, chosen, 0.5, settings)
    contacted = scores >= np.select([groups == "north", groups == "south"], [0.6, 0.3], 0.5)
    own, apart = found["overall"]["own"], found["overall"]["difference"]
    assert (own["contacted"], own["found"]) == (contacted.sum(), labels[contacted].sum())
    assert own["precision"] == pytest.approx(labels[contacted].mean())
    assert own["profit"] == pytest.approx(5 * labels[contacted].sum() - contacted.sum())
    assert apart["recall"] == pytest.approx(
        labels[contacted].sum() / labels.sum() - labels[scores >= 0.5].sum() / labels.sum()
    )
    assert apart["recall_interval"][0] < apart["recall"] < apart["recall_interval"][1]
    same = thresholds_by_group(rows, groups, replace(chosen, thresholds={"north": 0.5, "south": 0.5}), 0.5, settings)
    assert same["overall"]["difference"] == dict.fromkeys(apart, 0.0) | {
        key: [0.0, 0.0] for key in apart if key.endswith("_interval")
    }


@pytest.fixture(scope="module")
def asked(trained, tmp_path_factory):
    """The tiny run, evaluated with a threshold for each shop."""
    folder = tmp_path_factory.mktemp("by-shop")
    evaluation = replace(
        trained.evaluation, slices={"shop": "shop"}, min_slice=10, group_thresholds=GroupThresholds("shop", "selection")
    )
    experiment = replace(trained, runs=replace(trained.runs, folder=str(folder)), evaluation=evaluation)
    shutil.copytree(trained.run_folder, experiment.run_folder)
    evaluate(experiment)
    return experiment


def test_the_evaluation_chooses_on_validation_and_measures_on_test(asked):
    found = read_metrics(asked.run_folder)["group_thresholds"]
    saved = Calibration.load(asked.model_folder)
    assert saved.group_by == "shop"
    assert set(saved.group_thresholds) == {"north", "south"}
    predictions = {
        split: pq.read_table(asked.run_folder / "predictions" / f"{split}.parquet") for split in ("validation", "test")
    }
    shops = np.array(slice_values(asked, read_split(asked.data_folder, "test", None, ["user_id", "cutoff"]))["shop"])
    test = predictions["test"]["score"].to_numpy()
    for group in found["groups"]:
        assert group["threshold"] == saved.group_thresholds[group["value"]]
        scores = test[shops == group["value"]]
        assert group["own"]["selected_rate"] == pytest.approx((scores >= group["threshold"]).mean())
        assert group["one"]["selected_rate"] == pytest.approx((scores >= saved.threshold).mean())
    assert found["overall"]["one"]["contacted"] == (test >= saved.threshold).sum()


def test_the_report_says_what_it_costs_and_asks_whether_it_is_lawful_and_nothing_is_published(asked):
    page = write_report(asked.run_folder).read_text(encoding="utf-8")
    assert "One threshold, or one for each group of shop" in page
    assert "ask counsel first" in page
    assert "group_thresholds" not in public_metrics(read_metrics(asked.run_folder))


def test_scores_are_decided_by_group_only_where_a_file_says_the_groups(asked, tmp_path, capsys):
    saved = Calibration.load(asked.model_folder)
    changed = replace(saved, group_thresholds={"north": 0.0, "south": 1.0})
    model = tmp_path / "model"
    shutil.copytree(asked.model_folder, model)
    changed.save(model)
    plain = pq.read_table(predict_log(model, asked.data, "2024-04-01", tmp_path / "plain.parquet"))
    users = plain["user_id"].to_pylist()
    groups = tmp_path / "groups.csv"
    groups.write_text(f"user_id,group\n{users[0]},north\n{users[1]},south\n{users[2]},west\n", encoding="utf-8")
    found = pq.read_table(predict_log(model, asked.data, "2024-04-01", tmp_path / "own.parquet", groups=groups))
    assert "for 2 users; 1 of other groups" in capsys.readouterr().out
    assert found["score"].equals(plain["score"])
    assert found["label"].to_pylist() == ["churn", "no_churn", *plain["label"].to_pylist()[2:]]


def test_files_of_groups_that_do_not_fit_are_refused(asked, trained, tmp_path):
    groups = tmp_path / "groups.parquet"
    output = tmp_path / "scores.parquet"

    def refused(said: str, model=asked.model_folder, top=None, **columns: list) -> None:
        pq.write_table(pa.table(columns), groups)
        with pytest.raises(InputError, match=said):
            predict_log(model, asked.data, "2024-04-01", output, groups=groups, top=top)

    refused("columns user_id and group", user_id=[1], shop=["north"])
    refused("user 1 twice", user_id=[1, 1], group=["north", "south"])
    refused("a row without user_id", user_id=[None, "u1"], group=["north", "south"])
    refused("the model has no thresholds of groups", trained.model_folder, user_id=["u1"], group=["north"])
    refused("--top lists by the score alone", top=0.1, user_id=["u1"], group=["north"])
    groups.unlink()
    with pytest.raises(InputError, match=r"there is no file .*groups\.parquet"):
        predict_log(asked.model_folder, asked.data, "2024-04-01", output, groups=groups)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--evaluation.group_thresholds", "{by: shop}"], "name the groups in evaluation.slices first"),
        (
            ["--evaluation.slices", "{city: shop}", "--evaluation.group_thresholds", "{by: shop}"],
            "by is shop, and that is none of evaluation.slices; give one of city",
        ),
        (
            [
                *("--evaluation.slices", "{shop: shop}", "--evaluation.group_thresholds", "{by: shop}"),
                *("--task.label", "{kind: count, where: event_type = 'purchase', horizon: 14 days}"),
            ],
            "are for labels of yes or no .*, not value",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_any_work(prepared, arguments, said):
    from finetune.evaluation.evaluate import check_evaluation

    with pytest.raises(InputError, match=said):
        check_evaluation(parse_experiment("", ["--config", str(prepared), *arguments]))
