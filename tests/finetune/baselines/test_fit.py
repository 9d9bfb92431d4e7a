import json
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from data_prep import InputError
from data_prep.aggregates import lists
from data_prep.features import OWN
from data_prep.prepare import prepare
from finetune.baselines import estimators, fit
from finetune.baselines.estimators import (
    BOOSTING_GRID,
    LOGISTIC_GRID,
    RIDGE_GRID,
    VALUE_BOOSTING_GRID,
    balanced,
    boosting,
    linear,
    quality,
)
from finetune.baselines.fit import fit_stack, score_baselines
from finetune.baselines.pairs import PAIR_GRIDS
from finetune.experiment.parser import parse_experiment
from finetune.model.objective import Objective

pytestmark = pytest.mark.xdist_group("fitted baselines")  # one worker makes them

AGGREGATES = [
    "target_recency_days",
    "target_28d",
    "target",
    "paid_sum",
    "signal",
    "sometimes_missing",
    "never",
    "constant",
]
ROWS = {"train": 900, "validation": 400, "test": 400}
LABELS = {  # task.label of each task, and the classes of the manifest
    "binary": ({"kind": "absent"}, ["no_churn", "churn"]),
    "tiers": ({"kind": "sum", "field": "paid", "tiers": [20, 60]}, ["up to 20", "above 20 to 60", "above 60"]),
    "value": ({"kind": "sum", "field": "paid"}, None),
    "propensity": ({"kind": "which", "field": "category", "top": 4}, ["a", "b", "c", "d"]),
}
TASKS = list(LABELS)


def manifest(task: str) -> dict:
    label, classes = LABELS[task]
    label = label | {"where": "true", "horizon": "14 days"}
    own = list(OWN) if task == "propensity" else []
    config = {"task": {"label": label}, "text": {"fields": {}}}
    return {"aggregates": AGGREGATES, "class_aggregates": own, "classes": classes, "config": config}


def objective(task: str) -> Objective:
    return Objective(task, tuple(LABELS[task][1] or ["value"]))


def make_rows(rows: int, random: np.random.Generator) -> tuple[dict, dict]:
    """Columns, and the label of each task: it depends on recency, frequency, money, and on the size of a signal and the
    absence of a value, which only flexible models can use."""
    recency, signal = random.exponential(10, rows), random.normal(size=rows)
    frequency, paid = random.poisson(3, rows), random.normal(20, 15, rows)
    missing = np.where(random.random(rows) < 0.3, np.nan, random.normal(size=rows))
    log_odds = 0.1 * (recency - 10) - 0.3 * (frequency - 3) - 0.03 * (paid - 20) + 2 * np.abs(signal) - 2
    log_odds += 2 * np.isnan(missing)
    chance = 1 / (1 + np.exp(-log_odds))
    recency[:3] = np.nan
    values = np.round(np.where(random.random(rows) < chance, random.gamma(4, 5 + 20 * chance), 0), 2)
    values[5] = -30  # a refund
    kinds = np.stack([random.random(rows) < share * chance for share in (0.9, 0.7, 0.5)] + [np.zeros(rows)], axis=1)
    columns = [recency, frequency, frequency + 1, paid, signal, missing, np.full(rows, np.nan), np.ones(rows)]
    return dict(zip(AGGREGATES, columns, strict=True)), {
        "binary": (random.random(rows) < chance).astype(int),
        "tiers": np.searchsorted([20, 60], values),
        "value": values,
        "propensity": kinds.astype(np.int8),
    }


def own_columns(labels: np.ndarray) -> dict[str, pa.Array]:
    """Own counts and recency of each class, of users who mostly had before what they have next."""
    random = np.random.default_rng(1)
    counts = random.poisson(0.3 + 2 * labels)
    columns = [
        counts // 3,
        counts // 2,
        counts,
        2 * counts,
        np.where(counts, random.exponential(20, counts.shape), np.nan),
    ]
    return {name: lists(column) for name, column in zip(OWN, columns, strict=True)}


@pytest.fixture(scope="module")
def world():
    random = np.random.default_rng(0)
    return {split: make_rows(rows, random) for split, rows in ROWS.items()}


@pytest.fixture(scope="module", autouse=True)
def whole_grids(few_trees):
    """Of boosting; other tests see a part of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "BOOSTING_GRID", BOOSTING_GRID)
        patch.setattr(fit, "VALUE_BOOSTING_GRID", VALUE_BOOSTING_GRID)
        yield


@pytest.fixture(scope="module")
def made(world, tmp_path_factory):
    """The baselines of each task, with warnings as errors; the test split that they read has no labels at all."""
    found = {}
    for task in TASKS:
        folder = tmp_path_factory.mktemp(task)
        for split, (columns, labels) in world.items():
            users = {"user_id": [str(i) for i in range(ROWS[split])]}
            label = {} if split == "test" else {"label": pa.array(list(labels[task]))}
            own = own_columns(labels["propensity"]) if task == "propensity" else {}
            pq.write_table(pa.table(users | columns | own | label), folder / f"{split}.parquet")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found[task] = score_baselines(folder, manifest(task))
    return found


def test_the_recency_rule_ranks_by_recency_alone(world, made):
    order = np.argsort(np.nan_to_num(world["test"][0]["target_recency_days"], nan=np.inf), kind="stable")
    assert (np.diff(made["binary"].scores["test"]["recency_rule"][order]) >= 0).all()
    values = np.diff(made["value"].scores["test"]["recency_rule"][order])
    assert (values >= 0).all() or (values <= 0).all()


@pytest.mark.parametrize("task", TASKS)
def test_each_baseline_uses_what_it_can_without_the_labels_of_test(world, made, task):
    found = {name: quality(task, world["test"][1][task], scores) for name, scores in made[task].scores["test"].items()}
    regression = "linear_regression" if task == "value" else "logistic_regression"
    pairs = ["personal_frequency", "pair_regression", "pair_boosting"] if task == "propensity" else []
    assert list(found) == ["majority", "recency_rule", "rfm", regression, "gradient_boosting", *pairs]
    assert found["majority"] <= found["recency_rule"] < found["rfm"] < found[regression] < found["gradient_boosting"]
    assert all(found[name] > found["gradient_boosting"] for name in pairs)  # which does not know what was had before


@pytest.mark.parametrize("task", TASKS)
def test_settings_come_from_the_grids(made, task):
    settings, value = made[task].settings, task == "value"
    linear, trees = (RIDGE_GRID, VALUE_BOOSTING_GRID) if value else (LOGISTIC_GRID, BOOSTING_GRID)
    assert settings["rfm"] in linear
    assert settings["linear_regression" if value else "logistic_regression"] in linear
    chosen = dict(settings["gradient_boosting"])
    assert chosen.pop("max_iter") % 25 == 0
    assert chosen in trees
    for name, grid in PAIR_GRIDS.items() if task == "propensity" else ():
        chosen = dict(settings[name])
        chosen.pop("max_iter", None)
        assert chosen in grid


@pytest.mark.parametrize("task", TASKS)
def test_scores_have_the_shape_and_the_range_of_the_task(world, made, task):
    labels, train = world["test"][1][task], world["train"][1][task]
    shape = (len(labels), 3) if task == "tiers" else labels.shape
    for scores in made[task].scores["test"].values():
        assert scores.shape == shape
        low, high = (train.min(), train.max()) if task == "value" else (0, 1)
        assert low <= scores.min() <= scores.max() <= high
        if task == "tiers":
            np.testing.assert_allclose(scores.sum(axis=1), 1)
        if task == "value":
            assert abs(np.mean(scores) - labels.mean()) < labels.mean()  # euros, not logarithms


def test_the_majority_gives_everyone_what_is_usual(world, made):
    labels = world["train"][1]
    given = {task: baselines.scores["test"]["majority"] for task, baselines in made.items()}
    assert all((scores == scores[0]).all() for scores in given.values())
    assert given["binary"][0] == pytest.approx(labels["binary"].mean())
    np.testing.assert_allclose(given["tiers"][0], np.bincount(labels["tiers"]) / len(labels["tiers"]))
    np.testing.assert_allclose(given["propensity"][0], labels["propensity"].mean(axis=0))
    assert given["value"][0] == getattr(np, made["value"].settings["majority"]["constant"])(labels["value"])


def test_a_class_that_nobody_has_gets_no_probability(made):
    for name, scores in made["propensity"].scores["test"].items():
        if name != "personal_frequency":  # which believes in what a user had
            assert (scores[:, 3] <= (0.15 if name in PAIR_GRIDS else 0)).all()
        assert (scores[:, 0] > 0).all()


@pytest.mark.parametrize(
    ("task", "train", "validation"),
    [("binary", [1], [0, 1]), ("binary", [0, 1], [0]), ("tiers", [0, 2], [0, 1, 2]), ("tiers", [0, 1, 2], [0])],
)
def test_classes_may_be_absent_in_training_or_validation(tmp_path, task, train, validation):
    random = np.random.default_rng(0)
    for split, classes in (("train", train), ("validation", validation), ("test", [0])):
        columns, _ = make_rows(60, random)
        columns |= {"user_id": [str(i) for i in range(60)], "label": np.resize(classes, 60)}
        pq.write_table(pa.table(columns), tmp_path / f"{split}.parquet")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = score_baselines(tmp_path, manifest(task)).scores["test"]
    for scores in found.values():
        assert np.isfinite(scores).all()
        if task == "tiers":
            np.testing.assert_allclose(scores.sum(axis=1), 1)
            assert (scores[:, 1] == 0).all() == (1 not in train)


def test_rows_that_are_drawn_for_a_class_stand_for_all():
    labels = np.arange(1000) < 30
    drawn, odds = balanced(labels, 50, seed=0)
    assert labels[drawn].sum() == 30
    assert len(np.unique(drawn)) == len(drawn) == 80
    assert odds == pytest.approx(50 / 970)


def test_probabilities_fitted_to_fewer_negatives_are_those_of_all_rows(monkeypatch):
    monkeypatch.setattr(estimators, "MAX_ROWS", 500)
    random = np.random.default_rng(0)
    rows = random.normal(size=(20_000, 2))
    chance = 1 / (1 + np.exp(4 - 2 * rows[:, 0]))
    labels = (random.random(20_000) < chance).astype(int)[:, None]
    found = estimators.Fitted(Objective("propensity", ("a",)), linear({"C": 1.0}), rows, labels, seed=0).scores(rows)[
        :, 0
    ]
    assert found.mean() == pytest.approx(labels.mean(), abs=0.01)
    np.testing.assert_allclose(found, chance, atol=0.1)


@pytest.mark.parametrize("task", ["binary", "value"])
def test_a_stack_gains_from_a_good_score_and_loses_little_from_a_useless_one(world, task):
    random = np.random.default_rng(0)
    features = {split: np.column_stack(list(world[split][0].values())) for split in ("validation", "test")}
    labels = {split: world[split][1][task] for split in features}
    users = np.arange(len(labels["validation"]))

    def stack(scores: dict) -> float:
        found, _ = fit_stack(objective(task), features, scores, labels["validation"], users)
        assert len(found["validation"]) == len(users)
        return quality(task, labels["test"], found["test"])

    without = stack({split: np.zeros(len(of)) for split, of in labels.items()})
    useless = stack({split: random.random(len(of)) for split, of in labels.items()})
    good = stack(labels)
    assert useless > without - (0.05 if task != "value" else 0.1 * abs(without))
    assert good > (0.99 if task != "value" else 0.5 * without)


def test_the_stack_scores_validation_rows_by_models_that_have_not_seen_their_user():
    random = np.random.default_rng(0)
    users = np.repeat(np.arange(40), 60)
    fate = users % 2  # can be learned by heart only
    features = {split: users[:, None].astype(float) for split in ("validation", "test")}
    noise = {split: random.random(len(users)) for split in features}
    quality_of = {}
    for name, groups in (("users", users), ("rows", np.arange(len(users)))):
        found, _ = fit_stack(objective("binary"), features, noise, fate, groups)
        quality_of[name] = quality("binary", fate, found["validation"])
    assert quality_of["users"] < 0.6
    assert quality_of["rows"] > 0.95


def test_a_stack_of_propensity_or_of_one_user_is_refused(tmp_path):
    with pytest.raises(InputError, match="propensity"):
        score_baselines(tmp_path, manifest("propensity"), model_scores={"validation": np.zeros(3)})
    rows = {"validation": np.zeros((3, 1)), "test": np.zeros((3, 1))}
    with pytest.raises(InputError, match="two users"):
        fit_stack(objective("binary"), rows, rows, np.array([0, 1, 1]), np.zeros(3))


@pytest.mark.parametrize("task", TASKS)
def test_baselines_run_on_prepared_data_of_each_task(tiny, task):
    config = yaml.safe_load(tiny.read_text())
    label = {
        "binary": {"kind": "absent"},
        "tiers": {"kind": "count", "tiers": [0, 2]},
        "value": {"kind": "sum", "field": "amount"},
        "propensity": {"kind": "which", "field": "shop", "top": 2},
    }[task]
    config["task"]["label"] = label | {"where": "event_type = 'purchase'", "horizon": "14 days"}
    tiny.write_text(yaml.safe_dump(config), encoding="utf-8")
    run = parse_experiment("", ["--config", str(tiny)])
    folder = prepare(run.name, run.data, run.task, run.text)
    found = json.loads((folder / "manifest.json").read_text())
    labels = {
        split: pq.read_table(folder / f"{split}.parquet")["label"].to_pylist() for split in ("validation", "test")
    }
    model = {split: np.full((len(of), 3), 1 / 3) for split, of in labels.items()} if task == "tiers" else None
    baselines = score_baselines(folder, found, {"train": 200}, model_scores=model)
    assert ("stack" in baselines.scores["test"]) == ("stack" in baselines.settings) == (task == "tiers")
    for split, of in labels.items():
        for scores in baselines.scores[split].values():
            assert len(scores) == len(of)
            assert np.isfinite(scores).all()
    gained = [quality(task, np.array(labels["test"]), baselines.scores["test"][name]) for name in ("rfm", "majority")]
    assert gained[0] > gained[1]


def test_boosting_by_the_absolute_error_learns_where_most_values_are_zero():
    random = np.random.default_rng(0)
    rows = random.uniform(0, 1, (2000, 1))
    spends = random.uniform(0, 1, 2000) < np.where(rows[:, 0] > 0.7, 0.9, 0.1)
    values = np.where(spends, random.lognormal(4, 0.5, 2000), 0.0)
    assert np.median(values) == 0
    made = boosting(
        Objective("value", ("euros",)), {"loss": "absolute_error", "min_samples_leaf": 50, "max_iter": 60}, seed=0
    )
    scores = made.fit(rows, values).predict(rows)
    for group in (rows[:, 0] > 0.7, rows[:, 0] < 0.7):
        assert np.median(scores[group]) == pytest.approx(np.median(values[group]), abs=3)
    np.testing.assert_allclose(list(made.staged_predict(rows))[-1], scores)
