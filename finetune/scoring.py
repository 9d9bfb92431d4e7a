"""The door that cards of models published by 0.1 name; `from finetune import EventClassifier` is the one today."""

from finetune.serving.classifier import EventClassifier

__all__ = ["EventClassifier"]
