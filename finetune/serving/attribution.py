"""Which words of a text drove a score: integrated gradients over the model's word embeddings.

Sundararajan, Taly, Yan: "Axiomatic Attribution for Deep Networks", 2017, equation 1. The path leads from the same text
with every word hidden to the text itself, so that what the words push adds up to score minus base. A hidden word is
[MASK], which masked-language-model pretraining has taught to stand for an unknown word; [PAD] never occurs where
attention is paid. No measurement favours it: on Complete Journey the base of [MASK] lies nearer to the label's rate, on
Online Retail that of [PAD], and there both do equally well in the deletion test.

Special tokens, positions and length stay as they are: what the mere length of a text says is in the base, and no word
is given it. It can be most of a score (about 80 % of the scores' variance on Online Retail, 10 % on Complete Journey),
so that pages tell it first.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data_prep import InputError
from data_prep.serializer import EventSerializer
from finetune.evaluation.bootstrap import interval, user_weights
from finetune.model.objective import Objective
from finetune.model.tokenization import encode, padded
from finetune.serving.reading import Word, words_of

if TYPE_CHECKING:  # an extra
    from captum.attr import LayerIntegratedGradients

TOKENS_AT_A_TIME = 1 << 14  # in one pass forward and back
FIRST_STEPS = 32
TOLERANCE = 0.01  # of all absolute pushes; a larger error asks for more steps
ROWS_AT_A_TIME = 32  # texts of similar lengths, each once a step


@dataclass
class Attribution:
    """What pushed an output.

    Attributes:
        words: The text's words that the model reads.
        pushes: What each of them adds to the output, of shape (words,).
        score: The output: see `attribute`.
        base: The output for the text with every word hidden.
        output: The index of the class.
        steps: Of the integration.
        unread: The number of events, the oldest ones, that the model did not read because the text was too long.
        ids: The text's tokens, of shape (tokens,).
        owner: The index of each token's word, of shape (tokens,); special tokens have any.
    """

    words: list[Word]
    pushes: np.ndarray
    score: float
    base: float
    output: int
    steps: int
    unread: int
    ids: np.ndarray
    owner: np.ndarray

    @property
    def error(self) -> float:
        """How far the pushes are from adding up to score - base: what is left of the integral's approximation."""
        return float(self.pushes.sum() - (self.score - self.base))

    @property
    def converged(self) -> bool:
        """Whether the error is small beside the pushes."""
        return abs(self.error) <= TOLERANCE * np.abs(self.pushes).sum()

    @property
    def events(self) -> np.ndarray:
        """What each event pushes, the newest first."""
        events = np.array([word.event for word in self.words], int)
        return np.bincount(events[events >= 0], self.pushes[events >= 0])

    def without(self, tokenizer: PreTrainedTokenizerBase, words: np.ndarray) -> np.ndarray:
        """The text's tokens with some of its words hidden.

        Args:
            tokenizer: The model's.
            words: Whether to hide each word, of shape (words,).
        """
        return np.where(words[self.owner], hidden(tokenizer, self.ids), self.ids)


def attribute(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    serializer: EventSerializer,
    texts: list[str],
    output: int | None = None,
    steps: int = 512,
    bar: bool = True,
) -> list[Attribution]:
    """What each word of each text pushes.

    The output that is explained is the log-odds of a class, before any calibration: of label 1 for binary, of the
    predicted tier, of the likeliest class for propensity, or of the event by the longest horizon for survival, unless
    `output` names another. Of values it is the value in its own unit.

    Args:
        model: By `load_classifier`; its weights stop asking for gradients.
        tokenizer: Its tokenizer.
        serializer: That wrote the texts.
        texts: The same may come several times.
        output: The index of the class.
        steps: The most points of the Gauss-Legendre rule along the path: it is begun with 32, and texts whose error is
            above 1 % of all absolute pushes are done again with twice as many. The sharper a model turns from one
            answer to the other, the more it takes.
        bar: Show progress.

    Raises:
        InputError: captum is missing.
    """
    method = _integrated_gradients(model)
    encoded = encode(tokenizer, texts)
    ids = encoded["input_ids"]
    outputs = chosen_outputs(model, tokenizer, ids, output)
    offsets = tokenizer(texts, truncation=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    found: dict[int, Attribution] = {}
    waiting, points = np.arange(len(texts)), min(FIRST_STEPS, steps)
    while len(waiting):
        with tqdm(total=len(waiting), desc=f"explain in {points} steps", unit="text", disable=not bar) as progress:
            for batch in _batches([ids[i] for i in waiting]):
                rows = waiting[batch]
                of_tokens, scores, bases = _integrate(
                    method, model, tokenizer, [ids[i] for i in rows], outputs[rows], points
                )
                for place, i in enumerate(rows.tolist()):
                    words, oldest = words_of(texts[i], serializer), max(encoded["event"][i])
                    read = [word for word in words if word.event <= oldest]
                    owner = _owner(read, np.array(offsets[i])[: len(ids[i]), 1])
                    pushes = np.bincount(owner, of_tokens[place, : len(ids[i])], minlength=len(read))
                    facts = (scores[place], bases[place], int(outputs[i]), points, words[-1].event - oldest)
                    found[i] = Attribution(read, pushes, *facts, np.array(ids[i]), owner)
                progress.update(len(rows))
        waiting = np.array([i for i in waiting.tolist() if not found[i].converged], int)
        if points >= steps:
            break
        points = min(2 * points, steps)
    return [found[i] for i in range(len(texts))]


def _integrated_gradients(model: PreTrainedModel) -> "LayerIntegratedGradients":
    try:
        from captum.attr import LayerIntegratedGradients
    except ImportError as error:
        raise InputError("explaining needs captum", "pip install -e '.[explain]'") from error
    model.requires_grad_(False)  # gradients are asked of the embeddings' output alone
    return LayerIntegratedGradients(partial(explained, model), model.get_input_embeddings())


def _integrate(
    method: "LayerIntegratedGradients",
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    ids: list[list[int]],
    outputs: np.ndarray,
    points: int,
) -> tuple[np.ndarray, list[float], list[float]]:
    """What each token of a batch pushes, of shape (texts, tokens), and the outputs for the texts and for their bases.

    Args:
        method: Over the model's word embeddings.
        model: The model.
        tokenizer: Its tokenizer.
        ids: The tokens of each text.
        outputs: The index of the class of each text.
        points: Of the integration.
    """
    text, mask = padded(tokenizer, ids, 1).to(model.device).values()
    base = torch.from_numpy(hidden(tokenizer, text.cpu().numpy())).to(model.device)
    of_rows = torch.from_numpy(outputs).to(model.device)
    of_tokens = method.attribute(
        text,
        base,
        additional_forward_args=(mask, of_rows),
        n_steps=points,
        internal_batch_size=max(len(ids), TOKENS_AT_A_TIME // text.shape[1]),
    )
    assert isinstance(of_tokens, torch.Tensor)  # as one layer with one output is asked of
    with torch.no_grad():
        scores, bases = (explained(model, part, mask, of_rows).double().tolist() for part in (text, base))
    return of_tokens.sum(-1).double().cpu().numpy(), scores, bases


def _owner(words: list[Word], ends: np.ndarray) -> np.ndarray:
    """The index of each token's word, given where the token ends: some tokens begin with the space before them."""
    owner = np.searchsorted([word.start for word in words], ends - 1, side="right") - 1
    return np.maximum(owner, 0)  # special tokens push nothing


def hidden(tokenizer: PreTrainedTokenizerBase, ids: np.ndarray) -> np.ndarray:
    """The same tokens with every word hidden: special ones stay."""
    mask = np.array(tokenizer.pad_token_id if tokenizer.mask_token_id is None else tokenizer.mask_token_id)
    special = (getattr(tokenizer, f"{name}_token_id") for name in ("cls", "sep", "bos", "eos", "pad"))
    return np.where(np.isin(ids, [token for token in special if token is not None]), ids, mask)


def deletion_test(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: list[str],
    attributions: list[Attribution],
    resamples: int = 1000,
) -> dict:
    """Does the output change more when the event that pushes most is left out than when another one is?

    An event is left out with its words alone: the days since the previous event stay in its neighbours' words, the
    header counts it still, and no older event comes in for it. Against the top event stand all the others of the same
    text, each with the same weight, which is what drawing one of them at random gives on average. Intervals of 95 % by
    bootstrap over the texts, each of which is one user's.

    Args:
        model: By `load_classifier`.
        tokenizer: Its tokenizer.
        texts: Those with fewer than two events are left out.
        attributions: Of the texts, by `attribute`.
        resamples: Of the bootstrap.

    Returns:
        users; top and random, the mean absolute change of the output; difference, of the two; top_is_larger, the share
        of the other events whose change is smaller than the top one's (ties count half), averaged over users, where .5
        is chance; all but users null where no text has two events; and each with NAME_interval.
    """
    encoded = encode(tokenizer, texts)
    shortened, owner, tops = [], [], []
    for i, attribution in enumerate(attributions):
        events = attribution.events
        if len(events) < 2:
            continue
        ids, event_of = np.array(encoded["input_ids"][i]), np.array(encoded["event"][i])
        tops.append(len(shortened) + int(np.abs(events).argmax()))
        shortened += [ids[event_of != event].tolist() for event in range(len(events))]
        owner += [i] * len(events)
    names = ("top", "random", "difference", "top_is_larger")
    if not tops:
        return {"users": 0} | {name: None for key in names for name in (key, f"{key}_interval")}
    owner, is_top = np.array(owner), np.isin(np.arange(len(owner)), tops)
    outputs = np.array([attribution.output for attribution in attributions])[owner]
    before = np.array([attribution.score for attribution in attributions])[owner]
    bar = tqdm(total=len(shortened), desc="leave out events", unit="text")
    change = np.abs(outputs_of(model, tokenizer, shortened, outputs, bar) - before)
    users, user = np.unique(owner, return_inverse=True)
    top, others = change[is_top], np.bincount(user) - 1
    smaller = (change < top[user]) + 0.5 * (change == top[user])
    by_user = {
        "top": top,
        "random": np.bincount(user, np.where(is_top, 0, change)) / others,
        "top_is_larger": np.bincount(user, np.where(is_top, 0, smaller)) / others,
    }
    by_user["difference"] = by_user["top"] - by_user["random"]
    weights = np.concatenate(list(user_weights(users, resamples)), axis=1)
    result: dict = {"users": len(users)}
    for name in names:
        result[name] = float(by_user[name].mean())
        result[f"{name}_interval"] = interval(by_user[name] @ weights / weights.sum(axis=0))
    return result


def explained(model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    """The output that `attribute` explains, of shape (rows,); `outputs` has the index of each row's class."""
    logits, config = model(input_ids=ids, attention_mask=mask).logits, model.config
    logit = logits.gather(1, outputs[:, None])[:, 0]
    task, scale = config.eventscribe["task"], config.eventscribe["scale"]
    if task == "value" and scale:
        value = logit * scale["deviation"] + scale["mean"]
        if scale.get("root"):
            return value.sign() * value.square()
        return torch.expm1(value) if scale["log"] else value
    if task in ("value", "propensity"):
        return logit
    if task == "survival":  # the log-odds of the event by the horizon
        left = torch.nn.functional.logsigmoid(-logits).cumsum(dim=1).gather(1, outputs[:, None])[:, 0]
        return torch.log(-torch.expm1(left)) - left
    others = torch.arange(logits.shape[1], device=logits.device) != outputs[:, None]
    return logit - torch.logsumexp(logits.masked_fill(~others, -torch.inf), dim=1)


def chosen_outputs(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ids: list[list[int]], output: int | None
) -> np.ndarray:
    """The class that is explained of each text: the one asked for, label 1 for binary, the longest horizon for
    survival, else the likeliest one."""
    objective = Objective.of_model(model.config)
    if output is None and objective.task in ("tiers", "propensity"):
        logits = np.empty((len(ids), len(objective.classes)))
        with torch.no_grad():
            for rows in _batches(ids):
                text, mask = padded(tokenizer, [ids[i] for i in rows], 1).to(model.device).values()
                logits[rows] = model(input_ids=text, attention_mask=mask).logits.cpu().numpy()
        return logits.argmax(axis=1)
    default = {"binary": 1, "survival": len(objective.classes) - 1}.get(objective.task, 0)
    return np.full(len(ids), default if output is None else output)


def outputs_of(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    ids: Sequence[Sequence[int] | np.ndarray],
    outputs: np.ndarray,
    bar: tqdm,
) -> np.ndarray:
    """The output that `attribute` explains of many texts, given their tokens and the index of the class of each."""
    found = np.empty(len(ids))
    with torch.no_grad(), bar:
        for rows in _batches(ids, 256):
            text, mask = padded(tokenizer, [ids[i] for i in rows], 1).to(model.device).values()
            of_rows = torch.from_numpy(outputs[rows]).to(model.device)
            found[rows] = explained(model, text, mask, of_rows).cpu().numpy()
            bar.update(len(rows))
    return found


def _batches(ids: Sequence[Sequence[int] | np.ndarray], rows: int = ROWS_AT_A_TIME) -> Iterator[np.ndarray]:
    """Indices of texts of similar lengths, with TOKENS_AT_A_TIME at most."""
    order = np.argsort([len(text) for text in ids], kind="stable")
    while len(order):
        rows = max(1, min(rows, TOKENS_AT_A_TIME // len(ids[order[-1]])))
        order, batch = order[:-rows], order[-rows:]
        yield batch
