import math
from dataclasses import replace

import numpy as np
import pytest

from data_prep import InputError
from data_prep.bins import fit_bins
from data_prep.config import TextConfig, TextField
from data_prep.text_settings import check_fields
from tests.data_prep.histories import TYPES, only, texts, words_of


def test_numbers_fall_into_quantile_bins_of_the_training_history(shop):
    assert words_of(shop, [1.0, 2.0, 3.0, 4.0, None], "value", TextField(bins=4)) == [
        "value=1",  # the edges are values themselves: the lowest one has nothing below it
        "value=2",
        "value=3",
        "value=3",
        "",
    ]
    assert words_of(shop, [7, 7, 7, 7], "items", TextField(bins=4)) == ["items=1"] * 4
    assert words_of(shop, [-1, None], "items", TextField(bins=1)) == ["items=0", ""]


def test_nan_is_missing_and_infinities_fall_into_the_outer_bins(shop):
    values = [1.0, 2.0, 3.0, 4.0, math.nan, math.inf, -math.inf]
    assert words_of(shop, values, "value", TextField(bins=2))[4:] == ["", "value=1", "value=0"]


def test_a_column_without_any_number_gives_no_words(shop):
    assert words_of(shop, [None, None], "value", TextField(bins=4)) == ["", ""]


def test_bins_do_not_depend_on_the_sign_of_zero(shop):
    config = TextConfig(header=["value"], fields={"value": TextField(bins=4)})
    one, other = (
        shop.histories([shop.event("a", 1, value=z), shop.event("b", 1, value=-z)], shop.day(9), config)[2]
        for z in (0.0, -0.0)
    )
    assert one.to_json() == other.to_json()
    assert "-0.0" not in one.to_json()


def test_many_bins_work_and_too_many_are_refused(shop):
    rows = [shop.event("a", i / 100, value=float(i)) for i in range(600)]
    assert texts(shop, rows, replace(only(value=TextField(bins=200)), max_events=1)) == {"a": "gap=0 value=199"}
    with pytest.raises(InputError, match=r"text.fields.value.bins is 201; give at most 200"):
        check_fields(only(value=TextField(bins=201)), TYPES)


def test_a_tail_halves_the_last_bin_of_the_header_and_then_its_upper_half():
    values = np.arange(1.0, 161.0)
    values[155:] = [220, 230, 300, 310, 320]
    assert fit_bins(values, 16, 1)["edges"] == fit_bins(values, 16)["edges"]  # 155 is not 1.3 times 150
    values[154:] += 60
    assert fit_bins(values, 16, 3)["edges"] == [*fit_bins(values, 16)["edges"], 215.0, 360.0]  # 370 is too near
    assert fit_bins(values, 16, 3)["centers"][-3:] == [152.0, 280.0, 370.0]
    assert fit_bins(np.zeros(50), 16, 3)["edges"] == [0.0]
    few_buy = np.append(np.zeros(95), [10.0, 20.0, 30.0, 40.0, 50.0])
    assert fit_bins(few_buy, 16, 3)["edges"] == [0.0, 20.0, 40.0]  # 50 is not 1.3 times 40


@pytest.mark.parametrize("size", [0, 17])
def test_a_tail_of_no_bin_or_of_too_many_is_refused(size):
    with pytest.raises(InputError, match=f"text.tail_bins is {size}"):
        check_fields(TextConfig(tail_bins=size), TYPES)
