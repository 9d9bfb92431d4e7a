"""Keep the events of a stream in a store, and write scores back: JSON lines, a Redis stream, or a Kafka topic.

python scripts/consume.py --model runs/NAME/model --store sqlite:///histories.db < events.jsonl > scores.jsonl
python scripts/consume.py --model runs/NAME/model --store redis://localhost:6379/0 \
    --stream redis://localhost:6379/0 --name events --consumer a
python scripts/consume.py --model runs/NAME/model --store redis://localhost:6379/0 \
    --stream kafka://localhost:9092 --name events

A Redis stream is read by the consumer group eventscribe: each entry has the event as JSON in its field `event`, is
acknowledged when the store has it, and the scores go to the stream NAME:scores. A Kafka topic is read by the same
group, each value is the JSON of an event, and the scores go to the topic NAME.scores. Needs pip install -e '.[serve]',
and '.[redis]' or '.[kafka]' for these. What cannot be used is told on stderr, and put into the stream NAME:rejected or
the topic NAME.rejected with the reason.
"""

import sys
from argparse import Namespace

from data_prep import InputError
from finetune.command import CommandParser, guarded


def run(given: Namespace) -> None:
    """Consume until the stream ends, or Ctrl-C."""
    # After the arguments are read, as it takes seconds.
    from finetune.serving.service.consume import JsonLines, RedisStream, consume
    from finetune.serving.service.engine import Engine
    from finetune.serving.service.kafka import KafkaStream
    from finetune.serving.service.model import ServedModel
    from finetune.serving.service.store import REDIS, StoreError, open_store

    if not given.stream:
        stream = JsonLines(sys.stdin, sys.stdout)
    elif given.stream.startswith("kafka://"):
        stream = KafkaStream(given.stream.removeprefix("kafka://"), given.name, given.last)
    elif given.stream.startswith(REDIS):
        stream = RedisStream(given.stream, given.name, given.consumer, given.last)
    else:
        remedy = "give redis://HOST:PORT/0 or kafka://HOST:PORT"
        raise InputError(f"--stream {given.stream} is no stream", remedy, setting="--stream")
    engine = Engine(ServedModel.load(given.model), open_store(given.store))
    try:
        counts = consume(engine, stream, lambda said: print(said, file=sys.stderr))
    except StoreError as error:
        raise InputError(
            f"the store or the stream does not do its work ({error})",
            "start again: what was not acknowledged comes again",
        ) from error
    finally:
        engine.stop()
    print(", ".join(f"{count:,} {name}" for name, count in counts.items()), file=sys.stderr)


if __name__ == "__main__":
    parser = CommandParser(__doc__ or "")
    parser.add_argument("--model", required=True, help="runs/NAME/model, or a repository of the hub.")
    parser.add_argument("--store", default="sqlite:///histories.db", help="sqlite:///FILE or redis://HOST:PORT/0.")
    parser.add_argument("--stream", help="redis://HOST:PORT/0 or kafka://HOST:PORT; without it standard input is read.")
    parser.add_argument("--name", default="events", help="Of the Redis stream or the topic.")
    parser.add_argument("--consumer", default="1", help="Of this process in Redis' group; the same one after a stop.")
    parser.add_argument("--last", action="store_true", help="End where no event comes for a second.")
    arguments = parser.parse_args()
    guarded(lambda: run(arguments))
