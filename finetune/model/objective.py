"""What is learned for each kind of label: logits, loss, scores and the metrics that choose the best checkpoint."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from scipy.special import logit
from torch.nn import functional
from transformers import PreTrainedConfig
from transformers.utils.generic import ModelOutput

from data_prep import InputError
from data_prep.config import Label
from data_prep.labels import UNKNOWN, class_names, label_name
from finetune.figures import metrics, survival
from finetune.figures.measures import MAIN, measure_names

VALUE_LOSSES = {"squared_error": functional.mse_loss, "absolute_error": functional.l1_loss}
EDGE = 1e-4  # nearer to 0 or 1 the logarithm of a probability would say more than is known


def log_odds(probabilities: np.ndarray) -> np.ndarray:
    """Of probabilities, none nearer to 0 or 1 than EDGE."""
    return logit(np.clip(probabilities, EDGE, 1 - EDGE))


def signed_root(values: np.ndarray) -> np.ndarray:
    """The square root, mirrored for what is below zero (refunds)."""
    return np.sign(values) * np.sqrt(np.abs(values))


def signed_square(roots: np.ndarray) -> np.ndarray:
    """The values that have these signed roots."""
    return np.sign(roots) * np.square(roots)


@dataclass(frozen=True)
class Scale:
    """Values as the model learns them: (a function of the value, minus mean) / deviation, of the training labels. The
    function is log(1 + value), the square root, mirrored for what is below zero, or the value itself."""

    log: bool
    mean: float
    deviation: float
    root: bool = False

    @classmethod
    def fit(cls, values: np.ndarray, log: bool, root: bool = False) -> "Scale":
        """From the training labels, of shape (examples,).

        Raises:
            InputError: A label below zero has no place on the log scale.
        """
        if log and values.min() < 0:
            raise InputError(
                f"finetuning.log_scale needs values of zero or more, and a label is {values.min():g}",
                "exclude refunds in task.label.where or leave log_scale off",
                setting="finetuning.log_scale",
            )
        values = cls(log, 0.0, 1.0, root).learned(values)
        return cls(log, float(values.mean()), float(values.std()) or 1.0, root)

    def times(self, factor: float) -> "Scale":
        """By which an output stands for so many times the value; not for the log scale."""
        assert not self.log
        by = math.sqrt(factor) if self.root else factor
        return replace(self, mean=self.mean * by, deviation=self.deviation * by)

    def learned(self, values: np.ndarray) -> np.ndarray:
        """What the model is trained on."""
        values = np.log1p(values) if self.log else signed_root(values) if self.root else values
        return (values - self.mean) / self.deviation

    def value(self, learned: np.ndarray) -> np.ndarray:
        """The value that an output stands for."""
        values = learned * self.deviation + self.mean
        return np.expm1(values) if self.log else signed_square(values) if self.root else values


@dataclass(frozen=True)
class Objective:
    """The classifier's outputs and how they are judged.

    Attributes:
        task: binary (absent, exists), tiers, propensity (which), survival (when) or value (sum and count without
            tiers).
        classes: What each logit is called, as id2label says; of survival the horizons, and a logit is that of the
            hazard of the interval that ends there, see `finetune.figures.survival`.
    """

    task: Literal["binary", "tiers", "propensity", "survival", "value"]
    classes: tuple[str, ...]

    @classmethod
    def of(cls, label: Label, classes: list[str] | None) -> "Objective":
        """For a label and the classes in the manifest."""
        if label.kind in ("absent", "exists"):
            task, names = "binary", class_names(label, None)
        elif label.kind == "which":
            task, names = "propensity", classes
        elif label.kind == "when":
            task, names = "survival", class_names(label, None)
        elif label.tiers is not None:
            task, names = "tiers", classes
        else:
            task, names = "value", [label_name(label)]
        assert names is not None  # values alone have no classes
        return cls(task, tuple(names))

    @classmethod
    def of_model(cls, config: PreTrainedConfig) -> "Objective":
        """Of a trained model."""
        assert config.id2label is not None
        return cls(config.eventscribe["task"], tuple(name for _, name in sorted(config.id2label.items())))

    @property
    def labels(self) -> dict:
        """Of the transformers config."""
        kinds = dict.fromkeys(("propensity", "survival"), "multi_label_classification") | {"value": "regression"}
        return {
            "num_labels": len(self.classes),
            "id2label": dict(enumerate(self.classes)),
            "label2id": {name: i for i, name in enumerate(self.classes)},
            "problem_type": kinds.get(self.task, "single_label_classification"),
        }

    @property
    def known(self) -> dict[str, Any]:
        """What `finetune.figures.metrics.compute_metrics` has to know of the task."""
        return {"horizons": self.classes} if self.task == "survival" else {}

    @property
    def best(self) -> str:
        """The metric that chooses the best checkpoint unless training.metric_for_best_model names another."""
        return MAIN[self.task]

    def loss(
        self,
        label_smoothing: float = 0.0,
        weights: list[float] | None = None,
        teacher: float = 0.0,
        value_loss: str = "squared_error",
    ) -> Callable:
        """For the Trainer's compute_loss_func.

        Args:
            label_smoothing: Share of the probability that is spread over all classes; for one of several classes only.
            weights: Of each class, for one of several classes only.
            teacher: Share of what a teacher says, in training labels that are those of `taught`.
            value_loss: Of VALUE_LOSSES, for values only.
        """
        if teacher:
            alone = self.loss(label_smoothing, weights, value_loss=value_loss)
            return partial(_taught_loss, alone, teacher, centered=self.task in ("binary", "tiers"))
        if self.task == "propensity":
            return partial(_mean_loss, functional.binary_cross_entropy_with_logits)
        if self.task == "survival":
            return _hazard_loss
        if self.task == "value":
            return partial(_mean_loss, VALUE_LOSSES[value_loss])
        return partial(mean_cross_entropy, label_smoothing=label_smoothing, weights=weights)

    def priors(self, labels: np.ndarray, weights: list[float] | None = None) -> np.ndarray | None:
        """The logits that say how frequent each class is, of shape (classes,); None for values, which are centered.

        Args:
            labels: Of the training rows, of shape (rows,), for propensity and survival (rows, classes).
            weights: Of each class, see `class_weights`.
        """
        if self.task == "value":
            return None
        if self.task == "propensity":
            return logit((labels.sum(axis=0) + 0.5) / (len(labels) + 1))
        if self.task == "survival":
            return logit(((labels == 1).sum(axis=0) + 0.5) / ((labels != UNKNOWN).sum(axis=0) + 1))
        counts = np.bincount(labels, minlength=len(self.classes)) + 0.5
        return np.log(counts / counts.sum()) + np.log(1.0 if weights is None else weights)

    def taught(self, labels: np.ndarray, teacher: np.ndarray, known: np.ndarray | None = None) -> np.ndarray:
        """Labels beside what a teacher says, for a loss with a `teacher`: of shape (rows, 2, classes), first the logits
        that the teacher would have, then the labels, of one of several classes 1 for the right one.

        Args:
            labels: Of shape (rows,), for propensity and survival (rows, classes); values as they are learned.
            teacher: As `scores` has them; values as they are learned.
            known: Which rows have a label, of shape (rows,); the others have what the teacher says in its place. None
                for all.
        """
        if self.task == "value":
            said = logits = teacher[:, None]
            labels = labels[:, None]
        elif self.task == "binary" or self.task == "tiers":
            said = np.column_stack([1 - teacher, teacher]) if self.task == "binary" else teacher
            logits = np.log(np.clip(said, EDGE, 1))
            logits = logits - logits.mean(axis=1, keepdims=True)
            labels = np.eye(len(self.classes))[labels]
        else:
            said = survival.hazards_of(teacher) if self.task == "survival" else teacher
            logits = log_odds(said)
        if known is not None:
            labels = np.where(known[:, None], labels, said)
        return np.stack([logits, labels], axis=1)

    def scores(self, logits: np.ndarray) -> np.ndarray:
        """What the model says: the probability of label 1, of shape (rows,), the probability of each class, of shape
        (rows, classes), that the event has come by each horizon, of shape (rows, horizons), which never falls, or for
        values the output itself, of shape (rows,)."""
        outputs = torch.from_numpy(np.asarray(logits, np.float64))
        if self.task == "propensity":
            return torch.sigmoid(outputs).numpy()
        if self.task == "survival":
            return survival.come_by(torch.sigmoid(outputs).numpy())
        if self.task == "value":
            return outputs[:, 0].numpy()
        probabilities = torch.softmax(outputs, dim=-1).numpy()
        return probabilities[:, 1] if self.task == "binary" else probabilities

    def metrics(self, labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
        """Those measures of the scores that may choose the best checkpoint, by the evaluate.Metric of the task.

        Raises:
            InputError: The model's scores are NaN, as after a learning rate that is too high.
        """
        metric = metrics.METRIC[self.task](keep_in_memory=True)
        figures = metric.compute(references=labels, prediction_scores=scores, **self.known)
        assert figures is not None  # each process computes its own
        return {name: figures[name] for name in measure_names(self.task, "validation")}


def class_weights(
    setting: Literal["none", "auto"] | dict[str, float], objective: Objective, labels: np.ndarray
) -> list[float] | None:
    """The weight of each class in the loss, on average 1 over the training examples; None where all are equal.

    Args:
        setting: finetuning.class_weights.
        objective: Its classes.
        labels: The class of each training example.

    Raises:
        InputError: Weights for a task without classes, or for a class that there is not.
    """
    if setting == "none":
        return None
    if objective.task not in ("binary", "tiers"):
        raise InputError(
            f"a {objective.task} label has no classes to weigh", "leave it at none", setting="finetuning.class_weights"
        )
    counts = np.bincount(labels, minlength=len(objective.classes))
    if setting == "auto":
        weights = 1 / np.maximum(counts, 1)
    else:
        unknown = set(setting) - set(objective.classes)
        if unknown or not setting or not all(0 < weight < math.inf for weight in setting.values()):
            raise InputError(
                f"give each of {', '.join(objective.classes)} a number above zero, such as "
                f"{{{objective.classes[-1]}: 3}}",
                f"'{(sorted(unknown) or [*setting, '{}'])[0]}' does not fit",
                setting="finetuning.class_weights",
            )
        weights = np.array([setting.get(name, 1.0) for name in objective.classes])
    return (weights * counts.sum() / (weights * counts).sum()).tolist()


def mean_cross_entropy(
    outputs: ModelOutput,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
    weights: list[float] | None = None,
) -> torch.Tensor:
    """Cross-entropy, averaged over all labelled items of a step.

    The BERT classes ignore num_items_in_batch, the number of items in all accumulated batches of all processes, and
    would multiply loss and gradient by gradient_accumulation_steps and by the number of processes
    (https://github.com/huggingface/transformers/issues/47688).

    Args:
        outputs: With logits of shape (..., classes).
        labels: Class indices of shape (...), of which -100 is ignored, or the probability of each class, of the
            logits' shape; where the latter add up to another number than 1, it is what the example counts for.
        num_items_in_batch: What the Trainer counted; None, in evaluation, averages over this batch.
        label_smoothing: Share of the probability that is spread over all classes.
        weights: What an example of each class counts for; None counts each as 1.
    """
    logits = outputs["logits"].flatten(0, -2)
    counted = num_items_in_batch if num_items_in_batch is not None else (labels != -100).sum()
    counts_for = None
    if labels.is_floating_point():
        labels = labels.flatten(0, -2).to(logits.dtype)
        counted = counted / labels.shape[-1]  # the Trainer, too, counts each class of an example
        counts_for = labels.sum(-1, keepdim=True)
        labels = labels / counts_for
    else:
        labels = labels.flatten()
    weight = None if weights is None else torch.tensor(weights, device=logits.device, dtype=logits.dtype)
    losses = functional.cross_entropy(logits, labels, weight, reduction="none", label_smoothing=label_smoothing)
    total = losses.sum() if counts_for is None else losses @ counts_for[:, 0]
    return total / counted


def _taught_loss(
    alone: Callable,
    share: float,
    outputs: ModelOutput,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | None = None,
    *,
    centered: bool,
) -> torch.Tensor:
    """The squared distance of the logits from a teacher's, and the loss of the labels.

    Logits and not probabilities are compared (Ba, Caruana: Do Deep Nets Really Need to be Deep?, NIPS 2014), as a
    class that is rare moves its probability too little to be heard among the others.

    Args:
        alone: The loss without a teacher, of the labels and in evaluation.
        share: The teacher's.
        outputs: With logits of shape (rows, classes).
        labels: As `Objective.taught` makes them; those of evaluation are as they are.
        num_items_in_batch: What the Trainer counted: each entry of the labels.
        centered: Whether only differences between the logits count.
    """
    if labels.ndim < 3:
        return alone(outputs, labels, num_items_in_batch)
    logits, (said, labels) = outputs["logits"], labels.to(outputs["logits"].dtype).unbind(1)
    count = num_items_in_batch / 2 if num_items_in_batch is not None else torch.tensor(labels.numel())
    if centered:
        logits = logits - logits.mean(-1, keepdim=True)
    distance = functional.mse_loss(logits, said, reduction="sum") / count
    return share * distance + (1 - share) * alone(outputs, labels, count)


def _hazard_loss(
    outputs: ModelOutput, labels: torch.Tensor, num_items_in_batch: torch.Tensor | None = None
) -> torch.Tensor:
    """Binary cross-entropy of each interval whose outcome is known, which is the likelihood of the event's time,
    averaged over all intervals of a step, the unknown ones too: so each row weighs the same in every batch.

    Args:
        outputs: With logits of shape (rows, horizons).
        labels: 1, 0 or UNKNOWN, of the same shape.
        num_items_in_batch: What the Trainer counted: each entry of the labels.
    """
    known = (labels != UNKNOWN).to(outputs["logits"].dtype)
    total = functional.binary_cross_entropy_with_logits(
        outputs["logits"], labels * known, weight=known, reduction="sum"
    )
    return total / (num_items_in_batch if num_items_in_batch is not None else labels.numel())


def _mean_loss(
    loss: Callable, outputs: ModelOutput, labels: torch.Tensor, num_items_in_batch: torch.Tensor | None = None
) -> torch.Tensor:
    """A loss of each output, averaged over all labels of a step; logits of shape (rows, outputs)."""
    total = loss(outputs["logits"].reshape(labels.shape), labels, reduction="sum")
    return total / (num_items_in_batch if num_items_in_batch is not None else labels.numel())
