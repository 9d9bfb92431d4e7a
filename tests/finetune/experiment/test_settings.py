"""What a YAML and a command line may say; nothing here builds a parser, so that each case takes a millisecond."""

from pathlib import Path

import pytest

from data_prep import InputError
from finetune.experiment.settings import read_arguments, read_file, read_text


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "churn.yaml"


def said(file: Path, text: str) -> dict:
    file.write_text(text + "\n", encoding="utf-8")
    return read_file(file)


@pytest.mark.parametrize("section", ["text", "model", "pretraining", "finetuning", "training", "evaluation", "sweep"])
def test_a_section_that_is_left_empty_is_its_defaults(file, section):
    assert section not in said(file, f"{section}:")


def test_a_section_within_another_that_is_left_empty_is_its_defaults(file):
    assert said(file, "model:\n  from_scratch:\n  max_tokens: 32")["model"] == {"max_tokens": 32}
    assert said(file, "text:\n  fields:\n    event_type:")["text"] == {"fields": {"event_type": {}}}


@pytest.mark.parametrize(
    "name",
    [
        "name",
        "seeds",
        "data.folder",
        "data.timezone",
        "data.max_rejected",
        "data.sources",
        "task.label.where",
        "task.population.where",
        "text.style",
        "text.header",
        "text.fields",
        "text.max_events",
        "model.max_tokens",
        "evaluation.slices",
        "evaluation.bootstrap",
        "training.learning_rate",
        "training.max_steps",
        "training.seed",
        "training.weight_decay",
    ],
)
def test_a_null_where_none_is_allowed_is_refused_by_its_name_in_a_file_and_on_the_command_line(file, name):
    *above, last = name.split(".")
    nested = (
        "".join(f"{'  ' * depth}{part}:\n" for depth, part in enumerate(above)) + f"{'  ' * len(above)}{last}: null"
    )
    with pytest.raises(InputError, match=f"{name} is null; .*give "):
        said(file, nested)
    if name != "seeds":
        with pytest.raises(InputError, match=f"^{name} is null; give "):
            read_arguments([f"--{name}", "null"])


def test_null_is_a_value_where_it_is_one(file):
    assert said(file, "model: {peft: null, freeze: ~, name_or_path:}")["model"] == dict.fromkeys(
        ("peft", "freeze", "name_or_path")
    )
    assert read_arguments(["--evaluation.costs", "null"]) == ["--evaluation.costs=null"]


def test_a_null_for_a_section_on_the_command_line_takes_back_what_the_file_says():
    (argument,) = read_arguments(["--model.from_scratch", "null"])
    defaults = '{"architecture": "bert", "hidden_size": 128, "layers": 2, "heads": 2, "dropout": 0.1}'
    assert argument == f"--model.from_scratch={defaults}"


def test_keys_and_texts_are_taken_as_they_are_written(file):
    source = "data:\n  sources:\n  - path: 2024\n    columns: {no: on, on: off, 1: yes, user_id: 007, event_type: ~x}"
    columns = {"no": "on", "on": "off", "1": "yes", "user_id": "007", "event_type": "~x"}
    assert said(file, source)["data"]["sources"] == [{"path": "2024", "columns": columns}]
    assert said(file, "name: 2024-01-29")["name"] == "2024-01-29"
    assert said(file, "training: {resume_from_checkpoint: false}")["training"] == {"resume_from_checkpoint": "false"}
    assert said(file, "task: {population: {where: true}}")["task"] == {"population": {"where": "true"}}
    assert read_text("{no: on}", dict[str, str], "--columns") == {"no": "on"}


def test_numbers_and_switches_may_stand_in_quotes_and_as_yaml_writes_them(file):
    training = "training: {max_steps: '8', learning_rate: 1e-3, bf16: 'yes', fp16: off, weight_decay: 0}"
    expected = {"max_steps": 8, "learning_rate": 1e-3, "bf16": True, "fp16": False, "weight_decay": 0}
    assert said(file, training)["training"] == expected


def test_merged_mappings_and_aliases_are_read_and_what_stands_beside_them_goes_first(file):
    text = "text:\n  fields:\n    a: &a {top: 5}\n    b: *a\n    c: {<<: *a, min_users: 2}\n    d: {<<: *a, top: 7}"
    fields = {"a": {"top": 5}, "b": {"top": 5}, "c": {"top": 5, "min_users": 2}, "d": {"top": 7}}
    assert said(file, text)["text"] == {"fields": fields}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("spark: &x {settings: *x}", "contains itself; remove the alias"),
        ("sweep: &x {space: {a: [*x]}}", "contains itself; remove the alias"),
        (
            "spark:\n  settings:\n    a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
            + "\n".join(f"    a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)),
            "unfold to more than 100,000 values",
        ),
        ("spark: " + "[" * 600 + "]" * 600, "nests too deeply"),
        ("spark: {master: a, master: b}", r"'master' stands twice \(line \d+\)"),
        ("spark: {[a]: b}", r"the key in line \d+ is a list or a mapping"),
        ("spark: {<<: 3}", "<< in line .* takes a mapping"),
    ],
)
def test_a_file_that_has_no_end_or_says_something_twice_is_refused_at_once(file, change, message):
    with pytest.raises(InputError, match=message):
        said(file, change)


def test_a_file_that_is_not_text_is_refused_by_name(file):
    file.write_bytes("name: churn".encode("utf-16"))
    with pytest.raises(InputError, match=f"{file} is not text in UTF-8"):
        read_file(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("task: {cutoffs: {train: 2024-01-29}}", r"cutoffs\.train is '2024-01-29'; .*list.* such as \[2024-01-29\] or"),
        ("task: {cutoffs: {train: {first: 2024-01-29}}}", r"task\.cutoffs\.train\.last is missing;"),
        (
            "task: {label: {kind: vanish}}",
            r"task\.label\.kind is 'vanish'; give one of absent, exists, sum, count, which",
        ),
        ("task: {label: {tiers: 50}}", r"task\.label\.tiers is 50; give a list .*such as \[0, 50, 200\]"),
        ("task: {label: {tiers: [a]}}", r"task\.label\.tiers\[0\] is 'a'; give a finite number"),
        (f"task: {{label: {{top: 1{'0' * 30}}}}}", "task.label.top is 10+; give a whole number .*below 10"),
        ("data: {sources: log.csv}", r"data\.sources is 'log\.csv'; .*such as \[{path: logs/\*\.parquet}\]"),
        ("data: {sources: {path: log.csv}}", r"data\.sources is a mapping; give a list"),
        ("data: {sources: [{pth: log.csv}]}", r"data\.sources\[0\]\.pth is no setting; did you mean .*\.path\?"),
        (
            "data: {sources: [{columns: [a]}]}",
            r"data\.sources\[0\]\.columns is a list; give a mapping or null, such as",
        ),
        ("text: words", "text is 'words'; give a mapping with style, header, fields, max_events"),
        ("text: [words]", "text is a list; give a mapping"),
        ("text: {foo: {}}", r"text\.foo is no setting; text has style, header"),
        ("text: {max_evnts: 3}", r"text\.max_evnts is no setting; did you mean text\.max_events\?"),
        ("text: {style: prose}", r"text\.style is 'prose'; give one of words, sentences"),
        ("text: {header: recency}", r"text\.header is 'recency'; give a list .*such as \[recency, counts\]"),
        ("text: {fields: [shop]}", r"text\.fields is a list; give a mapping, such as {event_type: {top: 20}}"),
        ("text: {fields: {shop: 5}}", r"text\.fields\.shop is 5; give a mapping with top, .*such as {top: 20}"),
        ("text: {fields: {shop: {top: many}}}", r"text\.fields\.shop\.top is 'many'; give a whole number or null"),
        ("model: {peft: lora}", r"model\.peft is 'lora'; give a mapping or null, such as {method: lora}"),
        ("model: {peft: {method: lora, lora_alpha: .nan}}", r"model\.peft\.lora_alpha is \.nan; .*a finite number"),
        ("model: {freeze: head}", r"model\.freeze is 'head'; give one of embeddings, encoder or a whole number"),
        ("model: {from_scratch: {dropout: 2}}", r"model\.from_scratch\.dropout is 2; give a number from 0 to below 1"),
        ("model: {from_scratch: {dropout: 1}}", r"from_scratch\.dropout is 1; give a number from 0 to below 1"),
        ("finetuning: {event_dropout: 1.0}", r"event_dropout is 1\.0; give a number from 0 to below 1"),
        (
            "finetuning: {class_weights: balanced}",
            "'balanced'; give one of none, auto or a mapping, such as {churn",
        ),
        ("finetuning: {class_weights: {churn: .nan}}", r"class_weights\.churn is \.nan; give a finite number"),
        ("finetuning: {max_train_examples: 0}", "max_train_examples is 0; give a whole number above 0 or null"),
        ("training: {learning_rate: .nan}", r"training\.learning_rate is \.nan; give a finite number"),
        ("training: {weight_decay: .inf}", r"training\.weight_decay is \.inf; give a finite number"),
        ("training: {num_train_epochs: -.inf}", r"training\.num_train_epochs is -\.inf; give a finite number"),
        ("training: {max_steps: 8.5}", r"training\.max_steps is 8\.5; give a whole number"),
        ("training: {max_steps: true}", r"training\.max_steps is true; give a whole number"),
        ("training: {output_dir: x}", r"training\.output_dir is no setting"),
        ("evaluation: {costs: 3}", r"evaluation\.costs is 3; .*such as {contact: 1, kept_customer: 25}"),
        ("evaluation: {costs: {contact: 1}}", r"evaluation\.costs\.kept_customer is missing; .*contact, kept_customer"),
        ("evaluation: {costs: {contact: .inf, kept_customer: 2}}", r"evaluation\.costs\.contact is \.inf"),
        ("evaluation: {slices: [country]}", r"evaluation\.slices is a list; give a mapping, such as {new:"),
        ("evaluation: {stack: maybe}", r"evaluation\.stack is 'maybe'; give true or false"),
        ("sweep: {space: [a]}", r"sweep\.space is a list; give a mapping, such as {training\.learning_rate"),
        ("seeds: 3", r"seeds is 3; give a list of which each is a whole number, such as \[0, 1, 2\]"),
        ("seeds: [1.5]", r"seeds\[0\] is 1\.5; give a whole number"),
        ("engine: dask", "engine is 'dask'; give one of duckdb, spark"),
        ("foo: {}", "foo is no setting"),
        ("training.learning_rate:", r"training\.learning_rate is null"),
        (f"text: {'x' * 300}", "text is 'x{80} \\.\\.\\.'; give a mapping"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_what_was_given_what_is_allowed_and_an_example(file, change, message):
    with pytest.raises(InputError, match=message) as refused:
        said(file, change)
    assert str(refused.value).startswith(f"{file}: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task.cutoffs.train", "2024-01-29"], r"^task\.cutoffs\.train is '2024-01-29'; .*such as \[2024-01-29\]"),
        (["--evaluation.costs", "{contact: 1"], r"^evaluation\.costs: this is not valid YAML"),
        (["--text.foo", "{}"], r"^text\.foo is no setting"),
        (["--foo", "1"], "^foo is no setting"),
        (["--name.first", "1"], r"^name\.first is no setting, as name is one value"),
        (["--text.max_events", "1:30"], "^text.max_events is 1:30; give a whole number$"),
        (["--text.max_events", "010"], "^text.max_events is 010; give a whole number$"),
        (["--training.learning_rate", "1:30.5"], "^training.learning_rate is 1:30.5; give a finite number"),
        (["--seeds", "a"], "^--seeds is 'a'; give a whole number, such as 0 1 2$"),
        (["--seeds", "[0, a]"], r"^--seeds\[1\] is 'a'; give a whole number, such as 0 1 2$"),
        (["--training.learning_rate"], r"^--training\.learning_rate needs a value"),
        (["--training.learning_rate", "--smoke"], r"^--training\.learning_rate needs a value"),
        (["--model.peft", "{method: lora, method: ia3}"], "^model.peft: 'method' stands twice"),
        (["--training.max_steps", "1e3"], r"^training\.max_steps is 1e3; give a whole number"),
        (["--data", "null"], "^--data null leaves no setting"),
    ],
)
def test_the_command_line_is_refused_like_a_file(arguments, message):
    with pytest.raises(InputError, match=message):
        read_arguments(arguments)


def test_texts_of_the_command_line_are_no_yaml_and_its_lists_and_mappings_are():
    arguments = ["--task.label.where", "{a: b} = '#1'", "--seeds", "1", "2", "--data.sources+", "{path: x}", "--smoke"]
    arguments += [
        "--text.fields.shop.top",
        "3",
        "--training.report_to",
        "[tensorboard]",
        "--training.learning_rate",
        "-1",
    ]
    assert read_arguments(["--seeds", "[1, 2]"]) == ["--seeds", "1", "2"]
    assert read_arguments(arguments) == [
        "--task.label.where={a: b} = '#1'",
        "--seeds",
        "1",
        "2",
        '--data.sources+={"path": "x"}',
        "--smoke",
        "--text.fields.shop.top=3",
        '--training.report_to=["tensorboard"]',
        "--training.learning_rate=-1",
    ]
