"""The pages that people read, and their pictures."""
