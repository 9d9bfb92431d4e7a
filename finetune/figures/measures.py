"""Every measure once: what it is called and says, which way it is better, who has it, and where it is shown.

`finetune.figures.metrics` computes them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from finetune.wording import missing, named

MODEL = "model"  # our scorer
SAME_FOR_ALL = ("majority", "kaplan_meier")  # baselines that say the same of everyone; the second one of `when`
BLEND = "blend"  # the mean of model and boosting, half and half
MEAN_OF_SEEDS = "mean_of_seeds"  # the mean score of the models of several seeds, which no single one of them gives
UNDRAWN = (BLEND, MEAN_OF_SEEDS)  # their curves would hide behind the model's
NO_RIVALS = (BLEND, "stack", MEAN_OF_SEEDS)  # they know the model's score
SHARES = (1, 5, 10, 20)  # per cent of the rows that are contacted
TOP = 10  # classes that are recommended
SEED_DEVIATIONS = (0.0001, 0.0021)  # of AUROC between seeds, least (.00005) and most on seven labels of real logs


@dataclass(frozen=True)
class Measure:
    """One measure of a task.

    Attributes:
        title: What it is called.
        meaning: What it says, in one line.
        lower_is_better: Which way it is better.
        digits: Decimals that it is shown with; None for one in the label's unit.
        interval: Whether the bootstrap gives it an interval.
        validation: Whether it is logged at each evaluation and may choose the best checkpoint.
        places: Where it is shown beside the whole table of the report: "screen", "compare" and "card"; in the report
            "leading" with the difference to each baseline, "beside" without, and "apart" in a table of its own.
        hub: Its name on the hub, where that differs.
    """

    title: str
    meaning: str = ""
    lower_is_better: bool = False
    digits: int | None = 3
    interval: bool = True
    validation: bool = False
    places: tuple[str, ...] = ()
    hub: str | None = None


EVERYWHERE = ("screen", "compare", "leading", "card")
PAIRS = "the same over all pairs of row and class together"
LOSS = "how surprising the labels are to the model; lower is better"
CLASS_AUROC = Measure(
    "AUROC",
    "mean over the classes, each against the rest; chance is 0.5",
    validation=True,
    places=EVERYWHERE,
    hub="roc_auc",
)
# Task -> name in metrics.json -> measure, in the order of the report's table; the first is the main one, which chooses
# the best checkpoint. Without intervals are the calibration error and KS: sums of absolute gaps and largest gaps are
# made larger by noise, so that their resamples lie above them (the interval of KS on 900 rows of 300 users covered the
# truth in 83 % of 500 simulations).
MEASURES: dict[str, dict[str, Measure]] = {
    "binary": {
        "auroc": Measure(
            "AUROC",
            "how often a positive row ranks above a negative one; chance is 0.5",
            validation=True,
            places=EVERYWHERE,
            hub="roc_auc",
        ),
        "average_precision": Measure(
            "Average precision",
            "precision averaged over every recall; chance is the base rate",
            validation=True,
            places=EVERYWHERE,
        ),
        "log_loss": Measure("Log loss", LOSS, True, validation=True, places=("beside", "card")),
        "brier_score": Measure(
            "Brier score",
            "mean squared error of the probabilities; lower is better",
            True,
            validation=True,
            places=("card",),
        ),
        "expected_calibration_error": Measure(
            "Calibration error", "how far probabilities are off on average; lower is better", True, interval=False
        ),
        "ks": Measure(
            "KS", "largest gap between the shares of positives and of negatives above a score", interval=False
        ),
        "gini": Measure("Gini", "twice the AUROC, minus 1; chance is 0"),
        **{
            f"lift_at_{share}": Measure(
                f"Lift at the top {share}\u00a0%",
                "how many times as frequent positives are among the highest-scored rows as among all",
                places=("beside", "card") if share == 10 else (),
            )
            for share in SHARES
        },
        **{
            f"recall_at_{share}": Measure(
                f"Recall at the top {share}\u00a0%",
                "share of all positives among the highest-scored rows",
                places=("card",) if share == 10 else (),
            )
            for share in SHARES
        },
    },
    "tiers": {
        "auroc": CLASS_AUROC,
        "macro_f1": Measure(
            "Macro F1", "mean F1 of the tiers, each counting the same", validation=True, places=EVERYWHERE
        ),
        "weighted_f1": Measure("Weighted F1", "mean F1 of the tiers, each counting by its rows", validation=True),
        "accuracy": Measure(
            "Accuracy", "share of the rows that are told rightly", validation=True, places=("beside", "card")
        ),
        "log_loss": Measure("Log loss", LOSS, True, validation=True, places=("card",)),
        "ordinal_error": Measure(
            "Ordinal error",
            "mean distance, in tiers, of the predicted tier from the true one; lower is better",
            True,
            validation=True,
            places=("beside", "card"),
        ),
    },
    "value": {
        "mae": Measure(
            "MAE",
            "mean absolute error, in the label's unit; lower is better",
            True,
            digits=None,
            validation=True,
            places=EVERYWHERE,
        ),
        "rmse": Measure(
            "RMSE",
            "root of the mean squared error, in the label's unit; lower is better",
            True,
            digits=None,
            validation=True,
            places=("card",),
        ),
        "nmae": Measure(
            "NMAE",
            "MAE over the standard deviation of the training labels; lower is better",
            True,
            places=("beside", "card"),
        ),
        "spearman": Measure(
            "Spearman",
            "correlation of the ranks of prediction and label; 0 is chance, 1 perfect",
            validation=True,
            places=EVERYWHERE,
        ),
        "value_gini": Measure(
            "Gini of value",
            "value captured from the top down, as a share of a perfect ranking's",
            validation=True,
            places=("beside", "card"),
        ),
    },
    "propensity": {
        "auroc": CLASS_AUROC,
        "micro_auroc": Measure("AUROC over all pairs", PAIRS, validation=True, places=("compare", "card")),
        "average_precision": Measure(
            "Average precision", "mean over the classes", validation=True, places=("screen", "leading", "card")
        ),
        "micro_average_precision": Measure("Average precision over all pairs", PAIRS, interval=False),
        f"precision_at_{TOP}": Measure(
            f"Precision at {TOP}", f"right ones among a row's {TOP} highest-scored classes", interval=False
        ),
        f"recall_at_{TOP}": Measure(
            f"Recall at {TOP}", f"share of a row's classes among its {TOP} highest-scored", places=("beside", "card")
        ),
        f"ndcg_at_{TOP}": Measure(
            f"NDCG at {TOP}",
            f"what a row's {TOP} highest-scored classes hold of its own, the higher the better; 1 is perfect",
            interval=False,
            places=("apart", "card"),
        ),
        f"coverage_at_{TOP}": Measure(
            f"Coverage at {TOP}",
            f"share of all classes that stand among some row's {TOP} highest-scored",
            interval=False,
        ),
        "log_loss": Measure("Log loss", LOSS, True, interval=False, validation=True),
        "novelty": Measure("Novelty", "how unpopular the classes are that score highest", interval=False),
        "diversity": Measure("Diversity", "how evenly the scores spread over the classes", interval=False),
        "synerise_score": Measure(
            "Synerise score", "0.8 AUROC + 0.1 novelty + 0.1 diversity", places=("beside", "card")
        ),
    },
    "survival": {
        "concordance": Measure(
            "Concordance",
            "of two users of whom one has the event earlier, how often that one ranks above; chance is 0.5",
            validation=True,
            places=EVERYWHERE,
        ),
        "integrated_brier_score": Measure(
            "Integrated Brier score",
            "mean squared error of the probabilities, over the time between the horizons; lower is better",
            True,
            validation=True,
            places=EVERYWHERE,
        ),
        "auroc": Measure("AUROC", "mean over the horizons; chance is 0.5", validation=True, places=("beside", "card")),
        "average_precision": Measure(
            "Average precision", "mean over the horizons", validation=True, places=("compare", "card")
        ),
        "log_loss": Measure(
            "Log loss",
            "how surprising the outcome of each interval is; lower is better",
            True,
            interval=False,
            validation=True,
        ),
    },
}
# Of `when` each of these at each horizon, as auroc_1 for the first one, and so on.
AT_HORIZON = {
    "auroc": Measure("AUROC", "how often a row whose event has come by then ranks above one where it has not"),
    "average_precision": Measure("Average precision", "precision averaged over every recall; chance is the share"),
    "brier_score": Measure("Brier score", "mean squared error of the probability; lower is better", True),
}
AT_THRESHOLD = {  # of absent and exists
    "precision": Measure("Precision", "positives among the rows that reach the threshold"),
    "recall": Measure("Recall", "share of all positives that reach the threshold"),
    "f1": Measure("F1", "harmonic mean of precision and recall"),
    "accuracy": Measure("Accuracy", "share of the rows that are told rightly"),
}
REPEAT_AND_NEW = {  # of propensity, on rows of which it is known what the user had before
    "repeat_auroc": Measure(
        "AUROC, had before",
        "mean over the classes, among the users who had the class before the cutoff",
        interval=False,
        places=("apart", "card"),
    ),
    "new_auroc": Measure(
        "AUROC, new to the user", "the same among the users who had not", interval=False, places=("apart", "card")
    ),
}
DRIFT = (0.1, 0.25)  # usual bounds of a small and a large population stability index
RATES = ("selected_rate", "true_positive_rate", "calibration_gap")  # of a group of users, beside its measures
GAPS = ("equal_opportunity", "demographic_parity", "calibration")  # between groups
MAIN = {task: next(iter(known)) for task, known in MEASURES.items()}
IN_UNITS = {name for known in MEASURES.values() for name, of_task in known.items() if of_task.digits is None}
LOWER_IS_BETTER = {name for known in MEASURES.values() for name, of_task in known.items() if of_task.lower_is_better}


def at_horizon(name: str, number: int) -> str:
    """The key of a measure at the horizon of this number, which counts from 1."""
    return f"{name}_{number}"


def measure(key: str, task: str) -> Measure:
    """The measure that a key of metrics.json is; an unknown one is called by its own words."""
    known = {"binary": AT_THRESHOLD, "propensity": REPEAT_AND_NEW}.get(task, {}) | MEASURES[task]
    if key in known:
        return known[key]
    of_horizon = re.fullmatch(r"(\w+)_(\d+)", key)
    if task == "survival" and of_horizon and of_horizon[1] in AT_HORIZON:
        found = AT_HORIZON[of_horizon[1]]
        return replace(found, title=f"{found.title}, horizon {of_horizon[2]}")
    at = re.fullmatch(r"(\w+_at_)(\d+)", key)
    if task == "propensity" and at and f"{at[1]}{TOP}" in known:  # there are fewer classes than TOP
        found = known[f"{at[1]}{TOP}"]
        return replace(
            found, title=found.title.replace(str(TOP), at[2]), meaning=found.meaning.replace(str(TOP), at[2])
        )
    return Measure(named(key))


def measure_names(task: str, place: str | None = None, classes: int = TOP) -> tuple[str, ...]:
    """The names of the measures that `compute_metrics` gives, or of those that are shown at a place.

    Args:
        task: binary, tiers, propensity, survival or value.
        place: See Measure.places; "interval" and "validation" are those that have them. None gives all.
        classes: Of propensity; with fewer than TOP, precision_at_4 says it of the four that there are. Of survival the
            horizons.
    """
    chosen = [
        name
        for name, of_task in (MEASURES[task] | (REPEAT_AND_NEW if place and task == "propensity" else {})).items()
        if place is None or place in of_task.places or (place in ("interval", "validation") and getattr(of_task, place))
    ]
    if task == "propensity" and classes < TOP:
        chosen = [name.replace(f"_at_{TOP}", f"_at_{classes}") for name in chosen]
    if task == "survival" and place in (None, "interval"):
        chosen += [at_horizon(name, number) for name in AT_HORIZON for number in range(1, classes + 1)]
    return tuple(chosen)


def digits(key: str) -> int | None:
    """Decimals that a measure is shown with; None for those in the label's unit."""
    return None if key in IN_UNITS else Measure.digits


def best_rival(baselines: dict[str, dict], main: str) -> str | None:
    """The best of the baselines that do not know the model's score; None where none has the measure.

    Args:
        baselines: Baseline -> its figures.
        main: The measure.
    """
    known = {name: figures[main] for name, figures in baselines.items() if name not in NO_RIVALS}
    known = {name: value for name, value in known.items() if not missing(value)}
    return max(known, key=lambda name: -known[name] if main in LOWER_IS_BETTER else known[name]) if known else None


def judged(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The test figures by which a run is judged: those of a single checkpoint, as that is what is used.

    With several seeds they are the means over the seeds, and their intervals are over users and seeds.

    Args:
        metrics: The content of metrics.json.
    """
    return metrics["test"] | (metrics.get("single") or {})
