"""Score validation and test with the trained model and the baselines: runs/NAME/metrics.json, predictions, report.html.

python scripts/evaluate.py --config configs/quickstart.yaml
python scripts/evaluate.py --config configs/quickstart.yaml --evaluation.costs '{contact: 1, kept_customer: 25}'
accelerate launch scripts/evaluate.py --config configs/churn_bert_base_lora.yaml

Several processes share the scoring, and give the same figures as one.
"""

from finetune.parser import Experiment, command


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


if __name__ == "__main__":
    command(__doc__ or "", main)
