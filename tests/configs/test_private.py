"""configs/private_schema.yaml makes a schema that fits the real log of configs/private.yaml, without reading it."""

from data_prep.given_schema import mark, read_given_schema
from data_prep.prepare import prepare
from data_prep.prepared import read_manifest
from finetune.experiment.parser import parse_experiment
from finetune.training.privacy_rules import refuse_unprotected
from tests.configs.facts import CONFIGS


def test_the_made_up_schema_suits_the_real_log(tmp_path):
    runs = ["--runs.folder", str(tmp_path), "--data.folder", str(tmp_path)]
    made, private = (CONFIGS / f"{name}.yaml" for name in ("private_schema", "private"))
    assert "${examples}" not in made.read_text()
    public = parse_experiment("", ["--config", str(made), *runs])
    schema = prepare(public.name, public.data, public.task, public.text)
    experiment = parse_experiment("", ["--config", str(private), *runs, "--text.schema", str(schema)])
    refuse_unprotected(experiment)
    manifest = read_manifest(prepare(experiment.name, experiment.data, experiment.task, experiment.text))
    assert manifest["schema"] == mark(read_given_schema(experiment.text))
    assert manifest["log"]["known"] == {"event_type": 1.0}
    assert not [warning for warning in manifest["warnings"] if "schema" in warning]
    assert manifest["splits"]["train"]["rows"] == 40_162
