import math
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from sklearn.metrics import roc_auc_score

from data_prep.prepare import prepare
from data_prep.prepared import prepared_for
from finetune.baselines import words
from finetune.baselines.fit import score_baselines
from finetune.baselines.words import directions, known_words
from finetune.experiment.parser import parse_experiment

HEADER = "recency_days=1 tea=9 [SEP] gap=2 event_type=purchase"
TRAIN = [f"{HEADER} tea pot tea", f"{HEADER} pot", f"{HEADER} unknown", f"{HEADER} cup, pot."]


def test_the_columns_are_tf_idf_as_computed_by_hand():
    found = directions({"train": TRAIN, "test": ["x [SEP] tea cup"]}, ["cup", "pot", "tea"], seed=0)
    idf = {word: 1 + math.log((1 + 4) / (1 + texts)) for word, texts in (("cup", 1), ("pot", 3), ("tea", 1))}
    rows = [
        [0, idf["pot"], (1 + math.log(2)) * idf["tea"]],
        [0, idf["pot"], 0],
        [0, 0, 0],
        [idf["cup"], idf["pot"], 0],
    ]
    lengths = [math.hypot(*row) or 1 for row in rows]
    expected = np.array(rows) / np.array(lengths)[:, None]
    np.testing.assert_allclose(found["train"], expected)
    np.testing.assert_allclose(found["test"], [[math.sqrt(0.5), 0, math.sqrt(0.5)]])  # equally rare


def test_the_directions_are_those_of_the_singular_values_of_training(monkeypatch):
    random = np.random.default_rng(0)
    known = [f"w{i}" for i in range(12)]
    texts = {split: [" ".join(random.choice(known, 6)) for _ in range(40)] for split in ("train", "test")}
    whole = directions(texts, known, seed=0)
    monkeypatch.setattr(words, "DIRECTIONS", 4)
    found = directions(texts, known, seed=0)
    right = np.linalg.svd(whole["train"], full_matrices=False)[2][:4]
    for split in texts:
        assert found[split].shape == (40, 4)
        np.testing.assert_allclose(np.abs(found[split]), np.abs(whole[split] @ right.T), atol=1e-3)


def test_thousands_of_texts_take_seconds():
    random = np.random.default_rng(0)
    known = [f"w{i}" for i in range(300)]
    texts = [" ".join(line) for line in random.choice(known, (10_000, 40))]
    start = time.process_time()
    directions({"train": texts, "test": texts[:100]}, known, seed=0)
    assert time.process_time() - start < 20


@pytest.fixture
def experiment(tmp_path):
    """Who bought tea last comes in the next ten days, and of the others each fifth."""
    random = np.random.default_rng(0)
    rows = []
    for user in range(400):
        name = "tea"
        for cycle in range(7):
            if "tea" in name or random.random() < 0.2:
                name = f"{random.choice(['red', 'blue'])} {random.choice(['tea', 'pot'])}"
                rows.append((f"u{user}", np.datetime64("2024-01-02T00:00:00") + np.timedelta64(10 * cycle, "D"), name))
    users, days, names = (list(column) for column in zip(*rows, strict=True))
    pq.write_table(pa.table({"user_id": users, "event_time": days, "name": names}), tmp_path / "log.parquet")
    columns = {"user_id": "user_id", "event_time": "event_time", "event_type": "'purchase'", "name": "name"}
    config = {
        "name": "words",
        "data": {"folder": str(tmp_path), "sources": [{"path": f"{tmp_path}/log.parquet", "columns": columns}]},
        "task": {
            "label": {"kind": "exists", "where": "event_type = 'purchase'", "horizon": "8 days"},
            "population": {"within": "90 days"},
            "cutoffs": {"train": ["2024-01-21", "2024-01-31"], "validation": ["2024-02-10"], "test": ["2024-02-20"]},
        },
        "text": {"fields": {"name": {"words": 3}}, "max_events": 1},
    }
    path = tmp_path / "words.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return parse_experiment("", ["--config", str(path)])


def test_models_of_words_appear_beside_those_of_aggregates_and_hear_what_words_say(experiment):
    folder = prepare(experiment.name, experiment.data, experiment.task, experiment.text)
    manifest = prepared_for(folder, experiment.task, experiment.text)
    assert known_words(folder, manifest) == ["blue", "pot", "red", "tea"]
    labels = pq.read_table(folder / "validation.parquet")["label"].to_numpy()
    baselines = score_baselines(folder, manifest)
    found = {name: roc_auc_score(labels, scores) for name, scores in baselines.scores["validation"].items()}
    assert list(found)[-2:] == ["word_regression", "word_boosting"]
    assert found["word_regression"] > found["logistic_regression"] + 0.05
    assert found["word_boosting"] > found["gradient_boosting"] + 0.05
    without = manifest | {"config": manifest["config"] | {"text": {"fields": {"name": {"words": None}}}}}
    assert list(score_baselines(folder, without).scores["test"])[-1] == "gradient_boosting"
