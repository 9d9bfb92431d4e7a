"""Every file that is read back, its reader, and a campaign of damage: python -m tests.read_back --mutations 1000

Each damaged file must be read well, or be refused by an InputError of one sentence: no other exception, nothing that
takes longer than SECONDS, and no memory beyond MEMORY. It works on the committed run of tests/finetune/older_run.
"""

import argparse
import contextlib
import gc
import io
import json
import os
import resource
import shutil
import signal
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_prep import InputError
from tests import more_files
from tests.mutations import mutated

if TYPE_CHECKING:
    from finetune.experiment.config import Experiment

SECONDS, MEMORY = 5, 2 * 2**30
DESCRIBED = (("config.yaml", "yaml"), ("training_log.json", "json"), ("metrics.json", "json"))
OLDER = Path(__file__).parent / "finetune" / "older_run" / "tiny"
TIMES = ("2024-01-03 10:00:00", "2024-03-20 08:30:00", "2024-03-28 23:59:59")
EVENTS = [
    {"user_id": f"u{user}", "event_time": time, "event_type": kind, "amount": 10.5 * user, "shop": "north"}
    for user in range(3)
    for time, kind in zip(TIMES, ("view", "purchase", "purchase"), strict=True)
]
RUN, MODEL, DATA, SHADOW = Path("runs/tiny"), Path("runs/tiny/model"), Path("data/tiny"), Path("runs/other")


@dataclass(frozen=True)
class Reader:
    """A file, how much of it a damage understands (see `mutated`), and what reads it."""

    path: Path
    kind: str
    read: Callable[[], object]
    share: float = 1.0  # of the campaign's mutations that it is worth: a page takes seconds
    tried: int = 40  # mutations that the tests try


def lay_out() -> None:
    """Put all that is read back into the current folder."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    from data_prep.prepare import prepare
    from finetune.experiment.parser import parse_experiment
    from finetune.training.checkpoints import write_checksums
    from finetune.upkeep.registry import add_entry
    from tests.conftest import write_log

    write_log(Path("log.csv"))
    for run in (RUN, SHADOW):
        shutil.copytree(OLDER, run)
    experiment = parse_experiment("", ["--config", str(RUN / "config.yaml")])
    prepare(experiment.name, experiment.data, experiment.task, experiment.text)
    shutil.copytree(MODEL, "adapter")
    base = AutoModelForSequenceClassification.from_pretrained(MODEL)
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["query", "value"], modules_to_save=["classifier"]))
    adapted.peft_config["default"].base_model_name_or_path = str(MODEL.resolve())
    Path("adapter/model.safetensors").unlink()
    adapted.save_pretrained("adapter")
    checkpoint = RUN / "checkpoints" / "checkpoint-1"
    checkpoint.mkdir()
    shutil.copy(MODEL / "model.safetensors", checkpoint)
    write_checksums(checkpoint)
    shutil.copy(RUN / "config.yaml", "best.yaml")
    for number in range(3):
        add_entry(Path("runs/registry.jsonl"), "promoted", RUN / f"model-{number}", MODEL, "better", challenger="x")
    causes = [{"cause": "few purchases", "users": 50, "score_change": 0.1, "raises": "a", "lowers": None}] * 3
    (RUN / "explanation.json").write_text(json.dumps({"causes": causes}))
    Path("watched.json").write_text(json.dumps({"audit": "tiny"}))
    more_files.lay_out(_experiment())
    _experiment()  # before its file is damaged


def readers() -> list[Reader]:
    """Of the current folder, where `lay_out` was called. What they need is imported by the first of them."""
    loaded = ("config.json", "tokenizer.json", "tokenizer_config.json")
    parts = {"serializer.json": _texts, "task.json": _task, "calibration.json": _calibration}
    adapter = (("adapter_config.json", "json"), ("adapter_model.safetensors", "bytes"))
    return [
        *(Reader(MODEL / name, "json", _scored(MODEL), tried=10) for name in loaded),
        *(Reader(MODEL / name, "json", read) for name, read in parts.items()),
        *(Reader(MODEL / name, "json", _scored(MODEL), 0.02, 2) for name in parts),
        Reader(MODEL / "model.safetensors", "bytes", _scored(MODEL)),
        *(Reader(Path("adapter") / name, kind, _scored(Path("adapter")), tried=10) for name, kind in adapter),
        Reader(RUN / "metrics.json", "json", _measured),
        *(Reader(RUN / name, "json", _reported, 0.02, 1) for name in ("metrics.json", "explanation.json")),
        Reader(RUN / "config.yaml", "yaml", _configured),
        Reader(RUN / "training_log.json", "json", _logged),
        *(Reader(RUN / name, kind, _described, 0.02, 1) for name, kind in DESCRIBED),
        Reader(RUN / "predictions" / "test.parquet", "bytes", _compared),
        Reader(RUN / "pretrained" / "pretraining_log.json", "json", _pretrained),
        Reader(RUN / "checkpoints" / "origin.json", "json", _resumed),
        Reader(RUN / "checkpoints" / "checkpoint-1" / "checksums.json", "json", _resumed),
        Reader(DATA / "manifest.json", "json", _prepared),
        *(Reader(DATA / f"{split}.parquet", "bytes", _read_rows) for split in ("train", "test", "unlabelled")),
        Reader(Path("runs/registry.jsonl"), "jsonl", _registered),
        Reader(Path("best.yaml"), "yaml", _parsed, tried=20),
        Reader(Path("watched.json"), "json", _replaced),
        *(Reader(*file, tried=1 if file[3] < 1 else 3) for file in more_files.readers()),
    ]


def _scored(folder: Path) -> Callable[[], object]:
    def read() -> object:
        from finetune import EventClassifier

        classifier = EventClassifier.from_pretrained(folder)
        return classifier.predict(EVENTS, "2024-04-01", text=True, population=True)

    return read


def _texts(folder: Path = MODEL) -> object:
    from data_prep.serializer import EventSerializer

    serializer = EventSerializer.from_pretrained(folder)
    serializer.save_pretrained("again")
    return serializer.transform(EVENTS, datetime(2024, 4, 1))


def _task() -> object:
    from data_prep.serving import trained_zone
    from data_prep.task import check_loaded
    from finetune.runs import read_task, whom, window_of

    task = read_task(MODEL)
    check_loaded(MODEL / "task.json", task["task"], {"event_type": "VARCHAR", "amount": "DOUBLE", "shop": "VARCHAR"})
    return whom(task).phrase(), whom(task).within, window_of(task), trained_zone(task)


def _calibration() -> object:
    from finetune.model.calibration import Calibration

    return Calibration.load(MODEL).apply(np.linspace(0, 1, 11), "binary")


def _reported() -> object:
    from finetune.report.report import write_report

    return write_report(RUN)


def _measured() -> object:
    from finetune.figures.metrics_json import read_metrics

    return read_metrics(RUN)


def _configured() -> object:
    from finetune.runs import CONFIGURED, read_settings

    return read_settings(RUN, CONFIGURED)


def _logged() -> object:
    from finetune.runs import LOGGED, read_trained_settings, read_training_log

    return read_training_log(RUN, LOGGED), read_trained_settings(RUN)


def _described() -> object:
    """The comparison, the card, and the curves and times of the training."""
    from finetune.evaluation.curves import seconds_before, training
    from finetune.hub.model_card import write_model_card

    _compared()
    return write_model_card(RUN), training(_experiment(), "auroc"), seconds_before(_experiment())


@cache
def _experiment() -> "Experiment":
    return _parsed(RUN / "config.yaml")


def _compared() -> object:
    from finetune.evaluation.compare import compare_runs

    return compare_runs([RUN, SHADOW], "best", 2)


def _pretrained() -> object:
    from finetune.evaluation.curves import seconds_before, training

    return training(_experiment(), "auroc"), seconds_before(_experiment())


def _resumed() -> object:
    from transformers import TrainingArguments

    from finetune.training.checkpoints import checkpoint_to_resume, made_by

    folder = RUN / "checkpoints"
    arguments = TrainingArguments(str(folder), save_only_model=True, use_cpu=True)
    return made_by(folder), checkpoint_to_resume(arguments, {"training": {}, "content_hash": ""})


def _prepared() -> object:
    from data_prep.prepared import prepared_for

    return prepared_for(DATA, _experiment().task, _experiment().text)


def _read_rows() -> object:
    from data_prep.prepared import Labelled, column_array, read_split, split_texts

    found = []
    for split in ("train", "validation", "test"):
        table = read_split(DATA, split, Labelled(20), ["user_id", "cutoff", "text", "label"])
        found.append(column_array(table["label"]).sum())
        found.append([len(part) for part in split_texts(DATA, split, None, 50)[1]])
    return found, [len(part) for part in split_texts(DATA, "unlabelled", None, 50)[1]]


def _registered() -> object:
    from finetune.upkeep.registry import in_use, read_registry

    return in_use(read_registry(Path("runs/registry.jsonl")), MODEL)


def _parsed(path: Path = Path("best.yaml")) -> "Experiment":
    from finetune.experiment.parser import parse_experiment

    return parse_experiment("", ["--config", str(path)])


def _replaced() -> object:
    from data_prep.config import DataConfig
    from finetune.report.beside import refuse_output

    return refuse_output(Path("watched.html"), DataConfig([]), "audit")


class HangError(Exception):
    """A reader that takes too long."""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Let nothing take longer, nor say anything."""

    def stop(*_: object) -> None:
        raise HangError

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)  # of the processor's time, as others may use it, too
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def fault(read: Callable[[], object], seconds: float = SECONDS) -> str | None:
    """What is wrong with how a reader takes the present file; None where it is read, REFUSED where it is refused so."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        with limited(seconds):
            read()
        said = None
    except InputError as error:
        said = str(error)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # a panic of Rust is no Exception
        return traceback.format_exc()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    if grown > MEMORY:
        return f"it took {grown / 2**30:.1f} GiB"
    if said is None:
        return None
    try:
        said.encode()
    except UnicodeEncodeError:
        return f"half a character in {said!a}"
    if len(said.splitlines()) != 1 or len(said) > 1_500 or not said.isprintable():
        return f"no sentence of {len(said)} characters: {said[:300]!a}"
    return REFUSED


REFUSED = "refused"


def damage(reader: Reader, seeds: range) -> Iterator[tuple[int, str | None]]:
    """Each seed with its `fault`; the file is whole again behind it."""
    whole = reader.path.read_bytes()
    content = whole
    try:
        for seed in seeds:
            reader.path.write_bytes(mutated(content, reader.kind, f"{reader.path} {seed}"))
            yield seed, fault(reader.read)
    finally:
        reader.path.write_bytes(whole)


def campaign(mutations: int, only: list[str], start: int) -> None:
    """Print of each file how many damaged ones were read and refused, and each kind of fault once."""
    total = Counter()
    for reader in sorted(readers(), key=lambda reader: -reader.share):
        if only and not any(part in str(reader.path) for part in only):
            continue
        counts, kinds, begun = Counter(), {}, time.monotonic()
        for seed, found in damage(reader, range(start, start + max(1, int(mutations * reader.share)))):
            counts["read" if found is None else "refused" if found == REFUSED else "FAULT"] += 1
            if found not in (None, REFUSED):
                kinds.setdefault(tuple(found.strip().splitlines()[-3:]), (seed, found))
        print(
            f"{reader.path} by {reader.read.__name__}: {dict(counts)} in {time.monotonic() - begun:.0f} s", flush=True
        )
        for seed, found in kinds.values():
            lines = [line for line in found.splitlines() if "safe/" in line or "main/" not in line][-7:]
            print(f"  seed {seed}: " + "\n    ".join(line[:300] for line in lines), flush=True)
        total += counts
    print(f"all: {dict(total)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=1000)
    parser.add_argument("--only", nargs="*", default=[], help="Files whose path has one of these.")
    parser.add_argument("--start", type=int, default=0, help="The first seed.")
    given = parser.parse_args()
    os.environ |= {
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",
        "RUST_BACKTRACE": "0",  # which takes seconds of each panic
    }
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        lay_out()
        gc.freeze()  # the Trainer collects at each end, which takes longer than all else
        campaign(given.mutations, given.only, given.start)
