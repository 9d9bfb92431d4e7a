"""A schema of counts is the one of all logs together, and never has a word of few users of a log."""

import json
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from data_prep import InputError
from data_prep.bins import fit_bins
from data_prep.prepare import prepare
from data_prep.prepared import read_manifest, read_split
from data_prep.serializer import EventSerializer
from data_prep.shared_schema import (
    check_counts,
    pooled_bins,
    read_schema,
    schema_counts,
    shared_schema,
    without_learned,
)
from finetune.experiment.parser import parse_experiment
from tests.conftest import tiny_config, write_log

FEW = 5  # min_users, which the tiny config leaves as it is


def log_with_few(path: Path, users: int, seed: int, few: dict[str, int]) -> None:
    """The tiny log, where that many users have been in a shop of their own kind, too."""
    write_log(path, users, seed=seed)
    more = [f"u{i},2024-01-{2 + i:02} 10:00:00,purchase,5.00,{shop}" for shop, n in few.items() for i in range(n)]
    path.write_text(path.read_text() + "\n".join(more) + "\n")


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    """Two logs and their union, prepared; of the union the users of the second log have other ids."""
    made, logs = {}, {}
    for seed, (name, few) in enumerate({"a": {"east": 4, "west": 7}, "b": {"east": 4, "west": 6, "odd": 3}}.items()):
        folder = tmp_path_factory.mktemp(name)
        log_with_few(folder / "log.csv", 60 + 40 * seed, seed, few)
        logs[name] = (folder / "log.csv").read_text().splitlines()
        made[name] = folder
    made["both"] = tmp_path_factory.mktemp("both")
    together = [*logs["a"], *(line.replace("u", "v", 1) for line in logs["b"][1:])]
    (made["both"] / "log.csv").write_text("\n".join(together) + "\n")
    experiments = {}
    for name, folder in made.items():
        (folder / "site.yaml").write_text(yaml.safe_dump(tiny_config(folder) | {"name": name}))
        found = experiments[name] = parse_experiment("", ["--config", str(folder / "site.yaml")])
        prepare(found.name, found.data, found.task, found.text)
    return experiments


@pytest.fixture(scope="module")
def counts(sites):
    return {name: schema_counts(sites[name].data, sites[name].data_folder) for name in ("a", "b")}


def own(sites, name):
    return EventSerializer.from_pretrained(sites[name].data_folder)


def test_the_schema_of_one_log_is_its_own(sites, counts):
    alone, made = own(sites, "a"), shared_schema(without_learned(own(sites, "a")), [counts["a"]])
    assert made.features == alone.features
    assert made.config == alone.config
    for learned, expected in ((made.fields, alone.fields), (made.header, alone.header)):
        assert learned.keys() == expected.keys()
        for name, of in expected.items():
            assert {key: value for key, value in learned[name].items() if key != "centers"} == {
                key: value for key, value in of.items() if key != "centers"
            }


def test_no_log_tells_of_a_word_of_few_users_and_all_others_are_those_of_the_union(sites, counts):
    shops = {name: of["fields"]["shop"]["users"] for name, of in counts.items()}
    assert shops["a"].keys() == shops["b"].keys() == {"north", "south", "west"}
    assert all(users >= FEW for of in shops.values() for users in of.values())
    made, union = shared_schema(own(sites, "a"), list(counts.values())), own(sites, "both")
    assert "east" in union.fields["shop"]["values"]  # 8 users together, 4 in each log
    assert made.fields["shop"]["values"] == [word for word in union.fields["shop"]["values"] if word != "east"]
    assert made.fields["event_type"] == union.fields["event_type"]
    assert made.features.event_types == union.features.event_types


def test_a_word_below_min_users_is_not_taken_from_a_log_that_tells_of_it(sites, counts):
    said = json.loads(json.dumps(counts["b"]))
    said["fields"]["shop"]["users"] |= {"odd": 3, "east": 4}
    made = shared_schema(own(sites, "a"), [counts["a"], said, said])
    assert {"odd", "east"} & {*made.fields["shop"]["values"]} == set()


def test_what_is_sent_beside_the_counts_has_learned_nothing(sites):
    sent = without_learned(own(sites, "a")).to_json()
    assert "west" not in sent
    assert read_schema(sent).fields["amount"] == {"kind": "numeric", "edges": [], "centers": [0.0]}


def test_all_logs_write_with_the_shared_schema_and_know_it_again(sites, counts, capsys):
    made = shared_schema(own(sites, "a"), list(counts.values()))
    for name in ("a", "b"):
        site = sites[name]
        folder = prepare(f"{name}-shared", site.data, site.task, site.text, schema=made)
        assert EventSerializer.from_pretrained(folder).to_json() == made.to_json()
        columns = ["user_id", "cutoff", "label"]
        for split in ("train", "test"):
            assert read_split(folder, split, None, columns).equals(read_split(site.data_folder, split, None, columns))
        prepare(f"{name}-shared", site.data, site.task, site.text, schema=made)
        assert "is up to date" in capsys.readouterr().out
        hashes = {read_manifest(path)["content_hash"] for path in (folder, site.data_folder)}
        assert len(hashes) == 2


def test_another_log_or_other_texts_are_refused(sites, counts):
    made, site = shared_schema(own(sites, "a"), [counts["a"]]), sites["b"]
    with pytest.raises(InputError, match="other settings of `text`"):
        prepare("x", site.data, site.task, replace(site.text, max_events=3), schema=made)
    other = replace(made.features, types=made.features.types | {"amount": "VARCHAR"})
    with pytest.raises(InputError, match="column 'amount' is DOUBLE here and VARCHAR in the given schema"):
        prepare("x", site.data, site.task, site.text, schema=EventSerializer(made.config, other, made.fields))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fields": {}}, "is missing"),
        ({"event_types": {"view": "many"}}, "event_types.view"),
        ({"header": {"gap_mean": {"rows": 3, "quantiles": [2.0, 1.0]}}}, "quantiles in order"),
        ({"header": {"gap_mean": {"rows": 3, "quantiles": [float("inf")]}}}, "quantiles in order"),
        ({"fields": {"amount": {"users": {"x": 9}}, "shop": {"users": {}}, "event_type": {"users": {}}}}, "amount"),
    ],
)
def test_counts_that_are_none_are_refused(sites, counts, change, said):
    with pytest.raises(InputError, match=said):
        check_counts("b", counts["b"] | change, own(sites, "a"))


@given(st.lists(st.lists(st.floats(-1e6, 1e6), min_size=40, max_size=300), min_size=1, max_size=4), st.integers(2, 6))
def test_pooled_edges_lie_where_the_quantiles_of_all_rows_do(parts, bins):
    steps, sent = bins * 8, []
    for part in parts:
        values = np.sort(np.array(part)) + 0.0
        places = [max(-(-len(values) * i // steps), 1) - 1 for i in range(1, steps)]
        sent.append({"rows": len(values), "quantiles": values[places].tolist()})
    made = pooled_bins(sent, bins)
    every = np.sort(np.concatenate([np.array(part) for part in parts]))
    assert made["edges"] == sorted(set(made["edges"]))
    if len(parts) == 1:
        assert made["edges"] == fit_bins(every, bins)["edges"]
        assert pooled_bins(sent, bins, 3)["edges"] == fit_bins(every, bins, 3)["edges"]  # 8 steps to a bin
    for i, edge in enumerate(made["edges"] if len(made["edges"]) == bins - 1 else [], start=1):
        below, up_to = (np.searchsorted(every, edge, side=side) / len(every) for side in ("left", "right"))
        assert below - len(parts) / steps - 0.03 <= i / bins <= up_to + len(parts) / steps + 0.03


def test_duckdb_and_python_put_words_into_the_same_order():
    words = ["b", "a", "é", "Z", "ß", "_", "0", "日", "🙂", "ab"]
    ordered = duckdb.execute("SELECT word FROM (SELECT unnest($1) AS word) ORDER BY word", [words]).fetchall()
    assert [row[0] for row in ordered] == sorted(words)
