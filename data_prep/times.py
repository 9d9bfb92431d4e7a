"""The moment of an event: how sources write it, and between which moments it is believed."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import product

import duckdb

from data_prep import InputError
from data_prep.moments import in_utc, parse_moment
from data_prep.sql import NUMERIC, quote, refused, text_sql, timestamp

MICROSECONDS = {"seconds": 1e6, "milliseconds": 1e3, "microseconds": 1, "nanoseconds": 1e-3}
# What looks like a date whose order of day and month only its writer knows; nobody's name does.
ANY_ORDER = r"\d{1,2}[/.-]\d{1,2}[/.-]\d{2,4}([T ]\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?)?( ?[AaPp][Mm])?"
# Offsets from UTC go from -14:00 to +14:00; DuckDB takes +99:00 as well.
OFFSET = r"[T :]\d{2}:?\d{2}(:?\d{2})?(\.\d+)? *[+-]\d"
REAL_OFFSET = r"[+-]((0?\d|1[0-3])(:?[0-5]\d){0,2}|14(:?00){0,2})\D*$"
SHORT_YEAR = r"^\s*\d{1,3}\D"  # 01/05/24, which DuckDB takes for a day of the year 1
# A zone after the time that is a word: BST is London's summer to most and Dhaka to DuckDB, by a list of old. Those that
# mean one thing are UTC, GMT and names such as Europe/London.
ZONE_WORD = r":\d\d[\d.]* *[A-Za-z]{2}"
ONE_ZONE = r"(?i)(^|[^a-z])(utc|gmt|[ap]m *$)|[a-z_]/[a-z]"
PLAIN = r"[^.]{16}:\d\d\.\d+"  # 2024-01-31 12:00:00.123 without a zone
# Texts that are no time: a regular expression, and SQL of what must hold as well.
WRONG_OFFSET = OFFSET, f"NOT regexp_matches(trim(given_time), '{REAL_OFFSET}')"
STRANGE_ZONE = ZONE_WORD, f"NOT regexp_matches(given_time, '{ONE_ZONE}')"
WRONG_YEAR = SHORT_YEAR, "true"
DATES = ("%d/%m/%Y", "%m/%d/%Y", "%d/%m/%y", "%m/%d/%y", "%y/%m/%d", "%Y%m%d")
CLOCKS = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p")


def time_sql(kind: str, unit: str | None, time_format: str | None, timezone: str, name: str) -> tuple[str, str]:
    """SQL of event_time as it is given, NULL where nothing is; and of a TIMESTAMP in UTC over that as `given_time`.

    The latter is NULL where it does not parse.

    The session must be in `timezone`, for times that carry none; each one that carries a zone keeps its own.

    Args:
        kind: The type of event_time.
        unit: Of numbers; see MICROSECONDS.
        time_format: Of text or whole numbers, for strptime; None where they are ISO dates.
        timezone: The session's.
        name: The source, for messages.

    Raises:
        InputError: A number without unit or format, one of them where it does not belong, or a type that is no time.
    """
    numeric = NUMERIC.fullmatch(kind) is not None
    text = kind == "VARCHAR" or kind == "JSON" or kind.startswith("ENUM(")
    if time_format is not None and (text or numeric):
        given, zoned = _text(kind), "%z" in time_format.lower()
        parsed = _in_utc(f"try_strptime(trim(given_time), {quote(time_format)})", zoned, timezone)
        wrong = ([WRONG_OFFSET] if zoned else []) + ([STRANGE_ZONE] if "%Z" in time_format else [])
        return given, _unless(wrong, parsed)
    if numeric or (unit is not None and kind == "JSON"):  # numbers with something else among them
        if unit is None:
            raise InputError(
                f"event_time is a number ({kind})",
                f"set time_unit to {', '.join(MICROSECONDS)}, or time_format to what its digits are, as %Y%m%d",
                setting=name,
            )
        # Far outside of the years 1900 to 2199, such as milliseconds taken for seconds, becomes the year 2255 or 1684.
        given = "nullif(CAST(event_time AS DOUBLE), 'NaN')" if numeric else _text(kind)
        time = "given_time" if numeric else "nullif(try_cast(given_time AS DOUBLE), 'NaN')"
        number = f"least(greatest(round({time} * {MICROSECONDS[unit]}), -9e15), 9e15)"  # both pass over NULL
        return given, f"CASE WHEN {time} IS NOT NULL THEN make_timestamp(CAST({number} AS BIGINT)) END"
    if unit is not None:
        raise InputError(
            f"{name}.time_unit is for numbers, but event_time is {kind}",
            f"leave time_unit out, or give {unit} since 1970",
            setting=f"{name}.time_unit",
        )
    if text:
        given = _text(kind)
        wrong = [WRONG_OFFSET, STRANGE_ZONE, WRONG_YEAR]
        parsed = _unless(wrong, "make_timestamp(epoch_us(try_cast(trim(given_time) AS TIMESTAMPTZ)))")
        if timezone == "UTC":  # 2024-01-31 12:00:00 has no zone, which the faster cast would drop
            plain = "strlen(given_time) = 19 AND given_time[17] = ':'"
            parsed = f"CASE WHEN {plain} THEN try_cast(given_time AS TIMESTAMP) ELSE {parsed} END"
        return given, parsed
    if kind == "TIMESTAMP WITH TIME ZONE" or re.fullmatch(r"DATE|TIMESTAMP(_\w+)?", kind):
        cast = "given_time" if kind == "TIMESTAMP WITH TIME ZONE" else "try_cast(given_time AS TIMESTAMP)"
        return "event_time", _in_utc(cast, kind == "TIMESTAMP WITH TIME ZONE", timezone)
    raise InputError(f"event_time is {kind}, not a time", "make it one, as in CAST(column AS TIMESTAMP)", setting=name)


def _text(kind: str) -> str:
    """SQL of event_time as text; trimmed only where that is needed, as it takes longer than all else."""
    return "event_time" if kind == "VARCHAR" else text_sql("event_time", kind)


def _in_utc(time: str, zoned: bool, timezone: str) -> str:
    """SQL of a time in UTC; without a detour where it is so already."""
    return time if timezone == "UTC" and not zoned else f"make_timestamp(epoch_us(try_cast({time} AS TIMESTAMPTZ)))"


def check_time_format(con: duckdb.DuckDBPyConnection, time_format: str, setting: str) -> None:
    """InputError where a format is none that DuckDB's strptime knows, or none that gives a date."""
    with refused(f"{setting} '{time_format}'", "write it as strptime takes it, such as %d/%m/%Y %H:%M:%S"):
        con.execute(f"SELECT try_strptime('', {quote(time_format)})")
    names = set(re.findall(r"%-?(\w)", time_format))
    if not names & set("YyGcxs") or not (names & set("dejcxs") or names >= set("GVu")):
        raise InputError(f"'{time_format}' gives no date", "name year, month and day, as in %d/%m/%Y", setting=setting)


def _unless(wrong: Sequence[tuple[str, str]], parsed: str) -> str:
    """SQL of a time, or NULL where its text is one of these; most texts are compared with one expression for all."""
    if not wrong:
        return parsed
    either = " OR ".join(map(is_wrong, wrong))
    suspect = f"regexp_matches(given_time, '{'|'.join(pattern for pattern, _ in wrong)}')"
    return f"CASE WHEN CASE WHEN {suspect} THEN {either} ELSE false END THEN NULL ELSE {parsed} END"


def is_wrong(wrong: tuple[str, str], text: str = "given_time") -> str:
    """SQL of whether a text is so; see STRANGE_ZONE."""
    pattern, more = wrong
    return f"(regexp_matches({text}, '{pattern}') AND {more.replace('given_time', text)})"


def span_of_belief(since: str, until: str | None) -> tuple[str, str]:
    """SQL literals of the first moment that an event may have, and of the first that it may not, in UTC.

    Args:
        since: data.since, a date or a moment.
        until: data.until, a date, which counts as a whole, or a moment; None ends today, wherever today ends last.

    Raises:
        InputError: One of them is no date, or they leave nothing between them.
    """
    first = in_utc(parse_moment(since, "data.since"))
    if until is None:
        day = (datetime.now(UTC) + timedelta(hours=14)).replace(tzinfo=None)  # in Kiribati
        last = datetime(day.year, day.month, day.day) + timedelta(days=1)
    else:
        last = in_utc(parse_moment(until, "data.until")) + (
            timedelta(days=1) if len(until.strip()) <= 10 else timedelta(0)
        )
    if first >= last:
        raise InputError(
            f"data.since {since} is not before data.until {until or 'today'}",
            "correct one of them",
            setting="data.since",
        )
    return timestamp(first), timestamp(last)


def readings(text: str) -> dict[str, datetime]:
    """What a date that is not ISO may mean: format -> moment."""
    separator = next((character for character in "/.-" if character in text), "/")
    found = {}
    for day, clock in product(DATES, CLOCKS):
        form = day.replace("/", separator) + clock
        try:
            found[form] = datetime.strptime(text.replace("T", " "), form)
        except ValueError:
            continue
    return found


def date_remedy(text: str, formats: list[str]) -> str:
    """What to set for times such as this one, with all that it may mean.

    Args:
        text: "" where none of them looks like a date of another order, or has a zone that is a word.
        formats: The time_format of each source, where all have one.
    """
    if re.search(ZONE_WORD, text) and not re.search(ONE_ZONE, text):
        return (
            f"{text} has a zone that is a word, which may mean several; write an offset such as +01:00 or a name such "
            f"as Europe/London, or no zone and set timezone"
        )
    if formats:
        given = ", ".join(f"'{form}'" for form in dict.fromkeys(formats))
        return f"time_format {given} does not read them; correct it, or leave it out where all are ISO dates"
    meant = [f"{moment} by {form}" for form, moment in readings(text).items()]
    if not meant:
        return "dates that are not ISO (2024-01-31 12:00:00) need time_format, as strptime takes it, at their source"
    return f"dates that are not ISO need time_format at their source: {text} is {' and '.join(meant)}; set one of them"
