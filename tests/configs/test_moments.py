"""The configs whose cutoffs are at events, on small logs with the published columns."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from data_prep.prepare import prepare
from data_prep.prepared import read_manifest
from finetune.experiment.parser import parse_experiment
from tests.commands import script_module
from tests.configs.small_logs import WRITERS

CONFIGS = Path(__file__).parents[2] / "configs"


class Shop(NamedTuple):
    """What its published log has."""

    start: datetime
    days: int
    cart: str = "cart"
    buy: str = "purchase"


SHOPS = {
    "retailrocket": Shop(datetime(2015, 5, 3, 3), 138, "addtocart", "transaction"),
    "rees46_cosmetics": Shop(datetime(2019, 10, 1), 152),
    "rees46_multi_category": Shop(datetime(2019, 10, 1), 61),
}
HOUR = timedelta(hours=1)


def prepared(config: str, folder: Path, **variables: str) -> tuple[Path, dict]:
    given = [part for name, value in variables.items() for part in (f"--data.variables.{name}", value)]
    given = ["--config", str(CONFIGS / f"{config}.yaml"), *given, "--data.folder", str(folder)]
    experiment = parse_experiment("", given)
    made = prepare(experiment.name, experiment.data, experiment.task, experiment.text)
    return made, {split: getattr(experiment.task.cutoffs, split) for split in ("train", "validation", "test")}


def visits(shop: Shop) -> list[tuple[int, datetime, str]]:
    """A session of views every few days for each user, half of them with a cart and some with a purchase."""
    random, rows = np.random.default_rng(0), []
    for user in range(60):
        for day in np.flatnonzero(random.random(shop.days - 1) < 0.2):
            at = shop.start + timedelta(days=int(day), seconds=int(random.integers(20 * 3600)))
            seconds = np.cumsum(random.integers(1, 600, 5)).tolist()
            kinds = ["view", "view", shop.cart, *[shop.buy, "view"][: random.integers(3)]]
            rows += [(user, at + timedelta(seconds=second), kind) for second, kind in zip(seconds, kinds, strict=False)]
    return [*rows, (0, shop.start + timedelta(days=shop.days - 1, hours=20), "view")]


@pytest.mark.parametrize("name", SHOPS)
def test_a_session_config_asks_after_each_cart(tmp_path, name):
    shop = SHOPS[name]
    rows = visits(shop)
    log = WRITERS[name](rows, tmp_path)
    folder, ranges = prepared(f"{name}_session", tmp_path / "data", **log.variables)
    assert read_manifest(folder)["suspected_leaks"] == []
    for split, given in ranges.items():
        first, last = datetime.fromisoformat(given.first), datetime.fromisoformat(given.last) + timedelta(days=1)
        carts = {(str(user), at) for user, at, kind in rows if kind == shop.cart and first <= at < last}
        bought = [(str(user), at) for user, at, kind in rows if kind == shop.buy]
        found = pq.read_table(folder / f"{split}.parquet", columns=["user_id", "cutoff", "label", "text"]).to_pylist()
        assert {(row["user_id"], row["cutoff"]) for row in found} <= carts
        counts = Counter(user for user, _ in carts)
        assert len(found) == sum(min(given.per_user, count) for count in counts.values())
        for row in found:
            user, at = row["user_id"], row["cutoff"]
            assert row["label"] == any(buyer == user and at < moment <= at + HOUR for buyer, moment in bought)
            assert f"event_type={shop.cart} " in row["text"].split(" [SEP] ")[1] + " "


def test_campaign_response_asks_every_household_that_was_mailed(tmp_path):
    folder, _ = prepared("campaign_response", tmp_path)
    train = pq.read_table(folder / "train.parquet").to_pandas()
    mailed = pd.read_parquet(Path(_examples()) / "campaigns.parquet").merge(
        pd.read_parquet(Path(_examples()) / "campaign_descriptions.parquet"), on="campaign_id"
    )
    mailed = mailed[mailed.start_date.between("2017-02-01", "2017-07-24 23:59:59")]
    expected = set(zip(mailed.household_id.astype(str), mailed.start_date, strict=True))
    assert set(zip(train.user_id, train.cutoff, strict=True)) == expected
    coupons = pd.read_parquet(Path(_examples()) / "coupon_redemptions.parquet")
    dates = coupons.groupby(coupons.household_id.astype(str)).redemption_date.apply(list)
    for user, at, label in zip(train.user_id, train.cutoff, train.label, strict=True):
        assert label == any(at < date <= at + timedelta(days=14) for date in dates.get(user, []))


def _examples() -> str:
    from data_prep.config import DataConfig
    from data_prep.sources import expand

    return expand("${examples}", DataConfig([]), "")


def test_simulated_carts_are_bought_as_often_as_is_known(tmp_path):
    """Within four standard deviations, over all test moments; and by tenths of the users' true probability."""
    start = datetime(2024, 1, 1, tzinfo=UTC)
    script_module("simulate").simulate(tmp_path, 120_000, 4_000, 60, 0, start)
    folder, _ = prepared("session_purchase", tmp_path / "data", simulated=str(tmp_path))
    truth = pd.read_parquet(tmp_path / "users.parquet").set_index("user_id").buys_after_cart
    rows = pq.read_table(folder / "train.parquet", columns=["user_id", "label", "events_session"]).to_pandas()
    rows["truth"] = truth[rows.user_id].to_numpy()
    rows["tenth"] = pd.qcut(rows.truth, 10, labels=False)
    for _, part in [(None, rows), *rows.groupby("tenth")]:
        expected, deviation = part.truth.sum(), (part.truth * (1 - part.truth)).sum() ** 0.5
        # Another session within the half hour may bring a purchase, too.
        assert abs(part.label.sum() - expected) < 4 * deviation + 0.02 * len(part)
    assert rows.events_session.min() >= 2  # a cart follows a view
