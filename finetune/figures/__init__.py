"""The measures of scores: what they are called, how they are computed, and the file that holds them."""
