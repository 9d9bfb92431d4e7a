"""JSON that is read back: a file is checked against what it must hold, before anything of it is used.

A file is no larger than LARGEST, is UTF-8, nests no deeper than Python's own calls may, and has whole characters alone.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from textwrap import shorten
from typing import Any

import duckdb

from data_prep import InputError
from data_prep.moments import parse_duration

LARGEST = 2**28  # bytes; the largest that a log of millions of users makes has a tenth of it
NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", dict: "a mapping"}
NAMES |= {list: "a list", None: "null"}


@dataclass(frozen=True)
class MayLack:
    """An entry that a mapping may lack, or have as null."""

    holds: Any


@dataclass(frozen=True)
class MayBeEmpty:
    """An entry that may be an empty mapping."""

    holds: Any


class Only(dict):
    """A mapping of these keys, and of no others."""


class Alike(dict):
    """A mapping of these keys, whose lists are as long as each other."""


def read_json(path: Path, holds: Any, remedy: str) -> Any:
    """The content of a JSON file; see `check`.

    Raises:
        InputError: The file is missing, is no JSON, or holds something else.
    """
    return parse_json(path, text_of(path, remedy), holds, remedy)


def text_of(path: Path, remedy: str) -> str:
    """What a file says.

    Raises:
        InputError: It is missing, is no UTF-8, or is larger than LARGEST.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise InputError(f"{path} is larger than {LARGEST >> 20} MiB", remedy)
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{path} is missing", remedy) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is damaged", remedy) from error


def parse_json(path: Path, text: str, holds: Any, remedy: str) -> Any:
    """What a text of JSON says; see `check`.

    Raises:
        InputError: It is no JSON, or holds something else; the message names the path.
    """
    try:
        content = json.loads(text)
        if "\\ud" in text.lower():  # half a character, which nothing could write
            json.dumps(content, ensure_ascii=False).encode()
        check(path, content, holds, remedy)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged", remedy) from error
    return content


def check(path: Path, content: Any, holds: Any, remedy: str) -> None:
    """Refuse what is not as it must be.

    Args:
        path: Of the file, for the message.
        content: What it has.
        holds: A type (a bool is no int, an int is a float, which is finite); a set of values, one of which it is; a
            mapping of keys to what they hold, which may have others, where the type str stands for every other key; a
            list of one, which every entry holds; a tuple of several, one of which holds; or a function that says
            whether it is so, named after what it asks for.
        remedy: What makes the file anew, as the end of a sentence.

    Raises:
        InputError: The first thing that is not so.
    """
    wrong = next(_misfits(content, holds, ""), None)
    if wrong:
        raise InputError(f"{path} is damaged ({wrong})", remedy)


def _misfits(content: Any, holds: Any, at: str) -> Iterator[str]:
    """What is not as it must be, in a few words each."""
    if isinstance(holds, MayLack):
        if content is not None:
            yield from _misfits(content, holds.holds, at)
    elif isinstance(holds, MayBeEmpty):
        if content != {}:
            yield from _misfits(content, holds.holds, at)
    elif isinstance(holds, dict) and isinstance(content, dict):
        yield from _misfits_of_mapping(content, holds, f"{at}." if at else "")
    elif isinstance(holds, list) and isinstance(content, list):
        for i, value in enumerate(content):
            yield from _misfits(value, holds[0], f"{at}[{i}]")
    elif isinstance(holds, tuple):
        if all(next(_misfits(content, one, at), None) for one in holds):
            yield f"{at or 'it'} is {_short(content)}, not {' or '.join(map(_called, holds))}"
    elif not is_a(content, holds):
        yield f"{at or 'it'} is {_short(content)}, not {_called(holds)}"


def _misfits_of_mapping(content: dict, holds: dict, below: str) -> Iterator[str]:
    if isinstance(holds, Only):
        yield from (f"{below}{key} is unknown" for key in content if key not in holds)
    for key, value in holds.items():
        if key is str:
            for other in content.keys() - holds.keys():
                yield from _misfits(content[other], value, f"{below}{other}")
        elif key in content or isinstance(value, MayLack):
            yield from _misfits(content.get(key), value, f"{below}{key}")
        else:
            yield f"{below}{key} is missing"
    if isinstance(holds, Alike):
        lengths = {key: len(content[key]) for key, value in holds.items() if isinstance(value, list)}
        if len({*lengths.values()}) > 1:
            said = ", ".join(f"{key} {length}" for key, length in lengths.items())
            yield f"the lists of {below.rstrip('.') or 'it'} differ in length: {said}"


def is_a(content: Any, holds: Any) -> bool:
    """Whether a single value is as it must be; see `check`."""
    if isinstance(holds, set):
        return isinstance(content, str | int | None) and content in holds
    if holds is None or isinstance(content, bool):
        return content is holds or holds is bool
    if holds in (int, float):
        return isinstance(content, int | holds) and -1e300 < content < 1e300
    return isinstance(content, holds) if isinstance(holds, type) else callable(holds) and bool(holds(content))


def _called(holds: Any) -> str:
    if isinstance(holds, set):
        return f"one of {', '.join(sorted(map(str, holds)))}"
    if isinstance(holds, dict | list):
        holds = dict if isinstance(holds, dict) else list
    return NAMES.get(holds) or holds.__name__.strip("_").replace("_", " ")


def _short(content: Any) -> str:
    return shorten(json.dumps(content, ensure_ascii=False), 60, placeholder=" ...") if content != "" else "empty"


def a_moment(content: Any) -> bool:
    """A date, or a date and time, in ISO 8601."""
    try:
        return isinstance(content, str) and datetime.fromisoformat(content) is not None
    except ValueError:
        return False


def a_duration(content: Any) -> bool:
    """A length of time, such as 14 days."""
    try:
        return isinstance(content, str) and parse_duration(content, "") is not None
    except InputError:
        return False


def moments(content: Any) -> bool:
    """One or several of them."""
    return isinstance(content, list) and bool(content) and all(map(a_moment, content))


def a_time_zone(content: Any) -> bool:
    """A name of a time zone that DuckDB knows."""
    return isinstance(content, str) and _is_known(content)


@cache
def _is_known(zone: str) -> bool:
    with duckdb.connect() as con:
        try:
            con.execute("SET TimeZone = '" + zone.replace("'", "''") + "'")
        except duckdb.Error:
            return False
    return True


# What a manifest and a model keep of the log; older ones lack the last four.
LOG_HOLDS = {
    "first": a_moment,
    "last": a_moment,
    "events": int,
    "users": int,
    "timezone": MayLack(a_time_zone),
    "silent_days": MayLack(int),
    "known": MayLack({str: float}),
    "has": MayLack({str: [str]}),
}
