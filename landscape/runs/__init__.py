"""Runs and their checkpoints: what is kept, opened, exchanged and verified."""
