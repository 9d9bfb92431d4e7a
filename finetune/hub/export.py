"""A trained model -> an ONNX file that gives its logits, checked against PyTorch; int8 if asked."""

import json
import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

from data_prep import InputError
from data_prep.prepared import find_manifest, read_split
from finetune.hub.read_run import settings_of
from finetune.model.inference import scores_of, sorted_batches
from finetune.model.loading import load_classifier, merged, model_folder
from finetune.model.objective import Objective
from finetune.model.tokenization import encode, first_line, padded
from finetune.runs import SETTINGS, read_task

CHECKED = 2_000  # validation texts, drawn at random, always the same ones; 64 made up ones where there is no data
MOST_WORK = 5e11  # multiplications of float32 in each comparison: some ten seconds on one core
LEAST_CHECKED = 16
BATCH = 32
TOLERANCE = 1e-3  # of a logit; rounding alone makes a thousandth of it
OPSET = 23  # the first with attention as one operator: MiniLM takes 14 % less time than by its parts

Batches = list[tuple[np.ndarray, BatchEncoding]]  # the rows of the texts in each, and their tensors


def export_onnx(model: str | Path, output: Path, int8: bool = False, data: Path | None = None) -> dict:
    """Write an ONNX file that takes input_ids and attention_mask, of any batch and length, and gives logits.

    Adapters are merged, and pooling by the mean is in the file. Probabilities are softmax or sigmoid of the logits, as
    in PyTorch; calibration.json is not in the file.

    Args:
        model: A folder or a name of the hub.
        output: The file, which is replaced.
        int8: Also write NAME.int8.onnx beside it, with weights and, while it runs, activations quantized by one scale a
            batch ("dynamic"): about a fourth of the size, and scores that depend a little on the batch.
        data: Prepared data, by default that of the run where it is there; its validation texts are compared, and the
            metric of int8 with that of PyTorch. Without any, made-up texts are compared.

    Returns:
        texts: Their number, CHECKED or, without int8, as many as MOST_WORK allows of a large model. difference: The
        largest one of a logit between PyTorch and the file. With int8 also int8_difference; with data too metric
        (auroc, for values mae), value and int8_value on these texts, of_rows, the number of validation rows that they
        are drawn from.

    Raises:
        InputError: An optional package is missing, the model cannot be exported, or the file gives other logits.
    """
    _need_packages()
    if output.suffix != ".onnx" or output.is_dir():
        raise InputError(f"output: {output} is not a name of an ONNX file", "write one such as model.onnx")
    folder = model_folder(model)
    classifier, tokenizer = load_classifier(folder)
    classifier = merged(folder, classifier.cpu(), " into an ONNX file")
    texts, labels, all_rows = _checked_texts(folder, tokenizer, data)
    if not int8:  # else the quality is that of all of them
        texts = texts[: _affordable(classifier, tokenizer, texts)]
    batches = _batches(tokenizer, texts)
    expected = _by_pytorch(classifier, batches)
    output.parent.mkdir(parents=True, exist_ok=True)
    exact, small = (output.with_name(f".{output.name}.{os.getpid()}.{kind}") for kind in ("float32", "int8"))
    try:
        _export(classifier, tokenizer.model_max_length, exact)
        facts = {"texts": len(texts), "difference": float(np.abs(_by_onnx(exact, batches) - expected).max())}
        if not facts["difference"] <= TOLERANCE:
            raise InputError(
                f"{folder}: the ONNX file gives logits that differ by {facts['difference']:.2g}", "it is not written"
            )
        if int8:
            _quantize(exact, small)
            logits = _by_onnx(small, batches)
            facts["int8_difference"] = float(np.abs(logits - expected).max())
            if labels is not None:
                facts |= {"of_rows": all_rows} | _quality(classifier, labels, expected, logits)
            os.replace(small, int8_file(output))
        os.replace(exact, output)
    finally:
        for path in (exact, small):
            path.unlink(missing_ok=True)
    return facts


def _need_packages() -> None:
    try:
        import onnxruntime.quantization  # noqa: F401 - those of an extra, before any work
        import onnxscript  # noqa: F401 - torch.onnx.export needs it
    except ImportError as error:
        raise InputError(f"{error.name} is not installed", "pip install -e '.[export]'") from error


def _checked_texts(
    folder: Path, tokenizer: PreTrainedTokenizerBase, data: Path | None
) -> tuple[list[str], np.ndarray | None, int]:
    """The texts to compare on, with the labels and the number of all validation rows where there is data."""
    data = data or _own_data(folder)
    if not data:
        return _made_up(tokenizer.get_vocab(), tokenizer.all_special_tokens), None, 0
    manifest = find_manifest(Path(data))
    if manifest is None or manifest["content_hash"] != read_task(folder)["content_hash"]:
        raise InputError(f"data: {data} is not the data that {folder} was trained on", "give the folder data/NAME")
    rows = read_split(data, "validation", CHECKED, ["text", "label"])
    return rows["text"].to_pylist(), np.array(rows["label"].to_pylist()), manifest["splits"]["validation"]["rows"]


def _affordable(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> int:
    """How many of the texts are compared within MOST_WORK."""
    tokens = np.mean([len(ids) for ids in encode(tokenizer, texts[:LEAST_CHECKED])["input_ids"]])
    weights = model.num_parameters(exclude_embeddings=True)
    return max(LEAST_CHECKED, int(MOST_WORK / (weights * tokens)))


def _batches(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> Batches:
    ids = encode(tokenizer, texts)["input_ids"]
    lengths = np.fromiter(map(len, ids), np.int64, len(ids))
    parts = sorted_batches(lengths, BATCH, BATCH * tokenizer.model_max_length)
    return [(rows, padded(tokenizer, [ids[row] for row in rows], 1)) for rows in parts]


def _by_pytorch(model: PreTrainedModel, batches: Batches) -> np.ndarray:
    """Logits of shape (texts, classes)."""
    with torch.inference_mode():
        return _in_order(batches, [model(**batch).logits.numpy() for _, batch in batches])


def _by_onnx(path: Path, batches: Batches) -> np.ndarray:
    """Logits of shape (texts, classes), by the file."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    inputs = [{name: batch[name].numpy() for name in ("input_ids", "attention_mask")} for _, batch in batches]
    return _in_order(batches, [session.run(["logits"], given)[0] for given in inputs])


def _in_order(batches: Batches, logits: Sequence[Any]) -> np.ndarray:
    """The rows of all batches in the order of the texts."""
    together = np.concatenate(logits)
    found = np.empty_like(together)
    found[np.concatenate([rows for rows, _ in batches])] = together
    return found


def _quantize(exact: Path, small: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    logging.disable(logging.WARNING)  # its advice to fold layers first is for convolutions
    # By default also ONNX's attention, which it takes for the one that onnxruntime had before.
    quantize_dynamic(exact, small, op_types_to_quantize=["MatMul", "Gemm", "Gather"])
    logging.disable(logging.NOTSET)


def _quality(model: PreTrainedModel, labels: np.ndarray, exact: np.ndarray, small: np.ndarray) -> dict[str, Any]:
    """The metric by which the best checkpoint was chosen, of the logits by PyTorch and in int8."""
    objective = Objective.of_model(model.config)
    value, int8_value = (
        objective.metrics(labels, scores_of(model, logits))[objective.best] for logits in (exact, small)
    )
    return {"metric": objective.best, "value": value, "int8_value": int8_value}


def _own_data(folder: Path) -> Path | None:
    """The data that a run on this machine was trained on, if it is still there."""
    if not (folder.parent / SETTINGS).is_file():
        return None
    settings, task = settings_of(folder), read_task(folder)
    data = Path(settings["data"]["folder"]) / task["name"]
    manifest = find_manifest(data)
    return data if manifest and manifest["content_hash"] == task["content_hash"] else None


def int8_file(output: Path) -> Path:
    """Where the quantized model lies: model.onnx -> model.int8.onnx."""
    return output.with_name(f"{output.stem}.int8.onnx")


def described(output: Path, facts: dict) -> str:
    """What `export_onnx` found, for the screen."""
    written = {output: facts["difference"]}
    if "int8_difference" in facts:
        written[int8_file(output)] = facts["int8_difference"]
    lines = [
        f"{path}: {path.stat().st_size / 2**20:.1f} MiB, largest difference of a logit to PyTorch over "
        f"{facts['texts']:,} texts {difference:.1e}"
        for path, difference in written.items()
    ]
    if "metric" in facts:
        name, value, small = facts["metric"].upper(), facts["value"], facts["int8_value"]
        rows = f"{facts['texts']:,} of {facts['of_rows']:,} validation rows"
        lines.append(f"{name} on {rows}: {value:.4f} in PyTorch, {small:.4f} in int8 ({small - value:+.4f})")
    return "\n".join(lines)


class _Logits(torch.nn.Module):
    """The model with two inputs and one output."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


def _export(model: PreTrainedModel, max_tokens: int, path: Path) -> None:
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass  # that of onnxscript

    shape = {0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("length", min=2, max=max_tokens)}
    ids = torch.ones((3, min(7, max_tokens)), dtype=torch.int64)
    loud = logging.getLogger("torch.onnx")
    level = loud.level
    try:
        loud.setLevel(logging.ERROR)  # torchvision's operators are missing where it is not installed
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on names of axes, and of torch about itself
            program = torch.onnx.export(
                _Logits(model).eval(),
                (ids, torch.ones_like(ids)),
                dynamo=True,  # the other way gives wrong numbers
                dynamic_shapes=(shape, shape),
                input_names=["input_ids", "attention_mask"],
                output_names=["logits"],
                opset_version=OPSET,
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        raise InputError(
            f"a {model.config.model_type} model cannot be exported to ONNX ({first_line(error)})",
            "take another encoder",
        ) from error
    finally:
        loud.setLevel(level)
    assert program is not None  # as dynamo is on
    # The exporter notes at every node where on this machine the code lay that made it.
    ClearMetadataAndDocStringPass()(program.model)
    program.model.metadata_props["id2label"] = json.dumps(model.config.id2label)
    program.save(path, external_data=False)


def _made_up(vocabulary: dict[str, int], special: list[str]) -> list[str]:
    """Texts of words of the tokenizer, of many lengths."""
    words = sorted(set(vocabulary) - set(special))
    random = np.random.default_rng(0)
    return [" ".join(random.choice(words, length)) for length in random.integers(1, 100, 64)]
