"""Databases as sources of a log."""

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

import pytest

from data_prep import InputError
from data_prep.config import DataConfig, Source, TextField
from data_prep.connections import connect
from data_prep.events import read_events
from data_prep.prepare import prepare
from tests.data_prep.small_files import message, shop_csv

EVENTS = [("a", "2024-01-01 12:00:00", "view", None), ("b", "2024-01-02 00:00:00", "buy", 2.5)]

QUERY = "SELECT user_id, event_time, event_type, price FROM events"
TRUSTED = {"trust_sql": True, "environment": ["SHOP_PASSWORD"]}


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
        assert rows(DataConfig([Source(sql=QUERY, database=address)], environment=["SHOP"])) == EXPECTED
    united = DataConfig([Source(sql=QUERY, database="sqlite:///shop.db"), Source(path=str(shop_csv(tmp_path)))])
    assert len(rows(united)) == 102


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
        ({"database": "sqlite:///${NO_SUCH_NAME}"}, "${NO_SUCH_NAME} is neither in data.variables nor"),
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
    assert rows(DataConfig([source], **TRUSTED)) == EXPECTED
    with connect() as con:
        fields = read_events(con, DataConfig([source], **TRUSTED)).fields
    assert fields["price"] == "DOUBLE"
    assert fields["tags"] == "VARCHAR[]"
    monkeypatch.setenv("PGPASSWORD", "s3cret-w0rd")
    without = shop_postgresql.replace(":${SHOP_PASSWORD}", "")
    assert rows(DataConfig([Source(sql="SELECT * FROM events", database=without)], **TRUSTED)) == EXPECTED


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
        [Source(sql=sql, database=shop_postgresql, time_unit=unit)],
        timezone="Europe/Berlin",
        **TRUSTED,
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
    text = message(
        DataConfig(
            [Source(sql="SELECT * FROM events", database=shop_postgresql)],
            **TRUSTED,
        )
    )
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
    assert reason in message(DataConfig([Source(sql=sql, database=shop_postgresql)], **TRUSTED))
    assert (
        rows(
            DataConfig(
                [Source(sql="SELECT * FROM events", database=shop_postgresql)],
                **TRUSTED,
            )
        )
        == EXPECTED
    )


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
    data = DataConfig([Source(sql=sql, database=shop_postgresql)], folder=str(tmp_path), **TRUSTED)
    folder = prepare("shop", data, shop.task(), shop.text(fields={"event_type": TextField(top=3)}, header=["recency"]))
    assert "${SHOP_PASSWORD}" in (folder / "manifest.json").read_text()
    assert not any(b"s3cret" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("ATTACH 'x.db' AS x", "is no SELECT"),
        (";ATTACH 'x.db' AS x", "is no SELECT"),
        ("\ufeffATTACH 'x.db' AS x", "is no SELECT"),
        ("/* */ ; -- SELECT\n ATTACH 'x.db' AS x", "is no SELECT"),
        ("-- SELECT\nPRAGMA user_version = 7", "is no SELECT"),
        ("VACUUM INTO 'x.db'", "is no SELECT"),
        ("EXPLAIN SELECT 1", "is no SELECT"),
        ("DELETE FROM ev RETURNING *", "is no SELECT"),
        ("INSERT INTO ev SELECT * FROM ev RETURNING *", "is no SELECT"),
        ("WITH a AS (SELECT 1) DELETE FROM ev RETURNING *", "attempt to write a readonly database"),
        ("SELECT * FROM ev; DROP TABLE ev", "is more than one statement; give one SELECT"),
        ("SELECT 'a''b' FROM ev; DROP TABLE \"a'\"", "is more than one statement"),
        ("SELECT * FROM ev\0; DROP TABLE ev", "is more than one statement"),
    ],
)
def test_sqlite_gets_nothing_but_one_select_and_cannot_write(tmp_path, monkeypatch, statement, reason):
    with sqlite3.connect(tmp_path / "shop.db") as database:
        database.execute("CREATE TABLE ev (user_id, event_time, event_type)")
        database.execute("INSERT INTO ev VALUES ('a', '2024-01-01', 'view')")
    database.close()
    before = (tmp_path / "shop.db").read_bytes()
    monkeypatch.chdir(tmp_path)
    data = DataConfig([Source(sql=statement, database="sqlite:///shop.db")])
    with connect() as con, pytest.raises(InputError, match=reason):
        read_events(con, data)
    assert os.listdir(tmp_path) == ["shop.db"]
    assert (tmp_path / "shop.db").read_bytes() == before


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM ev",
        "-- one; two\n/* a; b */ with t AS (SELECT * FROM ev) SELECT * FROM t ; ; ",
        "SELECT user_id, event_time, ';' || \"a;b\" AS event_type FROM (SELECT *, 'x' AS \"a;b\" FROM ev)",
    ],
)
def test_sqlite_answers_one_select_from_a_file_of_any_name(tmp_path, statement):
    with sqlite3.connect(tmp_path / "a b#?%41é.db") as database:
        database.execute("CREATE TABLE ev (user_id, event_time, event_type)")
        database.execute("INSERT INTO ev VALUES ('a', '2024-01-01', 'view')")
    database.close()
    with connect() as con:
        data = DataConfig([Source(sql=statement, database=f"sqlite:///{tmp_path}/a b#?%41é.db")])
        assert read_events(con, data).events == 1


def test_an_address_of_a_database_needs_the_owners_trust(monkeypatch):
    monkeypatch.setenv("EVENTSCRIBE_SECRET", "s3cret")
    data = DataConfig([Source(sql="SELECT 1", database="postgresql://u:${EVENTSCRIBE_SECRET}@example.org/x")])
    data.environment = ["EVENTSCRIBE_SECRET"]
    with connect() as con, pytest.raises(InputError, match=r"postgresql:// is an address.*data\.trust_sql") as refusal:
        read_events(con, data)
    assert "s3cret" not in str(refusal.value)
