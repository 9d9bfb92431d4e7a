"""A trained classifier at work: scores of raw events, explanations, exports."""
