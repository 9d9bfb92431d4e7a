"""The rules of which package imports which; see .github/CONTRIBUTING.md."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = (  # each imports from itself and from those before it; those of one floor not from each other
    {"data_prep"},
    {"finetune"},  # the modules that lie in the package itself
    {"finetune.figures"},
    {"finetune.experiment"},
    {"finetune.model", "finetune.report"},
    {"finetune.baselines"},
    {"finetune.training", "finetune.evaluation", "finetune.hub"},
    {"finetune.serving", "finetune.upkeep"},
    {"finetune.trust", "finetune.federated"},
    {"scripts"},
)
DOORS = {"finetune/__init__.py", "finetune/scoring.py"}  # they open to finetune.serving
MODULES = sorted(path for top in ("data_prep", "finetune", "scripts") for path in (ROOT / top).rglob("*.py"))


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path: Path) -> Iterator[str]:
    """The modules that a file imports, wherever the import stands."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ImportFrom):  # ruff refuses relative ones
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def floor(name: str) -> tuple[int, str] | None:
    """The floor and the package of a module, or of what is imported; None for other people's."""
    for height, packages in reversed([*enumerate(FLOORS)]):
        for package in packages:
            if name == package or name.startswith(f"{package}."):
                return height, package
    return None


def own_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", MODULES, ids=own_name)
def test_a_module_imports_from_its_own_floor_and_from_lower_ones(path):
    if str(path.relative_to(ROOT)) in DOORS:
        return
    here, package = floor(own_name(path))
    for name in imported(path):
        there = floor(name)
        assert there is None or there[0] < here or there[1] == package, f"{own_name(path)} imports {name}"


def test_private_names_stay_in_their_modules():
    private = {own_name(path): [name for name in imported(path) if floor(name) and "._" in name] for path in MODULES}
    assert {module: names for module, names in private.items() if names} == {}


def test_only_the_command_layer_exits_or_touches_signals_and_the_path():
    found = set()
    for path in MODULES:
        if path.is_relative_to(ROOT / "scripts"):
            continue
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "sys.exit",
                "os._exit",
                "signal.signal",
                "exit",
            ):
                found.add(own_name(path))
            if isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.path":
                found.add(own_name(path))
    # The packages themselves see to Ctrl-C and to the path before anything else is loaded; a bundle's script has no
    # finetune.command.
    assert found == {"finetune.command", "finetune", "data_prep", "finetune.hub.scorer"}


def test_no_module_and_no_test_file_is_longer_than_400_lines():
    paths = [*MODULES, *(ROOT / "tests").rglob("*.py")]
    lengths = {own_name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
    assert {module: lines for module, lines in lengths.items() if lines > 400} == {}


def test_no_function_is_longer_than_60_lines():
    long = {}
    for path in MODULES:
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno >= 60:
                long[f"{own_name(path)}.{node.name}"] = node.end_lineno - node.lineno + 1
    assert long == {}
