"""Scores over HTTP: events in, histories kept, and the text and the score that predict.py would give.

python scripts/serve.py --model runs/NAME/model
python scripts/serve.py --model runs/june/model --watch    # and what takes its place
python scripts/serve.py --model runs/NAME/model --store redis://localhost:6379/0 --host 0.0.0.0 --port 8000

With EVENTSCRIBE_API_KEY in the environment each request has to say it in X-API-Key. Needs pip install -e '.[serve]'.
"""

import os
from argparse import Namespace
from functools import partial
from pathlib import Path

from data_prep import InputError
from finetune.command import CommandParser, guarded


def run(given: Namespace) -> None:
    """Serve until SIGTERM or Ctrl-C: then no request is taken, and those under way are answered."""
    from finetune.serving.service.serve import serve  # after the arguments are read, as it takes seconds

    key = os.environ.get("EVENTSCRIBE_API_KEY") or None
    serve(given.model, given.store, given.host, given.port, key, partial(_in_use, given.model) if given.watch else None)


def _in_use(model: str) -> str:
    from finetune.upkeep.registry import in_use, read_registry, registry_of

    if not Path(model).is_dir():
        raise InputError(f"--watch: {model} is no folder", "give runs/NAME/model", setting="--watch")
    return in_use(read_registry(registry_of(Path(model))), Path(model))


if __name__ == "__main__":
    parser = CommandParser(__doc__ or "")
    parser.add_argument("--model", required=True, help="runs/NAME/model, or a repository of the hub.")
    parser.add_argument("--store", default="sqlite:///histories.db", help="sqlite:///FILE or redis://HOST:PORT/0.")
    parser.add_argument("--host", default="127.0.0.1", help="The address to listen on; default: this machine alone.")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one, which the log names.")
    parser.add_argument(
        "--watch",
        action="store_true",
        help="Load the model anew when its folder is replaced, and the one that runs/registry.jsonl puts in its place.",
    )
    arguments = parser.parse_args()
    if not 0 <= arguments.port < 65_536:
        parser.error(f"--port {arguments.port} is none; give a number from 0 to 65535")
    guarded(lambda: run(arguments))
