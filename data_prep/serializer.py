"""EventSerializer: learned on training history only, it turns a user's history before a cutoff into text.

Layout in the style `words`: header words `name=bin`, then [SEP], then the newest events first, one group of words an
event: days since the previous event and the fields (`value=7` is the 8th bin of value), after the days before the
cutoff if `days` is set.
The style `sentences` writes the same fields in natural language, with the bins' medians in place of their numbers.
"""

import json
import re
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

import duckdb

from data_prep import InputError
from data_prep.events import NUMERIC, identifier, quote
from data_prep.features import HEADER_GROUPS, plain, word
from data_prep.task import timestamp

VERSION = 1
HEADER_BINS = 16
MAX_BINS = 200  # each is one term of an SQL expression, whose depth DuckDB limits

# Days as words: each day to 14, then steps of 15 % up to 400, as recency matters in proportion.
DAY_STEPS = list(range(15))
while DAY_STEPS[-1] < 400:
    DAY_STEPS.append(min(400, max(DAY_STEPS[-1] + 1, round(DAY_STEPS[-1] * 1.15))))
DAY_OF_STEP = [max(step for step in DAY_STEPS if step <= day) for day in range(401)]


@dataclass
class TextField:
    """How one column of the log enters the text: one of `top`, `bins` and `words`."""

    top: int | None = None
    """Categorical (also a list of categories): the most frequent values are words, all others `other`."""
    bins: int | None = None
    """Numeric: the number of quantile bins."""
    words: int | None = None
    """Free text: at most this many of its words, the first ones that are in the vocabulary."""
    vocabulary: int = 500
    """Free text: the number of words that are known, the most frequent by users."""
    min_users: int = 1
    """A value or word seen with fewer users in the training history is not kept: no rare value enters a text."""


@dataclass
class TextConfig:
    """How a history becomes text."""

    style: Literal["words", "sentences"] = "words"
    """words: one bin, one word, for models trained from scratch. sentences: natural language, for pretrained ones."""
    header: list[str] = field(default_factory=lambda: ["recency", "counts", "gaps", "tenure", "value"])
    """Aggregates on top of the text: the groups recency, counts, gaps, target_gaps, tenure and value, or names from
    the manifest's list of aggregates."""
    fields: dict[str, TextField] = field(default_factory=lambda: {"event_type": TextField(top=20)})
    """The columns of an event that enter the text, in this order."""
    days: bool = False
    """Words only (sentences always say it): write the days before the cutoff into each event, beside the gap to the
    event before it. On two real logs they added nothing, and the texts are longer."""
    max_events: int = 20
    """The newest events that are kept."""


class EventSerializer:
    """Bins and vocabularies of the training history, and the SQL that writes texts with them.

    Attributes:
        config: The TextConfig it was fitted with.
        header: Aggregate name -> {"edges": [...], "centers": [...]}.
        fields: Column -> {"kind": "numeric", "edges", "centers"}, {"kind": "categorical", "list", "values"} or
            {"kind": "text", "words"}.
    """

    def __init__(self, config: TextConfig, header: dict[str, dict], fields: dict[str, dict]) -> None:
        self.config, self.header, self.fields = config, header, fields

    @classmethod
    def fit(
        cls, con: duckdb.DuckDBPyConnection, config: TextConfig, kinds: dict[str, str], before: datetime
    ) -> "EventSerializer":
        """Learn bins and vocabularies.

        Args:
            con: Has `history` (see features.add_history_columns) and `aggregates` of the training examples.
            config: What to write.
            kinds: Field -> numeric, categorical or text.
            before: The last training cutoff; no event at or after it is looked at.
        """
        numeric = [name for name, kind in kinds.items() if kind == "numeric"]
        names = header_names(config.header, numeric, [row[0] for row in con.execute("DESCRIBE aggregates").fetchall()])
        header = {
            name: _fit_bins(con, f"SELECT {identifier(name)} AS x FROM aggregates", HEADER_BINS) for name in names
        }
        past = f"FROM history WHERE event_time < {timestamp(before)}"
        types = {row[0]: row[1] for row in con.execute("DESCRIBE history").fetchall()}
        fields = {}
        for name, spec in config.fields.items():
            column = identifier(name)
            if spec.bins:
                fitted = _fit_bins(con, f"SELECT {column} AS x {past}", spec.bins)
                fields[name] = {"kind": "numeric", **fitted}
            elif spec.top:
                is_list = types[name].endswith("]")
                query = f"SELECT user_id, unnest({_normalized(column, is_list)}) AS word {past}"
                values = _frequent(con, query, spec.top, spec.min_users)
                fields[name] = {"kind": "categorical", "list": is_list, "values": values}
            else:
                query = f"SELECT user_id, unnest({_words(column)}) AS word {past}"
                fields[name] = {"kind": "text", "words": _frequent(con, query, spec.vocabulary, spec.min_users)}
        return cls(config, header, fields)

    def add_event_words(self, con: duckdb.DuckDBPyConnection) -> None:
        """Make the table `event_words` (user_id, event_time, position, words) from `history`.

        The words do not depend on any cutoff: each event is written once, and every cutoff takes a slice.
        """
        written = [self._field_sql(name) for name in self.fields]
        if self.config.style == "words":
            gap = f"'gap=' || coalesce(CAST({_day_step('gap_days')} AS VARCHAR), 'first')"
            words = _joined([gap, *written], " ")
        else:
            words = _joined(written, ", ")
        con.execute(
            f"CREATE TEMP TABLE event_words AS SELECT user_id, event_time, position, {words} AS words FROM history"
        )

    def texts_query(self, cutoff: datetime) -> str:
        """A SELECT of user_id and text for each row of `aggregates` at the cutoff, from `event_words`."""
        at = timestamp(cutoff)
        days = _day_step(f"CAST(floor((epoch_us({at}) - epoch_us(event_time)) / 86400000000) AS INTEGER)")
        if self.config.style == "words":
            entry = f"'d=' || {days} || ' ' || words" if self.config.days else "words"
            between, join = "' [SEP] '", "' '"
        else:
            when = f"CASE {days} WHEN 0 THEN 'today' WHEN 1 THEN '1 day ago' ELSE {days} || ' days ago' END"
            entry = _joined([when, "words"], ": ") + " || '.'"
            between, join = "' '", "' '"
        written = [_header_sql(name, bins, self.config.style) for name, bins in self.header.items()]
        header = _joined(written, " ") if self.config.style == "words" else _joined(written, "; ") + " || '.'"
        return f"""
            SELECT user_id, concat_ws({between}, {header}, entries) AS text FROM aggregates JOIN (
                SELECT user_id, string_agg({entry}, {join} ORDER BY position DESC) AS entries FROM (
                    SELECT * FROM event_words
                    WHERE event_time < {at} AND user_id IN (SELECT user_id FROM aggregates WHERE cutoff = {at})
                    QUALIFY row_number() OVER (PARTITION BY user_id ORDER BY position DESC) <= {self.config.max_events})
                GROUP BY user_id) USING (user_id)
            WHERE cutoff = {at}"""

    def save_pretrained(self, folder: str | Path) -> None:
        """Write serializer.json into the folder."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "serializer.json").write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "EventSerializer":
        """Read serializer.json from the folder; a file of another version is refused."""
        path = Path(folder) / "serializer.json"
        if not path.is_file():
            raise InputError(f"{path} is missing; give a folder that scripts/prepare.py or scripts/train.py wrote")
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("version") != VERSION:
            raise InputError(
                f"{path} has version {content.get('version')}, this EventScribe reads version {VERSION}; prepare again"
            )
        config = content["config"]
        config["fields"] = {name: TextField(**spec) for name, spec in config["fields"].items()}
        return cls(TextConfig(**config), content["header"], content["fields"])

    def to_json(self) -> str:
        """The content of serializer.json."""
        config = vars(self.config) | {"fields": {name: vars(spec) for name, spec in self.config.fields.items()}}
        content = {"version": VERSION, "config": config, "header": self.header, "fields": self.fields}
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"

    def _field_sql(self, name: str) -> str:
        """SQL of the words of one field, NULL where an event has none."""
        fitted, column, words = self.fields[name], identifier(name), self.config.style == "words"
        if fitted["kind"] == "numeric":
            written = _bin_index(column, fitted["edges"]) if words else _bin_center(column, fitted)
            prefix = quote(plain(name) + "=" if words else _phrase(name) + " ")
            return f"CASE WHEN {column} IS NOT NULL THEN {prefix} || {written} END"
        if fitted["kind"] == "text":
            known = f"list_filter({_words(column)}, lambda w: list_contains({_list(fitted['words'])}, w))"
            # The outer list has one element; it gives `known` a name, or it would be computed again for each word.
            once = f"list_transform([{known}], lambda k: list_filter(k, lambda w, i: list_position(k, w) = i))[1]"
            return f"nullif(array_to_string({once}[1:{self.config.fields[name].words}], ' '), '')"
        if name == "event_type" and len(fitted["values"]) < 2:
            return "NULL"  # a word that every event has says nothing
        prefix = quote(plain(name) + "=" if words else "")
        known = f"CASE WHEN list_contains({_list(fitted['values'])}, v) THEN v ELSE 'other' END"
        shown = known if words else f"replace({known}, '_', ' ')"
        values = f"list_transform({_normalized(column, fitted['list'])}, lambda v: {prefix} || {shown})"
        return f"nullif(array_to_string({values}, {quote(' ' if words else ', ')}), '')"


def header_names(header: list[str], numeric: list[str], aggregates: list[str]) -> list[str]:
    """The aggregates that text.header stands for, each once.

    Raises:
        InputError: A name that is neither a group nor an aggregate.
    """
    names = []
    for entry in header:
        if entry not in HEADER_GROUPS and entry not in aggregates:
            groups = ", ".join(HEADER_GROUPS)
            raise InputError(
                f"text.header: '{entry}' is neither one of the groups {groups} nor an aggregate; see the manifest"
            )
        for name in HEADER_GROUPS.get(entry, [entry]):
            names += [name.format(field=plain(field)) for field in numeric] if "{field}" in name else [name]
    return list(dict.fromkeys(names))


def check_fields(config: TextConfig, types: dict[str, str]) -> None:
    """Refuse text.fields that the log does not have, whose type does not fit, or that a text could not tell apart.

    Args:
        config: The text section.
        types: Column -> DuckDB type.
    """
    shown = ["d", "gap"]  # the words of the days
    for name, spec in config.fields.items():
        setting = f"text.fields.{name}"
        if name not in types:
            raise InputError(f"{setting}: the log has no such column; it has {', '.join(types)}")
        if plain(name) in shown:
            raise InputError(f"{setting}: a text already has words {plain(name)}=...; give the column another name")
        shown.append(plain(name))
        if sum(value is not None for value in (spec.top, spec.bins, spec.words)) != 1:
            raise InputError(f"{setting} needs exactly one of top (categorical), bins (numeric) and words (free text)")
        for key in ("top", "bins", "words", "vocabulary", "min_users"):
            if getattr(spec, key) is not None and getattr(spec, key) < 1:
                raise InputError(f"{setting}.{key} is {getattr(spec, key)}; give a number above zero")
        if spec.bins and spec.bins > MAX_BINS:
            raise InputError(f"{setting}.bins is {spec.bins}; give at most {MAX_BINS}")
        if spec.bins and not NUMERIC.fullmatch(types[name]):
            raise InputError(
                f"{setting}: bins needs numbers, but the column is {types[name]}; cast it in the source, for example "
                f"CAST({name} AS DOUBLE), or use top"
            )
        if spec.words and types[name] != "VARCHAR":
            raise InputError(f"{setting}: words needs text, but the column is {types[name]}; use bins or top")
    if config.max_events < 1:
        raise InputError(f"text.max_events is {config.max_events}; give a number above zero")


def _fit_bins(con: duckdb.DuckDBPyConnection, query: str, bins: int) -> dict[str, list[float]]:
    """Quantile edges of x and the median of each bin; bin i holds edges[i - 1] <= x < edges[i]."""
    shares = [i / bins for i in range(1, bins)]
    values = f"(SELECT CAST(x AS DOUBLE) AS x FROM ({query}) WHERE x IS NOT NULL AND isfinite(CAST(x AS DOUBLE)))"
    quantiles = con.execute(f"SELECT quantile_disc(x, {shares}) FROM {values}").fetchone()[0] if shares else []
    edges = sorted({edge + 0.0 for edge in quantiles or []})  # + 0.0 turns -0.0 into 0.0
    rows = con.execute(f"SELECT {_bin_index('x', edges)} AS bin, median(x) FROM {values} GROUP BY bin").fetchall()
    centers = {bin_: center + 0.0 for bin_, center in rows}
    return {
        "edges": edges,
        "centers": [centers.get(i, edges[max(i - 1, 0)] if edges else 0.0) for i in range(len(edges) + 1)],
    }


def _bin_index(column: str, edges: list[float]) -> str:
    tests = [f"CAST({column} >= CAST({edge!r} AS DOUBLE) AS INTEGER)" for edge in edges]
    return f"({' + '.join(tests) or '0'})"


def _bin_center(column: str, fitted: dict) -> str:
    centers = ", ".join(
        quote(f"{center:.2g}" if abs(center) < 100 else f"{center:.0f}") for center in fitted["centers"]
    )
    return f"[{centers}][{_bin_index(column, fitted['edges'])} + 1]"


def _header_sql(name: str, bins: dict, style: str) -> str:
    column = identifier(name)
    if style == "words":
        return f"{quote(name + '=')} || coalesce(CAST({_bin_index(column, bins['edges'])} AS VARCHAR), 'na')"
    return f"{quote(_phrase(name) + ' ')} || {_bin_center(column, bins)}"


def _phrase(name: str) -> str:
    """events_28d -> events in 28 days; target_recency_days -> target recency days."""
    return re.sub(r"_(\d+)d$", r" in \1 days", name).replace("_", " ")


def _frequent(con: duckdb.DuckDBPyConnection, query: str, top: int, min_users: int) -> list[str]:
    """The words of most users, ties in alphabetical order."""
    rows = con.execute(
        f"""SELECT word FROM ({query}) GROUP BY word HAVING count(DISTINCT user_id) >= {min_users}
            ORDER BY count(DISTINCT user_id) DESC, word LIMIT {top}"""
    ).fetchall()
    return [row[0] for row in rows]


def _normalized(column: str, is_list: bool) -> str:
    """SQL of the list of a categorical column's values as single words: 'Frozen Food' -> ['frozen_food']."""
    values = f"CAST({column} AS VARCHAR[])" if is_list else f"[CAST({column} AS VARCHAR)]"
    return f"list_filter(list_transform({values}, lambda v: {word('v')}), lambda v: v <> '')"


def _words(column: str) -> str:
    """SQL of the list of a text column's words, in lower case."""
    return rf"regexp_extract_all(lower({column}), '[\pL\pM\pN]+')"


def _joined(expressions: list[str], separator: str) -> str:
    """SQL of the expressions' texts with the separator between them, NULL where none has a text."""
    return f"nullif(concat_ws({quote(separator)}, {', '.join(expressions) or 'NULL'}), '')"


def _list(values: list[str]) -> str:
    return "[" + ", ".join(map(quote, values)) + "]::VARCHAR[]"


def _day_step(days: str) -> str:
    """SQL of the step that a number of days falls into, NULL for NULL (which least and greatest would skip)."""
    return f"CASE WHEN {days} IS NOT NULL THEN {DAY_OF_STEP}[greatest(least({days}, 400), 0) + 1] END"
