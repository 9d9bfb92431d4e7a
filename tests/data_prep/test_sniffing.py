import pytest

from data_prep.config import DataConfig, Source
from data_prep.connections import connect
from data_prep.events import read_events


@pytest.mark.parametrize(
    ("read", "said"),
    [
        ("'{}/log.csv'", "use read_csv(..., all_varchar = true)"),
        ("read_csv('{}/log.csv')", "the types in read_csv(...) are guessed from its first rows"),
        ("read_csv('{}/log.csv', all_varchar = false)", "the types in read_csv(...) are guessed"),
        ("(SELECT * FROM (FROM '{}/log.csv') WHERE true)", "log.csv' are guessed from its first rows"),
        ("'{}/log.jsonl'", "use read_json(..., columns = {...})"),
        ("read_json('{}/log.jsonl')", "the types in read_json(...) are guessed"),
        ("read_csv('{}/log.csv', all_varchar = true)", None),
        ("read_csv_auto('{}/log.csv', all_varchar := true)", None),
        ("read_csv('{}/log.csv', types = {{'user_id': 'VARCHAR'}})", None),
        ("read_json('{}/log.jsonl', columns = {{user_id: 'TEXT', event_time: 'TEXT', event_type: 'TEXT'}})", None),
    ],
)
@pytest.mark.parametrize("trust", [False, True])
def test_files_of_text_that_sql_reads_in_guessed_types_are_warned_of(tmp_path, read, said, trust):
    (tmp_path / "log.csv").write_text("user_id,event_time,event_type\n01-01-20,2024-01-01,view\n")
    (tmp_path / "log.jsonl").write_text('{"user_id": "a", "event_time": "2024-01-01", "event_type": "view"}\n')
    data = DataConfig([Source(sql=f"SELECT * FROM {read.format(tmp_path)}")], trust_sql=trust)
    with connect() as con:
        notes = read_events(con, data).notes
    assert [said in note and note.startswith("warning: data.sources[0]: ") for note in notes] == [True] * bool(said)
