"""Train the successor of a model on later cutoffs, and put it in use only where it is not worse on the same new rows.

python scripts/renew.py --model runs/june/model --config june.yaml --shift "30 days" --name july
python scripts/renew.py --model runs/june/model --config june.yaml --shift "30 days" --name july --cold --margin 0.002
python scripts/renew.py --model runs/june/model --config june.yaml --shift "30 days" --name july --publish me/shop-churn
python scripts/renew.py --model runs/july/model --rollback   # july is out of use, and june is in use again

The config is that of the model, on the newer log; settings may follow, as --training.max_steps 200. What is in use, by
which figures, stands in runs/registry.jsonl.
"""

from argparse import Namespace
from pathlib import Path

from finetune.command import CommandParser, guarded


def run(given: Namespace, settings: list[str]) -> None:
    """Renew, or roll back."""
    from finetune.experiment.parser import parse_experiment  # after the arguments are read, as it takes seconds
    from finetune.upkeep.registry import roll_back
    from finetune.upkeep.renew import described, renew

    if given.rollback:
        print(f"in use: {roll_back(given.model)['in_use']}")
        return
    experiment = parse_experiment(__doc__ or "", ["--config", given.config, "--name", given.name, *settings])
    if given.publish:
        from data_prep import InputError
        from finetune.hub.publish import check_publication, publish

        check_publication(given.publish, given.license, given.name)
    entry = renew(given.model, experiment, given.shift, given.cold, given.margin)
    print(described(entry))
    if given.publish and entry["action"] == "promoted":
        try:
            publish(Path(entry["in_use"]), given.publish, given.private, licence=given.license, tag=given.name)
        except InputError as error:
            again = f"--model {entry['in_use']} --repo-id {given.publish} --tag {given.name}"
            raise InputError(
                f"{error} ({entry['in_use']} is promoted and in use all the same)", f"python scripts/publish.py {again}"
            ) from error


if __name__ == "__main__":
    parser = CommandParser(__doc__ or "")
    parser.add_argument("--model", type=Path, required=True, help="The model in use, runs/NAME/model.")
    parser.add_argument("--config", help="The YAML that it was trained with, on the newer log.")
    parser.add_argument("--name", help="Of the successor, and of its folders.")
    parser.add_argument("--shift", help="How far all cutoffs move, such as '30 days'.")
    parser.add_argument("--cold", action="store_true", help="Train from scratch, and not from the model's weights.")
    parser.add_argument("--margin", type=float, help="How much worse is not worse; default 0.005 of AUROC.")
    parser.add_argument("--publish", metavar="OWNER/NAME", help="Publish a promoted model there, its name as the tag.")
    parser.add_argument("--private", action="store_true", help="With --publish: make a new repository private.")
    parser.add_argument("--license", help="With --publish: see scripts/publish.py.")
    parser.add_argument("--rollback", action="store_true", help="Put the model before --model in use again.")
    arguments, rest = parser.parse_known_args()
    if not arguments.rollback and not (arguments.config and arguments.name and arguments.shift):
        parser.error("--config, --name and --shift are needed")
    if not arguments.publish and (arguments.private or arguments.license):
        parser.error("--private and --license belong to --publish")
    guarded(lambda: run(arguments, rest))
