"""SQL of a config, of a shared YAML and of a model's folder: what it may do, and thirty ways in which it may not."""

import json
import os
import sqlite3
from pathlib import Path

import duckdb
import pytest

from data_prep import InputError
from data_prep.config import DataConfig, Source, TextField
from data_prep.connections import connect, lock_down
from data_prep.events import confined, read_events
from data_prep.expressions import check_column, check_type, parse_expression
from data_prep.serializer import EventSerializer
from data_prep.source_sql import check_source
from data_prep.sql import refused
from data_prep.task import check_loaded

COLUMNS = "'a' AS user_id, TIMESTAMP '2024-01-01' AS event_time, 'view' AS event_type"
TASK = {
    "label": {"kind": "absent", "where": "event_type = 'buy'", "horizon": "7 days"},
    "population": {"within": "28 days", "where": "true"},
}
COPY = "COPY (SELECT 1) TO 'out.csv'"


@pytest.fixture(scope="module")
def con() -> duckdb.DuckDBPyConnection:
    return connect()


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder for forged files, beside the current one, in which nothing may appear."""
    here = tmp_path / "here"
    here.mkdir()
    (here / "secret.csv").write_text("a,b\n1,2\n")
    monkeypatch.chdir(here)
    yield tmp_path
    assert os.listdir(here) == ["secret.csv"]


def read(sql: str, **changes: object) -> None:
    """Read a log as a command does that was given a YAML."""
    data = DataConfig([Source(sql=sql)], **changes)
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


def test_the_owner_may_trust_the_sql_which_is_said(tmp_path, capsys):
    (tmp_path / "a.csv").write_text("1\n")
    sql = f"SELECT {COLUMNS} FROM read_text('{tmp_path}/' || 'a.csv'), glob('{tmp_path}/*')"
    with pytest.raises(InputError, match=r"set data\.trust_sql: true"):
        read(sql)
    read(sql, trust_sql=True)
    assert "data.trust_sql: the SQL of data.sources runs without limits" in capsys.readouterr().out


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
    with connect() as con, pytest.raises(InputError, match=r"postgresql:// is an address.*data\.trust_sql") as refusal:
        read_events(con, data)
    assert "s3cret" not in str(refusal.value)


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


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("lead(what) OVER (PARTITION BY user ORDER BY time)", "looks at other rows by a window function"),
        ("max(what)", "calls max, which is an aggregate and looks at other rows"),
        ("age(time::TIMESTAMP)", "calls age, which counts from today"),
        ("current_localtimestamp()", "calls current_localtimestamp, which is not the same each time"),
        ("current_localtime()", "calls current_localtime"),
        ("unnest([1, 2])", "calls unnest, which makes several rows of one"),
        ("[1, 2].unnest()", "calls unnest"),
        ("*", "stands for several columns"),
        ("COLUMNS(*)", "stands for several columns"),
        ("COLUMNS('time')", "stands for several columns"),
        ("random()", "calls random, which is not the same each time"),
        ('"RANDOM"()', "calls random"),
        ("TRY(uuid()::VARCHAR)", "calls uuid"),
        ("now()", "calls now"),
        ("current_date", "names current_date, which is no column"),
        ("session_user", "names session_user, which is no column"),
        (
            "(SELECT max(time) FROM 'log.csv')",
            "later events; write an expression over the columns of one row, or a whole",
        ),
        ("what, 1 AS x", "syntax error"),
        ("what FROM read_text('secret.csv') --", "syntax error"),
        (f"what; {COPY}", "SELECT"),
        ("getvariable('x')", "calls getvariable"),
    ],
)
def test_a_column_expression_is_a_function_of_its_own_row(con, expression, said):
    with pytest.raises(InputError) as refusal:
        check_column(con, "data.sources[0].columns.more", expression, lambda: ["user", "time", "what"])
    assert said in str(refusal.value)
    assert str(refusal.value).startswith("data.sources[0].columns.more: ")


def test_the_columns_of_a_file_are_checked_and_may_be_called_like_functions(tmp_path):
    (tmp_path / "log.csv").write_text("user,time,what\nu,2024-01-01,view\n")
    columns = {"user_id": "user", "event_time": "time", "event_type": "what"}
    data = DataConfig([Source(path=str(tmp_path / "log.csv"), columns=columns)])
    with connect() as con:
        columns["more"] = "lag(what) OVER ()"
        with pytest.raises(InputError, match=r"^data\.sources\[0\]\.columns\.more: .*window function"):
            read_events(con, data)
        columns["more"] = "concat(upper(what), '!') -- a comment"
        read_events(con, data)
        assert con.execute("SELECT user_id, more FROM log").fetchall() == [("u", "VIEW!")]
    (tmp_path / "log.csv").write_text("who,time,what\nu,2024-01-01,view\n")  # DuckDB's own user would be everybody
    with connect() as con, pytest.raises(InputError, match=r"columns\.user_id: user names user, which is no column"):
        read_events(con, data)


# Types and conditions of a JSON that is read back


@pytest.mark.parametrize(
    "kind",
    [
        "VARCHAR",
        "DECIMAL(18,3)",
        "VARCHAR[]",
        "INTEGER[3]",
        'STRUCT(a INTEGER, "b)) AS c" VARCHAR[])[]',
        "MAP(VARCHAR, INTEGER)",
        "ENUM('a', 'it''s')",
        "UNION(a INTEGER, b VARCHAR)",
        "TIMESTAMP WITH TIME ZONE",
        "JSON",
        '"NULL"',
    ],
)
def test_every_type_that_duckdb_describes_passes(con, kind):
    assert con.execute(f"DESCRIBE SELECT CAST(NULL AS {kind}) AS x").fetchall()[0][1] == kind
    check_type(con, "features.types.x", kind)


@pytest.mark.parametrize(
    "kind",
    [
        f'VARCHAR[]) AS "departments" FROM log; {COPY}; SELECT 1 --',
        "VARCHAR) AS x, CAST(NULL AS VARCHAR",
        "VARCHAR) || CAST((SELECT content FROM read_text('secret.csv')) AS VARCHAR",
        "VARCHAR) FROM read_text('secret.csv'",
        "VARCHAR)::INTEGER --",
        "VARCHAR --",
        "VARCHAR /*",
        "VARCHAR /* */",
        "VARCHAR\n",
        "VARCHAR\r--",
        "ENUM('a', -- ')",
        "ENUM(E'\\', '--')",
        "ENUM($$a$$)",
        'STRUCT("a\nb" INTEGER)',
        "VARCHAR) IS NULL AND (true",
        'STRUCT(a INTEGER)) AS "x" /*',
        "ENUM(SELECT content FROM read_text('secret.csv'))",
        "INTEGER[(SELECT 3)]",
        "main.VARCHAR",
        "no_such_type",
        "VARCHAR\0) --",
        "\ud800",
        "",
        None,
        ["VARCHAR"],
    ],
)
def test_a_type_that_goes_on_behind_the_type_is_refused(con, kind):
    with pytest.raises(
        InputError, match=r"^features\.types\.x: .* is no type of DuckDB; the file is damaged or forged"
    ):
        check_type(con, "features.types.x", kind)


ESCAPES = [
    "event_type IN (SELECT content FROM read_text('secret.csv'))",
    "(FROM read_csv('secret.csv') SELECT count(*)) > 0",
    "EXISTS (FROM 'secret.csv')",
    "(WITH x AS (SELECT 1) FROM x) = 1",
    "ARRAY(SELECT content FROM read_blob('*'))[1] IS NULL",
    "list_transform([1], lambda x: (SELECT 1))[1] = 1",
    "CASE WHEN true THEN (SELECT 1) END = 1",
    f"true; {COPY}",
    f"true) FROM log; {COPY}; SELECT (true",
    "true) OR (1 = 1",
    "true UNION SELECT 1",
    "true QUALIFY true",
    "true ORDER BY 1",
    "true LIMIT 1",
    "true GROUP BY ALL",
    "true /*",
    "$$true",
    "lead(event_type) OVER () = 'x'",
    "unnest([true, false])",
    "*",
    "COLUMNS(*)",
    "count(*) > 0",
    "bool_or(event_type = 'x')",
    "age(event_time) > INTERVAL 1 DAY",
    "no_such_column = 1",
    "event_type + 1 = 2",
    "struct_pack(a := 1)",
    "random() < 1",
    "system.main.random() < 1",
    "getvariable('x') = 1",
    "current_setting('secret_directory') = 'x'",
    "json_serialize_plan('FROM read_text(''secret.csv'')') = '{}'",
    "list_transform([1], lambda x: sleep_ms(100000))[1] = 1",
    "get_block_size('memory') > 0",
    "write_log('x') IS NULL",
    "current_query() = 'x'",
    "current_timestamp > event_time",
    "__internal_compress_string_ubigint(event_type) = 1",
    "$1 = 1",
    "(" * 3000 + "true" + ")" * 3000,
    "not " * 3000 + "true",
    "true\0",
    "event_type = '\ud800'",
    "",
    1,
    None,
    ["true"],
]


@pytest.mark.parametrize("place", ["features.target", "task.label.where", "task.population.where"])
@pytest.mark.parametrize("where", ESCAPES, ids=range(len(ESCAPES)))
def test_a_condition_that_is_read_back_is_an_expression_over_one_event(folder, fitted, where, place):
    part = place.split(".")[1]
    if part == "target":
        content = json.loads(fitted.to_json())
        content["features"]["target"] = where
        (folder / "serializer.json").write_text(json.dumps(content))
        with pytest.raises(InputError) as refusal:
            EventSerializer.from_pretrained(folder)
    else:
        with pytest.raises(InputError) as refusal:
            check_loaded(Path("task.json"), TASK | {part: TASK[part] | {"where": where}}, fitted.types)
    text = str(refusal.value)
    text.encode()
    assert "\n" not in text
    assert len(text) < 700
    assert "damaged" in text or "which could look at later events" in text


@pytest.fixture(scope="module")
def fitted(shop) -> EventSerializer:
    rows = [shop.event(f"u{i}", i % 20, value=i, category="a", note="b c") for i in range(60)]
    fields = {"value": TextField(bins=2), "category": TextField(top=3), "note": TextField(words=2)}
    return shop.histories(rows, shop.day(20), shop.text(header=["counts"], fields=fields))[2]


INJECTED = f"1]; {COPY}; SELECT [1"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("features", "types", "value"), f'DOUBLE) AS "value" FROM log; {COPY} --'),
        (("features", "types", "value"), 7),
        (("features", "types"), ["DOUBLE"]),
        (("features", "kinds", "value"), "other"),
        (("features", "kinds", "none"), "numeric"),
        (("features", "event_types"), INJECTED),
        (("features", "target"), None),
        (("features",), {}),
        (("config", "fields", "note", "words"), INJECTED),
        (("config", "fields", "note", "words"), None),
        (("config", "fields", "note", "words"), 1.5),
        (("config", "fields", "none"), {"words": 1}),
        (("config", "max_events"), "20; DROP TABLE rows"),
        (("config", "max_events"), 10**30),
        (("config", "max_events"), 0),
        (("config", "fields", "note", "words"), 10**30),
        (("features", "types", "value"), "STRUCT(a INTEGER)"),
        (("features", "types", "value"), "INTEGER[3]"),
        (("features", "types", "note"), "STRUCT(a INTEGER)"),
        (("config", "style"), "poems"),
        (("config", "header"), [1]),
        (("fields", "value", "edges"), [INJECTED]),
        (("fields", "value", "edges"), [float("nan")]),
        (("fields", "value", "kind"), "text"),
        (("fields", "category", "values"), [1]),
        (("fields", "category", "list"), INJECTED),
        (("fields", "none"), {"kind": "text", "words": []}),
        (("header", "events_7d", "centers"), {}),
        (("header", "no_such_aggregate"), {"edges": [], "centers": [0.0]}),
        (("fields",), []),
        ((), []),
        (("version",), INJECTED),
    ],
)
def test_a_serializer_that_no_training_wrote_is_refused_when_it_is_read(folder, fitted, path, value):
    content = json.loads(fitted.to_json())
    part = {"": content}
    for key in ("", *path)[:-1]:
        part = part[key]
    part[("", *path)[-1]] = value
    (folder / "serializer.json").write_text(json.dumps(content if path else value))
    with pytest.raises(InputError, match=r"serializer\.json"):
        EventSerializer.from_pretrained(folder)


def test_names_and_values_of_a_forged_serializer_are_quoted(folder, fitted, shop):
    name = f'note"; {COPY}; SELECT "'
    value = f"it's'; {COPY}; --"
    content = json.loads(json.dumps(json.loads(fitted.to_json())).replace('"note"', json.dumps(name)))
    content["fields"]["category"]["values"] = [value]
    content["fields"][name]["words"] = [value]
    (folder / "serializer.json").write_text(json.dumps(content))
    serializer = EventSerializer.from_pretrained(folder)
    event = shop.event("u", 0, value=1.0, category="a") | {name: "b"}
    assert serializer.transform([event], shop.day(5))["text"].to_pylist()[0].count("[SEP]") == 1


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("label", {"horizon": f"7 days; {COPY}"}),
        ("population", {"within": f"7 days'; {COPY}"}),
        ("population", {"within": None}),
    ],
)
def test_lengths_of_time_that_are_read_back_are_checked(part, change):
    with pytest.raises(InputError, match=rf"^task\.json: task\.{part}\.\w+: .*is not a length"):
        check_loaded(Path("task.json"), TASK | {part: TASK[part] | change}, {"event_type": "VARCHAR"})


def test_a_column_may_be_called_like_a_function_without_parentheses(con):
    parse_expression(con, "task.label.where", "user = 'a' AND current_date > 5", "", lambda: ["User", "current_date"])


def test_a_write_that_fails_is_told_as_such_and_not_as_a_fault_of_the_types():
    inner = r'{"exception_type":"IO","exception_message":"Could not write file \"a.parquet\": File too large"}'
    said = f"IO Error: Async write failed: {inner}"
    with pytest.raises(InputError) as refusal, refused("events", "give each column the type that it had in training"):
        raise duckdb.IOException(said)
    assert str(refusal.value) == (
        'Could not write file "a.parquet": File too large; check the folder that is written to, and the space left'
    )
    with connect() as con, pytest.raises(InputError, match="check the folder that is written to"), refused("x", "y"):
        con.execute("COPY (SELECT 1 AS a, 2 AS b) TO 'nowhere/there' (FORMAT parquet, PARTITION_BY (a))")


@pytest.mark.parametrize("name", ["log.jsonl", "log.csv", "log.json"])
def test_a_file_without_a_column_user_is_told_as_such(tmp_path, name):
    (tmp_path / name).write_text(
        {"log.jsonl": "", "log.csv": "a,b,c\nann,2024-01-01,view\n", "log.json": "[1, 2]"}[name]
    )
    columns = {"user_id": "user", "event_time": "b", "event_type": "c"}
    with connect() as con, pytest.raises(InputError) as refusal:
        read_events(con, DataConfig([Source(path=str(tmp_path / name), columns=columns)]))
    said = {
        "log.csv": "which is no column (there are a, b, c) but",
        "log.json": "holds no event",
        "log.jsonl": "holds no event",
    }
    assert said[name] in str(refusal.value)


def test_a_word_of_sql_is_told_to_be_quoted(tmp_path):
    (tmp_path / "log.csv").write_text("on,b,c\nann,2024-01-01,view\n")
    columns = {"user_id": "on", "event_time": "b", "event_type": "c"}
    with connect() as con, pytest.raises(InputError, match="write it as '\"on\"' if it is the name of a column"):
        read_events(con, DataConfig([Source(path=str(tmp_path / "log.csv"), columns=columns)]))
    columns["user_id"] = '"on"'
    with connect() as con:
        assert read_events(con, DataConfig([Source(path=str(tmp_path / "log.csv"), columns=columns)])).events == 1
