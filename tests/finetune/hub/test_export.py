import json
import re
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from data_prep import InputError
from data_prep.prepared import sampled
from finetune.command import guarded
from finetune.experiment.parser import parse_experiment
from finetune.hub.export import export_onnx
from finetune.model.inference import score_texts
from finetune.model.loading import load_classifier
from finetune.model.tokenization import encode
from finetune.training.train import train
from tests.commands import ROOT, script_module

EXPORT = ROOT / "scripts" / "export.py"


def scores_of_file(path: Path, tokenizer, texts: list[str]) -> np.ndarray:
    """The probability of label 1, one text at a time, so that no length is that of the export."""
    session, found = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]), []
    encoded = encode(tokenizer, texts)
    for ids in encoded["input_ids"]:
        (logits,) = session.run(["logits"], {"input_ids": [ids], "attention_mask": [[1] * len(ids)]})
        found.append(1 / (1 + np.exp(logits[0, 0] - logits[0, 1])))
    return np.array(found)


@pytest.fixture(scope="module")
def rows(trained):
    return pq.read_table(trained.data_folder / "validation.parquet", columns=["text", "label"])


def test_the_command_writes_a_file_that_scores_as_pytorch_and_says_what_int8_costs(
    trained, rows, tmp_path, monkeypatch, capsys
):
    script = script_module("export")
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr("finetune.hub.export.CHECKED", 100)
    folder = trained.run_folder / "model"
    printed = {}
    for name, more in {"whole.onnx": [], "small.onnx": ["--int8", "--data", trained.data_folder]}.items():
        arguments = [EXPORT, "--model", folder, "--output", tmp_path / name, *more]
        monkeypatch.setattr(sys, "argv", [*map(str, arguments)])
        guarded(lambda: script.run(script.arguments()))
        printed[name] = capsys.readouterr().out
    names = ["small.int8.onnx", "small.onnx", "whole.onnx"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    model, tokenizer = load_classifier(folder)
    texts, labels = rows["text"].to_pylist(), rows["label"].to_numpy()
    expected = score_texts(model, tokenizer, texts)
    np.testing.assert_allclose(scores_of_file(tmp_path / "whole.onnx", tokenizer, texts), expected, atol=1e-6)
    made = onnxruntime.InferenceSession(str(tmp_path / "whole.onnx")).get_modelmeta().custom_metadata_map
    assert json.loads(made["id2label"]) == {"0": "no_churn", "1": "churn"}
    assert "over 100 texts" in printed["whole.onnx"]
    drawn = sampled(len(texts), 100)  # of these rows is the figure, which beside that of the report must say so
    auroc = f"{roc_auc_score(labels[drawn], expected[drawn]):.4f}"
    assert re.search(
        rf"AUROC on 100 of 140 validation rows: {auroc} in PyTorch, 0\.\d{{4}} in int8 \([+-]0\.\d{{4}}\)",
        printed["small.onnx"],
    )
    assert (tmp_path / "small.onnx").stat().st_size == (tmp_path / "whole.onnx").stat().st_size
    small = tmp_path / "small.int8.onnx"
    np.testing.assert_allclose(scores_of_file(small, tokenizer, texts), expected, atol=0.01)
    assert small.stat().st_size < (tmp_path / "whole.onnx").stat().st_size


def test_an_adapter_is_merged_and_the_mean_over_tokens_is_in_the_file(trained, rows, tmp_path):
    config = trained.data_folder.parents[1] / "tiny.yaml"
    arguments = ["--config", str(config), "--runs.folder", str(tmp_path), "--pretraining.max_steps", "0"]
    lora = json.dumps({"method": "lora", "r": 4, "target_modules": ["query", "value"]})
    arguments += ["--model.name_or_path", str(trained.run_folder / "model"), "--model.peft", lora]
    (folder,) = train(parse_experiment("", [*arguments, "--model.pooling", "mean"]))
    texts = rows["text"].to_pylist()[:30]
    export_onnx(folder, tmp_path / "deep" / "model.onnx")
    model, tokenizer = load_classifier(folder)
    found = scores_of_file(tmp_path / "deep" / "model.onnx", tokenizer, texts)
    np.testing.assert_allclose(found, score_texts(model, tokenizer, texts), atol=1e-6)


def test_what_cannot_be_exported_is_refused_and_nothing_is_written(trained, tmp_path, tmp_path_factory, monkeypatch):
    folder, others = trained.run_folder / "model", tmp_path_factory.mktemp("others")
    shutil.copytree(trained.data_folder, others, dirs_exist_ok=True)
    manifest = json.loads((others / "manifest.json").read_text())
    (others / "manifest.json").write_text(json.dumps(manifest | {"content_hash": "0"}))
    with pytest.raises(InputError, match=r"write one such as model\.onnx"):
        export_onnx(folder, tmp_path / "model.pt")
    for other in (tmp_path, others):
        with pytest.raises(InputError, match="is not the data"):
            export_onnx(folder, tmp_path / "model.onnx", data=other)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"onnxscript is not installed; pip install -e '\.\[export\]'"):
        export_onnx(folder, tmp_path / "model.onnx")
    assert not [*tmp_path.iterdir()]
