"""Does training give away who it learned from? The recipe is trained anew on a random half of the users, and attacked.

A model that learned from everybody cannot be tested: nobody is left to compare with. So each user of the training rows
is in or out by a fair coin, and with them canaries: made-up users with a rare history and a label by chance, which can
be known from memory alone. Shadow models, trained on other halves, tell how sure a model is of each user with and
without her. Nothing of the config is left out: pretraining, teacher and privacy are as it says.
"""

import json
import shutil
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.special import logit
from sklearn.metrics import roc_curve

from data_prep import InputError
from data_prep.cutoffs import SPLITS, split_file
from data_prep.examples import UNLABELLED
from data_prep.facts import Manifest
from data_prep.made_up import made_up_fields
from data_prep.prepared import MANIFEST, column_array, opened, prepared_for, read_split
from data_prep.serializer import SERIALIZER, EventSerializer
from finetune.experiment.config import Experiment
from finetune.figures.metrics_json import without_nan
from finetune.model.inference import score_texts
from finetune.model.loading import load_classifier
from finetune.model.objective import Objective
from finetune.training.pretrain import pretrain
from finetune.training.train import train
from finetune.trust.attacks import judged, likelihood_ratio

CANARY = "canary "  # begins the id of a made-up user
DAYS = 300  # that a canary's history may reach back
FEWEST = 20  # users of the training rows
NO_DELTA = 1e-5  # of the bound, where the config has no privacy
POINTS = 101  # of a curve


def audit(experiment: Experiment, folder: Path, shadows: int = 4, canaries: int = 100, seed: int = 0) -> dict:
    """Train, attack, and say what the attacks found.

    Args:
        experiment: Its recipe and its prepared data.
        folder: Where the models go meanwhile.
        shadows: Shadow models; with 0 there is no likelihood-ratio attack.
        canaries: Made-up users; with 0 there are none.
        seed: Of the coins and the canaries.

    Returns:
        attacks: for "users" and "canaries" and each attack what `judged` gives, with a curve; and what was audited.

    Raises:
        InputError: Another label than yes or no, cutoffs at moments, several seeds, or too few users.
    """
    manifest = prepared_for(experiment.data_folder, experiment.task, experiment.text)
    _check(experiment, manifest, shadows)
    rows = _rows(experiment, manifest, canaries, seed)
    users, owner = np.unique(rows["user_id"].to_numpy(), return_inverse=True)
    planted = np.char.startswith(users.astype(str), CANARY)
    if (~planted).sum() < FEWEST:
        raise InputError(
            f"training has {(~planted).sum()} users, of whom half would be in", f"audit {FEWEST} or more of them"
        )
    inside = np.random.default_rng([seed, 1]).random((shadows + 1, len(users))) < 0.5
    sure = np.stack(
        [
            _confidence(_trained(experiment, manifest, rows, mask[owner], folder, number), rows, owner, planted)
            for number, mask in enumerate(inside)
        ]
    )
    scores = {"loss": sure[0]}
    if shadows:
        scores["likelihood_ratio"] = likelihood_ratio(sure[0], sure[1:], inside[1:])
    privacy = experiment.finetuning.privacy
    delta = privacy.delta if privacy else NO_DELTA
    groups = {"users": ~planted} | ({"canaries": planted} if canaries else {})
    return without_nan(
        {
            "audit": experiment.name,
            "question": manifest["question"],
            "rows": int((~planted)[owner].sum()),
            "shadows": shadows,
            "seed": seed,
            "content_hash": manifest["content_hash"],
            "privacy": {"epsilon": privacy.epsilon, "delta": delta} if privacy else None,
            "delta": delta,
            "attacks": {
                who: {
                    name: judged(values[among], inside[0][among], delta, seed, len(scores) * len(groups))
                    | _curve(values[among], inside[0][among])
                    for name, values in scores.items()
                }
                for who, among in groups.items()
            },
        }
    )


def _check(experiment: Experiment, manifest: Manifest, shadows: int) -> None:
    task = Objective.of(experiment.task.label, manifest["classes"]).task
    if task != "binary":
        raise InputError(
            f"task.label is {task}, and the attacks are for yes or no", "audit a label of kind absent or exists"
        )
    if "most_per_user" in manifest["splits"]["train"]:
        raise InputError("task.cutoffs are at moments of users, and canaries are planted at dates", "give dates")
    if experiment.seeds:
        raise InputError("an audit is of one model", "leave --seeds out", setting="seeds")
    if shadows == 1:
        raise InputError("--shadows is 1, of which no mean is known", "give 2 or more, or 0", setting="--shadows")


def _rows(experiment: Experiment, manifest: Manifest, canaries: int, seed: int) -> pa.Table:
    """The training rows, and those of canaries."""
    names = opened(experiment.data_folder, "train").schema_arrow.names
    rows = read_split(experiment.data_folder, "train", experiment.limits["train"], names)
    if not canaries:
        return rows
    serializer = EventSerializer.from_pretrained(experiment.data_folder)
    return pa.concat_tables([rows, _canaries(serializer, manifest, canaries, rows.schema, seed)])


def _canaries(serializer: EventSerializer, manifest: Manifest, number: int, schema: pa.Schema, seed: int) -> pa.Table:
    """The rows of made-up users, whose events and times are drawn evenly from all that there may be."""
    cutoff = datetime.fromisoformat(manifest["splits"]["train"]["cutoffs"][-1])
    random = np.random.default_rng([seed, 0])
    columns = list(dict.fromkeys(["event_type", *serializer.fields]))
    events, has = [], manifest["log"].get("has")
    for canary in range(number):
        for days in random.uniform(0.01, DAYS, random.integers(2, serializer.config.max_events + 1)):
            fields = made_up_fields(serializer, columns, has, random)
            who = {"user_id": f"{CANARY}{canary:05}", "event_time": cutoff - timedelta(days=float(days))}
            events.append(who | fields)
    table = serializer.transform(events, cutoff)
    table = table.append_column("label", pa.array(random.integers(0, 2, number)))
    return table.select(schema.names).cast(schema)


def _trained(
    experiment: Experiment, manifest: Manifest, rows: pa.Table, inside: np.ndarray, folder: Path, number: int
) -> Path:
    """The folder of a model of the recipe that learned from the rows inside alone."""
    here = folder / f"model-{number}"
    made = replace(
        experiment,
        data=replace(experiment.data, folder=str(here / "data")),
        runs=replace(experiment.runs, folder=str(here / "runs")),
        finetuning=replace(experiment.finetuning, labelled_users=None, max_train_examples=None),
        training=experiment.training | {"resume_from_checkpoint": "false"},
    )
    made.data_folder.mkdir(parents=True)
    for name in (SERIALIZER, *(split_file(split) for split in (*SPLITS, UNLABELLED) if split != "train")):
        if (experiment.data_folder / name).is_file():
            shutil.copy(experiment.data_folder / name, made.data_folder / name)
    pq.write_table(rows.filter(pa.array(inside)), made.data_folder / split_file("train"))
    content = manifest | {"content_hash": f"{manifest['content_hash']} audit {number}"}
    (made.data_folder / MANIFEST).write_text(json.dumps(content) + "\n", encoding="utf-8")
    if made.pretraining.max_steps:
        pretrain(made)
    return train(made)[0]


def _confidence(model: Path, rows: pa.Table, owner: np.ndarray, planted: np.ndarray) -> np.ndarray:
    """The mean log-odds that a model gives the true labels of each user, of shape (users,).

    They are those beyond the mean of all rows of that label, in and out: else a model that says the same of everyone
    would seem to know the members where by chance more of them have one label.
    """
    classifier, tokenizer = load_classifier(model)
    said = score_texts(classifier, tokenizer, rows["text"].to_pylist())
    labels = column_array(rows["label"])
    odds = logit(np.clip(said, 1e-6, 1 - 1e-6)) * (2 * labels - 1)
    for kind in range(4):
        alike = 2 * planted[owner] + labels == kind
        odds[alike] -= odds[alike].mean() if alike.any() else 0.0
    return np.bincount(owner, odds) / np.bincount(owner)


def _curve(scores: np.ndarray, member: np.ndarray) -> dict:
    """Members found among so many non-members that are taken for members."""
    wrong, right, _ = roc_curve(member, scores)
    at = np.linspace(0, 1, POINTS)
    return {"curve": {"false_positive_rate": at, "true_positive_rate": np.interp(at, wrong, right)}}
