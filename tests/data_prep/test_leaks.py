"""The guard after preparing: an input that tells the training label by itself is named."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.config import TextConfig, TextField
from data_prep.features import Features
from data_prep.leaks import suspected_leaks
from data_prep.prepared import read_manifest
from data_prep.serializer import EventSerializer

ROWS = 400
RANDOM = np.random.default_rng(0)
TRUTH = RANDOM.random(ROWS) < 0.3


def found(
    folder, labels: object, texts: list[str] | None = None, style: str = "words", cutoff: object = None, **aggregates
) -> dict:
    """The suspected inputs of examples of these labels, texts and aggregates, with their AUROC."""
    table = {"label": labels, "text": texts or ["[SEP] gap=first shop=north"] * ROWS, **aggregates}
    table["cutoff"] = np.zeros(ROWS, "datetime64[us]") if cutoff is None else cutoff
    pq.write_table(pa.table(table), folder / "train.parquet", row_group_size=50)
    config = TextConfig(style, fields={"shop": TextField(top=3), "note": TextField(words=2)})
    known = {"shop": {"kind": "categorical", "list": False, "values": ["north", "far_south"]}}
    known["note"] = {"kind": "text", "words": ["refund", "please"]}
    serializer = EventSerializer(config, Features("true", {}, {}, []), known)
    leaks = suspected_leaks(folder / "train.parquet", list(aggregates), serializer)
    return {leak["input"]: leak["auroc"] for leak in leaks}


def noisy(truth: np.ndarray, wrong: float) -> np.ndarray:
    """The truth, but for a share of the rows."""
    return np.where(RANDOM.random(ROWS) < wrong, ~truth, truth)


def test_an_aggregate_that_tells_the_label_by_itself_is_named_whatever_its_direction(tmp_path):
    honest = TRUTH + RANDOM.normal(0, 0.7, ROWS)
    missing = [None if truth else float(value) for truth, value in zip(TRUTH, honest, strict=True)]
    inputs = {"value_last": -1.0 * TRUTH, "next_gap": TRUTH + RANDOM.normal(0, 0.05, ROWS), "when_missing": missing}
    suspected = found(tmp_path, TRUTH.astype(np.int64), honest=honest, constant=np.zeros(ROWS), **inputs)
    assert set(suspected) == set(inputs)
    assert suspected["value_last"] == suspected["when_missing"] == 1
    assert 0.98 < suspected["next_gap"] <= 1


@pytest.mark.parametrize(
    ("style", "text", "name"),
    [
        ("words", "gap_mean=1 [SEP] gap=3 shop={} value=7 gap=first shop=north value=2", "shop = far_south"),
        ("words", "gap=3 shop=north please{} gap=first shop=north", "note = refund"),
        ("sentences", "days between events 3. after 3 days: view, {}. first: view, north.", "shop = far south"),
    ],
)
def test_a_value_that_tells_the_label_is_named_with_its_column(tmp_path, style, text, name):
    labels = TRUTH.astype(np.int64)
    for wrong in (0.0, 0.1):
        says = {
            "shop = far_south": ("far_south", "north"),
            "note = refund": (" refund", ""),
            "shop = far south": ("far south", "north"),
        }[name]
        texts = [text.format(says[0] if truth else says[1]) for truth in noisy(TRUTH, wrong)]
        suspected = found(tmp_path, labels, texts, style)
        assert (name in suspected) == (wrong == 0), suspected


@pytest.mark.parametrize("kind", ["tiers", "number", "classes"])
def test_labels_of_several_values_are_taken_as_yes_or_no(tmp_path, kind):
    tier = RANDOM.integers(0, 3, ROWS)
    labels = {
        "tiers": tier,
        "number": np.where(TRUTH, RANDOM.gamma(2, 10, ROWS), 0.0),
        "classes": pa.array([[int(t == 0), int(t == 2), 0] for t in tier], pa.list_(pa.int8())),
    }[kind]
    leak = TRUTH if kind == "number" else tier == 2
    suspected = found(tmp_path, labels, leak=leak.astype(float), honest=RANDOM.random(ROWS))
    assert suspected == {"leak": 1.0}


def test_what_tells_the_label_within_each_cutoff_alone_is_named_too(tmp_path):
    week = RANDOM.integers(0, 8, ROWS)
    cutoff = np.datetime64("2024-01-01", "us") + week * np.timedelta64(7, "D")
    next_day = 7.0 * week + np.where(TRUTH, 13 + 9 * RANDOM.random(ROWS), 10 * RANDOM.random(ROWS))
    honest = 7.0 * week + RANDOM.random(ROWS) + 0.5 * TRUTH
    inputs = {"next_day": next_day, "honest": honest}
    assert found(tmp_path, TRUTH.astype(np.int64), **inputs) == {}
    assert found(tmp_path, TRUTH.astype(np.int64), cutoff=cutoff, **inputs) == {"next_day": 1.0}


def test_a_cutoff_with_one_kind_of_label_says_nothing(tmp_path):
    cutoff = np.where(TRUTH, np.datetime64("2024-01-01", "us"), np.datetime64("2024-01-08", "us"))
    assert found(tmp_path, TRUTH.astype(np.int64), cutoff=cutoff, honest=RANDOM.random(ROWS)) == {}


def test_few_rows_prove_nothing(tmp_path):
    rare = np.arange(ROWS) < 9
    assert found(tmp_path, rare.astype(np.int64), leak=rare.astype(float)) == {}


def test_preparing_names_the_leak_in_a_warning_the_manifest_and_the_card(shop, capsys):
    random, rows = np.random.default_rng(1), []
    for user in range(80):
        buys = {week: random.random() < 0.5 for week in range(13)}
        for week in range(13):
            plan = "stays" if buys.get(week + 1) else "goes"  # what only the next week tells
            rows += [shop.event(f"u{user}", 7 * week + 3.7, "view", category=plan)]
            rows += [shop.event(f"u{user}", 7 * week + 3.5, "purchase", value=1.0)] * buys[week]
    task = shop.task(train=["2024-02-05", "2024-02-12"], validation=["2024-02-19"], test=["2024-03-04"])
    folder = shop.prepare(rows, task, shop.text(fields={"category": TextField(top=5)}))
    manifest = read_manifest(folder)
    leaks = {leak["input"]: leak["auroc"] for leak in manifest["suspected_leaks"]}
    assert leaks == {f"category = {plan} in the newest event that has one": 1.0 for plan in ("goes", "stays")}
    said = "category = goes in the newest event that has one alone tells the training labels with an AUROC of 1.000"
    assert any(warning.startswith(said) for warning in manifest["warnings"])
    assert f"warning: {said}" in capsys.readouterr().out
    assert f"**Warning:** {said}" in (folder / "README.md").read_text()
    honest = shop.prepare([row for row in rows if "value" in row] + shop.regulars(), task)
    assert read_manifest(honest)["suspected_leaks"] == []
    assert "**Warning:**" not in (honest / "README.md").read_text()
