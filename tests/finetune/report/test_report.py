"""The report is one file that shows the run's own figures, to every reader and without a request to anywhere."""

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from finetune.figures.measures import MEASURES, digits
from finetune.report.report import smallest_seen, write_report
from finetune.wording import number
from tests.browser import assert_quiet_and_narrow, run_in, show
from tests.finetune.report.made_runs import (
    BELIEF,
    CURVES,
    FOREST,
    LEARNED,
    RANKING,
    edit_run,
    page_of,
    read_page,
    titles_of,
)


class Page(HTMLParser):
    """Elements as (tag, attributes), and the text of each cell of the table of scorers, by row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements, self.tables, self.in_cell = [], [], False
        self.feed(text)
        ours = ("Model", "A single model")
        self.rows = next((table for table in self.tables if any(row[0] in ours for row in table)), [])

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.in_cell:
            row = self.tables[-1][-1]
            row[-1] = " ".join(f"{row[-1]} {data}".split())


@pytest.mark.parametrize("task", list(MEASURES))
def test_the_page_refers_to_nothing_outside_itself(full, task: str):
    text = page_of(full(task))
    assert not re.search(r"https?:|//\w+\.\w+", text)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))
    assert "@import" not in text
    assert "default-src 'none'" in text
    elements = Page(text).elements
    assert not {"iframe", "object", "embed"} & {tag for tag, _ in elements}
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)  # the slider's, which the policy knows by its hash
    assert len(scripts) == (task in ("binary", "value", "survival"))
    for script in scripts:
        hashed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"script-src 'sha256-{hashed}'" in text
    assert "unsafe-inline" not in re.sub("style-src 'unsafe-inline'", "", text)
    targets = [attrs[key] for _, attrs in elements for key in ("src", "href", "xlink:href", "srcset") if key in attrs]
    assert all(target.startswith(("#", "data:")) for target in targets)


CONTACTED = {"binary": ["Found beyond majority"], "value": ["Found beyond recency rule"]}  # the best ones there
CONTACTED["survival"] = CONTACTED["binary"]


REST = ["By country", "Texts", "Training", "Drift of the inputs"]


@pytest.mark.parametrize("task", list(MEASURES))
def test_each_kind_of_label_has_its_pictures_each_with_a_text_and_a_caption(full, task: str):
    text = page_of(full(task))
    shown = [*CONTACTED.get(task, []), FOREST, *LEARNED, *RANKING[task], "By cutoff", *CURVES.get(task, [])]
    titles = shown + BELIEF.get(task, ["Calibration"]) + REST
    assert titles_of(text) == titles
    pictures = [attrs for tag, attrs in Page(text).elements if tag in ("img", "svg")]
    assert len(pictures) == len(titles) - 1  # of a user who is made up there are words
    assert all(len(attrs.get("alt") or attrs["aria-label"]) > 40 for attrs in pictures)
    assert len(re.findall(r"<figcaption>[^<]{40,}<", text)) == len(titles)


def test_the_user_who_is_made_up_is_told_event_by_event_and_as_the_text_that_the_model_reads(full):
    text = " ".join(page_of(full("binary")).split())
    assert "<li><strong>12 days before</strong> purchase, amount 20.5, shop north</li>" in text
    assert "<li><strong>1 day before</strong> view &lt;b&gt;</li>" in text
    assert "recency_days=1 [SEP] gap=11 &lt;b&gt;</code>" in text


@pytest.mark.parametrize("task", list(MEASURES))
def test_ids_are_unique_and_references_point_to_them_and_no_heading_level_is_left_out(full, task: str):
    text = page_of(full(task))
    ids = [attrs["id"] for _, attrs in Page(text).elements if "id" in attrs]
    assert len(set(ids)) == len(ids)
    targets = re.findall(r'(?:url\(|href=")#([^)"]+)|aria-labelledby="([^"]+)"', text)
    assert {one or other for one, other in targets} <= set(ids)
    levels = [int(tag[1]) for tag, _ in Page(text).elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_the_table_shows_the_figures_of_metrics_json(bare):
    run = bare("binary")
    metrics = json.loads((run / "metrics.json").read_text())
    ahead = {"auroc_difference": 0.1011, "auroc_difference_interval": [0.0512, 0.1513]}
    metrics["test"]["baselines"]["recency_rule"] |= ahead
    metrics["test"]["baselines"]["rfm"] |= {"auroc_difference": -0.0111, "auroc_difference_interval": [-0.0242, 0.0013]}
    nothing = {"auroc": None, "auroc_interval": [None, None], "average_precision_interval": None}
    metrics["test"]["baselines"]["majority"] |= nothing
    (run / "metrics.json").write_text(json.dumps(metrics))
    rows = {row[0]: row[1:] for row in Page(read_page(run)).rows}
    assert rows["Model"] == ["0.800 0.780 to 0.820", "", "0.760 0.740 to 0.780", "", "0.722", "2.017"]
    assert rows["Recency rule"][:2] == ["0.700 0.680 to 0.720", "+0.1011 +0.0512 to +0.1513 model ahead"]
    assert rows["RFM"][1] == "−0.0111 −0.0242 to +0.0013 includes zero"  # noqa: RUF001
    assert rows["Majority"][0] == "– –"  # noqa: RUF001
    assert rows["Majority"][2] == "0.779"


@pytest.mark.parametrize(
    ("interval", "said"), [([0.01, 0.02], "Yes, use this model."), ([-0.02, -0.01], "No, use RFM")]
)
def test_of_several_seeds_the_page_judges_a_single_model_and_shows_their_mean_beside(bare, interval, said):
    run = bare("binary")
    metrics = json.loads((run / "metrics.json").read_text())
    test = metrics["test"]
    beside = {"auroc_difference": sum(interval) / 2, "auroc_difference_interval": interval}
    other = {"auroc_difference": -beside["auroc_difference"], "auroc_difference_interval": [-interval[1], -interval[0]]}
    figures = {"auroc": 0.8123, "auroc_interval": [0.8, 0.82], "deviation": 0.0042, "validation": 0.8}
    baselines = {
        "rfm": test["baselines"]["rfm"] | beside | {"auroc": 0.81},
        "mean_of_seeds": {"auroc": 0.8234} | beside,
    }
    test["baselines"] = {name: of | other for name, of in baselines.items()}  # what the first seed alone has
    made = metrics["made"] | {"seed": [4, 5]}
    seeds = {seed: {"auroc": 0.8} for seed in "45"}
    metrics |= {"made": made, "seeds": seeds, "single": figures | {"baselines": baselines}}
    (run / "metrics.json").write_text(json.dumps(metrics))
    text = read_page(run)
    assert said in text
    assert "of 1,000 pairs" in text
    assert "this model orders 812 rightly and RFM 810" in text
    rows = {row[0]: row[1:] for row in Page(text).rows}
    assert rows["A single model"][0] == "0.812 0.800 to 0.820"
    for name in ("RFM", "Mean of seeds"):
        assert rows[name][1].endswith("model ahead" if interval[0] > 0 else "this one ahead")
    assert "are of the one of seed 4, which the commands of this page use" in text
    assert "/seed-4/model" in text
    assert "AUROC has a standard deviation of 0.0042" in text


def test_of_propensity_repeat_and_new_values_stand_apart_for_model_and_rivals(full):
    text = page_of(full("propensity"))
    test = json.loads((full("propensity") / "metrics.json").read_text())["test"]
    part = text[text.index('id="apart"') :]
    rows = {row[0]: row[1:] for row in Page(part[: part.index("</table>")]).rows}
    for name, figures in {"Model": test, "Gradient boosting": test["baselines"]["gradient_boosting"]}.items():
        keys = ("ndcg_at_10", "repeat_auroc", "new_auroc")
        assert rows[name] == [number(figures[key], 4) for key in keys]
    assert 'id="apart"' not in page_of(full("binary"))


def test_a_lower_error_is_the_better_one(full):
    rows = {row[0]: row[1:] for row in Page(page_of(full("value"))).rows}  # the model's is the second highest
    assert rows["Recency rule"][1].endswith("this one ahead")
    assert rows["Majority"][1].endswith("model ahead")


@pytest.mark.parametrize("task", list(MEASURES))
def test_every_measure_of_metrics_json_stands_on_the_page_with_its_value(full, task: str):
    test = json.loads((full(task) / "metrics.json").read_text())["test"]
    text = page_of(full(task))
    assert [key for key in MEASURES[task] if number(test[key], digits(key)) not in text] == []


def test_rows_users_positives_and_how_it_was_made_are_stated(full):
    text = page_of(full("binary"))
    positives = json.loads((full("binary") / "metrics.json").read_text())["test"]["positives"]
    for figure in ("1,600", "300", str(positives)):
        assert f"<dd>{figure}</dd>" in text
    assert "1,234 trained of 5,678" in text
    assert "98,765 events of 321 users" in text
    assert "7 rows left out with no user" in text
    assert "train 84 s" in text
    assert "1,000 bootstrap resamples" in text
    assert "masked words" in text


def test_metrics_and_config_are_all_that_it_reads(full):
    assert {path.name for path in full("binary").iterdir()} == {"metrics.json", "config.yaml", "report.html"}
    assert "<dt>Figures</dt><dd>All stand in <code>metrics.json</code>.</dd>" in page_of(full("binary"))


def test_each_later_cutoff_has_its_change_since_the_first(full):
    text = " ".join(page_of(full("binary")).split())
    table = text[text.index("<summary>By test cutoff") :].partition("</table>")[0]
    assert ">Change since the first</th>" in table
    assert table.count('<td>\u22120.0123 <span class="small">\u22120.0456 to +0.0067</span></td>') == 2
    assert "changed by \u22120.0123 [\u22120.0456, +0.0067] since the first cutoff" in text
    assert "Change since the first" not in text.replace(table, "")  # groups have none


def test_who_is_contacted_is_said_in_words(full):
    text = " ".join(page_of(full("binary")).split())
    assert "Of 280 contacted, 180 turn out as churn; of 1,320 not contacted, 120 do too." in text
    assert "from a score of 0.350 on, chosen on validation by the best F1" in text
    assert "Precision 64.3 % of the contacted, recall 60.0 % of all churn, F1 0.621" in text


def test_text_of_users_is_escaped(bare):
    run = bare("value")
    edit_run(run, {"name": "<script>alert(1)</script>", "question": 'a < b & "c"', "verdict": "<b>", "label": "$x$<i>"})
    (run / "config.yaml").write_text("name: </pre><script>alert(1)</script>\n")
    text = read_page(run)
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "a &lt; b &amp;" in text
    assert "<b>" not in text
    assert "<i>" not in text


def test_equal_inputs_give_equal_bytes(full, tmp_path: Path):
    again = shutil.copytree(full("binary"), tmp_path / "again")
    assert write_report(again).read_bytes() == (full("binary") / "report.html").read_bytes()


def test_chromium_shows_it_on_a_phone_too_without_a_console_message_or_a_further_request(full, evaluated):
    real = (evaluated.run_folder / "report.html").read_text(encoding="utf-8")
    shown = show({"real.html": real}, "real.html")
    assert "<figcaption>" in shown.dom
    assert (shown.console, shown.requests) == ([], ["/real.html"])
    assert_quiet_and_narrow({f"{task}.html": page_of(full(task)) for task in MEASURES} | {"real.html": real})


def test_on_paper_the_slider_gives_way_to_the_table_and_what_is_folded_lies_open(full):
    page = page_of(full("binary")).replace("@media print", "@media all")  # paper as Chromium lays it out
    seen = "details.map(part => part.lastElementChild.checkVisibility())"
    gone = "getComputedStyle(document.getElementById('contact-slider')).display"
    script = f"(details => [{gone}, ...{seen}])([...document.querySelectorAll('details')])"
    slider, *opened = json.loads(run_in(page, script))
    assert slider == "none"
    assert len(opened) >= 5
    assert all(opened)
    assert not any(json.loads(run_in(page_of(full("binary")), script))[1:])  # on a screen they are folded


def test_a_gap_of_the_size_that_could_be_seen_is_seen_in_four_of_five_tests():
    random, error = np.random.default_rng(0), 0.03
    seen = smallest_seen([-1.96 * error, 1.96 * error])
    found = random.normal(seen, error, 10_000) - 1.96 * error > 0
    assert found.mean() == pytest.approx(0.8, abs=0.02)
    assert smallest_seen(None) is smallest_seen([None, None]) is None
