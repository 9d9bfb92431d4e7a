"""The moments of prediction of each split, and the rules between them that keep the future out."""

from datetime import datetime, timedelta

from data_prep import InputError
from data_prep.config import CutoffRange, TaskConfig
from data_prep.event_log import Count, EventLog
from data_prep.moments import CUTOFF_YEARS, parse_duration, parse_moment, show
from data_prep.sql import quote, timestamp

SPLITS = ("train", "validation", "test")


def split_file(split: str) -> str:
    """The file of a split, in a folder of prepared data or of predictions."""
    return f"{split}.parquet"


def resolve_cutoffs(task: TaskConfig, log: EventLog) -> dict[str, list[datetime]]:
    """The cutoffs of each split, in order, after every leakage rule has been checked.

    Rules: a training label window ends no later than the first validation cutoff; a validation window no later than
    the first test cutoff; every cutoff lies after the first event and every label window ends within the log (the day
    of its last event counts as complete).

    Raises:
        InputError: A rule is broken; the message has the dates.
    """
    horizon = parse_duration(task.label.horizon, "task.label.horizon")
    parse_duration(task.population.within, "task.population.within")
    cutoffs = {split: _parse_cutoffs(getattr(task.cutoffs, split), f"task.cutoffs.{split}") for split in SPLITS}
    for earlier, later in (("train", "validation"), ("validation", "test")):
        end, start = cutoffs[earlier][-1] + horizon, cutoffs[later][0]
        if end > start:
            raise InputError(
                f"the label window of the last {earlier} cutoff {show(cutoffs[earlier][-1])} ends on "
                f"{show(end)}, after the first {later} cutoff {show(start)}",
                f"move {later} to {show(end)} or later, or end {earlier} at {show(start - horizon)}",
                setting="task.cutoffs",
            )
    assert log.first is not None, "as a log without an event is refused"
    assert log.last is not None, "as a log without an event is refused"
    log_end = log.last.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    for split in SPLITS:
        for cutoff in cutoffs[split]:
            if cutoff <= log.first:
                raise InputError(
                    f"the cutoff {show(cutoff)} is not after the log's first event "
                    f"({show(log.first)}), so there is no history",
                    "choose a later one",
                    setting=f"task.cutoffs.{split}",
                )
            if cutoff + horizon > log_end:
                raise InputError(
                    f"the label window of the cutoff {show(cutoff)} ends on "
                    f"{show(cutoff + horizon)}, but the log ends on {show(log.last)}",
                    f"choose a cutoff no later than {show(log_end - horizon)}",
                    setting=f"task.cutoffs.{split}",
                )
    return cutoffs


def doubtful_windows(count: Count, task: TaskConfig, cutoffs: dict[str, list[datetime]]) -> list[str]:
    """A sentence for each label window in whose last quarter (or day) nobody has a matching event.

    The log, or the source of these events, may end there: the window would not be complete.
    """
    horizon = parse_duration(task.label.horizon, "task.label.horizon")
    ends = {show(cutoff): cutoff + horizon for split in SPLITS for cutoff in cutoffs[split]}
    counts = count(
        " UNION ALL ".join(
            f"""SELECT {quote(name)}, count(*) FROM log WHERE ({task.label.where}
                ) AND event_time >= {timestamp(end - max(horizon / 4, timedelta(days=1)))}
                  AND event_time < {timestamp(end)}"""
            for name, end in ends.items()
        )
    )
    return [
        f"no event with {task.label.where} at the end of the label window {name} to {show(end)}; is the log complete?"
        for name, end in ends.items()
        if not counts[name]
    ]


def _parse_cutoffs(value: CutoffRange | list[str], setting: str) -> list[datetime]:
    if isinstance(value, CutoffRange):
        first, last = _parse_cutoff(value.first, f"{setting}.first"), _parse_cutoff(value.last, f"{setting}.last")
        step = parse_duration(value.every, f"{setting}.every")
        if last < first:
            raise InputError(f"last ({show(last)}) is before first ({show(first)})", setting=setting)
        return [first + i * step for i in range((last - first) // step + 1)]
    if not value:
        raise InputError(f"{setting} is empty", "give at least one date", setting=setting)
    return sorted({_parse_cutoff(text, setting) for text in value})


def _parse_cutoff(text: str, setting: str) -> datetime:
    moment = parse_moment(str(text), setting)
    if moment.year not in CUTOFF_YEARS:
        raise InputError(f"'{text}' is not a date between 1900 and 2199", "correct the year", setting=setting)
    if moment.tzinfo is not None:
        raise InputError(f"'{text}' carries a time zone", "cutoffs are in UTC, write it without one", setting=setting)
    return moment
