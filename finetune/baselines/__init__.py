"""What a user would pick instead of BERT, fitted and tuned on the same rows."""
