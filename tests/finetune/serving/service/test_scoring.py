"""ONNX Runtime in the service: the scores of PyTorch, or a refusal."""

import shutil

import numpy as np
import pytest

from data_prep import InputError
from finetune.hub.export import export_onnx
from finetune.serving.classifier import EventClassifier
from finetune.serving.service.scoring import ONNX, Scoring
from tests.finetune.serving.service.conftest import KEY, running

pytest.importorskip("onnxruntime")
TEXTS = ["recency_days=1 [SEP] gap=1 event_type=purchase amount=2", "gap=9 event_type=view", "nothing known"] * 9


@pytest.fixture(scope="module")
def with_onnx(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx") / "model"
    shutil.copytree(model, folder)
    export_onnx(folder, folder / ONNX)
    return folder


def test_scores_are_those_of_the_classifier_whatever_runs_the_model(model, with_onnx):
    classifier = EventClassifier.from_pretrained(with_onnx)
    expected = classifier.score(TEXTS)
    for folder, runtime in ((model, "PyTorch"), (with_onnx, "ONNX Runtime")):
        scoring = Scoring(classifier, folder)
        assert scoring.runtime == runtime
        for texts in (TEXTS, TEXTS[:1]):  # and again, when the words are known
            np.testing.assert_allclose(scoring(texts), expected[: len(texts)], rtol=0, atol=1e-6)


def test_each_change_of_model_says_the_runtime(model, with_onnx, tmp_path, caplog):
    caplog.set_level("INFO", "eventscribe.service")
    with running(with_onnx, f"sqlite:///{tmp_path / 'h.db'}", KEY) as service:
        assert service.get("/model")["runtime"] == "ONNX Runtime"
        assert service.client.post("/model", json={"model": str(model)}).json()["runtime"] == "PyTorch"
        assert service.client.post("/model/rollback").json()["runtime"] == "ONNX Runtime"
    assert f"another model is served by PyTorch: {model}" in caplog.messages
    assert f"another model is served by ONNX Runtime: {with_onnx}" in caplog.messages


def test_a_file_of_other_weights_or_a_damaged_one_is_refused(with_onnx, tmp_path):
    classifier = EventClassifier.from_pretrained(with_onnx)
    for weight in classifier.model.parameters():
        weight.data += 0.01
    with pytest.raises(InputError, match="is not of the weights beside it"):
        Scoring(classifier, with_onnx)
    (tmp_path / ONNX).write_bytes(b"no model")
    with pytest.raises(InputError, match=r"model\.onnx cannot be read"):
        Scoring(classifier, tmp_path)
