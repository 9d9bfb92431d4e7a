"""The log of an experiment as dicts."""


def log_of(experiment) -> list[dict]:
    """The events of `tests.conftest.write_log`, with the names of the config's columns."""
    columns = ("user_id", "event_time", "event_type", "amount", "shop")
    with open(experiment.data.sources[0].path, encoding="utf-8") as lines:
        rows = [dict(zip(columns, line.rstrip("\n").split(","), strict=True)) for line in lines][1:]
    return [row | {"amount": float(row["amount"]) if row["amount"] else None} for row in rows]
