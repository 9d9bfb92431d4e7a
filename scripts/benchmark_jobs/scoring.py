"""From texts to tokens, and from texts to scores: by EventScribe, and by transformers' tokenizer and pipeline."""

import os
from collections.abc import Collection

from benchmark_jobs.measuring import PRECISIONS, clock, peak
from benchmark_jobs.texts import MAX_TOKENS, classifier, flops_of_token, tokenizer_of


def tokenize_with(how: str, model: str, texts: list[str]) -> dict:
    """Seconds of EventScribe's encoder or of the tokenizer itself."""
    from finetune.model.tokenization import train_tokenizer
    from finetune.model.tokens import tokenize

    tokenizer = train_tokenizer(texts, MAX_TOKENS) if how == "words" else tokenizer_of(model)
    if how == "tokenizer":
        with clock("cpu") as spent:
            found = tokenizer(texts, truncation=True, max_length=MAX_TOKENS, verbose=False)["input_ids"]
        return {"seconds": spent[0], "cpu_seconds": spent[1], "tokens": sum(map(len, found)), "rows": len(texts)}
    tokenize(tokenizer, texts[:1000])
    with clock("cpu") as spent:
        found = tokenize(tokenizer, texts, os.cpu_count() or 1)
    return {"seconds": spent[0], "cpu_seconds": spent[1], "tokens": int(found.lengths.sum()), "rows": len(texts)}


def scoring_jobs(device: str, rows: int, precisions: Collection[str] = PRECISIONS) -> dict[str, dict]:
    """The jobs of scoring on a device that has these precisions: EventScribe's first; slow ones score fewer rows."""
    fastest = "bf16" if "bf16" in precisions else "fp32"
    jobs: dict[str, dict] = {}
    for precision in precisions if device == "cpu" else (fastest,):
        jobs[f"EventScribe, {precision}"] = {"own": True, "precision": precision}
    if device == "cuda":
        jobs[f"EventScribe, {fastest}, compiled"] = {"own": True, "precision": fastest, "compile": True}
    few = max(rows // 8, 32)
    jobs["pipeline, batches of 32, fp32"] = {"own": False, "batch": 32, "rows": few}
    jobs["pipeline by default, fp32"] = {"own": False, "batch": 1, "rows": max(few // 8, 16)}
    return jobs


def score_with(how: dict, model: str, texts: list[str], device: str) -> dict:
    """Scores from texts, by EventScribe or by transformers' pipeline.

    Args:
        how: own (EventScribe, else the pipeline), batch of the pipeline, precision and compile of EventScribe, the
            tokens of a batch where they are not EventScribe's own, and rows, where not all texts are scored.
        model: See `classifier`.
        texts: See `made_up_texts`.
        device: cpu or cuda.
    """
    from finetune.model import inference
    from finetune.model.inference import for_scoring, score_texts
    from finetune.model.modeling import compile_layers
    from finetune.model.pooling import pool

    inference.AT_A_TIME[device] = how.get("tokens", inference.AT_A_TIME[device])
    tokenizer, network = tokenizer_of(model), classifier(model, dropout=0.0).eval()
    network.to(device)  # pyright: ignore[reportArgumentType] - transformers' decorator of `to` hides that it is a method
    if how["own"]:
        pool(network, "cls")
        fastest = for_scoring(network, how.get("precision"))
        if how.get("compile"):
            compile_layers(fastest)

        def score(some: list[str]) -> None:
            score_texts(fastest, tokenizer, some)
    else:
        from transformers import pipeline

        place = 0 if device == "cuda" else -1
        ready = pipeline(  # pyright: ignore[reportCallIssue] - fast tokenizers are of the base class in its stub
            "text-classification",
            model=network,
            tokenizer=tokenizer,  # pyright: ignore[reportArgumentType]
            device=place,
        )

        def score(some: list[str]) -> None:
            ready(some, batch_size=how["batch"], truncation=True)

    with clock(device) as warm:
        score(texts[: 16 if device == "cpu" else 2048])
    rows = texts[: how.get("rows", len(texts))]
    with clock(device) as spent:
        score(rows)
    tokens = sum(map(len, tokenizer(rows, truncation=True, max_length=MAX_TOKENS, verbose=False)["input_ids"]))
    return {
        "seconds": spent[0],
        "cpu_seconds": spent[1],
        "warm_up": warm[0],
        "rows": len(rows),
        "tokens": tokens,
        "flops": tokens * flops_of_token(network, False),
        "peak_mib": peak(device),
    }
