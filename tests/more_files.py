"""More files that are read back, for tests/read_back.py: of a stopped training, of weights to start from, and caches.

A forger writes the checksums, too: those of a checkpoint are always those of the damaged files.
"""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from data_prep import InputError
from finetune.config import Experiment

STOPPED, PRIVATE = (Path(f"{name}/tiny/checkpoints/checkpoint-1") for name in ("stopped", "private"))
START, PARTS, STORE = Path("start"), Path("stopped-parts"), Path("histories.db")
DATA, MODEL = Path("data/tiny"), Path("runs/tiny/model")
STEPS = {"max_steps": 2, "eval_strategy": "no", "save_strategy": "steps", "save_steps": 1, "report_to": "none"}
KEPT = {"pretraining.max_steps": 0, "training.load_best_model_at_end": False}
KEPT |= {f"training.{key}": value for key, value in STEPS.items()}


def lay_out(experiment: Experiment) -> None:
    """Put the files into the current folder.

    Args:
        experiment: Whose data is prepared there, and whose model is runs/tiny/model.
    """
    from finetune.serving.service.store import kept, open_store
    from finetune.training.train import train

    _known.clear()
    _known.append(experiment)
    for checkpoint, made in ((STOPPED, _made("stopped")), (PRIVATE, _made("private"))):
        train(made)
        shutil.rmtree(checkpoint.with_name("checkpoint-2"))
        origin = json.loads((checkpoint.parent / "origin.json").read_text())
        (checkpoint.parent / "origin.json").write_text(json.dumps(origin | {"finished": False}))
    shutil.copytree("runs/tiny/pretrained", START)
    events = [{"user_id": f"u{n}", "event_time": "2024-03-01 10:00:00", "event_type": "view"} for n in range(9)]
    store = open_store(f"sqlite:///{STORE}")
    store.add([kept(event["user_id"], event) for event in events])
    store.close()


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
    ]


_known: list[Experiment] = []  # the last one that was laid out


@cache
def _made(runs: str, **more: Any) -> Experiment:
    from finetune.parser import changed

    private = {"finetuning.privacy": {"epsilon": 8.0, "delta": 1e-4}, "training.per_device_train_batch_size": 2}
    private = private if runs == "private" else {}
    return changed(_known[0], {"runs.folder": runs} | KEPT | private | more)


def continued() -> object:
    """The checkpoint of a stopped training."""
    return _continued(STOPPED, _made("stopped"))


def continued_privately() -> object:
    """The same of a private one, whose accountant goes on."""
    return _continued(PRIVATE, _made("private")).facts()


def _continued(checkpoint: Path, experiment: Experiment) -> Any:
    from finetune.training.arguments import training_arguments
    from finetune.training.checkpoints import _checksums, checkpoint_to_resume, made_by, trained

    (checkpoint / "checksums.json").write_text(json.dumps(_checksums(checkpoint)))
    arguments = training_arguments(experiment, output_dir=str(checkpoint.parent))
    resume = checkpoint_to_resume(arguments, made_by(checkpoint.parent))
    assert resume, "as the checksums are right"
    trainer = _trainer(experiment, arguments)
    trainer.args.save_strategy, trainer.args.output_dir = "no", "again"  # which goes where nothing was learned
    trained(trainer, resume, "training")
    return trainer


def _trainer(experiment: Experiment, arguments: Any) -> Any:
    from data_prep.prepared import prepared_for
    from finetune.training.train import build_trainer

    manifest = prepared_for(experiment.data_folder, experiment.task, experiment.text)
    return build_trainer(experiment, arguments, manifest)[0]


def started() -> object:
    """Weights to start from."""
    from finetune.training.arguments import training_arguments

    experiment = _made("started", **{"model.name_or_path": str(START)})
    return _trainer(experiment, training_arguments(experiment, output_dir="again"))


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
