"""Training steps as EventScribe takes them, and as transformers' text-classification example does."""

import os
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from benchmark_jobs.measuring import PRECISIONS, clock, peak
from benchmark_jobs.texts import BERT_BASE, MAX_TOKENS, classifier, flops_of_token, tokenizer_of

if TYPE_CHECKING:
    from transformers import TrainerCallback, TrainingArguments

WARM = {"cuda": 3, "cpu": 1}  # steps before the clock starts


def training_jobs(device: str, precisions: Collection[str] = PRECISIONS) -> dict[str, dict]:
    """The jobs of training on a device that has these precisions: EventScribe's first; a slow one has fewer steps."""
    main, batch = ("bf16" if "bf16" in precisions else "fp32", 64) if device == "cuda" else ("fp32", 32)
    own = {"own": True, "batch": batch, "precision": main}
    jobs = {f"EventScribe, {main}": own, f"EventScribe, LoRA, {main}": own | {"lora": True}}
    if device == "cuda":
        jobs |= {
            f"EventScribe, {main}, compiled": own | {"compile": True},
            f"EventScribe, {main}, batches of 256, compiled": own | {"compile": True, "batch": 256},
            "EventScribe, fp32": own | {"precision": "fp32"},
        }
    elif "bf16" in precisions:
        jobs["EventScribe, bf16"] = own | {"precision": "bf16"}
    example = {"own": False, "batch": 8, "precision": "fp32", "pad_to": MAX_TOKENS}
    jobs["the example's defaults: to 512, 8, fp32"] = example
    if "bf16" in precisions:
        jobs["the example in bf16: to 512, 8"] = example | {"precision": "bf16"}
    padded = example | {"pad_to": None, "batch": 32, "precision": main}
    jobs[f"dynamic padding, 32, {main}"] = padded if device == "cuda" else padded | {"steps": 2}
    return jobs


def train_with(how: dict, model: str, texts: list[str], device: str, steps: int) -> dict:
    """Training steps as EventScribe takes them, or as transformers' text-classification example does.

    Args:
        how: own (EventScribe, else the example), batch, precision (fp32, bf16, fp16), and for EventScribe lora and
            compile, for the example pad_to (None: to the longest of the batch); steps, where it takes fewer.
        model: See `classifier`.
        texts: See `made_up_texts`.
        device: cpu or cuda.
        steps: Behind those that warm up.
    """
    from transformers import PrinterCallback, Trainer

    warm, steps = WARM[device], min(steps, how.get("steps", steps))
    arguments = _arguments(how, device, warm + steps)
    made = _own(how, model, texts, arguments) if how["own"] else _example(how, model, texts)
    batches, moments = [], {}  # the latter of a step: the time, and the process's CPU time
    collator = _counted(made["data_collator"], batches)
    trainer: Trainer = made.pop("trainer", Trainer)(args=arguments, **made | {"data_collator": collator})
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_clock(moments, device, (warm, warm + steps)))
    started = time.perf_counter()
    trainer.train()
    (began, cpu_began), (ended, cpu_ended) = moments[warm], moments[warm + steps]
    rows, tokens, places = (sum(column) for column in zip(*batches[warm : warm + steps], strict=True))
    return {
        "seconds": ended - began,
        "cpu_seconds": cpu_ended - cpu_began,
        "warm_up": began - started,
        "rows": rows,
        "tokens": tokens,
        "padding": 1 - tokens / places,
        "flops": tokens * flops_of_token(made["model"], True),
        "peak_mib": peak(device),
    }


def _arguments(how: dict, device: str, steps: int) -> "TrainingArguments":
    from transformers import TrainingArguments

    precision: dict[str, Any] = {how["precision"]: True} if how["precision"] != "fp32" else {}
    order: dict[str, Any] = {"train_sampling_strategy": "group_by_length"} if how["own"] else {}
    return TrainingArguments(
        output_dir="unused",
        max_steps=steps,
        per_device_train_batch_size=how["batch"],
        learning_rate=1e-5,
        use_cpu=device == "cpu",
        **precision,
        **order,
        logging_strategy="no",
        logging_nan_inf_filter=not how["own"],
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
    )


def _counted(make: Callable[[list], dict], batches: list[tuple[int, int, int]]) -> Callable[[list], dict]:
    """The collator, which also notes the rows, tokens and places of each batch."""

    def collate(rows: list) -> dict:
        batch = make(rows)
        places = batch["input_ids"].numel()
        tokens = int(batch["attention_mask"].sum()) if "attention_mask" in batch else places
        batches.append((len(rows), tokens, places))
        return batch

    return collate


def _clock(moments: dict[int, tuple[float, float]], device: str, steps: tuple[int, int]) -> "TrainerCallback":
    """Notes the moments when the device has done these steps."""
    import torch
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

    class Clock(TrainerCallback):
        def on_step_end(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: object
        ) -> None:
            if state.global_step in steps:
                if device == "cuda":
                    torch.cuda.synchronize()
                moments[state.global_step] = time.perf_counter(), time.process_time()

    return Clock()


def _own(how: dict, model: str, texts: list[str], arguments: "TrainingArguments") -> dict:
    import numpy as np
    from peft import LoraConfig, get_peft_model

    from finetune.model.modeling import compile_layers
    from finetune.model.objective import mean_cross_entropy
    from finetune.model.packing import batches_for
    from finetune.model.pooling import pool
    from finetune.model.tokens import tokenize
    from finetune.training.batching import Collator
    from finetune.training.trainer import LengthGroupedTrainer, packs_on

    tokenizer, network = tokenizer_of(model), classifier(model, dropout=0.0)
    pool(network, "cls")
    if how.get("lora"):
        lora = LoraConfig(r=16, target_modules=["query", "value"], modules_to_save=["classifier"], task_type="SEQ_CLS")
        network = get_peft_model(network, lora)
    packs = packs_on(network, arguments, "cls")
    if how.get("compile"):
        compile_layers(network)
    tokens = tokenize(tokenizer, texts, os.cpu_count() or 1).labelled(np.zeros(len(texts), np.int64))
    return {
        "trainer": LengthGroupedTrainer,
        "packs": packs,
        "model": network,
        "train_dataset": tokens.without_events(),
        "data_collator": Collator(batches_for(network, tokenizer)),
        "compute_loss_func": mean_cross_entropy,
        "processing_class": tokenizer,
    }


def _example(how: dict, model: str, texts: list[str]) -> dict:
    from transformers import DataCollatorWithPadding, default_data_collator

    tokenizer = tokenizer_of(model)
    padding = {"padding": "max_length", "max_length": how["pad_to"]} if how["pad_to"] else {}
    encoded = tokenizer(texts, truncation=True, verbose=False, **padding)
    rows = [{key: encoded[key][i] for key in ("input_ids", "attention_mask")} | {"label": 0} for i in range(len(texts))]
    collator = default_data_collator if how["pad_to"] else DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8)
    return {"model": classifier(model), "train_dataset": rows, "data_collator": collator, "processing_class": tokenizer}


def profile_training(texts: list[str]) -> dict:
    """The GPU's kernels of a few training steps as EventScribe takes them, the longest first, as a table."""
    import numpy as np
    import torch
    from torch.profiler import ProfilerActivity, profile

    from finetune.model.packing import batches_for, pack
    from finetune.model.tokens import tokenize

    tokenizer, network = tokenizer_of(BERT_BASE), classifier(BERT_BASE, dropout=0.0).train()
    network.cuda()  # pyright: ignore[reportCallIssue] - transformers' decorator of `cuda` hides that it is a method
    pack(network, "cls")
    tokens = tokenize(tokenizer, texts, os.cpu_count() or 1)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, fused=True)
    random = np.random.default_rng(0)

    def step() -> None:
        batch = batches_for(network, tokenizer)(
            [tokens[row]["input_ids"] for row in random.integers(len(tokens), size=64)]
        )
        batch = {key: part.cuda() if torch.is_tensor(part) else part for key, part in batch.items()}
        with torch.autocast("cuda", torch.bfloat16):
            loss = network(**batch).logits.float().logsumexp(1).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(WARM["cuda"]):
        step()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen, clock("cuda") as spent:
        for _ in range(3):
            step()
    kernels = [event for event in seen.key_averages() if event.device_type.name == "CUDA"]
    total = sum(event.self_device_time_total for event in kernels)
    lines = [
        f"3 steps took {1e3 * spent[0]:.0f} ms, the GPU's kernels {total / 1e3:.0f} ms",
        "",
        "| share | ms | kernel |",
    ]
    lines.append("|---|---|---|")
    for event in sorted(kernels, key=lambda one: -one.self_device_time_total)[:14]:
        share, milliseconds = event.self_device_time_total / total, event.self_device_time_total / 1e3
        lines.append(f"| {share:.1%} | {milliseconds:.2f} | {event.key[:90]} |")
    return {"table": "\n".join(lines), "busy": total / 1e6 / spent[0]}
