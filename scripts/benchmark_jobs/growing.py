"""How seconds and memory grow with the number of texts and with their length, by a small BERT."""

import os
from pathlib import Path

from benchmark_jobs.measuring import Worker, peak
from benchmark_jobs.scoring import score_with, tokenize_with
from benchmark_jobs.texts import made_up_texts
from benchmark_jobs.training import train_with

TIMES = (1, 3, 10)
LENGTHS = ("64", "128", "256", "512")
BATCH = 32


def growth(rows: int, model: str, device: str) -> dict[str, dict[str, list[dict]]]:
    """Job -> "texts" and "length" -> what each size took: label, rows, tokens, seconds and peak_mib (of texts).

    Args:
        rows: Texts of the smallest size, and of each length.
        model: See `texts.classifier`.
        device: cpu or cuda.
    """
    longer = [(f"{length} tokens", rows, length) for length in LENGTHS]
    found = {}
    for name, job in {"tokenize": _tokenize, "train": _train, "score": _score}.items():
        found[name] = {"texts": [], "length": []}
        with Worker() as worker:  # the peak is of its whole life: more and more texts come first, and lengths have none
            for times in TIMES:
                found[name]["texts"].append(
                    {"label": f"{times} x"} | worker.run(job, times * rows, "real", model, device)
                )
            for label, count, lengths in longer:
                run = worker.run(job, count, lengths, model, device)
                found[name]["length"].append({"label": label} | run | {"peak_mib": None})
    return found


def _tokenize(rows: int, lengths: str, model: str, device: str) -> dict:
    return tokenize_with("own", model, made_up_texts(rows, lengths)) | {"peak_mib": peak("cpu")}


def _train(rows: int, lengths: str, model: str, device: str) -> dict:
    how = {"own": True, "batch": BATCH, "precision": "fp32"}
    return train_with(how, model, made_up_texts(rows, lengths), device, rows // BATCH)


def _score(rows: int, lengths: str, model: str, device: str) -> dict:
    return score_with({"own": True}, model, made_up_texts(rows, lengths), device)


def draw(found: dict[str, dict[str, list[dict]]], path: Path) -> None:
    """Seconds over tokens, both on log scales, a panel for texts and one for lengths; beside a line of slope 1."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    titles = {"texts": "1, 3 and 10 times the texts", "length": "texts of 64 to 512 tokens"}
    for axes, (by, title) in zip(panels, titles.items(), strict=True):
        for (job, sizes), marker in zip(found.items(), "osD", strict=True):
            tokens, seconds = ([size[key] for size in sizes[by]] for key in ("tokens", "seconds"))
            (line,) = axes.loglog(tokens, seconds, marker=marker, label=job)
            even = [seconds[0] * count / tokens[0] for count in tokens]
            axes.loglog(tokens, even, color=line.get_color(), linestyle=":", linewidth=1)
        axes.set(title=title, xlabel="tokens")
        axes.grid(which="both", alpha=0.2)
    panels[0].set_ylabel("seconds (dotted: as the tokens grow)")
    panels[0].legend()
    figure.savefig(path)
