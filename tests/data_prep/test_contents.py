"""Files that cannot be read, as a whole or in some lines, as logs."""

import gzip
import os
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep import InputError
from data_prep.config import DataConfig, Source
from data_prep.connections import connect
from data_prep.events import read_events
from tests.data_prep.small_files import HEADER, LINES, message, read, refused, shop_csv

# Lines of CSV files that cannot be read


@pytest.mark.parametrize("line", ['x,2024-01-01 10:00:00,"view,1\n', '"x,2024-01-01 10:00:00,view,1\n'])
@pytest.mark.parametrize("behind", ["", LINES], ids=["last", "middle"])
def test_a_quote_that_is_never_closed_is_named_with_its_line(tmp_path, line, behind):
    path = tmp_path / "log.csv"
    for times in (1, 60):  # of a long file DuckDB looks at the beginning alone
        path.write_text(HEADER + LINES * times + line + behind * times)
        if times == 1 or behind:
            with connect() as con, pytest.raises(InputError) as error:
                read_events(con, DataConfig([Source(path=str(path))], max_rejected=1))
            said = (
                f'{path}, line {100 * times + 2}: the quote (") that opens there is not closed in its value; close it'
            )
            assert said in str(error.value)
        else:  # hides nothing but itself
            log, details = read(tmp_path, "log.csv")
            assert (log.events, len(details)) == (100 * times, 1)


@pytest.mark.parametrize("content", ["", "\n\n", "[]", "{}", "[1, 2]", "{}\n{}\n"])
def test_json_without_an_event_is_refused_as_such(tmp_path, content):
    (tmp_path / "log.jsonl").write_text(content)
    assert "log.jsonl holds no event, which is an object such as {" in refused(tmp_path / "log.jsonl")


def test_a_key_that_is_called_json_is_a_column(tmp_path):
    event = '{"json": {"u": "a", "t": "2024-01-01", "e": "view"}}\n'
    (tmp_path / "log.jsonl").write_text(event)
    columns = {"user_id": "json.u", "event_time": "json.t", "event_type": "json.e"}
    with connect() as con:
        assert read_events(con, DataConfig([Source(path=f"{tmp_path}/log.jsonl", columns=columns)])).events == 1


def test_a_glob_without_an_ending_is_told_to_have_one(tmp_path):
    shop_csv(tmp_path)
    (tmp_path / "log2.csv.gz").write_bytes(gzip.compress((HEADER + LINES).encode()))
    assert "end it with theirs, as in *.csv" in refused(tmp_path / "log*csv*")


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz", "log.tsv"])
def test_a_line_with_too_few_or_too_many_columns_is_rejected_with_its_number(tmp_path, name):
    text = HEADER + LINES + "x,2024-01-01 10:00:00,view\ny,2024-01-01 10:00:00,view,1,2\n" + LINES
    text = text.replace(",", "\t") if name == "log.tsv" else text
    (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    log, details = read(tmp_path, name)
    assert (log.events, log.rejected["a line that cannot be read"]) == (200, 2)
    assert details == [
        f"{tmp_path / name}, line {line}: Expected Number of Columns: 4 Found: {found}"
        for line, found in ((102, 3), (103, 5))
    ]


def test_a_value_of_another_type_behind_the_first_thousands_is_rejected(tmp_path):
    (tmp_path / "log.csv").write_text(HEADER + LINES * 300 + "x,2024-01-01 10:00:00,view,n/a\ny,never,view,1\n")
    log, details = read(tmp_path, "log.csv")
    assert (log.events, log.rejected["a line that cannot be read"]) == (30_000, 1)
    assert log.rejected["a time that does not parse"] == 1
    assert log.fields == {"price": "BIGINT"}
    assert details == [
        "event_time never",
        f"{tmp_path / 'log.csv'}, line 30002: Could not convert string \"n/a\" to 'BIGINT'",
    ]


def test_a_broken_first_line_does_not_hide_the_columns(tmp_path):
    (tmp_path / "log.csv").write_text(HEADER + "x,2024-01-01 10:00:00\n" + LINES)
    log, details = read(tmp_path, "log.csv")
    assert (log.events, len(details)) == (100, 1)
    assert ", line 2: " in details[0]


def test_a_glob_has_the_types_of_all_its_files_whether_or_not_their_headers_are_equal(tmp_path):
    (tmp_path / "1.csv").write_text(HEADER + LINES)
    (tmp_path / "2.csv").write_text(HEADER + LINES.replace("\n", ".5\n") + "z,2024-01-01\n")
    (tmp_path / "3.csv").write_text(HEADER)  # a day without an event
    (tmp_path / "4.csv").write_text("shop,event_type,user_id,event_time\nnorth,buy,a,2024-02-01\nnorth,buy\n")
    log, details = read(tmp_path, "*.csv")
    assert (log.events, log.last) == (201, datetime(2024, 2, 1))
    assert log.fields == {"price": "DOUBLE", "shop": "VARCHAR"}
    assert [detail.removeprefix(f"{tmp_path}/").split(":")[0] for detail in details] == [
        "2.csv, line 102",
        "4.csv, line 3",
    ]


def test_more_broken_lines_than_the_share_stop_with_file_and_line(tmp_path):
    (tmp_path / "log.csv").write_text(HEADER + LINES + "x,2024-01-01 10:00:00\n")
    with pytest.raises(InputError, match=rf"1 of 101 rows .* \(such as {tmp_path}/log.csv, line 102: Expected"):
        read(tmp_path, "log.csv", max_rejected=0.0)


def test_a_few_lines_in_another_encoding_are_rejected(tmp_path):
    (tmp_path / "log.csv").write_bytes((HEADER + LINES).encode() + "é,2024-01-01 10:00:00,view,1\n".encode("latin-1"))
    log, details = read(tmp_path, "log.csv")
    assert log.events == 100
    assert "line 102: Invalid unicode" in details[0]


@pytest.mark.parametrize(
    ("time", "utc"),
    [
        ("2024-07-01 00:30:00", datetime(2024, 6, 30, 22, 30)),
        ("2024-07-01 00:30:00 UTC", datetime(2024, 7, 1, 0, 30)),
        ("2024-07-01T00:30:00Z", datetime(2024, 7, 1, 0, 30)),
        ("2024-07-01T00:30:00.250000+05:00", datetime(2024, 6, 30, 19, 30, 0, 250000)),
        ("2024-07-01", datetime(2024, 6, 30, 22)),
    ],
)
def test_times_of_files_are_in_data_timezone_unless_they_name_a_zone(tmp_path, time, utc):
    (tmp_path / "log.csv").write_text(HEADER + f"a,{time},view,1\n")
    assert read(tmp_path, "log.csv", timezone="Europe/Berlin")[0].first == utc
    (tmp_path / "log.jsonl").write_text(f'{{"user_id": 1, "event_time": "{time}", "event_type": "view"}}\n')
    assert read(tmp_path, "log.jsonl", timezone="Europe/Berlin")[0].first == utc


def test_folders_of_key_and_value_give_a_column(tmp_path):
    for shop in ("north", "south"):
        (tmp_path / f"shop={shop}").mkdir()
        (tmp_path / f"shop={shop}" / "log.csv").write_text(HEADER + LINES)
    assert read(tmp_path, "*/log.csv")[0].fields == {"price": "BIGINT", "shop": "VARCHAR"}


# Files that cannot be read


@pytest.mark.parametrize("content", [b"PAR1", b"PAR1" + bytes(100) + b"PAR1", b"user_id,event_time\n1,2\n"])
def test_a_broken_parquet_file_is_named(shop, content):
    path = shop.folder() / "log.parquet"
    path.write_bytes(content)
    assert f"check the file {path}" in refused(path)


def test_a_truncated_parquet_file_is_named(shop):
    path = shop.write([shop.event("a", 0)] * 1000)
    path.write_bytes(path.read_bytes()[:-20])
    assert f"check the file {path}" in refused(path)


def test_a_parquet_file_with_damaged_pages_is_named(shop):
    path = shop.folder() / "log.parquet"
    times = pa.array([shop.day(i / 100) for i in range(5000)], pa.timestamp("us"))
    users = pa.array([f"user {i * 7919 % 5000}" for i in range(5000)])
    table = pa.table({"user_id": users, "event_time": times, "event_type": ["view"] * 5000})
    pq.write_table(table, path, compression="zstd", use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[100:2000] = bytes(1900)
    path.write_bytes(content)
    assert f"check the file {path}" in refused(path)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("2.csv", b"", "is empty; give it a header or take it away"),
        ("2.csv.gz", gzip.compress(b"", mtime=0), "is empty; give it a header or take it away"),
        ("2.csv", bytes(range(256)) * 10, "is no text, as it has NUL bytes; export"),
        ("2.csv", (HEADER + LINES).encode("utf-16"), "in UTF-16; convert it, as in `iconv -f UTF-16 -t UTF-8`"),
        ("2.csv", (HEADER + LINES).encode("utf-16-le"), "`iconv -f UTF-16LE -t UTF-8`"),
        ("2.csv", (HEADER + LINES).encode("utf-16-be"), "`iconv -f UTF-16BE -t UTF-8`"),
        ("2.csv", (HEADER + LINES).encode("utf-32"), "`iconv -f UTF-32 -t UTF-8`"),
        ("2.jsonl", '{"user_id": 1}'.encode("utf-16"), "`iconv -f UTF-16 -t UTF-8`"),
        ("2.csv", b"PAR1...PAR1", "is no text but a Parquet file; name it .parquet"),
        ("2.csv", b"PK\x03\x04...", "a zip archive or a workbook (xlsx); unpack it, or save its sheet as CSV"),
        ("2.csv", gzip.compress(b"a", mtime=0), "is no text but compressed by gzip; let its name end with .gz"),
        ("2.csv", "usér,event_time\n1,2\n".encode("latin-1"), "is not text in UTF-8; convert it"),
        ("2.csv.gz", b"not gzip", "cannot be read (Not a gzipped file"),
        ("2.csv.gz", gzip.compress((HEADER + LINES * 500).encode(), mtime=0)[:-9], "Unexpected end of GZIP stream"),
        ("2.parquet", b"", "too small to be a Parquet file"),
        ("2.parquet", os.urandom(1000), "No magic bytes found"),
        ("2.jsonl", b'{"user_id": 1}\n{"user_id"', "Malformed JSON in file"),
        ("2.jsonl.gz", gzip.compress(b'{"user_id": 1}\n' * 999, mtime=0)[:-9], "cannot be read (Compressed file ended"),
        ("2.jsonl", '{"user_id": 1}\n{"user_id": "é"}'.encode("latin-1"), "`iconv -f LATIN1 -t UTF-8`"),
    ],
)
def test_one_file_of_a_glob_that_cannot_be_read_is_named(shop, tmp_path, name, content, reason):
    suffix = name.removeprefix("2")
    good = HEADER + LINES if "csv" in suffix else '{"user_id": 1, "event_time": "2024-01-01", "event_type": "a"}'
    if suffix == ".parquet":
        shop.write([shop.event("a", 0)], tmp_path / f"1{suffix}")
    else:
        (tmp_path / f"1{suffix}").write_bytes(gzip.compress(good.encode()) if "gz" in suffix else good.encode())
    (tmp_path / name).write_bytes(content)
    text = refused(tmp_path / f"*{suffix}")
    assert reason in text
    assert str(tmp_path / name) in text


def test_a_file_without_the_right_to_read_it_is_named(tmp_path, monkeypatch):
    path = tmp_path / "log.csv"
    path.write_text(HEADER + LINES)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)  # root may read everything
    assert f"{path} cannot be read ([Errno 13] Permission denied" in refused(path)


@pytest.mark.parametrize("name", ["logs", "logs.csv"])
def test_a_folder_is_no_file(tmp_path, name):
    (tmp_path / name).mkdir()
    text = refused(tmp_path / name)
    assert f"no file matches '{tmp_path / name}'" in text
    assert "FOLDER/*.parquet" in text


def test_a_broken_file_that_sql_reads_is_named(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(HEADER + LINES * 300 + "x,2024-01-01 10:00:00,view,n/a\n")
    text = message(DataConfig([Source(sql=f"SELECT * FROM '{path}'")]))
    assert text.startswith(f"data.sources[0]: {path}: CSV Error on line 30002")
    assert "x,2024" not in text  # the line itself
    assert text.endswith("; check the SQL and what it reads")
