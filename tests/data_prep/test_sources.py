from dataclasses import replace
from datetime import datetime

import duckdb
import pyarrow as pa
import pytest

from data_prep import InputError
from data_prep.config import DataConfig, Source
from data_prep.connections import connect, stopped_after
from data_prep.events import confined, read_events
from data_prep.sources import expand, source_files
from tests.data_prep.reading import ONE, from_sql, message, read

# What can be read


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


def test_a_query_may_end_with_a_semicolon_or_a_comment():
    assert len(read(from_sql(ONE + ";\n", ONE + " -- don't stop"))[1]) == 2


def test_a_column_that_sql_names_twice_is_refused():
    for sql in (
        ONE.replace("1 AS user_id", "1 AS user_id, 2 AS User_ID"),
        f"SELECT a.*, b.* FROM ({ONE}) a, ({ONE}) b",
    ):
        assert "is there twice, as case does not count" in message(from_sql(sql))


# Rows and users that count too much


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


def test_the_session_is_in_utc_after_reading():
    with connect() as con:
        read_events(con, from_sql(ONE, timezone="Asia/Tokyo"))
        assert con.execute("SELECT current_setting('TimeZone')").fetchone() == ("UTC",)


def test_an_unknown_time_zone_is_refused():
    text = message(from_sql(ONE, timezone="Mars/Olympus"))
    assert "Mars/Olympus" in text
    assert "Europe/Berlin" in text


# Sources that are refused


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


@pytest.mark.parametrize("name", ["label", "Cutoff", "entries", "part", "Rejected_Because", "given_time"])
def test_a_column_with_a_name_of_our_own_is_refused(name):
    assert f"'{name}' is used by EventScribe itself; give it another name" in message(from_sql(f"{ONE}, 1 AS {name}"))


@pytest.mark.parametrize("name", ["day", "position", "event_day", "text_2", "events", "log", "rows", "v", "x"])
def test_everyday_column_names_are_accepted(name):
    assert list(read(from_sql(f"{ONE}, 1 AS {name}"))[0].fields) == [name]


def test_a_variable_is_of_the_config_or_named_by_it_and_set_in_the_environment(monkeypatch):
    monkeypatch.setenv("SHOP_FOLDER", "s3cret")
    data = from_sql("SELECT * FROM '${SHOP_FOLDER}/log.parquet'")
    text = message(data)
    assert "data.sources[0].sql: ${SHOP_FOLDER} is neither in data.variables nor named in data.environment" in text
    assert "allow it with data.environment: [SHOP_FOLDER]" in text
    assert "s3cret" not in text
    allowed = replace(data, environment=["SHOP_FOLDER"])
    assert "s3cret/log.parquet" in message(allowed)
    monkeypatch.delenv("SHOP_FOLDER")
    assert "data.sources[0].sql: ${SHOP_FOLDER} is not set; export SHOP_FOLDER" in message(allowed)


def test_variables_come_before_the_environment(monkeypatch):
    monkeypatch.setenv("A", "environment")
    assert expand("${A}", DataConfig([], variables={"A": "config"}, environment=["A"]), "x") == "config"
    assert expand("${A} $B {C}", DataConfig([], environment=["A"]), "x") == "environment $B {C}"


def _go_on_behind(pause, con):
    with pause():
        pass
    con.execute("SELECT count(*) FROM range(10000000) a, range(10000000) b")


def test_what_takes_longer_than_the_limit_is_stopped():
    said = r"^data\.time_limit: reading the sources took longer than 0\.01 seconds; raise it, or mend"
    with connect() as con, pytest.raises(InputError, match=said), stopped_after(con, 0.01):
        con.execute("SELECT count(*) FROM range(10000000) a, range(10000000) b")
    with connect() as con, pytest.raises(duckdb.Error), stopped_after(con, 60):
        con.execute("SELECT no_such_column")
    with connect() as con, pytest.raises(InputError, match=said), stopped_after(con, 0.01) as pause:
        _go_on_behind(pause, con)
    data = replace(from_sql(ONE), time_limit="soon")
    with (
        connect() as con,
        pytest.raises(InputError, match=r"^data\.time_limit: 'soon' is not a length"),
        confined(con, data),
    ):
        read_events(con, data)


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
