"""More files that are read back, for tests/read_back.py: of what was stopped, weights to start from, and caches.

A forger writes the checksums, too: those of a checkpoint are always those of the damaged files.
"""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from data_prep import InputError
from finetune.experiment.config import Experiment

STOPPED, PRIVATE = (Path(f"{name}/tiny/checkpoints/checkpoint-1") for name in ("stopped", "private"))
START, PARTS, STORE, PAGE = Path("start"), Path("stopped-parts"), Path("histories.db"), Path("monitored.html")
MODEL = Path("runs/tiny/model")
STEPS = {"max_steps": 2, "eval_strategy": "no", "save_strategy": "steps", "save_steps": 1, "report_to": "none"}
KEPT = {"pretraining.max_steps": 0, "training.load_best_model_at_end": False}
KEPT |= {f"training.{key}": value for key, value in STEPS.items()}


def lay_out(experiment: Experiment) -> None:
    """Put the files into the current folder.

    Args:
        experiment: Whose data is prepared there, and whose model is runs/tiny/model.
    """
    from finetune.report.monitoring import MARK
    from finetune.serving.service.store import kept, open_store
    from finetune.training.train import train

    _known.clear()
    _known.append(experiment)
    _made.cache_clear()
    _arguments.cache_clear()
    for checkpoint in (STOPPED, PRIVATE):
        train(_made(checkpoint.parts[0]))
        shutil.rmtree(checkpoint.with_name("checkpoint-2"))
        origin = json.loads((checkpoint.parent / "origin.json").read_text())
        (checkpoint.parent / "origin.json").write_text(json.dumps(origin | {"finished": False}))
    shutil.copytree("runs/tiny/pretrained", START)
    events = [{"user_id": f"u{n}", "event_time": "2024-03-01 10:00:00", "event_type": "view"} for n in range(9)]
    store = open_store(f"sqlite:///{STORE}")
    store.add([kept(event["user_id"], event) for event in events])
    store.close()
    _stop_scoring()
    PAGE.write_text(f"<html>{MARK}</html>")


def _stop_scoring() -> None:
    """Leave the parts of scores behind, as a command that was killed at the end does."""
    from finetune.serving import predict

    finish, predict._finish = predict._finish, _stop
    try:
        _predict()
    except KeyboardInterrupt:
        shutil.move("scores.parquet.parts", PARTS)
    finally:
        predict._finish = finish


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


def _predict() -> Path:
    from finetune.serving.predict import predict_log

    return predict_log(MODEL, _known[0].data, "2024-04-01", Path("scores.parquet"), part_users=50)


def readers() -> list[tuple[Path, str, Callable[[], object], float]]:
    """Each file, how much of it a damage understands, its reader, and which share of the campaign it is worth."""
    pickles = ("optimizer.pt", "scheduler.pt", "rng_state.pth")
    weights = (("config.json", "json"), ("tokenizer.json", "json"), ("model.safetensors", "bytes"))
    return [
        *((STOPPED / name, "json", continued, 1.0) for name in ("trainer_state.json", "config.json")),
        *((STOPPED / name, "torch", continued, 1.0) for name in pickles),
        (STOPPED / "model.safetensors", "bytes", continued, 1.0),
        (PRIVATE / "privacy.json", "json", continued_privately, 0.3),
        *((START / name, kind, started, 1.0) for name, kind in weights),
        (STORE, "bytes", stored, 1.0),
        (PARTS / "plan.json", "json", scored_on, 0.3),
        (PARTS / "scores-00000.parquet", "bytes", scored_on, 0.3),
        (PAGE, "bytes", replaced, 1.0),
    ]


_known: list[Experiment] = []  # the last one that was laid out


@cache
def _made(runs: str) -> Experiment:
    """The experiment as the runs of a folder have it."""
    from finetune.experiment.parser import changed

    private = {
        "finetuning.privacy": {"epsilon": 8.0, "delta": 1e-4, "schema": "learned"},
        "training.per_device_train_batch_size": 2,
    }
    more = {
        "private": private,
        "started": {"model.name_or_path": str(START)},
    }
    return changed(_known[0], {"runs.folder": runs} | KEPT | more.get(runs, {}))


@cache
def _arguments(runs: str, output: Path) -> Any:
    from finetune.training.arguments import training_arguments

    return training_arguments(_made(runs), output_dir=str(output))


def _trainer(runs: str) -> Any:
    from data_prep.prepared import prepared_for
    from finetune.training.train import build_trainer

    experiment = _made(runs)
    manifest = prepared_for(experiment.data_folder, experiment.task, experiment.text)
    trainer, _ = build_trainer(experiment, _arguments(runs, Path("again")), manifest)
    trainer.args.save_strategy = "no"
    return trainer


def continued() -> object:
    """The checkpoint of a stopped training."""
    return _continued("stopped")


def continued_privately() -> object:
    """The same of a private one, whose accountant goes on."""
    return _continued("private").facts()


def _continued(runs: str) -> Any:
    from finetune.training.checkpoints import _checksums, checkpoint_to_resume, made_by, trained

    checkpoints = Path(runs) / "tiny" / "checkpoints"
    (checkpoints / "checkpoint-1" / "checksums.json").write_text(json.dumps(_checksums(checkpoints / "checkpoint-1")))
    resume = checkpoint_to_resume(_arguments(runs, checkpoints), made_by(checkpoints))
    assert resume, "as the checksums are right"
    trainer = _trainer(runs)
    trained(trainer, resume, "training")
    return trainer


def started() -> object:
    """Weights to start from."""
    return _trainer("started")


def stored() -> object:
    """The service's histories."""
    from finetune.serving.service.store import StoreError, open_store

    store = open_store(f"sqlite:///{STORE}")
    try:
        return store.events([*store.users("", 100), "u1"])
    except StoreError as error:
        raise InputError(str(error)) from error
    finally:
        store.close()


def scored_on() -> object:
    """What a stopped command has scored."""
    work = Path("scores.parquet.parts")
    shutil.copytree(PARTS, work)
    try:
        return _predict()
    finally:
        shutil.rmtree(work, ignore_errors=True)


def replaced() -> object:
    """A page that the same command may replace."""
    from finetune.report.monitoring import refuse_other_page

    return refuse_other_page(PAGE)
