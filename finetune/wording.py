"""How figures and words are written on a page."""

import math

SAYS_THE_SAME = "{} says nearly the same of everyone: it has learned next to nothing that tells one user from another."
FEW_POSITIVES = 50  # below it, metrics can hardly tell two scorers apart
ABBREVIATIONS = {"rfm": "RFM", "kaplan_meier": "Kaplan-Meier"}
SETTINGS = {  # that their names do not say to everyone
    "per_device_train_batch_size": "examples in a step",
    "max_steps": "steps",
    "num_train_epochs": "passes over the data",
    "event_dropout": "share of events left out in training",
    "weight_decay": "pull of the weights towards zero",
    "hidden_size": "width of the model",
    "name_or_path": "pretrained model",
    "r": "rank of the adapter",
    "seed": "seed, which is chance and no choice",
    "data_seed": "seed of the order of the data, which is chance and no choice",
    "seeds": "seeds, which are chance and no choice",
}


def worded(name: str) -> str:
    """A key as words within a sentence."""
    return ABBREVIATIONS.get(name, name.replace("_", " "))


def named(name: str) -> str:
    """The same at its start."""
    return worded(name)[:1].upper() + worded(name)[1:]


def setting_words(name: str) -> str:
    """What a setting is, by its name with dots."""
    section, _, last = name.rpartition(".")
    said = SETTINGS.get(last, worded(last))
    if section == "pretraining":
        said += " of pretraining"
    return said[:1].upper() + said[1:]


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
    if value is None or missing(value):
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
    return "\u2013" if share is None or missing(share) else f"{number(100 * share, digits)}\u00a0%"


def short_percent(share: float) -> str:
    """The same, with a decimal only where the share has one."""
    return percent(share, 0 if round(100 * share, 6) % 1 == 0 else 1)


def standing(interval: list[float], lower_is_better: bool) -> str:
    """What the interval of model minus rival says of the model: ahead, behind or level."""
    low, high = (-end for end in reversed(interval)) if lower_is_better else interval
    return "ahead" if low > 0 else "behind" if high < 0 else "level"


def same_of_everyone(collapsed: list[int], seeds: int) -> str:
    """A sentence that names the models that tell no user from another; empty where there are none.

    Args:
        collapsed: The seeds of these models.
        seeds: How many models were scored.
    """
    if not collapsed:
        return ""
    if len(collapsed) == seeds:
        return SAYS_THE_SAME.format("The model")
    return SAYS_THE_SAME.format(f"The model of seed {listed([str(seed) for seed in collapsed])}")


def listed(words: list[str], last: str = "and") -> str:
    """Words with commas and a last `and`."""
    return f" {last} ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
