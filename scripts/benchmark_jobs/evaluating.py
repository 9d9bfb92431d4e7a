"""From simulated predictions to metrics with intervals, as finetune.evaluation.evaluate makes them."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def compare_predictions(rows: int, scorers: int, resamples: int) -> int:
    """The model and others on the same rows, four of each user, as finetune.evaluation.evaluate compares them."""
    from finetune.evaluation.rows import ScoredRows
    from finetune.evaluation.scorers import compare

    labels, scores, users = _predictions(rows, scorers)
    return compare(ScoredRows("binary", labels, scores, users), resamples)["rows"]


def compare_parts(rows: int, scorers: int, resamples: int) -> int:
    """The same with all else that finetune.evaluation.evaluate makes of predictions."""
    import numpy as np

    from finetune.evaluation.curves import curves
    from finetune.evaluation.profit import profit_curve
    from finetune.evaluation.rows import ScoredRows
    from finetune.evaluation.scorers import compare
    from finetune.evaluation.slices import by_cutoff, slice_metrics

    labels, scores, users = _predictions(rows, scorers)
    everyone = ScoredRows("binary", labels, scores, users)
    profit_curve(everyone, 1.0, 25.0, resamples, threshold=0.3)
    curves("binary", None, labels, scores)
    by_cutoff(everyone, np.datetime64("2024-01-01") + np.arange(rows) % 4, resamples)
    slice_metrics(everyone, (users % 4).astype(str).tolist(), 0.3, 100, resamples)
    return compare(everyone, resamples, threshold=0.3)["rows"]


def _predictions(rows: int, scorers: int) -> "tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]":
    """Labels, the scores of each scorer, and whose each row is."""
    import numpy as np

    from finetune.figures.measures import MODEL

    random = np.random.default_rng(0)
    labels = (random.random(rows) < 0.2).astype(np.int64)
    names = [MODEL, *(f"scorer_{i}" for i in range(1, scorers))]
    scores = {name: 1 / (1 + np.exp(1.5 - labels - random.normal(size=rows))) for name in names}
    return labels, scores, np.arange(rows) // 4
