"""The tree of a YAML text: keys as they are written, aliases as the nodes that they name, and nothing twice."""

import re

import yaml

from data_prep import InputError

MOST_VALUES = 100_000  # of a file: its aliases may repeat each other
LONGEST = 1_000_000  # characters of a file
TAG = "tag:yaml.org,2002:"


class Loader(yaml.SafeLoader):
    """Dates stay text, and 1e-3 without a point is a number."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag != f"{TAG}timestamp"]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver(f"{TAG}float", re.compile(r"[-+]?\d[\d_]*(\.[\d_]*)?[eE][-+]?\d+$"), "-+0123456789")


def move_value(root: yaml.MappingNode, old: str, new: str) -> bool:
    """Put what a file says under the old name of a setting under its new one; whether it says anything there.

    Raises:
        InputError: It says something under both.
    """
    values = []
    section, _, last = old.partition(".")
    for name, node in [(old, root), *((last, node) for node in _under(root, section))]:
        if isinstance(node, yaml.MappingNode):
            values += _under(node, name)
            node.value = [(key, value) for key, value in node.value if key.value != name]
    if not values:
        return False
    section, _, last = new.partition(".")
    if _under(root, new) or any(_under(node, last) for node in _under(root, section)):
        raise InputError(f"{old} is the old name of {new}, and both are given", f"leave out {old}")
    root.value.append((yaml.ScalarNode(f"{TAG}str", new, root.start_mark, root.end_mark), values[0]))
    return True


def _under(node: yaml.Node, name: str) -> list[yaml.Node]:
    """What a mapping has under a name."""
    pairs = node.value if isinstance(node, yaml.MappingNode) else ()
    return [value for key, value in pairs if key.value == name]


def composed(text: str) -> yaml.Node:
    """The tree of a YAML text, with aliases as the nodes that they name."""
    if len(text) > LONGEST:
        raise InputError(f"it has more than {LONGEST:,} characters", "settings are short")
    try:
        root = yaml.compose(text, Loader) or yaml.ScalarNode(f"{TAG}null", "")
        if _size(root, {}) > MOST_VALUES:
            raise InputError("its aliases unfold to more than 100,000 values", "write it without them")
        return root
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or "it has characters that are no text"
        raise InputError(f"this is not valid YAML{where}: {what}", "mend it there") from None
    except RecursionError:
        raise InputError("it nests too deeply for a YAML of settings", "flatten it") from None


def _size(node: yaml.Node, known: dict[int, int | None]) -> int:
    """The number of values that a node unfolds to."""
    if id(node) in known:
        size = known[id(node)]
        if size is None:
            raise InputError(f"what begins in line {node.start_mark.line + 1} contains itself", "remove the alias")
        return size
    known[id(node)] = None
    parts = node.value if isinstance(node, yaml.SequenceNode) else ()
    if isinstance(node, yaml.MappingNode):
        parts = [part for pair in node.value for part in pair]
    size = 1 + sum(_size(part, known) for part in parts)
    known[id(node)] = size
    return size


def pairs_of(node: yaml.MappingNode, name: str) -> dict[str, yaml.Node]:
    """Key -> value, keys as they are written; those of merged mappings (<<) first."""
    own, merged = {}, {}
    for key, value in node.value:
        line = f"line {key.start_mark.line + 1}"
        if key.tag == f"{TAG}merge":
            for base in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if not isinstance(base, yaml.MappingNode):
                    raise InputError(f"<< in {line} takes a mapping", "name one by its alias")
                merged = pairs_of(base, name) | merged
        elif not isinstance(key, yaml.ScalarNode):
            raise InputError(f"the key in {line} is a list or a mapping", "write a word")
        elif key.value in own:
            raise InputError(f"'{key.value}' stands twice ({line})", "remove one")
        else:
            own[key.value] = value
    return merged | own


def is_null(node: yaml.Node) -> bool:
    """Whether a node says nothing, or null."""
    return node.tag == f"{TAG}null"
