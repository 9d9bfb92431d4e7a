import pytest

from data_prep.files import replacing


def test_replacing_swaps_a_whole_folder_or_nothing(tmp_path):
    folder = tmp_path / "a" / "b"
    with replacing(folder) as made:
        (made / "one").write_text("1")
        assert not folder.exists()
    with replacing(folder) as made:
        (made / "two").write_text("2")
        assert [path.name for path in folder.iterdir()] == ["one"]
    assert [path.name for path in folder.iterdir()] == ["two"]
    with pytest.raises(FileNotFoundError), replacing(folder) as made:
        (made / "three" / "four").write_text("3")
    assert [path.name for path in folder.iterdir()] == ["two"]
    assert [path.name for path in folder.parent.iterdir()] == ["b"]
