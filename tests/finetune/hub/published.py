"""Models that can be published, and what is read back of them."""

import json
from pathlib import Path

import pyarrow.parquet as pq

from tests.hub import Hub
from tests.metrics_json import least_metrics

MARK = "customer-8841-"  # every user id of the log begins with it


def write_metrics(folder: Path, **changed: object) -> None:
    """metrics.json of the model's run, with figures that nobody measured."""
    task = json.loads((folder / "task.json").read_text())
    figures = {
        "auroc": 0.71,
        "auroc_interval": [0.6, 0.8],
        "log_loss": 0.5,
        "expected_calibration_error": 0.02,
        "ks": None,
    }
    groups = [
        {"value": "north", "rows": 200, "users": 60, "positives": 50, "auroc": 0.7, "auroc_interval": [0.6, 0.8]},
        {"value": "an island", "rows": 100, "users": 2, "positives": 9, "auroc": 0.7, "auroc_interval": [0.6, 0.8]},
    ]
    small, steps = [{"value": "a hermit", "rows": 1}], [0] * 101
    baseline = figures | {"auroc_difference": -0.01, "auroc_difference_interval": [-0.02, 0.03]}
    metrics = {
        "test": {"rows": 246, "users": 129, "positives": 61, **figures, "baselines": {"recency_rule": baseline}},
        "verdict": "The model is level with the recency rule.",
        "calibration": {"method": "temperature", "before": {"auroc": 0.71, "expected_calibration_error": 0.09}},
        "slices": {"shop": {"groups": groups, "too_small": small, "gaps": {"calibration": 0.123457}}},
        "profit": {"contact": 1.2345, "kept_customer": 9.0, "best_share": 0.0, "best_profit": 0.0}
        | {key: [] for key in ("shares", "profits", "interval_low", "interval_high")},
        "curves": {
            "rows": 246,
            "medians": {"positive": 0.987123, "negative": 0.1},
            "calibration": {"predicted": [0.1, 0.5], "observed": [0.2, 0.4], "rows": [123, 123]}
            | {"mean_score": 0.3, "mean_label": 0.3},
            "gain": {"model": {"rows": [0.0, 0.2, 1.0], "captured": [0.0, 0.5, 1.0]}},
        },
        "contact": {"cutoff": "2024-04-01", "users": 9, "total": 98765.4321, "share": 0.1, "contacted_at": 1}
        | {"contacted": steps, "low": steps, "high": steps, "found": {"model": steps}, "ahead": {}}
        | {"found_at": {"model": 1}, "difference_at": {}},
        "made": {
            "date": "2026-11-24",
            "evaluation": {"folder": str(folder.parents[1]), "slices": {"who": f"user_id = '{MARK}1'"}},
            "log": {"first": "2024-01-01 03:14:15", "last": "2024-04-29 02:07:18", "events": 1, "users": 1}
            | {"rejected": {}},
            "versions": {"torch": "2"},
            "bootstrap_resamples": 50,
            "content_hash": task["content_hash"],
        },
    }
    whole = least_metrics(task["name"], str(changed.get("task", "binary")), 0.7, {})
    for name, content in (metrics | changed).items():
        whole[name] = whole[name] | content if isinstance(content, dict) and name in whole else content
    (folder.parent / "metrics.json").write_text(json.dumps(whole))


def texts_of(folder: Path) -> list[str]:
    task = json.loads((folder / "task.json").read_text())
    data = folder.parents[2] / "data" / task["name"]
    return pq.read_table(data / "test.parquet", columns=["text"])["text"].to_pylist()


def card(hub: Hub, name: str) -> str:
    return hub.repositories[f"model {name}"].files["README.md"].decode()
