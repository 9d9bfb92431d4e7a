"""Where the weights of a run come from: its own pretraining, a checkpoint, or nowhere."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from data_prep import InputError
from data_prep.facts import Manifest
from data_prep.given_schema import vocabulary
from data_prep.prepared import split_texts
from data_prep.serializer import EventSerializer
from finetune.experiment.config import Experiment
from finetune.experiment.effects import pretraining_settings, with_effect
from finetune.model.tokens import CHUNK
from finetune.runs import TASK, read_pretraining_log, read_task


def starting_point(experiment: Experiment, manifest: Manifest) -> str | Path | None:
    """Where the weights come from: this run's pretraining, model.name_or_path, or None (from scratch).

    Raises:
        InputError: Pretraining has not run, or ran on other data or with another model.
    """
    if experiment.model.name_or_path:
        refuse_later(Path(experiment.model.name_or_path), manifest)
    if not experiment.pretraining.max_steps:
        return experiment.model.name_or_path
    folder = experiment.pretrained_folder
    if not folder.is_dir():
        raise InputError(
            f"{folder} is missing",
            "run scripts/pretrain.py with the same --config first, or set pretraining.max_steps to 0",
        )
    # A sweep may change how the steps are made, such as the size of a batch; what they learn must be the same.
    made, origin = read_pretraining_log(folder), pretraining_origin(experiment, manifest)
    if not same_pretraining(made, origin, ("model.", "pretraining.")):
        raise InputError(
            f"{folder} was made from other data or with other settings of model or pretraining",
            "run scripts/pretrain.py with the same arguments first",
        )
    return folder


def word_texts(experiment: Experiment, splits: Sequence[str]) -> Iterator[pa.Array]:
    """Texts that have every word that a tokenizer of words is to know: those of some splits, or with text.schema one
    text of all that it can write, so that no word tells of these users."""
    if experiment.text.schema is not None:
        words = vocabulary(EventSerializer.from_pretrained(experiment.data_folder))
        yield pa.array([" ".join(words)], pa.large_string())
        return
    for split in splits:
        yield from split_texts(experiment.data_folder, split, experiment.finetuning.max_train_examples, CHUNK)[1]


def refuse_later(start: Path, manifest: Manifest) -> None:
    """Weights that EventScribe made of later histories would tell a model of the time that it is tested on."""
    seen = [read_pretraining_log(start).get("last_cutoff") or ""]
    if (start / TASK).is_file():
        splits = read_task(start)["splits"]
        seen += [*splits["train"]["cutoffs"], *splits["validation"]["cutoffs"]]
    first = manifest["splits"]["validation"]["cutoffs"][0]
    if max(seen) > first:
        raise InputError(
            f"{start} has learned from histories up to {max(seen)}, and the first validation cutoff is {first}",
            "start from weights that are older",
            setting="model.name_or_path",
        )


def pretraining_origin(experiment: Experiment, manifest: Manifest) -> dict:
    """What pretrained weights are made from."""
    return {"training": pretraining_settings(experiment), "content_hash": manifest["content_hash"]}


def same_pretraining(log: dict, origin: dict, sections: tuple[str, ...] = ("",)) -> bool:
    """Whether weights were made from the same data and by the same settings.

    Args:
        log: What `scripts/pretrain.py` wrote about them.
        origin: Of this experiment, see `pretraining_origin`.
        sections: Whose settings count.
    """
    made = log.get("made_by") or {"training": {}, "content_hash": None}
    old, new = (with_effect(part["training"], {"pretraining"}) for part in (made, origin))
    counts = [key for key in {**old, **new} if key.startswith(sections)]
    return made["content_hash"] == origin["content_hash"] and all(old.get(key) == new.get(key) for key in counts)
