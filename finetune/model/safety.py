"""What could run code when a model's folder or repository is loaded: it is refused, or never looked at."""

import math
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import safe_open

from data_prep import InputError
from data_prep.checked_json import LARGEST, read_json

PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt")  # loading one may run whatever it holds
# Settings by which the libraries import a module that the folder names, or fetch and run what others have compiled.
LOADERS = {
    "config.json": ("quantization_config", "_attn_implementation", "attn_implementation", "experts_implementation"),
    "adapter_config.json": ("megatron_config",),
}
LAYERS = ("num_hidden_layers", "n_layers", "num_layers")  # as the configs of encoders call their number
MOST_LAYERS = 1000  # that any encoder has
BUILT_IN = ("eager", "sdpa")
LARGEST_REPOSITORY = 10 * 2**30  # bytes that are fetched of one


def refuse_code(folder: Path) -> None:
    """Let pass a folder whose weights are safetensors within it and whose settings load nothing but what is installed.

    Code beside the weights (*.py, auto_map) needs no look: trust_remote_code is off wherever something is loaded.

    Raises:
        InputError: Weights as a pickle alone, weights elsewhere, a setting that loads code or is a number without end,
            or a JSON file larger than LARGEST.
    """
    large = [path for path in sorted(folder.glob("*.json")) if path.stat().st_size > LARGEST]
    if large:
        raise InputError(f"{large[0]} is larger than {LARGEST >> 20} MiB", "take another model")
    for name, settings in LOADERS.items():
        if not (folder / name).is_file():
            continue
        content = read_json(folder / name, {}, "train again, or get the whole model")
        if not _finite(content):
            raise InputError(f"{folder / name} has a number that is not finite", "train again, or get the whole model")
        named = [key for key in settings if content.get(key) not in (None, *BUILT_IN)]
        if named:
            raise InputError(
                f"{folder / name}: {named[0]} would load code, which EventScribe never does",
                "take it out, or take another model",
            )
    refuse_shards(folder)
    prefix = "adapter_model" if (folder / "adapter_config.json").is_file() else "model"
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles and not list(folder.glob(f"{prefix}*.safetensors")):
        raise InputError(
            f"{folder} has no {prefix}.safetensors, and {pickles[0]} is a pickle, which could run code and is never "
            f"read",
            "train again, or get the whole model",
        )


def refuse_layers(folder: Path, weights: Path) -> None:
    """InputError where config.json asks for more layers than there are weights, before they are built.

    Args:
        folder: Of config.json.
        weights: The folder of the weights: of an adapter's base where it is an adapter.
    """
    content = read_json(folder / "config.json", {}, "train again")
    most = 0
    for path in weights.glob("**/*.safetensors"):
        try:
            with safe_open(path, "pt") as file:
                most += len(file.keys())
        except Exception:  # damaged, which loading says
            return
    most = most or MOST_LAYERS  # a base on the hub
    for key in LAYERS:
        if isinstance(asked := content.get(key), int) and asked > most:
            raise InputError(
                f"{folder / 'config.json'} asks for {asked:,} layers, and the weights have fewer",
                "train again, or get the whole model",
            )


def refuse_shards(folder: Path) -> None:
    """InputError where an index names weights outside of the folder, which transformers would read."""
    remedy = "take another model"
    indexes = folder.rglob("*.safetensors.index.json") if (folder / "config.json").is_file() else []
    for path in sorted(indexes):  # below it, too, as config.json may name one there
        for file in read_json(path, {"weight_map": {str: str}}, remedy)["weight_map"].values():
            if _leads_out(file):
                raise InputError(f"{path} names '{file}', which would lie elsewhere", remedy)


def refuse_loaders(name: str | Path, config: Any) -> None:
    """The same of the config of weights to start from, as transformers has read it.

    Raises:
        InputError: A setting that loads code.
    """
    for key in LOADERS["config.json"]:
        if getattr(config, key, None) not in (None, *BUILT_IN):
            raise InputError(
                f"'{name}': {key} in its config.json would load code, which EventScribe never does",
                "take it out, or take another checkpoint",
                setting="model.name_or_path",
            )


def refuse_listing(name: str, sizes: Mapping[str, int | None]) -> None:
    """Let pass the files of a repository that are to be fetched.

    Args:
        name: Of the repository.
        sizes: File -> bytes, where they are known.

    Raises:
        InputError: A file that would lie outside of the repository's own folder, or more than LARGEST_REPOSITORY.
    """
    for file in sizes:
        if _leads_out(file):
            raise InputError(f"{name} has a file '{file}', which would lie elsewhere", "take another model")
    total = sum(size or 0 for size in sizes.values())
    if total > LARGEST_REPOSITORY:
        raise InputError(
            f"{name} has {total / 2**30:.1f} GiB, and {LARGEST_REPOSITORY >> 30} are fetched at most",
            "fetch what you need with `hf download`, and give its folder",
        )


def _finite(content: Any) -> bool:
    """Whether all numbers of a JSON are finite, however deep it nests."""
    waiting = [content]
    while waiting:
        here = waiting.pop()
        if isinstance(here, dict | list):
            waiting += here.values() if isinstance(here, dict) else here
        elif isinstance(here, float) and not math.isfinite(here):
            return False
    return True


def _leads_out(file: str) -> bool:
    """Whether the name of a file leads out of the folder that it is joined to, here or on Windows."""
    path = PurePosixPath(file.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or ":" in file.partition("/")[0]
