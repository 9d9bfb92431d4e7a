"""Federated training on this machine: a process for each site, which reads its own log alone, and a server of them."""

import json
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep import InputError
from data_prep.cutoffs import SPLITS, split_file
from data_prep.prepared import MANIFEST, read_manifest
from data_prep.serializer import EventSerializer
from finetune.command import guarded
from finetune.experiment.config import Experiment
from finetune.experiment.parser import parse_experiment
from finetune.federated.figures import POOLED, measured
from finetune.federated.messages import ALONE
from finetune.federated.server import Plan, serve
from finetune.federated.site import join, local_steps, named
from finetune.training.train import train

ENDING = 60  # seconds that a site has to end, once there is nobody to talk to


def federate(
    configs: Sequence[Path],
    plan: Plan,
    settings: Sequence[str] = (),
    schema: EventSerializer | None = None,
    pooled: bool = False,
) -> dict[str, Any]:
    """Train one model over the logs of several configs, each in a process of its own.

    What a site prints is in NAME-SITE.log of its folder of runs.

    Args:
        configs: A YAML of each site.
        plan: What all do.
        settings: Of all sites, as --training.max_steps 200.
        schema: See `serve`.
        pooled: Also train a model on the rows of all sites together, which needs all of them in one place.

    Returns:
        See `serve`; with `pooled` each site's figures have that model's, too.

    Raises:
        InputError: A config cannot be federated, or no site is left.
    """
    arguments = [["--config", str(path), *settings] for path in configs]
    experiments = [parse_experiment("", given) for given in arguments]
    for experiment in experiments:
        local_steps(experiment, plan.rounds)
    names = [experiment.name for experiment in experiments]
    if len({*names}) < len(names):
        raise InputError(f"the sites are called {', '.join(names)}", "give each config another name", setting="--sites")
    context = get_context("spawn")  # a fork would have the other sites' ends of the pipes, too
    processes, connections = [], []
    for experiment, given in zip(experiments, arguments, strict=True):
        log = experiment.base_folder.with_name(f"{plan.name}-{experiment.name}.log")
        log.parent.mkdir(parents=True, exist_ok=True)
        print(f"{experiment.name} writes {log}", flush=True)
        here, there = context.Pipe()
        process = context.Process(target=run_site, args=(there, given, log), daemon=True)
        process.start()
        there.close()
        processes.append(process)
        connections.append(here)
    try:
        found = serve(connections, plan, schema)
    finally:
        for connection in connections:
            connection.close()
        for process in processes:
            process.join(ENDING)
            process.kill()  # a site that hangs; one that is stopped would not hear SIGTERM
    if pooled:
        taking_part = [experiment for experiment in experiments if experiment.name in found["sites"]]
        found["sites"] |= pooled_figures(taking_part, plan)
    return found


def run_site(connection: Connection, arguments: list[str], log: Path) -> None:
    """A site's process."""
    with log.open("w", encoding="utf-8", buffering=1) as file, redirect_stdout(file), redirect_stderr(file):
        guarded(lambda: join(connection, parse_experiment("", arguments)))


def pooled_figures(experiments: Sequence[Experiment], plan: Plan) -> dict[str, dict[str, Any]]:
    """What `measured` says at each site with a model of the rows of all, in the texts of the shared schema."""
    runs = [named(experiment, plan.name, local_steps(experiment, plan.rounds)) for experiment in experiments]
    with tempfile.TemporaryDirectory(prefix=f".{plan.name}-{POOLED}", dir=runs[0][1].base_folder.parent) as folder:
        (model,) = train(_together(experiments[0], [shared for _, shared in runs], Path(folder)))
        return {
            experiment.name: measured(
                shared, {ALONE: (own.model_folder, own.data_folder), POOLED: (model, shared.data_folder)}
            )
            for experiment, (own, shared) in zip(experiments, runs, strict=True)
        }


def _together(first: Experiment, sites: Sequence[Experiment], folder: Path) -> Experiment:
    """The first site's settings over the prepared rows of all; a user of two sites is not taken for the same one."""
    made = replace(
        first,
        name=POOLED,
        data=replace(first.data, folder=str(folder / "data")),
        runs=replace(first.runs, folder=str(folder / "runs")),
    )
    made.data_folder.mkdir(parents=True)
    for split in SPLITS:
        tables = pa.concat_tables([_rows(site, split) for site in sites], promote_options="permissive")
        pq.write_table(tables, made.data_folder / split_file(split))
    EventSerializer.from_pretrained(sites[0].data_folder).save_pretrained(made.data_folder)
    manifest = json.dumps(read_manifest(sites[0].data_folder))
    (made.data_folder / MANIFEST).write_text(manifest + "\n", encoding="utf-8")
    return made


def _rows(site: Experiment, split: str) -> pa.Table:
    table = pq.read_table(site.data_folder / split_file(split))
    users = pc.binary_join_element_wise(site.name, table["user_id"], ": ")  # pyright: ignore[reportAttributeAccessIssue]  # pyarrow makes it at run time
    return table.set_column(table.column_names.index("user_id"), "user_id", users)
