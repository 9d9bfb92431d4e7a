import json

import pytest

from data_prep import InputError
from data_prep.checked_json import MayLack, Only, a_moment, a_time_zone, check, moments, read_json


@pytest.mark.parametrize(
    ("content", "holds"),
    [
        ({"a": 1, "more": 2}, {"a": int}),
        ({"a": 1}, {"a": float, "b": MayLack(str)}),
        ({"a": None}, {"a": MayLack([str])}),
        ({"a": None}, {"a": (None, str)}),
        ({"x": [1, 2.5], "y": []}, {str: [float]}),
        ("words", {"words", "sentences"}),
        ({"a": True}, Only(a=bool)),
        (["2024-01-01", "2024-01-31 12:00:00.5"], moments),
    ],
)
def test_what_is_as_it_must_be_passes(tmp_path, content, holds):
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert read_json(tmp_path / "a.json", holds, "mend it") == content


@pytest.mark.parametrize(
    ("content", "holds", "said"),
    [
        ([], {"a": int}, r"it is \[\], not a mapping"),
        ({}, {"a": {"b": int}}, "a is missing"),
        ({"a": {"b": "x"}}, {"a": {"b": int}}, 'a.b is "x", not a whole number'),
        ({"a": True}, {"a": int}, "a is true, not a whole number"),
        ({"a": 1.5}, {"a": int}, "a is 1.5, not a whole number"),
        ({"a": float("nan")}, {"a": float}, "a is NaN, not a number"),
        ({"a": 10**400}, {"a": float}, "not a number"),
        ({"a": 1}, {"a": bool}, "a is 1, not true or false"),
        ({"a": [1, "x"]}, {"a": [int]}, r'a\[1\] is "x", not a whole number'),
        ({"a": {"b": None}}, {"a": {str: str}}, "a.b is null, not a text"),
        ({"a": 3}, {"a": (None, str)}, "a is 3, not null or a text"),
        ({"a": "c"}, {"a": {"a", "b"}}, 'a is "c", not one of a, b'),
        ({"a": {}}, {"a": {"b"}}, "a is {}, not one of b"),
        ({"a": 1, "b": 2}, Only(a=int), "b is unknown"),
        ({"a": "soon"}, {"a": a_moment}, 'a is "soon", not a moment'),
        ({"a": []}, {"a": moments}, r"a is \[\], not moments"),
        ({"a": {}}, {"a": a_time_zone}, r"a is \{\}, not a time zone"),
        ({"a": "Europe/Nowhere"}, {"a": a_time_zone}, 'a is "Europe/Nowhere", not a time zone'),
    ],
)
def test_what_is_not_is_named_with_its_place(tmp_path, content, holds, said):
    with pytest.raises(InputError, match=rf"a\.json is damaged \(.*{said}.*\); mend it"):
        check(tmp_path / "a.json", content, holds, "mend it")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_is_refused_in_a_sentence(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.json is damaged; mend it"):
        read_json(tmp_path / "a.json", {}, "mend it")
    with pytest.raises(InputError, match=r"b\.json is missing; mend it"):
        read_json(tmp_path / "b.json", {}, "mend it")
