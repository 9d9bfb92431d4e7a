"""The report is one file that shows the run's own figures, to every reader and without a request to anywhere."""

import base64
import hashlib
import json
import re
import shutil
from functools import cache
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from data_prep import InputError
from finetune.evaluation.contact import contact
from finetune.evaluation.curves import curves
from finetune.evaluation.rows import ScoredRows
from finetune.measures import MAIN, MEASURES, digits
from finetune.metrics_json import without_nan
from finetune.report.report import write_report
from finetune.wording import number
from tests.browser import assert_quiet_and_narrow, run_in, show

BASELINES = ("recency_rule", "rfm", "logistic_regression", "gradient_boosting", "majority")
CLASSES = {
    "binary": ["no_churn", "churn"],
    "tiers": ["up to 0", "above 0 to 50", "above 50 to 200", "above 200"],
    "value": None,
    "propensity": [f"category {i}" for i in range(20)],
}
ROWS = 600


class Page(HTMLParser):
    """Elements as (tag, attributes), and the text of each cell of the table of scorers, by row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements, self.tables, self.in_cell = [], [], False
        self.feed(text)
        self.rows = next((table for table in self.tables if any(row[0] == "Model" for row in table)), [])

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


def _labels_and_scores(task: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    names = ("model", *BASELINES)
    if task == "binary":
        labels = (random.random(ROWS) < 0.3).astype(int)
        return labels, {name: 1 / (1 + np.exp(1 - labels - random.normal(size=ROWS))) for name in names}
    if task == "value":
        labels = np.round(np.maximum(random.normal(20, 60, ROWS), 0), 2)
        return labels, {name: labels * 0.5 + random.gamma(2, 10, ROWS) for name in names}
    if task == "tiers":
        labels = random.integers(0, 4, ROWS)
        logits = {name: 2 * np.eye(4)[labels] + random.normal(size=(ROWS, 4)) for name in names}
        return labels, {name: np.exp(of) / np.exp(of).sum(axis=1, keepdims=True) for name, of in logits.items()}
    labels = (random.random((ROWS, 20)) < np.linspace(0.3, 0.01, 20)).astype(np.int8)
    return labels, {name: 1 / (1 + np.exp(2 - labels - random.normal(size=labels.shape))) for name in names}


def _metrics(task: str, quality: float, intervals: bool = True) -> dict:
    """Made-up figures, all keys of the task."""
    made = {}
    for at, key in enumerate(MEASURES[task]):
        scale = {"mae": 30, "rmse": 50}.get(key, 4 if key.startswith("lift") else 1)
        made[key] = scale * quality * (0.95**at)
        if intervals:
            made[f"{key}_interval"] = [made[key] - 0.02 * scale, made[key] + 0.02 * scale]
    return made


def _differences(task: str, model: dict, baseline: dict) -> dict:
    return {
        key: value
        for name in MEASURES[task]
        for key, value in {
            f"{name}_difference": model[name] - baseline[name],
            f"{name}_difference_interval": [model[name] - baseline[name] - 0.01, model[name] - baseline[name] + 0.01],
        }.items()
    }


OPTIONAL = (
    "slices",
    "seeds",
    "by_cutoff",
    "drift",
    "lengths",
    "profit",
    "calibration",
    "contact",
    "timeline",
    "made_up",
)


def make_run(folder: Path, task: str, bare: bool = False) -> Path:
    """What training and evaluating leave, as the report reads it: with everything that is optional, or without."""
    labels, _ = _labels_and_scores(task)
    folder.mkdir(parents=True)
    model = _metrics(task, 0.8)
    baselines = {name: _metrics(task, 0.7 + 0.03 * at) for at, name in enumerate(BASELINES)}
    baselines = {name: of | _differences(task, model, of) for name, of in baselines.items()}
    sizes = {"rows": 1600, "users": 300, "positives": int((labels > 0).sum()), "cutoffs": ["2017-09-25", "2017-10-09"]}
    test = sizes | model | {"baselines": baselines}
    part = {"rows": 100, "users": 80, "positives": 60} | _metrics(task, 0.75)
    if task == "binary":
        test |= {
            "precision": 0.643,
            "recall": 0.6,
            "f1": 0.621,
            "accuracy": 0.863,
            "confusion": [[1200, 100], [120, 180]],
        }
        part |= {"selected_rate": 0.2, "true_positive_rate": 0.61, "calibration_gap": -0.013}
    if task == "tiers":
        test["confusion"] = [[90, 10, 0, 0], [20, 70, 10, 0], [0, 30, 1060, 10], [0, 0, 5, 295]]
    if task == "value":
        test["deciles"] = [{"rows": 160, "predicted": 200 - 20 * i, "real": 210 - 22 * i} for i in range(10)]
    lower, few = _metrics(task, 0.8, False), part | {"value": "FR", "positives": 12}
    gaps = {"equal_opportunity": 0.04, "demographic_parity": 0.05, "calibration": 0.02}
    gaps |= {f"{key}_interval": [0.01, 0.07] for key in tuple(gaps)}
    main = MAIN[task]
    later = part | {f"{main}_change": -0.0123, f"{main}_change_interval": [-0.0456, 0.0067]}
    labels, scores = _labels_and_scores(task)
    rows = ScoredRows(task, labels, scores, np.arange(len(labels)))
    metrics = {
        "contact": contact(rows, np.full(len(labels), np.datetime64("2017-10-09")), 0.1, 20),
        "timeline": {
            "train": {"cutoffs": ["2017-03-06", "2017-08-07"], "rows": 5000},
            "validation": {"cutoffs": ["2017-09-04"], "rows": 800},
            "test": {"cutoffs": ["2017-09-25", "2017-10-09"], "rows": 1600},
        },
        "made_up": {
            "cutoff": "2017-10-09",
            "events": [
                {"days": 12, "fields": {"event_type": "purchase", "amount": 20.5, "shop": "north"}},
                {"days": 1, "fields": {"event_type": "view <b>"}},
            ],
            "text": "recency_days=1 [SEP] gap=11 <b>",
        },
        "name": "test run",
        "task": task,
        "question": "Which users will have no event in the 14 days after the cutoff?",
        "label": "churn",
        "horizon": "14 days",
        "classes": CLASSES[task],
        "main": main,
        "lower_is_better": task == "value",
        "validation": sizes | _metrics(task, 0.82, False) | {"baselines": dict.fromkeys(BASELINES, lower)},
        "test": test,
        "verdict": "Gradient boosting is ahead.",
        "calibration": {
            "method": "temperature",
            "temperature": 1.25,
            "threshold": 0.35 if task == "binary" else None,
            "threshold_by": "f1" if task == "binary" else None,
            "before": _metrics(task, 0.81, False),
        },
        "profit": None,
        "by_cutoff": [part | {"cutoff": "2017-09-01"}, *({"cutoff": f"2017-{at}-01"} | later for at in (10, 11))],
        "slices": {
            "country": {
                "groups": [*(part | {"value": value} for value in ("NL", "DE <b>", "$x", "_other")), few],
                "too_small": [{"value": "LU", "rows": 3}],
                "gaps": gaps if task == "binary" else {},
            }
        },
        "drift": [{"input": "recency_days", "psi": 0.3}, {"input": "events_7d", "psi": 0.12}, {"input": "a", "psi": 0}],
        "lengths": {
            "train": {"edges": [0, 8, 16, 24, 32], "counts": [10, 40, 30, 20]},
            "test": {"edges": [0, 8, 16, 24, 32], "counts": [5, 10, 30, 5]},
        },
        "seeds": {"0": _metrics(task, 0.79, False), "1": _metrics(task, 0.78, False)},
        "made": {
            "date": "2025-11-22",
            "seconds": {"pretrain": 20.1, "train": 83.7},
            "device": "cpu",
            "processes": 1,
            "versions": {"torch": "2.9.1"},
            "seed": [0, 1],
            "bootstrap_resamples": 1000,
            "baseline_settings": {"recency_rule": {}, "logistic_regression": {"C": 0.001}},
            "content_hash": "9f2c1a77",
            "log": {"first": "2017-01-01", "last": "2017-12-31", "events": 98765, "users": 321}
            | {"rejected": {"no user": 7, "no type": 0}},
            "splits": {"train": 5000, "validation": 800, "test": 1600},
        },
    }  # fmt: skip
    if task == "binary":
        shares = np.linspace(0, 1, 101)
        profits = 4000 * np.sqrt(shares) - 3000 * shares
        metrics["profit"] = {
            "contact": 1,
            "kept_customer": 25,
            "shares": shares.tolist(),
            "profits": profits.tolist(),
            "interval_low": (profits * 0.9).tolist(),
            "interval_high": (profits * 1.1).tolist(),
            "best_share": 0.44,
            "best_profit": float(profits.max()),
        }
    series = {"loss": [0.7, 0.5], "eval_loss": [0.6, 0.5], f"eval_{main}": [0.81, 0.82]}
    series |= {"padding_fraction": [0.05, 0.03]}
    drawn = {key: {"steps": [20, 40], "values": values} for key, values in series.items()}
    drawn |= {"pretraining_steps": 20, "pretraining_loss": {"steps": [10, 20], "values": [5.0, 4.0]}}
    if bare:
        drawn = {key: {"steps": [], "values": []} for key in (*series, "pretraining_loss")} | {"pretraining_steps": 0}
    facts = {"trainable_parameters": 1234, "total_parameters": 5678, "steps": 40}
    metrics["training"] = facts | {"class_weights": None, "device": "cpu", "processes": 1} | drawn
    if bare:
        metrics = {key: of for key, of in metrics.items() if key not in OPTIONAL}
        metrics["made"] = {key: of for key, of in metrics["made"].items() if key not in ("log", "splits", "seconds")}
    (folder / "metrics.json").write_text(json.dumps(without_nan(metrics)))
    _draw(folder)
    (folder / "config.yaml").write_text("name: test run\ntraining:\n  max_steps: 40\n")
    return folder


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A function that gives the folder of a run of a task, with every part of the page and its report; only read it."""

    @cache
    def written(task: str) -> Path:
        folder = make_run(tmp_path_factory.mktemp("full") / task, task)
        write_report(folder)
        return folder

    return written


@pytest.fixture
def bare(tmp_path: Path):
    """A function that makes a run of a task with nothing that is optional."""
    return lambda task: make_run(tmp_path / task, task, bare=True)


def _page(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def _edit(run: Path, change: dict, section: str | None = None) -> None:
    """Change top-level values of metrics.json, or those of one section."""
    metrics = json.loads((run / "metrics.json").read_text())
    (metrics[section] if section else metrics).update(change)
    (run / "metrics.json").write_text(json.dumps(metrics))


def _draw(run: Path, labels: np.ndarray | None = None, score: np.ndarray | None = None) -> None:
    """Put the curves of other labels, or of other scores of the model, into metrics.json."""
    metrics = json.loads((run / "metrics.json").read_text())
    own, scores = _labels_and_scores(metrics["task"])
    scores |= {} if score is None else {"model": score}
    metrics["curves"] = curves(metrics["task"], metrics["classes"], own if labels is None else labels, scores)
    (run / "metrics.json").write_text(json.dumps(without_nan(metrics)))


def _read(run: Path) -> str:
    return write_report(run).read_text(encoding="utf-8")


def _titles(text: str) -> list[str]:
    return re.findall(r"<h3>(.*?)</h3>", text)


@pytest.mark.parametrize("task", list(MEASURES))
def test_the_page_refers_to_nothing_outside_itself(full, task: str):
    text = _page(full(task))
    assert not re.search(r"https?:|//\w+\.\w+", text)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))
    assert "@import" not in text
    assert "default-src 'none'" in text
    elements = Page(text).elements
    assert not {"iframe", "object", "embed"} & {tag for tag, _ in elements}
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)  # the slider's, which the policy knows by its hash
    assert len(scripts) == (task in ("binary", "value"))
    for script in scripts:
        hashed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"script-src 'sha256-{hashed}'" in text
    assert "unsafe-inline" not in re.sub("style-src 'unsafe-inline'", "", text)
    targets = [attrs[key] for _, attrs in elements for key in ("src", "href", "xlink:href", "srcset") if key in attrs]
    assert all(target.startswith(("#", "data:")) for target in targets)


RANKING = {
    "binary": ["Lift"],
    "tiers": ["Confusion matrix", "ROC curve of each tier"],
    "value": ["Predicted and real", "Value captured"],
    "propensity": ["AUROC of the largest classes", "Precision and recall at k"],
}
CURVES = {"binary": ["ROC curve", "Precision and recall", "Cumulative gain"]}
BELIEF = {"binary": ["Calibration", "Scores by label", "Profit"], "value": []}
CONTACTED = {"binary": ["Found beyond majority"], "value": ["Found beyond recency rule"]}  # the best ones there
FOREST, LEARNED = (
    "Model minus each baseline",
    ["What lies where in time", "What it knows of a user: one who is made up"],
)
REST = ["By country", "Texts", "Training", "Drift of the inputs"]


@pytest.mark.parametrize("task", list(MEASURES))
def test_each_kind_of_label_has_its_pictures_each_with_a_text_and_a_caption(full, task: str):
    text = _page(full(task))
    shown = [*CONTACTED.get(task, []), FOREST, *LEARNED, *RANKING[task], "By cutoff", *CURVES.get(task, [])]
    titles = shown + BELIEF.get(task, ["Calibration"]) + REST
    assert _titles(text) == titles
    pictures = [attrs for tag, attrs in Page(text).elements if tag in ("img", "svg")]
    assert len(pictures) == len(titles) - 1  # of a user who is made up there are words
    assert all(len(attrs.get("alt") or attrs["aria-label"]) > 40 for attrs in pictures)
    assert len(re.findall(r"<figcaption>[^<]{40,}<", text)) == len(titles)


def test_the_user_who_is_made_up_is_told_event_by_event_and_as_the_text_that_the_model_reads(full):
    text = " ".join(_page(full("binary")).split())
    assert "<li><strong>12 days before</strong> purchase, amount 20.5, shop north</li>" in text
    assert "<li><strong>1 day before</strong> view &lt;b&gt;</li>" in text
    assert "recency_days=1 [SEP] gap=11 &lt;b&gt;</code>" in text


@pytest.mark.parametrize("task", list(MEASURES))
def test_ids_are_unique_and_references_point_to_them_and_no_heading_level_is_left_out(full, task: str):
    text = _page(full(task))
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
    rows = {row[0]: row[1:] for row in Page(_read(run)).rows}
    assert rows["Model"] == ["0.800 0.780 to 0.820", "", "0.760 0.740 to 0.780", "", "0.722", "2.017"]
    assert rows["Recency rule"][:2] == ["0.700 0.680 to 0.720", "+0.1011 +0.0512 to +0.1513 model ahead"]
    assert rows["RFM"][1] == "−0.0111 −0.0242 to +0.0013 includes zero"  # noqa: RUF001
    assert rows["Majority"][0] == "– –"  # noqa: RUF001
    assert rows["Majority"][2] == "0.779"


def test_a_lower_error_is_the_better_one(full):
    rows = {row[0]: row[1:] for row in Page(_page(full("value"))).rows}  # the model's is the second highest
    assert rows["Recency rule"][1].endswith("this one ahead")
    assert rows["Majority"][1].endswith("model ahead")


@pytest.mark.parametrize("task", list(MEASURES))
def test_every_measure_of_metrics_json_stands_on_the_page_with_its_value(full, task: str):
    test = json.loads((full(task) / "metrics.json").read_text())["test"]
    text = _page(full(task))
    assert [key for key in MEASURES[task] if number(test[key], digits(key)) not in text] == []


def test_rows_users_positives_and_how_it_was_made_are_stated(full):
    text = _page(full("binary"))
    positives = json.loads((full("binary") / "metrics.json").read_text())["test"]["positives"]
    for figure in ("1,600", "300", str(positives)):
        assert f"<dd>{figure}</dd>" in text
    assert "1,234 trained of 5,678" in text
    assert "98,765 events of 321 users" in text
    assert "7 rows left out with no user" in text
    assert "train 84 s" in text
    assert "1,000 bootstrap resamples" in text
    assert "masked words" in text


def test_a_page_of_one_seed_says_that_seeds_differ(bare):
    run = bare("binary")
    for seed, told in ((5, True), ([5, 6], False)):
        made = json.loads((run / "metrics.json").read_text())["made"]
        _edit(run, {"made": made | {"seed": seed}})
        assert ("--seeds 0 1 2</code> tells how different" in _read(run)) == told


def test_metrics_and_config_are_all_that_it_reads(full):
    assert {path.name for path in full("binary").iterdir()} == {"metrics.json", "config.yaml", "report.html"}
    assert "<dt>Figures</dt><dd>All stand in <code>metrics.json</code>.</dd>" in _page(full("binary"))


def test_each_later_cutoff_has_its_change_since_the_first(full):
    text = " ".join(_page(full("binary")).split())
    table = text[text.index("<summary>By test cutoff") :].partition("</table>")[0]
    assert ">Change since the first</th>" in table
    assert table.count('<td>\u22120.0123 <span class="small">\u22120.0456 to +0.0067</span></td>') == 2
    assert "changed by \u22120.0123 [\u22120.0456, +0.0067] since the first cutoff" in text
    assert "Change since the first" not in text.replace(table, "")  # groups have none


def test_who_is_contacted_is_said_in_words(full):
    text = " ".join(_page(full("binary")).split())
    assert "Of 280 contacted, 180 turn out as churn; of 1,320 not contacted, 120 do too." in text
    assert "from a score of 0.350 on, chosen on validation by the best F1" in text
    assert "Precision 64.3 % of the contacted, recall 60.0 % of all churn, F1 0.621" in text


def test_text_of_users_is_escaped(bare):
    run = bare("value")
    _edit(run, {"name": "<script>alert(1)</script>", "question": 'a < b & "c"', "verdict": "<b>", "label": "$x$<i>"})
    (run / "config.yaml").write_text("name: </pre><script>alert(1)</script>\n")
    text = _read(run)
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "a &lt; b &amp;" in text
    assert "<b>" not in text
    assert "<i>" not in text


@pytest.mark.parametrize("task", list(MEASURES))
def test_what_a_run_does_not_have_is_left_out(bare, task: str):
    text = _read(bare(task))
    belief = [title for title in BELIEF.get(task, ["Calibration"]) if title != "Profit"]
    assert _titles(text) == [FOREST, *RANKING[task], *CURVES.get(task, []), *belief]
    for absent in ("masked words", "<dt>Time</dt>", "Single seeds", "Inputs and training", "Contacted"):
        assert absent not in text or (task, absent) == ("binary", "Contacted")


def test_groups_that_cannot_be_measured_are_told_of(bare, full):
    gaps = {"equal_opportunity": None, "demographic_parity": 0.05, "demographic_parity_interval": [None, None]}
    slices = {"country": {"groups": [], "too_small": [{"value": "LU", "rows": 3}], "gaps": {}}}
    groups = json.loads((full("value") / "metrics.json").read_text())["slices"]["country"]["groups"]
    unknown = groups[0] | {"value": "BE", "mae": None, "mae_interval": [None, None]}
    slices["shop"] = {"groups": [*groups, unknown], "gaps": gaps}
    run = bare("value")
    _edit(run, {"slices": slices})
    text = " ".join(_read(run).split())
    assert _titles(text)[-1] == "By shop"
    assert "Too few rows to measure: LU (3)." in text
    assert "share selected (demographic parity) 0.050, 95&nbsp;% interval –." in text  # noqa: RUF001
    assert "true positive rate (equal opportunity)" not in text
    assert '12 <span class="small">too few to tell</span>' in text
    assert "BE: – (–), 60 positives" in text  # noqa: RUF001


def test_equal_inputs_give_equal_bytes(full, tmp_path: Path):
    again = shutil.copytree(full("binary"), tmp_path / "again")
    assert write_report(again).read_bytes() == (full("binary") / "report.html").read_bytes()


@pytest.mark.parametrize("task", list(MEASURES))
def test_labels_of_one_class_have_a_report(bare, task: str):
    run = bare(task)
    _draw(run, labels=np.zeros_like(_labels_and_scores(task)[0]))
    metrics = json.loads((run / "metrics.json").read_text())
    nothing = {key: None for key in metrics["test"] if key in MEASURES[task]}
    for scorer in (metrics["test"], *metrics["test"]["baselines"].values()):
        scorer |= nothing | {f"{key}_interval": [None, None] for key in nothing}
    metrics["test"]["positives"] = 0
    (run / "metrics.json").write_text(json.dumps(metrics))
    text = _read(run)
    assert re.search(r"Only 0 c(as|lass)es .* in the test", text)
    assert "Calibration</h3>" not in text
    assert "nan" not in re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL)


@pytest.mark.parametrize("task", ["tiers", "value"])
def test_rows_without_a_score_are_left_out_of_the_pictures_and_counted(bare, task: str):
    run = bare(task)
    score = _labels_and_scores(task)[1]["model"]
    score[:7] = np.nan
    _draw(run, score=score)
    text = _read(run)
    assert set(RANKING[task]) <= set(_titles(text))
    assert "7 rows that a scorer gave no score" in text
    _draw(run, score=np.full_like(score, np.nan))
    assert f"{ROWS} rows that a scorer gave no score" in _read(run)


@pytest.mark.parametrize(("task", "score"), [("binary", 7.0), ("tiers", 0.0), ("propensity", -3.0), ("value", 0.0)])
def test_equal_scores_of_all_rows_have_a_report(bare, task: str, score: float):
    run = bare(task)
    _draw(run, score=np.full_like(_labels_and_scores(task)[1]["model"], score))
    assert set(RANKING[task]) <= set(_titles(_read(run)))


def test_a_missing_or_old_file_is_named_with_the_remedy(bare):
    run = bare("binary")
    (run / "metrics.json").write_text('{"name": "of an older version"}')
    with pytest.raises(InputError, match=r"metrics\.json is of an older version; run scripts/evaluate\.py again"):
        write_report(run)
    (run / "metrics.json").unlink()
    with pytest.raises(InputError, match=r"metrics\.json is missing; run scripts/train\.py"):
        write_report(run)


def test_few_positives_and_class_weights_are_warned_of(bare, full):
    assert 'class="warning"' not in _page(full("value"))
    run = bare("value")
    _edit(run, {"positives": 49}, "validation")
    assert "Only 49 cases with a value above 0 in validation" in _read(run)
    weighted = bare("binary")
    _edit(weighted, {"class_weights": [0.6, 2.4]}, "training")
    assert "Trained with class weights (no_churn 0.6, churn 2.4)" in _read(weighted)
    _edit(run, {"positives": 48}, "test")
    assert "Only 48 cases with a value above 0 in the test:" in _read(run)


def test_what_a_teacher_said_is_told(bare):
    run = bare("binary")
    assert "taught the model" not in _read(run)  # also of runs that were evaluated before there was one
    _edit(run, {"teacher": 0.7}, "training")
    assert "taught the model 70\u00a0% of what it learned" in _read(run)


def test_chromium_shows_it_on_a_phone_too_without_a_console_message_or_a_further_request(full, evaluated):
    real = (evaluated.run_folder / "report.html").read_text(encoding="utf-8")
    shown = show({"real.html": real}, "real.html")
    assert "<figcaption>" in shown.dom
    assert (shown.console, shown.requests) == ([], ["/real.html"])
    assert_quiet_and_narrow({f"{task}.html": _page(full(task)) for task in MEASURES} | {"real.html": real})


def test_on_paper_the_slider_gives_way_to_the_table_and_what_is_folded_lies_open(full):
    page = _page(full("binary")).replace("@media print", "@media all")  # paper as Chromium lays it out
    seen = "details.map(part => part.lastElementChild.checkVisibility())"
    gone = "getComputedStyle(document.getElementById('contact-slider')).display"
    script = f"(details => [{gone}, ...{seen}])([...document.querySelectorAll('details')])"
    slider, *opened = json.loads(run_in(page, script))
    assert slider == "none"
    assert len(opened) >= 5
    assert all(opened)
    assert not any(json.loads(run_in(_page(full("binary")), script))[1:])  # on a screen they are folded
