import hmac

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.config import DataConfig, Source, TextField
from data_prep.prepare import prepare
from data_prep.users import key_mark, standing_out
from tests.data_prep.reading import ONE, counted, from_sql, message, read


def test_whole_numbers_held_as_floats_are_the_same_user_as_integers():
    _, rows = read(from_sql(ONE.replace("1 AS", "12346.0::DOUBLE AS"), ONE.replace("1 AS", "12346 AS")))
    assert [row["user_id"] for row in rows] == ["12346", "12346"]


def test_user_ids_of_any_script_are_kept_to_the_letter(shop):
    users = ["Ünï ço∂é", "用户'\"; DROP TABLE events; --", "😀", "a\nb"]
    _, rows = read(shop.data([shop.event(user, 0) for user in users]))
    assert {row["user_id"] for row in rows} == set(users)


FRACTION, NOBODY = (
    "a user id that is a fraction or a rounded number",
    "a user id that stands for nobody (nan, None, null)",
)


@pytest.mark.parametrize(
    ("number", "why"),
    [
        ("'nan'::DOUBLE", "no user"),
        ("'inf'::DOUBLE", FRACTION),
        ("1e300::DOUBLE", FRACTION),
        ("2.5::DOUBLE", FRACTION),
        ("9007199254740992::DOUBLE", FRACTION),  # 2^53, which 2^53 + 1 becomes too
        ("-9007199254740994::DOUBLE", FRACTION),
        ("16777216::FLOAT", FRACTION),
        ("2.5::DECIMAL(5, 2)", FRACTION),
        ("'null'", NOBODY),
        ("' None '", NOBODY),
        ("'NaN'", NOBODY),
        ("'<NA>'", NOBODY),
        ("'\"null\"'::JSON", NOBODY),
    ],
)
def test_a_user_id_that_is_nobodys_or_a_rounded_number_is_rejected_with_the_reason(number, why):
    log, _ = read(from_sql(ONE, ONE.replace("1 AS", f"{number} AS")))
    assert counted(log) == {why: 1}
    if why == FRACTION:
        text = message(from_sql(ONE, ONE.replace("1 AS", f"{number} AS"), max_rejected=0.1))
        assert "(such as user_id " in text
        assert "write ids as text or whole numbers" in text


@pytest.mark.parametrize(
    ("number", "user"),
    [
        ("9007199254740991::DOUBLE", "9007199254740991"),
        ("16777215::FLOAT", "16777215"),
        ("-3.0::DOUBLE", "-3"),
        ("7.00::DECIMAL(5, 2)", "7"),
        ("18446744073709551615::UBIGINT", "18446744073709551615"),
        ("99999999999999999999999999999999999999::HUGEINT", "9" * 38),
        ("'12346.0'", "12346.0"),  # text keeps every letter
        ("'2.5'", "2.5"),
        ("'1e5'", "1e5"),
        ("'007'", "007"),
        ("'Nan Goldin'", "Nan Goldin"),
        ("'\"a1\"'::JSON", "a1"),
    ],
)
def test_a_user_id_of_any_type_is_kept_exactly(number, user):
    log, rows = read(from_sql(ONE.replace("1 AS", f"{number} AS")))
    assert [row["user_id"] for row in rows] == [user]
    assert any("12346.0 is read as the user 12346" in note for note in log.notes) == (
        "DOUBLE" in number or "FLOAT" in number
    )


def test_floats_of_one_file_beside_text_of_another_are_refused_and_not_made_other_users(shop):
    folder = shop.folder()
    times = pa.array([shop.day(0)])
    for name, users in (("1", pa.array([12346.0])), ("2", pa.array(["12346"]))):
        pq.write_table(
            pa.table({"user_id": users, "event_time": times, "event_type": ["view"]}), folder / f"{name}.parquet"
        )
    text = message(DataConfig([Source(path=str(folder / "*.parquet"))]))
    assert f"the user ids are floats in {folder / '1.parquet'} and text in other files" in text


KEYS = ["0123456789abcdef", "é" * 16, "k" * 64, "k" * 65, "long " * 100]


@pytest.mark.parametrize("key", KEYS)
def test_pseudonyms_are_the_hmac_of_the_ids(shop, monkeypatch, key):
    monkeypatch.setenv("SECRET", key)
    users = ["a", "用户", "😀", 'o\'neill "x"', "a\nb", "x" * 500, *map(str, range(200))]
    rows = [shop.event(user, 0) for user in users]
    log, found = read(shop.data([*rows, shop.event(None, 1), shop.event(" ", 1)], pseudonymize="SECRET"))
    expected = {hmac.new(key.encode(), user.encode(), "sha256").hexdigest() for user in users}
    assert {row["user_id"] for row in found} == expected
    assert counted(log) == {"no user": 2}


def test_numbers_of_any_type_have_the_pseudonym_of_their_text(monkeypatch):
    monkeypatch.setenv("SECRET", KEYS[0])
    _, rows = read(
        from_sql(ONE, ONE.replace("1 AS", "1.0::DOUBLE AS"), ONE.replace("1 AS", "' 1 ' AS"), pseudonymize="SECRET")
    )
    assert {row["user_id"] for row in rows} == {hmac.new(KEYS[0].encode(), b"1", "sha256").hexdigest()}


def test_a_missing_or_short_key_is_refused(monkeypatch):
    monkeypatch.delenv("SECRET", raising=False)
    assert "SECRET is not set; export a long random key" in message(from_sql(ONE, pseudonymize="SECRET"))
    monkeypatch.setenv("SECRET", "k" * 15)
    text = message(from_sql(ONE, pseudonymize="SECRET"))
    assert "SECRET has fewer than 16 characters" in text
    assert "kkk" not in text


def test_naming_the_variable_of_the_key_allows_it_though_no_variable_is_listed(monkeypatch):
    monkeypatch.setenv("SECRET", KEYS[0])
    _, rows = read(from_sql(ONE, pseudonymize="SECRET", environment=[]))
    assert {row["user_id"] for row in rows} == {hmac.new(KEYS[0].encode(), b"1", "sha256").hexdigest()}


def test_the_mark_of_a_key_changes_with_the_key_and_does_not_tell_it(monkeypatch):
    marks = set()
    for key in KEYS:
        monkeypatch.setenv("SECRET", key)
        marks.add(key_mark(from_sql(ONE, pseudonymize="SECRET")))
    assert len(marks) == len(KEYS)
    assert not any(key in mark for key in KEYS for mark in marks)
    assert key_mark(from_sql(ONE)) is None


def test_no_file_of_the_output_has_an_id_or_the_key(shop, monkeypatch):
    monkeypatch.setenv("SECRET", KEYS[0])
    rows = [f"{row['user_id']}@mail.example,{row['event_time']},{row['event_type']},1.5" for row in shop.regulars()]
    rows += ["alice@mail.example,alice@mail.example,view,1", "bob@mail.example,2024-01-05,,2"]  # rejected rows
    rows += ["carol@mail.example,2024-01-05,view", "dave@mail.example,2024-01-05,view,1,2"]  # broken lines
    path = shop.folder() / "log.csv"
    path.write_text("\n".join(["user_id,event_time,event_type,value", *rows]))
    data = DataConfig([Source(path=str(path))], folder=str(path.parent / "out"), pseudonymize="SECRET")
    folder = prepare("shop", data, shop.task(), shop.text(fields={"value": TextField(bins=3)}, header=["recency"]))
    rejected = pq.read_table(folder / "rejected.parquet").to_pylist()
    assert sorted((row["rejected_because"], row["rejected_detail"]) for row in rejected if row["rejected_detail"]) == [
        ("a line that cannot be read", f"{path}, line {line}") for line in (184, 185)
    ]
    assert len(rejected) == 4
    written = [file for file in path.parent.rglob("*") if file.is_file() and file != path]
    assert {file.parent for file in written} == {folder}
    for file in written:
        content = file.read_bytes()
        if file.suffix == ".parquet":
            content += str(pq.read_table(file).to_pylist()).encode()
        for secret in ("mail.example", KEYS[0], KEYS[0].encode().hex()):
            assert secret.encode() not in content


def test_a_user_of_a_hundred_times_the_most_active_ones_stands_out():
    assert standing_out({1: 1_000_000, 2: 2_000, 201: 1}) == 200
    assert standing_out({1: 1_000_000, 2: 2_000, 200: 1}) is None
    assert standing_out({5: 1, 6: 1}) is None
    assert standing_out({100: 149, 900: 1}) == 790  # 5.7 % of all events, and 9 times the median
    assert standing_out({100: 149, 700: 1}) is None
    assert standing_out({100: 9, 290: 1}) is None  # many of few
