"""Seeded damage to the files that are read back: what a bad disk, an older version or a forger may make of one."""

import io
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

DEEP, LONG = 3_000, 300_000
HOLE = "\u0001hole\u0001"  # stands for text that json.dumps cannot write
LITERALS = [
    *("[" * deep + "]" * deep for deep in (900, DEEP)),
    *('{"a":' * deep + "1" + "}" * deep for deep in (400, DEEP)),
    *("NaN", "Infinity", "-Infinity", "1e400", "-0", "9" * 30, "1" * 5_000, '"\\ud800"', "[NaN]"),
    *(f'"{"x" * LONG}"', "[" + "0," * 30_000 + "0]"),
]
STRANGE: list[Any] = [
    *(None, True, False, 0, -1, 1, 0.5, -1.5, 1e-320, 1e308, 2**31, 2**63, 10**19, -(10**19)),
    *("", " ", "x", "1", "\0", "\x1b[2J", "\u202e\u2028", "e\u0301", "😀", "a\nb", "%s%n", "NaN"),
    *("../../../etc/passwd", "/etc/passwd", "'; DROP TABLE log; --", "COPY (SELECT 1) TO 'out.csv'"),
    *("2024-01-01", "9999-12-31T23:59:59", "0 days", "99999999999 days", "<script>", "{{ 7 * 7 }}"),
    *([], {}, [[]], [None], ["x"], [1, "x"], {"": None}, {"x": {}}),
]
WORDS = ["binary", "value", "survival", "isotonic", "numeric", "text", "categorical", "absent", "sum", "when", "words"]
STRANGE += [*WORDS, "sentences", "mean", "BertForSequenceClassification", "modernbert", "LORA", "UTC"]


def mutated(content: bytes, kind: str, seed: object) -> bytes:
    """A damaged copy; the same one each time.

    Args:
        content: Of the file.
        kind: json, jsonl, yaml, torch or bytes: how much of it is understood. Any file may lose or change bytes, too.
        seed: Another one gives another damage.
    """
    draw = random.Random(f"{seed}")
    if kind == "bytes" or draw.random() < 0.15:
        return draw.choice(BYTES)(content, draw)
    if kind == "torch":
        return _saved(content, draw)
    if kind == "jsonl":
        lines = content.decode().splitlines() or ["{}"]
        place = draw.randrange(len(lines))
        lines[place] = _changed(json.loads(lines[place]), draw)
        return "\n".join(lines).encode() + b"\n"
    return _changed(READ[kind](content.decode()), draw).encode("utf-8", "surrogatepass")


def _saved(content: bytes, draw: random.Random) -> bytes:
    """What torch.save makes of the content with one to three changes."""
    import torch
    from transformers.trainer_pt_utils import safe_globals

    with safe_globals():
        root = {"": torch.load(io.BytesIO(content), weights_only=True)}
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        container, key = draw.choice(list(_places(root)))
        value = container[key]
        if isinstance(value, torch.Tensor) and draw.random() < 0.7:
            flat = value.reshape(-1)
            container[key] = draw.choice(
                [value.double(), flat[:1], flat * float("nan"), -flat, flat.repeat(3), flat.int()]
            )
        else:
            draw.choice([change for change in CHANGES if change is not _put_literal])(container, key, draw, [])
    made = io.BytesIO()
    torch.save(root.get(""), made)
    return made.getvalue()


def _yaml(text: str) -> Any:
    import yaml

    return yaml.safe_load(text)


READ: dict[str, Callable[[str], Any]] = {"json": json.loads, "yaml": _yaml}  # YAML reads JSON


def _changed(content: Any, draw: random.Random) -> str:
    """JSON of the content with one to three changes."""
    holes: list[str] = []
    root = {"": content}
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        container, key = draw.choice(list(_places(root)))
        draw.choice(CHANGES)(container, key, draw, holes)
    text = json.dumps(root.get(""), ensure_ascii=draw.random() < 0.5)
    for hole in holes:
        text = text.replace(json.dumps(HOLE), hole, 1).replace(f'"{HOLE}"', hole, 1)
    if draw.random() < 0.05 and text.startswith("{") and ":" in text:  # a key twice
        key = text[1 : text.index(":")]
        text = f"{{{key}: {json.dumps(draw.choice(STRANGE))}, {text[1:]}"
    return text


def _places(root: dict) -> Iterator[tuple[Any, Any]]:
    """Every container, and each of its keys or places; of long lists some."""
    waiting: list[Any] = [root]
    while waiting:
        here = waiting.pop()
        keys = list(here) if isinstance(here, dict) else list(range(len(here)))
        for key in keys[:20] if isinstance(here, list) else keys:
            yield here, key
            if isinstance(here[key], dict | list):
                waiting.append(here[key])


def _replace(container: Any, key: Any, draw: random.Random, holes: list[str]) -> None:
    container[key] = json.loads(json.dumps(draw.choice(STRANGE)))


def _put_literal(container: Any, key: Any, draw: random.Random, holes: list[str]) -> None:
    container[key] = HOLE
    holes.append(draw.choice(LITERALS))


def _delete(container: Any, key: Any, draw: random.Random, holes: list[str]) -> None:
    if key != "":
        del container[key]


def _rename(container: Any, key: Any, draw: random.Random, holes: list[str]) -> None:
    if isinstance(container, dict) and key != "":
        container[str(draw.choice(["x", "", f"{key}2", f"{key}".upper(), "a.b", "\0", "'; --", "y" * 5000]))] = (
            container.pop(key)
        )


def _swap(container: Any, key: Any, draw: random.Random, holes: list[str]) -> None:
    other = draw.choice(list(container) if isinstance(container, dict) else range(len(container)))
    container[key], container[other] = container[other], container[key]


def _repeat(container: Any, key: Any, draw: random.Random, holes: list[str]) -> None:
    if isinstance(container, list):
        container.insert(draw.randrange(len(container) + 1), container[key])
    elif key != "":
        container[f"{key} again"] = container[key]


def _scale(container: Any, key: Any, draw: random.Random, holes: list[str]) -> None:
    value = container[key]
    if isinstance(value, int | float) and not isinstance(value, bool):
        container[key] = draw.choice([-value, value * 1e6, value + 1, value - 1, value * 10**12, value + 0.5])
    elif isinstance(value, str):
        container[key] = draw.choice([value[:-1], value * 2, value.upper(), f"{value} ", f"{value}\0", f"{value}'"])
    elif isinstance(value, list):
        container[key] = draw.choice([value[::-1], value[:-1], value * 2, value[:1]])


CHANGES = [_replace, _replace, _replace, _put_literal, _delete, _delete, _rename, _swap, _repeat, _scale, _scale]


def _cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content) + 1)]


def _flip(content: bytes, draw: random.Random) -> bytes:
    made = bytearray(content)
    for _ in range(draw.choice([1, 2, 8, 64])):
        if made:
            # Headers stand at the beginning, and of Parquet at the end.
            ends = [
                draw.randrange(len(made)),
                draw.randrange(min(len(made), 400)),
                -1 - draw.randrange(min(len(made), 400)),
            ]
            made[draw.choice(ends)] = draw.randrange(256)
    return bytes(made)


def _drop(content: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(content) + 1)
    return content[:start] + content[start + draw.choice([1, 4, 100]) :]


def _insert(content: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(content) + 1)
    return content[:start] + draw.choice([draw.randbytes(8), b"\0", b"\xff", b'"', b"}", b"- *a\n"]) + content[start:]


def _length(content: bytes, draw: random.Random) -> bytes:
    """Another length of the header, as safetensors begins with."""
    return draw.choice([0, 1, 2**20, 2**31, 2**40, 2**63 - 1, 2**64 - 1]).to_bytes(8, "little") + content[8:]


BYTES: list[Callable[[bytes, random.Random], bytes]] = [_cut, _cut, _flip, _flip, _flip, _drop, _insert, _length]
BYTES += [
    lambda content, draw: b"",
    lambda content, draw: draw.randbytes(draw.choice([1, 100, 10_000])),
    lambda content, draw: content * 2,
    lambda content, draw: b"\xef\xbb\xbf" + content,
    lambda content, draw: content.decode("utf-8", "replace").encode("utf-16"),
    lambda content, draw: b"[" * 100_000,
    lambda content, draw: b'{"a":' * 100_000,
    lambda content, draw: content.replace(b"a", b"\x00"),
]
