"""The model beside the baselines on the same rows, with paired intervals, for one checkpoint and for several seeds."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.special import expit

from finetune.evaluation.bootstrap import bootstrap, bootstrap_at_threshold, interval, interval_names
from finetune.evaluation.rows import ScoredRows
from finetune.figures.measures import BLEND, MAIN, MODEL, NO_RIVALS
from finetune.figures.metrics import at_threshold, deciles, tier_confusion
from finetune.model.objective import EDGE, log_odds


def compare(scored: ScoredRows, resamples: int, threshold: float | None = None) -> dict:
    """Metrics of the model and of each baseline on the same rows.

    Args:
        scored: The rows with the scores of the model and of the baselines.
        resamples: Of the bootstrap, which draws whole users; 0 leaves the intervals out.
        threshold: From which on a row counts as positive; of the model alone.

    Returns:
        rows, users, positives, the model's metrics with intervals, and under "baselines" the same for each baseline,
        with the difference model minus baseline and its paired interval; of the blend also, as "over", its difference
        to each baseline that does not know the model.
    """
    task, labels = scored.task, scored.labels
    figures = {name: scored.figures(values) for name, values in scored.scores.items()}
    result = scored.counts() | _beside(scored, figures, bootstrap(scored, resamples) if resamples else None)
    if task == "tiers":
        result["confusion"] = tier_confusion(labels, scored.model)
    if task == "value":
        result["deciles"] = deciles(labels, scored.model)
    if threshold is not None:
        result |= at_threshold(labels, scored.model, threshold)
        if resamples:
            reached = bootstrap_at_threshold(labels, scored.model, scored.users, threshold, resamples)
            result |= {f"{metric}_interval": interval(values) for metric, values in reached.items()}
    return result


def over_seeds(scored: ScoredRows, runs: list[np.ndarray], resamples: int, threshold: float | None = None) -> dict:
    """How good a single checkpoint of the seeds is, over users and seeds: each resample draws users, and as many seeds
    as there are, with replacement.

    Of few seeds the spread between them comes out too small, by a factor of sqrt(1 - 1 / seeds).

    Args:
        scored: The rows with the scores of the model and of the baselines.
        runs: The scores of each seed.
        resamples: Of the bootstrap.
        threshold: From which on a row counts as positive, whatever the seed.

    Returns:
        As `compare`, without the counts and the confusion matrix: each metric is the mean over the seeds, of the blend
        too, which is that of a single checkpoint; and deviation, of the main metric between the seeds.
    """
    several: dict[str, list[np.ndarray]] = {MODEL: runs}
    if BLEND in scored.scores:
        boosting = boosting_of(scored.task, scored.scores)
        several[BLEND] = [blend(scored.task, scores, boosting) for scores in runs]
    everyone = {name: values for name, values in scored.scores.items() if name not in several}
    everyone |= {f"{name} {at}": values for name, each in several.items() for at, values in enumerate(each)}
    figures = {name: scored.figures(values) for name, values in everyone.items()}
    drawn = bootstrap(replace(scored, scores=everyone), resamples)
    found = [figures[f"{MODEL} {at}"][MAIN[scored.task]] for at in range(len(runs))]
    for name in several:
        keys = [f"{name} {at}" for at in range(len(runs))]
        figures[name] = mean_figures([figures.pop(key) for key in keys])
        drawn[name] = one_of([drawn.pop(key) for key in keys])
    result = {"deviation": float(np.std(found, ddof=1))} | _beside(scored, figures, drawn if resamples else None)
    if threshold is not None:
        result |= mean_figures([_without_confusion(at_threshold(scored.labels, run, threshold)) for run in runs])
        if resamples:
            each = [bootstrap_at_threshold(scored.labels, run, scored.users, threshold, resamples) for run in runs]
            result |= {f"{metric}_interval": interval(values) for metric, values in one_of(each).items()}
    return result


def _without_confusion(figures: dict) -> dict[str, float]:
    return {metric: value for metric, value in figures.items() if metric != "confusion"}


def mean_figures(seeds: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each metric over the seeds."""
    return {metric: float(np.mean([figures[metric] for figures in seeds])) for metric in seeds[0]}


def one_of(seeds: list[dict[str, np.ndarray]], seed: int = 0) -> dict[str, np.ndarray]:
    """The metrics of a single checkpoint of several seeds on each resample, which draws as many seeds as there are.

    Args:
        seeds: Of each the metrics on each resample of the users, as `bootstrap` gives them.
        seed: Of these draws.
    """
    resamples = len(next(iter(seeds[0].values())))
    picked = np.random.default_rng(seed).integers(0, len(seeds), (len(seeds), resamples))
    return {
        metric: np.stack([drawn[metric] for drawn in seeds])[picked, np.arange(resamples)].mean(axis=0)
        for metric in seeds[0]
    }


def _beside(scored: ScoredRows, figures: dict[str, dict[str, float]], drawn: dict | None) -> dict:
    """The model's metrics with their intervals, and under "baselines" the others' with the differences; see `compare`.

    Args:
        scored: The rows; of several seeds the scores of model and blend are those of one.
        figures: Scorer -> metric -> figure.
        drawn: The same on each resample of the bootstrap.
    """
    intervals, main = interval_names(scored.task, scored.model), MAIN[scored.task]
    baselines: dict[str, dict[str, Any]] = {name: dict(measured) for name, measured in figures.items()}
    if drawn:
        for name, measured in baselines.items():
            measured |= {f"{metric}_interval": interval(drawn[name][metric]) for metric in intervals}
    result = baselines.pop(MODEL)
    for name, baseline in baselines.items():
        for metric in intervals:
            baseline[f"{metric}_difference"] = result[metric] - baseline[metric]
            if drawn:
                paired = drawn[MODEL][metric] - drawn[name][metric]
                # Of scores without ties average precision lies above the base rate by chance alone: against a constant
                # score the interval called random scores ahead in 10 % of the simulations, where it should in 2.5 %.
                unfair = metric.endswith("average_precision") and len(np.unique(scored.scores[name])) == 1
                baseline[f"{metric}_difference_interval"] = [math.nan] * 2 if unfair else interval(paired)
    if BLEND in baselines and drawn:
        baselines[BLEND]["over"] = {
            name: {
                "difference": baselines[BLEND][main] - baselines[name][main],
                "interval": interval(drawn[BLEND][main] - drawn[name][main]),
            }
            for name in baselines
            if name not in NO_RIVALS
        }
    return result | {"baselines": baselines}


def boosting_of(task: str, scores: dict[str, np.ndarray]) -> np.ndarray:
    """The scores of boosting, of propensity those of boosting over pairs."""
    return scores["pair_boosting" if task == "propensity" else "gradient_boosting"]


def blend(task: str, model: np.ndarray, boosting: np.ndarray) -> np.ndarray:
    """The mean of model and boosting: of values, and else of log-odds or log-probabilities.

    Both weigh the same: weights that a few thousand validation rows choose were worse than the parts, and on the
    training rows the model is no judge of itself.

    Args:
        task: binary, tiers, propensity or value.
        model: Scores as `finetune.figures.metrics.compute_metrics` takes them.
        boosting: The same.
    """
    if task == "value":
        return (model + boosting) / 2
    if task == "tiers":
        mean = np.sqrt(np.maximum(model, EDGE) * np.maximum(boosting, EDGE))
        return mean / mean.sum(axis=1, keepdims=True)
    return expit((log_odds(model) + log_odds(boosting)) / 2)
