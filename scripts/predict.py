"""Score the users of a log with a trained model: a Parquet file with user_id, cutoff, label and score.

python scripts/predict.py --model runs/quickstart/model --config configs/quickstart.yaml --cutoff 2017-12-04 \
    --output scores.parquet
accelerate launch scripts/predict.py --model me/churn --events 'logs/*.parquet' --cutoff 2024-03-01 \
    --output scores.parquet --columns '{user_id: visitorid, event_time: ts, event_type: action}' \
    --time-unit milliseconds

python scripts/predict.py --model runs/quickstart/model --config my.yaml --cutoff 2024-03-01 --output scores.parquet \
    --engine spark --spark.master yarn

Everyone with an event before the cutoff is scored; --top 0.1 also lists the tenth with the highest scores.
The same command after a stop goes on where it was; on Spark it begins anew.
"""

from argparse import Namespace
from pathlib import Path
from typing import Any

from data_prep.serving import BATCH, MEMORY, PART_USERS
from finetune.command import CommandParser, guarded
from finetune.serving.given_log import add_log_arguments, given_log, given_spark, own_names


def arguments() -> Namespace:
    """The command line."""
    parser = CommandParser(__doc__ or "")
    parser.add_argument("--model", required=True, help="A folder that scripts/train.py wrote, or a name of the hub.")
    add_log_arguments(parser)
    parser.add_argument("--cutoff", required=True, help="The moment of prediction in UTC; later events do not count.")
    parser.add_argument("--output", required=True, type=Path, help="The Parquet file that is written.")
    parser.add_argument(
        "--memory-limit", help=f"DuckDB's in each process, such as 4GB; it spills to disk beyond it. Default {MEMORY}."
    )
    parser.add_argument("--text", action="store_true", help="Also write the text that the model read.")
    parser.add_argument("--population", action="store_true", help="Score only the users whom the task asks about.")
    parser.add_argument(
        "--top",
        type=float,
        metavar="SHARE",
        help="Also write scores.top.csv beside scores.parquet: the users with the highest scores, this share, such "
        "as 0.1, of all who are scored. Add --population for the users whom the report counts.",
    )
    parser.add_argument(
        "--embeddings", action="store_true", help="Also write a vector of each user (embedding): what the head reads."
    )
    parser.add_argument(
        "--groups",
        type=Path,
        metavar="FILE",
        help="A CSV or Parquet file with user_id (as in the output) and group: the label then goes by the threshold of "
        "the user's group, where evaluation.group_thresholds made some. finetune/FAIR.md says when that is lawful.",
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        help="What the encoder computes scores in, while embeddings are fp32; default bf16 on a GPU that has it, else "
        "fp32. bf16 is twice as fast with large encoders on CPUs that have it, and moves scores a little: "
        "finetune/README.md says by how much.",
    )
    parser.add_argument("--batch-size", type=int, default=BATCH, help=f"The most texts at a time; default {BATCH}.")
    parser.add_argument(
        "--part-users", type=int, default=PART_USERS, help="Users between two saves, or of a task of Spark."
    )
    parser.add_argument("--engine", choices=("duckdb", "spark"), default="duckdb", help="This machine, or Spark.")
    parser.add_argument("--spark.master", dest="master", help="Such as local[4], yarn or spark://HOST:7077.")
    parser.add_argument("--spark.settings", dest="settings", help="'{spark.executor.memory: 8g}': Spark's properties.")
    given = parser.parse_args()
    if min(given.batch_size, given.part_users) < 1:
        parser.error("--batch-size and --part-users must be 1 or more")
    if given.engine != "spark" and (given.master or given.settings):
        parser.error("--spark.master and --spark.settings belong to --engine spark")
    for name in ("groups", "precision"):
        if given.engine == "spark" and getattr(given, name):
            parser.error(f"--{name} goes with --engine duckdb; leave one of the two out")
    return given


def run(given: Namespace) -> None:
    """Score what the command line says."""
    from finetune.model.loading import model_folder  # after the arguments are read, as it takes seconds

    given.model = model_folder(given.model)
    with own_names(given):
        data, settings = given_log(given, given.memory_limit), _settings(given)
        if given.engine == "spark":
            from finetune.serving.on_spark import predict_on_spark

            predict_on_spark(given.model, data, given.cutoff, given.output, given_spark(given), **settings)
        else:
            from finetune.serving.predict import predict_log

            settings |= {"groups": given.groups, "precision": given.precision}
            predict_log(given.model, data, given.cutoff, given.output, **settings)


def _settings(given: Namespace) -> dict[str, Any]:
    names = ("text", "batch_size", "population", "part_users", "top", "embeddings")
    called = "data.sources[0]" if given.config else "--events"
    return {name: getattr(given, name) for name in names} | {"called": called}


if __name__ == "__main__":
    given = arguments()
    guarded(lambda: run(given))
