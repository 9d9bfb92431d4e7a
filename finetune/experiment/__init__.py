"""What is asked: an experiment's settings, their command line, and what each of them changes."""
