"""A site's part: its log, its texts and its labels stay here; counts, weights and figures go to the server.

The site trains with the Trainer of every run. After each `local steps` its weights go out and the mean of all sites'
comes in, while the optimizer, the learning rate's schedule and the order of the examples go on. So a federation of one
site is plain training, to the bit.
"""

import os
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from data_prep import InputError
from data_prep.checked_json import MayLack, check
from data_prep.prepare import prepare
from data_prep.prepared import read_manifest, split_texts
from data_prep.serializer import EventSerializer
from data_prep.shared_schema import read_schema, schema_counts, without_learned
from finetune.experiment.config import Experiment
from finetune.experiment.effects import CHANCE, weight_settings
from finetune.experiment.parser import changed
from finetune.federated.figures import measured
from finetune.federated.messages import ALONE, Weights, receive, send
from finetune.figures.metrics_json import without_nan
from finetune.model.objective import Objective
from finetune.model.tokenization import SPECIAL, train_tokenizer
from finetune.model.tokens import CHUNK
from finetune.training.train import train

OWN = ("task.cutoffs", "task.examples", "finetuning.labelled_draw")  # settings that may differ from site to site


class Rounds(TrainerCallback):
    """Changes a site's weights for those of all after each `steps` steps.

    Args:
        connection: To the server.
        steps: Local ones, of each round.
        proximal: What the way from the round's first weights costs: proximal / 2 times its squared length is added to
            the loss (FedProx, Li et al., 2020), by its gradient and behind the clipping of that of the labels.
        metric: Of the validation rows, by which the server chooses the best round.
    """

    def __init__(self, connection: Connection, steps: int, proximal: float, metric: str) -> None:
        self.connection, self.steps, self.proximal, self.metric = connection, steps, proximal, metric
        self.validation: float | None = None
        self.begin: list[tuple[torch.nn.Parameter, torch.Tensor]] = []

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel,
        **more: object,
    ) -> None:
        """Take the server's weights; of an adapter once those of its base, too."""
        self._exchange(model, dict(model.named_parameters()))

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: object
    ) -> None:
        """Add the gradient of FedProx' term."""
        if self.proximal:
            for weight, begin in self.begin:
                if weight.grad is not None:
                    weight.grad.add_(weight.detach() - begin, alpha=self.proximal)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel,
        **more: object,
    ) -> None:
        """At the end of a round, before the weights are validated."""
        if state.global_step % self.steps == 0:
            self._exchange(model, trained_weights(model))

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **more: object,
    ) -> None:
        """Keep what the validation rows say of the weights of all."""
        self.validation = float(metrics[f"eval_{self.metric}"])

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel,
        **more: object,
    ) -> None:
        """Take the weights of the best round."""
        self._exchange(model, {})

    def _exchange(self, model: PreTrainedModel, weights: dict[str, torch.nn.Parameter]) -> None:
        content = without_nan({"validation": self.validation, "metric": self.metric})
        send(self.connection, content, dict(weights))
        self._take(model, answer(self.connection)[1])

    def _take(self, model: PreTrainedModel, weights: Weights) -> None:
        own = dict(model.named_parameters())
        if any(name not in own or own[name].shape != weight.shape for name, weight in weights.items()):
            raise InputError("the server sent weights of another model", "give all sites the same settings")
        with torch.no_grad():
            for name, weight in weights.items():
                own[name].copy_(weight)
        self.begin = [(weight, weight.detach().clone()) for weight in trained_weights(model).values()]


def trained_weights(model: PreTrainedModel) -> dict[str, torch.nn.Parameter]:
    """Those that training changes: all, or an adapter's."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def answer(connection: Connection) -> tuple[dict[str, Any], Weights]:
    """The server's next message; InputError where it is gone."""
    try:
        return receive(connection)
    except (EOFError, OSError) as error:
        raise InputError("the server is gone", "start the federation again") from error


def join(connection: Connection, experiment: Experiment) -> None:
    """Take part in a federation until its model is trained and measured.

    Writes NAME-SITE, the federated model as a plain run, and NAME-SITE-alone, the site's own model as its config says
    it, with the prepared data of both; NAME is the server's, SITE the config's name.

    Raises:
        InputError: A setting that cannot be federated, or the server is gone; the server is told, too.
    """
    try:
        _join(connection, experiment)
    except InputError as error:
        with suppress(OSError):
            send(connection, {"error": str(error)})
        raise
    finally:
        connection.close()


def _join(connection: Connection, experiment: Experiment) -> None:
    plan, _ = answer(connection)
    holds = {"name": str, "rounds": int, "proximal": float, "counts": bool}
    check(Path("the server's plan"), plan, holds, "start the federation again")
    steps = local_steps(experiment, plan["rounds"])
    alone, shared = named(experiment, plan["name"], steps)
    prepare(alone.name, alone.data, alone.task, alone.text, alone.spark)
    serializer = EventSerializer.from_pretrained(alone.data_folder)
    settings = {
        key: value
        for key, value in weight_settings(shared).items()
        if key not in CHANCE and not key.startswith(OWN) and key != "processes"
    }
    hello = {"site": experiment.name, "settings": settings, "columns": without_learned(serializer).to_json()}
    send(connection, hello | ({"counts": schema_counts(alone.data, alone.data_folder)} if plan["counts"] else {}))
    schema, _ = answer(connection)
    check(Path("the shared schema"), schema, {"schema": str}, "start the federation again")
    prepare(shared.name, shared.data, shared.task, shared.text, shared.spark, read_schema(schema["schema"]))
    texts, words = _words(shared)
    send(connection, {"words": words, "examples": texts})
    agreed, _ = answer(connection)
    check(Path("the shared words"), agreed, {"words": MayLack([str])}, "start the federation again")
    objective = Objective.of(shared.task.label, read_manifest(shared.data_folder)["classes"])
    metric = shared.training["metric_for_best_model"] or objective.best
    train(shared, agreed["words"], [Rounds(connection, steps, plan["proximal"], metric.removeprefix("eval_"))])
    train(alone)
    send(connection, measured(shared, {ALONE: (alone.model_folder, alone.data_folder)}))


def local_steps(experiment: Experiment, rounds: int) -> int:
    """The steps of a round.

    Raises:
        InputError: The steps are no multiple of the rounds, or a setting cannot be federated.
    """
    steps, setting = experiment.training["max_steps"], "training.max_steps"
    if rounds < 1 or steps < rounds or steps % rounds:
        raise InputError(
            f"training.max_steps is {steps}, of which {rounds} rounds do not have the same number each",
            "give a multiple of --rounds",
            setting=setting,
        )
    refused = {
        "pretraining.max_steps": (experiment.pretraining.max_steps, "pretraining is not federated; set it to 0"),
        "finetuning.privacy": (experiment.finetuning.privacy, "private steps are not federated yet; leave it out"),
        "finetuning.members": (experiment.finetuning.members, "each site would be taught by its own; set it to 0"),
        "text.schema": (experiment.text.schema, "give federate.py the same folder as --schema, and leave it out"),
        "seeds": (experiment.seeds, "a federation trains one model; leave them out"),
        "processes": (os.environ.get("WORLD_SIZE", "1") != "1", "a site is one process; leave accelerate launch out"),
    }
    for name, (given, why) in refused.items():
        if given:
            raise InputError(f"{name}: {why}", setting=name)
    if Objective.of(experiment.task.label, []).task in ("value", "propensity"):
        raise InputError(
            f"task.label {experiment.task.label.kind} has a scale or classes of each site's own",
            "ask absent, exists, when, or tiers",
            setting="task.label",
        )
    return steps // rounds


def named(experiment: Experiment, name: str, steps: int) -> tuple[Experiment, Experiment]:
    """The site's own run as its config says it, and the one of the federation, validated after each round."""
    own = changed(experiment, {"name": f"{name}-{experiment.name}-{ALONE}"})
    settings = {"eval_strategy": "steps", "eval_steps": steps, "save_strategy": "no", "load_best_model_at_end": False}
    values = {"name": f"{name}-{experiment.name}", "finetuning.patience": 0}
    return own, changed(experiment, values | {f"training.{key}": value for key, value in settings.items()})


def _words(experiment: Experiment) -> tuple[int, list[str] | None]:
    """The number of training examples, and the words of their texts, the most frequent first; None where a pretrained
    model has its own."""
    number, texts = split_texts(experiment.data_folder, "train", experiment.finetuning.max_train_examples, CHUNK)
    if experiment.model.name_or_path:
        return number, None
    vocabulary = train_tokenizer(texts, experiment.model.max_tokens).get_vocab()
    return number, sorted(vocabulary.keys() - {*SPECIAL.values()}, key=vocabulary.__getitem__)
