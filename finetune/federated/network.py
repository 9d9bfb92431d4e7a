"""Connections that are cut in time; those to other machines know a secret. Nothing on the way is encrypted."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge, wait
from queue import Queue
from threading import Event, Thread, Timer

from data_prep import InputError

KEY = "EVENTSCRIBE_FEDERATION_KEY"  # of the environment
GREETING = 10.0  # seconds that a stranger has to tell the secret


def accepted(address: str, sites: int) -> list[Connection]:
    """Wait until so many sites have joined at HOST:PORT; one that does not know the secret is turned away.

    Each stranger is asked in a thread of its own, and for GREETING seconds: one that is silent holds nobody up.

    Raises:
        InputError: No address, or one that is taken, or no secret.
    """
    place, key, made = _parsed(address, "--listen"), _key(), []
    known: Queue[Connection] = Queue()
    try:
        server = socket.create_server(place)
    except OSError as error:
        raise InputError(f"nobody can listen at {address}", "choose another port", setting="--listen") from error
    with server:
        print(f"waiting for {sites} sites at {address}", flush=True)
        while len(made) < sites:
            if wait([server], 0.1):
                end, who = server.accept()
                Thread(target=_greet, args=(Connection(end.detach()), who[0], key, known), daemon=True).start()
            while not known.empty() and len(made) < sites:
                made.append(known.get())
                print(f"site {len(made)} has joined", flush=True)
    while not known.empty():  # more than were expected
        known.get().close()
    return made


def _greet(connection: Connection, who: str, key: bytes, known: Queue[Connection]) -> None:
    """Ask for the secret, as multiprocessing's own Listener does."""
    try:
        with cut_after(connection, GREETING):
            deliver_challenge(connection, key)
            answer_challenge(connection, key)
    except (AuthenticationError, EOFError, OSError) as error:
        print(f"turned away {who}: {type(error).__name__}", flush=True)
        connection.close()
        return
    known.put(connection)


@contextmanager
def cut_after(connection: Connection, seconds: float) -> Iterator[None]:
    """Cut a connection where the block takes longer, also in the middle of a message.

    Raises:
        TimeoutError: It has been cut, which the block sees as an EOFError or another OSError.
    """
    late = Event()
    limit = Timer(seconds, _cut, [connection, late])
    limit.daemon = True
    limit.start()
    try:
        yield
    except (EOFError, OSError) as error:
        if late.is_set():
            raise TimeoutError from error
        raise
    finally:
        limit.cancel()


def _cut(connection: Connection, late: Event) -> None:
    """Wake whoever reads from it or writes to it."""
    late.set()
    with suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as end:
        end.shutdown(socket.SHUT_RDWR)


def joined(address: str) -> Connection:
    """A connection to the server at HOST:PORT, which is given up where its machine is gone.

    Raises:
        InputError: No address, no secret or another one than the server's, or no server that answers in GREETING
            seconds.
    """
    place, key = _parsed(address, "--join"), _key()
    try:
        end = socket.create_connection(place, GREETING)
        end.settimeout(None)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection = Connection(end.detach())
        with cut_after(connection, GREETING):
            answer_challenge(connection, key)
            deliver_challenge(connection, key)
    except AuthenticationError as error:
        raise InputError(f"the server at {address} has another {KEY}", "give both the same") from error
    except (OSError, EOFError) as error:
        raise InputError(f"there is no server at {address}", "start it first", setting="--join") from error
    return connection


def _parsed(address: str, setting: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InputError(f"{address} is no HOST:PORT", "write such as 127.0.0.1:7070", setting=setting)
    return host, int(port)


def _key() -> bytes:
    secret = os.environ.get(KEY, "")
    if len(secret) < 16:
        raise InputError(f"the environment has no {KEY} of 16 characters or more", "export a secret of all sites")
    return secret.encode()
