import io
import json
import runpy
import signal
import sys

import pytest
import redis

from data_prep import InputError
from finetune.serving.classifier import EventClassifier
from finetune.serving.service.consume import GROUP, JsonLines, RedisStream, consume
from finetune.serving.service.engine import Engine
from finetune.serving.service.model import ServedModel
from finetune.serving.service.store import open_store
from tests.commands import ROOT
from tests.finetune.serving.service.test_store import redis_server


@pytest.fixture
def engine(model, tmp_path):
    engine = Engine(ServedModel.load(str(model)), open_store(f"sqlite:///{tmp_path / 'histories.db'}"))
    yield engine
    engine.stop()


@pytest.fixture(scope="module")
def lines(log) -> list[str]:
    """The events of three users, in the order of time."""
    events = [event for user in ("u1", "u2", "u3") for event in log[user]]
    return [json.dumps(event) for event in sorted(events, key=lambda event: event["event_time"])]


def test_lines_are_kept_and_each_users_newest_event_is_followed_by_the_batchs_score(engine, model, log, lines):
    said, written = [], io.StringIO()
    counts = consume(engine, JsonLines(io.StringIO("\n".join(lines)), written), said.append)
    assert {name: counts[name] for name in ("new", "known", "unusable")} == {
        "new": len(lines),
        "known": 0,
        "unusable": 0,
    }
    assert counts["scores"] >= 3  # one a user and batch
    assert said == []
    classifier = EventClassifier.from_pretrained(model)
    last = {score["user_id"]: score for score in map(json.loads, written.getvalue().splitlines())}
    for score in last.values():
        (expected,) = classifier.predict(log[score["user_id"]], score["at"]).to_pylist()
        assert score["score"] == pytest.approx(expected["score"], abs=1e-6)
    again = consume(engine, JsonLines(io.StringIO(lines[0]), io.StringIO()), said.append)
    assert again == {"new": 0, "known": 1, "unusable": 0, "scores": 1}


def test_what_cannot_be_used_is_told_by_its_line_and_the_rest_is_kept(engine, lines):
    said, written = [], io.StringIO()
    much = json.dumps({**json.loads(lines[1]), "amount": "much"})
    broken = [lines[0], "no json", '{"user_id": "u9"}', much, lines[2]]
    counts = consume(engine, JsonLines(io.StringIO("\n".join(broken)), written), said.append)
    assert (counts["new"], counts["unusable"]) == (2, 3)
    assert [line.partition(":")[0] for line in said] == ["line 2", "line 3", "line 4"]
    assert "u9" not in "".join(said)


def test_a_redis_stream_is_acknowledged_when_the_store_has_it_and_scores_go_back(engine, lines, tmp_path):
    with redis_server(tmp_path) as url:
        client = redis.Redis.from_url(url, decode_responses=True)
        for line in lines[:5]:
            client.xadd("events", {"event": line})
        client.xadd("events", {"other": "no event"})
        said = []
        stream = RedisStream(url, "events", "a", last=True)
        next(stream.batches())  # read by a consumer that is killed before it has kept anything
        assert client.xpending("events", GROUP)["pending"] == 6
        counts = consume(engine, RedisStream(url, "events", "a", last=True), said.append)
        assert (counts["new"], counts["unusable"]) == (5, 1)
        assert client.xpending("events", GROUP)["pending"] == 0
        ((_, rejected),) = client.xrange("events:rejected")
        assert rejected["other"] == "no event"
        assert said == [f"{rejected['entry']}: {rejected['why']}"]
        scores = [json.loads(fields["score"]) for _, fields in client.xrange("events:scores")]
        assert len(scores) == counts["scores"] > 0
        client.xadd("events", {"event": lines[5]})
        assert consume(engine, RedisStream(url, "events", "b", last=True), said.append)["new"] == 1
        client.close()


def test_an_event_that_ends_its_reading_is_put_aside_and_those_beside_it_are_kept(engine, lines, monkeypatch):
    read = engine.model.live.read

    def fail(events: list[dict], lenient: bool = False) -> list:
        if any(event.get("amount") == 13 for event in events):
            raise MemoryError
        return read(events, lenient)

    monkeypatch.setattr(engine.model.live, "read", fail)
    poison = json.dumps({**json.loads(lines[1]), "amount": 13})
    said, stream = [], JsonLines(io.StringIO("\n".join([lines[0], poison, lines[2]])), io.StringIO())
    counts = consume(engine, stream, said.append)
    assert (counts["new"], counts["unusable"]) == (2, 1)
    assert said == ["line 2: it cannot be read (MemoryError)"]


def test_two_consumers_of_one_redis_score_by_the_events_of_both(model, log, lines, tmp_path):
    events = [event for event in map(json.loads, lines) if event["user_id"] == "u1"][:6]
    with redis_server(tmp_path) as url:
        engines = [Engine(ServedModel.load(str(model)), open_store(url)) for _ in range(2)]
        for number, event in enumerate(events):  # in turns
            written = io.StringIO()
            consume(engines[number % 2], JsonLines(io.StringIO(json.dumps(event)), written), pytest.fail)
        for engine in engines:
            engine.stop()
    (last,) = map(json.loads, written.getvalue().splitlines())
    (expected,) = EventClassifier.from_pretrained(model).predict(events, last["at"]).to_pylist()
    assert last["score"] == pytest.approx(expected["score"], abs=1e-6)


def test_a_stream_of_another_kind_is_refused_in_a_sentence():
    with pytest.raises(InputError, match="--stream is no address of a Redis; give redis://HOST:PORT/0"):
        RedisStream("ftp://x", "events", "a")


@pytest.mark.parametrize("stream", ["ftp://x", "kafka:x", "events"])
def test_a_stream_that_is_none_is_named_with_those_that_are(stream, monkeypatch, capfd):
    monkeypatch.setattr(signal, "signal", lambda *handler: None)
    monkeypatch.setattr(sys, "argv", ["consume.py", "--model", "nowhere", "--stream", stream])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "scripts" / "consume.py"), run_name="__main__")
    assert end.value.code == 2
    said = f"--stream {stream} is no stream; give redis://HOST:PORT/0 or kafka://HOST:PORT"
    assert said in capfd.readouterr().err


def test_a_stream_that_is_not_there_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(InputError, match="no Redis answers there"):
        RedisStream(f"unix://{tmp_path / 'nothing.sock'}", "events", "a")
