"""Ways out of the SQL of a config or a model's folder, by someone who knows DuckDB; each must end in a sentence."""

import os
from pathlib import Path

import pytest

from data_prep import InputError
from data_prep.config import CutoffRange, Cutoffs, DataConfig, ExamplesTable, Source, UsersTable
from data_prep.connections import connect
from data_prep.events import confined, read_events
from data_prep.expressions import parse_expression
from data_prep.prepare import prepare
from data_prep.source_sql import check_source
from data_prep.task import check_loaded

# Refused as they are parsed: other files, addresses, settings, extensions, macros, statements, catalogs, Python.
SELECTS = """
FROM read_csv(getenv('HOME'))
FROM read_csv('a.csv'::VARCHAR)
FROM read_csv(concat('a','.csv'))
FROM read_csv(['a.csv', 'b' || '.csv'])
FROM read_csv([x for x in ['a.csv']])
FROM read_csv(['a.csv']::VARCHAR[])
FROM range(1) t(x), LATERAL read_csv(x)
FROM range(1) t(x), read_csv(t.x)
SELECT * FROM (VALUES ('/etc/passwd')) v(f), read_text(f)
FROM query('FROM read_text(''/etc/passwd'')')
FROM query_table('secret.csv')
FROM query_table(['secret.csv'])
SELECT unnest(query_table) FROM x
FROM parquet_metadata('a.parquet')
FROM parquet_schema('a.parquet')
FROM parquet_kv_metadata('a.parquet')
FROM read_duckdb('x.db', table_name='y')
FROM duckdb_logs()
FROM duckdb_logs_parsed('x')
FROM enable_logging(storage_path='x')
FROM enable_profiling(save_location='x')
FROM create_external_resource('x')
FROM register_external_resource_type('x')
FROM test_all_types()
FROM histogram('secret.csv','x')
FROM histogram_values('secret.csv','x')
FROM summary('x')
FROM pandas_scan(1)
FROM arrow_scan(1,2,3)
FROM python_map_function('x')
FROM seq_scan('x')
FROM repeat_row(1, num_rows=10)
FROM checkpoint()
FROM force_checkpoint()
FROM which_secret('s3://x','s3')
FROM sniff_csv('x.csv')
FROM icu_calendar_names()
FROM pg_timezone_names()
FROM pragma_version()
FROM json_execute_serialized_sql(json_serialize_sql('select 1'))
FROM read_single_csv_file('x')
FROM main.read_csv('x')
FROM system.read_csv('x')
FROM duckdb_settings
FROM pg_catalog.pg_settings
FROM pg_settings
FROM sqlite_master
FROM information_schema.tables
FROM temp.information_schema.columns
FROM df
FROM con
FROM globals
FROM "http://evil/x.csv"
FROM "s3://x/y.parquet"
FROM 'hf://datasets/x/y.parquet'
FROM 'HTTP://evil/x.csv'
FROM 'file:///etc/passwd.csv'
FROM 'gcs://x.parquet'
FROM read_csv('https:' || '//x')
FROM read_csv('https:/'||'/x')
SUMMARIZE 'x.csv'
DESCRIBE 'x.csv'
FROM (DESCRIBE 'x.csv')
FROM (SHOW ALL TABLES)
SHOW TABLES
EXPLAIN ANALYZE SELECT 1
FROM (EXPLAIN SELECT 1)
TABLE secret
PREPARE v AS SELECT 1
EXECUTE v
DEALLOCATE v
SET VARIABLE x = 1
RESET x
USE x
BEGIN
VACUUM
CHECKPOINT
CREATE MACRO f() AS TABLE FROM read_text('/etc/passwd')
CREATE TEMP VIEW x AS SELECT 1
CREATE SECRET (TYPE s3)
DROP VIEW log
ALTER TABLE log ADD COLUMN x INT
INSERT INTO log VALUES (1)
UPDATE log SET x=1
DELETE FROM log
MERGE INTO log USING x ON true WHEN MATCHED THEN DELETE
TRUNCATE log
COMMENT ON TABLE log IS 'x'
COPY log FROM 'x'
COPY FROM DATABASE a TO b
IMPORT DATABASE 'x'
DETACH x
UPDATE EXTENSIONS
FORCE INSTALL httpfs FROM 'http://evil'
INSTALL 'evil.duckdb_extension'
.shell ls
\\! ls
SELECT 1;;;SELECT 2
SELECT 1 /* ; */ ; DROP TABLE log
SELECT $a$ ; $a$; DROP TABLE log
SELECT getvariable('x')
SELECT current_setting('x')
SELECT current_query()
SELECT write_log('x')
SELECT sleep_ms(100000)
SELECT pg_sleep(100)
SELECT json_serialize_plan('x')
SELECT * FROM 'x.csv' t MATCH_RECOGNIZE ()
SELECT * FROM 'x.xlsx'
SELECT * FROM 'x.db'
SELECT * FROM 'x.duckdb'
SELECT * FROM "x.csv; DROP TABLE log"
\uff26\uff32\uff2f\uff2d read_csv('x')
FROM read_csv('x.csv', sample_size=getvariable('x'))
FROM read_csv(?)
FROM read_csv($1)
FROM read_csv($name)
FROM read_csv(:name)
SELECT ?
PIVOT 'x.csv' ON a
SELECT 1 INTO OUTFILE 'x'
SELECT 1 INTO x
FROM glob('/etc/*')
FROM '/etc/passwd'
""".strip().splitlines()

# The same as conditions over one event.
CONDITIONS = """
true; ATTACH 'x.db'
true) UNION ALL (SELECT 1
(SELECT true)
EXISTS(SELECT 1)
1 IN (FROM range(3))
a = ANY(SELECT 1)
a = ALL(FROM read_text('/etc/passwd'))
(FROM query('select 1')) = 1
(TABLE secret) = 1
(VALUES (true))
a IN (VALUES (1))
ARRAY(SELECT 1) = [1]
[x for x in (SELECT [1])] = [1]
list_transform([1], x -> (SELECT 1))[1] = 1
CASE (SELECT 1) WHEN 1 THEN true END
coalesce((SELECT true), true)
CAST((SELECT 'true') AS BOOLEAN)
a BETWEEN 1 AND (SELECT 2)
sum(a) OVER () > 0
row_number() OVER () = 1
first(a) = 1
list(a) IS NULL
string_agg(a) = 'x'
unnest([1]) = 1
generate_subscripts([1], 1) = 1
unnest({'a': 1}) = 1
random() > 0
gen_random_uuid() IS NULL
uuid() IS NULL
uuidv7() IS NULL
now() > DATE '2024-01-01'
today() > DATE '2024-01-01'
get_current_time() IS NULL
transaction_timestamp() IS NULL
current_timestamp IS NULL
localtimestamp IS NULL
current_user = 'x'
user = 'x'
session_user = 'x'
current_schema = 'x'
current_catalog IS NULL
current_database() = 'x'
current_schemas(true) IS NULL
current_query() = 'x'
current_query_id() = 1
current_connection_id() = 1
current_transaction_id() = 1
txid_current() = 1
nextval('x') = 1
currval('x') = 1
setval('x', 1) = 1
setseed(0.5) IS NULL
getvariable('x') = 1
current_setting('threads') = '1'
in_search_path('x', 'y')
pg_get_viewdef(1) = 'x'
pg_postmaster_start_time() IS NULL
format_type(1, 2) = 'x'
get_block_size('x') = 1
sleep_ms(100000) IS NULL
pg_sleep(1) IS NULL
write_log('x') IS NULL
json_serialize_plan('SELECT 1') = 'x'
error('x') IS NULL
age(a) > INTERVAL 1 DAY
ago(INTERVAL 1 DAY) > a
__internal_barrier(a) = 1
__cast(a, 'INT') = 1
main.now() IS NULL
system.main.random() = 1
pg_catalog.current_setting('x') = 'y'
a.random() = 1
'x'.getvariable() = 1
"now"() IS NULL
NOW () IS NULL
nOw/**/() IS NULL
COLUMNS(*) = 1
COLUMNS('a') = 1
COLUMNS(x -> true) = 1
*COLUMNS(*)
* EXCLUDE (a)
log.*
?
$1 = 1
$x = 1
:x = 1
a = 1 QUALIFY true
a = 1 USING SAMPLE 10%
a = 1 ORDER BY a
a = 1 LIMIT 1
a = 1 OFFSET 1
a = 1 GROUP BY a
a = 1 HAVING true
a = 1 UNION SELECT 1
a = 1 INTO x
a = 1 -- \\n; DROP TABLE log
a = 1 /*
a = 1 */
a = 1 #
;
true true
true, false
a = 'x
a = $$x
a = $t$x$T$
a = E'\\'
"a
(a = 1
a = 1)
a = 1) OR (true
a = 1 FROM log
a = 1 FROM read_text('/etc/passwd')
DISTINCT a
PIVOT log ON a
SUMMARIZE log
DESCRIBE log
SHOW TABLES
COPY log TO 'x'
INSTALL x
PRAGMA x
SET x = 1
CALL x()
EXPLAIN SELECT 1
a := 1
struct_pack(a := (SELECT 1)).a = 1
MAP {'a': (SELECT 1)} IS NULL
{'a': (FROM range(1))} IS NULL
try(nextval('x')) = 1
CAST(a AS ENUM(SELECT 'x'))
a::ENUM(FROM read_text('/etc/passwd') SELECT content) IS NULL
a::STRUCT(x INT DEFAULT (SELECT 1))
a IS DISTINCT FROM (SELECT 1)
NOT EXISTS (FROM 'x.csv')
DEFAULT
""".strip("\n").splitlines()

# What DuckDB itself refuses once it is locked, or has not.
LOCKED = """
FROM read_csv(path := 'secret.csv')
FROM read_csv('named.csv', path = 'secret.csv')
FROM read_csv('named.csv', rejects_table = 'log', store_rejects = true)
FROM read_csv('named.csv', filename = (SELECT 'secret.csv'))
FROM read_csv('named.csv', types = {'user_id': (SELECT 'x')})
FROM 'named.csv' AT (VERSION => 1)
SELECT *, getenv('SECRET') AS x FROM 'named.csv'
SELECT *, nextval('x') AS x FROM 'named.csv'
SELECT *, error('x') AS x FROM 'named.csv'
SELECT *, read_text('secret.csv') AS x FROM 'named.csv'
SELECT *, query('SELECT 1') AS x FROM 'named.csv'
SELECT *, glob('*') AS x FROM 'named.csv'
SELECT *, CAST('x' AS regclass) AS x FROM 'named.csv'
SELECT *, 1::"main"."secret" AS x FROM 'named.csv'
SELECT *, 'x' COLLATE "secret.csv" AS x FROM 'named.csv'
""".strip().splitlines()
UNBOUND = """
a COLLATE "x.y" = a
a::main.secret IS NULL
json_execute_serialized_sql('x') = 1
getenv('HOME') = 'x'
read_text('/etc/passwd') = 'x'
read_csv('x')
glob('x') = 'y'
query('select 1') = 1
a = 1 WINDOW w AS ()
a = 1;
ATTACH 'x'
lambda x: x
grouping(a) = 1
rowid = 1
""".strip().splitlines()

# Not files of a disk: the environment and memory of this process, what never ends, and what waits.
SPECIAL = ("/proc/self/environ", "/proc/self/mem", "/proc/1/cmdline", "/sys/kernel/notes", "/dev/zero", "/dev/stdin")
SPECIAL += ("/dev/../proc/self/environ", "/proc/self/environ*", "/pro[c]/self/environ", "./environ.csv", "./pipe.csv")


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The current folder, in which nothing may appear."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECRET", "s3cret")
    for name, user in (("named.csv", "ann"), ("secret.csv", "s3cret")):
        Path(name).write_text(f"user_id,event_time,event_type\n{user},2024-01-01,view\n")
    os.symlink("/proc/self/environ", "environ.csv")
    os.mkfifo("pipe.csv")
    yield tmp_path
    assert sorted(os.listdir(tmp_path)) == ["environ.csv", "named.csv", "pipe.csv", "secret.csv"]


def read(**source: object) -> None:
    data = DataConfig([Source(**source)])
    with connect() as con, confined(con, data):
        read_events(con, data)


def said(refusal: pytest.ExceptionInfo[InputError]) -> str:
    text = str(refusal.value)
    assert text.isprintable()
    assert len(text) < 700
    assert "s3cret" not in text
    return text


@pytest.mark.parametrize("sql", SELECTS)
def test_a_select_that_reaches_for_more_is_refused_before_it_runs(con, sql):
    with pytest.raises(InputError) as refusal:
        check_source(con, "data.sources[0]", sql, False)
    assert said(refusal).startswith("data.sources[0]: ")


@pytest.mark.parametrize("sql", CONDITIONS)
def test_a_condition_that_is_more_than_one_is_refused_before_it_runs(con, sql):
    with pytest.raises(InputError) as refusal:
        parse_expression(con, "task.label.where", sql.replace("\\n", "\n"), "mend it", lambda: ["a"])
    assert said(refusal).startswith("task.label.where: ")


@pytest.mark.parametrize("sql", LOCKED)
def test_what_parses_as_a_select_finds_duckdb_locked(here, sql):
    with pytest.raises(InputError) as refusal:
        read(sql=sql)
    assert said(refusal).startswith("data.sources")


@pytest.mark.parametrize("where", UNBOUND)
def test_what_parses_as_a_condition_of_a_model_does_not_pass_for_one(where):
    task = {"label": {"kind": "absent", "where": where, "horizon": "7 days"}, "population": {"within": "28 days"}}
    with pytest.raises(InputError) as refusal:
        check_loaded(Path("task.json"), task, {"event_type": "VARCHAR", "a": "VARCHAR"})
    assert said(refusal).startswith("task.json: task.label.where: ")


@pytest.mark.parametrize("name", SPECIAL)
def test_a_source_reads_files_of_a_disk_alone(here, name):
    given = [{"sql": f"FROM read_csv('{name}')"}, {"sql": f"FROM read_text('{name}')"}, {"path": name}]
    for source in given:
        with pytest.raises(InputError) as refusal:
            read(**source)
        assert "is no file of a disk, but the system's own, a device or a pipe" in said(refusal)


def test_no_source_sees_the_sql_around_it_in_which_the_key_of_pseudonyms_stands(here, monkeypatch):
    monkeypatch.setenv("KEY", "a key of the tests")
    for called in ("current_query()", "main.current_query()", '"CURRENT_QUERY"()'):
        data = DataConfig([Source(sql=f"SELECT *, {called} AS x FROM 'named.csv'")], pseudonymize="KEY")
        with connect() as con, pytest.raises(InputError, match="the SQL calls current_query, which a source may not"):
            read_events(con, data)


ESCAPE = "(SELECT content FROM read_text('secret.csv')) = 'x'"


@pytest.mark.parametrize(
    "place",
    [
        "data.sources[0]",
        "data.sources[0].columns.user_id",
        "data.users",
        "task.examples",
        "task.label.where",
        "task.population.where",
        "task.cutoffs.train.at",
    ],
)
def test_every_setting_that_takes_sql_is_checked(shop, here, place):
    data, task = shop.data(shop.regulars()), shop.task()
    (source,) = data.sources
    columns = {name: name for name in ("user_id", "event_time", "event_type", "value")}
    table = "SELECT 'a' AS user_id, TIMESTAMP '2024-02-01' AS cutoff, content FROM read_text('sec' || 'ret.csv')"
    if place == "data.sources[0]":
        source.path, source.sql = None, table
    elif place.endswith("user_id"):
        source.columns = columns | {"user_id": f"CASE WHEN {ESCAPE} THEN user_id END"}
    elif place == "data.users":
        data.users = UsersTable(sql=table)
    elif place == "task.examples":
        task.examples = ExamplesTable(sql=table)
        task.cutoffs = moments()
        task.population.within = None
    elif place.endswith("at"):
        task.cutoffs = moments(ESCAPE)
    else:
        part = task.label if "label" in place else task.population
        part.where = ESCAPE
    with pytest.raises(InputError) as refusal:
        prepare("shop", data, task, shop.text())
    assert place in said(refusal)


def moments(at: str | None = None) -> Cutoffs:
    spans = (("2024-01-10", "2024-02-01"), ("2024-02-15", "2024-02-20"), ("2024-03-01", "2024-03-10"))
    return Cutoffs(*(CutoffRange(first, last, at=at) for first, last in spans))
