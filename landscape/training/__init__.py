"""One training run, from an experiment to a folder."""
