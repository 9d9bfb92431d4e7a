"""Scores of texts: on a GPU in bf16 and packed, on a CPU in bf16 if asked; in batches of texts of like lengths."""

import copy
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from accelerate import Accelerator
from peft import PeftModel
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data_prep import InputError
from data_prep.serving import BATCH
from finetune.model.memory import SCORING_REMEDY, enough_memory
from finetune.model.objective import Objective, Scale
from finetune.model.packing import base_model, batches_for, pack
from finetune.model.pooling import pooled_states
from finetune.model.tokenization import padded
from finetune.model.tokens import Tokens, tokenize

try:
    from torch.cpu import get_capabilities
except ImportError:  # an older torch, which knows of no instructions
    get_capabilities = dict

# Tokens of a batch, padding included: more of them fill a GPU's cores; of fewer, a batch's texts are more alike.
AT_A_TIME = {"cuda": 65_536, "cpu": 4_096}
CHUNK = 16_384  # texts that are encoded while those before are scored


Precision = Literal["fp32", "bf16"]
BF16 = ("avx512_bf16", "amx_bf16", "bf16")  # a CPU's instructions for products of bf16; the last ones are Arm's


def for_scoring(model: PreTrainedModel, precision: Precision | None = None) -> PreTrainedModel:
    """The model as it scores fastest: itself in fp32, a copy whose encoder is in bf16, which a GPU reads packed.

    Pooler and head stay in float32, as scores of eight bits would have ties.

    Args:
        model: A classifier.
        precision: None is bf16 on a GPU that has it, and fp32 elsewhere.

    Raises:
        InputError: See `check_precision`.
    """
    device = next(model.parameters()).device
    check_precision(device, precision)
    if precision != "bf16" and (precision == "fp32" or device.type != "cuda" or not has_bf16(device)):
        return model
    found = copy.deepcopy(model)
    if isinstance(found, PeftModel) and found.peft_type == "LORA":
        found = cast(PreTrainedModel, found.merge_and_unload())
    if device.type == "cuda":
        pack(found, found.config.eventscribe["pooling"])
    base = base_model(found)
    encoder = getattr(base, base.base_model_prefix)
    found.to(torch.bfloat16)  # pyright: ignore[reportArgumentType] - transformers' decorator hides that it is a method
    heads = [part for part in base.children() if part is not encoder]
    for part in filter(None, [getattr(encoder, "pooler", None), *heads]):
        part.to(torch.float32).register_forward_pre_hook(lambda part, given: (given[0].float(), *given[1:]))
    return found


def check_precision(device: torch.device, precision: Precision | None) -> None:
    """InputError for an unknown one, or bf16 on a device that has no instructions for it; emulated, it is slower."""
    if precision not in (None, *get_args(Precision)):
        raise InputError(f"'{precision}' is no precision", "write fp32 or bf16", setting="precision")
    if precision == "bf16" and not has_bf16(device):
        raise InputError(
            f"torch {torch.__version__} finds no bf16 instructions of this {'GPU' if device.type == 'cuda' else 'CPU'}",
            "leave it out, and it scores in fp32",
            setting="precision",
        )


def has_bf16(device: torch.device) -> bool:
    """Whether a GPU or CPU has instructions for products of bf16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = get_capabilities()
    return any(capabilities.get(name) for name in BF16)


@enough_memory(SCORING_REMEDY)
@torch.inference_mode()
def score_texts(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: list[str] | Tokens,
    batch_size: int = BATCH,
    name: str = "",
    accelerator: Accelerator | None = None,
    bar: tqdm | None = None,
) -> np.ndarray:
    """What the model says of each text, in the order given: see Objective.scores; values in their own unit.

    Args:
        model: A classifier.
        tokenizer: Its tokenizer.
        texts: By the serializer, or their tokens.
        batch_size: The most texts of a batch.
        name: For the bar.
        accelerator: Of several processes with the same texts: they share the batches, which are the same ones whatever
            the number of processes, and each gets all scores.
        bar: Counts texts; by default a bar of its own.
    """
    own, all_processes = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    device, make_batch = next(model.parameters()).device, batches_for(model, tokenizer, 1)
    outputs = len(Objective.of_model(base_model(model).config).classes)
    logits = torch.zeros((len(texts), outputs), device=device)  # read back once, so no batch waits
    number = 0
    hidden: dict[str, Any] = {"disable": True} if bar is not None or own > 0 else {}  # else TQDM_DISABLE decides
    with tqdm(total=len(texts), desc=f"score {name}".strip(), unit="text", **hidden) as own_bar:
        for start, tokens in _chunks(tokenizer, texts):
            for rows in sorted_batches(tokens.lengths, batch_size, AT_A_TIME[device.type]):
                if number % all_processes == own:
                    batch = make_batch([tokens.ids[tokens.starts[row] : tokens.starts[row + 1]] for row in rows])
                    batch = {key: part.to(device) if torch.is_tensor(part) else part for key, part in batch.items()}
                    logits[torch.from_numpy(rows + start).to(device)] = model(**batch).logits.float()
                (own_bar if bar is None else bar).update(len(rows))
                number += 1
    if accelerator and all_processes > 1:  # each row is zero but in one process: the sum is that row to the bit
        logits = cast(torch.Tensor, accelerator.reduce(logits.to(accelerator.device)))
    return scores_of(model, logits.cpu().numpy())


@enough_memory(SCORING_REMEDY)
@torch.inference_mode()
def embed_texts(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str], batch_size: int = BATCH
) -> np.ndarray:
    """The state of each text that the classifier's head reads, float32 of shape (texts, hidden); see `pooled_states`.

    Args:
        model: A classifier, as it was loaded.
        tokenizer: Its tokenizer.
        texts: By the serializer.
        batch_size: The most texts of a batch.

    Raises:
        InputError: An adapter of virtual tokens, without which the encoder says something else.
    """
    config = getattr(model, "active_peft_config", None)
    if config is not None and config.is_prompt_learning:
        raise InputError("an adapter of virtual tokens has no states of its own", "embed with another model")
    base, device = base_model(model), next(model.parameters()).device
    found = np.zeros((len(texts), base.config.hidden_size), np.float32)
    for start, tokens in _chunks(tokenizer, texts):
        for rows in sorted_batches(tokens.lengths, batch_size, AT_A_TIME[device.type]):
            batch = padded(tokenizer, [tokens.ids[tokens.starts[row] : tokens.starts[row + 1]] for row in rows], 1)
            found[rows + start] = pooled_states(base, batch.to(device)).float().cpu().numpy()
    return found


def _chunks(tokenizer: PreTrainedTokenizerBase, texts: list[str] | Tokens) -> Iterator[tuple[int, Tokens]]:
    """Tokens of the texts in parts, and where each begins; the next part is encoded while the last one is scored."""
    if isinstance(texts, Tokens) or len(texts) <= CHUNK:
        yield 0, texts if isinstance(texts, Tokens) else tokenize(tokenizer, texts)
        return
    with ThreadPoolExecutor(1) as pool:
        waiting = None
        for start in range(0, len(texts), CHUNK):
            following = start, pool.submit(tokenize, tokenizer, texts[start : start + CHUNK])
            if waiting:
                yield waiting[0], waiting[1].result()
            waiting = following
        if waiting:
            yield waiting[0], waiting[1].result()


def sorted_batches(lengths: np.ndarray, size: int, tokens: int) -> Iterator[np.ndarray]:
    """The rows of each batch, the shortest texts first, so that there is little padding.

    Args:
        lengths: Of the texts.
        size: The most texts of a batch.
        tokens: The most tokens of a batch with its padding, unless one text alone has more.
    """
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        rows = order[start : start + size]
        places = lengths[rows] * np.arange(1, len(rows) + 1)
        rows = rows[: max(np.searchsorted(places, tokens, side="right"), 1)]
        yield rows
        start += len(rows)


def scores_of(model: torch.nn.Module, logits: np.ndarray) -> np.ndarray:
    """Logits of shape (rows, classes) as scores, see Objective.scores; values in their own unit."""
    config = base_model(model).config
    scores, scale = Objective.of_model(config).scores(logits), config.eventscribe["scale"]
    return Scale(**scale).value(scores) if scale else scores
