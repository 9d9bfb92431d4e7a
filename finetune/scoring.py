"""A trained classifier -> scores."""

from pathlib import Path

import numpy as np
import torch
from peft import PeftConfig, PeftModel
from safetensors import SafetensorError
from tqdm import tqdm
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase

from data_prep import InputError
from finetune.modeling import pool_by_mean
from finetune.objective import Objective, Scale
from finetune.tokenization import encode, first_line


def load_classifier(folder: Path) -> tuple[torch.nn.Module, PreTrainedTokenizerBase]:
    """The classifier and tokenizer that finetune.train wrote, on the GPU where there is one.

    Raises:
        InputError: There is no trained model in the folder.
    """
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} holds no trained model; run scripts/train.py with the same --config first")
    start = folder
    if (folder / "adapter_config.json").is_file():
        start = PeftConfig.from_pretrained(str(folder)).base_model_name_or_path
    config = AutoConfig.from_pretrained(folder)  # with the labels, which an adapter's base does not know
    try:
        model = AutoModelForSequenceClassification.from_pretrained(start, config=config, dtype=torch.float32)
        if config.eventscribe["pooling"] == "mean":
            pool_by_mean(model)
        if start is not folder:
            model = PeftModel.from_pretrained(model, str(folder))
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder}: the weights cannot be read ({first_line(error)}); train again") from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(device).eval(), AutoTokenizer.from_pretrained(folder)


@torch.inference_mode()
def score_texts(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, texts: list[str], batch_size: int = 256, name: str = ""
) -> np.ndarray:
    """What the model says of each text, in the order given: see Objective.scores; values in their own unit."""
    encoded = encode(tokenizer, texts)
    shortest_first = np.argsort([len(ids) for ids in encoded["input_ids"]], kind="stable")
    objective = Objective.of_model(model.config)
    logits = np.empty((len(texts), len(objective.classes)))
    with tqdm(total=len(texts), desc=f"score {name}".strip(), unit="text") as bar:
        for start in range(0, len(texts), batch_size):
            rows = shortest_first[start : start + batch_size]
            batch = tokenizer.pad(
                {key: [encoded[key][i] for i in rows] for key in ("input_ids", "attention_mask")}, return_tensors="pt"
            )
            logits[rows] = model(**batch.to(model.device)).logits.float().cpu().numpy()
            bar.update(len(rows))
    scores, scale = objective.scores(logits), model.config.eventscribe["scale"]
    return Scale(**scale).value(scores) if scale else scores
