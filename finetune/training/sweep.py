"""A search for good settings with Optuna: runs/NAME/sweep/study.db, best.yaml and sweep.html.

Each trial is a run of `train` with other settings, so that training with best.yaml repeats the best one.
Trainer.hyperparameter_search is not used: it keeps one Trainer for all trials, whose early stopping does not start
anew; it sets fields of TrainingArguments without their checks and no setting beside them; and it takes the last
evaluation for a trial's value, where training keeps the best.
"""

import fcntl
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import reduce
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import torch
import yaml
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import SaveStrategy

from data_prep import InputError
from data_prep.facts import Manifest
from data_prep.files import write_whole
from data_prep.prepared import prepared_for
from finetune.experiment.config import RENAMED, Experiment
from finetune.experiment.effects import effect, weight_settings
from finetune.experiment.parser import changed, changed_yaml
from finetune.figures.measures import measure
from finetune.model.objective import Objective
from finetune.report.sweep_page import STATES, Search, in_short, sweep_page
from finetune.runs import CHECKPOINTS, METRICS, SWEEP, read_notes
from finetune.training.arguments import training_arguments
from finetune.training.start import starting_point
from finetune.training.train import build_trainer

if TYPE_CHECKING:
    from optuna import Study, Trial

BEST = "best.yaml"  # the config of the best trial, beside sweep.html
SECTIONS = ("training", "model", "finetuning")  # what a trial may change: the data stays prepared


def sweep(experiment: Experiment) -> Path:
    """Run the trials that the study still lacks; several processes may do so at a time.

    A trial is judged by its best validation metric; the test split is not read. best.yaml and sweep.html are written
    anew after each trial.

    Returns:
        sweep.html.

    Raises:
        InputError: Optuna is missing, a setting does not fit, or the study is one of other settings or data.
    """
    try:
        import optuna
        import sqlalchemy.exc
    except ImportError as error:
        raise InputError("a sweep needs Optuna", "install the extra `sweep`: pip install -e '.[sweep]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    arguments, manifest = _checked(experiment)
    # As text, because yaml knows one and the same space in one order only.
    origin = weight_settings(experiment) | {
        "data": manifest["content_hash"],
        "sweep.space": yaml.safe_dump(experiment.sweep.space),
    }
    folder = experiment.base_folder / SWEEP
    folder.mkdir(parents=True, exist_ok=True)
    pruner = optuna.pruners.MedianPruner() if experiment.sweep.pruning == "median" else optuna.pruners.NopPruner()
    with _lock(folder / ".lock"):
        try:
            study = optuna.create_study(
                storage=optuna.storages.RDBStorage(
                    f"sqlite:///{folder / 'study.db'}", engine_kwargs={"connect_args": {"timeout": 60}}
                ),
                study_name=experiment.name,
                direction="maximize" if arguments.greater_is_better else "minimize",
                pruner=pruner,
                load_if_exists=True,
            )
        except sqlalchemy.exc.DatabaseError as error:
            raise InputError(f"{folder / 'study.db'} is damaged", "delete it or choose another --name") from error
        _refuse_other(study, origin, folder)
    metric = arguments.metric_for_best_model
    assert metric is not None  # as the best checkpoint is loaded
    while begun := _begin(study, experiment, metric, folder):
        trial, held = begun
        state, value = "FAIL", None
        try:
            state, value = _run(trial, experiment, metric, manifest, _place(folder, trial.number))
        finally:
            with held, _lock(folder / ".lock"):
                study.tell(trial, value, optuna.trial.TrialState[state])
                shutil.rmtree(_place(folder, trial.number))
        said = ", ".join(f"{name} {in_short(value)}" for name, value in trial.params.items())
        print(f"trial {trial.number} {STATES[state]}: {metric} {in_short(value)} with {said}")
    return folder / "sweep.html"


def _checked(experiment: Experiment) -> tuple[TrainingArguments, Manifest]:
    """TrainingArguments without a trial's changes, and the manifest; refuses what would fail in a later trial."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise InputError("a trial trains in one process", "start scripts/sweep.py with python, once for each worker")
    if experiment.finetuning.privacy:
        raise InputError(
            "a sweep tries settings on the same users, and each trial would spend finetuning.privacy.epsilon anew",
            "choose settings on other data",
            setting="finetuning.privacy",
        )
    space = experiment.sweep.space
    if experiment.finetuning.members or "finetuning.members" in space:
        raise InputError(
            "a trial trains one model and not finetuning.members, too",
            "set it to 0 while you search, and train with it then",
            setting="finetuning.members",
        )
    if not space:
        raise InputError("sweep.space names no setting", setting="sweep.space")
    for name, tried in space.items():
        _check_range(name, tried)
        if name in ("training.metric_for_best_model", "training.greater_is_better"):
            raise InputError(f"{name} judges the trials", "set it for all of them", setting="sweep.space")
        _check_name(
            name, {"training": experiment.training} | {key: asdict(getattr(experiment, key)) for key in SECTIONS[1:]}
        )
    if experiment.pretraining.max_steps and (
        pretrained := next((n for n in space if n.startswith("model.") and effect(n) == "pretraining"), None)
    ):
        raise InputError(
            f"{pretrained} would need a pretraining for each trial",
            "set pretraining.max_steps to 0",
            setting="sweep.space",
        )
    arguments = training_arguments(experiment)
    manifest = prepared_for(experiment.data_folder, experiment.task, experiment.text)
    if not arguments.load_best_model_at_end:
        raise InputError("a sweep needs the best checkpoint", "set training.load_best_model_at_end to true")
    starting_point(experiment, manifest)
    for end in (0, -1):
        training_arguments(
            changed(
                experiment,
                {
                    n: tried["choices"][end] if "choices" in tried else (tried["low"], tried["high"])[end]
                    for n, tried in space.items()
                },
            )
        )
    return arguments, manifest


def _check_range(name: str, tried: dict[str, Any]) -> None:
    if "choices" in tried:
        choices = tried["choices"]
        if set(tried) != {"choices"} or not isinstance(choices, list) or not choices:
            raise InputError(f"choices of {name} must be a list of values, without other keys", setting="sweep.space")
        if any(isinstance(choice, dict | list) for choice in choices):
            raise InputError(
                f"choices of {name} must be single values, and one is a list or a mapping", setting="sweep.space"
            )
        return
    ends = [tried.get("low"), tried.get("high")]
    numbers = [end for end in ends if isinstance(end, int | float) and not isinstance(end, bool)]
    if set(tried) - {"low", "high", "log"} or len(numbers) < len(ends):
        raise InputError(
            f"{name} must be {{low: number, high: number, log: true or false}} or {{choices}}", setting="sweep.space"
        )
    if not all(map(math.isfinite, numbers)):
        raise InputError(f"low and high of {name} must be finite numbers", setting="sweep.space")
    if numbers[0] >= numbers[1]:
        raise InputError(f"low of {name} is {numbers[0]}, which is not below high, {numbers[1]}", setting="sweep.space")
    if tried.get("log") and numbers[0] <= 0:
        raise InputError(
            f"low of {name} is {numbers[0]}", "on the log scale it must be above zero", setting="sweep.space"
        )


def _check_name(name: str, settings: dict) -> None:
    *path, last = name.split(".")
    node = settings if path and path[0] in SECTIONS else None
    for part in path:
        node = node.get(part) if isinstance(node, dict) else None
    # model.peft holds only what the user gave: other settings of the method are peft's to know.
    known = isinstance(node, dict) and (path == ["model", "peft"] or not isinstance(node.get(last, {}), dict))
    if not known:
        raise InputError(
            f"{name} is no single setting of {', '.join(SECTIONS)}", "see --help for the names", setting="sweep.space"
        )


def _refuse_other(study: "Study", origin: dict[str, str], folder: Path) -> None:
    old = {RENAMED.get(key, key): value for key, value in study.user_attrs.get("origin", origin).items()}
    if old != origin:
        key = next(key for key in {**old, **origin} if old.get(key) != origin.get(key))
        raise InputError(
            f"{folder} holds a sweep of other settings or data ({key})", "delete it or choose another --name"
        )
    study.set_user_attr("origin", origin)


def _begin(study: "Study", experiment: Experiment, metric: str, folder: Path) -> tuple["Trial", IO] | None:
    """The next trial and the lock that says that it runs; None if all are there. Writes the outputs of those before."""
    import optuna

    with _lock(folder / ".lock"):
        for trial in study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):
            if not _is_held(_place(folder, trial.number)):  # its process was killed
                study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                shutil.rmtree(_place(folder, trial.number), ignore_errors=True)
        _write(study, experiment, metric, folder)
        trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name != "FAIL"]
        if len(trials) >= experiment.sweep.trials:
            return None
        if not trials and (own := own_settings(experiment)):  # first, so that the page can say what was won
            study.enqueue_trial(own)
        trial = study.ask()
        _place(folder, trial.number).mkdir()
        held = (_place(folder, trial.number) / ".lock").open("w")
        fcntl.flock(held, fcntl.LOCK_EX)
        # Seeded by the trial, so that workers draw different values and a sweep can be repeated.
        study.sampler = optuna.samplers.TPESampler(seed=experiment.training["seed"] + trial.number)
        for name, tried in experiment.sweep.space.items():
            if "choices" in tried:
                trial.suggest_categorical(name, tried["choices"])
            elif isinstance(tried["low"], int) and isinstance(tried["high"], int):
                trial.suggest_int(name, tried["low"], tried["high"], log=bool(tried.get("log")))
            else:
                trial.suggest_float(name, tried["low"], tried["high"], log=bool(tried.get("log")))
    return trial, held


def own_settings(experiment: Experiment) -> dict[str, Any]:
    """The values that the experiment itself has of the settings that are searched; empty where the space lacks one."""
    settings = yaml.safe_load(experiment.resolved)
    own = {name: reduce(lambda node, key: node.get(key), name.split("."), settings) for name in experiment.sweep.space}
    held = {
        name: value in tried["choices"]
        if "choices" in tried
        else isinstance(value, int | float) and tried["low"] <= value <= tried["high"]
        for (name, value), tried in zip(own.items(), experiment.sweep.space.values(), strict=True)
    }
    return own if all(held.values()) else {}


def _place(folder: Path, number: int) -> Path:
    """The folder of a trial while it runs."""
    return folder / f"trial-{number}"


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Held by one process at a time; the system frees it when the process ends, in whatever way."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_held(place: Path) -> bool:
    try:
        with (place / ".lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


class _Report(TrainerCallback):
    """Tells the study each evaluation, and ends a trial that is to be pruned."""

    def __init__(self, trial: "Trial", metric: str) -> None:
        self.trial, self.metric, self.pruned = trial, metric, False

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: dict, **more: object
    ) -> None:
        self.trial.report(metrics[f"eval_{self.metric}"], state.global_step)
        if self.trial.should_prune():
            self.pruned = control.should_training_stop = True


def _run(
    trial: "Trial", experiment: Experiment, metric: str, manifest: Manifest, place: Path
) -> tuple[str, float | None]:
    """Train with the trial's settings; its state, and the best validation metric of a finished one."""
    report = _Report(trial, metric)
    try:
        made = changed(experiment, trial.params)
        arguments = training_arguments(made, output_dir=str(place / CHECKPOINTS), report_to="none")
        trainer, _ = build_trainer(made, arguments, manifest)
        trainer.args.save_strategy = SaveStrategy.NO  # only the metric is wanted
        trainer.add_callback(report)
        trainer.train()
    except (torch.OutOfMemoryError, InputError) as error:  # no good here, and would fail again
        print(f"trial {trial.number}: {error}")
        return "PRUNED", None
    best = trainer.state.best_metric
    if best is None:
        best = trainer.evaluate()[f"eval_{metric}"]
    if report.pruned or not math.isfinite(best):
        return "PRUNED", None
    return "COMPLETE", float(best)


def _write(study: "Study", experiment: Experiment, metric: str, folder: Path) -> None:
    """best.yaml, where a trial has finished, and sweep.html."""
    trials = study.get_trials(deepcopy=False)
    finished = [trial for trial in trials if trial.state.name == "COMPLETE"]
    best = study.best_trial if finished else None
    if best:
        write_whole(folder / BEST, changed_yaml(experiment, best.params))
    own = own_settings(experiment)
    seeds = read_notes(experiment.base_folder / METRICS, {"main": str, "single": {"deviation": float}})
    page = sweep_page(
        Search(
            experiment.name,
            measure(metric, Objective.of(experiment.task.label, []).task).title,
            study.direction.name == "MINIMIZE",
            experiment.sweep.space,
            experiment.sweep.trials,
            trials,
            best,
            next((trial for trial in finished if trial.params == own), None),
            seeds["single"]["deviation"] if seeds.get("main") == metric else None,
            folder / BEST,
        )
    )
    write_whole(folder / "sweep.html", page)
