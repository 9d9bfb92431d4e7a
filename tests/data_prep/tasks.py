"""Makes the examples of a task over a small log, for the tests of all that takes part in it."""

import pytest

from data_prep import InputError
from data_prep.config import TaskConfig, TextConfig
from data_prep.cutoffs import resolve_cutoffs
from data_prep.event_log import count_on
from data_prep.examples import UNLABELLED, Summary, fit_examples


def examples(shop, rows: list[dict], task: TaskConfig) -> tuple[dict, dict]:
    """(split, user, cutoff) -> label, and what each split is like."""
    with shop.log(rows) as (con, log):
        text = TextConfig(header=[], fields={})
        made, labels = fit_examples(con, count_on(con), log, resolve_cutoffs(task, log), task, text)
        found, summary = {}, Summary()
        for batch in made.batches(labels):
            if batch.split == UNLABELLED:
                continue
            summary.add(batch)
            for row in batch.table.select(["user_id", "cutoff", "label"]).to_pylist():
                key = batch.split, row["user_id"], row["cutoff"]
                assert key not in found
                found[key] = row["label"]
        return found, made.describe(summary)


def refusal(shop, rows: list[dict], task: TaskConfig) -> str:
    with pytest.raises(InputError) as error:
        examples(shop, rows, task)
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith("task")
    return text
