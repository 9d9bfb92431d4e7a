"""Groups of users beside each other: which group a test example is in, measures by group, gaps, and decay over time."""

import json
import math
import re
import tempfile
import warnings
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from itertools import combinations
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
from scipy.sparse import coo_array

from data_prep import InputError
from data_prep.connections import connect, lock_down
from data_prep.events import confined, read_events
from data_prep.expressions import check_types, parse_expression
from data_prep.given_users import read_users
from data_prep.history import combined
from data_prep.moments import show
from data_prep.prepared import opened, read_manifest, read_split
from data_prep.sql import column_types, identifier, refused
from finetune.evaluation.bootstrap import bootstrap, interval, interval_names, user_weights
from finetune.evaluation.rows import ScoredRows
from finetune.measures import GAPS, MAIN, MODEL, RATES, at_horizon
from finetune.metrics import compute_metrics
from finetune.parser import Experiment

UNKNOWN, OTHER = "unknown", "other"
MOST = 20  # groups of a slice, the largest ones; all others are OTHER
PLAIN = re.compile(r"BOOLEAN|FLOAT|DOUBLE|DECIMAL.*|U?(TINY|SMALL|BIG|HUGE)INT|U?INTEGER")  # the rest becomes text


def slice_values(experiment: Experiment, rows: pa.Table) -> dict[str, list[str]]:
    """The group of each test example in each of evaluation.slices, and with slice_pairs in every two of them together.

    An expression may use user_id, cutoff and the aggregates, which stand in the prepared split, and the log's columns.
    Of those it sees each user's newest value strictly before the cutoff (the largest of several at the same moment),
    for which the log is read again, and of the columns of data.users the row that counts at the cutoff.

    Args:
        experiment: Its test split and its log.
        rows: user_id and cutoff of the test examples, as `read_split` gives them under the experiment's limit.

    Returns:
        Slice -> what the expression gives for each row: yes or no, a number, a text; "unknown" where it gives nothing
        and "other" for all but the 20 largest groups.

    Raises:
        InputError: An expression that names an unknown column, looks at other rows or fails, or a log that no longer
            has the users of the test split.
    """
    slices, folder = experiment.evaluation.slices, experiment.data_folder
    manifest = read_manifest(folder)
    stored = {name.lower(): name for name in ("user_id", "cutoff", *manifest["aggregates"])}
    of_users = manifest.get("users", {}).get("columns", {})
    types = {"event_type": "VARCHAR"} | manifest["log"]["fields"] | of_users
    fields = {name.lower(): name for name in types if name.lower() not in stored}
    log_columns = {name: types[name] for name in fields.values()}
    with (
        tempfile.TemporaryDirectory(prefix=".slices", dir=folder.parent) as spill,
        connect(experiment.data.memory_limit, Path(spill)) as con,
    ):
        _make_empty(con, opened(folder, "test").schema_arrow, list(stored.values()), log_columns)
        remedy = (
            f"use user_id, cutoff, the log's columns ({', '.join(log_columns)}) or the aggregates that "
            f"{folder / 'manifest.json'} lists"
        )
        kinds, named = {}, set()
        for name, sql in slices.items():
            kinds[name], names = _check(con, f"evaluation.slices.{name}", sql, remedy)
            named |= names
        aggregates = [stored[name] for name in named if name in stored and name not in ("user_id", "cutoff")]
        table = read_split(folder, "test", experiment.finetuning.max_eval_examples, aggregates)
        columns = {name: rows[name] for name in ("user_id", "cutoff")}
        columns |= {name: table[name] for name in aggregates} | {"#row": np.arange(len(rows))}
        con.register("test_rows", pa.table(columns))
        newest = {name: log_columns[name] for key, name in fields.items() if key in named}
        joins = _join_attributes(con, experiment, [name for name in newest if name in of_users], Path(spill))
        newest = {name: kind for name, kind in newest.items() if name not in of_users}
        if newest:
            _read_newest(con, experiment, newest)
        else:
            lock_down(con)
        joins += "".join(f' LEFT JOIN "#newest_{i}" USING ("#row")' for i in range(len(newest)))
        con.execute(f"CREATE TEMP VIEW examples AS SELECT * FROM test_rows{joins}")
        found = {
            name: _groups(con, f"evaluation.slices.{name}: {sql}", sql, kinds[name], len(rows))
            for name, sql in slices.items()
        }
    return found | (intersections(found) if experiment.evaluation.slice_pairs else {})


def intersections(groups: dict[str, list[str]]) -> dict[str, list[str]]:
    """The group of each row in every two slices together; "other" for all but the 20 largest.

    Args:
        groups: Slice -> the group of each row.
    """
    found = {}
    for (one, firsts), (other, seconds) in combinations(groups.items(), 2):
        both = np.array([f"{first}, {second}" for first, second in zip(firsts, seconds, strict=True)], object)
        found[f"{one} and {other}"] = _largest(both)
    return found


def _make_empty(con: duckdb.DuckDBPyConnection, schema: pa.Schema, stored: list[str], log: dict[str, str]) -> None:
    """The relation `examples` without rows, against which expressions are checked before anything is read."""
    con.register("nothing", pa.schema([schema.field(name) for name in stored]).empty_table())
    check_types(con, "manifest.json: log.fields", log)
    fields = "".join(f", CAST(NULL AS {kind}) AS {identifier(name)}" for name, kind in log.items())
    con.execute(f"CREATE OR REPLACE TEMP VIEW empty AS SELECT *{fields} FROM nothing")


def _check(con: duckdb.DuckDBPyConnection, setting: str, sql: str, remedy: str) -> tuple[str, set[str]]:
    """The type of the expression's value, and the columns that it names, in lower case.

    Raises:
        InputError: It is no expression over the columns of one example.
    """
    columns = column_types(con, "empty")
    parsed = parse_expression(con, setting, sql, remedy, lambda: columns)
    with refused(f"{setting}: {sql}", remedy):
        described = con.execute(f"DESCRIBE SELECT ({sql}\n) AS v FROM empty").fetchall()
        rows = con.execute(f"SELECT ({sql}\n) AS v FROM empty").fetchall()
    if len(described) != 1 or rows:
        what = "gives several columns" if len(described) != 1 else "adds up over several examples"
        raise InputError(f"{sql} {what}, and a group is one value of one example", remedy, setting=setting)
    names: list[str] = []
    json.loads(json.dumps(parsed), object_hook=lambda node: names.extend(node.get("column_names", [])))
    return described[0][1], {name.lower() for name in names}


def _join_attributes(con: duckdb.DuckDBPyConnection, experiment: Experiment, names: list[str], spill: Path) -> str:
    """Make the table #attributes of row and attributes, as they were known before its cutoff; returns SQL to join it.

    Raises:
        InputError: data.users cannot be read, or has no such attribute any more.
    """
    if not names:
        return ""
    rows = read_users(experiment.data, spill)
    lost = [name for name in names if rows is None or name not in rows.types]
    if rows is None or lost:
        raise InputError(
            f"data.users has no column {lost[0]} any more",
            "give the same table, or prepare again",
            setting="data.users",
        )
    con.register("user_rows", rows.table)
    con.execute(
        f"""CREATE TEMP TABLE "#attributes" AS SELECT "#row", {", ".join(map(identifier, names))}
            FROM test_rows ASOF JOIN user_rows ON test_rows.user_id = user_rows.user_id
                 AND epoch_us(test_rows.cutoff) > user_rows.known_from"""
    )
    con.unregister("user_rows")
    return ' LEFT JOIN "#attributes" USING ("#row")'


def _read_newest(con: duckdb.DuckDBPyConnection, experiment: Experiment, fields: dict[str, str]) -> None:
    """Make the tables #newest_0, ...: row and newest value before its cutoff, of each row where there is one."""
    with confined(con, experiment.data):
        read_events(con, experiment.data)
    columns = ", ".join(f"log.{identifier(name)}" for name in fields if name != "event_type")
    con.execute(
        f"""CREATE TEMP TABLE events AS SELECT user_id, event_time, event_type{", " * bool(columns)}{columns}
            FROM log SEMI JOIN test_rows USING (user_id);
            DROP TABLE log"""
    )
    lost = con.execute(
        """SELECT count(*)
           FROM test_rows LEFT JOIN (SELECT user_id, min(event_time) AS first FROM events GROUP BY user_id)
                USING (user_id)
           WHERE first IS NULL OR first >= cutoff"""
    ).fetchall()[0][0]
    if lost:
        key = f" and the key in {experiment.data.pseudonymize}" if experiment.data.pseudonymize else ""
        raise InputError(
            f"the log has no event of {lost:,} test examples any more, so it is not the one that "
            f"{experiment.data_folder} was prepared from",
            f"give the same data.sources{key}, or prepare again",
            setting="evaluation.slices",
        )
    for i, (name, kind) in enumerate(fields.items()):
        column = identifier(name)
        known = f"trim({column}) <> ''" if kind == "VARCHAR" else f"{column} IS NOT NULL"  # CSV has no other nothing
        con.execute(
            f"""CREATE TEMP TABLE "#newest_{i}" AS
                SELECT "#row", newest.{column} FROM test_rows ASOF JOIN
                       (SELECT user_id, event_time, max({column}) AS {column} FROM events WHERE {known}
                        GROUP BY user_id, event_time) AS newest
                ON test_rows.user_id = newest.user_id AND test_rows.cutoff > newest.event_time"""
        )
    con.execute("DROP TABLE events")


def _groups(con: duckdb.DuckDBPyConnection, setting: str, sql: str, kind: str, rows: int) -> list[str]:
    """The group of each row."""
    remedy = "let it give one value for every example, as TRY_CAST does in the place of CAST"
    shown = "v" if PLAIN.fullmatch(kind) else "CAST(v AS VARCHAR)"
    with refused(setting, remedy):
        found = con.sql(
            f"""SELECT {shown} AS v FROM (SELECT "#row", ({sql}\n) AS v FROM examples) ORDER BY "#row" """
        ).to_arrow_table()
    if len(found) != rows:
        raise InputError(f"{setting} gives {len(found):,} values for {rows:,} examples", remedy, setting=setting)
    values = combined(found["v"]).dictionary_encode()
    names = np.array([*map(_called, values.dictionary.to_pylist()), UNKNOWN])
    code = values.indices.fill_null(len(names) - 1).to_numpy()
    return _largest(names[code])


def _largest(values: np.ndarray) -> list[str]:
    """The group of each row, OTHER for all but the largest ones."""
    names, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    names = names.astype(object)
    names[np.lexsort((names, -counts))[MOST:]] = OTHER
    return names[group].tolist()


def _called(value: object) -> str:
    """A group by its value: whole numbers and dates without what is 0 in them."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float | Decimal):
        whole = float(value).is_integer() and abs(value) < 1e15
        return UNKNOWN if math.isnan(value) else str(int(value)) if whole else f"{value:.6g}"
    return str(value).removesuffix(" 00:00:00").strip() or UNKNOWN


def slice_metrics(
    scored: ScoredRows,
    values: Sequence[str],
    threshold: float | None,
    min_rows: int,
    resamples: int,
    seed: int = 0,
) -> dict:
    """Measures of each group of a slice, and how far the groups are apart.

    The gaps are the largest minus the smallest value over the groups: of the true positive rate (equal opportunity;
    Hardt, Price, Srebro: Equality of Opportunity in Supervised Learning, 2016), of the share that is selected
    (demographic parity, ibid.), and of mean score minus mean label (calibration within groups). As the two groups are
    picked after looking, their intervals hold for all pairs of groups at once (Tukey: The Problem of Multiple
    Comparisons, 1953, and Kramer's standard error of each pair, with the bootstrap in the place of the studentized
    range). One that includes zero does not tell the groups apart.

    Args:
        scored: The rows with the model's scores.
        values: The group of each row.
        threshold: The score from which on a row of a binary task is selected; None where there is none.
        min_rows: A group of fewer rows is named but not measured.
        resamples: Of the users.
        seed: Of the resamples.

    Returns:
        groups (the largest first; measures and the intervals of those that have them), too_small, and gaps; what is not
            defined is NaN.
    """
    names, group, counts = np.unique(np.array(values, str), return_inverse=True, return_counts=True)
    order = np.lexsort((names, -counts))
    measured = [at for at in order if counts[at] >= max(min_rows, 1)]
    number = np.full(len(names), -1)
    number[measured] = np.arange(len(measured))
    group = number[group]
    rates, gaps = rates_and_gaps(scored, group, len(measured), threshold, resamples, seed)
    groups = []
    for i, at in enumerate(measured):
        figures, _ = _figures(scored.of_model().where(group == i), resamples, seed)
        groups.append({"value": str(names[at]), **figures, **{name: rate[i] for name, rate in rates.items()}})
    small = [{"value": str(names[at]), "rows": int(counts[at])} for at in order if number[at] < 0]
    return {"groups": groups, "too_small": small, "gaps": gaps}


def by_cutoff(scored: ScoredRows, cutoffs: np.ndarray, resamples: int, seed: int = 0) -> list[dict]:
    """Measures at each test cutoff, in order: does the model decay?

    Args:
        scored: The rows with the model's scores.
        cutoffs: Of each row, datetime64 of shape (rows,).
        resamples: Of the users.
        seed: Of the resamples.

    Returns:
        Of each cutoff cutoff, rows, users, positives, the measures with their intervals and, after the first, the
        main one's change since the first cutoff with the interval, paired by users, as many stand at both; but not
        where the log reaches other horizons from there, as another one is another question.
    """
    main, found, first = MAIN[scored.task], [], None
    for cutoff in np.unique(cutoffs):
        figures, drawn = _figures(scored.of_model().where(cutoffs == cutoff), resamples, seed, among=scored.users)
        if first and _reached(scored, figures) == _reached(scored, first[0]):
            figures[f"{main}_change"] = figures[main] - first[0][main]
            figures[f"{main}_change_interval"] = interval(drawn[main] - first[1][main])
        first = first or (figures, drawn)
        moment = cutoff.astype("datetime64[us]").astype(datetime)
        found.append({"cutoff": show(moment), **figures})
    return found


def _reached(scored: ScoredRows, figures: dict) -> list[bool]:
    """Whether something is known at each horizon of survival; empty for other tasks."""
    numbers = range(1, scored.model.shape[1] + 1) if scored.task == "survival" else ()
    return [not math.isnan(figures[at_horizon("brier_score", number)]) for number in numbers]


def _figures(
    scored: ScoredRows, resamples: int, seed: int, among: np.ndarray | None = None
) -> tuple[dict, dict[str, np.ndarray]]:
    """Counts, measures and their intervals; and the measures' values on each resample."""
    drawn = bootstrap(scored, resamples, seed, among)[MODEL]
    figures = scored.counts() | compute_metrics(scored.task, scored.labels, scored.model, **scored.known)
    figures |= {f"{name}_interval": interval(drawn[name]) for name in interval_names(scored.task, scored.model)}
    return figures, drawn


def rates_and_gaps(
    scored: ScoredRows,
    group: np.ndarray,
    groups: int,
    threshold: float | None,
    resamples: int,
    seed: int,
) -> tuple[dict[str, list], dict]:
    """RATES of each group and GAPS, with their intervals; NaN for labels of no yes or no."""
    nothing = {name: [float("nan")] * groups for name in RATES}
    gaps = {gap: float("nan") for gap in GAPS} | {f"{gap}_interval": [float("nan")] * 2 for gap in GAPS}
    if scored.task != "binary" or not groups:
        return nothing, gaps
    labels, scores = scored.labels, scored.model
    everyone, user = np.unique(scored.users, return_inverse=True)
    selected = np.full(len(scores), np.nan) if threshold is None else (scores >= threshold).astype(float)
    parts = np.stack([np.ones(len(scores)), selected, labels, np.where(labels > 0, selected, 0.0), scores - labels])
    inside = group >= 0
    place = np.arange(len(parts))[:, None] * groups + group[inside]
    sums = coo_array(
        (parts[:, inside].ravel(), (place.ravel(), np.tile(user[inside], len(parts)))),
        shape=(len(parts) * groups, len(everyone)),
    ).tocsr()

    def rates(weights: np.ndarray) -> np.ndarray:
        """Of shape (RATES, groups, resamples)."""
        rows, chosen, positive, hit, off = (sums @ weights).reshape(len(parts), groups, -1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.stack([chosen / rows, np.where(positive > 0, hit / positive, np.nan), off / rows])

    real = rates(np.ones((len(everyone), 1)))
    drawn = np.concatenate([rates(weights) for weights in user_weights(everyone, resamples, seed)], axis=2)
    for gap, rate in zip(GAPS, ("true_positive_rate", "selected_rate", "calibration_gap"), strict=True):
        values = real[RATES.index(rate), :, 0]
        known = ~np.isnan(values)
        if known.sum() > 1:
            gaps[gap], gaps[f"{gap}_interval"] = _widest(values[known], drawn[RATES.index(rate), known])
    found = {name: real[at, :, 0].tolist() for at, name in enumerate(RATES)}
    found |= {f"{name}_interval": [interval(values) for values in drawn[at]] for at, name in enumerate(RATES)}
    return found, gaps


def _widest(values: np.ndarray, drawn: np.ndarray) -> tuple[float, list[float]]:
    """The largest minus the smallest of the groups' values, and its interval by those of shape (groups, resamples)."""
    off = drawn - values[:, None]
    pairs = off[:, None] - off
    with warnings.catch_warnings():  # a group without a value in any resample
        warnings.simplefilter("ignore", RuntimeWarning)
        error = np.nanstd(pairs, axis=2, keepdims=True)
        largest = np.nanmax(np.abs(pairs) / np.where(error > 0, error, np.inf), axis=(0, 1))
        half = np.nanquantile(largest, 0.95) * error[values.argmax(), values.argmin(), 0]
    gap = float(np.ptp(values))
    return gap, [gap - float(half), gap + float(half)]
