"""The config whose users have attributes, on a small log with the published columns."""

import pyarrow.parquet as pq

from data_prep.prepare import prepare
from data_prep.prepared import read_manifest
from finetune.experiment.parser import parse_experiment
from tests.configs.facts import CONFIGS, KNOWN, visits
from tests.configs.small_logs import WRITERS


def test_ta_feng_has_age_groups_and_postcodes_in_header_and_aggregates(tmp_path):
    facts = next(facts for facts in KNOWN if facts.config == "ta_feng")
    log = WRITERS["ta_feng"](visits(facts), tmp_path)
    given = ["--config", str(CONFIGS / "ta_feng_attributes.yaml"), "--data.folder", str(tmp_path / "data")]
    given += ["--data.variables.ta_feng", log.variables["ta_feng"]]
    experiment = parse_experiment("", given)
    folder = prepare(experiment.name, experiment.data, experiment.task, experiment.text)
    table = pq.read_table(log.variables["ta_feng"], columns=["customer_id", "age_group", "pin_code"])
    known = {row["customer_id"]: row for row in table.to_pylist()}
    rows = pq.read_table(folder / "train.parquet").to_pylist()
    ages, codes = set(), set()
    for row in rows:
        customer, header = known[row["user_id"]], row["text"].split(" [SEP] ")[0].split(" ")
        age = (customer["age_group"] or "missing").replace("-", "_")
        code = {"Unknown": "missing", "Others": "others"}.get(customer["pin_code"], customer["pin_code"])
        assert header[-2:] == [f"age_group={age}", f"postcode={code}"]
        assert row[f"age_group={age}"] == row[f"postcode={code}"] == 1
        ages.add(age)
        codes.add(code)
    assert (len(ages), len(codes)) == (4, 3)
    (warning,) = [warning for warning in read_manifest(folder)["warnings"] if "known_from" in warning]
    assert warning.startswith("data.users has no known_from")
