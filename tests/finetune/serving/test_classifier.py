import json
import shutil
from datetime import UTC, date, datetime
from itertools import product

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import yaml
from transformers import pipeline

from data_prep import InputError
from data_prep.connections import connect
from data_prep.moments import parse_cutoff
from data_prep.population import EVERYBODY
from data_prep.prepare import prepare
from data_prep.serializer import VERSION, EventSerializer
from data_prep.serving import past_texts, read_past
from finetune.experiment.parser import parse_experiment
from finetune.model.calibration import Calibration
from finetune.model.inference import score_texts
from finetune.model.loading import load_classifier
from finetune.serving.classifier import EventClassifier
from finetune.serving.predict import predict_log
from finetune.training.train import train

CUTOFF = datetime(2024, 4, 1)


@pytest.fixture(scope="module")
def events(trained) -> pa.Table:
    """The log that it was trained on, as a table in memory."""
    query = "SELECT user AS user_id, time AS event_time, what AS event_type, amount, shop FROM read_csv(?)"
    path = trained.data.sources[0].path
    return duckdb.sql(query, params=[path]).to_arrow_table()


def copy_of(trained, folder):
    shutil.copytree(trained.run_folder / "model", folder)
    return folder


def test_raw_events_give_the_scores_of_the_prepared_examples_for_every_calibration(trained, tmp_path):
    rows = pq.read_table(trained.data_folder / "test.parquet", columns=["user_id", "cutoff", "text"])
    model, tokenizer = load_classifier(trained.run_folder / "model")
    prepared = score_texts(model, tokenizer, rows["text"].to_pylist())
    curves = [Calibration(), Calibration("temperature", 0.5), Calibration("isotonic", x=(0.4, 0.6), y=(0.1, 0.3))]
    for i, calibration in enumerate(curves):
        folder = copy_of(trained, tmp_path / str(i))
        calibration.save(folder)
        classifier = EventClassifier.from_pretrained(folder)
        expected = calibration.apply(prepared, "binary")
        parts = [classifier.predict(trained.data, cutoff, population=True) for cutoff in ("2024-03-18", "2024-04-01")]
        found = pa.concat_tables(parts)
        assert found.select(["user_id", "cutoff"]).equals(rows.select(["user_id", "cutoff"]))
        np.testing.assert_allclose(found["score"].to_numpy(), expected, atol=1e-6, rtol=0)


def test_raw_events_give_the_scores_of_the_evaluation(evaluated):
    expected = pq.read_table(evaluated.run_folder / "predictions/test.parquet", columns=["user_id", "cutoff", "score"])
    classifier = EventClassifier.from_pretrained(evaluated.run_folder / "model")
    cutoffs = pc.unique(expected["cutoff"]).to_pylist()
    found = pa.concat_tables([classifier.predict(evaluated.data, cutoff, population=True) for cutoff in cutoffs])
    assert found.select(["user_id", "cutoff"]).equals(expected.select(["user_id", "cutoff"]))
    np.testing.assert_allclose(found["score"].to_numpy(), expected["score"].to_numpy(), atol=1e-6, rtol=0)


def test_without_the_population_everyone_with_a_history_is_scored(trained, classifier, events):
    found, asked = (classifier.predict(events, CUTOFF, population=population) for population in (False, True))
    past = events.filter(pa.compute.less(events["event_time"], pa.scalar(CUTOFF)))
    assert found["user_id"].to_pylist() == sorted(set(past["user_id"].to_pylist()))
    assert 0 < len(asked) < len(found)
    scores = dict(zip(*(found[name].to_pylist() for name in ("user_id", "score")), strict=True))
    for row in asked.to_pylist():
        assert row["score"] == pytest.approx(scores[row["user_id"]], abs=1e-6)


def test_events_may_come_in_any_form(trained, classifier, events, tmp_path):
    pq.write_table(events.slice(0, 300), tmp_path / "log-1.parquet")
    pq.write_table(events.slice(300), tmp_path / "log-2.parquet")
    pa.csv.write_csv(events, tmp_path / "log.csv")
    rows = [{name: value for name, value in row.items() if value is not None} for row in events.to_pylist()]
    (tmp_path / "log.jsonl").write_text("\n".join(json.dumps(row, default=str) for row in rows))
    forms = [events, events.to_pandas(), rows, duckdb.from_arrow(events), events.to_reader(), trained.data]
    forms += [events.combine_chunks().to_batches()[0], tuple(rows)]
    forms += [[row | {"event_time": np.datetime64(row["event_time"], "s")} for row in rows]]
    forms += [tmp_path / "log-*.parquet", str(tmp_path / "log.csv"), tmp_path / "log.jsonl"]
    first = classifier.predict(events, CUTOFF, text=True)
    for form in forms[1:]:
        assert classifier.predict(form, CUTOFF, text=True).equals(first), type(form)


def test_a_cutoff_may_be_a_moment_a_day_or_text():
    zoned = datetime.fromisoformat("2024-04-01T02:00:00+02:00")
    texts = ["2024-04-01", "2024-04-01 00:00", "2024-03-31T22:00-02:00"]
    others = [np.datetime64("2024-04-01"), np.datetime64(CUTOFF, "ns"), pd.Timestamp(zoned)]
    for cutoff in (CUTOFF, CUTOFF.replace(tzinfo=UTC), zoned, date(2024, 4, 1), *texts, *others):
        assert parse_cutoff(cutoff) == CUTOFF


def test_codes_that_look_like_numbers_stay_text_as_in_training(tiny, tmp_path):
    log = tmp_path / "log.csv"
    log.write_text(log.read_text().replace("north", "007").replace("south", "A7"))
    run = parse_experiment("", ["--config", str(tiny), "--pretraining.max_steps", "0"])
    prepare(run.name, run.data, run.task, run.text)
    serializer = EventSerializer.from_pretrained(run.data_folder)
    header, *lines = log.read_text().splitlines()
    log.write_text("\n".join([header, *(line for line in lines if line.endswith("007"))]))  # no letter is left
    with connect() as con:
        found = read_past(con, run.data, serializer, CUTOFF)
        (table,) = past_texts(con, found, serializer, tmp_path, CUTOFF, EVERYBODY)
    texts = table["text"].to_pylist()
    assert texts
    assert all("shop=007" in text and "shop=other" not in text for text in texts)


def test_values_and_columns_that_training_did_not_have(classifier, events, capsys):
    strange = events.set_column(4, "shop", pa.array(["east"] * len(events))).append_column("note", events["shop"])
    texts = classifier.predict(strange, CUTOFF, text=True)["text"].to_pylist()
    assert all("shop=other" in text for text in texts)
    assert "columns that the model does not know are ignored: note" in capsys.readouterr().out
    fewer = classifier.predict(events.drop_columns("amount"), CUTOFF, text=True)["text"].to_pylist()
    assert not any(" amount=" in text for text in fewer)
    assert "warning: no column amount: taken as missing in every event" in capsys.readouterr().out
    assert len(fewer) == len(texts)


def test_users_without_a_history_and_rows_without_a_user_are_left_out_and_counted(classifier, events, capsys):
    first, late = datetime(2024, 1, 1), datetime(2024, 6, 1)
    more = {"event_type": ["view"] * 3, "user_id": ["new", "new", None], "event_time": [CUTOFF, late, first]}
    found = classifier.predict(pa.concat_tables([events, pa.table(more)], promote_options="default"), CUTOFF)
    assert found.equals(classifier.predict(events, CUTOFF))
    printed = capsys.readouterr().out
    assert "left out 1 row with no user" in printed
    assert "1 user has no event before the cutoff" in printed


@pytest.mark.parametrize(
    ("change", "cutoff", "named"),
    [
        (lambda events: events.drop_columns("event_time"), CUTOFF, "no column event_time"),
        (lambda events: events.to_pylist()[0], CUTOFF, "dict cannot be read"),
        (lambda events: [{"user_id": "a"}, {"user_id": 7}], CUTOFF, "values of one type"),
        (lambda events: "nowhere/*.parquet", CUTOFF, "no file matches"),
        (lambda events: events.set_column(3, "amount", events["shop"]), CUTOFF, "type that it had in training"),
        (lambda events: [], CUTOFF, "there is none"),
        (lambda events: events.slice(0, 0), CUTOFF, "there is none"),
        (lambda events: pd.DataFrame(), CUTOFF, "there is none"),
        (lambda events: [("u1", CUTOFF, "view")], CUTOFF, "list cannot be read"),
        (lambda events: events.append_column("Shop", events["shop"]), CUTOFF, "the column Shop is there twice"),
        (lambda events: pd.concat([events.to_pandas()] * 2, axis=1), CUTOFF, "the column user_id is there twice"),
        (lambda events: events, pd.NaT, "NaT is not a date"),
        (lambda events: events, np.datetime64("NaT"), "is not a date"),
        (lambda events: events, datetime.min.replace(tzinfo=UTC), "is not between 1900 and 2199"),
        (lambda events: events, "soon", "'soon' is not a date"),
        (lambda events: events, 7, "7 is not a date"),
        (lambda events: events, "2023-01-01", "no event lies before the cutoff 2023-01-01"),
    ],
)
def test_events_that_cannot_be_scored_are_refused_in_one_sentence(classifier, events, change, cutoff, named):
    with pytest.raises(InputError, match=named) as refused:
        classifier.predict(change(events), cutoff)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("size", [0, -1, 2.5, None, True, "8"])
def test_a_number_of_texts_at_a_time_that_is_none_is_refused(classifier, events, size):
    for score in (lambda: classifier.predict(events, CUTOFF, batch_size=size), lambda: classifier.score(["a"], size)):
        with pytest.raises(InputError, match=r"batch_size is .*; give a whole number above zero"):
            score()


def test_a_plain_pipeline_gives_the_same_probabilities_on_the_text_that_was_read(trained, events, tmp_path):
    folder = copy_of(trained, tmp_path / "short")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": 40}))
    for model, shortened in ((trained.run_folder / "model", False), (folder, True)):
        classifier = EventClassifier.from_pretrained(model)
        rows = classifier.predict(events, CUTOFF, text=True).to_pylist()[::4]
        plain = pipeline("text-classification", model=str(model), top_k=None, device="cpu")
        whole = {
            row["user_id"]: row["text"]
            for row in EventClassifier.from_pretrained(trained.run_folder / "model")
            .predict(events, CUTOFF, text=True)
            .to_pylist()
        }
        for row, found in zip(rows, plain([row["text"] for row in rows]), strict=True):
            assert {entry["label"]: entry["score"] for entry in found}["churn"] == pytest.approx(row["score"], abs=1e-6)
            assert whole[row["user_id"]].startswith(row["text"])
        assert any(row["text"] != whole[row["user_id"]] for row in rows) == shortened


def test_a_newest_event_that_alone_is_too_long_is_cut_within_it(classifier, events):
    most = classifier.tokenizer.model_max_length
    try:
        classifier.tokenizer.model_max_length = 31  # the header has 25 words
        texts = classifier.predict(events, CUTOFF, text=True)["text"].to_pylist()[:20]
        read = classifier.texts_read(texts)
        assert read == texts
        np.testing.assert_array_equal(classifier.score(texts), classifier.score(read))
        assert max(len(ids) for ids in classifier.tokenizer(texts)["input_ids"]) == 31
    finally:
        classifier.tokenizer.model_max_length = most


LABELS = {
    "tiers": ({"kind": "sum", "field": "amount", "tiers": [0, 30]}, pa.string()),
    "propensity": ({"kind": "which", "field": "shop", "top": 2}, pa.list_(pa.string())),
    "value": ({"kind": "sum", "field": "amount"}, None),
}


@pytest.mark.parametrize("task", LABELS)
def test_labels_of_every_kind_are_answered_in_their_own_way(tiny, tmp_path, task, capsys):
    label, kind = LABELS[task]
    config = yaml.safe_load(tiny.read_text())
    config["task"]["label"] = label | {"where": "event_type = 'purchase'", "horizon": "14 days"}
    config["pretraining"]["max_steps"] = 0
    config["training"] |= {"max_steps": 2, "eval_steps": 2}
    tiny.write_text(yaml.safe_dump(config))
    run = parse_experiment("", ["--config", str(tiny)])
    prepare(run.name, run.data, run.task, run.text)
    (folder,) = train(run)
    classifier = EventClassifier.from_pretrained(folder)
    found = classifier.predict(run.data, CUTOFF, text=True, population=True)
    assert found.column_names == ["user_id", "cutoff", *(["label"] if kind else []), "score", "text"]
    rows = [row for row in pq.read_table(run.data_folder / "test.parquet").to_pylist() if row["cutoff"] == CUTOFF]
    assert found["text"].to_pylist() == [row["text"] for row in rows]
    expected = score_texts(*load_classifier(folder), found["text"].to_pylist())
    np.testing.assert_allclose(np.array(found["score"].to_pylist()), expected, atol=1e-6 * max(1, expected.max()))
    classes = json.loads(found.schema.metadata[b"classes"])
    assert classes == list(classifier.objective.classes)
    late = classifier.predict(run.data, "2026-01-01", text=True, population=True)
    assert (late.schema, len(late)) == (found.schema, 0)
    assert "nobody is in the population at 2026-01-01: no user has an event in the 28 days" in capsys.readouterr().out
    scores, users = tmp_path / "scores.parquet", len(found)
    if kind is None:
        predict_log(folder, run.data, CUTOFF, scores, population=True, top=0.1)
        assert f"scores.top.csv: the {round(0.1 * users)} users with the highest scores" in capsys.readouterr().out
        best = np.sort(found["score"].to_numpy())[::-1][: round(0.1 * users)]
        np.testing.assert_allclose(pa.csv.read_csv(tmp_path / "scores.top.csv")["score"].to_numpy(), best, rtol=1e-5)
        return
    with pytest.raises(InputError, match="--top needs one score a user, and this model gives one for each class"):
        predict_log(folder, run.data, CUTOFF, scores, top=0.1)
    assert not [*tmp_path.glob("scores*")]
    assert found.schema.field("label").type == kind
    plain = pipeline("text-classification", model=str(folder), top_k=None, device="cpu")
    for row, told in zip(found.to_pylist()[:10], plain(found["text"].to_pylist()[:10]), strict=True):
        np.testing.assert_allclose(
            [{t["label"]: t["score"] for t in told}[c] for c in classes], row["score"], atol=1e-6
        )
        ranked = [name for _, name in sorted(zip(row["score"], classes, strict=True), reverse=True)]
        likely = [name for name in ranked if row["score"][classes.index(name)] > 0.5]
        assert row["label"] == (ranked[0] if task == "tiers" else likely)


def test_a_label_follows_the_threshold_that_evaluation_chose(trained, events, tmp_path):
    folder = copy_of(trained, tmp_path / "model")
    scores = EventClassifier.from_pretrained(folder).predict(events, CUTOFF)
    threshold = float(np.median(scores["score"].to_numpy()))
    Calibration(threshold=threshold, threshold_by="f1").save(folder)
    for row in EventClassifier.from_pretrained(folder).predict(events, CUTOFF).to_pylist():
        assert row["label"] == ("churn" if row["score"] >= threshold else "no_churn")
    assert set(scores["label"].to_pylist()) <= {"churn", "no_churn"}


def test_many_users_go_through_parts_to_the_same_scores(classifier, events, monkeypatch):
    whole = classifier.predict(events, CUTOFF, text=True)
    monkeypatch.setattr("data_prep.serving.PART_USERS", 20)
    parts = classifier.predict(events, CUTOFF, text=True)
    assert parts.drop_columns("score").equals(whole.drop_columns("score"))
    np.testing.assert_allclose(parts["score"].to_numpy(), whole["score"].to_numpy(), atol=1e-6, rtol=0)


class Share:
    """One of several processes, as an accelerator shows it; what each adds is kept in a list."""

    def __init__(self, process_index, num_processes, added):
        self.process_index, self.num_processes, self.added, self.device = process_index, num_processes, added, "cpu"

    def reduce(self, logits):
        self.added.append(logits)
        return sum(self.added)


def test_scores_are_equal_to_the_bit_whatever_the_number_of_processes(classifier, events):
    texts = classifier.predict(events, CUTOFF, text=True)["text"].to_pylist()
    alone = classifier.score(texts, batch_size=16)
    for processes, last in product((2, 3), (False, True)):
        added = []
        order = range(processes) if last else reversed(range(processes))
        shared = [classifier.score(texts, 16, accelerator=Share(i, processes, added)) for i in order]
        np.testing.assert_array_equal(shared[-1], alone)


@pytest.mark.parametrize(
    ("gone", "named"),
    [
        ("config.json", r"train\.py"),
        ("serializer.json", "serializer"),
        ("task.json", r"task\.json is missing; .*train"),
        ("model.safetensors", "weights cannot be read"),
        ("tokenizer.json", "tokenizer"),
    ],
)
def test_a_folder_that_lacks_a_file_says_which(trained, tmp_path, gone, named):
    (copy_of(trained, tmp_path / "model") / gone).unlink()
    with pytest.raises(InputError, match=named) as refused:
        EventClassifier.from_pretrained(tmp_path / "model")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("config.json", "{", r"config\.json is damaged"),
        ("adapter_config.json", '{"peft_type": "MAGIC"}', r"adapter_config\.json cannot be read"),
        ("serializer.json", json.dumps({"version": VERSION}), "damaged"),
        ("task.json", "{}", r"task\.json is damaged"),
        ("tokenizer.json", "{", "tokenizer"),
    ],
)
def test_a_damaged_file_is_named(trained, tmp_path, file, content, named):
    (copy_of(trained, tmp_path / "model") / file).write_text(content)
    with pytest.raises(InputError, match=named) as refused:
        EventClassifier.from_pretrained(tmp_path / "model")
    assert "\n" not in str(refused.value)


def test_code_in_a_model_is_never_run_nor_asked_about(trained, tmp_path, monkeypatch):
    folder = copy_of(trained, tmp_path / "model")
    ran = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nclass Config: pass\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("builtins.input", lambda *asked: "y")
    with pytest.raises(InputError, match="cannot be read"):
        EventClassifier.from_pretrained(folder)
    assert not ran.exists()


def test_other_versions_of_transformers_know_the_class_of_the_tokenizer(trained):
    written = json.loads((trained.run_folder / "model" / "tokenizer_config.json").read_text())
    assert written["tokenizer_class"] == "PreTrainedTokenizerFast"  # what 5 writes by itself, 4 cannot load


@pytest.mark.parametrize(
    ("name", "named"),
    [("me/churn", "the hub cannot be reached"), ("a/b/c", "no folder, and no name"), (5, "5 is no model")],
)
def test_a_name_that_is_neither_a_folder_nor_on_the_hub_is_refused(name, named):
    with pytest.raises(InputError, match=named):
        EventClassifier.from_pretrained(name)


def test_an_adapter_is_loaded_on_its_base_and_names_it_where_it_is_gone(trained, tmp_path, events):
    base = copy_of(trained, tmp_path / "base")
    lora = json.dumps({"method": "lora", "r": 4, "target_modules": ["query", "value"]})
    config = trained.data_folder.parents[1] / "tiny.yaml"
    arguments = ["--config", str(config), "--runs.folder", str(tmp_path), "--pretraining.max_steps", "0"]
    (folder,) = train(parse_experiment("", [*arguments, "--model.name_or_path", str(base), "--model.peft", lora]))
    found = EventClassifier.from_pretrained(folder).predict(events, CUTOFF)
    assert np.isfinite(found["score"].to_numpy()).all()
    shutil.rmtree(base)
    with pytest.raises(InputError, match=r"adapter of '.*base', which cannot be loaded"):
        EventClassifier.from_pretrained(folder)
