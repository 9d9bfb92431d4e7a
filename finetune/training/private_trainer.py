"""The Trainer of DP-SGD over users; see `finetune.training.privacy`."""

import json
import re
import warnings
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import TrainingArguments

from data_prep import InputError
from data_prep.checked_json import is_a, read_json
from data_prep.facts import Manifest
from data_prep.files import write_whole
from data_prep.prepared import read_split
from finetune.experiment.config import Experiment
from finetune.model.objective import Objective
from finetune.training.batching import Collator
from finetune.training.per_user import add_clipped, gradients_of_users, hooks_on, positions, rows_together
from finetune.training.privacy import Mechanism, UserDraws, new_secret
from finetune.training.privacy_rules import not_covered, refuse_arguments
from finetune.training.trainer import LengthGroupedTrainer

STATE = "privacy.json"  # in a checkpoint: the secret of the draws, and what the accountant has counted


class PrivateTrainer(LengthGroupedTrainer):
    """A Trainer whose step sums the clipped gradients of users and adds noise.

    `clip` takes the place of training.max_grad_norm: the noised gradient is not clipped once more.

    Args:
        mechanism: The noise, and who is drawn.
        users: Whose each training row is, as numbers from 0 on, of shape (rows,).
        not_covered: What the guarantee does not hold for.
        settings: Of LengthGroupedTrainer.

    Raises:
        InputError: See LengthGroupedTrainer; or mixed precision that scales the loss.
    """

    def __init__(self, mechanism: Mechanism, users: np.ndarray, not_covered: list[str], **settings: Any) -> None:
        super().__init__(**settings)
        if self.accelerator.scaler is not None:
            raise InputError("finetuning.privacy clips gradients as they are", "train in bf16 or float32, not in fp16")
        self.args.max_grad_norm = 0.0
        self.mechanism, self.accountant, self.not_covered = mechanism, mechanism.accountant(), not_covered
        assert isinstance(self.data_collator, Collator)
        args = self.args  # compiled layers have no hooks, and recomputed ones would have them twice
        alone = args.torch_compile or args.gradient_checkpointing or args.activation_checkpointing
        together = 1 if alone else rows_together(self.model)
        self.hooks = hooks_on(self.model) if together > 1 else None
        self.draws = UserDraws(self.train_dataset, users, mechanism, new_secret(), self.data_collator, together)

    def get_train_dataloader(self) -> DataLoader:
        """One entry a step."""
        return DataLoader(self.draws, batch_size=1, collate_fn=_only, num_workers=self.args.dataloader_num_workers)

    def training_step(self, model: torch.nn.Module, inputs: dict, *more: Any, **named: Any) -> torch.Tensor:
        """The noised mean of the users' clipped gradients as the gradient, and the mean of their losses."""
        counted = sum(steps for _, _, steps in self.accountant.history)
        if counted != self.state.global_step:
            raise InputError(
                f"the accountant has counted {counted:,} steps, and training is at {self.state.global_step:,}",
                "start anew with --training.resume_from_checkpoint false",
            )
        model.train()
        throughput, settings = self.clock(), self.mechanism.settings
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        sums, losses = [torch.zeros_like(weight) for weight in weights], []
        torch.manual_seed(self.draws.seed(self.state.global_step))
        for batch, rows in zip(inputs["batches"], inputs["rows"], strict=True):
            batch = cast(dict[str, torch.Tensor], self._prepare_inputs(batch))
            throughput.count(batch)
            model.zero_grad()
            losses += self._backward(model, batch, rows)
            if self.hooks is None:
                gradients = [None if weight.grad is None else weight.grad[None] for weight in weights]
            else:
                gradients = gradients_of_users(weights, rows)
            add_clipped(sums, gradients, settings.clip)
        generator = self.draws.noise(self.state.global_step, self.args.device)
        deviation = self.mechanism.noise_multiplier * settings.clip
        for weight, total in zip(weights, sums, strict=True):
            noise = torch.randn(total.shape, generator=generator, device=total.device, dtype=total.dtype)
            weight.grad = (total + deviation * noise) / self.mechanism.expected
        self.accountant.step(noise_multiplier=self.mechanism.noise_multiplier, sample_rate=self.mechanism.sample_rate)
        return torch.stack(losses).mean() if losses else torch.zeros((), device=self.args.device)

    def _backward(self, model: torch.nn.Module, batch: dict[str, torch.Tensor], rows: list[int]) -> list[torch.Tensor]:
        """One pass over the rows of some users; the loss of each, which reads her own rows alone."""
        assert self.compute_loss_func is not None
        labels = batch.pop("labels")
        if self.hooks is not None:
            batch["position_ids"] = positions(batch)
        with self.compute_loss_context_manager():
            logits = model(**batch).logits
            own = zip(logits.split(rows), labels.split(rows), strict=True)
            losses = [self.compute_loss_func({"logits": one}, said) for one, said in own]
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "Full backward hook is firing"
            )  # of embeddings: token ids have no gradient
            torch.stack(losses).sum().backward()
        return [loss.detach() for loss in losses]

    def facts(self) -> dict:
        """What was spent; see `Mechanism.facts`."""
        return self.mechanism.facts(self.accountant, self.not_covered)

    def save_more(self, checkpoint: Path) -> None:
        """The accountant and the secret. A checkpoint is as private as the log."""
        state = {"secret": f"{self.draws.secret:x}", "history": self.accountant.history}
        write_whole(checkpoint / STATE, json.dumps(state))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        holds = {"secret": a_hexadecimal, "history": [noised_steps]}
        state = read_json(
            Path(resume_from_checkpoint) / STATE, holds, "start anew: --training.resume_from_checkpoint false"
        )
        self.draws.secret = int(state["secret"], 16)
        self.accountant.history = [(noise, rate, int(steps)) for noise, rate, steps in state["history"]]


def privacy_of(
    experiment: Experiment, arguments: TrainingArguments, manifest: Manifest, objective: Objective
) -> dict[str, Any]:
    """What PrivateTrainer needs beside the rest, of which a line tells."""
    refuse_arguments(arguments)
    privacy = experiment.finetuning.privacy
    assert privacy is not None, "as it was asked for"
    ids = read_split(experiment.data_folder, "train", experiment.limits["train"], ["user_id"])["user_id"]
    names, users = np.unique(ids.to_numpy(), return_inverse=True)
    threshold, expected = objective.task == "binary", arguments.per_device_train_batch_size
    mechanism = Mechanism.of(privacy, len(names), expected, arguments.max_steps, threshold)
    print(
        f"privacy: {len(names):,} users, {mechanism.expected:g} a step on average, noise multiplier "
        f"{mechanism.noise_multiplier:.3f} for epsilon {privacy.epsilon:g} and delta {privacy.delta:g}"
        + (f", of which {mechanism.threshold_epsilon:g} for the threshold" if mechanism.threshold_epsilon else "")
    )
    said = not_covered(experiment, manifest)
    print(f"privacy: not covered are {'; '.join(said)}")
    return {"mechanism": mechanism, "users": users, "not_covered": said}


def a_hexadecimal(content: Any) -> bool:
    """Of 128 bits."""
    return isinstance(content, str) and re.fullmatch("[0-9a-f]{1,32}", content) is not None


def noised_steps(content: Any) -> bool:
    """A noise multiplier, the share of the users in a step, and how many steps."""
    if not isinstance(content, list) or len(content) != 3 or not all(is_a(number, float) for number in content):
        return False
    noise, rate, steps = content
    return 1e-3 <= noise <= 1e6 and 0 < rate <= 1 and 1 <= steps <= 10**9 and int(steps) == steps


def _only(parts: list[dict]) -> dict:
    return parts[0]
