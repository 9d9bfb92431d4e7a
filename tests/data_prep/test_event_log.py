from dataclasses import replace

from data_prep.config import DataConfig, Source
from tests.data_prep.reading import ONE, from_sql, message, read


def test_events_far_from_most_others_are_warned_of():
    times = "unnest([1704067200000 + i * 60000 for i in range(100)] || [1704067200, 1704067201])"
    numbers = Source(sql=ONE.replace("TIMESTAMP '2024-01-01'", times), time_unit="milliseconds")
    log, _ = read(DataConfig([numbers], since="1960-01-01"))
    (warning,) = log.notes
    assert warning.startswith(
        "warning: 2 of 102 events are of 1970, more than 30 years off 2024, the year of the middle"
    )
    years = [f"{year}-01-01" for year in (1991, 1993, *[2024] * 9)]
    log, _ = read(from_sql(ONE.replace("TIMESTAMP '2024-01-01'", f"unnest({years})")))
    assert any("of 1991 to 1993, more than 30 years off" in note for note in log.notes)
    decades = [f"{year}-01-01" for year in range(1991, 2022)]
    assert read(from_sql(ONE.replace("TIMESTAMP '2024-01-01'", f"unnest({decades})")))[0].notes == []


def test_equal_rows_are_counted_and_stay_or_are_left_out(shop):
    rows = [shop.event("a", 0, tags=["x"]), shop.event("b", 1), shop.event("a", 0, tags=["y"])]
    data = shop.data([*rows, *rows[:2], rows[0]])
    log, kept = read(data)
    assert (log.events, log.equal_rows, log.left_out, len(kept)) == (6, 3, {}, 6)
    assert "3 of 6 rows are equal to another one" in log.notes[0]
    assert "data.duplicates: drop" in log.notes[0]
    log, kept = read(replace(data, duplicates="drop"))
    assert (log.events, log.equal_rows, log.left_out) == (3, 0, {"equal to another row": 3})
    assert log.notes == ["left out 3 rows equal to another row"]
    assert kept == read(shop.data(rows))[1]
    assert read(shop.data(rows))[0].notes == []


def test_users_with_too_many_events_are_left_out_and_counted(shop):
    rows = [shop.event(user, i) for user, n in (("a", 2), ("b", 3), ("bot", 9)) for i in range(n)]
    log, kept = read(shop.data(rows, max_events_per_user=3))
    assert {row["user_id"] for row in kept} == {"a", "b"}
    assert (log.events, log.users, log.last) == (5, 2, shop.day(2))
    assert log.left_out == {"of 1 user with more than data.max_events_per_user 3": 9}
    assert "data.max_events_per_user" in message(shop.data(rows, max_events_per_user=1))


def test_equal_rows_that_are_left_out_do_not_count_for_a_user(shop):
    log, _ = read(shop.data([shop.event("a", 0)] * 9, duplicates="drop", max_events_per_user=1))
    assert (log.events, log.left_out) == (1, {"equal to another row": 8})


def test_one_user_of_very_many_events_is_named_with_the_remedy(shop):
    rows = [shop.event(f"u{i}", i / 10) for i in range(300)]
    log, _ = read(shop.data([*rows, *(shop.event("guest", i / 10) for i in range(30))]))
    assert len(log.notes) == 1
    assert log.notes[0].startswith("warning: of 330 events guest has 30: guests under one id")
    assert "data.max_events_per_user: 10 leaves such users out" in log.notes[0]
    assert read(shop.data([*rows, *(shop.event("buyer", i / 10) for i in range(10))]))[0].notes == []
    assert read(shop.data([shop.event("only", i / 10) for i in range(300)]))[0].notes == []
