"""Each config of a public log, on a small log with the published files: what it reads, whom it asks, what it expects.

What a config says is said here again in plain Python, from the description of the log or of its benchmark.
"""

from bisect import bisect_left
from collections import Counter, defaultdict

import pyarrow.parquet as pq
import pytest
import yaml

from data_prep.connections import connect
from data_prep.events import read_events
from data_prep.prepared import read_manifest
from tests.configs.facts import CONFIGS, DAY, KNOWN, SPLITS, Facts

pytestmark = pytest.mark.xdist_group("known logs")  # one worker makes them

# 84.51° Complete Journey, whose files come with a package; and those with cutoffs at events or attributes of users, see
# test_moments.py and test_attributes.py.
OTHERS = {"departments", "next_purchase", "quickstart", "value", "churn_bert_base_lora", "churn_demographics"}
OTHERS |= {"private", "private_schema"}
OTHERS |= {"campaign_response", "session_purchase", "retailrocket_session", "rees46_cosmetics_session"}
OTHERS |= {"rees46_multi_category_session", "ta_feng_attributes"}


def expected(facts: Facts, events: list[dict], classes: list[str] | None = None) -> dict[str, dict]:
    """Split -> (user, cutoff) -> label, in plain Python."""
    asked, targets = defaultdict(list), defaultdict(list)
    for event in sorted(events, key=lambda event: event["event_time"]):
        if not facts.asked or event["event_type"] in facts.asked:
            asked[event["user_id"]].append(event["event_time"])
        if event["event_type"] == facts.target:
            targets[event["user_id"]].append(event)
    times = {user: [event["event_time"] for event in found] for user, found in targets.items()}
    labels = {split: {} for split in SPLITS}
    for split in SPLITS:
        for cutoff in facts.cutoffs[split]:
            for user, moments in asked.items():
                if bisect_left(moments, cutoff - facts.within) == bisect_left(moments, cutoff):
                    continue
                low, high = (bisect_left(times.get(user, []), cutoff + later) for later in (0 * DAY, facts.horizon))
                window = targets[user][low:high]
                if classes is None:
                    labels[split][user, cutoff] = facts.label(window)
                else:
                    bought = {str(event[facts.label.removeprefix("which:")]) for event in window}
                    labels[split][user, cutoff] = [int(value in bought) for value in classes]
    return labels


def most_frequent(facts: Facts, events: list[dict], number: int) -> list[str]:
    """The classes of a propensity: what is bought most often in the training windows, an event counting once."""
    field, windows = facts.label.removeprefix("which:"), [(c, c + facts.horizon) for c in facts.cutoffs["train"]]
    counts = Counter(
        str(event[field])
        for event in events
        if event["event_type"] == facts.target
        and event[field] is not None
        and any(start <= event["event_time"] < end for start, end in windows)
    )
    assert len(counts) > number, "the log must sell more than the label asks about"
    return sorted(counts, key=lambda value: (-counts[value], value))[:number]


def exact(values: tuple) -> tuple:
    return tuple(
        round(value, 6) if isinstance(value, float) else tuple(value) if isinstance(value, list) else value
        for value in values
    )


EACH = pytest.mark.parametrize("facts", KNOWN, ids=lambda facts: f"{facts.config}-{facts.log}")


@EACH
def test_events_are_read_with_user_time_type_and_fields(facts, known):
    log, experiment, _ = known(facts)
    with connect() as con:
        found = read_events(con, experiment.data)
        names = ["user_id", "event_time", "event_type", *found.fields]
        rows = con.execute(f"SELECT {', '.join(names)} FROM log").fetchall()
    assert set(names) == set(log.events[0])
    assert Counter(map(exact, rows)) == Counter(exact(tuple(map(event.get, names))) for event in log.events)
    assert len(rows) > 200
    assert not any(found.rejected.values())
    assert (found.first, found.last) == (facts.first + facts.shift, facts.last + facts.shift)


@EACH
def test_population_and_labels_are_those_of_a_plain_computation(facts, known):
    log, _, folder = known(facts)
    classes = None
    if isinstance(facts.label, str):
        classes = most_frequent(facts, log.events, 100)
        assert read_manifest(folder)["classes"] == classes
    labels = expected(facts, log.events, classes)
    for split in SPLITS:
        rows = pq.read_table(folder / f"{split}.parquet", columns=["user_id", "cutoff", "label"]).to_pylist()
        found = {(row["user_id"], row["cutoff"]): row["label"] for row in rows}
        numbers = all(isinstance(label, float) for label in found.values())
        assert found == (pytest.approx(labels[split], abs=1e-3) if numbers else labels[split])
        assert len(found) == len(rows)
        assert len({str(label) for label in found.values()}) > 1
        assert {cutoff for _, cutoff in found} == set(facts.cutoffs[split])


@EACH
def test_texts_hold_the_fields_of_the_log(facts, known):
    log, experiment, folder = known(facts)
    texts = " ".join(pq.read_table(folder / "train.parquet", columns=["text"])["text"].to_pylist())
    for name, spec in experiment.text.fields.items():
        if spec.words:
            words = {word for event in log.events if event[name] for word in event[name].lower().split()}
            assert words & set(texts.split()), name
        else:
            assert f" {name}=" in texts, name


def test_every_config_of_a_public_log_is_tested():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} - OTHERS == {facts.config for facts in KNOWN}


@pytest.mark.parametrize("config", sorted({facts.config for facts in KNOWN}))
def test_a_config_opens_with_the_log_its_page_and_the_commands_that_run_it(config):
    text = (CONFIGS / f"{config}.yaml").read_text(encoding="utf-8")
    settings, comment = yaml.safe_load(text), text.partition("\nname: ")[0]
    assert all(line.startswith("#") for line in comment.splitlines())
    assert "https://" in comment or config == "tmall"  # nobody offers that log any more
    commands = [line[4:].split() for line in comment.splitlines() if line.startswith("#   python scripts/run.py")]
    run = ["python", "scripts/run.py", "--config", f"configs/{config}.yaml"]
    assert all(command[:4] == run for command in commands)
    overrides = [part.removeprefix("--").split(".") for part in commands[-1][4:] if part.startswith("--")]
    assert overrides
    for path in overrides:
        section = settings
        for key in path:
            assert key in section, path
            section = section[key]
    assert max(map(len, text.splitlines())) <= 120
