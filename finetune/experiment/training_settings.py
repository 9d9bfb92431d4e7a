"""The settings of transformers.TrainingArguments without transformers, whose import takes five seconds and torch.

They are read from the source of the installed version: names, types, defaults and help texts are all that a help text
or a refused config needs. A test holds them equal to the class itself, which training makes.
"""

import ast
import builtins
from collections.abc import Iterator
from dataclasses import field, make_dataclass
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal


class _Names(dict):
    """What the source names; a type that is not known here takes anything, and the class itself checks it."""

    def __missing__(self, name: str) -> Any:
        return Any


def _classes(module: str) -> Iterator[ast.ClassDef]:
    spec = find_spec("transformers")  # of a package it is found without an import
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).with_name(f"{module}.py").read_text(encoding="utf-8")
    return (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))


def _choices() -> dict[str, Any]:
    """The enumerations by their names."""
    found = (node for module in ("training_args", "trainer_utils", "debug_utils") for node in _classes(module))
    return {
        node.name: Enum(
            node.name,
            {
                ast.unparse(part.targets[0]): ast.literal_eval(part.value)
                for part in node.body
                if type(part) is ast.Assign
            },
            type=str,
        )
        for node in found
        if [ast.unparse(base) for base in node.bases] == ["ExplicitEnum"]
    }


def _training_settings() -> type:
    known = vars(builtins) | _choices() | {"field": field, "Any": Any, "Literal": Literal}
    known |= {
        "ParallelismConfig": dict[str, Any],  # a class of accelerate; see finetune.training.arguments
        "default_optim": "adamw_torch_fused",  # as transformers has it from torch 2.8 on
        "trainer_log_levels": {},  # beside the help, and not read here
    }
    names = _Names(known)

    def value(node: ast.expr | None) -> Any:
        return eval(ast.unparse(node), {}, names) if node else None

    arguments = next(node for node in _classes("training_args") if node.name == "TrainingArguments")
    settings = [node for node in arguments.body if isinstance(node, ast.AnnAssign)]
    named = [(ast.unparse(node.target), value(node.annotation), value(node.value)) for node in settings]
    made = make_dataclass("TrainingSettings", named)
    made.__doc__ = ast.get_docstring(arguments)
    return made


TrainingSettings = _training_settings()
