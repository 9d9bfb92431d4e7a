"""What a run does not have, cannot measure or has in an old form."""

import json
import re

import numpy as np
import pytest

from data_prep import InputError
from finetune.figures.measures import MEASURES
from finetune.report.report import write_report
from tests.finetune.report.made_runs import (
    BELIEF,
    CURVES,
    FOREST,
    RANKING,
    ROWS,
    draw_run,
    edit_run,
    labels_and_scores,
    page_of,
    read_page,
    titles_of,
)


def test_a_page_of_one_seed_says_that_seeds_differ(bare):
    run = bare("binary")
    for seed, told in ((5, True), ([5, 6], False)):
        made = json.loads((run / "metrics.json").read_text())["made"]
        edit_run(run, {"made": made | {"seed": seed}})
        assert ("--seeds 0 1 2</code> tells how different" in read_page(run)) == told


@pytest.mark.parametrize("task", list(MEASURES))
def test_what_a_run_does_not_have_is_left_out(bare, task: str):
    text = read_page(bare(task))
    belief = [title for title in BELIEF.get(task, ["Calibration"]) if title != "Profit"]
    assert titles_of(text) == [FOREST, *RANKING[task], *CURVES.get(task, []), *belief]
    for absent in ("masked words", "<dt>Time</dt>", "Single seeds", "Inputs and training", "Contacted"):
        assert absent not in text or (task, absent) == ("binary", "Contacted")


def test_groups_that_cannot_be_measured_are_told_of(bare, full):
    gaps = {"equal_opportunity": None, "demographic_parity": 0.05, "demographic_parity_interval": [None, None]}
    slices = {"country": {"groups": [], "too_small": [{"value": "LU", "rows": 3}], "gaps": {}}}
    groups = json.loads((full("value") / "metrics.json").read_text())["slices"]["country"]["groups"]
    unknown = groups[0] | {"value": "BE", "mae": None, "mae_interval": [None, None]}
    slices["shop"] = {"groups": [*groups, unknown], "gaps": gaps}
    run = bare("value")
    edit_run(run, {"slices": slices})
    text = " ".join(read_page(run).split())
    assert titles_of(text)[-1] == "By shop"
    assert "Too few rows to measure: LU (3)." in text
    assert "share selected (demographic parity) 0.050, 95&nbsp;% interval –." in text  # noqa: RUF001
    assert "true positive rate (equal opportunity)" not in text
    assert '12 <span class="small">too few to tell</span>' in text
    assert "BE: – (–), 60 positives" in text  # noqa: RUF001


@pytest.mark.parametrize("task", list(MEASURES))
def test_labels_of_one_class_have_a_report(bare, task: str):
    run = bare(task)
    draw_run(run, labels=np.zeros_like(labels_and_scores(task)[0]))
    metrics = json.loads((run / "metrics.json").read_text())
    nothing = {key: None for key in metrics["test"] if key in MEASURES[task]}
    for scorer in (metrics["test"], *metrics["test"]["baselines"].values()):
        scorer |= nothing | {f"{key}_interval": [None, None] for key in nothing}
    metrics["test"]["positives"] = 0
    (run / "metrics.json").write_text(json.dumps(metrics))
    text = read_page(run)
    assert re.search(r"Only 0 c(as|lass)es .* in the test", text)
    assert "Calibration</h3>" not in text
    assert "nan" not in re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL)


@pytest.mark.parametrize("task", ["tiers", "value"])
def test_rows_without_a_score_are_left_out_of_the_pictures_and_counted(bare, task: str):
    run = bare(task)
    score = labels_and_scores(task)[1]["model"]
    score[:7] = np.nan
    draw_run(run, score=score)
    text = read_page(run)
    assert set(RANKING[task]) <= set(titles_of(text))
    assert "7 rows that a scorer gave no score" in text
    draw_run(run, score=np.full_like(score, np.nan))
    assert f"{ROWS} rows that a scorer gave no score" in read_page(run)


@pytest.mark.parametrize(("task", "score"), [("binary", 7.0), ("tiers", 0.0), ("propensity", -3.0), ("value", 0.0)])
def test_equal_scores_of_all_rows_have_a_report(bare, task: str, score: float):
    run = bare(task)
    draw_run(run, score=np.full_like(labels_and_scores(task)[1]["model"], score))
    assert set(RANKING[task]) <= set(titles_of(read_page(run)))


def test_a_missing_or_old_file_is_named_with_the_remedy(bare):
    run = bare("binary")
    (run / "metrics.json").write_text('{"name": "of an older version"}')
    with pytest.raises(InputError, match=r"metrics\.json is of an older version; run scripts/evaluate\.py again"):
        write_report(run)
    (run / "metrics.json").unlink()
    with pytest.raises(InputError, match=r"metrics\.json is missing; run scripts/train\.py"):
        write_report(run)


def test_few_positives_and_class_weights_are_warned_of(bare, full):
    assert 'class="warning"' not in page_of(full("value"))
    run = bare("value")
    edit_run(run, {"positives": 49}, "validation")
    assert "Only 49 cases with a value above 0 in validation" in read_page(run)
    weighted = bare("binary")
    edit_run(weighted, {"class_weights": [0.6, 2.4]}, "training")
    assert "Trained with class weights (no churn 0.6, churn 2.4)" in read_page(weighted)
    edit_run(run, {"positives": 48}, "test")
    assert "Only 48 cases with a value above 0 in the test:" in read_page(run)


def test_what_a_teacher_said_is_told(bare):
    run = bare("binary")
    assert "of what it learned" not in read_page(run)  # also of runs that were evaluated before there was one
    edit_run(run, {"teacher": 0.7}, "training")
    assert (
        "It learned 70\u00a0% from what boosting and regression say of a user, and 30\u00a0% from what users did."
        in read_page(run)
    )
