import gzip
import json
import math

import pytest

from data_prep.config import DataConfig, Source
from tests.data_prep.reading import ONE, from_sql, message, read

# What can be read


def test_csv_gzipped_json_lines_parquet_and_sql_give_the_same_events(shop):
    rows = [shop.event("a", 0.5, "view", value=1.5), shop.event("b", 1, "buy", value=None)]
    parquet = shop.write(rows)
    folder = parquet.parent
    lines = [{**row, "event_time": str(row["event_time"])} for row in rows]
    (folder / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    csv = "user_id,event_time,event_type,value\na,2024-01-01 12:00:00,view,1.5\nb,2024-01-02 00:00:00,buy,\n"
    (folder / "log.csv").write_text(csv)
    with gzip.open(folder / "log.csv.gz", "wt") as file:
        file.write(csv)
    (folder / "log.tsv").write_text(csv.replace(",", "\t"))
    expected = read(from_sql(f"SELECT * FROM '{parquet}'"))
    assert len(expected[1]) == 2
    for name in ("log.parquet", "log.csv", "log.csv.gz", "log.tsv", "log.jsonl"):
        assert read(DataConfig([Source(path=str(folder / name))])) == expected


def test_sources_are_united_by_column_name_and_lists_and_nulls_survive():
    log, rows = read(from_sql(ONE + ", ['a', NULL] AS tags, NULL AS price", ONE + ", 2.5 AS price, NULL AS note"))
    assert sorted(((row["tags"], row["price"]) for row in rows), key=str) == [(None, 2.5), (["a", None], None)]
    assert log.fields["tags"] == "VARCHAR[]"
    assert log.fields["price"].startswith("DECIMAL")


def test_a_fields_type_does_not_depend_on_the_order_of_the_sources():
    whole, broken = ONE + ", 2 AS price", ONE + ", 2.5::DOUBLE AS price"
    assert read(from_sql(whole, broken))[0].fields == read(from_sql(broken, whole))[0].fields == {"price": "DOUBLE"}


def test_nan_is_no_value_and_infinity_stays(shop):
    _, rows = read(shop.data([shop.event("a", 0, value=math.nan), shop.event("a", 1, value=math.inf)]))
    assert [row["value"] for row in rows] == [None, math.inf]


# Sources that are refused


def test_no_sources_are_refused():
    assert "give at least one source" in message(DataConfig([]))


def test_lines_that_are_not_in_utf_8_are_refused_with_the_way_to_convert_them(shop):
    path = shop.folder() / "log.csv"
    path.write_bytes(b"user_id,event_time,event_type\n" + "\u00fc,2024-01-01,view\n".encode("latin-1") * 3)
    assert "`iconv -f LATIN1 -t UTF-8`" in message(DataConfig([Source(path=str(path))]))


@pytest.mark.parametrize(("one", "other"), [("'red'", "3"), ("['red']", "'red'"), ("true", "1.5"), ("[1]", "1")])
def test_types_that_clash_between_two_sources_are_refused(one, other):
    text = message(from_sql(f"{ONE}, {one} AS color", ONE, f"{ONE}, {other} AS Color"))
    assert "data.sources[2]: column 'Color' is" in text
    assert "in data.sources[0]; cast one of them" in text
