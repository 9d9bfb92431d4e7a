import os

import duckdb
import pytest

from data_prep import InputError
from data_prep.config import DataConfig, Source
from data_prep.connections import connect, lock_down
from data_prep.events import read_events
from tests.data_prep.small_files import shop_csv


def test_an_unreadable_memory_limit_is_refused():
    with pytest.raises(InputError, match=r"data\.memory_limit: .*4GB"):
        connect("plenty")


@pytest.mark.parametrize("limit", ["-1", "-5GB", "none"])
def test_a_memory_limit_that_limits_nothing_is_refused(limit):
    with pytest.raises(InputError, match=rf"^data\.memory_limit: '{limit}' is no size; write one such as 4GB"):
        connect(limit)


def test_too_little_memory_is_named_as_such(tmp_path):
    columns = dict(zip(("user_id", "event_time", "event_type"), ("user_id", "event_time", "event_type"), strict=True))
    data = DataConfig([Source(path=str(shop_csv(tmp_path)), columns=columns)], memory_limit="1KB")
    with pytest.raises(InputError, match=r"^the memory does not suffice; raise memory_limit"):  # noqa: SIM117
        with connect(data.memory_limit) as con:
            read_events(con, data)


def test_a_locked_connection_spills_and_writes_in_its_folder_and_reaches_nothing_else(tmp_path):
    with connect("60MB", tmp_path / "spill") as con:
        con.execute("SET threads = 1")
        (tmp_path / "own").mkdir()
        lock_down(con, [tmp_path / "own"])
        con.execute(
            "CREATE TABLE big AS SELECT md5(i::VARCHAR) AS a, md5((i + 1)::VARCHAR) AS b FROM range(1000000) t(i)"
        )
        assert con.execute("SELECT sum(size) FROM duckdb_temporary_files()").fetchall()[0][0] > 0
        con.execute(f"COPY (SELECT 1 AS x) TO '{tmp_path}/own/x.parquet'")
        assert con.execute(f"FROM '{tmp_path}/own/*.parquet'").fetchall() == [(1,)]
        for sql in (
            f"COPY (SELECT 1) TO '{tmp_path}/x.csv'",
            f"COPY (SELECT 1) TO '{tmp_path}/own/../x.csv'",
            f"FROM read_text('{__file__}')",
            "ATTACH 'x.db'",
            "INSTALL httpfs",
            "LOAD httpfs",
            "FROM 'https://example.org/x.csv'",
            "SET enable_external_access = true",
            "SET lock_configuration = false",
            f"SET allowed_directories = ['{tmp_path}']",
            f"SET temp_directory = '{tmp_path}'",
        ):
            with pytest.raises(duckdb.Error, match=r"disabled|locked|Cannot|cannot"):
                con.execute(sql)
    assert sorted(os.listdir(tmp_path)) == ["own"]
