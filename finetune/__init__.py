"""Labelled text -> BERT classifier -> scores, metrics and a report."""

import importlib.metadata
import os
import sys
from pathlib import Path
from typing import Any

import data_prep  # noqa: F401 - from here on Ctrl-C ends a script without a traceback

# How often a thread of GNU OpenMP, under torch and scikit-learn, looks for work before it sleeps. By default it looks
# for milliseconds, which others on the same cores then miss: beside three busy processes on two cores 15 training steps
# took 16 s and a boosting 1.4 s, with this 8 s and 1.0 s; alone 2.6 s and .2 s either way. Set before both are loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
# `python scripts/train.py` puts scripts/ first on the path, where evaluate.py would hide the library `evaluate`.
sys.path[:] = [folder for folder in sys.path if not (Path(folder) / "evaluate.py").is_file()]


def __getattr__(name: str) -> Any:
    """`from finetune import EventClassifier`: loaded when it is asked for, as torch takes seconds."""
    if name == "__version__":
        return importlib.metadata.version("eventscribe")
    if name != "EventClassifier":
        raise AttributeError(f"module 'finetune' has no attribute '{name}'")
    from finetune.serving.classifier import EventClassifier

    return EventClassifier
