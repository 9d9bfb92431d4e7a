"""The simulated log is what its docstring says: the bounds are those of chance, at four standard deviations."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from tests.commands import script_module

SCRIPT = Path(__file__).parents[2] / "scripts" / "simulate.py"
START, EVENTS, USERS, DAYS = pd.Timestamp("2024-01-01"), 400_000, 4_000, 720


def run(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True)


@pytest.fixture(scope="module")
def simulate():
    """The script as a module."""
    return script_module("simulate")


@pytest.fixture(scope="module")
def log(simulate, tmp_path_factory):
    """The events and the users of a log of two years that was written in 20 chunks."""
    folder = tmp_path_factory.mktemp("simulated")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulate, "CHUNK", EVENTS // 20)
        simulate.simulate(folder, EVENTS, USERS, DAYS, 0, datetime(2024, 1, 1, tzinfo=UTC))
    assert pq.ParquetFile(folder / "events.parquet").num_row_groups == 20
    return pd.read_parquet(folder / "events.parquet"), pd.read_parquet(folder / "users.parquet")


@pytest.fixture(scope="module")
def rates(log):
    """For each user the true rate, the days until the user left or the log ended, and the purchases in them."""
    events, users = log
    purchases = events[events.event_type == "purchase"].user_id.value_counts()
    active = (users.left_at.fillna(START + pd.Timedelta(days=DAYS)) - START) / pd.Timedelta(days=1)
    observed = purchases.reindex(users.user_id, fill_value=0).to_numpy()
    return pd.DataFrame({"rate": users.purchases_per_day, "days": active, "purchases": observed})


def test_the_log_has_about_the_events_that_were_asked_for(log):
    assert abs(len(log[0]) - EVENTS) < 4 * 2.5 * EVENTS**0.5
    assert len(log[1]) == USERS
    assert set(log[0].user_id) <= set(log[1].user_id)


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(tmp_path):
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        done = run("--folder", tmp_path / name, "--events", "20_000", "--users", 500, "--days", 60, "--seed", seed)
        assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "one").iterdir()} == {"events.parquet", "users.parquet"}
    for file in ("events.parquet", "users.parquet"):
        one, same, other = ((tmp_path / name / file).read_bytes() for name in ("one", "same", "other"))
        assert one == same
        assert one != other


def test_purchases_come_at_the_true_rate_among_rare_and_frequent_buyers(rates):
    expected = (rates.rate * rates.days).rename("expected")
    tenths = pd.qcut(rates.rate, 10, labels=False)
    sums = pd.concat([expected, rates.purchases], axis=1).groupby(tenths).sum()
    assert len(sums) == 10
    assert (np.abs(sums.purchases - sums.expected) < 4 * np.sqrt(sums.expected)).all()
    assert abs(rates.purchases.sum() - expected.sum()) < 4 * np.sqrt(expected.sum())


def test_the_purchases_of_a_user_scatter_like_a_poisson_process(rates):
    expected = rates.rate * rates.days
    some = rates[expected > 0.5].assign(expected=expected)
    dispersion = ((some.purchases - some.expected) ** 2 / some.expected).sum()
    assert abs(dispersion - len(some)) < 4 * np.sqrt((2 + 1 / some.expected).sum())


def test_a_long_log_shows_each_users_rate_as_well_as_chance_allows(rates):
    stayed = rates[rates.days == DAYS]
    found = np.corrcoef(stayed.rate, stayed.purchases / stayed.days)[0, 1]
    possible = np.sqrt(stayed.rate.var() / (stayed.rate.var() + stayed.rate.mean() / DAYS))
    assert 0.8 < possible < 0.99
    assert abs(found - possible) < 0.03


def test_users_leave_by_a_pareto_distribution_and_have_no_event_later(log):
    events, users = log
    gone = 1 - 270 / (270 + DAYS)
    assert abs(users.left_at.notna().mean() - gone) < 4 * np.sqrt(gone * (1 - gone) / USERS)
    left = events.user_id.map(users.set_index("user_id").left_at)
    assert not (events.event_time > left).any()
    last = events.groupby("user_id").event_time.max()
    assert (last > START + pd.Timedelta(days=DAYS - 1)).any()


def test_events_lie_within_the_span_in_the_order_of_time_but_for_the_ends_of_chunks(log):
    times = log[0].event_time
    assert times.min() >= START
    assert times.max() < START + pd.Timedelta(days=DAYS)
    back = times.diff() < pd.Timedelta(0)
    assert back.sum() <= 19 * 10  # of a few sessions across each end
    assert not log[0].user_id.is_monotonic_increasing


def test_a_cart_follows_a_view_and_a_purchase_its_cart_of_the_same_item(log):
    events = log[0].sort_values(["user_id", "event_time"], kind="stable").astype({"quantity": "float64"})
    before = events.groupby("user_id").shift()
    for kind, needed in (("cart", "view"), ("purchase", "cart")):
        some, previous = events[events.event_type == kind], before[events.event_type == kind]
        same = (previous.event_type == needed) & (previous.category == some.category) & (previous.price == some.price)
        assert same.mean() > 0.99  # two sessions of one user may overlap
        if kind == "purchase":
            assert (previous.quantity == some.quantity)[same].all()
    assert events.quantity.isna().equals(events.event_type == "view")
    assert (events.price > 0).all()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--events", "0"], "--events: '0' is no whole number from 1 on; write 5_000_000"),
        (["--events", "many"], "--events: 'many' is no whole number from 1 on; write 5_000_000"),
        (["--users", "-5"], "--users: '-5' is no whole number from 1 on; write 200_000"),
        (["--users", "99_999_999_999_999"], "--users: 99,999,999,999,999 users do not fit into the memory; take fewer"),
        (["--days", "100_000"], "--days: 100,000 days from 2024-01-01 on end after 2199; take fewer"),
        (["--seed", "1.5"], "--seed: '1.5' is no whole number from 0 on; write 0"),
        (["--events"], "--events: expected one argument; see --help"),
        (["--start", "monday"], "--start: 'monday' is no date; write 2024-01-01"),
    ],
)
def test_a_wrong_argument_ends_with_one_sentence_and_code_2(arguments, sentence, tmp_path):
    done = run("--folder", tmp_path / "log", *arguments)
    assert (done.returncode, done.stderr) == (2, f"error: {sentence}\n")
    assert not (tmp_path / "log").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    done = run("--folder", tmp_path / "file", "--events", "100")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: --folder {tmp_path / 'file'}: File exists; choose one")
