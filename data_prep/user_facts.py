"""What a manifest says of data.users: how many users of the log have a row, and what is missing."""

from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep import InputError
from data_prep.attributes import MISSING
from data_prep.cutoffs import SPLITS, split_file
from data_prep.facts import UserFacts
from data_prep.features import plain
from data_prep.given_users import SETTING, UserRows
from data_prep.serializer import EventSerializer


def user_facts(rows: UserRows, with_row: int, folder: Path, serializer: EventSerializer) -> UserFacts:
    """What there is in the table and in the examples.

    Args:
        rows: The table.
        with_row: How many users of the log have a row.
        folder: Of the splits, which are written.
        serializer: Knows which attributes are read.

    Raises:
        InputError: Nobody of the log has a row.
    """
    if not with_row:
        raise InputError(
            f"none of its {rows.users:,} users is a user of the log",
            "check that user_id is written as in the events",
            setting=SETTING,
        )
    names = {name: fitted["kind"] for name, fitted in serializer.attributes.items()}
    columns = {name: plain(name) + f"={MISSING}" * (kind != "numeric") for name, kind in names.items()}
    missing = {}
    for split in SPLITS:
        table = pq.read_table(folder / split_file(split), columns=list(columns.values()))
        shares = {}
        for name, column in columns.items():
            values = table[column]
            none = values.null_count if names[name] == "numeric" else pc.sum(values).as_py()  # pyright: ignore[reportAttributeAccessIssue]
            shares[name] = round(none / len(table), 4)
        missing[split] = shares
    found: UserFacts = {"users": rows.users, "with_events": with_row, "columns": rows.types, "missing": missing}
    return found


def user_notes(facts: UserFacts, log_users: int) -> str:
    """The same in a line."""
    without = facts["users"] - facts["with_events"]
    lacking = f" ({without:,} of its users have no event and are left out)" if without else ""
    missing = ", ".join(f"{name} in {share:.1%}" for name, share in facts["missing"]["train"].items())
    return (
        f"{SETTING}: {facts['with_events']:,} of {log_users:,} users of the log have a row{lacking}; training examples "
        f"lack {missing}"
    )
