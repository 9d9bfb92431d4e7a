"""What the explanation of a user and that of a sample have in common: facts, the page, and the JSON beside it."""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np

from data_prep import InputError
from data_prep.config import DataConfig
from data_prep.event_words import event_phrase
from data_prep.files import write_whole
from data_prep.moments import in_words
from finetune.report import beside
from finetune.report.report import FEWEST, page_template
from finetune.runs import whom, window_of
from finetune.serving.attribution import Attribution
from finetune.serving.classifier import EventClassifier
from finetune.serving.facts import aggregate_figure, figure, target_noun
from finetune.serving.reasons import score_text

SHOWN = 8  # words on each side of a list on the page; the JSON has all


def refuse_output(path: Path, events: DataConfig) -> None:
    """The page and the JSON beside it replace nothing but an earlier explanation; InputError otherwise."""
    beside.refuse_output(path, events, "captum", "is no explanation")


def write_page(explanation: dict, path: Path) -> Path:
    """Write the page, one file that asks for nothing else, and beside it the same as JSON."""
    path = Path(path)
    words = [word for word in explanation.get("words", []) if word["users"] >= FEWEST]
    if explanation["unit"] != "value":  # log-odds have two decimals on the page
        words = [word for word in words if abs(word["push"]) >= 0.005]
    words.sort(key=lambda word: -abs(word["push"]) * word["users"])
    lists = {
        part: [
            word
            for side in (1, -1)
            for word in [word for word in words if word["part"] == part and word["push"] * side > 0][:SHOWN]
        ]
        for part in ("event", "header")
    }

    def shown(score: float) -> str:
        return score_text(score, explanation["task"])

    page = page_template("explain.html.jinja").render(
        x=explanation, lists=lists, fewest=FEWEST, shown=shown, figure=figure, aggregate=aggregate_figure
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path.with_suffix(".json"), json.dumps(explanation, indent=1) + "\n")
    write_whole(path, page)  # after the JSON, by which the next run knows it for its own
    return path


def class_index(classifier: EventClassifier, name: str | None) -> int | None:
    """The index of the class of that name."""
    classes = classifier.objective.classes
    if name is not None and name not in classes:
        more = ", ..." if len(classes) > 10 else ""
        raise InputError(
            f"the label has no class '{name}'", f"it has {', '.join(classes[:10])}{more}", setting="--class"
        )
    return None if name is None else classes.index(name)


def facts_of(classifier: EventClassifier, output: int, attributions: list[Attribution]) -> dict:
    """What both pages say of the model and of the method."""
    objective, tokenizer, members = classifier.objective, classifier.tokenizer, whom(classifier.task)
    return {
        "name": classifier.task["name"],
        "question": classifier.task["question"],
        "task": objective.task,
        "class": objective.classes[output],
        "label": classifier.task["label"],
        "field": classifier.task["task"]["label"].get("field"),
        "horizon": objective.classes[output] if objective.task == "survival" else in_words(window_of(classifier.task)),
        "whom": members.phrase(),
        "unit": "value" if objective.task == "value" else "log-odds",
        "calibration": classifier.calibration.method,
        "target": classifier.serializer.features.target,
        "target_noun": target_noun(classifier.serializer),
        "target_phrase": event_phrase(classifier.serializer.features.target),
        "style": classifier.serializer.config.style,
        "method": "integrated gradients over the word embeddings",
        "baseline": tokenizer.pad_token if tokenizer.mask_token is None else tokenizer.mask_token,
        "steps": max(a.steps for a in attributions),
        "captum": version("captum"),
    }


def share_of(pushes: np.ndarray, among: np.ndarray) -> float:
    """Of all absolute pushes; 0 where there are none."""
    return float(pushes[among].sum() / pushes.sum()) if pushes.sum() else 0.0
