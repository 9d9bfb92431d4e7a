"""The first screen of a report: whom to contact, what it finds, and how far that can be trusted, in plain words."""

from datetime import datetime, time, timedelta
from typing import Any

from data_prep.event_words import with_article
from data_prep.given_examples import own_labels
from data_prep.moments import parse_duration
from finetune.field_words import aggregate_reading
from finetune.figures.measures import BLEND, DRIFT, MEAN_OF_SEEDS, MODEL, NO_RIVALS, SAME_FOR_ALL, best_rival, judged
from finetune.figures.metrics_json import Metrics
from finetune.wording import (
    listed,
    missing,
    named,
    number,
    percent,
    same_of_everyone,
    short_percent,
    span,
    standing,
    worded,
)

DAY = timedelta(days=1)
STEPS = (1, 5, 10, 20, 50)  # per cent of the users, in the table
LEAVING = {"churn": ("to leave", "left")}  # label -> most likely ..., really ...


def decision(metrics: Metrics) -> dict[str, Any] | None:
    """What the first screen says of the last test cutoff; None where metrics.json has nothing about a contact.

    Returns:
        headline, found, came, money and by_money, sentences; share, of the users who are contacted; rows, of the table:
        share, contacted, found, missed, precision and lift; and slider, the figures of every share for the page's
        script.
    """
    contact = metrics.get("contact")
    if not contact:
        return None
    rival = best_rival(metrics["test"]["baselines"], metrics["main"])
    costs = (metrics.get("made", {}).get("evaluation") or {}).get("costs")
    return {
        "headline": _headline(metrics, contact),
        "share": short_percent(contact["share"]),
        "came": f"{number(contact['total'], 0)} of them {_people(metrics)[1]}.",
        "found": _found(metrics, contact),
        "money": _money(metrics, contact, costs),
        "by_money": _by_money(metrics),
        "rows": [_row(contact, step) for step in STEPS],
        "slider": _slider(metrics, contact, rival, costs),
        "counts": metrics["task"] != "value",
    }


def advice(metrics: Metrics) -> str:
    """Which scorer to use for this log, and how sure that is."""
    main, test = metrics["main"], judged(metrics)
    name = best_rival(test["baselines"], main)
    if name is None or missing(test.get(main)):
        return "This test cannot tell which way is the best."
    bounds = _known(test["baselines"][name].get(f"{main}_difference_interval"))
    if bounds is None:
        return "This test cannot tell which way is the best."
    found, rival, sure = standing(bounds, metrics["lower_is_better"]), worded(name), _how_sure(metrics, name, bounds)
    gain = _of_seeds(metrics)
    if found == "ahead":
        return (
            f"Yes, use this model. Over all days of the test it is better than {rival}, the best usual way{sure}.{gain}"
        )
    gain = f"{_gain_of_blend(metrics, name, found)}{gain}"
    if found == "behind":
        return f"No, use {rival} for this log. Over all days of the test it is better than this model{sure}.{gain}"
    return (
        f"No, but as good. Over all days of the test it and {rival}, the best usual way, cannot be told apart{sure}. "
        f"Keep {rival} if you have it.{gain}"
    )


def _how_sure(metrics: Metrics, name: str, bounds: list[float]) -> str:
    """The main measure of both and the interval of their difference, in words, where words are shorter."""
    test, main = judged(metrics), metrics["main"]
    ours, theirs = test[main], test["baselines"][name][main]
    if metrics["task"] in ("binary", "survival"):
        pair = f"a user who {_people(metrics)[1]} and one who did not"
        if metrics["task"] == "survival":
            pair = f"users of whom one had {_event(metrics)} earlier"
        low, high = (1000 * end for end in bounds)
        return (
            f": of 1,000 pairs of {pair}, this model orders "
            f"{number(1000 * ours, 0)} rightly and {worded(name)} {number(1000 * theirs, 0)}, a difference of "
            f"{number(1000 * ours - 1000 * theirs, 0, '+')} ({span([low, high], 0, '+')})"
        )
    if metrics["task"] == "value":
        apart = number(ours - theirs, None, "+")
        return (
            f": this model is off by {number(ours, None)} on average and {worded(name)} by {number(theirs, None)}, a "
            f"difference of {apart} ({span(bounds, None, '+')})"
        )
    return ", by more than chance" if standing(bounds, metrics["lower_is_better"]) != "level" else ""


def _gain_of_blend(metrics: Metrics, rival: str, found: str) -> str:
    """That the mean of model and boosting is worth its trouble; nothing where it is not, or was not measured."""
    main, lower = metrics["main"], metrics["lower_is_better"]
    blended = judged(metrics)["baselines"].get(BLEND) or {}
    over_rival = _known(((blended.get("over") or {}).get(rival) or {}).get("interval"))
    over_model = _known(blended.get(f"{main}_difference_interval"))  # model minus blend
    if over_rival is None or over_model is None:
        return ""
    if standing(over_rival, lower) != "ahead" or (found == "level" and standing(over_model, lower) != "behind"):
        return ""
    which = "still" if found == "behind" else "than either"
    return f" The mean of this model and boosting is better {which}, by more than chance."


def _of_seeds(metrics: Metrics) -> str:
    """With several seeds, that one of their models is judged, and what the mean of their scores would gain."""
    if not metrics.get("single"):
        return ""
    main, trainings = metrics["main"], len(metrics["seeds"])
    mean = judged(metrics)["baselines"][MEAN_OF_SEEDS]
    bounds = _known(mean.get(f"{main}_difference_interval"))  # one minus mean
    gained = bounds is not None and standing(bounds, metrics["lower_is_better"]) == "behind"
    would = "would be better, by more than chance" if gained else "would be no better, as far as this test can tell"
    if metrics["task"] in ("binary", "survival"):
        would += f" ({number(1000 * mean[main], 0)} of 1,000 pairs in the right order)"
    if metrics["task"] == "value":
        would += f" (off by {number(mean[main], None)} on average)"
    return (
        f" That is one model, as you would use it: {trainings} were trained that differ by chance alone, and this is "
        f"what they have on average, for other users and other trainings. The mean of their scores {would}."
    )


def answers(metrics: Metrics) -> list[tuple[str, str]]:
    """What else somebody asks who has to decide: pairs of a question and a few sentences; no measure is named there."""
    contact = metrics.get("contact")
    beside = _beside(metrics, contact) if contact else ""
    share = metrics["training"].get("teacher")
    taught = ""
    if share:
        teacher = "another model says" if metrics["training"].get("teacher_model") else "boosting and regression say"
        members, unlabelled = (metrics["training"].get(key) or 0 for key in ("members", "unlabelled"))
        if members:
            teacher = f"{members} models say on average" if members > 1 else "one model says"
        own = f", and {percent(1 - share)} from what users did" if share < 1 else ""
        taught = f"It learned {percent(share)} from what {teacher} of a user{own}."
        if members:
            taught += " These were trained before it, and had learned from boosting and regression in the same way."
        if unlabelled:
            taught += f" Of {number(unlabelled, 0)} more texts it was told no label, and learned what they say alone."
    found = [
        ("Is it better than the usual ways?", " ".join(filter(None, [advice(metrics), beside, taught]))),
        ("Can it be trusted?", _trust(metrics)),
        ("What did it learn from?", _learned(metrics)),
    ]
    return [(asked, said) for asked, said in found if said]


def _trust(metrics: Metrics) -> str:
    """When it was tested, whether its scores add up, and whether it became worse in the meantime."""
    test = metrics["test"]
    days = [str(cutoff)[:10] for cutoff in test["cutoffs"]]
    when = f"on {days[0]}" if len(days) == 1 else f"on {len(days)} days from {days[0]} to {days[-1]}"
    parts = "days"
    if "most_per_user" in test:
        when, parts = f"at moments from {days[0]} to {days[-1]}", "periods"
    asked = f"{number(test['rows'], 0)} times about {number(test['users'], 0)} users"
    said = list(filter(None, [same_of_everyone(metrics["collapsed"], len(metrics["seeds"]) or 1)]))
    said.append(f"It was asked {asked}, {when}, later than all that it learned from.")
    sums = metrics["curves"].get("calibration") or {}
    if metrics["task"] == "binary" and sums:
        expected, came = percent(sums["mean_score"], 1), percent(sums["mean_label"], 1)
        said.append(f"It expected {expected} of these {_people(metrics)[0]}, and {came} did.")
    if metrics["task"] == "survival":
        said.append(_expected(metrics))
    change = (
        _known(metrics["by_cutoff"][-1].get(f"{metrics['main']}_change_interval")) if metrics["by_cutoff"] else None
    )
    if change:
        became = {
            "ahead": f"It was better on the last of these {parts} than on the first.",
            "behind": f"It was worse on the last of these {parts} than on the first, by more than chance: train again.",
            "level": f"On the last of these {parts} it was as good as on the first, as far as this test can tell"
            f"{_first_and_last(metrics)}.",
        }
        said.append(became[standing(change, metrics["lower_is_better"])])
    moved = [entry for entry in metrics["drift"] if not entry.get("ages") and (entry["psi"] or 0) > DRIFT[1]]
    if moved:
        first = aggregate_reading(moved[0]["input"])
        what = f"{len(moved)} things that it reads have changed much since its training, most of all {first}."
        if len(moved) == 1:
            what = f"One thing that it reads has changed much since its training: {first}."
        said.append(f"{what} If that is here to stay, train again.")
    return " ".join(said)


def _learned(metrics: Metrics) -> str:
    """The log and the days that the model was trained on."""
    log, timeline = metrics["made"].get("log"), metrics.get("timeline")
    if not log or not timeline:
        return ""
    days = [str(cutoff)[:10] for cutoff in timeline["train"]["cutoffs"]]
    rows = (metrics["made"].get("splits") or {}).get("train", timeline["train"]["rows"])
    when = f"{days[0]}" if len(days) == 1 else f"each of {len(days)} days from {days[0]} to {days[-1]}"
    if "most_per_user" in timeline["train"]:
        when = f"its moments from {days[0]} to {days[-1]}"
    came = "the label of the team's own table"
    if not own_labels(metrics):
        came = f"what came in the {metrics['horizon']} after it"
    last = max(timeline["train"]["cutoffs"])
    end = datetime.fromisoformat(last) + parse_duration(metrics["horizon"], "horizon")
    if "most_per_user" in timeline["train"] and len(last) == len("2024-01-31"):
        end += DAY  # moments of the whole of their last day
    if end.time() != time():
        end += DAY  # the next day is the first of which it has seen nothing
    chose = "only chose between versions of it"
    if metrics["training"].get("value_factor", 1) != 1:
        chose = "chose between versions of it, and a factor on all of its amounts"
    return (
        f"From {number(rows, 0)} examples: what users had done since {log['first'][:10]}, before {when}, and "
        f"{came}. Nothing from {end:%Y-%m-%d} on taught it; the time from then to "
        f"the test {chose}."
    )


def _first_and_last(metrics: Metrics) -> str:
    """The main measure at the last and at the first test cutoff, in words, where there are some."""
    last, first = (metrics["by_cutoff"][at].get(metrics["main"]) for at in (-1, 0))
    if last is None or first is None or missing(last) or missing(first):
        return ""
    if metrics["task"] in ("binary", "survival"):
        return f" ({number(1000 * last, 0)} of 1,000 pairs in the right order, after {number(1000 * first, 0)})"
    return (
        f" (off by {number(last, None)} on average, after {number(first, None)})" if metrics["task"] == "value" else ""
    )


def _expected(metrics: Metrics) -> str:
    """What the model expected by the longest horizon that the test tells of, and what came."""
    curves, horizons = metrics["curves"], metrics["classes"]
    known = [at for at, share in enumerate(curves["come_by"]) if not missing(share)]
    if not known:
        return ""
    expected, came = curves["expected"][known[-1]], curves["come_by"][known[-1]]
    return (
        f"It expected {percent(expected, 1)} of these to have {_event(metrics)} within {horizons[known[-1]]}, and "
        f"{percent(came, 1)} did."
    )


def _event(metrics: Metrics) -> str:
    return with_article(worded(metrics["label"]))


def _window(metrics: Metrics, contact: dict) -> str:
    """The time after the cutoff whose events count."""
    return contact.get("horizon") or metrics["horizon"]


def _known(interval: list[float] | None) -> list[float] | None:
    """An interval with both of its ends, or None."""
    return None if interval is None or any(map(missing, interval)) else interval


def _people(metrics: Metrics) -> tuple[str, str]:
    label = metrics["label"]
    if metrics["task"] == "survival":
        return f"to have {_event(metrics)}", f"had {_event(metrics)}"
    return LEAVING.get(label, (f"to come out as {worded(label)}", f"came out as {worded(label)}"))


def _headline(metrics: Metrics, contact: dict) -> str:
    whom = "with the highest predictions" if metrics["task"] == "value" else f"most likely {_people(metrics)[0]}"
    whom += f" within {contact['horizon']}" if metrics["task"] == "survival" else ""
    return (
        f"Contact the {short_percent(contact['share'])} {whom}: "
        f"{number(contact['contacted_at'], 0)} of {number(contact['users'], 0)} users."
    )


def _found(metrics: Metrics, contact: dict) -> str:
    found, contacted = contact["found_at"][MODEL], contact["contacted_at"]
    times = _times(found, contacted, contact)
    day = contact["cutoff"][:10]
    bounds = _known(contact.get("found_at_interval"))
    if metrics["task"] != "value":
        share = f" ({percent(found / contacted)})" if contacted else ""
        between = ""
        if bounds:
            between = f", and between {number(bounds[0], 0)} and {number(bounds[1], 0)} among other users like these"
        return (
            f"On {day}, the last day of the test, {number(found, 0)} of them{share} really {_people(metrics)[1]} in "
            f"the {_window(metrics, contact)} after it: {number(times, 1)} times as many as by chance{between}."
        )
    between = "" if bounds is None else f" (95\u00a0% interval {span(bounds, None)})"
    return (
        f"On {day}, the last day of the test, these are the ones who brought {number(found, None)}{between} of "
        f"{number(contact['total'], None)} in the {metrics['horizon']} after it, "
        f"{percent(found / contact['total'])} of all: {number(times, 1)} times as much as by chance."
    )


def _times(found: float, contacted: float, contact: dict) -> float | None:
    """How many times what the same number of contacts finds by chance."""
    chance = contact["total"] * contacted / contact["users"]
    return found / chance if chance else None


def _beside(metrics: Metrics, contact: dict) -> str:
    """What as many contacts find by each way, the best first, and by chance."""
    ours, places = contact["found_at"][MODEL], None if metrics["task"] == "value" else 0
    rivals = {
        name: found for name, found in contact["found_at"].items() if name not in (MODEL, *SAME_FOR_ALL, *NO_RIVALS)
    }
    ways = [
        f"{number(found, places)} by {worded(name)}" for name, found in sorted(rivals.items(), key=lambda one: -one[1])
    ]
    chance = contact["total"] * contact["contacted_at"] / contact["users"]
    bounds, sway = _known(contact.get("found_at_interval")), ""
    if bounds and metrics["task"] != "value":
        sway = f"; among other users like these a count may be {number((bounds[1] - bounds[0]) / 2, 0)} more or less"
    return (
        f"On the last day alone, the same {number(contact['contacted_at'], 0)} contacts find {number(ours, places)} by "
        f"this model, {listed([*ways, f'{number(chance, places)} by chance'])}{sway}."
    )


def _money(metrics: Metrics, contact: dict, costs: dict | None) -> str:
    if not costs or metrics["task"] != "binary":
        return ""
    earned = _profit(contact["found_at"][MODEL], contact["contacted_at"], costs)
    bounds = _known(contact.get("found_at_interval"))
    between = ""
    if bounds:
        low, high = (_profit(found, contact["contacted_at"], costs) for found in bounds)
        between = f", between {number(low, 0)} and {number(high, 0)}"
    return (
        f"At {costs['contact']:,g} a contact, and if a contact brings {costs['kept_customer']:,g} on average from each "
        f"of those found (which no test has measured), that earns {number(earned, 0)}{between}."
    )


def _by_money(metrics: Metrics) -> str:
    """What contacting by the threshold earns that earned most on validation, where evaluation.threshold asks for it."""
    profit, chosen = metrics.get("profit"), metrics.get("calibration") or {}
    if not profit or chosen.get("threshold_by") != "money" or missing(profit.get("share_at_threshold")):
        return ""
    share, bounds = profit["share_at_threshold"], _known(profit["profit_at_threshold_interval"])
    if not share:
        return "At these costs no contact pays: nobody has a score at which contacts had paid before the test."
    days = len(metrics["test"]["cutoffs"])
    between = f", between {number(bounds[0], 0)} and {number(bounds[1], 0)}" if bounds else ""
    return (
        f"To earn most, contact everyone with a score from {number(chosen['threshold'])} on, as was best before the "
        f"test: {percent(share)} of the users{f' over the {days} test days' if days > 1 else ''}, which earned "
        f"{number(profit['profit_at_threshold'], 0)}{between}."
    )


def _profit(found: float, contacted: float, costs: dict) -> float:
    return found * costs["kept_customer"] - contacted * costs["contact"]


def _row(contact: dict, step: int) -> dict[str, Any]:
    """The figures of contacting `step` per cent; shares stand in steps of one per cent."""
    found, contacted = contact["found"][MODEL][step], contact["contacted"][step]
    return {
        "share": step,
        "contacted": contacted,
        "found": found,
        "bounds": [contact["low"][step], contact["high"][step]],
        "missed": contact["total"] - found,
        "precision": found / contacted if contacted else None,
        "lift": _times(found, contacted, contact),
    }


def _slider(metrics: Metrics, contact: dict, rival: str | None, costs: dict | None) -> dict[str, Any]:
    return {
        "start": round(100 * contact["share"]),
        "users": contact["users"],
        "total": contact["total"],
        "counts": metrics["task"] != "value",
        "contacted": contact["contacted"],
        "found": contact["found"][MODEL],
        "low": contact["low"],
        "high": contact["high"],
        "rival": rival and named(rival),
        "rivalFound": contact["found"].get(rival),
        "costs": costs if metrics["task"] == "binary" else None,
    }
