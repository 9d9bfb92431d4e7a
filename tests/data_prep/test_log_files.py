"""Files whose first rows do not tell what comes: DuckDB looks at some 20,000 rows of a CSV file to find its types."""

import json
from datetime import date, datetime, timedelta

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep import InputError
from data_prep.config import DataConfig, Source
from data_prep.connections import connect
from data_prep.events import read_events
from data_prep.serving import as_sources, file_source
from tests.data_prep.written_logs import FORMATS, HEADER, counted, read, write

MANY = 20_500  # rows, more than DuckDB looks at


@FORMATS
def test_a_file_is_read_by_its_own_name_even_if_that_looks_like_a_glob(tmp_path, name):
    rows = [["a", "2024-01-01", "view"], ["b", "2024-01-02", "buy"]]
    stem, ending = name.split(".")
    write(tmp_path / f"{stem}[1].{ending}", rows)
    write(tmp_path / f"{stem}1.{ending}", [["decoy", "2024-01-01", "view"]])
    for path in (f"{stem}[1].{ending}", f"{stem}[[]1].{ending}"):  # the name itself, and a glob of it
        _, found = read(tmp_path / path)
        assert [row["user_id"] for row in found] == ["a", "b"]


# Times


@FORMATS
@pytest.mark.parametrize("late", ["2024-04-29T23:57:00-05:00", "2024-04-30T04:57:00Z", "2024-04-30 06:57:00+02"])
@pytest.mark.parametrize("rows", [1, 2_000])
def test_a_zone_of_late_rows_counts_for_each_of_them_and_the_others_are_in_data_timezone(tmp_path, name, late, rows):
    early = [["u1", "2024-01-01T00:00:00", "view"]] * MANY
    log, _ = read(write(tmp_path / name, early + [["u1", late, "view"]] * rows), timezone="Europe/Berlin")
    assert (log.first, log.last) == (datetime(2023, 12, 31, 23), datetime(2024, 4, 30, 4, 57))
    assert (log.events, counted(log)) == (MANY + rows, {})


@FORMATS
def test_times_of_one_file_may_be_written_in_all_iso_ways(tmp_path, name):
    times = ["2024-01-01", "2024-01-01 12:00", "2024-01-01 12:00:00.25", "2024-01-01T12:00:00+05:30", "2024/01/01"]
    _, rows = read(write(tmp_path / name, [[f"u{i}", time, "view"] for i, time in enumerate(times)]))
    midnight = datetime(2024, 1, 1)
    hours = [
        timedelta(0),
        timedelta(hours=12),
        timedelta(hours=12, milliseconds=250),
        timedelta(hours=6.5),
        timedelta(0),
    ]
    assert [row["event_time"] for row in rows] == [midnight + after for after in hours]


@pytest.mark.parametrize("offset", ["+99:00", "+15", "-1430"])
def test_an_offset_that_no_place_has_is_rejected_in_csv_of_zones(tmp_path, offset):
    log, _ = read(write(tmp_path / "log.csv", [["u", f"2024-01-01 00:00:00{zone}", "a"] for zone in ("+00", offset)]))
    assert counted(log) == {"a time that does not parse": 1}


def test_a_column_that_is_there_twice_in_events_to_be_scored_is_named_once():
    frame = pd.DataFrame([["u", "2024-01-01", "view", 1, 2]], columns=[*HEADER, "price", "price"])
    with (
        connect() as con,
        pytest.raises(InputError, match=r"^events: the column price is there twice, as case"),
    ):
        as_sources(con, frame)


@pytest.mark.parametrize("name", ["log.csv", "log.parquet"])
@pytest.mark.parametrize("header", ["event_type,event_type", "event_type,Event_Type"])
def test_a_column_that_is_there_twice_is_refused(tmp_path, name, header):
    names = f"user_id,event_time,{header}".split(",")
    (tmp_path / "log.csv").write_text(",".join(names) + "\nu,2024-01-01,view,buy\n")
    pq.write_table(pa.Table.from_arrays([pa.array([text]) for text in "abcd"], names), tmp_path / "log.parquet")
    with pytest.raises(InputError, match=rf"(?i)path: the column event_type is there twice in .*{name}; give each"):
        read(tmp_path / name)


@pytest.mark.parametrize("name", ["log.csv", "log.parquet"])
def test_columns_that_differ_by_a_number_are_not_the_same(tmp_path, name):
    names = ["user_id", "event_time", "event_type", "Event_Type_1", "event_type_2"]
    (tmp_path / "log.csv").write_text(",".join(names) + "\nu,2024-01-01,view,buy,1\n")
    values = ["u", "2024-01-01", "view", "buy", "1"]
    pq.write_table(pa.Table.from_arrays([pa.array([text]) for text in values], names), tmp_path / "log.parquet")
    assert set(read(tmp_path / name)[0].fields) == {"Event_Type_1", "event_type_2"}


def test_one_column_is_no_frame():
    with connect() as con, pytest.raises(InputError, match=r"^events: Series cannot be read; give a path, .*frame"):
        as_sources(con, pd.Series(["u", "v"]))


@FORMATS
def test_dates_are_never_read_in_an_order_that_was_guessed(tmp_path, name):
    path = write(tmp_path / name, [["u", "11/1/2000", "buy"]] * MANY)
    with pytest.raises(
        InputError, match="2000-01-11 00:00:00 by %d/%m/%Y and 2000-11-01 00:00:00 by %m/%d/%Y; set one"
    ):
        read(path)
    with path.open("a") as file:
        file.write("\nu,11/13/2000,buy\n" if name == "log.csv" else '\n{"event_time": "11/13/2000"}')
    with pytest.raises(InputError, match=r"2000-11-(01|13) 00:00:00 by %m/%d/%Y; set one"):
        read(path)
    log, _ = read(path, time_format="%m/%d/%Y")
    assert (log.first, log.events) == (datetime(2000, 11, 1), MANY + (name == "log.csv"))


@FORMATS
def test_seconds_among_milliseconds_are_rejected(tmp_path, name):
    path = write(tmp_path / name, [["u", time, "buy"] for time in [1704067200000] * MANY + [1704067200, 1704067200.5]])
    log, _ = read(path, time_unit="milliseconds")
    assert counted(log) == {"a time in another unit or before data.since": 2}


@FORMATS
@pytest.mark.parametrize("rows", [1, 20, 60, 99])
def test_one_value_that_is_no_number_among_times_in_a_unit_is_rejected_alone(tmp_path, name, rows):
    times = [*(1704067200 + i for i in range(rows)), "event_time"]
    log, found = read(write(tmp_path / name, [["u", time, "view"] for time in times]), time_unit="seconds")
    assert (log.events, sum(counted(log).values())) == (rows, 1)
    assert found[0]["event_time"] == datetime(2024, 1, 1)


@FORMATS
def test_iso_dates_are_no_times_in_a_unit(tmp_path, name):
    with pytest.raises(InputError, match="time_unit is for numbers"):
        read(write(tmp_path / name, [["u", "2024-01-01", "view"]]), time_unit="seconds")


# Fields


@pytest.mark.parametrize(
    ("early", "late", "kind", "last"),
    [
        ("1", "2.5", "DOUBLE", 2.5),
        ("0", "true", "VARCHAR", "true"),
        ("true", "maybe", "VARCHAR", "maybe"),
        ("true", "f", "BOOLEAN", False),
        ("1", "12345678901234567890", "VARCHAR", "12345678901234567890"),
        ("100000", "1e5", "VARCHAR", "1e5"),
        ("7", "07", "VARCHAR", "07"),
        ("5", "+5", "VARCHAR", "+5"),
        ("7", "-07", "VARCHAR", "-07"),
        ("0", "-0.5", "DOUBLE", -0.5),
        ("1.5", "1e-05", "DOUBLE", 1e-5),
        ("1.5", "nan", "DOUBLE", None),
        ("2024-01-31", "2024-02-01", "DATE", date(2024, 2, 1)),
        ("2024-01-31", "31.01.2024", "VARCHAR", "31.01.2024"),
        ("01-01-20", "13-01-20", "VARCHAR", "13-01-20"),
        ("2024-01-31 00:00:00", "2024-02-01T00:00:00+05:00", "VARCHAR", "2024-02-01T00:00:00+05:00"),
        ("2024-01-31 00:00:00", "2024-02-01 12:00:00.5", "TIMESTAMP", datetime(2024, 2, 1, 12, 0, 0, 500_000)),
        ("00:01:00", "1 hour", "VARCHAR", "1 hour"),
        ("shoes", "7", "VARCHAR", "7"),
        (None, "7", "BIGINT", 7),
    ],
)
def test_a_field_of_csv_has_a_type_that_every_row_bears_out(tmp_path, early, late, kind, last):
    rows = [["u", "2024-01-01", "view", early]] * MANY + [["z", "2024-01-01", "view", late]] * 30
    log, found = read(write(tmp_path / "log.csv", rows, [*HEADER, "field"]))
    assert (log.fields, found[-1]["field"], log.events) == ({"field": kind}, last, len(rows))


@pytest.mark.parametrize("code", ["07", "+5", "1e5", "1_000"])
def test_one_code_among_very_many_numbers_makes_them_text(tmp_path, code):
    rows = [["u", "2024-01-01", "view", 100000]] * MANY + [["z", "2024-01-01", "view", code]]
    log, found = read(write(tmp_path / "log.csv", rows, [*HEADER, "field"]))
    assert (log.fields, found[-1]["field"]) == ({"field": "VARCHAR"}, code)


@pytest.mark.parametrize("values", [["00123", "123"], ["07", "7"], ["+5", "5"]])
def test_codes_with_leading_zeros_and_signs_do_not_merge_with_numbers(tmp_path, values):
    rows = [[user, "2024-01-01", "view", value] for user, value in zip("ab", values, strict=True)]
    path = write(tmp_path / "log.csv", rows, [*HEADER, "field"])
    assert [row["field"] for row in read(path)[1]] == values


@pytest.mark.parametrize("big", [2**53 + 1, 2**63, 2**64, 2**64 + 1, 10**30])
@pytest.mark.parametrize("other", [1, 1.5])
def test_large_integers_of_json_lines_keep_all_their_digits(tmp_path, big, other):
    values = {"a": big, "b": big + 1, "c": other}  # rows of one user have no order
    rows = [[user, "2024-01-01", "view", value] for user, value in values.items()]
    _, found = read(write(tmp_path / "log.jsonl", rows, [*HEADER, "field"]))
    assert [str(row["field"]) for row in found] == [str(value) for value in values.values()]


@pytest.mark.parametrize("place", [0, 15_000, 29_999])
@pytest.mark.parametrize("strays", [20, 40])
def test_a_column_of_numbers_may_have_one_stray_value_in_a_thousand_wherever_it_stands(tmp_path, place, strays):
    rows = [["u", "2024-01-01", "view", i] for i in range(30_000)]
    for i in range(strays):
        rows[(place + i) % 30_000][3] = "n/a"
    log, _ = read(write(tmp_path / "log.csv", rows, [*HEADER, "field"]))
    assert log.fields == {"field": "BIGINT" if strays == 20 else "VARCHAR"}
    assert counted(log) == ({"a line that cannot be read": 20} if strays == 20 else {})


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2.5], "DOUBLE"),
        ([1, "n/a"], "VARCHAR"),
        ([True, "maybe"], "VARCHAR"),
        (["2024-01-31", "2024-02-01"], "DATE"),
        (["01-01-20", "13-01-20"], "VARCHAR"),
        (["6ba7b810-9dad-11d1-80b4-00c04fd430c8", "x"], "VARCHAR"),
        ([["a"], ["b", "c"]], "VARCHAR[]"),
        ([["2024-01-31"], ["soon"]], "VARCHAR[]"),
        ([["a"], "b"], "VARCHAR"),
        ([None, "b"], "VARCHAR"),
        ([None, [1.5]], "DOUBLE[]"),
    ],
)
def test_a_field_of_json_lines_has_a_type_that_every_row_bears_out(tmp_path, values, kind):
    rows = [["a", "2024-01-01", "view", values[0]]] * MANY + [["z", "2024-01-01", "view", values[1]]]
    log, found = read(write(tmp_path / "log.jsonl", rows, [*HEADER, "field"]))
    assert log.fields == {"field": kind}
    last = found[-1]["field"]
    assert (last.isoformat() if kind == "DATE" else last) == values[1]


def test_a_key_that_comes_late_in_json_lines_is_read(tmp_path):
    lines = ['{"user_id": 1, "event_time": "2024-01-01", "event_type": "view", "nothing": null}'] * MANY
    lines.append('{"user_id": 9, "event_time": "2024-01-01", "event_type": "view", "price": 2.5, "item": {"id": 7}}')
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    _, rows = read(tmp_path / "log.jsonl")
    assert rows[-1] | {"event_time": 0} == {
        "user_id": "9", "event_time": 0, "event_type": "view", "nothing": None, "price": 2.5, "item": {"id": 7}
    }  # fmt: skip


def test_quotes_that_come_late_in_csv_are_quotes(tmp_path):
    rows = [["u", "2024-01-01", "view", "plain"]] * MANY + [["z", "2024-01-01", "view", '"a ""b"", c\nd"']]
    log, found = read(write(tmp_path / "log.csv", rows, [*HEADER, "note"]))
    assert (found[-1]["note"], counted(log)) == ('a "b", c\nd', {})


def test_columns_of_csv_have_the_types_that_expressions_need(tmp_path):
    names = ["id", "day", "clock", "stamp", "cents", "gift"]
    path = write(tmp_path / "log.csv", [["u", "2024-01-31", "10:30:00", 1704067200, 250, "true"]], names)
    columns = {
        "user_id": "id",
        "event_time": "day + clock",
        "event_type": "CASE WHEN gift THEN 'gift' ELSE 'buy' END",
        "price": "cents / 100",
        "late": "to_timestamp(stamp) < day",
    }
    assert read(path, columns)[1] == [
        {"user_id": "u", "event_time": datetime(2024, 1, 31, 10, 30), "event_type": "gift", "price": 2.5, "late": True}
    ]


def test_a_file_without_a_header_and_one_of_text_alone_are_read(tmp_path):
    (tmp_path / "log.csv").write_text("u1,2024-01-01,view\nu2,2024-01-02,view\n")
    columns = {"user_id": "column0", "event_time": "column1", "event_type": "column2"}
    assert read(tmp_path / "log.csv", columns)[0].users == 2
    write(tmp_path / "log.csv", [["a", "1 Jan 2024", "view"], ["b", "2 Jan 2024", "view"]])
    assert read(tmp_path / "log.csv", time_format="%d %b %Y")[0].last == datetime(2024, 1, 2)


def test_a_column_has_one_type_in_all_files_of_a_glob(tmp_path):
    write(tmp_path / "1.csv", [["u", "2024-01-01", "view", "2024-01-31", 1]], [*HEADER, "day", "price"])
    write(tmp_path / "2.csv", [["u", "2024-01-01", "view", 2.5, "soon"]], [*HEADER, "price", "day"])
    write(tmp_path / "3.csv", [["u", "2024-01-01T00:00:00Z", "view"]])
    log, rows = read(tmp_path / "*.csv")
    assert log.fields == {"day": "VARCHAR", "price": "DOUBLE"}
    assert sorted((str(row["day"]), str(row["price"])) for row in rows) == [
        ("2024-01-31", "1.0"),
        ("None", "None"),
        ("soon", "2.5"),
    ]


def test_the_columns_of_a_file_to_be_scored_are_listed_without_reading_it_all(tmp_path):
    path = write(tmp_path / "log.csv", [["u", "2024-01-01", "view", 1]], ["visitor", *HEADER[1:], "price"])
    with connect() as con:
        source = file_source(con, str(path), {"user_id": "visitor"})
    assert source.columns == {"user_id": "visitor"} | {name: f'"{name}"' for name in (*HEADER[1:], "price")}


# Folders, names and missing values


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl", "log.parquet"])
@pytest.mark.parametrize(("key", "value"), [("day", date(2024, 1, 1)), ("year", 2024), ("shop", "north")])
def test_a_folder_of_key_and_value_is_a_column_of_its_type(tmp_path, name, key, value):
    folder = tmp_path / f"{key}={value}"
    folder.mkdir()
    if name.endswith("parquet"):
        pq.write_table(pa.table(dict(zip(HEADER, [["ann"], ["2024-01-01"], ["view"]], strict=True))), folder / name)
    else:
        write(folder / name, [["ann", "2024-01-01", "view"]])
    assert read(tmp_path / "*" / name)[1][0][key] == value
    columns = dict(zip(HEADER, HEADER, strict=True)) | {"also": key}
    assert read(tmp_path / "*" / name, columns)[1][0]["also"] == value


def test_keys_of_json_that_differ_by_case_are_refused_and_no_value_is_lost(tmp_path):
    rows = [dict.fromkeys(HEADER, "x") | {"event_time": "2024-01-01", shop: "north"} for shop in ("shop", "Shop")]
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    for columns in (None, dict(zip(HEADER, HEADER, strict=True)) | {"shop": "shop"}):
        with pytest.raises(InputError, match=r"the column Shop is there twice in .*log.jsonl; give each a name"):
            read(path, columns)
    path.write_text("\n".join(json.dumps({key.replace("Shop", "shop_1"): row[key] for key in row}) for row in rows))
    assert [(row["shop"], row["shop_1"]) for row in read(path)[1]] == [("north", None), (None, "north")]
    path.write_text(json.dumps(rows[0] | {"shop_1": None}))
    assert read(path)[1][0]["shop"] == "north"


def test_names_in_columns_that_differ_by_case_are_refused(tmp_path):
    path = write(tmp_path / "log.csv", [["ann", "2024-01-01", "view"]])
    columns = {"User_ID": "event_type"} | dict(zip(HEADER, HEADER, strict=True))
    with pytest.raises(InputError, match=r"data.sources\[0\].columns: the column user_id is there twice"):
        read(path, columns)


@pytest.mark.parametrize("kind", [pa.float64(), pa.float32()])
@pytest.mark.parametrize("way", ["path", "columns", "sql"])
def test_nan_in_parquet_whose_statistics_leave_it_out_is_no_value(tmp_path, kind, way):
    """DuckDB takes a column for free of NaN by them, and decides nullif, isnan and comparisons before it reads."""
    path = tmp_path / "log.parquet"
    numbers = pa.array([1.0, float("nan"), 3.0], kind)
    columns = {"user_id": numbers, "event_time": ["2024-01-01"] * 3, "event_type": ["view"] * 3, "amount": numbers}
    pq.write_table(pa.table(columns), path)
    names = [*HEADER, "amount"]
    source = {
        "path": Source(path=str(path)),
        "columns": Source(path=str(path), columns=dict(zip(names, names, strict=True)) | {"amount": "amount + 0"}),
        "sql": Source(sql=f"SELECT * FROM '{path}'"),
    }[way]
    with connect() as con:
        log = read_events(con, DataConfig([source], max_rejected=0.9))
        rows = con.sql("SELECT user_id, amount, amount > 2 FROM log ORDER BY ALL").fetchall()
    assert counted(log) == {"no user": 1}
    assert rows == [("1", 1.0, False), ("3", 3.0, True)]
