"""What would change a score: the same user with another history, written by the serializer and read by the model."""

from datetime import datetime, timedelta

import duckdb

from data_prep.moments import show
from data_prep.serializer import EventSerializer
from data_prep.sql import condition, timestamp
from finetune.serving.facts import target_noun

DAY, WEEK = timedelta(days=1), timedelta(days=7)


def changed_texts(con: duckdb.DuckDBPyConnection, serializer: EventSerializer, cutoff: datetime) -> dict[str, str]:
    """What would be otherwise -> the text that the user, whose events are the table `rows`, would have then.

    One more target event, a copy of the last one, a day before the cutoff; the history without the last target event;
    a week more without any event, where cutoffs are dates, as else they are right after an event. The first two are
    left out where there is no target event, the second one also where nothing else is left.
    """
    noun = target_noun(serializer)
    con.execute("CREATE OR REPLACE TEMP TABLE own AS FROM rows")
    con.execute(
        f"""CREATE OR REPLACE TEMP TABLE newest AS
            FROM own WHERE {condition(serializer.features.target)} = 1 ORDER BY ALL DESC LIMIT 1"""
    )
    events, target = (con.execute(f"SELECT count(*) FROM {name}").fetchall()[0][0] for name in ("own", "newest"))
    changes = {}
    if not serializer.features.moments:
        changes[f"A week more without any event, until {show(cutoff + WEEK)}"] = ("FROM own", cutoff + WEEK)
    if target:
        moved = f"SELECT * REPLACE ({timestamp(cutoff - DAY)} AS event_time) FROM newest"
        more = f"One more {noun}, like the last one, on {show(cutoff - DAY)}"
        changes[more] = (f"FROM own UNION ALL {moved}", cutoff)
    if target and events > 1:
        changes[f"Without the last {noun}"] = ("FROM own EXCEPT ALL FROM newest", cutoff)
    found = {}
    for change, (rows, moment) in changes.items():
        con.execute(f"CREATE OR REPLACE TEMP TABLE rows AS {rows}")
        found[change] = serializer.examples(con, moment)["text"][0].as_py()
    con.execute("CREATE OR REPLACE TEMP TABLE rows AS FROM own")
    return found
