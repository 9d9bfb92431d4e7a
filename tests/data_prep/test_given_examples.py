"""task.examples: a table with the moments, and perhaps the labels, that a team has already."""

import re
from datetime import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep import InputError
from data_prep.config import CutoffRange, Cutoffs, ExamplesTable, Label, Population, TaskConfig
from data_prep.prepare import prepare
from data_prep.prepared import read_manifest

DAYS = {"train": (20.0, 25.5), "validation": (40.0, 45.5), "test": (60.0, 65.5)}


def table(shop, rows: list[tuple]) -> str:
    """A file with user, moment and, where there are three, label."""
    names = ("user_id", "cutoff", "label")[: len(rows[0])]
    path = shop.folder() / "moments.parquet"
    pq.write_table(pa.table({name: pa.array([row[i] for row in rows]) for i, name in enumerate(names)}), path)
    return str(path)


def rows_of(shop, *more: object) -> list[tuple]:
    return [(user, shop.day(day), *more) for days in DAYS.values() for day in days for user in ("buyer", "looker")]


def task_of(path: str, **label: object) -> TaskConfig:
    ranges = {"train": ("2024-01-20", "2024-01-31"), "validation": ("2024-02-09", "2024-02-19")}
    ranges["test"] = ("2024-02-29", "2024-03-10")
    kinds = {"kind": "exists", "where": "event_type = 'purchase'", "horizon": "1d"} | label
    cutoffs = Cutoffs(**{split: CutoffRange(*bounds) for split, bounds in ranges.items()})
    return TaskConfig(Label(**kinds), Population(), cutoffs, ExamplesTable(path=path))


def refusal(shop, rows: list[tuple], task: TaskConfig | None = None) -> str:
    with pytest.raises(InputError) as error:
        prepare("shop", shop.data(shop.regulars()), task or task_of(table(shop, rows)), shop.text())
    assert "\n" not in str(error.value)
    return str(error.value)


def test_rows_become_examples_of_the_split_in_which_their_cutoff_lies(shop):
    folder = prepare("shop", shop.data(shop.regulars()), task_of(table(shop, rows_of(shop))), shop.text())
    for split, days in DAYS.items():
        found = {(row["user_id"], row["cutoff"]): row for row in shop.rows(folder, split)}
        assert found.keys() == {(user, shop.day(day)) for day in days for user in ("buyer", "looker")}
        for (user, moment), row in found.items():
            assert row["label"] == (user == "buyer")
            assert row["events"] == (moment - shop.start).days + (moment.hour == 12)
            assert row["events_1d"] == 1
    assert read_manifest(folder)["splits"]["train"]["most_per_user"] == 2


def test_labels_of_the_table_are_the_examples_own(shop):
    rows = [(user, moment, int(user == "looker")) for user, moment in rows_of(shop)]
    folder = prepare("shop", shop.data(shop.regulars()), task_of(table(shop, rows)), shop.text())
    assert {(row["user_id"], row["label"]) for row in shop.rows(folder, "train")} == {("looker", 1), ("buyer", 0)}
    rows = [(user, moment, 3.5 * label) for user, moment, label in rows]
    task = task_of(table(shop, rows), kind="sum", field="value", tiers=[0.0, 5.0])
    folder = prepare("shop", shop.data(shop.regulars()), task, shop.text())
    assert {(row["user_id"], row["label"]) for row in shop.rows(folder, "train")} == {("looker", 1), ("buyer", 0)}


def test_a_select_and_other_names_of_columns_give_the_same(shop):
    path = table(shop, rows_of(shop))
    other = shop.folder() / "other.csv"
    lines = [f"{user},{moment}" for user, moment in rows_of(shop)]
    other.write_text("\n".join(["who,seen_at", *lines]) + "\n")
    tasks = [task_of(path), task_of(str(other)), task_of(path)]
    tasks[1].examples.columns = {"user_id": "who", "cutoff": "seen_at"}
    tasks[2].examples = ExamplesTable(sql=f"SELECT user_id, cutoff FROM '{path}'")
    data = shop.data(shop.regulars())
    hashes = {read_manifest(prepare(f"n{i}", data, task, shop.text()))["content_hash"] for i, task in enumerate(tasks)}
    assert len(hashes) == 1


def test_rows_between_the_splits_are_said(shop, capsys):
    rows = [*rows_of(shop), ("buyer", shop.day(35))]
    folder = prepare("shop", shop.data(shop.regulars()), task_of(table(shop, rows)), shop.text())
    assert "1 rows of task.examples lie between no `first` and `last` of a split" in read_manifest(folder)["warnings"]


@pytest.mark.parametrize(
    ("user", "day", "said"),
    [
        ("nobody", 21, "1 of 5 rows of train are of users whom the log does not have; leave them out"),
        ("buyer", 200, "a cutoff is 2024-07-19, but the log ends on 2024-03-30"),
        ("buyer", 20, "user 'buyer' has two rows of one cutoff"),
        (None, 21, "1 rows have no user"),
    ],
)
def test_a_row_that_cannot_be_an_example_is_refused(shop, user, day, said):
    assert said in refusal(shop, [*rows_of(shop), (user, shop.day(day))])


def test_a_moment_whose_window_ends_right_after_the_log_is_refused_with_the_bound_that_it_must_lie_before(shop):
    task = task_of(table(shop, [*rows_of(shop), ("buyer", datetime(2024, 3, 30))]))
    task.cutoffs.test.last = "2024-03-30 00:00"
    assert "task.cutoffs.test: the label window" in refusal(shop, [], task)
    assert "but the log ends on 2024-03-30 12:00; choose a cutoff before 2024-03-30" in refusal(shop, [], task)


def test_a_row_without_a_history_is_refused(shop):
    events = [row for row in shop.regulars() if row["user_id"] == "looker" or row["event_time"] > shop.day(21)]
    with pytest.raises(InputError, match="user 'buyer' has no event up to the cutoff 2024-01-21; leave rows without"):
        prepare("shop", shop.data(events), task_of(table(shop, rows_of(shop))), shop.text())


@pytest.mark.parametrize(
    ("labels", "label", "said"),
    [
        ([2, 0], {}, "values other than 0 and 1"),
        ([None, 0], {}, "rows have no label"),
        (["yes", "no"], {}, "label is VARCHAR, not a number"),
        ([0.5, 1.0], {"kind": "count"}, "not whole"),
        ([1, 0], {"kind": "which", "field": "category", "top": 2}, "cannot be that of kind which"),
    ],
)
def test_labels_that_are_none_of_the_task_are_refused(shop, labels, label, said):
    rows = [(user, moment, labels[user == "buyer"]) for user, moment in rows_of(shop)]
    assert said in refusal(shop, rows, task_of(table(shop, rows), **label))


def test_a_table_that_is_none_is_refused(shop):
    path = table(shop, rows_of(shop))
    for change, said in (
        (ExamplesTable(), "needs either `sql` or `path`"),
        (ExamplesTable(path=path, sql="SELECT 1"), "needs either `sql` or `path`"),
        (ExamplesTable(sql=f"SELECT user_id FROM '{path}'"), "task.examples has no column cutoff"),
        (ExamplesTable(path=path + "x"), "task.examples.* no file matches|task.examples.path.*no file"),
        (ExamplesTable(sql="SELECT 1; SELECT 2"), "task.examples"),
        (ExamplesTable(sql=f"SELECT user_id, 5 AS cutoff FROM '{path}'"), r"examples: cutoff is a number .* epoch_ms"),
    ):
        task = task_of(path)
        task.examples = change
        assert re.search(said, refusal(shop, [], task))
    task = task_of(path)
    task.cutoffs.test.at = "event_type = 'view'"
    assert "test.at belongs to cutoffs at events" in refusal(shop, [], task)
    task.cutoffs.test = ["2024-02-29"]
    assert "task.cutoffs.test names cutoffs, but task.examples has the cutoffs" in refusal(shop, [], task)
