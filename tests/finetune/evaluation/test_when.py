"""One tiny model of kind `when` through every step: trained with a teacher, evaluated, reported, scored, explained."""

import json
from datetime import datetime

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from data_prep import InputError
from data_prep.prepare import prepare
from finetune.evaluation.backtest import score_later
from finetune.evaluation.compare import compare_runs
from finetune.evaluation.evaluate import check_evaluation, evaluate
from finetune.evaluation.verdict import table
from finetune.experiment.parser import changed, parse_experiment
from finetune.figures.metrics import compute_metrics
from finetune.figures.metrics_json import read_metrics
from finetune.figures.survival import kaplan_meier, survival_metrics
from finetune.hub.model_card import Publication
from finetune.hub.publish import stage_model
from finetune.model.loading import load_classifier
from finetune.report.report import write_report
from finetune.runs import window_of
from finetune.serving.classifier import EventClassifier
from finetune.serving.explain import explain_user
from finetune.serving.service.model import ServedModel
from finetune.training.train import train
from finetune.upkeep.monitor import monitor
from finetune.upkeep.renew import beside

HORIZONS = ["7 days", "2 weeks", "28d"]
NAMES = ("7 days", "2 weeks", "28 days")
CUTOFFS = {
    "train": {"first": "2024-01-15", "last": "2024-01-29", "every": "7 days"},
    "validation": ["2024-02-26"],
    "test": ["2024-03-25", "2024-04-15"],  # the log ends on 2024-04-29: of the last cutoff two horizons are known
}


@pytest.fixture(scope="module")
def run(prepared, tmp_path_factory):
    """An evaluated run; its calibration is fitted, and its log has slices."""
    folder = tmp_path_factory.mktemp("when")
    config = yaml.safe_load(prepared.read_text())
    config["data"]["folder"], config["runs"]["folder"] = str(folder / "data"), str(folder / "runs")
    label = {"kind": "when", "where": "event_type = 'purchase'", "horizons": HORIZONS}
    config["task"] |= {"label": label, "cutoffs": CUTOFFS}
    config["pretraining"]["max_steps"], config["model"]["pooling"] = 0, "mean"
    config["training"] |= {"max_steps": 120, "eval_steps": 40, "learning_rate": 0.005}
    config["finetuning"] = {"teacher": 0.5}
    config["evaluation"] |= {"calibration": "temperature", "slices": {"old": "tenure_days > 60"}}
    path = folder / "when.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    experiment = parse_experiment("", ["--config", str(path)])
    prepare(experiment.name, experiment.data, experiment.task, experiment.text)
    train(experiment)
    evaluate(experiment)
    return experiment


@pytest.fixture(scope="module")
def metrics(run):
    return read_metrics(run.run_folder)


@pytest.fixture(scope="module")
def classifier(run):
    return EventClassifier.from_pretrained(run.model_folder)


def test_the_model_is_a_plain_checkpoint_with_a_hazard_for_each_interval(run):
    model, _ = load_classifier(run.model_folder)
    assert model.config.problem_type == "multi_label_classification"
    assert tuple(model.config.id2label.values()) == NAMES
    log = json.loads((run.run_folder / "training_log.json").read_text())
    assert log["metric"] == "concordance"
    assert log["best_metric"] == max(
        entry["eval_concordance"] for entry in log["history"] if "eval_concordance" in entry
    )


def test_every_scorer_is_measured_on_rows_that_the_log_cuts_short(run, metrics):
    predictions = pq.read_table(run.run_folder / "predictions" / "test.parquet")
    labels = np.array(predictions["label"].to_pylist())
    cut = predictions["cutoff"].to_numpy().astype("datetime64[D]") == np.datetime64("2024-04-15")
    assert (labels[cut, 2] == -1).all()
    assert (labels[~cut, 2] >= 0).any()
    test = metrics["test"]
    rivals = ["kaplan_meier", "recency_rule", "rfm", "logistic_regression", "gradient_boosting", "blend"]
    assert [*test["baselines"]] == rivals
    for name, figures in {"score": test, **test["baselines"]}.items():
        scores = np.array(predictions[name].to_pylist())
        assert (np.diff(scores) >= 0).all()
        found = compute_metrics("survival", labels, scores, horizons=NAMES)
        assert {key: figures[key] for key in found} == pytest.approx(found)
        low, high = figures["integrated_brier_score_interval"]
        assert low <= figures["integrated_brier_score"] <= high
    same = np.array(predictions["kaplan_meier"].to_pylist())
    assert (same == same[0]).all()
    assert test["baselines"]["kaplan_meier"]["concordance"] == 0.5
    assert test["concordance"] > 0.5
    assert metrics["calibration"]["method"] == "temperature"
    assert [entry["cutoff"] for entry in metrics["by_cutoff"]] == ["2024-03-25", "2024-04-15"]
    assert "concordance_change" not in metrics["by_cutoff"][1]  # of fewer horizons
    assert metrics["slices"]["old"]["groups"][0]["concordance"] is not None
    assert "Kaplan-Meier" in table(metrics)


def test_the_report_answers_by_horizon(run, metrics):
    assert metrics["contact"]["horizon"] == "2 weeks"  # the longest that the last cutoff reaches
    page = write_report(run.run_folder).read_text()
    for said in (
        "most likely to have a purchase within 2 weeks:",
        "really had a purchase in\nthe 2 weeks after it",
        "of users of whom one had a purchase earlier",
        "Time to the event, by risk",
        "Calibration by horizon",
        "Within 28 days",
        "from which the log reaches fewer horizons",
    ):
        assert said.replace("\n", " ") in page.replace("\n", " ")
    curves = metrics["curves"]
    assert [len(bins["rows"]) for bins in curves["by_horizon"]] == [10, 10, 10]
    assert sum(curves["by_risk"]["rows"]) == metrics["test"]["rows"]
    assert np.diff(curves["come_by"]).min() >= 0


def test_runs_are_compared(run, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for name in ("metrics.json", "config.yaml", "training_log.json"):
        (other / name).write_text((run.run_folder / name).read_text().replace("name: tiny", "name: other"))
    (other / "predictions").symlink_to(run.run_folder / "predictions")
    found = compare_runs([run.run_folder, other], resamples=20)
    assert found["main"] == "concordance"
    assert [entry["difference"] for entry in found["runs"]] == [0, 0]


def test_raw_events_get_a_column_for_each_horizon(run, classifier):
    found = classifier.predict(run.data, cutoff="2024-04-15")
    columns = ["p_7_days", "p_2_weeks", "p_28_days"]
    assert found.column_names == ["user_id", "cutoff", "label", *columns, "score"]
    scores = np.array(found["score"].to_pylist())
    assert np.array_equal(np.column_stack([found[name].to_numpy() for name in columns]), scores)
    likely = scores > 0.5
    words = np.array([*(f"within {name}" for name in NAMES), "after 28 days"])
    assert found["label"].to_pylist() == words[np.where(likely.any(axis=1), likely.argmax(axis=1), 3)].tolist()
    assert json.loads(found.schema.metadata[b"classes"]) == list(NAMES)


def test_a_service_says_the_horizons_as_the_batch_does(run, classifier):
    model = ServedModel(str(run.model_folder), classifier)
    events = [{"user_id": "7", "event_time": "2024-04-01 10:00:00", "event_type": "purchase", "amount": 12.0}]
    (answer,) = model.score_events(events, datetime(2024, 4, 15), False)
    model.close()
    (row,) = classifier.predict(events, cutoff="2024-04-15").to_pylist()
    assert (answer.score, answer.label) == (row["score"], row["label"])
    assert window_of(classifier.task) == "28d"


def test_an_explanation_is_of_the_event_by_a_horizon(run, classifier):
    for name, at in ((None, 2), ("7 days", 0)):
        found = explain_user(classifier, run.data, "2024-04-15", "u1", name)
        score = classifier.score([found["text"]])[0] if "text" in found else None
        assert found["class"] == found["horizon"] == NAMES[at]
        assert found["base"] + found["header_push"] + found["events_push"] == pytest.approx(found["output"], abs=0.05)
        if score is not None:
            assert found["score"] == pytest.approx(score[at])


def test_the_card_says_what_the_outputs_are(run, classifier, tmp_path):
    stage_model(run.model_folder, tmp_path / "staged", Publication(repo_id="me/when"))
    card = (tmp_path / "staged" / "README.md").read_text()
    assert "the probability that the purchase comes within\n`7 days`, `2 weeks`, `28 days` of a cutoff" in card
    assert "scores = Calibration.load(folder).apply(come_by(expit(logits)), " in card
    assert "min(event_time) FILTER" in card
    published = EventClassifier.from_pretrained(tmp_path / "staged")
    texts = ["recency=1"]
    np.testing.assert_allclose(published.score(texts), classifier.score(texts), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--evaluation.stack", "true"], "evaluation.stack is for single labels, not for survival"),
        (["--evaluation.calibration", "isotonic"], "evaluation.calibration isotonic does not fit a survival label"),
        (["--evaluation.costs", "{contact: 1, kept_customer: 5}"], "evaluation.costs are for labels of yes or no"),
    ],
)
def test_a_setting_that_several_horizons_have_no_use_for_is_refused(run, arguments, named):
    path = run.run_folder / "config.yaml"
    with pytest.raises(InputError, match=named):
        check_evaluation(parse_experiment("", ["--config", str(path), *arguments]))


def test_two_models_are_compared_on_later_rows(run, metrics, tmp_path):
    found = beside(run.model_folder, run.model_folder, run, run.task)
    assert found["metric"] == "concordance"
    assert found["champion"]["value"] == pytest.approx(metrics["test"]["concordance"])
    assert found["difference"] == 0
    assert found["difference_interval"] == [0, 0]


def test_a_monitor_looks_at_the_horizons_that_have_passed(run, tmp_path):
    result = monitor(run.model_folder, run, "2024-04-08", tmp_path / "drift.html", draws=20)
    later = score_later(run.model_folder, run.data, changed(run, {"task.cutoffs.test": ["2024-04-08"]}).task, False)
    labels, scores = np.array(later.rows["label"].to_pylist())[:, :2], later.scores[:, :2]  # 28 days end behind the log
    assert (labels != -1).any(axis=0).all()
    found = {entry["name"]: entry for entry in result["outcomes"]}
    expected = survival_metrics(labels, scores, np.array([7.0, 14.0]))
    for name in ("concordance", "integrated_brier_score"):
        assert found[name]["value"] == pytest.approx(expected[name])
        low, high = found[name]["interval"]
        assert low <= expected[name] <= high
        assert found[name]["promised"] is None  # that of all horizons is another figure
    apart = scores.mean(axis=0) - kaplan_meier(labels)
    assert found["calibration"]["value"] == pytest.approx(apart.mean())
    families = {signal["family"] for signal in result["signals"]}
    assert families == {"inputs", "words", "scores", "outcomes"}
    assert "Concordance" in (tmp_path / "drift.html").read_text()
    soon = monitor(run.model_folder, run, "2024-04-26", tmp_path / "drift.html", draws=5)
    assert soon["outcomes"] is None  # no horizon has passed
