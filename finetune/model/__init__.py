"""The classifier: its objective, words, weights, and how texts become scores."""
