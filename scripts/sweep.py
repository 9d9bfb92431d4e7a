"""Search for good settings on prepared data and write runs/NAME/sweep: study.db, best.yaml and sweep.html.

python scripts/sweep.py --config configs/quickstart.yaml --sweep.trials 20

The same command again continues a sweep that was stopped; started in a second terminal it is a second worker. On GPUs
give each worker its own: CUDA_VISIBLE_DEVICES=1 python scripts/sweep.py ... Then train with the best settings:

python scripts/train.py --config runs/quickstart/sweep/best.yaml
"""

from finetune.experiment.parser import Experiment, command


def run(experiment: Experiment) -> None:
    """The sweep, and where its page lies."""
    from finetune.training.sweep import sweep  # after the arguments are read, as it takes seconds

    print(f"sweep: {sweep(experiment)}")


if __name__ == "__main__":
    command(__doc__ or "", run)
