"""What server and sites say to each other: JSON, and weights as safetensors; nothing in it can run."""

import json
from multiprocessing.connection import Connection
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from data_prep import InputError
from data_prep.checked_json import MayLack, is_a
from data_prep.shared_schema import a_count
from finetune.figures.measures import MAIN, MODEL

Weights = dict[str, torch.Tensor]
MOST_JSON, MOST_WEIGHTS = 1 << 28, 1 << 34  # bytes
ALONE = "alone"  # the site's own model


def a_site_name(content: object) -> bool:
    """Up to 100 printed characters that can be a folder's name, as the parser asks of an experiment."""
    return a_short_name(content) and not set(str(content)) & set("/\\ ") and not str(content).startswith(".")


def a_positive_count(content: object) -> bool:
    """From 1 to a trillion."""
    return a_count(content) and content != 0


def a_figure(content: object) -> bool:
    """Finite, and no larger than a billion."""
    return isinstance(content, int | float) and is_a(content, float) and abs(content) <= 1e9


def two_ends(content: object) -> bool:
    """Of an interval; each may be null."""
    return isinstance(content, list) and len(content) == 2 and all(end is None or a_figure(end) for end in content)


def words_of_up_to_10000_characters(content: object) -> bool:
    """None of them empty."""
    return isinstance(content, list) and all(isinstance(word, str) and 0 < len(word) <= 10_000 for word in content)


def a_short_name(content: object) -> bool:
    """Up to 100 printed characters."""
    return isinstance(content, str) and 0 < len(content) <= 100 and content.isprintable()


# What a site sends, in the order of the messages; of its counts see `data_prep.shared_schema`.
HELLO = {"site": a_site_name, "settings": {str: str}, "columns": MayLack(str)}
WORDS = {"words": MayLack(words_of_up_to_10000_characters), "examples": a_positive_count}
ROUND = {"validation": MayLack(a_figure), "metric": a_short_name}
VALUE = {"value": MayLack(a_figure), "interval": MayLack(two_ends)}
BESIDE = {"difference": MayLack(a_figure), "difference_interval": MayLack(two_ends)}
FIGURES = {
    "question": str,
    "examples": a_count,
    "task": {*MAIN},
    "metric": {*MAIN.values()},
    "rows": a_count,
    "users": a_count,
    "positives": MayLack(a_count),
    "models": {MODEL: VALUE, ALONE: VALUE | BESIDE},
}


def send(connection: Connection, content: dict[str, Any], weights: Weights | None = None) -> None:
    """Send a message, and weights behind it.

    Raises:
        OSError: The other side is gone.
    """
    connection.send_bytes(json.dumps({"content": content, "weights": weights is not None}).encode())
    if weights is not None:
        connection.send_bytes(save({name: weight.detach().cpu().contiguous() for name, weight in weights.items()}))


def receive(connection: Connection) -> tuple[dict[str, Any], Weights]:
    """The next message, and its weights, if any.

    Raises:
        EOFError: The other side is gone; so does OSError say.
        InputError: It is no message, or it says why the other side ends.
    """
    try:
        message = json.loads(connection.recv_bytes(MOST_JSON).decode())
        json.dumps(message, ensure_ascii=False).encode()  # half a character, which nothing could write, is no message
        content, more = message["content"], message["weights"]
        weights = load(connection.recv_bytes(MOST_WEIGHTS)) if more else {}
    except (ValueError, RecursionError, KeyError, TypeError, SafetensorError) as error:
        raise InputError("it sent something else than a message") from error
    if not isinstance(content, dict):
        raise InputError("it sent something else than a message")
    if "error" in content:
        raise InputError(str(content["error"])[:500])
    return content, weights


def known_figures(content: dict[str, Any]) -> dict[str, Any]:
    """What FIGURES has of a site's figures, and nothing else of them."""
    models = {
        name: {key: content["models"][name].get(key) for key in holds} for name, holds in FIGURES["models"].items()
    }
    return {key: content.get(key) for key in FIGURES} | {"models": models}
