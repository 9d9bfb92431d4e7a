"""Broken files and databases as sources of a log."""

import gzip
import os
import pwd
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep import InputError
from data_prep.config import DataConfig, Source, TextField
from data_prep.connections import connect
from data_prep.event_log import EventLog
from data_prep.events import read_events
from data_prep.prepare import prepare

HEADER = "user_id,event_time,event_type,price\n"
LINES = "".join(f"u{i},2024-01-{i % 28 + 1:02d} 10:00:00,view,{i}\n" for i in range(100))


def read(folder: Path, name: str, **changes: object) -> tuple[EventLog, list[str]]:
    """The log of one file or glob, and the details of its rejected rows."""
    with connect() as con:
        log = read_events(con, DataConfig([Source(path=str(folder / name))], **changes), folder)
    path = folder / "rejected.parquet"
    return log, pq.read_table(path)["rejected_detail"].to_pylist() if path.is_file() else []


def message(data: DataConfig) -> str:
    """The refusal, which is one sentence without DuckDB's own words."""
    with connect() as con, pytest.raises(InputError) as error:
        read_events(con, data)
    text = str(error.value)
    assert text.startswith("data.sources[0]")
    for jargon in ("\n", "LINE 1", "Error:", "Candidate", "Possible", "Traceback"):
        assert jargon not in text
    assert len(text) < 500
    return text


def refused(path: Path) -> str:
    return message(DataConfig([Source(path=str(path))]))


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


@pytest.mark.parametrize("limit", ["-1", "-5GB", "none"])
def test_a_memory_limit_that_limits_nothing_is_refused(limit):
    with pytest.raises(InputError, match=rf"^data\.memory_limit: '{limit}' is no size; write one such as 4GB"):
        connect(limit)


def test_too_little_memory_is_named_as_such(tmp_path):
    columns = dict(zip(("user_id", "event_time", "event_type"), ("user_id", "event_time", "event_type"), strict=True))
    data = DataConfig([Source(path=str(shop_csv(tmp_path)), columns=columns)], memory_limit="1KB")
    with pytest.raises(InputError, match=r"^the memory does not suffice; raise data\.memory_limit"):  # noqa: SIM117
        with connect(data.memory_limit) as con:
            read_events(con, data)


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


# Databases

EVENTS = [("a", "2024-01-01 12:00:00", "view", None), ("b", "2024-01-02 00:00:00", "buy", 2.5)]
QUERY = "SELECT user_id, event_time, event_type, price FROM events"


def rows(data: DataConfig) -> list[tuple]:
    with connect() as con:
        read_events(con, data)
        return con.execute("SELECT user_id, event_time, event_type, price FROM log ORDER BY ALL").fetchall()


EXPECTED = [("a", datetime(2024, 1, 1, 12), "view", None), ("b", datetime(2024, 1, 2), "buy", 2.5)]


@pytest.fixture
def sqlite(tmp_path) -> Path:
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE events (user_id TEXT, event_time TEXT, event_type TEXT, price REAL)")
        connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?)", EVENTS)
    connection.close()
    return path


def test_sqlite_is_read_in_its_own_dialect(sqlite, tmp_path, monkeypatch):
    query = QUERY.replace("price FROM", "iif(price > 0, price, NULL) AS price FROM")
    assert rows(DataConfig([Source(sql=query, database=f"sqlite:///{sqlite}")])) == EXPECTED
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHOP", "shop")
    for address in ("sqlite:///shop.db", "sqlite:///${SHOP}.db"):
        assert rows(DataConfig([Source(sql=QUERY, database=address)])) == EXPECTED
    united = DataConfig([Source(sql=QUERY, database="sqlite:///shop.db"), Source(path=str(shop_csv(tmp_path)))])
    assert len(rows(united)) == 102


def shop_csv(folder: Path) -> Path:
    path = folder / "log.csv"
    path.write_text(HEADER + LINES)
    return path


def test_a_column_of_sqlite_may_be_empty_for_long(sqlite):
    with sqlite3.connect(sqlite) as connection:
        more = ((f"u{i}", "2024-01-01", "view", 0.5 if i > 9000 else None) for i in range(10_000))
        connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?)", more)
    connection.close()
    assert len(rows(DataConfig([Source(sql=QUERY, database=f"sqlite:///{sqlite}")]))) == 10_002


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"database": "mysql://host/shop"}, "starts with none of sqlite://, postgresql://"),
        ({"database": "sqlite:///none.db"}, "there is no file 'none.db'; write sqlite:///FILE"),
        ({"sql": "SELECT 1 FRM x"}, 'near "x": syntax error; check the address'),
        ({"sql": "SELEC 1"}, "SELEC 1 is no SELECT; ask for rows, by one statement that begins SELECT or WITH"),
        ({"sql": "SELECT * FROM nowhere"}, "no such table: nowhere; check"),
        ({"sql": "SELECT 1 AS user_id"}, "has no column event_time and no column event_type (it has user_id)"),
        ({"sql": None, "path": "log.csv"}, "`database` needs the query to run there as `sql`"),
        ({"sql": None}, "needs either `sql` or `path`"),
        ({"database": "sqlite:///${NO_SUCH_NAME}"}, "${NO_SUCH_NAME} is not set"),
    ],
)
def test_a_database_that_cannot_be_asked_is_refused(sqlite, change, reason):
    assert reason in message(DataConfig([Source(**({"sql": QUERY, "database": f"sqlite:///{sqlite}"} | change))]))


def test_a_file_that_is_no_database_and_a_missing_driver_are_refused(sqlite, monkeypatch):
    data = DataConfig([Source(sql=QUERY, database=f"sqlite:///{sqlite}")])
    sqlite.write_text("no database" * 100)
    assert "file is not a database" in message(data)
    monkeypatch.setitem(sys.modules, "adbc_driver_sqlite.dbapi", None)
    assert "pip install -e '.[databases]'" in message(data)


def test_a_database_is_prepared_each_time(shop, tmp_path):
    with sqlite3.connect(tmp_path / "shop.db") as connection:
        connection.execute("CREATE TABLE events (user_id, event_time, event_type, price)")
        log = [(row["user_id"], str(row["event_time"]), row["event_type"], None) for row in shop.regulars()]
        connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?)", log)
    connection.close()
    source = Source(sql=QUERY, database=f"sqlite:///{tmp_path / 'shop.db'}")
    data, text = DataConfig([source], folder=str(tmp_path)), shop.text(fields={"event_type": TextField(top=3)})
    stamps = [(prepare("shop", data, shop.task(), text) / "manifest.json").stat().st_mtime_ns for _ in range(2)]
    assert stamps[0] < stamps[1]


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """The address of a server of our own without the user, whose password is s3cret-w0rd."""
    binaries = [*Path("/usr/lib/postgresql").glob("*/bin/initdb"), Path(shutil.which("initdb") or "initdb")]
    if not binaries[0].is_file():
        pytest.skip("PostgreSQL's initdb is not installed")
    folder = Path(tempfile.mkdtemp(prefix="eventscribe-"))  # pytest's own folders are closed to other users
    (folder / "password").write_text("s3cret-w0rd")
    as_user = {"stdout": subprocess.DEVNULL, "check": True, "cwd": folder}
    if os.getuid() == 0:  # as which PostgreSQL does not run
        owner = pwd.getpwnam("postgres")
        for path in (folder, folder / "password"):
            os.chown(path, owner.pw_uid, owner.pw_gid)
        as_user |= {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = ["-D", str(folder / "data")]
    options = ["--auth=scram-sha-256", "--username=shop", "--pwfile=password", "--encoding=UTF8", "--no-sync"]
    subprocess.run([binaries[0], *data, *options], **as_user)
    control = [binaries[0].with_name("pg_ctl"), *data, "-w", "-l", "log"]
    settings = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
    subprocess.run([*control, "-o", settings, "start"], **as_user)
    yield f"127.0.0.1:{port}/postgres"
    subprocess.run([*control, "-m", "immediate", "stop"], **as_user)
    shutil.rmtree(folder)


@pytest.fixture
def shop_postgresql(postgresql, monkeypatch) -> str:
    """The address with the password in the environment; the database has the events in many types."""
    from adbc_driver_postgresql import dbapi

    monkeypatch.setenv("SHOP_PASSWORD", "s3cret-w0rd")
    with dbapi.connect(f"postgresql://shop:s3cret-w0rd@{postgresql}") as connection, connection.cursor() as cursor:
        for sql in (
            "DROP TABLE IF EXISTS events",
            """CREATE TABLE events (user_id VARCHAR(9), event_time TIMESTAMP, at TIMESTAMPTZ, day DATE, event_type TEXT,
               price NUMERIC(10, 2), tags TEXT[])""",
            """INSERT INTO events VALUES
               ('a', '2024-01-01 12:00', '2024-01-01 12:00+01', '2024-01-01', 'view', NULL, '{x,y}'),
               ('b', '2024-01-02 00:00', '2024-01-02 00:00+01', '2024-01-02', 'buy', 2.5, NULL)""",
        ):
            cursor.execute(sql)
        connection.commit()
    return f"postgresql://shop:${{SHOP_PASSWORD}}@{postgresql}"


def test_postgresql_is_read_with_its_types(shop_postgresql, monkeypatch):
    source = Source(sql="SELECT * FROM events", database=shop_postgresql)
    assert rows(DataConfig([source], trust_sql=True)) == EXPECTED
    with connect() as con:
        fields = read_events(con, DataConfig([source], trust_sql=True)).fields
    assert fields["price"] == "DOUBLE"
    assert fields["tags"] == "VARCHAR[]"
    monkeypatch.setenv("PGPASSWORD", "s3cret-w0rd")
    without = shop_postgresql.replace(":${SHOP_PASSWORD}", "")
    assert rows(DataConfig([Source(sql="SELECT * FROM events", database=without)], trust_sql=True)) == EXPECTED


@pytest.mark.parametrize(
    ("time", "utc"),
    [
        ("event_time", datetime(2024, 1, 1, 11)),
        ("at", datetime(2024, 1, 1, 11)),
        ("day", datetime(2023, 12, 31, 23)),
        ("extract(epoch FROM at)", datetime(2024, 1, 1, 11)),  # NUMERIC
    ],
)
def test_times_of_postgresql_keep_their_zone(shop_postgresql, time, utc):
    sql = f"SELECT user_id, {time} AS event_time, event_type FROM events WHERE user_id = 'a'"
    unit = "seconds" if "epoch" in time else None
    data = DataConfig(
        [Source(sql=sql, database=shop_postgresql, time_unit=unit)], timezone="Europe/Berlin", trust_sql=True
    )
    with connect() as con:
        assert read_events(con, data).first == utc


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        ("wr0ng-password", 'password authentication failed for user "shop"; check the address'),
        ("s3cret/w0rd", "special characters of the password as %XX"),
        ("s3cret@w0rd", "special characters of the password as %XX"),
        ("s3cret:w0rd", "special characters of the password as %XX"),
        ("s3cret%w0rd", "special characters of the password as %XX"),
    ],
)
def test_a_failed_login_tells_nothing_of_the_password(shop_postgresql, monkeypatch, capfd, password, reason):
    monkeypatch.setenv("SHOP_PASSWORD", password)
    text = message(DataConfig([Source(sql="SELECT * FROM events", database=shop_postgresql)], trust_sql=True))
    assert reason in text
    shown = text + "".join(capfd.readouterr())
    assert not any(part in shown for part in (password, "s3cret", "w0rd", "wr0ng"))


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("SELECT 1 FRM x", 'syntax error at or near "x"; check the address'),
        ("SELECT * FROM nowhere", 'relation "nowhere" does not exist; check'),
        ("SELECT user_id, event_time, event_type, 1 / (price - 2.5) AS price FROM events", "division by zero"),
        ("DELETE FROM events", "DELETE FROM events is no SELECT; ask for rows"),
        ("SELECT * FROM events; DROP TABLE events", "cannot insert multiple commands into a prepared statement"),
        ("DELETE FROM events RETURNING *", "is no SELECT"),
    ],
)
def test_sql_that_postgresql_refuses_is_refused_and_changes_nothing(shop_postgresql, sql, reason):
    assert reason in message(DataConfig([Source(sql=sql, database=shop_postgresql)], trust_sql=True))
    assert rows(DataConfig([Source(sql="SELECT * FROM events", database=shop_postgresql)], trust_sql=True)) == EXPECTED


def test_a_server_that_does_not_answer_is_refused():
    text = message(DataConfig([Source(sql="SELECT 1", database="postgresql://shop@127.0.0.1:1/shop")], trust_sql=True))
    assert "Connection refused; check the address" in text


def test_a_password_that_would_be_saved_is_refused(monkeypatch):
    monkeypatch.delenv("P", raising=False)
    for database, variables in (
        ("postgresql://shop:word@127.0.0.1:1/shop", {}),
        ("postgresql://shop:${P}@127.0.0.1:1/shop", {"P": "word"}),
        ("${P}", {"P": "postgresql://shop:word@127.0.0.1:1/shop"}),
    ):
        text = message(DataConfig([Source(sql="SELECT 1", database=database)], variables=variables))
        assert "the password would be saved with the data; write ${NAME} for it" in text
        assert "word@" not in text


def test_no_file_of_the_output_has_the_password(shop, shop_postgresql, tmp_path):
    sql = """SELECT u AS user_id, timestamp '2024-01-01 12:00' + d * interval '1 day' AS event_time,
                    CASE u WHEN 'buyer' THEN 'purchase' ELSE 'view' END AS event_type
             FROM generate_series(0, 89) d, (VALUES ('buyer'), ('looker')) users(u)"""
    data = DataConfig([Source(sql=sql, database=shop_postgresql)], folder=str(tmp_path), trust_sql=True)
    folder = prepare("shop", data, shop.task(), shop.text(fields={"event_type": TextField(top=3)}, header=["recency"]))
    assert "${SHOP_PASSWORD}" in (folder / "manifest.json").read_text()
    assert not any(b"s3cret" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


# Files within the SQL of a source


@pytest.mark.parametrize(
    ("read", "said"),
    [
        ("'{}/log.csv'", "use read_csv(..., all_varchar = true)"),
        ("read_csv('{}/log.csv')", "the types in read_csv(...) are guessed from its first rows"),
        ("read_csv('{}/log.csv', all_varchar = false)", "the types in read_csv(...) are guessed"),
        ("(SELECT * FROM (FROM '{}/log.csv') WHERE true)", "log.csv' are guessed from its first rows"),
        ("'{}/log.jsonl'", "use read_json(..., columns = {...})"),
        ("read_json('{}/log.jsonl')", "the types in read_json(...) are guessed"),
        ("read_csv('{}/log.csv', all_varchar = true)", None),
        ("read_csv_auto('{}/log.csv', all_varchar := true)", None),
        ("read_csv('{}/log.csv', types = {{'user_id': 'VARCHAR'}})", None),
        ("read_json('{}/log.jsonl', columns = {{user_id: 'TEXT', event_time: 'TEXT', event_type: 'TEXT'}})", None),
    ],
)
@pytest.mark.parametrize("trust", [False, True])
def test_files_of_text_that_sql_reads_in_guessed_types_are_warned_of(tmp_path, read, said, trust):
    (tmp_path / "log.csv").write_text("user_id,event_time,event_type\n01-01-20,2024-01-01,view\n")
    (tmp_path / "log.jsonl").write_text('{"user_id": "a", "event_time": "2024-01-01", "event_type": "view"}\n')
    data = DataConfig([Source(sql=f"SELECT * FROM {read.format(tmp_path)}")], trust_sql=trust)
    with connect() as con:
        notes = read_events(con, data).notes
    assert [said in note and note.startswith("warning: data.sources[0]: ") for note in notes] == [True] * bool(said)
