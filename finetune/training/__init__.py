"""Pretraining, fine-tuning and the search for settings."""
