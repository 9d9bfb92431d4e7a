"""What a model and boosting are worth where the log is damaged: a page, and the same as JSON beside it.

python scripts/stress.py --model runs/NAME/model --config runs/NAME/config.yaml

Fields go missing; events are lost, come twice, late or in another order; prices rise; an event type has another name; a
bot adds views; new values come. The labels stay those of the log as it is. The page also has each test cutoff by itself
and, where they are asked for, later ones and trainings with fewer labels:

python scripts/stress.py --model ... --config ... --later newer.yaml --labelled-users 100 300 1000 \
    -- --training.max_steps 120
"""

from argparse import Namespace
from pathlib import Path

from finetune.command import CommandParser, guarded


def run(given: Namespace) -> None:
    """The page, and where it lies."""
    # After the arguments are read, as it takes seconds.
    from finetune.experiment.parser import parse_experiment
    from finetune.report.beside import refuse_output, write_beside
    from finetune.report.stress_page import stress_page
    from finetune.trust.stress import stress

    experiment = parse_experiment("", ["--config", str(given.config), *given.settings])
    later = parse_experiment("", ["--config", str(given.later)]) if given.later else None
    refuse_output(given.output, experiment.data, "stress")
    found = stress(given.model, experiment, given.users, given.seed, given.labelled_users, later)
    write_beside(given.output, stress_page(found), found)
    print(f"stress: {given.output}")


if __name__ == "__main__":
    parser = CommandParser(__doc__ or "")
    parser.add_argument("--model", required=True, type=Path, help="runs/NAME/model, after scripts/evaluate.py.")
    parser.add_argument("--config", required=True, type=Path, help="Its experiment; runs/NAME/config.yaml has it.")
    parser.add_argument("--users", type=int, help="Draw so many users of the test split; by default all count.")
    parser.add_argument("--seed", type=int, default=0, help="Of everything that is drawn.")
    parser.add_argument("--output", type=Path, default=Path("stress.html"), help="The page; beside it NAME.json.")
    parser.add_argument(
        "--labelled-users",
        "--labelled_users",
        type=int,
        nargs="+",
        default=[],
        metavar="N",
        help="Also train anew where the labels of so many users are known, such as 100 300 1000: a training each.",
    )
    parser.add_argument(
        "--later",
        type=Path,
        help="A newer config, at whose test cutoffs the model is measured as by evaluate.py --model.",
    )
    parser.add_argument("settings", nargs="*", help="Behind --, settings of these trainings: --training.max_steps 120")
    arguments = parser.parse_args()
    if min(arguments.labelled_users, default=1) < 1:
        parser.error("--labelled-users are numbers above zero")
    if arguments.users is not None and arguments.users < 1:
        parser.error("--users is a number above zero")
    if arguments.seed < 0:
        parser.error("--seed is a number from zero on")
    if arguments.output.suffix != ".html":
        parser.error(f"--output {arguments.output} is to be a page; end it with .html")
    guarded(lambda: run(arguments))
