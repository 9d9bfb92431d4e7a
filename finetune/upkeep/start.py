"""Where a renewed model begins: cutoffs moved forward, and the older model's weights with the words of the new log."""

import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from data_prep import InputError
from data_prep.cutoffs import SPLITS
from data_prep.facts import Manifest
from data_prep.files import replacing
from data_prep.moments import parse_duration, parse_moment, show
from data_prep.prepared import split_texts
from finetune.evaluation.backtest import seen_until
from finetune.experiment.config import Experiment
from finetune.model.growing import grow_words, grown_tokenizer, regroup_classes
from finetune.model.loading import load_classifier, merged
from finetune.model.tokens import CHUNK
from finetune.runs import TASK


def moved_cutoffs(experiment: Experiment, shift: str) -> dict[str, Any]:
    """The cutoffs of all splits, each later by a length of time, by the names of their settings.

    Raises:
        InputError: It is no length of time above zero.
    """
    later, moved = parse_duration(shift, "--shift"), {}
    for split in SPLITS:
        setting = f"task.cutoffs.{split}"
        given = yaml.safe_load(experiment.resolved)["task"]["cutoffs"][split]

        def move(text: object, setting: str = setting) -> str:
            return show(parse_moment(str(text), setting) + later)

        if isinstance(given, list):
            moved[setting] = [move(text) for text in given]
        else:
            moved[setting] = given | {end: move(given[end]) for end in ("first", "last")}
    return moved


def refuse_not_older(model: Path, cutoffs: dict[str, Any]) -> None:
    """InputError where the older model has looked at labels of the time that is to validate or to test its successor.

    Args:
        model: The older model's folder.
        cutoffs: By `moved_cutoffs`.
    """
    given = cutoffs["task.cutoffs.validation"]
    first = min(given) if isinstance(given, list) else given["first"]
    seen = seen_until(model)
    if datetime.fromisoformat(first) < seen:
        raise InputError(
            f"{model} has seen labels up to {show(seen)}, and the first validation cutoff would be {first}",
            "move the cutoffs further (--shift), or train from scratch (--cold)",
            setting="--shift",
        )


def write_start(model: Path, experiment: Experiment, manifest: Manifest, folder: Path) -> str:
    """Write the older model's weights with the words and classes of the new data, for model.name_or_path.

    Args:
        model: The older model's folder; an adapter is merged into its base.
        experiment: Of the successor, whose data is prepared.
        manifest: Of that data.
        folder: That is written.

    Returns:
        A sentence: what is new in it.
    """
    classifier, tokenizer = load_classifier(model)
    classifier = merged(model, classifier, ", so that no other model can begin with it; give --cold")
    _, texts = split_texts(experiment.data_folder, "train", experiment.finetuning.max_train_examples, CHUNK)
    known = len(tokenizer)
    tokenizer, words = grown_tokenizer(tokenizer, texts)
    grow_words(classifier, tokenizer, words)
    classes = regroup_classes(classifier, manifest["classes"]) if manifest["classes"] else []
    with replacing(folder) as made:
        classifier.save_pretrained(made)
        tokenizer.save_pretrained(made)
        shutil.copy(model / TASK, made / TASK)  # by which later weights are refused
    said = f"begins with the weights of {model}, {len(words):,} new words beside {known:,}"
    return said + (f", and {len(classes):,} new classes" if classes else "")
