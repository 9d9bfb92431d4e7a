import numpy as np
import pyarrow as pa
import pytest

from data_prep.prepared import read_split
from finetune.evaluation.drift import drift
from finetune.experiment.parser import parse_experiment


def table(numbers, text="gap=0 kind=a"):
    texts = text if isinstance(text, list) else [text] * len(numbers)
    return pa.table({"text": texts, "x": pa.array(numbers, pa.float64(), from_pandas=True)})


def moved(train, test):
    return {entry["input"]: entry["psi"] for entry in drift(train, test, ["x"])}


def test_the_index_of_a_number_is_the_textbook_sum_over_the_deciles_of_training():
    random = np.random.default_rng(0)
    train, test = random.normal(size=5000), random.normal(0.3, 1.2, size=4000)
    edges = [-np.inf, *np.quantile(train, np.arange(1, 10) / 10), np.inf]
    p, q = (np.histogram(values, edges)[0] / len(values) for values in (train, test))
    assert moved(table(train), table(test))["x"] == pytest.approx(np.sum((q - p) * np.log(q / p)), rel=0.02)


def test_it_does_not_depend_on_the_scale_or_the_order_and_grows_with_the_move():
    random = np.random.default_rng(1)
    train, test = random.gamma(2, 10, 3000), random.gamma(2, 10, 3000)
    near, far, farthest = (moved(table(train), table(test * factor))["x"] for factor in (1, 1.3, 2))
    assert near < 0.02 < far < farthest
    assert moved(table(np.log(train[::-1])), table(np.log(test * 2)))["x"] == pytest.approx(farthest)


def test_a_number_that_goes_missing_has_moved_and_one_that_is_always_missing_or_the_same_has_not():
    values = np.arange(1000.0)
    gone = np.where(values < 300, np.nan, values)
    everywhere = np.full(1000, np.nan)
    assert moved(table(values), table(np.random.default_rng(0).permutation(gone)))["x"] > 0.25
    assert moved(table(everywhere), table(everywhere[:50]))["x"] == 0
    assert moved(table(np.ones(1000)), table(np.ones(50)))["x"] == pytest.approx(0, abs=1e-9)
    assert 1 < moved(table(everywhere), table(values))["x"] < np.inf
    assert 1 < moved(table(np.ones(1000)), table(np.full(1000, 2.0)))["x"] < np.inf


def test_a_count_that_mostly_is_zero_has_moved_where_it_is_so_less_often():
    random = np.random.default_rng(0)
    train, test = (random.poisson(rate, 5000) for rate in (0.05, 0.4))
    p, q = np.mean(train == 0), np.mean(test == 0)
    by_hand = (q - p) * np.log(q / p) + (p - q) * np.log((1 - q) / (1 - p))
    assert moved(table(train), table(test))["x"] == pytest.approx(by_hand, rel=0.02)


def test_texts_are_compared_by_their_events_and_by_the_words_of_the_newest_one():
    ones, twos = "a=1 [SEP] gap=0 kind=view cat=x cat=y gap=3 kind=buy", "a=1 [SEP] gap=0 kind=buy cat=x"
    values = np.zeros(400)
    train, test = table(values, [ones] * 200 + [twos] * 200), table(values, [ones] * 40 + [twos] * 360)
    found = moved(train, test)
    assert set(found) == {"x", "text_events", "newest_gap", "newest_kind", "newest_cat"}
    assert found["x"] == found["newest_gap"] == 0
    assert found["text_events"] == pytest.approx(found["newest_kind"])  # the same rows differ in both
    share, other = np.array([0.5, 0.5]), np.array([0.1, 0.9])
    assert found["newest_kind"] == pytest.approx(np.sum((other - share) * np.log(other / share)), rel=0.03)
    assert 0 < found["newest_cat"] < found["newest_kind"]
    assert moved(train, train) == dict.fromkeys(found, 0)


def test_a_field_that_the_newest_events_no_longer_write_has_moved():
    values = np.zeros(200)
    assert moved(table(values), table(values, "gap=0"))["newest_kind"] > 1
    assert moved(table(values, "gap=0"), table(values))["newest_kind"] > 1


def test_rare_values_count_as_one_so_that_many_of_them_are_no_drift():
    random = np.random.default_rng(0)
    texts = [[f"gap=0 item={n}" for n in random.integers(0, 1000, 2000)] for _ in range(2)]
    values = np.zeros(2000)
    assert moved(table(values, texts[0]), table(values, texts[1]))["newest_item"] < 0.1


def test_sentences_are_compared_by_their_events_alone():
    text = "recency days 3. same day: view, amount 7. after 3 days: buy."
    found = moved(table(np.zeros(50), text), table(np.zeros(50), "recency days 3. first: view."))
    assert set(found) == {"x", "text_events"}
    assert found["text_events"] > 1


def test_a_split_without_rows_is_nan_and_stands_last():
    entries = drift(table(np.arange(100.0)), table([]), ["x"])
    assert np.isnan([entry["psi"] for entry in entries]).all()
    assert moved(table([]), table([])).keys() == {"x", "text_events"}


def test_the_prepared_splits_are_compared_in_all_inputs_with_the_largest_move_first(prepared):
    folder = parse_experiment("", ["--config", str(prepared)]).data_folder
    aggregates = ["tenure_days", "events_28d", "gap_mean", "amount_last"]
    train, test = (read_split(folder, split, None, ["text", *aggregates]) for split in ("train", "test"))
    entries = drift(train, test, aggregates)
    values = [entry["psi"] for entry in entries]
    assert values == sorted(values, reverse=True)
    assert entries[0]["input"] == "tenure_days"  # everybody has become older
    fields = {"newest_gap", "newest_event_type", "newest_amount", "newest_shop"}
    assert {entry["input"] for entry in entries} == {*aggregates, "text_events"} | fields
    assert entries == drift(train, test, aggregates)
