"""Why a user has a score: reasons in words first, and behind them what each word pushed (see `attribution`)."""

from collections import defaultdict
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
from scipy.special import expit

from data_prep import InputError
from data_prep.moments import show
from data_prep.serializer import EventSerializer
from data_prep.serving import cutoff_of
from finetune.runs import whom
from finetune.serving.attribution import Attribution, attribute, hidden
from finetune.serving.changes import changed_texts
from finetune.serving.classifier import EventClassifier, shown_moment
from finetune.serving.explanation import class_index, facts_of, share_of
from finetune.serving.facts import Facts
from finetune.serving.histories import History, drawn, histories_of, past_log, users_of
from finetune.serving.reading import reading
from finetune.serving.reasons import as_tokens, class_scores, reasons
from finetune.serving.typical import TypicalUser

OTHERS = 500  # users at most that the typical one is made of


def explain_user(
    classifier: EventClassifier,
    events: Any,
    cutoff: datetime | date | str,
    user: str,
    output: str | None = None,
    steps: int = 512,
    users: Any = None,
) -> dict:
    """Why a user has a score, and what each event and each header field pushed it.

    Args:
        classifier: The model.
        events, cutoff, users: As EventClassifier.predict takes them.
        user: The id; with data.pseudonymize its keyed hash.
        output: The name of the class that is explained; see `attribute` for what None means.
        steps: The most steps of the integration.

    Returns:
        What the page shows, ready for JSON: the facts (see `facts_of`); user_id, cutoff, in_population; `reasons`, see
        `reasons.reasons`; score (calibrated, of the class), score_without_words (which the text's length alone gives),
        and `changes` with change and score, what moves the score most first, see `changes.changed_texts`; `typical`
        with users, score (median) and rows, see `TypicalUser.table`, and length_share, see
        `TypicalUser.length_share`, both null where the population has too few others; output (score minus base is what
        the pushes add up to), base (and as a probability under base_probability, null for values), error, not_converged
        (0 or 1), header_push, events_push, header_share (of all absolute pushes); `events`, the newest first, each with
        time (UTC), days_before, push and words (field, value, reading, push); `header`, such words; older_events and
        unread_events, the numbers of those that text.max_events and the model's length left out.

    Raises:
        InputError: The user has no event, or none before the cutoff; or as EventClassifier.predict.
    """
    index, serializer = class_index(classifier, output), classifier.serializer
    moment, members = cutoff_of(serializer, cutoff), whom(classifier.task)
    with past_log(classifier, events, moment, users) as (con, log):
        others = histories_of(con, serializer, moment, drawn(users_of(con, serializer, moment, members), OTHERS))
        found = histories_of(con, serializer, moment, [user])
        if not found:
            raise InputError(
                f"'{user}' has no event before {shown_moment(moment)} among the {log.users:,} users who have one",
                "check the id, or take a later --cutoff",
                setting="--user",
            )
        (history,) = found
        moment = moment or history.times[0]
        in_population = len(serializer.examples(con, moment, members)) > 0
        loaded, changed = serializer.load(con, {}), changed_texts(con, serializer, moment)
    model, tokenizer = classifier.model, classifier.tokenizer
    attribution, *_ = attribute(model, tokenizer, serializer, [history.text], index, steps, bar=False)
    typical = TypicalUser.of(classifier, [other for other in others if other.user != user], attribution.output)
    read = max(word.event for word in attribution.words) + 1
    facts = Facts(history, loaded, moment, serializer, read, typical.medians if typical else {})
    return (
        facts_of(classifier, attribution.output, [attribution])
        | {"user_id": user, "cutoff": show(moment), "in_population": in_population}
        | {"reasons": reasons(classifier, attribution, facts)}
        | _scores(classifier, attribution, history, changed)
        | _beside(classifier, attribution, history, typical)
        | _pushes(classifier, attribution, history, moment)
    )


def _scores(
    classifier: EventClassifier, attribution: Attribution, history: History, changed: dict[str, str]
) -> dict[str, Any]:
    """The user's score, those after changes and that of the text's length alone."""
    score, *others = class_scores(classifier, [history.text, *changed.values()], attribution.output).tolist()
    changes = [{"change": change, "score": other} for change, other in zip(changed, others, strict=True)]
    nothing = as_tokens([hidden(classifier.tokenizer, attribution.ids)])
    return {
        "score": score,
        "score_without_words": float(class_scores(classifier, nothing, attribution.output)[0]),
        "changes": sorted(changes, key=lambda change: -abs(change["score"] - score)),
    }


def _beside(
    classifier: EventClassifier, attribution: Attribution, history: History, typical: TypicalUser | None
) -> dict[str, Any]:
    """The typical user, and how far the text's length sets this one apart."""
    if typical is None:
        return {"typical": None, "length_share": None}
    beside = {
        "users": typical.users,
        "score": typical.score,
        "rows": typical.table(history, classifier.serializer),
    }
    return {"typical": beside, "length_share": typical.length_share(attribution)}


def _pushes(
    classifier: EventClassifier, attribution: Attribution, history: History, cutoff: datetime
) -> dict[str, Any]:
    """What the words pushed, in the unit of the output, and how exact that is."""
    timeline, header = _timeline(attribution, history, cutoff, classifier.serializer)
    in_header = np.array([word.event < 0 for word in attribution.words], bool)
    return {
        "output": attribution.score,
        "base": attribution.base,
        "base_probability": None if classifier.objective.task == "value" else float(expit(attribution.base)),
        "error": attribution.error,
        "not_converged": int(not attribution.converged),
        "header_push": float(attribution.pushes[in_header].sum()),
        "events_push": float(attribution.pushes[~in_header].sum()),
        "header_share": share_of(np.abs(attribution.pushes), in_header),
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
