import pytest

from data_prep import InputError
from finetune.scoring import load_classifier


def test_a_folder_without_a_model_names_the_command_to_run(tmp_path):
    with pytest.raises(InputError, match=r"train\.py"):
        load_classifier(tmp_path)
