"""Whose the folder of a run is, and which checkpoint a stopped run continues from."""

import json
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from data_prep import InputError
from data_prep.checked_json import MayLack, Only, is_a, read_json
from data_prep.files import files_hash, held, write_whole
from data_prep.serializer import SERIALIZER
from data_prep.shared_schema import a_count
from finetune.experiment.config import Experiment
from finetune.experiment.effects import weight_settings, with_effect
from finetune.model.safety import refuse_code
from finetune.model.tokenization import first_line
from finetune.runs import (
    BACKTESTS,
    CHECKPOINTS,
    CHECKSUMS,
    EXPLANATION,
    EXPLANATION_PAGE,
    MEMBERS,
    METRICS,
    MODEL_FOLDER,
    ORIGIN,
    PREDICTIONS,
    PRETRAINED,
    PRETRAINING,
    PRETRAINING_LOG,
    REPORT,
    SETTINGS,
    START,
    SWEEP,
    TENSORBOARD,
    TRAINING_LOG,
    read_notes,
    read_trained_settings,
    seed_folder,
)

STEPS = (PRETRAINING, PRETRAINED, CHECKPOINTS, MEMBERS, MODEL_FOLDER, PREDICTIONS, BACKTESTS)
RUN_FOLDERS = (*STEPS, START, SWEEP, TENSORBOARD)
RUN_FILES = (SETTINGS, METRICS, REPORT, TRAINING_LOG, EXPLANATION, EXPLANATION_PAGE)
OF_A_RUN = re.compile("|".join([r"\..*", seed_folder(r"\d+"), *map(re.escape, (*RUN_FOLDERS, *RUN_FILES))]))
ANEW = "start anew with --training.resume_from_checkpoint false"
UNCHANGED = 1e-12  # biases begin near 0, and each step of Adam moves each of them by the learning rate


def a_logged_value(content: object) -> bool:
    """A number, which may be infinite as a gradient's norm may, or null."""
    return content is None or (isinstance(content, float) or is_a(content, int))


# The Trainer calls the constructors of callbacks with what stands in trainer_state.json, and sets any attribute of
# theirs: only those that our checkpoints have are let through.
STATE_HOLDS = {
    "global_step": a_count,
    "epoch": float,
    "train_batch_size": MayLack(int),
    "num_input_tokens_seen": a_count,
    "total_flos": float,
    "best_metric": MayLack(float),
    "best_global_step": MayLack(a_count),
    "best_model_checkpoint": MayLack(str),
    **dict.fromkeys(("logging_steps", "eval_steps", "save_steps"), MayLack(float)),
    "log_history": [{"step": a_count, str: a_logged_value}],
    "stateful_callbacks": Only(
        {
            "Clock": MayLack(Only({"args": Only(), "attributes": Only({"before": float})})),
            "EarlyStoppingCallback": MayLack(
                Only(
                    {
                        "args": Only({"early_stopping_patience": int, "early_stopping_threshold": float}),
                        "attributes": Only({"early_stopping_patience_counter": int}),
                    }
                )
            ),
            "TrainerControl": Only({"args": {str: bool}, "attributes": Only()}),
        }
    ),
}


def starts_anew(setting: str | None) -> bool:
    """Whether training.resume_from_checkpoint says so."""
    return bool(setting) and setting.lower() == "false"


def made_by(folder: Path) -> dict:
    """What `begin` and `finish` wrote about the checkpoints in a folder; empty where there are none."""
    holds: dict = {"training": MayLack({str: str}), "finished": MayLack(bool)}
    holds |= dict.fromkeys(("content_hash", "teacher"), MayLack(str))
    made = read_notes(folder / ORIGIN, holds)
    return made | ({"training": with_effect(made["training"])} if made.get("training") else {})


@contextmanager
def alone(folder: Path, main: bool) -> Iterator[None]:
    """A run's folder, held by one command at a time; a kill lets go of it.

    Args:
        folder: Of the run.
        main: Whether this process is the one that writes.
    """
    if not main:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder / ".lock", f"{folder} is being trained by another command; wait for it or stop it"):
        yield


def refuse_other_run(experiment: Experiment) -> None:
    """A run writes into a folder of its own, and replaces a finished one only where it has the same settings.

    Raises:
        InputError: The folder holds other things than a run's, among them models and checkpoints of other programs, or
            a finished run of other settings, and training.resume_from_checkpoint is not false.
    """
    base = experiment.base_folder
    if (base / MODEL_FOLDER).is_dir() if experiment.seeds else [*base.glob(f"{seed_folder('*')}/{MODEL_FOLDER}")]:
        raise InputError(
            f"{base} holds a run {'without' if experiment.seeds else 'of several'} --seeds", "choose another --name"
        )
    for run in experiment.seed_runs():
        _refuse_strange_files(run.run_folder)
        old = read_trained_settings(run.run_folder)
        if old and not starts_anew(run.training["resume_from_checkpoint"]):
            _refuse_other_settings(run.run_folder, "a finished run of other settings", old, weight_settings(run))


def _refuse_strange_files(folder: Path) -> None:
    strange = [path.name for path in folder.iterdir() if not OF_A_RUN.fullmatch(path.name)] if folder.is_dir() else []
    for name, mark in (
        (MODEL_FOLDER, SERIALIZER),
        (CHECKPOINTS, ORIGIN),
        (PRETRAINING, ORIGIN),
        (PRETRAINED, PRETRAINING_LOG),
    ):
        part = folder / name
        if part.is_dir() and not (part / mark).is_file():
            strange += [f"{name}/{path.name}" for path in sorted(part.iterdir())][:1]
    if strange or (folder.exists() and not folder.is_dir()):
        raise InputError(
            f"{folder} holds something else than a run ({(strange or ['a file'])[0]})",
            "choose another --name or runs.folder",
        )


def _refuse_other_settings(folder: Path, what: str, old: dict[str, str], new: dict[str, str]) -> None:
    old, new = with_effect(old), with_effect(new)
    changed = next((key for key in {**old, **new} if old.get(key) != new.get(key)), None)
    if changed:
        raise InputError(
            f"{folder} holds {what} ({changed}: {old.get(changed)})",
            "give the same ones, choose another --name, or replace it with --training.resume_from_checkpoint false",
        )


def checkpoint_to_resume(arguments: TrainingArguments, origin: dict) -> str | None:
    """The checkpoint to continue from; None to start anew.

    Args:
        arguments: resume_from_checkpoint and output_dir.
        origin: The settings and data of this run.

    Raises:
        InputError: The checkpoints are those of other settings or data, or the one that is asked for is not there.
    """
    assert arguments.output_dir is not None
    given, folder = arguments.resume_from_checkpoint, Path(arguments.output_dir)
    if starts_anew(given):
        return None
    if given and given.lower() != "true":
        if not _is_whole(Path(given), arguments.save_only_model):
            raise InputError(f"no complete checkpoint in {given}", setting="training.resume_from_checkpoint")
        _refuse_other_origin(Path(given).parent, made_by(Path(given).parent), origin)
        refuse_strange(Path(given))
        return given
    earlier = made_by(folder)
    if not given and earlier.get("finished", True):
        return None
    checkpoints = sorted(folder.glob("checkpoint-*"), key=_step)
    if checkpoints and earlier:
        _refuse_other_origin(folder, earlier, origin)
    while checkpoints:
        checkpoint = checkpoints.pop()
        if _is_whole(checkpoint, arguments.save_only_model):
            refuse_strange(checkpoint)
            print(f"continuing from {checkpoint}")
            return str(checkpoint)
        what = "the one before it is taken" if checkpoints else "and there is none before it"
        print(f"warning: {checkpoint} is damaged, {what}")
    if given:
        raise InputError(f"no complete checkpoint in {folder}", setting="training.resume_from_checkpoint")
    return None


def refuse_strange(checkpoint: Path) -> None:
    """Let pass a checkpoint that runs no code when it is continued, whoever wrote it.

    The optimizer, the scheduler and the random states are pickles, of which the Trainer loads weights alone. What lies
    in folders are shards (DeepSpeed, or FSDP with SHARDED_STATE_DICT), which PyTorch reads without such a bound.

    Raises:
        InputError: Shards, weights as a pickle alone, or a trainer_state.json that holds something else than ours.
    """
    shards = next((path for path in sorted(checkpoint.iterdir()) if path.is_dir()), None)
    if shards:
        raise InputError(
            f"{shards} holds shards, which are pickles and could run code, so that no training continues from them",
            f"save with FULL_STATE_DICT, as configs/accelerate/fsdp2.yaml does, or {ANEW}",
        )
    refuse_code(checkpoint)
    read_json(checkpoint / "trainer_state.json", STATE_HOLDS, ANEW)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _refuse_other_origin(folder: Path, earlier: dict, origin: dict) -> None:
    old, new = (
        {
            **(made.get("training") or {}),
            "data": made.get("content_hash"),
            "weights of finetuning.teacher_model": made.get("teacher"),
        }
        for made in (earlier, origin)
    )
    _refuse_other_settings(folder, "a run that was stopped and had other settings", old, new)


def begin(folder: Path, origin: dict, resume: str | None) -> None:
    """Say whose the checkpoints are from now on; those of an earlier run go, unless this one continues from one.

    Damaged ones after that one go, too: the Trainer would take them for the newest, and delete what it writes instead.
    """
    if resume and Path(resume).parent.resolve() == folder.resolve():
        for path in folder.glob("checkpoint-*"):
            if _step(path) > _step(Path(resume)):
                shutil.rmtree(path)
    elif folder.is_dir():
        gone = folder.with_name(f".{folder.name}")  # renamed first: a kill in between leaves no checkpoint unclaimed
        shutil.rmtree(gone, ignore_errors=True)
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / ORIGIN, json.dumps(origin | {"finished": False}))


def finish(folder: Path, origin: dict) -> None:
    """Say that the run has finished: the same command again starts anew."""
    write_whole(folder / ORIGIN, json.dumps(origin | {"finished": True}))


class _Moved(TrainerCallback):
    """Whether any step moves any of these weights; the best checkpoint, which comes back at the end, may be older."""

    def __init__(self, weights: Sequence[torch.Tensor]) -> None:
        self.weights, self.before = weights, [weight.detach().clone() for weight in weights]
        self.steps, self.any = 0, False

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: object
    ) -> None:
        """Look until one has moved."""
        self.steps += 1
        if not self.any and self.weights:
            pairs = zip(self.before, self.weights, strict=True)
            self.any = any((new.detach().to(old.device) - old).abs().max() >= UNCHANGED for old, new in pairs)


class Clock(TrainerCallback, ExportableState):
    """How long training takes, of a run that was stopped all parts up to the checkpoints that it continued from."""

    def __init__(self) -> None:
        self.before, self.begun = 0.0, time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: object
    ) -> None:
        """What was loaded before counts elsewhere."""
        self.begun = time.monotonic()

    def state(self) -> dict:
        """What a checkpoint keeps, from which the Trainer makes the clock of a run that continues."""
        return {"args": {}, "attributes": {"before": self.seconds()}}

    def seconds(self) -> float:
        """Until now."""
        return self.before + time.monotonic() - self.begun


def trained(trainer: Trainer, resume: str | None, section: str) -> float:
    """Train, and refuse weights that have not changed: they would pass for a model that has learned something.

    Only weights that are not decayed count, biases and norms, as decay changes the others without learning.

    Args:
        trainer: Has not begun.
        resume: The checkpoint to continue from, if any.
        section: Of the learning rate, for messages.

    Returns:
        The seconds of the training, of one that continues those before it too.

    Raises:
        InputError: Nothing was learned; the checkpoints are gone. Or not even a step can be made from `resume`.
    """
    model, folder = trainer.model, trainer.args.output_dir
    assert model is not None
    assert folder is not None
    decayed = set(trainer.get_decay_parameter_names(model))
    kept = [weight for name, weight in model.named_parameters() if weight.requires_grad and name not in decayed]
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:  # no process has the whole weights
        kept = []
    moved = _Moved(kept)
    trainer.add_callback(moved)
    trainer.add_callback(Clock())
    try:
        trainer.train(resume_from_checkpoint=resume)
    except (InputError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if resume is None or moved.steps:
            raise
        raise InputError(f"training cannot continue from {resume} ({first_line(error)})", ANEW) from error
    if kept and moved.steps and not moved.any:
        if trainer.is_world_process_zero():
            shutil.rmtree(folder)
        raise InputError(
            f"{section}.learning_rate {trainer.args.learning_rate:g} has changed no weight in "
            f"{trainer.state.global_step:,} steps",
            "raise it, evaluate later (training.eval_steps), or mend what keeps "
            "the steps small, such as training.adam_epsilon, max_grad_norm or lr_scheduler_type",
        )
    return next(part.seconds() for part in trainer.callback_handler.callbacks if isinstance(part, Clock))


def refuse_not_finite(folder: Path) -> None:
    """Delete a folder whose weights are not finite: nothing is to be continued from them, or scored with them.

    Raises:
        InputError: They are not.
    """
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as weights:
            if all(torch.isfinite(weights.get_tensor(name)).all() for name in weights.keys()):  # noqa: SIM118
                continue
        shutil.rmtree(folder)
        section = "pretraining" if folder.parent.name == PRETRAINING else "training"
        raise InputError(
            f"{section}.learning_rate: the weights are no numbers any more, so that {folder.name} is not kept",
            "lower the rate",
        )


def write_checksums(checkpoint: Path) -> None:
    """Write into a checkpoint what its files contain, by which damage is seen before a run continues from it.

    Raises:
        InputError: Its weights are not finite; see `refuse_not_finite`.
    """
    refuse_not_finite(checkpoint)
    write_whole(checkpoint / CHECKSUMS, json.dumps(_checksums(checkpoint)))


def _checksums(checkpoint: Path) -> dict[str, str]:
    """Of each file; the random states of other processes, and shards in folders, may still be written meanwhile."""
    files = (path for path in checkpoint.iterdir() if path.is_file() and path.name != CHECKSUMS)
    return {path.name: files_hash([path]) for path in files if not re.match(r"rng_state_[1-9]", path.name)}


def _is_whole(checkpoint: Path, only_model: bool) -> bool:
    """Whether a checkpoint has the files that were written, unchanged.

    Args:
        checkpoint: Its folder.
        only_model: Whether it was saved without the optimizer.
    """
    written = read_notes(checkpoint / CHECKSUMS, {str: str})
    return bool(written) and written == _checksums(checkpoint) and (only_model or any(checkpoint.glob("optimizer*")))
