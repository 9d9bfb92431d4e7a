"""The events that a command is given beside a trained model: --events with what the files need said, or --config."""

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_prep import InputError
from data_prep.config import DataConfig, SparkConfig, UsersTable
from data_prep.connections import connect
from data_prep.serving import file_source, trained_zone
from data_prep.times import MICROSECONDS
from finetune.command import CommandParser
from finetune.runs import read_task


def add_log_arguments(parser: CommandParser) -> None:
    """The arguments that `given_log` reads."""
    events = parser.add_mutually_exclusive_group(required=True)
    events.add_argument("--events", help="CSV (also .gz), Parquet or JSON lines: a file or a glob in quotes.")
    events.add_argument("--config", help="A YAML of an experiment: the sources of its section data are read.")
    parser.add_argument("--users", help="With --events: a file with attributes of users, for a model that reads them.")
    parser.add_argument("--columns", help="'{user_id: visitorid}': name -> expression, if the files name it otherwise.")
    parser.add_argument("--time-unit", choices=MICROSECONDS, help="Of event_time, where it is a number.")
    parser.add_argument("--timezone", help="Of times in --events that carry none; by default that of training.")
    parser.add_argument(
        "--time-format", help="Of event_time, where it is no ISO date, for strptime: '%%d/%%m/%%Y %%H:%%M'."
    )
    parser.add_argument("--max-rejected", type=float, default=0.05, help="Share of unusable rows that is too large.")


# What a setting is called on these commands' lines.
ARGUMENTS = {
    "data.memory_limit": "--memory-limit",
    "data.timezone": "--timezone",
    "data.users": "--users",
    "events.columns": "--columns",
    "events.time_format": "--time-format",
    "events.time_unit": "--time-unit",
}


@contextmanager
def own_names(given: Namespace) -> Iterator[None]:
    """Messages name the command's arguments, where the events come by --events and not by a YAML."""
    try:
        yield
    except InputError as error:
        if given.config or error.setting not in ARGUMENTS:
            raise
        raise error.called(ARGUMENTS[error.setting]) from error


def given_log(given: Namespace, memory_limit: str | None = None) -> DataConfig:
    """The events that the command line names.

    Args:
        given: With the arguments of `add_log_arguments`, and the model's folder as `model`, whose time zone counts for
            --events unless --timezone says another.
        memory_limit: DuckDB's, instead of the YAML's.

    Raises:
        InputError: Arguments that do not go together or cannot be read.
    """
    from finetune.experiment.parser import parse_experiment  # here, as it loads transformers

    if given.config:
        if given.users:
            raise InputError("--users belongs to --events", "with --config data.users says it", setting="--users")
        if given.columns or given.time_unit or given.time_format or given.timezone:
            raise InputError(
                "--columns, --time-unit, --time-format and --timezone belong to --events",
                "with --config the YAML says it",
                setting="--columns",
            )
        data = parse_experiment("", ["--config", given.config]).data
        data.memory_limit = memory_limit or data.memory_limit
        return data
    if not 0 <= given.max_rejected <= 1:
        raise InputError(f"--max-rejected {given.max_rejected:g} is no share", "give 0 to 1", setting="--max-rejected")
    columns = _columns(given.columns)
    timezone = given.timezone or trained_zone(read_task(Path(given.model))) or "UTC"
    with connect() as con:
        more = {"time_unit": given.time_unit, "time_format": given.time_format}
        source = file_source(con, given.events, columns, **more)
    users = UsersTable(path=given.users) if given.users else None
    return DataConfig(
        [source], timezone=timezone, max_rejected=given.max_rejected, memory_limit=memory_limit, users=users
    )


def given_spark(given: Namespace) -> SparkConfig:
    """Where Spark runs: the section `spark` of --config, and what --spark.master and --spark.settings say instead."""
    from finetune.experiment.parser import parse_experiment  # here, as it loads transformers
    from finetune.experiment.settings import read_text

    config = parse_experiment("", ["--config", given.config, "--engine", "spark"]).spark if given.config else None
    config = config or SparkConfig()
    settings = read_text(given.settings or "{}", dict[str, str], "--spark.settings")
    return SparkConfig(given.master or config.master, config.settings | settings)


def _columns(text: str | None) -> dict[str, str]:
    from finetune.experiment.settings import read_text  # here, as it loads transformers

    return read_text(text or "{}", dict[str, str], "--columns")
