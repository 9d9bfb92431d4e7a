"""Runs whose metrics.json is made up, and their pages."""

import json
import re
from pathlib import Path

import numpy as np

from finetune.evaluation.contact import contact
from finetune.evaluation.curves import curves
from finetune.evaluation.rows import ScoredRows
from finetune.figures.measures import MAIN, MEASURES, REPEAT_AND_NEW
from finetune.figures.metrics_json import without_nan
from finetune.report.report import write_report

BASELINES = ("recency_rule", "rfm", "logistic_regression", "gradient_boosting", "majority")


CLASSES = {
    "binary": ["no_churn", "churn"],
    "tiers": ["up to 0", "above 0 to 50", "above 50 to 200", "above 200"],
    "value": None,
    "propensity": [f"category {i}" for i in range(20)],
    "survival": ["7 days", "14 days", "28 days"],
}


ROWS = 600


def labels_and_scores(task: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
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
    if task == "survival":
        labels = (random.random((ROWS, 3)) < 0.3).astype(np.int8)
        labels[:, 1:][np.cumsum(labels[:, :-1], axis=1) > 0] = -1
        odds = {name: labels.clip(0) - 1 + random.normal(size=labels.shape) for name in names}
        return labels, {name: 1 - np.cumprod(1 / (1 + np.exp(of)), axis=1) for name, of in odds.items()}
    labels = (random.random((ROWS, 20)) < np.linspace(0.3, 0.01, 20)).astype(np.int8)
    return labels, {name: 1 / (1 + np.exp(2 - labels - random.normal(size=labels.shape))) for name in names}


def metrics_of(task: str, quality: float, intervals: bool = True) -> dict:
    """Made-up figures, all keys of the task."""
    made = {}
    for at, key in enumerate([*MEASURES[task], *(REPEAT_AND_NEW if task == "propensity" else ())]):
        scale = {"mae": 30, "rmse": 50}.get(key, 4 if key.startswith("lift") else 1)
        made[key] = scale * quality * (0.95**at)
        if intervals:
            made[f"{key}_interval"] = [made[key] - 0.02 * scale, made[key] + 0.02 * scale]
    return made


def differences(task: str, model: dict, baseline: dict) -> dict:
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
    labels, _ = labels_and_scores(task)
    folder.mkdir(parents=True)
    model = metrics_of(task, 0.8)
    baselines = {name: metrics_of(task, 0.7 + 0.03 * at) for at, name in enumerate(BASELINES)}
    baselines = {name: of | differences(task, model, of) for name, of in baselines.items()}
    sizes = {"rows": 1600, "users": 300, "positives": int((labels > 0).sum()), "cutoffs": ["2017-09-25", "2017-10-09"]}
    test = sizes | model | {"baselines": baselines}
    part = {"rows": 100, "users": 80, "positives": 60} | metrics_of(task, 0.75)
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
    lower, few = metrics_of(task, 0.8, False), part | {"value": "FR", "positives": 12}
    gaps = {"equal_opportunity": 0.04, "demographic_parity": 0.05, "calibration": 0.02}
    gaps |= {f"{key}_interval": [0.01, 0.07] for key in tuple(gaps)}
    main = MAIN[task]
    later = part | {f"{main}_change": -0.0123, f"{main}_change_interval": [-0.0456, 0.0067]}
    labels, scores = labels_and_scores(task)
    horizons = CLASSES[task] if task == "survival" else None
    rows = ScoredRows(task, labels, scores, np.arange(len(labels)), horizons=horizons)
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
        "validation": sizes | metrics_of(task, 0.82, False) | {"baselines": dict.fromkeys(BASELINES, lower)},
        "test": test,
        "verdict": "Gradient boosting is ahead.",
        "calibration": {
            "method": "temperature",
            "temperature": 1.25,
            "threshold": 0.35 if task == "binary" else None,
            "threshold_by": "f1" if task == "binary" else None,
            "before": metrics_of(task, 0.81, False),
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
        "seeds": {"0": metrics_of(task, 0.79, False), "1": metrics_of(task, 0.78, False)},
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
    draw_run(folder)
    (folder / "config.yaml").write_text("name: test run\ntraining:\n  max_steps: 40\n")
    return folder


def page_of(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def edit_run(run: Path, change: dict, section: str | None = None) -> None:
    """Change top-level values of metrics.json, or those of one section."""
    metrics = json.loads((run / "metrics.json").read_text())
    (metrics[section] if section else metrics).update(change)
    (run / "metrics.json").write_text(json.dumps(metrics))


def draw_run(run: Path, labels: np.ndarray | None = None, score: np.ndarray | None = None) -> None:
    """Put the curves of other labels, or of other scores of the model, into metrics.json."""
    metrics = json.loads((run / "metrics.json").read_text())
    own, scores = labels_and_scores(metrics["task"])
    scores |= {} if score is None else {"model": score}
    metrics["curves"] = curves(metrics["task"], metrics["classes"], own if labels is None else labels, scores)
    (run / "metrics.json").write_text(json.dumps(without_nan(metrics)))


def read_page(run: Path) -> str:
    return write_report(run).read_text(encoding="utf-8")


def titles_of(text: str) -> list[str]:
    return re.findall(r"<h3>(.*?)</h3>", text)


RANKING = {
    "binary": ["Lift"],
    "tiers": ["Confusion matrix", "ROC curve of each tier"],
    "value": ["Predicted and real", "Value captured"],
    "propensity": ["AUROC of the largest classes", "Precision and recall at k"],
    "survival": ["Time to the event, by risk", "By horizon"],
}


CURVES = {"binary": ["ROC curve", "Precision and recall", "Cumulative gain"]}


BELIEF = {"binary": ["Calibration", "Scores by label", "Profit"], "value": [], "survival": ["Calibration by horizon"]}


FOREST, LEARNED = (
    "Model minus each baseline",
    ["What lies where in time", "What it knows of a user: one who is made up"],
)
