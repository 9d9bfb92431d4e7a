"""Turn an event log into labelled text: Parquet splits, serializer, manifest and dataset card in data/NAME.

python scripts/prepare.py --config configs/quickstart.yaml
python scripts/prepare.py --config configs/quickstart.yaml --task.label.horizon "21 days" --name churn-21-days
"""

from data_prep.prepare import prepare
from finetune.config import command

if __name__ == "__main__":
    command(__doc__, lambda experiment: prepare(experiment.name, experiment.data, experiment.task, experiment.text))
