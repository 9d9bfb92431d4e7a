import duckdb
import pytest

from finetune.serving.classifier import EventClassifier


@pytest.fixture(scope="module")
def classifier(trained):
    return EventClassifier.from_pretrained(trained.run_folder / "model")


@pytest.fixture(scope="module")
def log_table(trained):
    """The log that it was trained on."""
    query = "SELECT user AS user_id, time AS event_time, what AS event_type, amount, shop FROM read_csv(?)"
    return duckdb.sql(query, params=[trained.data.sources[0].path]).to_arrow_table()
