"""Each config of a public log, on a small log with the published files: what it reads, whom it asks, what it expects.

What a config says is said here again in plain Python, from the description of the log or of its benchmark.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

import finetune.parser
from data_prep.connections import connect
from data_prep.events import read_events
from data_prep.prepare import prepare
from data_prep.prepared import read_manifest

CONFIGS = Path(__file__).parents[2] / "configs"
# 84.51° Complete Journey, whose files come with a package; and those with cutoffs at events, see test_moments.py.
OTHERS = {"departments", "quickstart", "churn_bert_base_lora"}
OTHERS |= {"campaign_response", "session_purchase", "retailrocket_session", "rees46_cosmetics_session"}
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


@pytest.fixture(scope="session")
def known(writers, tmp_path_factory) -> Iterator[Callable[[Facts], tuple]]:
    """The log of some facts, the experiment that its config describes there, and what it prepares; each made once."""

    @cache
    def log(name: str):
        facts = next(facts for facts in KNOWN if facts.log == name)
        return writers[name](visits(facts), tmp_path_factory.mktemp(name))

    @cache
    def prepared(config: str, name: str) -> tuple:
        made, folder = log(name), tmp_path_factory.mktemp("prepared")
        variables = [part for key, path in made.variables.items() for part in (f"--data.variables.{key}", path)]
        given = ["--config", str(CONFIGS / f"{config}.yaml"), *variables, "--data.folder", str(folder)]
        experiment = finetune.parser.parse_experiment("", given)
        return made, experiment, prepare(experiment.name, experiment.data, experiment.task, experiment.text)

    with pytest.MonkeyPatch.context() as patch:  # the parser is the same for all, and slow to build
        patch.setattr(finetune.parser, "build_parser", cache(finetune.parser.build_parser))
        yield lambda facts: prepared(facts.config, facts.log)


def expected(facts: Facts, events: list[dict], classes: list[str] | None = None) -> dict[str, dict]:
    """Split -> (user, cutoff) -> label, in plain Python."""
    asked, targets = defaultdict(list), defaultdict(list)
    for event in sorted(events, key=lambda event: event["event_time"]):
        if not facts.asked or event["event_type"] in facts.asked:
            asked[event["user_id"]].append(event["event_time"])
        if event["event_type"] == facts.target:
            targets[event["user_id"]].append(event)
    times = {user: [event["event_time"] for event in found] for user, found in targets.items()}
    labels = {split: {} for split in SPLITS}
    for split in SPLITS:
        for cutoff in facts.cutoffs[split]:
            for user, moments in asked.items():
                if bisect_left(moments, cutoff - facts.within) == bisect_left(moments, cutoff):
                    continue
                low, high = (bisect_left(times.get(user, []), cutoff + later) for later in (0 * DAY, facts.horizon))
                window = targets[user][low:high]
                if classes is None:
                    labels[split][user, cutoff] = facts.label(window)
                else:
                    bought = {str(event[facts.label.removeprefix("which:")]) for event in window}
                    labels[split][user, cutoff] = [int(value in bought) for value in classes]
    return labels


def most_frequent(facts: Facts, events: list[dict], number: int) -> list[str]:
    """The classes of a propensity: what is bought most often in the training windows, an event counting once."""
    field, windows = facts.label.removeprefix("which:"), [(c, c + facts.horizon) for c in facts.cutoffs["train"]]
    counts = Counter(
        str(event[field])
        for event in events
        if event["event_type"] == facts.target
        and event[field] is not None
        and any(start <= event["event_time"] < end for start, end in windows)
    )
    assert len(counts) > number, "the log must sell more than the label asks about"
    return sorted(counts, key=lambda value: (-counts[value], value))[:number]


def exact(values: tuple) -> tuple:
    return tuple(
        round(value, 6) if isinstance(value, float) else tuple(value) if isinstance(value, list) else value
        for value in values
    )


EACH = pytest.mark.parametrize("facts", KNOWN, ids=lambda facts: f"{facts.config}-{facts.log}")


@EACH
def test_events_are_read_with_user_time_type_and_fields(facts, known):
    log, experiment, _ = known(facts)
    with connect() as con:
        found = read_events(con, experiment.data)
        names = ["user_id", "event_time", "event_type", *found.fields]
        rows = con.execute(f"SELECT {', '.join(names)} FROM log").fetchall()
    assert set(names) == set(log.events[0])
    assert Counter(map(exact, rows)) == Counter(exact(tuple(map(event.get, names))) for event in log.events)
    assert len(rows) > 200
    assert not any(found.rejected.values())
    assert (found.first, found.last) == (facts.first + facts.shift, facts.last + facts.shift)


@EACH
def test_population_and_labels_are_those_of_a_plain_computation(facts, known):
    log, _, folder = known(facts)
    classes = None
    if isinstance(facts.label, str):
        classes = most_frequent(facts, log.events, 100)
        assert read_manifest(folder)["classes"] == classes
    labels = expected(facts, log.events, classes)
    for split in SPLITS:
        rows = pq.read_table(folder / f"{split}.parquet", columns=["user_id", "cutoff", "label"]).to_pylist()
        found = {(row["user_id"], row["cutoff"]): row["label"] for row in rows}
        numbers = all(isinstance(label, float) for label in found.values())
        assert found == (pytest.approx(labels[split], abs=1e-3) if numbers else labels[split])
        assert len(found) == len(rows)
        assert len({str(label) for label in found.values()}) > 1
        assert {cutoff for _, cutoff in found} == set(facts.cutoffs[split])


@EACH
def test_texts_hold_the_fields_of_the_log(facts, known):
    log, experiment, folder = known(facts)
    texts = " ".join(pq.read_table(folder / "train.parquet", columns=["text"])["text"].to_pylist())
    for name, spec in experiment.text.fields.items():
        if spec.words:
            words = {word for event in log.events if event[name] for word in event[name].lower().split()}
            assert words & set(texts.split()), name
        else:
            assert f" {name}=" in texts, name


# What RelBench's own SQL says of the same tables: its manifests, datasets/DATASET/tasks/TASK/manifest.yaml of
# github.com/stanford-star/relbench (MIT licence), hold one statement a task, over the tables and `timestamps`.

REL_HM_USER_CHURN = """
            SELECT
                timestamp,
                customer_id,
                CAST(
                    NOT EXISTS (
                        SELECT 1
                        FROM transactions
                        WHERE
                            transactions.customer_id = customer.customer_id AND
                            t_dat > timestamp AND
                            t_dat <= timestamp + INTERVAL '{timedelta}'
                    ) AS INTEGER
                ) AS churn
            FROM
                timestamps,
                customer,
            WHERE
                EXISTS (
                    SELECT 1
                    FROM transactions
                    WHERE
                        transactions.customer_id = customer.customer_id AND
                        t_dat > timestamp - INTERVAL '{timedelta}' AND
                        t_dat <= timestamp
                )
            """
REL_AMAZON_USER_CHURN = """
            SELECT
                timestamp,
                customer_id,
                CAST(
                    NOT EXISTS (
                        SELECT 1
                        FROM review
                        WHERE
                            review.customer_id = customer.customer_id AND
                            review_time > timestamp AND
                            review_time <= timestamp + INTERVAL '{timedelta}'
                    ) AS INTEGER
                ) AS churn
            FROM
                timestamps,
                customer,
            WHERE
                EXISTS (
                    SELECT 1
                    FROM review
                    WHERE
                        review.customer_id = customer.customer_id AND
                        review_time > timestamp - INTERVAL '{timedelta}' AND
                        review_time <= timestamp
                )
            """
REL_AMAZON_USER_LTV = """
            SELECT
                timestamp,
                customer_id,
                ltv,
            FROM
                timestamps,
                customer,
                (
                    SELECT
                        COALESCE(SUM(price), 0) as ltv,
                    FROM
                        review,
                        product
                    WHERE
                        review.customer_id = customer.customer_id AND
                        review.product_id = product.product_id AND
                        review_time > timestamp AND
                        review_time <= timestamp + INTERVAL '{timedelta}'
                )
            WHERE
                EXISTS (
                    SELECT 1
                    FROM review
                    WHERE
                        review.customer_id = customer.customer_id AND
                        review_time > timestamp - INTERVAL '{timedelta}' AND
                        review_time <= timestamp
                )
            """
REL_HM_USER_LTV = """
            SELECT
                timestamp,
                customer_id,
                ltv,
            FROM
                timestamps,
                customer,
                (
                    SELECT
                        COALESCE(SUM(price), 0) as ltv,
                    FROM
                        transactions
                    WHERE
                        transactions.customer_id = customer.customer_id AND
                        t_dat > timestamp AND
                        t_dat <= timestamp + INTERVAL '{timedelta}'
                )
            WHERE
                EXISTS (
                    SELECT 1
                    FROM transactions
                    WHERE
                        transactions.customer_id = customer.customer_id AND
                        t_dat > timestamp - INTERVAL '{timedelta}' AND
                        t_dat <= timestamp
                )
            """  # RelBench has none: rel-amazon's user-ltv, with the price of the transaction instead of the product's


@pytest.mark.parametrize(
    ("config", "sql", "timedelta", "unit"),
    [
        ("rel_hm_user_churn", REL_HM_USER_CHURN, "7 days 00:00:00", 1),
        ("rel_hm_user_ltv", REL_HM_USER_LTV, "7 days 00:00:00", 1000),  # thousandths
        ("rel_amazon_user_churn", REL_AMAZON_USER_CHURN, "91 days 00:00:00", 1),
        ("rel_amazon_user_ltv", REL_AMAZON_USER_LTV, "91 days 00:00:00", 1),
    ],
)
def test_population_and_labels_are_those_of_relbench(config, sql, timedelta, unit, known):
    facts = next(facts for facts in KNOWN if facts.config == config)
    log, _, folder = known(facts)
    tables = {path.stem: path for path in Path(*log.variables.values()).iterdir()}
    for split in SPLITS:
        with duckdb.connect() as con:
            for name, path in tables.items():
                con.execute(f"CREATE VIEW {name} AS FROM '{path}'")
            con.execute("CREATE TABLE timestamps (timestamp TIMESTAMP)")
            con.executemany("INSERT INTO timestamps VALUES (?)", [[cutoff] for cutoff in facts.cutoffs[split]])
            theirs = con.execute(sql.replace("{timedelta}", timedelta)).fetchall()
        rows = pq.read_table(folder / f"{split}.parquet", columns=["user_id", "cutoff", "label"]).to_pylist()
        ours = {(row["user_id"], row["cutoff"]): row["label"] for row in rows}
        assert len(theirs) > 10
        assert len({value for _, _, value in theirs}) > 1
        found = {(str(user), timestamp): value * unit for timestamp, user, value in theirs}
        assert ours == pytest.approx(found, rel=1e-9, abs=1e-3 if unit > 1 else 1e-9)


def test_every_config_of_a_public_log_is_tested():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} - OTHERS == {facts.config for facts in KNOWN}


@pytest.mark.parametrize("config", sorted({facts.config for facts in KNOWN}))
def test_a_config_opens_with_the_log_its_page_and_the_commands_that_run_it(config):
    text = (CONFIGS / f"{config}.yaml").read_text(encoding="utf-8")
    settings, comment = yaml.safe_load(text), text.partition("\nname: ")[0]
    assert all(line.startswith("#") for line in comment.splitlines())
    assert "https://" in comment or config == "tmall"  # nobody offers that log any more
    commands = [line[4:].split() for line in comment.splitlines() if line.startswith("#   python scripts/run.py")]
    run = ["python", "scripts/run.py", "--config", f"configs/{config}.yaml"]
    assert all(command[:4] == run for command in commands)
    overrides = [part.removeprefix("--").split(".") for part in commands[-1][4:] if part.startswith("--")]
    assert overrides
    for path in overrides:
        section = settings
        for key in path:
            assert key in section, path
            section = section[key]
    assert max(map(len, text.splitlines())) <= 120
