"""User ids and event types stay as they are written, in training and in scoring."""

from datetime import datetime

import pandas as pd
import pytest

from data_prep import InputError
from data_prep.connections import connect
from data_prep.events import read_events
from data_prep.serving import as_sources
from tests.data_prep.written_logs import FORMATS, HEADER, counted, read, write

FRACTION, NOBODY = (
    "a user id that is a fraction or a rounded number",
    "a user id that stands for nobody (nan, None, null)",
)


@pytest.mark.parametrize(
    "mapped", [None, dict(zip(HEADER, HEADER, strict=True)), {"user_id": "CAST(user_id AS VARCHAR)"}]
)
def test_ids_and_event_types_of_csv_stay_as_they_are_written(tmp_path, mapped):
    ids = [
        "1e5",
        "10e4",
        "4e15",
        "007",
        "7",
        "01-01-20",
        "00:01",
        "2024-1-5",
        "true",
        "0x1F",
        "1_000",
        "12345678901234567890",
    ]
    path = write(tmp_path / "log.csv", [[value, "2024-01-01", value] for value in ids])
    columns = mapped and dict(zip(HEADER, HEADER, strict=True)) | mapped
    _, rows = read(path, columns)
    assert [row["user_id"] for row in rows] == [row["event_type"] for row in rows] == sorted(ids)


def test_ids_of_json_lines_are_kept_whether_they_are_numbers_or_text(tmp_path):
    ids = [7, "a1", "007", 12345678901234567890, "01-01-20", "00:01", "1e5"]
    _, rows = read(write(tmp_path / "log.jsonl", [[value, "2024-01-01", "view"] for value in ids]))
    assert [row["user_id"] for row in rows] == sorted(str(value) for value in ids)


@FORMATS
def test_whole_floats_are_the_integer_and_rounded_ones_nobody(tmp_path, name):
    ids = [123.0, 9007199254740991.0, 9007199254740993.0, 2.5, 4.00012e15, 1e16]
    path = write(tmp_path / name, [[value, "2024-01-01", "view"] for value in ids])
    log, rows = read(path)
    assert [row["user_id"] for row in rows] == ["123", "4000120000000000", "9007199254740991"]
    assert counted(log) == {FRACTION: 3}
    assert "12346.0 is read as the user 12346" in log.notes[0]


@FORMATS
def test_a_float_among_ids_that_are_text_is_told(tmp_path, name):
    log, rows = read(write(tmp_path / name, [[user, "2024-01-01", "view"] for user in ("ann", "12346.0", "12346")]))
    assert [row["user_id"] for row in rows] == ["12346", "12346", "ann"]
    assert "12346.0 is read as the user 12346" in log.notes[0]


@pytest.mark.parametrize(
    ("user", "why"), [("4.00012E+15", FRACTION), ("1e+16", FRACTION), ("nan", NOBODY), ("None", NOBODY)]
)
def test_what_a_spreadsheet_or_pandas_wrote_for_an_id_is_rejected(tmp_path, user, why):
    log, _ = read(write(tmp_path / "log.csv", [["ann", "2024-01-01", "view"], [user, "2024-01-01", "view"]]))
    assert counted(log) == {why: 1}


@pytest.mark.parametrize("user", ["ann.lee@shop.example", "+491234567", "10.0.0.1", "v1.2.3", "6.02e23.x"])
def test_ids_with_points_and_signs_are_text(tmp_path, user):
    _, rows = read(write(tmp_path / "log.csv", [[user, "2024-01-01", "view"]]))
    assert [row["user_id"] for row in rows] == [user]


def test_arithmetic_over_ids_of_csv_still_works_where_all_are_plain_integers(tmp_path):
    columns = dict(zip(HEADER, HEADER, strict=True)) | {"user_id": "user_id + 1_000"}
    assert read(write(tmp_path / "log.csv", [[7, "2024-01-01", "view"]]), columns)[1][0]["user_id"] == "1007"
    with pytest.raises(InputError, match="No function matches"):
        read(write(tmp_path / "log.csv", [["007", "2024-01-01", "view"]]), columns)


@pytest.mark.parametrize("give", ["frame", "dicts", "csv", "parquet"])
def test_the_ids_and_zones_of_events_to_be_scored_are_read_as_in_training(tmp_path, give):
    users, times = [12346.0, 2.0**53, None], ["2024-01-01T00:00:00", "2024-01-01T00:00:00-05:00", "2024-01-01"]
    frame = pd.DataFrame({"user_id": users, "event_time": times, "event_type": "view"})
    frame.to_csv(tmp_path / "log.csv", index=False)
    frame.to_parquet(tmp_path / "log.parquet", index=False)
    given = {"frame": frame, "dicts": frame.astype(object).where(frame.notna(), None).to_dict("records")}
    with connect() as con:
        data = as_sources(con, given.get(give, tmp_path / f"log.{give}"))
        data.max_rejected = 0.9
        log = read_events(con, data)
        assert con.sql("SELECT user_id, event_time FROM log").fetchall() == [("12346", datetime(2024, 1, 1))]
    assert counted(log) == {FRACTION: 1, "no user": 1}


@FORMATS
def test_only_whole_floats_among_the_ids_are_said_to_be_read_as_integers(tmp_path, name):
    codes = ["1e5", "10e4"] if name == "log.csv" else [1.5, 2.5]
    log, _ = read(write(tmp_path / name, [[user, "2024-01-01", "view"] for user in [*codes, *codes, "ann"]]))
    assert [note for note in log.notes if "floats" in note] == []
