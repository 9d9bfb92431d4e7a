"""The values that the benchmark's command line takes; a wrong one is refused in one sentence."""

import argparse
import re
import sys
from pathlib import Path
from typing import NoReturn

from benchmark_jobs import texts
from benchmark_jobs.preparing import DAYS, HORIZON

FILES_OF_MODEL = {
    "weights": ("*.safetensors", "pytorch_model*.bin"),
    "tokenizer": ("tokenizer.json", "vocab.*", "*.model"),
}


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence."""

    def error(self, message: str) -> NoReturn:
        """Refuse."""
        refuse(message.removeprefix("argument ") + ("" if ";" in message else "; see --help"))


def refuse(message: object) -> NoReturn:
    """End with this sentence."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def events(text: str) -> int:
    """Of a log."""
    if not re.fullmatch(r"\d+(_\d+)*", text) or int(text) < 10_000:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number from 10_000 on; write 5_000_000")
    return int(text)


def cutoffs(text: str) -> int:
    """How many."""
    most = DAYS // HORIZON.days - 1
    if not re.fullmatch(r"\d+", text) or not 3 <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number from 3 to {most}; write 8")
    return int(text)


def memory(text: str) -> str:
    """DuckDB's limit."""
    if not re.fullmatch(r"\d+(\.\d+)?\s*[KMGT]i?B", text):
        raise argparse.ArgumentTypeError(f"'{text}' is no size; write 3GB")
    return text


def rows(text: str) -> int:
    """Texts, users or predictions."""
    if not re.fullmatch(r"\d+(_\d+)*", text) or int(text) < 64:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number from 64 on; write 4_000")
    return int(text)


def model(text: str) -> str:
    """What `texts.classifier` takes."""
    if text in (*texts.SIZES, texts.MINILM):
        return text
    if not (Path(text) / "config.json").is_file():
        raise argparse.ArgumentTypeError(f"'{text}' is no folder of a model; write minilm, bert-base, bert-tiny or one")
    for what, names in FILES_OF_MODEL.items():  # transformers makes up a tokenizer of no words where there is none
        if not any(found for name in names for found in Path(text).glob(name)):
            raise argparse.ArgumentTypeError(f"'{text}' has no {what} ({' or '.join(names)}); name another folder")
    return text


def trained(text: str) -> Path:
    """What scripts/train.py wrote."""
    if not (Path(text) / "task.json").is_file():
        raise argparse.ArgumentTypeError(f"'{text}' is no folder of a trained model; write runs/NAME/model")
    return Path(text)


def device(text: str) -> str:
    """cpu or cuda."""
    if text not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"'{text}' is no device; write cpu or cuda")
    if text == "cuda" and not has_cuda():
        raise argparse.ArgumentTypeError("cuda: torch finds no GPU on this machine; write cpu")
    return text


def has_cuda() -> bool:
    """Whether torch finds a GPU."""
    import torch

    return torch.cuda.is_available()


def file(text: str) -> Path:
    """To be written, in a folder that is there."""
    if Path(text).is_dir() or not Path(text).parent.is_dir():
        raise argparse.ArgumentTypeError(f"'{text}' is no file in a folder that is there; make the folder first")
    return Path(text)


def folder(text: str) -> Path:
    """It is made where it is missing."""
    try:
        Path(text).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is no folder ({error.strerror}); name another") from error
    return Path(text)
