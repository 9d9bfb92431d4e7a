"""The dataset card: README.md beside the prepared splits, which the hub and datasets.load_dataset read."""

from data_prep.config import TaskConfig
from data_prep.cutoffs import SPLITS, split_file
from data_prep.examples import UNLABELLED
from data_prep.facts import Manifest, SplitFacts
from data_prep.given_examples import own_labels
from data_prep.labels import come_by
from data_prep.leaks import describe_leak
from data_prep.markdown import cell, inline, paragraph
from data_prep.moments import in_words
from data_prep.task import moment_words

_LABELS = {
    "absent": "Label 1 means {label}.",
    "exists": "Label 1 means {label}.",
    "count": "The label is the number of events, or its tier.",
    "sum": "The label is the sum, or its tier.",
    "when": "The label is a list with an entry for each interval from one horizon to the next: 1 where the first such "
    "event lies in it, 0 where none has come by its end, and -1 behind the event, or where the log ends before.",
    "which": "The label is a list of 0 and 1, one for each of the classes in `manifest.json`.",
}


def _labels(counts: SplitFacts) -> str:
    """What a split's labels are like, in a few words."""
    if "positive_rate" in counts:
        return f"{counts['positive_rate']:.1%}"
    if "mean" in counts and "share_above_zero" in counts:
        return f"{counts['mean']:.4g} on average, {counts['share_above_zero']:.1%} above 0"
    if "intervals" in counts:
        return ", ".join(f"{share:.1%} within {name}" for name, share in come_by(counts["intervals"]).items())
    classes = sorted(counts.get("classes", {}).items(), key=lambda item: -item[1])
    shown = ", ".join(f"{name} {n / counts['rows']:.1%}" for name, n in classes[:5])
    return shown + f" and {len(classes) - 5} more" * (len(classes) > 5)


def _number(counts: SplitFacts) -> str:
    """How many cutoffs there are, or how many a user may have."""
    if "most_per_user" in counts:
        return f" (up to {counts['most_per_user']} a user)"
    return f" ({len(counts['cutoffs'])})"


def _label(manifest: Manifest) -> str:
    """What a label means."""
    if not own_labels(manifest):
        return _LABELS[manifest["label_kind"]].format(**manifest)
    means = f": 1 means {manifest['label']}" if manifest["label_kind"] in ("absent", "exists") else ", or its tier"
    return f"The label is that of the team's own table{means}."


def _row(task: TaskConfig, own: bool) -> str:
    """What a row is, and which events its text and its label are of."""
    if not task.at_moments:
        return f"""One row is one user at one cutoff; its text and aggregates come
from events strictly before the cutoff, its label from the {task.label.window} from the cutoff on."""
    label = "stood in that table" if own else f"from the {in_words(task.label.window)} after it"
    return f"""One row is one user right after a moment, which stands in the column
cutoff: {inline(moment_words(task))}. Its text and aggregates come from the events up to that very
instant, all of its own events included; its label {label}."""


def _columns(manifest: Manifest) -> str:
    """What texts tell of: columns of the log, and what is known of the users beside the events."""
    columns = inline(", ".join(manifest["text_columns"]))
    if "users" not in manifest or "attributes" not in manifest:
        return columns
    return (
        f"{columns}. Attributes of\nthe users that header and aggregates tell of, as known before the cutoff: "
        f"{inline(', '.join(manifest['attributes']))};\n{manifest['users']['with_events']:,} of the log's users have "
        "some"
    )


def dataset_card(name: str, task: TaskConfig, manifest: Manifest) -> str:
    """A dataset card that the hub and datasets.load_dataset read."""
    files = "\n".join(f"  - split: {split}\n    path: {split_file(split)}" for split in SPLITS)
    if manifest[UNLABELLED]["rows"]:  # datasets opens no file without rows
        files += f"\n- config_name: {UNLABELLED}\n  data_files: {split_file(UNLABELLED)}"
    rows = "\n".join(
        f"| {split} | {counts['rows']:,} | {counts['users']:,} | {cell(_labels(counts))} | "
        f"{counts['cutoffs'][0]} to {counts['cutoffs'][-1]}{_number(counts)} |"
        for split, counts in manifest["splits"].items()
    )
    log = manifest["log"]
    suspected = "".join(f"\n**Warning:** {inline(describe_leak(leak))}\n" for leak in manifest["suspected_leaks"])
    schema = "Words, bins and classes were given, and nothing of this log is in them. " if "schema" in manifest else ""
    return f"""---
configs:
- config_name: default
  data_files:
{files}
task_categories:
- text-classification
tags:
- eventscribe
---

# {inline(name)}

{paragraph(manifest["question"])}

{inline(_label(manifest))} {_row(task, own_labels(manifest))}

| split | rows | users | {cell(manifest["label"])} | cutoffs |
|---|---|---|---|---|
{rows}

`unlabelled.parquet`, for pretraining, has the texts of {manifest[UNLABELLED]["rows"]:,} more users at the last training
cutoff, {manifest[UNLABELLED]["cutoff"]}: those with an event before it, outside of the population there. It has
no labels.
{suspected}
The log: {log["events"]:,} events of {log["users"]:,} users, {log["first"][:10]} to {log["last"][:10]} (UTC).
Columns of the log that the texts can contain: {_columns(manifest)}. {schema}`manifest.json` has the whole
config, the rows left out by reason, and a hash of the content. Made by EventScribe.
"""
