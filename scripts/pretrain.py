"""Pretrain the encoder on histories of all users without labels (masked language model): runs/NAME/pretrained.

It starts from scratch, or continues the checkpoint that model.name_or_path names.

python scripts/pretrain.py --config configs/quickstart.yaml
accelerate launch scripts/pretrain.py --config configs/quickstart.yaml --pretraining.max_steps 600
python scripts/pretrain.py --config configs/quickstart.yaml --pretraining.mask_unit event
"""

from finetune.experiment.parser import Experiment, command


def main(experiment: Experiment) -> None:
    """Pretrain the encoder."""
    from finetune.training.pretrain import pretrain  # after the arguments are read, as it takes seconds

    pretrain(experiment)


if __name__ == "__main__":
    command(__doc__ or "", main)
