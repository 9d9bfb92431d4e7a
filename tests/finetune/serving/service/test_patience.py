"""Clients whose request does not come are let go, and no others."""

import http.client
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn

from finetune.serving.service import patience
from finetune.serving.service.patience import Patience


async def answer(scope, receive, send):
    """Says how many bytes came."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
    await send({"type": "http.response.body", "body": b"%04d" % len(body)})


@pytest.fixture
def port(monkeypatch) -> Iterator[int]:
    monkeypatch.setattr(patience, "HEAD_SECONDS", 0.3)
    config = uvicorn.Config(answer, http=Patience, lifespan="off", log_level="critical")
    server, bound = uvicorn.Server(config), socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([bound],))
    thread.start()
    yield bound.getsockname()[1]
    server.should_exit = True
    thread.join()


def let_go(client: socket.socket, dribble: bytes = b"") -> bool:
    """Whether the service closes the connection of a client that sends so much now and then."""
    client.settimeout(0.05)
    for i in range(200):
        try:
            if dribble:
                client.sendall(dribble[i % len(dribble) :][:1])
            if client.recv(100) == b"":
                return True
        except TimeoutError:
            continue
        except OSError:
            return True
    return False


def test_a_head_that_does_not_end_is_let_go_also_behind_a_request(port):
    silent, slow, second, blank = (socket.create_connection(("127.0.0.1", port)) for _ in range(4))
    for client in (second, blank):
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in client.recv(1_000)
    assert let_go(silent)
    assert let_go(slow, b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 50)
    assert let_go(second, b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 50)
    assert let_go(blank, b"\r\n")
    for client in (silent, slow, second, blank):
        client.close()


def test_a_head_that_is_too_long_is_let_go(port):
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000)
        assert let_go(client)


def test_a_slow_body_and_pauses_between_requests_are_not_its_matter(port):
    connection = http.client.HTTPConnection("127.0.0.1", port)
    for _ in range(2):
        connection.putrequest("POST", "/")
        connection.putheader("Content-Length", "2")
        connection.endheaders(b"a")
        time.sleep(0.5)
        connection.send(b"b")
        assert connection.getresponse().read() == b"0002"
        time.sleep(0.5)
    connection.close()
