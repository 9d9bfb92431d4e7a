"""Why a user has a score, and what moves the scores: pages and JSON of attributions (see `attribution`)."""

import json
from collections import defaultdict
from collections.abc import Callable
from datetime import date, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit
from tqdm import tqdm

from data_prep import InputError
from data_prep.config import DataConfig
from data_prep.files import write_whole
from data_prep.moments import parse_cutoff, show
from data_prep.serializer import EventSerializer
from data_prep.sources import source_files
from finetune.evaluation.bootstrap import interval, user_weights
from finetune.report.report import page_template
from finetune.runs import read_notes, whom
from finetune.serving.attribution import Attribution, attribute, deletion_test
from finetune.serving.classifier import EventClassifier
from finetune.serving.histories import History, drawn_users, histories_of
from finetune.serving.reading import Word, field_reading, reading

RESAMPLES = 1000
SHOWN = 8  # words on each side of a list on the page; the JSON has all
FEWEST = 10  # users behind a word that a page shows


def explain_user(
    classifier: EventClassifier,
    events: Any,
    cutoff: datetime | date | str,
    user: str,
    output: str | None = None,
    steps: int = 512,
) -> dict:
    """What each event and each header field pushed a user's score.

    Args:
        classifier: The model.
        events: As EventClassifier.predict takes them.
        cutoff: The moment of prediction, in UTC where it carries no zone.
        user: The id; with data.pseudonymize its keyed hash.
        output: The name of the class that is explained; see `attribute` for what None means.
        steps: The most steps of the integration.

    Returns:
        What the page shows, ready for JSON: the facts (see `_facts`); user_id, cutoff, score (calibrated; null for a
        class that is not label 1 of a yes-or-no label), output (score minus base is what the pushes add up to), base
        (and as a probability under base_probability, null for values), error, not_converged (0 or 1), header_push,
        events_push, header_share (of all absolute pushes); `events`, the newest first, each with time (UTC),
        days_before, push and words (field, value, reading, push); `header`, such words; older_events and
        unread_events, the numbers of those that text.max_events and the model's length left out.

    Raises:
        InputError: The user has no event, or none before the cutoff; or as EventClassifier.predict.
    """
    index, moment = _class(classifier, output), parse_cutoff(cutoff)
    histories, log = histories_of(classifier, events, moment, lambda con: [user])
    if not histories:
        raise InputError(
            f"--user: '{user}' has no event before {show(moment)} among the {log.users:,} users who have one; check "
            f"the id, or take a later --cutoff"
        )
    (history,) = histories
    parts = (classifier.model, classifier.tokenizer, classifier.serializer)
    (attribution,) = attribute(*parts, [history.text], index, steps, bar=False)
    timeline, header = _timeline(attribution, history, moment, classifier.serializer)
    in_header = np.array([word.event < 0 for word in attribution.words], bool)
    return _facts(classifier, attribution.output, [attribution]) | {
        "user_id": user,
        "cutoff": show(moment),
        "score": _score(classifier, history.text, attribution.output),
        "output": attribution.score,
        "base": attribution.base,
        "base_probability": None if classifier.objective.task == "value" else float(expit(attribution.base)),
        "error": attribution.error,
        "not_converged": int(not attribution.converged),
        "header_push": float(attribution.pushes[in_header].sum()),
        "events_push": float(attribution.pushes[~in_header].sum()),
        "header_share": _share(np.abs(attribution.pushes), in_header),
        "events": timeline,
        "older_events": len(history.times) - len(timeline) - attribution.unread,
        "unread_events": attribution.unread,
        "header": header,
    }


def _timeline(
    attribution: Attribution, history: History, cutoff: datetime, serializer: EventSerializer
) -> tuple[list[dict], list[dict]]:
    """The events, the newest first, with the words of each, and the words of the header."""
    words = [
        {"field": word.field, "value": word.value, "reading": reading(word, serializer), "push": float(push)}
        for word, push in zip(attribution.words, attribution.pushes, strict=True)
    ]
    by_event = defaultdict(list)
    for word, entry in zip(attribution.words, words, strict=True):
        by_event[max(word.event, -1)].append(entry)
    timeline = [
        {
            "time": time.isoformat(sep=" ", timespec="seconds"),
            "days_before": round((cutoff - time) / timedelta(days=1), 2),
            "push": float(push),
            "words": by_event[number],
        }
        for number, (push, time) in enumerate(zip(attribution.events, history.times, strict=False))
    ]
    return timeline, by_event[-1]


def explain_sample(
    classifier: EventClassifier,
    events: Any,
    cutoff: datetime | date | str,
    sample: int,
    output: str | None = None,
    steps: int = 512,
    population: bool = False,
) -> dict:
    """What moves the scores of users who are drawn at random, always the same ones.

    Args:
        classifier: The model.
        events: As EventClassifier.predict takes them.
        cutoff: The moment of prediction, in UTC where it carries no zone.
        sample: The number of users; all, where there are fewer.
        output: The name of the class; needed for tiers and propensity, where each user's likeliest would be mixed.
        steps: The most steps of the integration.
        population: Draw only from the users whom the task asks about.

    Returns:
        What the page shows, ready for JSON: the facts (see `_facts`); cutoff, users, users_with_history; output, base
        and error (means over the users; error of absolute values), output_deviation and base_deviation (standard
        deviations), largest_error and not_converged (users); variance_shares, how much of the differences
        between users' outputs the base (the text's length), the header and the events make: covariance with the output
        over its variance, which add up to 1; header_share, of all absolute
        pushes; `fields` and `words`, the strongest first: part (header or event), field and reading, for words value,
        and users (who have it), times (in a text of these), push and absolute_push, each summed over a user's text and
        averaged over the users who have it; `deletion`, see `deletion_test`. Figures have 95 % intervals by bootstrap
        over users under NAME_interval.

    Raises:
        InputError: A class is needed; or as EventClassifier.predict.
    """
    if output is None and classifier.objective.task in ("tiers", "propensity"):
        names = ", ".join(classifier.objective.classes[:5])
        raise InputError(f"--sample needs --class, one of the label's classes: {names}")
    index, moment = _class(classifier, output), parse_cutoff(cutoff)
    members = whom(classifier.task) if population else None
    histories, log = histories_of(classifier, events, moment, lambda con: drawn_users(con, sample, moment, members))
    if not histories:
        raise InputError(f"nobody is in the population at {show(moment)}; leave --population out")
    texts, parts = [history.text for history in histories], (classifier.model, classifier.tokenizer)
    attributions = attribute(*parts, classifier.serializer, texts, index, steps)
    weights = np.concatenate(list(user_weights(np.arange(len(texts)), RESAMPLES)), axis=1)
    return (
        _facts(classifier, attributions[0].output, attributions)
        | {"cutoff": show(moment), "users": len(texts), "users_with_history": log.users, "population": population}
        | _outputs(attributions)
        | _shares(attributions, weights)
        | {
            "fields": _fields(attributions, weights),
            "words": _words(attributions, weights, classifier.serializer),
            "deletion": deletion_test(*parts, texts, attributions, RESAMPLES),
        }
    )


def _outputs(attributions: list[Attribution]) -> dict[str, float]:
    """What the outputs and the bases are over the users, and how exact the integration was."""
    outputs, bases = ([getattr(a, name) for a in attributions] for name in ("score", "base"))
    errors = np.abs([a.error for a in attributions])
    return {
        "output": float(np.mean(outputs)),
        "output_deviation": float(np.std(outputs)),
        "base": float(np.mean(bases)),
        "base_deviation": float(np.std(bases)),
        "error": float(errors.mean()),
        "largest_error": float(errors.max()),
        "not_converged": sum(not a.converged for a in attributions),
    }


def _shares(attributions: list[Attribution], weights: np.ndarray) -> dict[str, Any]:
    """What length, header and events make of the differences between users, and the header of all absolute pushes."""
    # Score, base, header and events; the last three add up to the first, but for the convergence errors.
    parts = np.array([[a.score, a.base, a.pushes.sum() - a.events.sum(), a.events.sum()] for a in attributions])
    absolute = np.array(
        [
            [np.abs(a.pushes[[(w.event < 0) == header for w in a.words]]).sum() for header in (True, False)]
            for a in attributions
        ]
    )
    resampled = weights.T @ absolute
    return {
        "variance_shares": _variance_shares(parts, weights),
        "header_share": _share(absolute.sum(axis=0), np.array([True, False])),
        "header_share_interval": interval(resampled[:, 0] / resampled.sum(axis=1)),
    }


def _fields(attributions: list[Attribution], weights: np.ndarray) -> list[dict]:
    """What each field pushes, the strongest first."""
    driving = _driving(attributions, lambda word: (word.part, word.field), weights)
    return [
        entry | {"part": part, "field": field, "reading": field_reading(part, field)}
        for (part, field), entry in driving.items()
    ]


def _words(attributions: list[Attribution], weights: np.ndarray, serializer: EventSerializer) -> list[dict]:
    """What each word pushes, the same for all events of a text, the strongest first."""
    driving = _driving(attributions, lambda word: Word(0, min(word.event, 0), word.field, word.value), weights)
    return [
        entry | {"part": word.part, "field": word.field, "value": word.value, "reading": reading(word, serializer)}
        for word, entry in driving.items()
    ]


def refuse_output(path: Path, events: DataConfig) -> None:
    """The JSON beside the page replaces nothing but an earlier explanation; InputError otherwise."""
    beside = path.with_suffix(".json")
    read = {source.resolve() for source in source_files(events) or []}
    own = not beside.exists() or bool(read_notes(beside, {"captum": str}))
    if not own or read & {path.resolve(), beside.resolve()}:
        raise InputError(f"--output {path} would replace {beside}, which is no explanation; choose another name")


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
    page = page_template("explain.html.jinja").render(explanation, x=explanation, lists=lists, fewest=FEWEST)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page)
    write_whole(path.with_suffix(".json"), json.dumps(explanation, indent=1) + "\n")
    return path


def _class(classifier: EventClassifier, name: str | None) -> int | None:
    """The index of the class of that name."""
    classes = classifier.objective.classes
    if name is not None and name not in classes:
        more = ", ..." if len(classes) > 10 else ""
        raise InputError(f"--class: the label has no class '{name}'; it has {', '.join(classes[:10])}{more}")
    return None if name is None else classes.index(name)


def _facts(classifier: EventClassifier, output: int, attributions: list[Attribution]) -> dict:
    """What both pages say of the model and of the method."""
    objective, tokenizer = classifier.objective, classifier.tokenizer
    return {
        "name": classifier.task["name"],
        "question": classifier.task["question"],
        "task": objective.task,
        "class": objective.classes[output],
        "horizon": classifier.task["task"]["label"]["horizon"],
        "unit": "value" if objective.task == "value" else "log-odds",
        "calibration": classifier.calibration.method,
        "target": classifier.serializer.features.target,
        "style": classifier.serializer.config.style,
        "method": "integrated gradients over the word embeddings",
        "baseline": tokenizer.pad_token if tokenizer.mask_token is None else tokenizer.mask_token,
        "steps": max(a.steps for a in attributions),
        "captum": version("captum"),
    }


def _score(classifier: EventClassifier, text: str, output: int) -> float | None:
    """The calibrated score of the class that is explained."""
    score = classifier.score([text], bar=tqdm(disable=True))[0]
    if classifier.objective.task == "binary":
        return float(score) if output == 1 else None
    return float(score if classifier.objective.task == "value" else score[output])


def _variance_shares(parts: np.ndarray, weights: np.ndarray) -> dict | None:
    """Of each part of the output (columns behind the first, which is the output); None where all outputs are equal."""
    if np.ptp(parts[:, 0]) < 1e-9:
        return None

    def shares(of_users: np.ndarray) -> np.ndarray:
        centred = parts - of_users @ parts / of_users.sum()
        return (of_users * centred[:, 0]) @ centred[:, 1:] / (of_users @ centred[:, 0] ** 2)

    resampled, found = np.array([shares(drawn) for drawn in weights.T]), shares(np.ones(len(parts)))
    names = ("base", "header", "events")
    return {name: float(found[i]) for i, name in enumerate(names)} | {
        f"{name}_interval": interval(resampled[:, i]) for i, name in enumerate(names)
    }


def _share(pushes: np.ndarray, among: np.ndarray) -> float:
    """Of all absolute pushes; 0 where there are none."""
    return float(pushes[among].sum() / pushes.sum()) if pushes.sum() else 0.0


def _driving(attributions: list[Attribution], key: Callable[[Word], Any], weights: np.ndarray) -> dict[Any, dict]:
    """What `key` makes of the words -> mean push over the users who have it, the strongest over all users first."""
    sums: dict[Any, dict[int, np.ndarray]] = defaultdict(dict)
    for user, attribution in enumerate(attributions):
        for word, push in zip(attribution.words, attribution.pushes, strict=True):
            of_user = sums[key(word)].setdefault(user, np.zeros(3))
            of_user += (1, push, abs(push))
    found = {}
    for name, by_user in sums.items():
        values, drawn = np.array(list(by_user.values())), weights[list(by_user)]
        with np.errstate(invalid="ignore"):  # nan, where nobody who has it was drawn
            resampled = drawn.T @ values / drawn.sum(axis=0)[:, None]
        times, push, absolute = values.mean(axis=0).tolist()
        several = len(values) > 1
        found[name] = {
            "users": len(values),
            "times": times,
            "push": push,
            "push_interval": interval(resampled[:, 1]) if several else None,
            "absolute_push": absolute,
            "absolute_push_interval": interval(resampled[:, 2]) if several else None,
        }
    return dict(sorted(found.items(), key=lambda entry: -entry[1]["absolute_push"] * entry[1]["users"]))
