"""From a simulated log to labelled texts: by EventScribe, and by a query for DuckDB written by hand."""

import subprocess
import sys
from datetime import datetime, timedelta
from itertools import chain
from pathlib import Path

START, DAYS = datetime(2024, 1, 1), 180
HORIZON = timedelta(7)
MAX_EVENTS = 100
EVENTSCRIBE = ("data_prep.prepare", "pandas")  # which pyarrow imports at its first array, where it is installed
PRICE_EDGES = (8.0, 10.9, 13.5, 16.3, 19.5, 23.2, 27.8, 34.3, 46.0)  # about the deciles of a simulated log
QUANTITY_EDGES = (2, 3, 4)

Cutoffs = dict[str, list[datetime]]  # split -> its cutoffs


def spread(cutoffs: int) -> Cutoffs:
    """Weekly cutoffs until the log's last label window: the last is the test, the one before it the validation."""
    moments = [START + timedelta(DAYS) - i * HORIZON for i in range(cutoffs, 0, -1)]
    return {"train": moments[:-2], "validation": moments[-2:-1], "test": moments[-1:]}


def simulated(folder: Path, events: int, users: int) -> Path:
    """The log with so many events, made by scripts/simulate.py where it is missing."""
    made = folder / f"{events}-events-{users}-users"
    script = Path(__file__).parents[1] / "simulate.py"
    if not (made / "events.parquet").is_file():
        sizes = f"--events={events} --users={users} --days={DAYS} --start={START:%Y-%m-%d}".split()
        done = subprocess.run([sys.executable, script, f"--folder={made}", *sizes], stdout=subprocess.DEVNULL)
        if done.returncode:
            sys.exit(done.returncode)
    return made / "events.parquet"


def eventscribe(
    log: Path, output: Path, cutoffs: Cutoffs, memory_limit: str | None = None, moments: bool = False
) -> int:
    """The whole step: validated events, labels, all default aggregates, fitted bins, texts, Parquet, manifest.

    With `moments` a user has about as many examples, right after views, whose headers tell of the session, too.
    """
    from data_prep import config
    from data_prep.prepare import prepare
    from data_prep.prepared import read_manifest

    asked: dict[str, list[str] | config.CutoffRange] = {
        split: list(map(str, found)) for split, found in cutoffs.items()
    }
    if moments:
        asked = {
            split: config.CutoffRange(*map(str, between), at="event_type = 'view'", per_user=count)
            for split, (between, count) in _ranges(sum(map(len, cutoffs.values()))).items()
        }
    made = prepare(
        "benchmark",
        config.DataConfig([config.Source(path=str(log))], folder=str(output), memory_limit=memory_limit),
        config.TaskConfig(
            config.Label(kind="exists", where="event_type = 'purchase'", horizon=f"{HORIZON.days} days"),
            config.Population(within=f"{DAYS} days"),  # everybody with a history, as in the other jobs
            config.Cutoffs(**asked),
        ),
        config.TextConfig(
            fields={
                "event_type": config.TextField(top=20),
                "category": config.TextField(top=200),
                "price": config.TextField(bins=len(PRICE_EDGES) + 1),
                "quantity": config.TextField(bins=len(QUANTITY_EDGES) + 1),
            },
            max_events=MAX_EVENTS,
            session_gap="30 minutes" if moments else None,
        ),
    )
    return sum(counts["rows"] for counts in read_manifest(made)["splits"].values())


def _ranges(cutoffs: int) -> dict[str, tuple[tuple[datetime, datetime], int]]:
    """Split -> the first and the last moment of it, and how many a user has at most; later splits have a week each."""
    ends = [START + timedelta(DAYS) - i * HORIZON for i in range(6, 0, -1)]
    counts = cutoffs, 1, 1  # many users have no view in the week of the last two
    splits = ((START, ends[0]), (ends[1], ends[2]), (ends[3], ends[4]))
    return dict(zip(("train", "validation", "test"), zip(splits, counts, strict=True), strict=True))


def hand_written(log: Path, output: Path, cutoffs: Cutoffs) -> int:
    """The query below, run once for each cutoff in a new connection, as a script for one cutoff would."""
    import duckdb

    output.mkdir()
    rows = 0
    for cutoff in chain(*cutoffs.values()):
        with duckdb.connect() as con:
            con.execute("SET preserve_insertion_order = false")
            query = f"COPY ({hand_written_query(log, cutoff)}) TO '{output}/{cutoff:%Y-%m-%d}.parquet'"
            rows += con.execute(f"{query} (FORMAT parquet, COMPRESSION zstd)").fetchall()[0][0]
    return rows


def hand_written_query(log: Path, cutoff: datetime) -> str:
    """A SELECT of user_id and the text of the newest events before the cutoff, newest first, with given bins.

    The fastest of six ways that were tried, among them string_agg over window functions and lists of structs. It has
    no validation, no order of events at the same moment, no labels, aggregates, header and learned bins.
    """
    price = " ".join(f"WHEN price < {edge} THEN ' price={i}'" for i, edge in enumerate(PRICE_EDGES))
    quantity = " ".join(f"WHEN quantity < {edge} THEN ' quantity={i}'" for i, edge in enumerate(QUANTITY_EDGES))
    gap = "CAST((epoch_us(event_time) - epoch_us(previous)) // 86400000000 AS VARCHAR)"
    return f"""
        SELECT user_id, array_to_string(list(
                   'gap=' || coalesce({gap}, 'first') || ' event_type=' || event_type || ' category=' || category
                   || CASE {price} ELSE ' price={len(PRICE_EDGES)}' END
                   || CASE WHEN quantity IS NULL THEN '' {quantity} ELSE ' quantity={len(QUANTITY_EDGES)}' END
                   ORDER BY event_time DESC)[:{MAX_EVENTS}], ' ') AS text
        FROM (SELECT *, lag(event_time) OVER (PARTITION BY user_id ORDER BY event_time) AS previous
              FROM '{log}' WHERE event_time < TIMESTAMP '{cutoff}')
        GROUP BY user_id"""
