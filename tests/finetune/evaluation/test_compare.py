import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from sklearn.metrics import mean_absolute_error, roc_auc_score

from data_prep import InputError
from finetune.evaluation.compare import compare_runs
from finetune.figures.measures import MAIN
from finetune.figures.metrics import compute_metrics
from finetune.report.comparison import table, write_page
from tests.browser import assert_quiet_and_narrow
from tests.metrics_json import CLASSES, least_metrics

ROWS = 600


def rows(task: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and what a perfect model would say; two rows a user."""
    random = np.random.default_rng(0)
    if task == "value":
        labels = random.gamma(2, 20, ROWS)
        return labels, labels
    if task == "binary":
        labels = random.integers(0, 2, ROWS)
        return labels, labels.astype(float)
    classes = random.integers(0, 3, ROWS)
    perfect = np.eye(3)[classes]
    if task == "survival":
        return np.array([[1, -1], [0, 1], [0, 0]], np.int8)[classes], np.array([[1.0, 1], [0, 1], [0, 0]])[classes]
    return (classes if task == "tiers" else perfect.astype(np.int8)), perfect


def write_run(
    folder: Path, task: str = "binary", noise: float = 0.8, seed: int = 0, plain: str | None = None, **changes
) -> Path:
    """An evaluated run as scripts/train.py and scripts/evaluate.py leave it; the more noise, the worse its scores."""
    labels, perfect = changes.pop("rows", rows(task))
    baseline = changes.pop("baseline", None)  # the noise of one
    random = np.random.default_rng(seed)
    if task == "value":
        scores = perfect + 20 * noise * random.normal(size=perfect.shape)
    else:
        chance = random.random(perfect.shape)
        scores = (1 - noise) * perfect + noise * (np.sort(chance, axis=1) if task == "survival" else chance)
        scores = scores / scores.sum(axis=1, keepdims=True) if task == "tiers" else scores
    order = random.permutation(len(labels))
    baselines = {}
    if baseline is not None:
        other = np.random.default_rng(99)
        baselines["gradient_boosting"] = (1 - baseline) * perfect + baseline * other.random(perfect.shape)
        baselines["blend"] = perfect  # no rival, as it knows the model's score
    columns = {
        "user_id": pa.array([f"u{i // 2:03}" for i in order]),
        "cutoff": pa.array(np.array(["2024-03-01", "2024-04-01"], "datetime64[us]")[order % 2]),
        "label": pa.array(list(labels[order])),
        "score": pa.array(list(scores[order])),
    } | {name: pa.array(list(of[order])) for name, of in baselines.items()}
    (folder / "predictions").mkdir(parents=True)
    pq.write_table(pa.table(columns), folder / "predictions" / "test.parquet")
    areas = {name: roc_auc_score(labels, of) for name, of in baselines.items()}
    metrics = least_metrics(folder.name, task, changes.pop("validation", 0.75), areas)
    metrics |= {"question": "Who? SQL", "plain_question": plain}
    config = {"name": folder.name, "seeds": [], "data": {"folder": str(folder)}, "model": {"peft": None}}
    config["training"] = {"learning_rate": 0.001, "max_steps": 100}
    for key, value in changes.items():
        section, _, name = key.partition("_")
        config[section][name] = value
    log = {"trainable_parameters": 1234, "total_parameters": 5678, "steps": 100, "seconds": 12.5}
    for name, content in (("metrics.json", metrics), ("training_log.json", log)):
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder


def with_seeds(run: Path, noises: list[float], validation: float = 0.7) -> Path:
    """The run as one of several seeds, whose models have noise of their own; its score column is that of the first."""
    config = yaml.safe_load((run / "config.yaml").read_text()) | {"seeds": list(range(len(noises)))}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    path = run / "predictions" / "test.parquet"
    table = pq.read_table(path)
    labels = table["label"].to_numpy()
    for seed, noise in enumerate(noises):
        shutil.copytree(run, run / f"seed-{seed}", ignore=shutil.ignore_patterns("seed-*"))
        scores = (1 - noise) * labels + noise * np.random.default_rng(seed).random(len(labels))
        table = table.append_column(f"score_of_seed_{seed}", pa.array(scores))
    pq.write_table(table, path)
    metrics = json.loads((run / "metrics.json").read_text())
    single = {"auroc": 0.7, "deviation": 0.01, "validation": validation}
    metrics["single"] = single | {"baselines": {"mean_of_seeds": {"auroc": 0.7}}}
    (run / "metrics.json").write_text(json.dumps(metrics))
    return run


def test_of_several_seeds_a_single_model_is_compared_over_users_and_seeds(tmp_path):
    several = with_seeds(write_run(tmp_path / "several", baseline=0.78), [0.7, 0.7, 0.95], 0.8)
    one = write_run(tmp_path / "one", noise=0.7, seed=7, baseline=0.78)
    compared = compare_runs([several, one], resamples=300)
    runs, table_of = by_name(compared), pq.read_table(several / "predictions" / "test.parquet")
    labels, each = table_of["label"], [table_of[f"score_of_seed_{seed}"] for seed in range(3)]
    assert runs["several"]["auroc"] == pytest.approx(np.mean([roc_auc_score(labels, scores) for scores in each]))
    assert (runs["several"]["seeds"], runs["one"]["seeds"]) == (3, 1)
    assert (runs["several"]["validation"], runs["one"]["validation"]) == (0.8, 0.75)
    # Two seeds are ahead of the baseline and one is far behind: which one you would get, nobody can say.
    wide, narrow = (runs[name]["to_rival_interval"] for name in ("several", "one"))
    assert wide[0] < 0 < wide[1]
    assert wide[1] - wide[0] > 1.5 * (narrow[1] - narrow[0])
    assert runs["several"]["beside_rival"] == "level"
    assert runs["one"]["beside_rival"] == "ahead"
    assert "of several (3) with several seeds a single model, over users and seeds" in " ".join(table(compared).split())
    assert "a single model, over users and seeds" in write_page(compared, tmp_path / "page.html").read_text()


def test_a_run_of_seeds_whose_scores_an_older_version_did_not_keep_is_refused(tmp_path):
    run, other = (write_run(tmp_path / name, seed=seed) for seed, name in enumerate("ab"))
    with_seeds(run, [0.7, 0.7])
    path = run / "predictions" / "test.parquet"
    pq.write_table(pq.read_table(path).drop_columns("score_of_seed_1"), path)
    with pytest.raises(InputError, match=r"has no scores of single seeds; run scripts/evaluate.py again"):
        compare_runs([run, other])


def by_name(compared: dict) -> dict[str, dict]:
    return {run["name"]: run for run in compared["runs"]}


@pytest.mark.parametrize("task", MAIN)
def test_rows_in_any_order_are_compared_by_the_main_measure_of_each_task(tmp_path, task):
    for name, noise, seed in (("good", 0.3, 1), ("bad", 0.95, 2), ("middling", 0.7, 3)):
        write_run(tmp_path / name, task, noise, seed)
    compared = compare_runs([tmp_path / name for name in ("bad", "good", "middling")], resamples=100)
    main = MAIN[task]
    assert (compared["task"], compared["main"], compared["rows"], compared["users"]) == (task, main, ROWS, ROWS / 2)
    assert [run["name"] for run in compared["runs"]] == ["good", "middling", "bad"]
    assert (compared["best"], compared["against"]) == ("good", "good")
    assert [run["standing"] for run in compared["runs"]] == ["best", "behind", "behind"]
    for run in compared["runs"]:
        predictions = pq.read_table(Path(run["folder"]) / "predictions" / "test.parquet")
        labels, scores = (np.array(predictions[name].to_pylist()) for name in ("label", "score"))
        if task == "value":
            by_hand = mean_absolute_error(labels, scores)
        elif task == "survival":
            by_hand = compute_metrics(task, labels, scores, horizons=CLASSES[task])[main]
        else:
            by_hand = roc_auc_score(labels, scores, **{"multi_class": "ovr"} if task == "tiers" else {})
        assert run[main] == pytest.approx(by_hand)
        assert run["difference"] == pytest.approx(run[main] - compared["runs"][0][main])
        low, high = run["difference_interval"]
        assert low <= run["difference"] <= high
        assert (low, high) == (0, 0) if run["name"] == "good" else (low > 0 if task == "value" else high < 0)
    assert compared["take"] == "good"
    said = compared["verdict"]
    assert said["headline"] == "Of these runs take good."
    assert "is better than that of each of the other 2 runs, by more than chance" in said["sure"]
    assert said["sure"].endswith("; lower is better.") == (task == "value")
    assert said["rival"].endswith("evaluate them again to see boosting beside them.")


def test_runs_whose_differences_include_zero_are_level_and_none_is_called_the_best(tmp_path):
    for name, noise, seed in (("one", 0.8, 1), ("two", 0.8, 2), ("same", 0.8, 2), ("bad", 0.97, 4)):
        write_run(tmp_path / name, "binary", noise, seed, validation=0.76 if name == "two" else 0.75)
    compared = compare_runs(sorted(tmp_path.iterdir()), resamples=200)
    standing = {run["name"]: run["standing"] for run in compared["runs"]}
    assert standing == {"one": "level", "two": "level", "same": "level", "bad": "behind"}
    assert compared["best"] is None
    assert compared["take"] == "two"  # the best on validation of those that are level
    sure = compared["verdict"]["sure"]
    assert re.search(r"these rows cannot tell one \(\S+\), same \(\S+\) and two \(\S+\) apart", sure)
    assert re.search(r"the best on validation; bad \(0\.\d{4}\) is worse, by more than chance\.", sure)
    runs = by_name(compared)
    assert runs["same"]["difference"] == runs["two"]["difference"]
    assert runs["same"]["difference_interval"] == runs["two"]["difference_interval"]


def test_each_run_can_be_compared_with_the_first_that_is_given(tmp_path):
    write_run(tmp_path / "baseline", noise=0.9, seed=1)
    write_run(tmp_path / "twin", noise=0.9, seed=1)
    write_run(tmp_path / "better", noise=0.4, seed=2)
    folders = [tmp_path / name for name in ("baseline", "better", "twin")]
    compared = compare_runs(folders, "first", resamples=100)
    runs = by_name(compared)
    assert (compared["against"], compared["best"]) == ("baseline", "better")
    assert runs["better"]["difference_interval"][0] > 0
    assert runs["twin"]["difference"] == 0
    assert runs["twin"]["difference_interval"] == [0, 0]
    lines = table(compared).splitlines()
    assert "minus baseline" in lines[0]
    line = next(line for line in lines if line.startswith("better"))
    assert f"+{runs['better']['difference']:.4f} [+" in line
    assert re.search(r"best\s+0\.7500\s+1,234\s+100\s+12$", line)


def test_settings_that_differ_are_shown_and_others_and_the_names_are_not(tmp_path):
    write_run(tmp_path / "full")
    write_run(tmp_path / "lora", model_peft={"method": "lora", "r": 16}, training_learning_rate=0.003)
    compared = compare_runs([tmp_path / "full", tmp_path / "lora"], resamples=20)
    assert compared["settings"] == ["model.peft.method", "model.peft.r", "training.learning_rate"]
    runs = by_name(compared)
    assert runs["full"]["settings"] == dict.fromkeys(compared["settings"][:2]) | {"training.learning_rate": "0.001"}
    assert "training.learning_rate: full 0.001, lora 0.003" in table(compared)


@pytest.mark.parametrize(
    ("noise", "said"),
    [
        (0.95, "Of these runs take better, which is better than gradient boosting."),
        (0.7, "Of these runs take better, which cannot be told apart from gradient boosting."),
        (0.05, "Of these runs take better, but gradient boosting is better still."),
    ],
)
def test_the_headline_has_the_best_baseline(tmp_path, noise, said):
    write_run(tmp_path / "better", noise=0.7, seed=99, baseline=noise)
    write_run(tmp_path / "worse", noise=0.97, seed=2)
    compared = compare_runs([tmp_path / "better", tmp_path / "worse"], resamples=100)
    assert compared["verdict"]["headline"] == said
    assert said in write_page(compared, tmp_path / "compare.html").read_text(encoding="utf-8")


def test_the_question_is_asked_in_words_where_the_runs_have_them(tmp_path):
    for name, plain in (("new", "Who leaves in the 14 days after a day?"), ("old", None)):
        for at in (1, 2):
            write_run(tmp_path / name / f"run{at}", seed=at, plain=plain)
        page = write_page(compare_runs([*(tmp_path / name).iterdir()], resamples=20), tmp_path / f"{name}.html")
        question = f'<p class="question">{plain or "Who? SQL"}</p>'
        assert question in page.read_text(encoding="utf-8")
    assert "SQL" not in (tmp_path / "new.html").read_text(encoding="utf-8")


def test_seeds_stand_behind_the_settings_and_are_called_chance(tmp_path):
    for at in (1, 2):
        write_run(tmp_path / f"run{at}", seed=at, training_seed=at, training_weight=at)
    compared = compare_runs([tmp_path / "run1", tmp_path / "run2"], resamples=20)
    assert compared["settings"] == ["training.weight", "training.seed"]
    page = write_page(compared, tmp_path / "compare.html").read_text(encoding="utf-8")
    assert "Seed, which is chance and no choice" in page
    assert "differ in the seed alone" not in page
    for at in (1, 2):
        write_run(tmp_path / f"twin{at}", seed=at, training_seed=at)
    alone = compare_runs([tmp_path / "twin1", tmp_path / "twin2"], resamples=20)
    assert "The runs differ in the seed alone, so that what lies between them is chance." in alone["verdict"]["sure"]


def test_runs_of_one_name_are_told_apart_by_their_folders_and_seeds_add_up_their_time(tmp_path):
    first, second = write_run(tmp_path / "a" / "shop"), with_seeds(write_run(tmp_path / "b" / "shop"), [0.8, 0.8])
    (first / "training_log.json").write_text(json.dumps({"steps": 3}))
    runs = by_name(compare_runs([first, second], resamples=20))
    assert set(runs) == {str(first), str(second)}
    assert runs[str(second)]["seconds"] == 25
    assert (runs[str(first)]["seconds"], runs[str(first)]["steps"]) == (None, 3)


def test_labels_of_one_class_leave_the_runs_untold(tmp_path):
    nothing = np.zeros(ROWS, int), np.full(ROWS, 0.5)
    for seed in (0, 1):
        write_run(tmp_path / f"run{seed}", seed=seed, rows=nothing)
    compared = compare_runs(sorted(tmp_path.iterdir()), resamples=20)
    assert compared["best"] is None
    assert "cannot tell the runs apart" in compared["verdict"]["headline"]
    assert "\u2013" in table(compared)
    page = write_page(compared, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Only 0 positives" in page
    assert "<figure>" not in page


def test_few_positives_are_said(tmp_path):
    labels = np.zeros(ROWS, int)
    labels[:20] = 1
    for seed in (0, 1):
        write_run(tmp_path / f"run{seed}", seed=seed, rows=(labels, labels.astype(float)))
    compared = compare_runs(sorted(tmp_path.iterdir()), resamples=20)
    assert compared["verdict"]["sure"].endswith("With only 20 positives that is a guess.")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """Runs of several kinds beside each other."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("a", "b"):
        write_run(folder / name, seed=ord(name))
    labels, perfect = rows("binary")
    write_run(folder / "sample", rows=(labels[:100], perfect[:100]))
    write_run(folder / "labels", rows=(1 - labels, 1 - perfect))
    write_run(folder / "value", "value")
    (folder / "empty").mkdir()
    write_run(folder / "old")
    (folder / "old" / "metrics.json").write_text('{"name": "old", "test": {}}')
    write_run(folder / "damaged")
    (folder / "damaged" / "predictions" / "test.parquet").write_bytes(b"PAR1")
    write_run(folder / "nan")
    table = pq.read_table(folder / "nan" / "predictions" / "test.parquet")
    table = table.set_column(3, "score", pa.array(np.full(len(table), np.nan)))
    pq.write_table(table, folder / "nan" / "predictions" / "test.parquet")
    write_run(folder / "list")
    (folder / "list" / "config.yaml").write_text("[]")
    write_run(folder / "half")
    metrics = json.loads((folder / "half" / "metrics.json").read_text())
    del metrics["validation"]
    (folder / "half" / "metrics.json").write_text(json.dumps(metrics))
    (folder / "compare.html").write_text("EventScribe comparison: an earlier page")
    (folder / "registry.jsonl").write_text("")
    return folder


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a"], r"needs two runs, and 1 is given"),
        (["a", "compare.html"], r"needs two runs, and 1 is given"),
        (["a", "b", "../runs0/a"], r"a is given twice"),
        (["a", "empty"], r"empty is no evaluated run \(metrics\.json is missing\).*scripts/evaluate\.py"),
        (["a", "nowhere"], r"nowhere is no evaluated run"),
        (["a", "old"], r"old/metrics\.json is of an older version"),
        (["a", "list"], r"list/config\.yaml is damaged"),
        (["a", "half"], r"half/metrics\.json is damaged"),
        (["a", "damaged"], r"damaged/predictions/test\.parquet is damaged"),
        (["a", "sample"], r"sample has other test rows \(100\) than \S+a \(600\); no two of these runs are comparable"),
        (["sample", "a", "b"], r"sample has other test rows \(100\) than \S+a \(600\); comparable are \S+a \S+b$"),
        (["a", "labels"], r"labels has other labels on the same test rows than \S+a;"),
        (["a", "value"], r"value predicts another kind of label \(value\) than \S+a \(binary\);"),
        (["a", "nan"], r"nan: 600 of 600 rows are NaN or infinite"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_sentence(folders, names, said):
    with pytest.raises(InputError, match=said) as refusal:
        compare_runs([folders / name for name in names], resamples=5)
    assert "\n" not in str(refusal.value)


def test_the_command_prints_the_table_and_writes_a_page_that_asks_for_nothing(folders, commands):
    given = [folders / name for name in ("a", "b", "compare.html", "registry.jsonl")]
    code, printed = commands.run("compare.py", *given)
    assert code == 0, printed
    assert printed.endswith(f"comparison: {folders}/compare.html\n")
    assert re.search(r"^[ab] +0\.\d{4} \[0\.\d{4} to 0\.\d{4}\]", printed, re.MULTILINE)
    page = (folders / "compare.html").read_text(encoding="utf-8")
    assert "2 runs on the same test rows" in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert all("aria-label" in svg for svg in re.findall(r"<svg[^>]*>", page))


def test_a_page_of_something_else_is_not_replaced(folders, tmp_path):
    (tmp_path / "report.html").write_text("a report")
    with pytest.raises(InputError, match=r"report\.html is no comparison"):
        write_page(compare_runs([folders / "a", folders / "b"], resamples=20), tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text() == "a report"


@pytest.mark.parametrize(
    ("noise", "standing", "said"),
    [
        (0.3, "behind", "it is better than this run by more than chance, a difference of"),
        (0.97, "ahead", "this run is better by more than chance, a difference of"),
    ],
)
def test_the_best_baseline_stands_beside_the_runs_on_the_same_rows(tmp_path, noise, standing, said):
    write_run(tmp_path / "old", seed=1)  # evaluated before its predictions had baselines
    write_run(tmp_path / "new", seed=2, noise=0.8, baseline=noise)
    compared = compare_runs([tmp_path / "old", tmp_path / "new"], resamples=100)
    predictions = pq.read_table(tmp_path / "new" / "predictions" / "test.parquet")
    by_hand = roc_auc_score(predictions["label"].to_numpy(), predictions["gradient_boosting"].to_numpy())
    assert compared["rival"]["name"] == "gradient_boosting"
    assert compared["rival"]["auroc"] == pytest.approx(by_hand)
    for run in compared["runs"]:
        assert run["to_rival"] == pytest.approx(run["auroc"] - by_hand)
        assert run["to_rival_interval"][0] <= run["to_rival"] <= run["to_rival_interval"][1]
        assert run["beside_rival"] == standing
    assert (
        f"Gradient boosting, the best baseline, has {by_hand:.4f} on the same rows: {said}"
        in compared["verdict"]["rival"]
    )
    assert ("use it for this log" in compared["verdict"]["rival"]) == (standing == "behind")
    assert re.search(r"^gradient boosting +[01]\.\d{4} .* baseline$", table(compared), re.MULTILINE)
    page = write_page(compared, tmp_path / "page.html").read_text(encoding="utf-8")
    first = re.sub(r"<[^>]+>", " ", page[page.index("<header>") : page.index("<h2")])
    assert "Gradient boosting, the best baseline" in first
    assert "Minus gradient boosting" in page
    assert_quiet_and_narrow({"compare.html": page})


def test_a_page_shows_every_run_and_marks_the_one_to_take(tmp_path):
    write_run(tmp_path / "good", noise=0.3, seed=1)
    write_run(tmp_path / "bad <b>", noise=0.9, seed=2, training_max_steps=7)
    compared = compare_runs(sorted(tmp_path.iterdir()), resamples=50)
    page = write_page(compared, tmp_path / "pages" / "page.html").read_text(encoding="utf-8")
    assert page.count('<tr class="model">') == 1
    assert "bad &lt;b&gt;" in page
    assert "<b>" not in page
    assert 'Steps <span class="small"><code>training.max_steps</code>' in page
    write_run(tmp_path / "twin", noise=0.3, seed=1)
    level = compare_runs([tmp_path / "good", tmp_path / "twin"], resamples=50)
    page = write_page(level, tmp_path / "pages" / "page.html").read_text(encoding="utf-8")
    assert page.count("take this one") == 1
    assert "the best for sure</td>" not in page
