"""Every setting of an experiment: its sections, each setting with its type, default and help text."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import set_parsing_settings

from data_prep.config import DataConfig, SparkConfig, TaskConfig, TextConfig
from data_prep.prepared import Labelled, Limit
from finetune.experiment.training_settings import TrainingSettings
from finetune.runs import CHECKPOINTS, MODEL_FOLDER, PRETRAINED, seed_folder

if TYPE_CHECKING:  # jsonargparse makes its types of numbers at run time; what they hold is these
    ClosedUnitInterval = float
    NonNegativeFloat = float
    NonNegativeInt = int
    OpenUnitInterval = float
    PositiveFloat = float
    PositiveInt = int
    ShareBelowOne = float
else:
    from jsonargparse.typing import (
        ClosedUnitInterval,
        NonNegativeFloat,
        NonNegativeInt,
        OpenUnitInterval,
        PositiveFloat,
        PositiveInt,
        restricted_number_type,
    )

    ShareBelowOne = restricted_number_type("ShareBelowOne", float, [(">=", 0), ("<", 1)])  # of what is left out

set_parsing_settings(docstring_parse_attribute_docstrings=True)

# Where our defaults differ from transformers' own, each with its reason.
TRAINING_DEFAULTS = {
    "learning_rate": 1e-3,  # a small model from scratch; a pretrained one wants 2e-5 to 5e-5
    "per_device_train_batch_size": 64,
    "per_device_eval_batch_size": 256,
    "max_steps": 500,
    "weight_decay": 0.01,
    "warmup_steps": 0.08,  # below 1: a share of all steps
    "eval_strategy": "steps",
    "eval_steps": 100,
    "logging_steps": 20,
    "logging_nan_inf_filter": False,  # it waits for the GPU in each step, and hides a loss that is no number
    "save_strategy": "best",  # a checkpoint only where the validation metric improves
    "save_total_limit": 2,  # if the machine stops while the newest is written, there is one before it
    "load_best_model_at_end": True,  # by auroc, for values by mae; see kept_checkpoint
    "restore_callback_states_from_checkpoint": True,  # or a resumed run would stop early at another step
    "train_sampling_strategy": "group_by_length",  # little padding
    "ddp_find_unused_parameters": False,  # every trained weight is used in every step
    "report_to": "tensorboard",  # files beside the run, without an account or a server
    "disable_tqdm": False,
}
# Fields of TrainingArguments that a run sets itself or that would take its metrics away, and the token, which comes
# from the hub's own login: a config is saved and shared.
TRAINING_FIXED = {
    "output_dir",
    "do_train",
    "do_eval",
    "do_predict",
    "label_names",
    "length_column_name",
    "hub_token",
    "remove_unused_columns",
    "prediction_loss_only",
    "eval_do_concat_batches",
}


@dataclass
class FromScratch:
    """Sizes of a BERT that is built anew, on the words of the log."""

    architecture: Literal["bert", "modernbert"] = "bert"
    """BERT, or ModernBERT, whose head can read the mean of all tokens (model.pooling) without code of ours, and which
    learns in far fewer steps which of many words matter to which class."""
    hidden_size: PositiveInt = 128
    """Width of the hidden states; a multiple of `heads`."""
    layers: PositiveInt = 2
    """Number of transformer layers."""
    heads: PositiveInt = 2
    """Attention heads a layer."""
    dropout: ShareBelowOne = 0.1
    """Dropout of hidden states and of the classifier; attention dropout is 0, because it halves the speed on CPUs."""


@dataclass
class ModelConfig:
    """The classifier: a pretrained BERT, or one built from scratch."""

    name_or_path: str | None = None
    """A hub name such as google-bert/bert-base-uncased, or a folder; null builds a model from scratch."""
    from_scratch: FromScratch = field(default_factory=FromScratch)
    """Sizes of the model built from scratch; without effect where name_or_path is given."""
    max_tokens: PositiveInt = 128
    """Longest text in tokens; longer ones lose their end, which is the oldest events."""
    peft: dict[str, Any] | None = None
    """A method of the peft library and its own settings, such as {method: lora, r: 16, lora_alpha: 32}; the
    classification head is always trained. null trains all weights."""
    pooling: Literal["cls", "mean"] = "cls"
    """What the head reads: the first token's state, or the mean over all tokens. Except for ModernBERT, which has it
    built in, a model with mean is read rightly by EventScribe only, not by transformers alone."""
    freeze: Literal["embeddings", "encoder"] | NonNegativeInt | None = None
    """What a pretrained model keeps as it is: its embeddings, the whole encoder (only the head is trained), or the
    embeddings and that many of the first layers. null keeps nothing."""


@dataclass
class Privacy:
    """Differential privacy of the trained weights; finetune/PRIVACY.md says what it covers."""

    epsilon: PositiveFloat = 8.0
    """The most that one user's presence may change the odds of any outcome of training, as a logarithm; the noise is
    chosen by it."""
    delta: OpenUnitInterval = 1e-5
    """The probability with which that may fail; far below 1 / users."""
    clip: PositiveFloat = 1.0
    """The longest gradient of one user; longer ones are scaled down to it."""
    unit: Literal["user"] = "user"
    """Whose presence is hidden: all rows of a user together."""
    examples: PositiveInt = 4
    """The most rows of a user in one step, drawn anew each time. Their mean gradient is clipped, so that more of them
    cost time and no privacy."""
    threshold_share: ShareBelowOne = 0.1
    """The share of epsilon that the threshold of an absent or exists label costs; the weights have the rest. 0 chooses
    none, so that who has more than one half counts as positive."""
    schema: Literal["public", "learned"] = "public"
    """public: words, bins and classes are those of text.schema, which has nothing of these users. learned: they are
    learned from the histories without noise, and are not covered."""


@dataclass
class ValueScale:
    """What a value is typically like, as it is known without the log; of log(1 + value) where
    finetuning.log_scale, else of its square root where the loss is absolute_error."""

    mean: float
    """About the mean."""
    deviation: PositiveFloat
    """About the standard deviation."""


@dataclass
class FinetuningConfig:
    """What fine-tuning does beside the settings of `training`."""

    class_weights: Literal["none", "auto"] | dict[str, float] = "none"
    """What an example counts for in the loss: auto gives rare classes as much weight as frequent ones, {churn: 3} says
    it by name. Weights shift the probabilities, so that they no longer are those of the log; none is the default."""
    reweigh: str | None = None
    """Weigh the training rows so that this group and the label are independent (Kamiran and Calders, 2012): SQL over
    the same columns as evaluation.slices, such as country. The baselines and the validation rows are not weighed."""
    teacher: ClosedUnitInterval = 0.0
    """Share of what is learned that a teacher says, and not the label: boosting and regression on the aggregates, each
    row by models that were fitted to other users. 0.7 suits a log of a few thousand users; 0 learns the labels
    alone."""
    teacher_model: str | None = None
    """Instead of these a finished model is the teacher, such as runs/large/model: a large one teaches a small one. It
    has to be of the same prepared data. It has seen the labels of the rows that it teaches."""
    members: NonNegativeInt = 0
    """Or so many models are trained first, each with a seed of its own, and what they say on average is the teacher, on
    the texts of all training users: one model that is as good as their mean. 3 suit few labelled_users."""
    event_dropout: ShareBelowOne = 0.0
    """Share of the events that are left out of a training text, drawn anew each time; against overfitting."""
    value_loss: Literal["squared_error", "absolute_error"] = "squared_error"
    """What is made small for values: the squared error gives their mean, which adds up to what users will spend; the
    absolute error gives their median, which has the best MAE, and is learned of the values' square roots, where a few
    large ones count for less: the root of the median is the median of the roots."""
    log_scale: bool = False
    """Values (sum and count without tiers) are learned as log(1 + value), as few users spend most of the money."""
    value_scale: ValueScale | None = None
    """What is subtracted from values, and what they are divided by, while they are learned, such as {mean: 40,
    deviation: 60}; null takes the training labels' own, which finetuning.privacy does not allow."""
    patience: NonNegativeInt = 3
    """Early stopping: evaluations without a better validation AUROC before training ends; 0 never stops early."""
    labelled_users: PositiveInt | None = None
    """Learn from the labels of so many users of training alone: their rows of training and of validation, which the
    baselines and the teacher see too. Pretraining reads all texts, and test has all users. null takes all."""
    labelled_draw: NonNegativeInt = 0
    """Which users they are: another number draws others."""
    privacy: Privacy | None = None
    """Differential privacy (DP-SGD) with the user as the unit, such as {epsilon: 8, delta: 1e-5}: a step draws each
    user with the same probability, per_device_train_batch_size of them on average. It needs Opacus."""
    max_train_examples: PositiveInt | None = None
    """Train on a random part of this size, for a quick try; null takes all."""
    max_eval_examples: PositiveInt | None = None
    """The same for validation and test."""


@dataclass
class PretrainingConfig:
    """Masked-language-model pretraining on the training texts and those of users outside of the population."""

    max_steps: NonNegativeInt = 0
    """Number of steps; 0 leaves pretraining out. 300 suit a log of a few thousand users, 900 overfit it."""
    mask: OpenUnitInterval = 0.2
    """Share of the tokens that are masked."""
    mask_unit: Literal["token", "event"] = "token"
    """What is masked as a whole: single tokens, or all tokens of an event (header words singly)."""
    learning_rate: PositiveFloat = 1e-3
    """Peak learning rate; the other settings are those of `training`."""


@dataclass
class RunsConfig:
    """Where the outputs of training and evaluation go; `data.folder` says it of the prepared data."""

    folder: str = "runs"
    """A run goes to FOLDER/NAME."""


@dataclass
class Costs:
    """What a contact costs and what it brings, in one currency; for expected profit."""

    contact: NonNegativeFloat
    """The cost of contacting one user."""
    kept_customer: PositiveFloat
    """What is gained on average by contacting a user whose label is 1."""


@dataclass
class GroupThresholds:
    """A threshold of its own for each group of a slice; finetune/FAIR.md says what that costs and when it is lawful."""

    by: str
    """The name of one of `slices`."""
    equal: Literal["opportunity", "selection"] = "selection"
    """What the thresholds make equal on validation, with as many contacts as by the one threshold: opportunity the
    share of each group's positives that are contacted, selection the share of each group that is."""


@dataclass
class EvaluationConfig:
    """What the test metrics are compared with, and how sure they are."""

    bootstrap: PositiveInt = 1000
    """Resamples of the users behind each 95 % interval."""
    calibration: Literal["none", "temperature", "isotonic"] = "none"
    """How scores become the probabilities that validation saw: temperature divides the logits by one number, isotonic
    (absent and exists only) follows any rising curve. It is fitted on validation and used whenever the model scores."""
    threshold: Literal["budget", "f1", "money"] = "budget"
    """What chooses the score from which on a user counts as positive, on validation and for absent and exists only: the
    top share `budget`, the best F1, or the highest expected profit by `costs`."""
    budget: OpenUnitInterval = 0.1
    """The share of the users who can be contacted: what the report's first lines and threshold: budget are about."""
    costs: Costs | None = None
    """What a contact costs and brings, such as {contact: 1, kept_customer: 25}; draws the expected profit."""
    slices: dict[str, str] = field(default_factory=dict)
    """Groups of users that are compared with each other: name -> SQL over the aggregates of an example, the newest
    values of the log's fields and the columns of data.users, such as {country: country, tenure: "tenure_days < 90"}."""
    slice_pairs: bool = False
    """Also compare the groups of every two slices together, such as users of a country with a short tenure."""
    min_slice: PositiveInt = 100
    """Rows below which a group is not measured by itself, and of validation below which it has no own threshold."""
    group_thresholds: GroupThresholds | None = None
    """Also measure a threshold for each group of a slice, such as {by: store, equal: selection}. Scoring goes by them
    only where scripts/predict.py is given --groups. Ask counsel before you decide by a protected attribute."""
    stack: bool = False
    """Also fit boosting on the aggregates and the model's score, which shows what each adds to the other."""


def _default_space() -> dict[str, dict[str, Any]]:
    return {
        "training.learning_rate": {"low": 1e-5, "high": 3e-3, "log": True},
        "training.weight_decay": {"low": 0.0, "high": 0.1},
        "training.per_device_train_batch_size": {"choices": [32, 64]},
        "finetuning.event_dropout": {"low": 0.0, "high": 0.3},
    }


@dataclass
class SweepConfig:
    """The search of scripts/sweep.py; without effect elsewhere."""

    trials: PositiveInt = 20
    """Trials of the study in all, those that were pruned among them; a study that has fewer is continued."""
    space: dict[str, dict[str, Any]] = field(default_factory=_default_space)
    """Settings of training, model and finetuning, each with the range or the values that are tried:
    {training.learning_rate: {low: 1e-5, high: 1e-3, log: true}, model.from_scratch.layers: {choices: [2, 4]}}. Whole
    numbers as low and high give whole numbers."""
    pruning: Literal["median", "none"] = "median"
    """Whether a trial ends early that is worse than the median of the others at the same step; the first five never."""


@dataclass
class Experiment:
    """One experiment, as one YAML file."""

    name: str
    data: DataConfig
    task: TaskConfig
    text: TextConfig
    model: ModelConfig
    pretraining: PretrainingConfig
    finetuning: FinetuningConfig
    training: dict[str, Any]  # fields of TrainingArguments
    runs: RunsConfig
    seeds: list[int]  # a run each; empty for one run with training.seed
    evaluation: EvaluationConfig
    sweep: SweepConfig
    spark: SparkConfig | None  # None prepares on this machine
    resolved: str  # the whole config as YAML
    part: str = ""  # the folder of one of several seeds
    teaches: bool = False  # whether it is a training of finetuning.members, of which nothing is told

    @property
    def data_folder(self) -> Path:
        """Where the prepared data lies."""
        return Path(self.data.folder) / self.name

    @property
    def run_folder(self) -> Path:
        """Where the run's outputs lie."""
        return self.base_folder / self.part

    @property
    def model_folder(self) -> Path:
        """Where the model lies, with all that scoring needs."""
        return self.run_folder / MODEL_FOLDER

    @property
    def checkpoint_folder(self) -> Path:
        """Where fine-tuning keeps its checkpoints."""
        return self.run_folder / CHECKPOINTS

    @property
    def pretrained_folder(self) -> Path:
        """Where the pretrained weights lie, for all seeds."""
        return self.base_folder / PRETRAINED

    @property
    def base_folder(self) -> Path:
        """The same for all seeds of a run."""
        return Path(self.runs.folder) / self.name

    @property
    def limits(self) -> dict[str, Limit]:
        """Split -> which of its rows are learned from or scored; pretraining reads the texts of others, too."""
        settings = self.finetuning
        limits = {"train": settings.max_train_examples, "validation": settings.max_eval_examples}
        known: dict[str, Limit] = {**limits, "test": settings.max_eval_examples}
        if users := settings.labelled_users:
            known |= {split: Labelled(users, settings.labelled_draw, rows) for split, rows in limits.items()}
        return known

    def seed_runs(self) -> list["Experiment"]:
        """The fine-tuning runs: this one, or one for each of the seeds, in folders within this one's."""
        if not self.seeds:
            return [self]
        return [
            replace(self, seeds=[], part=seed_folder(seed), training=self.training | {"seed": seed})
            for seed in self.seeds
        ]


RENAMED = {"evaluation.patience": "finetuning.patience", "evaluation.folder": "runs.folder"}  # old name -> new name
SECTIONS = {
    "spark": SparkConfig,
    "data": DataConfig,
    "runs": RunsConfig,
    "task": TaskConfig,
    "text": TextConfig,
    "model": ModelConfig,
    "pretraining": PretrainingConfig,
    "finetuning": FinetuningConfig,
    "training": TrainingSettings,
    "evaluation": EvaluationConfig,
    "sweep": SweepConfig,
}
