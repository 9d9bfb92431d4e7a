"""The server goes on without sites that drop out, and does not count rounds of those that send nonsense."""

import json
import os
import socket
import struct
import time
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from threading import Thread

import pytest
import torch
from safetensors.torch import save

from data_prep import InputError
from data_prep.config import TextConfig
from data_prep.features import Features
from data_prep.serializer import EventSerializer
from finetune.federated.messages import receive, send
from finetune.federated.network import KEY, accepted, joined
from finetune.federated.server import Members, Plan, run_rounds, serve
from finetune.report.federated_page import federated_page, table


def rising(weights):
    return float(weights["w"][0])


class Fake:
    """A site that adds `step` to the shared weights in each round, or what `odd` says for a round."""

    def __init__(self, step: float, odd: dict | None = None, validation=rising, first=None) -> None:
        self.step, self.odd, self.validation, self.last = step, odd or {}, validation, None
        self.first = torch.zeros(3) if first is None else first

    def run(self, connection, rounds: int) -> None:
        value = None
        for number in range(rounds + 2):
            act = self.odd.get(number)
            if act == "leave":
                connection.close()
                return
            if act == "error":
                send(connection, {"error": "training.learning_rate: the weights are no numbers"})
                connection.close()
                return
            if act == "garbage":
                connection.send_bytes(b"\x80\x04.")
                return
            if act == "hang":
                return
            made = {"w": self.first} if self.last is None else {"w": self.last["w"] + self.step}
            if callable(act):
                made = act(self.last)
            send(connection, {"validation": value, "metric": "auroc"}, {} if number == rounds + 1 else made)
            _, self.last = receive(connection)
            value = self.validation(self.last)


def federation(fakes: dict[str, Fake], rounds: int = 4, timeout: float = 30, **plan):
    """Run the rounds; the weights that each site has at the end, the history, the best round, and who has left."""
    here, there = zip(*(Pipe() for _ in fakes), strict=True)
    members = Members(here, timeout)
    for site, name in zip(members.sites, fakes, strict=True):
        site.name, site.examples = name, 100
    ends = zip(fakes.values(), there, strict=True)
    threads = [Thread(target=fake.run, args=(end, rounds), daemon=True) for fake, end in ends]
    for thread in threads:
        thread.start()
    history, best = run_rounds(members, Plan("f", rounds, **plan))
    for thread in threads:
        thread.join(30)
    return {name: fake.last["w"].tolist() for name, fake in fakes.items() if fake.last}, history, best, members.left


def test_the_weights_are_the_mean_of_all_after_each_round(capsys):
    weights, history, best, left = federation({"a": Fake(1), "b": Fake(3)})
    assert weights == {"a": [8] * 3, "b": [8] * 3}  # four rounds of (1 + 3) / 2
    assert [entry["mean_validation"] for entry in history] == [2, 4, 6, 8]
    assert (best, left) == (4, {})
    assert history[0]["lengths"] == {"a": pytest.approx(3**0.5), "b": pytest.approx(3 * 3**0.5)}
    assert "round 4: validation auroc a 8.0000, b 8.0000" in capsys.readouterr().out


def test_the_best_round_is_kept():
    def falls(weights):
        return 1 - abs(float(weights["w"][0]) - 4)

    weights, _, best, _ = federation({"a": Fake(2, validation=falls), "b": Fake(2, validation=falls)})
    assert (best, weights["a"]) == (2, [4] * 3)


@pytest.mark.parametrize(
    ("act", "why"),
    [
        ("leave", "it is gone"),
        ("error", "training.learning_rate: the weights are no numbers"),
        ("garbage", "it sent something else than a message"),
        ("hang", "it has not answered for 1 s"),
    ],
)
def test_a_site_that_drops_out_is_named_and_the_others_go_on(act, why, capsys):
    fakes = {"a": Fake(1), "b": Fake(3), "c": Fake(100, {2: act})}
    weights, history, _, left = federation(fakes, timeout=1, norm_bound=1000)
    assert left == {"c": why}
    assert f"c has left: {why}" in capsys.readouterr().out
    assert [entry["sites"] for entry in history] == [["a", "b", "c"], *[["a", "b"]] * 3]
    assert weights["a"] == pytest.approx([104 / 3 + 6] * 3)


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (lambda last: {"w": last["w"] * float("nan")}, "its weights are no numbers"),
        (lambda last: {"w": last["w"] + 1000}, "its update is 1000.0 times as long as the median"),
        (lambda last: {"w": torch.zeros(2)}, "its weights are of another model"),
        (lambda last: {"v": torch.zeros(3)}, "its weights are of another model"),
        (lambda last: {}, "its weights are of another model"),
    ],
)
def test_nonsense_does_not_count_in_its_round_and_the_site_stays(sent, why, capsys):
    weights, history, _, left = federation({"a": Fake(1), "b": Fake(1), "c": Fake(1, {2: sent})})
    assert weights == {name: [4] * 3 for name in "abc"}
    assert left == {}
    assert [entry["left_out"] for entry in history] == [{}, {"c": why}, {}, {}]
    assert f"round 2: c is left out, {why}" in capsys.readouterr().out


@pytest.fixture
def schema() -> EventSerializer:
    return EventSerializer(TextConfig(fields={}, header=["own"]), Features("true", {}, {}, []), {}, {})


FIGURES = {
    "question": "Who is absent?",
    **{"examples": 10, "task": "binary", "metric": "auroc", "rows": 10, "users": 5, "positives": 2},
    "models": {
        "model": {"value": 0.8, "interval": [0.7, 0.9]},
        "alone": {"value": 0.7, "interval": None, "difference": 0.1, "difference_interval": [None, None]},
    },
}


def served(schema: EventSerializer, *sent: dict, rounds: int = 2) -> dict:
    """What the server makes of sites each of which sends messages of its own at places of the conversation."""
    here, there = zip(*(Pipe() for _ in sent), strict=True)

    def talk(connection, odd: dict) -> None:
        with suppress(EOFError, OSError, InputError):
            receive(connection)
            send(connection, odd.get("hello", {"site": odd["name"], "settings": {"rate": "1"}}))
            receive(connection)
            send(connection, odd.get("words", {"words": None, "examples": 100}))
            receive(connection)
            weights = {"w": torch.zeros(3)}
            for number in range(rounds + 2):
                said = odd.get("round", {"validation": 0.5, "metric": "auroc"})
                send(connection, said, {"w": weights["w"] + odd.get("step", 1) * (0 < number <= rounds)})
                _, weights = receive(connection)
            odd["ends"] = weights["w"][0].item()
            send(connection, odd.get("figures", FIGURES))

    for end, odd in zip(there, sent, strict=True):
        Thread(target=talk, args=(end, odd), daemon=True).start()
    return serve(here, Plan("f", rounds, timeout=30), schema)


@pytest.mark.parametrize(
    ("odd", "why"),
    [
        ({"words": {"words": None, "examples": 10**400}}, "examples is ..., not a positive count"),
        ({"words": {"words": None, "examples": True}}, "examples is true, not a positive count"),
        ({"words": {"words": None, "examples": 0}}, "examples is 0, not a positive count"),
        ({"words": {"words": ["x" * 20_000], "examples": 5}}, "words is "),
        ({"words": {"words": ["\ud800"], "examples": 5}}, "it sent something else than a message"),
        ({"round": {"validation": 10**400, "metric": "auroc"}}, "validation is ..., not a figure"),
        ({"round": {"validation": 1e400, "metric": "auroc"}}, "validation is Infinity"),
        ({"round": {"validation": 0.5, "metric": "loss"}}, "it validates by loss, and others by auroc"),
        ({"figures": {}}, "question is missing"),
        ({"figures": FIGURES | {"rows": "<script>"}}, 'rows is "<script>", not a count'),
        ({"figures": FIGURES | {"models": []}}, "models is [], not a mapping"),
        ({"figures": FIGURES | {"task": "survival"}}, "its figures are the auroc of survival, not of binary"),
    ],
)
def test_a_message_that_is_not_as_agreed_makes_its_site_leave_alone(schema, odd, why):
    found = served(schema, odd | {"name": "odd"}, {"name": "a"}, {"name": "b"})
    (said,) = found["left"].values()
    assert why in said
    assert said.isprintable()
    assert list(found["sites"]) == ["a", "b"]
    assert "odd" not in table(found)
    assert said.split("(")[0] in federated_page(json.loads(json.dumps(found, allow_nan=False)))


def test_the_settings_of_most_sites_are_the_standard(schema):
    odd = {"name": "odd", "hello": {"site": "odd", "settings": {"rate": "2"}}}
    found = served(schema, odd, {"name": "a"}, {"name": "b"})
    assert found["left"] == {"odd": "its rate is 2, and that of a is 1"}
    assert list(found["sites"]) == ["a", "b"]


def test_a_site_that_says_too_many_examples_has_half_of_the_mean(schema, capsys):
    sites = [{"name": "a"}, {"name": "b"}, {"name": "many", "step": 4, "words": {"words": None, "examples": 10**12}}]
    assert served(schema, *sites, rounds=1)["left"] == {}
    assert sites[0]["ends"] == 2.5  # (100 * 1 + 100 * 1 + 200 * 4) / 400
    assert "many counts as 200 of its 1,000,000,000,000 examples" in capsys.readouterr().out


def test_without_any_site_there_is_no_model():
    with pytest.raises(InputError, match="no site is left; the last one was a: it is gone"):
        federation({"a": Fake(1, {3: "leave"})})


@pytest.mark.parametrize(
    ("second", "why"),
    [
        ({"site": "b", "settings": {"rate": "2"}}, "b has left: its rate is 2, and that of a is 1"),
        ({"site": "a", "settings": {"rate": "1"}}, "site 2 has left: there is a site a already"),
        (
            {"site": "b", "settings": [1]},
            "what site 2 sent is damaged (settings is [1], not a mapping)",
        ),
        ({"site": "b", "settings": {"rate": "1"}, "columns": "{}"}, "b has left: "),
        ({"site": "b\x1b[2J", "settings": {}}, r'(site is "b\u001b[2J", not a site name)'),
        ({"site": "b", "settings": {"rate": "\x9b2J"}}, r"its rate is \x9b2J"),
    ],
)
def test_a_site_of_other_settings_leaves_before_any_round(second, why, capsys):
    here, there = zip(Pipe(), Pipe(), strict=True)
    send(there[0], {"site": "a", "settings": {"rate": "1"}, "columns": "none"})
    send(there[1], second)
    with pytest.raises(InputError, match="no site is left"):  # as a has no schema to begin with
        serve(here, Plan("f", 4))
    assert receive(there[0])[0] == {"name": "f", "rounds": 4, "proximal": 0.0, "counts": True}
    assert why in capsys.readouterr().out


def test_sites_of_other_machines_join_by_the_secret_alone(monkeypatch, capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        found_at = free.getsockname()
    address = f"127.0.0.1:{found_at[1]}"
    with pytest.raises(InputError, match=f"the environment has no {KEY}"):
        joined(address)
    monkeypatch.setenv(KEY, "a secret of all the sites")
    with pytest.raises(InputError, match="there is no server at"):
        joined(address)
    found: list = []
    server = Thread(target=lambda: found.extend(accepted(address, 1)), daemon=True)
    server.start()
    while "waiting for 1 sites" not in capsys.readouterr().out:
        time.sleep(0.01)
    silent = socket.create_connection(found_at)  # it holds nobody up
    monkeypatch.setenv(KEY, "another secret than theirs")
    with pytest.raises(InputError, match=f"has another {KEY}"):
        joined(address)
    monkeypatch.setenv(KEY, "a secret of all the sites")
    site = joined(address)
    server.join(30)
    send(site, {"site": "a"}, {"w": torch.arange(3.0)})
    content, weights = receive(found[0])
    assert (content, weights["w"].tolist()) == ({"site": "a"}, [0, 1, 2])
    site.close()
    found[0].close()
    silent.close()


def to_site(connection: Connection) -> socket.socket:
    """The bare end of a site, which can stop within a message."""
    return socket.socket(fileno=os.dup(connection.fileno()))


def half_a_message(bare: socket.socket) -> None:
    bare.sendall(struct.pack("!i", 1000) + b"{" * 500)


def a_message_and_half_of_its_weights(bare: socket.socket) -> None:
    said = json.dumps({"content": {"validation": None, "metric": "auroc"}, "weights": True}).encode()
    bare.sendall(struct.pack("!i", len(said)) + said + struct.pack("!i", 1000) + b"\0" * 500)


def nothing_read(bare: socket.socket) -> None:
    """The first answer stays in the buffers, which are smaller."""
    said = json.dumps({"content": {"validation": None, "metric": "auroc"}, "weights": True}).encode()
    weights = save({"w": torch.zeros(LARGE)})
    for part in (said, weights):
        bare.sendall(struct.pack("!i", len(part)) + part)


LARGE = 4_000_000  # numbers, which no socket takes while nobody reads


@pytest.mark.parametrize("stall", [half_a_message, a_message_and_half_of_its_weights, nothing_read])
def test_a_site_that_stalls_within_a_message_is_named_and_the_others_go_on(stall, monkeypatch, capsys):
    monkeypatch.setenv(KEY, "a secret of all the sites")
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    found: list = []
    server = Thread(target=lambda: found.extend(accepted(address, 3)), daemon=True)
    server.start()
    while "waiting for 3 sites" not in capsys.readouterr().out:
        time.sleep(0.01)
    there = []
    for number in range(3):  # one after the other, so that each is known by its place
        there.append(joined(address))
        while len(capsys.readouterr().out.splitlines()) < 1 and number < 2:
            time.sleep(0.01)
    server.join(30)
    bare = to_site(there[0])
    stalling = Thread(target=stall, args=(bare,), daemon=True)
    fakes = [Fake(1, first=torch.zeros(LARGE)) for _ in range(2)]
    others = [Thread(target=fake.run, args=(end, 1), daemon=True) for fake, end in zip(fakes, there[1:], strict=True)]
    for thread in (stalling, *others):
        thread.start()
    members = Members(found, 1.5)
    for site in members.sites:
        site.examples = 100
    history, _ = run_rounds(members, Plan("f", 1))
    assert members.left == {"site 1": "it has not answered for 1.5 s"}
    assert "site 1 has left: it has not answered for 1.5 s" in capsys.readouterr().out
    assert history[0]["sites"] == ["site 2", "site 3"]
    for thread in others:
        thread.join(30)
    assert [fake.last["w"][0].item() for fake in fakes] == [1, 1]
    for end in (bare, *there, *found[1:]):
        end.close()


def test_a_server_that_is_silent_is_given_up(monkeypatch):
    monkeypatch.setenv(KEY, "a secret of all the sites")
    monkeypatch.setattr("finetune.federated.network.GREETING", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(InputError, match="there is no server at"):
        joined(f"127.0.0.1:{silent.getsockname()[1]}")


def test_a_silent_stranger_is_turned_away_and_a_taken_port_is_named(monkeypatch, capsys):
    monkeypatch.setenv(KEY, "a secret of all the sites")
    monkeypatch.setattr("finetune.federated.network.GREETING", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(InputError, match=f"nobody can listen at {address}"):
            accepted(address, 1)
    found: list = []
    server = Thread(target=lambda: found.extend(accepted(address, 1)), daemon=True)
    server.start()
    said = ""
    while "waiting for 1 sites" not in said:
        said += capsys.readouterr().out
    with socket.create_connection(("127.0.0.1", int(address.split(":")[1]))) as silent:
        silent.settimeout(30)
        while silent.recv(100):
            pass  # until the server has hung up
    site = joined(address)
    server.join(30)
    assert "turned away 127.0.0.1: " in capsys.readouterr().out
    site.close()
    found[0].close()


@pytest.mark.parametrize("sent", [b"", b"[1]", b"{}", b'{"content": 3, "weights": false}', b"\xff", b"[" * 100_000])
def test_what_is_no_message_is_refused_in_a_sentence(sent):
    here, there = Pipe()
    there.send_bytes(sent)
    with pytest.raises(InputError, match="it sent something else than a message"):
        receive(here)
    there.send_bytes(json.dumps({"content": {}, "weights": True}).encode())
    there.send_bytes(b"no safetensors")
    with pytest.raises(InputError, match="it sent something else than a message"):
        receive(here)
