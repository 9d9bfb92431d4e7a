import pytest

from data_prep import InputError
from data_prep.config import TextConfig, TextField
from data_prep.text_settings import check_fields, header_names
from tests.data_prep.histories import TYPES, only


@pytest.mark.parametrize("name", ["gap", "GAP", "unit_price"])
def test_a_field_whose_words_could_be_taken_for_others_is_refused(name):
    config = only(**{"Unit price": TextField(bins=2), name: TextField(top=2, min_users=1)})
    with pytest.raises(InputError, match=f"text.fields.{name}: a text already has words .* another name"):
        check_fields(config, {"Unit price": "DOUBLE", name: "VARCHAR"})


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (
            {"colour": TextField(top=5, min_users=1)},
            "text.fields.colour: the log has no such column; it has event_type, value",
        ),
        ({"category": TextField(bins=5)}, "text.fields.category: bins needs numbers, but the column is VARCHAR; cast"),
        (
            {"value": TextField(words=5, min_users=1)},
            "text.fields.value: words needs text, but the column is DOUBLE; use bins or top",
        ),
        ({"value": TextField()}, "text.fields.value needs exactly one of top"),
        ({"value": TextField(top=3, bins=3, min_users=1)}, "text.fields.value needs exactly one of top"),
        ({"value": TextField(bins=0)}, "text.fields.value.bins is 0; give a number above zero"),
        ({"category": TextField(top=-1, min_users=1)}, "text.fields.category.top is -1; give"),
        ({"note": TextField(words=3, vocabulary=0, min_users=1)}, "text.fields.note.vocabulary is 0; give"),
        ({"category": TextField(top=3, min_users=0)}, "text.fields.category.min_users is 0; give"),
    ],
)
def test_fields_that_do_not_fit_the_log_are_refused(fields, reason):
    with pytest.raises(InputError) as error:
        check_fields(only(**fields), TYPES)
    assert str(error.value).startswith(reason)


@pytest.mark.parametrize("kind", ["DOUBLE[]", "DECIMAL(3,1)[2]", "INTEGER[3]", "INTERVAL", "DATE", "BOOLEAN"])
def test_bins_are_only_for_single_numbers(kind):
    with pytest.raises(InputError, match="bins needs numbers"):
        check_fields(only(x=TextField(bins=2)), {"x": kind})


@pytest.mark.parametrize("kind", ["DOUBLE", "DECIMAL(18,2)", "UBIGINT", "HUGEINT", "TINYINT"])
def test_bins_take_every_type_of_number(kind):
    check_fields(only(x=TextField(bins=2)), {"x": kind})


def test_max_events_of_zero_is_refused():
    with pytest.raises(InputError, match=r"text.max_events is 0; give a number above zero"):
        check_fields(TextConfig(max_events=0, fields={}), TYPES)


def test_an_unknown_header_name_is_refused_with_the_groups():
    with pytest.raises(
        InputError, match=r"'revenue' is neither one of the groups recency, counts, .* nor an aggregate"
    ):
        header_names(["recency", "revenue"], ["value"], ["events"])


def test_header_names_are_written_once_and_groups_cover_the_numeric_fields():
    names = header_names(["items_mean", "value"], ["Unit price", "items"], ["items_mean"])
    sums = [f"{name}_sum{days}" for days in ("", "_28d", "_84d") for name in ("unit_price", "items")]
    assert names == ["items_mean", *sums[:2], "unit_price_mean", *sums[2:]]


def test_a_name_that_the_header_has_twice_is_refused():
    with pytest.raises(InputError, match=r"text.header names 'events' twice; name it once"):
        header_names(["events", "value", "events"], ["items"], ["events"])
