"""Expressions, conditions and types of a config and of a model's folder: nothing else may stand in their place."""

import json
from pathlib import Path

import pytest

from data_prep import InputError
from data_prep.config import DataConfig, Source, TextField
from data_prep.connections import connect
from data_prep.events import read_events
from data_prep.expressions import check_column, check_type, parse_expression
from data_prep.serializer import EventSerializer
from data_prep.task import check_loaded

TASK = {
    "label": {"kind": "absent", "where": "event_type = 'buy'", "horizon": "7 days"},
    "population": {"within": "28 days", "where": "true"},
}

COPY = "COPY (SELECT 1) TO 'out.csv'"


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
