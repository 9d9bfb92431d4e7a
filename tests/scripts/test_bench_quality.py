import json
import math
import re
import sys
from argparse import Namespace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from data_prep import InputError
from finetune.experiment.parser import parse_experiment
from finetune.figures.measures import SEED_DEVIATIONS
from tests.commands import script_module


@pytest.fixture(scope="module")
def bench(few_trees):
    sys.path.append(str(Path(__file__).parents[2] / "scripts"))  # where a script finds benchmark_jobs
    return script_module("bench_quality")


def test_every_cell_is_a_config_with_settings_that_fit(bench):
    for name, (config, changes) in bench.CELLS.items():
        asked = parse_experiment("", ["--config", str(bench.ROOT / "configs" / f"{config}.yaml"), *changes, "--smoke"])
        assert (asked.task.label.kind == "sum") == name.endswith("-value")
        assert (asked.finetuning.value_loss == "absolute_error") == name.endswith("-value")
    assert set(bench.LOGS) <= {config for config, _ in bench.CELLS.values()}


def test_cells_of_another_way_are_not_replaced(bench, tmp_path):
    path = tmp_path / "bench.json"
    path.write_text('{"machine": "1 core", "quick": true, "cells": {"a": {}}}')
    given = Namespace(output=path, quick=False, cells=["tmall-purchase"], jobs=1)
    with pytest.raises(InputError, match=r"has cells of another way \(1 core, quick\); give another file"):
        bench.main(given)
    assert '"a"' in path.read_text()


def test_cells_that_share_a_folder_are_not_run_beside_each_other(bench):
    few, moved = [[f"{name}-{users}" for users in (100, 300)] for name in ("a-labels", "a-from-b")]
    assert bench.phases([*moved, "a", *few, "b", "b-labels-100"]) == [[["a"], ["b"]], [few, ["b-labels-100"]], [moved]]
    cells = [name for phase in bench.phases(list(bench.CELLS)) for group in phase for name in group]
    assert sorted(cells) == sorted(bench.CELLS)


def test_groups_run_in_processes_of_one_thread_and_one_that_fails_is_named_with_its_log(bench, tmp_path, capfd):
    script = tmp_path / "script.py"
    script.write_text("""import json, os, sys, time
cells = sys.argv[sys.argv.index("--cells") + 1 : sys.argv.index("--seeds")]
print("told", "--quick" in sys.argv)
if "c" in cells:
    sys.exit(2)
if "slow" in cells:
    time.sleep(600)
found = {"cells": {name: {"threads": os.environ["OMP_NUM_THREADS"]} for name in [*cells, "older"]}}
open(sys.argv[sys.argv.index("--output") + 1], "w").write(json.dumps(found))
""")
    given = Namespace(seeds=[0, 1], logs=tmp_path, folder=tmp_path, quick=True, jobs=2)
    found = {}
    for cells in bench.beside(script, [["a", "b"], ["d"]], given):
        found |= cells
    assert found == {name: {"threads": "1"} for name in "abd"}
    assert (tmp_path / "groups/a-quick.log").read_text() == "told True\n"
    out, err = capfd.readouterr()
    assert sorted(out.splitlines()) == ["a and b: done", "d: done"]
    assert err == ""
    with pytest.raises(InputError, match=r"c failed; see .*groups/c-quick\.log"):
        list(bench.beside(script, [["slow"], ["c"]], given))  # and the other one is ended


def test_a_log_that_is_missing_and_an_output_that_is_a_folder_are_named_before_a_cell_runs(bench, tmp_path):
    given = Namespace(output=tmp_path, quick=False, cells=["ta-feng-value", "tmall-purchase"], jobs=2, logs=tmp_path)
    with pytest.raises(InputError, match="is a folder; name a file"):
        bench.main(given)
    given.output = tmp_path / "bench.json"
    with pytest.raises(InputError, match=r"ta_feng/transactions\.parquet is missing"):
        bench.main(given)


def test_cells_of_few_labels_share_the_pretraining_of_their_base(bench, tiny, tmp_path, monkeypatch, capsys):
    quick = ["--pretraining.max_steps", "2", "--training.max_steps", "4", "--training.eval_steps", "4"]
    few = [*quick, "--finetuning.labelled_users", "60"]
    config = str(tiny.with_suffix(""))
    monkeypatch.setattr(bench, "CELLS", {"tiny": (config, quick), "tiny-labels-60": (config, few)})
    given = Namespace(seeds=[0, 1], logs=tmp_path, folder=tmp_path, quick=False)
    found = bench.run_cell("tiny-labels-60", given)
    weights = [tmp_path / part / "pretrained/model.safetensors" for part in ("runs/tiny", "labels/60/tiny")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert json.loads((tmp_path / "labels/60/tiny/seed-0/training_log.json").read_text())["steps"] == 4
    examples = int(re.search(r"parameters on ([\d,]+) examples", capsys.readouterr().out)[1].replace(",", ""))
    table = pq.read_table(tmp_path / "data/tiny/train.parquet")
    assert examples < len(table) / 2
    assert found["rival"] == max(found["baselines"], key=found["baselines"].get)  # on test
    assert found["users"] == len(pq.read_table(tmp_path / "data/tiny/test.parquet")["user_id"].unique())


def test_a_cell_of_another_shop_starts_from_its_model_and_has_a_rival_that_moves_too(
    bench, tiny, tmp_path, monkeypatch
):
    quick = ["--pretraining.max_steps", "2", "--training.max_steps", "4", "--training.eval_steps", "4"]
    few = [*quick, "--model.from_scratch", "null", "--finetuning.labelled_users", "60"]
    config = str(tiny.with_suffix(""))
    monkeypatch.setattr(bench, "CELLS", {"tiny": (config, quick), "tiny-from-tiny-60": (config, few)})
    given = Namespace(seeds=[0, 1], logs=tmp_path, folder=tmp_path, quick=False)
    found = bench.run_cell("tiny-from-tiny-60", given)
    assert found["rival"] == max(found["baselines"], key=found["baselines"].get)  # on test
    # The other shop is the same one here, so that the regression moves to where it was made.
    assert found["baselines"][bench.MOVED] > 0.55
    assert found["moved"]["weight"] in (0, 1, 10, 100)
    started = yaml.safe_load((tmp_path / "transfer/60/tiny/config.yaml").read_text())["model"]["name_or_path"]
    assert started == str(tmp_path / "runs/tiny/seed-0/model")


def test_a_cell_compares_a_single_seed_with_the_rival_that_validation_chose(bench, tiny, tmp_path, monkeypatch, capsys):
    quick = ["--pretraining.max_steps", "0", "--training.max_steps", "4", "--training.eval_steps", "4"]
    monkeypatch.setattr(bench, "CELLS", {"tiny": (str(tiny.with_suffix("")), quick)})
    given = Namespace(
        cells=["tiny"], jobs=1, seeds=[0, 1], logs=tmp_path, folder=tmp_path, output=tmp_path / "b.json", quick=False
    )
    bench.main(given)
    found = json.loads(given.output.read_text())["cells"]["tiny"]
    metrics = json.loads((tmp_path / "runs" / "tiny" / "metrics.json").read_text())
    on_validation = {name: figures["auroc"] for name, figures in metrics["validation"]["baselines"].items()}
    assert found["rival"] == max(on_validation, key=on_validation.get)
    seeds = [metrics["seeds"][seed]["auroc"] for seed in "01"]
    assert found["single_seed"] == pytest.approx(sum(seeds) / 2)
    rival = metrics["test"]["baselines"][found["rival"]]["auroc"]
    assert found["difference"] == pytest.approx(found["single_seed"] - rival)
    assert found["interval"][0] < found["difference"] < found["interval"][1]
    gained, (low, high) = (found["blend_over_rival"][key] for key in ("difference", "interval"))
    assert gained == pytest.approx(found["baselines"]["blend"] - rival)
    assert low < gained < high
    shown = capsys.readouterr().out
    assert f"| tiny | auroc | {found['single_seed']:.4f} |" in shown
    page = (tmp_path / "bench.html").read_text()
    assert f"{found['single_seed']:.4f}" in page
    assert bench.verdict({"tiny": found}) in page
    bench.main(given)  # what is there is not run again
    assert "training" not in capsys.readouterr().out


def test_cells_that_an_older_version_measured_are_shown(bench, tmp_path):
    output = json.loads((bench.ROOT / "finetune" / "benchmarks.json").read_text())
    for cell in output["cells"].values():
        cell.pop("blend_over_rival", None)
    assert bench.table(output["cells"]).endswith("|  |")
    assert bench.verdict(output["cells"]) in bench.write_page(output, tmp_path / "bench.html").read_text()


def test_the_readmes_count_what_the_bench_found(bench):
    cells = json.loads((bench.ROOT / "finetune" / "benchmarks.json").read_text())["cells"].values()
    found = [bench.standing(cell["interval"], cell["lower_is_better"]) for cell in cells]
    counted = [str(found.count(way)) for way in ("ahead", "level", "behind")]
    said = r"ahead (?:of the best one )?on (\d+),\s+level\s+on (\d+) and behind on (\d+)"
    for readme in ("README.md", "scripts/README.md"):
        told = re.search(said, (bench.ROOT / readme).read_text())
        assert told, readme
        assert list(told.groups()) == counted


def test_the_verdict_counts_what_the_intervals_say(bench):
    cells = {
        "a": {"interval": [0.1, 0.2], "lower_is_better": False},
        "b": {"interval": [0.1, 0.2], "lower_is_better": True},
        "c": {"interval": [-0.1, 0.2], "lower_is_better": True},
        "d": {"interval": [-0.2, -0.1], "lower_is_better": True},
    }
    assert bench.verdict(cells) == (
        "Of 4 labels the model is ahead of its rival on 2 (a and d), level with its rival on 1 (c) and behind its "
        "rival on 1 (b)."
    )


def test_the_deviation_between_seeds_that_pages_tell_is_that_of_the_bench(bench):
    cells = json.loads((bench.ROOT / "finetune" / "benchmarks.json").read_text(encoding="utf-8"))["cells"]
    whole = [
        name for name in cells if cells[name]["metric"] == "auroc" and "-labels-" not in name and "-from-" not in name
    ]
    found = [cells[name]["between_seeds"] for name in whole]
    assert (math.ceil(1e4 * min(found)) / 1e4, round(max(found), 4)) == SEED_DEVIATIONS
