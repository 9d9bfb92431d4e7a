"""What is known of each public log, and what its tasks ask, worked out a second time in plain Python."""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

CONFIGS = Path(__file__).parents[2] / "configs"


SPLITS = ("train", "validation", "test")


DAY, SECOND = timedelta(days=1), timedelta(seconds=1)


@dataclass(frozen=True)
class Facts:
    """What is known of a log, and what its config asks: of users with an `asked` event in [cutoff - within, cutoff),
    the label of their `target` events in [cutoff, cutoff + horizon)."""

    config: str
    log: str  # the writer of its files, see conftest.py
    first: datetime  # the log's first and last event
    last: datetime
    resolution: timedelta
    types: dict[str, float]  # event type -> share
    target: str
    asked: tuple[str, ...]  # event types, all of them if empty
    within: timedelta
    horizon: timedelta
    cutoffs: dict[str, list[datetime]]
    label: Callable[[list[dict]], object] | str  # `which:` and the column of a propensity
    shift: timedelta = timedelta(0)  # what the config adds to the published times
    users: int = 45


def weekly(first: str, number: int, days: int = 7) -> list[datetime]:
    return [datetime.fromisoformat(first) + i * days * DAY for i in range(number)]


def dates(train: list[datetime], validation: str, *test: str) -> dict[str, list[datetime]]:
    parsed = [datetime.fromisoformat(text) for text in (validation, *test)]
    return {"train": train, "validation": parsed[:1], "test": parsed[1:]}


def churn(events: list[dict]) -> int:
    return int(not events)


def purchase(events: list[dict]) -> int:
    return int(bool(events))


RETAILROCKET = Facts(
    config="retailrocket",
    log="retailrocket",
    first=datetime(2015, 5, 3, 3, 0, 4, 384_000),
    last=datetime(2015, 9, 18, 2, 59, 47, 788_000),
    resolution=timedelta(milliseconds=1),
    types={"view": 0.7, "addtocart": 0.2, "transaction": 0.1},
    target="transaction",
    asked=("addtocart", "transaction"),
    within=28 * DAY,
    horizon=14 * DAY,
    cutoffs=dates(weekly("2015-06-01", 9), "2015-08-10", "2015-08-24", "2015-08-31"),
    label=purchase,
)


REES46 = Facts(
    config="rees46_multi_category",
    log="rees46_multi_category",
    first=datetime(2019, 10, 1),
    last=datetime(2019, 11, 30, 23, 59, 59),
    resolution=SECOND,
    types={"view": 0.7, "cart": 0.2, "purchase": 0.1},
    target="purchase",
    asked=("cart", "purchase"),
    within=7 * DAY,
    horizon=7 * DAY,
    cutoffs=dates(weekly("2019-10-13", 4), "2019-11-10", "2019-11-17", "2019-11-24"),
    label=purchase,
)


COSMETICS = Facts(
    config="rees46_cosmetics",
    log="rees46_cosmetics",
    first=datetime(2019, 10, 1),
    last=datetime(2020, 2, 29, 23, 59, 59),
    resolution=SECOND,
    types={"view": 0.5, "cart": 0.25, "remove_from_cart": 0.1, "purchase": 0.15},
    target="purchase",
    asked=("purchase",),
    within=56 * DAY,
    horizon=28 * DAY,
    cutoffs=dates(weekly("2019-10-27", 7), "2020-01-05", "2020-02-02"),
    label=churn,
)


SYNERISE = Facts(
    config="synerise_churn",
    log="synerise",
    first=datetime(2022, 6, 23, 2),
    last=datetime(2022, 12, 8, 1, 59, 59),
    resolution=SECOND,
    types={"product_buy": 0.5, "add_to_cart": 0.1, "remove_from_cart": 0.1, "page_visit": 0.2, "search_query": 0.1},
    target="product_buy",
    asked=("product_buy",),
    within=365 * DAY,  # any purchase before
    horizon=14 * DAY,
    cutoffs=dates(weekly("2022-08-18", 6, days=14), "2022-11-10", "2022-11-24"),
    label=churn,
    users=90,
)


PROPENSITY = replace(SYNERISE, asked=("product_buy", "add_to_cart"), within=28 * DAY)


TAOBAO = Facts(
    config="taobao",
    log="taobao",
    first=datetime(2017, 11, 24, 16),  # midnight in China, eight hours ahead of UTC
    last=datetime(2017, 12, 3, 15, 59, 59),
    resolution=SECOND,
    types={"pv": 0.7, "cart": 0.15, "fav": 0.05, "buy": 0.1},
    target="buy",
    asked=(),
    within=2 * DAY,
    horizon=2 * DAY,
    cutoffs=dates(weekly("2017-11-26 16:00", 2, days=1), "2017-11-29 16:00", "2017-12-01 16:00"),
    label=purchase,
)


TMALL = Facts(
    config="tmall",
    log="tmall",
    first=datetime(2013, 4, 15),
    last=datetime(2013, 8, 15),
    resolution=DAY,
    types={"click": 0.8, "buy": 0.1, "favourite": 0.05, "cart": 0.05},
    target="buy",
    asked=(),
    within=28 * DAY,
    horizon=7 * DAY,
    cutoffs=dates(weekly("2013-05-24", 9), "2013-07-26", "2013-08-02", "2013-08-09"),
    label=purchase,
)


TA_FENG = Facts(
    config="ta_feng",
    log="ta_feng",
    first=datetime(2000, 11, 1),
    last=datetime(2001, 2, 28),
    resolution=DAY,
    types={"purchase": 1},
    target="purchase",
    asked=(),
    within=28 * DAY,
    horizon=21 * DAY,
    cutoffs=dates(weekly("2000-11-29", 5), "2001-01-18", "2001-02-08"),
    label=churn,
)


REL_HM = Facts(  # RelBench's windows are (t, t + 7 days], on whole days
    config="rel_hm_user_churn",
    log="rel_hm",
    first=datetime(2018, 9, 20),
    last=datetime(2020, 9, 22),
    resolution=DAY,
    types={"purchase": 1},
    target="purchase",
    asked=("purchase",),
    within=7 * DAY,
    horizon=7 * DAY,
    cutoffs=dates(weekly("2020-03-09", 26), "2020-09-07", "2020-09-14"),
    label=churn,
    shift=-timedelta(microseconds=1),
    users=20,
)


REL_AMAZON = Facts(
    config="rel_amazon_user_churn",
    log="rel_amazon",
    first=datetime(2008, 1, 1),
    last=datetime(2018, 9, 28),
    resolution=DAY,
    types={"review": 1},
    target="review",
    asked=("review",),
    within=91 * DAY,
    horizon=91 * DAY,
    cutoffs=dates(weekly("2012-10-04", 12, days=91), "2015-10-01", "2016-01-01"),
    label=churn,
    shift=-timedelta(microseconds=1),
)


ONLINE_RETAIL = Facts(
    config="online_retail",
    log="online_retail",
    first=datetime(2010, 12, 1, 8, 26),
    last=datetime(2011, 12, 9, 12, 50),
    resolution=timedelta(minutes=1),
    types={"purchase": 0.85, "cancellation": 0.15},
    target="purchase",
    asked=("purchase",),
    within=180 * DAY,
    horizon=30 * DAY,
    cutoffs=dates(weekly("2011-04-04", 19), "2011-09-12", "2011-10-12", "2011-11-09"),
    label=purchase,
)


ONLINE_RETAIL_II = replace(
    ONLINE_RETAIL,
    config="online_retail_ii",
    log="online_retail_ii",
    first=datetime(2009, 12, 1, 7, 45),
    horizon=90 * DAY,
    cutoffs=dates(weekly("2010-06-07", 21, days=14), "2011-06-12", "2011-09-10"),
    label=churn,
)


CDNOW = Facts(
    config="cdnow",
    log="cdnow",
    first=datetime(1997, 1, 1),
    last=datetime(1998, 6, 30),
    resolution=DAY,
    types={"purchase": 1},
    target="purchase",
    asked=(),
    within=365 * DAY,
    horizon=91 * DAY,
    cutoffs=dates(weekly("1997-04-07", 8, days=21), "1997-12-01", "1998-03-02", "1998-03-30"),
    label=lambda events: bisect_left([0, 30, 100], round(sum(event["value"] for event in events), 2)),
)


KNOWN = [
    RETAILROCKET,
    REES46,
    replace(REES46, log="rees46_multi_category_gz"),
    COSMETICS,
    SYNERISE,
    replace(SYNERISE, config="synerise_conversion", asked=(), within=14 * DAY, label=purchase),
    replace(PROPENSITY, config="synerise_category_propensity", label="which:category"),
    replace(PROPENSITY, config="synerise_sku_propensity", label="which:sku"),
    TAOBAO,
    TMALL,
    replace(TMALL, log="tmall_csv"),
    TA_FENG,
    REL_HM,
    replace(REL_HM, config="rel_hm_user_ltv", label=lambda events: sum(event["value"] for event in events)),
    REL_AMAZON,
    replace(
        REL_AMAZON, config="rel_amazon_user_ltv", label=lambda events: sum(event["price"] or 0 for event in events)
    ),
    ONLINE_RETAIL,
    ONLINE_RETAIL_II,
    CDNOW,
]


def visits(facts: Facts) -> list[tuple[int, datetime, str]]:
    """Visits of users of steady but different rates, of whom some stop for good, over the whole span of the log.

    Around each later cutoff some users act on the bounds of the windows and nowhere else.
    """
    random, unit, rows = np.random.default_rng(0), facts.resolution, []
    span = (facts.last - facts.first) // unit
    names, shares = list(facts.types), np.array(list(facts.types.values()))
    mean = min(facts.within, facts.horizon) / unit
    for user in range(facts.users):
        step, end = random.uniform(0.3, 1.5) * mean, span * random.uniform(0.4, 1.6)
        place = random.uniform(0, step)
        while place < min(end, span):
            rows.append((user, facts.first + int(place) * unit, str(random.choice(names, p=shares / shares.sum()))))
            place += random.exponential(step)
    user, kind = facts.users, facts.target
    for cutoff in facts.cutoffs["validation"] + facts.cutoffs["test"]:
        start = cutoff + unit * bool(facts.shift)  # the window's first moment, as published
        begin, end = start - facts.within, start + facts.horizon
        for moments in (
            [start - unit],  # asked, nothing in the window
            [start - unit, start],
            [start - unit, end - unit],
            [start - unit, end],  # too late
            [begin, end - unit],  # asked still
            [begin - unit, start],  # asked no more
            [start],  # not asked yet
        ):
            rows += [(user, moment, kind) for moment in moments if facts.first <= moment <= facts.last]
            user += 1
    rows += [(user, facts.first, kind), (1, facts.last, names[0])]
    return [rows[i] for i in random.permutation(len(rows))]
