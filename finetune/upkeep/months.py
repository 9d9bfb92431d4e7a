"""Months as a monitor sees them: the rows of a cutoff as arrays, and how far one month lies from others."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from data_prep.features import plain
from data_prep.history import combined
from data_prep.phrases import event_starts
from data_prep.serializer import EventSerializer
from finetune.evaluation.drift import VALUES, ages, bins_of, decile_edges, numbers, stability
from finetune.figures.measures import LOWER_IS_BETTER, MAIN
from finetune.figures.metrics import compute_metrics, running_total
from finetune.figures.survival import concordance, integrated, kaplan_meier, mean_known, risk, weighted
from finetune.model.tokens import Tokens
from finetune.upkeep.alarms import Family

UNKNOWN = "unknown words"
LIFT, BRIER = "lift_at_10", "integrated_brier_score"
SCORE, ABOVE, CALIBRATION = "score", "share above the threshold", "calibration"
FEW = 3  # rows that never ring by themselves


@dataclass(frozen=True)
class Month:
    """The rows of a cutoff, each of another user.

    Attributes:
        cutoff: As it is written.
        values: Input -> of shape (rows,), numbers or words.
        words: What is counted of texts -> how often and of how many, of shape (2, rows).
        scores: Calibrated, as `Objective.scores` has them; None of rows that the model was trained on.
        labels: None where they are not known.
    """

    cutoff: str
    values: dict[str, np.ndarray]
    words: dict[str, np.ndarray]
    scores: np.ndarray | None = None
    labels: np.ndarray | None = None

    @property
    def rows(self) -> int:
        """Their number."""
        return len(next(iter(self.values.values())))


def inputs_of(
    rows: pa.Table,
    tokens: Tokens,
    tokenizer: PreTrainedTokenizerBase,
    serializer: EventSerializer,
    aggregates: Sequence[str],
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What is compared of each row: see `Month.values` and `Month.words`.

    Args:
        rows: With text and the aggregates.
        tokens: Of the texts.
        tokenizer: That made them.
        serializer: That wrote the texts.
        aggregates: Their names.
    """
    texts, values = combined(rows["text"]).to_pylist(), {name: numbers(rows[name]) for name in aggregates}
    fields = [plain(name) for name in serializer.fields] if serializer.config.style == "words" else []
    patterns = {name: re.compile(rf"(?<!\S){re.escape(name)}=(\S+)") for name in ("gap", *fields)} if fields else {}
    events, newest = [], {name: [] for name in patterns}
    for text in texts:
        starts = [*event_starts(text), len(text)]
        events.append(len(starts) - 1)
        for name, pattern in patterns.items():
            found = pattern.search(text, starts[0], starts[min(1, len(starts) - 1)])
            newest[name].append(found[1] if found else "")
    values |= {"text_events": np.array(events, float), "text_tokens": tokens.lengths.astype(float)}
    values |= {f"newest_{name}": np.array(words, str) for name, words in newest.items()}
    words = {
        f"other values of {name}": _others(texts, plain(name))
        for name, fitted in serializer.fields.items()
        if fields and fitted["kind"] == "categorical"
    }
    if tokenizer.unk_token_id is not None:
        unknown = np.append(0, np.cumsum(tokens.ids == tokenizer.unk_token_id))
        words[UNKNOWN] = np.stack([np.diff(unknown[tokens.starts]), tokens.lengths]).astype(float)
    return values, words


def _others(texts: Sequence[str], name: str) -> np.ndarray:
    """How often each text says `other` of a field, of how often it says anything of it; of shape (2, rows)."""
    spaced = [f" {text.replace(' ', '  ')} " for text in texts]  # what is searched begins and ends with a space
    return np.array([[text.count(f" {name}={end}") for text in spaced] for end in ("other ", "")], float)


def input_family(train: Sequence[Month], later: Sequence[Month], at_hand: Month, aggregates: list[str]) -> Family:
    """How far each input lies from the training rows: the population stability index, see `finetune.evaluation.drift`.

    What ages by construction, such as tenure, is left out.

    Args:
        train: The months of training, which together are the reference.
        later: Those of validation and test.
        at_hand: The month that is watched.
        aggregates: The names of all aggregates.
    """
    names = [name for name in at_hand.values if not ages(name, aggregates)]
    coded = [_Coded.of(name, train) for name in names]
    reference = [*train, *later]
    codes = {id(month): [code(month.values[code.name]) for code in coded] for month in (*reference, at_hand)}
    counted = {key: [code.counts(part) for code, part in zip(coded, bins, strict=True)] for key, bins in codes.items()}
    whole = [np.sum([counted[id(month)][i] for month in train], axis=0) for i in range(len(coded))]
    # A month of training is compared with the others: within the reference it would lie nearer than a new one can.
    others = {
        id(month): [sums - counts for sums, counts in zip(whole, counted[id(month)], strict=True)]
        for month in (train if len(train) > 1 else ())
    }

    def measure(place: int | None, rows: np.ndarray) -> dict[str, float]:
        month = at_hand if place is None else reference[place]
        beside, bins = others.get(id(month), whole), codes[id(month)]
        return {code.name: stability(beside[i], code.counts(bins[i][rows])) for i, code in enumerate(coded)}

    empty, few = np.array([10 * at_hand.rows, 0]), np.array([at_hand.rows - FEW, FEW])
    least = dict.fromkeys(names, stability(empty, few) if at_hand.rows > FEW else 0.0)
    return Family("inputs", [month.rows for month in reference], measure, least, frozenset(names))


@dataclass(frozen=True)
class _Coded:
    """How the values of an input are sorted into bins: numbers by deciles, words by the most frequent ones."""

    name: str
    edges: np.ndarray | None
    kept: np.ndarray | None
    bins: int

    @classmethod
    def of(cls, name: str, train: Sequence[Month]) -> "_Coded":
        values = np.concatenate([month.values[name] for month in train])
        if values.dtype.kind == "f":
            edges = decile_edges(values)
            return cls(name, edges, None, len(edges) + 2)
        kept = np.sort([word for word, _ in Counter(values.tolist()).most_common(VALUES)])
        return cls(name, None, kept, len(kept) + 1)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        if self.edges is not None:
            return bins_of(values, self.edges)
        assert self.kept is not None
        place = np.minimum(np.searchsorted(self.kept, values), len(self.kept) - 1)
        return np.where(self.kept[place] == values, place, len(self.kept))

    def counts(self, bins: np.ndarray) -> np.ndarray:
        return np.bincount(bins, minlength=self.bins)


def word_family(later: Sequence[Month], at_hand: Month) -> Family:
    """By how much the share of words that say nothing has risen: values that are `other`, words that are unknown.

    The reference are months that neither serializer nor tokenizer was fitted to.
    """
    names = [name for name, (_, of) in at_hand.words.items() if of.sum()]
    beside = {
        place: {name: _share(*np.concatenate([month.words[name] for month in months], axis=1)) for name in names}
        for place, months in _besides(later).items()
    }

    def measure(place: int | None, rows: np.ndarray) -> dict[str, float]:
        month, there = at_hand if place is None else later[place], beside[place]
        return {name: _share(*month.words[name][:, rows]) - there[name] for name in names}

    least = dict.fromkeys(names, FEW / at_hand.rows)  # of words of a user one rarely comes alone
    return Family("words", [month.rows for month in later], measure, least)


def score_family(later: Sequence[Month], at_hand: Month, threshold: float | None) -> Family:
    """How far the scores lie from those of months that the model was not trained on: the index, and the share above."""
    spread = {id(month): score_line(_scores(month)) for month in (*later, at_hand)}
    edges = decile_edges(np.concatenate([spread[id(month)] for month in later]))
    bins = {key: bins_of(scores, edges) for key, scores in spread.items()}
    whole, above = {}, {}
    for place, months in _besides(later).items():
        counted = np.concatenate([bins[id(month)] for month in months])
        whole[place] = np.bincount(counted, minlength=len(edges) + 2)
        if threshold is not None:
            above[place] = np.mean(np.concatenate([spread[id(month)] for month in months]) >= threshold)

    def measure(place: int | None, rows: np.ndarray) -> dict[str, float]:
        key = id(at_hand if place is None else later[place])
        found = {SCORE: stability(whole[place], np.bincount(bins[key][rows], minlength=len(edges) + 2))}
        if threshold is None:
            return found
        return found | {ABOVE: abs(float(np.mean(spread[key][rows] >= threshold) - above[place]))}

    rows = [month.rows for month in later]
    return Family("scores", rows, measure, {ABOVE: FEW / at_hand.rows}, frozenset([SCORE]))


def outcome_family(
    later: Sequence[Month],
    at_hand: Month,
    task: str,
    horizons: np.ndarray | None = None,
) -> Family:
    """By how much outcomes fall short: of the main measure and lift, and how far scores and labels lie apart.

    Args:
        later: Months with scores and labels.
        at_hand: The same.
        task: See `finetune.model.objective.Objective`.
        horizons: See `outcomes`.
    """
    promised = {place: promise(task, months, horizons) for place, months in _besides(later).items()}

    def measure(place: int | None, rows: np.ndarray) -> dict[str, float]:
        month, there = at_hand if place is None else later[place], promised[place]
        assert month.labels is not None
        changes = {
            name: value - there[name]
            for name, value in outcomes(task, month.labels[rows], _scores(month)[rows], horizons).items()
        }
        gap = abs(changes.pop(CALIBRATION))
        return {name: _worse(name, change) for name, change in changes.items()} | {CALIBRATION: gap}

    return Family("outcomes", [month.rows for month in later], measure, {})


def promise(task: str, months: Sequence[Month], horizons: np.ndarray | None = None) -> dict[str, float]:
    """The outcomes of all rows of these months together."""
    labels, scores = (np.concatenate([getattr(month, name) for month in months]) for name in ("labels", "scores"))
    return outcomes(task, labels, scores, horizons)


def _besides(months: Sequence[Month]) -> dict[int | None, Sequence[Month]]:
    """What the month at hand (None) and each month of the reference are compared with: all others.

    Within the reference a month would lie nearer than a new one can; a single month has no others.
    """
    others = {place: [*months[:place], *months[place + 1 :]] or months for place in range(len(months))}
    return {None: months, **others}


def outcomes(task: str, labels: np.ndarray, scores: np.ndarray, horizons: np.ndarray | None = None) -> dict[str, float]:
    """The main measure, of yes or no the lift of the top tenth, and the mean score minus the mean label.

    With horizons (survival; in days, those that have passed) of their columns alone concordance, the Brier score, and
    the mean over them of the mean score minus the share whose event has come.
    """
    if horizons is not None:
        labels, scores = labels[:, : len(horizons)], scores[:, : len(horizons)]
        come, weights = weighted(labels)
        brier = np.where((weights > 0).any(axis=0), np.mean(weights * (come - scores) ** 2, axis=0), np.nan)
        found = {MAIN[task]: concordance(labels, risk(scores, horizons)), BRIER: float(integrated(brier, horizons))}
        return found | {CALIBRATION: apart(labels, scores, horizons)}
    main = MAIN[task]
    found = _ranked(labels, scores) if task == "binary" else {main: compute_metrics(task, labels, scores)[main]}
    return found | {CALIBRATION: apart(labels, scores)}


def apart(labels: np.ndarray, scores: np.ndarray, horizons: np.ndarray | None = None) -> float:
    """The mean score minus the mean label, see `outcomes`."""
    if horizons is not None:
        labels, scores = labels[:, : len(horizons)], scores[:, : len(horizons)]
        return mean_known(scores.mean(axis=0) - kaplan_meier(labels))
    known = labels.mean(axis=1) if labels.ndim > 1 else labels
    return float(score_line(scores).mean() - known.mean())


def _ranked(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """The same as `compute_metrics`, without its other measures: a hundred times faster, as a thousand months need."""
    seen, found = running_total(labels, scores)
    rows, positives = seen[-1], found[-1]
    if not 0 < positives < rows:
        return {MAIN["binary"]: float("nan"), LIFT: float("nan")}
    true, false = found / positives, (seen - found) / (rows - positives)
    return {MAIN["binary"]: float(np.trapezoid(true, false)), LIFT: float(np.interp(0.1 * rows, seen, true)) / 0.1}


def score_line(scores: np.ndarray) -> np.ndarray:
    """One number a row, of shape (rows,): of several classes the expected tier, or the mean probability of values."""
    if scores.ndim == 1:
        return scores
    tiers = np.allclose(scores.sum(axis=1), 1)
    return scores @ np.arange(scores.shape[1]) if tiers else scores.mean(axis=1)


def _worse(name: str, change: float) -> float:
    return change if name in LOWER_IS_BETTER else -change


def _scores(month: Month) -> np.ndarray:
    assert month.scores is not None, "as the model was not trained on its rows"
    return month.scores


def _share(times: np.ndarray, of: np.ndarray) -> float:
    return float(times.sum() / of.sum()) if of.sum() else 0.0
