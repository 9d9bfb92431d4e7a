"""What a training log is like, kept with the model, and doubts about a log that is to be scored with it."""

from datetime import datetime, timedelta
from itertools import pairwise

import duckdb

from data_prep.event_log import Count
from data_prep.facts import Task
from data_prep.made_up import shown_columns, words_of
from data_prep.moments import parse_duration, show
from data_prep.serializer import EventSerializer
from data_prep.sql import identifier, timestamp, word

DAY = timedelta(days=1)
MANY_USERS = 100  # of fewer, the newest and the oldest event say little of the whole log
SOME_USERS = 20  # of fewer, all may have come lately
ROWS = 20_000  # about so many events are looked at for values that are known
RARE = 0.01  # a column that fewer of a type's events have is taken for a slip


def log_facts(
    con: duckdb.DuckDBPyConnection, count: Count, serializer: EventSerializer, before: datetime, timezone: str
) -> dict:
    """What the manifest and the model keep of the training log, for `doubts` and for events that are made up.

    Args:
        con: Has the relation `rows` of events.
        count: Counts over the relation `log` of all events.
        serializer: Fitted on it.
        before: The last training cutoff.
        timezone: Of times that carry none.

    Returns:
        timezone; silent_days, the most days in a row without an event; known, column -> share, see
        `EventSerializer.known`; and has, event type -> the columns of which a text tells that its events have. It names
        the types that the serializer knows, so that none is of a few users.
    """
    days = sorted(count("SELECT DISTINCT CAST(event_time AS DATE), 1 FROM log"))
    past = f"(SELECT * FROM rows WHERE event_time < {timestamp(before)})"
    return {
        "timezone": timezone,
        "silent_days": max(((later - earlier) // DAY - 1 for earlier, later in pairwise(days)), default=0),
        "known": serializer.known(con, _some(past, con.execute(f"SELECT count(*) FROM {past}").fetchall()[0][0])),
        "has": _columns_by_type(con, past, serializer),
    }


def doubts(
    con: duckdb.DuckDBPyConnection,
    span: tuple[datetime, datetime, int, int],
    serializer: EventSerializer,
    task: Task,
    cutoff: datetime,
) -> list[str]:
    """Sentences about what makes the scores of a log worth less than the model's figures say.

    Args:
        con: Has the relation `past` of the events before the cutoff, of which there is one at least.
        span: The first and the last of these events, their number and that of their users.
        serializer: Of the model.
        task: The model's task.json; older ones lack the facts, and less is compared.
        cutoff: In UTC, without a zone.
    """
    first, last, events, users = span
    trained, found = task["log"], []
    within = task["task"]["population"]["within"]
    silent = trained.get("silent_days")
    empty = (cutoff - last.replace(hour=0, minute=0, second=0, microsecond=0) - DAY) // DAY
    ends = f"warning: the log's last event before the cutoff is of {show(last)}"
    if within and cutoff - last > parse_duration(within, "task.population.within"):
        found.append(
            f"{ends}, further back than the {within} in which the users that the model was trained on have one; take a "
            f"newer log or an earlier cutoff"
        )
    elif silent is not None and users >= MANY_USERS and empty > silent:
        found.append(
            f"{ends}, {empty} whole day{'s' * (empty > 1)} without any event, and the training log never had more than "
            f"{silent}; is this one complete?"
        )
    cutoffs = task["splits"]["train"]["cutoffs"]
    learned = datetime.fromisoformat(cutoffs[len(cutoffs) // 2]) - datetime.fromisoformat(trained["first"])
    if users >= SOME_USERS and cutoff - first < learned / 2:
        found.append(
            f"warning: the log begins {(cutoff - first) / DAY:.0f} days before the cutoff, and a typical history that "
            f"the model was trained on could reach {learned / DAY:.0f} days back; give the earlier events too"
        )
    for name, share in serializer.known(con, _some("past", events)).items():
        before = trained.get("known", {}).get(name, 1.0)
        if share < min(0.5, 0.75 * before):
            found.append(
                f"warning: {1 - share:.0%} of the events' values of {name} are none that the model knows"
                + (f" ({1 - before:.0%} in training)" if "known" in trained else "")
            )
    return found


def _columns_by_type(con: duckdb.DuckDBPyConnection, events: str, serializer: EventSerializer) -> dict[str, list[str]]:
    """See `has` of `log_facts`; `events` is SQL of a relation. A blank text, an empty list and NaN are no values."""
    columns = [name for name in shown_columns(serializer) if name != "event_type"]
    counts = ", ".join(["count(*)", *(f"count({_value(name, serializer.types[name])})" for name in columns)])
    found = {name: [0] * (len(columns) + 1) for name in words_of(serializer, "event_type")}
    by_type = f"SELECT {word('event_type')}, {counts} FROM {events} GROUP BY event_type"  # so that few are made words
    for name, *counted in con.execute(by_type).fetchall():
        if name in found:
            found[name] = [a + b for a, b in zip(found[name], counted, strict=True)]
    return {
        name: [column for column, n in zip(columns, counted, strict=True) if n >= RARE * rows]
        for name, (rows, *counted) in found.items()
        if rows
    }


def _value(name: str, kind: str) -> str:
    """SQL of something that is NULL where an event has no value in a column of a DuckDB type."""
    if kind.endswith("[]"):
        return f"nullif(len({identifier(name)}), 0)"
    if kind == "VARCHAR":
        return f"nullif(trim({identifier(name)}), '')"
    return f"nullif({identifier(name)}, 'NaN')" if kind in ("FLOAT", "DOUBLE") else identifier(name)


def _some(events: str, rows: int) -> str:
    """SQL of the events of some users, always the same ones; of all users where there are few rows."""
    limit = 65536 * ROWS // max(rows, 1) + 1
    return events if rows <= ROWS else f"(SELECT * FROM {events} WHERE hash(user_id) % 65536 < {limit})"
