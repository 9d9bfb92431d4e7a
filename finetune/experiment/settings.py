"""The settings that a YAML file or a command line gives: read by their types, and refused by their names.

Keys and texts are taken as they are written, as YAML's `no` and `on` may name a column. A section that is left empty is
its defaults; a null where none is allowed is refused.
"""

import difflib
import json
import math
import os
import re
from collections.abc import Collection, Iterable
from dataclasses import MISSING, asdict, fields, is_dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from textwrap import shorten
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

import yaml
from jsonargparse.typing import (
    ClosedUnitInterval,
    NonNegativeFloat,
    NonNegativeInt,
    OpenUnitInterval,
    PositiveFloat,
    PositiveInt,
)

from data_prep import InputError
from data_prep.checked_json import text_of
from finetune.experiment.config import RENAMED, SECTIONS, TRAINING_FIXED, ShareBelowOne
from finetune.experiment.training_settings import TrainingSettings
from finetune.yaml_tree import TAG, Loader, composed, is_null, move_value, pairs_of

TOP = {"name": str, "engine": Literal["duckdb", "spark"], "smoke": bool, "seeds": list[int]} | SECTIONS
LARGEST = 10**18  # no whole number reaches it: DuckDB and numpy know none that is much larger
OTHER_BASES = re.compile(r"[-+]?(0[\d_]+|\d[\d_]*(:\d+)+(\.[\d_]*)?)")  # to YAML 010 is 8 and 1:30 is 90
KINDS = {
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    PositiveInt: "a whole number above 0",
    NonNegativeInt: "a whole number from 0 on",
    float: "a finite number",
    PositiveFloat: "a finite number above 0",
    NonNegativeFloat: "a finite number from 0 on",
    ClosedUnitInterval: "a number from 0 to 1",
    ShareBelowOne: "a number from 0 to below 1",
    OpenUnitInterval: "a number between 0 and 1",
    NoneType: "null",
    Any: "a text, a finite number, true, false or null",
}
EXAMPLES = {
    "data.sources": "[{path: logs/*.parquet}]",
    "--columns": "{user_id: visitorid, event_time: timestamp}",
    "data.sources.columns": "{user_id: visitorid, event_time: timestamp}",
    "data.users": "{path: users.parquet}",
    "task.cutoffs.*": "[2024-01-29] or {first: 2024-01-29, last: 2024-03-25, every: 7 days}",
    "task.examples": "{path: moments.parquet}",
    "task.label.tiers": "[0, 50, 200]",
    "text.header": "[recency, counts]",
    "text.attributes": "{country: {top: 20}}",
    "text.attributes.*": "{top: 20}",
    "text.fields": "{event_type: {top: 20}}",
    "text.fields.*": "{top: 20}",
    "model.peft": "{method: lora}",
    "finetuning.class_weights": "{churn: 3}",
    "finetuning.privacy": "{epsilon: 8, delta: 1e-5}",
    "finetuning.value_scale": "{mean: 40, deviation: 60}",
    "evaluation.group_thresholds": "{by: store, equal: selection}",
    "evaluation.costs": "{contact: 1, kept_customer: 25}",
    "evaluation.slices": '{new: "tenure_days < 90"}',
    "sweep.space": "{training.learning_rate: {low: 1e-5, high: 1e-3, log: true}}",
    "seeds": "[0, 1, 2]",
    "--seeds": "0 1 2",
}


def read_file(path: Path) -> dict[str, Any]:
    """What an experiment's YAML says, without the sections that it leaves empty.

    Raises:
        InputError: It is no YAML, says something twice, contains itself, or a value does not fit its setting.
    """
    if not os.path.isfile(path):
        raise InputError(f"there is no file {path}", "give --config a YAML such as configs/quickstart.yaml")
    try:
        return read_config(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise InputError(f"{path} is not text in UTF-8", "save it so") from None
    except InputError as error:
        raise error.within(str(path)) from error


def read_config(text: str) -> dict[str, Any]:
    """The same of the text of a file."""
    root = composed(text)
    if not isinstance(root, yaml.MappingNode):
        raise InputError("it is no experiment in YAML", "start from configs/quickstart.yaml")
    for old, new in RENAMED.items():
        if move_value(root, old, new):
            _say_renamed(old)
    return _section(root, None, "", whole=False)


def read_arguments(given: list[str]) -> list[str]:
    """A command line with the content of its files in place of their names, all mappings and lists as JSON.

    Raises:
        InputError: There is no such setting, or a value does not fit it.
    """
    made, rest = [], list(given)
    names = {argument.removeprefix("--").partition("=")[0] for argument in given if argument.startswith("--")}
    if twice := next((old for old, new in RENAMED.items() if {old, new} <= names), None):
        raise InputError(f"--{twice} is the old name of --{RENAMED[twice]}, and both are given", f"leave out --{twice}")
    while rest:
        argument = rest.pop(0)
        name, equals, text = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or name in ("smoke", "help") or name.startswith("print_"):
            made.append(argument)
            continue
        if name == "seeds":
            seeds = [text] if equals else []
            while rest and not rest[0].startswith("--"):
                seeds.append(rest.pop(0))
            read = [read_text(seed, list[int] if seed.startswith("[") else int, "--seeds") for seed in seeds]
            made += ["--seeds", *(str(seed) for part in read for seed in (part if isinstance(part, list) else [part]))]
            continue
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise InputError(f"--{name} needs a value behind it", "see --help")
            text = rest.pop(0)
        if name in RENAMED:
            _say_renamed(name)
            name = RENAMED[name]
        value = json.dumps(read_file(Path(text))) if name == "config" else _argument(text, name)
        made.append(f"--{name}={value}")
    return made


def read_text(text: str, hint: Any, name: str) -> Any:
    """A value in YAML, such as {user_id: visitorid}, by its type; see `read_file` for what it raises."""
    try:
        return _read(composed(text), hint, name)
    except InputError as error:
        raise error if error.problem.startswith(name) else error.within(name) from error


def _say_renamed(old: str) -> None:
    if os.environ.get("RANK", "0") == "0":  # once for all processes
        print(f"{old} is called {RENAMED[old]} now; the old name is read in this version for the last time")


def _argument(text: str, name: str) -> str:
    hint = _hint(name.removesuffix("+"))
    if name.endswith("+"):  # adds to a list
        hint = Union[hint, *get_args(hint)]
    kinds = _members(hint)
    if text == "null" and NoneType not in kinds and (section := _of_kind(kinds, is_dataclass)):
        if any(required for _, required in _settings(section).values()) or section is TrainingSettings:
            raise InputError(f"--{name} null leaves no setting", "leave it out")
        return json.dumps(asdict(section()))  # also where a file says something else
    if text != "null" and str in kinds and not (text.startswith(("{", "[")) and _of_kind(kinds, _is_structure)):
        return text
    value = read_text(text, hint, name)
    return json.dumps(value) if isinstance(value, dict | list) else text


def _hint(name: str) -> Any:
    """The type of a setting by its name with dots."""
    hint, so_far = None, ""
    for part in name.split("."):
        kinds = _members(hint)
        known = _settings(None) if not so_far else _settings(kind) if (kind := _of_kind(kinds, is_dataclass)) else None
        if known is not None:
            if part not in known:
                _refuse_unknown(so_far, part, known)
            hint = known[part][0]
        elif mapping := _of_kind(kinds, lambda kind: kind in (dict, Any) or get_origin(kind) is dict):
            hint = (Any, *get_args(mapping))[-1]
        else:
            raise InputError(f"{name} is no setting, as {so_far} is one value", "see --help", setting=name)
        so_far = f"{so_far}.{part}".lstrip(".")
    return hint


@cache
def _settings(section: type | None) -> dict[str, tuple[Any, bool]]:
    """Name -> type, and whether it must be given; None is the whole file."""
    if section is None:
        return {name: (hint, name == "name") for name, hint in TOP.items()}
    hints = get_type_hints(section)
    return {
        field.name: (
            hints[field.name] | None if field.default is None else hints[field.name],
            field.default is MISSING and field.default_factory is MISSING,
        )
        for field in fields(section)
        if field.init and not (section is TrainingSettings and field.name in TRAINING_FIXED)
    }


def _members(hint: Any) -> tuple[Any, ...]:
    """The types of a union, texts last, as they take everything."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return tuple(sorted(kinds, key=lambda kind: kind is str))


def _of_kind(kinds: Iterable[Any], test: Any) -> Any:
    return next((kind for kind in kinds if test(kind)), None)


def _is_structure(kind: Any) -> bool:
    return is_dataclass(kind) or kind in (dict, list, Any) or get_origin(kind) in (dict, list)


def _read(node: yaml.Node, hint: Any, name: str) -> Any:
    """What a node says of a setting of this type."""
    kinds = _members(hint)
    section = _of_kind(kinds, is_dataclass)
    if isinstance(node, yaml.ScalarNode):
        if section and len(kinds) == 1 and os.path.isfile(node.value):  # a section may lie in a file of its own
            return _section(composed(text_of(Path(node.value), "save it as UTF-8")), section, name, whole=False)
        return _scalar(node, kinds, name)
    is_mapping = isinstance(node, yaml.MappingNode)
    if is_mapping and section:
        return _section(node, section, name, whole=len(kinds) > 1 or name.endswith("]"))
    kind = _of_kind(kinds, lambda kind: kind is Any or (get_origin(kind) or kind) is (dict if is_mapping else list))
    if kind is None:
        _refuse(node, kinds, name)
    inner = (Any, *get_args(kind))[-1]
    if is_mapping:
        return {key: _read(value, inner, f"{name}.{key}") for key, value in pairs_of(node, name).items()}
    return [_read(value, inner, f"{name}[{i}]") for i, value in enumerate(node.value)]


def _section(node: yaml.Node, section: type | None, name: str, whole: bool) -> dict[str, Any]:
    """The settings of a section that a mapping gives.

    Args:
        node: The mapping.
        section: Its dataclass; None is the whole file.
        name: Of the section.
        whole: Whether what it lacks can be given nowhere else.
    """
    if not isinstance(node, yaml.MappingNode):
        _refuse(node, (section,), name)
    known, given = _settings(section), {}
    for key, value in pairs_of(node, name).items():
        setting = f"{name}.{key}".lstrip(".")
        if section is None and "." in key:
            hint = _hint(key)
        elif key in known:
            hint = known[key][0]
        else:
            _refuse_unknown(name, key, known)
        if is_null(value) and NoneType not in _members(hint):
            if _of_kind(_members(hint), is_dataclass):
                continue
            required = known.get(key, (hint, False))[1]
            _refuse(value, _members(hint), setting, "" if required else "leave it out for its default, or ")
        given[key] = _read(value, hint, setting)
    lacking = [key for key, (_, required) in known.items() if required and key not in given]
    if whole and lacking:
        raise InputError(
            f"{name}.{lacking[0]} is missing",
            f"give {name} {', '.join(known)}{_example(name)}",
            setting=f"{name}.{lacking[0]}",
        )
    return given


def _scalar(node: yaml.ScalarNode, kinds: tuple[Any, ...], name: str) -> Any:
    if is_null(node):
        if NoneType in kinds or Any in kinds:
            return None
        if _of_kind(kinds, is_dataclass):
            return {}
    else:
        for kind in [str] if node.style and str in kinds else kinds:  # in quotes it is text
            try:
                return _value(node, kind)
            except (ValueError, TypeError, LookupError, AttributeError, yaml.YAMLError):  # of tags, such as !!int ""
                continue
    return _refuse(node, kinds, name)


def _value(node: yaml.ScalarNode, kind: Any) -> Any:
    """A scalar as one type; ValueError where it is none such."""
    text = node.value
    if kind is str:
        return text
    if get_origin(kind) is Literal or (isinstance(kind, type) and issubclass(kind, Enum)):
        values = get_args(kind) or [name for member in kind for name in (member.value, member.name)]
        if text not in values:
            raise ValueError
        return text
    if kind is bool:
        if text.lower() not in Loader.bool_values:
            raise ValueError
        return Loader.bool_values[text.lower()]
    if kind is Any:
        return _finite(Loader("").construct_object(node))
    if not (isinstance(kind, type) and issubclass(kind, int | float)) or OTHER_BASES.fullmatch(text):
        raise ValueError
    value = Loader("").construct_object(node)
    if isinstance(value, str):  # in quotes
        value = (int if issubclass(kind, int) else float)(text)
    if isinstance(value, bool) or (issubclass(kind, int) and not isinstance(value, int)):
        raise ValueError
    kind(_finite(value))  # within its range
    return value


def _finite(value: Any) -> Any:
    """The value; ValueError where it is a number that is too large."""
    if not math.isfinite(value) if isinstance(value, float) else isinstance(value, int) and abs(value) >= LARGEST:
        raise ValueError
    return value


def _refuse(node: yaml.Node, kinds: tuple[Any, ...], name: str, otherwise: str = "") -> NoReturn:
    """Say what is given, what is allowed, and an example."""
    given = "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"
    if isinstance(node, yaml.ScalarNode):
        text = " ".join(node.value.split())
        text = text if len(text) <= 80 else f"{text[:80]} ..."
        plain = node.tag in (f"{TAG}int", f"{TAG}float", f"{TAG}bool")
        given = "null" if is_null(node) else text if plain else f"'{text}'"
    allowed = " or ".join(_described(kind) for kind in sorted(kinds, key=lambda kind: kind is NoneType))
    if node.tag == f"{TAG}int" and len(node.value) > 18:
        allowed += " below 10^18"
    raise InputError(f"{name} is {given}", f"{otherwise}give {allowed}{_example(name)}", setting=name)


def _refuse_unknown(section: str, key: str, known: Collection[str]) -> NoReturn:
    close = difflib.get_close_matches(key, known, 1)
    names = [f"{section}.{name}".lstrip(".") for name in (key, *close)]
    remedy = f"did you mean {names[1]}?" if close else "see --help"
    if names[0] in RENAMED:
        remedy = f"it is called {RENAMED[names[0]]} now"
        close = names
    if not close and len(known) <= 12:
        remedy = f"{section or 'a file'} has {', '.join(known)}"
    raise InputError(f"{names[0]} is no setting", remedy)


def _described(kind: Any) -> str:
    if kind in KINDS:
        return KINDS[kind]
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if is_dataclass(kind):
        return f"a mapping with {shorten(', '.join(_settings(kind)), 120, placeholder=' ...')}"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"one of {shorten(', '.join(str(member.value) for member in kind), 120, placeholder=' ...')}"
    if (get_origin(kind) or kind) is list:
        return f"a list{''.join(' of which each is ' + _described(part) for part in get_args(kind) if part is not Any)}"
    return "a mapping"


def _example(name: str) -> str:
    plain = re.sub(r"\[\d+\]", "", name)
    example = EXAMPLES.get(plain) or EXAMPLES.get(f"{plain.rpartition('.')[0]}.*")
    return f", such as {example}" if example else ""
