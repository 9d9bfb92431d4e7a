"""What a user would pick instead of BERT, fitted on the training split's aggregates and tuned on validation."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, QuantileTransformer
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from finetune.batching import read_split

# 12 points; the number of trees comes from the validation curve of each.
BOOSTING_GRID = [
    {"learning_rate": rate, "max_leaf_nodes": leaves, "min_samples_leaf": smallest}
    for rate in (0.04, 0.08)
    for leaves in (5, 10, 20)
    for smallest in (50, 200)
]
MAX_TREES = 300
SMALL = 5000  # rows
TREE_STEP = 25  # the curve is read at every 25th tree
LOGISTIC_GRID = [0.0003, 0.001, 0.01, 0.1]  # C


@dataclass
class Baselines:
    """Scores of each baseline.

    Attributes:
        scores: Split -> baseline -> probability of label 1 for each row, in the split's order.
        settings: Baseline -> the settings that validation chose.
    """

    scores: dict[str, dict[str, np.ndarray]]
    settings: dict[str, dict]


def score_baselines(
    folder: Path, aggregates: list[str], limits: dict[str, int | None] | None = None, seed: int = 0
) -> Baselines:
    """Fit and tune all baselines on a prepared folder and score validation and test.

    - recency_rule: a logistic curve over the days since the last event of the kind that the label is about, so that it
      ranks by recency alone.
    - logistic_regression: all aggregates, quantile-transformed to normal, missing values at the median and flagged; C
      by validation AUROC.
    - gradient_boosting: scikit-learn's histogram boosting on all aggregates; 12-point grid and number of trees by
      validation AUROC.

    Args:
        folder: The prepared data.
        aggregates: The columns that are inputs.
        limits: Split -> number of rows that are drawn from it; without it all.
        seed: Of the boosting and the quantile estimates.
    """
    features, labels = {}, {}
    for split in ("train", "validation", "test"):
        table = read_split(folder, split, (limits or {}).get(split), [*aggregates, "label"])
        features[split] = np.column_stack([table[name].to_numpy().astype(np.float64) for name in aggregates])
        labels[split] = table["label"].to_numpy()
    baselines = Baselines({"validation": {}, "test": {}}, {})

    def fit(model: ClassifierMixin) -> ClassifierMixin:
        return model.fit(features["train"], labels["train"])

    def auroc(model: ClassifierMixin) -> float:
        return roc_auc_score(labels["validation"], model.predict_proba(features["validation"])[:, 1])

    def keep(name: str, model: ClassifierMixin, settings: dict) -> None:
        baselines.settings[name] = settings
        for split, scores in baselines.scores.items():
            scores[name] = model.predict_proba(features[split])[:, 1]

    # Few rows gain nothing from a second thread, and on a busy machine threads that wait for each other lose minutes.
    threads = 1 if len(labels["train"]) < SMALL else None
    fits = 1 + len(LOGISTIC_GRID) + len(BOOSTING_GRID)
    with threadpool_limits(threads), tqdm(total=fits, desc="baselines", unit="fit") as bar:
        keep("recency_rule", fit(_recency_rule(aggregates.index("target_recency_days"))), {})
        bar.update()
        tried = []
        for strength in LOGISTIC_GRID:
            tried.append((fit(_logistic_regression(strength, len(labels["train"]), seed)), {"C": strength}))
            bar.update()
        keep("logistic_regression", *max(tried, key=lambda pair: auroc(pair[0])))
        tried = []
        for point in BOOSTING_GRID:
            trees = _best_trees(point, features, labels, seed)
            tried.append((*trees, point))
            bar.update()
        _, trees, point = max(tried, key=lambda entry: entry[0])
        model = HistGradientBoostingClassifier(**point, max_iter=trees, early_stopping=False, random_state=seed)
        keep("gradient_boosting", fit(model), point | {"max_iter": trees})
    return baselines


def _recency_rule(column: int) -> ClassifierMixin:
    """A user who never had such an event counts as longest ago."""
    select = FunctionTransformer(lambda rows: np.log1p(np.nan_to_num(rows[:, [column]], nan=10_000.0)))
    return make_pipeline(select, LogisticRegression(C=1e6))


def _logistic_regression(strength: float, rows: int, seed: int) -> ClassifierMixin:
    return make_pipeline(
        SimpleImputer(strategy="median", add_indicator=True),
        QuantileTransformer(
            n_quantiles=min(1000, rows), output_distribution="normal", subsample=20_000, random_state=seed
        ),
        LogisticRegression(C=strength, solver="newton-cholesky", max_iter=100),
    )


def _best_trees(point: dict, features: dict, labels: dict, seed: int) -> tuple[float, int]:
    """The best validation AUROC over the number of trees, and that number."""
    model = HistGradientBoostingClassifier(**point, max_iter=MAX_TREES, early_stopping=False, random_state=seed)
    model.fit(features["train"], labels["train"])
    curve = {
        trees: roc_auc_score(labels["validation"], scores[:, 1])
        for trees, scores in enumerate(model.staged_predict_proba(features["validation"]), start=1)
        if trees % TREE_STEP == 0
    }
    trees = max(curve, key=curve.get)
    return curve[trees], trees
