"""A damaged file is read well or refused in a sentence; see tests/read_back.py, which tries a thousand of each."""

import os
from pathlib import Path

import pytest

from data_prep import InputError
from data_prep.checked_json import LARGEST, read_json
from tests.mutations import mutated
from tests.read_back import REFUSED, Reader, damage, fault, lay_out, readers

READERS = readers()


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory) -> Path:
    """A folder with a run, its prepared data, an adapter, a registry and a config."""
    folder, before = tmp_path_factory.mktemp("read_back"), Path.cwd()
    os.chdir(folder)
    try:
        lay_out()
        for reader in READERS:
            assert fault(reader.read) is None, reader.path  # whole, they are read
    finally:
        os.chdir(before)
    return folder


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: f"{reader.path} by {reader.read.__name__}")
def test_a_damaged_file_is_read_well_or_refused_in_a_sentence(reader: Reader, laid_out, monkeypatch):
    monkeypatch.chdir(laid_out)
    found = dict(damage(reader, range(10_000, 10_000 + reader.tried)))
    faults = {seed: what for seed, what in found.items() if what not in (None, REFUSED)}
    assert faults == {}
    assert fault(reader.read) is None  # it is whole again


def test_damage_is_seen_and_is_the_same_each_time():
    content = b'{"a": [1, 2, {"b": "x"}], "c": 1.5}'
    for kind in ("json", "yaml", "bytes"):
        made = [mutated(content, kind, seed) for seed in range(100)]
        assert made == [mutated(content, kind, seed) for seed in range(100)]
        assert len(set(made)) > 40

    def nothing() -> None:
        raise KeyError("a")

    def endless() -> None:
        while True:
            pass

    def lines() -> None:
        error = InputError("a")
        error.args = ("a\nb",)
        raise error

    assert "KeyError" in fault(nothing)
    assert "no sentence" in fault(lines)
    assert "HangError" in fault(endless, 0.05)


def test_a_json_that_is_too_large_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "a.json"
    with path.open("wb") as file:
        file.truncate(LARGEST + 1)  # a hole, which takes no room
    with pytest.raises(InputError, match=r"a\.json is larger than 256 MiB; mend it"):
        read_json(path, {}, "mend it")
