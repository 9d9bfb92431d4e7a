"""What is refused or fails leaves nothing behind, or the old output."""

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import data_prep.prepare as prepare_module
from data_prep import InputError, events
from data_prep.config import DataConfig, Source, TextField
from data_prep.connections import stopped_after
from data_prep.prepare import prepare
from tests.data_prep.prepared_files import FILES, content


def refused(shop, data: DataConfig, task=None, text=None) -> str:
    with pytest.raises(InputError) as error:
        prepare("shop", data, task or shop.task(), text or shop.text())
    folder = Path(data.folder)
    assert not folder.exists() or not list(folder.iterdir())
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        ({"validation": ["2024-02-14"]}, "after the first validation cutoff 2024-02-14"),
        ({"test": ["2024-02-20"]}, "after the first test cutoff 2024-02-20"),
        ({"train": ["2023-06-01"]}, "not after the log's first event"),
        ({"test": ["2024-06-01"]}, "the log ends on 2024-03-30 12:00"),
        ({"test": ["2024-02-31"]}, "'2024-02-31' is not a date"),
        ({"label": {"horizon": "0 days"}}, "'0 days' is not a length above zero"),
        ({"label": {"where": "event_type = 'refund'"}}, "no event of the log satisfies"),
        ({"label": {"where": "event_type = 'view' OR true"}}, "all 4 examples of train have the label 0"),
        ({"label": {"where": "colour = 1"}}, "colour"),
        ({"population": {"where": "event_time > '2024-03-01'"}}, "nobody has an event with event_time"),
    ],
)
def test_a_task_that_breaks_a_rule_leaves_nothing_behind(shop, task, reason):
    assert reason in refused(shop, shop.data(shop.regulars()), task=shop.task(**task))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ({"header": ["revenue"]}, "text.header: 'revenue' is neither"),
        ({"fields": {"colour": TextField(top=3, min_users=1)}}, "text.fields.colour: the log has no such column"),
        ({"fields": {"category": TextField(bins=3)}}, "bins needs numbers"),
        ({"max_events": 0}, "text.max_events"),
    ],
)
def test_a_text_that_does_not_fit_leaves_nothing_behind(shop, text, reason):
    assert reason in refused(shop, shop.data(shop.regulars()), text=shop.text(**text))


@pytest.mark.parametrize(
    ("task", "text", "reason"),
    [
        ({"label": {"where": "colour = 1"}}, {}, "colour"),
        ({"label": {"horizon": "0 days"}}, {}, "'0 days' is not a length above zero"),
        ({"population": {"within": "soon"}}, {}, "'soon' is not a length"),
        ({}, {"fields": {"colour": TextField(top=3)}}, "text.fields.colour: the log has no such column"),
    ],
)
def test_what_the_columns_alone_refuse_is_refused_before_a_row_is_read(shop, task, text, reason):
    data = shop.data([row | {"user_id": None} for row in shop.regulars()])
    assert "rows cannot be used" in refused(shop, data)
    assert reason in refused(shop, data, task=shop.task(**task), text=shop.text(**text))


def test_what_else_can_end_the_step_does_so_behind_the_columns_and_before_a_row_is_read(shop):
    def ready() -> None:
        raise InputError("not today")

    unusable = shop.data([row | {"user_id": None} for row in shop.regulars()])
    with pytest.raises(InputError, match="not today"):
        prepare("shop", unusable, shop.task(), shop.text(), ready=ready)
    with pytest.raises(InputError, match="colour"):
        prepare("shop", unusable, shop.task(label={"where": "colour = 1"}), shop.text(), ready=ready)
    assert not list(Path(unusable.folder).iterdir())
    data = shop.data(shop.regulars())
    shop_folder = prepare("shop", data, shop.task(), shop.text())
    with pytest.raises(InputError, match="not today"):  # though there is nothing to do
        prepare("shop", data, shop.task(), shop.text(), ready=ready)
    assert shop_folder.is_dir()


def test_the_limit_of_time_is_that_of_reading_and_not_of_what_else_can_end_the_step(shop, monkeypatch):
    def ready() -> None:
        time.sleep(2.1)
        raise InputError("not today")

    monkeypatch.setattr(events, "stopped_after", lambda con, seconds: stopped_after(con, 2))
    with pytest.raises(InputError, match=r"^not today"):
        prepare("shop", shop.data(shop.regulars()), shop.task(), shop.text(), ready=ready)


def test_a_source_that_cannot_be_read_leaves_nothing_behind(shop):
    data = shop.data(shop.regulars())
    assert "no file matches" in refused(shop, replace(data, sources=[Source(path="nowhere/*.parquet")]))
    assert "neither in data.variables nor" in refused(shop, replace(data, sources=[Source(path="${NO_SUCH_VARIABLE}")]))
    assert "only one of them" in refused(
        shop, replace(data, sources=[Source(path=data.sources[0].path, sql="SELECT 1")])
    )
    Path(data.sources[0].path).write_bytes(b"PAR1")
    assert "check the file" in refused(shop, data)


def test_a_column_whose_aggregates_would_replace_others_leaves_nothing_behind(shop):
    path = shop.write(shop.regulars())
    data = DataConfig([Source(sql=f"SELECT *, value AS gap FROM '{path}'")], folder=str(path.parent / "out"))
    assert "the column 'gap' would give an aggregate gap_mean" in refused(shop, data)


def test_a_folder_with_other_files_is_never_replaced(shop):
    data = shop.data(shop.regulars())
    log = Path(data.sources[0].path)
    for name, folder in (
        (log.parent.name, log.parent.parent),
        (log.name, log.parent),
        ("", log.parent),
        (".", log.parent),
    ):
        with pytest.raises(InputError, match="holds files that are not prepared data; choose another"):
            prepare(name, replace(data, folder=str(folder)), shop.task(), shop.text())
    assert log.is_file()
    assert [path.name for path in log.parent.iterdir()] == [log.name]


def test_a_refused_change_keeps_the_old_output(shop):
    data = shop.data(shop.regulars())
    folder = prepare("shop", data, shop.task(), shop.text())
    before = content(folder)
    with pytest.raises(InputError):
        prepare("shop", data, shop.task(label={"horizon": "0 days"}), shop.text())
    assert content(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["shop"]


@pytest.mark.parametrize(
    ("step", "error"),
    [
        ("local.read_events", KeyboardInterrupt),
        ("local.split_log", OSError("no space left on device")),
        ("prepare.files_hash", KeyboardInterrupt),
        ("prepare.dataset_card", OSError("no space left on device")),
    ],
)
def test_an_error_in_any_step_leaves_the_old_output_or_none(shop, monkeypatch, step, error):
    def fail(*_, **__):
        raise error

    data = shop.data(shop.regulars())
    out = Path(data.folder)
    text = shop.text(header=["recency"])
    with monkeypatch.context() as patch:
        patch.setattr(f"data_prep.{step}", fail)
        with pytest.raises((KeyboardInterrupt, OSError)):
            prepare("shop", data, shop.task(), text)
    assert list(out.iterdir()) == []
    folder = prepare("shop", data, shop.task(), text)
    before = content(folder)
    monkeypatch.setattr(f"data_prep.{step}", fail)
    with pytest.raises((KeyboardInterrupt, OSError)):
        prepare("shop", data, shop.task(label={"horizon": "6 days"}), text)
    assert content(folder) == before
    assert [path.name for path in out.iterdir()] == ["shop"]


CHILD = """
import sys, time
import data_prep.prepare as module
from data_prep.config import Cutoffs, DataConfig, Label, Population, Source, TaskConfig, TextConfig

path, out, step = sys.argv[1:]
def stop(*args, **kwargs):
    print("now", flush=True)
    time.sleep(600)
setattr(module, step, stop)
task = TaskConfig(
    Label("absent", "event_type = 'purchase'", "7 days"),
    Population("28 days"),
    Cutoffs(["2024-02-01"], ["2024-02-15"], ["2024-02-29"]),
)
module.prepare("shop", DataConfig([Source(path=path)], folder=out), task, TextConfig())
"""


@pytest.mark.parametrize("step", ["fit_examples", "dataset_card"])
def test_a_killed_process_leaves_the_old_output_and_the_next_one_succeeds(shop, step):
    data = shop.data(shop.regulars())
    folder = prepare("shop", data, shop.task(), shop.text())
    before = content(folder)
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, data.sources[0].path, data.folder, step],
        cwd=Path(prepare_module.__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        assert "now\n" in iter(process.stdout.readline, "")  # behind what preparing has to say
        process.send_signal(signal.SIGKILL)
    assert content(folder) == before
    assert len(list(folder.parent.iterdir())) == 2  # the killed one's folder, until somebody prepares again
    again = prepare("shop", data, shop.task(label={"horizon": "6 days"}), shop.text())
    assert {path.name for path in again.iterdir()} == FILES
    assert list(folder.parent.iterdir()) == [folder]
