from datetime import UTC, datetime, timedelta

import pytest

from data_prep.config import DataConfig, Source
from tests.data_prep.reading import ONE, counted, from_sql, message, read

# Rows that are left out


@pytest.mark.parametrize("time", ["infinity", "-infinity", "9999-12-31", "0001-01-01", "20000-01-01"])
def test_times_that_only_stand_for_never_are_left_out(time):
    log, _ = read(from_sql(ONE, ONE.replace("2024-01-01", time)))
    assert counted(log) == {"a time outside 1900-2199": 1}
    assert log.last == datetime(2024, 1, 1)
    for kind, timezone in (("TIMESTAMPTZ", "UTC"), ("TIMESTAMP", "Europe/Berlin"), ("VARCHAR", "UTC"), ("DATE", "UTC")):
        log, _ = read(from_sql(ONE, ONE.replace("TIMESTAMP '2024-01-01'", f"{kind} '{time}'"), timezone=timezone))
        assert (log.events, sum(log.rejected.values())) == (1, 1)


def test_an_empty_string_is_no_time():
    log, _ = read(from_sql(*(ONE.replace("TIMESTAMP '2024-01-01'", text) for text in ("'2024-01-01'", "' '"))))
    assert log.rejected["no time"] == 1


def test_times_that_do_not_parse_are_counted_and_shown(shop):
    text = ONE.replace("TIMESTAMP '2024-01-01'", "unnest(['2024-01-01', '31.12.2024', 'soon'])")
    log, rows = read(from_sql(text))
    assert counted(log) == {"a time that does not parse": 2}
    assert len(rows) == 1
    assert "2 with a time that does not parse (such as event_time 31.12.2024)" in message(
        from_sql(text, max_rejected=0.5)
    )


# Pseudonyms


KEYS = ["0123456789abcdef", "é" * 16, "k" * 64, "k" * 65, "long " * 100]


# Times


@pytest.mark.parametrize(
    ("number", "unit", "utc"),
    [
        ("1704067200", "seconds", datetime(2024, 1, 1)),
        ("1704067200::BIGINT", "seconds", datetime(2024, 1, 1)),
        ("1704067200.25::DOUBLE", "seconds", datetime(2024, 1, 1, 0, 0, 0, 250000)),
        ("1704067200.123457::DOUBLE", "seconds", datetime(2024, 1, 1, 0, 0, 0, 123457)),
        ("1704067200.123457::DECIMAL(18, 6)", "seconds", datetime(2024, 1, 1, 0, 0, 0, 123457)),
        ("1704067200500", "milliseconds", datetime(2024, 1, 1, 0, 0, 0, 500000)),
        ("1704067200000001", "microseconds", datetime(2024, 1, 1, 0, 0, 0, 1)),
        ("1704067200000001999", "nanoseconds", datetime(2024, 1, 1, 0, 0, 0, 2)),
        ("1711929599999999000", "nanoseconds", datetime(2024, 3, 31, 23, 59, 59, 999999)),
        ("1704067200000001::UBIGINT", "microseconds", datetime(2024, 1, 1, 0, 0, 0, 1)),
        ("-86400", "seconds", datetime(1969, 12, 31)),
        ("0", "seconds", datetime(1970, 1, 1)),
    ],
)
def test_numbers_are_taken_in_their_unit_and_in_utc(number, unit, utc):
    query = ONE.replace("TIMESTAMP '2024-01-01'", number)
    data = DataConfig([Source(sql=query, time_unit=unit)], timezone="Asia/Tokyo", since="1969-01-01")
    _, rows = read(data)
    assert rows[0]["event_time"] == utc


@pytest.mark.parametrize("number", ["1704067200000", "9223372036854775807", "-9e18", "'inf'::DOUBLE", "1e300::DOUBLE"])
def test_numbers_in_another_unit_are_times_out_of_range(number):
    query = ONE.replace("TIMESTAMP '2024-01-01'", f"unnest([{number}, 1704067200])")
    log, _ = read(DataConfig([Source(sql=query, time_unit="seconds")], max_rejected=0.5))
    assert counted(log) == {"a time outside 1900-2199": 1}
    text = message(DataConfig([Source(sql=query, time_unit="seconds")]))
    assert "a time outside 1900-2199 (such as event_time " in text


UNIT, FUTURE = "a time in another unit or before data.since", "a time after data.until"


def test_seconds_among_milliseconds_are_rejected_and_not_put_into_1970():
    query = ONE.replace("TIMESTAMP '2024-01-01'", "unnest([1704067200000, 1704067200001, 1704067200])")
    log, _ = read(DataConfig([Source(sql=query, time_unit="milliseconds")], max_rejected=0.5))
    assert counted(log) == {UNIT: 1}
    assert log.first == datetime(2024, 1, 1)
    text = message(DataConfig([Source(sql=query, time_unit="milliseconds")]))
    assert "(such as event_time 1704067200.0)" in text
    assert "set time_unit to the unit that event_time is in, or data.since" in text


def test_the_future_is_rejected_unless_data_until_says_otherwise():
    now = datetime.now(UTC).replace(tzinfo=None)
    rows = ONE.replace("TIMESTAMP '2024-01-01'", f"unnest([TIMESTAMP '{now}', TIMESTAMP '{now + timedelta(days=3)}'])")
    log, _ = read(from_sql(rows))
    assert counted(log) == {FUTURE: 1}
    assert log.last == now
    assert "set data.until" in message(from_sql(rows, max_rejected=0.1))
    assert not counted(read(from_sql(rows, until=str(now.year + 2) + "-01-01"))[0])


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({}, ["1995-01-01 00:00:00", "2024-01-01 23:59:59", "2024-01-02 00:00:00"]),
        ({"until": "2024-01-01"}, ["1995-01-01 00:00:00", "2024-01-01 23:59:59"]),
        ({"until": "2024-01-01 12:00"}, ["1995-01-01 00:00:00"]),
        (
            {"since": "1980-06-01"},
            ["1985-01-01 00:00:00", "1995-01-01 00:00:00", "2024-01-01 23:59:59", "2024-01-02 00:00:00"],
        ),
        ({"since": "2024-01-01 23:59:59+00:00"}, ["2024-01-01 23:59:59", "2024-01-02 00:00:00"]),
    ],
)
def test_events_lie_between_data_since_and_data_until(changes, kept):
    times = "unnest(['1985-01-01', '1995-01-01', '2024-01-01 23:59:59', '2024-01-02'])"
    _, rows = read(from_sql(ONE.replace("TIMESTAMP '2024-01-01'", times), **changes))
    assert [str(row["event_time"]) for row in rows] == kept


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"until": "soon"}, "data.until: 'soon' is not a date"),
        ({"since": "1.1.1990"}, "data.since: '1.1.1990' is not a date"),
        ({"since": "2024-01-02", "until": "2024-01-01"}, "data.since 2024-01-02 is not before data.until 2024-01-01"),
    ],
)
def test_bounds_that_are_no_dates_are_refused(changes, said):
    assert said in message(from_sql(ONE, **changes))


# Dates that are not ISO


@pytest.mark.parametrize(
    ("time", "time_format", "utc"),
    [
        ("'11/1/2000'", "%m/%d/%Y", datetime(2000, 10, 31, 23)),
        ("'01/11/2000 13:45'", "%d/%m/%Y %H:%M", datetime(2000, 11, 1, 12, 45)),
        ("'1 Nov 2000 1:05 PM'", "%d %b %Y %I:%M %p", datetime(2000, 11, 1, 12, 5)),
        ("'01.11.2000 13:45 +0530'", "%d.%m.%Y %H:%M %z", datetime(2000, 11, 1, 8, 15)),
        ("20001101", "%Y%m%d", datetime(2000, 10, 31, 23)),
        ("'20001101'::VARCHAR", "%Y%m%d", datetime(2000, 10, 31, 23)),
    ],
)
def test_a_date_is_read_as_its_time_format_says(time, time_format, utc):
    query = ONE.replace("TIMESTAMP '2024-01-01'", time)
    for source, whole in ((time_format, None), (None, time_format), (time_format, "%d %m %y")):
        data = DataConfig([Source(sql=query, time_format=source)], time_format=whole, timezone="Europe/Berlin")
        assert read(data)[1][0]["event_time"] == utc


def test_a_date_that_two_orders_read_is_refused_with_both_readings_of_the_first_row():
    query = ONE.replace("TIMESTAMP '2024-01-01'", "unnest(['01/05/2024 10:00:00', '01/02/2024 10:00:00'])")
    text = message(from_sql(query))
    assert "01/05/2024 10:00:00 is 2024-05-01 10:00:00 by %d/%m/%Y %H:%M:%S and 2024-01-05 10:00:00 by %m/%d/%Y" in text
    assert "need time_format at their source" in text
    assert "2024-07-31 00:00:00 by %d.%m.%Y; set" in message(
        from_sql(query.replace("01/05/2024 10:00:00", "31.07.2024"))
    )


@pytest.mark.parametrize(
    ("time", "said"),
    [
        (
            "01/05/24 10:00",
            "is 2024-05-01 10:00:00 by %d/%m/%y %H:%M and 2024-01-05 10:00:00 by %m/%d/%y %H:%M and 2001",
        ),
        ("24-05-01", "24-05-01 is 2001-05-24 00:00:00 by %d-%m-%y and 2024-05-01 00:00:00 by %y-%m-%d; set one"),
        ("1/5/24", "1/5/24 is 2024-05-01 00:00:00 by %d/%m/%y and 2024-01-05 00:00:00 by %m/%d/%y"),
    ],
)
def test_a_year_of_two_digits_is_no_year_of_long_ago(time, said):
    query = ONE.replace("TIMESTAMP '2024-01-01'", f"unnest(['2024-01-01 12:00:00', '{time}'])")
    text = message(from_sql(query, max_rejected=0.1))
    assert f"1 with a time that does not parse (such as event_time {time})" in text
    assert said in text
    log, _ = read(from_sql(query, max_rejected=0.5))
    assert counted(log) == {"a time that does not parse": 1}


@pytest.mark.parametrize("time", ["1 Nov 2000 1:05 PM", "Nov 1 2000", "11/1/2000 at noon"])
def test_a_word_that_is_no_zone_is_not_called_one(time):
    assert "need time_format, as strptime takes it" in message(
        from_sql(ONE.replace("TIMESTAMP '2024-01-01'", f"'{time}'"))
    )


@pytest.mark.parametrize("zone", ["BST", "AST", "IST", "CEST", "CET", "EST", "PST8PDT", "Japan", "ACT"])
@pytest.mark.parametrize("time_format", [None, "%Y-%m-%d %H:%M:%S %Z", "%Y-%m-%d %H:%M:%S %Z %a"])
def test_a_zone_that_is_a_word_is_a_time_that_does_not_parse(zone, time_format):
    day = " Mon" * (time_format or "").endswith("%a")
    times = f"unnest(['2024-07-01 10:00:00 Europe/London{day}', '2024-07-01 10:00:00 {zone}{day}'])"
    query = Source(sql=ONE.replace("TIMESTAMP '2024-01-01'", times), time_format=time_format)
    log, rows = read(DataConfig([query], max_rejected=0.5))
    assert (counted(log), rows[0]["event_time"]) == ({"a time that does not parse": 1}, datetime(2024, 7, 1, 9))
    said = message(DataConfig([query]))
    assert f"2024-07-01 10:00:00 {zone}{day} has a zone that is a word, which may mean several; write an offset" in said


@pytest.mark.parametrize(
    ("zone", "hour"),
    [("Z", 10), (" UTC", 10), (" GMT", 10), (" GMT+2", 8), ("+01", 9), (" America/Argentina/Buenos_Aires", 13)],
)
def test_a_zone_that_means_one_thing_is_read(zone, hour):
    _, rows = read(from_sql(ONE.replace("TIMESTAMP '2024-01-01'", f"'2024-07-01 10:00:00{zone}'")))
    assert rows[0]["event_time"] == datetime(2024, 7, 1, hour)


def test_dates_that_a_time_format_does_not_read_are_counted():
    query = ONE.replace("TIMESTAMP '2024-01-01'", "unnest(['11/1/2000', '11/13/2000', '13/11/2000', '2000-11-01'])")
    log, _ = read(DataConfig([Source(sql=query, time_format="%m/%d/%Y")], max_rejected=0.5))
    assert counted(log) == {"a time that does not parse": 2}


@pytest.mark.parametrize("given", ["source", "whole"])
def test_iso_dates_under_a_time_format_are_refused_with_that_format(given):
    text = ONE.replace("TIMESTAMP '2024-01-01'", "'2024-01-01'")
    sources = [Source(sql=text, time_format="%d/%m/%Y" if given == "source" else None)]
    said = message(DataConfig(sources, time_format="%d/%m/%Y" if given == "whole" else None))
    assert "time_format '%d/%m/%Y' does not read them; correct it, or leave it out where all are ISO dates" in said
    assert "need time_format" not in said


@pytest.mark.parametrize("offset", ["+99:00", "+15:00", "-14:30", "+05:99", "+9900"])
@pytest.mark.parametrize("time_format", [None, "%Y-%m-%d %H:%M:%S%z"])
def test_an_offset_that_no_place_has_is_a_time_that_does_not_parse(offset, time_format):
    text = ONE.replace(
        "TIMESTAMP '2024-01-01'", f"unnest(['2024-01-01 12:00:00+14:00', '2024-01-01 12:00:00{offset}'])"
    )
    log, rows = read(DataConfig([Source(sql=text, time_format=time_format)], max_rejected=0.5))
    assert (counted(log), rows[0]["event_time"]) == ({"a time that does not parse": 1}, datetime(2023, 12, 31, 22))


@pytest.mark.parametrize(
    "time", ["2024-01-31", "2024-01-31 10:00", "2024-01-31T10:00:00-05", "2024-01-31 10:00:00-05:30"]
)
def test_days_of_a_month_and_true_offsets_are_no_wrong_offsets(time):
    assert len(read(from_sql(ONE.replace("TIMESTAMP '2024-01-01'", f"'{time}'")))[1]) == 1


def test_the_time_format_of_all_sources_leaves_times_of_other_types_alone():
    texts = ONE.replace("TIMESTAMP '2024-01-01'", "'1/2/2024'")
    numbers = Source(sql=ONE.replace("TIMESTAMP '2024-01-01'", "1704067200"), time_unit="seconds")
    _, rows = read(DataConfig([Source(sql=texts), Source(sql=ONE), numbers], time_format="%d/%m/%Y"))
    assert [row["event_time"] for row in rows] == [datetime(2024, 1, 1), datetime(2024, 1, 1), datetime(2024, 2, 1)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"time_format": "%Q"}, "time_format '%Q': Failed to parse format specifier"),
        ({"time_format": "%H:%M"}, "time_format: '%H:%M' gives no date; name year, month and day"),
        ({"time_format": "%d/%m/%Y"}, "time_format is for text, but event_time is TIMESTAMP already"),
        ({"time_format": "%d/%m/%Y", "time_unit": "seconds"}, "time_unit and time_format exclude each other"),
    ],
)
def test_a_time_format_that_cannot_hold_is_refused(changes, said):
    assert said in message(DataConfig([Source(sql=ONE, **changes)]))


def test_the_refusal_of_a_date_has_no_users_name(monkeypatch):
    monkeypatch.setenv("SECRET", KEYS[0])
    for time, shown in (("01/05/2024", True), ("alice@mail.example", False)):
        query = ONE.replace("TIMESTAMP '2024-01-01'", f"'{time}'")
        assert (time in message(from_sql(query, pseudonymize="SECRET"))) == shown


# Rows and users that count too much


def test_a_number_that_is_missing_is_no_time():
    query = ONE.replace("TIMESTAMP '2024-01-01'", "unnest([1.7e9::DOUBLE, NULL, 'nan'])")
    log, _ = read(DataConfig([Source(sql=query, time_unit="seconds")], max_rejected=0.9))
    assert counted(log) == {"no time": 2}


@pytest.mark.parametrize(
    ("time", "timezone", "utc"),
    [
        ("TIMESTAMP '2024-01-01 00:30:00'", "UTC", datetime(2024, 1, 1, 0, 30)),
        ("TIMESTAMP '2024-01-01 00:30:00'", "Europe/Berlin", datetime(2023, 12, 31, 23, 30)),
        ("TIMESTAMP '2024-07-01 00:30:00'", "Europe/Berlin", datetime(2024, 6, 30, 22, 30)),
        ("'2024-07-01 00:30:00'", "Europe/Berlin", datetime(2024, 6, 30, 22, 30)),
        ("'2024-07-01T00:30:00+05:00'", "Europe/Berlin", datetime(2024, 6, 30, 19, 30)),
        ("'2024-07-01T00:30:00Z'", "Europe/Berlin", datetime(2024, 7, 1, 0, 30)),
        ("'2024-07-01T00:30:00-02:00'", "UTC", datetime(2024, 7, 1, 2, 30)),
        ("TIMESTAMPTZ '2024-07-01 00:30:00+05:00'", "America/New_York", datetime(2024, 6, 30, 19, 30)),
        ("DATE '2024-07-01'", "Asia/Tokyo", datetime(2024, 6, 30, 15)),
        ("TIMESTAMP_NS '2024-07-01 00:00:00.123456'", "UTC", datetime(2024, 7, 1, 0, 0, 0, 123456)),
        ("TIMESTAMP_S '2024-07-01 00:00:01'", "UTC", datetime(2024, 7, 1, 0, 0, 1)),
    ],
)
def test_naive_times_are_in_data_timezone_and_times_with_a_zone_keep_it(time, timezone, utc):
    _, rows = read(from_sql(ONE.replace("TIMESTAMP '2024-01-01'", time), timezone=timezone))
    assert rows[0]["event_time"] == utc


# Sources that are refused


def test_a_number_as_a_time_needs_its_unit():
    text = message(from_sql(ONE.replace("TIMESTAMP '2024-01-01'", "1704067200")))
    assert "event_time is a number (INTEGER); set time_unit to seconds, milliseconds, microseconds" in text
    assert "event_time is TIME, not a time" in message(from_sql(ONE.replace("TIMESTAMP '2024-01-01'", "TIME '12:00'")))


def test_a_unit_without_a_number_is_refused():
    text = message(DataConfig([Source(sql=ONE, time_unit="seconds")]))
    assert "time_unit is for numbers, but event_time is TIMESTAMP; leave time_unit out" in text
