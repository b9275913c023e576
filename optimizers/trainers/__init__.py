"""Trainers that accumulate by themselves, with methods of two gradients."""
