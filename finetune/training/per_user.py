"""The gradient of each user of a batch, from one pass over all of them.

A pass for each user alone takes six times as long on a CPU. The hooks of Opacus keep what went into each layer and what
came back, of which they make the gradient of each row; those of a user's rows add up to that of her own loss.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from finetune.model.packing import base_model

if TYPE_CHECKING:
    from opacus.grad_sample import GradSampleHooks

NUMBERS = 1 << 26  # in the gradients of the rows that go through the model together: 256 MiB
LAYERS = {nn.Linear, nn.Embedding, nn.LayerNorm}  # of which Opacus knows the gradients of rows


def rows_together(model: nn.Module) -> int:
    """How many rows may go through a model at once; 1 where the gradients of rows are not known to be right.

    They are in a BERT, whose positions can be given for each row. Other encoders share an embedding among the rows, or
    have layers that Opacus does not know.
    """
    trained = [part for part in model.modules() if any(own.requires_grad for own in part.parameters(recurse=False))]
    if not all(type(part) in LAYERS for part in trained) or base_model(model).config.model_type != "bert":
        return 1
    return max(NUMBERS // sum(own.numel() for own in model.parameters() if own.requires_grad), 1)


def hooks_on(model: nn.Module) -> "GradSampleHooks":
    """From now on a backward pass gives each weight a `grad_sample` of shape (rows, ...), for `gradients_of_users`."""
    from opacus.grad_sample import GradSampleHooks

    return GradSampleHooks(model, loss_reduction="sum", strict=False)


def positions(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Of each token of each row: left to itself, BERT makes one row of positions for all."""
    ids = batch["input_ids"]
    return torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)


def gradients_of_users(weights: Sequence[nn.Parameter], rows: Sequence[int]) -> list[torch.Tensor | None]:
    """Of each weight the gradients of users, of shape (users, ...); None where it took no part.

    Args:
        weights: After a backward pass with `hooks_on`; their `grad_sample` is used up.
        rows: How many rows each user has, one user's after the other's.
    """
    found = []
    for weight in weights:
        of_rows = weight.grad_sample  # pyright: ignore[reportAttributeAccessIssue] - Opacus puts it there
        weight.grad_sample = None  # pyright: ignore[reportAttributeAccessIssue]
        if of_rows is not None and max(rows) > 1:
            owner = torch.repeat_interleave(torch.tensor(rows, device=of_rows.device))
            of_rows = of_rows.new_zeros(len(rows), *weight.shape).index_add_(0, owner, of_rows)
        found.append(of_rows)
    return found


def add_clipped(sums: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor | None], clip: float) -> torch.Tensor:
    """Add the gradients of users to the sums, those of each scaled down where together they are longer than `clip`.

    What is no number counts as nothing.

    Args:
        sums: Of each weight.
        gradients: See `gradients_of_users`.
        clip: The longest.

    Returns:
        Their lengths before, of shape (users,).
    """
    parts = [(total, part) for total, part in zip(sums, gradients, strict=True) if part is not None]
    lengths = torch.stack([part.flatten(1).norm(dim=1, dtype=torch.float32) for _, part in parts]).norm(dim=0)
    known = lengths.isfinite()
    scales = torch.where(known, (clip / lengths).clamp(max=1.0), 0.0)
    for total, part in parts:
        if not known.all():
            part = part.nan_to_num(0.0, 0.0, 0.0)
        total.add_(torch.tensordot(scales.to(total.dtype), part.to(total.dtype), dims=1))
    return lengths
