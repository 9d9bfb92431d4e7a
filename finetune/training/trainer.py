"""The Trainer of transformers with what is ours: batches of like lengths, checkpoints that are checked, one bar."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import (
    PreTrainedModel,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import EvalLoopOutput

from data_prep import InputError
from finetune.model.packing import base_model, pack
from finetune.model.tokenization import first_line
from finetune.model.tokens import Tokens
from finetune.training.batching import LengthGroupedSampler
from finetune.training.checkpoints import ANEW, write_checksums
from finetune.training.throughput import Throughput, flops_per_token

TIE = 0.0005  # of AUROC or concordance: what chance on validation rows does; TRIED.md has what a larger one costs
TIED = ("auroc", "concordance")


def packs_on(model: torch.nn.Module, arguments: TrainingArguments, pooling: str | None) -> bool:
    """Let the model read packed batches where it trains on a GPU, and say so where it cannot; see `pack`."""
    if arguments.device.type != "cuda" or arguments.n_gpu > 1:  # DataParallel splits a batch along its first dimension
        return False
    packs = pack(model, pooling)
    if not packs and arguments.process_index == 0:
        kind = base_model(model).config.model_type
        print(f"batches are padded, as a {kind} model cannot read packed ones with these settings")
    return packs


class LengthGroupedTrainer(Trainer):
    """A Trainer whose group_by_length takes the batches in random order, and that logs its speed; see `Throughput`.

    Args:
        packs: Whether batches are packed; then no lengths need to be grouped, and examples come at random.
        settings: Of transformers.Trainer; both datasets have `lengths`, as Tokens have.

    Raises:
        InputError: transformers refuses the arguments.
    """

    model: PreTrainedModel
    train_dataset: Tokens
    eval_dataset: Tokens  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, packs: bool = False, **settings: Any) -> None:
        self.packs = packs
        try:
            super().__init__(**settings)
        except (ImportError, RuntimeError, ValueError) as error:
            raise InputError(f"training: {first_line(error)}") from error
        self.add_callback(_Epoch(self))
        self.sampler: LengthGroupedSampler | None = None
        self.flops = flops_per_token(self.model)  # before it is wrapped or sharded
        self.throughput: Throughput | None = None

    def training_step(self, model: torch.nn.Module, inputs: dict, *more: Any, **named: Any) -> torch.Tensor:
        """Count the tokens of each batch."""
        self.clock().count(inputs)
        return super().training_step(model, inputs, *more, **named)

    def clock(self) -> Throughput:
        """Counts tokens; it starts with the first step, not while checkpoints are read."""
        if self.throughput is None:
            self.throughput = Throughput(self.flops, self.accelerator)
        return self.throughput

    def log(self, logs: dict[str, float], *more: Any, **named: Any) -> None:
        """Add the speed to the entries of training, which every process makes at the same step."""
        if "loss" in logs:
            assert self.throughput is not None
            logs = logs | self.throughput.entries()
        super().log(logs, *more, **named)

    def evaluate(self, *arguments: Any, **named: Any) -> dict[str, float]:
        """Stop the clock meanwhile."""
        with self._without_clock():
            return super().evaluate(*arguments, **named)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Of checkpoints that are tied by AUROC or concordance the one with the least loss is the best."""
        name = f"eval_{self.args.metric_for_best_model}".replace("eval_eval_", "eval_")
        if name.removeprefix("eval_") in TIED:
            evaluated = [entry for entry in self.state.log_history if name in entry and entry["step"]]  # 0 has none
            best = kept_checkpoint([entry[name] for entry in evaluated], [entry["eval_loss"] for entry in evaluated])
            if best < len(evaluated) - 1:
                return False
            self.state.best_metric = None  # or transformers would not take one that is better by its loss alone
        return super()._determine_best_metric(metrics, trial)

    def get_eval_dataloader(self, eval_dataset: Dataset | None = None) -> DataLoader:
        """All examples: training.dataloader_drop_last is for training alone."""
        dropped, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.args.dataloader_drop_last = dropped

    def _save_checkpoint(self, *arguments: Any, **named: Any) -> None:
        with self._without_clock():
            super()._save_checkpoint(*arguments, **named)
            if self.is_world_process_zero():
                assert self.args.output_dir is not None
                checkpoint = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
                self.save_more(checkpoint)
                write_checksums(checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """PyTorch's fused steps write past the end of averages that are smaller than their weights."""
        super()._load_optimizer_and_scheduler(checkpoint)
        optimizer: Any = getattr(self.optimizer, "optimizer", self.optimizer)
        if checkpoint is None or not type(optimizer).__module__.startswith("torch.optim"):
            return
        for weight, state in optimizer.state.items():
            for name, value in state.items():
                if isinstance(value, torch.Tensor) and not _fits(value, weight, name):
                    raise InputError(f"{checkpoint}: the optimizer's {name} is not as large as its weight", ANEW)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Numpy takes any place in its list of random numbers, and reads past its end."""
        super()._load_rng_state(checkpoint)
        state: Any = np.random.get_state()
        if not 0 <= state[2] <= len(state[1]):  # its kind, the numbers and the place come first
            raise InputError(f"{checkpoint}: the random state is damaged", ANEW)

    def save_more(self, checkpoint: Path) -> None:
        """What a Trainer keeps of its own in a checkpoint."""

    @contextmanager
    def _without_clock(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if self.throughput:
            self.throughput.pause(time.perf_counter() - start)

    def evaluation_loop(self, *arguments: Any, **named: Any) -> EvalLoopOutput:
        """The loss of each example once: transformers averages batches, the last of which has some examples twice
        where there are several processes."""
        found = super().evaluation_loop(*arguments, **named)
        assert self.compute_loss_func is not None
        loss = self.compute_loss_func({"logits": torch.tensor(found.predictions)}, torch.tensor(found.label_ids))
        name = f"{named.get('metric_key_prefix', 'eval')}_loss"
        return found._replace(metrics=(found.metrics or {}) | {name: loss.item()})

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        lengths = self.train_dataset.lengths
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        grouped = np.zeros(len(lengths)) if self.packs else lengths
        self.sampler = LengthGroupedSampler(grouped, self.args.train_batch_size, seed)
        return self.sampler

    def _get_eval_sampler(self, eval_dataset: Tokens) -> list[int]:
        return np.argsort(-eval_dataset.lengths, kind="stable").tolist()  # little padding, and the most memory first


def kept_checkpoint(values: list[float], losses: list[float]) -> int:
    """Which of the checkpoints so far is the best: the least loss among those within TIE of the highest value.

    One that was passed over is gone, so that each new one is held against the one that is kept.

    Args:
        values: Of AUROC or concordance, in the order of the steps.
        losses: Of the same checkpoints.
    """
    kept = 0
    for new in range(1, len(values)):
        least = max(values[: new + 1]) - TIE
        if values[kept] < least or (values[new] >= least and losses[new] < losses[kept]):
            kept = new
    return kept


def _fits(value: torch.Tensor, weight: torch.Tensor, name: str) -> bool:
    """Whether an optimizer's tensor has a number for each of the weight, one after the other; of steps it is one."""
    if name == "step":
        return value.numel() == 1
    return value.shape == weight.shape and (value.is_contiguous() or value.stride() == weight.stride())


class _Epoch(TrainerCallback):
    """Tells the sampler the epoch: of several processes, accelerate does not reach it in an epoch that is resumed."""

    def __init__(self, trainer: LengthGroupedTrainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: object
    ) -> None:
        if self.trainer.sampler is not None:
            self.trainer.sampler.set_epoch(int(state.epoch or 0))


class Progress(ProgressCallback):
    """The Trainer's bar with the loss in it, and one line an evaluation, in place of a line for every log entry."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: object
    ) -> None:
        """Name the bar."""
        super().on_train_begin(args, state, control, **more)
        if self.training_bar is not None:
            self.training_bar.set_description(self.name)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict, **more: object
    ) -> None:
        """Show the newest loss, and the validation metrics where there are any."""
        if self.training_bar is None:
            return
        if "loss" in logs:
            self.training_bar.set_postfix_str(f"loss {logs['loss']:.4f}")
        if "eval_loss" in logs:
            name = next(name for name in (args.metric_for_best_model, "auroc", "mae", "loss") if f"eval_{name}" in logs)
            self.training_bar.write(
                f"step {state.global_step}: validation {'AUROC' if name == 'auroc' else name} "
                f"{logs[f'eval_{name}']:.4f}, loss {logs['eval_loss']:.4f}"
            )

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: object
    ) -> None:
        """Name the bar of an evaluation."""
        super().on_prediction_step(args, state, control, **more)
        if self.prediction_bar is not None:
            self.prediction_bar.set_description("validate", refresh=False)


def show_progress(trainer: Trainer, name: str) -> None:
    """Replace the Trainer's own bar, unless training.disable_tqdm asks for plain lines."""
    if not trainer.args.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(Progress(name))
