"""The job of `preparing` as a practised user of pandas would write it."""

from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from benchmark_jobs.preparing import HORIZON, MAX_EVENTS, PRICE_EDGES, QUANTITY_EDGES, Cutoffs

if TYPE_CHECKING:  # a library is imported where it is measured, so that no process holds another one's memory
    import numpy as np

# pandas says of each selection that it is a frame or a series, which of its own functions none takes.
Frame: TypeAlias = Any
Series: TypeAlias = Any
Index: TypeAlias = Any
WINDOWS = (7, 14, 28, 56, 84)  # days


def with_pandas(log: Path, output: Path, cutoffs: Cutoffs, by_a_loop: bool = False) -> int:
    """EventScribe's job as a practised user of pandas would write it.

    Like EventScribe it validates the rows, labels everybody with a history, computes 111 aggregates (recency, tenure,
    counts, active days, sums and means in five windows, gaps, event types, ratios), learns bins and categories on the
    training history, and writes texts with a header of the same groups into three Parquet files. As there, events are
    sorted and turned into words only once.
    It leaves out: an order of events at the same moment, exact decimal sums, gap_last3, numbers of distinct values,
    days as steps, and manifest, card and hash.
    """
    import numpy as np
    import pandas as pd

    output.mkdir()
    events, users = _read_with_pandas(log)
    past = events[events.event_time < cutoffs["train"][-1]]
    types = past.event_type.value_counts().index[:10]
    for name in types:
        events[f"type_{name}"] = events.event_type == name
    aggregates = {}
    for cutoff in chain(*cutoffs.values()):
        frame = _aggregates_with_pandas(events[events.event_time < cutoff], cutoff, types)
        window = events[(events.event_time >= cutoff) & (events.event_time < cutoff + HORIZON)]
        buyers = window.user[window.target].unique()
        frame.insert(0, "label", frame.index.isin(buyers).astype("int64"))
        frame.insert(0, "cutoff", cutoff)
        aggregates[cutoff] = frame
    train = pd.concat([aggregates[cutoff] for cutoff in cutoffs["train"]])
    edges = {name: _fitted_edges(train[name], 16) for name in _header_names()}
    del train

    words = pd.DataFrame({"user": events.user, "words": _words_with_pandas(events, past)})
    in_order, first = words.words.tolist(), np.searchsorted(events.user, np.arange(len(users)))
    rows = 0
    for split, moments in cutoffs.items():
        for cutoff in moments:
            frame, known = aggregates[cutoff], events.event_time < cutoff
            if by_a_loop:
                end = (first + np.bincount(events.user[known], minlength=len(users)))[frame.index]
                start = np.maximum(first[frame.index], end - MAX_EVENTS)
                entries = [" ".join(in_order[i:j][::-1]) for i, j in zip(start.tolist(), end.tolist(), strict=True)]
            else:
                newest = words[known].groupby("user").tail(MAX_EVENTS)
                entries = newest.iloc[::-1].groupby("user").words.agg(" ".join)
            columns = [_binned(name, frame[name], edges[name], f"{name}=na") for name in edges]
            header = map(" ".join, zip(*columns, strict=True))
            texts = [f"{top} [SEP] {rest}" for top, rest in zip(header, entries, strict=True)]
            frame.insert(1, "text", pd.Series(texts, frame.index, dtype="str"))
            frame.insert(0, "user_id", users[frame.index])
        table = pd.concat([aggregates.pop(cutoff) for cutoff in moments])
        table.to_parquet(output / f"{split}.parquet", index=False, compression="zstd")
        rows += len(table)
    return rows


def with_pandas_and_a_loop(log: Path, output: Path, cutoffs: Cutoffs) -> int:
    """The same, but texts are joined in a loop over slices of one sorted list: less like pandas, and faster."""
    return with_pandas(log, output, cutoffs, by_a_loop=True)


def _read_with_pandas(log: Path) -> tuple[Frame, Index]:
    """The usable events by user and time with what each adds to its user's past, and the users' names by number."""
    import numpy as np
    import pandas as pd

    day = pd.Timedelta(days=1)
    events = pd.read_parquet(log)
    for name in ("user_id", "event_type"):
        events[name] = events[name].astype("str").str.strip().replace("", None)
    good = events.user_id.notna() & events.event_type.notna() & events.event_time.dt.year.between(1900, 2199)
    events = events[good]
    numbers, users = pd.factorize(events.user_id, sort=True)
    events = events.drop(columns="user_id").assign(user=numbers)
    events = events.iloc[np.lexsort((events.event_time, events.user))].reset_index(drop=True)
    events = events.astype(
        {"event_type": "category", "category": "category", "price": "float64", "quantity": "float64"}
    )
    events["events"], events["target"] = 1, events.event_type == "purchase"
    events["gap"] = events.groupby("user").event_time.diff() // day
    date = events.event_time.dt.floor("D")
    for prefix, some in (("", date), ("target_", date[events.target])):
        gap = some.groupby(events.user[some.index]).diff() / day
        events[f"{prefix}day_gap"] = gap.where(gap > 0)
        events[f"{prefix}active_days"] = (gap != 0).reindex(events.index, fill_value=False)
    for field in ("price", "quantity"):
        events[f"has_{field}"] = events[field].notna()
    events["weekend"], events["hour"] = events.event_time.dt.day_of_week >= 5, events.event_time.dt.hour
    return events, users


def _aggregates_with_pandas(past: Frame, cutoff: datetime, types: Index) -> Frame:
    """One row a user, from the events before the cutoff."""
    import numpy as np
    import pandas as pd

    past = past.assign(age=(cutoff - past.event_time) / pd.Timedelta(days=1))
    columns = {}
    for prefix, some in (("", past), ("target_", past[past.target])):
        age = some.groupby("user").age
        columns |= {f"{prefix}recency_days": age.min(), f"{prefix}tenure_days": age.max()}
        gap = some[["user", f"{prefix}day_gap"]].dropna().groupby("user")[f"{prefix}day_gap"]
        columns |= {f"{prefix}gap_{name}": getattr(gap, name)() for name in ("mean", "std", "median", "max", "last")}
        columns[f"{prefix}gap_q90"] = gap.quantile(0.9)
    for name in types:
        columns[f"type_{name}_recency_days"] = past[past.event_type == name].groupby("user").age.min()
    users = past.groupby("user")
    columns |= {"weekend_share": users.weekend.mean(), "hour_mean": users.hour.mean()}
    fields = ("price", "quantity")
    columns |= {f"{field}_{name}": getattr(users[field], name)() for field in fields for name in ("max", "last")}
    frame = pd.DataFrame(columns)

    counted = ["events", "target", "active_days", "target_active_days", *(f"type_{name}" for name in types)]
    counted += [prefix + field for field in fields for prefix in ("", "has_")]
    for window in (None, *reversed(WINDOWS)):
        if window:
            past = past[past.age <= window]
        sums = past.groupby("user")[counted].sum().reindex(frame.index, fill_value=0)
        for field in fields:
            sums[f"{field}_mean"] = sums[field] / sums.pop(f"has_{field}").replace(0, np.nan)
        sums = sums.rename(columns={field: f"{field}_sum" for field in fields})
        frame = frame.join(sums.add_suffix(f"_{window}d" if window else ""))
    ratios = {}
    for prefix, name in (("", "events"), ("target_", "target")):
        for gap in ("gap_mean", "gap_q90"):
            ratios[f"{prefix}recency_over_{gap}"] = frame[f"{prefix}recency_days"] / frame[prefix + gap]
        ratios[f"{prefix}gap_last_over_mean"] = frame[f"{prefix}gap_last"] / frame[f"{prefix}gap_mean"]
        ratios[f"{name}_per_day"] = frame[name] / frame.tenure_days.clip(1)
    for name in ("events", "target", *(f"{field}_sum" for field in fields)):
        for short, long in ((14, 28), (28, 56), (28, 84)):
            total = frame[f"{name}_{long}d"].replace(0, np.nan)
            ratios[f"{name}_trend_{short}_{long}"] = frame[f"{name}_{short}d"] / total
    return frame.assign(**ratios)


def _header_names() -> list[str]:
    names = ["recency_days", "target_recency_days"]
    names += [f"{name}_{window}d" for name in ("events", "target") for window in WINDOWS]
    names += ["active_days_28d", "active_days_56d", "active_days_84d", "active_days"]
    names += ["gap_mean", "gap_std", "gap_median", "gap_q90", "recency_over_gap_mean", "tenure_days"]
    return [*names, "price_sum", "price_mean", "quantity_sum", "quantity_mean"]


def _words_with_pandas(events: Frame, past: Frame) -> Series:
    """The words of each event; bins and frequent values are those of the past."""
    import numpy as np
    import pandas as pd

    gaps = np.array([*(f"gap={i}" for i in range(401)), "gap=first"], object)
    words = gaps[events.gap.clip(upper=400).fillna(401).astype("int64")]
    for name, top in (("event_type", 20), ("category", 200)):
        frequent = past.groupby(name, observed=True).user.nunique().nlargest(top).index
        shown = [f" {name}={value if value in frequent else 'other'}" for value in events[name].cat.categories]
        words = words + np.array([*shown, ""], object)[events[name].cat.codes]
    for name, edges in (("price", PRICE_EDGES), ("quantity", QUANTITY_EDGES)):
        words = words + _binned(f" {name}", events[name], _fitted_edges(past[name], len(edges) + 1), "")
    return pd.Series(words, events.index, dtype=object)  # joined as Python strings, twice as fast as the type str


def _fitted_edges(values: Series, bins: int) -> "np.ndarray":
    import numpy as np

    shares = np.arange(1, bins) / bins
    return values.quantile(shares, interpolation="lower").dropna().unique()


def _binned(name: str, values: Series, edges: "np.ndarray", missing: str) -> "np.ndarray":
    """A word for each value, such as price=3."""
    import numpy as np

    words = np.array([*(f"{name}={i}" for i in range(len(edges) + 1)), missing], object)
    return words[np.where(values.isna(), len(edges) + 1, np.digitize(values, edges))]
