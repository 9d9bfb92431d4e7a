"""Train one model over several logs that never meet: a page, and the same as JSON beside it.

python scripts/federate.py --sites north.yaml south.yaml web.yaml --name shops
python scripts/federate.py --sites north.yaml south.yaml --name shops --proximal 0.0001 -- --training.max_steps 200

Each site is a process that reads its own log alone; the server gets counts, weights and figures. The model is
runs/NAME-SITE/model at each site, the same weights everywhere. On several machines, with a secret of all in
EVENTSCRIBE_FEDERATION_KEY, over a network that is trusted or tunnelled, as nothing is encrypted:

python scripts/federate.py --listen 0.0.0.0:7070 --expect 3 --name shops   # the server
python scripts/federate.py --join server:7070 --sites north.yaml           # at each site
"""

from argparse import Namespace
from pathlib import Path

from finetune.command import CommandParser, guarded

MOST = 1_000_000  # of a setting; as a timeout it is eleven days, and the system waits for 24 at most


def run(given: Namespace) -> None:
    """Train, and say where the page lies; at a site only take part."""
    # After the arguments are read, as it takes seconds.
    from data_prep.serializer import EventSerializer
    from finetune.experiment.parser import parse_experiment
    from finetune.federated.federate import federate
    from finetune.federated.network import accepted, joined
    from finetune.federated.server import Plan, serve
    from finetune.federated.site import join
    from finetune.report.beside import refuse_other_page, write_beside
    from finetune.report.federated_page import federated_page, table

    if given.join:
        join(joined(given.join), parse_experiment("", ["--config", str(given.sites[0]), *given.settings]))
        return
    plan = Plan(given.name, given.rounds, given.proximal, given.norm_bound, given.timeout)
    refuse_other_page(given.output, "federated")
    schema = EventSerializer.from_pretrained(given.schema) if given.schema else None
    if given.listen:
        found = serve(accepted(given.listen, given.expect), plan, schema)
    else:
        found = federate(given.sites, plan, given.settings, schema, given.pooled)
    write_beside(given.output, federated_page(found), found)
    print(table(found))
    print(f"federated: {given.output}")


if __name__ == "__main__":
    parser = CommandParser(__doc__ or "")
    parser.add_argument("--sites", type=Path, nargs="+", default=[], help="A YAML of each site; equal but for the log.")
    parser.add_argument("--name", help="Of the federation; a site's folders are NAME-SITE.")
    parser.add_argument("--rounds", type=int, default=10, help="How often weights are averaged in training.max_steps.")
    parser.add_argument("--proximal", type=float, default=0.0, help="FedProx: what leaving the shared weights costs.")
    parser.add_argument("--norm_bound", type=float, default=5.0, help="Times the median update, which no one may pass.")
    parser.add_argument("--schema", type=Path, help="A folder with a public serializer.json; no counts are sent then.")
    parser.add_argument("--pooled", action="store_true", help="Beside it train on all logs together, to compare.")
    parser.add_argument("--timeout", type=float, default=3600.0, help="Seconds after which a silent site has left.")
    parser.add_argument("--listen", help="HOST:PORT at which the server waits for sites of other machines.")
    parser.add_argument("--expect", type=int, help="How many.")
    parser.add_argument("--join", help="HOST:PORT of the server; this process is the site of --sites.")
    parser.add_argument("--output", type=Path, default=Path("federated.html"), help="The page; beside it NAME.json.")
    parser.add_argument("settings", nargs="*", help="Behind --, settings of all sites: --training.max_steps 100")
    arguments = parser.parse_args()
    if arguments.listen and (arguments.sites or (arguments.expect or 0) < 1 or arguments.pooled):
        parser.error("--listen needs --expect, and the sites join from elsewhere, so that nothing can be pooled")
    if arguments.join and len(arguments.sites) != 1:
        parser.error("--join needs the config of one site in --sites")
    if not arguments.listen and not arguments.sites:
        parser.error("--sites is missing")
    if not arguments.join and not arguments.name:
        parser.error("--name is missing")
    if not all(1 <= number <= MOST for number in (arguments.rounds, arguments.timeout, arguments.norm_bound)):
        parser.error(f"--rounds, --timeout and --norm_bound are numbers from 1 to {MOST:,}")
    if not 0 <= arguments.proximal <= MOST:
        parser.error(f"--proximal is a number from 0 to {MOST:,}")
    if arguments.output.suffix != ".html":
        parser.error(f"--output {arguments.output} is to be a page; end it with .html")
    guarded(lambda: run(arguments))
