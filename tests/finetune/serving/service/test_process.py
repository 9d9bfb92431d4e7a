"""scripts/serve.py as a process: what it acknowledged is there after any end."""

import json
import re
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from os import kill
from pathlib import Path

import pytest

from finetune.serving.classifier import EventClassifier
from finetune.serving.service.store import open_store
from tests.commands import Command, Commands
from tests.finetune.serving.service.test_store import redis_server

EVENTS = 10_000
TOGETHER = 100


class Service:
    """A service that was started, and its address."""

    def __init__(self, commands: Commands, model: Path, store: str, **environment: object) -> None:
        arguments = ("--model", model, "--store", store, "--port", 0)
        self.command: Command = commands.start("serve.py", *arguments, environment=environment)
        self.address = ""
        while not self.address:
            printed = self.command.output.read_text() if self.command.output.exists() else ""
            assert "error" not in printed, printed
            found = re.search(r"at (http://\S+)\n", printed)
            self.address = found[1] if found else ""
            time.sleep(0.02)
        assert self.call("/ready") == "ok"

    def call(self, path: str, body: object = None) -> object:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            said = answer.read().decode()
        return json.loads(said) if said[:1] in "[{" else said

    def end(self) -> int:
        kill(self.command.process, signal.SIGTERM)
        return self.command.wait()


def batch(number: int) -> list[dict]:
    """A hundred events of fifty users; a sender that gets no answer sends the same ones again."""
    return [
        {
            "user_id": f"u{i % 50}",
            "event_time": f"2024-02-{1 + number % 28:02} {i % 24:02}:{number % 60:02}:{i % 60:02}",
            "event_type": "purchase",
            "amount": float(number),
            **({"event_id": f"{number}-{i}"} if number % 2 else {"shop": f"{i}"}),
        }
        for i in range(TOGETHER)
    ]


def test_kill_9_loses_no_acknowledged_event_and_keeps_none_twice(commands, model, tmp_path):
    store = f"sqlite:///{tmp_path / 'histories.db'}"
    service, acknowledged, killed = Service(commands, model, store), 0, 0
    number = 0
    while number < EVENTS // TOGETHER:
        timer = None
        if number in (20, 21, 50, 80) and killed < 4:  # in the middle of a request, or right after its answer
            killed += 1
            timer = threading.Timer(0.01 * killed, service.command.kill)
            timer.start()
        try:
            answer = service.call("/events", {"events": batch(number)})
            acknowledged += answer["stored"] + answer["known"]
            number += 1
        except OSError:  # none, so that it is sent again
            assert timer is not None
        if timer:
            timer.join()
            service = Service(commands, model, store)
    assert killed == 4
    assert acknowledged == EVENTS
    found = service.call("/users/scores", {"users": [f"u{i}" for i in range(50)], "at": "2024-03-05"})
    assert len(found["scores"]) == 50
    assert service.end() == 0
    kept = open_store(store)
    held = [event for events in kept.events([f"u{i}" for i in range(50)]).values() for event in events]
    kept.close()
    assert len(held) == EVENTS
    assert {json.dumps(event, sort_keys=True) for event in held} == {
        json.dumps(event, sort_keys=True) for number in range(EVENTS // TOGETHER) for event in batch(number)
    }


def test_kill_9_of_redis_loses_no_acknowledged_event_and_keeps_none_twice(commands, model, tmp_path):
    users, acknowledged, number, refused = [f"u{i}" for i in range(50)], 0, 0, []
    asked = {"users": users, "at": "2024-03-05"}
    with ExitStack() as redis:
        store = redis.enter_context(redis_server(tmp_path))
        service = Service(commands, model, store)
        while number < EVENTS // TOGETHER:
            killing = number >= (20, 50, 80, EVENTS)[len(refused)]
            if killing:
                service.call("/users/scores", asked)  # so that their histories are held
                killer = threading.Timer(0.005 * (1 + len(refused)), redis.close)
                killer.start()
            try:
                while True:  # until the Redis is gone
                    answer = service.call("/events", {"events": batch(number)})
                    acknowledged += answer["stored"] + answer["known"]
                    number += 1
                    if not killing:
                        break
            except urllib.error.HTTPError as error:
                refused.append(error.code)
            if killing:
                killer.join()
                redis.enter_context(redis_server(tmp_path))
        assert refused == [503] * 3
        found = service.call("/users/scores", asked)["scores"]
        redis.close()
        redis.enter_context(redis_server(tmp_path))
        opened = open_store(store)
        held = [event for own in opened.events(users).values() for event in own]
        opened.close()
        assert service.end() == 0
    assert acknowledged == EVENTS
    sent = [event for number in range(EVENTS // TOGETHER) for event in batch(number)]
    assert sorted(json.dumps(event, sort_keys=True) for event in held) == sorted(
        json.dumps(event, sort_keys=True) for event in sent
    )
    expected = EventClassifier.from_pretrained(model).predict(sent, "2024-03-05").to_pylist()
    assert {one["user_id"]: one["score"] for one in found} == pytest.approx(
        {row["user_id"]: row["score"] for row in expected}, abs=1e-6
    )


def test_sigterm_answers_what_is_under_way_and_ends_in_peace(commands, model, tmp_path):
    service = Service(commands, model, f"sqlite:///{tmp_path / 'histories.db'}")
    answers = []

    def send(number: int) -> None:
        answers.append(service.call("/events", {"events": batch(number)}))

    threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    while 'eventscribe_events_total{as="new"} 0.0' in service.call("/metrics"):
        pass
    kill(service.command.process, signal.SIGTERM)
    for thread in threads:
        thread.join()
    assert service.command.wait() == 0
    sent = sum(answer["stored"] for answer in answers)
    kept = open_store(f"sqlite:///{tmp_path / 'histories.db'}")
    assert sum(map(len, kept.events([f"u{i}" for i in range(50)]).values())) == sent
    kept.close()
    printed = service.command.output.read_text()
    assert "Traceback" not in printed
    assert "u7" not in printed


def test_clients_that_send_nothing_or_leave_do_not_hold_up_others(commands, model, tmp_path):
    service = Service(commands, model, f"sqlite:///{tmp_path / 'histories.db'}")
    host, port = service.address.removeprefix("http://").split(":")
    slow = []
    for i in range(300):
        client = socket.create_connection((host, int(port)))
        head = b"POST /events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"
        client.sendall((b"", b"POST /ev", head, head + b"\r\n", head + b"\r\n{")[i % 5])
        slow.append(client)
    for client in slow[::2]:
        client.close()
    assert service.call("/events", {"events": batch(0)}) == {"stored": 100, "known": 0}
    assert service.call("/users/u1/score?at=2024-03-05")["user_id"] == "u1"
    for client in slow:
        client.close()
    assert service.end() == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--store", "nowhere"), "error: --store nowhere is no store; give sqlite:///FILE or redis://HOST:PORT/0"),
        (("--port", "70000"), "error: --port 70000 is none; give a number from 0 to 65535; see --help"),
        (("--host", "not.a.host"), "error: --port 8000 of --host not.a.host cannot be listened on"),
    ],
)
def test_what_cannot_be_served_is_one_sentence(commands, model, tmp_path, arguments, said):
    store = () if "--store" in arguments else ("--store", f"sqlite:///{tmp_path / 'h.db'}")
    code, printed = commands.run("serve.py", "--model", model, *store, *arguments)
    assert code == 2
    assert said in printed
    assert "Traceback" not in printed


def test_a_port_that_is_taken_is_one_sentence(commands, model, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        store = f"sqlite:///{tmp_path / 'h.db'}"
        code, printed = commands.run("serve.py", "--model", model, "--store", store, "--port", port)
    assert code == 2
    assert (
        f"--port {port} of --host 127.0.0.1 cannot be listened on (Address already in use); take another port"
        in printed
    )


def test_the_key_comes_from_the_environment(commands, model, tmp_path):
    store = f"sqlite:///{tmp_path / 'histories.db'}"
    service = Service(commands, model, store, EVENTSCRIBE_API_KEY="secret")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        service.call("/users")
    assert service.end() == 0
    assert "secret" not in service.command.output.read_text()
