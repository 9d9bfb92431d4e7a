"""The section `text` against the log: the columns and aggregates that it names, and its numbers."""

import re

from data_prep import InputError
from data_prep.config import TextConfig, TextField
from data_prep.features import HEADER_GROUPS, MOMENT_GROUPS, plain
from data_prep.given_users import UserRows
from data_prep.sql import NUMERIC

LARGEST = 1_000_000_000  # of any number in text; no log has more of anything
MAX_TAIL = 16  # the last bin is then of one row in a million
MAX_BINS = 200  # each is one term of an SQL expression, whose depth DuckDB limits


def check_fields(config: TextConfig, types: dict[str, str]) -> None:
    """Refuse text.fields that the log does not have, whose type does not fit, or that a text could not tell apart.

    Args:
        config: The text section.
        types: Column -> DuckDB type.
    """
    shown = ["gap"]  # the word of the days
    _check_specs("text.fields", config.fields, types, "the log", shown)
    _refuse_size("text.max_events", config.max_events)
    _refuse_size("text.tail_bins", config.tail_bins)
    if (config.tail_bins or 0) > MAX_TAIL:
        raise InputError(
            f"text.tail_bins is {config.tail_bins}: of so few rows nothing can be learned",
            f"give at most {MAX_TAIL}",
            setting="text.tail_bins",
        )


def check_attributes(config: TextConfig, types: dict[str, str], rows: UserRows | None, aggregates: list[str]) -> None:
    """Refuse text.attributes that data.users does not have, and what `check_fields` refuses of a field.

    Args:
        config: The text section.
        types: Column of the log -> DuckDB type.
        rows: The table of data.users, where there is one.
        aggregates: Those of the events.
    """
    if rows is None and config.attributes is None:
        return
    if rows is None:
        remedy = "give data.users, or leave text.attributes out"
        raise InputError("there is no table of users", remedy, setting="text.attributes")
    if not config.attributes:
        remedy = (
            f"name some of {', '.join(rows.types)} in text.attributes, as in {{{next(iter(rows.types))}: {{top: 20}}}}"
        )
        raise InputError("no attribute would be read", remedy, setting="data.users")
    columns = {name.lower() for name in types}
    both = [name for name in rows.types if name.lower() in columns]
    if both:
        raise InputError(
            f"the attribute '{both[0]}' has the name of a column of the events",
            "give it another name",
            setting="data.users",
        )
    shown = ["gap", *map(plain, config.fields), *aggregates]
    _check_specs("text.attributes", config.attributes, rows.types, "data.users", shown)


def _check_specs(
    section: str, specs: dict[str, TextField], types: dict[str, str], table: str, shown: list[str]
) -> None:
    for name, spec in specs.items():
        setting = f"{section}.{name}"
        if name not in types:
            raise InputError(f"{table} has no such column", f"it has {', '.join(types)}", setting=setting)
        if plain(name) in shown:
            raise InputError(
                f"a text already has words {plain(name)}=...", "give the column another name", setting=setting
            )
        shown.append(plain(name))
        if sum(value is not None for value in (spec.top, spec.bins, spec.words)) != 1:
            raise InputError(
                f"{setting} needs exactly one of top (categorical), bins (numeric) and words (free text)",
                setting=setting,
            )
        for key in ("top", "bins", "words", "vocabulary", "min_users"):
            _refuse_size(f"{setting}.{key}", getattr(spec, key))
        if spec.bins and spec.bins > MAX_BINS:
            raise InputError(f"{setting}.bins is {spec.bins}", f"give at most {MAX_BINS}", setting=f"{setting}.bins")
        if spec.bins and not NUMERIC.fullmatch(types[name]):
            raise InputError(
                f"bins needs numbers, but the column is {types[name]}",
                f"cast it in the source, for example CAST({name} AS DOUBLE), or use top",
                setting=setting,
            )
        if spec.words and types[name] != "VARCHAR":
            raise InputError(f"words needs text, but the column is {types[name]}", "use bins or top", setting=setting)


def _refuse_size(setting: str, size: int | None) -> None:
    if size is not None and size < 1:
        raise InputError(f"{setting} is {size}", "give a number above zero", setting=setting)
    if size is not None and size > LARGEST:
        raise InputError(f"{setting} is {size:,}", f"give at most {LARGEST:,}", setting=setting)


def header_names(header: list[str], numeric: list[str], aggregates: list[str]) -> list[str]:
    """The aggregates that text.header stands for, each once.

    Raises:
        InputError: A name that is neither a group nor an aggregate, or is there twice.
    """
    twice = [entry for i, entry in enumerate(header) if entry in header[:i]]
    if twice:
        raise InputError(f"text.header names '{twice[0]}' twice", "name it once", setting="text.header")
    names = []
    for entry in header:
        if entry not in HEADER_GROUPS and entry not in aggregates:
            groups = ", ".join(HEADER_GROUPS)
            raise InputError(
                f"'{entry}' is neither one of the groups {groups} nor an aggregate",
                "see the manifest",
                setting="text.header",
            )
        for name in HEADER_GROUPS.get(entry, [entry]):
            names += [name.format(field=plain(field)) for field in numeric] if "{field}" in name else [name]
        names += [name for name in aggregates if re.fullmatch(MOMENT_GROUPS.get(entry, ""), name)]
    return list(dict.fromkeys(names))
