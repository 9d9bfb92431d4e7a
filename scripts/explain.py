"""Why a user has a score, or with --sample what moves the scores: a page, and the same as JSON beside it.

python scripts/explain.py --model runs/NAME/model --events 'logs/*.parquet' --cutoff 2024-03-01 --user 1347
python scripts/explain.py --model runs/NAME/model --config my.yaml --cutoff 2024-03-01 --sample 500

Needs captum: pip install -e '.[explain]'. A user's page shows a history: it is as private as the log.
"""

from argparse import Namespace
from pathlib import Path

from finetune.command import CommandParser, guarded
from finetune.serving.given_log import add_log_arguments, given_log, own_names


def run(given: Namespace) -> None:
    """The page, and where it lies."""
    # After the arguments are read, as it takes seconds.
    from finetune.model.loading import model_folder
    from finetune.report.report import write_report
    from finetune.runs import EXPLANATION_PAGE, METRICS
    from finetune.serving.classifier import EventClassifier
    from finetune.serving.drivers import explain_sample
    from finetune.serving.explain import explain_user
    from finetune.serving.explanation import refuse_output, write_page

    given.model = model_folder(given.model)
    with own_names(given):
        events = given_log(given)
        refuse_output(given.output, events)
        classifier = EventClassifier.from_pretrained(given.model)
        about = (classifier, events, given.cutoff)
        how = {"output": given.label_class, "steps": given.steps}
        if given.user is not None:
            explanation = explain_user(*about, given.user, **how)
        else:
            explanation = explain_sample(*about, given.sample, population=given.population, **how)
    print(f"explanation: {write_page(explanation, given.output)}")
    folder = given.output.parent
    if given.output.name == EXPLANATION_PAGE and (folder / METRICS).is_file():
        print(f"report: {write_report(folder)}")


if __name__ == "__main__":
    parser = CommandParser(__doc__ or "")
    parser.add_argument("--model", required=True, help="runs/NAME/model, or a repository of the hub.")
    add_log_arguments(parser)
    parser.add_argument("--cutoff", required=True, help="The moment of prediction, such as 2024-03-01, in UTC.")
    whom = parser.add_mutually_exclusive_group(required=True)
    whom.add_argument("--user", help="The user whose score is explained; with data.pseudonymize, the hash.")
    whom.add_argument("--sample", type=int, help="Or what moves the scores, from this many users drawn at random.")
    parser.add_argument("--population", action="store_true", help="Draw them from those the task asks about.")
    parser.add_argument("--class", dest="label_class", help="The class to explain; default: label 1 or the likeliest.")
    parser.add_argument(
        "--steps", type=int, default=512, help="The most steps of the integration, which begins with 32."
    )
    parser.add_argument("--output", type=Path, default=Path("explanation.html"), help="The page; beside it NAME.json.")
    arguments = parser.parse_args()
    if arguments.steps < 1 or (arguments.sample is not None and arguments.sample < 1):
        parser.error("--steps and --sample are numbers above zero")
    if arguments.population and arguments.sample is None:
        parser.error("--population belongs to --sample")
    if arguments.output.suffix != ".html":
        parser.error(f"--output {arguments.output} is to be a page; end it with .html")
    guarded(lambda: run(arguments))
