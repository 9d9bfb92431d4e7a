"""Write a simulated shop's log of any size, in which every user's true purchase rate and moment of leaving are known.

python scripts/simulate.py --folder sim/5m --events 5_000_000 --users 200_000 --days 180 --seed 0

For benchmarks, and for tests of whether a method recovers what is known here; never for a claim of quality, because
real shoppers are not drawn from these distributions.

FOLDER/events.parquet: user_id, event_time, event_type (view, cart, purchase), category, price, quantity (none for a
view), in the order of time, but for sessions across the ends of the chunks in which the file is written; never ordered
by user. FOLDER/users.parquet: user_id, purchases_per_day (the expected rate until the user leaves), left_at (null if
not within the log), buys_after_cart (the probability that a purchase follows a cart); users whose sessions are rare may
have no event.

The model is "buy till you die", the Pareto/NBD of Schmittlein, Morrison and Colombo (1987, Counting Your Customers,
Management Science 33, 1-24), for sessions instead of purchases, each of which then ends in a purchase or not:

- Everybody is there from the first moment. A user leaves for good after an exponential time whose rate is gamma(1)
  over users with the mean 1/270 a day: a Pareto distribution, by which 40 % are gone after 180 days.
- Until then sessions end by a Poisson process whose rate is gamma(1.2) over users, scaled to the events asked for.
- A session is 1, 2, 3, ... views (geometric, 3.3 on average) of one category; then with the user's probability
  beta(2, 6) a cart of the last item seen; then with the user's probability beta(3, 3) its purchase. So
  purchases_per_day = sessions a day x P(cart) x P(purchase | cart), and purchases are a Poisson process themselves.
- The events of a session are 5 s plus an exponential time (40 s on average) apart. No hour or weekday is special.
  Views before the first moment, of sessions that end after it, are not in the log.
- Half of the sessions are in the user's favourite category, the others in one by popularity (1/rank); prices are
  lognormal around the category's, quantities geometric.

The same arguments give the same bytes, with the same versions of numpy and pyarrow.
"""

import argparse
import os
import re
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

TYPES = ("view", "cart", "purchase")
CATEGORIES = (
    *("shoes", "shirts", "trousers", "dresses", "jackets", "bags", "watches", "jewellery", "toys", "books", "games"),
    *("phones", "laptops", "cameras", "audio", "lamps", "chairs", "tables", "beds", "rugs", "kitchen", "garden"),
    *("tools", "paint", "bikes", "camping", "running", "pets", "baby", "beauty", "health", "food"),
)
DAY = 86_400_000  # in milliseconds, the unit of time below
LEAVE_DAYS = 270  # a user's rate of leaving is gamma(1) with the mean 1 / LEAVE_DAYS a day
SESSION_SHAPE = 1.2
VIEW_ENDS = 0.3  # probability that a view is the session's last one
CHUNK = 1_000_000  # events that are held at a time, roughly
SCHEMA = pa.schema(
    {
        "user_id": pa.string(),
        "event_time": pa.timestamp("us"),
        "event_type": pa.dictionary(pa.int8(), pa.string()),
        "category": pa.dictionary(pa.int8(), pa.string()),
        "price": pa.float64(),
        "quantity": pa.int32(),
    }
)


def simulate(folder: Path, events: int, users: int, days: int, seed: int, start: datetime) -> int:
    """Write FOLDER/events.parquet and FOLDER/users.parquet; returns the number of events.

    Args:
        folder: Made where it is missing; files of an earlier run are replaced.
        events: The expected number of events; the actual one differs by chance, by about 2.5 times its square root.
        users: Number of users, of whom some may have no event.
        days: Length of the log.
        seed: The same seed gives the same bytes.
        start: The log's first moment, in UTC.
    """
    random = np.random.default_rng(seed)
    shop = _users(random, events, users, days)
    begin = int(start.timestamp() * 1000)
    folder.mkdir(parents=True, exist_ok=True)
    left = pa.array((begin + shop["left"]) * 1000, pa.timestamp("us"), mask=shop["left"] >= days * DAY)
    rate = shop["sessions"] * shop["cart"] * shop["buy"] * DAY
    table = pa.table(
        {"user_id": shop["name"], "purchases_per_day": rate, "left_at": left, "buys_after_cart": shop["buy"]}
    )
    total, unfinished = 0, folder / f".events.{os.getpid()}.parquet"
    try:
        # Dictionaries only where values repeat: other columns would try one for each row group and give it up.
        with pq.ParquetWriter(
            unfinished,
            SCHEMA,
            use_dictionary=["event_type", "category", "quantity"],  # pyright: ignore[reportArgumentType] - also names
        ) as writer:
            ends = np.linspace(0, days * DAY, -(-events // CHUNK) + 1)
            for since, until in pairwise(ends):
                chunk = _events(random, shop, begin, since, until)
                writer.write_table(chunk)
                total += len(chunk)
        pq.write_table(table, folder / "users.parquet")
        os.replace(unfinished, folder / "events.parquet")
    finally:
        unfinished.unlink(missing_ok=True)
    return total


def _users(random: np.random.Generator, events: int, users: int, days: int) -> dict[str, np.ndarray | pa.Array]:
    """Name, moment of leaving (ms after the start), sessions a millisecond, the two probabilities and a favourite."""
    rate_of_leaving = random.gamma(1, 1 / LEAVE_DAYS, users)
    left = np.minimum(random.exponential(1, users) / rate_of_leaving, 1e6) * DAY
    sessions = random.gamma(SESSION_SHAPE, 1, users)
    cart, buy = random.beta(2, 6, users), random.beta(3, 3, users)
    expected = sessions * np.minimum(left, days * DAY) * (1 / VIEW_ENDS + cart + cart * buy)
    return {
        "name": pa.array([f"u{i:07}" for i in range(users)]),
        "left": np.ceil(left).astype(np.int64),
        "sessions": sessions * (events / expected.sum()),
        "cart": cart,
        "buy": buy,
        "favourite": _categories(random, users),
    }


def _events(
    random: np.random.Generator, shop: dict[str, np.ndarray | pa.Array], begin: int, since: float, until: float
) -> pa.Table:
    """The events of all sessions that end in [since, until), in the order of time."""
    length = np.clip(np.minimum(shop["left"], until) - since, 0, None)
    user = np.repeat(np.arange(len(length)), random.poisson(shop["sessions"] * length))
    sessions = len(user)
    end = (since + random.random(sessions) * length[user]).astype(np.int64)
    views = random.geometric(VIEW_ENDS, sessions)
    carts = random.random(sessions) < shop["cart"][user]
    count = views + carts + (carts & (random.random(sessions) < shop["buy"][user]))
    category = np.where(random.random(sessions) < 0.5, shop["favourite"][user], _categories(random, sessions))
    quantity = random.geometric(0.7, sessions)

    after = np.cumsum(count)  # the first event after the session
    session = np.repeat(np.arange(sessions), count)
    place = np.arange(len(session)) - (after - count)[session]
    clock = np.cumsum((5_000 + random.exponential(40_000, len(session))).astype(np.int64))
    at = (end - clock[after - 1])[session] + clock
    kind = np.maximum(place - views[session] + 1, 0).astype(np.int8)
    price = 12 * 1.05 ** category[session] * np.exp(0.6 * random.standard_normal(len(session)))
    price = np.round(price[np.arange(len(session)) - kind], 2)  # a cart and its purchase are of the last item seen

    order = np.argsort(at)
    order = order[np.searchsorted(at[order], 0) :]
    session, kind = session[order], kind[order]
    columns = [
        shop["name"].take(pa.array(user[session])),
        pa.array((at[order] + begin) * 1000, pa.timestamp("us")),
        pa.DictionaryArray.from_arrays(kind, TYPES),
        pa.DictionaryArray.from_arrays(category[session], CATEGORIES),
        pa.array(price[order]),
        pa.array(quantity[session].astype(np.int32), mask=kind == 0),
    ]
    return pa.table(columns, schema=SCHEMA)


def _categories(random: np.random.Generator, count: int) -> np.ndarray:
    """Indices of categories, the first one the most popular."""
    shares = np.cumsum(1 / np.arange(1, len(CATEGORIES) + 1))
    return np.searchsorted(shares, random.random(count) * shares[-1], side="right").astype(np.int8)


def _whole_number(least: int, example: str) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"\d+(_\d+)*", text) or int(text) < least:
            raise argparse.ArgumentTypeError(f"'{text}' is no whole number from {least} on; write {example}")
        return int(text)

    return parse


def _date(text: str) -> datetime:
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is no date; write 2024-01-01") from None


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence."""

    def error(self, message: str) -> NoReturn:
        _refuse(message.removeprefix("argument ") + ("" if ";" in message else "; see --help"))


def _refuse(message: object) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def main() -> None:
    """Simulate what the command line says."""
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="The output's folder; files of an earlier run go.")
    parser.add_argument("--events", type=_whole_number(1, "5_000_000"), default=5_000_000, help="About so many events.")
    parser.add_argument("--users", type=_whole_number(1, "200_000"), default=200_000, help="Number of users.")
    parser.add_argument("--days", type=_whole_number(1, "180"), default=180, help="Length of the log.")
    parser.add_argument("--seed", type=_whole_number(0, "0"), default=0, help="Another seed, another log.")
    parser.add_argument("--start", type=_date, default=_date("2024-01-01"), help="The first day, such as 2024-01-01.")
    given = parser.parse_args()
    if given.days > (datetime(2200, 1, 1, tzinfo=UTC) - given.start).days:
        _refuse(f"--days: {given.days:,} days from {given.start:%Y-%m-%d} on end after 2199; take fewer")
    began = time.perf_counter()
    try:
        events = simulate(**vars(given))
    except OSError as error:
        _refuse(f"--folder {given.folder}: {error.strerror or error}; choose one that can be written, with space left")
    except MemoryError:
        _refuse(f"--users: {given.users:,} users do not fit into the memory; take fewer")
    print(f"{given.folder}: {events:,} events of {given.users:,} users in {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()
