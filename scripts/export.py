"""Write a trained model as an ONNX file: input_ids and attention_mask -> logits, of any batch and length.

python scripts/export.py --model runs/quickstart/model --output model.onnx
python scripts/export.py --model runs/quickstart/model --output model.onnx --int8 --data data/quickstart

The file is compared with PyTorch before it is written; --data takes the validation texts of prepared data for that, and
with --int8 says what the quantization costs in AUROC. Needs pip install 'eventscribe[export]'.
"""

from pathlib import Path

from finetune.config import CommandParser, guarded
from finetune.export import described, export_onnx


def main() -> None:
    """Export what the command line says."""
    parser = CommandParser(__doc__)
    parser.add_argument("--model", required=True, help="A folder that scripts/train.py wrote, or a name of the hub.")
    parser.add_argument("--output", required=True, type=Path, help="The ONNX file that is written.")
    parser.add_argument("--int8", action="store_true", help="Quantize to 8 bits: a fourth of the size.")
    parser.add_argument("--data", type=Path, help="Prepared data, such as data/quickstart, to compare on.")
    given = parser.parse_args()
    print(described(given.output, export_onnx(given.model, given.output, given.int8, given.data)))


if __name__ == "__main__":
    guarded(main)
