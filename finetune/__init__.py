"""Labelled text -> BERT classifier -> scores, metrics and a report."""

import os
import sys
from pathlib import Path

# OpenMP's threads, of torch and scikit-learn, otherwise spin while they wait for each other: beside other work on two
# cores a boosting took 14 s instead of .6 s, and 15 training steps 33 s instead of 6 or 16. Set before both load.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# `python scripts/train.py` puts scripts/ first on the path, where evaluate.py would hide the library `evaluate`.
sys.path[:] = [folder for folder in sys.path if not (Path(folder) / "evaluate.py").is_file()]
