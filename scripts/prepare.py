"""Turn an event log into labelled text: Parquet splits, serializer, manifest and dataset card in data/NAME.

python scripts/prepare.py --config configs/quickstart.yaml
python scripts/prepare.py --config configs/quickstart.yaml --task.label.horizon "21 days" --name churn-21-days
python scripts/prepare.py --config configs/quickstart.yaml --engine spark --spark.master "local[2]"
"""

from finetune.experiment.parser import Experiment, command


def main(experiment: Experiment) -> None:
    """Prepare the experiment's data, on this machine or on Spark."""
    from data_prep.prepare import prepare  # after the arguments are read, as it takes seconds

    prepare(experiment.name, experiment.data, experiment.task, experiment.text, experiment.spark)


if __name__ == "__main__":
    command(__doc__ or "", main)
