"""The curves of metrics.json are scikit-learn's, whatever the rows and their order are."""

import json

import numpy as np
import pytest
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from finetune.evaluation.curves import DECIMALS, GRID, POINTS, curves
from finetune.figures.metrics import compute_metrics
from finetune.figures.metrics_json import without_nan

CLASSES = [f"class {i}" for i in range(4)]


def made(task: str, rows: int, seed: int = 0, distinct: int | None = None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Labels and scores of three scorers; of scores rounded to so many distinct ones there are ties."""
    random = np.random.default_rng(seed)
    if task == "value":
        labels = np.maximum(random.normal(10, 20, rows), 0)
        return labels, {name: labels + random.normal(0, 20, rows) for name in ("model", "rule", "majority")}
    labels = random.integers(0, 2 if task == "binary" else 4, rows)
    if task == "propensity":
        labels = (random.random((rows, 4)) < [0.5, 0.3, 0.2, 0.05]).astype(np.int8)
    right = np.eye(4)[labels] if task == "tiers" else labels
    scores = {}
    for name in ("model", "rule", "majority"):
        scores[name] = 1 / (1 + np.exp(1 - 1.5 * right - random.normal(size=right.shape)))
        if distinct:
            scores[name] = np.round(scores[name] * distinct) / distinct
        if task == "tiers":
            scores[name] /= scores[name].sum(axis=1, keepdims=True)
    return labels, scores


def points(curve: dict) -> np.ndarray:
    return np.column_stack(list(curve.values()))


@pytest.mark.parametrize("distinct", [5, 60])
def test_a_curve_of_few_scores_is_scikit_learns_own(distinct):
    labels, scores = made("binary", 2000, distinct=distinct)
    found = curves("binary", None, labels, scores)
    assert set(found["roc"]) == set(found["precision_recall"]) == set(found["gain"]) == {"model", "rule"}
    for name, curve in found["roc"].items():
        expected = np.column_stack(roc_curve(labels, scores[name], drop_intermediate=False)[:2])
        np.testing.assert_allclose(points(curve), expected, atol=10**-DECIMALS)
        precision, recall, _ = precision_recall_curve(labels, scores[name])
        expected = np.column_stack((recall, precision))[-2::-1]  # without the point that no threshold gives
        curve = points(found["precision_recall"][name])
        np.testing.assert_allclose(curve[::2], expected, atol=10**-DECIMALS)
        np.testing.assert_array_equal(curve[1::2, 0], curve[:-1:2, 0])  # a step: up or down, and then along
        np.testing.assert_array_equal(curve[1::2, 1], curve[2::2, 1])


def test_differences_are_those_of_all_points():
    labels, scores = made("binary", 3000)
    found = curves("binary", None, labels, scores)["differences"]
    assert [*found] == ["roc", "precision_recall", "gain"]
    assert all([*of] == ["rule"] and len(of["rule"]) == GRID + 1 for of in found.values())
    false, true = ({name: roc_curve(labels, scores[name])[at] for name in ("model", "rule")} for at in (0, 1))
    heights = [np.interp(0.2, false[name], true[name]) for name in ("model", "rule")]
    assert found["roc"]["rule"][20] == pytest.approx(heights[0] - heights[1], abs=0.002)
    top = [labels[np.argsort(-scores[name])[:300]].sum() / labels.sum() for name in ("model", "rule")]
    assert found["gain"]["rule"][10] == pytest.approx(top[0] - top[1], abs=1e-6)
    order = {name: labels[np.argsort(-scores[name])] for name in ("model", "rule")}
    needed = [np.searchsorted(np.cumsum(of), 0.4 * labels.sum()) + 1 for of in order.values()]
    precisions = [0.4 * labels.sum() / rows for rows in needed]
    assert found["precision_recall"]["rule"][40] == pytest.approx(precisions[0] - precisions[1], abs=0.003)
    assert np.isnan(found["precision_recall"]["rule"][0])


@pytest.mark.parametrize("rows", [600, 3000, 50_000])
def test_a_thinned_curve_keeps_its_ends_and_the_area_of_the_metric(rows):
    labels, scores = made("binary", rows)
    found = curves("binary", None, labels, scores)
    for name, values in (("model", scores["model"]), ("rule", scores["rule"])):
        false, true = points(found["roc"][name]).T
        shares, captured = points(found["gain"][name]).T
        recall, precision = points(found["precision_recall"][name]).T
        assert max(len(false), len(shares), len(recall)) <= POINTS
        assert [false[0], true[0], shares[0], captured[0]] == [0, 0, 0, 0]
        assert [false[-1], true[-1], shares[-1], captured[-1], recall[-1]] == [1, 1, 1, 1, 1]
        assert precision[-1] == pytest.approx(labels.mean(), abs=1e-6)
        assert all((np.diff(x) >= 0).all() for x in (false, true, shares, captured, recall))
        auroc = roc_auc_score(labels, values)
        assert auc(false, true) == pytest.approx(auroc, abs=1e-3)
        # A ranking's gain is a mean of its ROC curve and the diagonal.
        assert auc(shares, captured) == pytest.approx(auroc * (1 - labels.mean()) + labels.mean() / 2, abs=1e-3)
        area = recall[0] * precision[0] + auc(recall, precision)
        assert area == pytest.approx(average_precision_score(labels, values), abs=1e-3)


def test_captured_values_have_the_gini_of_the_metric():
    labels, scores = made("value", 3000)
    found = curves("value", None, labels, scores)
    perfect = 2 * auc(*points(found["perfect_gain"]).T) - 1
    for name, curve in found["gain"].items():
        gini = (2 * auc(*points(curve).T) - 1) / perfect
        assert gini == pytest.approx(compute_metrics("value", labels, scores[name])["value_gini"], abs=2e-3)


def test_tiers_and_classes_have_the_auroc_that_scikit_learn_gives_them():
    labels, scores = made("tiers", 3000)
    found = curves("tiers", CLASSES, labels, scores)
    assert list(found["roc"]) == list(found["auroc"]) == CLASSES
    for at, name in enumerate(CLASSES):
        expected = roc_auc_score(labels == at, scores["model"][:, at])
        assert found["auroc"][name] == pytest.approx(expected)
        assert auc(*points(found["roc"][name]).T) == pytest.approx(expected, abs=1e-3)
    labels, scores = made("propensity", 500)
    labels[:, 2] = 1  # always there: no AUROC
    found = curves("propensity", CLASSES, labels, scores)
    assert found["class_auroc"]["classes"] == ["class 0", "class 1", "class 3"]
    assert found["class_auroc"]["positives"].tolist() == labels[:, [0, 1, 3]].sum(axis=0).tolist()
    for name, areas in found["class_auroc"]["auroc"].items():
        assert areas == pytest.approx([roc_auc_score(labels[:, at], scores[name][:, at]) for at in (0, 1, 3)])
    figures = compute_metrics("propensity", labels, scores["model"])
    last = [found["at_k"]["model"][key][-1] for key in ("precision", "recall")]
    assert last == pytest.approx([figures["precision_at_4"], figures["recall_at_4"]])


def test_bins_histograms_and_medians_are_those_of_the_rows():
    labels, scores = made("binary", 1000)
    model = scores["model"]
    found = curves("binary", None, labels, scores)
    order = np.argsort(model).reshape(10, 100)
    np.testing.assert_allclose(found["calibration"]["predicted"], model[order].mean(axis=1))
    np.testing.assert_allclose(found["calibration"]["observed"], labels[order].mean(axis=1))
    assert found["calibration"]["rows"] == [100] * 10
    told = [found["calibration"][key] for key in ("mean_score", "mean_label")]
    assert told == pytest.approx([model.mean(), labels.mean()])
    for name, part in (("all", model), ("negative", model[labels == 0]), ("positive", model[labels == 1])):
        histogram = found["histograms"][name]
        assert histogram["counts"].sum() == len(part)
        np.testing.assert_array_equal(np.histogram(part, histogram["edges"])[0], histogram["counts"])
        if name != "all":
            assert found["medians"][name] == np.median(part)


@pytest.mark.parametrize("distinct", [None, 7])
@pytest.mark.parametrize("task", ["binary", "tiers", "value", "propensity"])
def test_the_order_of_the_rows_does_not_matter(task, distinct):
    labels, scores = made(task, 700, distinct=distinct)
    order = np.random.default_rng(1).permutation(700)
    shuffled = curves(task, CLASSES, labels[order], {name: of[order] for name, of in scores.items()})
    one, other = (without_nan(of) for of in (curves(task, CLASSES, labels, scores), shuffled))
    assert numbers(one) == pytest.approx(numbers(other))


def numbers(of: object) -> list:
    """All of them, one after the other."""
    if isinstance(of, dict | list):
        return [number for part in (of.values() if isinstance(of, dict) else of) for number in numbers(part)]
    return [] if isinstance(of, str) else [of]


@pytest.mark.parametrize("task", ["binary", "tiers", "value", "propensity"])
def test_rows_that_a_scorer_gave_no_score_are_left_out_and_counted(task):
    labels, scores = made(task, 200)
    kept = np.arange(200) >= 5
    expected = curves(task, CLASSES, labels[kept], {name: of[kept] for name, of in scores.items()})
    scores["model"][:3] = np.nan
    scores["majority"][2:5] = np.inf
    found = curves(task, CLASSES, labels, scores)
    assert (found["rows"], found["unscored"]) == (195, 5)
    assert without_nan(found) == without_nan(expected | {"unscored": 5})


EMPTY = {
    "binary": ("roc", "precision_recall", "gain", "calibration", "histograms", "medians"),
    "tiers": ("roc", "auroc", "calibration", "histograms"),
    "value": ("gain", "perfect_gain"),
    "propensity": ("class_auroc", "at_k", "calibration", "histograms"),
}


@pytest.mark.parametrize("task", EMPTY)
def test_what_labels_cannot_give_is_empty(task):
    labels, scores = made(task, 50)
    nothing = labels[:0], {name: of[:0] for name, of in scores.items()}
    unscored = labels, {name: np.full_like(of, np.nan) for name, of in scores.items()}
    for given in (nothing, unscored, (np.zeros_like(labels), scores)):
        found = curves(task, CLASSES, *given)
        assert {key: found[key] for key in EMPTY[task]} == {key: {} for key in EMPTY[task]}
        assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize("rows", [2, 40])
@pytest.mark.parametrize("score", [-3.0, 0.0, 0.25, 7.0])
@pytest.mark.parametrize("task", EMPTY)
def test_equal_scores_of_all_rows_rank_by_chance(task, score, rows):
    labels, scores = made(task, rows)
    labels[0], labels[1] = 0, 1
    found = without_nan(curves(task, CLASSES, labels, {name: np.full_like(of, score) for name, of in scores.items()}))
    json.dumps(found, allow_nan=False)
    for curve in (*found.get("roc", {}).values(), *found.get("gain", {}).values()):
        assert points(curve).tolist() == [[0, 0], [1, 1]]
    areas = found.get("auroc") or found.get("class_auroc", {}).get("auroc")
    assert set(numbers(areas or {})) <= {0.5}
    if task == "binary":
        assert found["medians"] == {"positive": score, "negative": score}
    if task != "value":
        assert len(set(np.round(found["calibration"]["observed"], 9))) == 1
