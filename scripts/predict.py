"""Score the users of a log with a trained model: a Parquet file with user_id, cutoff, label and score.

python scripts/predict.py --model runs/quickstart/model --config configs/quickstart.yaml --cutoff 2017-12-04 \
    --output scores.parquet
accelerate launch scripts/predict.py --model me/churn --events 'logs/*.parquet' --cutoff 2024-03-01 \
    --output scores.parquet --columns '{user_id: visitorid, event_time: ts, event_type: action}' \
    --time-unit milliseconds

Everyone with an event before the cutoff is scored. The same command after a stop goes on where it was.
"""

import argparse
from pathlib import Path

import yaml

from data_prep import InputError
from data_prep.events import MICROSECONDS, DataConfig, connect
from data_prep.serving import PART_USERS, file_source
from finetune.config import CommandParser, guarded, parse_experiment
from finetune.prediction import MEMORY, predict_log


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = CommandParser(__doc__)
    parser.add_argument("--model", required=True, help="A folder that scripts/train.py wrote, or a name of the hub.")
    events = parser.add_mutually_exclusive_group(required=True)
    events.add_argument("--events", help="CSV (also .gz), Parquet or JSON lines: a file or a glob in quotes.")
    events.add_argument("--config", help="A YAML of an experiment: the sources of its section data are scored.")
    parser.add_argument("--cutoff", required=True, help="The moment of prediction in UTC; later events do not count.")
    parser.add_argument("--output", required=True, type=Path, help="The Parquet file that is written.")
    parser.add_argument("--columns", help="'{user_id: visitorid}': name -> expression, if the files name it otherwise.")
    parser.add_argument("--time-unit", choices=MICROSECONDS, help="Of event_time, where it is a number.")
    parser.add_argument("--timezone", default="UTC", help="Of times that carry none, as in training; default UTC.")
    parser.add_argument("--max-rejected", type=float, default=0.05, help="Share of unusable rows that is too large.")
    parser.add_argument("--memory-limit", help=f"DuckDB's, such as 4GB; it spills to disk beyond it. Default {MEMORY}.")
    parser.add_argument("--text", action="store_true", help="Also write the text that the model read.")
    parser.add_argument("--population", action="store_true", help="Score only the users whom the task asks about.")
    parser.add_argument("--batch-size", type=int, default=256, help="Texts at a time; default 256.")
    parser.add_argument(
        "--part-users", type=int, default=PART_USERS, help="Users between two saves; fewer lose less in a stop."
    )
    given = parser.parse_args()
    if given.config and (given.columns or given.time_unit):
        parser.error("--columns and --time-unit belong to --events; with --config the YAML says it")
    if min(given.batch_size, given.part_users) < 1:
        parser.error("--batch-size and --part-users must be 1 or more")
    return given


def log(given: argparse.Namespace) -> DataConfig:
    """The events that the command line names."""
    if given.config:
        data = parse_experiment(__doc__, ["--config", given.config]).data
        data.memory_limit = given.memory_limit or data.memory_limit
        return data
    columns = _columns(given.columns)
    with connect() as con:
        source = file_source(con, given.events, columns, time_unit=given.time_unit)
    return DataConfig(
        [source], timezone=given.timezone, max_rejected=given.max_rejected, memory_limit=given.memory_limit
    )


def _columns(text: str | None) -> dict[str, str]:
    try:
        columns = yaml.safe_load(text or "{}")
    except yaml.YAMLError:
        columns = None
    if not isinstance(columns, dict) or not all(isinstance(part, str) for pair in columns.items() for part in pair):
        raise InputError(f"--columns: {text} is no mapping; write '{{user_id: visitorid, event_time: ts}}'")
    return columns


def main() -> None:
    """Score what the command line says."""
    given = arguments()
    called = "data.sources[0]" if given.config else "--events"
    predict_log(
        given.model,
        log(given),
        given.cutoff,
        given.output,
        text=given.text,
        batch_size=given.batch_size,
        population=given.population,
        part_users=given.part_users,
        called=called,
    )


if __name__ == "__main__":
    guarded(main)
