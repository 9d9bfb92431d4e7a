"""A factor on values, by which their absolute error on validation is the least."""

from dataclasses import asdict

import numpy as np

from finetune.experiment.config import Experiment
from finetune.model.objective import Scale
from finetune.training.trainer import LengthGroupedTrainer

FEW = 100  # rows that are too few to tell a factor


def scaled_to_validation(experiment: Experiment, trainer: LengthGroupedTrainer) -> dict[str, float]:
    """Let values by the absolute error stand for so many times as much as makes it the least on validation.

    The squared distance from the teacher draws large values towards the middle. A factor on them is a part of the
    scale, so that the weights stay as they are.

    Returns:
        value_factor, for the training log; nothing where nothing is scaled.
    """
    settings, kept = experiment.finetuning, trainer.model.config.eventscribe
    if not kept["scale"] or settings.value_loss != "absolute_error" or settings.log_scale or settings.privacy:
        return {}
    scale, found = Scale(**kept["scale"]), trainer.predict(trainer.eval_dataset)
    labels, scores = (scale.value(np.asarray(part).reshape(-1)) for part in (found.label_ids, found.predictions))
    factor = best_factor(labels, scores)
    kept["scale"] = asdict(scale.times(factor))
    before, after = (np.abs(times * scores - labels).mean() for times in (1, factor))
    if trainer.is_world_process_zero() and factor != 1:
        print(f"values are multiplied by {factor:.3f}: MAE {before:,.4g} -> {after:,.4g} on validation")
    return {"value_factor": factor}


def best_factor(labels: np.ndarray, scores: np.ndarray) -> float:
    """By what values have to be multiplied so that their absolute error is the least: the median of label / score,
    weighted by the distance of the score from zero, of the scores that are not zero. It is 1 where these are fewer than
    FEW, and where it would be zero or turn values around.

    Args:
        labels: Of shape (rows,).
        scores: In the labels' unit, of shape (rows,).
    """
    known = scores != 0
    if known.sum() < FEW:
        return 1.0
    ratios, weights = labels[known] / scores[known], np.abs(scores[known])
    order = np.argsort(ratios, kind="stable")
    summed = np.cumsum(weights[order])
    factor = float(ratios[order][np.searchsorted(summed, summed[-1] / 2)])
    return factor if factor > 0 else 1.0
