"""What server and sites say to each other: JSON, and weights as safetensors; nothing in it can run."""

import json
from multiprocessing.connection import Connection
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from data_prep import InputError

Weights = dict[str, torch.Tensor]
MOST_JSON, MOST_WEIGHTS = 1 << 28, 1 << 34  # bytes


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
        message = json.loads(connection.recv_bytes(MOST_JSON))
        content, more = message["content"], message["weights"]
        weights = load(connection.recv_bytes(MOST_WEIGHTS)) if more else {}
    except (ValueError, RecursionError, KeyError, TypeError, SafetensorError) as error:
        raise InputError("it sent something else than a message") from error
    if not isinstance(content, dict):
        raise InputError("it sent something else than a message")
    if "error" in content:
        raise InputError(str(content["error"])[:500])
    return content, weights
