"""The report is one file that shows the run's own figures, to every reader and without a request to anywhere."""

import json
import re
import shutil
import subprocess
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep import InputError
from finetune.report import write_report

CHROMIUM = Path("/usr/bin/chromium")
BASELINES = ("recency_rule", "logistic_regression", "gradient_boosting")
NAN = float("nan")


class Page(HTMLParser):
    """Elements as (tag, attributes), and the text of each cell of the first table, by row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements, self.rows, self.tables, self.in_cell = [], [], 0, False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.elements.append((tag, dict(attrs)))
        self.tables += tag == "table"
        if tag == "tr" and self.tables == 1:
            self.rows.append([])
        if tag in ("td", "th") and self.tables == 1:
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.in_cell:
            self.rows[-1][-1] = " ".join(f"{self.rows[-1][-1]} {data}".split())


def _metrics(auroc: float, precision: float) -> dict:
    return {
        "auroc": auroc,
        "auroc_interval": [auroc - 0.02, auroc + 0.02],
        "average_precision": precision,
        "average_precision_interval": [precision - 0.04, precision + 0.04],
        "log_loss": auroc / 2,
        "brier_score": precision / 4,
    }


def _difference(auroc: list[float], precision: list[float]) -> dict:
    """Difference and both ends of its interval, for each metric."""
    return {
        "auroc_difference": auroc[0],
        "auroc_difference_interval": auroc[1:],
        "average_precision_difference": precision[0],
        "average_precision_difference_interval": precision[1:],
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of 600 rows, with all files that a report is made of."""
    generator = np.random.default_rng(0)
    labels = (generator.random(600) < 0.3).astype(int)
    scores = {name: 1 / (1 + np.exp(1 - labels - generator.normal(size=600))) for name in ("score", *BASELINES)}
    (tmp_path / "predictions").mkdir()
    pq.write_table(
        pa.table({"user_id": np.arange(600) // 2, "cutoff": ["2017-09-25"] * 600, "label": labels} | scores),
        tmp_path / "predictions" / "test.parquet",
    )
    baselines = {
        "recency_rule": _metrics(0.7, 0.4) | _difference([0.1011, 0.0512, 0.1513], [0.1, 0.05, 0.15]),
        "logistic_regression": _metrics(0.79, 0.48) | _difference([0.0111, -0.0042, 0.0213], [0.02, -0.01, 0.03]),
        "gradient_boosting": _metrics(0.81, 0.52) | _difference([-0.0111, -0.0242, -0.0013], [-0.02, -0.03, -0.01]),
    }
    sizes = {"rows": 1600, "users": 300, "positives": int(labels.sum()), "cutoffs": ["2017-09-25", "2017-10-09"]}
    metrics = {
        "name": "test run",
        "question": "Which users will have no event in the 14 days after the cutoff?",
        "label": "churn",
        "horizon": "14 days",
        "validation": _metrics(0.82, 0.51) | {"baselines": {name: _metrics(0.8, 0.5) for name in BASELINES}},
        "test": _metrics(0.802, 0.503) | sizes | {"baselines": baselines},
        "verdict": "Gradient boosting is ahead.",
        "made": {
            "date": "2025-11-22",
            "seconds": {"train": 83.7},
            "device": "cpu",
            "versions": {"torch": "2.9.1"},
            "seed": 42,
            "baseline_settings": {"recency_rule": {}, "logistic_regression": {"C": 0.001}},
            "content_hash": "9f2c1a77",
        },
    }
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    log = {
        "trainable_parameters": 1234,
        "total_parameters": 5678,
        "steps": 40,
        "best_metric": 0.82,
        "class_weights": None,
    }
    log |= {"device": "cpu", "processes": 1}
    log["history"] = [{"loss": 0.7, "step": 20}, {"eval_loss": 0.6, "eval_auroc": 0.81, "step": 20}]
    log["history"] += [{"loss": 0.5, "step": 40}, {"eval_loss": 0.5, "eval_auroc": 0.82, "step": 40}]
    (tmp_path / "training_log.json").write_text(json.dumps(log))
    pretraining = {"steps": 20, "history": [{"loss": 5.0, "step": 10}, {"loss": 4.0, "step": 20}]}
    (tmp_path / "pretraining_log.json").write_text(json.dumps(pretraining))
    (tmp_path / "config.yaml").write_text("name: test run\ntraining:\n  max_steps: 40\n")
    return tmp_path


def _edit(run: Path, change: dict, section: str | None = None) -> None:
    """Change top-level values of metrics.json, or those of one section."""
    metrics = json.loads((run / "metrics.json").read_text())
    (metrics[section] if section else metrics).update(change)
    (run / "metrics.json").write_text(json.dumps(metrics))


def _replace_column(run: Path, name: str, values: np.ndarray) -> None:
    path = run / "predictions" / "test.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.column_names.index(name), name, pa.array(values)), path)


def _read(run: Path) -> str:
    return write_report(run).read_text(encoding="utf-8")


def test_the_page_refers_to_nothing_outside_itself(run: Path):
    text = _read(run)
    assert not re.search(r"https?:|//\w+\.\w+", text)
    assert re.findall(r"url\(([^)]*)\)", text)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))
    assert "@import" not in text
    assert "default-src 'none'" in text
    elements = Page(text).elements
    assert not {"script", "iframe", "object", "embed"} & {tag for tag, _ in elements}
    targets = [attrs[key] for _, attrs in elements for key in ("src", "href", "xlink:href", "srcset") if key in attrs]
    assert all(target.startswith(("#", "data:")) for target in targets)


def test_every_picture_says_in_words_what_it_shows(run: Path):
    text = _read(run)
    pictures = [attrs for tag, attrs in Page(text).elements if tag in ("img", "svg")]
    assert len(pictures) == 4
    assert all(len(attrs.get("alt") or attrs["aria-label"]) > 40 for attrs in pictures)
    assert "Model 0.802, Recency rule 0.700" in pictures[0]["aria-label"]
    assert len(re.findall(r"<figcaption>[^<]{40,}</figcaption>", text)) == 4


def test_ids_are_unique_and_references_point_to_them(run: Path):
    text = _read(run)
    ids = [attrs["id"] for _, attrs in Page(text).elements if "id" in attrs]
    assert len(set(ids)) == len(ids)
    assert set(re.findall(r'(?:url\(|href=")#([^)"]+)', text)) <= set(ids)


def test_the_table_shows_the_figures_of_metrics_json(run: Path):
    rows = {row[0]: row[1:] for row in Page(_read(run)).rows}
    assert rows["Model"] == ["0.802 0.782 to 0.822", "", "0.503 0.463 to 0.543", "", "0.401", "0.126"]
    assert rows["Recency rule"] == [
        "0.700 0.680 to 0.720",
        "+0.1011 +0.0512 to +0.1513 model ahead",
        "0.400 0.360 to 0.440",
        "+0.1000 +0.0500 to +0.1500 model ahead",
        "0.350",
        "0.100",
    ]
    assert rows["Logistic regression"][1] == "+0.0111 −0.0042 to +0.0213 includes zero"  # noqa: RUF001
    assert rows["Gradient boosting"][1] == "−0.0111 −0.0242 to −0.0013 baseline ahead"  # noqa: RUF001


def test_rows_users_positives_and_parameters_are_stated(run: Path):
    text = _read(run)
    positives = json.loads((run / "metrics.json").read_text())["test"]["positives"]
    for figure in ("1,600", "300", str(positives)):
        assert f"<dd>{figure}</dd>" in text
    assert "1,234 trained of 5,678" in text


def test_a_missing_value_is_a_dash(run: Path):
    _edit(run, {"auroc_interval": [NAN, NAN], "average_precision_interval": None, "log_loss": NAN}, "test")
    rows = {row[0]: row[1:] for row in Page(_read(run)).rows}
    assert rows["Model"] == ["0.802 –", "", "0.503 –", "", "–", "0.126"]  # noqa: RUF001


def test_text_of_users_is_escaped(run: Path):
    _edit(run, {"name": "<script>alert(1)</script>", "question": 'a < b & "c"', "verdict": "<b>", "label": "$x$<i>"})
    (run / "config.yaml").write_text("name: </pre><script>alert(1)</script>\n")
    text = _read(run)
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "a &lt; b &amp;" in text
    assert "<b>" not in text
    assert "<i>" not in text


def test_a_run_without_pretraining_has_a_report(run: Path):
    assert "masked words" in _read(run)
    (run / "pretraining_log.json").unlink()
    assert "masked words" not in _read(run)


def test_times_and_resamples_are_shown_where_they_are_known(run: Path):
    text = _read(run)
    assert "train 84 s" in text
    assert "bootstrap resamples" not in text
    made = json.loads((run / "metrics.json").read_text())["made"]
    del made["seconds"]
    _edit(run, {"made": made | {"bootstrap_resamples": 1000}})
    text = _read(run)
    assert "<dt>Time</dt>" not in text
    assert "1,000 bootstrap resamples" in text


def test_equal_inputs_give_equal_bytes(run: Path):
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first


def test_pictures_that_need_both_classes_are_left_out_where_there_is_one(run: Path):
    _replace_column(run, "label", np.zeros(600, dtype=int))
    _edit(run, {"auroc": NAN, "average_precision": NAN, "positives": 0}, "test")
    text = _read(run)
    assert text.count("<figure>") == 1
    assert "need rows of both classes" in text
    assert "Only 0 positives" in text


def test_rows_without_a_score_are_left_out_of_the_pictures_and_counted(run: Path):
    _replace_column(run, "score", np.r_[[NAN] * 7, np.linspace(0, 1, 593)])
    text = _read(run)
    assert text.count("<figure>") == 4
    assert "7 rows that a scorer gave no score" in text


def test_constant_scores_and_an_empty_training_log_have_a_report(run: Path):
    _replace_column(run, "score", np.full(600, 0.0))
    (run / "pretraining_log.json").unlink()
    log = json.loads((run / "training_log.json").read_text())
    (run / "training_log.json").write_text(json.dumps(log | {"history": []}))
    assert _read(run).count("<figure>") == 3


def test_a_missing_file_is_named_with_the_remedy(run: Path):
    (run / "metrics.json").unlink()
    with pytest.raises(InputError, match=r"metrics\.json is missing; run scripts/train\.py"):
        write_report(run)


class _Recorder(SimpleHTTPRequestHandler):
    def __init__(self, *args, requests: list[str], **kwargs):
        self.requests = requests
        super().__init__(*args, **kwargs)

    def do_GET(self) -> None:
        self.requests.append(self.path)
        super().do_GET()

    def log_message(self, *_) -> None:
        """Nothing on the screen."""


def test_chromium_shows_it_without_a_console_message_or_a_further_request(run: Path, tmp_path: Path):
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is missing, so the report was not opened in a browser; apt-get install chromium")
    write_report(run)
    requests = []
    handler = partial(_Recorder, directory=str(run), requests=requests)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        # The page's content security policy has Chromium write to the console what it refuses to ask for.
        command += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--enable-logging=stderr"]
        command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000", "--dump-dom"]
        command.append(f"http://127.0.0.1:{server.server_port}/report.html")
        shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        server.shutdown()
    assert shown.stdout.count("<figcaption>") == 4
    assert requests == ["/report.html"]
    assert [line for line in shown.stderr.splitlines() if "CONSOLE" in line] == []
    shutil.rmtree(tmp_path / "profile", ignore_errors=True)


def test_a_model_of_weighted_classes_says_that_its_scores_are_no_probabilities(run):
    assert "class weights" not in write_report(run).read_text()
    log = json.loads((run / "training_log.json").read_text())
    (run / "training_log.json").write_text(json.dumps(log | {"class_weights": [0.6, 2.4]}))
    assert "Trained with class weights (0.6, 2.4)" in write_report(run).read_text()
