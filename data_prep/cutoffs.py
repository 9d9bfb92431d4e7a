"""The moments of prediction of each split, and the rules between them that keep the future out."""

from datetime import datetime, timedelta

from data_prep import InputError
from data_prep.config import CutoffRange, TaskConfig
from data_prep.event_log import Count, EventLog
from data_prep.labels import label_horizons
from data_prep.moments import CUTOFF_YEARS, INSTANT, parse_duration, parse_moment, show
from data_prep.sql import quote, timestamp

SPLITS = ("train", "validation", "test")
DAY = timedelta(days=1)
MOSTLY = 0.95  # of the events at midnight, and the log has days rather than times


def split_file(split: str) -> str:
    """The file of a split, in a folder of prepared data or of predictions."""
    return f"{split}.parquet"


def resolve_cutoffs(task: TaskConfig, log: EventLog) -> dict[str, list[datetime]]:
    """The cutoffs of each split, in order, after every leakage rule has been checked.

    Where users have cutoffs of their own, the first and the last one that a user may have: those of moments are the
    microsecond behind them, by which all events of that instant are history.

    Rules: a training label window ends no later than the first validation cutoff; a validation window no later than
    the first test cutoff; every cutoff lies after the first event and every label window ends by `log_end`, of `when`
    its first interval: what lies behind the end is not known there.

    Raises:
        InputError: A rule is broken; the message has the dates.
    """
    horizons = label_horizons(task.label)
    horizon = horizons[-1]
    if task.population.within is not None:
        parse_duration(task.population.within, "task.population.within")
    elif not task.at_moments or task.population.where != "true":
        raise InputError(
            "task.population.within is missing",
            "give a length such as 28 days; only cutoffs at events or of task.examples can do without a population",
            setting="task.population.within",
        )
    cutoffs = {split: _parsed(task, split) for split in SPLITS}
    for earlier, later in (("train", "validation"), ("validation", "test")):
        end, start = cutoffs[earlier][-1] + horizon, cutoffs[later][0]
        if end > start:
            raise InputError(
                f"the label window of the last {earlier} cutoff {show(cutoffs[earlier][-1])} ends on "
                f"{show(end)}, after the first {later} cutoff {show(start)}",
                f"move {later} to {show(end)} or later, or end {earlier} at {show(start - horizon)}",
                setting="task.cutoffs",
            )
    for split in SPLITS:
        _refuse_outside(task, split, cutoffs[split], log, horizons[0])
    return cutoffs


def resolve_split(task: TaskConfig, split: str, log: EventLog, labelled: bool = True) -> list[datetime]:
    """The cutoffs of one split alone, as `resolve_cutoffs` gives them.

    Args:
        task: With its cutoffs.
        split: Its name.
        log: What the log has.
        labelled: Whether the label windows have to end within the log.

    Raises:
        InputError: A cutoff lies outside of the log, or a label window that has to end within it ends behind it.
    """
    cutoffs = _parsed(task, split)
    _refuse_outside(task, split, cutoffs, log, label_horizons(task.label)[0] if labelled else None)
    return cutoffs


def log_end(log: EventLog) -> datetime:
    """What happens from then on is not known: the day of the last event counts as complete."""
    assert log.last is not None, "as a log without an event is refused"
    return log.last.replace(hour=0, minute=0, second=0, microsecond=0) + DAY


def _refuse_outside(
    task: TaskConfig, split: str, cutoffs: list[datetime], log: EventLog, horizon: timedelta | None
) -> None:
    """InputError where a cutoff has no history, or its first window, of this length, does not end within the log."""
    assert log.first is not None, "as a log without an event is refused"
    assert log.last is not None, "as a log without an event is refused"
    for cutoff in cutoffs[-1 if task.at_moments else 0 :]:
        if cutoff <= log.first:
            raise InputError(
                f"the cutoff {show(cutoff)} is not after the log's first event "
                f"({show(log.first)}), so there is no history",
                "choose a later one",
                setting=f"task.cutoffs.{split}",
            )
        if horizon is None and cutoff > log_end(log):
            raise InputError(
                f"the cutoff {show(cutoff)} is later than the log, which ends on {show(log.last)}: the days between "
                "would look like days without an event",
                f"choose a cutoff no later than {show(log_end(log))}, or give the newer log",
                setting=f"task.cutoffs.{split}",
            )
        if horizon is not None and cutoff + horizon > log_end(log):
            first = task.label.horizons[0] if task.label.horizons else None
            until = "before" if task.at_moments else "no later than"  # a window opens right after its moment
            raise InputError(
                f"the {f'first horizon, {first},' if first else 'label window'} of the cutoff {show(cutoff)} ends on "
                f"{show(cutoff + horizon)}, but the log ends on {show(log.last)}",
                f"choose a cutoff {until} {show(log_end(log) - horizon)}",
                setting=f"task.cutoffs.{split}",
            )


def doubtful_windows(count: Count, task: TaskConfig, cutoffs: dict[str, list[datetime]], log: EventLog) -> list[str]:
    """A sentence for each label window in whose last quarter (or day) nobody has a matching event.

    The log, or the source of these events, may end there: the window would not be complete. Of several horizons the
    window ends at the last one that the log reaches.
    """
    horizons = label_horizons(task.label)
    windows = {split: found[-1:] if task.at_moments else found for split, found in cutoffs.items()}
    reached = {
        cutoff: max(horizon for horizon in horizons if cutoff + horizon <= log_end(log))
        for split in SPLITS
        for cutoff in windows[split]
    }
    ends = {show(cutoff): (cutoff + horizon, horizon) for cutoff, horizon in reached.items()}
    counts = count(
        " UNION ALL ".join(
            f"""SELECT {quote(name)}, count(*) FROM log WHERE ({task.label.where}
                ) AND event_time >= {timestamp(end - max(horizon / 4, timedelta(days=1)))}
                  AND event_time < {timestamp(end)}"""
            for name, (end, horizon) in ends.items()
        )
    )
    return [
        f"no event with {task.label.where} at the end of the label window {name} to {show(end)}; is the log complete?"
        for name, (end, _) in ends.items()
        if not counts[name]
    ]


def coarse_moments(count: Count, task: TaskConfig, timezone: str) -> list[str]:
    """A sentence where cutoffs are at events that have days and no times: right after one is the end of its day.

    Args:
        count: Over the log.
        task: Its cutoffs.
        timezone: In which days begin, beside UTC.
    """
    if task.at is None:
        return []
    local = f"timezone({quote(timezone)}, timezone('UTC', event_time))"
    midnight = f"TIME '00:00:00' IN (CAST(event_time AS TIME), CAST({local} AS TIME))"
    counts = count(f"SELECT {midnight}, count(*) FROM log WHERE ({task.at}\n) GROUP BY ALL")
    events, of_days = sum(counts.values()), counts.get(True, 0)
    if of_days < MOSTLY * max(events, 1):
        return []
    return [
        f"{of_days:,} of {events:,} events with {task.at} are at 00:00:00, as in a log of days: right after the event "
        "then means the end of its day, and windows of minutes and words of sessions tell nothing; give cutoffs of the "
        "calendar (`every`), or times"
    ]


def _parsed(task: TaskConfig, split: str) -> list[datetime]:
    return (parse_bounds if task.at_moments else _parse_cutoffs)(task, split)


def _parse_cutoffs(task: TaskConfig, split: str) -> list[datetime]:
    """Those of the calendar."""
    value, setting = getattr(task.cutoffs, split), f"task.cutoffs.{split}"
    if isinstance(value, CutoffRange):
        _refuse_settings_of_events(value, setting)
        if value.every is None:
            raise InputError(
                f"{setting}.every is missing",
                "give the step, such as 7 days, or `at`, a condition of the events at which cutoffs are",
                setting=f"{setting}.every",
            )
        first, last = _parse_range(value, setting)
        step = parse_duration(value.every, f"{setting}.every")
        return [first + i * step for i in range((last - first) // step + 1)]
    if not value:
        raise InputError(f"{setting} is empty", "give at least one date", setting=setting)
    return sorted({_parse_cutoff(text, setting) for text in value})


def parse_bounds(task: TaskConfig, split: str) -> list[datetime]:
    """The first and the last moment that a user may have, see `resolve_cutoffs`."""
    value, setting = getattr(task.cutoffs, split), f"task.cutoffs.{split}"
    asks = "`first` and `last`" + ("" if task.examples else " and `at`")
    why = "task.examples has the cutoffs" if task.examples else "those of train are at events"
    if not isinstance(value, CutoffRange) or value.every is not None:
        raise InputError(f"{setting} names cutoffs, but {why}", f"give {asks} alone", setting=setting)
    if task.examples:
        _refuse_settings_of_events(value, setting)
    elif value.at != task.at:
        raise InputError(
            f"{setting}.at is {value.at or 'missing'}, and that of train is {task.at}",
            "ask the same question in all splits",
            setting=f"{setting}.at",
        )
    if value.gap is not None:
        parse_duration(value.gap, f"{setting}.gap")
    first, last = _parse_range(value, setting)
    return [first + INSTANT, last + (DAY if len(value.last.strip()) <= 10 else INSTANT)]


def _refuse_settings_of_events(value: CutoffRange, setting: str) -> None:
    for name in ("at", "per_user", "gap"):
        if getattr(value, name) is not None:
            raise InputError(
                f"{setting}.{name} belongs to cutoffs at events",
                "leave it out, or give `at` in all splits, without `every` and task.examples",
                setting=f"{setting}.{name}",
            )


def _parse_range(value: CutoffRange, setting: str) -> tuple[datetime, datetime]:
    first, last = _parse_cutoff(value.first, f"{setting}.first"), _parse_cutoff(value.last, f"{setting}.last")
    if last < first:
        raise InputError(f"last ({show(last)}) is before first ({show(first)})", setting=setting)
    return first, last


def _parse_cutoff(text: str, setting: str) -> datetime:
    moment = parse_moment(str(text), setting)
    if moment.year not in CUTOFF_YEARS:
        raise InputError(f"'{text}' is not a date between 1900 and 2199", "correct the year", setting=setting)
    if moment.tzinfo is not None:
        raise InputError(f"'{text}' carries a time zone", "cutoffs are in UTC, write it without one", setting=setting)
    return moment
