"""In a log where one kind of event alone raises the label, that event is what the explanation names."""

from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from data_prep.prepare import prepare
from finetune.experiment.parser import parse_experiment
from finetune.serving.attribution import attribute, deletion_test
from finetune.serving.classifier import EventClassifier
from finetune.training.train import train

START, WEEKS, USERS = datetime(2024, 1, 1), 10, 300
TEST = START + timedelta(weeks=9)


def planted_log(path):
    """One event a day; a user buys on the third day of a week if and only if there was an `x` in the week before."""
    random = np.random.default_rng(0)
    kinds = random.choice(["a", "b", "c", "x"], (USERS, WEEKS, 7), p=[0.32, 0.3, 0.3, 0.08])
    kinds = kinds.astype("<U8")
    for week in range(1, WEEKS):
        bought = (kinds[:, week - 1] == "x").any(axis=1)
        kinds[:, week, 2] = np.where(bought, "purchase", "a")
    user, week, day = (index.ravel() for index in np.indices(kinds.shape))
    time = np.datetime64(START, "us") + (7 * week + day).astype("timedelta64[D]") + np.timedelta64(12, "h")
    table = pa.table({"user_id": [f"u{i}" for i in user], "event_time": time, "event_type": kinds.ravel()})
    pq.write_table(table, path)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """The log, and a classifier that was trained on it from scratch."""
    folder = tmp_path_factory.mktemp("planted")
    planted_log(folder / "log.parquet")
    config = {
        "name": "planted",
        "data": {"folder": str(folder / "data"), "sources": [{"path": str(folder / "log.parquet")}]},
        "task": {
            "label": {"kind": "exists", "where": "event_type = 'purchase'", "horizon": "7 days"},
            "population": {"within": "7 days"},
            "cutoffs": {
                "train": {"first": "2024-01-15", "last": "2024-02-19", "every": "7 days"},
                "validation": ["2024-02-26"],
                "test": [f"{TEST:%Y-%m-%d}"],
            },
        },
        "text": {"header": ["recency", "counts"], "fields": {"event_type": {"top": 10}}, "max_events": 14},
        "model": {"from_scratch": {"hidden_size": 32, "layers": 1, "heads": 2}, "max_tokens": 64},
        "training": {
            "max_steps": 200,
            "eval_steps": 100,
            "learning_rate": 3e-3,
            "label_smoothing_factor": 0.1,  # or the log-odds end in a cliff, which takes many steps
            "per_device_train_batch_size": 64,
            "use_cpu": True,
            "seed": 0,
        },
        "evaluation": {"folder": str(folder / "runs")},
    }
    (folder / "planted.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    experiment = parse_experiment("", ["--config", str(folder / "planted.yaml")])
    prepare(experiment.name, experiment.data, experiment.task, experiment.text)
    train(experiment)
    classifier = EventClassifier.from_pretrained(experiment.run_folder / "model")
    rows = pq.read_table(folder / "data" / "planted" / "test.parquet", columns=["text", "label"])
    return classifier, rows["text"].to_pylist(), rows["label"].to_numpy()


def test_the_planted_cause_ranks_first_among_events_and_header_fields(planted):
    classifier, texts, labels = planted
    assert np.mean((classifier.score(texts) > 0.5) == labels) > 0.99
    caused = [text for text, label in zip(texts, labels, strict=True) if label]
    found = attribute(classifier.model, classifier.tokenizer, classifier.serializer, caused)
    first = []
    for attribution in found:
        top = int(attribution.events.argmax())
        kinds = {word.event: word.value for word in attribution.words if word.field == "event_type"}
        header = [push for word, push in zip(attribution.words, attribution.pushes, strict=True) if word.event < 0]
        # The newest seven events are the last week.
        first.append(top < 7 and kinds[top] == "x" and attribution.events[top] > max(header))
    assert len(first) > 100
    assert np.mean(first) >= 0.95
    assert np.mean([attribution.converged for attribution in found]) >= 0.95
    deletion = deletion_test(classifier.model, classifier.tokenizer, caused, found)
    assert deletion["difference_interval"][0] > 0
    assert deletion["top_is_larger"] > 0.9  # .94 to .97, as processors round differently
