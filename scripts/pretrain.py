"""Pretrain the encoder on histories of all users without labels (masked language model): runs/NAME/pretrained.

It starts from scratch, or continues the checkpoint that model.name_or_path names.

python scripts/pretrain.py --config configs/quickstart.yaml
accelerate launch scripts/pretrain.py --config configs/quickstart.yaml --pretraining.max_steps 600
python scripts/pretrain.py --config configs/quickstart.yaml --pretraining.mask_unit event
"""

from finetune.config import command
from finetune.pretrain import pretrain

if __name__ == "__main__":
    command(__doc__, pretrain)
