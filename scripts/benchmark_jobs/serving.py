"""The service under load on this machine: clients of one process, the service in another, both on the same cores."""

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import count
from pathlib import Path

import numpy as np

EVENTS = 50  # of each user before the clock starts
DRIBBLE = 2.0  # seconds between two bytes of a slow client
TOGETHER = 100  # users or events of a request that has many
MIXED = "a mix"  # mostly scores, an event in seven, why in fifty


class Client:
    """One connection that stays open, and the milliseconds of what it asked for."""

    def __init__(self, port: int) -> None:
        self.connection, self.spent, self.failed = http.client.HTTPConnection("127.0.0.1", port, timeout=60), [], 0

    def ask(self, path: str, body: object = None, due: float | None = None) -> str:
        """The answer; its time runs from when the request was due, which may be before it could be sent."""
        began = time.perf_counter() if due is None else due
        data = None if body is None else json.dumps(body)
        self.connection.request("POST" if body else "GET", path, data, {"Content-Type": "application/json"})
        answer = self.connection.getresponse()
        said = answer.read().decode()
        self.spent.append(1000 * (time.perf_counter() - began))
        self.failed += answer.status != 200
        return said


@contextmanager
def served(model: Path, folder: Path) -> Iterator[int]:
    """The port of a service with an empty store, which ends with the block."""
    command = [sys.executable, str(Path(__file__).parents[1] / "serve.py"), "--model", str(model), "--port", "0"]
    command += ["--store", f"sqlite:///{folder / 'histories.db'}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        found = next((re.search(r":(\d+)$", line) for line in process.stdout if line.startswith("serving ")), None)
        try:
            if found is None:
                raise RuntimeError("the service did not start; scripts/serve.py with the same model says why")
            yield int(found[1])
        finally:
            process.send_signal(signal.SIGTERM)


def made_up_events(model: Path, users: int, seed: int) -> list[dict]:
    """The histories of users, of values that the model knows, in the order of time; they end at the last cutoff."""
    from data_prep.made_up import made_up_fields
    from data_prep.moments import parse_cutoff
    from data_prep.serializer import EventSerializer
    from finetune.runs import read_task

    serializer, task, random = EventSerializer.from_pretrained(model), read_task(model), np.random.default_rng(seed)
    columns, end = ["event_type", *serializer.fields], parse_cutoff(task["splits"]["test"]["cutoffs"][-1])
    minutes = sorted(random.integers(1, 200 * 24 * 60, users * EVENTS).tolist(), reverse=True)
    return [
        {"user_id": f"u{random.integers(users)}", "event_time": (end - timedelta(minutes=before)).isoformat()}
        | {"event_id": f"{seed}-{number}"}
        | made_up_fields(serializer, list(dict.fromkeys(columns)), task["log"].get("has"), random)
        for number, before in enumerate(minutes)
    ]


def loads(users: int, cutoff: str, fresh: list[dict]) -> dict[str, Callable[[Client, int, float | None], str]]:
    """What is asked for in each row of the table, given the number of the request.

    Args:
        users: How many have a history.
        cutoff: The moment of the scores.
        fresh: Events that are new.
    """
    names = [f"u{i}" for i in range(users)]

    def score(client: Client, i: int, due: float | None) -> str:
        return client.ask(f"/users/{names[i % users]}/score?at={cutoff}", due=due)

    def scores(client: Client, i: int, due: float | None) -> str:
        some = [names[(i * TOGETHER + j) % users] for j in range(min(TOGETHER, users))]
        return client.ask("/users/scores", {"users": some, "at": cutoff}, due)

    def sent(client: Client, i: int, due: float | None) -> str:
        return client.ask(
            "/score", {"events": [event | {"user_id": "sent"} for event in fresh[:EVENTS]], "at": cutoff}, due
        )

    def append(client: Client, i: int, due: float | None) -> str:
        return client.ask("/events", {"events": [fresh[i % len(fresh)]]}, due)

    def append_many(client: Client, i: int, due: float | None) -> str:
        some = [event | {"event_id": f"{event['event_id']}-{i}"} for event in fresh[:TOGETHER]]
        return client.ask("/events", {"events": some}, due)

    def explain(client: Client, i: int, due: float | None) -> str:
        return client.ask(f"/explain/{names[i % users]}?at={cutoff}", due=due)

    def mixed(client: Client, i: int, due: float | None) -> str:
        return (explain if i % 50 == 25 else append if i % 7 == 3 else score)(client, i, due)

    many = f"{min(TOGETHER, users)} users' scores"
    return {
        "a score": score,
        many: scores,
        f"a score of {EVENTS} events sent along": sent,
        "an event": append,
        f"{TOGETHER} events": append_many,
        "why": explain,
        MIXED: mixed,
    }


def under_load(
    port: int, ask: Callable[[Client, int, float | None], str], clients: int, rate: float | None, seconds: float
) -> dict[str, float]:
    """What a load takes.

    Args:
        port: Of the service.
        ask: See `loads`.
        clients: Connections, each of which waits for its answer before it asks again.
        rate: Requests a second that are due, whatever became of those before; None asks as fast as answers come.
        seconds: For how long.

    Returns:
        per_second, p50, p95 and p99 (milliseconds), cpu (the service's milliseconds of CPU a request), failed and mib
        (its resident memory at the end).
    """
    asked, lock, workers = count(), threading.Lock(), [Client(port) for _ in range(clients)]
    before, began = _process(port), time.perf_counter()

    def work(client: Client) -> None:
        while True:
            with lock:
                number = next(asked)
            due = None if rate is None else began + number / rate
            if (due or time.perf_counter()) > began + seconds:
                return
            if due is not None:
                time.sleep(max(0.0, due - time.perf_counter()))
            ask(client, number, due)

    threads = [threading.Thread(target=work, args=(client,)) for client in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took, after = time.perf_counter() - began, _process(port)
    spent = np.concatenate([client.spent for client in workers])
    p50, p95, p99 = np.percentile(spent, [50, 95, 99]).tolist()
    return {
        "per_second": len(spent) / took,
        **{"p50": p50, "p95": p95, "p99": p99},
        "cpu": 1000 * (after["cpu_seconds_total"] - before["cpu_seconds_total"]) / len(spent),
        "failed": sum(client.failed for client in workers),
        "mib": after["resident_memory_bytes"] / 2**20,
    }


@contextmanager
def slow_clients(port: int, number: int) -> Iterator[None]:
    """Connections that send a byte of a request every DRIBBLE seconds, and come again when they are let go."""
    head, going, held = b"GET /health HTTP/1.1\r\nX-Slow: " + b"x" * 10_000, threading.Event(), {}

    def work() -> None:
        while not going.is_set():
            for i in range(number):
                try:
                    if i not in held:
                        held[i] = [socket.create_connection(("127.0.0.1", port), timeout=5), 0]
                        held[i][0].setblocking(False)
                    client, sent = held[i]
                    client.sendall(head[sent : sent + 1])
                    held[i][1] += 1
                except OSError:
                    held.pop(i, None)
                if i % 100 == 0 and going.wait(DRIBBLE * 100 / number):
                    return

    thread = threading.Thread(target=work)
    thread.start()
    while len(held) < number * 0.9:
        time.sleep(0.1)
    try:
        yield
    finally:
        going.set()
        thread.join()
        for client, _ in held.values():
            client.close()


def fill(port: int, events: list[dict], users: int, cutoff: str) -> None:
    """Keep the events, and let the service hold every history."""
    client = Client(port)
    for start in range(0, len(events), 1000):
        client.ask("/events", {"events": events[start : start + 1000]})
    for start in range(0, users, TOGETHER):
        some = [f"u{i}" for i in range(start, min(start + TOGETHER, users))]
        client.ask("/users/scores", {"users": some, "at": cutoff})
    if client.failed:
        raise RuntimeError("the service refused events of its own model")


def _process(port: int) -> dict[str, float]:
    """What the service says of its own process."""
    said = Client(port).ask("/metrics")
    return {name: float(value) for name, value in re.findall(r"^process_(\w+) (\S+)$", said, re.M)}
