"""Labelled text -> BERT classifier -> scores, metrics and a report."""
