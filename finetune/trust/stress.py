"""What a model and boosting are worth where a history is damaged: the labels stay, texts and aggregates are made anew.

The serializer of the model writes the texts of the damaged events, as it would when the model is used. Boosting reads
the aggregates of the same damaged events. Both were trained on the log as it is.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from data_prep import InputError
from data_prep.connections import connect
from data_prep.facts import Manifest
from data_prep.prepared import column_array, prepared_for, read_split
from data_prep.serving import read_past
from finetune.baselines.estimators import Stages
from finetune.baselines.fit import feature_rows, fit_boosting
from finetune.experiment.config import Experiment
from finetune.figures.measures import MODEL
from finetune.figures.metrics_json import without_nan
from finetune.runs import METRICS, read_notes
from finetune.serving.classifier import EventClassifier
from finetune.trust.beside import BOOSTING, figures_beside, threshold_by
from finetune.trust.damage import Damage, damages, number_events, undamaged
from finetune.trust.few_labels import few_labels
from finetune.trust.later import UNDAMAGED, later_cutoffs


def stress(
    model: Path,
    experiment: Experiment,
    users: int | None = None,
    seed: int = 0,
    labelled: Sequence[int] = (),
    later: Experiment | None = None,
) -> dict:
    """The figures of model and boosting on the test rows under each damage.

    A row whose history is gone has no score; it counts with the mean score of the undamaged rows, with both.

    Args:
        model: A trained and evaluated model's folder.
        experiment: Its log and its prepared data.
        users: Draw so many users of the test split; None takes all.
        seed: Of users and damage.
        labelled: Also train the experiment anew on the labels of so many users, see `few_labels`.
        later: Also measure the model at the test cutoffs of a newer config, see `later_cutoffs`.

    Returns:
        The names of the figures are those of metrics.json, with mean_score, positive_rate, contacted (share of the rows
        from the threshold on) and found (that share of the positives), under clean and under the steps of each of
        damages: model, gradient_boosting; changed_texts and without_history count rows. The steps of others are no
        damage: the test cutoffs one by one, those that are later, and fewer labels.

    Raises:
        InputError: A model of another kind of label or of moments, one that was not evaluated, or of other data.
    """
    classifier = EventClassifier.from_pretrained(model)
    manifest = prepared_for(experiment.data_folder, experiment.task, experiment.text)
    _check(model, classifier, manifest)
    rows = _test_rows(experiment, manifest, users, seed)
    thresholds = {MODEL: classifier.calibration.threshold}
    beyond = later_cutoffs(model, later, classifier) if later else []
    few = [few_labels(experiment, rows, labelled)] if labelled else []
    with tempfile.TemporaryDirectory() as folder, connect(experiment.data.memory_limit, Path(folder) / "spill") as con:
        last = max(rows["cutoff"].to_pylist())
        read_past(con, experiment.data, classifier.serializer, last, "data.sources[0]", Path(folder), classifier.task)
        chosen = pc.unique(rows["user_id"]).to_pylist()  # pyright: ignore[reportAttributeAccessIssue]  # pyarrow makes it at run time
        number_events(con, chosen, seed)
        (test := _Test(con, classifier, rows, manifest["aggregates"])).refuse_other_log(experiment)
        before, limits = _boosting_settings(model, manifest), experiment.limits
        boosting, settings = fit_boosting(experiment.data_folder, manifest, limits, before)
        thresholds[BOOSTING] = _threshold(experiment, manifest, classifier, boosting)
        scored = _Scored(experiment, test, boosting, thresholds)
        clean = scored.figures(undamaged(classifier.serializer), "")
        found = _damaged(scored, damages(con, classifier.serializer, classifier.serializer.features.target))
    return without_nan(
        _asked(classifier, manifest, rows, seed)
        | {
            "users": len(chosen),
            "thresholds": thresholds,
            "boosting": settings,
            "bootstrap_resamples": experiment.evaluation.bootstrap,
            "clean": clean,
            "damages": found,
            "others": [_cutoffs(scored.by_cutoff() + beyond), *few],
        }
    )


def _asked(classifier: EventClassifier, manifest: Manifest, rows: pa.Table, seed: int) -> dict:
    """What is measured, and on which rows."""
    return {
        "stress": classifier.task["name"],
        "question": classifier.task["question"],
        "rows": len(rows),
        "positives": int(column_array(rows["label"]).sum()),
        "seed": seed,
        "content_hash": manifest["content_hash"],
    }


def _damaged(scored: "_Scored", every: list[Damage]) -> list[dict]:
    with tqdm(total=sum(len(damage.steps) for damage in every), desc="stress", unit="step") as bar:
        return [_curve(scored, damage, bar) for damage in every]


def _curve(scored: "_Scored", damage: Damage, bar: tqdm) -> dict:
    steps = []
    for step in damage.steps:
        steps.append({"step": step} | scored.figures(damage, step))
        bar.update()
    return {"name": damage.name, "title": damage.title, "steps": steps}


def _cutoffs(steps: list[dict]) -> dict:
    return {"name": "cutoffs", "title": "Later and later cutoffs", "clean": "none", "steps": steps}


def _check(model: Path, classifier: EventClassifier, manifest: Manifest) -> None:
    if classifier.objective.task != "binary":
        raise InputError(
            f"{model} predicts {classifier.objective.task}, and what damage does is measured for yes or no",
            "give a model of a label of kind absent or exists",
            setting="--model",
        )
    if classifier.serializer.features.moments:
        raise InputError(
            f"{model} is asked right after events, and what damage does is measured at dates",
            "give a model whose cutoffs are dates",
            setting="--model",
        )
    if classifier.calibration.threshold is None:
        raise InputError(
            f"{model} has no threshold, so that it is not known who is contacted",
            "run scripts/evaluate.py first",
            setting="--model",
        )
    if classifier.task["content_hash"] != manifest["content_hash"]:
        raise InputError(
            f"{model} was trained on other data than --config has prepared",
            "give the config.yaml of its run",
            setting="--config",
        )


def _test_rows(experiment: Experiment, manifest: Manifest, users: int | None, seed: int) -> pa.Table:
    """The test rows, or those of some users who are drawn."""
    columns = ["user_id", "cutoff", "text", "label", *manifest["aggregates"]]
    rows = read_split(experiment.data_folder, "test", experiment.limits["test"], columns)
    if users is not None:
        everyone = np.unique(rows["user_id"].to_numpy())
        if users > len(everyone):
            raise InputError(
                f"--users is {users:,}, and test has {len(everyone):,} users",
                "lower it or leave it out",
                setting="--users",
            )
        drawn = np.random.default_rng(seed).choice(everyone, users, replace=False)
        rows = rows.filter(pc.is_in(rows["user_id"], pa.array(drawn.tolist(), pa.string())))  # pyright: ignore[reportAttributeAccessIssue]  # pyarrow makes it at run time
    if len(set(column_array(rows["label"]).tolist())) < 2:
        raise InputError(f"all {len(rows):,} test rows have the same label", "take more users", setting="--users")
    return rows


def _boosting_settings(model: Path, manifest: Manifest) -> dict | None:
    """Those that the evaluation of the model's run has chosen on the same data, if it lies beside the model."""
    holds = {"made": {"content_hash": str, "baseline_settings": {BOOSTING: dict}}}
    made = read_notes(Path(model).parent / METRICS, holds).get("made", {})
    return made["baseline_settings"][BOOSTING] if made.get("content_hash") == manifest["content_hash"] else None


def _threshold(experiment: Experiment, manifest: Manifest, classifier: EventClassifier, boosting: Stages) -> float:
    """Boosting's, chosen on validation as the model's was."""
    columns = ["label", *manifest["aggregates"]]
    rows = read_split(experiment.data_folder, "validation", experiment.limits["validation"], columns)
    scores = boosting.scores(feature_rows(rows, manifest["aggregates"]))
    by = classifier.calibration.threshold_by
    assert by is not None, "as there is a threshold"
    return threshold_by(experiment.evaluation, by, column_array(rows["label"]), scores)


@dataclass
class _Test:
    """The test rows, and how their texts and aggregates are made of damaged events."""

    con: duckdb.DuckDBPyConnection
    classifier: EventClassifier
    rows: pa.Table
    names: list[str]

    def __post_init__(self) -> None:
        self.users, self.cutoffs = (self.rows[name].to_numpy() for name in ("user_id", "cutoff"))
        self.labels = column_array(self.rows["label"])

    def refuse_other_log(self, experiment: Experiment) -> None:
        """The log must give the texts that were prepared."""
        _, texts, _ = self.made(undamaged(self.classifier.serializer), "")
        other = int((texts != self.rows["text"].to_numpy()).sum())
        if other:
            raise InputError(
                f"the log gives {other:,} of {len(texts):,} test rows another text than {experiment.data_folder} has",
                "give the log that it was prepared from",
                setting="data.sources",
            )

    def made(self, damage: Damage, step: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Whether each row has a history left, its text and its aggregates of shape (rows, names)."""
        has = np.zeros(len(self.rows), bool)
        texts = np.full(len(self.rows), None, object)
        numbers = np.full((len(self.rows), len(self.names)), np.nan)
        for cutoff in np.unique(self.cutoffs):
            at = np.flatnonzero(self.cutoffs == cutoff)
            moment: datetime = cutoff.astype("datetime64[us]").item()
            table = self._examples(damage.steps[step](moment), moment)
            if table is None:
                continue
            order = table["user_id"].to_numpy()  # ascending
            place = np.searchsorted(order, self.users[at])
            found = place < len(order)
            found[found] = order[place[found]] == self.users[at][found]
            has[at[found]] = True
            texts[at[found]] = table["text"].to_numpy()[place[found]]
            numbers[at[found]] = feature_rows(table, self.names)[place[found]]
        return has, texts, numbers

    def _examples(self, events: str, cutoff: datetime) -> pa.Table | None:
        """Those of all users with an event left, in the order of their ids; None where nobody has one."""
        self.con.execute(f"CREATE OR REPLACE TEMP TABLE rows AS {events}")
        if not self.con.execute("SELECT count(*) FROM rows").fetchall()[0][0]:
            return None
        return self.classifier.serializer.examples(self.con, cutoff).sort_by("user_id")


class _Scored:
    """Scores the rows as they were damaged; a text that has not changed keeps its score."""

    def __init__(
        self, experiment: Experiment, test: _Test, boosting: Stages, thresholds: dict[str, float | None]
    ) -> None:
        self.test, self.boosting, self.thresholds = test, boosting, thresholds
        self.resamples = experiment.evaluation.bootstrap
        self.batch = experiment.training["per_device_eval_batch_size"]
        self.texts = test.rows["text"].to_numpy()
        numbers = feature_rows(test.rows, test.names)
        self.clean = {MODEL: self._model(self.texts.tolist()), BOOSTING: boosting.scores(numbers)}

    def _model(self, texts: list[str]) -> np.ndarray:
        return self.test.classifier.score(texts, self.batch)

    def figures(self, damage: Damage, step: str) -> dict[str, Any]:
        """Of model and boosting: AUROC, calibration and the share contacted."""
        has, texts, numbers = self.test.made(damage, step)
        scores = {name: clean.copy() for name, clean in self.clean.items()}
        changed = np.flatnonzero(has & (texts != self.texts))
        if len(changed):
            scores[MODEL][changed] = self._model(texts[changed].tolist())
        if has.any():
            scores[BOOSTING][has] = self.boosting.scores(numbers[has])
        for name, clean in self.clean.items():
            scores[name][~has] = clean.mean()
        test = self.test
        beside = figures_beside(test.labels, test.users, scores, self.thresholds, self.resamples, has)
        return {"without_history": int((~has).sum()), "changed_texts": len(changed)} | beside

    def by_cutoff(self) -> list[dict[str, Any]]:
        """The same of the undamaged rows of each test cutoff."""
        found, test = [], self.test
        for cutoff in np.unique(test.cutoffs):
            at = test.cutoffs == cutoff
            scores = {name: clean[at] for name, clean in self.clean.items()}
            beside = figures_beside(test.labels[at], test.users[at], scores, self.thresholds, self.resamples)
            found.append({"step": str(cutoff)[:10]} | UNDAMAGED | beside)
        return found
