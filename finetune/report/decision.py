"""The first screen of a report: whom to contact, what it finds, and how far that can be trusted, in plain words."""

from typing import Any

from finetune.measures import BLEND, MODEL, NO_RIVALS, best_rival
from finetune.runs import Metrics
from finetune.wording import listed, missing, named, number, percent, span, standing, worded

STEPS = (1, 5, 10, 20, 50)  # per cent of the users, in the table
LEAVING = {"churn": ("to leave", "left")}  # label -> most likely ..., really ...


def decision(metrics: Metrics) -> dict[str, Any] | None:
    """What the first screen says of the last test cutoff; None where metrics.json has nothing about a contact.

    Returns:
        headline, found, came and money, sentences; share, of the users who are contacted; rows, of the table: share,
        contacted, found, missed, precision and lift; and slider, the figures of every share for the page's script.
    """
    contact = metrics.get("contact")
    if not contact:
        return None
    rival = best_rival(metrics["test"]["baselines"], metrics["main"])
    costs = (metrics.get("made", {}).get("evaluation") or {}).get("costs")
    return {
        "headline": _headline(metrics, contact),
        "share": _share(contact),
        "came": f"{number(contact['total'], 0)} of them {_people(metrics)[1]}.",
        "found": _found(metrics, contact),
        "money": _money(metrics, contact, costs),
        "rows": [_row(contact, step) for step in STEPS],
        "slider": _slider(metrics, contact, rival, costs),
        "counts": metrics["task"] == "binary",
    }


def advice(metrics: Metrics) -> str:
    """Which scorer to use for this log, and how sure that is."""
    main, name = metrics["main"], best_rival(metrics["test"]["baselines"], metrics["main"])
    if name is None or missing(metrics["test"].get(main)):
        return "This test cannot tell which way is the best."
    bounds = _known(metrics["test"]["baselines"][name].get(f"{main}_difference_interval"))
    if bounds is None:
        return "This test cannot tell which way is the best."
    found = standing(bounds, metrics["lower_is_better"])
    if found == "ahead":
        return f"Use this model: it is better than {worded(name)}, the best of the usual ways, and that is no chance."
    gain = _gain_of_blend(metrics, found)
    if found == "behind":
        return f"Use {worded(name)} for this log: it is better than this model, and that is no chance.{gain}"
    return f"Use either: this model and {worded(name)}, the best of the usual ways, cannot be told apart.{gain}"


def _gain_of_blend(metrics: Metrics, found: str) -> str:
    """Whether the mean of model and boosting is worth its trouble, where that was measured."""
    main, lower = metrics["main"], metrics["lower_is_better"]
    blended = metrics["test"]["baselines"].get(BLEND) or {}
    over_rival = _known(blended.get("over_rival_interval"))
    over_model = _known(blended.get(f"{main}_difference_interval"))  # model minus blend
    if over_rival is None or over_model is None:
        return ""
    if standing(over_rival, lower) != "ahead" or (found == "level" and standing(over_model, lower) != "behind"):
        return " The mean of both is no better, as far as this test can tell."
    return f" The mean of both is better {'still' if found == 'behind' else 'than either'}, and that is no chance."


def answers(metrics: Metrics) -> list[tuple[str, str]]:
    """What else somebody asks who has to decide: pairs of a question and a few sentences; no measure is named there."""
    contact = metrics.get("contact")
    beside = _beside(metrics, contact) if contact else ""
    found = [
        ("Is it better than the usual ways?", f"{beside} {advice(metrics)}".strip()),
        ("Can it be trusted?", _trust(metrics)),
        ("What did it learn from?", _learned(metrics)),
    ]
    return [(asked, said) for asked, said in found if said]


def _trust(metrics: Metrics) -> str:
    """When it was tested, whether its scores add up, and whether it became worse in the meantime."""
    test, label = metrics["test"], metrics["label"]
    days = [str(cutoff)[:10] for cutoff in test["cutoffs"]]
    when = f"on {days[0]}" if len(days) == 1 else f"on {len(days)} days from {days[0]} to {days[-1]}"
    parts = "days"
    if "most_per_user" in test:
        when, parts = f"at moments from {days[0]} to {days[-1]}", "periods"
    said = [f"It was tested {when}, all later than what it learned from, with {number(test['users'], 0)} users."]
    sums = metrics["curves"].get("calibration") or {}
    if metrics["task"] == "binary" and sums:
        whom = "would leave" if label in LEAVING else f"would come out as {worded(label)}"
        said.append(
            f"It expected that {percent(sums['mean_score'], 1)} {whom}, and {percent(sums['mean_label'], 1)} did."
        )
    change = (
        _known(metrics["by_cutoff"][-1].get(f"{metrics['main']}_change_interval")) if metrics["by_cutoff"] else None
    )
    if change:
        became = {
            "ahead": f"It was better on the last of these {parts} than on the first.",
            "behind": f"It was worse on the last of these {parts} than on the first, and that is no chance: "
            "train again.",
            "level": f"From the first of these {parts} to the last it changed by no more than chance can make.",
        }
        said.append(became[standing(change, metrics["lower_is_better"])])
    return " ".join(said)


def _learned(metrics: Metrics) -> str:
    """The log and the days that the model was trained on."""
    log, timeline = metrics["made"].get("log"), metrics.get("timeline")
    if not log or not timeline:
        return ""
    days, rows = [str(cutoff)[:10] for cutoff in timeline["train"]["cutoffs"]], timeline["train"]["rows"]
    when = f"{days[0]}" if len(days) == 1 else f"each of {len(days)} days from {days[0]} to {days[-1]}"
    if "most_per_user" in timeline["train"]:
        when = f"its moments from {days[0]} to {days[-1]}"
    return (
        f"From a log of {number(log['events'], 0)} events of {number(log['users'], 0)} users, {log['first'][:10]} to "
        f"{log['last'][:10]}: what each user had done before {when}, and what came in the {metrics['horizon']} after "
        f"it; {number(rows, 0)} examples in all."
    )


def _known(interval: list[float] | None) -> list[float] | None:
    """An interval with both of its ends, or None."""
    return None if interval is None or any(map(missing, interval)) else interval


def _people(metrics: Metrics) -> tuple[str, str]:
    label = metrics["label"]
    return LEAVING.get(label, (f"to come out as {worded(label)}", f"came out as {worded(label)}"))


def _headline(metrics: Metrics, contact: dict) -> str:
    whom = f"most likely {_people(metrics)[0]}" if metrics["task"] == "binary" else "with the highest predictions"
    return (
        f"Contact the {_share(contact)} {whom}: "
        f"{number(contact['contacted_at'], 0)} of {number(contact['users'], 0)} users."
    )


def _share(contact: dict) -> str:
    return percent(contact["share"], 0 if round(contact["share"] * 100, 6) % 1 == 0 else 1)


def _found(metrics: Metrics, contact: dict) -> str:
    found, contacted = contact["found_at"][MODEL], contact["contacted_at"]
    times = _times(found, contacted, contact)
    day = contact["cutoff"][:10]
    bounds = _known(contact.get("found_at_interval"))
    if metrics["task"] == "binary":
        share = f" ({percent(found / contacted)})" if contacted else ""
        between = ""
        if bounds:
            between = f", and between {number(bounds[0], 0)} and {number(bounds[1], 0)} among other users like these"
        return (
            f"Seen from {day}, {number(found, 0)} of them{share} really {_people(metrics)[1]}: {number(times, 1)} "
            f"times as many as by chance{between}."
        )
    between = "" if bounds is None else f" (95\u00a0% interval {span(bounds, None)})"
    return (
        f"Seen from {day}, they brought {number(found, None)}{between} of {number(contact['total'], None)}, "
        f"{percent(found / contact['total'])} of all: {number(times, 1)} times as much as by chance."
    )


def _times(found: float, contacted: float, contact: dict) -> float | None:
    """How many times what the same number of contacts finds by chance."""
    chance = contact["total"] * contacted / contact["users"]
    return found / chance if chance else None


def _beside(metrics: Metrics, contact: dict) -> str:
    """What as many contacts find by each way, the best first, and by chance."""
    ours, places = contact["found_at"][MODEL], 0 if metrics["task"] == "binary" else None
    rivals = {name: found for name, found in contact["found_at"].items() if name not in (MODEL, "majority", *NO_RIVALS)}
    ways = [
        f"{worded(name)} {number(found, places)}" for name, found in sorted(rivals.items(), key=lambda one: -one[1])
    ]
    chance = contact["total"] * contact["contacted_at"] / contact["users"]
    return (
        f"Of as many contacts this model finds {number(ours, places)}, "
        f"{listed([*ways, f'chance {number(chance, places)}'])}."
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
        f"At {costs['contact']:,g} a contact and {costs['kept_customer']:,g} gained from each of those found, that "
        f"earns {number(earned, 0)}{between}."
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
        "counts": metrics["task"] == "binary",
        "contacted": contact["contacted"],
        "found": contact["found"][MODEL],
        "low": contact["low"],
        "high": contact["high"],
        "rival": rival and named(rival),
        "rivalFound": contact["found"].get(rival),
        "costs": costs if metrics["task"] == "binary" else None,
    }
