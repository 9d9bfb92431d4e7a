"""EventClassifier: a trained classifier and all that scoring raw events needs, from a folder or from the hub."""

import json
import tempfile
from collections.abc import Callable
from datetime import date, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from accelerate import Accelerator
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data_prep import InputError
from data_prep.config import DataConfig
from data_prep.connections import connect
from data_prep.facts import Task
from data_prep.moments import show
from data_prep.phrases import event_starts
from data_prep.population import EVERYBODY
from data_prep.serializer import EventSerializer
from data_prep.serving import BATCH, cutoff_of, past_texts, read_past
from data_prep.task import check_loaded
from finetune.model.calibration import Calibration
from finetune.model.inference import Precision, check_precision, embed_texts, for_scoring, score_texts
from finetune.model.loading import load_classifier, model_folder
from finetune.model.objective import Objective
from finetune.model.tokenization import encode
from finetune.model.tokens import Tokens
from finetune.runs import TASK, read_task, whom
from finetune.serving.user_groups import UserGroups


class EventClassifier:
    """A trained model that scores raw events as it scored the examples of its training.

    Attributes:
        model: A sequence classifier of transformers or peft, on the GPU where there is one.
        tokenizer: Cuts at model_max_length.
        serializer: Bins and vocabularies of the training history.
        calibration: What evaluation fitted on validation; one that changes nothing where there is none.
        objective: Kind of label, and the name of each class in the order of the scores.
        task: The content of task.json: what is predicted, for whom, and the windows of time of the training.
        precision: In which it scores, see `for_scoring`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        serializer: EventSerializer,
        calibration: Calibration,
        task: Task,
        precision: Precision | None = None,
    ) -> None:
        check_precision(model.device, precision)
        self.precision: Precision | None = precision
        self.model, self.tokenizer, self.serializer = model, tokenizer, serializer
        self.calibration, self.task, self.objective = calibration, task, Objective.of_model(model.config)

    @cached_property
    def fastest(self) -> torch.nn.Module:
        """The model as `for_scoring` makes it."""
        return for_scoring(self.model, self.precision)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        token: str | bool | None = None,
        revision: str | None = None,
        precision: Precision | None = None,
    ) -> "EventClassifier":
        """Read a folder that finetune.training.train wrote, or fetch a repository of the hub.

        Args:
            name_or_path: The folder or the repository.
            token: Of the hub.
            revision: Of the repository.
            precision: "bf16" also scores so on a CPU that has it, "fp32" also on a GPU; see `for_scoring`.

        Raises:
            InputError: There is no such folder or repository, a file is missing, it cannot be read, or the processor
                has no bf16.
        """
        folder = model_folder(name_or_path, token, revision)
        model, tokenizer = load_classifier(folder)
        serializer, task = EventSerializer.from_pretrained(folder), read_task(folder)
        check_loaded(folder / TASK, task["task"], serializer.types)
        return cls(model, tokenizer, serializer, Calibration.load(folder), task, precision)

    def predict(
        self,
        events: Any,
        cutoff: datetime | date | str,
        text: bool = False,
        batch_size: int = BATCH,
        population: bool = False,
        users: Any = None,
    ) -> pa.Table:
        """Score every user who has an event before the cutoff.

        Values that training never saw become `other`, a column that the events lack is missing in every event, columns
        that the training log did not have are ignored, and rows without user, time or type are left out; each is said
        in a line. More than 5 % of such rows are refused.

        Args:
            events: Columns user_id, event_time, event_type and the fields of the training log: a DuckDB relation, an
                Arrow table or batch, a pandas frame, dicts in a list or tuple, a path or glob of CSV, Parquet or JSON
                lines, or a DataConfig with sources as in training. Times without a zone are in the time zone that
                training had (task["log"]["timezone"], UTC for older models), or in that of a DataConfig; of a user, all
                events.
            cutoff: The moment of prediction, in UTC where it carries no zone; events from it on count for nothing. Of a
                model whose cutoffs were moments of users, events at that very moment are history, as in training; and
                "last" scores each user right after their last event.
            text: Also give the text that the model read: its oldest events that do not fit are gone.
            batch_size: The most texts at a time.
            population: Keep only the users whom the task asks about (task["task"]["population"]).
            users: Of a model that reads attributes of users: user_id, the attributes and perhaps known_from, as a path
                or as events are given; by default the users of a DataConfig. Of a user's rows the newest one known
                strictly before the cutoff counts; users without a row have none.
                With an empty list nobody has any.

        Returns:
            A row a user, in the order of the ids: user_id, cutoff, label (but for values), score and, if asked, text;
            see `answers`. The score is calibrated. Where nobody is in the population, no row.

        Raises:
            InputError: A missing column, a value that does not fit, or no event before the cutoff.
        """
        check_size("batch_size", batch_size)

        def answer(texts: pa.Table, bar: tqdm) -> pa.Table:
            return self.answers(texts, text, batch_size, bar=bar)

        return self._each(events, cutoff, population, users, answer)

    def embed(
        self,
        events: Any,
        cutoff: datetime | date | str,
        batch_size: int = BATCH,
        population: bool = False,
        users: Any = None,
    ) -> pa.Table:
        """A vector of every user who has an event before the cutoff, for other models and for look-alikes.

        It is the encoder's last state that the head reads: of the first token with model.pooling cls, the mean over all
        tokens with mean; before the pooler (dense and tanh) that BERT has in between, and not normalized. Vectors of
        two models, or of two trainings, have nothing to do with each other.

        Args:
            events: See `predict`, as the next ones.
            cutoff: The moment of prediction.
            batch_size: The most texts at a time.
            population: Keep only the users whom the task asks about.
            users: Their attributes, of a model that reads some.

        Returns:
            A row a user, in the order of the ids: user_id, cutoff and embedding, a fixed-size list of float32.

        Raises:
            InputError: See `predict`; or an adapter of virtual tokens.
        """
        check_size("batch_size", batch_size)

        def answer(texts: pa.Table, bar: tqdm) -> pa.Table:
            bar.update(len(texts))
            return self._embedded(texts.select(["user_id", "cutoff"]), texts["text"].to_pylist(), batch_size)

        return self._each(events, cutoff, population, users, answer)

    def _embedded(self, table: pa.Table, texts: list[str], batch_size: int) -> pa.Table:
        """A table with the column `embedding` of its rows' texts, see `embed`."""
        vectors = embed_texts(self.model, self.tokenizer, texts, batch_size)
        values = pa.array(vectors.ravel(), pa.float32())
        return table.append_column("embedding", pa.FixedSizeListArray.from_arrays(values, vectors.shape[1]))

    def _each(
        self,
        events: Any,
        cutoff: datetime | date | str,
        population: bool,
        users: Any,
        answer: Callable[[pa.Table, tqdm], pa.Table],
    ) -> pa.Table:
        """What an answer to user_id, cutoff and text says of each user of a log, in the order of the ids."""
        moment = cutoff_of(self.serializer, cutoff)
        members = whom(self.task) if population else EVERYBODY
        limit = events.memory_limit if isinstance(events, DataConfig) else None
        with tempfile.TemporaryDirectory() as folder, connect(limit, Path(folder) / "spill") as con:
            called = "data.sources[0]" if isinstance(events, DataConfig) else "events"
            log = read_past(con, events, self.serializer, moment, called, Path(folder), self.task, users)
            for note in log.notes():
                print(note)
            parts = past_texts(con, log, self.serializer, Path(folder), moment, members)
            with tqdm(desc="score", total=None if population else log.users, unit="user") as bar:
                found = pa.concat_tables([answer(part, bar) for part in parts])
        if not len(found):
            print(nobody(self.task, moment))
        return found.sort_by("user_id")

    def answers(
        self,
        texts: pa.Table,
        text: bool,
        batch_size: int,
        embeddings: bool = False,
        bar: tqdm | None = None,
        groups: UserGroups | None = None,
    ) -> pa.Table:
        """Scores and labels in place of texts.

        For yes-or-no labels `score` is the probability, and `label` is the class's name: the positive one from
        calibration.threshold on (with `groups` from that of the user's group on), or above one half where none was
        chosen. For tiers `score` lists the probability of
        each class and `label` is the most probable. For propensity `score` lists the probability of each value and
        `label` the values above one half, the most probable first. For survival `score` lists the probability that the
        event comes by each horizon, each of which stands in a column such as p_7_days, too, and `label` is the first
        one by which it is more likely than not, `within 7 days`, or behind the last one `after 28 days`. For values
        `score` is the value, without a label.
        The order of the classes stands in the metadata of the table, as JSON under `classes`.

        Args:
            texts: user_id, cutoff and text.
            text: Keep the text, without what the model did not read of it.
            batch_size: The most texts at a time.
            embeddings: Also give the column of `embed`.
            bar: Counts texts.
            groups: Of the users, for a model with thresholds of groups.
        """
        written = texts["text"].to_pylist()
        scores = self.score(written, batch_size, bar=bar)
        threshold = groups.thresholds(texts["user_id"]) if groups else self.calibration.threshold
        labels = self.labels(scores, threshold)
        table = texts.select(["user_id", "cutoff"])
        if labels is not None:
            table = table.append_column("label", labels)
        if self.objective.task == "survival":
            for name, values in zip(self.objective.classes, scores.T, strict=True):
                table = table.append_column(f"p_{name.replace(' ', '_')}", pa.array(values))
        kind = pa.float64() if scores.ndim == 1 else pa.list_(pa.float64())
        table = table.append_column("score", pa.array(scores if scores.ndim == 1 else list(scores), kind))
        if text:
            table = table.append_column("text", pa.array(self.texts_read(written), pa.string()))
        if embeddings:
            table = self._embedded(table, written, batch_size)
        return table.replace_schema_metadata({"classes": json.dumps(self.objective.classes)})

    def score(
        self,
        texts: list[str] | Tokens,
        batch_size: int = BATCH,
        accelerator: Accelerator | None = None,
        bar: tqdm | None = None,
    ) -> np.ndarray:
        """Calibrated scores: see `score_texts`."""
        check_size("batch_size", batch_size)
        scores = score_texts(self.fastest, self.tokenizer, texts, batch_size, accelerator=accelerator, bar=bar)
        return self.calibration.apply(scores, self.objective.task)

    def texts_read(self, texts: list[str]) -> list[str]:
        """The texts without the events that do not fit into model_max_length: their tokens are those of the scores."""
        most, found = self.tokenizer.model_max_length, []
        encoded = encode(self.tokenizer, texts)
        for text, ids, event in zip(texts, encoded["input_ids"], encoded["event"], strict=True):
            starts, kept = event_starts(text), max(event) + 1
            if kept < len(starts):
                text = text[: starts[kept]].rstrip()
            if kept < 2 and len(ids) >= most:  # the newest event alone may be too long, and is cut within it
                cut = self.tokenizer(text, truncation=True, max_length=most, return_offsets_mapping=True)
                text = text[: max(end for _, end in cut["offset_mapping"])]
            found.append(text)
        return found

    def labels(self, scores: np.ndarray, threshold: float | np.ndarray | None) -> pa.Array | None:
        """The label of each score, see `answers`, by one threshold or that of each row; None of values."""
        task, names = self.objective.task, pa.array(self.objective.classes)
        if task == "value":
            return None
        if task == "propensity":
            order = np.argsort(-scores, axis=1, kind="stable")
            likely = [row[own[row] > 0.5] for row, own in zip(order, scores, strict=True)]
            return pa.array([[self.objective.classes[i] for i in row] for row in likely], pa.list_(pa.string()))
        if task == "survival":
            words = pa.array([*(f"within {name}" for name in names.to_pylist()), f"after {names[-1]}"])
            return words.take(pa.array((scores <= 0.5).sum(axis=1)))
        if task == "tiers":
            return names.take(pa.array(scores.argmax(axis=1)))
        positive = scores > 0.5 if threshold is None else scores >= threshold
        return names.take(pa.array(positive.astype(np.int64)))


def check_size(name: str, size: int) -> None:
    """InputError where a number of texts or users at a time is none."""
    if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
        raise InputError(f"{name} is {size!r}", "give a whole number above zero")


def nobody(task: Task, cutoff: datetime | None) -> str:
    """A sentence where a population is empty; see `cutoff_of`."""
    return f"nobody is in the population at {shown_moment(cutoff)}: no user has {whom(task).absent()}"


def shown_moment(cutoff: datetime | None) -> str:
    """A cutoff by `cutoff_of`, in words."""
    return "the last event of each" if cutoff is None else show(cutoff)
