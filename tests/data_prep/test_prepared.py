import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep import InputError
from data_prep.prepared import read_split, sampled, split_texts


def test_a_part_of_the_rows_is_always_the_same():
    assert sampled(5, None).tolist() == sampled(5, 9).tolist() == [0, 1, 2, 3, 4]
    assert len(set(sampled(100, 10))) == 10
    assert (sampled(100, 10) == sampled(100, 10)).all()


def test_a_split_that_is_not_prepared_is_refused_with_the_command_to_run(tmp_path):
    with pytest.raises(InputError, match=r"prepare\.py"):
        read_split(tmp_path, "train", None, ["text"])


@pytest.mark.parametrize("limit", [None, 7])
def test_texts_come_in_arrays_and_in_the_order_of_the_rows(tmp_path, limit):
    pq.write_table(pa.table({"text": [f"t{i}" for i in range(20)]}), tmp_path / "train.parquet", row_group_size=6)
    rows, arrays = split_texts(tmp_path, "train", limit, 4)
    found = [array.to_pylist() for array in arrays]
    assert rows == sum(map(len, found)) == (limit or 20)
    assert max(map(len, found)) <= 4
    expected = read_split(tmp_path, "train", limit, ["text"])["text"].to_pylist()
    assert [text for part in found for text in part] == expected


def test_a_file_that_is_damaged_in_its_middle_is_refused_by_its_name(tmp_path):
    path = tmp_path / "train.parquet"
    pq.write_table(pa.table({"text": [f"{i}" * 50 for i in range(20_000)]}), path, row_group_size=1_000)
    content = bytearray(path.read_bytes())
    content[len(content) // 4 : len(content) // 2] = bytes(len(content) // 4)
    path.write_bytes(content)
    _, arrays = split_texts(tmp_path, "train", None, 500)
    with pytest.raises(InputError, match=r"train\.parquet is damaged; delete"):
        list(arrays)
    with pytest.raises(InputError, match=r"train\.parquet is damaged; delete"):
        read_split(tmp_path, "train", None, ["text"])
