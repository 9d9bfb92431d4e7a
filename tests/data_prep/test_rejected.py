import pyarrow.parquet as pq

from data_prep.config import DataConfig, Source
from tests.data_prep.reading import ONE, counted, from_sql, message, read


def test_rows_without_user_time_or_type_are_left_out_and_counted_by_reason(shop):
    rows = [shop.event("a", 0), shop.event("b", None), shop.event("c", 1, None), shop.event("d", 1, "  ")]
    rows += [shop.event(None, 0), shop.event("", None, None), shop.event("  ", 1)]
    log, kept = read(shop.data(rows, max_rejected=0.9))
    assert counted(log) == {"no user": 3, "no time": 1, "no event type": 2}
    assert [row["user_id"] for row in kept] == ["a"]
    assert (log.events, log.users) == (1, 1)


def test_a_log_without_a_usable_event_is_refused():
    assert "check the paths" in message(from_sql(ONE.replace("'view'", "NULL"), max_rejected=1.0))
    assert "check the paths" in message(from_sql(ONE + " WHERE false"))


def test_a_log_whose_rows_are_all_rejected_is_refused_with_the_reasons():
    text = message(DataConfig([Source(sql=ONE.replace("SELECT 1 AS", "SELECT 'nan' AS"))], max_rejected=1.0))
    assert "gave no event with a user, a time and a type (rejected: 1 with a user id that stands for nobody" in text


def test_rejected_rows_are_kept_with_their_reason(shop):
    rows = [shop.event("a", 0, value=1.0), shop.event("b", None, value=2.0), shop.event("", 1, None, value=3.0)]
    folder = shop.folder()
    read(shop.data(rows, max_rejected=0.9), folder)
    found = pq.read_table(folder / "rejected.parquet").to_pylist()
    assert [(row["rejected_because"], row["user_id"], row["value"]) for row in found] == [
        ("no time", "b", 2.0),
        ("no user", None, 3.0),
    ]
    text = ONE.replace("TIMESTAMP '2024-01-01'", "unnest(['2024-01-01', 'soon'])")
    read(from_sql(text), folder)
    found = pq.read_table(folder / "rejected.parquet").to_pylist()
    assert [(row["user_id"], row["rejected_detail"]) for row in found] == [("1", "event_time soon")]


def test_nothing_is_written_where_no_row_is_rejected(shop):
    folder = shop.folder()
    read(from_sql(ONE, max_rejected=0.0), folder)
    assert list(folder.iterdir()) == []


def test_more_rejected_rows_than_the_share_stop_with_counts_and_examples(shop):
    rows = [shop.event(f"u{i}", None if i < 2 else i, None if i == 2 else "view") for i in range(40)]
    folder = shop.folder()
    text = message(shop.data(rows), folder)
    assert text.startswith(
        "data.sources: 3 of 40 rows cannot be used, a larger share than max_rejected 0.05: "
        "1 with no event type, 2 with no time; "
    )
    assert "raise max_rejected" in text
    assert list(folder.iterdir()) == []
    assert sum(read(shop.data(rows, max_rejected=3 / 40))[0].rejected.values()) == 3
    assert "of 40 rows" in message(shop.data(rows, max_rejected=0.0))
