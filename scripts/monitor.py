"""Watch a model in use: inputs, words, scores and, once their label windows have passed, outcomes of a new cutoff.

python scripts/monitor.py --model runs/NAME/model --config new.yaml --cutoff 2024-06-01 --report drift.html

Beside the page lie drift.json and, for Prometheus, drift.prom. Where something lies further from the model's own time
than its quiet months do, the command ends with exit code 3 and one sentence. The config gives the log.
"""

from argparse import Namespace
from pathlib import Path

from finetune.command import AlarmError, CommandParser, guarded


def run(given: Namespace, settings: list[str]) -> None:
    """The page, and an alarm if there is one."""
    from finetune.experiment.parser import parse_experiment  # after the arguments are read, as it takes seconds
    from finetune.upkeep.monitor import monitor

    newer = parse_experiment(__doc__ or "", ["--config", given.config, *settings])
    result = monitor(given.model, newer, given.cutoff, given.report)
    print(f"report: {given.report}")
    if result["alarm"]:
        raise AlarmError(result["alarm"])
    print(f"quiet: none of {len(result['signals'])} signals rings at {result['cutoff']}")


if __name__ == "__main__":
    parser = CommandParser(__doc__ or "")
    parser.add_argument("--model", type=Path, required=True, help="runs/NAME/model, evaluated.")
    parser.add_argument("--config", required=True, help="A YAML with the model's question, on the newer log.")
    parser.add_argument("--cutoff", required=True, help="The moment that is watched, such as 2024-06-01, in UTC.")
    parser.add_argument("--report", type=Path, default=Path("drift.html"), help="The page; beside it .json and .prom.")
    arguments, rest = parser.parse_known_args()
    if arguments.report.suffix != ".html":
        parser.error(f"--report {arguments.report} is to be a page; end it with .html")
    guarded(lambda: run(arguments, rest))
