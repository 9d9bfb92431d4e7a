import pytest

from data_prep import InputError
from data_prep.config import TextConfig, TextField
from data_prep.text_settings import check_fields
from tests.data_prep.histories import TYPES


@pytest.mark.parametrize("change", [{"max_events": 10**30}, {"fields": {"note": TextField(words=10**30)}}])
def test_a_number_that_no_log_reaches_is_refused(change):
    with pytest.raises(InputError, match=r"text\..* is 1,000,.*; give at most 1,000,000,000"):
        check_fields(TextConfig(**change), TYPES)
