"""Fine-tune the classifier on prepared data and write runs/NAME/model.

python scripts/train.py --config configs/quickstart.yaml
accelerate launch scripts/train.py --config configs/churn_bert_base_lora.yaml --training.learning_rate 1e-4
accelerate launch --multi_gpu --num_processes 8 scripts/train.py --config configs/churn_bert_base_lora.yaml
"""

from finetune.experiment.parser import Experiment, command


def main(experiment: Experiment) -> None:
    """Fine-tune the classifier."""
    from finetune.training.train import train  # after the arguments are read, as it takes seconds

    train(experiment)


if __name__ == "__main__":
    command(__doc__ or "", main)
