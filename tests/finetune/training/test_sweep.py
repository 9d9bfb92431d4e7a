import json
import re
import shutil
import signal
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

import optuna
import pytest
import yaml

from data_prep import InputError
from finetune.experiment.effects import weight_settings
from finetune.experiment.parser import parse_experiment
from finetune.report.sweep_page import Search, answers
from finetune.training.pretrain import pretrain
from finetune.training.sweep import changed, sweep
from finetune.training.train import train
from tests.browser import assert_quiet_and_narrow

RATES = {"training.learning_rate": {"choices": [1e-9, 0.02]}}
RANGES = {
    "training.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "training.per_device_train_batch_size": {"choices": [16, 32]},
    "model.from_scratch.dropout": {"low": 0.0, "high": 0.3},
    "finetuning.event_dropout": {"low": 0.0, "high": 0.5},
}


def arguments(config: Path, runs: Path, space: dict, *more: str) -> list[str]:
    given = ["--config", str(config), "--runs.folder", str(runs), "--pretraining.max_steps", "0"]
    return [*given, "--sweep.space", json.dumps(space), *more]


def experiment(config: Path, runs: Path, space: dict, *more: str):
    return parse_experiment("", arguments(config, runs, space, *more))


def trials(runs: Path) -> list:
    storage = f"sqlite:///{runs / 'tiny' / 'sweep' / 'study.db'}"
    return optuna.load_study(study_name="tiny", storage=storage).get_trials()


def states(runs: Path) -> list[str]:
    return [trial.state.name for trial in trials(runs)]


def test_a_sweep_finds_the_better_of_two_learning_rates_and_train_repeats_it(prepared, tmp_path):
    page = sweep(experiment(prepared, tmp_path, RATES, "--sweep.trials", "4", "--training.max_steps", "16"))
    folder = page.parent
    assert {path.name for path in folder.iterdir()} == {".lock", "best.yaml", "study.db", "sweep.html"}
    assert {trial.params["training.learning_rate"] for trial in trials(tmp_path)} == {1e-9, 0.02}
    best = parse_experiment("", ["--config", str(folder / "best.yaml")])
    assert best.training["learning_rate"] == 0.02
    train(best)
    log = json.loads((tmp_path / "tiny" / "training_log.json").read_text())
    assert log["best_metric"] == max(trial.value for trial in trials(tmp_path))


@pytest.fixture(scope="module")
def swept(prepared, tmp_path_factory) -> tuple[Path, str]:
    """The runs' folder and the page of three trials."""
    runs = tmp_path_factory.mktemp("swept")
    return runs, sweep(experiment(prepared, runs, RANGES, "--sweep.trials", "3")).read_text()


def test_the_page_lists_every_trial_and_setting_and_asks_for_nothing(swept):
    page = swept[1]
    assert_quiet_and_narrow({"sweep.html": page})
    page = page.replace("<wbr>", "")  # where a line may break in a setting's name
    assert len(re.findall(r'<th scope="row">\d+ ?<', page)) == 3
    assert page.count("<svg role") == page.count("aria-label=") == 1 + len(RANGES)
    for name, words in zip(RANGES, ("Learning rate", "Examples in a step", "Dropout", "Share of events"), strict=True):
        assert re.search(rf'<th scope="col" class="words">{words}[^<]* <span class="small"><code>{name}</code>', page)
        assert f"<h3>{words}" in page
    assert not re.findall(r'(?:src|href)="(?!#|data:)[^"]*"|url\((?!#)|@import|<script', page.replace("xlink:", ""))


def test_the_first_trial_has_the_configs_own_settings_and_the_page_says_what_was_won(prepared, swept):
    runs, page = swept
    made = experiment(prepared, runs, RANGES)
    first, *others = trials(runs)
    assert first.params["training.learning_rate"] == made.training["learning_rate"] == 1e-3
    assert first.params["model.from_scratch.dropout"] == made.model.from_scratch.dropout
    assert all(trial.params != first.params for trial in others)
    said = re.search(r'<p class="headline">(.*?)</p>', page)[1]
    best = max(trials(runs), key=lambda trial: trial.value)
    kept = first.value > best.value - 2 * 0.0021
    assert said.startswith("Keep the settings of the config: trial 0." if kept else f"Take trial {best.number}.")
    if best.number:
        gain = f"better by {best.value - first.value:.4f} than with the config&#39;s own settings (trial 0, "
        assert f"{best.value:.4f}, {gain}{first.value:.4f})" in page
    assert "by a standard deviation of 0.0001 to 0.0021" in page


def searched(*values: float, own: int | None = 0, metric: str = "AUROC", deviation: float | None = None) -> Search:
    """A search whose trials have these values, each in a second less than the one before."""
    begin, made = datetime(2024, 3, 1), []
    for at, value in enumerate(values):
        trial = optuna.trial.create_trial(value=value)
        trial.number, trial.datetime_start, trial.datetime_complete = at, begin, begin + timedelta(seconds=9 - at)
        made.append(trial)
    lower = metric == "MAE"
    best = (min if lower else max)(made, key=lambda trial: trial.value)
    config = None if own is None else made[own]
    return Search("tiny", metric, lower, {}, len(made), made, best, config, deviation, Path("best.yaml"))


def test_where_seeds_do_as_much_the_configs_own_settings_are_kept():
    said = answers(searched(0.8440, 0.80, 0.8446))
    assert said["headline"] == (
        "Keep the settings of the config: trial 0. Trials 0 and 2 lie no further apart than other seeds can bring them."
    )
    assert "better by 0.0006 than with the config's own settings (trial 0, 0.8440)" in said["gain"]
    assert said["sure"].endswith("Of the 2 trials that cannot be told apart trial 2 took least time, 7.0 s.")
    assert (said["have"], said["taken"]) == ("The config has these settings already.", 0)


@pytest.mark.parametrize(
    ("made", "headline"),
    [
        (searched(0.80, 0.8446), "Take trial 1."),
        (searched(0.8446, 0.80), "Keep the settings of the config: trial 0."),
        (
            searched(0.80, 0.8446, 0.8440),
            "Take trial 1. Trials 1 and 2 lie no further apart than other seeds can bring them.",
        ),
        (searched(0.8440, 0.8446, deviation=0.0001), "Take trial 1."),
        (
            searched(70.9, 70.1, metric="MAE", deviation=0.5),
            "Keep the settings of the config: trial 0. Trials 0 and 1 lie no further apart than other seeds can bring "
            "them.",
        ),
        (searched(70.9, 70.1, metric="MAE"), "Take trial 1."),  # nothing is known of seeds
        (searched(0.8440, own=None), "Take trial 0."),
    ],
)
def test_the_headline_takes_the_best_trial_where_seeds_do_less(made, headline):
    assert answers(made)["headline"] == headline


def test_settings_outside_of_the_space_leave_the_gain_unknown_and_seeds_that_were_tried_are_the_noise(
    prepared, tmp_path
):
    made = experiment(prepared, tmp_path, RATES, "--sweep.trials", "1")
    made.base_folder.mkdir()
    (made.base_folder / "metrics.json").write_text(json.dumps({"main": "auroc", "single": {"deviation": 0.0123}}))
    page = sweep(made).read_text()
    assert "No finished trial has the config&#39;s own settings" in page
    assert "Between the seeds of this run it has a standard deviation of 0.0123." in page


def test_a_sweep_continues_with_the_missing_trials_and_then_does_nothing(prepared, tmp_path):
    for wanted, done in ((1, 1), (2, 2), (2, 2)):
        sweep(experiment(prepared, tmp_path, RANGES, "--sweep.trials", str(wanted)))
        assert states(tmp_path) == ["COMPLETE"] * done


def test_a_killed_trial_has_failed_and_does_not_count_as_done(prepared, tmp_path, commands):
    given = arguments(prepared, tmp_path, RANGES, "--sweep.trials", "2")
    endless = ["--training.max_steps", "100000", "--training.logging_steps", "100000", "--training.eval_steps", "90000"]
    command = commands.start("sweep.py", *given, *endless)
    place = tmp_path / "tiny" / "sweep" / "trial-0" / "checkpoints"
    limit = time.monotonic() + 60
    while not place.exists() and time.monotonic() < limit:
        time.sleep(0.1)
    assert command.kill() == -signal.SIGKILL
    assert states(tmp_path) == ["RUNNING"]
    assert place.exists()
    study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{place.parents[1] / 'study.db'}")
    few = weight_settings(parse_experiment("", given))  # the same sweep, with few steps
    study.set_user_attr("origin", study.user_attrs["origin"] | few)
    sweep(parse_experiment("", given))
    assert states(tmp_path) == ["FAIL", "COMPLETE", "COMPLETE"]
    assert not list(place.parents[1].glob("trial-*"))


def test_two_workers_share_a_study(prepared, tmp_path, commands):
    given = arguments(prepared, tmp_path, RANGES, "--sweep.trials", "4")
    workers = [commands.start("sweep.py", *given) for _ in range(2)]
    codes = [worker.wait() for worker in workers]
    said = [worker.output.read_text() for worker in workers]
    assert codes == [0, 0], said
    assert states(tmp_path) == ["COMPLETE"] * 4
    assert sum(out.count(" finished: ") for out in said) == 4
    assert len({trial.params["training.learning_rate"] for trial in trials(tmp_path)}) == 4


@pytest.mark.parametrize(("pruning", "pruned"), [("median", True), ("none", False)])
def test_pruning_ends_the_worse_trials_early(prepared, tmp_path, pruning, pruned):
    steps = ["--training.max_steps", "6", "--training.eval_steps", "2", "--sweep.pruning", pruning]
    sweep(experiment(prepared, tmp_path, RATES, "--sweep.trials", "9", "--finetuning.patience", "0", *steps))
    early = [trial for trial in trials(tmp_path) if trial.state.name == "PRUNED"]
    assert len(trials(tmp_path)) == 9
    assert bool(early) == pruned
    assert all(trial.last_step < 6 for trial in early)


@pytest.mark.parametrize(
    ("space", "named"),
    [
        ({}, "no setting"),
        ({"training.learnign_rate": {"low": 0.1, "high": 0.2}}, "learnign_rate"),
        ({"text.max_events": {"choices": [1]}}, r"text\.max_events"),
        ({"model.from_scratch": {"choices": [1]}}, "from_scratch"),
        ({"model.peft.r": {"choices": [1]}}, r"peft\.r"),
        ({"training.learning_rate": {"low": 0.2, "high": 0.1}}, "not below"),
        ({"training.learning_rate": {"low": 0, "high": 0.1, "log": True}}, "above zero"),
        ({"training.learning_rate": {"low": "a", "high": 0.1}}, "number"),
        ({"training.learning_rate": {"low": 0.1, "hihg": 0.2}}, "number"),
        ({"training.learning_rate": {"choices": []}}, "choices"),
        ({"training.metric_for_best_model": {"choices": ["auroc", "log_loss"]}}, "judges the trials"),
        ({"training.learning_rate": {"low": -1.0, "high": 0.1}}, "learning_rate is -1"),
    ],
)
def test_a_space_that_cannot_be_searched_is_named_before_any_work(prepared, tmp_path, space, named):
    with pytest.raises(InputError, match=named) as refused:
        sweep(experiment(prepared, tmp_path, space))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "tiny").exists()


def test_a_value_of_another_type_ends_with_one_sentence(prepared, tmp_path):
    with pytest.raises(InputError, match="event_dropout"):
        sweep(experiment(prepared, tmp_path, {"finetuning.event_dropout": {"choices": [0.1, 7.0]}}))
    assert not (tmp_path / "tiny").exists()


def test_a_setting_of_the_model_is_not_swept_on_one_pretraining(prepared, tmp_path):
    with pytest.raises(InputError, match=r"model\.from_scratch\.dropout .* pretraining\.max_steps"):
        sweep(experiment(prepared, tmp_path, RANGES, "--pretraining.max_steps", "4"))


def test_settings_that_are_null_and_those_after_pretraining_can_be_swept(prepared, tmp_path):
    space = {"model.freeze": {"choices": [0, 1]}, "model.pooling": {"choices": ["cls", "mean"]}}
    pretrain(experiment(prepared, tmp_path, space, "--pretraining.max_steps", "4"))
    sweep(experiment(prepared, tmp_path, space, "--sweep.trials", "1", "--pretraining.max_steps", "4"))
    assert states(tmp_path) == ["COMPLETE"]
    best = parse_experiment("", ["--config", str(tmp_path / "tiny/sweep/best.yaml")])
    assert best.model.freeze == trials(tmp_path)[0].params["model.freeze"]


def test_a_damaged_study_is_named(prepared, tmp_path):
    (tmp_path / "tiny/sweep").mkdir(parents=True)
    (tmp_path / "tiny/sweep/study.db").write_bytes(b"no database" * 999)
    with pytest.raises(InputError, match=r"study\.db is damaged"):
        sweep(experiment(prepared, tmp_path, RATES))


def test_a_range_has_ends(prepared, tmp_path):
    made = experiment(prepared, tmp_path, RATES)
    made.sweep.space = {"training.learning_rate": {"low": 0.1, "high": float("inf")}}
    with pytest.raises(InputError, match="finite numbers"):
        sweep(made)


def test_a_trial_that_cannot_be_trained_ends_alone(prepared, tmp_path):
    sweep(experiment(prepared, tmp_path, {"training.learning_rate": {"choices": [0.001, 1e30]}}, "--sweep.trials", "4"))
    assert sorted(set(states(tmp_path))) == ["COMPLETE", "PRUNED"]


def test_members_are_not_searched_with(prepared, tmp_path):
    members = {"finetuning.members": {"choices": [0, 2]}}
    for space, more in ((RATES, ["--finetuning.members", "2", "--finetuning.teacher", "0.7"]), (members, [])):
        with pytest.raises(InputError, match="a trial trains one model"):
            sweep(experiment(prepared, tmp_path, space, *more))
    assert not any(tmp_path.iterdir())


def test_a_study_of_other_settings_is_refused(prepared, tmp_path):
    sweep(experiment(prepared, tmp_path, RATES, "--sweep.trials", "1"))
    for space, more, named in ((RANGES, [], "sweep.space"), (RATES, ["--training.max_steps", "9"], "max_steps")):
        with pytest.raises(InputError, match=named):
            sweep(experiment(prepared, tmp_path, space, "--sweep.trials", "1", *more))


def test_without_optuna_the_extra_is_named(prepared, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match="extra `sweep`"):
        sweep(experiment(prepared, tmp_path, RATES))


def test_the_test_split_is_not_read(prepared, tmp_path):
    made = experiment(prepared, tmp_path / "runs", RATES, "--sweep.trials", "1")
    shutil.copytree(made.data_folder, tmp_path / "data" / "tiny")
    (tmp_path / "data" / "tiny" / "test.parquet").unlink()
    sweep(changed(made, {"data.folder": str(tmp_path / "data")}))
    assert states(tmp_path / "runs") == ["COMPLETE"]


def test_a_setting_of_peft_that_is_not_given_can_be_swept(prepared, tmp_path):
    made = experiment(prepared, tmp_path, RATES, "--model.peft", '{"method": "lora"}')
    assert changed(made, {"model.peft.r": 2}).model.peft == {"method": "lora", "r": 2}
    assert yaml.safe_load(changed(made, {"model.peft.r": 2}).resolved)["model"]["peft"]["r"] == 2
