"""A model that reads attributes of users: from its YAML to report, card, scores, service and explanation."""

import csv
import shutil
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from starlette.testclient import TestClient

from data_prep import InputError
from data_prep.config import DataConfig, UsersTable
from data_prep.prepare import prepare
from data_prep.prepared import prepared_for, read_manifest
from finetune.command import CommandParser
from finetune.evaluation.evaluate import evaluate
from finetune.experiment.parser import changed, parse_experiment
from finetune.hub.model_card import write_model_card
from finetune.hub.redaction import refuse_private
from finetune.report.report import write_report
from finetune.runs import read_task
from finetune.serving.classifier import EventClassifier
from finetune.serving.drivers import explain_sample
from finetune.serving.explain import explain_user
from finetune.serving.given_log import add_log_arguments, given_log, own_names
from finetune.serving.on_spark import predict_on_spark
from finetune.serving.predict import predict_log
from finetune.serving.service.app import make_app
from finetune.serving.service.engine import Engine
from finetune.serving.service.model import ServedModel
from finetune.serving.service.store import open_store
from finetune.training.train import train
from tests.conftest import tiny_config, write_log
from tests.finetune.serving.own_log import log_of

CUTOFF = "2024-04-01"
NAMES = ["user_id", "known_from", "age", "plan", "interests"]


def users_rows() -> list[list]:
    """Of two users of three; every other one of them has a newer row from the middle of the tests on."""
    rows = []
    for i in range(150):
        if i % 3:
            rows.append([f"u{i}", "2024-01-01", 20 + i % 50, ("basic", "gold plus", "")[i % 4 % 3], "wine and cheese"])
        if i % 6 == 1:
            rows.append([f"u{i}", "2024-03-25", 70, "basic", "travel"])
    return rows


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The experiment, its metrics and its classifier."""
    folder = tmp_path_factory.mktemp("users")
    write_log(folder / "log.csv")
    with (folder / "users.csv").open("w", newline="") as file:
        csv.writer(file).writerows([NAMES, *users_rows()])
    config = tiny_config(folder)
    config["data"]["users"] = {"path": str(folder / "users.csv")}
    config["text"]["attributes"] = {"age": {"bins": 4}, "plan": {"top": 3}, "interests": {"words": 2, "vocabulary": 9}}
    config["pretraining"] = {"max_steps": 0}
    config["evaluation"] |= {"slices": {"plan": "plan", "grown": "age > 40", "what": "event_type"}, "min_slice": 5}
    (folder / "users.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    experiment = parse_experiment("", ["--config", str(folder / "users.yaml")])
    prepare(experiment.name, experiment.data, experiment.task, experiment.text)
    train(experiment)
    metrics = evaluate(experiment)
    write_model_card(experiment.run_folder)
    write_report(experiment.run_folder)
    return experiment, metrics, EventClassifier.from_pretrained(experiment.model_folder)


def users_of() -> list[dict]:
    rows = (dict(zip(NAMES, row, strict=True)) for row in users_rows())
    return [{name: value for name, value in row.items() if value != ""} for row in rows]


def expected(experiment) -> dict[str, str]:
    rows = pq.read_table(experiment.data_folder / "test.parquet").to_pylist()
    return {row["user_id"]: row["text"] for row in rows if row["cutoff"] == datetime.fromisoformat(CUTOFF)}


def test_texts_and_scores_of_raw_events_are_those_of_the_prepared_rows(run, capsys):
    experiment, _, classifier = run
    written = expected(experiment)
    given = [
        (experiment.data, None),
        (log_of(experiment), users_of()),
        (log_of(experiment), experiment.data.users.path),
    ]
    tables = [classifier.predict(events, CUTOFF, text=True, users=users).to_pylist() for events, users in given]
    assert tables[0] == tables[1] == tables[2]
    assert "users have no row among the attributes, which are missing then" in capsys.readouterr().out
    said = {row["user_id"]: row for row in tables[0]}
    assert all(written[user].startswith(said[user]["text"]) for user in written)
    assert any("age=3" in row["text"] and "interests=other" in row["text"] for row in said.values())
    rows = pq.read_table(experiment.run_folder / "predictions" / "test.parquet").to_pylist()
    scores = {row["user_id"]: row["score"] for row in rows if row["cutoff"] == datetime.fromisoformat(CUTOFF)}
    for user, score in scores.items():
        assert said[user]["score"] == pytest.approx(score, abs=1e-5)
    one = next(iter(written))
    (alone,) = classifier.predict(
        [event for event in log_of(experiment) if event["user_id"] == one], CUTOFF, users=users_of()
    ).to_pylist()
    assert alone["score"] == pytest.approx(said[one]["score"], abs=1e-5)


def test_a_log_is_scored_in_parts_with_its_attributes(run, tmp_path):
    experiment, _, classifier = run
    output = predict_log(
        experiment.model_folder, experiment.data, CUTOFF, tmp_path / "s.parquet", text=True, part_users=40
    )
    found = sorted(pq.read_table(output).to_pylist(), key=lambda row: row["user_id"])
    whole = classifier.predict(experiment.data, CUTOFF, text=True).to_pylist()
    assert [(row["user_id"], row["text"]) for row in found] == [(row["user_id"], row["text"]) for row in whole]


def test_without_a_table_the_model_refuses_to_score(run, tmp_path):
    experiment, _, classifier = run
    needs = r"the model reads attributes of users \(age, plan, interests\), and no table of users is given; give it"
    with pytest.raises(InputError, match=needs):
        classifier.predict(log_of(experiment), CUTOFF)
    with pytest.raises(InputError, match=needs):
        explain_user(classifier, log_of(experiment), CUTOFF, "u1")
    data = changed(experiment, {"data.users": None}).data
    with pytest.raises(InputError, match=needs):
        predict_log(experiment.model_folder, data, CUTOFF, tmp_path / "s.parquet")
    with pytest.raises(InputError, match="users: user 'u1' has two rows and no known_from tells which is newer"):
        classifier.predict(log_of(experiment), CUTOFF, users=[{"user_id": "u1", "age": 3}] * 2)


def test_a_column_that_the_table_lacks_is_missing_and_said(run, capsys):
    experiment, _, classifier = run
    users = [{"user_id": row["user_id"], "age": row["age"]} for row in users_of() if row["age"] < 70]
    table = classifier.predict(log_of(experiment), CUTOFF, text=True, users=users)
    assert "warning: users has no column plan, interests: taken as missing for every user" in capsys.readouterr().out
    assert all("plan=missing interests=missing" in text for text in table["text"].to_pylist())


def test_of_no_users_no_attributes_are_known_and_a_row_of_nothing_is_refused(run):
    experiment, _, classifier = run
    for nobody in ([], pq.read_table(experiment.data_folder / "test.parquet", columns=["user_id"]).slice(0, 0)):
        table = classifier.predict(log_of(experiment), CUTOFF, text=True, users=nobody)
        assert all("age=missing plan=missing interests=missing" in text for text in table["text"].to_pylist())
    with pytest.raises(InputError, match=r"^users has no column user_id; give each row"):
        classifier.predict(log_of(experiment), CUTOFF, users=[{}])


def test_training_evaluation_and_card_know_the_attributes(run):
    experiment, metrics, classifier = run
    manifest = read_manifest(experiment.data_folder)
    assert read_task(experiment.model_folder)["attributes"] == ["age", "plan", "interests"]
    assert prepared_for(experiment.data_folder, experiment.task, experiment.text) == manifest
    other = changed(experiment, {"text.attributes": {"age": {"bins": 5}}})
    with pytest.raises(InputError, match="prepared with other settings of `text`"):
        prepared_for(other.data_folder, other.task, other.text)
    groups = {name: {group["value"] for group in found["groups"]} for name, found in metrics["slices"].items()}
    assert groups["plan"] == {"basic", "gold plus", "unknown"}
    assert groups["grown"] == {"yes", "no", "unknown"}
    assert "plan=gold_plus" in {entry["input"] for entry in metrics["drift"]}
    card = (experiment.model_folder / "README.md").read_text()
    assert "of the users' age, plan, interests" in card
    assert 'users = [{"user_id": "made-up-1", "age":' in card
    assert ", users=users)" in card
    refuse_private(classifier.task, classifier.serializer)
    classifier.serializer.config.attributes["plan"].min_users = 1
    with pytest.raises(InputError, match=r"text.attributes.plan.min_users is 1, so that the vocabulary tells"):
        refuse_private(classifier.task, classifier.serializer)
    classifier.serializer.config.attributes["plan"].min_users = 5


def test_the_slices_table_must_be_there(run):
    experiment, *_ = run
    gone = changed(experiment, {"data.users": None})
    with pytest.raises(InputError, match=r"data.users"):
        evaluate(gone)


def test_the_service_takes_attributes_with_events_and_refuses_without(run, tmp_path):
    experiment, _, classifier = run
    engine = Engine(ServedModel.load(str(experiment.model_folder)), open_store(f"sqlite:///{tmp_path / 'events.db'}"))
    events = [event for event in log_of(experiment) if event["user_id"] in ("u1", "u2", "u3")]
    events = [{name: value for name, value in event.items() if value is not None} for event in events]
    said = {row["user_id"]: row for row in classifier.predict(events, CUTOFF, text=True, users=users_of()).to_pylist()}
    with TestClient(make_app(engine, None)) as client:
        asked = {"events": events, "at": CUTOFF, "text": True}
        answer = client.post("/score", json=asked | {"users": users_of()})
        assert answer.status_code == 200
        for row in answer.json()["scores"]:
            assert row["text"] == said[row["user_id"]]["text"]
            assert row["score"] == pytest.approx(said[row["user_id"]]["score"], abs=1e-6)
        assert client.post("/score", json=asked | {"users": []}).json()["scores"][0]["text"].count("=missing") == 3
        for answer in (
            client.post("/score", json=asked),
            client.post("/events", json={"events": events}) and client.get("/users/u1/score", params={"at": CUTOFF}),
            client.get("/explain/u1", params={"at": CUTOFF}),
        ):
            assert answer.status_code == 422
            assert "the model reads attributes of users (age, plan, interests)" in answer.json()["detail"]
        answer = client.post("/score", json=asked | {"users": [{"user_id": "secret", "age": "old"}]})
        assert (answer.status_code, "secret" in answer.text) == (422, False)
        assert client.post("/score", json=asked | {"users": [{}]}).status_code == 422
        assert "age (BIGINT), plan (VARCHAR), interests (VARCHAR)" in answer.json()["detail"]
        assert client.get("/model").json()["attributes"] == {"age": "BIGINT", "plan": "VARCHAR", "interests": "VARCHAR"}


def test_an_explanation_names_attributes_as_causes(run):
    experiment, _, classifier = run
    found = explain_sample(classifier, experiment.data, CUTOFF, 30, steps=32)
    assert {"the user's age", "the user's plan"} <= {cause["cause"] for cause in found["causes"]}
    readings = {word["reading"] for word in found["words"] if word["field"] == "plan"}
    assert readings <= {"plan: basic", "plan: gold plus", "plan: not known"}
    assert len(readings) > 1
    one = explain_user(classifier, log_of(experiment), CUTOFF, "u7", steps=32, users=users_of())
    header = {word["field"]: word["reading"] for word in one["header"]}
    assert header["age"] == "age: 57 or more" or header["age"].startswith("age: ")
    assert header["interests"].startswith("interests: ")


def test_one_users_attributes_are_told_with_their_figures(run):
    from finetune.serving.facts import Facts
    from finetune.serving.histories import histories_of, past_log
    from finetune.serving.reading import words_of
    from finetune.serving.themes import Theme, theme_of

    experiment, _, classifier = run
    moment = datetime.fromisoformat(CUTOFF)
    with past_log(classifier, experiment.data, moment) as (con, _):
        (history,) = histories_of(con, classifier.serializer, moment, ["u2"])
        facts = Facts(history, classifier.serializer.load(con, {}), moment, classifier.serializer, 5, {"age": 40.0})
    words = words_of(history.text, classifier.serializer)
    told = {}
    for name in classifier.serializer.attributes:
        own = [word for word in words if theme_of(word, classifier.serializer) == Theme("attribute", name)]
        told[name] = facts.sentence(Theme("attribute", name), own)
    assert told["age"] == "Age: 22 (typical user: 40)"
    assert told["plan"] == "Plan: not known"
    assert told["interests"] == "Interests: wine; interests: and" or told["interests"].startswith("Interests: ")


def test_the_commands_take_the_table_beside_events_and_name_their_argument(run, tmp_path):
    experiment, *_ = run
    parser = CommandParser("")
    add_log_arguments(parser)
    (tmp_path / "log.csv").write_text("user_id,event_time,event_type\nu1,2024-01-01,view\n")
    given = parser.parse_args(["--events", str(tmp_path / "log.csv"), "--users", experiment.data.users.path])
    given.model = experiment.model_folder
    data = given_log(given)
    assert data.users == experiment.data.users
    output = predict_log(experiment.model_folder, data, CUTOFF, tmp_path / "scores.parquet", text=True)
    assert " age=" in pq.read_table(output)["text"][0].as_py()
    same = Path(shutil.copy(experiment.data.users.path, tmp_path / "users.parquet"))
    with pytest.raises(InputError, match="is one of the files that are read"):
        predict_log(experiment.model_folder, _with(data, same), CUTOFF, same)
    with pytest.raises(InputError, match=r"^--users has no column user_id"), own_names(given):
        predict_log(experiment.model_folder, _with(data, tmp_path / "log2.csv"), CUTOFF, tmp_path / "other.parquet")
    given = parser.parse_args(["--config", "x.yaml", "--users", "users.csv"])
    with pytest.raises(InputError, match=r"--users belongs to --events; with --config data.users says it"):
        given_log(given)


def _with(data: DataConfig, path: Path) -> DataConfig:
    if path.name == "log2.csv":
        path.write_text("who,age\nu1,3\n")
    return replace(data, users=UsersTable(path=str(path)))


def test_a_table_without_a_model_that_reads_it_is_said(run, trained, capsys):
    experiment, *_ = run
    classifier = EventClassifier.from_pretrained(trained.model_folder)
    data = changed(trained, {}).data
    data.users = UsersTable(path=experiment.data.users.path)
    classifier.predict(data, CUTOFF)
    assert "data.users is not read, as the model knows no attributes of users" in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java 17")
@pytest.mark.xdist_group("Spark")
def test_spark_reads_attributes_of_users_as_one_machine_does(run, spark, tmp_path, capfd):
    experiment, _, _ = run
    asked = {"part_users": 40, "text": True, "population": True}
    one = predict_log(experiment.model_folder, experiment.data, CUTOFF, tmp_path / "one.parquet", **asked)
    said = capfd.readouterr().out
    other = predict_on_spark(
        experiment.model_folder, experiment.data, CUTOFF, tmp_path / "other.parquet", spark, **asked
    )
    assert capfd.readouterr().out == said.replace("one.", "other.")
    found, on_one = pq.read_table(other).to_pydict(), pq.read_table(one).to_pydict()
    assert dict(zip(found["user_id"], found["text"], strict=True)) == expected(experiment)
    assert "plan=gold" in " ".join(found["text"])
    assert found.pop("score") == pytest.approx(on_one.pop("score"), abs=1e-6)
    assert found == on_one
    without = replace(experiment.data, users=None)
    with pytest.raises(InputError, match=r"data\.users"):
        predict_on_spark(experiment.model_folder, without, CUTOFF, tmp_path / "none.parquet", spark, **asked)
