"""A log whose users are to be scored: read, cast and written as text by the SQL that prepared the training data."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from data_prep import InputError
from data_prep.config import DataConfig, Source
from data_prep.event_log import RESERVED, EventLog
from data_prep.events import confined, read_events
from data_prep.expressions import execute_one
from data_prep.facts import Task
from data_prep.in_memory import in_memory
from data_prep.likeness import doubts
from data_prep.moments import parse_cutoff, show
from data_prep.parts import number_of_parts, read_part, sample_condition, write_parts
from data_prep.population import Whom
from data_prep.serializer import EventSerializer
from data_prep.served_users import give_users, users_without
from data_prep.sources import file_columns, refuse_twice
from data_prep.spark import SparkLog
from data_prep.sql import column_types, identifier, refused, timestamp

FIT = "give each column the type that it had in training"
GIVEN = "given_events"  # what a caller has in memory, as a relation
# Of the log that is scored, read here and by scripts/predict.py, which must not load torch for its --help.
BATCH = 1_024  # texts that the model reads at a time, at most
MEMORY = "2GB"  # DuckDB's share, unless told otherwise; Python and the model come on top
LAST = "last"  # as a cutoff: each user's last event
PART_USERS = 20_000  # a part has about that many, so that aggregates and texts stay small


@dataclass
class ServedLog:
    """What `read_past` found, beside the relation `past` that it made."""

    events: int  # before the cutoff
    users: int  # with an event before the cutoff
    without_history: int  # users whose events all lie at the cutoff or after it
    rejected: dict[str, int]
    missing: list[str]  # columns that a text can tell of, and that the log lacks
    ignored: list[str]  # columns that the training log did not have
    read: list[str]  # what was found in reading it, in sentences
    doubts: list[str]  # sentences, see `data_prep.likeness`

    def notes(self) -> list[str]:
        """What a user should know of it, in sentences."""
        said = [f"left out {rows:,} row{'s' * (rows > 1)} with {why}" for why, rows in self.rejected.items() if rows]
        said += self.read
        if self.without_history:
            have = "user has" if self.without_history == 1 else "users have"
            said.append(f"{self.without_history:,} {have} no event before the cutoff and no score")
        if self.missing:
            said.append(f"warning: no column {', '.join(self.missing)}: taken as missing in every event")
        if self.ignored:
            said.append(f"columns that the model does not know are ignored: {', '.join(self.ignored)}")
        return said + self.doubts


def cutoff_of(serializer: EventSerializer, cutoff: datetime | date | str) -> datetime | None:
    """A moment in UTC, without a zone; None for LAST.

    Raises:
        InputError: It is none, or LAST where the model's cutoffs were dates.
    """
    if cutoff != LAST:
        return parse_cutoff(cutoff)
    if not serializer.features.moments:
        raise InputError(
            "cutoff: last is for models whose cutoffs were at events or in task.examples", "give a date or a moment"
        )
    return None


def as_sources(con: duckdb.DuckDBPyConnection, events: Any, timezone: str = "UTC") -> DataConfig:
    """The events of a caller as sources that `con` can read, without columns of names that EventScribe uses itself.

    Args:
        con: Where those in memory become a relation.
        events: A DataConfig; a path or glob; a DuckDB relation; an Arrow table, batch or reader; a pandas frame; or
            dicts in a list or a tuple.
        timezone: Of times that carry none; a DataConfig says its own.

    Raises:
        InputError: Nothing of the kind, no event, a column twice, or values of one that do not fit each other.
    """
    if isinstance(events, DataConfig):
        return events
    if isinstance(events, str | Path):
        return DataConfig([file_source(con, str(events), {})], timezone=timezone)
    read = in_memory(events)
    names = read.schema.names
    refuse_twice(names, "events")
    if not names or (isinstance(read, pa.Table) and not len(read)):
        raise InputError("events: there is none", "give at least one with user_id, event_time and event_type")
    con.register(GIVEN, read)
    kept = ", ".join(identifier(name) for name in names if name.lower() not in RESERVED)
    return DataConfig([Source(sql=f"SELECT {kept or '*'} FROM {GIVEN}")], timezone=timezone)


def file_source(con: duckdb.DuckDBPyConnection, path: str, columns: dict[str, str], **more: Any) -> Source:
    """A source whose columns are called as in the files, but for some.

    Args:
        con: Looks into the files.
        path: A file or a glob.
        columns: Name -> DuckDB expression over the files' columns.
        more: Of the Source.
    """
    used = {name.lower() for name in (*columns, *columns.values(), *RESERVED)}
    with _called("events"):
        own = {name: identifier(name) for name in file_columns(con, path) if name.lower() not in used}
    return Source(path=path, columns=columns | own, **more)


def read_past(
    con: duckdb.DuckDBPyConnection,
    events: Any,
    serializer: EventSerializer,
    cutoff: datetime | None,
    called: str = "events",
    folder: Path | None = None,
    task: Task | None = None,
    users: Any = None,
) -> ServedLog:
    """Make the table `log`, and of its events until the cutoff the view `past`, with the columns of training.

    Args:
        con: Where they are made. It is locked then, so that no SQL of a model's folder reaches a file (see `confined`).
        events: See `as_sources`.
        serializer: Knows the columns of training.
        cutoff: By `cutoff_of`.
        called: What the events are called in messages; "data.sources[0]" for those of a config.
        folder: The only one where `con` may read and write from then on.
        task: The model's task.json: its time zone counts, and its log is compared. None takes UTC and compares nothing.
        users: See `give_users`.

    Raises:
        InputError: See `as_sources`, `read_events` and `give_users`; or there is no event before the cutoff.
    """
    zone = trained_zone(task) if task else None
    with _called(called):
        data = as_sources(con, events, zone or "UTC")
        with confined(con, data, *filter(None, [folder])):
            log = read_events(con, data, types=serializer.features.types)
    said = give_users(con, serializer.attributes, data, users)
    past = past_span(con, serializer, cutoff).to_pylist()[0]
    return _served(con, data, log, past, serializer, cutoff, task, said)


def read_past_on_spark(
    engine: SparkLog,
    serializer: EventSerializer,
    cutoff: datetime | None,
    task: Task,
    folder: Path,
    part_users: int,
    called: str,
) -> ServedLog:
    """Read a log on Spark as `read_past` does on one machine, and hand it out in parts of about so many users.

    Where it has more than SAMPLE_USERS users, the log is compared with that of training on about as many.

    Args:
        engine: Its connection gets the events of these users as the table `log`, the view `past`, and what the model
            reads of users as `RELATION`.
        serializer: Of the model.
        cutoff: By `cutoff_of`.
        task: The model's task.json.
        folder: Where the connection may write.
        part_users: Users of a part.
        called: See `read_past`.

    Raises:
        InputError: See `read_past`.
    """
    con, data = engine.con, engine.config
    with _called(called), confined(con, data, folder):
        log = engine.read(folder)
    said, condition = give_users(con, serializer.attributes, data, None), sample_condition(log)
    engine.sample(condition)
    con.execute("DROP TABLE log; ALTER TABLE rows RENAME TO log")
    past_span(con, serializer, cutoff)
    spans = pa.concat_tables(engine.tables(partial(past_span, serializer=serializer, cutoff=cutoff))).to_pydict()
    past = {"first": min(filter(None, spans["first"]), default=None)}
    past |= {"last": max(filter(None, spans["last"]), default=None)}
    past |= {name: sum(spans[name]) for name in ("events", "users")}
    if condition is not None:
        said.append("what follows was found on a sample of the users")
    served = _served(con, data, log, past, serializer, cutoff, task, said)
    engine.part(_parts(served, part_users))
    return served


def past_span(con: duckdb.DuckDBPyConnection, serializer: EventSerializer, cutoff: datetime | None) -> pa.Table:
    """Make the view `past` of the table `log`, see `read_past`; returns first, last, events and users in one row."""
    _make_past(con, serializer, cutoff)
    with refused("events", FIT):
        return con.sql(
            """SELECT min(event_time) AS first, max(event_time) AS last, count(*) AS events,
                      count(DISTINCT user_id) AS users FROM past"""
        ).to_arrow_table()


def _make_past(con: duckdb.DuckDBPyConnection, serializer: EventSerializer, cutoff: datetime | None) -> None:
    until = f"WHERE event_time < {timestamp(serializer.past_of(cutoff))}" if cutoff else ""
    casts = serializer.casts(column_types(con, "log"))
    with refused("events", FIT):
        execute_one(con, f"CREATE TEMP VIEW past AS SELECT {casts} FROM log {until}")


def _served(
    con: duckdb.DuckDBPyConnection,
    data: DataConfig,
    log: EventLog,
    past: dict[str, Any],
    serializer: EventSerializer,
    cutoff: datetime | None,
    task: Task | None,
    said: list[str],
) -> ServedLog:
    """What there is to say of a log, given the row of `past_span`."""
    if not past["events"] and cutoff:
        raise InputError(
            f"no event lies before the cutoff {show(cutoff)}, as the log begins on {log.first:%Y-%m-%d}",
            "give a later cutoff",
        )
    columns = column_types(con, "log")
    has, known = ({name.lower() for name in names} for names in (columns, serializer.types))
    missing = [name for name in serializer.columns() if name.lower() not in has]
    ignored = [name for name in columns if name.lower() not in known]
    span, zone = tuple(past.values()), trained_zone(task) if task else None
    with refused("events", FIT):
        seen = cutoff or log.last
        assert seen is not None, "as a log without an event is refused"
        said += users_without(con, "past") if serializer.attributes else []
        said += [*_zone_notes(data.timezone, zone), *doubts(con, span, serializer, task, seen)] if task else []
    without = log.users - past["users"]
    return ServedLog(past["events"], past["users"], without, log.rejected, missing, ignored, log.notes, said)


def trained_zone(task: Task) -> str | None:
    """data.timezone of a model's training, by its task.json; None where an older version did not keep it."""
    return task["log"].get("timezone")


def _zone_notes(used: str, trained: str | None) -> list[str]:
    if trained is None:
        return [
            f"warning: the model was made before its log's time zone and days were kept with it: times without a zone "
            f"are taken in {used}, and less of the log is compared; prepare and train again"
        ]
    if used != trained:
        return [f"warning: times without a zone are taken in {used}, and in training they were in {trained}"]
    return [] if used == "UTC" else [f"times without a zone are taken in {used}, as in training"]


def write_past(con: duckdb.DuckDBPyConnection, log: ServedLog, folder: Path, part_users: int) -> dict[int, int]:
    """Write `past` into the new folder in parts of about so many users, and drop `log`; see `write_parts`."""
    with refused("events", FIT):
        users = write_parts(con, "SELECT * FROM past", _parts(log, part_users), folder)
    con.execute("DROP VIEW past; DROP TABLE log")
    return users


def _parts(log: ServedLog, part_users: int) -> int:
    needed = max(log.users / part_users, number_of_parts(log.events), 1)
    return min(1 << (int(-(-needed // 1)) - 1).bit_length(), 65_536)


def part_texts(
    con: duckdb.DuckDBPyConnection,
    serializer: EventSerializer,
    folder: Path,
    part: int,
    cutoff: datetime | None,
    whom: Whom,
) -> pa.Table:
    """user_id, cutoff and text of the users of a part that `write_past` wrote, in the order of their ids."""
    # Cast again: Parquet has no type for some, such as HUGEINT.
    execute_one(
        con,
        f"CREATE OR REPLACE TEMP VIEW rows AS SELECT {serializer.casts(serializer.types)} FROM "
        f"({read_part(folder, part)})",
    )
    with refused("events", FIT):
        return serializer.examples(con, cutoff, whom).select(["user_id", "cutoff", "text"])


def log_texts(
    con: duckdb.DuckDBPyConnection, serializer: EventSerializer, cutoff: datetime | None, whom: Whom
) -> pa.Table:
    """user_id, cutoff and text of the users in the table `log` of a part on Spark, in the order of their ids."""
    _make_past(con, serializer, cutoff)
    con.execute("CREATE TEMP VIEW rows AS FROM past")
    with refused("events", FIT):
        return serializer.examples(con, cutoff, whom).select(["user_id", "cutoff", "text"])


def past_texts(
    con: duckdb.DuckDBPyConnection,
    log: ServedLog,
    serializer: EventSerializer,
    folder: Path,
    cutoff: datetime | None,
    whom: Whom,
) -> Iterator[pa.Table]:
    """user_id, cutoff and text of the users in `past`, part by part through the folder where they are many."""
    if log.users <= 2 * PART_USERS and number_of_parts(log.events) == 1:
        con.execute("CREATE TEMP VIEW rows AS FROM past")
        with refused("events", FIT):
            yield serializer.examples(con, cutoff, whom).select(["user_id", "cutoff", "text"])
        return
    for part in write_past(con, log, folder / "log", PART_USERS):
        yield part_texts(con, serializer, folder / "log", part, cutoff, whom)


@contextmanager
def _called(name: str) -> Iterator[None]:
    """Messages about the only source say this name, and of its path and SQL no more than that."""
    try:
        yield
    except InputError as error:
        if name.startswith("data.") or not error.setting.startswith("data.sources"):
            raise
        part = error.setting.removeprefix("data.sources").removeprefix("[0]")
        raise error.called(name if part in (".path", ".sql") else name + part) from error
