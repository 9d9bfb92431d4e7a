"""Score validation and test with the trained model and the baselines: runs/NAME/metrics.json, predictions, report.html.

python scripts/evaluate.py --config configs/quickstart.yaml
"""

from finetune.config import Experiment, command
from finetune.evaluation import evaluate, table
from finetune.report import write_report


def main(experiment: Experiment) -> None:
    """Evaluate, write the report and print the table."""
    metrics = evaluate(experiment)
    report = write_report(experiment.run_folder)
    print(f"\n{table(metrics)}\nreport: {report}")


if __name__ == "__main__":
    command(__doc__, main)
