"""How fast training is: tokens, padding, and on GPUs the share of their arithmetic that is used."""

import re
import time

import torch
from accelerate import Accelerator
from torch import nn

from finetune.model.last_layer import LastLayer

# Dense bf16 TFLOP/s (T4: fp16, it has no bf16) in the makers' data sheets, by a pattern of CUDA's name for the GPU; a
# GPU that is not here has no MFU, such as the PCIe and NVL kinds of the H100, which are slower.
PEAK_TFLOPS = {
    r"\bA100\b": 312,
    r"\bH100 80GB HBM3$": 989,
    r"\bH200$": 989,
    r"\bL4$": 121,
    r"\bA10$": 125,
    r"\bT4$": 65,
}


class Throughput:
    """Counts the tokens between two log entries without making a GPU wait.

    Args:
        flops: What the model needs for one token; see `flops_per_token`.
        accelerator: Sums over the processes.
    """

    def __init__(self, flops: int, accelerator: Accelerator) -> None:
        self.flops, self.accelerator = flops, accelerator
        self._restart(time.perf_counter())

    def count(self, batch: dict[str, torch.Tensor]) -> None:
        """Add a batch, packed or with an attention_mask; nothing is read back from the GPU."""
        places = batch["input_ids"].numel()
        self.tokens = self.tokens + (batch["attention_mask"].sum() if "attention_mask" in batch else places)
        self.places += places

    def pause(self, seconds: float) -> None:
        """Leave out what was no training."""
        self.start += seconds

    def entries(self) -> dict[str, float]:
        """Since the last call and over all processes, which must all call it.

        Returns:
            tokens_per_second and padding_fraction; on a GPU peak_memory_gib, of the process that needed most since the
            start, and mfu where the GPU's peak is known: the operations that the model needs for its tokens (not for
            padding), as a share of what the GPUs could do. Chowdhery et al., "PaLM", 2022, appendix B, without the
            term of attention.
        """
        device = self.accelerator.device
        cuda = device.type == "cuda"
        peak = torch.cuda.max_memory_allocated(device) if cuda else 0
        counts = torch.tensor([int(self.tokens), self.places, peak], device=device)
        gathered = self.accelerator.gather(counts)
        assert isinstance(gathered, torch.Tensor)
        tokens, places, peaks = gathered.view(-1, 3).T.tolist()
        now = time.perf_counter()
        speed = sum(tokens) / (now - self.start)
        self._restart(now)
        found = {"tokens_per_second": speed, "padding_fraction": 1 - sum(tokens) / max(sum(places), 1)}
        if cuda:
            found["peak_memory_gib"] = max(peaks) / 2**30
            if possible := peak_flops(torch.cuda.get_device_name(device)):
                found["mfu"] = speed * self.flops / (possible * self.accelerator.num_processes)
        return found

    def _restart(self, now: float) -> None:
        self.tokens, self.places, self.start = torch.tensor(0, device=self.accelerator.device), 0, now


def flops_per_token(model: nn.Module) -> int:
    """Floating-point operations of one token's forward and backward pass through the matrices.

    Two a weight in the forward pass, two to pass the gradient on where something before is trained, and two for the
    gradient of the weight where it is trained itself: 6 a weight in all where everything is trained. Embeddings are
    looked up and cost none. What follows a short last layer's keys and values counts for the share of the tokens that
    the head reads, and else as if it saw every token: below 1 % of BERT-base.
    """
    flops, reached, share, whole = 0.0, False, 1.0, set()
    for module in model.modules():  # BERT lists them in the order in which they are used
        if isinstance(module, LastLayer):
            share, whole = module.share, {one for part in module.of_all_tokens for one in part.modules()}
        if isinstance(module, nn.Linear):
            of_module = module.weight.numel() * (2 + 2 * reached + 2 * module.weight.requires_grad)
            flops += of_module * (1.0 if module in whole else share)
        reached |= any(weight.requires_grad for weight in module.parameters(recurse=False))
    return round(flops)


def peak_flops(gpu: str) -> float | None:
    """What a GPU of that name can do in a second at bf16, None where it is not known."""
    return next((peak * 1e12 for name, peak in PEAK_TFLOPS.items() if re.search(name, gpu)), None)
