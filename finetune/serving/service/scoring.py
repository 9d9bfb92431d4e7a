"""Scores of a few texts at a time, those of `EventClassifier.score`: the tokens of words are kept, and ONNX Runtime
takes the place of PyTorch where it is installed and the model's folder has a model.onnx."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from data_prep import InputError
from finetune.model.encoding import Encoder
from finetune.model.inference import scores_of, sorted_batches
from finetune.model.tokenization import first_line, padded
from finetune.model.tokens import Tokens, tokenize
from finetune.serving.classifier import EventClassifier

ONNX = "model.onnx"  # by scripts/export.py
SAMPLE = ["a", "a b c d"]  # texts by which the file is compared with the weights
AT_A_TIME = 1_024  # tokens of a batch of ONNX Runtime, padding included: 8,192 take a tenth longer for each text
CLOSE = 1e-4  # of logits; in float32 the two differ by some 1e-6
LOG = logging.getLogger("eventscribe.service")
QUIET = tqdm(disable=True)  # in place of a bar for each request


class Scoring:
    """Scores texts; not for several threads at a time.

    Attributes:
        runtime: ONNX Runtime or PyTorch.

    Args:
        classifier: The model.
        folder: Its folder, where it has one.

    Raises:
        InputError: The folder's model.onnx is damaged or of other weights.
    """

    def __init__(self, classifier: EventClassifier, folder: Path) -> None:
        self.classifier, self.encoder = classifier, Encoder(classifier.tokenizer, keep=True)
        path = folder / ONNX
        self.session = _session(path) if path.is_file() and not torch.cuda.is_available() else None
        self.runtime = "PyTorch" if self.session is None else "ONNX Runtime"
        if self.session is not None:
            self._compare(path)
        elif folder.is_dir() and not torch.cuda.is_available():
            LOG.info(f"ONNX Runtime takes less time: python scripts/export.py --model {folder} --output {path}")

    def __call__(self, texts: list[str]) -> np.ndarray:
        """See `EventClassifier.score`."""
        tokens = tokenize(self.encoder, texts)
        if self.session is None:
            return self.classifier.score(tokens, len(texts), bar=QUIET)
        scores = scores_of(self.classifier.model, self._logits(tokens))
        return self.classifier.calibration.apply(scores, self.classifier.objective.task)

    def _logits(self, tokens: Tokens) -> np.ndarray:
        assert self.session is not None
        found = np.zeros((len(tokens), len(self.classifier.objective.classes)), np.float32)
        for rows in sorted_batches(tokens.lengths, len(tokens), AT_A_TIME):
            ids = [tokens.ids[tokens.starts[row] : tokens.starts[row + 1]] for row in rows]
            batch = padded(self.classifier.tokenizer, ids, 1)
            given = {name: batch[name].numpy() for name in ("input_ids", "attention_mask")}
            found[rows] = self.session.run(["logits"], given)[0]
        return found

    def _compare(self, path: Path) -> None:
        tokens = tokenize(self.encoder, SAMPLE)
        batch = padded(self.classifier.tokenizer, np.split(tokens.ids, tokens.starts[1:-1]), 1)
        with torch.inference_mode():
            expected = self.classifier.model(**batch).logits.numpy()
        if not np.allclose(self._logits(tokens), expected, rtol=CLOSE, atol=CLOSE):
            raise InputError(
                f"{path} is not of the weights beside it",
                f"delete it, or run python scripts/export.py --model {path.parent} --output {path}",
            )


def _session(path: Path) -> Any:
    """An inference session; None without onnxruntime."""
    try:
        import onnxruntime
    except ImportError:
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a dozen
        raise InputError(f"{path} cannot be read ({first_line(error)})", "delete it, or export it again") from error
