"""Whatever a log or a config says, a page has the same tags as with plain words, and no line of a script of theirs."""

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from finetune.report.audit_page import audit_page
from finetune.report.report import write_report
from finetune.report.stress_page import stress_page
from tests.finetune.report.made_runs import make_run

PAYLOADS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</title></style></script></svg><iframe src=//evil>",
    "<!-- --><svg/onload=alert(1)>&lt;b&gt;",
    "{{ 7 * 7 }}{% raw %}\\u003cscript\\u003e",
    "javascript:alert(1)](http://evil)",
    "]]><![CDATA[<x>\x00\u202e",
)
PLAIN = "some words"


class Structure(HTMLParser):
    """The tags of a page with the names of their attributes, and what its scripts hold."""

    def __init__(self) -> None:
        super().__init__()
        self.tags, self.scripts, self.within = [], [], None

    def handle_starttag(self, tag, attrs):
        assert not any(name.startswith("on") for name, _ in attrs)
        assert all(not str(value).lower().startswith("javascript:") for name, value in attrs if name in ("href", "src"))
        self.tags.append((tag, tuple(name for name, _ in attrs)))
        self.within = tag

    def handle_endtag(self, tag):
        self.within = None

    def handle_data(self, data):
        if self.within == "script":
            self.scripts.append(data)


def structure(page: str) -> Structure:
    read = Structure()
    read.feed(page)
    return read


def report(folder: Path, text: str) -> str:
    run = make_run(folder, "binary")
    metrics = json.loads((run / "metrics.json").read_text())
    for key in ("name", "question", "plain_question", "verdict", "label"):
        metrics[key] = text
    metrics["classes"][1] = text
    metrics["slices"] = {text: metrics["slices"]["country"]}
    rates = dict.fromkeys(("selected_rate", "true_positive_rate"), 0.1)
    group = {"value": text, "rows": 10, "threshold": None, "one": rates, "own": rates}
    gaps = {"demographic_parity": 0.1, "demographic_parity_interval": [0.0, 0.2]}
    overall = {"one": {"contacted": 1, "found": 1}, "own": {"contacted": 2, "found": 1}, "difference": {}}
    metrics["group_thresholds"] = {"by": text, "equal": "selection", "groups": [group], "common": {text: text}}
    metrics["group_thresholds"] |= {"gaps": {"one": gaps, "own": gaps}, "overall": overall}
    metrics["training"]["reweigh"] = {
        "by": text,
        "weights": [{"group": text, "class": text, "rows": 1, "weight": 1.0}],
    }
    for group in metrics["slices"][text]["groups"]:
        group["value"] = text
    for event in metrics["made_up"]["events"]:
        event["fields"] = {"event_type": text, text: text}
    metrics["made_up"]["text"] = text
    metrics["drift"][0]["input"] = text
    metrics["made"] |= {"device": text, "versions": {text: text}, "content_hash": text}
    metrics["training"] |= {"device": text, "privacy": privacy(text)}
    (run / "metrics.json").write_text(json.dumps(metrics))
    (run / "config.yaml").write_text(f"name: {json.dumps(text)}\n")
    return write_report(run).read_text(encoding="utf-8")


def privacy(text: str) -> dict:
    numbers = dict.fromkeys(("epsilon", "delta", "clip", "sample_rate", "noise_multiplier"), 1.0)
    counts = dict.fromkeys(("examples", "users", "steps"), 3)
    return numbers | counts | {"unit": "user", "accountant": "rdp", "not_covered": [text]}


def stressed(folder: Path, text: str) -> str:
    figures = dict.fromkeys(("mean_score", "positive_rate", "contacted", "found", "expected_calibration_error"), 0.1)
    figures |= {"auroc": 0.7, "auroc_interval": [0.6, 0.8]}
    boosting = figures | {"auroc_difference": 0.0, "auroc_difference_interval": [-0.1, 0.1]}
    step = {"model": figures, "gradient_boosting": boosting, "without_history": 0, "changed_texts": 1}
    damage = {"name": text, "title": text, "steps": [step | {"step": text}]}
    counts = {"rows": 10, "users": 5, "positives": 3, "seed": 0}
    found = counts | {"stress": text, "question": text, "clean": step, "damages": [damage], "others": [damage]}
    return stress_page(found)


def audited(folder: Path, text: str) -> str:
    curve = {"false_positive_rate": [0, 1], "true_positive_rate": [0, 1]}
    attack = {"users": 10, "auroc": 0.5, "auroc_interval": [0.4, 0.6], "guesses": 4, "right": 2, "epsilon": 0.0}
    attack |= {"epsilon_interval": [0.0, None], "epsilon_lower_bound": 0.0, "curve": curve}
    found = {"audit": text, "question": text, "rows": 10, "shadows": 0, "privacy": None, "delta": 1e-5}
    return audit_page(found | {"attacks": {"users": {"loss": attack}}})


@pytest.mark.parametrize("page", [report, stressed, audited])
def test_no_payload_becomes_a_tag_an_attribute_or_a_script(page: Callable[[Path, str], str], tmp_path):
    plain = structure(page(tmp_path / "plain", PLAIN))
    hostile = structure(page(tmp_path / "hostile", " ".join(PAYLOADS).replace("\x00", "")))
    assert hostile.tags == plain.tags
    for script in hostile.scripts:
        assert "<script" not in script
        assert "</" not in script.replace("<\\/", "")
