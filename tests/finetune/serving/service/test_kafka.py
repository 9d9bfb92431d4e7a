"""Events of a Kafka topic, by the broker that librdkafka has for tests: real clients, and a network of this machine."""

import json
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from data_prep import InputError
from finetune.serving.service.consume import GROUP, consume
from finetune.serving.service.engine import Engine, Job
from finetune.serving.service.kafka import KafkaStream
from finetune.serving.service.model import ServedModel
from finetune.serving.service.store import open_store

kafka = pytest.importorskip("confluent_kafka")


@pytest.fixture
def broker():
    """A producer, and the address of the broker that ends with it."""
    producer = kafka.Producer({"test.mock.num.brokers": 1, "log_level": 0})
    (found,) = producer.list_topics(timeout=10).brokers.values()
    return producer, f"{found.host}:{found.port}"


@pytest.fixture
def engine(model, tmp_path) -> Iterator[Engine]:
    engine = Engine(ServedModel.load(str(model)), open_store(f"sqlite:///{tmp_path / 'histories.db'}"))
    yield engine
    engine.stop()


def messages_of(address: str, topic: str) -> list:
    reader = kafka.Consumer({"bootstrap.servers": address, "group.id": topic, "auto.offset.reset": "earliest"})
    reader.subscribe([topic])
    found, empty = [], 0
    while empty < 20 and not (found and empty):
        messages = reader.consume(100, 0.5)
        found += messages
        empty = 0 if messages else empty + 1
    reader.close()
    return found


def read_until(address: str) -> int:
    """How many events the group need not read again, after any end of its consumers."""
    reader = kafka.Consumer({"bootstrap.servers": address, "group.id": GROUP})
    partitions = reader.list_topics("events", timeout=10).topics["events"].partitions
    found = reader.committed([kafka.TopicPartition("events", number) for number in partitions], timeout=10)
    reader.close()
    return sum(max(place.offset, 0) for place in found)


def test_events_count_as_read_when_they_are_kept_and_their_scores_are_delivered(broker, engine, log):
    producer, address = broker
    for event in log["u1"][:5]:
        producer.produce("events", json.dumps(event).encode())
    producer.produce("events", b"\xff no json")
    producer.flush()
    stream, said, before = KafkaStream(address, "events", last=True), [], []
    keep = engine.submit

    def submit(job: Job) -> Future:
        before.append(read_until(address))
        return keep(job)

    engine.submit = submit
    counts = consume(engine, stream, said.append)
    assert (counts["new"], counts["unusable"]) == (5, 1)
    assert len(said) == 1
    assert before[0] == 0
    assert read_until(address) == 6
    scores = [json.loads(message.value()) for message in messages_of(address, "events.scores")]
    assert len(scores) == counts["scores"] > 0
    assert {score["user_id"] for score in scores} == {"u1"}
    (rejected,) = messages_of(address, "events.rejected")
    assert rejected.value() == b"\xff no json"
    assert said == [": ".join(value.decode() for _, value in rejected.headers())]


def test_a_broker_that_is_not_there_is_refused_in_a_sentence(monkeypatch):
    monkeypatch.setattr("finetune.serving.service.kafka.ANSWER", 0.2)
    with pytest.raises(InputError, match="no Kafka answers at"):
        KafkaStream("127.0.0.1:1", "events")
