"""Attack a recipe's privacy: does training give away who it learned from? A page, and the same as JSON beside it.

python scripts/audit.py --config my.yaml --shadows 4

The recipe is trained 1 + SHADOWS times on random halves of the prepared training users; the run's own model is not
touched. On a CPU take few steps, users or shadows.
"""

import tempfile
from argparse import Namespace
from pathlib import Path

from finetune.command import CommandParser, guarded


def run(given: Namespace) -> None:
    """The page, and where it lies."""
    # After the arguments are read, as it takes seconds.
    from finetune.experiment.parser import parse_experiment
    from finetune.report.audit_page import audit_page
    from finetune.report.beside import refuse_output, write_beside
    from finetune.trust.audit import audit

    experiment = parse_experiment("", ["--config", str(given.config), *given.settings])
    refuse_output(given.output, experiment.data, "audit")
    given.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".audit", dir=given.output.parent) as folder:
        found = audit(experiment, Path(folder), given.shadows, given.canaries, given.seed)
    write_beside(given.output, audit_page(found), found)
    print(f"audit: {given.output}")


if __name__ == "__main__":
    parser = CommandParser(__doc__ or "")
    parser.add_argument("--config", required=True, type=Path, help="The experiment, whose data is prepared.")
    parser.add_argument("--shadows", type=int, default=4, help="Shadow models, each a training; 0 for none.")
    parser.add_argument("--canaries", type=int, default=100, help="Made-up users; 0 for none.")
    parser.add_argument("--seed", type=int, default=0, help="Of the halves and the canaries.")
    parser.add_argument("--output", type=Path, default=Path("audit.html"), help="The page; beside it NAME.json.")
    parser.add_argument("settings", nargs="*", help="Behind --, settings of the experiment: --training.max_steps 100")
    arguments = parser.parse_args()
    if min(arguments.shadows, arguments.canaries, arguments.seed) < 0:
        parser.error("--shadows, --canaries and --seed are numbers from zero on")
    if arguments.output.suffix != ".html":
        parser.error(f"--output {arguments.output} is to be a page; end it with .html")
    guarded(lambda: run(arguments))
