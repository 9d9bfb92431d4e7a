"""Scores by Spark on local[2] against those of one machine; needs Java 17."""

import shutil

import duckdb
import pyarrow.parquet as pq
import pytest

from data_prep import InputError
from data_prep.config import DataConfig, Source
from finetune.serving.on_spark import predict_on_spark
from finetune.serving.predict import predict_log

pytestmark = [
    pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java 17"),
    pytest.mark.xdist_group("Spark"),  # one worker starts it
]
CUTOFF = "2024-03-25"


@pytest.fixture(scope="module")
def data(log_table, tmp_path_factory):
    """The log that the model was trained on, in two files that both have events of most users, and a row of nobody."""
    folder = tmp_path_factory.mktemp("log")
    log = log_table  # by its name in the queries
    assert len(log) > 100
    duckdb.sql(f"COPY (FROM log LIMIT {len(log) // 2}) TO '{folder / 'a.parquet'}'")
    nobody = "SELECT NULL, event_time, event_type, amount, shop FROM log LIMIT 1"
    duckdb.sql(f"COPY ((FROM log OFFSET {len(log) // 2}) UNION ALL ({nobody})) TO '{folder / 'b.parquet'}'")
    return DataConfig([Source(path=str(folder / "*.parquet"))])


@pytest.fixture(scope="module")
def model(trained):
    return trained.run_folder / "model"


def test_scores_texts_vectors_and_notes_are_those_of_one_machine(model, data, spark, tmp_path, capfd):
    settings = {"part_users": 40, "text": True, "embeddings": True, "top": 0.1}
    one = predict_log(model, data, CUTOFF, tmp_path / "one.parquet", **settings)
    said = capfd.readouterr().out
    other = predict_on_spark(model, data, CUTOFF, tmp_path / "other.parquet", spark, **settings)
    assert capfd.readouterr().out == said.replace("one.", "other.")
    assert "left out 1 row with no user" in said
    found, expected = pq.read_table(other), pq.read_table(one)
    assert len(found) > 100
    for name in ("user_id", "cutoff", "label", "text"):
        assert found[name].equals(expected[name])
    assert abs(found["score"].to_numpy() - expected["score"].to_numpy()).max() < 1e-6
    vectors = [table["embedding"].combine_chunks().flatten().to_numpy() for table in (found, expected)]
    assert abs(vectors[0] - vectors[1]).max() < 1e-5
    assert found.schema.metadata == expected.schema.metadata
    assert (tmp_path / "other.top.csv").read_text() == (tmp_path / "one.top.csv").read_text()
    names = {"one.parquet", "one.top.csv", "other.parquet", "other.top.csv"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_what_cannot_be_done_is_said_and_nothing_is_left(model, data, spark, tmp_path, monkeypatch):
    output = tmp_path / "scores.parquet"
    with pytest.raises(InputError, match="no event lies before the cutoff 2023-01-01"):
        predict_on_spark(model, data, "2023-01-01", output, spark)
    words = DataConfig([Source(sql=f"SELECT * REPLACE ('many' AS amount) FROM '{data.sources[0].path}'")])
    with pytest.raises(InputError, match=r"events.*Could not convert string 'many' to DOUBLE"):
        predict_on_spark(model, words, CUTOFF, output, spark)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="accelerate launch exclude each other"):
        predict_on_spark(model, data, CUTOFF, output, spark)
    assert list(tmp_path.iterdir()) == []


def test_parts_of_a_command_without_spark_are_left_to_it(model, data, spark, tmp_path):
    (tmp_path / "scores.parquet.parts").mkdir()
    (tmp_path / "scores.parquet.parts" / "plan.json").write_text("{}")
    with pytest.raises(InputError, match="run it again without --engine spark"):
        predict_on_spark(model, data, CUTOFF, tmp_path / "scores.parquet", spark)
    assert (tmp_path / "scores.parquet.parts" / "plan.json").is_file()
