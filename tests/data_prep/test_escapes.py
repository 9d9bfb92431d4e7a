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
from tests.data_prep.escapes import CONDITIONS, SELECTS

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


@pytest.mark.parametrize("name", ["/**/shadow.csv", "/*/**", "//**", "/etc/../**/x.csv", f"{'../' * 40}**/x.csv"])
def test_no_glob_looks_through_the_whole_disk(here, name):
    for source in ({"sql": f"FROM read_csv('{name}')"}, {"sql": f"FROM read_text('{name}')"}, {"path": name}):
        with pytest.raises(InputError) as refusal:
            read(**source)
        assert "would look through the whole disk; name a folder before **" in said(refusal)
    read(path=f"{here}/**/named.csv")


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
