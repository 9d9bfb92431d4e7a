"""The first screen: its sentences, that its figures are those of metrics.json, and the page's script."""

import html
import json
import re
import shutil
from datetime import date, timedelta
from pathlib import Path

import pytest

from finetune import wording as words
from finetune.figures.measures import best_rival
from finetune.figures.metrics_json import read_metrics
from finetune.report.decision import advice, answers, decision
from finetune.report.report import write_report
from tests.browser import run_in


def contact_figures(**changed) -> dict:
    """2,034 users, 415 of whom leave; each per cent contacted finds a little less."""
    shares = [at / 100 for at in range(101)]
    contacted = [round(2034 * share) for share in shares]
    found = [415 * (1 - (1 - share) ** 3) for share in shares]
    return {
        "cutoff": "2017-11-06",
        "users": 2034,
        "total": 415.0,
        "share": 0.1,
        "shares": shares,
        "contacted": contacted,
        "found": {"model": found, "gradient_boosting": found, "majority": [415 * share for share in shares]},
        "low": [value * 0.9 for value in found],
        "high": [value * 1.1 for value in found],
        "ahead": {},
        "contacted_at": 203.0,
        "found_at": {"model": 118.0, "gradient_boosting": 118.0, "majority": 41.5},
        "found_at_interval": [103.2, 132.8],
        "difference_at": {
            "gradient_boosting": {"difference": 0.0, "interval": [-5.0, 6.0]},
            "majority": {"difference": 76.5, "interval": [60.0, 90.0]},
        },
    } | changed


def figures(interval: tuple[float, float], blend: tuple[float, float] = (-0.001, 0.002), **changed) -> dict:
    """`interval` is of model minus boosting, `blend` of blend minus boosting."""
    rival = {"auroc": 0.83, "auroc_difference": sum(interval) / 2, "auroc_difference_interval": list(interval)}
    return {
        "task": "binary",
        "main": "auroc",
        "lower_is_better": False,
        "label": "churn",
        "contact": contact_figures(),
        "horizon": "14 days",
        "made": {
            "evaluation": {"costs": {"contact": 1.0, "kept_customer": 5.0}},
            "log": {"first": "2017-01-01 07:12", "last": "2017-12-31", "events": 164235, "users": 2469},
        },
        "training": {"teacher": None},
        "verdict": "On the test cutoffs the model is behind gradient boosting.",
        "collapsed": [],
        "seeds": {},
        "drift": [
            {"input": "type_mailing_recency_days", "psi": 0.83},
            {"input": "value_sum_28d", "psi": 0.3},
            {"input": "tenure_days", "psi": 4.4, "ages": True},
            {"input": "hour_mean", "psi": None},
        ],
        "timeline": {"train": {"cutoffs": ["2017-04-03", "2017-08-14"], "rows": 40162}},
        "by_cutoff": [
            {"cutoff": "2017-09-25", "auroc": 0.841},
            {"cutoff": "2017-11-06", "auroc": 0.824, "auroc_change_interval": [-0.02, 0.01]},
        ],
        "curves": {"calibration": {"mean_score": 0.196, "mean_label": 0.2048}},
        "test": {
            "rows": 4012,
            "users": 2253,
            "cutoffs": ["2017-09-25", "2017-11-06"],
            "auroc": 0.83 + sum(interval) / 2,
            "baselines": {
                "gradient_boosting": rival,
                "majority": rival | {"auroc": 0.5},
                "blend": {"auroc": 0.84, "auroc_difference_interval": [-0.005, -0.001]}
                | {"over": {"gradient_boosting": {"difference": sum(blend) / 2, "interval": list(blend)}}},
                "stack": rival | {"auroc": 0.99},
            },
        },
    } | changed


def test_the_first_screen_says_whom_to_contact_and_what_that_finds_in_plain_words():
    said = decision(figures((-0.003, 0.001)))
    assert said["headline"] == "Contact the 10\u00a0% most likely to leave: 203 of 2,034 users."
    assert said["found"] == (
        "On 2017-11-06, the last day of the test, 118 of them (58\u00a0%) really left in the 14 days after it: 2.8 "
        "times as many as by chance, and between 103 and 133 among other users like these."
    )
    better, trusted, learned = (text for _, text in answers(figures((-0.003, 0.001))))
    assert better == (
        "No, but as good. Over all days of the test it and gradient boosting, the best usual way, cannot be told "
        "apart: of 1,000 pairs of a user who left and one who did not, this model orders 829 rightly and gradient "
        "boosting 830, a difference of \u22121 (\u22123 to +1). Keep gradient boosting if you have it. On the last day "
        "alone, the same 203 contacts find 118 by this model, 118 by gradient boosting and 41 by chance; among other "
        "users like these a count may be 15 more or less."
    )
    assert trusted == (
        "It was asked 4,012 times about 2,253 users, on 2 days from 2017-09-25 to 2017-11-06, later than all that it "
        "learned from. It expected 19.6\u00a0% of these to leave, and 20.5\u00a0% did. On the last of these days it "
        "was as good as on the first, as far as this test can tell (824 of 1,000 pairs in the right order, after 841). "
        "2 things that it reads have changed much since its training, most of all days since the last mailing. If that "
        "is here to stay, train again."
    )
    assert learned == (
        "From 40,162 examples: what users had done since 2017-01-01, before each of 2 days from 2017-04-03 to "
        "2017-08-14, and what came in the 14 days after it. Nothing from 2017-08-28 on taught it; the time "
        "from then to the test only chose between versions of it."
    )
    assert said["money"].endswith("that earns 387, between 313 and 461.")
    for sentence in said["headline"], said["found"], said["money"], better, trusted, learned:
        assert not re.search(r"\brows?\b|positive|SQL|AUROC", sentence)


def test_what_a_reader_sees_first_has_no_word_of_the_trade(evaluated):
    page = (evaluated.run_folder / "report.html").read_text(encoding="utf-8")
    first = re.sub(r"<[^>]+>", " ", page[page.index("<header>") : page.index("<h2")])
    assert not re.search(r"\brows?\b|positive|SQL|event_type|cutoff|split", first)
    for asked in ("Who is that this week?", "Is it better", "Can it be trusted?", "What did it learn from?"):
        assert asked in first


def test_a_threshold_by_money_is_said_first_with_what_it_earns():
    profit = {
        "share_at_threshold": 0.3124,
        "profit_at_threshold": 1234.4,
        "profit_at_threshold_interval": [990.2, 1502],
    }
    metrics = figures((-0.003, 0.001), profit=profit, calibration={"threshold": 0.25, "threshold_by": "money"})
    assert decision(metrics)["by_money"] == (
        "To earn most, contact everyone with a score from 0.250 on, as was best before the test: 31\u00a0% of the "
        "users over the 2 test days, which earned 1,234, between 990 and 1,502."
    )
    none = profit | {"share_at_threshold": 0.0, "profit_at_threshold": 0.0}
    assert decision(metrics | {"profit": none})["by_money"].startswith("At these costs no contact pays:")
    for other in (
        {"calibration": {"threshold": 0.25, "threshold_by": "budget"}},
        {"calibration": None},
        {"profit": None},
    ):
        assert decision(metrics | other)["by_money"] == ""


def test_the_first_screen_says_that_a_model_says_the_same_of_everyone():
    asked = "Can it be trusted?"
    same = "says nearly the same of everyone: it has learned next to nothing that tells one user from another."
    constant = figures((-0.003, 0.001), collapsed=[7])
    assert dict(answers(constant))[asked].startswith(f"The model {same} It was asked 4,012 times")
    one = constant | {"seeds": {"7": {}, "8": {}}}
    assert dict(answers(one))[asked].startswith(f"The model of seed 7 {same} It was asked 4,012 times")
    assert dict(answers(figures((-0.003, 0.001))))[asked].startswith("It was asked 4,012 times")


def test_a_model_that_became_worse_says_so():
    worse = [{"cutoff": "2017-09-25"}, {"cutoff": "2017-11-06", "auroc_change_interval": [-0.05, -0.01]}]
    trusted = dict(answers(figures((-0.003, 0.001), by_cutoff=worse, drift=[])))["Can it be trusted?"]
    assert trusted.endswith(
        "It was worse on the last of these days than on the first, by more than chance: train again."
    )
    bare = figures((-0.003, 0.001), by_cutoff=[], curves={}, timeline=None, contact=None)
    assert [asked for asked, _ in answers(bare)] == ["Is it better than the usual ways?", "Can it be trusted?"]


def test_other_labels_and_other_shares_are_named_as_they_are():
    said = decision(figures((-0.003, 0.001), label="refund", contact=contact_figures(share=0.125)))
    assert "the 12.5\u00a0% most likely to come out as refund" in said["headline"]
    found = contact_figures(found_at={"model": 118.0, "gradient_boosting": 110.0})
    better = dict(answers(figures((-0.003, 0.001), contact=found)))["Is it better than the usual ways?"]
    assert "contacts find 118 by this model, 110 by gradient boosting and " in better
    assert decision(figures((-0.003, 0.001), contact=None)) is None


@pytest.mark.parametrize(
    ("interval", "blend", "said"),
    [
        (
            (0.001, 0.005),
            (0.001, 0.004),
            "Yes, use this model. Over all days of the test it is better than gradient boosting, the best usual way: ",
        ),
        (
            (-0.005, -0.001),
            (0.001, 0.004),
            "No, use gradient boosting for this log. Over all days of the test it is better than this",
        ),
        (
            (-0.003, 0.001),
            (0.001, 0.004),
            "No, but as good. Over all days of the test it and gradient boosting, the best usual way, cannot be told",
        ),
        (
            (-0.003, 0.001),
            (0.001, 0.004),
            "The mean of this model and boosting is better than either, by more",
        ),
        ((-0.003, 0.001), (-0.001, 0.002), "Keep gradient boosting if you have it."),
        (
            (-0.005, -0.001),
            (0.001, 0.004),
            "The mean of this model and boosting is better still, by more than",
        ),
    ],
)
def test_the_advice_follows_the_interval_and_never_the_scorers_that_know_the_model(interval, blend, said):
    metrics = figures(interval, blend)
    assert best_rival(metrics["test"]["baselines"], "auroc") == "gradient_boosting"
    assert said in advice(metrics)
    assert ("The mean of" in advice(metrics)) == (blend[0] > 0 and interval[0] < 0)
    del metrics["test"]["baselines"]["blend"]["over"]  # as in older files
    assert "The mean of" not in advice(metrics)


def test_without_an_interval_nothing_is_advised():
    metrics = figures((-0.003, 0.001))
    for entry in metrics["test"]["baselines"].values():
        entry["auroc_difference_interval"] = [None, None]
    assert advice(metrics) == "This test cannot tell which way is the best."


def test_every_number_of_the_first_screen_is_one_of_metrics_json(evaluated):
    metrics = json.loads((evaluated.run_folder / "metrics.json").read_text())
    contact, said = metrics["contact"], decision(metrics)
    numbers = {int(text.replace(",", "")) for text in re.findall(r"(?<![\d-])\d[\d,]*(?![\d.-])", said["headline"])}
    assert numbers == {round(100 * contact["share"]), round(contact["contacted_at"]), contact["users"]}
    assert f"test, {contact['found_at']['model']:.0f} of them" in said["found"]
    low, high = contact["found_at_interval"]
    assert f"between {low:.0f} and {high:.0f}" in said["found"]
    chance = contact["total"] * contact["contacted_at"] / contact["users"]
    assert f": {contact['found_at']['model'] / chance:.1f} times" in said["found"]
    for row in said["rows"]:
        assert row["found"] == contact["found"]["model"][row["share"]]
        assert row["missed"] == pytest.approx(contact["total"] - row["found"])


def test_every_number_of_the_answers_is_one_of_metrics_json(evaluated):
    metrics = read_metrics(evaluated.run_folder)
    said = " ".join(text for _, text in answers(metrics))
    contact, test, sums = metrics["contact"], metrics["test"], metrics["curves"]["calibration"]
    rival = test["baselines"][best_rival(test["baselines"], "auroc")]
    known = {words.number(found, 0) for found in contact["found_at"].values()}
    known.add(words.number(contact["total"] * contact["contacted_at"] / contact["users"], 0))
    low, high = contact["found_at_interval"]
    known.add(words.number((high - low) / 2, 0))
    at_ends = (metrics["by_cutoff"][0]["auroc"], metrics["by_cutoff"][-1]["auroc"])
    pairs = (*at_ends, test["auroc"], rival["auroc"], rival["auroc_difference"], *rival["auroc_difference_interval"])
    known |= {words.number(1000 * value, 0).strip("\u2212") for value in pairs} | {"1,000"}
    known |= {words.percent(sums[key], 1).split("\u00a0")[0] for key in ("mean_score", "mean_label")}
    split = metrics["timeline"]["train"]
    known |= {words.number(count, 0) for count in (test["rows"], test["users"], split["rows"], contact["contacted_at"])}
    known |= {str(len(cutoffs)) for cutoffs in (test["cutoffs"], split["cutoffs"])} | {metrics["horizon"].split()[0]}
    known.add(str(sum(not entry["ages"] and (entry["psi"] or 0) > 0.25 for entry in metrics["drift"])))
    days = {cutoff[:10] for cutoff in (*test["cutoffs"], *split["cutoffs"], metrics["made"]["log"]["first"])}
    end = date.fromisoformat(max(split["cutoffs"])[:10]) + timedelta(days=int(metrics["horizon"].split()[0]))
    assert set(re.findall(r"\d{4}-\d\d-\d\d", said)) <= days | {str(end)}
    named = re.sub(r"\d{4}-\d\d-\d\d|since its training.*?\.", "", said)
    assert set(re.findall(r"\d+(?:,\d{3})*(?:\.\d+)?", named)) <= known


def test_the_slider_shows_the_figures_of_each_share(evaluated):
    contact = json.loads((evaluated.run_folder / "metrics.json").read_text())["contact"]
    page = (evaluated.run_folder / "report.html").read_text(encoding="utf-8")
    moved = """[1, 5, 10, 20, 50].map((share) => {
      input.value = share;
      input.dispatchEvent(new Event("input"));
      return ["percent", "contacted", "found", "missed", "precision", "lift"]
        .map((name) => document.getElementById("contact-" + name).textContent);
    })"""
    seen = json.loads(html.unescape(run_in(page, moved)))
    chance = contact["total"] / contact["users"]
    for (percent, contacted, found, missed, right, lift), share in zip(seen, (1, 5, 10, 20, 50), strict=True):
        expected, reached = contact["found"]["model"][share], contact["contacted"][share]
        assert percent == f"{share}\u00a0%"
        assert int(contacted) == reached
        assert int(found) == pytest.approx(expected, abs=0.5)
        assert int(missed) == pytest.approx(contact["total"] - expected, abs=0.5)
        assert right == words.percent(expected / reached)
        assert lift == f"{expected / reached / chance:.1f}"


def test_a_share_is_rounded_alike_in_the_sentence_the_table_and_the_slider(evaluated, tmp_path):
    run = shutil.copytree(evaluated.run_folder, tmp_path / "run")
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["contact"] = contact_figures(contacted_at=200.0)
    metrics["contact"]["contacted"][10], metrics["contact"]["users"] = 200, 2000
    for found in (117.0, 119.0):  # 58.5 and 59.5 %: halves go to the even number
        metrics["contact"]["found_at"]["model"] = metrics["contact"]["found"]["model"][10] = found
        (run / "metrics.json").write_text(json.dumps(metrics))
        page = Path(write_report(run)).read_text(encoding="utf-8")
        slider = html.unescape(run_in(page, "document.getElementById('contact-precision').textContent"))
        said = {slider.strip('"'), re.search(r"of them \((.*?)\) really", page)[1]}
        said.add(re.search(r"<tr><th scope=\"row\">10&nbsp;%.*?<td>(\d+\u00a0%)</td>", page)[1])
        assert said == {f"{round(found / 2)}\u00a0%"}


@pytest.mark.parametrize("width", [390, 1400])
def test_the_table_of_contacts_needs_no_scrolling(evaluated, width):
    page = (evaluated.run_folder / "report.html").read_text(encoding="utf-8")
    wide = "(table => [table.scrollWidth, table.parentElement.clientWidth])(document.querySelector('table.contact'))"
    table, room = json.loads(run_in(page, wide, width))
    assert 0 < table <= room


def test_the_picture_of_contacts_says_the_difference_at_the_budget(evaluated):
    metrics = json.loads((evaluated.run_folder / "metrics.json").read_text())
    rival = best_rival(metrics["test"]["baselines"], "auroc")
    there = metrics["contact"]["difference_at"][rival]
    low, high = there["interval"]
    said = f"at 10\u00a0% {words.number(there['difference'], 0, '+')} ({words.span([low, high], 0, '+')})."
    assert said in (evaluated.run_folder / "report.html").read_text(encoding="utf-8")


def test_a_file_that_is_no_explanation_is_refused_and_one_of_a_sample_is_shown(evaluated, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(evaluated.run_folder, run)
    assert "Not looked into yet" in Path(write_report(run)).read_text()
    cause = {"cause": "the time between events", "users": 40, "score_change": 0.076, "raises": "a long gap"}
    rare = cause | {"cause": "a rare thing", "users": 3}
    (run / "explanation.json").write_text(json.dumps({"causes": [rare, *[cause] * 7]}))
    text = Path(write_report(run)).read_text()
    assert text.count("The time between events: moves a score by 7.6 percentage points on average.") == 5
    assert text.count("Raises it most: a long gap.") == 5
    assert "rare thing" not in text
    assert "Not looked into yet" not in text
