import gzip
import json
import math
import re
from datetime import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep import InputError
from data_prep.events import DataConfig, EventLog, Source, connect, expand, read_events, source_files


def read(data: DataConfig) -> tuple[EventLog, list[dict]]:
    """The log and the rows of the table `events`, by user and position."""
    with connect() as con:
        log = read_events(con, data)
        found = con.execute("SELECT * FROM events ORDER BY user_id, position")
        names = [column[0] for column in found.description]
        return log, [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def from_sql(*queries: str, **changes: object) -> DataConfig:
    return DataConfig(sources=[Source(sql=query) for query in queries], **changes)


def message(data: DataConfig) -> str:
    """The refusal, which is one sentence on one line that names the source and ends with a remedy."""
    with pytest.raises(InputError) as error:
        read(data)
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith("data.")
    assert not text.endswith(".")
    return text


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
    assert rows == [{"user_id": "7", "event_time": datetime(2024, 1, 1), "event_type": "VIEW", "position": 1}]


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


def test_positions_count_a_users_events_by_time_and_break_ties_by_the_other_columns():
    values = ", ".join(
        f"('u', TIMESTAMP '2024-01-0{day}', '{kind}', {value})"
        for day, kind, value in ((2, "b", 1), (1, "z", 1), (2, "a", 9), (2, "b", 0))
    )
    _, rows = read(from_sql(f"SELECT * FROM (VALUES {values}) t(user_id, event_time, event_type, value)"))
    assert [(row["event_type"], row["value"]) for row in rows] == [("z", 1), ("a", 9), ("b", 0), ("b", 1)]
    assert [row["position"] for row in rows] == [1, 2, 3, 4]


def test_a_query_may_end_with_a_semicolon_or_a_comment():
    assert len(read(from_sql(ONE + ";\n", ONE + " -- don't stop"))[1]) == 2


def test_whole_numbers_held_as_floats_are_the_same_user_as_integers():
    _, rows = read(from_sql(ONE.replace("1 AS", "12346.0::DOUBLE AS"), ONE.replace("1 AS", "12346 AS")))
    assert [row["user_id"] for row in rows] == ["12346", "12346"]


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
    log, kept = read(shop.data(rows))
    assert log.rejected == {"no user": 3, "no time": 1, "a time outside 1900-2199": 0, "no event type": 2}
    assert [row["user_id"] for row in kept] == ["a"]
    assert (log.events, log.users) == (1, 1)


def test_a_user_that_is_not_a_number_in_a_column_of_floats_is_no_user():
    log, _ = read(from_sql(ONE, ONE.replace("1 AS", "'nan'::DOUBLE AS")))
    assert log.rejected["no user"] == 1


@pytest.mark.parametrize("time", ["infinity", "-infinity", "9999-12-31", "0001-01-01", "20000-01-01"])
def test_times_that_only_stand_for_never_are_left_out(time):
    log, _ = read(from_sql(ONE, ONE.replace("2024-01-01", time)))
    assert log.rejected["a time outside 1900-2199"] == 1
    assert log.last == datetime(2024, 1, 1)


def test_an_empty_string_is_no_time():
    log, _ = read(from_sql(*(ONE.replace("TIMESTAMP '2024-01-01'", text) for text in ("'2024-01-01'", "' '"))))
    assert log.rejected["no time"] == 1


def test_a_log_without_a_usable_event_is_refused():
    assert "check the paths" in message(from_sql(ONE.replace("'view'", "NULL")))
    assert "check the paths" in message(from_sql(ONE + " WHERE false"))


# Time zones


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
    assert "use `sql`" in text


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


def test_a_time_that_is_a_number_is_refused_with_the_function_to_use(shop):
    text = message(from_sql(ONE.replace("TIMESTAMP '2024-01-01'", "1704067200")))
    assert "event_time is INTEGER, not a time" in text
    assert "to_timestamp(column)" in text
    assert "event_time is TIME, not a time" in message(from_sql(ONE.replace("TIMESTAMP '2024-01-01'", "TIME '12:00'")))


def test_a_time_that_does_not_parse_is_shown_and_counted(shop):
    folder = shop.folder()
    (folder / "log.csv").write_text("user_id,event_time,event_type\n1,2024-01-01,a\n2,31.12.2024,a\n3,soon,a\n")
    text = message(DataConfig([Source(path=str(folder / "log.csv"))]))
    assert "event_time '31.12.2024' does not parse as a time (2 such rows)" in text
    assert "strptime" in text


@pytest.mark.parametrize(("one", "other"), [("'red'", "3"), ("['red']", "'red'"), ("true", "1.5"), ("[1]", "1")])
def test_types_that_clash_between_two_sources_are_refused(one, other):
    text = message(from_sql(f"{ONE}, {one} AS color", ONE, f"{ONE}, {other} AS Color"))
    assert "data.sources[2]: column 'Color' is" in text
    assert "in data.sources[0]; cast one of them" in text


@pytest.mark.parametrize("name", ["position", "label", "Cutoff", "event_day"])
def test_a_column_with_a_name_of_our_own_is_refused(name):
    assert f"'{name}' is used by EventScribe itself; give it another name" in message(from_sql(f"{ONE}, 1 AS {name}"))


@pytest.mark.parametrize("name", ["day", "age", "text_2", "events", "words", "v", "x", "history"])
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


@pytest.mark.parametrize("content", [b"PAR1", b"PAR1" + bytes(100) + b"PAR1", b"user_id,event_time\n1,2\n"])
def test_a_broken_parquet_file_is_named(shop, content):
    path = shop.folder() / "log.parquet"
    path.write_bytes(content)
    assert f"check the file {path}" in message(DataConfig([Source(path=str(path))]))


def test_an_empty_file_is_called_empty(shop):
    path = shop.folder() / "log.csv"
    path.touch()
    assert "log.csv' is empty" in message(DataConfig([Source(path=str(path), columns={"user_id": "user_id"})]))


def test_a_mapped_column_that_the_file_lacks_is_named_with_those_it_has(shop):
    path = shop.folder() / "log.csv"
    path.write_text("uid,time,what\n1,2024-01-01,buy\n")
    columns = {"user_id": "uid", "event_time": "time", "event_type": "what"}
    for more in ({"price": "price"}, {"shop": "user_id"}):  # the second is a name of the mapping, not of the file
        said = message(DataConfig([Source(path=str(path), columns=columns | more)]))
        assert f'"{next(iter(more.values()))}" not found' in said
        assert '"uid"' in said


def test_a_truncated_parquet_file_is_named(shop):
    path = shop.write([shop.event("a", 0)] * 1000)
    path.write_bytes(path.read_bytes()[:-20])
    assert f"check the file {path}" in message(DataConfig([Source(path=str(path))]))


def test_a_parquet_file_with_damaged_pages_is_named(shop):
    path = shop.folder() / "log.parquet"
    times = pa.array([shop.day(i / 100) for i in range(5000)], pa.timestamp("us"))
    users = pa.array([f"user {i * 7919 % 5000}" for i in range(5000)])
    table = pa.table({"user_id": users, "event_time": times, "event_type": ["view"] * 5000})
    pq.write_table(table, path, compression="zstd", use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[100:2000] = bytes(1900)
    path.write_bytes(content)
    assert f"check the file {path}" in message(DataConfig([Source(path=str(path))]))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("log.csv", "user_id,event_time,event_type\n1,2024-01-01,é\n".encode("latin-1")),
        ("log.csv", bytes(range(256)) * 10),
        ("log.csv", b""),
        ("log.jsonl", b'{"user_id": 1}\n{"user_id"'),
        ("log.csv.gz", b"not gzip"),
    ],
)
def test_a_file_that_cannot_be_parsed_is_named(shop, name, content):
    path = shop.folder() / name
    path.write_bytes(content)
    assert re.search(
        r"check the file|has no column|is empty; give a file", message(DataConfig([Source(path=str(path))]))
    )


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
