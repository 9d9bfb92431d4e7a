"""All steps of an experiment on one machine: prepare, pretrain, train, evaluate; ends with a table and a report.

python scripts/run.py --config configs/quickstart.yaml
python scripts/run.py --config configs/quickstart.yaml --name no-pretraining --pretraining.max_steps 0

On several GPUs or nodes, run the steps one by one: scripts/prepare.py, then `accelerate launch scripts/pretrain.py`,
`accelerate launch scripts/train.py`, then scripts/evaluate.py, each with the same arguments.
"""

import os
from functools import partial

from data_prep import InputError
from finetune.experiment.parser import Experiment, command


def main(experiment: Experiment) -> None:
    """Run every step in order."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "scripts/run.py is one process", "launch scripts/pretrain.py and scripts/train.py with accelerate"
        )
    from data_prep.prepare import prepare  # after the arguments are read, as it takes a second

    for folder in (experiment.data_folder.parent, experiment.run_folder.parent):  # refuse before any work
        folder.mkdir(parents=True, exist_ok=True)
    ready = partial(refuse, experiment)
    prepare(experiment.name, experiment.data, experiment.task, experiment.text, experiment.spark, ready=ready)
    learn(experiment)


def refuse(experiment: Experiment) -> None:
    """Refuse the other settings before a row of the log is read, but after its columns: torch takes seconds to load."""
    from finetune.evaluation.evaluate import check_evaluation
    from finetune.training.arguments import training_arguments
    from finetune.training.checkpoints import refuse_other_run
    from finetune.training.members import refuse_members
    from finetune.training.privacy_rules import refuse_unprotected
    from finetune.training.rehearsal import rehearse

    refuse_other_run(experiment)
    check_evaluation(experiment)
    refuse_unprotected(experiment)
    refuse_members(experiment.finetuning)
    training_arguments(experiment, output_dir=str(experiment.checkpoint_folder))
    rehearse(experiment)


def learn(experiment: Experiment) -> None:
    """From the prepared data to the report."""
    from finetune.evaluation.evaluate import evaluate
    from finetune.evaluation.verdict import table
    from finetune.hub.model_card import write_model_card
    from finetune.report.report import write_report
    from finetune.training.pretrain import pretrain
    from finetune.training.train import train

    pretrain(experiment)
    train(experiment)
    metrics = evaluate(experiment)
    assert metrics is not None  # the first process has them, and there is no other one
    write_model_card(experiment.run_folder)
    report = write_report(experiment.run_folder)
    print(f"\n{table(metrics)}\nreport: {report}")


if __name__ == "__main__":
    command(__doc__ or "", main)
