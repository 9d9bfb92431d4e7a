"""A log whose label one number tells: who was at a high level last week, buys in this one."""

from pathlib import Path

import numpy as np
import yaml

WEEKS = 14


def write_planted(path: Path, users: int = 120, seed: int = 0) -> None:
    random = np.random.default_rng(seed)
    rows = ["user_id,event_time,event_type,level,noise,color"]
    start = np.datetime64("2024-01-01T00:00:00")
    for user in range(users):
        was_high = random.random() < 0.5
        for week in range(WEEKS):
            if was_high:
                rows.append(f"u{user:03},{start + np.timedelta64(7 * 24 * week + 20, 'h')},purchase,,,")
            was_high = random.random() < 0.5
            for day in (3, 5):
                level = random.uniform(6, 9) if was_high else random.uniform(1, 4)
                moment = start + np.timedelta64(24 * (7 * week + day) + 12, "h")
                rows.append(
                    f"u{user:03},{moment},view,{level:.2f},{random.uniform(1, 9):.2f},{random.choice(['red', 'blue'])}"
                )
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


def planted_config(folder: Path) -> Path:
    """Beside the log; it trains in seconds to an AUROC near 1."""
    days = [np.datetime64("2024-01-01") + 7 * week for week in range(1, WEEKS - 1)]
    cutoffs = [str(day) for day in days]
    config = {
        "name": "planted",
        "data": {
            "folder": str(folder / "data"),
            "sources": [
                {
                    "path": str(folder / "log.csv"),
                    "columns": {
                        name: name for name in ("user_id", "event_time", "event_type", "level", "noise", "color")
                    },
                }
            ],
        },
        "task": {
            "label": {"kind": "exists", "where": "event_type = 'purchase'", "horizon": "7 days"},
            "population": {"where": "event_type = 'view'", "within": "28 days"},
            "cutoffs": {"train": cutoffs[:7], "validation": [cutoffs[8]], "test": cutoffs[9:11]},
        },
        "text": {"header": [], "fields": {"level": {"bins": 4}, "noise": {"bins": 4}}, "max_events": 2},
        "model": {"from_scratch": {"hidden_size": 32, "layers": 1, "heads": 2, "dropout": 0.0}, "max_tokens": 32},
        "training": {
            "max_steps": 80,
            "eval_steps": 40,
            "per_device_train_batch_size": 32,
            "learning_rate": 3e-3,
            "use_cpu": True,
            "report_to": "none",
        },
        "runs": {"folder": str(folder / "runs")},
        "evaluation": {"bootstrap": 50},
    }
    path = folder / "planted.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path
