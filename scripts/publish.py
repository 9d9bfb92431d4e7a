"""Publish a run's model on a hub, with its card.

python scripts/publish.py --model runs/quickstart/model --repo-id me/shop-churn --dry-run
python scripts/publish.py --model runs/quickstart/model --repo-id me/shop-churn --private
python scripts/publish.py --model runs/churn-bert/model --repo-id me/shop-churn --merge --with-dataset

The token is that of `hf auth login` or of the environment (HF_TOKEN). HF_ENDPOINT names another hub.
"""

from pathlib import Path
from typing import Any

from finetune.command import CommandParser, guarded


def run(**given: Any) -> None:
    """Publish what the command line says."""
    from finetune.hub.publish import publish  # after the arguments are read, as it takes seconds

    publish(**given)


if __name__ == "__main__":
    parser = CommandParser(__doc__ or "")
    parser.add_argument("--model", type=Path, required=True, help="runs/NAME/model, with seeds runs/NAME/seed-N/model.")
    parser.add_argument("--repo-id", required=True, help="OWNER/NAME on the hub; a second time it is updated.")
    parser.add_argument("--private", action="store_true", help="Make new repositories private.")
    parser.add_argument("--merge", action="store_true", help="Merge an adapter into its base: full weights.")
    parser.add_argument("--dry-run", action="store_true", help="Only list the files and show the card; asks no hub.")
    parser.add_argument(
        "--with-dataset",
        action="store_true",
        help="Also publish the prepared data as OWNER/NAME-data; only where data.pseudonymize was set.",
    )
    parser.add_argument("--data", type=Path, help="The prepared data; by default where the run's config has it.")
    parser.add_argument(
        "--onnx", action="store_true", help="Also publish model.onnx; needs pip install -e '.[export]'."
    )
    parser.add_argument("--tag", help="Of the commit on the hub, such as 2024-07; it must be a new one.")
    parser.add_argument("--license", help="By the hub's name, such as mit; without one nobody else may use the model.")
    parser.add_argument(
        "--install",
        help="The command that installs EventScribe at your readers', for the card; default: pip install .",
    )
    given = vars(parser.parse_args())
    given |= {"folder": given.pop("model"), "licence": given.pop("license")}
    guarded(lambda: run(**given))
