"""Moments and lengths of time that people write, and the microseconds in which the arrays count."""

import re
from datetime import UTC, date, datetime, timedelta

import numpy as np

from data_prep import InputError

EPOCH = datetime(1970, 1, 1)
INSTANT = timedelta(microseconds=1)  # a moment and its own events lie before the next one
CUTOFF_YEARS = range(1900, 2200)  # events lie in them, too
UNITS = {"m": "minute", "min": "minute", "h": "hour", "d": "day", "w": "week"}
DURATION = re.compile(rf"\s*(\d{{1,8}})\s*({'|'.join([*UNITS.values(), *UNITS])})s?\s*")


def microseconds(length: timedelta) -> int:
    """The length in microseconds; for a moment, give moment - EPOCH."""
    return length // timedelta(microseconds=1)


def parse_duration(text: str, setting: str) -> timedelta:
    """14 days or 30m -> timedelta; raises InputError where the text is no such length."""
    match = DURATION.fullmatch(str(text))
    unit = UNITS.get(match[2], match[2]) if match else ""
    length = timedelta(**{f"{unit}s": int(match[1])}) if match else timedelta()
    if not timedelta() < length <= timedelta(days=36500):
        raise InputError(
            f"'{text}' is not a length above zero and below 100 years",
            "write minutes (30m), hours (2h), days or weeks: 14 days",
            setting=setting,
        )
    return length


def in_words(length: str) -> str:
    """30m -> 30 minutes; a length that is written in words stays as it is."""
    match = DURATION.fullmatch(length)
    return spelled(length) if match and match[2] in UNITS else length


def spelled(length: str) -> str:
    """30m, 30minute and 30 minutes -> 30 minutes; the text has to be a length."""
    match = DURATION.fullmatch(length)
    assert match is not None, "by parse_duration"
    return f"{match[1]} {UNITS.get(match[2], match[2])}{'s' * (int(match[1]) != 1)}"


def show(moment: datetime) -> str:
    """A date, with the time where it is not midnight, and with seconds where there are any."""
    clock = (moment.hour, moment.minute, moment.second)
    return moment.strftime("%Y-%m-%d" + " %H:%M" * any(clock) + ":%S" * bool(clock[2]))


def parse_moment(text: str, setting: str) -> datetime:
    """2024-01-31 12:00 -> datetime, with a zone where the text has one; raises InputError where it is no date."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"'{text}' is not a date", "write 2024-01-31 or 2024-01-31 12:00", setting=setting) from None


def in_utc(moment: datetime) -> datetime:
    """The moment in UTC, without a zone; one that carries none is in UTC already."""
    return moment if moment.tzinfo is None else moment.astimezone(UTC).replace(tzinfo=None)


def parse_cutoff(cutoff: datetime | date | np.datetime64 | str) -> datetime:
    """A moment in UTC, without a zone; InputError where it is none."""
    given = cutoff
    if isinstance(cutoff, str):
        cutoff = parse_moment(cutoff, "cutoff")
    if isinstance(cutoff, np.datetime64):
        cutoff = cutoff.astype("datetime64[us]").item()
    if not isinstance(cutoff, date) or cutoff != cutoff:  # pandas' NaT is a date, too, and equals nothing
        raise InputError(
            f"cutoff: {given!r} is not a date", "give a datetime, a date or text such as 2024-01-31", "cutoff"
        )
    if cutoff.year not in CUTOFF_YEARS:
        raise InputError(f"cutoff: {given} is not between 1900 and 2199", "correct the year", "cutoff")
    if not isinstance(cutoff, datetime):
        return datetime(cutoff.year, cutoff.month, cutoff.day)
    # Of pandas' own, without nanoseconds.
    return in_utc(datetime.combine(cutoff.date(), cutoff.time(), cutoff.tzinfo))
