from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from transformers import TrainingArguments

from data_prep import InputError
from finetune.command import CommandParser, guarded
from finetune.experiment.parser import TRAINING_DEFAULTS, TRAINING_FIXED, build_parser, command, parse_experiment

CONFIGS = sorted(Path(__file__).parents[3].glob("configs/*.yaml"))


def parse(config: Path, *arguments: str):
    return parse_experiment("", ["--config", str(config), *arguments])


def refusal(capsys, config: Path, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        guarded(lambda: parse(config, *arguments))
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    return message


def test_the_command_line_overrides_the_file(tiny):
    experiment = parse(tiny, "--task.label.horizon", "7 days", "--training.learning_rate", "3e-5")
    assert experiment.task.label.horizon == "7 days"
    assert experiment.training["learning_rate"] == 3e-5
    assert experiment.task.label.kind == "absent"


def test_the_resolved_config_parses_to_the_same_experiment(tiny, tmp_path):
    experiment = parse(tiny, "--model.max_tokens", "32")
    saved = tmp_path / "config.yaml"
    saved.write_text(experiment.resolved, encoding="utf-8")
    again = parse(saved)
    assert again.model.max_tokens == 32
    assert vars(again) | {"resolved": ""} == vars(experiment) | {"resolved": ""}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.name)
def test_every_config_of_the_repository_parses(config):
    assert parse(config).name


OWN_RECIPE = {"churn_bert_base_lora", "next_purchase", "private", "private_schema"}


def recipe(config: Path) -> list:
    made = parse(config)
    return [made.model, made.pretraining, made.finetuning, made.training, made.text.tail_bins]


@pytest.mark.parametrize(
    "config", [path for path in CONFIGS if path.stem not in OWN_RECIPE], ids=lambda path: path.name
)
def test_every_other_config_has_the_recipe_that_the_bench_measures(config):
    label = parse(config).task.label
    measured = "quickstart" if label.tiers else {"which": "departments", "sum": "value"}.get(label.kind, "quickstart")
    assert recipe(config) == recipe(config.with_name(f"{measured}.yaml"))


def test_the_template_of_the_readme_has_the_recipe_of_the_quickstart(tmp_path):
    readme = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    template = tmp_path / "my_shop.yaml"
    template.write_text(readme.split("```yaml\n")[1].split("```")[0], encoding="utf-8")
    assert recipe(template) == recipe(CONFIGS[0].with_name("quickstart.yaml"))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--training.num_train_epochs", "5"], "num_train_epochs 5"),
        (["--text.max_evnts", "3"], "text.max_evnts"),
        (["--task.label.kind", "vanish"], "task.label.kind"),
        (["--training.learning_rate", "fast"], "training.learning_rate"),
        (["--name", "a/b"], "a/b"),
        (["--name", "a\tb"], r"name 'a\tb' must be usable as a folder's name"),
        (["--name", "a\nb"], r"name 'a\nb' must be usable"),
        (["--model.from_scratch.heads", "3"], "heads"),
        (["--seeds", "-1"], "seeds"),
        (["--seeds", "3", "3"], "seeds"),
        (["--model.peft", "{}"], "model.peft needs a method"),
        (["--model.max_tokens", "2"], "max_tokens 2"),
        (["--evaluation.slices", '{"": user_id}'], "evaluation.slices: a slice needs a name"),
        (["--evaluation.threshold", "money"], "needs evaluation.costs"),
        (["--data.folder", "$NOWHERE/data"], "data.folder: $NOWHERE is neither in data.variables nor named in"),
        (
            ["--data.folder", "$NOWHERE/data", "--data.environment", "[NOWHERE]"],
            "data.folder: $NOWHERE is not set; export NOWHERE",
        ),
        (["--smoke", "yes"], "unrecognized arguments: yes"),
    ],
)
def test_a_setting_out_of_place_is_refused_in_one_line_that_names_it(tiny, capsys, arguments, named):
    assert named in refusal(capsys, tiny, *arguments)


def test_what_neither_the_file_nor_the_command_line_says_is_named(tiny, capsys):
    tiny.write_text("name: tiny\ntask:\n")
    assert "task.label.kind" in refusal(capsys, tiny)


def test_a_file_whose_sections_are_left_empty_is_the_experiment_of_the_defaults(tiny):
    config = yaml.safe_load(tiny.read_text())
    whole = parse(tiny)
    for section in ("text", "model", "pretraining", "training", "evaluation"):
        config[section] = None
    tiny.write_text(yaml.safe_dump(config))
    found = parse(tiny)
    assert (found.text.style, found.model.max_tokens, found.training["max_steps"]) == ("words", 128, 500)
    assert found.data == whole.data
    tiny.write_text(found.resolved)
    assert parse(tiny).text == found.text


def test_an_experiment_does_not_change_the_one_that_is_parsed_after_it(tiny):
    first = parse(tiny)
    first.text.header.append("nothing")
    first.evaluation.slices["all"] = "true"
    first.sweep.space.clear()
    first.training["seed"] = 9
    second = parse(tiny)
    assert (second.text.header[-1], second.evaluation.slices, second.training["seed"]) == ("own", {}, 42)
    assert second.sweep.space


def test_a_home_folder_and_the_environment_are_known_in_every_path(tiny, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("SHOP", "/mnt/shop")
    config = yaml.safe_load(tiny.read_text())
    config["data"] |= {"folder": "~/data", "environment": ["SHOP"], "sources": [{"path": "$SHOP/${examples}/*.csv"}]}
    config["runs"]["folder"] = "${SHOP}/runs"
    config["training"]["resume_from_checkpoint"] = "~/checkpoint-8"
    tiny.write_text(yaml.safe_dump(config))
    found = parse(tiny, "--model.name_or_path=~/bert")
    assert (found.data.folder, found.runs.folder) == ("/home/ada/data", "/mnt/shop/runs")
    assert found.data.sources[0].path == "/mnt/shop/${examples}/*.csv"  # what is in braces may be a variable of data
    assert found.training["resume_from_checkpoint"] == "/home/ada/checkpoint-8"
    assert found.model.name_or_path == "/home/ada/bert"


def test_a_home_folder_of_nobody_is_refused(tiny, capsys):
    said = refusal(capsys, tiny, "--data.folder=~nobody9/data")
    assert "data.folder: '~nobody9/data' names the home folder of a user whom this machine has not" in said


def test_a_home_folder_is_known_in_the_arguments_of_other_scripts(monkeypatch, capsys):
    monkeypatch.setenv("HOME", "/home/ada")
    parser = CommandParser("")
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--output", type=Path)
    found = parser.parse_args(["~/a", "b", "--model=~/m", "--output=~/o"])
    assert found.runs == [Path("/home/ada/a"), Path("b")]
    assert (found.model, found.output) == ("/home/ada/m", Path("/home/ada/o"))
    with pytest.raises(SystemExit) as end:
        parser.parse_args(["--output", "~nobody9/o"])
    assert end.value.code == 2
    assert "argument --output: '~nobody9/o' names the home folder of a user" in capsys.readouterr().err


def test_a_key_that_stands_twice_is_refused_with_its_line(tiny, capsys):
    tiny.write_text(tiny.read_text() + "name: another\n")
    message = refusal(capsys, tiny)
    assert "'name' stands twice" in message
    assert str(tiny) in message


@pytest.mark.parametrize("content", ["", "user,time\nu1,2024-01-01\n", "name: [tiny\n"])
def test_a_file_that_is_no_experiment_is_refused_by_name_and_not_printed(tiny, capsys, content):
    tiny.write_text(content)
    message = refusal(capsys, tiny)
    assert str(tiny) in message
    assert "u1" not in message


def test_a_missing_file_and_a_missing_config_are_refused_by_name(tiny, capsys):
    assert "nowhere.yaml" in refusal(capsys, tiny.parent / "nowhere.yaml")
    with pytest.raises(InputError, match="--config"):
        parse_experiment("", [])


def test_every_setting_has_a_help_text():
    unexplained = [
        action.dest
        for action in build_parser("")._actions
        if not action.help and action.dest not in ("help", "print_config")
    ]
    assert not unexplained


def test_training_takes_every_field_of_training_arguments(tiny):
    known = {field.name for field in fields(TrainingArguments)}
    assert known >= TRAINING_DEFAULTS.keys()
    assert known - parse(tiny).training.keys() == TRAINING_FIXED


def test_a_folder_that_cannot_be_written_is_named(tiny, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["step.py", "--config", str(tiny)])
    with pytest.raises(SystemExit) as stopped:
        command("", lambda experiment: (tiny / "below-a-file").mkdir(parents=True))
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert str(tiny) in message
    assert message.count("\n") == 1


def test_bad_input_ends_a_command_with_code_2_and_a_sentence(tiny, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["step.py", "--config", str(tiny)])

    def step(experiment):
        raise InputError("the log is empty; give another one")

    with pytest.raises(SystemExit) as stopped:
        command("", step)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: the log is empty; give another one\n"


def test_of_several_processes_one_says_what_is_refused(tiny, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["step.py", "--config", str(tiny), "--model.max_tokens", "0"])
    for rank, lines in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit) as stopped:
            command("", lambda experiment: None)
        assert stopped.value.code == 2
        assert capsys.readouterr().err.count("\n") == lines


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("Query interrupted")])  # the second by DuckDB
def test_ctrl_c_ends_a_command_with_code_130(tiny, capsys, monkeypatch, error):
    monkeypatch.setattr("sys.argv", ["step.py", "--config", str(tiny)])

    def step(experiment):
        raise error

    with pytest.raises(SystemExit) as stopped:
        command("", step)
    assert stopped.value.code == 130
    assert "interrupted" in capsys.readouterr().err


def test_old_names_of_settings_are_read_with_a_sentence_and_refused_beside_the_new_ones(tiny, tmp_path, capsys):
    content = yaml.safe_load(tiny.read_text())
    content.pop("runs", None)
    content.setdefault("evaluation", {}).update(patience=7, folder=str(tmp_path / "there"))
    old = tmp_path / "old.yaml"
    old.write_text(yaml.safe_dump(content))
    found = parse(old)
    assert (found.finetuning.patience, found.run_folder.parent) == (7, tmp_path / "there")
    said = capsys.readouterr().out
    assert "evaluation.patience is called finetuning.patience now" in said
    assert parse(old, "--evaluation.patience", "2").finetuning.patience == 2
    content.setdefault("finetuning", {})["patience"] = 3
    old.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match="both are given"):
        parse(old)
    with pytest.raises(InputError, match=r"evaluation\.patience is no setting; it is called finetuning\.patience now"):
        parse(tiny, "--evaluation", "{patience: 2}")
    both = ["--evaluation.patience 2", "--finetuning.patience 3"]
    for given in (both, both[::-1]):
        with pytest.raises(
            InputError, match=r"^--evaluation\.patience is the old name of --finetuning\.patience, and "
        ):
            parse(tiny, *" ".join(given).split())


@pytest.mark.parametrize(("asked", "taken"), [([], 1000), (["300"], 300), (["5000"], 1000)])
def test_a_smoke_run_scores_a_thousand_rows_of_a_split_at_most(asked, taken):
    option = ["--finetuning.max_eval_examples", *asked] if asked else []
    made = parse(CONFIGS[0].with_name("quickstart.yaml"), "--smoke", *option)
    assert made.finetuning.max_eval_examples == taken
