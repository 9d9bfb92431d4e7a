"""Rows that cannot be used: why, where they are kept, and the share of them above which reading stops."""

from pathlib import Path
from textwrap import shorten

import duckdb
import pyarrow.parquet as pq

from data_prep import InputError
from data_prep.config import DataConfig
from data_prep.contents import TO_UTF8
from data_prep.log_files import OPEN_QUOTE
from data_prep.sql import quote
from data_prep.times import ANY_ORDER, STRANGE_ZONE, date_remedy, is_wrong, span_of_belief
from data_prep.users import NOBODY

UNPARSED, BROKEN = "a time that does not parse", "a line that cannot be read"
REJECTED = {  # why a row is left out -> SQL condition; the first that holds counts
    "no user": "given_user IS NULL",
    "a user id that stands for nobody (nan, None, null)": NOBODY,
    "a user id that is a fraction or a rounded number": "user_id IS NULL",
    UNPARSED: "CASE WHEN event_time IS NULL THEN trim(CAST(given_time AS VARCHAR)) <> '' END",
    "no time": "event_time IS NULL",
    "a time outside 1900-2199": "coalesce(year(event_time) NOT BETWEEN 1900 AND 2199, true)",  # infinity, 9999-12-31
    "a time in another unit or before data.since": "event_time < {since}",
    "a time after data.until": "event_time >= {until}",
    "no event type": "event_type IS NULL",
}
REMEDIES = {  # what to do about the most frequent of them
    "a user id that is a fraction or a rounded number": "write ids as text or whole numbers, as floats above 2^53 have "
    "merged users already",
    "a time outside 1900-2199": "set time_unit to the unit that event_time is in",
    "a time in another unit or before data.since": "set time_unit to the unit that event_time is in, or data.since to "
    "an earlier date",
    "a time after data.until": "set data.until where the log may reach beyond today",
}
MEND = "mend the source, leave such rows out by SQL, or raise max_rejected"


def reason_sql(config: DataConfig) -> str:
    """SQL of why a row is left out, NULL where it is not; over given_user, given_time and the columns of the log."""
    since, until = span_of_belief(config.since, config.until)
    reasons = {why: sql.format(since=since, until=until) for why, sql in REJECTED.items()}
    return "CASE " + " ".join(f"WHEN {sql} THEN {quote(why)}" for why, sql in reasons.items()) + " END"


def detail_sql(config: DataConfig) -> str:
    """SQL of the value that made a row be left out, over rejected_because; it names no user who has a pseudonym."""
    detail = "WHEN rejected_because LIKE 'a time%'"
    if config.pseudonymize is not None:  # what stands in the place of a time may be the user's name
        detail += f" AND regexp_full_match(trim(CAST(given_time AS VARCHAR)), {quote(ANY_ORDER)})"
    detail += " THEN concat('event_time ', trim(CAST(given_time AS VARCHAR)))"
    if config.pseudonymize is None:
        detail += " WHEN rejected_because LIKE 'a user id%' THEN concat('user_id ', given_user)"
    return f"CASE {detail} END"


def move_rejected(con: duckdb.DuckDBPyConnection, config: DataConfig, rows: int, folder: Path | None) -> dict[str, int]:
    """Move the rows with a reason from `log` to rejected.parquet; returns their number by reason.

    Raises:
        InputError: Too large a share of all rows.
    """
    found = con.execute(
        """SELECT rejected_because, count(*), min(rejected_detail) FROM log
           WHERE rejected_because IS NOT NULL GROUP BY ALL ORDER BY ALL"""
    ).fetchall()
    rejected = sum(count for _, count, _ in found)
    if rejected > config.max_rejected * rows:
        reasons = ", ".join(
            f"{n:,} with {why}" + f" (such as {shorten(detail or '', 200, placeholder=' ...')})" * bool(detail)
            for why, n, detail in found
        )
        most = max(found, key=lambda reason: reason[1])[0]
        remedy = _date_remedy(con, config) if most == UNPARSED else REMEDIES.get(most)
        if most == BROKEN and any(why == BROKEN and "nicode" in (detail or "") for why, _, detail in found):
            remedy = TO_UTF8.format("LATIN1")
        raise InputError(
            f"{rejected:,} of {rows:,} rows cannot be used, a larger share than max_rejected "
            f"{config.max_rejected:g}: {reasons}",
            f"{f'{remedy}; else ' if remedy else ''}{MEND}",
            setting="data.sources",
        )
    if rejected:
        if folder is not None:
            table = con.sql("SELECT * FROM log WHERE rejected_because IS NOT NULL ORDER BY ALL").to_arrow_table()
            pq.write_table(table, folder / "rejected.parquet", compression="zstd")
        con.execute("DELETE FROM log WHERE rejected_because IS NOT NULL")
    con.execute("ALTER TABLE log DROP rejected_because; ALTER TABLE log DROP rejected_detail")
    counts = {why: count for why, count, _ in found}
    return {why: counts.get(why, 0) for why in (*REJECTED, BROKEN)}


def _date_remedy(con: duckdb.DuckDBPyConnection, config: DataConfig) -> str:
    """What to do about times that do not parse, given the first of them that may be a date or has a strange zone."""
    found = con.execute(
        f"""SELECT arg_min(detail, rowid) FROM (
                SELECT rowid, rejected_detail.substr({len("event_time ") + 1}) AS detail FROM log
                WHERE rejected_because = {quote(UNPARSED)})
            WHERE regexp_full_match(detail, {quote(ANY_ORDER)}) OR {is_wrong(STRANGE_ZONE, "detail")}"""
    ).fetchall()[0][0]
    # A source with a unit has no format.
    formats = [source.time_format or (None if source.time_unit else config.time_format) for source in config.sources]
    known = [time_format for time_format in formats if time_format]
    return date_remedy(found or "", known if len(known) == len(formats) else [])


def insert_broken_lines(con: duckdb.DuckDBPyConnection, config: DataConfig) -> None:
    """Add the lines of CSV files that DuckDB skipped, as rows with a reason and nothing else."""
    if not con.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'reject_errors'").fetchall()[0][0]:
        return
    swallowed = con.execute(
        """SELECT file_path, line FROM reject_errors JOIN reject_scans USING (scan_id, file_id)
           WHERE error_type = 'UNQUOTED VALUE' AND regexp_matches(csv_line, '\\n.') ORDER BY ALL"""
    ).fetchall()
    if swallowed:
        raise InputError(OPEN_QUOTE.format(*swallowed[0]), setting="data.sources")
    # Of a column left out in reading the message names another one; and it quotes the line, which has the user's name.
    message = (
        r"""regexp_replace(split_part(error_message, chr(10), 1), '^Error when converting column "[^"]*"\. ', '')"""
    )
    why = "''" if config.pseudonymize else f"concat(': ', min({message}))"
    con.execute(
        f"""INSERT INTO log BY NAME
            SELECT {quote(BROKEN)} AS rejected_because, concat(file_path, ', line ', line, {why}) AS rejected_detail
            FROM reject_errors JOIN reject_scans USING (scan_id, file_id) GROUP BY scan_id, file_path, line"""
    )
    con.execute("DROP TABLE reject_errors; DROP TABLE reject_scans")
