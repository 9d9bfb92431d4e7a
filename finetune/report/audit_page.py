"""The page of a privacy audit: whether the attacks tell who was learned from, and what that proves."""

from typing import Any

import matplotlib.style

from finetune.report.pictures import (
    PICTURE_STYLE,
    THIN,
    Picture,
    finish,
    inline_svg,
    square_figure,
    styles,
)
from finetune.report.report import page_template
from finetune.wording import number, span

ATTACKS = {"loss": "Loss", "likelihood_ratio": "Likelihood ratio"}
WHOM = {"users": "Users", "canaries": "Canaries"}
SMALL = 0.1  # epsilon: a guess is right 52.5 times of 100


def audit_page(found: dict[str, Any]) -> str:
    """The page as HTML.

    Args:
        found: By `finetune.trust.audit.audit`.
    """
    with matplotlib.style.context(["default", PICTURE_STYLE]):
        pictures = [_curves(who, attacks) for who, attacks in found["attacks"].items()]
    return page_template("audit.html.jinja").render(
        x=found, answers=answers(found), attacks=ATTACKS, whom=WHOM, pictures=pictures
    )


def answers(found: dict[str, Any]) -> dict[str, str]:
    """Whether there is a leak, how good the best attack is, and what it says of the epsilon that the config states."""
    every = [(who, name, result) for who, each in found["attacks"].items() for name, result in each.items()]
    who, name, best = max(every, key=lambda entry: (entry[2]["epsilon_lower_bound"], entry[2]["auroc"]))
    bound = best["epsilon_lower_bound"]
    if found["privacy"] and bound > found["privacy"]["epsilon"]:
        headline = "The attacks know more than the stated epsilon allows: the accounting or the training is wrong."
    elif bound > SMALL:
        headline = "There is a leak: the attacks tell who was learned from."
    elif bound > 0:
        headline = "There is a small leak: the attacks guess a little better than a coin."
    else:
        headline = "These attacks found no leak."
    proves = (
        f"With 95\u00a0% confidence the epsilon of this training is at least {number(bound, 2)}."
        if bound > 0
        else "Nothing: so many right guesses can be chance."
    )
    stated = found["privacy"]
    return {
        "headline": headline,
        "best": (
            f"{ATTACKS[name]}, on {who}: AUROC {number(best['auroc'])} ({span(best['auroc_interval'])}), where .5 is a "
            f"coin. Of the {best['guesses']} guesses it is surest of, {best['right']} are right."
        ),
        "proves": proves,
        "stated": (
            f"Epsilon {number(stated['epsilon'], None)} and delta {stated['delta']}."
            if stated
            else "None: it was trained without differential privacy."
        ),
    }


def _curves(who: str, attacks: dict[str, Any]) -> Picture:
    figure = square_figure()
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], label="By a coin", **THIN)
    for name, style in styles(attacks).items():
        curve = attacks[name]["curve"]
        axes.plot(curve["false_positive_rate"], curve["true_positive_rate"], label=ATTACKS[name], **style)
    axes.set(xlabel="Non-members taken for members", ylabel="Members found")
    finish(figure, axes)
    said = [f"{ATTACKS[name]}: AUROC {number(result['auroc'])}" for name, result in attacks.items()]
    title, reading = f"{WHOM[who]}: members found", f"{', '.join(said)}."
    return Picture(title, reading, inline_svg(figure, f"attack-{who}", f"{title}. {reading}"))
