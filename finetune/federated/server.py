"""The server's part: it agrees on a schema, averages the weights of the sites round by round, and sees no event."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

from data_prep import InputError
from data_prep.checked_json import check
from data_prep.serializer import EventSerializer
from data_prep.shared_schema import check_counts, read_schema, shared_schema
from finetune.federated.averaging import average, capped, sound, within_bound
from finetune.federated.messages import FIGURES, HELLO, ROUND, WORDS, Weights, known_figures, receive, send
from finetune.federated.network import cut_after
from finetune.figures.measures import LOWER_IS_BETTER, MAIN
from finetune.model.tokenization import MOST_WORDS


@dataclass(frozen=True)
class Plan:
    """What all sites do.

    Attributes:
        name: Of the runs, NAME-SITE at each site.
        rounds: How often the weights are averaged.
        proximal: Of FedProx (Li et al., 2020); 0 is FedAvg.
        norm_bound: See `within_bound`.
        timeout: Seconds that a site may take for an answer, from the first wait to the last byte.
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
    counted: int = 0  # the last that was said, where they are fewer


class Members:
    """The sites that still take part; one that does not answer as it should leaves, and the others go on."""

    def __init__(self, connections: Sequence[Connection], timeout: float) -> None:
        self.sites = [Site(f"site {i}", connection) for i, connection in enumerate(connections, start=1)]
        self.timeout = timeout
        self.left: dict[str, str] = {}

    def gather(self, holds: dict[str, Any]) -> dict[str, tuple[dict[str, Any], Weights]]:
        """A message of each site, in the order of the sites; one that is not as `check` asks makes its site leave."""

        def hear(site: Site) -> tuple[dict[str, Any], Weights]:
            content, weights = receive(site.connection)
            check(Path(f"what {site.name} sent"), content, holds, "it is left out")
            return content, weights

        found = self._with_each(hear)
        return {site.name: found[site.name] for site in self.sites}

    def tell(self, content: dict[str, Any], weights: Weights | None = None) -> None:
        """The same message to every site."""
        self._with_each(lambda site: send(site.connection, content, weights))

    def _with_each(self, speak: Callable[[Site], Any]) -> dict[str, Any]:
        """What comes of a message with each site, all at once, so that a site that stalls within it holds up no other.

        A site that is gone, breaks the rules, or has not come to the end of its message after `timeout` leaves.
        """
        done: Queue[tuple[Site, Any]] = Queue()

        def attempt(site: Site) -> None:
            try:
                with cut_after(site.connection, self.timeout):
                    done.put((site, speak(site)))
            except Exception as error:  # is raised or told where all come together
                done.put((site, error))

        asked, found = list(self.sites), {}
        for site in asked:
            Thread(target=attempt, args=(site,), daemon=True).start()
        for _ in asked:
            site, said = done.get()
            if isinstance(said, TimeoutError):
                self.leave(site.name, f"it has not answered for {self.timeout:g} s")
            elif isinstance(said, InputError):
                self.leave(site.name, str(said))
            elif isinstance(said, EOFError | OSError):
                self.leave(site.name, "it is gone")
            elif isinstance(said, MemoryError):
                self.leave(site.name, "its message does not fit into memory")
            elif isinstance(said, Exception):
                raise said
            else:
                found[site.name] = said
        return found

    def leave(self, name: str, why: str) -> None:
        """Go on without a site.

        Raises:
            InputError: It was the last one.
        """
        why = str(InputError(why))  # one line, and nothing in it that steers a terminal
        print(f"{name} has left: {why}", flush=True)
        self.left[name] = why
        for site in [site for site in self.sites if site.name == name]:
            site.connection.close()
            self.sites.remove(site)
        if not self.sites:
            raise InputError(f"no site is left; the last one was {name}: {why}", "see what each site says")

    def examples(self, names: Iterable[str]) -> dict[str, int]:
        """What these sites count as, see `capped`; where that is less than a site says, a line says so."""
        sites = [site for site in self.sites if site.name in {*names}]
        counted = capped({site.name: site.examples for site in sites})
        for site in sites:
            now = counted[site.name]
            if now < site.examples and now != site.counted:
                site.counted = now
                print(f"{site.name} counts as {now:,} of its {site.examples:,} examples, as the others have no more")
        return counted


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
    figures = _measured(members)
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


def most_common(values: Iterable[Any]) -> Any:
    """Of equally common ones the first."""
    return Counter(values).most_common(1)[0][0]


def _measured(members: Members) -> dict[str, dict[str, Any]]:
    """The figures of each site, by the measure of the task that most sites have."""
    found, figures = members.gather(FIGURES), {}
    task = most_common(content["task"] for content, _ in found.values())
    for name, (content, _) in found.items():
        if (content["task"], content["metric"]) != (task, MAIN[task]):
            members.leave(name, f"its figures are the {content['metric']} of {content['task']}, not of {task}")
            continue
        figures[name] = known_figures(content)
        print(f"{name} has measured the model", flush=True)
    return figures


def _welcomed(members: Members) -> dict[str, dict[str, Any]]:
    """What each site says of itself; sites whose settings are not those of most, or of the first one, leave."""
    found, hello = members.gather(HELLO), {}
    for site in list(members.sites):
        content, _ = found[site.name]
        if content["site"] in hello:
            members.leave(site.name, f"there is a site {content['site']} already; give each config another name")
        else:
            site.name = content["site"]
            hello[site.name] = content
    usual = most_common(frozenset(content["settings"].items()) for content in hello.values())
    standard = dict(usual)
    for name, content in hello.items():
        settings = content["settings"]
        other = next((key for key in {**standard, **settings} if standard.get(key) != settings.get(key)), None)
        if other:
            one = next(name for name, of in hello.items() if of["settings"] == standard)
            members.leave(name, f"its {other} is {settings.get(other)}, and that of {one} is {standard.get(other)}")
    return hello


def _counted(members: Members, hello: dict[str, dict[str, Any]]) -> EventSerializer:
    """The schema of the counts of all sites whose columns are those of most, or of the first one."""
    own = None
    while own is None:
        columns = most_common(str(hello[site.name].get("columns")) for site in members.sites)
        try:
            own = read_schema(columns)
        except InputError as error:
            for site in [site for site in members.sites if str(hello[site.name].get("columns")) == columns]:
                members.leave(site.name, str(error))
    for site in list(members.sites):
        try:
            check_counts(site.name, hello[site.name].get("counts"), own)
        except InputError as error:
            members.leave(site.name, str(error))
    return shared_schema(own, [hello[site.name]["counts"] for site in members.sites])


def _agree_on_words(members: Members) -> None:
    """The words of a model from scratch: those of the first site, and behind them what others have besides."""
    words: dict[str, None] = {}
    found = members.gather(WORDS)
    for site in members.sites:
        content, _ = found[site.name]
        site.examples = content["examples"]
        words |= dict.fromkeys(content.get("words") or [])
    members.tell({"words": list(words)[:MOST_WORDS] if words else None})


def run_rounds(members: Members, plan: Plan) -> tuple[list[dict[str, Any]], int]:
    """Average the weights of the sites, plan.rounds times.

    All begin with the first site's weights. Each then sends its weights after its local steps, and gets the mean of all
    that count (see `sound` and `within_bound`). The model of the best round is kept, by the mean of what the sites'
    validation rows say of it, each counted as often as the site has training examples.

    Returns:
        What each round was like, and the number of the best one.
    """
    kept, out = sound({name: weights for name, (_, weights) in members.gather(ROUND).items()})
    for name, why in out.items():
        members.leave(name, why)
    weights = next(iter(kept.values()))
    members.tell({}, weights)
    history: list[dict[str, Any]] = []
    best, best_value, best_weights = 0, -math.inf, weights
    for number in range(1, plan.rounds + 2):
        found = members.gather(ROUND)
        if history:
            value = _validation(history[-1], found, members)
            if not best or value > best_value:
                best, best_value, best_weights = number - 1, value, weights
        if number > plan.rounds:
            break
        weights, said = _averaged(members, plan, weights, {site.name: found[site.name][1] for site in members.sites})
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
    examples = members.examples(kept)
    mean = average([(examples[name], weights) for name, weights in kept.items()]) if kept else {}
    numbers = sum(weight.numel() for weight in mean.values())
    said = {"sites": list(kept), "left_out": out | long, "lengths": lengths, "numbers": numbers, "validation": {}}
    return start | mean, said


def _validation(entry: dict[str, Any], found: dict[str, tuple[dict, Weights]], members: Members) -> float:
    """Note what the sites' validation rows say of a round's model; the mean of all, higher is better."""
    metric = most_common(content["metric"] for content, _ in found.values())
    for name, (content, _) in found.items():
        if content["metric"] != metric:
            members.leave(name, f"it validates by {content['metric']}, and others by {metric}")
    said = {
        site.name: float(found[site.name][0]["validation"])
        for site in members.sites
        if found[site.name][0].get("validation") is not None
    }
    entry["validation"] = said
    if not said:
        return -math.inf
    entry["metric"], examples = metric, members.examples(said)
    mean = sum(examples[name] * value for name, value in said.items()) / sum(examples[name] for name in said)
    entry["mean_validation"] = mean
    shown = ", ".join(f"{name} {value:.4f}" for name, value in said.items())
    print(f"round {entry['round']}: validation {entry['metric']} {shown}", flush=True)
    return -mean if entry["metric"] in {*LOWER_IS_BETTER, "loss"} else mean
