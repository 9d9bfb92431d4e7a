"""What could run code when a model's folder or repository is loaded: it is refused, or never looked at."""

import json
from pathlib import Path

from data_prep import InputError

PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt")  # loading one may run whatever it holds
# Settings by which the libraries import a module that the folder names, or fetch and run what others have compiled.
LOADERS = {
    "config.json": ("quantization_config", "_attn_implementation", "attn_implementation", "experts_implementation"),
    "adapter_config.json": ("megatron_config",),
}
BUILT_IN = ("eager", "sdpa")


def refuse_code(folder: Path) -> None:
    """Let pass a folder whose weights are safetensors and whose settings load nothing but what is installed.

    Code beside the weights (*.py, auto_map) needs no look: trust_remote_code is off wherever something is loaded.

    Raises:
        InputError: Weights as a pickle alone, or a setting that loads code.
    """
    for name, settings in LOADERS.items():
        try:
            content = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue  # the library says it
        named = [key for key in settings if isinstance(content, dict) and content.get(key) not in (None, *BUILT_IN)]
        if named:
            raise InputError(
                f"{folder / name}: {named[0]} would load code, which EventScribe never does",
                "take it out, or take another model",
            )
    prefix = "adapter_model" if (folder / "adapter_config.json").is_file() else "model"
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles and not list(folder.glob(f"{prefix}*.safetensors")):
        raise InputError(
            f"{folder} has no {prefix}.safetensors, and {pickles[0]} is a pickle, which could run code and is never "
            f"read",
            "train again, or get the whole model",
        )
