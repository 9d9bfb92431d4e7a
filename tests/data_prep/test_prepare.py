import os
from dataclasses import replace
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest

import data_prep.prepare as prepare_module
from data_prep import InputError
from data_prep.config import DataConfig, Source, TextField
from data_prep.prepare import prepare
from data_prep.prepared import read_manifest
from data_prep.serializer import EventSerializer
from tests.data_prep.prepared_files import FILES, content


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sorted(folder.iterdir())}


# What is written


def test_the_folder_holds_the_splits_the_serializer_the_manifest_and_the_card(shop):
    folder = shop.prepare(shop.regulars())
    assert {path.name for path in folder.iterdir()} == FILES
    assert [path.name for path in folder.parent.iterdir()] == ["shop"]
    manifest = read_manifest(folder)
    assert manifest["splits"]["train"] == {
        "rows": 4,
        "positives": 2,
        "users": 2,
        "positive_rate": 0.5,
        "cutoffs": ["2024-02-01", "2024-02-08"],
    }
    assert manifest["log"]["events"] == 180
    assert manifest["log"]["users"] == 2
    assert manifest["config"]["task"]["label"]["horizon"] == "7 days"
    assert EventSerializer.from_pretrained(folder).config == shop.text()
    for split in ("train", "validation", "test"):
        assert pq.read_schema(folder / f"{split}.parquet").names == [
            *("user_id", "cutoff", "text", "label"),
            *manifest["aggregates"],
        ]
        for row in shop.rows(folder, split):
            assert row["label"] == int(row["user_id"] == "looker")
            assert row["text"].startswith("recency_days=")


def test_rows_are_sorted_by_cutoff_and_user(shop):
    rows = [(row["cutoff"], row["user_id"]) for row in shop.rows(shop.prepare(shop.regulars()), "train")]
    assert rows == sorted(rows)


def test_load_dataset_opens_the_splits(shop, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    folder = shop.prepare(shop.regulars())
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 4, "validation": 2, "test": 2}
    assert loaded["train"].column_names[:4] == ["user_id", "cutoff", "text", "label"]
    assert loaded["train"].features["label"].dtype == "int64"
    assert loaded["test"]["user_id"] == ["buyer", "looker"]
    folder = shop.prepare([*shop.regulars(), shop.event("asked before", 5)])
    assert set(datasets.load_dataset(str(folder), cache_dir=str(tmp_path))) == {"train", "validation", "test"}
    unlabelled = datasets.load_dataset(str(folder), "unlabelled", cache_dir=str(tmp_path))["train"]
    assert unlabelled.column_names == ["user_id", "cutoff", "text"]
    assert unlabelled["user_id"] == ["asked before"]


def test_the_users_who_are_not_asked_at_the_last_training_cutoff_are_unlabelled(shop):
    """The population: a purchase or view in the 28 days before day 38."""
    others = [shop.event("asked", 37.9), shop.event("asked before", 9), shop.event("asked later", 5)]
    others += [shop.event("asked later", 40), shop.event("new", 38), shop.event("only refunds", 37, "refund")]
    rows = shop.regulars() + others
    task = shop.task(population={"where": "event_type IN ('purchase', 'view')"})
    folder = shop.prepare(rows, task)
    found = shop.rows(folder, "unlabelled")
    assert [row["user_id"] for row in found] == ["asked before", "asked later", "only refunds"]
    transformed = EventSerializer.from_pretrained(folder).transform(rows, shop.day(38)).to_pylist()
    texts = {row["user_id"]: row["text"] for row in transformed}
    assert {row["user_id"] for row in shop.rows(folder, "train") if row["cutoff"] == shop.day(38)} == (
        texts.keys() - {row["user_id"] for row in found}
    )
    assert [row["text"] for row in found] == [texts[row["user_id"]] for row in found]
    assert {row["cutoff"] for row in found} == {shop.day(38)}
    assert read_manifest(folder)["unlabelled"] == {"rows": 3, "cutoff": "2024-02-08"}
    card = (folder / "README.md").read_text()
    assert "has the texts of 3 more users at the last training\ncutoff, 2024-02-08" in card


def test_where_everybody_is_asked_the_unlabelled_file_has_the_same_columns_and_no_row(shop):
    nobody = shop.prepare(shop.regulars()) / "unlabelled.parquet"
    somebody = shop.prepare([*shop.regulars(), shop.event("asked before", 5)]) / "unlabelled.parquet"
    assert [pq.read_metadata(path).num_rows for path in (nobody, somebody)] == [0, 1]
    assert pq.read_metadata(nobody).num_row_groups == 0
    assert pq.read_schema(nobody) == pq.read_schema(somebody)


def test_rows_left_out_are_counted_in_the_manifest_and_named_on_the_screen(shop, capsys):
    rows = [*shop.regulars(), shop.event(None, 3), shop.event("x", None), shop.event("", 3), shop.event("x", 3, None)]
    folder = shop.prepare(rows)
    assert read_manifest(folder)["log"]["rejected"] == {
        "no user": 2,
        "a user id that stands for nobody (nan, None, null)": 0,
        "a user id that is a fraction or a rounded number": 0,
        "a time that does not parse": 0,
        "no time": 1,
        "a time outside 1900-2199": 0,
        "a time in another unit or before data.since": 0,
        "a time after data.until": 0,
        "no event type": 1,
        "a line that cannot be read": 0,
    }
    assert (folder / "rejected.parquet").is_file()
    printed = capsys.readouterr().out
    assert "left out 2 rows with no user (see rejected.parquet)\n" in printed
    assert "1900" not in printed


def test_equal_rows_and_users_who_are_too_many_are_said_and_stand_in_the_manifest(shop, capsys):
    rows = [*shop.regulars(), *shop.regulars()[:9], *(shop.event("bot", i / 50) for i in range(4_000))]
    data = replace(shop.data(rows), max_events_per_user=3_000)
    log = read_manifest(prepare("shop", data, shop.task(), shop.text()))["log"]
    assert (log["equal_rows"], log["events"]) == (9, 189)
    assert log["left_out"] == {"of 1 user with more than data.max_events_per_user 3,000": 4_000}
    printed = capsys.readouterr().out
    assert "left out 4,000 rows of 1 user with more than data.max_events_per_user 3,000\n" in printed
    assert "9 of 189 rows are equal to another one" in printed


def test_a_class_without_a_training_example_and_a_field_without_a_kept_value_are_named(shop, capsys):
    rows = [row | {"note": "red tea"} for row in shop.regulars()]
    text = shop.text(fields={"category": TextField(top=5, min_users=9), "note": TextField(words=2, min_users=9)})
    label = {"kind": "sum", "field": "value", "tiers": [0, 1000.0]}
    folder = shop.prepare(rows, shop.task(label=label), text)
    warnings = read_manifest(folder)["warnings"]
    assert "no training example has the label 'above 1000', which the model cannot learn then" in warnings
    for field, what in (("category", "other"), ("note", "nothing")):
        (warning,) = (warning for warning in warnings if warning.startswith(f"text.fields.{field}: "))
        assert "fewer than 9 users" in warning
        assert f"written as {what}; lower min_users" in warning
    assert capsys.readouterr().out.count("warning: ") == len(warnings)
    assert not read_manifest(shop.prepare(rows))["warnings"]


def test_a_column_of_text_or_categories_is_no_number(shop):
    rows = [row | {"note": "red tea", "tags": ["a", "b"]} for row in shop.regulars()]
    text = shop.text()
    text = replace(
        text, fields=text.fields | {"note": TextField(words=2, min_users=1), "tags": TextField(top=3, min_users=1)}
    )
    folder = shop.prepare(rows, text=text)
    names = read_manifest(folder)["aggregates"]
    assert "items_sum" in names
    assert "category_distinct" in names
    assert "tags_distinct" in names
    assert not {"category_sum", "tags_sum", "note_sum", "note_distinct"} & set(names)
    assert "red tea tags=a tags=b" in shop.rows(folder, "train")[0]["text"]


def test_user_ids_of_any_script_reach_the_splits_to_the_letter(shop):
    users = ["用户", 'o\'neill "x"', "😀"]
    rows = shop.regulars() + [shop.event(user, 20 + d) for user in users for d in range(45)]
    found = {row["user_id"] for row in shop.rows(shop.prepare(rows), "train")}
    assert found == {"buyer", "looker", *users}


# The same input gives the same output, and only once


def test_a_second_call_finds_the_files_and_does_no_work(shop, capsys, monkeypatch):
    data = shop.data(shop.regulars())
    folder = prepare("shop", data, shop.task(), shop.text())
    before = stamps(folder)
    monkeypatch.setattr(prepare_module, "connect", lambda *_: pytest.fail("the log was opened"))
    assert prepare("shop", data, shop.task(), shop.text()) == folder
    assert stamps(folder) == before
    assert f"{folder} is up to date" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["train.parquet", "serializer.json"])
def test_a_file_that_was_removed_or_cut_is_made_again(shop, name):
    data = shop.data(shop.regulars())
    folder = prepare("shop", data, shop.task(), shop.text())
    before = content(folder)
    (folder / name).unlink()
    prepare("shop", data, shop.task(), shop.text())
    assert (folder / name).read_bytes() == before[name]
    (folder / name).write_bytes(before[name][:10])
    prepare("shop", data, shop.task(), shop.text())
    assert (folder / name).read_bytes() == before[name]


def test_a_damaged_manifest_is_named(shop):
    data = shop.data(shop.regulars())
    folder = prepare("shop", data, shop.task(), shop.text())
    (folder / "manifest.json").write_text("{")
    with pytest.raises(InputError, match=r"manifest\.json is damaged; delete"):
        prepare("shop", data, shop.task(), shop.text())


def test_a_touched_or_new_file_of_the_log_makes_it_prepare_again(shop):
    data = shop.data(shop.regulars())
    path = Path(data.sources[0].path)
    data.sources[0].path = str(path.parent / "*.parquet")
    before = stamps(prepare("shop", data, shop.task(), shop.text()))
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1_000_000))
    touched = stamps(prepare("shop", data, shop.task(), shop.text()))
    assert all(touched[name] > before[name] for name in FILES)
    shop.write([shop.event("new", day) for day in range(90)], path.parent / "more.parquet")
    folder = prepare("shop", data, shop.task(), shop.text())
    assert read_manifest(folder)["log"]["users"] == 3


def test_a_changed_config_makes_it_prepare_again(shop):
    data = shop.data(shop.regulars())
    keys = set()
    fields = shop.text().fields
    for task, text in (
        (shop.task(), shop.text()),
        (shop.task(label={"horizon": "6 days"}), shop.text()),
        (shop.task(), shop.text(max_events=3)),
        (shop.task(), shop.text(fields=dict(reversed(fields.items())))),
    ):
        folder = prepare("shop", data, task, text)
        keys.add(read_manifest(folder)["key"])
    assert len(keys) == 4
    first = shop.rows(folder, "train")[0]["text"]
    assert first.index("value=") < first.index("event_type=")


def test_a_changed_variable_of_the_environment_makes_it_prepare_again(shop, monkeypatch):
    path = shop.write(shop.regulars() + [shop.event("new", day) for day in range(90)])
    sql = f"SELECT * FROM '{path}' WHERE user_id <> '${{LEFT_OUT}}'"
    data = DataConfig([Source(sql=sql)], folder=str(path.parent / "out"), environment=["LEFT_OUT"])
    for user, users in (("new", 2), ("nobody", 3)):
        monkeypatch.setenv("LEFT_OUT", user)
        assert read_manifest(prepare("shop", data, shop.task(), shop.text()))["log"]["users"] == users


def test_a_source_without_files_is_prepared_each_time(shop):
    union = " UNION ALL ".join(
        f"SELECT '{user}' AS user_id, TIMESTAMP '2024-01-01 12:00' + to_days(d::INTEGER) AS event_time, "
        f"'{kind}' AS event_type FROM range(90) r(d)"
        for user, kind in (("buyer", "purchase"), ("looker", "view"))
    )
    data = DataConfig([Source(sql=union)], folder=str(shop.folder()))
    text = shop.text(fields={"event_type": TextField(top=3, min_users=1)}, header=["recency"])
    before = stamps(prepare("shop", data, shop.task(), text))
    after = stamps(prepare("shop", data, shop.task(), text))
    assert all(after[name] > before[name] for name in FILES)
