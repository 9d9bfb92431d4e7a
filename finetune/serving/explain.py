"""Why a user has a score, and what moves the scores: pages and JSON of attributions (see `attribution`)."""

import json
import tempfile
from collections import defaultdict
from datetime import date, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.special import expit
from tqdm import tqdm

from data_prep import InputError
from data_prep.config import DataConfig
from data_prep.connections import connect
from data_prep.files import write_whole
from data_prep.moments import parse_cutoff, parse_duration, show
from data_prep.serving import read_past
from data_prep.sources import source_files
from data_prep.sql import condition, timestamp
from finetune.evaluation.bootstrap import interval, user_weights
from finetune.report.report import page_template
from finetune.runs import read_notes
from finetune.serving.attribution import Attribution, attribute, deletion_test
from finetune.serving.classifier import EventClassifier
from finetune.serving.reading import field_reading, reading

RESAMPLES = 1000
SEED = 0  # of the sample
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
    chosen = _class(classifier, output)
    found, log = _texts(classifier, events, cutoff, users=[user])
    if not found:
        raise InputError(
            f"--user: '{user}' has no event before {show(parse_cutoff(cutoff))} among the {log.users:,} users who have "
            f"one; check the id, or take a later --cutoff"
        )
    (_, text, times), *_ = found
    attribution, *_ = attribute(
        classifier.model, classifier.tokenizer, classifier.serializer, [text], chosen, steps, bar=False
    )
    told = [
        {"field": word.field, "value": word.value, "reading": reading(word, classifier.serializer), "push": float(push)}
        for word, push in zip(attribution.words, attribution.pushes, strict=True)
    ]
    moment, written = parse_cutoff(cutoff), []
    for number, push in enumerate(attribution.events):
        words = [one for word, one in zip(attribution.words, told, strict=True) if word.event == number]
        days = round((moment - times[number]) / timedelta(days=1), 2)
        time = times[number].isoformat(sep=" ", timespec="seconds")
        written.append({"time": time, "days_before": days, "push": float(push), "words": words})
    in_header = np.array([word.event < 0 for word in attribution.words], bool)
    return _facts(classifier, attribution.output, [attribution]) | {
        "user_id": user,
        "cutoff": show(moment),
        "score": _score(classifier, text, attribution.output),
        "output": attribution.score,
        "base": attribution.base,
        "base_probability": None if classifier.objective.task == "value" else float(expit(attribution.base)),
        "error": attribution.error,
        "not_converged": int(not attribution.converged),
        "header_push": float(attribution.pushes[in_header].sum()),
        "events_push": float(attribution.pushes[~in_header].sum()),
        "header_share": _share(np.abs(attribution.pushes), in_header),
        "events": written,
        "older_events": len(times) - len(written) - attribution.unread,
        "unread_events": attribution.unread,
        "header": [one for word, one in zip(attribution.words, told, strict=True) if word.event < 0],
    }


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
    chosen = _class(classifier, output)
    found, log = _texts(classifier, events, cutoff, sample=sample, population=population)
    texts = [text for _, text, _ in found]
    if not texts:
        raise InputError(f"nobody is in the population at {show(parse_cutoff(cutoff))}; leave --population out")
    parts = (classifier.model, classifier.tokenizer)
    attributions = attribute(*parts, classifier.serializer, texts, chosen, steps)
    weights = np.concatenate(list(user_weights(np.arange(len(texts)), RESAMPLES)), axis=1)
    fields, words = (_driving(attributions, key, weights) for key in (_field, _word))
    for (part, field), entry in fields.items():
        entry |= {"part": part, "field": field, "reading": field_reading(part, field)}
    for word, entry in words.items():
        entry |= {"part": word.part, "field": word.field, "value": word.value}
        entry["reading"] = reading(word, classifier.serializer)
    absolute = np.array(
        [
            [np.abs(a.pushes[[(w.event < 0) == header for w in a.words]]).sum() for header in (True, False)]
            for a in attributions
        ]
    )
    resampled = weights.T @ absolute
    # Score, base, header and events; the last three add up to the first, but for the convergence errors.
    parts_of = np.array([[a.score, a.base, a.pushes.sum() - a.events.sum(), a.events.sum()] for a in attributions])
    errors = np.abs([a.error for a in attributions])
    return _facts(classifier, attributions[0].output, attributions) | {
        "cutoff": show(parse_cutoff(cutoff)),
        "users": len(texts),
        "users_with_history": log.users,
        "population": population,
        "output": float(np.mean([a.score for a in attributions])),
        "output_deviation": float(np.std([a.score for a in attributions])),
        "base": float(np.mean([a.base for a in attributions])),
        "base_deviation": float(np.std([a.base for a in attributions])),
        "error": float(errors.mean()),
        "largest_error": float(errors.max()),
        "not_converged": sum(not a.converged for a in attributions),
        "variance_shares": _variance_shares(parts_of, weights),
        "header_share": _share(absolute.sum(axis=0), np.array([True, False])),
        "header_share_interval": interval(resampled[:, 0] / resampled.sum(axis=1)),
        "fields": list(fields.values()),
        "words": list(words.values()),
        "deletion": deletion_test(*parts, texts, attributions, RESAMPLES),
    }


def refuse_output(path: Path, events: DataConfig) -> None:
    """The JSON beside the page replaces nothing but an earlier explanation; InputError otherwise."""
    told = path.with_suffix(".json")
    read = {source.resolve() for source in source_files(events) or []}
    own = not told.exists() or bool(read_notes(told, {"captum": str}))
    if not own or read & {path.resolve(), told.resolve()}:
        raise InputError(f"--output {path} would replace {told}, which is no explanation; choose another name")


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


def _texts(
    classifier: EventClassifier,
    events: Any,
    cutoff: datetime | date | str,
    users: list[str] | None = None,
    sample: int | None = None,
    population: bool = False,
) -> tuple[list[tuple[str, str, list[datetime]]], Any]:
    """Id, text and the times of all events before the cutoff, newest first, of some users; and what the log has."""
    moment = parse_cutoff(cutoff)
    limit = events.memory_limit if isinstance(events, DataConfig) else None
    with tempfile.TemporaryDirectory() as folder, connect(limit, Path(folder)) as con:
        log = read_past(con, events, classifier.serializer, moment, task=classifier.task)
        for note in log.notes():
            print(note)
        if users is None:
            asked = "true"
            if population:
                whom = classifier.task["task"]["population"]
                since = moment - parse_duration(whom["within"], "task.population.within")
                asked = f"{condition(whom['where'])} = 1 AND event_time >= {timestamp(since)}"
            ids = con.execute(f"SELECT DISTINCT user_id FROM past WHERE {asked} ORDER BY user_id").fetchall()
            drawn = np.random.default_rng(SEED).permutation(len(ids))[:sample]
            users = [ids[i][0] for i in np.sort(drawn)]
        con.register("asked", pa.table({"user_id": pa.array(users, pa.string())}))
        con.execute("CREATE TEMP TABLE rows AS SELECT * FROM past SEMI JOIN asked USING (user_id)")
        if not con.execute("SELECT count(*) FROM rows").fetchall()[0][0]:
            return [], log
        texts = classifier.serializer.examples(con, moment).select(["user_id", "text"]).to_pylist()
        times = dict(
            con.execute("SELECT user_id, list(event_time ORDER BY event_time DESC) FROM rows GROUP BY ALL").fetchall()
        )
        return [(row["user_id"], row["text"], times[row["user_id"]]) for row in texts], log


def _class(classifier: EventClassifier, name: str | None) -> int | None:
    """The index of the class of that name."""
    classes = classifier.objective.classes
    if name is not None and name not in classes:
        more = ", ..." if len(classes) > 10 else ""
        raise InputError(f"--class: the label has no class '{name}'; it has {', '.join(classes[:10])}{more}")
    return None if name is None else classes.index(name)


def _facts(classifier: EventClassifier, output: int, attributions: list[Attribution]) -> dict:
    """What both pages tell of the model and of the method."""
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


def _field(word: Any) -> tuple[str, str]:
    return word.part, word.field


def _word(word: Any) -> Any:
    """The same for all events of a text."""
    return type(word)(0, min(word.event, 0), word.field, word.value)


def _driving(attributions: list[Attribution], key: Any, weights: np.ndarray) -> dict[Any, dict]:
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
