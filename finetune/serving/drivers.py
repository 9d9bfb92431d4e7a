"""What moves the scores of many users: attributions and hidden words, averaged over a sample."""

from collections import defaultdict
from collections.abc import Callable
from datetime import date, datetime
from typing import Any

import numpy as np

from data_prep import InputError
from data_prep.population import EVERYBODY
from data_prep.serializer import EventSerializer
from data_prep.serving import cutoff_of
from finetune.evaluation.bootstrap import interval, user_weights
from finetune.field_words import field_reading
from finetune.report.report import FEWEST
from finetune.runs import whom
from finetune.serving.attribution import Attribution, attribute, deletion_test
from finetune.serving.classifier import EventClassifier, nobody, shown_moment
from finetune.serving.explanation import class_index, facts_of, share_of
from finetune.serving.facts import target_noun
from finetune.serving.histories import drawn, histories_of, past_log, users_of
from finetune.serving.reading import Word, events_reading, reading
from finetune.serving.reasons import as_tokens, class_scores, without_each
from finetune.serving.themes import theme_of

RESAMPLES = 1000


def explain_sample(
    classifier: EventClassifier,
    events: Any,
    cutoff: datetime | date | str,
    sample: int,
    output: str | None = None,
    steps: int = 512,
    population: bool = False,
    users: Any = None,
) -> dict:
    """What moves the scores of users who are drawn at random, always the same ones.

    Args:
        classifier: The model.
        events, cutoff, users: As EventClassifier.predict takes them.
        sample: The number of users; all, where there are fewer.
        output: The name of the class; needed for tiers and propensity, where each user's likeliest would be mixed.
        steps: The most steps of the integration.
        population: Draw only from the users whom the task asks about.

    Returns:
        What the page shows, ready for JSON: the facts (see `facts_of`); cutoff, users, users_asked (from whom they were
        drawn: the population, or all with history), population; output, base and error (means over the users; error of
        absolute values), output_deviation and base_deviation (standard deviations), largest_error and not_converged
        (users); variance_shares, how much of the differences between users' outputs the base (the text's length), the
        header and the events make: covariance with the output over its variance, which add up to 1; header_share, of
        all absolute pushes; then, the strongest first, `causes`, see `_causes`; `fields` and `words` with part (header
        or event), field and reading, for words value, and users (who have it), times (in a text of these), push and
        absolute_push, each summed over a user's text and averaged over the users who have it; `deletion`, see
        `deletion_test`. Figures have 95 % intervals by bootstrap over users under NAME_interval.

    Raises:
        InputError: A class is needed; or as EventClassifier.predict.
    """
    if output is None and classifier.objective.task in ("tiers", "propensity"):
        names = ", ".join(classifier.objective.classes[:5])
        raise InputError(f"--sample needs --class, one of the label's classes: {names}", setting="--sample")
    index, moment = class_index(classifier, output), cutoff_of(classifier.serializer, cutoff)
    serializer, members = classifier.serializer, whom(classifier.task) if population else EVERYBODY
    with past_log(classifier, events, moment, users) as (con, _):
        asked = users_of(con, serializer, moment, members)
        histories = histories_of(con, serializer, moment, drawn(asked, sample))
    if not histories:
        raise InputError(nobody(classifier.task, moment), "leave --population out")
    texts, parts = [history.text for history in histories], (classifier.model, classifier.tokenizer)
    attributions = attribute(*parts, serializer, texts, index, steps)
    weights = np.concatenate(list(user_weights(np.arange(len(texts)), RESAMPLES)), axis=1)
    words = _words(attributions, weights, serializer)
    return (
        facts_of(classifier, attributions[0].output, attributions)
        | {"cutoff": shown_moment(moment), "users": len(texts), "users_asked": len(asked), "population": population}
        | _outputs(attributions)
        | _shares(attributions, weights)
        | {
            "causes": _causes(classifier, attributions, weights, words),
            "fields": _fields(attributions, weights),
            "words": words,
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
        "header_share": share_of(absolute.sum(axis=0), np.array([True, False])),
        "header_share_interval": interval(resampled[:, 0] / resampled.sum(axis=1)),
    }


def _causes(
    classifier: EventClassifier, attributions: list[Attribution], weights: np.ndarray, words: list[dict]
) -> list[dict]:
    """How far the scores move where the words of a theme are hidden, the strongest first.

    Returns:
        cause, what the words are about; users, who have them; score_change, how far the calibrated score moves, up or
        down, on average over these users; raises and lowers, what users have then, see `_ends`.
    """
    serializer, output = classifier.serializer, attributions[0].output
    ids, owners, themes = [attribution.ids for attribution in attributions], [], []
    for user, attribution in enumerate(attributions):
        of_words = [theme_of(word, serializer).of_column for word in attribution.words]
        hiding = without_each(classifier.tokenizer, attribution, of_words)
        ids += hiding.values()
        owners += [user] * len(hiding)
        themes += hiding
    scores, users = class_scores(classifier, as_tokens(ids), output), len(attributions)
    moved = np.abs(scores[users:] - scores[:users][owners])
    found = []
    for theme in dict.fromkeys(themes):
        rows = [row for row, of_row in enumerate(themes) if of_row == theme]
        mean, resampled = _averaged(moved[rows, None], [owners[row] for row in rows], weights)
        shown = [
            word for word in words if word["users"] >= FEWEST and theme_of(_word(word), serializer).of_column == theme
        ]
        cause = {
            "cause": theme.title,
            "users": len(rows),
            "score_change": float(mean[0]),
            "score_change_interval": interval(resampled[:, 0]) if len(rows) > 1 else None,
        }
        found.append(cause | _ends(shown, serializer))
    return sorted(found, key=lambda cause: -cause["score_change"] * cause["users"])


def _ends(words: list[dict], serializer: EventSerializer) -> dict[str, str | None]:
    """What the words say that raise and lower the output most, where there is no doubt that they do, else null."""
    sure = [word for word in words if word["push_interval"][0] > 0 or word["push_interval"][1] < 0]
    sure = sorted(sure, key=lambda word: word["push"])
    ends = {"raises": [word for word in sure[-1:] if word["push"] > 0]}
    ends["lowers"] = [word for word in sure[:1] if word["push"] < 0]
    noun = target_noun(serializer)
    return {end: events_reading(_word(word[0]), serializer, noun) if word else None for end, word in ends.items()}


def _word(word: dict) -> Word:
    """The word of an entry of `_words`."""
    return Word(0, -1 if word["part"] == "header" else 0, word["field"], word["value"])


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


def _driving(attributions: list[Attribution], key: Callable[[Word], Any], weights: np.ndarray) -> dict[Any, dict]:
    """What `key` makes of the words -> mean push over the users who have it, the strongest over all users first."""
    sums: dict[Any, dict[int, np.ndarray]] = defaultdict(dict)
    for user, attribution in enumerate(attributions):
        for word, push in zip(attribution.words, attribution.pushes, strict=True):
            of_user = sums[key(word)].setdefault(user, np.zeros(3))
            of_user += (1, push, abs(push))
    found = {}
    for name, by_user in sums.items():
        mean, resampled = _averaged(np.array(list(by_user.values())), list(by_user), weights)
        times, push, absolute = mean.tolist()
        several = len(by_user) > 1
        found[name] = {
            "users": len(by_user),
            "times": times,
            "push": push,
            "push_interval": interval(resampled[:, 1]) if several else None,
            "absolute_push": absolute,
            "absolute_push_interval": interval(resampled[:, 2]) if several else None,
        }
    return dict(sorted(found.items(), key=lambda entry: -entry[1]["absolute_push"] * entry[1]["users"]))


def _averaged(values: np.ndarray, users: list[int], weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean over some users of values of shape (users, figures), and the same of each resample."""
    drawn = weights[users]
    with np.errstate(invalid="ignore"):  # nan, where none of them was drawn
        return values.mean(axis=0), drawn.T @ values / drawn.sum(axis=0)[:, None]
