"""The least that metrics.json of an evaluated run holds."""

from data_prep.cutoffs import SPLITS
from finetune.figures.measures import LOWER_IS_BETTER, MAIN

NOTHING = {"steps": [], "values": []}
CURVES = {
    "binary": {
        key: {} for key in ("roc", "precision_recall", "gain", "differences", "calibration", "histograms", "medians")
    },
    "tiers": {key: {} for key in ("auroc", "roc", "calibration", "histograms")},
    "value": {key: {} for key in ("gain", "perfect_gain")},
    "propensity": {key: {} for key in ("class_auroc", "at_k", "calibration", "histograms")},
    "survival": {"by_horizon": [], "by_risk": {"rows": [], "predicted": [], "observed": []}}
    | {"come_by": [0.1, 0.2], "expected": [0.1, None]},
}
CLASSES = {"binary": ["no_churn", "churn"], "tiers": ["low", "middle", "high"], "propensity": ["a", "b", "c"]}
CLASSES["survival"] = ["7 days", "14 days"]


def least_metrics(name: str, task: str, validation: float | None, baselines: dict[str, float]) -> dict:
    """metrics.json without what an evaluation leaves out where the log or the labels cannot give it.

    Args:
        name: Of the run.
        task: binary, tiers, propensity, survival or value.
        validation: The main measure there.
        baselines: Baseline -> its main measure on the test rows.
    """
    main = MAIN[task]
    rows = {"rows": 2, "users": 1, "positives": 1, "cutoffs": ["2024-04-01"]}
    series = ("loss", "eval_loss", f"eval_{main}", "padding_fraction", "pretraining_loss")
    return {
        "name": name,
        "task": task,
        "question": "Who?",
        "label": "churn",
        "horizon": "14 days",
        "classes": CLASSES.get(task),
        "main": main,
        "lower_is_better": main in LOWER_IS_BETTER,
        "validation": rows | {main: validation, "baselines": {}},
        "test": rows | {main: 0.7, "baselines": {name: {main: value} for name, value in baselines.items()}},
        "verdict": "Nobody can tell.",
        "curves": {"rows": 2, "unscored": 0} | CURVES[task],
        "timeline": {split: {"cutoffs": ["2024-04-01"], "rows": 2} for split in SPLITS},
        "training": {"steps": 3, "pretraining_steps": 0} | dict.fromkeys(series, NOTHING),
        "made": {
            "date": "2024-05-01",
            "device": "cpu",
            "processes": 1,
            "versions": {},
            "seed": 0,
            "bootstrap_resamples": 0,
            "baseline_settings": {},
            "content_hash": "0",
        },
    }
