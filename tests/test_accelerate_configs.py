from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType

FOLDER = Path(__file__).parents[1] / "configs" / "accelerate"
KINDS = {
    "one_gpu": (DistributedType.NO, 1),
    "many_gpus": (DistributedType.MULTI_GPU, 8),
    "fsdp2": (DistributedType.FSDP, 8),
    "nodes": (DistributedType.MULTI_GPU, 16),
}


def test_every_config_is_tested():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_accelerate_reads_each_config_and_knows_every_key(name):
    path = FOLDER / f"{name}.yaml"
    config = load_config_from_file(str(path))  # refuses unknown keys
    assert isinstance(config, ClusterConfig)
    assert (config.distributed_type, config.num_processes) == KINDS[name]
    assert config.mixed_precision == "bf16"
    known = vars(launch_command_parser().parse_args(["train.py"]))
    assert set(yaml.safe_load(path.read_text()).get("fsdp_config", {})) <= set(known)  # a dict, in which it does not


def test_accelerate_launches_fsdp2_with_one_file_of_weights():
    arguments = ["--config_file", str(FOLDER / "fsdp2.yaml"), "train.py"]
    launched, _, _ = _validate_launch_command(launch_command_parser().parse_args(arguments))
    assert launched.use_fsdp
    assert (int(launched.fsdp_version), launched.fsdp_state_dict_type, launched.mixed_precision) == (
        2,
        "FULL_STATE_DICT",
        "bf16",
    )
