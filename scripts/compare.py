"""Compare runs on the same test rows: a table on the screen and a page.

python scripts/compare.py runs/*
python scripts/compare.py runs/full runs/lora runs/frozen --against first --output lora.html

Each run must be evaluated (scripts/evaluate.py); no model and no data is read again.
"""

from argparse import Namespace
from pathlib import Path

from finetune.command import CommandParser, guarded


def run(given: Namespace) -> None:
    """The table, and where the page lies."""
    from finetune.evaluation.compare import compare_runs  # after the arguments are read, as it takes seconds
    from finetune.report.comparison import table, write_page

    compared = compare_runs(given.runs, given.against)
    print(table(compared))
    page = write_page(compared, given.output or given.runs[0].parent / "compare.html")
    print(f"comparison: {page}")


if __name__ == "__main__":
    parser = CommandParser(__doc__ or "")
    parser.add_argument("runs", nargs="+", type=Path, help="Folders of runs, such as runs/NAME.")
    parser.add_argument("--against", choices=["best", "first"], default="best", help="What each is compared with.")
    parser.add_argument("--output", type=Path, help="The page; by default compare.html beside the runs.")
    arguments = parser.parse_args()
    if arguments.output and arguments.output.suffix != ".html":
        parser.error(f"--output {arguments.output} is to be a page; end it with .html")
    guarded(lambda: run(arguments))
