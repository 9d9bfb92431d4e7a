"""Serve a model by uvicorn until a signal."""

import logging
import socket
from contextlib import suppress

from data_prep import InputError
from finetune.serving.service.engine import Engine
from finetune.serving.service.model import ServedModel
from finetune.serving.service.store import open_store

MOST_CONNECTIONS = 2_000  # at a time; more are told to come again
DRAIN_SECONDS = 30  # for what is under way at the end


def serve(model: str, store: str, host: str, port: int, key: str | None) -> None:
    """Serve until SIGTERM or Ctrl-C, which let what is under way end.

    Args:
        model: A folder or a repository of the hub.
        store: See `open_store`.
        host: The address to listen on.
        port: 0 takes a free one.
        key: See `make_app`.

    Raises:
        InputError: The address is taken, the model or the store cannot be opened, or the extra is missing.
    """
    try:
        import uvicorn

        from finetune.serving.service.app import make_app
    except ImportError as error:
        raise InputError("serving needs fastapi, uvicorn and prometheus-client", "pip install -e '.[serve]'") from error
    bound = _bound(host, port)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    app = make_app(Engine(ServedModel.load(model), open_store(store)), key)
    config = uvicorn.Config(
        app,
        access_log=False,  # it has paths, and they have ids
        log_config=None,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    bound.listen(MOST_CONNECTIONS)  # so that who reads the next line is answered
    print(f"serving {model} at http://{host}:{bound.getsockname()[1]}", flush=True)
    with suppress(KeyboardInterrupt):  # by which uvicorn says that a signal ended it
        uvicorn.Server(config).run([bound])


def _bound(host: str, port: int) -> socket.socket:
    """A socket that has the address, before the model takes seconds to load, and does not listen yet."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        bound = socket.socket(family)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise InputError(
            f"--port {port} of --host {host} cannot be listened on ({error.strerror})",
            "take another port, or end what listens there",
            setting="--port",
        ) from error
    return bound
