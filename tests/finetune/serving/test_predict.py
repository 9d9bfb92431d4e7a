import csv
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from argparse import Namespace
from datetime import datetime
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep import InputError
from data_prep.config import DataConfig, Source
from finetune.command import guarded
from finetune.evaluation.contact import contact, contacted
from finetune.evaluation.rows import ScoredRows
from finetune.serving.classifier import EventClassifier
from finetune.serving.given_log import given_log
from finetune.serving.predict import predict_log
from finetune.serving.top import write_top
from tests.commands import ROOT, script_module

PREDICT = ROOT / "scripts" / "predict.py"
CUTOFF = "2024-04-01"
PARTS = {"part_users": 40}  # four parts of the 150 users

# Runs in a process that only imports, and forks one for each trial: the first dies at a rename, the second goes on.
TRIALS = """
import os, signal, sys
from pathlib import Path
from data_prep.config import DataConfig, Source
from finetune.serving.predict import predict_log

model, log, folder, *points = sys.argv[1:]
data = DataConfig([Source(path=log)])

def run(point, dies):
    if os.fork():
        return os.wait()[1]
    count, done = 0, {}
    for name in ("replace", "rename"):
        def rename(*paths, real=getattr(os, name)):
            nonlocal count
            count += 1
            if count == dies:
                os.kill(os.getpid(), signal.SIGKILL)
            real(*paths)
        setattr(os, name, rename)
    if dies == 0:
        import shutil
        shutil.rmtree = lambda path, **more: str(path).endswith("finished") and os.kill(os.getpid(), signal.SIGKILL)
    predict_log(model, data, "2024-04-01", Path(folder) / point / "scores.parquet", part_users=40)
    os._exit(0)

for point in points:
    dies = int(point)
    print(point, run(point, dies), run(point, None), flush=True)
"""


@pytest.fixture(scope="module")
def model(trained) -> Path:
    return trained.run_folder / "model"


@pytest.fixture(scope="module")
def log(trained, tmp_path_factory) -> Path:
    """The log that it was trained on, with the names of its columns."""
    path = tmp_path_factory.mktemp("log") / "log.parquet"
    query = "SELECT user AS user_id, time AS event_time, what AS event_type, amount, shop FROM read_csv(?)"
    pq.write_table(duckdb.sql(query, params=[trained.data.sources[0].path]).to_arrow_table(), path)
    return path


@pytest.fixture(scope="module")
def undisturbed(model, log, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed") / "scores.parquet"
    return predict_log(model, DataConfig([Source(path=str(log))]), CUTOFF, output, **PARTS)


def test_the_file_has_the_rows_of_the_classifier_and_nothing_else_is_left(model, log, undisturbed):
    found = pq.read_table(undisturbed)
    expected = EventClassifier.from_pretrained(model).predict(log, CUTOFF)
    assert found.sort_by("user_id").drop_columns("score").equals(expected.drop_columns("score"))
    gap = found.sort_by("user_id")["score"].to_numpy() - expected["score"].to_numpy()
    assert abs(gap).max() < 1e-6
    assert [path.name for path in undisturbed.parent.iterdir()] == ["scores.parquet"]


def test_killed_at_any_rename_it_goes_on_to_the_same_file(model, log, undisturbed, tmp_path):
    # Before the plan, parts 1 and 3, the output, the removal; 0 within the removal.
    points = ["1", "2", "4", "6", "7", "0"]
    command = [sys.executable, "-c", TRIALS, model, log, tmp_path, *points]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=PREDICT.parents[1])
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for point in points:
        assert f"{point} {int(signal.SIGKILL)} 0" in lines
        assert (tmp_path / point / "scores.parquet").read_bytes() == undisturbed.read_bytes()
        assert [path.name for path in (tmp_path / point).iterdir()] == ["scores.parquet"]
    for parts in (2, 4):
        assert f"going on: {parts} of 4 parts are scored already" in lines


def test_two_processes_of_accelerate_launch_write_the_file_of_one(trained, model, undisturbed, tmp_path):
    columns = "{user_id: user, event_time: time, event_type: what}"
    arguments = ["--model", model, "--events", trained.data.sources[0].path, "--columns", columns, "--cutoff", CUTOFF]
    arguments += ["--output", tmp_path / "scores.parquet", "--part-users", 40]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_machines", 1, "--multi_gpu"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", 0, "--num_processes", 2]
    command = [*map(str, [*launch, PREDICT, *arguments, "--top", 0.1])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    printed = done.stdout + done.stderr
    assert (tmp_path / "scores.parquet").read_bytes() == undisturbed.read_bytes()
    assert printed.count("150 users scored") == 1
    assert printed.count("scores.top.csv: the 15 users with the highest scores") == 1
    assert read_rows(tmp_path / "scores.top.csv") == top_rows(undisturbed, 15)


def stop_after(parts: int, monkeypatch) -> None:
    answers, scored = EventClassifier.answers, []

    def stopped(self, *arguments, **more):
        if len(scored) == parts:
            raise KeyboardInterrupt
        scored.append(arguments)
        return answers(self, *arguments, **more)

    monkeypatch.setattr(EventClassifier, "answers", stopped)


def test_after_a_stop_other_arguments_are_refused_and_the_same_ones_go_on(model, log, tmp_path, monkeypatch, capsys):
    data, output = DataConfig([Source(path=str(log))]), tmp_path / "new" / "scores.parquet"
    with monkeypatch.context() as patched:
        stop_after(1, patched)
        with pytest.raises(KeyboardInterrupt):
            predict_log(model, data, CUTOFF, output, **PARTS)
    one = [path.stat().st_mtime_ns for path in output.parent.rglob("scores-*.parquet")]
    assert len(one) == 1
    other = DataConfig([Source(path=str(log), columns={"user_id": "user_id"})])
    changes = [("cutoff", {"cutoff": "2024-04-02"}), ("population", {"population": True}), ("text", {"text": True})]
    changes += [("sources", {"data": other}), ("precision", {"precision": "fp32"})]
    for named, change in changes:
        arguments = {"data": data, "cutoff": CUTOFF} | change
        with pytest.raises(InputError, match=rf"had (an)?other {named}; .* choose another --output"):
            predict_log(model, output=output, **arguments, **PARTS)
    os.utime(log, ns=(1, 1))
    with pytest.raises(InputError, match="had other files"):
        predict_log(model, data, CUTOFF, output, **PARTS)
    assert not output.exists()
    assert [path.stat().st_mtime_ns for path in output.parent.rglob("scores-*.parquet")] == one


def test_a_precision_that_embeddings_do_not_have_is_refused(model, log, tmp_path):
    said = "^precision: embeddings are made in fp32; leave embeddings or bf16 out$"
    data = DataConfig([Source(path=str(log))])
    with pytest.raises(InputError, match=said):
        predict_log(model, data, CUTOFF, tmp_path / "scores.parquet", embeddings=True, precision="bf16")
    assert not list(tmp_path.iterdir())


def test_a_population_is_kept_on_demand_and_texts_too(model, log, tmp_path, trained):
    data = DataConfig([Source(path=str(log))])
    found = pq.read_table(predict_log(model, data, CUTOFF, tmp_path / "s.parquet", population=True, text=True, **PARTS))
    rows = pq.read_table(trained.data_folder / "test.parquet", columns=["user_id", "cutoff", "text"]).to_pylist()
    texts = {row["user_id"]: row["text"] for row in rows if row["cutoff"] == datetime.fromisoformat(CUTOFF)}
    assert dict(zip(*(found[name].to_pylist() for name in ("user_id", "text")), strict=True)) == texts


def test_a_population_of_nobody_gives_a_file_without_rows_and_leaves_no_parts(model, log, tmp_path, capsys):
    data, late = DataConfig([Source(path=str(log))]), "2026-01-01"
    path = predict_log(model, data, late, tmp_path / "s.parquet", population=True, **PARTS)
    found = pq.read_table(path)
    assert found.equals(EventClassifier.from_pretrained(model).predict(data, late, population=True))
    assert (len(found), found.column_names) == (0, ["user_id", "cutoff", "label", "score"])
    assert [left.name for left in tmp_path.iterdir()] == ["s.parquet"]
    assert capsys.readouterr().out.count("nobody is in the population at 2026-01-01") == 2


def top_rows(scores: Path, users: int) -> list[dict]:
    rows = sorted(pq.read_table(scores).to_pylist(), key=lambda row: (-row["score"], row["user_id"]))
    return [{"rank": i, "user_id": row["user_id"], "score": row["score"]} for i, row in enumerate(rows[:users], 1)]


def read_rows(path: Path) -> list[dict]:
    with path.open(newline="", encoding="utf-8") as file:
        kinds = {"rank": int, "user_id": str, "score": float}
        return [{name: kinds[name](value) for name, value in row.items()} for row in csv.DictReader(file)]


def test_the_top_is_the_list_of_the_highest_scores_of_whom_is_scored(model, log, undisturbed, tmp_path, capsys):
    data, folder = DataConfig([Source(path=str(log))]), tmp_path
    for name, share, more, line in (
        ("tenth", 0.1, {}, "tenth.top.csv: the 15 users with the highest scores"),
        ("all", 1, {}, "all.top.csv: the 150 users with the highest scores"),
        ("one", 0.005, {}, "one.top.csv: the 1 user with the highest score"),
        ("asked", 0.1, {"population": True}, "asked.top.csv: the "),
    ):
        scores = predict_log(model, data, CUTOFF, folder / f"{name}.parquet", top=share, **more, **PARTS)
        assert f"{folder}/{line}" in capsys.readouterr().out
        users = pq.read_metadata(scores).num_rows
        found = read_rows(folder / f"{name}.top.csv")
        assert found == top_rows(scores, int(contacted(share, users)))
        assert users == 150 or more
    assert sorted({path.suffix for path in folder.iterdir()}) == [".csv", ".parquet"]
    assert (folder / "all.parquet").read_bytes() == undisturbed.read_bytes()


def test_users_of_equal_scores_are_listed_by_their_id_as_many_as_the_report_contacts(tmp_path):
    folder = tmp_path / "a[1] *"  # no glob
    folder.mkdir()
    scores = folder / "scores.parquet"
    pq.write_table(pa.table({"user_id": ["b", "=c", 'a "x", y', "d", "e"], "score": [0.5, 0.5, 0.5, 0.1, 0.9]}), scores)
    for share, users in ((0.5, 2), (0.7, 4), (0.9, 4), (0.1, 0)):  # of five; one half goes to the even number
        labels = np.array([0, 1, 0, 1, 1])
        rows = ScoredRows("binary", labels, {"model": np.linspace(0, 1, 5)}, np.arange(5))
        assert contact(rows, np.full(5, np.datetime64(CUTOFF)), share, 0)["contacted_at"] == users
        said = write_top(scores, share, folder, "1GB")
        listed = [
            row | {"user_id": {"=c": "'=c"}.get(row["user_id"], row["user_id"])} for row in top_rows(scores, users)
        ]
        assert read_rows(folder / "scores.top.csv") == listed
        assert ("1 of the ids, which a spreadsheet would compute, have an apostrophe" in said) == (users >= 2)


@pytest.mark.parametrize(
    ("user", "computed"),
    [
        *((text, True) for text in ("=1+1", "@SUM(1)", "+1+cmd|' /C calc'!A0", "-2+3+cmd|' /C calc'!D2", "-", "\t=1")),
        *((text, True) for text in ('=HYPERLINK("http://evil","x")', "+49 30 1", "-a", "\r=1", "=\n1", "+.5e9")),
        *((text, False) for text in ("u1", "-7", "+7", "-7.25", "7=7", "a@b.c", "'=1", "\u202e=1", "12-3")),
    ],
)
def test_an_id_that_a_spreadsheet_would_compute_is_listed_as_text(tmp_path, user, computed):
    scores = tmp_path / "scores.parquet"
    pq.write_table(pa.table({"user_id": [user], "score": [0.5]}), scores)
    write_top(scores, 1.0, tmp_path, "1GB")
    (row,) = read_rows(tmp_path / "scores.top.csv")
    assert row["user_id"] == (f"'{user}" if computed else user)


def test_a_stop_before_the_list_is_there_goes_on_to_it(model, log, tmp_path, monkeypatch):
    data, output = DataConfig([Source(path=str(log))]), tmp_path / "scores.parquet"
    with monkeypatch.context() as patched:
        patched.setattr("finetune.serving.top.connect", lambda *_: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            predict_log(model, data, CUTOFF, output, top=0.1, **PARTS)
    stop_after(0, monkeypatch)  # nobody is scored again
    predict_log(model, data, CUTOFF, output, top=0.1, **PARTS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores.parquet", "scores.top.csv"]


def test_a_list_that_would_replace_a_file_of_the_log_is_refused(trained, model, tmp_path):
    read = shutil.copy(trained.data.sources[0].path, tmp_path / "scores.top.csv")
    data = DataConfig([Source(path=str(read), columns=trained.data.sources[0].columns)])
    with pytest.raises(InputError, match=r"scores\.top\.csv is one of the files that are read"):
        predict_log(model, data, CUTOFF, tmp_path / "scores.parquet", top=0.1)


def test_new_scores_leave_no_list_of_earlier_ones(model, log, tmp_path):
    data, output = DataConfig([Source(path=str(log))]), tmp_path / "scores.parquet"
    predict_log(model, data, CUTOFF, output, top=0.1)
    assert (tmp_path / "scores.top.csv").is_file()
    predict_log(model, data, "2024-03-18", output)
    assert [path.name for path in tmp_path.iterdir()] == ["scores.parquet"]
    (tmp_path / "scores.top.csv").write_text("user,phone\n7,0123\n")
    for top in (None, 0.1):
        with pytest.raises(InputError, match=r"scores\.top\.csv is there and no list of scores; move it"):
            predict_log(model, data, CUTOFF, output, top=top)
    assert (tmp_path / "scores.top.csv").read_text() == "user,phone\n7,0123\n"


def test_names_with_brackets_and_stars_are_no_globs(model, log, undisturbed, tmp_path):
    folder, decoy = tmp_path / "a[1]", tmp_path / "a1"
    for place in (folder, decoy):
        place.mkdir()
    read = shutil.copy(log, folder / f"log[2]{log.suffix}")
    (decoy / f"log2{log.suffix}").write_bytes(b"what a glob would find")
    data = DataConfig([Source(path=str(read))])
    output = predict_log(model, data, CUTOFF, folder / "scores *.parquet", **PARTS)
    assert output.read_bytes() == undisturbed.read_bytes()
    assert [path.name for path in decoy.iterdir()] == [f"log2{log.suffix}"]


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"origin": {}, "users": {"a": 1}, "notes": []}'])
def test_a_damaged_plan_is_named_with_the_remedy(model, log, tmp_path, content):
    work = tmp_path / "scores.parquet.parts"
    work.mkdir()
    (work / "plan.json").write_text(content)
    with pytest.raises(InputError, match=r"plan\.json is damaged.*; delete .*\.parts and run the same command again"):
        predict_log(model, DataConfig([Source(path=str(log))]), CUTOFF, tmp_path / "scores.parquet")


@pytest.mark.parametrize("made", [b"PAR1", b"", None])
def test_a_part_that_is_damaged_is_named_with_the_remedy(model, log, tmp_path, monkeypatch, made):
    data, output = DataConfig([Source(path=str(log))]), tmp_path / "scores.parquet"
    with monkeypatch.context() as patch:
        stop_after(2, patch)
        with pytest.raises(KeyboardInterrupt):
            predict_log(model, data, CUTOFF, output, **PARTS)
    part = sorted((tmp_path / "scores.parquet.parts").glob("scores-*.parquet"))[-1]
    if made is None:
        pq.write_table(pa.table({"other": [1]}), part)
    else:
        part.write_bytes(made)
    with pytest.raises(InputError, match=rf"{part.name} is damaged .*; delete .*\.parts and run the same"):
        predict_log(model, data, CUTOFF, output, **PARTS)
    assert not output.exists()


def test_the_commands_take_times_without_a_zone_in_that_of_training(model, tmp_path):
    own = shutil.copytree(model, tmp_path / "model")
    (tmp_path / "log.csv").write_text("user_id,event_time,event_type\nu,2024-01-01,view\n")
    task = json.loads((own / "task.json").read_text())
    given = Namespace(config=None, events=str(tmp_path / "log.csv"), columns=None, max_rejected=0.05)
    given.model, given.timezone, given.time_unit, given.time_format, given.users = own, None, None, None, None
    for kept, asked, expected in (
        ("Asia/Tokyo", None, "Asia/Tokyo"),
        ("Asia/Tokyo", "UTC", "UTC"),
        (None, None, "UTC"),
    ):
        task["log"]["timezone"], given.timezone = kept, asked
        (own / "task.json").write_text(json.dumps(task))
        assert given_log(given).timezone == expected


def test_what_cannot_be_scored_is_refused_and_leaves_nothing_behind(model, log, tmp_path):
    data = DataConfig([Source(path=str(log))])
    with pytest.raises(InputError, match="not a name of a Parquet file"):
        predict_log(model, data, CUTOFF, tmp_path / "scores.csv")
    with pytest.raises(InputError, match="no event lies before"):
        predict_log(model, data, "2020-01-01", tmp_path / "scores.parquet")
    assert not [*tmp_path.iterdir()]
    same = shutil.copy(log, tmp_path / "log.parquet")
    with pytest.raises(InputError, match="is one of the files that are read"):
        predict_log(model, DataConfig([Source(path=str(same))]), CUTOFF, tmp_path / "log.parquet")
    assert (tmp_path / "log.parquet").read_bytes() == Path(log).read_bytes()
    work = tmp_path / "scores.parquet.parts"
    work.mkdir()
    (work / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="something else than parts"):
        predict_log(model, data, CUTOFF, tmp_path / "scores.parquet")
    (work / "thesis.txt").unlink()
    with (work / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="being written by another command"):
            predict_log(model, data, CUTOFF, tmp_path / "scores.parquet")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--columns", "{user_id: user, event_type: what}"], "--events has no column event_time (it has "),
        (["--columns", "[user]"], "--columns is a list; give a mapping, such as {user_id: visitorid"),
        (["--columns", "{user_id: a, user_id: b}"], "--columns: 'user_id' stands twice"),
        (["--config", "some.yaml"], "argument --config: not allowed with argument --events; "),
        (["--max-rejected", "7"], "--max-rejected 7 is no share; "),
        (["--timezone", "Mars"], "--timezone"),
        (["--time-unit", "days"], "argument --time-unit: invalid choice: 'days'"),
        (["--top", "0"], "--top 0 is no share of the users; give one above 0"),
        (["--top", "1.5"], "--top 1.5 is no share of the users; give one above 0 and up to 1"),
        (["--top", "nan"], "--top nan is no share of the users; "),
        (["--batch-size", "0"], "--batch-size and --part-users must be 1 or more; "),
    ],
)
def test_the_command_refuses_in_one_sentence_with_code_2(
    trained, model, tmp_path, arguments, named, monkeypatch, capsys
):
    script = script_module("predict")
    command = [PREDICT, "--model", model, "--events", trained.data.sources[0].path, "--cutoff", CUTOFF]
    monkeypatch.setattr(sys, "argv", [*map(str, [*command, "--output", tmp_path / "s.parquet", *arguments])])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit, match="2"):
        guarded(lambda: script.run(script.arguments()))
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith(f"error: {named}")
    assert not [*tmp_path.iterdir()]
