import pytest

from data_prep.config import CutoffRange
from data_prep.connections import connect
from data_prep.cutoffs import doubtful_windows, resolve_cutoffs
from data_prep.event_log import count_on
from data_prep.events import read_events
from data_prep.moments import show
from tests.data_prep.tasks import examples, refusal


def test_a_window_in_whose_end_nothing_happens_is_doubtful(shop):
    rows = [row for row in shop.regulars() if row["event_time"] < shop.day(64) or row["user_id"] == "looker"]
    with shop.log(rows) as (con, log):
        cutoffs = resolve_cutoffs(shop.task(), log)
        assert doubtful_windows(count_on(con), shop.task(), cutoffs, log) == [
            "no event with event_type = 'purchase' at the end of the label window 2024-02-29 to 2024-03-07; is the log "
            "complete?"
        ]
    with shop.log(shop.regulars()) as (con, log):
        assert doubtful_windows(count_on(con), shop.task(), cutoffs, log) == []


def test_a_range_of_cutoffs_steps_from_first_to_last(shop):
    steps = CutoffRange("2024-01-20", "2024-02-05", "1 week")
    with connect() as con:
        log = read_events(con, shop.data(shop.regulars()))
        cutoffs = resolve_cutoffs(shop.task(train=steps), log)
    assert list(map(show, cutoffs["train"])) == ["2024-01-20", "2024-01-27", "2024-02-03"]


def test_listed_cutoffs_are_sorted_and_count_once(shop):
    with connect() as con:
        log = read_events(con, shop.data(shop.regulars()))
        cutoffs = resolve_cutoffs(shop.task(train=["2024-02-02 06:00", "2024-02-01", "2024-02-01 00:00"]), log)
    assert list(map(show, cutoffs["train"])) == ["2024-02-01", "2024-02-02 06:00"]


def test_windows_may_touch_the_next_split_and_the_end_of_the_last_day(shop):
    task = shop.task(
        train=["2024-02-08"], validation=["2024-02-15"], test=["2024-03-23"]
    )  # the log's last event is on 2024-03-30 at noon: day 89 of a leap year
    examples(shop, shop.regulars(), task)


def test_a_training_window_past_the_first_validation_cutoff_is_refused_with_the_dates(shop):
    text = refusal(shop, shop.regulars(), shop.task(validation=["2024-02-20", "2024-02-14"]))
    assert "last train cutoff 2024-02-08 ends on 2024-02-15, after the first validation cutoff 2024-02-14" in text
    assert "move validation to 2024-02-15 or later, or end train at 2024-02-07" in text


def test_a_validation_window_past_the_first_test_cutoff_is_refused_with_the_dates(shop):
    text = refusal(shop, shop.regulars(), shop.task(test=["2024-02-21 23:59"]))
    assert "last validation cutoff 2024-02-15 ends on 2024-02-22" in text
    assert "after the first test cutoff 2024-02-21 23:59" in text


def test_a_training_cutoff_after_validation_is_refused(shop):
    assert "after the first validation cutoff" in refusal(shop, shop.regulars(), shop.task(train=["2024-03-01"]))


@pytest.mark.parametrize("cutoff", ["2023-12-31", "2024-01-01 06:00"])
def test_a_cutoff_that_is_not_after_the_first_event_is_refused_with_the_dates(shop, cutoff):
    text = refusal(shop, shop.regulars(), shop.task(train=[cutoff, "2024-02-01"]))
    assert f"task.cutoffs.train: the cutoff {cutoff} is not after the log's first event (2024-01-01 06:00)" in text
    assert "choose a later one" in text


def test_a_window_past_the_end_of_the_log_is_refused_with_the_dates(shop):
    text = refusal(shop, shop.regulars(), shop.task(test=["2024-03-25"]))
    assert "task.cutoffs.test: the label window of the cutoff 2024-03-25 ends on 2024-04-01" in text
    assert "the log ends on 2024-03-30 12:00; choose a cutoff no later than 2024-03-24" in text


@pytest.mark.parametrize("horizon", ["0 days", "soon", "-1 weeks", ""])
def test_a_horizon_that_is_no_positive_length_is_refused(shop, horizon):
    text = refusal(shop, shop.regulars(), shop.task(label={"horizon": horizon}))
    assert f"task.label.horizon: '{horizon}' is not a length above zero" in text


def test_a_look_back_that_is_no_positive_length_is_refused(shop):
    assert "task.population.within" in refusal(shop, shop.regulars(), shop.task(population={"within": "0 days"}))


@pytest.mark.parametrize("date", ["2024-02-30", "01.02.2024", "soon", "", "9999-12-31", "0001-01-01"])
def test_a_cutoff_that_is_no_date_is_refused(shop, date):
    text = refusal(shop, shop.regulars(), shop.task(validation=[date]))
    assert f"task.cutoffs.validation: '{date}' is not a date" in text


def test_a_cutoff_with_a_time_zone_is_refused(shop):
    text = refusal(shop, shop.regulars(), shop.task(validation=["2024-02-15T00:00+02:00"]))
    assert "carries a time zone" in text
    assert "in UTC" in text


def test_no_cutoffs_and_a_range_that_runs_backwards_are_refused(shop):
    assert "task.cutoffs.test is empty; give" in refusal(shop, shop.regulars(), shop.task(test=[]))
    backwards = CutoffRange("2024-02-08", "2024-02-01", "7 days")
    text = refusal(shop, shop.regulars(), shop.task(train=backwards))
    assert "task.cutoffs.train: last (2024-02-01) is before first (2024-02-08)" in text
    standing = CutoffRange("2024-02-01", "2024-02-08", "0 days")
    assert "task.cutoffs.train.every: '0 days'" in refusal(shop, shop.regulars(), shop.task(train=standing))
