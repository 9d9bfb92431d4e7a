"""Which group each user is in, as a file says, for the decision by the thresholds of the groups."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from data_prep import InputError
from finetune.model.calibration import Calibration
from finetune.model.tokenization import first_line

SETTING = "--groups"
COLUMNS = ("user_id", "group")


@dataclass(frozen=True)
class UserGroups:
    """The group of each user, and the thresholds of the groups.

    Attributes:
        users: Their ids, as the scores have them.
        groups: Of each of them.
        calibration: With group_thresholds.
    """

    users: pa.Array
    groups: pa.Array
    calibration: Calibration

    @classmethod
    def read(cls, path: Path, calibration: Calibration) -> "UserGroups":
        """From a CSV or Parquet file with user_id and group.

        Raises:
            InputError: The model has no thresholds of groups, or the file cannot be read or has a user twice.
        """
        if not calibration.group_thresholds or calibration.threshold is None:
            raise InputError(
                "the model has no thresholds of groups",
                "set evaluation.group_thresholds and run scripts/evaluate.py, or leave it out",
                setting=SETTING,
            )
        table = _read(Path(path))
        users, groups = (pc.cast(table[name], pa.string()).combine_chunks() for name in COLUMNS)
        counts = pc.value_counts(users)  # pyright: ignore[reportAttributeAccessIssue] - pyarrow makes it at run time
        twice = [row["values"] for row in counts.to_pylist() if row["counts"] > 1]
        if twice or users.null_count:
            what = f"user {twice[0]} twice" if twice else "a row without user_id"
            raise InputError(f"{path} has {what}", "give one row for each user", setting=SETTING)
        return cls(users, groups, calibration)

    def said(self) -> str:
        """A sentence for the screen: how many go by a threshold of their group."""
        own = sum(group in self.calibration.group_thresholds for group in self.groups.to_pylist())
        names = ", ".join(self.calibration.group_thresholds)
        return (
            f"the label goes by the threshold of the group ({self.calibration.group_by}: {names}) for {own:,} users; "
            f"{len(self.groups) - own:,} of other groups, and who is not in the file, go by the one threshold"
        )

    def thresholds(self, users: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """From which score on each user counts as positive, of shape (users,)."""
        place = pc.index_in(users, self.users)  # pyright: ignore[reportAttributeAccessIssue] - made at run time
        return self.calibration.thresholds_of(self.groups.take(place).to_pylist())


def _read(path: Path) -> pa.Table:
    if not path.is_file():
        raise InputError(f"there is no file {path}", "give a CSV or Parquet file", setting=SETTING)
    try:
        if path.suffix == ".parquet":
            return pq.read_table(path, columns=[*COLUMNS])
        kinds = dict.fromkeys(COLUMNS, pa.string())
        options = pyarrow.csv.ConvertOptions(column_types=kinds, include_columns=[*COLUMNS])
        return pyarrow.csv.read_csv(path, convert_options=options)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read ({first_line(error)})",
            "give a CSV or Parquet file with the columns user_id and group",
            setting=SETTING,
        ) from error
