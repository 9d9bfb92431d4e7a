"""A Kafka topic as a stream of events; scores go to another topic."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from data_prep import InputError
from finetune.serving.service.consume import GROUP, TOGETHER, WAIT, Line
from finetune.serving.service.store import StoreError

ANSWER = 10.0  # seconds in which a broker has to


class KafkaStream:
    """Events of a Kafka topic, each value the JSON of one; scores go to the topic NAME.scores, and values that cannot
    be used to NAME.rejected, with the headers `place` (PARTITION:OFFSET) and `why`.

    Consumers of the group GROUP share the partitions. An event counts as read when its scores have been delivered, so
    that what a consumer was stopped at comes again, to it or to another one.

    Args:
        servers: HOST:PORT of some brokers, with commas between.
        name: Of the topic.
        last: Whether to end where all that is there has been read, and not to wait on.

    Raises:
        InputError: confluent-kafka is missing, or no broker answers.
    """

    def __init__(self, servers: str, name: str, last: bool = False) -> None:
        try:
            import confluent_kafka as kafka  # pyright: ignore[reportMissingImports] - an extra
        except ImportError as error:
            raise InputError(
                "a Kafka topic needs confluent-kafka", "pip install -e '.[kafka]'", setting="--stream"
            ) from error
        self.name, self.last, self.failed = name, last, kafka.KafkaException
        self.unread: set[int] | None = None  # partitions whose end has not been seen, once there are any
        quiet = {"bootstrap.servers": servers, "log_level": 0}
        self.producer = kafka.Producer(quiet)
        try:
            self.producer.list_topics(timeout=ANSWER)
        except kafka.KafkaException as error:
            raise InputError(
                f"--stream: no Kafka answers at {servers}", "start it, or check the address", setting="--stream"
            ) from error
        reading = {"group.id": GROUP, "enable.auto.commit": False, "auto.offset.reset": "earliest"}
        self.consumer = kafka.Consumer(quiet | reading | {"enable.partition.eof": True})
        self.consumer.subscribe([name], on_assign=self._assigned)
        self.end = kafka.KafkaError._PARTITION_EOF

    def _assigned(self, consumer: Any, partitions: list[Any]) -> None:
        self.unread = {each.partition for each in partitions}

    def batches(self) -> Iterator[list[Line]]:
        """See Stream."""
        while self.unread is None or self.unread or not self.last:
            with self._errors():
                found = self.consumer.consume(TOGETHER, WAIT / 1000)
            lines = []
            for message in found:
                error, place = message.error(), message.partition()
                if error is None:
                    lines.append(Line(f"{place}:{message.offset()}", _text(message.value()), message.value()))
                elif error.code() != self.end:
                    raise StoreError(f"Kafka: {error}")
                elif self.unread is not None:
                    self.unread.discard(place)
            if lines:
                yield lines
        self.consumer.close()

    def done(self, lines: Sequence[Line], scores: Sequence[str], rejected: Mapping[str, str]) -> None:
        """See Stream."""
        lost = []

        def delivered(error: Any, message: Any) -> None:
            lost.extend([error] if error else [])

        with self._errors():
            for score in scores:
                self.producer.produce(f"{self.name}.scores", score.encode(), on_delivery=delivered)
            for line in lines:
                if line.place in rejected:
                    why: Any = {"place": line.place, "why": rejected[line.place]}
                    self.producer.produce(f"{self.name}.rejected", line.given, headers=why, on_delivery=delivered)
            if self.producer.flush(ANSWER) or lost:
                raise StoreError(f"Kafka did not take what was written ({lost[0] if lost else 'no answer'})")
            self.consumer.commit(asynchronous=False)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (self.failed, BufferError) as error:
            raise StoreError(f"Kafka: {error}") from error


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", errors="replace")
