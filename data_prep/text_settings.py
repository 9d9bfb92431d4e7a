"""The section `text` against the log: the columns and aggregates that it names, and its numbers."""

from data_prep import InputError
from data_prep.config import TextConfig
from data_prep.features import HEADER_GROUPS, plain
from data_prep.sql import NUMERIC

LARGEST = 1_000_000_000  # of any number in text; no log has more of anything
MAX_BINS = 200  # each is one term of an SQL expression, whose depth DuckDB limits


def check_fields(config: TextConfig, types: dict[str, str]) -> None:
    """Refuse text.fields that the log does not have, whose type does not fit, or that a text could not tell apart.

    Args:
        config: The text section.
        types: Column -> DuckDB type.
    """
    shown = ["gap"]  # the word of the days
    for name, spec in config.fields.items():
        setting = f"text.fields.{name}"
        if name not in types:
            raise InputError(f"{setting}: the log has no such column; it has {', '.join(types)}")
        if plain(name) in shown:
            raise InputError(f"{setting}: a text already has words {plain(name)}=...; give the column another name")
        shown.append(plain(name))
        if sum(value is not None for value in (spec.top, spec.bins, spec.words)) != 1:
            raise InputError(f"{setting} needs exactly one of top (categorical), bins (numeric) and words (free text)")
        for key in ("top", "bins", "words", "vocabulary", "min_users"):
            _refuse_size(f"{setting}.{key}", getattr(spec, key))
        if spec.bins and spec.bins > MAX_BINS:
            raise InputError(f"{setting}.bins is {spec.bins}; give at most {MAX_BINS}")
        if spec.bins and not NUMERIC.fullmatch(types[name]):
            raise InputError(
                f"{setting}: bins needs numbers, but the column is {types[name]}; cast it in the source, for example "
                f"CAST({name} AS DOUBLE), or use top"
            )
        if spec.words and types[name] != "VARCHAR":
            raise InputError(f"{setting}: words needs text, but the column is {types[name]}; use bins or top")
    _refuse_size("text.max_events", config.max_events)


def _refuse_size(setting: str, size: int | None) -> None:
    if size is not None and size < 1:
        raise InputError(f"{setting} is {size}; give a number above zero")
    if size is not None and size > LARGEST:
        raise InputError(f"{setting} is {size:,}; give at most {LARGEST:,}")


def header_names(header: list[str], numeric: list[str], aggregates: list[str]) -> list[str]:
    """The aggregates that text.header stands for, each once.

    Raises:
        InputError: A name that is neither a group nor an aggregate, or is there twice.
    """
    twice = [entry for i, entry in enumerate(header) if entry in header[:i]]
    if twice:
        raise InputError(f"text.header names '{twice[0]}' twice; name it once")
    names = []
    for entry in header:
        if entry not in HEADER_GROUPS and entry not in aggregates:
            groups = ", ".join(HEADER_GROUPS)
            raise InputError(
                f"text.header: '{entry}' is neither one of the groups {groups} nor an aggregate; see the manifest"
            )
        for name in HEADER_GROUPS.get(entry, [entry]):
            names += [name.format(field=plain(field)) for field in numeric] if "{field}" in name else [name]
    return list(dict.fromkeys(names))
