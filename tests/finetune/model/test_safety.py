"""A model's folder or repository runs no SQL and no code, whatever lies in it."""

import json
import os
import pickle
import shutil
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from transformers import BertConfig, BertForSequenceClassification, BertModel

import data_prep.serving
from data_prep import InputError
from data_prep.checked_json import LARGEST
from data_prep.connections import connect
from data_prep.population import EVERYBODY
from data_prep.serializer import EventSerializer
from data_prep.serving import past_texts, read_past
from finetune.experiment.config import ModelConfig
from finetune.model.modeling import build_classifier
from finetune.model.objective import Objective
from finetune.model.safety import LARGEST_REPOSITORY, refuse_code, refuse_listing
from finetune.model.tokenization import load_tokenizer
from finetune.serving.classifier import EventClassifier

CUTOFF = datetime(2024, 4, 1)
OBJECTIVE = Objective("binary", ("no_churn", "churn"))
COPY = "COPY (SELECT 1) TO 'out.csv'"


class Trap:
    """What a pickle may hold: a call that is made when it is loaded."""

    def __reduce__(self) -> tuple:
        return os.mkdir, ("out.csv",)


@pytest.fixture
def folder(trained, tmp_path, monkeypatch) -> Path:
    """A copy of a model, beside the current folder, in which nothing may appear."""
    here, copy = tmp_path / "here", tmp_path / "model"
    here.mkdir()
    monkeypatch.chdir(here)
    shutil.copytree(trained.run_folder / "model", copy)
    yield copy
    assert os.listdir(here) == []


@pytest.fixture(scope="module")
def events(trained) -> pa.Table:
    """The log of its training, in memory."""
    query = "SELECT user AS user_id, time AS event_time, what AS event_type, amount, shop FROM read_csv(?)"
    return duckdb.sql(query, params=[trained.data.sources[0].path]).to_arrow_table()


def forge(path: Path, keys: tuple, value: object) -> None:
    """Put a value into a JSON."""
    content = part = json.loads(path.read_text())
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("file", "keys", "value"),
    [
        ("serializer.json", ("features", "types", "shop"), f'VARCHAR) AS "shop" FROM log; {COPY}; SELECT 1 --'),
        ("serializer.json", ("features", "target"), f"true) FROM rows; {COPY}; SELECT (true"),
        ("serializer.json", ("features", "target"), "event_type IN (FROM read_csv('/etc/passwd'))"),
        ("serializer.json", ("config", "max_events"), COPY),
        ("serializer.json", ("fields", "amount", "edges"), [COPY]),
        ("task.json", ("task", "population", "where"), f"true; {COPY}"),
        ("task.json", ("task", "population", "where"), "EXISTS (FROM read_text('/etc/passwd'))"),
        ("task.json", ("task", "population", "within"), f"28 days; {COPY}"),
        ("task.json", ("task", "label", "where"), f"true UNION SELECT 1; {COPY}"),
        ("calibration.json", ("method",), COPY),
        ("calibration.json", ("temperature",), COPY),
        ("calibration.json", ("temperature",), 0),
        ("calibration.json", ("x",), [COPY]),
        ("calibration.json", ("threshold",), COPY),
        ("config.json", ("quantization_config",), {"quant_method": "evil"}),
        ("config.json", ("attn_implementation",), "evil/kernel"),
        ("config.json", ("id2label", "0"), "\ud800"),
        ("config.json", ("eventscribe",), {"task": "binary", "pooling": "cls"}),
        ("config.json", ("_attn_implementation",), "evil/kernel:run"),
        ("adapter_config.json", ("megatron_config",), {"model": 1}),
    ],
)
def test_what_is_forged_in_a_json_is_refused_when_the_model_is_loaded(folder, file, keys, value):
    if file == "calibration.json":
        temperature = {"method": "temperature", "temperature": 1.0, "x": [], "y": []}
        (folder / file).write_text(json.dumps(temperature | {"threshold": None, "threshold_by": None}))
    if file == "adapter_config.json":
        adapter = {"peft_type": "LORA", "megatron_core": "model.evil", "base_model_name_or_path": str(folder)}
        (folder / file).write_text(json.dumps(adapter))
        (folder / "evil.py").write_text("import os; os.mkdir('out.csv')")
    forge(folder / file, keys, value)
    with pytest.raises(InputError, match=file.replace(".", r"\.")) as refusal:
        EventClassifier.from_pretrained(folder)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("ending", ["VARCHAR --", "VARCHAR /*", "VARCHAR"])
def test_a_type_that_ends_in_a_comment_and_a_name_that_ends_the_comment_write_no_file(folder, trained, events, ending):
    pq.write_table(events, folder / "log.parquet")
    evil = folder / "evil.py"
    name = f"x\n) AS shop, NULL AS z FROM log; COPY (SELECT 'import os' AS c) TO '{evil}' (FORMAT csv, HEADER false) --"
    forge(folder / "serializer.json", ("features", "types"), {"amount": "DOUBLE", "shop": ending, name: "VARCHAR"})
    with pytest.raises(InputError, match=r"serializer\.json: features\.types"):
        EventClassifier.from_pretrained(folder).predict(f"{folder}/*.parquet", CUTOFF)
    assert not evil.exists()


def test_neither_the_neighbours_of_the_given_files_nor_new_ones_are_in_reach(folder, events):
    (folder / "logs").mkdir()
    pq.write_table(events, folder / "logs" / "a.parquet")
    (folder / "logs" / "secret.csv").write_text("a\n1\n")
    serializer = EventSerializer.from_pretrained(folder)
    for given in ("*.parquet", "**/*.parquet", "a.parquet"):
        with connect() as con:
            read_past(con, f"{folder}/logs/{given}", serializer, CUTOFF)
            for sql in (f"FROM '{folder}/logs/secret.csv'", f"COPY (SELECT 1 AS x) TO '{folder}/logs/new.parquet'"):
                with pytest.raises(duckdb.Error, match="disabled by configuration"):
                    con.execute(sql)
    assert sorted(os.listdir(folder / "logs")) == ["a.parquet", "secret.csv"]


@pytest.mark.parametrize(
    "kind", ["STRUCT(a INT)", "ENUM('a')", "INT[3]", "GEOMETRY", "TIMESTAMP WITH TIME ZONE", "UNION(a INT)", "DOUBLE"]
)
def test_a_type_that_the_given_values_cannot_have_ends_in_one_sentence(folder, events, kind):
    forge(folder / "serializer.json", ("features", "types", "shop"), kind)
    with pytest.raises(InputError) as refusal:
        EventClassifier.from_pretrained(folder).predict(events, CUTOFF)
    assert "\n" not in str(refusal.value)


def test_text_in_place_of_a_number_is_refused_and_a_column_that_held_nothing_may_hold_something(folder, events):
    strange = events.set_column(3, "amount", pa.array(["ten"] * len(events)))
    classifier = EventClassifier.from_pretrained(folder)
    with pytest.raises(InputError, match=r"^events: .*ten.*; give each column the type that it had in training"):
        classifier.predict(strange, CUTOFF)
    forge(folder / "serializer.json", ("features", "types", "note"), '"NULL"')
    noted = events.append_column("note", events["shop"])
    assert EventClassifier.from_pretrained(folder).predict(noted, CUTOFF).equals(classifier.predict(events, CUTOFF))


@pytest.mark.parametrize("where", ["no_such = 1", "unnest([true, false])", "COLUMNS(*)", "count(*) > 0"])
@pytest.mark.parametrize(
    ("file", "keys"),
    [("serializer.json", ("features", "target")), ("task.json", ("task", "population", "where"))],
)
def test_a_bad_condition_of_a_model_is_said_of_its_file_and_not_of_the_events(folder, file, keys, where):
    forge(folder / file, keys, where)
    with pytest.raises(InputError, match=rf"{file}.*damaged or forged"):
        EventClassifier.from_pretrained(folder)


def test_a_pickle_beside_the_weights_is_ignored_and_one_in_their_place_is_refused(folder):
    expected = EventClassifier.from_pretrained(folder).score(["gap=first"])
    for name in ("pytorch_model.bin", "training_args.bin", "model.pkl", "optimizer.pt"):
        (folder / name).write_bytes(pickle.dumps(Trap()))
    assert EventClassifier.from_pretrained(folder).score(["gap=first"]) == expected
    os.rename(folder / "model.safetensors", folder / "model-1.safetensors")  # which transformers does not look for
    with pytest.raises(InputError, match="the weights cannot be read"):
        EventClassifier.from_pretrained(folder)
    (folder / "model-1.safetensors").unlink()
    with pytest.raises(InputError, match=r"no model\.safetensors, and model\.pkl is a pickle, .*; train again"):
        EventClassifier.from_pretrained(folder)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("num_hidden_layers", 1, r"they have .*layer\.1\..*, for which config\.json has no place"),
        ("num_hidden_layers", 3, r"they lack .*layer\.2\..*, which config\.json asks for"),
        ("num_hidden_layers", 10**9, r"config\.json asks for 1,000,000,000 layers, and the weights have fewer"),
        ("layer_norm_eps", float("nan"), r"config\.json has a number that is not finite"),
        ("rope", [{"theta": float("inf")}], r"config\.json has a number that is not finite"),
    ],
)
@pytest.mark.parametrize("adapter", [False, True])
def test_a_config_that_does_not_fit_the_weights_is_refused(folder, adapter, key, value, says):
    config = BertConfig.from_pretrained(folder)
    config.num_hidden_layers = 2
    model = BertForSequenceClassification(config)
    if adapter:
        BertModel(config).save_pretrained(folder.parent / "base")
        for path in folder.glob("*.safetensors"):
            path.unlink()
        lora = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"], layers_to_transform=[0])
        adapted = get_peft_model(model, lora)
        adapted.peft_config["default"].base_model_name_or_path = str(folder.parent / "base")
        adapted.save_pretrained(folder)
        config.save_pretrained(folder)
    else:
        model.save_pretrained(folder)
    EventClassifier.from_pretrained(folder)
    forge(folder / "config.json", (key,), value)
    with pytest.raises(InputError, match=says) as refusal:
        EventClassifier.from_pretrained(folder)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("key", ["quantization_config", "attn_implementation"])
def test_weights_to_start_from_load_no_code_and_are_no_pickle(trained, folder, key):
    def build() -> None:
        settings = ModelConfig(name_or_path=str(folder), max_tokens=64)
        build_classifier(settings, OBJECTIVE, folder, load_tokenizer(folder, 64), 1)

    build()
    forge(folder / "config.json", (key,), {"quant_method": "evil"} if key.startswith("quant") else "evil/kernel")
    with pytest.raises(InputError, match=r"model\.name_or_path: .* would load code, which EventScribe never does"):
        build()
    forge(folder / "config.json", (key,), None)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(InputError, match=r"^model\.name_or_path: '.*' could not be loaded \(.*safetensors"):
        build()


@pytest.mark.parametrize(
    "file", ["../evil.json", "a/../../evil", "/etc/passwd", "..\\evil", "C:\\evil", "c:evil", "..", "a/.."]
)
def test_a_file_of_a_repository_that_would_lie_elsewhere_is_refused(file):
    refuse_listing("me/churn", {"model.safetensors": 7, "a/b..json": None, "...": 1})
    with pytest.raises(InputError, match=r"^me/churn has a file .* which would lie elsewhere; take another model"):
        refuse_listing("me/churn", {"config.json": 1, file: 7})


@pytest.mark.parametrize("file", ["../evil.safetensors", "{outside}/evil.safetensors", "a/../../evil.safetensors"])
def test_an_index_leads_to_no_weights_outside_of_the_folder(folder, file):
    (folder / "a").mkdir()
    shutil.move(folder / "model.safetensors", folder.parent / "evil.safetensors")
    with safe_open(folder.parent / "evil.safetensors", "pt") as weights:
        weight_map = dict.fromkeys(weights.keys(), file.format(outside=folder.parent))
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    with pytest.raises(InputError, match=r"index\.json names '.*evil.safetensors', which would lie elsewhere; take"):
        EventClassifier.from_pretrained(folder)
    settings = ModelConfig(name_or_path=str(folder), max_tokens=64)
    with pytest.raises(InputError, match=r"^model\.name_or_path: .* which would lie elsewhere"):
        build_classifier(settings, OBJECTIVE, folder, load_tokenizer(folder, 64), 1)
    shutil.move(folder.parent / "evil.safetensors", folder / "a" / "good.safetensors")
    index.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(weight_map, "a/good.safetensors")}))
    EventClassifier.from_pretrained(folder)


def test_a_config_that_nests_deep_is_looked_through(tmp_path):
    for number, refused in (("1", False), ("NaN", True)):
        (tmp_path / "config.json").write_text('{"a":' * 600 + number + "}" * 600)
        with pytest.raises(InputError, match="a number that is not finite") if refused else nullcontext():
            refuse_code(tmp_path)


def test_a_repository_that_is_too_large_is_not_fetched():
    refuse_listing("me/churn", {"model.safetensors": LARGEST_REPOSITORY})
    with pytest.raises(InputError, match=r"^me/churn has 10\.0 GiB, and 10 are fetched at most; fetch what you need"):
        refuse_listing("me/churn", {"model.safetensors": LARGEST_REPOSITORY, "config.json": 1})


def test_a_json_of_a_model_that_is_too_large_is_refused(folder):
    with (folder / "special_tokens_map.json").open("wb") as file:
        file.truncate(LARGEST + 1)  # a hole, which takes no room
    with pytest.raises(InputError, match=r"special_tokens_map\.json is larger than 256 MiB"):
        EventClassifier.from_pretrained(folder)


def test_an_adapter_that_is_a_pickle_is_refused(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.bin").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(InputError, match=r"no adapter_model\.safetensors, and adapter_model\.bin is a pickle"):
        refuse_code(tmp_path)


@pytest.mark.parametrize("part_users", [70, 20_000])
def test_no_file_is_in_reach_once_the_given_events_are_read(trained, folder, tmp_path, monkeypatch, part_users):
    monkeypatch.setattr(data_prep.serving, "PART_USERS", part_users)
    classifier, work = EventClassifier.from_pretrained(folder), tmp_path / "work"
    work.mkdir()
    with connect(spill_folder=work / "spill") as con:
        log = read_past(con, trained.data, classifier.serializer, CUTOFF, folder=work)
        for sql in (COPY, f"FROM read_text('{__file__}')", "ATTACH 'x.db'", "SET lock_configuration = false"):
            with pytest.raises(duckdb.Error, match=r"disabled by configuration|has been locked"):
                con.execute(sql)
        texts = [
            row for part in past_texts(con, log, classifier.serializer, work, CUTOFF, EVERYBODY) for row in part["text"]
        ]
    assert len(texts) == log.users
    assert (work / "log").is_dir() == (part_users == 70)
