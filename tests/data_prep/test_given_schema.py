"""A given schema is written as it is: no user of the log changes a word, a bin or a class of it."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from data_prep import InputError
from data_prep.config import TextConfig, TextField, UsersTable
from data_prep.given_schema import vocabulary
from data_prep.prepare import prepare
from data_prep.prepared import read_manifest, read_split
from data_prep.serializer import SERIALIZER, EventSerializer

FIELDS = {
    "event_type": TextField(top=20, min_users=1),
    "value": TextField(bins=4),
    "category": TextField(top=5, min_users=1),
    "tags": TextField(top=5, min_users=1),
    "note": TextField(words=2, min_users=1),
}
WHICH = {"kind": "which", "where": "event_type = 'purchase'", "field": "category", "top": 3}


def log(shop, seed: int, users: int = 12) -> list[dict]:
    """Users of different rates, who buy or look at something of three categories."""
    random, rows = np.random.default_rng(seed), []
    for user in range(users):
        for day in np.sort(random.uniform(0, 90, random.integers(5, 60))):
            fields = {
                "value": float(round(random.gamma(2, 10), 2)),
                "category": f"C {random.integers(3)}",
                "tags": [f"T{tag}" for tag in random.integers(4, size=random.integers(3))],
                "note": " ".join(random.choice(["Red", "blue", "dress", "shoe"], 3)),
            }
            kind = "purchase" if random.random() < 0.4 else "view"
            rows.append(shop.event(f"u{user}", day, kind, **fields))
    return rows


def rare(shop) -> list[dict]:
    """One more user, with words and numbers that nobody else has."""
    odd = {"value": 1e6, "category": "odd", "tags": ["unheard"], "note": "zyx wvu"}
    return [shop.event("v", day, kind, **odd) for day in range(1, 90) for kind in ("purchase", "secret")]


def made(shop, rows: list[dict], schema=None, task=None, text=None):
    text = text or TextConfig(fields=FIELDS)
    return prepare("shop", shop.data(rows), task or shop.task(), replace(text, schema=schema and str(schema)))


@pytest.fixture(scope="module")
def public(shop):
    """What was learned of other users."""
    return made(shop, log(shop, 1))


def test_one_more_user_with_rare_words_leaves_every_byte_of_the_schema(shop, public):
    rows = log(shop, 2)
    learned = [made(shop, some) for some in (rows, rows + rare(shop))]
    given = [made(shop, some, public) for some in (rows, rows + rare(shop))]
    content = [(folder / SERIALIZER).read_bytes() for folder in (*learned, *given, public)]
    assert content[0] != content[1]  # what a schema is for
    assert content[2] == content[3] == content[4]
    without, beside = (read_split(folder, "train", None, ["user_id", "cutoff", "text"]).to_pylist() for folder in given)
    assert [row for row in beside if row["user_id"] != "v"] == without
    marks = {read_manifest(folder)["schema"] for folder in given}
    assert marks == {hashlib.sha256(content[4]).hexdigest()}
    assert "schema" not in read_manifest(learned[0])


def test_another_content_of_the_same_folder_is_another_preparation(shop, tmp_path, capsys):
    rows, folder = log(shop, 2), tmp_path / "schema"
    data, text = shop.data(rows), TextConfig(fields=FIELDS)
    schema = EventSerializer.from_pretrained(made(shop, log(shop, 1)))
    found = []
    for edge in (5.0, 5.0, 6.0):
        schema.fields["value"] = {"kind": "numeric", "edges": [edge, 20.0, 40.0], "centers": [2.0, 10.0, 30.0, 50.0]}
        schema.save_pretrained(folder)
        found.append(read_manifest(prepare("shop", data, shop.task(), replace(text, schema=str(folder)))))
    assert capsys.readouterr().out.count("is up to date") == 1
    assert found[0] == found[1]
    assert found[1]["content_hash"] != found[2]["content_hash"]
    assert found[1]["schema"] != found[2]["schema"]


def test_classes_are_those_of_the_schema_and_not_of_the_log(shop):
    task = shop.task(label=WHICH)
    public = made(shop, log(shop, 1), task=task)
    folder = made(shop, log(shop, 2) + rare(shop), public, task=task)
    assert read_manifest(folder)["classes"] == read_manifest(public)["classes"]
    assert sorted(read_manifest(folder)["classes"]) == ["C 0", "C 1", "C 2"]
    assert all(len(row["label"]) == 3 for row in read_split(folder, "test", None, ["label"]).to_pylist())


@pytest.mark.parametrize("style", ["words", "sentences"])
def test_the_vocabulary_has_every_word_of_every_text(shop, style, tmp_path):
    users = tmp_path / "users.csv"
    rows = [f"u{i},{20 + i},{['DE', 'Great Britain', 'FR'][i % 3]},{['wine', 'sea'][i % 2]} tea" for i in range(10)]
    users.write_text("\n".join(["user_id,age,country,hobby", *rows]) + "\n")
    specs = {"age": TextField(bins=3), "country": TextField(top=2, min_users=1), "hobby": TextField(words=2)}
    text = TextConfig(style, fields=FIELDS, attributes=specs)
    data = shop.data(log(shop, 2), users=UsersTable(path=str(users)))
    folder = prepare("shop", data, shop.task(label=WHICH), text)
    known = set(vocabulary(EventSerializer.from_pretrained(folder)))
    texts = read_split(folder, "train", None, ["text"])["text"].to_pylist()
    found = {word for text in texts for word in text.split(" ")} - {"[SEP]"}
    assert len(found) > 60
    assert found - known == set()
    given = prepare("given", data, shop.task(label=WHICH), replace(text, schema=str(folder)))
    assert read_split(given, "train", None, ["text"])["text"].to_pylist() == texts


def test_a_schema_of_another_log_or_question_is_refused_in_a_sentence(shop, public, tmp_path):
    rows = log(shop, 2)
    refused = {
        "holds no serializer.json; give a folder that": {"schema": tmp_path},
        r"other settings of `text` \(max_events\); give the same ones": {
            "text": TextConfig(fields=FIELDS, max_events=3)
        },
        "target is event_type = 'view' here and": {"task": shop.task(label={"where": "event_type = 'view'"})},
        "class_field is category here and None in": {"task": shop.task(label=WHICH)},
    }
    for said, changes in refused.items():
        with pytest.raises(InputError, match=said) as error:
            made(shop, rows, **({"schema": public} | changes))
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="column 'items' is BIGINT here and missing in the given schema"):
        made(shop, [row | {"items": 1} for row in rows], public)


def test_a_schema_that_hardly_fits_is_doubted(shop, public, capsys):
    rows = [row | {"value": row["value"] * 1000, "category": f"other {row['category']}"} for row in log(shop, 2)]
    made(shop, rows, public)
    said = capsys.readouterr().out
    assert "warning: the given schema knows no more than 0% of the values of 'category'" in said
    assert "of the values of 'value' lie outside of the given schema's bins; is it of the same unit?" in said
    made(shop, log(shop, 3), public)
    assert "given schema" not in capsys.readouterr().out
