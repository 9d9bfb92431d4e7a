"""Serve a model by uvicorn until a signal."""

import logging
import resource
import socket
from collections.abc import Callable
from contextlib import suppress

from data_prep import InputError
from finetune.serving.service.engine import Engine
from finetune.serving.service.model import ServedModel
from finetune.serving.service.store import open_store
from finetune.serving.service.watch import state_of, watch

MOST_CONNECTIONS = 16_384  # at a time; more are told to come again
SPARE_FILES = 256  # beside connections
BACKLOG = 2_048
DRAIN_SECONDS = 30  # for what is under way at the end


def serve(
    model: str, store: str, host: str, port: int, key: str | None, current: Callable[[], str] | None = None
) -> None:
    """Serve until SIGTERM or Ctrl-C, which let what is under way end.

    Args:
        model: A folder or a repository of the hub.
        store: See `open_store`.
        host: The address to listen on.
        port: 0 takes a free one.
        key: See `make_app`.
        current: See `watch`; None serves the same model to the end.

    Raises:
        InputError: The address is taken, the model or the store cannot be opened, or the extra is missing.
    """
    try:
        import uvicorn

        from finetune.serving.service.app import make_app
        from finetune.serving.service.patience import Patience
    except ImportError as error:
        raise InputError(
            "serving needs fastapi, uvicorn, httptools and prometheus-client", "pip install -e '.[serve]'"
        ) from error
    bound = _bound(host, port)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    served = model if current is None else current()
    loaded = state_of(served)
    engine = Engine(ServedModel.load(served), open_store(store))
    if current is not None:
        watch(engine, current, loaded)
    config = uvicorn.Config(
        make_app(engine, key),
        http=Patience,
        access_log=False,  # it has paths, and they have ids
        log_config=None,
        limit_concurrency=_connections(),
        timeout_keep_alive=15,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    bound.listen(BACKLOG)  # so that who reads the next line is answered
    runtime = engine.model.scoring.runtime
    print(f"serving {served} by {runtime} at http://{host}:{bound.getsockname()[1]}", flush=True)
    with suppress(KeyboardInterrupt):  # by which uvicorn says that a signal ended it
        uvicorn.Server(config).run([bound])


def _connections() -> int:
    """The most connections, after this process was allowed as many files as it may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_CONNECTIONS + SPARE_FILES
    if hard == resource.RLIM_INFINITY or hard > soft:
        soft = max(soft, most if hard == resource.RLIM_INFINITY else min(hard, most))
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(1, min(MOST_CONNECTIONS, soft - SPARE_FILES))


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
