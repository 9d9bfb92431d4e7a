"""A model in use: its inputs, scores and outcomes watched, and its successor trained, compared and promoted."""
