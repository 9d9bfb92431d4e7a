"""A model that is asked right after events: from its YAML to report, card, scores and explanation."""

from collections import defaultdict
from datetime import datetime

import pyarrow.parquet as pq
import pytest
import yaml

from data_prep import InputError
from data_prep.prepare import prepare
from finetune.evaluation.backtest import score_later
from finetune.evaluation.evaluate import evaluate
from finetune.evaluation.periods import DAYS, EVENTS
from finetune.experiment.parser import changed, parse_experiment
from finetune.hub.model_card import write_model_card
from finetune.report.report import write_report
from finetune.serving.classifier import EventClassifier
from finetune.serving.drivers import explain_sample
from finetune.serving.explain import explain_user
from finetune.serving.predict import predict_log
from finetune.training.train import train
from finetune.upkeep.monitor import monitor
from tests.conftest import tiny_config, write_log
from tests.finetune.serving.own_log import log_of

VIEW = "event_type = 'view'"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The experiment, its metrics and its classifier."""
    folder = tmp_path_factory.mktemp("moments")
    write_log(folder / "log.csv")
    config = tiny_config(folder)
    bounds = {"train": ("2024-01-05", "2024-02-20"), "validation": ("2024-03-01", "2024-03-10")}
    bounds["test"] = ("2024-03-20", "2024-03-29")
    at = {"at": VIEW, "per_user": 3, "gap": "1d"}
    cutoffs = {split: {"first": first, "last": last} | at for split, (first, last) in bounds.items()}
    label = {"kind": "exists", "where": "event_type = 'purchase'", "horizon": "5d"}
    config["task"], config["pretraining"] = {"label": label, "cutoffs": cutoffs}, {"max_steps": 0}
    config["text"]["session_gap"] = "12 hours"
    (folder / "moments.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    experiment = parse_experiment("", ["--config", str(folder / "moments.yaml")])
    prepare(experiment.name, experiment.data, experiment.task, experiment.text)
    train(experiment)
    metrics = evaluate(experiment)
    write_model_card(experiment.run_folder)
    write_report(experiment.run_folder)
    return experiment, metrics, EventClassifier.from_pretrained(experiment.model_folder)


def test_texts_and_scores_are_those_of_the_prepared_rows(run):
    experiment, _, classifier = run
    rows = pq.read_table(experiment.data_folder / "test.parquet").to_pylist()
    scores = {
        (row["user_id"], row["cutoff"]): row["score"]
        for row in pq.read_table(experiment.run_folder / "predictions" / "test.parquet").to_pylist()
    }
    log, by_moment = log_of(experiment), defaultdict(list)
    for row in rows[:: len(rows) // 12]:
        by_moment[row["cutoff"]].append(row)
    for moment, expected in by_moment.items():
        found = {row["user_id"]: row for row in classifier.predict(log, moment, text=True).to_pylist()}
        for row in expected:
            answer = found[row["user_id"]]
            assert answer["cutoff"] == moment
            assert row["text"].startswith(answer["text"])  # the model reads no more of it
            assert answer["score"] == pytest.approx(scores[row["user_id"], moment], abs=1e-5)


def test_last_scores_each_user_right_after_their_last_event(run, tmp_path):
    experiment, _, classifier = run
    log = log_of(experiment)
    last = {row["user_id"]: row for row in sorted(log, key=lambda row: row["event_time"])}
    found = classifier.predict(log, "last", text=True)
    assert {row["user_id"]: str(row["cutoff"]) for row in found.to_pylist()} == {
        user: row["event_time"] for user, row in last.items()
    }
    for user in list(last)[:5]:
        alone = classifier.predict([row for row in log if row["user_id"] == user], last[user]["event_time"], text=True)
        (row,) = [row for row in found.to_pylist() if row["user_id"] == user]
        assert alone.to_pylist()[0] | {"score": None} == row | {"score": None}
    asked = classifier.predict(log, "last", population=True)
    assert set(asked["user_id"].to_pylist()) == {user for user, row in last.items() if row["event_type"] == "view"}
    path = predict_log(experiment.model_folder, experiment.data, "last", tmp_path / "scores.parquet", part_users=40)
    written = pq.read_table(path).sort_by("user_id").to_pylist()
    assert [row["score"] for row in written] == pytest.approx(found["score"].to_pylist(), abs=1e-5)


def test_last_is_refused_where_the_model_was_asked_on_dates(trained):
    classifier = EventClassifier.from_pretrained(trained.model_folder)
    with pytest.raises(InputError, match="last is for models whose cutoffs were at events"):
        classifier.predict(log_of(trained), "last")


def test_report_and_card_say_what_a_moment_is_and_draw_no_cutoff_for_each(run):
    experiment, metrics, _ = run
    assert metrics["contact"] is None
    assert 1 < len(metrics["by_cutoff"]) <= 12
    assert sum(entry["rows"] for entry in metrics["by_cutoff"]) == metrics["test"]["rows"]
    assert metrics["slices"].keys() == {"events seen", "age of the history"}
    for name, order in {"events seen": EVENTS, "age of the history": DAYS}.items():
        (few,) = [part for part in ("groups", "too_small") if metrics["slices"][name][part]]
        values = [group["value"] for group in metrics["slices"][name][few]]
        assert values == [value for value in order if value in values]
        assert len(values) > 1 or name == "age of the history"
    assert metrics["test"]["most_per_user"] <= 3
    assert "right after a moment" in (experiment.run_folder / "report.html").read_text(encoding="utf-8")
    card = (experiment.model_folder / "README.md").read_text(encoding="utf-8")
    assert 'predict(events, cutoff="last")' in card
    assert f"WHERE ({VIEW})" in card
    assert "event_time > cutoff AND event_time <= cutoff + INTERVAL '5 days'" in card


def test_an_explanation_takes_a_moment_and_the_last_event(run):
    experiment, _, classifier = run
    log = log_of(experiment)
    (last,) = [max(row["event_time"] for row in log if row["user_id"] == "u1")]
    for cutoff in ("last", last):
        found = explain_user(classifier, log, cutoff, "u1", steps=32)
        assert found["cutoff"] == datetime.fromisoformat(last).strftime("%Y-%m-%d %H:%M:%S")
        assert found["events"][0]["days_before"] == 0
    sample = explain_sample(classifier, log, "last", 5, steps=32, population=True)
    assert sample["users"] == 5


def test_a_monitor_watches_a_time_as_long_as_that_of_the_test(run, tmp_path):
    experiment, _, _ = run
    page, before = tmp_path / "drift.html", changed(experiment, {"task.cutoffs.test.last": "2024-04-20"})
    result = monitor(
        experiment.model_folder, before, "2024-04-05", page, draws=20
    )  # the config's own test is not asked
    assert (result["cutoff"], result["until"]) == ("2024-04-05", "2024-04-15")
    assert result["reference"] == {"inputs": ["2024-01-05"], "later": ["2024-03-01", "2024-03-20"]}
    same = changed(experiment, {"task.cutoffs.test.first": "2024-04-05", "task.cutoffs.test.last": "2024-04-14"})
    rows = score_later(experiment.model_folder, same.data, same.task).rows.to_pylist()
    assert result["rows"] == len({row["user_id"] for row in rows}) < len(rows)
    assert {entry["name"] for entry in result["outcomes"]} == {"auroc", "lift_at_10", "calibration"}
    assert "2024-04-05" in page.read_text()
    beside = monitor(experiment.model_folder, experiment, "2024-03-25", page, draws=5)
    assert beside["reference"]["later"] == ["2024-03-01"]  # that of the test has some of the same rows
    with pytest.raises(InputError, match="--cutoff"):
        monitor(experiment.model_folder, experiment, "2024-04-28", page, draws=5)  # the log ends within that time
