"""What does not fit a run, its folder or its data is refused, and weights that were not trained are never kept."""

import json
import shutil

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from data_prep import InputError
from data_prep.prepare import prepare
from finetune.evaluation.evaluate import evaluate
from finetune.experiment.effects import with_effect
from finetune.runs import read_trained_settings
from finetune.training.checkpoints import alone
from finetune.training.pretrain import pretrain
from finetune.training.train import train
from tests.finetune.training.tiny_runs import NO_CHANCE, experiment


def test_settings_without_effect_that_an_older_version_told_of_are_no_other_settings(trained, tmp_path):
    log = json.loads((trained.run_folder / "training_log.json").read_text())
    log["settings"] |= {"training.logging_nan_inf_filter": "True"}
    (tmp_path / "training_log.json").write_text(json.dumps(log))
    assert with_effect(read_trained_settings(tmp_path)) == read_trained_settings(trained.run_folder)


def test_two_commands_do_not_train_in_one_folder(prepared, tmp_path):
    run = experiment(prepared, tmp_path, *NO_CHANCE)
    with alone(run.run_folder, True), pytest.raises(InputError, match="is being trained by another command"):
        train(run)
    train(run)


def test_weights_that_have_learned_from_later_histories_are_refused(prepared, tiny, tmp_path):
    """Their words would tell of the time that the model is tested on."""
    start = pretrain(experiment(prepared, tmp_path / "late"))
    (model,) = train(experiment(prepared, tmp_path / "late"))
    early = ["--task.cutoffs", '{"train": ["2024-01-29"], "validation": ["2024-02-12"], "test": ["2024-03-18"]}']
    made = experiment(tiny, tmp_path / "runs", *early)
    prepare(made.name, made.data, made.task, made.text)
    for weights, seen in ((start, "2024-02-19"), (model, "2024-03-04")):
        for steps, step in (("0", train), ("4", pretrain)):
            more = ["--model.name_or_path", str(weights), "--pretraining.max_steps", steps]
            with pytest.raises(InputError, match=f"has learned from histories up to {seen}, .* is 2024-02-12"):
                step(experiment(tiny, tmp_path / "runs", *early, *more))


def test_a_run_of_several_seeds_and_one_without_do_not_share_a_folder(prepared, tmp_path):
    train(experiment(prepared, tmp_path / "one", *NO_CHANCE))
    with pytest.raises(InputError, match="holds a run without --seeds"):
        train(experiment(prepared, tmp_path / "one", *NO_CHANCE, "--seeds", "0", "1"))
    train(experiment(prepared, tmp_path / "two", *NO_CHANCE, "--seeds", "0"))
    with pytest.raises(InputError, match="holds a run of several --seeds"):
        train(experiment(prepared, tmp_path / "two", *NO_CHANCE))


def test_a_folder_with_other_things_is_refused_and_left_alone(prepared, tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "thesis.docx").write_text("years of work")
    with pytest.raises(InputError, match=r"thesis\.docx"):
        train(experiment(prepared, tmp_path, *NO_CHANCE))
    assert [path.name for path in (tmp_path / "tiny").iterdir()] == ["thesis.docx"]


@pytest.mark.parametrize(
    "path", ["model/weights.bin", "checkpoints/checkpoint-4/model.safetensors", "pretrained/w.bin"]
)
@pytest.mark.parametrize("step", [train, pretrain])
def test_a_model_and_checkpoints_of_another_program_are_refused_and_left_alone(prepared, tmp_path, path, step):
    strange = tmp_path / "tiny" / path
    strange.parent.mkdir(parents=True)
    strange.write_text("years of work")
    with pytest.raises(InputError, match=path.split("/")[0]):
        step(experiment(prepared, tmp_path))
    assert strange.read_text() == "years of work"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--model.peft", '{"method": "lora"}'], "pretraining.max_steps"),
        (["--model.name_or_path", "no/such-model"], "no/such-model"),
        (["--model.from_scratch.hidden_size", "1000000"], "needs .* GiB to be trained"),
        (["--training.report_to", "wandb"], "wandb"),
        (["--training.resume_from_checkpoint", "true"], "resume_from_checkpoint"),
        (["--training.resume_from_checkpoint", "nowhere"], "nowhere"),
        (["--finetuning.class_weights", '{"loss": 3}'], "loss"),
        (["--model.freeze", "encoder"], "freeze"),
        (["--finetuning.class_weights", "{}"], "class_weights"),
        (
            ["--training.dataloader_drop_last", "true", "--training.per_device_train_batch_size", "9999"],
            "dataloader_drop_last drops all",
        ),
    ],
)
def test_a_setting_that_does_not_fit_is_named_before_anything_is_written(prepared, tmp_path, arguments, named):
    with pytest.raises(InputError, match=named) as refused:
        train(experiment(prepared, tmp_path, "--pretraining.max_steps", "0", *arguments))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "tiny").exists()


UNTOLD = ["--training.eval_strategy", "no", "--training.load_best_model_at_end", "false"]


@pytest.mark.parametrize("saved", ["steps", "no"])
@pytest.mark.parametrize(("step", "section"), [(pretrain, "pretraining"), (train, "training")])
def test_weights_that_are_not_finite_are_never_kept(prepared, tmp_path, step, section, saved):
    arguments = [f"--{section}.learning_rate", "1e30", "--training.save_strategy", saved, "--training.save_steps", "4"]
    arguments += ["--pretraining.max_steps", "4" if step is pretrain else "0"]
    with pytest.raises(InputError, match=rf"^{section}\.learning_rate: the weights are no numbers any more"):
        step(experiment(prepared, tmp_path, *UNTOLD, *arguments))
    assert not [*tmp_path.rglob("*.safetensors")]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--training.learning_rate", "1e-30", "--training.lr_scheduler_type", "constant"],
        ["--training.adam_epsilon", "1e300"],
        ["--training.max_grad_norm", "1e-30", "--pretraining.max_steps", "0"],
    ],
    ids=["rate", "epsilon", "gradient"],
)
@pytest.mark.parametrize(("step", "section"), [(pretrain, "pretraining"), (train, "training")])
def test_weights_that_training_has_not_changed_are_never_kept(prepared, tmp_path, step, section, arguments):
    asked = ["--pretraining.max_steps", "4" if step is pretrain else "0"]
    given = [text.replace("training.learning_rate", f"{section}.learning_rate") for text in arguments]
    with pytest.raises(InputError, match=rf"^{section}\.learning_rate .* has changed no weight in \d steps; raise it"):
        step(experiment(prepared, tmp_path, *given, *asked))
    assert not [*tmp_path.rglob("*.safetensors")]


def test_an_adapter_that_training_has_not_changed_is_not_kept_either(prepared, tmp_path):
    base = ["--pretraining.max_steps", "4"]
    pretrain(experiment(prepared, tmp_path, *base))
    idle = ["--model.peft", '{"method": "lora"}', "--training.learning_rate", "1e-30"]
    with pytest.raises(InputError, match="has changed no weight"):
        train(experiment(prepared, tmp_path, *base, *idle))


@pytest.mark.parametrize(
    ("peft", "named"),
    [({"method": "magic"}, "magic"), ({"method": "poly"}, "poly"), ({"method": "lora", "rank": 4}, "rank")],
)
def test_a_peft_method_or_field_that_peft_does_not_know_is_named(prepared, tmp_path, peft, named):
    pretrain(experiment(prepared, tmp_path))
    with pytest.raises(InputError, match=named):
        train(experiment(prepared, tmp_path, "--model.peft", json.dumps(peft)))


def test_data_pretraining_and_model_of_other_settings_are_refused(tiny, tmp_path):
    def step(run, *arguments):
        return run(experiment(tiny, tmp_path / "runs", *arguments))

    def prepare_again(made):
        return prepare(made.name, made.data, made.task, made.text)

    step(prepare_again)
    step(pretrain)
    with pytest.raises(InputError, match=r"`task`; run scripts/prepare\.py"):
        step(train, "--task.label.horizon", "7 days")
    with pytest.raises(InputError, match=r"settings of model or pretraining; run scripts/pretrain\.py"):
        step(train, "--model.from_scratch.hidden_size", "32")
    step(train)
    shorter = ["--text.max_events", "2"]
    with pytest.raises(InputError, match=r"`text`; run scripts/prepare\.py"):
        step(evaluate, *shorter)
    step(prepare_again, *shorter)
    with pytest.raises(InputError, match=r"run scripts/pretrain\.py"):
        step(train, *shorter, "--training.resume_from_checkpoint", "false")
    with pytest.raises(InputError, match=r"other data .* run scripts/train\.py"):
        step(evaluate, *shorter)


def test_validation_labels_that_are_all_alike_choose_no_checkpoint(prepared, tmp_path):
    made = experiment(prepared, tmp_path / "runs", *NO_CHANCE)
    shutil.copytree(made.data_folder, tmp_path / "data/tiny")
    path = tmp_path / "data/tiny/validation.parquet"
    rows = pq.read_table(path)
    pq.write_table(rows.filter(pc.equal(rows["label"], 0)), path)
    folder = ["--data.folder", str(tmp_path / "data")]
    with pytest.raises(InputError, match=r"labels are 0: no auroc .*metric_for_best_model log_loss"):
        train(experiment(prepared, tmp_path / "runs", *NO_CHANCE, *folder))
    train(experiment(prepared, tmp_path / "runs", *NO_CHANCE, *folder, "--training.metric_for_best_model", "log_loss"))


def test_training_before_preparing_or_pretraining_names_the_command_to_run(prepared, tiny, tmp_path):
    with pytest.raises(InputError, match=r"prepare\.py"):
        train(experiment(tiny, tmp_path / "runs"))
    with pytest.raises(InputError, match=r"pretrain\.py"):
        train(experiment(prepared, tmp_path / "runs"))
