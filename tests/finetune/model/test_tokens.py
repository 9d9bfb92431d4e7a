import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_prep import InputError
from finetune.experiment.parser import parse_experiment
from finetune.model.tokenization import encode, train_tokenizer
from finetune.model.tokens import FOLDER, join, tokenize, tokens_of_split


@pytest.fixture
def data(prepared, tmp_path):
    made = parse_experiment("", ["--config", str(prepared)]).data_folder
    shutil.copytree(made, tmp_path / "data", ignore=shutil.ignore_patterns(FOLDER))
    return tmp_path / "data"


@pytest.fixture
def texts(data) -> list[str]:
    return pq.read_table(data / "train.parquet", columns=["text"])["text"].to_pylist()


def rows(tokens, name: str = "input_ids") -> list[list[int]]:
    return [tokens[i][name].tolist() for i in range(len(tokens))]


def test_a_split_is_encoded_once_and_mapped_from_then_on(data, texts):
    tokenizer = train_tokenizer(texts, 40)
    expected = encode(tokenizer, texts)
    for _ in range(2):
        tokens = tokens_of_split(tokenizer, data, "train")
        assert rows(tokens) == expected["input_ids"]
        assert rows(tokens, "event") == expected["event"]
        assert isinstance(tokens.ids, np.memmap)
        (made,) = (data / FOLDER).iterdir()  # nothing unfinished either
        for path in made.iterdir():
            path.chmod(0o444)  # the second call only reads


def test_another_length_tokenizer_or_limit_has_tokens_of_its_own(data, texts):
    tokenizer = train_tokenizer(texts, 40)
    tokens_of_split(tokenizer, data, "train")
    tokenizer.model_max_length = 12
    assert max(tokens_of_split(tokenizer, data, "train").lengths) <= 12
    assert len(tokens_of_split(tokenizer, data, "train", limit=7)) == 7
    other = train_tokenizer([*texts, "another"], 12)
    assert rows(tokens_of_split(other, data, "train")) == encode(other, texts)["input_ids"]
    assert len(list((data / FOLDER).iterdir())) == 4


def test_a_file_that_was_changed_by_hand_is_encoded_anew(data, texts):
    tokenizer = train_tokenizer(texts, 40)
    tokens_of_split(tokenizer, data, "train")
    pq.write_table(pq.read_table(data / "train.parquet").slice(5), data / "train.parquet")
    assert rows(tokens_of_split(tokenizer, data, "train")) == encode(tokenizer, texts[5:])["input_ids"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 4 * 2]),
        lambda path: path.write_bytes(b"x"),
        lambda path: path.write_bytes(bytes(path.stat().st_size)),
        lambda path: path.unlink(),
    ],
    ids=["cut", "one byte", "zeros", "gone"],
)
@pytest.mark.parametrize("which", ["ids.*", "event.*", "starts.*", "checksum", "*"])
def test_tokens_that_are_not_as_they_were_written_are_made_anew(data, texts, which, damage, capsys):
    tokenizer = train_tokenizer(texts, 40)
    expected = rows(tokens_of_split(tokenizer, data, "train"))
    (made,) = (data / FOLDER).iterdir()
    for path in made.glob(which):
        damage(path)
    assert rows(tokens_of_split(tokenizer, data, "train")) == expected
    assert "is damaged and is made anew" in capsys.readouterr().out
    assert rows(tokens_of_split(tokenizer, data, "train")) == expected
    assert not capsys.readouterr().out
    assert len(list((data / FOLDER).iterdir())) == 1


def test_a_split_without_rows_has_no_tokens(data, texts):
    pq.write_table(pq.read_table(data / "unlabelled.parquet").slice(0, 0), data / "unlabelled.parquet")
    tokenizer = train_tokenizer(texts, 40)
    train, none = (tokens_of_split(tokenizer, data, split) for split in ("train", "unlabelled"))
    assert len(none) == 0
    assert rows(join([train, none, train])) == rows(train) * 2


def test_a_split_that_is_missing_or_damaged_is_refused_by_its_file(data, texts):
    tokenizer = train_tokenizer(texts, 40)
    with pytest.raises(InputError, match=r"nothing\.parquet is missing; run scripts/prepare\.py"):
        tokens_of_split(tokenizer, data, "nothing")
    (data / "train.parquet").write_bytes(b"no Parquet at all")
    with pytest.raises(InputError, match=r"train\.parquet is damaged"):
        tokens_of_split(tokenizer, data, "train")
    assert not (data / FOLDER).exists() or not list((data / FOLDER).iterdir())


def test_several_threads_give_the_same_tokens(texts):
    tokenizer = train_tokenizer(texts, 40)
    many = texts * 30
    one, two = (tokenize(tokenizer, many, threads) for threads in (1, 2))
    assert np.array_equal(one.ids, two.ids)
    assert np.array_equal(one.starts, two.starts)
