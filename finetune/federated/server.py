"""The server's part: it agrees on a schema, averages the weights of the sites round by round, and sees no event."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from data_prep import InputError
from data_prep.checked_json import check
from data_prep.serializer import EventSerializer
from data_prep.shared_schema import check_counts, read_schema, shared_schema
from finetune.federated.averaging import average, sound, within_bound
from finetune.federated.messages import Weights, receive, send
from finetune.measures import LOWER_IS_BETTER
from finetune.model.tokenization import MOST_WORDS


@dataclass(frozen=True)
class Plan:
    """What all sites do.

    Attributes:
        name: Of the runs, NAME-SITE at each site.
        rounds: How often the weights are averaged.
        proximal: Of FedProx (Li et al., 2020); 0 is FedAvg.
        norm_bound: See `within_bound`.
        timeout: Seconds that a site may take for an answer.
    """

    name: str
    rounds: int = 10
    proximal: float = 0.0
    norm_bound: float = 5.0
    timeout: float = 3600.0


@dataclass
class Site:
    """A site that takes part."""

    name: str
    connection: Connection
    examples: int = 0


class Members:
    """The sites that still take part; one that does not answer as it should leaves, and the others go on."""

    def __init__(self, connections: Sequence[Connection], timeout: float) -> None:
        self.sites = [Site(f"site {i}", connection) for i, connection in enumerate(connections, start=1)]
        self.timeout = timeout
        self.left: dict[str, str] = {}

    def gather(self) -> dict[str, tuple[dict[str, Any], Weights]]:
        """A message of each site, in the order of the sites."""
        waiting, found, end = {site.connection: site for site in self.sites}, {}, time.monotonic() + self.timeout
        while waiting:
            ready = wait(list(waiting), max(end - time.monotonic(), 0))
            for connection in ready or list(waiting):
                site = waiting.pop(connection)  # pyright: ignore[reportArgumentType]  # only connections are waited for
                if not ready:
                    self.leave(site.name, f"it has not answered for {self.timeout:g} s")
                    continue
                try:
                    found[site.name] = receive(site.connection)
                except (EOFError, OSError):
                    self.leave(site.name, "it is gone")
                except InputError as error:
                    self.leave(site.name, str(error))
        return {site.name: found[site.name] for site in self.sites}

    def tell(self, content: dict[str, Any], weights: Weights | None = None) -> None:
        """The same message to every site."""
        for site in list(self.sites):
            try:
                send(site.connection, content, weights)
            except OSError:
                self.leave(site.name, "it is gone")

    def leave(self, name: str, why: str) -> None:
        """Go on without a site.

        Raises:
            InputError: It was the last one.
        """
        print(f"{name} has left: {why}", flush=True)
        self.left[name] = why
        for site in [site for site in self.sites if site.name == name]:
            site.connection.close()
            self.sites.remove(site)
        if not self.sites:
            raise InputError(f"no site is left; the last one was {name}: {why}", "see what each site says")


def serve(connections: Sequence[Connection], plan: Plan, schema: EventSerializer | None = None) -> dict[str, Any]:
    """Train one model over the sites at the other ends.

    Args:
        connections: One a site, each with `finetune.federated.site.join` at its other end.
        plan: What all do.
        schema: A public one; None makes one of the sites' counts.

    Returns:
        What the page shows: plan, schema, history of the rounds, and each site's figures.

    Raises:
        InputError: No site is left.
    """
    members = Members(connections, plan.timeout)
    members.tell({"name": plan.name, "rounds": plan.rounds, "proximal": plan.proximal, "counts": schema is None})
    hello = _welcomed(members)
    agreed = schema or _counted(members, hello)
    members.tell({"schema": agreed.to_json()})
    _agree_on_words(members)
    history, best = run_rounds(members, plan)
    figures = {}
    for name, (content, _) in members.gather().items():
        figures[name] = content
        print(f"{name} has measured the model", flush=True)
    return {
        "federated": plan.name,
        "rounds": plan.rounds,
        "proximal": plan.proximal,
        "norm_bound": plan.norm_bound,
        "schema": "public" if schema else "counts",
        "words": {name: len(of.get("values", of.get("words", []))) for name, of in agreed.fields.items()},
        "best_round": best,
        "history": history,
        "left": members.left,
        "sites": figures,
    }


def _welcomed(members: Members) -> dict[str, dict[str, Any]]:
    """What each site says of itself; sites whose settings are not those of the first one leave."""
    found, hello = members.gather(), {}
    for site in list(members.sites):
        content, _ = found[site.name]
        try:
            check(Path(site.name), content, {"site": str, "settings": {str: str}}, "it is left out")
        except InputError as error:
            members.leave(site.name, str(error))
            continue
        name, settings = content["site"], content["settings"]
        first = next(iter(hello.values()), content)["settings"]
        other = next((key for key in {**first, **settings} if first.get(key) != settings.get(key)), None)
        if name in hello:
            members.leave(site.name, f"there is a site {name} already; give each config another name")
        elif other:
            site.name = name
            theirs = f"that of {next(iter(hello))} is {first.get(other)}"
            members.leave(name, f"its {other} is {settings.get(other)}, and {theirs}")
        else:
            site.name, hello[name] = name, content
    return hello


def _counted(members: Members, hello: dict[str, dict[str, Any]]) -> EventSerializer:
    """The schema of the counts of all sites whose columns are those of the first one."""
    own = None
    for site in list(members.sites):
        try:
            own = own or read_schema(str(hello[site.name].get("columns")))
            check_counts(site.name, hello[site.name].get("counts"), own)
        except InputError as error:
            members.leave(site.name, str(error))
    assert own is not None, "or no site were left"
    return shared_schema(own, [hello[site.name]["counts"] for site in members.sites])


def _agree_on_words(members: Members) -> None:
    """The words of a model from scratch: those of the first site, and behind them what others have besides."""
    words: dict[str, None] = {}
    found = members.gather()
    for site in list(members.sites):
        content, _ = found[site.name]
        said, site.examples = content.get("words"), content.get("examples", 0)
        if not isinstance(site.examples, int) or site.examples < 1:
            members.leave(site.name, "it has no examples")
        elif said is not None and not (isinstance(said, list) and all(isinstance(word, str) for word in said)):
            members.leave(site.name, "its words are none")
        else:
            words |= dict.fromkeys(said or [])
    members.tell({"words": list(words)[:MOST_WORDS] if words else None})


def run_rounds(members: Members, plan: Plan) -> tuple[list[dict[str, Any]], int]:
    """Average the weights of the sites, plan.rounds times.

    All begin with the first site's weights. Each then sends its weights after its local steps, and gets the mean of all
    that count (see `sound` and `within_bound`). The model of the best round is kept, by the mean of what the sites'
    validation rows say of it, each counted as often as the site has training examples.

    Returns:
        What each round was like, and the number of the best one.
    """
    kept, out = sound({name: weights for name, (_, weights) in members.gather().items()})
    for name, why in out.items():
        members.leave(name, why)
    weights = next(iter(kept.values()))
    members.tell({}, weights)
    history: list[dict[str, Any]] = []
    best, best_value, best_weights = 0, -math.inf, weights
    for number in range(1, plan.rounds + 2):
        found = members.gather()
        if history:
            value = _validation(history[-1], found, members)
            if not best or value > best_value:
                best, best_value, best_weights = number - 1, value, weights
        if number > plan.rounds:
            break
        weights, said = _averaged(members, plan, weights, {name: part for name, (_, part) in found.items()})
        history.append({"round": number} | said)
        for name, why in said["left_out"].items():
            print(f"round {number}: {name} is left out, {why}", flush=True)
        members.tell({}, weights)
    members.tell({"round": best}, best_weights)
    return history, best


def _averaged(
    members: Members, plan: Plan, start: Weights, updates: dict[str, Weights]
) -> tuple[Weights, dict[str, Any]]:
    kept, out = sound(updates)
    unknown = [
        name
        for name, weights in kept.items()
        if any(part not in start or start[part].shape != weight.shape for part, weight in weights.items())
    ]
    for name in unknown:
        out[name] = "its weights are of another model"
        del kept[name]
    kept, long, lengths = within_bound(start, kept, plan.norm_bound)
    examples = {site.name: site.examples for site in members.sites}
    mean = average([(examples[name], weights) for name, weights in kept.items()]) if kept else {}
    numbers = sum(weight.numel() for weight in mean.values())
    said = {"sites": list(kept), "left_out": out | long, "lengths": lengths, "numbers": numbers, "validation": {}}
    return start | mean, said


def _validation(entry: dict[str, Any], found: dict[str, tuple[dict, Weights]], members: Members) -> float:
    """Note what the sites' validation rows say of a round's model; the mean of all, higher is better."""
    examples, said = {site.name: site.examples for site in members.sites}, {}
    for name, (content, _) in found.items():
        value = content.get("validation")
        if isinstance(value, int | float) and math.isfinite(value):
            said[name], entry["metric"] = float(value), str(content.get("metric"))
    entry["validation"] = said
    if not said:
        return -math.inf
    mean = sum(examples[name] * value for name, value in said.items()) / sum(examples[name] for name in said)
    entry["mean_validation"] = mean
    shown = ", ".join(f"{name} {value:.4f}" for name, value in said.items())
    print(f"round {entry['round']}: validation {entry['metric']} {shown}", flush=True)
    return -mean if entry["metric"] in {*LOWER_IS_BETTER, "loss"} else mean
