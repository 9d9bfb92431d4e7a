"""Labelled text -> BERT classifier -> scores, metrics and a report."""

import sys
from pathlib import Path

# `python scripts/train.py` puts scripts/ first on the path, where evaluate.py would hide the library `evaluate`.
sys.path[:] = [folder for folder in sys.path if not (Path(folder) / "evaluate.py").is_file()]
