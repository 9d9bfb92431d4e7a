"""Write a trained model as an ONNX file: input_ids and attention_mask -> logits, of any batch and length.

python scripts/export.py --model runs/quickstart/model --output model.onnx
python scripts/export.py --model runs/quickstart/model --output model.onnx --int8 --data data/quickstart
python scripts/export.py --model runs/quickstart/model --output churn --bundle   # a folder that scores raw events

The file is compared with PyTorch before it is written, on the validation texts of the run's data where it is there (or
of --data), else on made-up ones; with --int8 it also writes model.int8.onnx and says what the quantization costs in
AUROC on these texts. A bundle also has tokenizer, serializer, calibration and score.py, which needs onnxruntime,
tokenizers and data_prep alone. Needs pip install -e '.[export]'.
"""

from argparse import Namespace
from pathlib import Path

from finetune.command import CommandParser, guarded


def arguments() -> Namespace:
    """The command line."""
    parser = CommandParser(__doc__ or "")
    parser.add_argument("--model", required=True, help="A folder that scripts/train.py wrote, or a name of the hub.")
    parser.add_argument("--output", required=True, type=Path, help="The ONNX file that is written.")
    parser.add_argument("--int8", action="store_true", help="Also write NAME.int8.onnx: a fourth of the size.")
    parser.add_argument("--bundle", action="store_true", help="Write a folder with all that scores raw events.")
    parser.add_argument("--data", type=Path, help="Prepared data to compare on; default: the run's.")
    given = parser.parse_args()
    if given.bundle and given.int8:
        parser.error("--int8 and --bundle exclude each other")
    return given


def run(given: Namespace) -> None:
    """Export what the command line says."""
    from finetune.hub.bundle import write_bundle  # after the arguments are read, as it takes seconds
    from finetune.hub.export import described, export_onnx

    if given.bundle:
        print(described(given.output / "model.onnx", write_bundle(given.model, given.output, given.data)))
        return
    print(described(given.output, export_onnx(given.model, given.output, given.int8, given.data)))


if __name__ == "__main__":
    given = arguments()
    guarded(lambda: run(given))
