"""How figures are called and written on a page."""

import math
import re

FEW_POSITIVES = 50  # below it, metrics can hardly tell two scorers apart
MEASURES = {  # name, and what it says
    "auroc": ("AUROC", "how often a positive row ranks above a negative one; chance is 0.5"),
    "micro_auroc": ("AUROC over all pairs", "the same over all pairs of row and class together"),
    "average_precision": ("Average precision", "precision averaged over every recall; chance is the base rate"),
    "micro_average_precision": (
        "Average precision over all pairs",
        "the same over all pairs of row and class together",
    ),
    "log_loss": ("Log loss", "how surprising the labels are to the model; lower is better"),
    "brier_score": ("Brier score", "mean squared error of the probabilities; lower is better"),
    "expected_calibration_error": ("Calibration error", "how far probabilities are off on average; lower is better"),
    "ks": ("KS", "largest gap between the shares of positives and of negatives above a score"),
    "gini": ("Gini", "twice the AUROC, minus 1; chance is 0"),
    "precision": ("Precision", "positives among the rows that reach the threshold"),
    "recall": ("Recall", "share of all positives that reach the threshold"),
    "f1": ("F1", "harmonic mean of precision and recall"),
    "accuracy": ("Accuracy", "share of the rows that are told rightly"),
    "macro_f1": ("Macro F1", "mean F1 of the tiers, each counting the same"),
    "weighted_f1": ("Weighted F1", "mean F1 of the tiers, each counting by its rows"),
    "ordinal_error": (
        "Ordinal error",
        "mean distance, in tiers, of the predicted tier from the true one; lower is better",
    ),
    "mae": ("MAE", "mean absolute error, in the label's unit; lower is better"),
    "rmse": ("RMSE", "root of the mean squared error, in the label's unit; lower is better"),
    "nmae": ("NMAE", "MAE over the standard deviation of the training labels; lower is better"),
    "spearman": ("Spearman", "correlation of the ranks of prediction and label; 0 is chance, 1 perfect"),
    "value_gini": ("Gini of value", "value captured from the top down, as a share of a perfect ranking's"),
    "novelty": ("Novelty", "how unpopular the classes are that score highest"),
    "diversity": ("Diversity", "how evenly the scores spread over the classes"),
    "synerise_score": ("Synerise score", "0.8 AUROC + 0.1 novelty + 0.1 diversity"),
}
ABBREVIATIONS = {"rfm": "RFM"}
AT = {  # the same for measures at a number k
    "lift": ("Lift at the top {k}\u00a0%", "positives among the highest-scored rows, times the base rate"),
    "recall": ("Recall at the top {k}\u00a0%", "share of all positives among the highest-scored rows"),
}
AT_CLASSES = {
    "precision": ("Precision at {k}", "right ones among a row's {k} highest-scored classes"),
    "recall": ("Recall at {k}", "share of a row's classes among its {k} highest-scored"),
    "ndcg": ("NDCG at {k}", "the same, counting more the higher they stand; 1 is perfect"),
    "coverage": ("Coverage at {k}", "share of all classes that stand among some row's {k} highest-scored"),
}


def measure(key: str, task: str) -> tuple[str, str]:
    """What a key of metrics.json is called, and what it says in one line; an unknown one by its own words."""
    if found := re.fullmatch(r"(\w+)_at_(\d+)", key):
        known = (AT_CLASSES if task == "propensity" else AT).get(found[1], (named(key), ""))
        return tuple(text.format(k=found[2]) for text in known)
    if key == "auroc" and task in ("tiers", "propensity"):
        return "AUROC", "mean over the classes, each against the rest; chance is 0.5"
    if key == "average_precision" and task == "propensity":
        return "Average precision", "mean over the classes"
    return MEASURES.get(key, (named(key), ""))


def digits(key: str) -> int | None:
    """Decimals that a measure is shown with; None for those in the label's unit."""
    return None if key in ("mae", "rmse") else 3


def worded(name: str) -> str:
    """A key as words within a sentence."""
    return ABBREVIATIONS.get(name, name.replace("_", " "))


def named(name: str) -> str:
    """The same at its start."""
    return worded(name)[:1].upper() + worded(name)[1:]


def short(text: object, width: int = 26) -> str:
    """A user's value as the label of an axis."""
    text = " ".join(str(text).split())
    return text if len(text) <= width else text[: width - 1] + "\u2026"


def missing(value: float | None) -> bool:
    """None or NaN."""
    return value is None or math.isnan(value)


def number(value: float | None, digits: int | None = 3, sign: str = "") -> str:
    """With a real minus sign; an en dash where there is no value; without `digits` four that tell something.

    Where two decimals or more are asked for, a value that is not zero has as many as it takes to see that, and its
    sign: the end of an interval decides by the side of zero that it is on.
    """
    if missing(value):
        return "\u2013"
    if digits is None:
        digits = max(0, min(3, 3 - math.floor(math.log10(abs(value))))) if value else 0
    return plain_number(value, digits, sign, ",").replace("-", "\u2212")


def plain_number(value: float, digits: int, sign: str = "", thousands: str = "") -> str:
    """The same for a terminal."""
    form = f"{thousands}.{digits}f"
    if not round(value, digits):
        if not value or digits < 2:
            return f"{0:{form}}"  # zero has no sign
        needed = -math.floor(math.log10(abs(value)))
        form = f".{needed}f" if needed <= 9 else ".0e"
    return f"{value:{sign}{form}}"


def span(interval: list[float] | None, digits: int | None = 3, sign: str = "") -> str:
    """Both ends of an interval."""
    if interval is None or any(map(missing, interval)):
        return "\u2013"
    return " to ".join(number(end, digits, sign) for end in interval)


def percent(share: float | None, digits: int = 0) -> str:
    """A share in per cent."""
    return "\u2013" if missing(share) else f"{number(100 * share, digits)}\u00a0%"


def standing(interval: list[float], lower_is_better: bool) -> str:
    """What the interval of model minus rival says of the model: ahead, behind or level."""
    low, high = (-end for end in reversed(interval)) if lower_is_better else interval
    return "ahead" if low > 0 else "behind" if high < 0 else "level"


def listed(words: list[str]) -> str:
    """Words with commas and a last `and`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
