"""The label of a user at a cutoff, from the events of its window alone; the classes and what they are called."""

from datetime import datetime, timedelta
from itertools import pairwise

import numpy as np

from data_prep import InputError
from data_prep.config import Label, TaskConfig
from data_prep.event_log import Count, most_frequent, row_hash
from data_prep.features import class_values
from data_prep.history import MILLION, History, Moment, exact, running
from data_prep.moments import EPOCH, microseconds, parse_duration, spelled
from data_prep.population import Members, Whom
from data_prep.sql import NUMERIC, identifier, timestamp

LABEL_NAMES = {"absent": "churn", "exists": "purchase", "sum": "value", "count": "count", "which": "propensity"}
LABEL_NAMES |= {"when": "purchase"}
UNKNOWN = -1  # the label of an interval behind the event, or behind the end of the log


class LabelRule:
    """The population and the label of a task; `Labels` gives both for the users of a history.

    Args:
        task: With both.
        types: Field of the log -> DuckDB type.
        classes: See `fit_classes`.
        log_end: See `data_prep.cutoffs.log_end`.
    """

    def __init__(self, task: TaskConfig, types: dict[str, str], classes: list[str] | None, log_end: datetime) -> None:
        self.label, self.whom, self.types, self.classes = task.label, Whom(task.members, task.at), types, classes
        self.horizons = [microseconds(horizon) for horizon in label_horizons(task.label)]
        self.log_end = microseconds(log_end - EPOCH)

    def columns(self) -> dict[str, str]:
        """Name -> SQL over an event: what `load_history` reads for the labels, beside `target`, and for equal rows."""
        sql = self.whom.columns() | {"row": row_hash(self.types)}
        if self.label.kind == "sum":
            assert self.label.field is not None, "by check_label"
            sql["amount"] = f"CAST({identifier(self.label.field)} AS DOUBLE)"
        return sql

    def of_values(self, values: np.ndarray) -> np.ndarray:
        """Labels of numbers of events or sums, of shape (rows,); those of yes or no stay as they are."""
        return values if self.label.tiers is None else np.searchsorted(self.label.tiers, values, side="left")


class Labels:
    """The population and the labels of a history's users at any cutoff.

    Attributes:
        equal_rows: Events that are equal to another one in every column.
    """

    def __init__(self, rule: LabelRule, history: History) -> None:
        self.rule, self.history = rule, history
        row = np.sort(history.columns.pop("row").to_numpy())  # np.unique's hash table takes a hundred times as long
        self.equal_rows = int((row[1:] == row[:-1]).sum())
        target = history.columns["target"].to_numpy()
        self.target, self.members = running(target), Members(rule.whom, history)
        if rule.label.kind == "sum":
            amounts, known = exact(history.columns["amount"])
            self.amounts = running(np.where(known & (target > 0), amounts, 0))

    def users(self, cutoff: int) -> np.ndarray:
        """Indices of the users in the population at a cutoff, in microseconds."""
        return self.members.at(cutoff)

    def at(self, cutoff: Moment, users: np.ndarray) -> np.ndarray:
        """The labels of some users, from events in [cutoff, cutoff + horizon) alone.

        Returns:
            Of shape (users,): int64, or float64 for a sum without tiers; for `which` int8 of shape (users, classes),
            and for `when` int8 of shape (users, horizons), see `_intervals`.
        """
        label, end = self.rule.label, cutoff + self.rule.horizons[-1]
        if label.kind == "when":
            return self._intervals(cutoff, users)
        if self.rule.classes:
            assert self.history.classes is not None, "by load_classes"
            row, time, code = self.history.classes
            begin, until = (self.history.moment_of(row, moment, users) for moment in (cutoff, end))
            inside = (time >= begin) & (time < until)
            everyone = np.zeros((len(self.history.users), len(self.rule.classes)), np.int8)
            everyone[row[inside], code[inside]] = 1
            return everyone[users]
        low, high = self.history.first_at(cutoff, users), self.history.first_at(end, users)
        count = (self.target[high] - self.target[low]).astype(np.int64)
        if label.kind in ("absent", "exists"):
            return ((count > 0) == (label.kind == "exists")).astype(np.int64)
        value = count if label.kind == "count" else (self.amounts[high] - self.amounts[low]) / MILLION
        return self.rule.of_values(value)

    def _intervals(self, cutoff: Moment, users: np.ndarray) -> np.ndarray:
        """Of each interval from one horizon to the next 1 where the first matching event lies in it, 0 where none has
        come by its end, and UNKNOWN behind the event, or where the log ends before the interval does.

        An interval that the log cuts short is UNKNOWN even where the event is seen in what there is of it: to know the
        users who have it, and not those who have it not, would make it too likely.
        """
        before = self.target[self.history.first_at(cutoff, users)]
        ends = [cutoff + horizon for horizon in self.rule.horizons]
        come = np.stack([self.target[self.history.first_at(end, users)] > before for end in ends], axis=1)
        known = np.stack([np.broadcast_to(end <= self.rule.log_end, len(users)) for end in ends], axis=1)
        known[:, 1:] &= ~come[:, :-1]
        return np.where(known, come, UNKNOWN).astype(np.int8)


def label_horizons(label: Label, setting: str = "task.label") -> list[timedelta]:
    """The horizons of `when` in ascending order; of other labels the only one.

    Args:
        label: The question.
        setting: What the label is called in messages.

    Raises:
        InputError: There is none, they are not in order, or the kind of label has the other setting.
    """
    several = label.kind == "when"
    given, other = ("horizons", "horizon") if several else ("horizon", "horizons")
    if getattr(label, other) is not None:
        asked = " or, for several horizons at once, kind when" * (label.kind in ("exists", "absent"))
        raise InputError(
            f"{setting}.{other} does not belong to kind {label.kind}",
            f"give `{given}` alone{asked}",
            setting=f"{setting}.{other}",
        )
    if getattr(label, given) is None:
        raise InputError(f"{setting}.{given} is missing", f"kind {label.kind} needs it", setting=f"{setting}.{given}")
    if not several:
        return [parse_duration(label.horizon or "", f"{setting}.horizon")]
    horizons = [parse_duration(text, f"{setting}.horizons") for text in label.horizons or []]
    if not horizons or horizons != sorted(set(horizons)):
        raise InputError(
            f"[{', '.join(label.horizons or [])}] are not lengths in ascending order",
            "write [7 days, 14 days, 28 days]",
            setting=f"{setting}.horizons",
        )
    return horizons


def check_label(label: Label, types: dict[str, str]) -> None:
    """Refuse settings that are missing, that the kind of label has not, or that do not fit the log's columns."""
    for name, kinds in (("field", ("sum", "which")), ("tiers", ("sum", "count")), ("top", ("which",))):
        given, setting = getattr(label, name) is not None, f"task.label.{name}"
        if given and label.kind not in kinds:
            raise InputError(
                f"{setting} belongs to {' and '.join(kinds)}",
                f"leave it out where kind is {label.kind}",
                setting=setting,
            )
        if not given and label.kind in kinds and name != "tiers":
            raise InputError(f"{setting} is missing", f"kind {label.kind} needs it", setting=setting)
    if label.field is not None:
        kind = types.get(label.field)
        if kind is None:
            raise InputError(
                f"the log has no column '{label.field}'", f"it has {', '.join(types)}", setting="task.label.field"
            )
        if label.kind == "sum" and not NUMERIC.fullmatch(kind):
            raise InputError(
                f"a sum needs numbers, but '{label.field}' is {kind}",
                f"cast it in the source, for example CAST({label.field} AS DOUBLE)",
                setting="task.label.field",
            )
    if label.tiers is not None and (
        not label.tiers or sorted(set(label.tiers)) != label.tiers or not np.isfinite(label.tiers).all()
    ):
        raise InputError(
            f"{label.tiers} are not limits in ascending order", "write [0, 50, 200]", setting="task.label.tiers"
        )
    if label.top is not None and label.top < 1:
        raise InputError(f"task.label.top is {label.top}", "give a number above zero", setting="task.label.top")


def fit_classes(count: Count, task: TaskConfig, types: dict[str, str], cutoffs: list[datetime]) -> list[str] | None:
    """The classes of a `which` label, from the training label windows alone; None for other labels.

    Args:
        count: Counts over the relation `log` of all events.
        task: Label, population and cutoffs.
        types: Field of the log -> DuckDB type.
        cutoffs: The training cutoffs; of users with cutoffs of their own all events from the first to the end of the
            last one's window count.

    Raises:
        InputError: No matching event of the training windows has a value.
    """
    if task.label.kind != "which":
        return None
    assert task.label.field is not None, "by check_label"
    assert task.label.top is not None, "by check_label"
    (horizon,) = label_horizons(task.label)
    windows = [(cutoff, cutoff + horizon) for cutoff in cutoffs]
    if task.at_moments:
        windows = [(cutoffs[0], cutoffs[-1] + horizon)]
    inside = " OR ".join(
        f"(event_time >= {timestamp(begin)} AND event_time < {timestamp(end)})" for begin, end in windows
    )
    counts = count(
        f"""SELECT value, count(*) FROM (SELECT {class_values(task.label.field, types)} AS value FROM log
                                         WHERE ({task.label.where}\n) AND ({inside}))
            WHERE value <> '' GROUP BY value"""
    )
    if not counts:
        raise InputError(
            f"no event with {task.label.where} in the training label windows has a {task.label.field}",
            "choose another column or other cutoffs",
            setting="task.label.field",
        )
    return most_frequent(counts, task.label.top)


def class_names(label: Label, classes: list[str] | None) -> list[str] | None:
    """What each class is called: two for yes-or-no labels, one for each tier, value or horizon; None for numbers.

    Raises:
        InputError: Horizons that are none, see `label_horizons`.
    """
    if label.kind in ("absent", "exists"):
        return [f"no_{label_name(label)}", label_name(label)]
    if label.kind == "when":
        label_horizons(label)
        return [spelled(horizon) for horizon in label.horizons or []]
    if label.tiers is None:
        return classes
    limits = [f"{limit:g}" for limit in label.tiers]
    between = [f"above {low} to {high}" for low, high in pairwise(limits)]
    return [f"up to {limits[0]}", *between, f"above {limits[-1]}"]


def come_by(intervals: dict[str, dict[str, int]]) -> dict[str, float]:
    """The share of the rows whose event has come by each horizon that the log reaches, by Kaplan and Meier:
    Nonparametric estimation from incomplete observations, 1958.

    Args:
        intervals: As `describe_labels` has them.
    """
    left, shares = 1.0, {}
    for name, counts in intervals.items():
        if left and not counts["at_risk"]:
            break
        left *= 1 - counts["events"] / max(counts["at_risk"], 1)
        shares[name] = 1 - left
    return shares


def label_name(label: Label) -> str:
    """What is predicted, in one word; for yes-or-no labels, what a label of 1 is called."""
    return label.name or LABEL_NAMES[label.kind]


def describe_labels(labels: np.ndarray, rows: int, names: list[str] | None, split: str, task: TaskConfig) -> dict:
    """What the labels of a split are like, for the manifest.

    Args:
        labels: Of shape (rows,); for `which` and `when` the rows with 1 and those with 0 of each class, in parts of
            shape (parts, 2, classes).
        rows: Their number.
        names: See `class_names`.
        split: For the message.
        task: Label, population and cutoffs.

    Returns:
        For yes-or-no labels positives and positive_rate; for tiers and `which` the rows of each class; for `when`
        `intervals` with at_risk (rows in which an interval is known) and events (those among them with the event) of
        the interval that ends at each horizon; for numbers mean, deviation, the share above zero and quantiles.

    Raises:
        InputError: All labels are the same.
    """
    known = labels[:0]
    if labels.ndim == 3:
        labels, none = labels.sum(axis=0)
        known, said = labels + none, "the same labels"
        same = (labels == 0) | (labels == known)
    else:
        said, same = f"the label {labels[0]:g}", labels == labels[0]
    if same.all():
        raise InputError(
            f"task: all {rows:,} examples of {split} have {said}, so there is nothing to learn or to measure",
            f"change the horizon ({task.label.window}), the condition or the cutoffs",
        )
    if task.label.kind == "when":
        assert names is not None, "as there are horizons"
        counted = zip(names, known.tolist(), labels.tolist(), strict=True)
        return {"intervals": {name: {"at_risk": rows, "events": events} for name, rows, events in counted}}
    if task.label.kind == "which":
        assert names is not None, "by fit_classes"
        return {"classes": dict(zip(names, labels.tolist(), strict=True))}
    if names is None:
        quantiles = np.quantile(labels, [0.1, 0.25, 0.5, 0.75, 0.9, 0.99])
        return {
            "mean": float(labels.mean()),
            "deviation": float(labels.std()),
            "share_above_zero": float((labels > 0).mean()),
            "quantiles": dict(zip(("10 %", "25 %", "50 %", "75 %", "90 %", "99 %"), quantiles.tolist(), strict=True)),
        }
    if len(names) > 2 or task.label.tiers is not None:
        return {"classes": dict(zip(names, np.bincount(labels, minlength=len(names)).tolist(), strict=True))}
    return {"positives": int(labels.sum()), "positive_rate": round(float(labels.mean()), 6)}
