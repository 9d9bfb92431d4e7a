import json
import runpy
import subprocess
import sys
from datetime import datetime

import numpy as np
import pytest
from scipy.special import expit, softmax

from data_prep import InputError
from finetune.hub.bundle import write_bundle
from finetune.hub.scorer import Scorer
from finetune.model.calibration import Calibration
from finetune.model.objective import Scale
from finetune.serving.classifier import EventClassifier
from tests.commands import ROOT

CUTOFF = "2024-04-01"
ALONE = """
import runpy, sys
for name in ("torch", "transformers", "finetune", "sklearn", "scipy"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def bundle(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle") / "churn"
    write_bundle(runs["full"], folder)
    return folder


@pytest.fixture(scope="module")
def events():
    random, found = np.random.default_rng(0), []
    for user in range(20):
        for day in sorted(random.choice(90, random.integers(1, 40), replace=False)):
            kind = {"event_type": "purchase", "amount": float(random.gamma(2, 10))} if random.random() < 0.7 else {}
            moment = f"2024-01-{1 + day:02}" if day < 31 else f"2024-02-{day - 30:02}" if day < 59 else "2024-03-01"
            found.append({"user_id": f"u{user}", "event_time": moment, "event_type": "view", "shop": "north"} | kind)
    return found


def test_the_script_gives_the_calibrated_scores_without_torch_or_finetune(bundle, runs, events, tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text("\n".join(map(json.dumps, events)))
    command = [sys.executable, "-c", ALONE, str(bundle / "score.py"), str(path), CUTOFF]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found = {row["user_id"]: row["score"] for row in map(json.loads, done.stdout.splitlines())}
    expected = EventClassifier.from_pretrained(runs["full"]).predict(events, CUTOFF).to_pylist()
    assert found == pytest.approx({row["user_id"]: row["score"] for row in expected}, abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "two arguments are needed; give python score.py events.jsonl 2024-03-01"),
        (["nowhere.jsonl", CUTOFF], "No such file or directory: 'nowhere.jsonl'"),
        (["wrong.jsonl", CUTOFF], "Expecting value"),
        (["wrong.jsonl", "soon"], "Invalid isoformat string: 'soon'"),
    ],
)
def test_what_the_script_cannot_score_is_one_sentence(bundle, tmp_path, monkeypatch, capsys, arguments, said):
    (tmp_path / "wrong.jsonl").write_text("no JSON\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["score.py", *arguments])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(bundle / "score.py"), run_name="__main__")
    assert end.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert said in printed
    assert printed.count("\n") == 1


def test_a_text_that_is_too_long_is_cut_as_the_classifier_cuts_it(bundle, runs, events):
    scorer, classifier = Scorer(bundle), EventClassifier.from_pretrained(runs["full"])
    for most in (64, 40, 20, 8):
        scorer.facts["max_tokens"] = classifier.tokenizer.model_max_length = most
        for text in scorer.serializer.transform(events, datetime.fromisoformat(CUTOFF))["text"].to_pylist():
            expected = classifier.score([text])
            logits = scorer._run(scorer._ids(text))[None]
            assert scorer._calibrated(logits) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("task", ["binary", "tiers", "propensity"])
def test_scores_are_calibrated_as_in_the_classifier(bundle, task):

    scorer, logits = Scorer(bundle), np.random.default_rng(0).normal(0, 3, (50, 2 if task == "binary" else 4))
    plain = {"binary": lambda: softmax(logits, axis=1)[:, 1], "tiers": lambda: softmax(logits, axis=1)}
    scores = plain.get(task, lambda: expit(logits))()
    ways = [Calibration(), Calibration("temperature", 1.7)]
    ways += [Calibration("isotonic", x=(0.1, 0.5), y=(0.2, 0.3))] if task == "binary" else []
    for how in ways:
        scorer.facts |= {"task": task, "calibration": vars(how) | {"within": 1e-6}}
        np.testing.assert_allclose(scorer._calibrated(logits), how.apply(scores, task), atol=1e-6)


def test_a_value_is_given_in_its_own_unit(bundle):
    scorer = Scorer(bundle)
    for kind, expected in (
        ({"log": False}, [7.0, -1.0]),
        ({"log": True}, np.expm1([7.0, -1.0])),
        ({"log": False, "root": True}, [49.0, -1.0]),
    ):
        scale = kind | {"mean": 3.0, "deviation": 2.0}
        scorer.facts |= {"task": "value", "scale": scale}
        logits = np.array([[2.0], [-2.0]])
        assert scorer._calibrated(logits) == pytest.approx(expected)
        assert Scale(**scale).value(logits[:, 0]) == pytest.approx(expected)


def test_it_replaces_a_bundle_and_nothing_else(bundle, runs, tmp_path):
    assert {path.name for path in bundle.iterdir()} == {
        "model.onnx",
        "tokenizer.json",
        "serializer.json",
        "bundle.json",
        "score.py",
    }
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="holds something else than a bundle"):
        write_bundle(runs["full"], tmp_path / "mine")
