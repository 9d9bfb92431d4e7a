"""Attributes of the users of a history: which row of data.users counts at a cutoff, and how it is written and counted.

Of a user's rows the newest one that was known strictly before the cutoff counts: where cutoffs are moments of users,
before that very moment.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import duckdb
import numpy as np
import pyarrow as pa

from data_prep import InputError
from data_prep.bins import bin_numbers
from data_prep.config import TextField
from data_prep.features import plain
from data_prep.history import TOO_LARGE, Moment, combined
from data_prep.phrases import bin_words
from data_prep.sql import identifier, quote, text_list
from data_prep.vocabulary import category_words, fit_columns, kept_text

RELATION = "user_attributes"  # of a connection: user_id, known_from and the attributes, see `data_prep.given_users`
MISSING, OTHER = "missing", "other"


@dataclass(frozen=True)
class Attributes:
    """The rows of data.users of the users of a history.

    Attributes:
        owner: The index of each row's user, of shape (rows,), in order.
        since: When each row was known, in microseconds, of shape (rows,); in order within a user.
        columns: What was asked for, each of shape (rows + 1,): the last one stands for users without a row.
        fitted: Attribute -> what was learned of it, see `EventSerializer.attributes`; empty of raw values.
    """

    owner: np.ndarray
    since: np.ndarray
    columns: dict[str, pa.Array]
    fitted: dict[str, dict] = field(default_factory=dict)

    @classmethod
    def load(cls, con: duckdb.DuckDBPyConnection, users: pa.Array, sql: dict[str, str]) -> "Attributes":
        """The rows of some users.

        Args:
            con: Has the relation RELATION.
            users: Their ids.
            sql: Name -> SQL over a row.

        Raises:
            InputError: There is no such relation.
        """
        con.register("attributed", pa.table({"user_id": users, "#row": np.arange(len(users))}))
        columns = "".join(f", {said} AS {identifier(name)}" for name, said in sql.items())
        try:
            table = con.sql(
                f'SELECT "#row", known_from{columns} FROM {RELATION} JOIN attributed USING (user_id) ORDER BY 1, 2'
            ).to_arrow_table()
        except duckdb.CatalogException as error:
            raise needed(sql) from error
        finally:
            con.unregister("attributed")
        owner, since = (combined(table.column(i)).to_numpy() for i in (0, 1))
        found = (combined(table[name]) for name in sql)
        columns = {
            name: pa.concat_arrays([column, pa.nulls(1, column.type)]) for name, column in zip(sql, found, strict=True)
        }
        return cls(owner, since, columns)

    @classmethod
    def written(
        cls,
        con: duckdb.DuckDBPyConnection,
        users: pa.Array,
        specs: dict[str, TextField] | None,
        fitted: dict[str, dict],
    ) -> "Attributes | None":
        """Those that texts tell of, as they tell of them; None where they tell of none.

        Args:
            con: Has the relation RELATION.
            users: The ids of a history.
            specs: text.attributes.
            fitted: See `Attributes`.
        """
        if not specs or not fitted:
            return None
        sql = {name: value_sql(name, fitted[name], spec) for name, spec in specs.items()}
        return replace(cls.load(con, users, sql), fitted={name: fitted[name] for name in specs})

    @property
    def users(self) -> int:
        """How many users of the history have a row."""
        return len(np.unique(self.owner))

    def places(self, moment: Moment, users: np.ndarray) -> np.ndarray:
        """The row that counts for each of some users at a moment of all, or one of each; of shape (users,)."""
        times, rank = np.unique(self.since, return_inverse=True)
        number = self.owner * (len(times) + 1) + rank
        before = np.searchsorted(number, users * (len(times) + 1) + np.searchsorted(times, moment)) - 1
        owner = np.append(self.owner, -1)
        return np.where(owner[before] == users, before, len(self.owner))

    def aggregates(self, moment: Moment, users: np.ndarray) -> dict[str, np.ndarray]:
        """Numbers as they are, and of each value or word that is kept whether a user has it; see `column_names`.

        Returns:
            Name -> values of shape (users,); NaN where there is no number.
        """
        places, found = self.places(moment, users), {}
        for name, fitted in self.fitted.items():
            if fitted["kind"] == "numeric":
                found[plain(name)] = self._numbers(name)[places]
                continue
            said, codes = self._said(name)
            having = [set(words.split(" ")) for words in said] + [{MISSING}]
            for word, column in zip(shown_words(fitted), column_names(name, fitted), strict=True):
                found[column] = np.array([word in words for words in having], np.int32)[codes[places]]
        return found

    def header(self, moment: Moment, users: np.ndarray, words: bool) -> list[tuple[np.ndarray, list[str | None]]]:
        """What a text's header says of some users, as `write_rows` takes it.

        Args:
            moment: As `places` takes it.
            users: Indices of users.
            words: Whether texts are of the style words.
        """
        places, found = self.places(moment, users), []
        for name, fitted in self.fitted.items():
            if fitted["kind"] == "numeric":
                written = bin_words(name, fitted, words)
                codes = bin_numbers(self._numbers(name), fitted["edges"])
            else:
                said, codes = self._said(name)
                written: list[str | None] = [_written(name, of_row.split(" "), words) for of_row in said]
                written.append(None)
            if words:
                written[-1] = f"{plain(name)}={MISSING}"
            found.append((codes[places], written))
        return found

    def _numbers(self, name: str) -> np.ndarray:
        """Those of a numeric attribute; NaN where there is none, or one that is too large."""
        values = self.columns[name].to_numpy(zero_copy_only=False).astype(np.float64)
        return np.where(np.abs(values) < TOO_LARGE, values, np.nan)

    def _said(self, name: str) -> tuple[list[str], np.ndarray]:
        """The different things that rows say, as words with spaces between them, and the number of each row's."""
        column = self.columns[name].dictionary_encode()
        said = column.dictionary.to_pylist()
        return said, column.indices.fill_null(len(said)).to_numpy()


def fit_attributes(
    con: duckdb.DuckDBPyConnection,
    users: pa.Array,
    specs: dict[str, TextField],
    types: dict[str, str],
    training: list[tuple[Moment, np.ndarray]],
) -> dict[str, dict]:
    """Learn the bins and vocabularies of attributes, as they were known of the training examples.

    Args:
        con: Has the relation RELATION.
        users: The ids of a history.
        specs: text.attributes.
        types: Attribute -> what it is kept as.
        training: Moments, and the indices of the users of whom there is an example at each.
    """
    found = Attributes.load(con, users, {name: identifier(name) for name in specs})
    places = pa.array(np.concatenate([found.places(moment, of) for moment, of in training]))
    owners = pa.array(np.concatenate([of for _, of in training]))
    taken = {name: column.take(places) for name, column in found.columns.items()}
    con.register("training", pa.table({"user_id": users.take(owners), **taken}))
    fitted = fit_columns(con, specs, {}, "FROM training WHERE true")
    con.unregister("training")
    return {name: {"type": types[name], **learned} for name, learned in fitted.items()}


def needed(names: Iterable[str]) -> InputError:
    """What is said where a model's attributes are not given."""
    return InputError(
        f"the model reads attributes of users ({', '.join(names)}), and no table of users is given",
        "give it as `users`, which predict and POST /score take, as --users, or as data.users in the YAML",
    )


def value_sql(name: str, fitted: dict, spec: TextField) -> str:
    """SQL of what a row says of an attribute: a number, or its words with spaces between them; NULL where nothing."""
    column = identifier(name)
    if fitted["kind"] == "numeric":
        return f"CAST({column} AS DOUBLE)"
    if fitted["kind"] == "text":
        kept = kept_text(column, fitted["words"], spec.words or 0)
    else:
        kept = (
            f"list_filter({category_words(column, False)}, lambda v: list_contains({text_list(fitted['values'])}, v))"
        )
    return f"CASE WHEN {column} IS NOT NULL THEN coalesce(nullif(array_to_string({kept}, ' '), ''), {quote(OTHER)}) END"


def shown_words(fitted: dict) -> list[str]:
    """The words of an attribute that can be counted."""
    return list(dict.fromkeys([*fitted.get("values", fitted.get("words", [])), OTHER, MISSING]))


def column_names(name: str, fitted: dict) -> list[str]:
    """The columns of an attribute among the aggregates: age, or country=de, country=other, country=missing."""
    if fitted["kind"] == "numeric":
        return [plain(name)]
    return [f"{plain(name)}={word}" for word in shown_words(fitted)]


def _written(name: str, words: list[str], style: bool) -> str:
    if style:
        return " ".join(f"{plain(name)}={word}" for word in words)
    return f"{plain(name).replace('_', ' ')} {' '.join(words).replace('_', ' ')}"
