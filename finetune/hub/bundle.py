"""A folder that scores raw events without torch: ONNX, tokenizer, serializer, calibration and a short script."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from data_prep import InputError
from data_prep.files import replacing
from data_prep.serializer import SERIALIZER
from finetune.hub.export import export_onnx
from finetune.model.calibration import WITHIN_STEPS, Calibration
from finetune.model.loading import load_classifier, model_folder
from finetune.model.objective import Objective

FACTS = "bundle.json"
SCRIPT = "score.py"


def write_bundle(model: str | Path, folder: Path, data: Path | None = None) -> dict:
    """Write a new folder with model.onnx, tokenizer.json, serializer.json, bundle.json and score.py.

    Args:
        model: A folder or a name of the hub.
        folder: That is written; one of an earlier bundle is replaced.
        data: See `export_onnx`.

    Returns:
        See `export_onnx`.

    Raises:
        InputError: See `export_onnx`; or the folder holds something else.
    """
    if folder.exists() and not (folder / FACTS).is_file():
        raise InputError(f"{folder} holds something else than a bundle", "choose another --output")
    source = model_folder(model)
    classifier, tokenizer = load_classifier(source)
    calibration = Calibration.load(source)
    with replacing(folder) as made:
        found = export_onnx(source, made / "model.onnx", data=data)
        for name in ("tokenizer.json", SERIALIZER):
            shutil.copy(source / name, made / name)
        facts = {
            "task": Objective.of_model(classifier.config).task,
            "classes": Objective.of_model(classifier.config).classes,
            "scale": classifier.config.eventscribe["scale"],
            "max_tokens": tokenizer.model_max_length,
            "calibration": asdict(calibration) | {"within": WITHIN_STEPS},
        }
        (made / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        shutil.copy(Path(__file__).with_name("scorer.py"), made / SCRIPT)
    return found
