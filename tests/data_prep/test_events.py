import gzip
import hmac
import json
import math
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep import InputError
from data_prep.config import DataConfig, Source, TextField
from data_prep.connections import connect
from data_prep.event_log import EventLog
from data_prep.events import read_events
from data_prep.prepare import prepare
from data_prep.sources import expand, source_files
from data_prep.users import key_mark, standing_out


def read(data: DataConfig, folder: Path | None = None) -> tuple[EventLog, list[dict]]:
    """The log and the rows of the table `log`, by user, time, type and fields."""
    with connect() as con:
        log = read_events(con, data, folder)
        found = con.execute("SELECT * FROM log ORDER BY ALL")
        names = [column[0] for column in found.description]
        return log, [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def from_sql(*queries: str, **changes: object) -> DataConfig:
    return DataConfig(**({"sources": [Source(sql=query) for query in queries], "max_rejected": 0.9} | changes))


def message(data: DataConfig, folder: Path | None = None) -> str:
    """The refusal, which is one sentence on one line that names the source and ends with a remedy."""
    with pytest.raises(InputError) as error:
        read(data, folder)
    text = str(error.value)
    assert "\n" not in text
    assert not re.search(r"LINE \d|Error:|Candidate|Possible|SELECT [*]", text)
    assert text.startswith("data.")
    assert not text.endswith(".")
    return text


def counted(log: EventLog) -> dict[str, int]:
    """The rejected rows by reason, without the reasons that no row has."""
    return {why: count for why, count in log.rejected.items() if count}


ONE = "SELECT 1 AS user_id, TIMESTAMP '2024-01-01' AS event_time, 'view' AS event_type"


# What can be read


def test_csv_gzipped_json_lines_parquet_and_sql_give_the_same_events(shop):
    rows = [shop.event("a", 0.5, "view", value=1.5), shop.event("b", 1, "buy", value=None)]
    parquet = shop.write(rows)
    folder = parquet.parent
    lines = [{**row, "event_time": str(row["event_time"])} for row in rows]
    (folder / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    csv = "user_id,event_time,event_type,value\na,2024-01-01 12:00:00,view,1.5\nb,2024-01-02 00:00:00,buy,\n"
    (folder / "log.csv").write_text(csv)
    with gzip.open(folder / "log.csv.gz", "wt") as file:
        file.write(csv)
    (folder / "log.tsv").write_text(csv.replace(",", "\t"))
    expected = read(from_sql(f"SELECT * FROM '{parquet}'"))
    assert len(expected[1]) == 2
    for name in ("log.parquet", "log.csv", "log.csv.gz", "log.tsv", "log.jsonl"):
        assert read(DataConfig([Source(path=str(folder / name))])) == expected


def test_columns_map_a_foreign_file(shop):
    folder = shop.folder()
    (folder / "log.csv").write_text("visitor,timestamp,event\n7,1704067200000,view\n")
    columns = {"user_id": "visitor", "event_time": "to_timestamp(timestamp / 1000)", "event_type": "upper(event)"}
    _, rows = read(DataConfig([Source(path=str(folder / "*.csv"), columns=columns)], timezone="Asia/Tokyo"))
    assert rows == [{"user_id": "7", "event_time": datetime(2024, 1, 1), "event_type": "VIEW"}]


def test_columns_may_be_written_in_capitals():
    log, rows = read(from_sql(ONE.replace("user_id", "USER_ID") + ", 2.5 AS Price", ONE + ", 3 AS price"))
    assert [row["user_id"] for row in rows] == ["1", "1"]
    assert list(log.fields) == ["Price"]


def test_sources_are_united_by_column_name_and_lists_and_nulls_survive():
    log, rows = read(from_sql(ONE + ", ['a', NULL] AS tags, NULL AS price", ONE + ", 2.5 AS price, NULL AS note"))
    assert sorted(((row["tags"], row["price"]) for row in rows), key=str) == [(None, 2.5), (["a", None], None)]
    assert log.fields["tags"] == "VARCHAR[]"
    assert log.fields["price"].startswith("DECIMAL")


def test_a_fields_type_does_not_depend_on_the_order_of_the_sources():
    whole, broken = ONE + ", 2 AS price", ONE + ", 2.5::DOUBLE AS price"
    assert read(from_sql(whole, broken))[0].fields == read(from_sql(broken, whole))[0].fields == {"price": "DOUBLE"}


def test_a_query_may_end_with_a_semicolon_or_a_comment():
    assert len(read(from_sql(ONE + ";\n", ONE + " -- don't stop"))[1]) == 2


def test_whole_numbers_held_as_floats_are_the_same_user_as_integers():
    _, rows = read(from_sql(ONE.replace("1 AS", "12346.0::DOUBLE AS"), ONE.replace("1 AS", "12346 AS")))
    assert [row["user_id"] for row in rows] == ["12346", "12346"]


def test_a_column_that_sql_names_twice_is_refused():
    for sql in (
        ONE.replace("1 AS user_id", "1 AS user_id, 2 AS User_ID"),
        f"SELECT a.*, b.* FROM ({ONE}) a, ({ONE}) b",
    ):
        assert "is there twice, as case does not count" in message(from_sql(sql))


def test_nan_is_no_value_and_infinity_stays(shop):
    _, rows = read(shop.data([shop.event("a", 0, value=math.nan), shop.event("a", 1, value=math.inf)]))
    assert [row["value"] for row in rows] == [None, math.inf]


def test_user_ids_of_any_script_are_kept_to_the_letter(shop):
    users = ["Ünï ço∂é", "用户'\"; DROP TABLE events; --", "😀", "a\nb"]
    _, rows = read(shop.data([shop.event(user, 0) for user in users]))
    assert {row["user_id"] for row in rows} == set(users)


# Rows that are left out


def test_rows_without_user_time_or_type_are_left_out_and_counted_by_reason(shop):
    rows = [shop.event("a", 0), shop.event("b", None), shop.event("c", 1, None), shop.event("d", 1, "  ")]
    rows += [shop.event(None, 0), shop.event("", None, None), shop.event("  ", 1)]
    log, kept = read(shop.data(rows, max_rejected=0.9))
    assert counted(log) == {"no user": 3, "no time": 1, "no event type": 2}
    assert [row["user_id"] for row in kept] == ["a"]
    assert (log.events, log.users) == (1, 1)


FRACTION, NOBODY = (
    "a user id that is a fraction or a rounded number",
    "a user id that stands for nobody (nan, None, null)",
)


@pytest.mark.parametrize(
    ("number", "why"),
    [
        ("'nan'::DOUBLE", "no user"),
        ("'inf'::DOUBLE", FRACTION),
        ("1e300::DOUBLE", FRACTION),
        ("2.5::DOUBLE", FRACTION),
        ("9007199254740992::DOUBLE", FRACTION),  # 2^53, which 2^53 + 1 becomes too
        ("-9007199254740994::DOUBLE", FRACTION),
        ("16777216::FLOAT", FRACTION),
        ("2.5::DECIMAL(5, 2)", FRACTION),
        ("'null'", NOBODY),
        ("' None '", NOBODY),
        ("'NaN'", NOBODY),
        ("'<NA>'", NOBODY),
        ("'\"null\"'::JSON", NOBODY),
    ],
)
def test_a_user_id_that_is_nobodys_or_a_rounded_number_is_rejected_with_the_reason(number, why):
    log, _ = read(from_sql(ONE, ONE.replace("1 AS", f"{number} AS")))
    assert counted(log) == {why: 1}
    if why == FRACTION:
        text = message(from_sql(ONE, ONE.replace("1 AS", f"{number} AS"), max_rejected=0.1))
        assert "(such as user_id " in text
        assert "write ids as text or whole numbers" in text


@pytest.mark.parametrize(
    ("number", "user"),
    [
        ("9007199254740991::DOUBLE", "9007199254740991"),
        ("16777215::FLOAT", "16777215"),
        ("-3.0::DOUBLE", "-3"),
        ("7.00::DECIMAL(5, 2)", "7"),
        ("18446744073709551615::UBIGINT", "18446744073709551615"),
        ("99999999999999999999999999999999999999::HUGEINT", "9" * 38),
        ("'12346.0'", "12346.0"),  # text keeps every letter
        ("'2.5'", "2.5"),
        ("'1e5'", "1e5"),
        ("'007'", "007"),
        ("'Nan Goldin'", "Nan Goldin"),
        ("'\"a1\"'::JSON", "a1"),
    ],
)
def test_a_user_id_of_any_type_is_kept_exactly(number, user):
    log, rows = read(from_sql(ONE.replace("1 AS", f"{number} AS")))
    assert [row["user_id"] for row in rows] == [user]
    assert any("12346.0 is read as the user 12346" in note for note in log.notes) == (
        "DOUBLE" in number or "FLOAT" in number
    )


def test_floats_of_one_file_beside_text_of_another_are_refused_and_not_made_other_users(shop):
    folder = shop.folder()
    times = pa.array([shop.day(0)])
    for name, users in (("1", pa.array([12346.0])), ("2", pa.array(["12346"]))):
        pq.write_table(
            pa.table({"user_id": users, "event_time": times, "event_type": ["view"]}), folder / f"{name}.parquet"
        )
    text = message(DataConfig([Source(path=str(folder / "*.parquet"))]))
    assert f"the user ids are floats in {folder / '1.parquet'} and text in other files" in text


@pytest.mark.parametrize("time", ["infinity", "-infinity", "9999-12-31", "0001-01-01", "20000-01-01"])
def test_times_that_only_stand_for_never_are_left_out(time):
    log, _ = read(from_sql(ONE, ONE.replace("2024-01-01", time)))
    assert counted(log) == {"a time outside 1900-2199": 1}
    assert log.last == datetime(2024, 1, 1)
    for kind, timezone in (("TIMESTAMPTZ", "UTC"), ("TIMESTAMP", "Europe/Berlin"), ("VARCHAR", "UTC"), ("DATE", "UTC")):
        log, _ = read(from_sql(ONE, ONE.replace("TIMESTAMP '2024-01-01'", f"{kind} '{time}'"), timezone=timezone))
        assert (log.events, sum(log.rejected.values())) == (1, 1)


def test_an_empty_string_is_no_time():
    log, _ = read(from_sql(*(ONE.replace("TIMESTAMP '2024-01-01'", text) for text in ("'2024-01-01'", "' '"))))
    assert log.rejected["no time"] == 1


def test_a_log_without_a_usable_event_is_refused():
    assert "check the paths" in message(from_sql(ONE.replace("'view'", "NULL"), max_rejected=1.0))
    assert "check the paths" in message(from_sql(ONE + " WHERE false"))


def test_a_log_whose_rows_are_all_rejected_is_refused_with_the_reasons():
    text = message(DataConfig([Source(sql=ONE.replace("SELECT 1 AS", "SELECT 'nan' AS"))], max_rejected=1.0))
    assert "gave no event with a user, a time and a type (rejected: 1 with a user id that stands for nobody" in text


def test_times_that_do_not_parse_are_counted_and_shown(shop):
    text = ONE.replace("TIMESTAMP '2024-01-01'", "unnest(['2024-01-01', '31.12.2024', 'soon'])")
    log, rows = read(from_sql(text))
    assert counted(log) == {"a time that does not parse": 2}
    assert len(rows) == 1
    assert "2 with a time that does not parse (such as event_time 31.12.2024)" in message(
        from_sql(text, max_rejected=0.5)
    )


def test_rejected_rows_are_kept_with_their_reason(shop):
    rows = [shop.event("a", 0, value=1.0), shop.event("b", None, value=2.0), shop.event("", 1, None, value=3.0)]
    folder = shop.folder()
    read(shop.data(rows, max_rejected=0.9), folder)
    found = pq.read_table(folder / "rejected.parquet").to_pylist()
    assert [(row["rejected_because"], row["user_id"], row["value"]) for row in found] == [
        ("no time", "b", 2.0),
        ("no user", None, 3.0),
    ]
    text = ONE.replace("TIMESTAMP '2024-01-01'", "unnest(['2024-01-01', 'soon'])")
    read(from_sql(text), folder)
    found = pq.read_table(folder / "rejected.parquet").to_pylist()
    assert [(row["user_id"], row["rejected_detail"]) for row in found] == [("1", "event_time soon")]


def test_nothing_is_written_where_no_row_is_rejected(shop):
    folder = shop.folder()
    read(from_sql(ONE, max_rejected=0.0), folder)
    assert list(folder.iterdir()) == []


def test_more_rejected_rows_than_the_share_stop_with_counts_and_examples(shop):
    rows = [shop.event(f"u{i}", None if i < 2 else i, None if i == 2 else "view") for i in range(40)]
    folder = shop.folder()
    text = message(shop.data(rows), folder)
    assert text.startswith(
        "data.sources: 3 of 40 rows cannot be used, a larger share than data.max_rejected 0.05: "
        "1 with no event type, 2 with no time; "
    )
    assert "raise data.max_rejected" in text
    assert list(folder.iterdir()) == []
    assert sum(read(shop.data(rows, max_rejected=3 / 40))[0].rejected.values()) == 3
    assert "of 40 rows" in message(shop.data(rows, max_rejected=0.0))


# Pseudonyms


KEYS = ["0123456789abcdef", "é" * 16, "k" * 64, "k" * 65, "long " * 100]


@pytest.mark.parametrize("key", KEYS)
def test_pseudonyms_are_the_hmac_of_the_ids(shop, monkeypatch, key):
    monkeypatch.setenv("SECRET", key)
    users = ["a", "用户", "😀", 'o\'neill "x"', "a\nb", "x" * 500, *map(str, range(200))]
    rows = [shop.event(user, 0) for user in users]
    log, found = read(shop.data([*rows, shop.event(None, 1), shop.event(" ", 1)], pseudonymize="SECRET"))
    expected = {hmac.new(key.encode(), user.encode(), "sha256").hexdigest() for user in users}
    assert {row["user_id"] for row in found} == expected
    assert counted(log) == {"no user": 2}


def test_numbers_of_any_type_have_the_pseudonym_of_their_text(monkeypatch):
    monkeypatch.setenv("SECRET", KEYS[0])
    _, rows = read(
        from_sql(ONE, ONE.replace("1 AS", "1.0::DOUBLE AS"), ONE.replace("1 AS", "' 1 ' AS"), pseudonymize="SECRET")
    )
    assert {row["user_id"] for row in rows} == {hmac.new(KEYS[0].encode(), b"1", "sha256").hexdigest()}


def test_a_missing_or_short_key_is_refused(monkeypatch):
    monkeypatch.delenv("SECRET", raising=False)
    assert "SECRET is not set; export a long random key" in message(from_sql(ONE, pseudonymize="SECRET"))
    monkeypatch.setenv("SECRET", "k" * 15)
    text = message(from_sql(ONE, pseudonymize="SECRET"))
    assert "SECRET has fewer than 16 characters" in text
    assert "kkk" not in text


def test_the_mark_of_a_key_changes_with_the_key_and_does_not_tell_it(monkeypatch):
    marks = set()
    for key in KEYS:
        monkeypatch.setenv("SECRET", key)
        marks.add(key_mark(from_sql(ONE, pseudonymize="SECRET")))
    assert len(marks) == len(KEYS)
    assert not any(key in mark for key in KEYS for mark in marks)
    assert key_mark(from_sql(ONE)) is None


def test_no_file_of_the_output_has_an_id_or_the_key(shop, monkeypatch):
    monkeypatch.setenv("SECRET", KEYS[0])
    rows = [f"{row['user_id']}@mail.example,{row['event_time']},{row['event_type']},1.5" for row in shop.regulars()]
    rows += ["alice@mail.example,alice@mail.example,view,1", "bob@mail.example,2024-01-05,,2"]  # rejected rows
    rows += ["carol@mail.example,2024-01-05,view", "dave@mail.example,2024-01-05,view,1,2"]  # broken lines
    path = shop.folder() / "log.csv"
    path.write_text("\n".join(["user_id,event_time,event_type,value", *rows]))
    data = DataConfig([Source(path=str(path))], folder=str(path.parent / "out"), pseudonymize="SECRET")
    folder = prepare("shop", data, shop.task(), shop.text(fields={"value": TextField(bins=3)}, header=["recency"]))
    rejected = pq.read_table(folder / "rejected.parquet").to_pylist()
    assert sorted((row["rejected_because"], row["rejected_detail"]) for row in rejected if row["rejected_detail"]) == [
        ("a line that cannot be read", f"{path}, line {line}") for line in (184, 185)
    ]
    assert len(rejected) == 4
    written = [file for file in path.parent.rglob("*") if file.is_file() and file != path]
    assert {file.parent for file in written} == {folder}
    for file in written:
        content = file.read_bytes()
        if file.suffix == ".parquet":
            content += str(pq.read_table(file).to_pylist()).encode()
        for secret in ("mail.example", KEYS[0], KEYS[0].encode().hex()):
            assert secret.encode() not in content


# Times


@pytest.mark.parametrize(
    ("number", "unit", "utc"),
    [
        ("1704067200", "seconds", datetime(2024, 1, 1)),
        ("1704067200::BIGINT", "seconds", datetime(2024, 1, 1)),
        ("1704067200.25::DOUBLE", "seconds", datetime(2024, 1, 1, 0, 0, 0, 250000)),
        ("1704067200.123457::DOUBLE", "seconds", datetime(2024, 1, 1, 0, 0, 0, 123457)),
        ("1704067200.123457::DECIMAL(18, 6)", "seconds", datetime(2024, 1, 1, 0, 0, 0, 123457)),
        ("1704067200500", "milliseconds", datetime(2024, 1, 1, 0, 0, 0, 500000)),
        ("1704067200000001", "microseconds", datetime(2024, 1, 1, 0, 0, 0, 1)),
        ("1704067200000001999", "nanoseconds", datetime(2024, 1, 1, 0, 0, 0, 2)),
        ("1711929599999999000", "nanoseconds", datetime(2024, 3, 31, 23, 59, 59, 999999)),
        ("1704067200000001::UBIGINT", "microseconds", datetime(2024, 1, 1, 0, 0, 0, 1)),
        ("-86400", "seconds", datetime(1969, 12, 31)),
        ("0", "seconds", datetime(1970, 1, 1)),
    ],
)
def test_numbers_are_taken_in_their_unit_and_in_utc(number, unit, utc):
    query = ONE.replace("TIMESTAMP '2024-01-01'", number)
    data = DataConfig([Source(sql=query, time_unit=unit)], timezone="Asia/Tokyo", since="1969-01-01")
    _, rows = read(data)
    assert rows[0]["event_time"] == utc


@pytest.mark.parametrize("number", ["1704067200000", "9223372036854775807", "-9e18", "'inf'::DOUBLE", "1e300::DOUBLE"])
def test_numbers_in_another_unit_are_times_out_of_range(number):
    query = ONE.replace("TIMESTAMP '2024-01-01'", f"unnest([{number}, 1704067200])")
    log, _ = read(DataConfig([Source(sql=query, time_unit="seconds")], max_rejected=0.5))
    assert counted(log) == {"a time outside 1900-2199": 1}
    text = message(DataConfig([Source(sql=query, time_unit="seconds")]))
    assert "a time outside 1900-2199 (such as event_time " in text


UNIT, FUTURE = "a time in another unit or before data.since", "a time after data.until"


def test_seconds_among_milliseconds_are_rejected_and_not_put_into_1970():
    query = ONE.replace("TIMESTAMP '2024-01-01'", "unnest([1704067200000, 1704067200001, 1704067200])")
    log, _ = read(DataConfig([Source(sql=query, time_unit="milliseconds")], max_rejected=0.5))
    assert counted(log) == {UNIT: 1}
    assert log.first == datetime(2024, 1, 1)
    text = message(DataConfig([Source(sql=query, time_unit="milliseconds")]))
    assert "(such as event_time 1704067200.0)" in text
    assert "set time_unit to the unit that event_time is in, or data.since" in text


def test_the_future_is_rejected_unless_data_until_says_otherwise():
    now = datetime.now(UTC).replace(tzinfo=None)
    rows = ONE.replace("TIMESTAMP '2024-01-01'", f"unnest([TIMESTAMP '{now}', TIMESTAMP '{now + timedelta(days=3)}'])")
    log, _ = read(from_sql(rows))
    assert counted(log) == {FUTURE: 1}
    assert log.last == now
    assert "set data.until" in message(from_sql(rows, max_rejected=0.1))
    assert not counted(read(from_sql(rows, until=str(now.year + 2) + "-01-01"))[0])


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({}, ["1995-01-01 00:00:00", "2024-01-01 23:59:59", "2024-01-02 00:00:00"]),
        ({"until": "2024-01-01"}, ["1995-01-01 00:00:00", "2024-01-01 23:59:59"]),
        ({"until": "2024-01-01 12:00"}, ["1995-01-01 00:00:00"]),
        (
            {"since": "1980-06-01"},
            ["1985-01-01 00:00:00", "1995-01-01 00:00:00", "2024-01-01 23:59:59", "2024-01-02 00:00:00"],
        ),
        ({"since": "2024-01-01 23:59:59+00:00"}, ["2024-01-01 23:59:59", "2024-01-02 00:00:00"]),
    ],
)
def test_events_lie_between_data_since_and_data_until(changes, kept):
    times = "unnest(['1985-01-01', '1995-01-01', '2024-01-01 23:59:59', '2024-01-02'])"
    _, rows = read(from_sql(ONE.replace("TIMESTAMP '2024-01-01'", times), **changes))
    assert [str(row["event_time"]) for row in rows] == kept


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"until": "soon"}, "data.until: 'soon' is not a date"),
        ({"since": "1.1.1990"}, "data.since: '1.1.1990' is not a date"),
        ({"since": "2024-01-02", "until": "2024-01-01"}, "data.since 2024-01-02 is not before data.until 2024-01-01"),
    ],
)
def test_bounds_that_are_no_dates_are_refused(changes, said):
    assert said in message(from_sql(ONE, **changes))


def test_events_far_from_most_others_are_warned_of():
    times = "unnest([1704067200000 + i * 60000 for i in range(100)] || [1704067200, 1704067201])"
    numbers = Source(sql=ONE.replace("TIMESTAMP '2024-01-01'", times), time_unit="milliseconds")
    log, _ = read(DataConfig([numbers], since="1960-01-01"))
    (warning,) = log.notes
    assert warning.startswith(
        "warning: 2 of 102 events are of 1970, more than 30 years off 2024, the year of the middle"
    )
    years = [f"{year}-01-01" for year in (1991, 1993, *[2024] * 9)]
    log, _ = read(from_sql(ONE.replace("TIMESTAMP '2024-01-01'", f"unnest({years})")))
    assert any("of 1991 to 1993, more than 30 years off" in note for note in log.notes)
    decades = [f"{year}-01-01" for year in range(1991, 2022)]
    assert read(from_sql(ONE.replace("TIMESTAMP '2024-01-01'", f"unnest({decades})")))[0].notes == []


# Dates that are not ISO


@pytest.mark.parametrize(
    ("time", "time_format", "utc"),
    [
        ("'11/1/2000'", "%m/%d/%Y", datetime(2000, 10, 31, 23)),
        ("'01/11/2000 13:45'", "%d/%m/%Y %H:%M", datetime(2000, 11, 1, 12, 45)),
        ("'1 Nov 2000 1:05 PM'", "%d %b %Y %I:%M %p", datetime(2000, 11, 1, 12, 5)),
        ("'01.11.2000 13:45 +0530'", "%d.%m.%Y %H:%M %z", datetime(2000, 11, 1, 8, 15)),
        ("20001101", "%Y%m%d", datetime(2000, 10, 31, 23)),
        ("'20001101'::VARCHAR", "%Y%m%d", datetime(2000, 10, 31, 23)),
    ],
)
def test_a_date_is_read_as_its_time_format_says(time, time_format, utc):
    query = ONE.replace("TIMESTAMP '2024-01-01'", time)
    for source, whole in ((time_format, None), (None, time_format), (time_format, "%d %m %y")):
        data = DataConfig([Source(sql=query, time_format=source)], time_format=whole, timezone="Europe/Berlin")
        assert read(data)[1][0]["event_time"] == utc


def test_a_date_that_two_orders_read_is_refused_with_both_readings_of_the_first_row():
    query = ONE.replace("TIMESTAMP '2024-01-01'", "unnest(['01/05/2024 10:00:00', '01/02/2024 10:00:00'])")
    text = message(from_sql(query))
    assert "01/05/2024 10:00:00 is 2024-05-01 10:00:00 by %d/%m/%Y %H:%M:%S and 2024-01-05 10:00:00 by %m/%d/%Y" in text
    assert "need time_format at their source" in text
    assert "2024-07-31 00:00:00 by %d.%m.%Y; set" in message(
        from_sql(query.replace("01/05/2024 10:00:00", "31.07.2024"))
    )


@pytest.mark.parametrize(
    ("time", "said"),
    [
        (
            "01/05/24 10:00",
            "is 2024-05-01 10:00:00 by %d/%m/%y %H:%M and 2024-01-05 10:00:00 by %m/%d/%y %H:%M and 2001",
        ),
        ("24-05-01", "24-05-01 is 2001-05-24 00:00:00 by %d-%m-%y and 2024-05-01 00:00:00 by %y-%m-%d; set one"),
        ("1/5/24", "1/5/24 is 2024-05-01 00:00:00 by %d/%m/%y and 2024-01-05 00:00:00 by %m/%d/%y"),
    ],
)
def test_a_year_of_two_digits_is_no_year_of_long_ago(time, said):
    query = ONE.replace("TIMESTAMP '2024-01-01'", f"unnest(['2024-01-01 12:00:00', '{time}'])")
    text = message(from_sql(query, max_rejected=0.1))
    assert f"1 with a time that does not parse (such as event_time {time})" in text
    assert said in text
    log, _ = read(from_sql(query, max_rejected=0.5))
    assert counted(log) == {"a time that does not parse": 1}


@pytest.mark.parametrize("time", ["1 Nov 2000 1:05 PM", "Nov 1 2000", "11/1/2000 at noon"])
def test_a_word_that_is_no_zone_is_not_called_one(time):
    assert "need time_format, as strptime takes it" in message(
        from_sql(ONE.replace("TIMESTAMP '2024-01-01'", f"'{time}'"))
    )


@pytest.mark.parametrize("zone", ["BST", "AST", "IST", "CEST", "CET", "EST", "PST8PDT", "Japan", "ACT"])
@pytest.mark.parametrize("time_format", [None, "%Y-%m-%d %H:%M:%S %Z", "%Y-%m-%d %H:%M:%S %Z %a"])
def test_a_zone_that_is_a_word_is_a_time_that_does_not_parse(zone, time_format):
    day = " Mon" * (time_format or "").endswith("%a")
    times = f"unnest(['2024-07-01 10:00:00 Europe/London{day}', '2024-07-01 10:00:00 {zone}{day}'])"
    query = Source(sql=ONE.replace("TIMESTAMP '2024-01-01'", times), time_format=time_format)
    log, rows = read(DataConfig([query], max_rejected=0.5))
    assert (counted(log), rows[0]["event_time"]) == ({"a time that does not parse": 1}, datetime(2024, 7, 1, 9))
    said = message(DataConfig([query]))
    assert f"2024-07-01 10:00:00 {zone}{day} has a zone that is a word, which may mean several; write an offset" in said


@pytest.mark.parametrize(
    ("zone", "hour"),
    [("Z", 10), (" UTC", 10), (" GMT", 10), (" GMT+2", 8), ("+01", 9), (" America/Argentina/Buenos_Aires", 13)],
)
def test_a_zone_that_means_one_thing_is_read(zone, hour):
    _, rows = read(from_sql(ONE.replace("TIMESTAMP '2024-01-01'", f"'2024-07-01 10:00:00{zone}'")))
    assert rows[0]["event_time"] == datetime(2024, 7, 1, hour)


def test_dates_that_a_time_format_does_not_read_are_counted():
    query = ONE.replace("TIMESTAMP '2024-01-01'", "unnest(['11/1/2000', '11/13/2000', '13/11/2000', '2000-11-01'])")
    log, _ = read(DataConfig([Source(sql=query, time_format="%m/%d/%Y")], max_rejected=0.5))
    assert counted(log) == {"a time that does not parse": 2}


@pytest.mark.parametrize("of", ["source", "whole"])
def test_iso_dates_under_a_time_format_are_refused_with_that_format(of):
    text = ONE.replace("TIMESTAMP '2024-01-01'", "'2024-01-01'")
    sources = [Source(sql=text, time_format="%d/%m/%Y" if of == "source" else None)]
    said = message(DataConfig(sources, time_format="%d/%m/%Y" if of == "whole" else None))
    assert "time_format '%d/%m/%Y' does not read them; correct it, or leave it out where all are ISO dates" in said
    assert "need time_format" not in said


@pytest.mark.parametrize("offset", ["+99:00", "+15:00", "-14:30", "+05:99", "+9900"])
@pytest.mark.parametrize("time_format", [None, "%Y-%m-%d %H:%M:%S%z"])
def test_an_offset_that_no_place_has_is_a_time_that_does_not_parse(offset, time_format):
    text = ONE.replace(
        "TIMESTAMP '2024-01-01'", f"unnest(['2024-01-01 12:00:00+14:00', '2024-01-01 12:00:00{offset}'])"
    )
    log, rows = read(DataConfig([Source(sql=text, time_format=time_format)], max_rejected=0.5))
    assert (counted(log), rows[0]["event_time"]) == ({"a time that does not parse": 1}, datetime(2023, 12, 31, 22))


@pytest.mark.parametrize(
    "time", ["2024-01-31", "2024-01-31 10:00", "2024-01-31T10:00:00-05", "2024-01-31 10:00:00-05:30"]
)
def test_days_of_a_month_and_true_offsets_are_no_wrong_offsets(time):
    assert len(read(from_sql(ONE.replace("TIMESTAMP '2024-01-01'", f"'{time}'")))[1]) == 1


def test_the_time_format_of_all_sources_leaves_times_of_other_types_alone():
    texts = ONE.replace("TIMESTAMP '2024-01-01'", "'1/2/2024'")
    numbers = Source(sql=ONE.replace("TIMESTAMP '2024-01-01'", "1704067200"), time_unit="seconds")
    _, rows = read(DataConfig([Source(sql=texts), Source(sql=ONE), numbers], time_format="%d/%m/%Y"))
    assert [row["event_time"] for row in rows] == [datetime(2024, 1, 1), datetime(2024, 1, 1), datetime(2024, 2, 1)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"time_format": "%Q"}, "time_format '%Q': Failed to parse format specifier"),
        ({"time_format": "%H:%M"}, "time_format: '%H:%M' gives no date; name year, month and day"),
        ({"time_format": "%d/%m/%Y"}, "time_format is for text, but event_time is TIMESTAMP already"),
        ({"time_format": "%d/%m/%Y", "time_unit": "seconds"}, "time_unit and time_format exclude each other"),
    ],
)
def test_a_time_format_that_cannot_hold_is_refused(changes, said):
    assert said in message(DataConfig([Source(sql=ONE, **changes)]))


def test_the_refusal_of_a_date_has_no_users_name(monkeypatch):
    monkeypatch.setenv("SECRET", KEYS[0])
    for time, shown in (("01/05/2024", True), ("alice@mail.example", False)):
        query = ONE.replace("TIMESTAMP '2024-01-01'", f"'{time}'")
        assert (time in message(from_sql(query, pseudonymize="SECRET"))) == shown


# Rows and users that count too much


def test_equal_rows_are_counted_and_stay_or_are_left_out(shop):
    rows = [shop.event("a", 0, tags=["x"]), shop.event("b", 1), shop.event("a", 0, tags=["y"])]
    data = shop.data([*rows, *rows[:2], rows[0]])
    log, kept = read(data)
    assert (log.events, log.equal_rows, log.left_out, len(kept)) == (6, 3, {}, 6)
    assert "3 of 6 rows are equal to another one" in log.notes[0]
    assert "data.duplicates: drop" in log.notes[0]
    log, kept = read(replace(data, duplicates="drop"))
    assert (log.events, log.equal_rows, log.left_out) == (3, 0, {"equal to another row": 3})
    assert log.notes == ["left out 3 rows equal to another row"]
    assert kept == read(shop.data(rows))[1]
    assert read(shop.data(rows))[0].notes == []


def test_users_with_too_many_events_are_left_out_and_counted(shop):
    rows = [shop.event(user, i) for user, n in (("a", 2), ("b", 3), ("bot", 9)) for i in range(n)]
    log, kept = read(shop.data(rows, max_events_per_user=3))
    assert {row["user_id"] for row in kept} == {"a", "b"}
    assert (log.events, log.users, log.last) == (5, 2, shop.day(2))
    assert log.left_out == {"of 1 user with more than data.max_events_per_user 3": 9}
    assert "data.max_events_per_user" in message(shop.data(rows, max_events_per_user=1))


def test_equal_rows_that_are_left_out_do_not_count_for_a_user(shop):
    log, _ = read(shop.data([shop.event("a", 0)] * 9, duplicates="drop", max_events_per_user=1))
    assert (log.events, log.left_out) == (1, {"equal to another row": 8})


def test_one_user_of_very_many_events_is_named_with_the_remedy(shop):
    rows = [shop.event(f"u{i}", i / 10) for i in range(300)]
    log, _ = read(shop.data([*rows, *(shop.event("guest", i / 10) for i in range(30))]))
    assert len(log.notes) == 1
    assert log.notes[0].startswith("warning: of 330 events guest has 30: guests under one id")
    assert "data.max_events_per_user: 10 leaves such users out" in log.notes[0]
    assert read(shop.data([*rows, *(shop.event("buyer", i / 10) for i in range(10))]))[0].notes == []
    assert read(shop.data([shop.event("only", i / 10) for i in range(300)]))[0].notes == []


def test_a_user_of_a_hundred_times_the_most_active_ones_stands_out():
    assert standing_out({1: 1_000_000, 2: 2_000, 201: 1}) == 200
    assert standing_out({1: 1_000_000, 2: 2_000, 200: 1}) is None
    assert standing_out({5: 1, 6: 1}) is None
    assert standing_out({100: 149, 900: 1}) == 790  # 5.7 % of all events, and 9 times the median
    assert standing_out({100: 149, 700: 1}) is None
    assert standing_out({100: 9, 290: 1}) is None  # many of few


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl", "log.parquet"])
def test_two_files_of_equal_content_are_refused(shop, name):
    folder = shop.folder()
    frame = pa.table({"user_id": ["a"], "event_time": ["2024-01-01"], "event_type": ["view"], "price": [1]})
    for copy in ("1", "2", "3"):
        (folder / copy).mkdir()
        write = f"COPY {'(FROM frame LIMIT 0)' if copy == '3' else 'frame'} TO '{folder / copy / name}'"
        duckdb.connect().register("frame", frame).execute(write)
    data = DataConfig([Source(path=str(folder / "?" / name))])
    assert f"{folder / '1' / name} and {folder / '2' / name} have the same content" in message(data)
    (folder / "2" / name).unlink()
    (folder / "4").mkdir()
    (folder / "4" / name).write_bytes((folder / "3" / name).read_bytes())  # a day without events is like another one
    if name != "log.jsonl":
        assert read(data)[0].events == 1


def test_a_file_that_two_sources_read_alike_is_refused_and_not_where_they_make_other_events_of_it(shop):
    path = shop.write([shop.event("a", 0, value=1.0)])
    columns = {"user_id": "user_id", "event_time": "event_time", "event_type": "'shipped'"}
    sources = [Source(path=str(path)), Source(path=str(path), columns=columns)]
    assert read(DataConfig(sources))[0].events == 2
    text = message(DataConfig([*sources, Source(path=str(path.parent / "*.parquet"))]))
    assert f"data.sources[2].path and data.sources[0].path both read {path}" in text


def test_a_number_that_is_missing_is_no_time():
    query = ONE.replace("TIMESTAMP '2024-01-01'", "unnest([1.7e9::DOUBLE, NULL, 'nan'])")
    log, _ = read(DataConfig([Source(sql=query, time_unit="seconds")], max_rejected=0.9))
    assert counted(log) == {"no time": 2}


@pytest.mark.parametrize(
    ("time", "timezone", "utc"),
    [
        ("TIMESTAMP '2024-01-01 00:30:00'", "UTC", datetime(2024, 1, 1, 0, 30)),
        ("TIMESTAMP '2024-01-01 00:30:00'", "Europe/Berlin", datetime(2023, 12, 31, 23, 30)),
        ("TIMESTAMP '2024-07-01 00:30:00'", "Europe/Berlin", datetime(2024, 6, 30, 22, 30)),
        ("'2024-07-01 00:30:00'", "Europe/Berlin", datetime(2024, 6, 30, 22, 30)),
        ("'2024-07-01T00:30:00+05:00'", "Europe/Berlin", datetime(2024, 6, 30, 19, 30)),
        ("'2024-07-01T00:30:00Z'", "Europe/Berlin", datetime(2024, 7, 1, 0, 30)),
        ("'2024-07-01T00:30:00-02:00'", "UTC", datetime(2024, 7, 1, 2, 30)),
        ("TIMESTAMPTZ '2024-07-01 00:30:00+05:00'", "America/New_York", datetime(2024, 6, 30, 19, 30)),
        ("DATE '2024-07-01'", "Asia/Tokyo", datetime(2024, 6, 30, 15)),
        ("TIMESTAMP_NS '2024-07-01 00:00:00.123456'", "UTC", datetime(2024, 7, 1, 0, 0, 0, 123456)),
        ("TIMESTAMP_S '2024-07-01 00:00:01'", "UTC", datetime(2024, 7, 1, 0, 0, 1)),
    ],
)
def test_naive_times_are_in_data_timezone_and_times_with_a_zone_keep_it(time, timezone, utc):
    _, rows = read(from_sql(ONE.replace("TIMESTAMP '2024-01-01'", time), timezone=timezone))
    assert rows[0]["event_time"] == utc


def test_the_session_is_in_utc_after_reading():
    with connect() as con:
        read_events(con, from_sql(ONE, timezone="Asia/Tokyo"))
        assert con.execute("SELECT current_setting('TimeZone')").fetchone() == ("UTC",)


def test_an_unknown_time_zone_is_refused():
    text = message(from_sql(ONE, timezone="Mars/Olympus"))
    assert "Mars/Olympus" in text
    assert "Europe/Berlin" in text


# Sources that are refused


def test_no_sources_are_refused():
    assert "give at least one source" in message(DataConfig([]))


def test_a_source_needs_sql_or_path_and_not_both():
    assert "only one of them" in message(DataConfig([Source(sql=ONE, path="log.csv")]))
    assert "only one of them" in message(DataConfig([Source()]))


def test_columns_with_sql_are_refused():
    assert "belongs to `path`" in message(DataConfig([Source(sql=ONE, columns={"user_id": "a"})]))


def test_a_missing_file_is_named(shop):
    path = shop.folder() / "absent.parquet"
    assert f"no file matches '{path}'" in message(DataConfig([Source(path=str(path))]))
    assert str(path) in message(from_sql(f"SELECT * FROM '{path}'"))


def test_a_file_of_another_kind_is_refused(shop):
    path = shop.folder() / "log.xlsx"
    path.write_text("x")
    text = message(DataConfig([Source(path=str(path))]))
    assert str(path) in text
    assert ".parquet" in text
    assert "export it as CSV in UTF-8, or read it by `sql` as text" in text
    path.write_bytes(b"PK\x03\x04")
    assert "it is a zip archive or a workbook (xlsx): unpack it, or save its sheet as CSV in UTF-8" in message(
        DataConfig([Source(path=str(path))])
    )


def test_lines_that_are_not_in_utf_8_are_refused_with_the_way_to_convert_them(shop):
    path = shop.folder() / "log.csv"
    path.write_bytes(b"user_id,event_time,event_type\n" + "\u00fc,2024-01-01,view\n".encode("latin-1") * 3)
    assert "`iconv -f LATIN1 -t UTF-8`" in message(DataConfig([Source(path=str(path))]))


def test_a_missing_column_is_named_beside_those_that_there_are(shop):
    folder = shop.folder()
    (folder / "log.csv").write_text("visitor,event_time\n1,2024-01-01\n")
    text = message(DataConfig([Source(path=str(folder / "log.csv"))]))
    assert "data.sources[0] has no column user_id and no column event_type (it has visitor, event_time)" in text
    text = message(from_sql(ONE, "SELECT 1 AS user_id, 'view' AS event_type"))
    assert "data.sources[1] has no column event_time" in text


def test_a_mapping_to_a_column_that_the_file_lacks_is_refused(shop):
    path = shop.write([shop.event("a", 0)])
    text = message(DataConfig([Source(path=str(path), columns={"user_id": "visitor"})]))
    assert '"visitor" not found' in text
    assert f"check `columns` and the file {path}" in text


def test_a_number_as_a_time_needs_its_unit():
    text = message(from_sql(ONE.replace("TIMESTAMP '2024-01-01'", "1704067200")))
    assert "event_time is a number (INTEGER); set time_unit to seconds, milliseconds, microseconds" in text
    assert "event_time is TIME, not a time" in message(from_sql(ONE.replace("TIMESTAMP '2024-01-01'", "TIME '12:00'")))


def test_a_unit_without_a_number_is_refused():
    text = message(DataConfig([Source(sql=ONE, time_unit="seconds")]))
    assert "time_unit is for numbers, but event_time is TIMESTAMP; leave time_unit out" in text


@pytest.mark.parametrize(("one", "other"), [("'red'", "3"), ("['red']", "'red'"), ("true", "1.5"), ("[1]", "1")])
def test_types_that_clash_between_two_sources_are_refused(one, other):
    text = message(from_sql(f"{ONE}, {one} AS color", ONE, f"{ONE}, {other} AS Color"))
    assert "data.sources[2]: column 'Color' is" in text
    assert "in data.sources[0]; cast one of them" in text


@pytest.mark.parametrize("name", ["label", "Cutoff", "entries", "part", "Rejected_Because", "given_time"])
def test_a_column_with_a_name_of_our_own_is_refused(name):
    assert f"'{name}' is used by EventScribe itself; give it another name" in message(from_sql(f"{ONE}, 1 AS {name}"))


@pytest.mark.parametrize("name", ["day", "position", "event_day", "text_2", "events", "log", "rows", "v", "x"])
def test_everyday_column_names_are_accepted(name):
    assert list(read(from_sql(f"{ONE}, 1 AS {name}"))[0].fields) == [name]


def test_an_unknown_variable_is_named(monkeypatch):
    monkeypatch.delenv("SHOP_FOLDER", raising=False)
    text = message(from_sql("SELECT * FROM '${SHOP_FOLDER}/log.parquet'"))
    assert "data.sources[0].sql: ${SHOP_FOLDER} is not set; add it to data.variables" in text


def test_variables_come_before_the_environment(monkeypatch):
    monkeypatch.setenv("A", "environment")
    assert expand("${A}", DataConfig([], variables={"A": "config"}), "x") == "config"
    assert expand("${A} $B {C}", DataConfig([]), "x") == "environment $B {C}"


def test_a_mapped_column_that_the_file_lacks_is_named_with_those_it_has(shop):
    path = shop.folder() / "log.csv"
    path.write_text("uid,time,what\n1,2024-01-01,buy\n")
    columns = {"user_id": "uid", "event_time": "time", "event_type": "what"}
    for more in ({"price": "price"}, {"shop": "user_id"}):  # the second is a name of the mapping, not of the file
        said = message(DataConfig([Source(path=str(path), columns=columns | more)]))
        assert f'"{next(iter(more.values()))}" not found' in said
        assert '"uid"' in said


@pytest.mark.parametrize("query", ["SELEC 1", "SELECT * FROM nowhere", "", "DROP TABLE events", "SELECT 1; SELECT 2"])
def test_sql_that_duckdb_refuses_is_refused_in_one_sentence(query):
    assert "check the SQL" in message(from_sql(query))


def test_sql_that_fails_on_the_data_is_refused_in_one_sentence():
    text = message(from_sql(ONE, ONE.replace("1 AS", "CAST(concat('x', range) AS INTEGER) AS") + " FROM range(3)"))
    assert "data.sources[1]: Could not convert string 'x0' to INT32" in text


def test_an_unreadable_memory_limit_is_refused():
    with pytest.raises(InputError, match=r"data\.memory_limit: .*4GB"):
        connect("plenty")


# Files that are watched


def test_every_file_that_a_source_reads_is_watched(shop):
    paths = [shop.write([shop.event("a", 0)]) for _ in range(3)]
    sql = f"""-- don't let the apostrophe hide a file
        SELECT * FROM '{paths[0]}' JOIN "{paths[1]}" USING (user_id) WHERE event_type <> 'view'"""
    assert source_files(DataConfig([Source(sql=sql), Source(path=str(paths[2]))])) == sorted(paths)


def test_a_source_that_names_no_file_cannot_be_watched(shop):
    path = shop.write([shop.event("a", 0)])
    assert source_files(DataConfig([Source(path=str(path)), Source(sql=ONE)])) is None
    assert source_files(DataConfig([Source(sql=f"SELECT '{path}'", database="sqlite:///shop.db")])) is None


def test_a_column_name_with_a_line_break_is_refused():
    data = DataConfig([Source(sql="""SELECT 'u' AS user_id, now() AS event_time, 'x' AS event_type, 1 AS "a\nb" """)])
    with connect() as con, pytest.raises(InputError, match=r"the column name 'a\\nb' has a line break"):
        read_events(con, data)
