"""Pictures draw what the figures are, and their readings say it."""

import re
import warnings

import matplotlib.style
import numpy as np
import pytest

from finetune.evaluation.curves import curves
from finetune.figures.measures import MEASURES, Measure, digits, measure
from finetune.report.overview_pictures import ends_of_differences
from finetune.report.pictures import PICTURE_STYLE, dots, flat_figure, inline_svg, square_figure
from finetune.report.run_pictures import cutoff_pictures, drift_pictures, loss_pictures, slice_pictures, text_pictures
from finetune.report.score_pictures import ranking_pictures
from finetune.wording import listed, named, number, percent, plain_number, span


@pytest.fixture(autouse=True)
def picture_style():
    """What pages are drawn in."""
    with matplotlib.style.context(["default", PICTURE_STYLE]):
        yield


def _part(auroc: float | None, positives: int = 60, **more: object) -> dict:
    bounds = [None, None] if auroc is None else [auroc - 0.02, auroc + 0.02]
    return {"rows": 100, "users": 90, "positives": positives, "auroc": auroc, "auroc_interval": bounds} | more


def _metrics(**more: object) -> dict:
    made = {"task": "binary", "main": "auroc", "lower_is_better": False, "test": _part(0.8) | {"baselines": {}}}
    return made | {"slices": {}, "by_cutoff": [], "drift": [], "lengths": {}} | more


def test_a_dot_is_hollow_where_there_are_few_positives_and_absent_where_there_is_no_value():
    axes = flat_figure(3).subplots()
    dots(axes, [0.7, None, 0.9], [[0.6, 0.8], [None, None], None], [True, True, False])
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[0.7, 0]], [[0.9, 2]]]
    assert [line.get_markerfacecolor() == "none" for line in axes.lines] == [False, True]
    assert len(axes.collections) == 1
    assert axes.get_ylim() == (2.5, -0.5)


def test_letters_that_a_font_lacks_colours_and_marks_of_markup_are_no_matter():
    figure = square_figure()
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#0072b2")
    axes.set_xlabel("店 $x$ <b>")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svg = inline_svg(figure, "name", 'a "quoted" <text>')
    assert svg.startswith('<svg role="img" aria-label="a &#34;quoted&#34; &lt;text&gt;" viewBox=')
    assert "店 $x$ &lt;b&gt;" in svg
    assert "var(--blue)" in svg
    assert not re.search(r"#0072b2|#111111|#666666|#dddddd", svg)


def test_groups_are_told_by_name_with_the_best_and_the_worst():
    groups = [_part(0.75, value="NL"), _part(0.9, value="$a$"), _part(None, value="none"), _part(0.6, 12, value="DE")]
    metrics = _metrics(slices={"country": {"groups": groups}, "empty": {"groups": [], "too_small": []}})
    (picture,) = slice_pictures(metrics)
    assert picture.title == "By country"
    assert picture.reading.startswith(
        "AUROC runs from 0.600 (DE) to 0.900 ($a$); their intervals do not overlap. The two"
    )
    assert "were picked from 3 groups after looking" in picture.reading
    assert "none: \u2013 (\u2013), 60 positives" in picture.svg
    assert "$a$ (100)" in picture.svg
    (picture,) = slice_pictures(metrics | {"lower_is_better": True})
    assert picture.reading.startswith("AUROC runs from 0.900 ($a$) to 0.600 (DE)")
    metrics["slices"]["country"]["groups"] = groups[:1]
    assert slice_pictures(metrics)[0].reading == "AUROC is 0.750 in the only group measured, NL."
    metrics["slices"]["country"]["groups"] = [_part(None, value="NL")]
    assert slice_pictures(metrics)[0].reading == "AUROC can be told for none of the groups."


def test_only_the_largest_groups_of_many_are_drawn():
    groups = [
        _part(0.7, value=f"group {i}") | {"rows": 1000 + i} for i in reversed(range(50))
    ]  # as metrics.json has them
    (picture,) = slice_pictures(_metrics(slices={"shop": {"groups": groups}}))
    assert "group 49 (1,049)" in picture.svg
    assert "group 30 (1,030)" in picture.svg
    assert "group 29" not in picture.svg
    assert "The 20 largest of 50 groups" in picture.reading


def test_decay_is_told_by_the_first_and_the_last_cutoff():
    assert cutoff_pictures(_metrics(by_cutoff=[_part(0.8, cutoff="2024-01-01")])) == []
    points = [_part(value, cutoff=f"2024-01-{day:02}") for day, value in enumerate((0.8, 0.9, 0.79), 1)]
    points[-1] |= {"auroc_change": -0.01, "auroc_change_interval": [-0.0251, 0.0052]}
    (picture,) = cutoff_pictures(_metrics(by_cutoff=points))
    assert picture.reading == (
        "AUROC is 0.800 at the first test cutoff and 0.790 at the last: changed by "
        "\u22120.0100 [\u22120.0251, +0.0052] since the first cutoff (95\u00a0% interval)."
    )
    many = [_part(0.8, cutoff=f"2024-{month:02}-01 12:00") for month in range(1, 13)] * 3
    assert cutoff_pictures(_metrics(by_cutoff=many))[0].svg.count("2024-01-01</text>") <= 6


def test_drift_counts_the_inputs_beyond_the_usual_marks():
    moved = [{"input": f"input {i}", "psi": psi} for i, psi in enumerate([0.5, 0.2, 0.05] + 20 * [0.01] + [None])]
    (picture,) = drift_pictures(_metrics(drift=moved))
    assert picture.reading.startswith("Of 23 inputs 2 moved by more than 0.1, which")
    assert "and 1 by more than 0.25, much drift. The largest is input 0 with 0.50. 21 moved by 0.05" in picture.reading
    many = [{"input": f"input {i}", "psi": 0.2} for i in range(18)]
    assert "0 moved by 0.05 or less and are not drawn. Of the others the 15 largest are." in (
        drift_pictures(_metrics(drift=many))[0].reading
    )
    assert drift_pictures(_metrics(drift=[{"input": "a", "psi": None}])) == []


def test_drift_is_drawn_above_a_twentieth_and_its_inputs_are_called_in_words():
    psi = {"target_28d": 0.3, "type_mailing_7d": 0.07, "value_mean": 0.05, "gap_mean": 0.01}
    entries = [{"input": name, "psi": of, "ages": False} for name, of in psi.items()]
    entries.append({"input": "value_sum", "psi": 0.33, "ages": True})
    (picture,) = drift_pictures(_metrics(drift=entries))
    assert "target events in the last 28 days: 0.30<" in picture.svg
    assert "mailings in the last 7 days: 0.07<" in picture.svg
    assert "mean value" not in picture.svg
    assert "with 0.30. 2 moved by 0.05 or less and are not drawn. Look at" in picture.reading
    assert "Not drawn are sum of value in all (0.33): they count from" in picture.reading
    assert picture.reading.endswith("Target events are those that the label is about.")
    assert not re.search(r"\w_\w", picture.reading)
    (still,) = drift_pictures(_metrics(drift=entries[2:4]))
    assert still.svg == ""
    assert still.reading.startswith("Of 2 inputs 0 moved by more than 0.1,")
    assert "largest" not in still.reading


def _training(**more: object) -> dict:
    series = {"loss": [0.9, 0.5], "eval_loss": [0.6, 0.4], "eval_auroc": [0.7, 0.8], "pretraining_loss": [5.0, 4.0]}
    drawn = {key: {"steps": [20, 40], "values": values} for key, values in series.items()}
    return {"steps": 40, "pretraining_steps": 40} | drawn | more


def test_losses_of_different_targets_are_not_drawn_on_one_axis():
    (alone,) = loss_pictures(_metrics(training=_training()))
    assert "Fine-tuning: loss<" in alone.svg
    assert "cannot be held against the other" not in alone.reading
    (taught,) = loss_pictures(_metrics(training=_training(teacher=0.7)))
    assert "Fine-tuning: loss<" not in taught.svg
    assert "training loss, with the teacher" in taught.svg
    assert "Fine-tuning: validation loss, of labels alone<" in taught.svg
    assert (
        "The loss of training is to 70\u00a0% the distance to what the teacher says, that of validation is of the "
        "labels alone: the one cannot be held against the other." in taught.reading
    )


def test_the_axis_of_the_differences_ends_where_they_end():
    values, spans = [0.0046, -0.0014, 0.154], [[0.0025, 0.0067], [-0.0035, 0.0006], [0.14, 0.168]]
    low, high = ends_of_differences(values, spans, 1)
    assert (low, high) == pytest.approx((-0.0035 - 0.00102, 0.0067 + 0.35 * 0.0102))  # room for the third one's number
    assert ends_of_differences(values[:1], spans[:1], 0) == pytest.approx((-0.00067, 0.00737))
    assert ends_of_differences([-2.0], [[-3.0, -1.0]], 0) == pytest.approx((-3.3, 0.3))
    assert ends_of_differences([0.0], [None], 0) == (-0.1, 0.1)


def test_half_of_the_texts_is_within_the_length_that_is_told():
    lengths = {
        "train": {"edges": [0, 8, 16, 24], "counts": [1, 4, 5]},
        "test": {"edges": [0, 8, 16, 24], "counts": [0] * 3},
    }
    training = {"steps": 4, "padding_fraction": {"steps": [2, 4], "values": [0.1, 0.3]}}
    (picture,) = text_pictures(_metrics(lengths=lengths, training=training))
    assert (
        picture.reading
        == "Half of the train texts have at most 16 tokens and 20.0\u00a0% of the training batches was padding."
    )


def test_single_classes_are_told_with_their_auroc_as_the_curves_have_it():
    random = np.random.default_rng(0)
    labels, scores = random.integers(0, 3, 300), random.dirichlet(np.ones(3), 300)
    test = {"confusion": np.full((3, 3), 30).tolist(), "baselines": {}}
    metrics = {"task": "tiers", "classes": ["a", "b", "c"], "test": test}
    metrics["curves"] = curves("tiers", ["a", "b", "c"], labels, {"model": scores})
    _, picture = ranking_pictures(metrics)
    for name, area in metrics["curves"]["auroc"].items():
        assert f"{name} {area:.3f}" in picture.reading
    many = (random.random((300, 30)) < np.linspace(0.5, 0.02, 30)).astype(np.int8)
    many[:, 0] = 1  # always there: no AUROC
    classes, scores = [f"class {i}" for i in range(30)], random.random((300, 30))
    test = {"auroc": 0.5, "recall_at_10": 0.25, "baselines": {"majority": {}}}
    found = curves("propensity", classes, many, {"model": scores, "majority": np.zeros((300, 30))})
    areas, at_k = ranking_pictures({"task": "propensity", "classes": classes, "test": test, "curves": found})
    at = found["class_auroc"]["classes"].index("class 1")
    assert f"class 1: Model {found['class_auroc']['auroc']['model'][at]:.3f};" in areas.svg
    assert "class 0:" not in areas.svg
    assert at_k.reading == "For the model recall at 10 is 25.0\u00a0%."


def test_numbers_are_written_as_people_write_them():
    assert number(-0.01234, 4, "+") == "\u22120.0123"
    assert [number(value, None) for value in (12345.6, 123.456, 1.5, 0.001234, 0, None)] == [
        *("12,346", "123.5", "1.500", "0.001", "0", "\u2013")
    ]
    # The end of an interval shows on which side of zero it is, whatever the number of decimals.
    assert span([-0.00048, 0.0066], 3, "+") == "\u22120.0005 to +0.007"
    assert span([0.00048, 0.0066], 3, "+") == "+0.0005 to +0.007"
    assert [number(value, 3, "+") for value in (0.0, -0.0, -0.012, 2e-7, -3e-12)] == [
        *("0.000", "0.000", "\u22120.012", "+0.0000002", "\u22123e\u221212")
    ]
    assert [number(value, 0, "+") for value in (-0.4, 3.0)] == ["0", "+3"]
    assert plain_number(-0.00003, 4, "+") == "-0.00003"
    assert percent(0.1234, 1) == "12.3\u00a0%"
    assert span([0.1, None]) == span(None) == number(float("nan")) == "\u2013"
    assert [listed(words) for words in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
    assert (named("rfm"), named("gradient_boosting")) == ("RFM", "Gradient boosting")


@pytest.mark.parametrize(("task", "key"), [(task, key) for task, keys in MEASURES.items() for key in keys])
def test_every_metric_is_explained(task, key):
    assert measure(key, task).title
    assert measure(key, task).meaning


def test_a_measure_has_the_name_that_its_task_gives_it():
    assert measure("recall_at_10", "binary").title == "Recall at the top 10\u00a0%"
    assert measure("recall_at_10", "propensity").title == "Recall at 10"
    assert "each against the rest" in measure("auroc", "tiers").meaning
    assert measure("something_new", "binary") == Measure("Something new")
    assert measure("precision_at_4", "propensity").title == "Precision at 4"
    assert "4 highest-scored" in measure("precision_at_4", "propensity").meaning
    assert digits("mae") is None
