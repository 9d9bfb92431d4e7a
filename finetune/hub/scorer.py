"""Scores raw events with onnxruntime, tokenizers and data_prep alone: python score.py events.jsonl 2024-03-01

`scripts/export.py --bundle` puts this file beside model.onnx; nothing of finetune, transformers or torch is needed.
"""

import json
import sys
from datetime import datetime
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from data_prep import InputError
from data_prep.phrases import event_starts
from data_prep.serializer import EventSerializer


class Scorer:
    """The model in a folder that `scripts/export.py --bundle` wrote."""

    def __init__(self, folder: Path) -> None:
        self.facts = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
        self.serializer = EventSerializer.from_pretrained(folder)
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])

    def scores(self, events: list[dict], cutoff: datetime) -> dict[str, float | list[float]]:
        """The calibrated score of each user with an event before the cutoff; of several classes one for each."""
        rows = self.serializer.transform(events, cutoff)
        ids = [self._ids(text) for text in rows["text"].to_pylist()]
        logits = [self._run(row) for row in ids]
        found = self._calibrated(np.array(logits, np.float64).reshape(len(ids), -1))
        return dict(zip(rows["user_id"].to_pylist(), found.tolist(), strict=True))

    def _ids(self, text: str) -> list[int]:
        """Token ids; a text that is too long loses its oldest events, and what is left of the newest its end."""
        most, starts = self.facts["max_tokens"], event_starts(text)
        ids = self.tokenizer.encode(text).ids
        while len(ids) > most and len(starts) > 1:
            text = text[: starts.pop()].rstrip()
            ids = self.tokenizer.encode(text).ids
        return ids if len(ids) <= most else [*ids[: most - 1], ids[-1]]

    def _run(self, ids: list[int]) -> np.ndarray:
        given = {"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), np.int64)}
        return np.asarray(self.session.run(["logits"], given)[0])[0]

    def _calibrated(self, logits: np.ndarray) -> np.ndarray:
        task, scale, how = (self.facts[name] for name in ("task", "scale", "calibration"))
        if task == "value":
            values = logits[:, 0] * scale["deviation"] + scale["mean"]
            if scale.get("root"):
                return np.sign(values) * np.square(values)
            return np.expm1(values) if scale["log"] else values
        logits = logits / (how["temperature"] if how["method"] == "temperature" else 1.0)
        if task == "propensity":
            return 1 / (1 + np.exp(-logits))
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores = odds / odds.sum(axis=1, keepdims=True)
        scores = scores[:, 1] if task == "binary" else scores
        if how["method"] == "isotonic":
            scores = (1 - how["within"]) * np.interp(scores, how["x"], how["y"]) + how["within"] * scores
        return scores


def main() -> None:
    """Score a file; InputError, OSError or ValueError where the arguments or the file cannot be used."""
    if len(sys.argv) != 3:
        raise InputError("two arguments are needed", "give python score.py events.jsonl 2024-03-01")
    lines, cutoff = Path(sys.argv[1]).read_text(encoding="utf-8").splitlines(), datetime.fromisoformat(sys.argv[2])
    for user, score in Scorer(Path(__file__).parent).scores([json.loads(line) for line in lines], cutoff).items():
        print(json.dumps({"user_id": user, "score": score}))


if __name__ == "__main__":
    try:
        main()
    except (InputError, OSError, ValueError) as error:  # JSON and dates that are none are a ValueError
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
