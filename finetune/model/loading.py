"""A trained classifier from its folder or from the hub: config, weights and tokenizer, each checked before use."""

import re
import warnings
from operator import attrgetter
from pathlib import Path
from typing import cast

import torch
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import filter_repo_objects
from peft import PeftConfig, PeftModel
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from data_prep import InputError
from finetune.model.modeling import weights_hash
from finetune.model.pooling import pool
from finetune.model.safety import PICKLES, refuse_code, refuse_layers, refuse_listing
from finetune.model.tokenization import PROBE, encode, first_line, readable
from finetune.runs import check_config, check_tokenizer, refuse_untrained

ANEW = "train again"


def model_folder(name_or_path: str | Path, token: str | bool | None = None, revision: str | None = None) -> Path:
    """A folder as it is, or what the hub has under that name, fetched into its cache.

    Raises:
        InputError: Neither is there, or the hub refuses.
    """
    if not isinstance(name_or_path, str | Path):
        raise InputError(f"{name_or_path!r} is no model", "give a folder, or a name of a repository such as me/churn")
    if str(name_or_path) and Path(name_or_path).is_dir():
        return Path(name_or_path)
    try:
        never_read = ["*.onnx*", "*.py", *PICKLES]
        refuse_listing(str(name_or_path), _sizes(str(name_or_path), token, revision, never_read))
        return Path(snapshot_download(str(name_or_path), token=token, revision=revision, ignore_patterns=never_read))
    except HFValidationError:
        raise InputError(f"{name_or_path} is no folder, and no name of a repository such as me/churn") from None
    except LocalEntryNotFoundError as error:
        raise InputError(
            f"{name_or_path} is no folder, and the hub cannot be reached for it", "check the path or the network"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise InputError(
            f"{name_or_path} is no folder, and the hub does not give it ({first_line(error)})",
            "check the name, or log in with `hf auth login` if it is private",
        ) from error


def _sizes(name: str, token: str | bool | None, revision: str | None, without: list[str]) -> dict[str, int | None]:
    """The files of a repository that would be fetched, with their sizes; none where the hub does not tell them."""
    try:
        files = HfApi().model_info(name, revision=revision, token=token, files_metadata=True).siblings or []
    except Exception:  # whatever it is: fetching says it, or finds in the cache what was fetched before
        return {}
    return {
        file.rfilename: file.size
        for file in filter_repo_objects(files, ignore_patterns=without, key=attrgetter("rfilename"))
    }


def load_classifier(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The classifier and tokenizer that finetune.training.train wrote, on the GPU where there is one.

    Of an adapter the classifier is a PeftModel, which passes on to its base what it does not have itself.

    Raises:
        InputError: There is no trained model in the folder, or an adapter's base cannot be loaded.
    """
    refuse_untrained(folder)
    refuse_code(folder)
    config, base = _config(folder)
    model = _weights(folder, config, base)
    tokenizer = _tokenizer(folder, config, model)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device)  # pyright: ignore[reportArgumentType] - transformers' decorator of `to` hides that it is a method
    return model.eval(), tokenizer


def merged(folder: Path, model: PreTrainedModel, ending: str) -> PreTrainedModel:
    """An adapted model as full weights; any other one as it is.

    Args:
        folder: The model's, for the message.
        model: By `load_classifier`.
        ending: Of the message, behind "that could be merged".

    Raises:
        InputError: The adapter is made of virtual tokens.
    """
    if not isinstance(model, PeftModel):
        return model
    if model.active_peft_config.is_prompt_learning:
        assert model.peft_type is not None
        raise InputError(f"{folder}: {model.peft_type.lower()} adds no weights that could be merged{ending}")
    return model.merge_and_unload()


def _config(folder: Path) -> tuple[PreTrainedConfig, str | None]:
    """The config, and of an adapter the folder or name of its base, whose weights are those of its training."""
    base, problem = None, f"{folder}: config.json or adapter_config.json cannot be read"
    if (folder / "adapter_config.json").is_file():
        with readable(problem, ANEW):
            base = str(PeftConfig.from_pretrained(str(folder)).base_model_name_or_path)
    refuse_layers(folder, folder if base is None else Path(base))
    with readable(problem, ANEW):
        # The config has the labels, which an adapter's base does not know.
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    check_config(folder, config)
    trained_on = config.eventscribe.get("base")
    if base is not None and trained_on and weights_hash(base) not in (trained_on, None):
        raise InputError(f"{folder} is an adapter of '{base}', whose weights are others now", "train again")
    return config, base


def _weights(folder: Path, config: PreTrainedConfig, base: str | None) -> PreTrainedModel:
    problem, remedy = f"{folder}: the weights cannot be read", ANEW
    if base is not None and not (Path(base) / "config.json").is_file():
        problem = f"{folder} is an adapter of '{base}', which cannot be loaded"
        remedy = "put the base there, or publish the model merged"
    with readable(problem, remedy), warnings.catch_warnings():
        warnings.filterwarnings("error", "Found missing adapter keys")
        model, info = AutoModelForSequenceClassification.from_pretrained(
            folder if base is None else base,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
        # An adapter has the head, which its base may lack, and the base may have another one. A layer has its number.
        lacking, unused = (
            [key for key in info[keys] if base is None or re.search(r"\.\d+\.", key)]
            for keys in ("missing_keys", "unexpected_keys")
        )
        if lacking:
            raise ValueError(f"they lack {min(lacking)}, which config.json asks for")
        if unused:
            raise ValueError(f"they have {min(unused)}, for which config.json has no place")
        pool(model, config.eventscribe["pooling"])
        if base is not None:
            model = cast(PreTrainedModel, PeftModel.from_pretrained(model, str(folder)))  # it acts as its base
    return model


def _tokenizer(folder: Path, config: PreTrainedConfig, model: PreTrainedModel) -> PreTrainedTokenizerBase:
    check_tokenizer(folder)
    with readable(f"{folder}: tokenizer.json or tokenizer_config.json cannot be read", ANEW):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        known = model.get_input_embeddings().num_embeddings
        if tokenizer.pad_token is None or max(tokenizer.get_vocab().values()) >= known:
            raise ValueError(f"it has no padding token, or more words than the {known:,} of the model")
        most, takes = tokenizer.model_max_length, getattr(config, "max_position_embeddings", None) or -1
        if most > takes > 0:
            raise ValueError(f"model_max_length is {most:,}, and the model takes {takes:,} tokens")
        encode(tokenizer, PROBE)
    return tokenizer
