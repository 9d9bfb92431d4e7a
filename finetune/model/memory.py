"""Memory: what a new model needs of it, and a sentence where it does not suffice."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from data_prep import InputError
from finetune.experiment.config import Experiment
from finetune.model.tokenization import first_line

TRAINING_REMEDY = (
    "lower training.per_device_train_batch_size (and raise gradient_accumulation_steps by as much), "
    "training.per_device_eval_batch_size, model.max_tokens or the size of the model"
)
SCORING_REMEDY = "score fewer texts at a time, by batch_size or --batch-size"


@contextmanager
def enough_memory(remedy: str) -> Iterator[None]:
    """Turn what a GPU, torch on a CPU or numpy say where memory ends into a sentence.

    Raises:
        InputError: The memory does not suffice.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        on_gpu = isinstance(error, torch.OutOfMemoryError)
        if not on_gpu and not isinstance(error, MemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        what = "GPU's" if on_gpu else "machine's"
        raise InputError(f"the {what} memory does not suffice ({first_line(error)})", remedy) from error


def refuse_too_large(weights: int, experiment: Experiment) -> None:
    """Refuse to train a model from scratch, of so many weights, that no batch size would let fit.

    In float32 a trained weight takes 4 bytes, its gradient as many, and AdamW's two averages twice as many; activations
    come on top.

    Raises:
        InputError: The memory of one GPU, or of the machine where training is on its CPU, is smaller than that.
    """
    training = experiment.training
    if training["deepspeed"] or training["fsdp"] or os.environ.get("ACCELERATE_USE_FSDP") == "true":
        return  # spread over GPUs, or moved out of them
    needed = weights * (16 if "adamw" in training["optim"] else 8)
    if torch.cuda.is_available() and not training["use_cpu"]:
        what, there = "the GPU", torch.cuda.get_device_properties(0).total_memory
    else:
        what, there = "this machine", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        sizes, most = experiment.model.from_scratch, experiment.model.max_tokens
        of_places = most * sizes.hidden_size > weights / 2  # each place in a text has a vector of its own
        lower = "model.max_tokens" if of_places else "hidden_size or layers"
        raise InputError(
            f"{'model.max_tokens' if of_places else 'model.from_scratch'}: a model of {weights:,} weights needs "
            f"{needed / 2**30:,.0f} GiB to be trained, and {what} has {there / 2**30:,.0f} GiB",
            f"lower {lower}",
        )
