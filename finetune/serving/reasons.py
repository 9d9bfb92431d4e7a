"""The reasons of a score: themes whose words push it most, told by the user's history, and the score without them."""

from collections import defaultdict

import numpy as np
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from finetune.model.tokens import Tokens
from finetune.serving.attribution import Attribution
from finetune.serving.classifier import EventClassifier
from finetune.serving.facts import Facts, figure
from finetune.serving.themes import Theme, theme_of
from finetune.wording import percent

REASONS = 3


def reasons(classifier: EventClassifier, attribution: Attribution, facts: Facts) -> list[dict]:
    """The themes that push a score most, up to three; those whose hiding moves the score most come first.

    A theme is left out where the log has no figure to tell of it, and where hiding its words does not move the score as
    its push says, or by nothing that is shown.

    Returns:
        Of each: about, field and value of the theme, said, push, and score_without, the model's calibrated score where
        the words of the theme are hidden.
    """
    themes = [theme_of(word, classifier.serializer) for word in attribution.words]
    hiding = without_each(classifier.tokenizer, attribution, themes)
    tokens = as_tokens([attribution.ids, *hiding.values()])
    score, *without = class_scores(classifier, tokens, attribution.output).tolist()
    scores, task, found = dict(zip(hiding, without, strict=True)), classifier.objective.task, []
    pushes = defaultdict(float)
    for theme, push in zip(themes, attribution.pushes.tolist(), strict=True):
        pushes[theme] += push
    for theme, push in sorted(pushes.items(), key=lambda entry: -abs(entry[1])):
        moved = score - scores[theme]
        if moved * push <= 0 or score_text(score, task) == score_text(scores[theme], task):
            continue
        words = [word for word, of_word in zip(attribution.words, themes, strict=True) if of_word == theme]
        said = facts.sentence(theme, words)
        if said:
            what = {"about": theme.about, "field": theme.field, "value": theme.value, "said": said}
            found.append(what | {"push": push, "score_without": scores[theme]})
        if len(found) == REASONS:
            break
    return sorted(found, key=lambda reason: -abs(score - reason["score_without"]))


def without_each(
    tokenizer: PreTrainedTokenizerBase, attribution: Attribution, themes: list[Theme]
) -> dict[Theme, np.ndarray]:
    """Theme -> the text's tokens with its words hidden; `themes` has that of each word."""
    return {
        theme: attribution.without(tokenizer, np.array([of_word == theme for of_word in themes]))
        for theme in dict.fromkeys(themes)
    }


def as_tokens(ids: list[np.ndarray]) -> Tokens:
    """Texts by their token ids, as scoring takes them."""
    return Tokens(np.concatenate(ids), None, np.cumsum([0, *map(len, ids)]))


def class_scores(classifier: EventClassifier, texts: list[str] | Tokens, output: int) -> np.ndarray:
    """The calibrated score of one class, of shape (texts,); values in their own unit."""
    scores = classifier.score(texts, bar=tqdm(disable=True))
    if scores.ndim > 1:
        return scores[:, output]
    return 1 - scores if classifier.objective.task == "binary" and output == 0 else scores


def score_text(score: float, task: str) -> str:
    """As a page shows it: a chance in per cent, or a value."""
    if task == "value":
        return figure(score)
    edge = min(score, 1 - score)
    return percent(score, 0 if edge >= 0.1 else 1 if edge >= 0.001 else 2)
