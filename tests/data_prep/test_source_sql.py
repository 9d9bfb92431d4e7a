"""The SQL of a source, in a YAML of somebody else too: what it may do, and thirty ways in which it may not."""

from pathlib import Path

import duckdb
import pytest

from data_prep import InputError
from data_prep.config import DataConfig, Source
from data_prep.connections import connect, lock_down
from data_prep.events import confined, read_events
from data_prep.source_sql import check_source

COLUMNS = "'a' AS user_id, TIMESTAMP '2024-01-01' AS event_time, 'view' AS event_type"

COPY = "COPY (SELECT 1) TO 'out.csv'"


def read(sql: str, **changes: object) -> None:
    """Read a log as a command does that was given a YAML."""
    data = DataConfig([Source(sql=sql)], environment=["EVENTSCRIBE_SECRET"], **changes)
    with connect() as con, confined(con, data):
        read_events(con, data)


# Sources


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        (f"SELECT {COLUMNS}; {COPY}", "the SQL runs COPY and may only be one SELECT"),
        (f"SELECT {COLUMNS}) AS x; {COPY}; SELECT * FROM (SELECT {COLUMNS}", "syntax error"),
        (f"WITH x AS ({COPY}) SELECT {COLUMNS}", "the SQL contains COPY"),
        (f"WITH x AS (SELECT 1), y AS MATERIALIZED ({COPY}) SELECT {COLUMNS} FROM x", "the SQL contains COPY"),
        (f"/* SELECT */ {COPY}", "the SQL runs COPY"),
        (f"SELECT {COLUMNS}; SELECT {COLUMNS}", "the SQL has 2 statements"),
        ("INSTALL httpfs", "the SQL runs INSTALL"),
        ("LOAD httpfs", "the SQL runs LOAD"),
        ("ATTACH 'x.db'", "the SQL runs ATTACH"),
        ("PRAGMA version", "the SQL runs PRAGMA"),
        ("SET enable_external_access = true", "the SQL runs SET"),
        ("CALL pragma_version()", "the SQL runs CALL"),
        ("EXPORT DATABASE 'x'", "the SQL runs EXPORT"),
        ("CREATE TABLE x AS SELECT 1", "the SQL runs CREATE"),
        ("WITH x AS (DELETE FROM log RETURNING *) SELECT * FROM x", "the SQL contains DELETE"),
        ("FROM (SHOW TABLES)", "the SQL contains SHOW"),
        ("FROM (SUMMARIZE 'secret.csv')", "the SQL contains SHOW"),
        (f"SELECT {COLUMNS}, $1", "the SQL contains PARAMETER"),
        ("FROM 'https://example.org/${EVENTSCRIBE_SECRET}.csv'", "reads the address https://..., but only files"),
        ("FROM read_parquet(['a.parquet', 's3://bucket/b.parquet'])", "reads the address s3://..."),
        ("FROM query('SELECT 1')", "the SQL calls query, which a source may not"),
        ("FROM query_table(['secret'])", "the SQL calls query_table"),
        ("FROM glob('*')", "the SQL calls glob"),
        ("FROM sniff_csv('secret.csv')", "the SQL calls sniff_csv"),
        ("FROM duckdb_secrets()", "the SQL calls duckdb_secrets"),
        ("FROM duckdb_settings()", "the SQL calls duckdb_settings"),
        ("FROM pragma_database_size()", "the SQL calls pragma_database_size"),
        ("FROM system.main.read_csv('secret.csv')", "the SQL calls system.main.read_csv"),
        ("FROM json_execute_serialized_sql('{}')", "the SQL calls json_execute_serialized_sql"),
        (f"SELECT {COLUMNS}, current_setting('secret_directory') AS x", "the SQL calls current_setting"),
        (f"SELECT {COLUMNS}, 'x'.json_serialize_plan() AS x", "the SQL calls json_serialize_plan"),
        ("FROM read_csv('secret' || '.csv')", "the SQL computes the name of a file that read_csv reads"),
        ("FROM read_csv((SELECT 'secret.csv'))", "the SQL computes the name of a file"),
        ("FROM information_schema.tables", "reads 'information_schema.tables', which is neither a file"),
        ("FROM nowhere", "reads 'nowhere', which is neither a file"),
        ("FROM read_xlsx('a.xlsx')", "the SQL calls read_xlsx"),
        ("", "the SQL has 0 statements"),
        ("FROM (PIVOT 'secret.csv' ON a USING sum(b))", "the SQL has a PIVOT that looks for its columns in the data"),
        ("PIVOT 'secret.csv' ON a USING sum(b)", "PIVOT t ON kind IN ('a', 'b')"),
        ("FROM 'nofile.csv'", "no file matches 'nofile.csv'; check the SQL and the path"),
        ("FROM read_parquet('no/*.parquet')", "no file matches 'no/*.parquet'"),
        ("FROM '~/no such file.csv'", "no file matches '~/no such file.csv'"),
        ("SELECT 1\0; " + COPY, "holds a NUL"),
    ],
)
def test_a_source_that_is_more_than_a_select_over_named_files_is_refused_by_name(folder, monkeypatch, sql, said):
    monkeypatch.setenv("EVENTSCRIBE_SECRET", "s3cret")
    with pytest.raises(InputError) as refusal:
        read(sql)
    text = str(refusal.value)
    assert text.startswith("data.sources[0]: ")
    assert said in text
    assert "s3cret" not in text
    assert "\n" not in text
    assert any(remedy in text for remedy in ("data.trust_sql: true", "check the SQL", "name them, as in PIVOT"))


def test_with_trust_the_statements_before_a_select_run():
    select = "SELECT 'ann' AS user_id, TIMESTAMP '2024-01-01' AS event_time, current_setting('threads') AS event_type"
    for before, threads in (("LOAD json; SET threads = 1;", "1"), ("SET threads = 2; -- two", "2")):
        with connect() as con:
            read_events(con, DataConfig([Source(sql=f"{before}\n{select}")], trust_sql=True))
            assert con.sql("SELECT event_type FROM log").fetchall() == [(threads,)]
    for sql in ("COPY (SELECT 1) TO 'made.csv'", ""):  # no SELECT at the end
        with connect() as con, pytest.raises(InputError, match=r"^data.sources\[0\]: "):
            read_events(con, DataConfig([Source(sql=sql)], trust_sql=True))
    assert not Path("made.csv").exists()


@pytest.mark.parametrize(
    ("sql", "files"),
    [
        ("SELECT * FROM '/logs/x.parquet' JOIN \"y.csv\" USING (a) -- end", ["/logs/x.parquet", "y.csv"]),
        ("FROM events.csv", ["events.csv"]),
        ("FROM read_csv('a*.csv', header = false, columns = {'a': 'VARCHAR'}, delim := '|')", ["a*.csv"]),
        ("FROM read_parquet(['a.parquet', 'b.parquet'], union_by_name = true)", ["a.parquet", "b.parquet"]),
        ("WITH a AS (FROM 'a.jsonl.gz'), b AS (FROM a) SELECT * FROM b UNION ALL FROM b", ["a.jsonl.gz"]),
        ("FROM 'a.csv' ASOF LEFT JOIN (FROM read_csv('b.csv')) p ON t >= p.t", ["a.csv", "b.csv"]),
        ("FROM (PIVOT 'a.csv' ON k IN ('x', 'y') USING sum(v))", ["a.csv"]),
        ("SELECT DISTINCT ON (id) *, (SELECT max(x) FROM 'b.csv') AS m FROM 'a.csv' ORDER BY t LIMIT 5", None),
        ("SELECT unnest(items) AS item, * EXCLUDE (items) FROM 'a.json', range(3), unnest([1])", ["a.json"]),
        ("SELECT list_transform(l, lambda x: x + 1), x::ENUM('a'), {'a b': 1}, m['k'] FROM 'a.csv'", ["a.csv"]),
        ("VALUES (1, 2)", []),
    ],
)
def test_a_select_over_named_files_passes_whatever_it_does_with_them(con, sql, files):
    assert files in (None, check_source(con, "data.sources[0]", sql, False))


def test_a_source_reads_the_files_that_it_names_and_no_others(tmp_path, monkeypatch):
    for name in ("named/a.csv", "named/b.csv", "other/c.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"user_id,event_time,event_type\n{name[-5]},2024-01-01,view\n")
    monkeypatch.chdir(tmp_path)
    for patterns in (["named/*.csv"], ["named/a.csv", f"{tmp_path}/named/b.csv"], [f"{tmp_path}/named/*"]):
        with lock_down(connect(), [], patterns) as con:
            assert len(con.execute("FROM 'named/a.csv' UNION ALL FROM 'named/b.csv'").fetchall()) == 2
            for other in ("other/c.csv", "named/../other/c.csv", f"{tmp_path}/other/c.csv", "*/c.csv"):
                with pytest.raises(duckdb.PermissionException):
                    con.execute(f"FROM '{other}'")
    data = DataConfig([Source(sql="FROM 'named/a.csv'"), Source(path="named/b.csv"), Source(path="o*/c.csv")])
    with connect() as con, confined(con, data):
        assert read_events(con, data).events == 3


def test_a_path_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.csv").write_text("user_id,event_time,event_type\nu,2024-01-01,view\n")
    data = DataConfig([Source(sql="FROM '~/a.csv'")])
    with connect() as con, confined(con, data):
        assert read_events(con, data).events == 1


def test_the_owner_may_trust_the_sql_which_is_said(tmp_path, capsys):
    (tmp_path / "a.csv").write_text("1\n")
    sql = f"SELECT {COLUMNS} FROM read_text('{tmp_path}/' || 'a.csv'), glob('{tmp_path}/*')"
    with pytest.raises(InputError, match=r"set data\.trust_sql: true"):
        read(sql)
    read(sql, trust_sql=True)
    assert "data.trust_sql: the SQL of data.sources runs without limits" in capsys.readouterr().out


# Looking ahead


@pytest.mark.parametrize(
    ("window", "reason"),
    [
        ("lead(x) OVER (PARTITION BY u ORDER BY t)", "lead"),
        ("last_value(x) OVER (PARTITION BY u ORDER BY t)", "last_value"),
        ("nth_value(x, 2) OVER (PARTITION BY u ORDER BY t)", "nth_value"),
        ("ntile(4) OVER (ORDER BY t)", "ntile"),
        ("percent_rank() OVER (ORDER BY t)", "percent_rank"),
        ("max(t) OVER (PARTITION BY u)", "max over rows without an order"),
        ("count(*) OVER ()", "count over rows without an order"),
        ("sum(x) OVER (ORDER BY 1)", "sum over rows without an order"),
        ("sum(x) OVER (ORDER BY t ROWS BETWEEN 3 PRECEDING AND 1 FOLLOWING)", "sum with FOLLOWING"),
        ("sum(x) OVER (ORDER BY t ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING)", "sum with FOLLOWING"),
        ("sum(x) OVER (ORDER BY t ROWS BETWEEN UNBOUNDED PRECEDING AND -1 PRECEDING)", "distance"),
        ("lag(x, -1) OVER (ORDER BY t)", "lag with a distance"),
        ("lag(x) OVER (PARTITION BY u ORDER BY x)", "lag ordered by another column than event_time"),
        ("lag(x) OVER (PARTITION BY u ORDER BY x, t)", "lag ordered by another column than event_time"),
        ("lag(x) OVER w", "lag in descending order"),
        ("lag(x, ~0) OVER (ORDER BY t)", "lag with a distance"),
        ("lag(x, n) OVER (ORDER BY t)", "lag with a distance"),
        ("lag(x, 0 - 1) OVER (ORDER BY t)", "lag with a distance"),
        ("lag(x, (SELECT -1)) OVER (ORDER BY t)", "lag with a distance"),
        ("sum(x) OVER (ORDER BY t RANGE BETWEEN 3 PRECEDING AND ~5 PRECEDING)", "sum with a distance"),
        ("first_value(x) OVER (PARTITION BY u ORDER BY -epoch(t))", "first_value ordered by another thing"),
        ("sum(x) OVER (ORDER BY TIMESTAMP '2030-01-01' - t)", "sum ordered by another thing"),
        ("count(*) OVER (PARTITION BY u ORDER BY u)", "count ordered by a column that is the same"),
        ("count(*) OVER (PARTITION BY a.U ORDER BY u, t)", "count ordered by a column that is the same"),
        ("count(*) OVER (ORDER BY (1 + 1))", "count ordered by another thing"),
        ("count(*) OVER (ORDER BY NULL::INT)", "count ordered by another thing"),
        ("sum(x) OVER (ORDER BY date_trunc('year', t))", "sum ordered by another thing"),
    ],
)
def test_a_window_function_that_looks_ahead_needs_the_owners_word(con, window, reason):
    sql = f"SELECT u, t AS event_time, {window} AS v FROM 'a.csv' WINDOW w AS (PARTITION BY u ORDER BY t DESC)"
    with pytest.raises(InputError, match=rf"{reason}.* could look at later events.*looks_back_only: true"):
        check_source(con, "data.sources[0]", sql, False)
    assert check_source(con, "data.sources[0]", sql, True) == ["a.csv"]


@pytest.mark.parametrize(
    "window",
    [
        "row_number() OVER (PARTITION BY u ORDER BY t)",
        "sum(x) OVER (PARTITION BY u ORDER BY t)",
        "lag(x, 2, 0) OVER (PARTITION BY u ORDER BY t)",
        "avg(x) OVER (ORDER BY t RANGE BETWEEN INTERVAL 7 DAYS PRECEDING AND INTERVAL 1 DAY PRECEDING)",
        "first_value(x) OVER (PARTITION BY u ORDER BY t ROWS UNBOUNDED PRECEDING)",
    ],
)
def test_a_window_function_that_looks_back_passes(con, window):
    assert check_source(con, "data.sources[0]", f"SELECT t AS event_time, {window} AS v FROM 'a.csv'", False) == [
        "a.csv"
    ]
