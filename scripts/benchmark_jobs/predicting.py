"""From raw events to a file of scores, as scripts/predict.py does it, and how much of that time the model computes."""

import json
from collections.abc import Callable
from contextlib import redirect_stdout
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark_jobs.measuring import clock, peak
from benchmark_jobs.preparing import DAYS, HORIZON, START, simulated, spread
from benchmark_jobs.texts import BERT_BASE, BERT_TINY, MAX_TOKENS, MINILM, minilm

if TYPE_CHECKING:
    from finetune.model.inference import Precision

EVENTS_OF_USER = 25
FROM_SCRATCH = {  # their texts are words, as in configs/quickstart.yaml; the others' are sentences
    BERT_TINY: {"hidden_size": 128, "layers": 2, "heads": 2},
    BERT_BASE: {"hidden_size": 768, "layers": 12, "heads": 12},
}


def trained_on(folder: Path, model: str, users: int) -> dict[str, Path]:
    """A simulated log, and the folder of a model that was trained on it for one step.

    Args:
        folder: Where both are made.
        model: minilm, bert-tiny, bert-base, or the folder of an encoder.
        users: Of the log; a few have no event.
    """
    with redirect_stdout(None):
        log = simulated(folder, users * EVENTS_OF_USER, users)
        return {"log": log, "model": _trained(model, log, folder)}


def predict_with(model: Path, log: Path, output: Path, device: str, precision: "Precision") -> dict:
    """Scores of the users of a log; `model_seconds` are those in which the model computes.

    Args:
        model: The folder of a trained model; see `trained_on`.
        log: Of the users.
        output: The file of scores.
        device: cpu or cuda.
        precision: See `finetune.model.inference.for_scoring`.
    """
    import pyarrow.parquet as pq

    from data_prep.config import DataConfig, Source
    from finetune.serving import classifier
    from finetune.serving.predict import predict_log

    data, cutoff = DataConfig([Source(path=str(log))]), START + timedelta(DAYS)
    classifier.for_scoring, spent = _timed(classifier.for_scoring, device)
    with redirect_stdout(None), clock(device) as seconds:
        predict_log(model, data, cutoff, output, precision=precision, part_users=8192)
    found = {"rows": pq.read_metadata(output).num_rows, "peak_mib": peak(device)}
    return found | {"seconds": seconds[0], "cpu_seconds": seconds[1], "model_seconds": sum(spent)}


def _trained(model: str, log: Path, folder: Path) -> Path:
    """The folder of a model that was trained for one step."""
    from data_prep.prepare import prepare
    from finetune.experiment.parser import parse_experiment
    from finetune.training.train import train

    words = model in FROM_SCRATCH
    own = {"from_scratch": FROM_SCRATCH[model]} if words else {"name_or_path": minilm() if model == MINILM else model}
    cutoffs = {split: [str(moment) for moment in moments] for split, moments in spread(3).items()}
    settings = {
        "name": "benchmark",
        "data": {"sources": [{"path": str(log)}], "folder": str(folder / "data")},
        "task": {
            "label": {"kind": "exists", "where": "event_type = 'purchase'", "horizon": f"{HORIZON.days} days"},
            "population": {"within": f"{DAYS} days"},
            "cutoffs": cutoffs,
        },
        "text": {"style": "words" if words else "sentences", "max_events": 24},
        "model": own | {"max_tokens": 128 if words else MAX_TOKENS},
        "training": {
            "max_steps": 1,
            "warmup_steps": 0,
            "per_device_train_batch_size": 8,
            "eval_strategy": "no",
            "save_strategy": "no",
            "load_best_model_at_end": False,
            "report_to": "none",
        },
        "runs": {"folder": str(folder / "runs")},
    }
    (config := folder / "config.yaml").write_text(json.dumps(settings), encoding="utf-8")
    experiment = parse_experiment("", [f"--config={config}"])
    prepare(experiment.name, experiment.data, experiment.task, experiment.text)
    train(experiment)
    return experiment.model_folder


def _timed(make: Callable[..., Any], device: str) -> tuple[Callable[..., Any], list[float]]:
    """`for_scoring`, whose models note the seconds of each batch in the list."""
    spent = []

    def timed(*given: Any) -> Any:
        model = make(*given)
        forward = model.forward

        def clocked(*batch: Any, **more: Any) -> Any:
            with clock(device) as seconds:
                found = forward(*batch, **more)
            spent.append(seconds[0])
            return found

        model.forward = clocked
        return model

    return timed, spent
