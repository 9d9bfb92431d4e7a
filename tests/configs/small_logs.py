"""Small logs with the file names, columns and types of the published ones, beside what their configs must read.

A writer takes visits (user, time in UTC, event type) and a folder; it writes the files there and returns a `Log`.
"""

import csv
import gzip
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Visit = tuple[int, datetime, str]
MICROSECOND = timedelta(microseconds=1)


@dataclass
class Log:
    """Where the files are, and the events that the config must read from them: every column, times in UTC."""

    variables: dict[str, str]
    events: list[dict] = field(default_factory=list)


def seconds(moment: datetime) -> int:
    return int(moment.replace(tzinfo=UTC).timestamp())


def save_csv(path: Path, rows: Iterable[Iterable], header: str = "") -> None:
    text = io.StringIO(f"{header}\n" * bool(header), newline="")
    text.seek(0, io.SEEK_END)
    csv.writer(text, lineterminator="\n").writerows(rows)
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def save_parquet(path: Path, schema: dict[str, pa.DataType], rows: list[tuple]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    arrays = [pa.array(values, kind) for values, kind in zip(columns, schema.values(), strict=True)]
    pq.write_table(pa.table(dict(zip(schema, arrays, strict=True))), path)


def write_retailrocket(visits: list[Visit], folder: Path) -> Log:
    """events.csv and item_properties_part1/2.csv (kaggle.com/datasets/retailrocket/ecommerce-dataset)."""
    random, log, rows = np.random.default_rng(1), Log({"retailrocket": str(folder)}), []
    # Of an item the category changes at the second snapshot; the third item has none before July.
    snapshots = [datetime(2015, 5, 10, 3), datetime(2015, 7, 5, 3)]
    known = [(snapshots[0], item, 1000 + item) for item in range(12) if item != 3]
    known += [(snapshots[1], item, 1100 + item) for item in range(12)]
    for user, time, kind in visits:
        item, milliseconds = int(random.integers(15)), int(time.microsecond / 1000)
        transaction = int(random.integers(17_000)) if kind == "transaction" else ""
        rows.append((seconds(time) * 1000 + milliseconds, user, kind, item, transaction))
        found = [category for since, of, category in known if of == item and since <= time]
        log.events.append(
            {"user_id": str(user), "event_time": time, "event_type": kind}
            | {"category": str(found[-1]) if found else None}
        )
    save_csv(folder / "events.csv", rows, "timestamp,visitorid,event,itemid,transactionid")
    properties = [(seconds(since) * 1000, item, "categoryid", category) for since, item, category in known]
    properties += [(seconds(since) * 1000, 1, "888", "n277.200 1320598 n24.000") for since in snapshots]
    properties += [(seconds(since) * 1000, 2, "available", "1") for since in snapshots]
    for part in (0, 1):
        path = folder / f"item_properties_part{part + 1}.csv"
        save_csv(path, properties[part::2], "timestamp,itemid,property,value")
    return log


def _write_rees46(visits: list[Visit], folder: Path, suffix: str, code: bool) -> Log:
    """2019-Oct.csv and so on; the multi-category store is told by category_code, the cosmetics shop by category_id."""
    random, log, months = np.random.default_rng(2), Log({"rees46": str(folder / f"20*{suffix}")}), {}
    codes, brands = ["electronics.smartphone", "appliances.kitchen.washer", ""], ["samsung", "apple", ""]
    for user, time, kind in visits:
        category, brand = (int(i) for i in random.integers(3, size=2))
        price, number = round(float(random.gamma(2, 40)), 2), 2053013555631882655 + category
        session = f"{random.integers(16**8):08x}-8bb3-4e00-8c23-a032dfed738c"
        row = (f"{time:%Y-%m-%d %H:%M:%S} UTC", kind, 1000 + category, number, codes[category], brands[brand])
        months.setdefault(f"{time:%Y-%b}", []).append((*row, f"{price:.2f}", user, session))
        log.events.append(
            {"user_id": str(user), "event_time": time, "event_type": kind, "price": price}
            | {"category": (codes[category] or None) if code else str(number), "brand": brands[brand] or None}
        )
    header = "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session"
    for month, rows in months.items():
        save_csv(folder / f"{month}{suffix}", rows, header)
    return log


def write_rees46_multi_category(visits: list[Visit], folder: Path) -> Log:
    return _write_rees46(visits, folder, ".csv", code=True)


def write_rees46_multi_category_gz(visits: list[Visit], folder: Path) -> Log:
    return _write_rees46(visits, folder, ".csv.gz", code=True)


def write_rees46_cosmetics(visits: list[Visit], folder: Path) -> Log:
    return _write_rees46(visits, folder, ".csv", code=False)


def write_synerise(visits: list[Visit], folder: Path) -> Log:
    """The six files of synerise_dataset.tar.gz (recsys.synerise.com/data-set); times are texts there."""
    random, log = np.random.default_rng(3), Log({"synerise": str(folder)})
    tables = {"product_buy": [], "add_to_cart": [], "remove_from_cart": [], "page_visit": [], "search_query": []}
    number = {"page_visit": "url", "search_query": "query"}
    codes = [f"[{' '.join(map(str, random.integers(256, size=16)))}]" for _ in range(4)]
    products = [(sku, 50 + sku % 108, sku % 100, codes[sku % 4]) for sku in range(110)]
    for user, time, kind in visits:
        sku = int(random.integers(112))  # two products have no properties
        last = {"page_visit": 7_000 + sku, "search_query": codes[sku % 4]}.get(kind, sku)
        tables[kind].append((user, f"{time:%Y-%m-%d %H:%M:%S}", last))
        of_product = products[sku] if kind not in number and sku < len(products) else (None,) * 3
        log.events.append(
            {"user_id": str(user), "event_time": time, "event_type": kind, "sku": None if kind in number else sku}
            | {"category": of_product[1], "price": of_product[2]}
        )
    for name, rows in tables.items():
        kind = pa.string() if name == "search_query" else pa.int64()
        schema = {"client_id": pa.int64(), "timestamp": pa.string(), number.get(name, "sku"): kind}
        save_parquet(folder / f"{name}.parquet", schema, rows)
    schema = {"sku": pa.int64(), "category": pa.int64(), "price": pa.int64(), "name": pa.string()}
    save_parquet(folder / "product_properties.parquet", schema, products)
    return log


def write_taobao(visits: list[Visit], folder: Path) -> Log:
    """UserBehavior.csv (tianchi.aliyun.com/dataset/649): no header; some rows lie outside of the published span."""
    random, log = np.random.default_rng(4), Log({"taobao": str(folder / "UserBehavior.csv")})
    rows = []
    for user, time, kind in visits:
        category = int(random.integers(2_520_000, 2_520_030))
        rows.append((user, int(random.integers(5_000_000)), category, kind, seconds(time)))
        log.events.append({"user_id": str(user), "event_time": time, "event_type": kind, "category": category})
    # 24 November 2017 in China, 4 December 2017 in China, 1902, 2037 and 1970
    for outside in (1511539199, 1512316800, -2134949234, 2122867355, 0):
        rows.insert(len(rows) // 2, (1, 2268318, 2520377, "buy", outside))
    save_csv(folder / "UserBehavior.csv", rows)
    return log


def _tmall(visits: list[Visit]) -> tuple[list[tuple], list[dict]]:
    random, numbers, rows, events = np.random.default_rng(5), {"click": 0, "buy": 1, "favourite": 2, "cart": 3}, [], []
    for user, time, kind in visits:
        brand = int(random.integers(20_000, 20_040))
        for _ in range(1 + int(random.integers(3))):  # equal rows: one action, repeated on that day
            rows.append((user, brand, numbers[kind], f"{time.month}-{time.day}", kind, time.date()))
            events.append({"user_id": str(user), "event_time": time, "event_type": kind, "brand": brand})
    return rows, events


def write_tmall(visits: list[Visit], folder: Path) -> Log:
    """The competition's columns, and the two that came with the Parquet."""
    rows, events = _tmall(visits)
    schema = {name: pa.int64() for name in ("user_id", "brand_id", "type")}
    schema |= {"visit_datetime": pa.string(), "event": pa.string(), "date_assumed_2013": pa.date32()}
    save_parquet(folder / "events.parquet", schema, rows)
    return Log({"tmall": str(folder / "events.parquet")}, events)


def write_tmall_csv(visits: list[Visit], folder: Path) -> Log:
    """t_alibaba_data.csv, after iconv to UTF-8."""
    rows, events = _tmall(visits)
    rows = [(*row[:3], row[3].replace("-", "月") + "日") for row in rows]
    save_csv(folder / "t_alibaba_data.csv", rows, "user_id,brand_id,type,visit_datetime")
    return Log({"tmall": str(folder / "t_alibaba_data.csv")}, events)


def write_ta_feng(visits: list[Visit], folder: Path) -> Log:
    """transactions.parquet: a line for each subclass of a basket, of which a customer has one a day."""
    random, baskets = np.random.default_rng(9), {}
    for user, time, _ in visits:
        for _ in range(1 + int(random.integers(8))):
            subclass = f"{100_000 + int(random.integers(12))}"
            line = (subclass, int(random.integers(1, 5)), int(random.integers(10, 400)))
            baskets.setdefault((user, time), []).append(line)
    names = ("date", "customer_id", "age_group", "pin_code", "subclass", "amount", "sales_price")
    schema = dict.fromkeys(names, pa.string()) | {"date": pa.date32(), "amount": pa.int32(), "sales_price": pa.int32()}
    ages, codes = [None, "25-29", "30-34", "55-59"], ["115", "Others", "Unknown"]
    rows, log = [], Log({"ta_feng": str(folder / "transactions.parquet")})
    for (user, time), lines in baskets.items():
        rows += [(time.date(), f"{user:08}", ages[user % 4], codes[user % 3], *line) for line in lines]
        prices = {}
        for subclass, _, price in lines:
            prices[subclass] = prices.get(subclass, 0) + price
        log.events.append(
            {"user_id": f"{user:08}", "event_time": time, "event_type": "purchase", "age_group": ages[user % 4]}
            | {"value": float(sum(prices.values())), "items": sum(amount for _, amount, _ in lines)}
            | {"subclasses": sorted(prices, key=lambda subclass: (-prices[subclass], subclass))[:5]}
        )
    save_parquet(folder / "transactions.parquet", schema, rows)
    return log


HM_ARTICLE = {  # articles.csv of the H&M competition, with RelBench's keys
    **{"article_id": pa.int64(), "product_code": pa.int64(), "prod_name": pa.string(), "product_type_no": pa.int64()},
    **{"product_type_name": pa.string(), "product_group_name": pa.string(), "graphical_appearance_no": pa.int64()},
    **{"graphical_appearance_name": pa.string(), "colour_group_code": pa.int64(), "colour_group_name": pa.string()},
    **{"perceived_colour_value_id": pa.int64(), "perceived_colour_value_name": pa.string()},
    **{"perceived_colour_master_id": pa.int64(), "perceived_colour_master_name": pa.string()},
    **{"department_no": pa.int64(), "department_name": pa.string(), "index_code": pa.string()},
    **{"index_name": pa.string(), "index_group_no": pa.int64(), "index_group_name": pa.string()},
    **{"section_no": pa.int64(), "section_name": pa.string(), "garment_group_no": pa.int64()},
    **{"garment_group_name": pa.string(), "detail_desc": pa.string()},
}


def write_rel_hm(visits: list[Visit], folder: Path) -> Log:
    """db/*.parquet of rel-hm (huggingface.co/datasets/stanford-star/relbench-v1): keys are 0 to n - 1, days are times.

    A visit is a day; it holds one to four transactions of one channel or two.
    """
    random, rows, baskets = np.random.default_rng(6), [], {}
    types = ["Vest top", "Bra", "Socks", "Trousers", "Dress", "T-shirt"]
    for user, time, _ in visits:
        for _ in range(1 + int(random.integers(4))):
            article, channel = int(random.integers(len(types))), 1 + int(random.integers(2))
            price = float(random.integers(1, 600)) / 590 / 10  # as in 0.050830508474576264
            rows.append((time, user, article, price, channel))
            baskets.setdefault((user, time, channel), []).append((-price, types[article]))
    schema = {"t_dat": pa.timestamp("ns"), "customer_id": pa.int64(), "article_id": pa.int64(), "price": pa.float64()}
    save_parquet(folder / "transactions.parquet", schema | {"sales_channel_id": pa.int64()}, rows)
    articles = [
        tuple(kind if name == "product_type_name" else i if t == pa.int64() else "x" for name, t in HM_ARTICLE.items())
        for i, kind in enumerate(types)
    ]
    save_parquet(folder / "article.parquet", HM_ARTICLE, articles)
    schema = {"customer_id": pa.int64(), "FN": pa.float64(), "Active": pa.float64(), "club_member_status": pa.string()}
    schema |= {"fashion_news_frequency": pa.string(), "age": pa.float64(), "postal_code": pa.string()}
    customers = [(i, None, None, "ACTIVE", "NONE", 30.0, "x") for i in range(1 + max(user for user, _, _ in visits))]
    save_parquet(folder / "customer.parquet", schema, customers)
    return Log(
        {"rel_hm": str(folder)},
        [
            {"user_id": str(user), "event_time": time - MICROSECOND, "event_type": "purchase", "channel": channel}
            | {"value": -1000 * sum(price for price, _ in bought), "items": len(bought)}
            | {"products": [kind for _, kind in sorted(bought)][:3]}
            for (user, time, channel), bought in baskets.items()
        ],
    )


def write_rel_amazon(visits: list[Visit], folder: Path) -> Log:
    """db/*.parquet of rel-amazon (huggingface.co/datasets/stanford-star/relbench-v1)."""
    random, log, rows = np.random.default_rng(7), Log({"rel_amazon": str(folder)}), []
    products = []
    for i in range(30):
        category = ["Books", "Literature & Fiction", f"Shelf {i % 5}"] if i % 7 else None
        products.append((i, category, "Visit x", f"The Book of {i}", "x", round(4.99 + 1.25 * i, 2)))
    for user, time, _ in visits:
        product = int(random.integers(31))
        product = None if product == 30 else product  # RelBench nulls a key that its tables do not hold
        rating = float(random.integers(1, 6))
        rows.append((time, user, rating, True, "It is a book", "Good", product))
        found = products[product] if product is not None else (None,) * 6
        log.events.append(
            {"user_id": str(user), "event_time": time - MICROSECOND, "event_type": "review", "rating": rating}
            | {"price": found[5], "category": found[1], "title": found[3]}
        )
    schema = {"review_time": pa.timestamp("ns"), "customer_id": pa.int64(), "rating": pa.float32()}
    schema |= {"verified": pa.bool_(), "review_text": pa.string(), "summary": pa.string(), "product_id": pa.int64()}
    save_parquet(folder / "review.parquet", schema, rows)
    schema = {"product_id": pa.int64(), "category": pa.list_(pa.string()), "brand": pa.string(), "title": pa.string()}
    save_parquet(folder / "product.parquet", schema | {"description": pa.string(), "price": pa.float64()}, products)
    customers = [(i, f"Customer {i}") for i in range(1 + max(user for user, _, _ in visits))]
    save_parquet(folder / "customer.parquet", {"customer_id": pa.int64(), "customer_name": pa.string()}, customers)
    return log


def _invoices(visits: list[Visit]) -> list[tuple[str, int | None, datetime, str, str, list[tuple[str, int, float]]]]:
    """Invoices of one to four lines: number, customer, time, country, type and (description, quantity, price).

    As in the real file, a quarter has no customer, some lines have no price, and some are there twice.
    """
    random, invoices = np.random.default_rng(8), []
    words = [
        "WHITE HANGING HEART T-LIGHT HOLDER",
        "RED RETROSPOT CAKE STAND",
        "JUMBO BAG, STRAWBERRY",
        "REGENCY TEACUP",
    ]
    for i, (user, time, kind) in enumerate(visits):
        lines = []
        for _ in range(1 + int(random.integers(4))):
            quantity = int(random.integers(1, 25)) * (-1 if kind == "cancellation" else 1)
            lines.append((words[int(random.integers(4))], quantity, round(float(random.gamma(2, 2)), 2)))
        if i % 5 == 0:
            lines.append(lines[0])
        free = [("SAMPLE", 1, 0.0)] if i % 7 == 0 else []
        country = "France" if user % 3 == 0 else "United Kingdom"
        number = f"{'C' if kind == 'cancellation' else ''}{536_000 + i}"
        invoices.append((number, 12_000 + user, time, country, kind, lines + free))
        if i % 3 == 0:
            invoices.append((str(600_000 + i), None, time, country, kind, lines))
    return invoices


def _invoice_event(invoice: tuple) -> dict:
    _, user, time, country, kind, lines = invoice
    priced = sorted((line for line in lines if line[2] > 0), key=lambda line: (-line[1] * line[2], line[0]))
    return {
        "user_id": str(user),
        "event_time": time,
        "event_type": kind,
        "value": round(sum(quantity * round(price * 100) for _, quantity, price in priced)) / 100,
        "lines": len(priced),
        "description": " ".join(description for description, _, _ in priced),
        "country": country,
    }


def write_online_retail(visits: list[Visit], folder: Path) -> Log:
    """data.csv of archive.ics.uci.edu/dataset/352/online+retail."""
    rows = []
    for number, user, time, country, _, lines in _invoices(visits):
        customer, moment = (
            "" if user is None else f"{user}.0",
            f"{time.month}/{time.day}/{time:%Y} {time.hour}:{time:%M}",
        )
        rows += [
            (number, "85123A", text, quantity, moment, price, customer, country) for text, quantity, price in lines
        ]
    header = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country"
    save_csv(folder / "data.csv", rows, header)
    events = [_invoice_event(invoice) for invoice in _invoices(visits) if invoice[1] is not None]
    return Log({"online_retail": str(folder / "data.csv")}, [event for event in events if event["lines"]])


def write_online_retail_ii(visits: list[Visit], folder: Path) -> Log:
    """online_retail_II.csv: the sheets Year 2009-2010 and Year 2010-2011, both of which hold 1 to 9 December 2010."""
    sheets, invoices = ([], []), _invoices(visits)
    for number, user, time, country, _, lines in invoices:
        for text, quantity, price in lines:
            row = (number, "85123A", text, quantity, time, price, "" if user is None else f"{user}.0", country)
            if time < datetime(2010, 12, 10):
                sheets[0].append(row)
            if time >= datetime(2010, 12, 1):
                sheets[1].append(row)
    assert set(sheets[0]) & set(sheets[1])
    header = "Invoice,StockCode,Description,Quantity,InvoiceDate,Price,Customer ID,Country"
    save_csv(folder / "online_retail_II.csv", sheets[0] + sheets[1], header)
    events = [_invoice_event(invoice) for invoice in invoices if invoice[1] is not None]
    once = [_invoice_event((*invoice[:5], set(invoice[5]))) for invoice in invoices if invoice[1] is not None]
    for event, same in zip(events, once, strict=True):
        del event["country"]
        event["description"] = same["description"]  # the copies of a line count, their words do not come again
    path = folder / "online_retail_II.csv"
    return Log({"online_retail_ii": str(path)}, [event for event in events if event["lines"]])


def write_cdnow(visits: list[Visit], folder: Path) -> Log:
    """CDNOW_master.txt (brucehardie.com/datasets): columns of fixed width, no header."""
    random, log, lines = np.random.default_rng(9), Log({"cdnow": str(folder / "CDNOW_master.txt")}), []
    for user, time, _ in visits:
        # Some of the real ones cost nothing; the others lie on both sides of the config's limits.
        items, value = int(random.integers(1, 12)), float(random.choice([0, 11.77, 29.99, 30, 30.01, 100, 100.01]))
        lines.append(f" {user:05} {time:%Y%m%d} {items:2} {value:7.2f}\n")
        log.events.append(
            {"user_id": f"{user:05}", "event_time": time, "event_type": "purchase", "items": items, "value": value}
        )
    (folder / "CDNOW_master.txt").write_text("".join(lines), encoding="ascii")
    return log


WRITERS = {name.removeprefix("write_"): function for name, function in globals().items() if name.startswith("write_")}
