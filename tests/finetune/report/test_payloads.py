"""Whatever a log or a config says, a page has the same tags as with plain words, and no line of a script of theirs."""

import json
import re
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
import yaml

from finetune.evaluation.compare import compare_runs
from finetune.report.audit_page import audit_page
from finetune.report.comparison import table, write_page
from finetune.report.monitoring import write_monitor_page
from finetune.report.report import write_report
from finetune.report.stress_page import stress_page
from finetune.report.sweep_page import Search, sweep_page
from finetune.upkeep.monitor import prometheus
from tests.finetune.report.made_runs import make_run
from tests.payloads import PAYLOADS, structure
from tests.read_back import OLDER


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
    numbers = dict.fromkeys(("epsilon", "threshold_epsilon", "delta", "clip", "sample_rate", "noise_multiplier"), 1.0)
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
    attack = {
        "users": 10,
        "auroc": 0.5,
        "auroc_interval": [0.4, 0.6],
        "guesses": 4,
        "right": 2,
        "threshold_epsilon": 0.5,
        "epsilon": 0.0,
    }
    attack |= {"epsilon_interval": [0.0, None], "epsilon_lower_bound": 0.0, "curve": curve}
    found = {"audit": text, "question": text, "rows": 10, "shadows": 0, "privacy": None, "delta": 1e-5}
    return audit_page(found | {"attacks": {"users": {"loss": attack}}})


def compared(folder: Path, text: str) -> str:
    for number in (1, 2):
        run = folder / f"run{number}"
        shutil.copytree(OLDER, run)
        content = json.loads((run / "metrics.json").read_text())
        content |= {"name": f"{text} {number}", "question": text, "plain_question": text}
        (run / "metrics.json").write_text(json.dumps(content))
        settings = yaml.safe_load((run / "config.yaml").read_text()) | {"name": text, text: f"{text} {number}"}
        (run / "config.yaml").write_text(yaml.safe_dump(settings | {"seeds": []}))
    found = compare_runs([folder / "run1", folder / "run2"], resamples=5)
    assert text in table(found)
    return write_page(found, folder / "compare.html").read_text(encoding="utf-8")


def searched(folder: Path, text: str) -> str:
    optuna = pytest.importorskip("optuna")
    choices, made = [text, f"{text} 2"], []
    for number, choice in enumerate(choices):
        spread = {"model.peft.target": optuna.distributions.CategoricalDistribution(choices)}
        trial = optuna.trial.create_trial(
            value=0.5 + number / 10, params={"model.peft.target": choice}, distributions=spread
        )
        trial.number, trial.datetime_start = number, datetime(2024, 3, 1)
        trial.datetime_complete = datetime(2024, 3, 2)
        made.append(trial)
    space = {"model.peft.target": {"choices": choices}}
    return sweep_page(Search(text, "AUROC", False, space, 2, made, made[1], made[0], None, Path(text)))


def watched(folder: Path, text: str) -> str:
    families = ("inputs", "words", "scores")
    signals = [{"name": text, "family": of, "value": 2.0, "threshold": 1.0, "rings": True} for of in families]
    part = {"shares": [0.5, 0.5], "mean": 0.4, "above": 0.1}
    outcome = {"name": "auroc", "value": 0.7, "interval": [0.6, 0.8], "promised": 0.8, "promised_interval": [0.7, 0.9]}
    result = dict.fromkeys(("model", "name", "question", "alarm"), text) | {"cutoff": "2024-04-01", "until": None}
    result |= {"task": "binary", "rows": 10, "reference": {"inputs": [text], "later": [text]}, "level": 0.05}
    result |= {"draws": 10, "signals": signals, "outcomes": [outcome]}
    result["scores"] = {"edges": [0.0, 0.5, 1.0], "threshold": 0.5, "reference": part, "month": part}
    assert len(prometheus(result).splitlines()) == 12 + 3 * len(signals) + 3  # no line of theirs
    folder.mkdir()
    return write_monitor_page(result, folder / "monitor.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", [report, stressed, audited, compared, searched, watched])
def test_no_payload_becomes_a_tag_an_attribute_or_a_script(page: Callable[[Path, str], str], tmp_path):
    text = " ".join(PAYLOADS).replace("\x00", "")
    plain = structure(page(tmp_path / "plain", re.sub(r"\S", "a", text)))  # as long, so that it is cut as it is
    hostile = structure(page(tmp_path / "hostile", text))
    assert {*hostile.tags} <= {*plain.tags}
    if page is not watched:  # whose legend has as many columns as names leave room for
        assert hostile.tags == plain.tags
    for name in ("script", "style", "table", "h1", "title"):
        assert [tag for tag, _ in hostile.tags].count(name) == [tag for tag, _ in plain.tags].count(name)
    for script in hostile.scripts:
        assert "<script" not in script
        assert "</" not in script.replace("<\\/", "")
