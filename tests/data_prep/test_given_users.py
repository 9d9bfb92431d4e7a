"""data.users: a table with attributes of the users, from its file to the prepared data; and what of it is refused."""

import csv
import re

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_prep import InputError
from data_prep.config import DataConfig, Source, TextField, UsersTable
from data_prep.given_users import read_users
from data_prep.history import NEVER
from data_prep.prepare import prepare
from data_prep.prepared import read_manifest

NAMES = ["user_id", "known_from", "age", "country"]
ROWS = [["buyer", "2024-01-05", 33, "DE"], ["buyer", "2024-02-10", 34, "FR"], ["looker", "2024-01-09", 51, "FR"]]
SPECS = {"age": TextField(bins=2), "country": TextField(top=3, min_users=1)}


def table(shop, rows: list[list] = ROWS, names: list[str] = NAMES) -> str:
    path = shop.folder() / "users.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([names, *rows])
    return str(path)


def prepared(shop, users: UsersTable | str, specs: dict | None = SPECS, name: str = "shop", **changes: object):
    users = UsersTable(path=users) if isinstance(users, str) else users
    data = shop.data(shop.regulars(), users=users, **changes)
    return prepare(name, data, shop.task(), shop.text(header=["recency"], attributes=specs))


def refusal(shop, users: UsersTable | str, specs: dict | None = SPECS) -> str:
    with pytest.raises(InputError) as error:
        prepared(shop, users, specs)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_attributes_stand_in_header_aggregates_manifest_and_card(shop, capsys):
    folder = prepared(shop, table(shop, [*ROWS, ["nobody", "2024-01-01", 9, "XX"]]))
    found = {(row["user_id"], str(row["cutoff"])[:10]): row for row in shop.rows(folder, "train")}
    assert " age=1 country=de [SEP] " in found["buyer", "2024-02-08"]["text"]
    assert (
        found["buyer", "2024-02-08"] | {"age": 33.0, "country=de": 1, "country=fr": 0} == found["buyer", "2024-02-08"]
    )
    assert shop.rows(folder, "test")[0]["age"] == 34
    manifest = read_manifest(folder)
    assert manifest["attributes"] == ["age", "country"]
    assert manifest["aggregates"][-5:] == ["age", "country=de", "country=fr", "country=other", "country=missing"]
    assert (manifest["users"]["users"], manifest["users"]["with_events"]) == (3, 2)
    assert manifest["users"]["missing"]["test"] == {"age": 0.0, "country": 0.0}
    assert (
        "2 of 2 users of the log have a row (1 of its users have no event and are left out)" in capsys.readouterr().out
    )
    assert "as known before the cutoff: age, country" in (folder / "README.md").read_text()
    assert not [warning for warning in manifest["warnings"] if "known_from" in warning]


def test_bins_and_words_are_learned_of_what_was_known_in_training(shop):
    """FR and 34 of the buyer are known from behind the last training cutoff, and Mars is nobody's of training."""
    rows = [["buyer", "2024-01-05", 33, "DE"], ["buyer", "2024-02-10", 34, "IT"], ["looker", "2024-02-28", 51, "FR"]]
    folder = prepared(shop, table(shop, [*rows, ["nobody", "2023-01-01", 70, "Mars"]]))
    attributes = re.findall(
        r"\[SEP\].*|(?:age|country)=\w+", " ".join(row["text"] for row in shop.rows(folder, "test"))
    )
    assert attributes[:2] == ["age=1", "country=other"]
    assert [name for name in read_manifest(folder)["aggregates"] if "=" in name] == [
        "country=de",
        "country=other",
        "country=missing",
    ]


def test_without_known_from_attributes_are_known_always_and_a_warning_says_so(shop, capsys):
    folder = prepared(shop, table(shop, [["buyer", 33, "DE"]], ["user_id", "age", "country"]))
    said = "data.users has no known_from, so that its attributes are taken as known always"
    assert any(said in warning for warning in read_manifest(folder)["warnings"])
    assert f"warning: {said}" in capsys.readouterr().out
    assert "age=missing country=missing" in shop.rows(folder, "train")[1]["text"]


def test_a_select_other_names_and_pseudonyms_give_the_same(shop, monkeypatch):
    monkeypatch.setenv("SHOP_KEY", "a key of sixteen characters or more")
    path, other = table(shop), table(shop, ROWS, ["who", "since", "years", "land"])
    mapped = {"user_id": "who", "known_from": "since", "age": "years", "country": "land"}
    ways = [
        UsersTable(path=path),
        UsersTable(path=other, columns=mapped),
        UsersTable(sql=f"SELECT * FROM read_csv('{path}', all_varchar = true)"),
    ]
    ways[2].sql = ways[2].sql.replace("*", "user_id, known_from, CAST(age AS BIGINT) AS age, country")
    folders = [prepared(shop, way, name=f"n{i}") for i, way in enumerate(ways)]
    assert len({read_manifest(folder)["content_hash"] for folder in folders}) == 1
    hidden = prepared(shop, path, pseudonymize="SHOP_KEY")
    users = {row["user_id"]: row["age"] for row in shop.rows(hidden, "train")}
    assert sorted(users.values()) == [33, 51]
    assert not {"buyer", "looker"} & users.keys()


def test_preparing_again_is_up_to_date_until_the_table_changes(shop, capsys):
    path = table(shop)
    data = shop.data(shop.regulars(), users=UsersTable(path=path))
    text = shop.text(header=["recency"], attributes=SPECS)
    hashes = []
    for rows in (ROWS, None, [[*ROWS[0][:2], 60, "DE"], *ROWS[1:]]):
        if rows:
            with open(path, "w", newline="") as file:
                csv.writer(file).writerows([NAMES, *rows, *([["x", "2024-01-01", 1, "DE"]] if hashes else [])])
        capsys.readouterr()
        hashes.append(read_manifest(prepare("shop", data, shop.task(), text))["content_hash"])
        assert ("is up to date" in capsys.readouterr().out) == (rows is None)
    assert hashes[0] == hashes[1] != hashes[2]


def test_nothing_of_it_is_written_where_there_is_no_table(shop):
    manifest = read_manifest(shop.prepare(shop.regulars()))
    assert "users" not in manifest.keys() | manifest["config"]["data"].keys()
    assert "attributes" not in manifest.keys() | manifest["config"]["text"].keys()


@pytest.mark.parametrize(
    ("names", "rows", "said"),
    [
        (NAMES, [["nobody", "2024-01-05", 3, "DE"]], "data.users: none of its 1 users is a user of the log"),
        (NAMES, [ROWS[0], ROWS[0]], "data.users: user 'buyer' has two rows of one known_from; keep one"),
        (["who", *NAMES[1:]], ROWS, "data.users has no column user_id (it has who, known_from, age, country)"),
        (
            NAMES,
            [["buyer", "soon", 3, "DE"]],
            "data.users gave no row with a user_id and a known_from (rejected: ",
        ),
        (NAMES, [ROWS[0], ["looker", "soon", 3, "DE"]], "data.users: 1 rows have a time that does not parse"),
        (NAMES, [["buyer", 20240105, 3, "DE"]], "known_from is a number"),
        (NAMES, [["", "2024-01-05", 3, "DE"], ROWS[0]], "data.users: 1 rows have no user"),
        ([*NAMES[:3], "category"], ROWS, "data.users: the attribute 'category' has the name of a column of the events"),
        ([*NAMES[:3], "event_type"], ROWS, "'event_type' has the name of a column of the events"),
        (["user_id", "known_from"], [["buyer", "2024-01-05"]], "data.users: it has no attribute beside user_id"),
        (["user_id", "age", "country"], [["buyer", 3, "DE"]] * 2, "two rows and no known_from tells which is newer"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(shop, names, rows, said):
    specs = {"age": TextField(bins=2)} if "age" in names else SPECS
    assert said in refusal(shop, table(shop, rows, names), specs)


@pytest.mark.parametrize(
    ("specs", "said"),
    [
        ({"height": TextField(bins=2)}, "text.attributes.height: data.users has no such column; it has age, country"),
        ({"country": TextField(bins=2)}, "text.attributes.country: bins needs numbers"),
        ({"age": TextField(words=2)}, "text.attributes.age: words needs text"),
        ({"age": TextField()}, "text.attributes.age needs exactly one of top"),
        (None, "data.users: no attribute would be read; name some of age, country in text.attributes"),
    ],
)
def test_settings_of_attributes_that_do_not_fit_are_refused(shop, specs, said):
    assert said in refusal(shop, table(shop), specs)


def test_what_is_no_table_or_a_nested_type_or_a_taken_name_is_refused(shop):
    path = table(shop)
    listed = UsersTable(sql=f"SELECT user_id, [country] AS lands FROM '{path}'")
    assert "data.users: the attribute 'lands' is VARCHAR[]; give a number or a text" in refusal(shop, listed)
    assert "needs either `sql` or `path`" in refusal(shop, UsersTable())
    assert "data.users.path: no file matches" in refusal(shop, path + "x").replace("data.users: ", "data.users.path: ")
    assert "data.users" in refusal(shop, UsersTable(sql="SELECT 1; SELECT 2"))
    assert "data.users" in refusal(shop, UsersTable(sql="SELECT * FROM read_text('/etc/passwd')"))
    taken = UsersTable(sql=f"SELECT DISTINCT user_id, 3 AS recency_days FROM '{path}'")
    assert "a text already has words recency_days=..." in refusal(shop, taken, {"recency_days": TextField(bins=2)})
    with pytest.raises(InputError, match=r"text.attributes: there is no table of users; give data.users"):
        prepare("shop", shop.data(shop.regulars()), shop.task(), shop.text(attributes=SPECS))


def test_an_attribute_that_tells_the_label_is_named(shop):
    """Of each of many users a field as of today tells what comes later; one that does not is not named."""
    random = np.random.default_rng(0)
    stays = random.random(60) < 0.5
    events = [
        shop.event(f"u{i}", d, "purchase", value=1.0) for i in range(60) for d in range(25, 90 if stays[i] else 40, 3)
    ]
    status = np.where(stays, random.choice(["active", "vip"], 60), random.choice(["closed", "gone"], 60))
    rows = [[f"u{i}", status[i], random.integers(20, 80), random.choice(["DE", "FR"])] for i in range(60)]
    data = shop.data(events, users=UsersTable(path=table(shop, rows, ["user_id", "status", "age", "country"])))
    specs = {"status": TextField(top=9, min_users=1), **SPECS}
    task = shop.task(train=["2024-02-08"], validation=["2024-02-15"], test=["2024-02-29"])
    text = shop.text(header=["recency"], fields={"value": TextField(bins=2)}, attributes=specs)
    folder = prepare("shop", data, task, text)
    named = {leak["input"]: leak["auroc"] for leak in read_manifest(folder)["suspected_leaks"]}
    assert named["data.users.status"] > 0.98
    assert not {"data.users.age", "data.users.country"} & named.keys()
    warnings = " ".join(read_manifest(folder)["warnings"])
    assert "data.users.status alone tells the training labels" in warnings
    assert "is it known as of before the cutoff?" in warnings


def test_kinds_of_columns_are_kept_as_numbers_truths_and_texts(shop, tmp_path):
    path = tmp_path / "users.parquet"
    shop.con.execute(
        f"""COPY (SELECT 12346.0 AS user_id, CAST(1.50 AS DECIMAL(5, 2)) AS d, true AS b, DATE '2000-01-02' AS day,
                         CAST('NaN' AS DOUBLE) AS none, '  ' AS blank, CAST(3 AS HUGEINT) AS h) TO '{path}'"""
    )
    rows = read_users(DataConfig([Source(path="x")], users=UsersTable(path=str(path))))
    assert rows.types == {
        "d": "DOUBLE", "b": "BOOLEAN", "day": "VARCHAR", "none": "DOUBLE", "blank": "VARCHAR", "h": "DOUBLE"
    }  # fmt: skip
    (row,) = rows.table.to_pylist()
    assert row == {
        "user_id": "12346", "known_from": NEVER, "d": 1.5, "b": True, "day": "2000-01-02", "none": None, "blank": None,
        "h": 3.0,
    }  # fmt: skip
    assert pq.read_table(path).num_rows == 1
