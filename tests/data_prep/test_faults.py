"""Kills, full disks and bad files, through scripts/prepare.py itself."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
import yaml

from data_prep.prepare import prepare
from data_prep.prepared import read_manifest
from finetune.experiment.parser import parse_experiment
from tests.commands import Commands

KILLS = 12


@pytest.fixture
def data(tiny) -> Path:
    """The folder of prepared data of the tiny experiment, whose log is small here."""
    log = tiny.with_name("log.csv")
    log.write_text("\n".join(log.read_text().splitlines()[:800]) + "\n")
    return tiny.with_name("data") / "tiny"


def content(folder: Path) -> dict[str, bytes]:
    """All files but the manifest, which has times, and what the manifest says of them."""
    manifest = read_manifest(folder)
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != "manifest.json"}
    assert manifest["files"] == {name: len(content) for name, content in files.items()}
    return files | {"content_hash": manifest["content_hash"]}


def refused(commands: Commands, *arguments: str, largest_file: int | None = None) -> str:
    """The one sentence of a command that ends with exit code 2."""
    code, printed = commands.run("prepare.py", *arguments, largest_file=largest_file)
    assert code == 2, printed
    (line,) = [line for line in printed.splitlines() if line.strip()]
    return line


def test_a_kill_at_any_moment_leaves_the_old_output_or_the_new_one(commands, tiny, data):
    config, other = ["--config", str(tiny)], ["--task.label.horizon", "10 days"]
    experiments = [parse_experiment("", config + change) for change in ([], other)]
    outputs = []
    for experiment in experiments:
        prepare(experiment.name, experiment.data, experiment.task, experiment.text)
        outputs.append(content(data))
    assert outputs[0] != outputs[1]
    durations = []
    for _ in range(2):
        started = time.perf_counter()
        assert commands.run("prepare.py", *config)[0] == 0
        durations.append(time.perf_counter() - started)
    duration = min(durations)
    assert content(data) == outputs[0]
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    codes = []
    for i in range(KILLS):
        turn = 1 - outputs.index(content(data)) if data.exists() else 0  # the output that is not there
        # A run reads its config for nearly half of its time, in which a kill teaches little.
        moment = duration * (0.4 + 0.7 * (i + chance.random()) / KILLS)
        said = f"kill {i} after {moment:.3f} of {duration:.3f} s, seed {seed}"
        command = commands.start("prepare.py", *config, *other * turn)
        time.sleep(moment)
        codes.append(command.kill())
        if data.exists():  # it is not for microseconds, between two renames
            assert content(data) in outputs, said
        if i % 4 == 3:
            experiment = experiments[turn]
            prepare(experiment.name, experiment.data, experiment.task, experiment.text)
            assert content(data) == outputs[turn], said
            assert os.listdir(data.parent) == [data.name], said
    assert codes.count(-signal.SIGKILL) >= 2, codes  # a busy machine makes the measured duration wrong


def test_a_full_disk_ends_with_one_sentence_and_keeps_the_old_output(commands, tiny, data):
    assert commands.run("prepare.py", "--config", str(tiny))[0] == 0
    before = content(data)
    for largest_file in (4_000, 20_000):  # bytes; a limit on files stands for a disk that is full
        line = refused(commands, "--config", str(tiny), "--task.label.horizon", "10 days", largest_file=largest_file)
        assert "File too large" in line
        assert "the folder that is written to, and the space left" in line
        assert content(data) == before
        assert os.listdir(data.parent) == [data.name]


def test_rejected_rows_that_do_not_fit_on_the_disk_end_with_one_sentence(commands, tiny, data):
    log = tiny.with_name("log.csv")
    log.write_text(log.read_text() + "".join(f"u{i},never{i**9},view,,north\n" for i in range(1000)))
    line = refused(commands, "--config", str(tiny), "--data.max_rejected", "0.9", largest_file=2_000)
    assert "File too large" in line
    assert not data.exists()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("log.csv", b"", "log.csv is empty"),
        ("log.csv", "user,time\n1,2\n".encode("utf-16"), "log.csv is not text in UTF-8 but in UTF-16"),
        ("log.csv.gz", b"not gzip", "log.csv.gz cannot be read"),
        ("log.parquet", b"PAR1", "log.parquet' too small to be a Parquet file"),
        ("log.csv", b"user,time,what,amount,shop\na,never,b,1,x\n", "1 of 1 rows cannot be used"),
        ("log.csv/", None, "no file matches"),
    ],
)
def test_a_bad_file_ends_with_one_sentence_and_leaves_nothing(commands, tiny, data, tmp_path, name, content, reason):
    path = tmp_path / "bad" / name
    path.parent.mkdir()
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    config = yaml.safe_load(tiny.read_text())
    config["data"]["sources"][0]["path"] = str(path)
    tiny.write_text(yaml.safe_dump(config))
    assert reason in refused(commands, "--config", str(tiny))
    assert not data.parent.exists() or os.listdir(data.parent) == []


def test_two_sources_of_clashing_types_end_with_one_sentence(commands, tiny, data):
    config = yaml.safe_load(tiny.read_text())
    (first,) = config["data"]["sources"]
    second = {**first, "columns": {**first["columns"], "amount": "shop"}}
    config["data"]["sources"] = [first, second]
    tiny.write_text(yaml.safe_dump(config))
    line = refused(commands, "--config", str(tiny))
    assert "data.sources[1]: column 'amount' is VARCHAR here but DOUBLE in data.sources[0]; cast one of them" in line
    assert not data.exists()


@pytest.mark.parametrize("share", ["-0.1", "1.1"])
def test_a_share_outside_0_and_1_is_refused(commands, tiny, share):
    assert "data.max_rejected" in refused(commands, "--config", str(tiny), "--data.max_rejected", share)


def test_a_missing_key_for_pseudonyms_ends_with_one_sentence(commands, tiny, data):
    line = refused(commands, "--config", str(tiny), "--data.pseudonymize", "NO_SUCH_KEY")
    assert "the environment variable NO_SUCH_KEY is not set" in line
    assert not data.exists()
