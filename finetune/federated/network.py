"""Sites of other machines: connections over TCP that know a secret. Nothing on the way is encrypted."""

import os
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener

from data_prep import InputError

KEY = "EVENTSCRIBE_FEDERATION_KEY"  # of the environment


def accepted(address: str, sites: int) -> list[Connection]:
    """Wait until so many sites have joined at HOST:PORT; one that does not know the secret is turned away.

    Raises:
        InputError: No address, or no secret.
    """
    made = []
    with Listener(_parsed(address), authkey=_key()) as listener:
        print(f"waiting for {sites} sites at {address}", flush=True)
        while len(made) < sites:
            try:
                made.append(listener.accept())
            except (AuthenticationError, EOFError, ConnectionError) as error:
                print(f"turned away {listener.last_accepted}: {type(error).__name__}", flush=True)
                continue
            print(f"site {len(made)} has joined", flush=True)
    return made


def joined(address: str) -> Connection:
    """A connection to the server at HOST:PORT.

    Raises:
        InputError: No address, no secret or another one than the server's, or no server.
    """
    try:
        return Client(_parsed(address), authkey=_key())
    except AuthenticationError as error:
        raise InputError(f"the server at {address} has another {KEY}", "give both the same") from error
    except (OSError, EOFError) as error:
        raise InputError(f"there is no server at {address}", "start it first", setting="--join") from error


def _parsed(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InputError(f"{address} is no HOST:PORT", "write such as 127.0.0.1:7070", setting="--listen")
    return host, int(port)


def _key() -> bytes:
    secret = os.environ.get(KEY, "")
    if len(secret) < 16:
        raise InputError(f"the environment has no {KEY} of 16 characters or more", "export a secret of all sites")
    return secret.encode()
