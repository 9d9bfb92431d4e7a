"""Score validation and test with the trained model and the baselines: runs/NAME/metrics.json, predictions, report.html.

python scripts/evaluate.py --config configs/quickstart.yaml
python scripts/evaluate.py --config configs/quickstart.yaml --evaluation.costs '{contact: 1, kept_customer: 25}'
accelerate launch scripts/evaluate.py --config configs/churn_bert_base_lora.yaml

Several processes share the scoring, and give the same figures as one. With --model FOLDER a finished model is measured
at the test cutoffs of a newer config, as it is: its words, calibration and threshold, and the baselines of its time:

python scripts/evaluate.py --model runs/quickstart/model --config newer.yaml   # -> runs/quickstart/backtests/DATES
"""

import sys
from functools import partial
from pathlib import Path

from finetune.experiment.parser import Experiment, command, taken


def main(experiment: Experiment) -> None:
    """Evaluate, write model card and report, and print the table."""
    from finetune.evaluation.evaluate import evaluate  # after the arguments are read, as it takes seconds
    from finetune.evaluation.verdict import table
    from finetune.hub.model_card import write_model_card
    from finetune.report.report import write_report

    metrics = evaluate(experiment)
    if metrics:  # the first process
        write_model_card(experiment.run_folder)
        report = write_report(experiment.run_folder)
        print(f"\n{table(metrics)}\nreport: {report}")


def later(model: Path, experiment: Experiment) -> None:
    """Evaluate a finished model on a later time, and print the table."""
    from finetune.evaluation.backtest import backtest
    from finetune.evaluation.verdict import table
    from finetune.report.report import write_report

    metrics, folder = backtest(model, experiment)
    print(f"\n{table(metrics)}\nreport: {write_report(folder)}")


if __name__ == "__main__":
    model, rest = taken("model", sys.argv[1:])
    command(__doc__ or "", partial(later, Path(model)) if model else main, rest)
