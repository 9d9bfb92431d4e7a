"""Pretrain the encoder on the unlabelled training texts (masked language model) and write runs/NAME/pretrained.

python scripts/pretrain.py --config configs/quickstart.yaml
accelerate launch scripts/pretrain.py --config configs/quickstart.yaml --pretraining.max_steps 600
"""

from finetune.config import command
from finetune.pretrain import pretrain

if __name__ == "__main__":
    command(__doc__, pretrain)
