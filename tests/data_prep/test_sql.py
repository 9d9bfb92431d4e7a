import duckdb
import pytest

from data_prep import InputError
from data_prep.connections import connect
from data_prep.sql import refused


def test_a_write_that_fails_is_told_as_such_and_not_as_a_fault_of_the_types():
    inner = r'{"exception_type":"IO","exception_message":"Could not write file \"a.parquet\": File too large"}'
    said = f"IO Error: Async write failed: {inner}"
    with pytest.raises(InputError) as refusal, refused("events", "give each column the type that it had in training"):
        raise duckdb.IOException(said)
    assert str(refusal.value) == (
        'Could not write file "a.parquet": File too large; check the folder that is written to, and the space left'
    )
    with connect() as con, pytest.raises(InputError, match="check the folder that is written to"), refused("x", "y"):
        con.execute("COPY (SELECT 1 AS a, 2 AS b) TO 'nowhere/there' (FORMAT parquet, PARTITION_BY (a))")
