"""The users with the highest scores as a CSV: the list that a shop contacts."""

import os
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from data_prep import InputError
from data_prep.connections import connect
from finetune.evaluation.contact import contacted

COLUMNS = ("rank", "user_id", "score")
# Ids that a spreadsheet computes: they begin so, and are no plain numbers.
FORMULA = r"regexp_matches(user_id, '^[-=+@\t\r]') AND NOT regexp_full_match(user_id, '[-+]?[0-9]+(\.[0-9]+)?')"


def refuse_share(share: float) -> None:
    """InputError where a share of the users is none, or is of nobody."""
    if not 0 < share <= 1:
        raise InputError(f"--top {share:g} is no share of the users", "give one above 0 and up to 1", setting="--top")


def refuse_lists(task: str) -> None:
    """InputError where a user has a score for each class; the task is that of the model's objective. Of survival the
    score by the longest horizon counts."""
    if task not in ("binary", "value", "survival"):
        raise InputError(
            "--top needs one score a user, and this model gives one for each class", "drop it", setting="--top"
        )


def top_file(output: Path) -> Path:
    """Where the list lies beside the scores."""
    return output.with_name(f"{output.stem}.top.csv")


def refuse_other(path: Path) -> None:
    """InputError where the place of the list, which new scores clear, holds something else than a list of scores."""
    if not path.exists():
        return
    with suppress(OSError, UnicodeDecodeError), path.open(encoding="utf-8") as file:
        if file.readline().strip() == ",".join(COLUMNS):
            return
    raise InputError(f"output: {path} is there and no list of scores", "move it or choose another --output")


def write_top(scores: Path, share: float, work: Path, memory_limit: str) -> str:
    """Write `top_file`: rank, user_id and score, the highest score first, equal ones by user_id.

    They are as many as the report contacts of so many users. An id that a spreadsheet would take for a formula has an
    apostrophe before it (OWASP: CSV Injection), which is told.

    Args:
        scores: A Parquet file with one score a user, or a list of them of which the last one counts.
        share: Of its users.
        work: A folder for what is unfinished.
        memory_limit: DuckDB's.

    Returns:
        What it wrote, in a line.
    """
    users = int(contacted(share, pq.read_metadata(scores).num_rows))
    score = "score[-1]" if pa.types.is_list(pq.read_schema(scores).field("score").type) else "score"
    query = f"""SELECT row_number() OVER (ORDER BY score DESC, user_id) AS rank, user_id, score
        FROM (SELECT user_id, {score} AS score FROM scores ORDER BY score DESC, user_id LIMIT {users}) ORDER BY rank"""
    safe = f"SELECT * REPLACE (if({FORMULA}, chr(39) || user_id, user_id) AS user_id) FROM ({query}) ORDER BY rank"
    with connect(memory_limit, work / "spill") as con:
        con.register("scores", ds.dataset(scores))  # by pyarrow, as DuckDB takes * and [ in a name for a glob
        con.sql(safe).write_csv(str(work / "top.csv"))
        strange = con.execute(f"SELECT count(*) FROM ({query}) WHERE {FORMULA}").fetchall()[0][0]
    os.replace(work / "top.csv", top_file(scores))
    whom = "user with the highest score" if users == 1 else "users with the highest scores"
    said = f"{top_file(scores)}: the {users:,} {whom}"
    if strange:
        said += f"; {strange:,} of the ids, which a spreadsheet would compute, have an apostrophe before them"
    return said
